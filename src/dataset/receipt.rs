//! A receipt: the proof that a task is done, created once.
//!
//! In: what one attempt at a task wrote. Out: a JSON file that says which files they are, or the news that
//! another attempt was first. Start at [`file_receipt`]. Two live attempts at one task are harmless: the
//! first receipt counts, and the other attempt's data are deleted.

use std::collections::{BTreeMap, HashSet};
use std::sync::Arc;

use serde::de::DeserializeOwned;
use serde::{Deserialize, Serialize};

use super::error::{Error, Result};
use super::fields::Fields;
use super::listing::About;
use super::place::Created;
use super::place::FileInfo;
use super::store::Store;

/// What one finished task made, from what.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Receipt {
    /// The version of this file's format: [`super::FORMAT`].
    pub format: u32,
    /// The task's key.
    pub key: String,
    /// The stage's kind, such as `decode`.
    pub stage: String,
    /// The attempt that won, and the folder its data are in.
    pub attempt: String,
    /// What the key was made of: a plan compares them to say why a task is new.
    pub fields: Fields,
    /// The files, relative to the workspace.
    pub files: Vec<FileInfo>,
    /// The digests of the inputs, in order.
    pub inputs: Vec<String>,
    /// The videos that were read.
    pub videos: Vec<VideoRecord>,
    /// The videos that could not be read, wholly or in part.
    pub rejects: Vec<Reject>,
    /// Numbers worth keeping, such as seconds spent. A number that is not finite is written as `null`
    /// and read back as NaN.
    #[serde(with = "numbers")]
    pub stats: BTreeMap<String, f64>,
    /// By what it was made.
    pub made: Made,
}

/// By what, where and when a task was done. Nothing here decides a key.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Made {
    /// The version of lapo.
    pub lapo: String,
    /// The commit that it was built from.
    pub commit: String,
    /// The version of libav, where the build has it.
    pub libav: Option<String>,
    /// What computed: `cpu`, `cuda:0`.
    pub device: String,
    /// The machine's name.
    pub host: String,
    /// When it was done, in seconds since 1970.
    pub finished_unix_secs: u64,
}

/// A video a task has read.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct VideoRecord {
    /// The BLAKE3 digest of its bytes: its identity.
    pub digest: String,
    /// Its path or address, as it was given.
    pub uri: String,
    /// Its size.
    pub bytes: u64,
    /// When it last changed: nanoseconds since 1970, or an etag. A cache of the identity, never the answer.
    pub modified: String,
    /// Where it begins in the archive that holds it: two members may have one name.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub at: Option<u64>,
    /// The inode of its file, or of the archive that holds it: a file that is renamed keeps it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub inode: Option<u64>,
    /// How many frames it gave.
    pub frames: u64,
    /// How many episodes it gave.
    pub episodes: u64,
    /// What a list said of it.
    #[serde(default, skip_serializing_if = "About::is_empty")]
    pub about: About,
}

impl Receipt {
    /// How many rows its stage's table has of it: frames, where it made shards, whatever lies beside them.
    #[must_use]
    pub fn rows(&self) -> u64 {
        let is_shard = |file: &&FileInfo| file.path.ends_with(".arrow");
        let shards = self.files.iter().any(|file| is_shard(&file));
        self.files.iter().filter(|file| !shards || is_shard(file)).map(|file| file.rows).sum()
    }
}

/// A video that could not be read, wholly or in part: an outcome, not a crash.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Reject {
    /// Its path or address, as it was given.
    pub video: String,
    /// The BLAKE3 digest of its bytes.
    pub digest: String,
    /// The kind of fault, for counting.
    pub class: String,
    /// What happened, for reading.
    pub reason: String,
    /// How many frames were good and were kept.
    pub frames_kept: u64,
}

/// What became of a [`file_receipt`].
#[derive(Debug, Clone, PartialEq)]
pub enum Filed {
    /// This attempt's receipt counts.
    Won,
    /// Another attempt's does, and this one's data are gone.
    Lost(Box<Receipt>),
}

/// Where the receipt of task `key` of the stage named `stage` is.
#[must_use]
pub fn receipt_path(stage: &str, key: &str) -> String {
    format!("{stage}/receipts/{key}.json")
}

/// Where one attempt at a task writes its files.
#[must_use]
pub fn data_folder(stage: &str, key: &str, attempt: &str) -> String {
    format!("{stage}/data/{key}/{attempt}")
}

/// Files an attempt's receipt, unless another attempt was first: then its own data are deleted.
pub fn file_receipt(store: &Store, stage: &str, receipt: &Receipt) -> Result<Filed> {
    let path = receipt_path(stage, &receipt.key);
    if store.create(&path, &to_json(receipt))? == Created::New {
        return Ok(Filed::Won);
    }
    let theirs = read_receipt(store, stage, &receipt.key)?.ok_or(Error::Missing { path })?;
    if theirs.attempt == receipt.attempt {
        return Ok(Filed::Won);
    }
    store.delete_all(&data_folder(stage, &receipt.key, &receipt.attempt))?;
    Ok(Filed::Lost(Box::new(theirs)))
}

/// The receipt of a task, if it is done.
pub fn read_receipt(store: &Store, stage: &str, key: &str) -> Result<Option<Receipt>> {
    read_json(store, &receipt_path(stage, key))
}

/// Files receipts that lost their own file, as they are.
pub(super) fn file_again<'a>(
    store: &Store,
    stage: &str,
    receipts: impl Iterator<Item = &'a Arc<Receipt>>,
) -> Result<()> {
    let mut lost: Vec<&Arc<Receipt>> = receipts.collect();
    if lost.len() > 16 {
        let filed: HashSet<String> =
            store.list(&format!("{stage}/receipts"))?.into_iter().collect();
        lost.retain(|receipt| !filed.contains(&receipt_path(stage, &receipt.key)));
    }
    for receipt in lost {
        let path = receipt_path(stage, &receipt.key);
        if store.read(&path)?.is_none() {
            store.create(&path, &to_json(receipt))?;
        }
    }
    Ok(())
}

/// Reads receipts by their paths, which must be there.
pub(super) fn read_receipts(store: &Store, paths: &[String]) -> Result<Vec<Receipt>> {
    read_many(store, paths)
}

/// Reads the receipts of some tasks of a stage, in their order; `None` where a task has none.
pub fn find_receipts(store: &Store, stage: &str, keys: &[String]) -> Result<Vec<Option<Receipt>>> {
    let paths: Vec<String> = keys.iter().map(|key| receipt_path(stage, key)).collect();
    let mut all = Vec::with_capacity(paths.len());
    for paths in paths.chunks(AT_ONCE) {
        for (path, bytes) in paths.iter().zip(store.read_all(paths)?) {
            all.push(bytes.map(|bytes| parse_versioned(path, &bytes)).transpose()?);
        }
    }
    Ok(all)
}

/// Whether all of these tasks have a receipt.
pub fn are_filed(store: &Store, stage: &str, keys: &[String]) -> Result<bool> {
    if keys.len() > AT_ONCE {
        let filed: HashSet<String> =
            store.list(&format!("{stage}/receipts"))?.into_iter().collect();
        return Ok(keys.iter().all(|key| filed.contains(&receipt_path(stage, key))));
    }
    Ok(find_receipts(store, stage, keys)?.iter().all(Option::is_some))
}

/// So many lie in memory as text at once.
const AT_ONCE: usize = 256;

/// Reads JSON files that must be there.
pub(super) fn read_many<T: DeserializeOwned>(store: &Store, paths: &[String]) -> Result<Vec<T>> {
    let mut all = Vec::with_capacity(paths.len());
    for paths in paths.chunks(AT_ONCE) {
        for (path, bytes) in paths.iter().zip(store.read_all(paths)?) {
            all.push(parse_versioned(
                path,
                &bytes.ok_or_else(|| Error::Missing { path: path.clone() })?,
            )?);
        }
    }
    Ok(all)
}

/// JSON as we write it: readable, and the same bytes for the same value.
pub(super) fn to_json(value: &impl Serialize) -> Vec<u8> {
    let mut json = serde_json::to_vec_pretty(value).expect("plain data with text keys");
    json.push(b'\n');
    json
}

/// Reads a JSON file of ours, its format first; `None` where there is none.
pub(super) fn read_json<T: DeserializeOwned>(store: &Store, path: &str) -> Result<Option<T>> {
    store.read(path)?.map(|bytes| parse_versioned(path, &bytes)).transpose()
}

/// Reads JSON of ours, its format first.
pub fn parse_versioned<T: DeserializeOwned>(path: &str, bytes: &[u8]) -> Result<T> {
    /// The one field every version has.
    #[derive(Deserialize)]
    struct Header {
        format: u32,
    }
    let corrupt = |cause: serde_json::Error| Error::Corrupt {
        path: path.to_owned(),
        reason: cause.to_string(),
    };
    let found = serde_json::from_slice::<Header>(bytes).map_err(corrupt)?.format;
    if found != super::FORMAT {
        return Err(Error::OtherFormat { path: path.to_owned(), found, known: super::FORMAT });
    }
    serde_json::from_slice(bytes).map_err(corrupt)
}

/// Numbers that JSON cannot say become `null`, and `null` becomes NaN.
pub(super) mod numbers {
    use std::collections::BTreeMap;

    use serde::{Deserialize, Deserializer, Serializer};

    pub fn serialize<S: Serializer>(
        numbers: &BTreeMap<String, f64>,
        serializer: S,
    ) -> Result<S::Ok, S::Error> {
        serializer.collect_map(numbers)
    }

    pub fn deserialize<'de, D: Deserializer<'de>>(
        deserializer: D,
    ) -> Result<BTreeMap<String, f64>, D::Error> {
        let numbers = BTreeMap::<String, Option<f64>>::deserialize(deserializer)?;
        Ok(numbers.into_iter().map(|(name, number)| (name, number.unwrap_or(f64::NAN))).collect())
    }
}

#[cfg(test)]
pub(super) mod tests {
    #![expect(clippy::unwrap_used, reason = "a test may panic")]
    use super::super::faults::{Fault, faulty_store};
    use super::*;

    /// A receipt with nothing in it.
    pub fn receipt(key: &str, attempt: &str) -> Receipt {
        Receipt {
            format: crate::dataset::FORMAT,
            key: key.into(),
            stage: "decode".into(),
            attempt: attempt.into(),
            fields: Fields::default(),
            files: vec![],
            inputs: vec![],
            videos: vec![],
            rejects: vec![],
            stats: BTreeMap::new(),
            made: Made::default(),
        }
    }

    /// A task that is done: its file, and its receipt.
    pub fn made(store: &Store, stage: &str, key: &str, attempt: &str) -> Arc<Receipt> {
        let path = format!("{}/out", data_folder(stage, key, attempt));
        let bytes = format!("{key} by {attempt}");
        store.create(&path, bytes.as_bytes()).unwrap();
        let blake3 = blake3::hash(bytes.as_bytes()).to_hex().to_string();
        let files = vec![FileInfo { path, bytes: bytes.len() as u64, rows: 2, blake3 }];
        let receipt = Receipt {
            files,
            stats: BTreeMap::from([("frames".into(), 2.0)]),
            ..receipt(key, attempt)
        };
        file_receipt(store, stage, &receipt).unwrap();
        Arc::new(receipt)
    }

    fn workspace() -> (tempfile::TempDir, Store) {
        let folder = tempfile::tempdir().unwrap();
        let store = Store::open(folder.path().to_str().unwrap()).unwrap();
        (folder, store)
    }

    #[test]
    fn of_many_attempts_one_receipt_counts_and_only_its_data_stay() {
        let (_folder, local) = workspace();
        for store in [local, faulty_store(&[])] {
            let attempt = |i: usize| {
                let receipt = receipt("key", &format!("attempt{i}"));
                store
                    .create(
                        &format!("{}/x", data_folder("frames", "key", &receipt.attempt)),
                        b"data",
                    )
                    .unwrap();
                file_receipt(&store, "frames", &receipt).unwrap()
            };
            let filed = std::thread::scope(|scope| {
                let threads: Vec<_> = (0..32).map(|i| scope.spawn(move || attempt(i))).collect();
                threads.into_iter().map(|thread| thread.join().unwrap()).collect::<Vec<_>>()
            });
            assert_eq!(filed.iter().filter(|filed| **filed == Filed::Won).count(), 1);
            let winner = read_receipt(&store, "frames", "key").unwrap().unwrap();
            let data = store.list("frames/data").unwrap();
            assert_eq!(data, [format!("frames/data/key/{}/x", winner.attempt)]);
        }
    }

    #[test]
    fn an_attempt_whose_reply_got_lost_has_won() {
        let store = faulty_store(&[Fault::LostReply]);
        assert_eq!(file_receipt(&store, "frames", &receipt("key", "a")).unwrap(), Filed::Won);
        let Filed::Lost(theirs) = file_receipt(&store, "frames", &receipt("key", "b")).unwrap()
        else {
            panic!()
        };
        assert_eq!(theirs.attempt, "a");
    }

    #[test]
    fn a_crash_before_the_receipt_leaves_the_task_to_be_done() {
        let store = faulty_store(&[]);
        store.create(&format!("{}/x", data_folder("frames", "key", "crashed")), b"data").unwrap();
        assert_eq!(read_receipt(&store, "frames", "key").unwrap(), None);
        assert_eq!(file_receipt(&store, "frames", &receipt("key", "second")).unwrap(), Filed::Won);
    }

    #[test]
    fn receipts_come_back_as_they_were_and_numbers_json_cannot_say_as_nan() {
        let (_folder, store) = workspace();
        let mut written = receipt("key", "a");
        written.fields = serde_json::Map::from_iter([("size".to_owned(), 64.into())]).into();
        written.stats.insert("seconds".into(), 1.5);
        file_receipt(&store, "frames", &written).unwrap();
        assert_eq!(read_receipt(&store, "frames", "key").unwrap().unwrap(), written);
        written.key = "diverged".into();
        written.stats.insert("loss".into(), f64::INFINITY);
        file_receipt(&store, "frames", &written).unwrap();
        assert!(
            read_receipt(&store, "frames", "diverged").unwrap().unwrap().stats["loss"].is_nan()
        );
    }

    #[test]
    fn a_newer_format_is_said_before_its_unknown_fields_are() {
        let (_folder, store) = workspace();
        store.create("frames/receipts/k.json", br#"{"format": 7, "shiny": true}"#).unwrap();
        let error = read_receipt(&store, "frames", "k").unwrap_err();
        assert!(matches!(error, Error::OtherFormat { found: 7, .. }), "{error}");
        store.create("frames/receipts/l.json", br#"{"format": 2, "shiny": true}"#).unwrap();
        let error = read_receipt(&store, "frames", "l").unwrap_err();
        assert!(
            error.to_string().contains("frames/receipts/l.json")
                && error.to_string().contains("shiny"),
            "{error}"
        );
    }
}
