//! Files of an object store, kept on this machine's disk while there is room.
//!
//! In: a name that belongs to one content for ever, and a way to fetch it. Out: an opened file. Start at [`Cache::file`]. Any number of
//! processes may share the folder: a file appears whole, and one that is deleted stays readable to whoever has opened it.

use std::fs::{self, File, OpenOptions};
use std::hash::{BuildHasher, Hasher, RandomState};
use std::io::{ErrorKind, Seek};
use std::path::{Path, PathBuf};
use std::sync::{Mutex, PoisonError};
use std::time::SystemTime;

use super::disk::{io_error, make_folder_of, remove_file};
use super::error::Result;

/// A folder of copies, the least used of which go first.
#[derive(Debug)]
pub(super) struct Cache {
    folder: PathBuf,
    /// About how many bytes it may hold.
    most: u64,
    /// How many it held when somebody looked, and what came since; unknown before the first file.
    held: Mutex<Option<u64>>,
}

impl Cache {
    pub(super) fn new(folder: PathBuf, most: u64) -> Self {
        Self { folder, most, held: Mutex::new(None) }
    }

    /// The copy called `name`; `fetch` writes it where it is not there.
    pub(super) fn file(&self, name: &str, fetch: impl FnOnce(&mut File) -> Result<()>) -> Result<File> {
        let place = self.folder.join(name);
        match File::open(&place) {
            Ok(file) => {
                // How lately it was used; where that cannot be noted it goes a little sooner.
                let _ = file.set_modified(SystemTime::now());
                return Ok(file);
            }
            Err(cause) if cause.kind() == ErrorKind::NotFound => {}
            Err(cause) => return Err(io_error("open", &place)(cause)),
        }
        let (mut file, part) = self.begin()?;
        let fetched =
            fetch(&mut file).and_then(|()| file.rewind().map_err(io_error("rewind", &part))).and_then(|()| self.keep(&part, name));
        match fetched {
            Ok(()) => Ok(file),
            Err(error) => {
                let _ = fs::remove_file(&part);
                Err(error)
            }
        }
    }

    /// An empty file for a copy that is under way, and where it is.
    pub(super) fn begin(&self) -> Result<(File, PathBuf)> {
        let part = self.folder.join(format!("part-{:016x}", RandomState::new().build_hasher().finish()));
        make_folder_of(&part)?;
        let file = OpenOptions::new().read(true).write(true).create_new(true).open(&part).map_err(io_error("create", &part))?;
        Ok((file, part))
    }

    /// Makes a whole file the copy called `name`, and room where there is none left.
    pub(super) fn keep(&self, part: &Path, name: &str) -> Result<()> {
        let file = File::open(part).map_err(io_error("open", part))?;
        file.sync_all().map_err(io_error("sync", part))?;
        let bytes = file.metadata().map_err(io_error("look at", part))?.len();
        fs::rename(part, self.folder.join(name)).map_err(io_error("rename", part))?;
        let mut held = self.held.lock().unwrap_or_else(PoisonError::into_inner);
        let now = held.map(|held| held + bytes).filter(|held| *held <= self.most);
        *held = Some(now.map_or_else(|| self.shrink(), Ok)?);
        Ok(())
    }

    /// Deletes the least lately used until a tenth is free; returns what is left.
    fn shrink(&self) -> Result<u64> {
        let mut copies = Vec::new();
        for entry in fs::read_dir(&self.folder).map_err(io_error("list", &self.folder))? {
            let entry = entry.map_err(io_error("list", &self.folder))?;
            // Another process may delete meanwhile.
            if let Ok(found) = entry.metadata() {
                copies.push((found.modified().unwrap_or(SystemTime::UNIX_EPOCH), found.len(), entry.path()));
            }
        }
        copies.sort();
        let mut held: u64 = copies.iter().map(|(_, bytes, _)| bytes).sum();
        let most = if held > self.most { self.most - self.most / 10 } else { self.most };
        let mut oldest = copies.into_iter();
        while held > most
            && let Some((_, bytes, place)) = oldest.next()
        {
            remove_file(&place)?;
            held -= bytes;
        }
        Ok(held)
    }
}

#[cfg(test)]
#[expect(clippy::unwrap_used, reason = "a test fails by panicking")]
mod tests {
    use std::io::{Read, Write};
    use std::time::Duration;

    use super::super::error::Error;
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
    fn a_copy_is_fetched_once_and_the_least_used_goes_first() {
        let folder = tempfile::tempdir().unwrap();
        let cache = Cache::new(folder.path().join("cache"), 1000);
        for i in 0..10_u8 {
            assert_eq!(read(cache.file(&i.to_string(), write(&[i; 100])).unwrap()), [i; 100]);
            let old = SystemTime::now() - Duration::from_secs(100 - u64::from(i));
            File::open(folder.path().join(format!("cache/{i}"))).unwrap().set_modified(old).unwrap();
        }
        let kept = cache.file("0", |_| unreachable!("it is there")).unwrap();
        cache.file("10", write(&[10; 100])).unwrap();
        let names: Vec<String> = fs::read_dir(&cache.folder).unwrap().map(|e| e.unwrap().file_name().into_string().unwrap()).collect();
        assert!(["0", "3", "10"].iter().all(|name| names.contains(&(*name).to_owned())), "{names:?}");
        assert!(!names.contains(&"1".to_owned()) && !names.contains(&"2".to_owned()), "{names:?}");
        assert_eq!(read(kept), [0; 100]);
    }

    #[test]
    fn a_fetch_that_fails_leaves_nothing() {
        let folder = tempfile::tempdir().unwrap();
        let cache = Cache::new(folder.path().into(), 1000);
        assert!(cache.file("a", |_| Err(Error::Missing { path: "a".into() })).is_err());
        assert_eq!(fs::read_dir(folder.path()).unwrap().count(), 0);
        assert_eq!(read(cache.file("a", write(b"x")).unwrap()), b"x");
    }
}
