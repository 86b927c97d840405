//! A bounded cache of object store files on the local disk. Start at [`Cache::file`].
//!
//! A name belongs to one content for ever. Any number of processes may share the folder: a file
//! appears whole, and a deleted file stays readable through open handles. Files being written are
//! in the subfolder `parts`; they do not count towards the limit, and are left alone for a day.

use std::fs::{self, DirBuilder, File, OpenOptions};
use std::hash::{BuildHasher, Hasher, RandomState};
use std::io::{ErrorKind, Seek};
use std::os::unix::fs::{DirBuilderExt, MetadataExt};
use std::path::{Path, PathBuf};
use std::sync::{Mutex, PoisonError};
use std::time::{Duration, SystemTime};

use super::disk::remove_file;
use super::durable::make_folders;
use super::error::{Error, Result, io_error};

/// The subfolder for files being written.
const PARTS_FOLDER: &str = "parts";
/// A part without writes for this long belongs to a dead process.
const ABANDONED_AFTER: Duration = Duration::from_secs(24 * 60 * 60);

/// The folder for local copies.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum CacheFolder {
    /// A folder chosen by the user, or the user's own cache folder.
    At(PathBuf),
    /// A folder among the system's temporary files, with access for this user alone.
    Private,
}

impl From<PathBuf> for CacheFolder {
    fn from(folder: PathBuf) -> Self {
        Self::At(folder)
    }
}

/// A folder of copies. The least recently used ones are deleted first.
#[derive(Debug)]
pub(super) struct Cache {
    folder: PathBuf,
    is_private: bool,
    /// The limit in bytes. It may be exceeded for a moment.
    max_bytes: u64,
    /// The size at the last listing plus later additions; `None` before the first file.
    held: Mutex<Option<u64>>,
}

impl Cache {
    pub(super) fn new(folder: CacheFolder, max_bytes: u64) -> Self {
        let (folder, is_private) = match folder {
            CacheFolder::At(folder) => (folder, false),
            CacheFolder::Private => (
                std::env::temp_dir().join(format!("lapo-{}", rustix::process::getuid().as_raw())),
                true,
            ),
        };
        Self { folder, is_private, max_bytes, held: Mutex::new(None) }
    }

    /// Returns the folder, for tests.
    #[cfg(test)]
    pub(super) fn folder(&self) -> &Path {
        &self.folder
    }

    /// Returns the copy called `name`. `fetch` writes it if it does not exist, or if its size is
    /// not `bytes`.
    pub(super) fn file(
        &self,
        name: &str,
        bytes: Option<u64>,
        fetch: impl FnOnce(&mut File) -> Result<()>,
    ) -> Result<File> {
        if let Some(file) = self.find(name, bytes)? {
            return Ok(file);
        }
        let (mut file, part) = self.begin()?;
        let fetched = fetch(&mut file)
            .and_then(|()| file.rewind().map_err(io_error("rewind", &part)))
            .and_then(|()| self.keep(&part, name));
        match fetched {
            Ok(()) => Ok(file),
            Err(error) => {
                // The fetch failed: a half-written part must not stay.
                let _ = fs::remove_file(&part);
                Err(error)
            }
        }
    }

    /// Returns the copy called `name`, if it exists. A copy with another size than `bytes` is
    /// damaged and gets deleted.
    pub(super) fn find(&self, name: &str, bytes: Option<u64>) -> Result<Option<File>> {
        self.check()?;
        let place = self.folder.join(name);
        let file = match File::open(&place) {
            Err(cause) if cause.kind() == ErrorKind::NotFound => return Ok(None),
            file => file.map_err(io_error("open", &place))?,
        };
        let found = file.metadata().map_err(io_error("look at", &place))?.len();
        if bytes.is_some_and(|bytes| bytes != found) {
            remove_file(&place)?;
            return Ok(None);
        }
        // The modification time records the last use. If it cannot be set, the copy is deleted a
        // little sooner.
        let _ = file.set_modified(SystemTime::now());
        Ok(Some(file))
    }

    /// Deletes the copy called `name`, if it exists.
    pub(super) fn forget(&self, name: &str) -> Result<()> {
        remove_file(&self.folder.join(name))
    }

    /// Creates an empty file for a new copy. Returns it with its path.
    pub(super) fn begin(&self) -> Result<(File, PathBuf)> {
        self.make()?;
        let part = self
            .folder
            .join(PARTS_FOLDER)
            .join(format!("{:016x}", RandomState::new().build_hasher().finish()));
        let file = OpenOptions::new()
            .read(true)
            .write(true)
            .create_new(true)
            .open(&part)
            .map_err(io_error("create", &part))?;
        Ok((file, part))
    }

    /// Turns a finished part into the copy called `name`, and deletes other copies if the cache is
    /// full.
    pub(super) fn keep(&self, part: &Path, name: &str) -> Result<()> {
        let file = match File::open(part) {
            // Another process deletes a part after a day, as abandoned. There is no copy then.
            Err(cause) if cause.kind() == ErrorKind::NotFound => return Ok(()),
            file => file.map_err(io_error("open", part))?,
        };
        // Sync before the rename: after a power cut a copy must not be empty.
        file.sync_all().map_err(io_error("sync", part))?;
        let bytes = file.metadata().map_err(io_error("look at", part))?.len();
        fs::rename(part, self.folder.join(name)).map_err(io_error("rename", part))?;
        let mut held = self.held.lock().unwrap_or_else(PoisonError::into_inner);
        // Only a full cache, or the first file of this process, needs a listing.
        let now = held.map(|held| held + bytes).filter(|held| *held <= self.max_bytes);
        *held = Some(now.map_or_else(|| self.shrink(), Ok)?);
        Ok(())
    }

    /// Deletes the least recently used copies until a tenth of the limit is free, and abandoned
    /// parts. Returns the bytes left.
    fn shrink(&self) -> Result<u64> {
        for (modified, _, part) in listed(&self.folder.join(PARTS_FOLDER))? {
            if modified.elapsed().is_ok_and(|age| age > ABANDONED_AFTER) {
                remove_file(&part)?;
            }
        }
        let mut copies = listed(&self.folder)?;
        // Sorted by last use, then by size and path.
        copies.sort();
        let mut held: u64 = copies.iter().map(|(_, bytes, _)| bytes).sum();
        let target = if held > self.max_bytes {
            self.max_bytes - self.max_bytes / 10
        } else {
            self.max_bytes
        };
        let mut oldest = copies.into_iter();
        while held > target
            && let Some((_, bytes, place)) = oldest.next()
        {
            remove_file(&place)?;
            held -= bytes;
        }
        Ok(held)
    }

    /// Makes the folder, and the one for parts.
    fn make(&self) -> Result<()> {
        let parts = self.folder.join(PARTS_FOLDER);
        if self.is_private {
            make_private(&self.folder)?;
        }
        make_folders(&parts).map(drop).map_err(io_error("create the folder", &parts))
    }

    /// Checks that no other user can write copies, if the folder must be private.
    fn check(&self) -> Result<()> {
        if self.is_private { make_private(&self.folder) } else { Ok(()) }
    }
}

/// Creates a folder for this user alone, or checks an existing one.
fn make_private(folder: &Path) -> Result<()> {
    // The mode is set at creation: a later `chmod` would leave a gap.
    match DirBuilder::new().mode(0o700).create(folder) {
        Err(cause) if cause.kind() == ErrorKind::AlreadyExists => {}
        made => return made.map_err(io_error("create the folder", folder)),
    }
    // Links are not followed: another user may have created one.
    let found = fs::symlink_metadata(folder).map_err(io_error("look at", folder))?;
    let is_ours = found.is_dir()
        && found.uid() == rustix::process::getuid().as_raw()
        && found.mode() & 0o077 == 0;
    if is_ours { Ok(()) } else { Err(Error::NotPrivate { folder: folder.display().to_string() }) }
}

/// Returns the files of a folder (not of its subfolders): last use, size and path.
fn listed(folder: &Path) -> Result<Vec<(SystemTime, u64, PathBuf)>> {
    let mut files = Vec::new();
    for entry in fs::read_dir(folder).map_err(io_error("list", folder))? {
        let entry = entry.map_err(io_error("list", folder))?;
        // Another process may delete the file meanwhile.
        if let Ok(found) = entry.metadata()
            && found.is_file()
        {
            files.push((
                found.modified().unwrap_or(SystemTime::UNIX_EPOCH),
                found.len(),
                entry.path(),
            ));
        }
    }
    Ok(files)
}

#[cfg(test)]
#[expect(clippy::unwrap_used, reason = "a test fails by panicking")]
mod tests {
    use std::io::{Read, Write};
    use std::time::Duration;

    use super::*;

    fn read(mut file: File) -> Vec<u8> {
        let mut bytes = Vec::new();
        file.read_to_end(&mut bytes).unwrap();
        bytes
    }

    fn write(bytes: &[u8]) -> impl FnOnce(&mut File) -> Result<()> {
        move |file: &mut File| file.write_all(bytes).map_err(io_error("write", "part"))
    }

    #[test]
    fn a_copy_is_fetched_once_and_the_least_recently_used_is_deleted_first() {
        let folder = tempfile::tempdir().unwrap();
        let cache = Cache::new(folder.path().join("cache").into(), 1000);
        for i in 0..10_u8 {
            assert_eq!(read(cache.file(&i.to_string(), None, write(&[i; 100])).unwrap()), [i; 100]);
            let old = SystemTime::now() - Duration::from_secs(100 - u64::from(i));
            File::open(folder.path().join(format!("cache/{i}")))
                .unwrap()
                .set_modified(old)
                .unwrap();
        }
        let kept = cache.file("0", Some(100), |_| unreachable!("it is there")).unwrap();
        cache.file("10", None, write(&[10; 100])).unwrap();
        let names: Vec<String> = fs::read_dir(&cache.folder)
            .unwrap()
            .map(|e| e.unwrap().file_name().into_string().unwrap())
            .collect();
        assert!(
            ["0", "3", "10"].iter().all(|name| names.contains(&(*name).to_owned())),
            "{names:?}"
        );
        assert!(!names.contains(&"1".to_owned()) && !names.contains(&"2".to_owned()), "{names:?}");
        assert_eq!(read(kept), [0; 100]);
    }

    #[test]
    fn a_failed_fetch_leaves_no_file() {
        let folder = tempfile::tempdir().unwrap();
        let cache = Cache::new(folder.path().to_owned().into(), 1000);
        assert!(cache.file("a", None, |_| Err(Error::Missing { path: "a".into() })).is_err());
        assert_eq!(listed(folder.path()).unwrap(), []);
        assert_eq!(listed(&folder.path().join(PARTS_FOLDER)).unwrap(), []);
        assert_eq!(read(cache.file("a", None, write(b"x")).unwrap()), b"x");
    }

    #[test]
    fn parts_being_written_survive_deletions_by_other_processes() {
        let folder = tempfile::tempdir().unwrap();
        // Two processes with a limit of 0 bytes.
        let [ours, theirs] = [0, 0].map(|limit| Cache::new(folder.path().to_owned().into(), limit));
        let (mut file, part) = ours.begin().unwrap();
        file.write_all(b"first half").unwrap();
        let hour_ago = SystemTime::now() - Duration::from_secs(3600);
        file.set_modified(hour_ago).unwrap();
        assert_eq!(read(theirs.file("a", None, write(b"theirs")).unwrap()), b"theirs");
        assert_eq!(read(ours.file("b", None, write(b"ours")).unwrap()), b"ours");
        assert_eq!(fs::read(&part).unwrap(), b"first half");
        ours.keep(&part, "c").unwrap();
        assert_eq!(listed(folder.path()).unwrap(), [], "a limit of 0 bytes keeps no copies");
    }

    #[test]
    fn the_part_of_a_dead_process_is_deleted_after_a_day() {
        let folder = tempfile::tempdir().unwrap();
        let cache = Cache::new(folder.path().to_owned().into(), 1000);
        let (file, part) = cache.begin().unwrap();
        file.set_modified(SystemTime::now() - ABANDONED_AFTER - Duration::from_secs(60)).unwrap();
        cache.file("a", None, write(b"x")).unwrap();
        assert!(!part.exists());
        cache.keep(&part, "b").unwrap();
        assert_eq!(listed(folder.path()).unwrap().len(), 1);
    }

    #[test]
    fn a_copy_with_a_wrong_size_is_fetched_again() {
        let folder = tempfile::tempdir().unwrap();
        let cache = Cache::new(folder.path().to_owned().into(), 1000);
        cache.file("a", Some(4), write(b"four")).unwrap();
        fs::write(folder.path().join("a"), b"fo").unwrap();
        assert_eq!(read(cache.file("a", Some(4), write(b"four")).unwrap()), b"four");
        assert_eq!(fs::read(folder.path().join("a")).unwrap(), b"four");
    }

    #[test]
    fn a_private_folder_with_access_for_others_is_refused() {
        let folder = tempfile::tempdir().unwrap();
        let at = |name: &str| Cache {
            folder: folder.path().join(name),
            is_private: true,
            max_bytes: 1000,
            held: Mutex::new(None),
        };
        at("new").file("a", None, write(b"x")).unwrap();
        assert_eq!(fs::metadata(folder.path().join("new")).unwrap().mode() & 0o777, 0o700);
        at("new").file("a", None, |_| unreachable!("it is there")).unwrap();
        DirBuilder::new().mode(0o755).create(folder.path().join("open")).unwrap();
        std::os::unix::fs::symlink(folder.path().join("new"), folder.path().join("link")).unwrap();
        for name in ["open", "link"] {
            let error = at(name).file("a", None, write(b"x")).unwrap_err();
            assert!(matches!(error, Error::NotPrivate { .. }), "{error}");
            assert!(
                error.to_string().contains(name) && error.hint().unwrap().contains("--cache"),
                "{error}"
            );
        }
        assert!(
            format!("{:?}", Cache::new(CacheFolder::Private, 1))
                .contains(&format!("lapo-{}", rustix::process::getuid().as_raw()))
        );
    }
}
