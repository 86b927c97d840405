//! The only access to storage: a workspace of files, each created once and never changed. Start at
//! [`Store::open`].
//!
//! A store is a local folder or an address of an object store; all paths are relative to it.
//! [`Store::create`] is the atomic operation behind every receipt and version. [`Store::new_file`]
//! writes large data, and [`Store::map`] reads it in place.
//!
//! There are no lock files. Readers see a whole file or none, even if the writer is killed.

use std::collections::HashMap;
use std::fmt;
use std::fs::File;
use std::path::PathBuf;
use std::sync::Arc;

use bytes::Bytes;
use object_store::ObjectStore;

use super::access::{Access, address};
use super::byte_ranges::ByteRanges;
use super::disk::{self, Durability, Folder};
use super::error::{Error, Result, io_error};
use super::new_file::NewFile;
use super::paths::{Created, FileInfo, StoredFile, folder, is_staged, location};
use super::remote::Remote;
use super::step_scheduler::Step;
use super::walk;

/// A workspace. Cheap to clone, and usable from every thread that is not itself inside an async
/// runtime.
#[derive(Clone)]
pub struct Store {
    backend: Backend,
    access: Access,
    /// The user's turn in a test with a scheduler.
    turn: Option<super::step_scheduler::Turn>,
}

#[derive(Clone)]
enum Backend {
    Folder(Arc<Folder>),
    Remote(Arc<Remote>),
}

impl Store {
    /// Opens a workspace without credentials, usually a folder; see [`Store::open_with`].
    pub fn open(workspace: &str) -> Result<Self> {
        Self::open_with(workspace, &Access::default())
    }

    /// Opens a workspace: a folder, or an address such as `s3://bucket/prefix`.
    ///
    /// The first write creates the folder or prefix. A bucket must already exist.
    pub fn open_with(workspace: &str, access: &Access) -> Result<Self> {
        let access = access.clone();
        let Some((base, prefix)) = address(workspace) else {
            let root = std::path::absolute(workspace).map_err(io_error("open", workspace))?;
            return Ok(Self::at(Backend::Folder(Arc::new(Folder::new(root))), access));
        };
        let remote = Remote::open(base, prefix, &access)?;
        Ok(Self::at(Backend::Remote(Arc::new(remote)), access))
    }

    /// Opens a workspace in any object store. `name` must be unique to the store.
    pub fn over(name: &str, objects: Arc<dyn ObjectStore>, access: &Access) -> Result<Self> {
        let remote = Remote::new(name.into(), objects, access.clone())?;
        Ok(Self::at(Backend::Remote(Arc::new(remote)), access.clone()))
    }

    fn at(backend: Backend, access: Access) -> Self {
        Self { backend, access, turn: None }
    }

    /// Waits for this user's turn in a test with a scheduler.
    fn wait(&self, step: Step) -> Result<()> {
        self.turn.as_ref().map_or(Ok(()), |turn| turn.take(step))
    }

    /// Returns the same workspace, with every call waiting for its turn.
    pub(super) fn in_turns(&self, turn: super::step_scheduler::Turn) -> Self {
        Self { turn: Some(turn), ..self.clone() }
    }

    /// Returns the folder's absolute path, or the address.
    #[must_use]
    pub fn name(&self) -> String {
        match &self.backend {
            Backend::Folder(root) => root.root().display().to_string(),
            Backend::Remote(remote) => remote.name().to_owned(),
        }
    }

    /// Returns some names directly in the workspace, without hidden ones.
    pub(super) fn first_names(&self) -> Result<Vec<String>> {
        match &self.backend {
            Backend::Folder(root) => disk::first_names(root.root()),
            Backend::Remote(_) => self.folders(""),
        }
    }

    /// Returns whether the workspace is in an object store.
    pub(super) fn is_remote(&self) -> bool {
        matches!(self.backend, Backend::Remote(_))
    }

    /// Returns the settings for access to object stores.
    pub fn access(&self) -> &Access {
        &self.access
    }

    /// Creates the file `path` unless it exists. An existing file with the same bytes counts as
    /// [`Created::New`].
    ///
    /// The create is atomic, and durable when this returns.
    pub fn create(&self, path: &str, bytes: &[u8]) -> Result<Created> {
        let checked = location(path)?;
        self.wait(Step::Create(path, bytes))?;
        match &self.backend {
            Backend::Remote(remote) => remote.create(path, bytes),
            Backend::Folder(root) => match root.create(&checked, bytes, Durability::Always)? {
                // An earlier attempt of this writer may have succeeded without its knowledge.
                Created::Exists if self.read(path)?.as_deref() == Some(bytes) => Ok(Created::New),
                created => Ok(created),
            },
        }
    }

    /// Creates a file like [`Store::create`], but without syncing: the file need not survive a
    /// power cut.
    pub(super) fn create_fleeting(&self, path: &str, bytes: &[u8]) -> Result<Created> {
        let checked = location(path)?;
        self.wait(Step::Create(path, bytes))?;
        match &self.backend {
            Backend::Remote(remote) => remote.create(path, bytes),
            Backend::Folder(root) => root.create(&checked, bytes, Durability::UntilPowerIsCut),
        }
    }

    /// Returns the content of `path`. Fails if it does not exist.
    pub fn require(&self, path: &str) -> Result<Bytes> {
        self.read(path)?.ok_or_else(|| Error::Missing { path: path.into() })
    }

    /// Returns the content of `path`, or `None` if it does not exist.
    pub fn read(&self, path: &str) -> Result<Option<Bytes>> {
        let checked = location(path)?;
        self.wait(Step::Look)?;
        match &self.backend {
            Backend::Remote(remote) => remote.read(path),
            Backend::Folder(root) => disk::read(&root.place(&checked)),
        }
    }

    /// Returns the contents of many small files, in their order.
    pub(super) fn read_all(&self, paths: &[String]) -> Result<Vec<Option<Bytes>>> {
        match &self.backend {
            Backend::Remote(remote) => {
                for path in paths {
                    location(path)?;
                }
                remote.read_all(paths)
            }
            Backend::Folder(_) => paths.iter().map(|path| self.read(path)).collect(),
        }
    }

    /// Returns the path of every complete file under the folder `prefix`, sorted and relative to
    /// the workspace.
    ///
    /// This, [`Store::files`] and [`Store::folders`] skip names that lapo never gives: without
    /// UTF-8, or with backslashes or control characters.
    pub fn list(&self, prefix: &str) -> Result<Vec<String>> {
        let checked = folder(prefix)?;
        self.wait(Step::Look)?;
        let mut paths = match &self.backend {
            Backend::Remote(remote) => {
                remote.files(prefix)?.into_iter().map(|file| file.path).collect()
            }
            Backend::Folder(root) => walk::paths(root.root(), checked.as_ref())?,
        };
        paths.retain(|path| !is_staged(path));
        paths.sort_unstable();
        Ok(paths)
    }

    /// Returns the size of every complete file under the folder `prefix`, by its path in the
    /// workspace.
    pub fn sizes(&self, prefix: &str) -> Result<HashMap<String, u64>> {
        Ok(self
            .unsorted(prefix)?
            .into_iter()
            .filter(|file| !file.is_staged())
            .map(|file| (file.path, file.bytes))
            .collect())
    }

    /// Returns every file under the folder `prefix`, sorted by path, including temporary files of
    /// interrupted creates.
    pub fn files(&self, prefix: &str) -> Result<Vec<StoredFile>> {
        let mut files = self.unsorted(prefix)?;
        files.sort_unstable_by(|a, b| a.path.cmp(&b.path));
        Ok(files)
    }

    fn unsorted(&self, prefix: &str) -> Result<Vec<StoredFile>> {
        let checked = folder(prefix)?;
        self.wait(Step::Look)?;
        match &self.backend {
            Backend::Remote(remote) => remote.files(prefix),
            Backend::Folder(root) => walk::files(root.root(), checked.as_ref()),
        }
    }

    /// Returns the time of a file's last change, or `None` if it does not exist.
    pub(super) fn modified(&self, path: &str) -> Result<Option<std::time::SystemTime>> {
        let checked = location(path)?;
        self.wait(Step::Look)?;
        match &self.backend {
            Backend::Remote(remote) => Ok(remote.metadata(path)?.map(|found| found.modified)),
            Backend::Folder(root) => disk::modified(&root.place(&checked)),
        }
    }

    /// Deletes a file. It need not exist.
    pub fn delete(&self, path: &str) -> Result<()> {
        let checked = location(path)?;
        self.wait(Step::Delete(path))?;
        match &self.backend {
            Backend::Remote(remote) => remote.delete(&[path.to_owned()]),
            Backend::Folder(root) => disk::remove_file(&root.place(&checked)),
        }
    }

    /// Returns the names of the folders directly under `prefix`, sorted. `""` is the workspace
    /// itself.
    pub fn folders(&self, prefix: &str) -> Result<Vec<String>> {
        let checked = folder(prefix)?;
        self.wait(Step::Look)?;
        let mut names = match &self.backend {
            Backend::Remote(remote) => remote.folders(prefix)?,
            Backend::Folder(root) => walk::folders(&root.place(&checked))?,
        };
        names.sort_unstable();
        Ok(names)
    }

    /// Deletes the folder `prefix` with its content. It need not exist.
    ///
    /// # Panics
    /// Panics if `prefix` is empty, because no call may delete a whole workspace.
    pub fn delete_all(&self, prefix: &str) -> Result<()> {
        assert!(!prefix.is_empty(), "only a folder within the workspace can be deleted");
        let checked = location(prefix)?;
        self.wait(Step::DeleteAll(prefix))?;
        match &self.backend {
            Backend::Remote(remote) => remote.delete(&self.list(prefix)?),
            Backend::Folder(root) => disk::remove_folder(&root.place(&checked)),
        }
    }

    /// Starts a large file, to be written piece by piece. It becomes part of a dataset only through
    /// a receipt.
    pub fn new_file(&self, path: &str) -> Result<NewFile> {
        let checked = location(path)?;
        self.wait(Step::NewFile(path))?;
        match &self.backend {
            Backend::Remote(remote) => NewFile::begin_remote(remote.clone(), path),
            Backend::Folder(root) => NewFile::begin(root.clone(), &checked),
        }
    }

    /// Memory-maps a file. A file of an object store is copied to the local disk first.
    pub fn map(&self, path: &str) -> Result<Bytes> {
        map(&self.file(path)?, path)
    }

    /// Returns the path of a file on the local disk, or `None` if the workspace is in an object
    /// store. The file need not exist.
    ///
    /// # Errors
    /// Fails if the path would leave the workspace.
    pub fn local_path(&self, path: &str) -> Result<Option<PathBuf>> {
        let checked = location(path)?;
        match &self.backend {
            Backend::Remote(_) => Ok(None),
            Backend::Folder(root) => Ok(Some(root.place(&checked))),
        }
    }

    /// Memory-maps a file and checks its size against the receipt. A new local copy is also checked
    /// against the digest.
    pub fn map_file(&self, info: &FileInfo) -> Result<Bytes> {
        let bytes = map(&self.file_of(&info.path, Some(info))?, &info.path)?;
        info.check_size(bytes.len() as u64)?;
        Ok(bytes)
    }

    /// Returns `count` bytes of a file from the offset `from` on, without a copy of the whole file.
    pub fn read_part(&self, path: &str, from: u64, count: u64) -> Result<Bytes> {
        self.parts(path, None)?.read_one(from..from.saturating_add(count))
    }

    /// Opens a file for reading byte ranges. An existing local copy is used, but none is created.
    pub(super) fn parts(&self, path: &str, info: Option<&FileInfo>) -> Result<ByteRanges> {
        match self.source(path, info)? {
            ByteRanges::Remote(remote, found) => match remote.copy_of(&found)? {
                Some(file) => {
                    Ok(ByteRanges::Mapped { path: path.to_owned(), bytes: map(&file, path)? })
                }
                None => Ok(ByteRanges::Remote(remote, found)),
            },
            mapped => Ok(mapped),
        }
    }

    /// Opens a file for reading byte ranges from the store itself, never from a local copy.
    pub(super) fn source(&self, path: &str, info: Option<&FileInfo>) -> Result<ByteRanges> {
        let checked = location(path)?;
        self.wait(Step::Look)?;
        match &self.backend {
            Backend::Remote(remote) => {
                Ok(ByteRanges::Remote(remote.clone(), remote.require(path, info)?))
            }
            Backend::Folder(root) => {
                let bytes = map(&disk::open(&root.place(&checked), path)?, path)?;
                info.map_or(Ok(()), |info| info.check_size(bytes.len() as u64))?;
                Ok(ByteRanges::Mapped { path: path.to_owned(), bytes })
            }
        }
    }

    /// Deletes the local copy of a file of an object store.
    pub(super) fn forget_copy(&self, path: &str) -> Result<()> {
        match &self.backend {
            Backend::Remote(remote) => remote.forget(path),
            Backend::Folder(_) => Ok(()),
        }
    }

    /// Opens a local file. A file of an object store is copied to the local disk first.
    pub(super) fn file(&self, path: &str) -> Result<File> {
        self.file_of(path, None)
    }

    /// Opens a file like [`Store::file`], and checks the size and the digest of a new local copy.
    pub(super) fn file_of(&self, path: &str, info: Option<&FileInfo>) -> Result<File> {
        let checked = location(path)?;
        self.wait(Step::Look)?;
        match &self.backend {
            Backend::Remote(remote) => remote.local(path, info),
            Backend::Folder(root) => disk::open(&root.place(&checked), path),
        }
    }
}

/// Memory-maps a file. It must not change any more.
fn map(file: &File, path: &str) -> Result<Bytes> {
    if file.metadata().map_err(io_error("open", path))?.len() == 0 {
        return Ok(Bytes::new());
    }
    #[expect(unsafe_code, reason = "a memory map is how training reads shards larger than memory")]
    // SAFETY: data files are immutable once written: every attempt has its own folder, and no file
    // is opened for writing again. Local copies get their final name only when complete. So the
    // mapped bytes do not change while the map lives. Deleting a file unlinks it and leaves the map
    // intact.
    let map = unsafe { memmap2::Mmap::map(file) }.map_err(io_error("map", path))?;
    Ok(Bytes::from_owner(map))
}

impl fmt::Debug for Store {
    /// Shows only the name, because a connection holds credentials.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Store({})", self.name())
    }
}

#[cfg(test)]
mod tests;
