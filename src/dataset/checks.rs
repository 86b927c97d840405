//! Checks that a store and its files are what they must be.
//!
//! In: a file as its receipt describes it, or a store that nobody has written to. Out: nothing, or what is wrong. Start at
//! [`Store::check_size`].

use std::hash::{BuildHasher, Hasher, RandomState};

use bytes::Bytes;

use super::error::{Error, Result};
use super::place::{Created, FileInfo};
use super::store::Store;

/// Bytes read at once, in so many pieces.
const PIECE: u64 = 8 << 20;
const PIECES: usize = 4;

/// Returns whether a path is one that [`Store::probe_create`] writes.
pub(super) fn is_probe(path: &str) -> bool {
    let name =
        path.strip_prefix("probes/").and_then(|name| name.split('#').next()).unwrap_or_default();
    name.len() == 16 && name.bytes().all(|byte| byte.is_ascii_hexdigit())
}

impl Store {
    /// Checks that a file is there and has the size that its receipt says; reads none of it.
    pub fn check_size(&self, info: &FileInfo) -> Result<()> {
        self.source(&info.path, Some(info)).map(drop)
    }

    /// Checks that a file has the size and the digest that its receipt says; reads all of it, and keeps no copy.
    pub fn verify(&self, info: &FileInfo) -> Result<()> {
        let (file, mut hasher) = (self.source(&info.path, Some(info))?, blake3::Hasher::new());
        let pieces: Vec<_> = (0..file.len())
            .step_by(PIECE as usize)
            .map(|from| from..(from + PIECE).min(file.len()))
            .collect();
        for pieces in pieces.chunks(PIECES) {
            for piece in file.read(pieces)? {
                hasher.update(&piece);
            }
        }
        info.check_digest(hasher.finalize())
    }

    /// Returns the bytes of a small file, such as weights, that must have the size and the digest that its receipt says.
    pub fn require_file(&self, info: &FileInfo) -> Result<Bytes> {
        let bytes = self.require(&info.path)?;
        info.check_size(bytes.len() as u64)?;
        info.check_digest(blake3::hash(&bytes)).map(|()| bytes)
    }

    /// Returns the whole of a file as [`Store::map`] does, after all its bytes were read and have the digest that its receipt says.
    pub fn map_checked(&self, info: &FileInfo) -> Result<Bytes> {
        let check = || {
            self.map_file(info)
                .and_then(|bytes| info.check_digest(blake3::hash(&bytes)).map(|()| bytes))
        };
        match check() {
            // The local copy may be what is damaged.
            Err(Error::Corrupt { .. }) => {
                self.forget_copy(&info.path)?;
                check()
            }
            checked => checked,
        }
    }

    /// Checks that the store creates a file only once: fails where a second create overwrites the first.
    ///
    /// Every decision on what exists rests on that, and some stores accept a conditional write and ignore the condition. To be asked
    /// once, when a workspace is made.
    pub fn probe_create(&self) -> Result<()> {
        let path = format!("probes/{:016x}", RandomState::new().build_hasher().finish());
        let probe = || {
            let created = [self.create(&path, b"one")?, self.create(&path, b"two")?];
            Ok(created == [Created::New, Created::Exists] && self.require(&path)? == "one")
        };
        let is_atomic = probe();
        self.delete(&path)?;
        if is_atomic? { Ok(()) } else { Err(Error::NotAtomic { place: self.name() }) }
    }
}

#[cfg(test)]
mod tests {
    #![expect(clippy::unwrap_used, reason = "a test may panic")]
    use std::fs;
    use std::io::Write;
    use std::sync::atomic::Ordering;

    use super::super::faults::{faulty_store, metered_store, overwriting_store};
    use super::*;

    const PATH: &str = "frames/data/k/a/shard.arrow";

    fn write(store: &Store, bytes: &[u8]) -> FileInfo {
        let mut file = store.new_file(PATH).unwrap();
        file.write_all(bytes).unwrap();
        file.finish(1).unwrap()
    }

    #[test]
    fn a_file_of_another_size_or_content_is_told_from_the_one_that_was_written() {
        let folder = tempfile::tempdir().unwrap();
        let local = Store::open(folder.path().to_str().unwrap()).unwrap();
        let whole: Vec<u8> = (0..70_000_u32 << 8).map(|i| (i / 3) as u8).collect();
        for store in [local, faulty_store(&[])] {
            let info = write(&store, &whole);
            store.check_size(&info).and_then(|()| store.verify(&info)).unwrap();
            assert!(
                store.map_file(&info).unwrap() == whole
                    && store.map_checked(&info).unwrap() == whole
            );
            assert!(store.require_file(&info).unwrap() == whole);

            let mut flipped = whole.clone();
            flipped[whole.len() / 2] ^= 1;
            for (bytes, is_cut) in
                [(&whole[..whole.len() - 1], true), (&[][..], true), (&flipped[..], false)]
            {
                store.delete(PATH).unwrap();
                store.create(PATH, bytes).unwrap();
                let read = [store.map_checked(&info).err(), store.require_file(&info).err()];
                let errors = [store.check_size(&info).err(), store.verify(&info).err()]
                    .into_iter()
                    .chain(read);
                for (number, error) in errors.enumerate() {
                    let Some(error) = error else {
                        assert!(number == 0 && !is_cut, "{store:?} {number}: nothing was found");
                        continue;
                    };
                    let text = error.to_string();
                    assert!(
                        text.contains(PATH)
                            && error.hint().unwrap().contains("frames/receipts/k.json"),
                        "{text}"
                    );
                    match error {
                        Error::Damaged { expected, found, .. } => {
                            assert_eq!(
                                (is_cut, expected, found),
                                (true, info.bytes, bytes.len() as u64)
                            );
                        }
                        _ => assert!(!is_cut && text.contains(&info.blake3), "{text}"),
                    }
                }
                assert!(!is_cut || matches!(store.map_file(&info), Err(Error::Damaged { .. })));
            }
            store.delete(PATH).unwrap();
            assert!(matches!(store.check_size(&info), Err(Error::Missing { .. })));
        }
    }

    #[test]
    fn a_damaged_copy_is_fetched_again_and_a_size_costs_no_byte() {
        let (store, read) = metered_store();
        let info = write(&store, &[7; 100_000]);
        store.check_size(&info).unwrap();
        assert_eq!(read.load(Ordering::Relaxed), 0);
        let damage = |bytes: &[u8]| {
            let copies = fs::read_dir(store.access().cache().folder())
                .unwrap()
                .map(|entry| entry.unwrap().path());
            copies.filter(|path| path.is_file()).for_each(|path| fs::write(path, bytes).unwrap());
        };
        damage(&[8; 100_000]);
        assert!(store.map_checked(&info).unwrap() == [7; 100_000][..]);
        damage(&[7; 99_999]);
        assert!(store.map_file(&info).unwrap() == [7; 100_000][..]);
        assert_eq!(read.load(Ordering::Relaxed), 200_000);
    }

    #[test]
    fn a_store_that_ignores_conditional_writes_is_refused_and_no_probe_stays() {
        let folder = tempfile::tempdir().unwrap();
        let local = Store::open(folder.path().join("new").to_str().unwrap()).unwrap();
        for store in [local, faulty_store(&[])] {
            store.probe_create().unwrap();
            assert!(store.list("").unwrap().is_empty());
        }
        let store = overwriting_store();
        let error = store.probe_create().unwrap_err();
        assert!(matches!(error, Error::NotAtomic { .. }), "{error}");
        assert!(
            error.hint().unwrap().contains("If-None-Match") && store.list("").unwrap().is_empty()
        );
    }
}
