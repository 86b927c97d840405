//! One client of `lapo act`: frames in, a line of JSON for each out.
//!
//! A request is the length of a frame as four bytes, the lowest first, and the frame. An empty one
//! begins an episode.

use std::io::{Error as IoError, ErrorKind, Read, Result as IoResult, Write};
use std::sync::mpsc::{Receiver, RecvTimeoutError, sync_channel};
use std::time::Duration;

use serde::Serialize;
use serde_json::json;

use super::frame::FrameReader;
use super::player::Player;
use crate::error::CommandError as Error;
use crate::models::ModelError;
use crate::stages::Stop;

/// Longest frame in bytes. A longer one is most likely no length at all.
const MAX_BYTES: usize = 256 << 20;
/// How often a read that waits looks for a signal.
pub const POLL: Duration = Duration::from_millis(100);

/// Answers clients.
pub struct Server {
    pub player: Player,
    pub frames: FrameReader,
}

/// Why a client is served no longer.
#[derive(Debug)]
pub enum Failure {
    /// Its requests cannot be read.
    Read(IoError),
    /// It does not take answers.
    Write(IoError),
    /// The networks cannot run.
    Network(ModelError),
}

impl Server {
    /// Serves a client until its input ends.
    pub fn serve(&mut self, input: &mut impl Read, output: &mut impl Write) -> Result<(), Failure> {
        write_line(output, &self.player.description())?;
        self.player.reset();
        let mut request = Vec::new();
        loop {
            match read_request(input, &mut request) {
                Ok(true) => {}
                Ok(false) => return Ok(()),
                Err(error) => {
                    // The client may be gone already.
                    _ = write_line(output, &json!({ "error": error.to_string() }));
                    return Err(Failure::Read(error));
                }
            }
            if request.is_empty() {
                self.player.reset();
                write_line(output, &json!({ "reset": true }))?;
                continue;
            }
            let answer = match self.frames.read(&request) {
                Ok(frame) => self.player.act(&frame).map_err(Failure::Network)?,
                Err(problem) => Err(problem),
            };
            match answer {
                Ok(answer) => write_line(output, &answer)?,
                Err(problem) => write_line(output, &json!({ "error": problem }))?,
            }
        }
    }
}

/// Reads a request. Returns `false` at the end of the input.
fn read_request(input: &mut impl Read, request: &mut Vec<u8>) -> IoResult<bool> {
    request.clear();
    let mut length = [0; 4];
    let seen = read_up_to(input, &mut length)?;
    if seen == 0 {
        return Ok(false);
    }
    if seen < length.len() {
        return Err(ended_inside("the length of a frame", seen, length.len()));
    }
    let length = u32::from_le_bytes(length) as usize;
    if length > MAX_BYTES {
        let what = format!("a frame has {length} bytes, expected at most {MAX_BYTES}");
        return Err(IoError::new(ErrorKind::InvalidData, what));
    }
    // Grows with what arrives: a wrong length reserves no memory.
    let seen = input.by_ref().take(length as u64).read_to_end(request)?;
    if seen < length {
        return Err(ended_inside("a frame", seen, length));
    }
    Ok(true)
}

/// Fills `buffer`, except at the end of the input. Returns the number of bytes.
fn read_up_to(input: &mut impl Read, buffer: &mut [u8]) -> IoResult<usize> {
    let mut seen = 0;
    while seen < buffer.len() {
        match input.read(&mut buffer[seen..])? {
            0 => break,
            more => seen += more,
        }
    }
    Ok(seen)
}

fn ended_inside(what: &str, seen: usize, expected: usize) -> IoError {
    let what = format!("the input ended inside {what}: got {seen} of {expected} bytes");
    IoError::new(ErrorKind::UnexpectedEof, what)
}

fn write_line(output: &mut impl Write, value: &impl Serialize) -> Result<(), Failure> {
    let mut line = serde_json::to_string(value).expect("names and numbers are JSON");
    line.push('\n');
    // One write: a packet for each answer.
    output.write_all(line.as_bytes()).and_then(|()| output.flush()).map_err(Failure::Write)
}

/// A reader whose waits end with an error when a signal arrives. Its reads must time out.
pub struct UntilSignal<'a, R> {
    pub reader: R,
    pub stop: &'a Stop,
}

impl<R: Read> Read for UntilSignal<'_, R> {
    fn read(&mut self, buffer: &mut [u8]) -> IoResult<usize> {
        loop {
            if let Some(signal) = self.stop.signal() {
                return Err(IoError::other(format!("stopped by {signal}")));
            }
            match self.reader.read(buffer) {
                Err(error) if is_time_out(&error) => {}
                done => return done,
            }
        }
    }
}

fn is_time_out(error: &IoError) -> bool {
    // Reads of sockets that time out return one or the other, depending on the system.
    matches!(error.kind(), ErrorKind::WouldBlock | ErrorKind::TimedOut)
}

/// Returns stdin, read by a thread of its own.
pub fn stdin(stop: &Stop) -> Result<UntilSignal<'_, ChunkReader>, Error> {
    let (sender, receiver) = sync_channel(4);
    let read = move || {
        let mut stdin = std::io::stdin().lock();
        let mut buffer = vec![0; 1 << 16];
        loop {
            let chunk = match stdin.read(&mut buffer) {
                Ok(length) => Ok(buffer[..length].to_vec()),
                Err(error) if error.kind() == ErrorKind::Interrupted => continue,
                Err(error) => Err(error),
            };
            let is_last = chunk.as_ref().map_or(true, Vec::is_empty);
            if sender.send(chunk).is_err() || is_last {
                return;
            }
        }
    };
    std::thread::Builder::new()
        .name("stdin".into())
        .spawn(read)
        .map_err(|source| Error::Input { from: "stdin".into(), source })?;
    Ok(UntilSignal { reader: ChunkReader { receiver, chunk: Vec::new(), start: 0 }, stop })
}

/// Reads chunks that another thread sends; an empty one is the end. A wait times out.
pub struct ChunkReader {
    receiver: Receiver<IoResult<Vec<u8>>>,
    chunk: Vec<u8>,
    /// Bytes of the chunk that are read already.
    start: usize,
}

impl Read for ChunkReader {
    fn read(&mut self, buffer: &mut [u8]) -> IoResult<usize> {
        if self.start == self.chunk.len() {
            self.start = 0;
            self.chunk = match self.receiver.recv_timeout(POLL) {
                Ok(chunk) => chunk?,
                Err(RecvTimeoutError::Timeout) => return Err(ErrorKind::TimedOut.into()),
                // The last chunk was read before.
                Err(RecvTimeoutError::Disconnected) => Vec::new(),
            };
        }
        let length = buffer.len().min(self.chunk.len() - self.start);
        buffer[..length].copy_from_slice(&self.chunk[self.start..][..length]);
        self.start += length;
        Ok(length)
    }
}

#[cfg(test)]
#[expect(clippy::unwrap_used, reason = "a test fails by panicking")]
mod tests {
    use super::*;

    #[test]
    fn requests_end_only_between_frames() {
        let bytes = [3, 0, 0, 0, 7, 8, 9, 0, 0, 0, 0];
        let mut input = &bytes[..];
        let mut request = Vec::new();
        assert!(read_request(&mut input, &mut request).unwrap());
        assert_eq!(request, [7, 8, 9]);
        assert!(read_request(&mut input, &mut request).unwrap() && request.is_empty());
        assert!(!read_request(&mut input, &mut request).unwrap());
        for (cut, message) in [
            (2, "the input ended inside the length of a frame: got 2 of 4 bytes"),
            (6, "the input ended inside a frame: got 2 of 3 bytes"),
        ] {
            let error = read_request(&mut &bytes[..cut], &mut request).unwrap_err();
            assert_eq!(error.to_string(), message);
        }
        let error = read_request(&mut &[255; 4][..], &mut request).unwrap_err().to_string();
        assert_eq!(error, "a frame has 4294967295 bytes, expected at most 268435456");
    }
}
