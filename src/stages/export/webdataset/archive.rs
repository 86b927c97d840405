//! Tar archives of whole samples, each full from a size on.

use std::io::Write;

use tar::{EntryType, Header};

use super::sample::{FrameArray, Sample};
use crate::dataset::{self, FileInfo, NewFile};
use crate::stages::{Error, TaskContext};

/// Bytes of a header, and the unit of contents.
const BLOCK: usize = 512;

/// The archives of a dataset. A sample never spans two.
pub(super) struct Archives<'a> {
    ctx: &'a TaskContext<'a>,
    /// The size from which an archive is full.
    full_bytes: u64,
    open: Option<Archive>,
    files: Vec<FileInfo>,
}

/// An archive that is being written.
struct Archive {
    file: NewFile,
    bytes: u64,
    frames: u64,
}

impl<'a> Archives<'a> {
    /// Creates a dataset without archives.
    pub fn new(ctx: &'a TaskContext<'a>, full_bytes: u64) -> Self {
        Archives { ctx, full_bytes, open: None, files: vec![] }
    }

    /// Appends a sample. `frames` are its frames if they are an array.
    pub fn append(&mut self, sample: &Sample, frames: Option<FrameArray>) -> Result<(), Error> {
        let mut archive = match self.open.take() {
            Some(archive) => archive,
            None => self.next()?,
        };
        if let Some(FrameArray { header, mut rows }) = frames {
            rows.insert(0, &header);
            archive.append(&format!("{}.frames.npy", sample.key), &rows)?;
        }
        for (extension, bytes) in &sample.files {
            archive.append(&format!("{}.{extension}", sample.key), &[bytes])?;
        }
        archive.frames += sample.frames;
        if archive.bytes < self.full_bytes {
            self.open = Some(archive);
        } else {
            self.files.push(archive.finish()?);
        }
        Ok(())
    }

    fn next(&self) -> Result<Archive, Error> {
        let path = format!("{}/clips-{:06}.tar", self.ctx.folder, self.files.len());
        Ok(Archive { file: self.ctx.store.new_file(&path)?, bytes: 0, frames: 0 })
    }

    /// Completes the last archive and returns all of them.
    pub fn finish(mut self) -> Result<Vec<FileInfo>, Error> {
        if let Some(open) = self.open.take() {
            self.files.push(open.finish()?);
        }
        Ok(self.files)
    }
}

impl Archive {
    /// Appends a file whose contents are `parts`, one after the other.
    fn append(&mut self, name: &str, parts: &[&[u8]]) -> Result<(), Error> {
        let size: usize = parts.iter().map(|part| part.len()).sum();
        let header = header(name, size as u64).map_err(|cause| self.failed(cause))?;
        self.write(header.as_bytes())?;
        for part in parts {
            self.write(part)?;
        }
        self.write(&[0; BLOCK][..size.next_multiple_of(BLOCK) - size])
    }

    fn write(&mut self, bytes: &[u8]) -> Result<(), Error> {
        self.file.write_all(bytes).map_err(|cause| self.failed(cause))?;
        self.bytes += bytes.len() as u64;
        Ok(())
    }

    fn failed(&self, cause: std::io::Error) -> Error {
        let path = self.file.path().to_owned();
        dataset::Error::Io { action: "write", path, cause }.into()
    }

    /// Writes the end of the archive: two empty blocks.
    fn finish(mut self) -> Result<FileInfo, Error> {
        self.write(&[0; 2 * BLOCK])?;
        Ok(self.file.finish(self.frames)?)
    }
}

/// Returns the header of a file without time and owner.
fn header(name: &str, size: u64) -> std::io::Result<Header> {
    let mut header = Header::new_ustar();
    header.set_path(name)?;
    header.set_entry_type(EntryType::Regular);
    header.set_mode(0o644);
    header.set_uid(0);
    header.set_gid(0);
    header.set_mtime(0);
    header.set_size(size);
    header.set_cksum();
    Ok(header)
}
