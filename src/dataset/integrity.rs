//! Integrity checks of files and stores. Start at [`Store::check_size`].

use std::hash::{BuildHasher, Hasher, RandomState};

use bytes::Bytes;

use super::error::{Error, Result};
use super::paths::{Created, FileInfo};
use super::store::Store;

/// Bytes of one read, and the number of concurrent reads.
const READ_BYTES: u64 = 8 << 20;
const CONCURRENT_READS: usize = 4;

/// Returns whether a path was written by [`Store::probe_create`].
pub(super) fn is_probe(path: &str) -> bool {
    let name =
        path.strip_prefix("probes/").and_then(|name| name.split('#').next()).unwrap_or_default();
    name.len() == 16 && name.bytes().all(|byte| byte.is_ascii_hexdigit())
}

impl Store {
    /// Checks a file's size against its receipt, without reading its bytes.
    pub fn check_size(&self, info: &FileInfo) -> Result<()> {
        self.source(&info.path, Some(info)).map(drop)
    }

    /// Checks a file's size and digest against its receipt. It reads the whole file and keeps no
    /// copy.
    pub fn verify(&self, info: &FileInfo) -> Result<()> {
        let file = self.source(&info.path, Some(info))?;
        let mut hasher = blake3::Hasher::new();
        let pieces: Vec<_> = (0..file.len())
            .step_by(READ_BYTES as usize)
            .map(|from| from..(from + READ_BYTES).min(file.len()))
            .collect();
        // Read a few pieces at once, but hash them in order.
        for pieces in pieces.chunks(CONCURRENT_READS) {
            for piece in file.read(pieces)? {
                hasher.update(&piece);
            }
        }
        info.check_digest(hasher.finalize())
    }

    /// Reads a small file, such as weights, and checks its size and digest against its receipt.
    pub fn require_file(&self, info: &FileInfo) -> Result<Bytes> {
        let bytes = self.require(&info.path)?;
        info.check_size(bytes.len() as u64)?;
        info.check_digest(blake3::hash(&bytes)).map(|()| bytes)
    }

    /// Maps a file as [`Store::map`] does, and checks its digest against its receipt.
    pub fn map_checked(&self, info: &FileInfo) -> Result<Bytes> {
        let check = || {
            self.map_file(info)
                .and_then(|bytes| info.check_digest(blake3::hash(&bytes)).map(|()| bytes))
        };
        match check() {
            // Perhaps only the local copy is damaged: fetch it again, once.
            Err(Error::Corrupt { .. }) => {
                self.forget_copy(&info.path)?;
                check()
            }
            checked => checked,
        }
    }

    /// Checks that the store creates a file only once, and fails if a second create overwrites the
    /// first.
    ///
    /// Every commit relies on atomic creates, but some stores accept a conditional write and ignore
    /// its condition. Checked once, when a workspace is created.
    pub fn probe_create(&self) -> Result<()> {
        let path = format!("probes/{:016x}", RandomState::new().build_hasher().finish());
        let probe = || {
            let created = [self.create(&path, b"one")?, self.create(&path, b"two")?];
            Ok(created == [Created::New, Created::Exists] && self.require(&path)? == "one")
        };
        // The probe is deleted even if the check failed.
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

    use super::super::faulty_store::{faulty_store, metered_store, overwriting_store};
    use super::*;

    const PATH: &str = "frames/data/k/a/shard.arrow";

    fn write(store: &Store, bytes: &[u8]) -> FileInfo {
        let mut file = store.new_file(PATH).unwrap();
        file.write_all(bytes).unwrap();
        file.finish(1).unwrap()
    }

    #[test]
    fn changed_sizes_and_flipped_bits_are_detected() {
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
    fn a_damaged_copy_is_fetched_again_and_a_size_check_reads_no_bytes() {
        let (store, read) = metered_store();
        let info = write(&store, &[7; 100_000]);
        store.check_size(&info).unwrap();
        assert_eq!(read.load(Ordering::Relaxed), 0);
        let damage = |bytes: &[u8]| {
            let copies = fs::read_dir(store.access().cache().folder())
                .unwrap()
                .map(|entry| entry.unwrap().path());
            for copy in copies.filter(|path| path.is_file()) {
                fs::write(copy, bytes).unwrap();
            }
        };
        damage(&[8; 100_000]);
        assert!(store.map_checked(&info).unwrap() == [7; 100_000][..]);
        damage(&[7; 99_999]);
        assert!(store.map_file(&info).unwrap() == [7; 100_000][..]);
        assert_eq!(read.load(Ordering::Relaxed), 200_000);
    }

    #[test]
    fn a_store_without_conditional_writes_is_refused_and_probes_are_deleted() {
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
