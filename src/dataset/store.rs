//! The only door to storage: a workspace, seen as files that are created once and never change.
//!
//! In: a folder or an address of an object store, paths relative to it, bytes. Out: [`Store`], whose [`Store::create`]
//! is the atomic decision everything else stands on, [`Store::new_file`] for large data and
//! [`Store::map`] to read it in place. Start at [`Store::open`].
//!
//! There are no lock files. Whatever happens to a writer, readers see a whole file or none.

use std::collections::HashMap;
use std::fmt;
use std::fs::File;
use std::path::PathBuf;
use std::sync::Arc;

use bytes::Bytes;
use object_store::ObjectStore;

use super::access::{Access, address};
use super::disk::{self, Folder, Lasts};
use super::error::{Error, Result, io_error};
use super::new_file::NewFile;
use super::parts::Parts;
use super::place::{Created, FileInfo, Stored, folder, is_staged, location};
use super::remote::Remote;
#[cfg(test)]
use super::turns::Step;
use super::walk;

/// A workspace. Cheap to clone, and usable from every thread that is not itself inside an async runtime.
#[derive(Clone)]
pub struct Store {
    place: Place,
    access: Access,
    /// Where tests let several users take turns.
    #[cfg(test)]
    turn: Option<super::turns::Turn>,
}

#[derive(Clone)]
enum Place {
    Folder(Arc<Folder>),
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
            return Ok(Self::at(Place::Folder(Arc::new(Folder::new(root))), access));
        };
        let remote = Remote::open(base, prefix, &access)?;
        Ok(Self::at(Place::Remote(Arc::new(remote)), access))
    }

    /// A workspace over any object store; `name` is one that no other store has.
    pub fn over(name: &str, objects: Arc<dyn ObjectStore>, access: &Access) -> Result<Self> {
        let remote = Remote::new(name.into(), objects, access.clone())?;
        Ok(Self::at(Place::Remote(Arc::new(remote)), access.clone()))
    }

    fn at(place: Place, access: Access) -> Self {
        Self {
            place,
            access,
            #[cfg(test)]
            turn: None,
        }
    }

    #[cfg(test)]
    fn wait(&self, step: Step) -> Result<()> {
        self.turn.as_ref().map_or(Ok(()), |turn| turn.take(step))
    }

    /// Returns the same workspace, where every call waits for its turn.
    #[cfg(test)]
    pub(super) fn in_turns(&self, turn: super::turns::Turn) -> Self {
        Self { turn: Some(turn), ..self.clone() }
    }

    /// Returns the folder's absolute path, or the address.
    #[must_use]
    pub fn name(&self) -> String {
        match &self.place {
            Place::Folder(root) => root.root().display().to_string(),
            Place::Remote(remote) => remote.name().to_owned(),
        }
    }

    /// Returns some names right in the workspace; hidden ones are left out.
    pub(super) fn first_names(&self) -> Result<Vec<String>> {
        match &self.place {
            Place::Folder(root) => disk::first_names(root.root()),
            Place::Remote(_) => self.folders(""),
        }
    }

    /// How other stores are reached.
    pub fn access(&self) -> &Access {
        &self.access
    }

    /// Creates `path` with `bytes` if nothing is there: atomic, and lasting when this returns. The same bytes count as [`Created::New`].
    pub fn create(&self, path: &str, bytes: &[u8]) -> Result<Created> {
        let place = location(path)?;
        #[cfg(test)]
        self.wait(Step::Create(path, bytes))?;
        match &self.place {
            Place::Remote(remote) => remote.create(path, bytes),
            Place::Folder(root) => match root.create(&place, bytes, Lasts::Always)? {
                Created::Exists if self.read(path)?.as_deref() == Some(bytes) => Ok(Created::New),
                made => Ok(made),
            },
        }
    }

    /// Creates a file as [`Store::create`] does that means nothing after a power cut, and need not survive one.
    pub(super) fn create_fleeting(&self, path: &str, bytes: &[u8]) -> Result<Created> {
        let place = location(path)?;
        #[cfg(test)]
        self.wait(Step::Create(path, bytes))?;
        match &self.place {
            Place::Remote(remote) => remote.create(path, bytes),
            Place::Folder(root) => root.create(&place, bytes, Lasts::UntilPowerIsCut),
        }
    }

    /// The bytes of `path`, which must be there.
    pub fn require(&self, path: &str) -> Result<Bytes> {
        self.read(path)?.ok_or_else(|| Error::Missing { path: path.into() })
    }

    /// The bytes of `path`, or `None` where nothing is.
    pub fn read(&self, path: &str) -> Result<Option<Bytes>> {
        let place = location(path)?;
        #[cfg(test)]
        self.wait(Step::Look)?;
        match &self.place {
            Place::Remote(remote) => remote.read(path),
            Place::Folder(root) => disk::read(&root.place(&place)),
        }
    }

    /// The bytes of many small files, in their order.
    pub(super) fn read_all(&self, paths: &[String]) -> Result<Vec<Option<Bytes>>> {
        match &self.place {
            Place::Remote(remote) => {
                paths.iter().try_for_each(|path| location(path).map(drop))?;
                remote.read_all(paths)
            }
            Place::Folder(_) => paths.iter().map(|path| self.read(path)).collect(),
        }
    }

    /// Returns the path of every whole file under the folder `prefix`, sorted; the paths are relative to the workspace.
    ///
    /// In a folder, files and folders whose names this program never gives (no UTF-8, backslashes, control characters) are left out here,
    /// in [`Store::files`] and in [`Store::folders`].
    pub fn list(&self, prefix: &str) -> Result<Vec<String>> {
        let place = folder(prefix)?;
        #[cfg(test)]
        self.wait(Step::Look)?;
        let mut paths = match &self.place {
            Place::Remote(remote) => {
                remote.files(prefix)?.into_iter().map(|file| file.path).collect()
            }
            Place::Folder(root) => walk::paths(root.root(), place.as_ref())?,
        };
        paths.retain(|path| !is_staged(path));
        paths.sort_unstable();
        Ok(paths)
    }

    /// Returns the size of every whole file under the folder `prefix`, by its path in the workspace.
    pub fn sizes(&self, prefix: &str) -> Result<HashMap<String, u64>> {
        Ok(self
            .unsorted(prefix)?
            .into_iter()
            .filter(|file| !file.is_staged())
            .map(|file| (file.path, file.bytes))
            .collect())
    }

    /// Returns every file under the folder `prefix`, sorted by path, with the temporary files of creates that were killed.
    pub fn files(&self, prefix: &str) -> Result<Vec<Stored>> {
        let mut files = self.unsorted(prefix)?;
        files.sort_unstable_by(|a, b| a.path.cmp(&b.path));
        Ok(files)
    }

    fn unsorted(&self, prefix: &str) -> Result<Vec<Stored>> {
        let place = folder(prefix)?;
        #[cfg(test)]
        self.wait(Step::Look)?;
        match &self.place {
            Place::Remote(remote) => remote.files(prefix),
            Place::Folder(root) => walk::files(root.root(), place.as_ref()),
        }
    }

    /// Returns when a file was written; `None` where there is none.
    pub(super) fn modified(&self, path: &str) -> Result<Option<std::time::SystemTime>> {
        let place = location(path)?;
        #[cfg(test)]
        self.wait(Step::Look)?;
        match &self.place {
            Place::Remote(remote) => Ok(remote.look(path)?.map(|found| found.modified)),
            Place::Folder(root) => disk::modified(&root.place(&place)),
        }
    }

    /// Deletes a file; it need not exist.
    pub fn delete(&self, path: &str) -> Result<()> {
        let place = location(path)?;
        #[cfg(test)]
        self.wait(Step::Delete(path))?;
        match &self.place {
            Place::Remote(remote) => remote.delete(&[path.to_owned()]),
            Place::Folder(root) => disk::remove_file(&root.place(&place)),
        }
    }

    /// The names of the folders right under `prefix`, sorted; `""` is the workspace itself.
    pub fn folders(&self, prefix: &str) -> Result<Vec<String>> {
        let place = folder(prefix)?;
        #[cfg(test)]
        self.wait(Step::Look)?;
        let mut names = match &self.place {
            Place::Remote(remote) => remote.folders(prefix)?,
            Place::Folder(root) => walk::folders(&root.place(&place))?,
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
        let place = location(prefix)?;
        #[cfg(test)]
        self.wait(Step::DeleteAll(prefix))?;
        match &self.place {
            Place::Remote(remote) => remote.delete(&self.list(prefix)?),
            Place::Folder(root) => disk::remove_folder(&root.place(&place)),
        }
    }

    /// Starts a file too large for memory; nothing refers to it until a receipt does.
    pub fn new_file(&self, path: &str) -> Result<NewFile> {
        let place = location(path)?;
        #[cfg(test)]
        self.wait(Step::NewFile(path))?;
        match &self.place {
            Place::Remote(remote) => NewFile::begin_remote(remote.clone(), path),
            Place::Folder(root) => NewFile::begin(root.clone(), &place),
        }
    }

    /// Returns the whole of `path` as one buffer: memory-mapped, from a local copy where the workspace is not local.
    pub fn map(&self, path: &str) -> Result<Bytes> {
        map(&self.file(path)?, path)
    }

    /// Returns where a file lies on this machine; `None` where the workspace is in an object store. The file need not be there.
    ///
    /// # Errors
    /// Fails on a path out of the workspace.
    pub fn local_path(&self, path: &str) -> Result<Option<PathBuf>> {
        let place = location(path)?;
        match &self.place {
            Place::Remote(_) => Ok(None),
            Place::Folder(root) => Ok(Some(root.place(&place))),
        }
    }

    /// Returns the whole of a file as [`Store::map`] does, if it has the size that its receipt says; a copy made now also has the digest.
    pub fn map_file(&self, info: &FileInfo) -> Result<Bytes> {
        let bytes = map(&self.file_of(&info.path, Some(info))?, &info.path)?;
        info.check_size(bytes.len() as u64)?;
        Ok(bytes)
    }

    /// Returns `count` bytes of a file from `from` on, with no copy of the rest.
    pub fn read_part(&self, path: &str, from: u64, count: u64) -> Result<Bytes> {
        self.parts(path, None)?.read_one(from..from.saturating_add(count))
    }

    /// Returns a file to read stretches of; a local copy that is there is used, but none is made.
    pub(super) fn parts(&self, path: &str, info: Option<&FileInfo>) -> Result<Parts> {
        match self.source(path, info)? {
            Parts::Remote(remote, found) => match remote.copy_of(&found)? {
                Some(file) => Ok(Parts::Mapped { path: path.to_owned(), bytes: map(&file, path)? }),
                None => Ok(Parts::Remote(remote, found)),
            },
            mapped => Ok(mapped),
        }
    }

    /// Returns a file to read stretches of, from the store itself.
    pub(super) fn source(&self, path: &str, info: Option<&FileInfo>) -> Result<Parts> {
        let place = location(path)?;
        #[cfg(test)]
        self.wait(Step::Look)?;
        match &self.place {
            Place::Remote(remote) => Ok(Parts::Remote(remote.clone(), remote.require(path, info)?)),
            Place::Folder(root) => {
                let bytes = map(&disk::open(&root.place(&place), path)?, path)?;
                info.map_or(Ok(()), |info| info.check_size(bytes.len() as u64))?;
                Ok(Parts::Mapped { path: path.to_owned(), bytes })
            }
        }
    }

    /// Deletes the local copy of a file of an object store.
    pub(super) fn forget_copy(&self, path: &str) -> Result<()> {
        match &self.place {
            Place::Remote(remote) => remote.forget(path),
            Place::Folder(_) => Ok(()),
        }
    }

    /// Returns a file to read parts of; where the workspace is not local, a copy of it.
    pub(super) fn file(&self, path: &str) -> Result<File> {
        self.file_of(path, None)
    }

    /// Returns a file as [`Store::file`] does; of a copy made now the size and the digest are checked.
    pub(super) fn file_of(&self, path: &str, info: Option<&FileInfo>) -> Result<File> {
        let place = location(path)?;
        #[cfg(test)]
        self.wait(Step::Look)?;
        match &self.place {
            Place::Remote(remote) => remote.local(path, info),
            Place::Folder(root) => disk::open(&root.place(&place), path),
        }
    }
}

/// Maps a file, which must not change any more.
fn map(file: &File, path: &str) -> Result<Bytes> {
    if file.metadata().map_err(io_error("open", path))?.len() == 0 {
        return Ok(Bytes::new());
    }
    #[expect(unsafe_code, reason = "a memory map is how training reads shards larger than memory")]
    // SAFETY: data files are immutable once written (every attempt has its own folder, and nothing
    // opens one for writing again), and so are local copies, which appear under their name when they are
    // whole; so the mapped bytes do not change while the map lives; deleting one unlinks it and leaves the map whole.
    let map = unsafe { memmap2::Mmap::map(file) }.map_err(io_error("map", path))?;
    Ok(Bytes::from_owner(map))
}

impl fmt::Debug for Store {
    /// By name alone: a connection holds credentials.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Store({})", self.name())
    }
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
                let create =
                    |i: u8| store.create("k/receipt.json", &[i; 1000]).map(|created| (i, created));
                let threads: Vec<_> =
                    (0..32).map(|i| scope.spawn(move || create(i).unwrap())).collect();
                threads.into_iter().map(|thread| thread.join().unwrap()).collect::<Vec<_>>()
            });
            let winners: Vec<u8> =
                created.iter().filter(|(_, c)| *c == Created::New).map(|(i, _)| *i).collect();
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
    fn no_call_reaches_a_file_outside_the_workspace() {
        let (folder, local) = workspace();
        let outside = folder.path().join("outside/file");
        fs::create_dir(folder.path().join("outside")).unwrap();
        fs::write(&outside, b"theirs").unwrap();
        let absolute = outside.to_str().unwrap();
        for store in [local, faulty_store(&[])] {
            store.create("a/inside", b"ours").unwrap();
            for path in [
                absolute,
                "../outside/file",
                "a/../../outside/file",
                "/outside/file",
                "a//inside",
                "a/inside/",
                "a\\inside",
                "",
            ] {
                let refused = [
                    store.create(path, b"new").is_err(),
                    store.new_file(path).is_err(),
                    store.read(path).is_err(),
                    store.read_all(&[path.to_owned()]).is_err(),
                    store.map(path).is_err(),
                    store.delete(path).is_err(),
                    path.is_empty() || store.delete_all(path).is_err(),
                    path.is_empty() || store.files(path).is_err(),
                    path.is_empty() || store.folders(path).is_err(),
                ];
                assert_eq!(refused, [true; 9], "{store:?} {path:?}");
            }
            assert_eq!(store.list("").unwrap(), ["a/inside"]);
        }
        assert_eq!(fs::read(&outside).unwrap(), b"theirs");
        assert_eq!(fs::read_dir(folder.path()).unwrap().count(), 2);
    }

    #[test]
    fn unknown_schemes_are_refused() {
        let error = Store::open("ftp://bucket/prefix").unwrap_err();
        assert!(error.to_string().contains("`ftp`") && error.hint().is_some());
    }
}
