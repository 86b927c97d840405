//! Writes a large file to a workspace: hashes it while it is written, and syncs it when it is
//! finished.
//!
//! Write with [`std::io::Write`], then call [`NewFile::finish`] for the [`FileInfo`] of the
//! receipt. A file dropped before it is finished is deleted. A killed process leaves a file that no
//! receipt lists; garbage collection deletes it.

use std::fmt;
use std::fs::{self, File};
use std::io::{self, BufWriter, Write};
use std::path::PathBuf;
use std::sync::Arc;

use super::disk::Folder;
use super::error::{Result, io_error};
pub use super::paths::FileInfo;
use super::remote::Remote;

/// A file being written, created by [`Store::new_file`](super::Store::new_file).
pub struct NewFile {
    path: String,
    /// The local file: the final one in a folder, else a temporary one to upload.
    local_path: PathBuf,
    destination: Destination,
    file: BufWriter<File>,
    hasher: blake3::Hasher,
    bytes: u64,
    finished: bool,
}

/// The workspace that receives the file.
enum Destination {
    /// A folder: the file already has its final path.
    Folder(Arc<Folder>),
    /// An object store: the finished file is uploaded.
    Remote(Arc<Remote>),
}

impl NewFile {
    pub(super) fn begin(folder: Arc<Folder>, path: &object_store::path::Path) -> Result<Self> {
        let (file, local_path) = folder.begin(path)?;
        Ok(Self::over(path.as_ref(), file, local_path, Destination::Folder(folder)))
    }

    pub(super) fn begin_remote(remote: Arc<Remote>, path: &str) -> Result<Self> {
        let (file, local_path) = remote.access().cache().begin()?;
        Ok(Self::over(path, file, local_path, Destination::Remote(remote)))
    }

    fn over(path: &str, file: File, local_path: PathBuf, destination: Destination) -> Self {
        Self {
            path: path.to_owned(),
            local_path,
            destination,
            file: BufWriter::with_capacity(1 << 18, file),
            hasher: blake3::Hasher::new(),
            bytes: 0,
            finished: false,
        }
    }

    /// Returns the file's path, relative to the workspace.
    #[must_use]
    pub fn path(&self) -> &str {
        &self.path
    }

    /// Syncs or uploads the file and returns its size and digest. `rows` is the caller's count.
    pub fn finish(mut self, rows: u64) -> Result<FileInfo> {
        self.file.flush().map_err(io_error("write", &self.local_path))?;
        match &self.destination {
            Destination::Folder(folder) => folder.finish(self.file.get_ref(), &self.local_path)?,
            Destination::Remote(remote) => {
                let file = File::open(&self.local_path)
                    .map_err(io_error("read back", &self.local_path))?;
                remote.upload(&self.path, file, self.bytes, &self.local_path)?;
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
        // `write_all` and not `write`: exactly the hashed bytes are written.
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
            // No receipt lists the file, so a failure here only wastes space.
            let _ = fs::remove_file(&self.local_path);
        }
    }
}
