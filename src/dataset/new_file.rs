//! A large file on its way into a workspace: hashed while it is written, synced when it is finished.
//!
//! In: bytes, through [`std::io::Write`]. Out: [`FileInfo`], which a receipt files. Start at
//! [`NewFile::finish`]. A file dropped before it is finished is removed; one left by a killed process is
//! referred to by nothing.

use std::fs::{self, File};
use std::hash::{BuildHasher, Hasher, RandomState};
use std::io::{self, BufWriter, Write};
use std::path::PathBuf;

use serde::{Deserialize, Serialize};

use super::disk::{io_error, make_folder_of, sync_folders};
use super::error::Result;
use super::store::Store;

/// One immutable file, as receipts list it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct FileInfo {
    /// Where it is, relative to the workspace.
    pub path: String,
    /// Its size.
    pub bytes: u64,
    /// How many rows it holds; 0 where rows make no sense.
    pub rows: u64,
    /// The BLAKE3 digest of its bytes, in hexadecimal.
    pub blake3: String,
}

impl FileInfo {
    /// Whether it is one of true actions, by its name.
    #[must_use]
    pub fn holds_actions(&self) -> bool {
        self.path.rsplit('/').next().is_some_and(|name| name.starts_with("actions"))
    }
}

/// A file being written; made by [`Store::new_file`].
#[derive(Debug)]
pub struct NewFile {
    store: Store,
    path: String,
    /// The final place when the workspace is a folder, else a temporary file to upload.
    place: PathBuf,
    file: BufWriter<File>,
    hasher: blake3::Hasher,
    bytes: u64,
    finished: bool,
}

impl NewFile {
    pub(super) fn begin(store: Store, path: &str) -> Result<Self> {
        let place = match store.root() {
            Some(root) => root.join(path),
            None => std::env::temp_dir().join(format!("lapo-{:016x}", RandomState::new().build_hasher().finish())),
        };
        make_folder_of(&place)?;
        let file = File::create_new(&place).map_err(io_error("create", &place))?;
        Ok(Self {
            store,
            path: path.to_owned(),
            place,
            file: BufWriter::with_capacity(1 << 18, file),
            hasher: blake3::Hasher::new(),
            bytes: 0,
            finished: false,
        })
    }

    /// Where the file will be, relative to the workspace.
    #[must_use]
    pub fn path(&self) -> &str {
        &self.path
    }

    /// Makes the file lasting and tells what is in it; `rows` is the caller's count.
    pub fn finish(mut self, rows: u64) -> Result<FileInfo> {
        self.file.flush().and_then(|()| self.file.get_ref().sync_all()).map_err(io_error("write", &self.place))?;
        match self.store.root() {
            Some(root) => sync_folders(root, &self.place)?,
            None => {
                let file = File::open(&self.place).map_err(io_error("read back", &self.place))?;
                self.store.upload(&self.path, file)?;
                fs::remove_file(&self.place).map_err(io_error("delete", &self.place))?;
            }
        }
        self.finished = true;
        let blake3 = self.hasher.finalize().to_hex().to_string();
        Ok(FileInfo { path: self.path.clone(), bytes: self.bytes, rows, blake3 })
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
