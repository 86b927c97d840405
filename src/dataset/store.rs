//! The only door to storage: a workspace, seen as files that are created once and never change.
//!
//! In: a folder or an address of an object store, paths relative to it, bytes. Out: [`Store`], whose [`Store::create`]
//! is the atomic decision everything else stands on, [`Store::new_file`] for large data and
//! [`Store::map`] to read it in place. Start at [`Store::open`].
//!
//! There are no lock files. Whatever happens to a writer, readers see a whole file or none.

use std::fmt;
use std::fs::File;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::{SystemTime, UNIX_EPOCH};

use bytes::Bytes;
use object_store::ObjectStore;

use super::access::{Access, address};
use super::disk::{self, io_error};
use super::error::{Error, Result};
use super::new_file::NewFile;
use super::remote::Remote;

/// What became of a [`Store::create`].
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Created {
    /// The file now holds exactly these bytes.
    New,
    /// Somebody else's file is there, with other bytes; it was left alone.
    Exists,
}

/// A file of a store.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Stored {
    /// Relative to the store.
    pub path: String,
    /// Its size.
    pub bytes: u64,
    /// When it was written.
    pub modified: SystemTime,
    /// What the store calls its content, where it is an object store.
    pub etag: Option<String>,
}

impl Stored {
    /// Whether it is one that a create left behind when it died.
    pub(super) fn is_staged(&self) -> bool {
        self.path.contains('#')
    }

    /// What changes when its content does: the etag, or where there is none the time in nanoseconds since 1970.
    #[must_use]
    pub fn version(&self) -> String {
        let time = || self.modified.duration_since(UNIX_EPOCH).unwrap_or_default().as_nanos().to_string();
        self.etag.clone().unwrap_or_else(time)
    }
}

/// A workspace. Cheap to clone, and usable from every thread that is not itself inside an async runtime.
#[derive(Clone)]
pub struct Store {
    place: Place,
    access: Access,
}

#[derive(Clone)]
enum Place {
    Folder(PathBuf),
    Remote(Arc<Remote>),
}

impl Store {
    /// Opens a workspace as [`Store::open_with`] does, with no credentials: a folder, in general.
    pub fn open(workspace: &str) -> Result<Self> {
        Self::open_with(workspace, &Access::default())
    }

    /// Opens a workspace: a folder, or an address such as `s3://bucket/prefix`. It need not exist yet (but a bucket must), the first
    /// write makes it.
    pub fn open_with(workspace: &str, access: &Access) -> Result<Self> {
        let access = access.clone();
        let Some((base, prefix)) = address(workspace) else {
            let root = std::path::absolute(workspace).map_err(io_error("open", workspace))?;
            return Ok(Self { place: Place::Folder(root), access });
        };
        let remote = Remote::open(base, prefix, &access)?;
        Ok(Self { place: Place::Remote(Arc::new(remote)), access })
    }

    /// A workspace over any object store; `name` is one that no other store has.
    pub fn over(name: &str, objects: Arc<dyn ObjectStore>, access: &Access) -> Result<Self> {
        let remote = Remote::new(name.into(), objects, access.clone())?;
        Ok(Self { place: Place::Remote(Arc::new(remote)), access: access.clone() })
    }

    /// How other stores are reached.
    pub fn access(&self) -> &Access {
        &self.access
    }

    /// Creates `path` with `bytes` if nothing is there: atomic, and lasting when this returns. The same bytes count as [`Created::New`].
    pub fn create(&self, path: &str, bytes: &[u8]) -> Result<Created> {
        location(path)?;
        match &self.place {
            Place::Remote(remote) => remote.create(path, bytes),
            Place::Folder(root) => match disk::create(root, path, bytes)? {
                Created::Exists if self.read(path)?.as_deref() == Some(bytes) => Ok(Created::New),
                made => Ok(made),
            },
        }
    }

    /// The bytes of `path`, which must be there.
    pub fn require(&self, path: &str) -> Result<Bytes> {
        self.read(path)?.ok_or_else(|| Error::Missing { path: path.into() })
    }

    /// The bytes of `path`, or `None` where nothing is.
    pub fn read(&self, path: &str) -> Result<Option<Bytes>> {
        location(path)?;
        match &self.place {
            Place::Remote(remote) => remote.read(path),
            Place::Folder(root) => disk::read(&root.join(path)),
        }
    }

    /// The bytes of many small files, in their order.
    pub(super) fn read_all(&self, paths: &[String]) -> Result<Vec<Option<Bytes>>> {
        match &self.place {
            Place::Remote(remote) => remote.read_all(paths),
            Place::Folder(_) => paths.iter().map(|path| self.read(path)).collect(),
        }
    }

    /// Every file under the folder `prefix`, sorted; the paths are relative to the workspace.
    pub fn list(&self, prefix: &str) -> Result<Vec<String>> {
        let whole = self.files(prefix)?.into_iter().filter(|file| !file.is_staged());
        Ok(whole.map(|file| file.path).collect())
    }

    /// Every file under the folder `prefix`, with files that were never whole, sorted by path.
    pub fn files(&self, prefix: &str) -> Result<Vec<Stored>> {
        location(prefix)?;
        let mut files = match &self.place {
            Place::Remote(remote) => remote.files(prefix)?,
            Place::Folder(root) => disk::files(root, prefix)?,
        };
        files.sort_by(|a, b| a.path.cmp(&b.path));
        Ok(files)
    }

    /// Deletes a file; it need not exist.
    pub(super) fn delete(&self, path: &str) -> Result<()> {
        location(path)?;
        match &self.place {
            Place::Remote(remote) => remote.delete(&[path.to_owned()]),
            Place::Folder(root) => disk::remove_file(&root.join(path)),
        }
    }

    /// The names of the folders right under `prefix`, sorted; `""` is the workspace itself.
    pub fn folders(&self, prefix: &str) -> Result<Vec<String>> {
        location(prefix)?;
        let mut names = match &self.place {
            Place::Remote(remote) => remote.folders(prefix)?,
            Place::Folder(root) => disk::folders(&root.join(prefix))?,
        };
        names.sort_unstable();
        Ok(names)
    }

    /// Deletes the folder `prefix` and all that is in it; it need not exist.
    ///
    /// # Panics
    /// If `prefix` is empty: nothing may delete a whole workspace.
    pub fn delete_all(&self, prefix: &str) -> Result<()> {
        assert!(!prefix.is_empty(), "a folder of the workspace, never all of it");
        location(prefix)?;
        match &self.place {
            Place::Remote(remote) => remote.delete(&self.list(prefix)?),
            Place::Folder(root) => disk::remove_folder(&root.join(prefix)),
        }
    }

    /// Starts a file too large for memory; nothing refers to it until a receipt does.
    pub fn new_file(&self, path: &str) -> Result<NewFile> {
        location(path)?;
        match &self.place {
            Place::Remote(remote) => NewFile::begin_remote(remote.clone(), path),
            Place::Folder(root) => NewFile::begin(root, path),
        }
    }

    /// The whole of `path` as one buffer: memory-mapped, from a local copy where the workspace is not local.
    pub fn map(&self, path: &str) -> Result<Bytes> {
        let file = self.file(path)?;
        if file.metadata().map_err(io_error("open", path))?.len() == 0 {
            return Ok(Bytes::new());
        }
        #[expect(unsafe_code, reason = "a memory map is how training reads shards larger than memory")]
        // SAFETY: data files are immutable once written (every attempt has its own folder, and nothing
        // opens one for writing again), and so are local copies, which appear under their name when they are
        // whole; so the mapped bytes do not change while the map lives; deleting one unlinks it and leaves the map whole.
        let map = unsafe { memmap2::Mmap::map(&file) }.map_err(io_error("map", path))?;
        Ok(Bytes::from_owner(map))
    }

    /// A file to read parts of; where the workspace is not local, a copy of it.
    pub(super) fn file(&self, path: &str) -> Result<File> {
        location(path)?;
        match &self.place {
            Place::Remote(remote) => remote.local(path),
            Place::Folder(root) => disk::open(root, path),
        }
    }
}

impl fmt::Debug for Store {
    /// By name alone: a connection holds credentials.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match &self.place {
            Place::Folder(root) => write!(f, "Store({})", root.display()),
            Place::Remote(remote) => write!(f, "Store({})", remote.name()),
        }
    }
}

/// A path as the store takes it; `..` and the like are refused rather than escaped.
pub(super) fn location(path: &str) -> Result<object_store::path::Path> {
    object_store::path::Path::parse(path).map_err(|cause| Error::storage("use the path", path, &cause.into(), None))
}

#[cfg(test)]
mod tests {
    #![expect(clippy::unwrap_used, reason = "a test may panic")]
    use std::fs;
    use std::io::{ErrorKind, Write};

    use super::super::faults::{Fault, faulty_store};
    use super::*;

    fn workspace() -> (tempfile::TempDir, Store) {
        let folder = tempfile::tempdir().unwrap();
        let store = Store::open(folder.path().join("new").to_str().unwrap()).unwrap();
        (folder, store)
    }

    #[test]
    fn a_workspace_appears_with_its_first_write_and_lists_only_whole_files() {
        let (folder, store) = workspace();
        assert_eq!(store.list("").unwrap(), Vec::<String>::new());
        assert!(!folder.path().join("new").exists());
        assert_eq!(store.create("a/b/two.json", b"2").unwrap(), Created::New);
        assert_eq!(store.create("a/one.json", b"1").unwrap(), Created::New);
        // What a writer that was killed half-way leaves behind.
        fs::write(folder.path().join("new/a/three.json#123"), b"").unwrap();
        assert_eq!(store.list("a").unwrap(), ["a/b/two.json", "a/one.json"]);
        assert_eq!(store.folders("").unwrap(), ["a"]);
        store.delete_all("a/b").unwrap();
        assert_eq!(store.list("").unwrap(), ["a/one.json"]);
        assert!(!folder.path().join("new/a/b").exists());
        store.delete_all("nothing/here").unwrap();
    }

    #[test]
    fn of_many_creators_one_wins_and_its_bytes_stay() {
        let (_folder, local) = workspace();
        for store in [local, faulty_store(&[])] {
            let created = std::thread::scope(|scope| {
                let create = |i: u8| store.create("k/receipt.json", &[i; 1000]).map(|created| (i, created));
                let threads: Vec<_> = (0..32).map(|i| scope.spawn(move || create(i).unwrap())).collect();
                threads.into_iter().map(|thread| thread.join().unwrap()).collect::<Vec<_>>()
            });
            let winners: Vec<u8> = created.iter().filter(|(_, c)| *c == Created::New).map(|(i, _)| *i).collect();
            assert_eq!(winners.len(), 1);
            assert_eq!(store.read("k/receipt.json").unwrap().unwrap(), vec![winners[0]; 1000]);
            store.delete_all("k").unwrap();
        }
    }

    #[test]
    fn a_lost_reply_is_recognised_as_success() {
        let store = faulty_store(&[Fault::LostReply]);
        assert_eq!(store.create("a/x.json", b"mine").unwrap(), Created::New);
        assert_eq!(store.create("a/x.json", b"other").unwrap(), Created::Exists);
    }

    #[test]
    fn a_sent_file_whose_reply_was_lost_is_there() {
        let store = faulty_store(&[Fault::LostReply]);
        let mut file = store.new_file("s/data/k/a/model").unwrap();
        file.write_all(b"mine").unwrap();
        let info = file.finish(1).unwrap();
        assert_eq!(store.require(&info.path).unwrap(), "mine");
    }

    #[test]
    fn a_passing_fault_is_tried_again_and_a_full_disk_is_not() {
        let store = faulty_store(&[Fault::Before(ErrorKind::TimedOut), Fault::LostReply]);
        assert_eq!(store.create("a/x.json", b"mine").unwrap(), Created::New);
        let store = faulty_store(&[Fault::Before(ErrorKind::StorageFull)]);
        let error = store.create("a/x.json", b"mine").unwrap_err();
        assert!(!error.is_transient() && error.hint().is_some(), "{error}");
        assert_eq!(store.read("a/x.json").unwrap(), None);
    }

    #[test]
    fn a_large_file_is_the_same_on_disk_and_in_a_remote_store() {
        let bytes: Vec<u8> = (0..20 << 20).map(|i: u32| (i / 7) as u8).collect();
        let (_folder, local) = workspace();
        for store in [local, faulty_store(&[])] {
            let mut file = store.new_file("s/data/k/a/model").unwrap();
            file.write_all(&bytes).unwrap();
            let info = file.finish(3).unwrap();
            assert_eq!((info.bytes, info.rows), (bytes.len() as u64, 3));
            assert_eq!(info.blake3, blake3::hash(&bytes).to_hex().to_string());
            assert!(store.map(&info.path).unwrap() == bytes);
            drop(store.new_file("s/data/k/a/unfinished").unwrap());
            assert_eq!(store.list("s").unwrap(), ["s/data/k/a/model"]);
            store.delete_all("s").unwrap();
        }
    }

    #[test]
    fn paths_out_of_the_workspace_and_unknown_schemes_are_refused() {
        let (_folder, store) = workspace();
        assert!(store.create("../outside", b"").is_err());
        assert!(store.delete_all("../outside").is_err());
        let error = Store::open("ftp://bucket/prefix").unwrap_err();
        assert!(error.to_string().contains("`ftp`") && error.hint().is_some());
    }
}
