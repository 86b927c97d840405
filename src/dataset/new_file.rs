//! A large file on its way into a workspace: hashed while it is written, synced when it is finished.
//!
//! In: bytes, through [`std::io::Write`]. Out: [`FileInfo`], which a receipt files. Start at
//! [`NewFile::finish`]. A file dropped before it is finished is removed; one left by a killed process is
//! referred to by nothing.

use std::fmt;
use std::fs::{self, File};
use std::io::{self, BufWriter, Write};
use std::path::PathBuf;
use std::sync::Arc;

use super::disk::Folder;
use super::error::{Result, io_error};
pub use super::place::FileInfo;
use super::remote::Remote;

/// A file being written; made by [`Store::new_file`](super::Store::new_file).
pub struct NewFile {
    path: String,
    /// Where it is while it is written: its own place in a folder, else one to upload from.
    place: PathBuf,
    goal: Goal,
    file: BufWriter<File>,
    hasher: blake3::Hasher,
    bytes: u64,
    finished: bool,
}

/// Where a file must be to count as written.
enum Goal {
    /// Where it is, in this folder.
    Here(Arc<Folder>),
    Remote(Arc<Remote>),
}

impl NewFile {
    pub(super) fn begin(folder: Arc<Folder>, path: &object_store::path::Path) -> Result<Self> {
        let (file, place) = folder.begin(path)?;
        Ok(Self::over(path.as_ref(), file, place, Goal::Here(folder)))
    }

    pub(super) fn begin_remote(remote: Arc<Remote>, path: &str) -> Result<Self> {
        let (file, place) = remote.access().cache().begin()?;
        Ok(Self::over(path, file, place, Goal::Remote(remote)))
    }

    fn over(path: &str, file: File, place: PathBuf, goal: Goal) -> Self {
        let (file, hasher) = (BufWriter::with_capacity(1 << 18, file), blake3::Hasher::new());
        Self { path: path.to_owned(), place, goal, file, hasher, bytes: 0, finished: false }
    }

    /// Where the file will be, relative to the workspace.
    #[must_use]
    pub fn path(&self) -> &str {
        &self.path
    }

    /// Makes the file lasting and tells what is in it; `rows` is the caller's count.
    pub fn finish(mut self, rows: u64) -> Result<FileInfo> {
        self.file.flush().map_err(io_error("write", &self.place))?;
        match &self.goal {
            Goal::Here(folder) => folder.finish(self.file.get_ref(), &self.place)?,
            Goal::Remote(remote) => {
                let file = File::open(&self.place).map_err(io_error("read back", &self.place))?;
                remote.upload(&self.path, file, self.bytes, &self.place)?;
            }
        }
        self.finished = true;
        let blake3 = self.hasher.finalize().to_hex().to_string();
        Ok(FileInfo { path: self.path.clone(), bytes: self.bytes, rows, blake3 })
    }
}

impl fmt::Debug for NewFile {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "NewFile({}, {} bytes)", self.path, self.bytes)
    }
}

impl Write for NewFile {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        // `write_all`, so that what is hashed is what is written.
        self.file.write_all(bytes)?;
        self.hasher.update(bytes);
        self.bytes += bytes.len() as u64;
        Ok(bytes.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        self.file.flush()
    }
}

impl Drop for NewFile {
    fn drop(&mut self) {
        if !self.finished {
            // Nothing refers to the file: one that cannot be removed wastes space and no more.
            let _ = fs::remove_file(&self.place);
        }
    }
}
