//! A video read through another process. A decoder process opens no file, so an exploit of libav
//! cannot open one either.
//!
//! Start at [`SharedLine::opener`]: it returns an [`OpenVideo`] whose reads are requests to the
//! parent.

use std::io::{
    BufRead, Error as IoError, ErrorKind, Read, Result as IoResult, Seek, SeekFrom, Write,
};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use super::protocol;
use crate::video::{OpenVideo, VideoFile};

/// The number of bytes in a request.
const CHUNK: u32 = 1 << 18;

/// The pipes to the parent process, which takes the frames and reads the videos.
pub struct ParentPipes {
    /// Messages from the parent.
    pub requests: Box<dyn BufRead + Send>,
    /// Messages to the parent.
    pub replies: Box<dyn Write + Send>,
}

/// The pipes, shared by decoding and reading.
#[derive(Clone)]
pub struct SharedLine(Arc<Mutex<ParentPipes>>);

impl SharedLine {
    /// Shares the pipes.
    pub fn new(line: ParentPipes) -> Self {
        Self(Arc::new(Mutex::new(line)))
    }

    /// Locks the pipes for one exchange.
    pub fn lock(&self) -> MutexGuard<'_, ParentPipes> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Returns an opener for the video of the current request.
    pub fn opener(&self) -> OpenVideo {
        let line = self.clone();
        Arc::new(move || Ok(Box::new(BorrowedFile::open(line.clone())?) as Box<dyn VideoFile>))
    }
}

/// A video read in chunks.
struct BorrowedFile {
    line: SharedLine,
    bytes: u64,
    at: u64,
    chunk: Vec<u8>,
    chunk_at: u64,
}

impl BorrowedFile {
    fn open(line: SharedLine) -> IoResult<Self> {
        let bytes = {
            // The lock spans question and answer.
            let mut line = line.lock();
            protocol::ask_to_open(&mut line.replies)?;
            protocol::read_size(&mut line.requests)?
        };
        Ok(Self { line, bytes, at: 0, chunk: Vec::new(), chunk_at: 0 })
    }

    fn fetch(&mut self) -> IoResult<()> {
        let mut line = self.line.lock();
        protocol::ask_to_read(&mut line.replies, self.at, CHUNK)?;
        self.chunk = protocol::read_bytes(&mut line.requests)?;
        self.chunk_at = self.at;
        Ok(())
    }
}

impl Read for BorrowedFile {
    fn read(&mut self, buffer: &mut [u8]) -> IoResult<usize> {
        if self.at >= self.bytes || buffer.is_empty() {
            return Ok(0);
        }
        let is_there =
            self.at >= self.chunk_at && self.at - self.chunk_at < self.chunk.len() as u64;
        // Decoders read in small steps, so most reads hit the last chunk.
        if !is_there {
            self.fetch()?;
        }
        let rest = &self.chunk[(self.at - self.chunk_at) as usize..];
        let read = rest.len().min(buffer.len());
        buffer[..read].copy_from_slice(&rest[..read]);
        self.at += read as u64;
        Ok(read)
    }
}

impl Seek for BorrowedFile {
    fn seek(&mut self, position: SeekFrom) -> IoResult<u64> {
        let to = match position {
            SeekFrom::Start(at) => Some(at),
            SeekFrom::End(offset) => self.bytes.checked_add_signed(offset),
            SeekFrom::Current(offset) => self.at.checked_add_signed(offset),
        };
        self.at = to.ok_or_else(|| IoError::from(ErrorKind::InvalidInput))?;
        Ok(self.at)
    }
}
