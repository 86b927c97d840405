//! The only door to storage: a workspace, seen as files that are created once and never change.
//!
//! In: a folder (or one day a bucket), paths relative to it, bytes. Out: [`Store`], whose [`Store::create`]
//! is the atomic decision everything else stands on, [`Store::new_file`] for large data and
//! [`Store::map`] to read it in place. Start at [`Store::open`].
//!
//! There are no lock files. Whatever happens to a writer, readers see a whole file or none.

use std::fs::File;
use std::io::{ErrorKind, Read};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::{Duration, SystemTime};

use bytes::Bytes;
use object_store::local::LocalFileSystem;
use object_store::prefix::PrefixStore;
use object_store::{ListResult, ObjectMeta, ObjectStore, ObjectStoreExt, PutMode, PutPayload, WriteMultipart};
use tokio::runtime::{Builder, Runtime};

use super::disk::{self, io_error};
use super::error::{Error, Result};
use super::new_file::NewFile;

/// How often a create is tried on a store that answers with a passing fault.
const CREATE_TRIES: u32 = 4;

/// What became of a [`Store::create`].
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Created {
    /// The file now holds exactly these bytes.
    New,
    /// Somebody else's file is there, with other bytes; it was left alone.
    Exists,
}

/// A file of a workspace.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Stored {
    /// Relative to the workspace.
    pub path: String,
    pub bytes: u64,
    pub modified: SystemTime,
}

impl Stored {
    /// Whether it is one that a create left behind when it died.
    pub(super) fn is_staged(&self) -> bool {
        self.path.contains('#')
    }
}

/// A workspace. Cheap to clone, and usable from every thread that is not itself inside an async runtime.
#[derive(Clone, Debug)]
pub struct Store {
    objects: Arc<dyn ObjectStore>,
    runtime: Arc<Runtime>,
    /// The folder, where the workspace is one.
    root: Option<PathBuf>,
}

impl Store {
    /// Opens a workspace; a folder need not exist yet, the first write makes it.
    pub fn open(workspace: &str) -> Result<Self> {
        if let Some((scheme, _)) = workspace.split_once("://") {
            return Err(Error::UnsupportedStore { workspace: workspace.into(), scheme: scheme.into() });
        }
        let root = std::path::absolute(workspace).map_err(io_error("open", workspace))?;
        let prefix = object_store::path::Path::from_absolute_path(&root).map_err(|cause| storage_error("open", workspace)(cause.into()))?;
        let objects = Arc::new(PrefixStore::new(LocalFileSystem::new(), prefix));
        Ok(Self { root: Some(root), ..Self::over(objects)? })
    }

    /// A workspace over any object store: nothing of it is assumed to be local.
    pub fn over(objects: Arc<dyn ObjectStore>) -> Result<Self> {
        let runtime = Builder::new_current_thread().enable_all().build().map_err(io_error("start a runtime for", "storage"))?;
        Ok(Self { objects, runtime: Arc::new(runtime), root: None })
    }

    /// Creates `path` with `bytes` if nothing is there: atomic, and on disk when this returns.
    ///
    /// A reply that got lost is no harm: whatever is found at `path` is read back, and the same bytes
    /// count as [`Created::New`].
    pub fn create(&self, path: &str, bytes: &[u8]) -> Result<Created> {
        let location = location(path)?;
        let made = match &self.root {
            Some(root) => disk::create(root, path, bytes)?,
            None => self.create_remote(path, &location, bytes)?,
        };
        match made {
            Created::Exists if self.read(path)?.as_deref() == Some(bytes) => Ok(Created::New),
            made => Ok(made),
        }
    }

    /// The bytes of `path`, which must be there.
    pub fn require(&self, path: &str) -> Result<Bytes> {
        self.read(path)?.ok_or_else(|| Error::Missing { path: path.into() })
    }

    /// The bytes of `path`, or `None` where nothing is.
    pub fn read(&self, path: &str) -> Result<Option<Bytes>> {
        let location = location(path)?;
        let bytes = self.runtime.block_on(async { self.objects.get(&location).await?.bytes().await });
        match bytes {
            Ok(bytes) => Ok(Some(bytes)),
            Err(object_store::Error::NotFound { .. }) => Ok(None),
            Err(cause) => Err(storage_error("read", path)(cause)),
        }
    }

    /// Every file under the folder `prefix`, sorted; the paths are relative to the workspace.
    pub fn list(&self, prefix: &str) -> Result<Vec<String>> {
        Ok(self.objects(prefix)?.into_iter().map(|file| file.location.to_string()).collect())
    }

    /// Every file under the folder `prefix`, with files that were never whole, sorted by path.
    pub(super) fn files(&self, prefix: &str) -> Result<Vec<Stored>> {
        let Some(root) = &self.root else {
            let stored =
                |file: ObjectMeta| Stored { path: file.location.to_string(), bytes: file.size, modified: file.last_modified.into() };
            return Ok(self.objects(prefix)?.into_iter().map(stored).collect());
        };
        let mut files = disk::files(root, prefix)?;
        files.sort_by(|a, b| a.path.cmp(&b.path));
        Ok(files)
    }

    /// Deletes a file; it need not exist.
    pub(super) fn delete(&self, path: &str) -> Result<()> {
        if let Some(root) = &self.root {
            return disk::remove_file(&root.join(path));
        }
        match self.runtime.block_on(self.objects.delete(&location(path)?)) {
            Ok(()) | Err(object_store::Error::NotFound { .. }) => Ok(()),
            Err(cause) => Err(storage_error("delete", path)(cause)),
        }
    }

    /// The names of the folders right under `prefix`, sorted; `""` is the workspace itself.
    pub fn folders(&self, prefix: &str) -> Result<Vec<String>> {
        let found = self.list_folder(&location(prefix)?)?;
        let names = found.common_prefixes.iter().filter_map(|folder| folder.filename().map(str::to_owned));
        let mut names: Vec<String> = names.collect();
        names.sort_unstable();
        Ok(names)
    }

    /// Deletes the folder `prefix` and all that is in it; it need not exist.
    ///
    /// # Panics
    /// If `prefix` is empty: nothing may delete a whole workspace.
    pub fn delete_all(&self, prefix: &str) -> Result<()> {
        assert!(!prefix.is_empty(), "a folder of the workspace, never all of it");
        self.list(prefix)?.iter().try_for_each(|path| self.delete(path))?;
        match &self.root {
            Some(root) => disk::remove_folder(&root.join(prefix)),
            None => Ok(()),
        }
    }

    /// Starts a file too large for memory; nothing refers to it until a receipt does.
    pub fn new_file(&self, path: &str) -> Result<NewFile> {
        location(path)?;
        NewFile::begin(self.clone(), path)
    }

    /// The whole of `path` as one buffer: memory-mapped where it is local, downloaded where it is not.
    pub fn map(&self, path: &str) -> Result<Bytes> {
        location(path)?;
        let Some(root) = &self.root else {
            return self.require(path);
        };
        map_file(root, path)
    }

    /// A file of a local workspace, to read parts of.
    pub(super) fn file(&self, path: &str) -> Result<File> {
        location(path)?;
        open_file(&self.root.clone().unwrap_or_default(), path)
    }

    /// The folder this workspace is, where it is one.
    pub(super) fn root(&self) -> Option<&Path> {
        self.root.as_deref()
    }

    /// Sends a finished local file to a store that is not local, in parts.
    pub(super) fn upload(&self, path: &str, mut file: File) -> Result<()> {
        let location = location(path)?;
        self.runtime.block_on(async {
            let upload = self.objects.put_multipart(&location).await.map_err(storage_error("upload", path))?;
            let mut parts = WriteMultipart::new_with_chunk_size(upload, 8 << 20);
            let mut part = vec![0; 8 << 20];
            loop {
                let read = file.read(&mut part).map_err(io_error("read back", path))?;
                if read == 0 {
                    break;
                }
                parts.wait_for_capacity(2).await.map_err(storage_error("upload", path))?;
                parts.write(&part[..read]);
            }
            parts.finish().await.map_err(storage_error("upload", path))?;
            Ok(())
        })
    }

    /// Every file under a folder, sorted by path.
    fn objects(&self, prefix: &str) -> Result<Vec<ObjectMeta>> {
        let (mut files, mut folders) = (Vec::new(), vec![location(prefix)?]);
        while let Some(folder) = folders.pop() {
            let found = self.list_folder(&folder)?;
            files.extend(found.objects);
            folders.extend(found.common_prefixes);
        }
        files.sort_by(|a, b| a.location.cmp(&b.location));
        Ok(files)
    }

    fn list_folder(&self, folder: &object_store::path::Path) -> Result<ListResult> {
        let found = self.runtime.block_on(self.objects.list_with_delimiter(Some(folder)));
        found.map_err(storage_error("list", folder.as_ref()))
    }

    fn create_remote(&self, path: &str, location: &object_store::path::Path, bytes: &[u8]) -> Result<Created> {
        let mut tries = 1;
        loop {
            let payload = PutPayload::from(Bytes::copy_from_slice(bytes));
            let put = self.runtime.block_on(self.objects.put_opts(location, payload, PutMode::Create.into()));
            match put {
                Ok(_) => return Ok(Created::New),
                Err(object_store::Error::AlreadyExists { .. }) => return Ok(Created::Exists),
                Err(cause) => {
                    let error = storage_error("create", path)(cause);
                    if tries == CREATE_TRIES || !error.is_transient() {
                        return Err(error);
                    }
                }
            }
            std::thread::sleep(Duration::from_millis(20 << tries));
            tries += 1;
        }
    }
}

/// The whole of a file, memory-mapped.
fn map_file(root: &Path, path: &str) -> Result<Bytes> {
    let (full, file) = (root.join(path), open_file(root, path)?);
    if file.metadata().map_err(io_error("open", &full))?.len() == 0 {
        return Ok(Bytes::new());
    }
    #[expect(unsafe_code, reason = "a memory map is how training reads shards larger than memory")]
    // SAFETY: data files are immutable once written (every attempt has its own folder, and nothing
    // opens one for writing again), so the mapped bytes do not change while the map lives; deleting
    // one unlinks it and leaves the map whole.
    let map = unsafe { memmap2::Mmap::map(&file) }.map_err(io_error("map", &full))?;
    Ok(Bytes::from_owner(map))
}

fn open_file(root: &Path, path: &str) -> Result<File> {
    let full = root.join(path);
    match File::open(&full) {
        Ok(file) => Ok(file),
        Err(cause) if cause.kind() == ErrorKind::NotFound => Err(Error::Missing { path: path.into() }),
        Err(cause) => Err(io_error("open", &full)(cause)),
    }
}

/// A path as the store takes it; `..` and the like are refused rather than escaped.
fn location(path: &str) -> Result<object_store::path::Path> {
    object_store::path::Path::parse(path).map_err(|cause| storage_error("use the path", path)(cause.into()))
}

fn storage_error(action: &'static str, path: &str) -> impl FnOnce(object_store::Error) -> Error {
    move |cause| Error::Storage { action, path: path.to_owned(), cause }
}

#[cfg(test)]
mod tests {
    #![expect(clippy::unwrap_used, reason = "a test may panic")]
    use std::fs;
    use std::io::Write;

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
        let error = Store::open("s3://bucket/prefix").unwrap_err();
        assert!(error.to_string().contains("`s3`") && error.hint().is_some());
    }
}
