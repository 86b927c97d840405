//! Receipts: the proof that a task is done, a JSON file with the task's result. Start at
//! [`file_receipt`].
//!
//! A receipt is created once. Two concurrent attempts at one task are harmless: the first receipt
//! counts, and the other attempt's data are deleted.

use std::collections::{BTreeMap, HashSet};
use std::sync::Arc;

use serde::de::DeserializeOwned;
use serde::{Deserialize, Serialize};

use super::error::{Error, Result};
use super::key_fields::Fields;
use super::listing::ListMetadata;
use super::paths::{Created, FileInfo};
use super::store::Store;

/// The result of a finished task: its files, and their origin.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Receipt {
    /// The version of this file's format: [`super::FORMAT`].
    pub format: u32,
    /// The task's key.
    pub key: String,
    /// The stage's kind, such as `decode`.
    pub stage: String,
    /// The attempt that won. It also names the folder of the data.
    pub attempt: String,
    /// The fields hashed into the key. A plan compares them to explain why a task is new.
    pub fields: Fields,
    /// The files of the result.
    pub files: Vec<FileInfo>,
    /// The digests of the inputs, in order.
    pub inputs: Vec<String>,
    /// The decoded videos.
    pub videos: Vec<VideoRecord>,
    /// The videos with a fault, unreadable as a whole or in part.
    pub rejects: Vec<Reject>,
    /// Counts and measurements, such as seconds spent. A number that is not finite is stored as
    /// `null` and read back as NaN.
    #[serde(with = "numbers")]
    pub stats: BTreeMap<String, f64>,
    /// The program and the machine of the attempt.
    pub made: Provenance,
}

/// The program, the machine and the time of an attempt. None of it is hashed into a key.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Provenance {
    /// The version of lapo.
    pub lapo: String,
    /// The git commit of the build.
    pub commit: String,
    /// The version of libav, if the build includes it.
    pub libav: Option<String>,
    /// The device: `cpu`, `cuda:0`, `vulkan:0`.
    pub device: String,
    /// The machine's host name.
    pub host: String,
    /// The time of completion, in seconds since 1970.
    pub finished_unix_secs: u64,
}

/// A decoded video.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct VideoRecord {
    /// The BLAKE3 digest of the video's bytes, its identity.
    pub digest: String,
    /// The path or address, as the user gave it.
    pub uri: String,
    /// The size in bytes.
    pub bytes: u64,
    /// The time of the last change in nanoseconds since 1970, or an etag. If it is unchanged, the
    /// digest is not computed again.
    pub modified: String,
    /// The video's offset in its archive, since two members may have one name; `None` outside
    /// archives.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub at: Option<u64>,
    /// The inode of the file or of its archive. A renamed file keeps its inode.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub inode: Option<u64>,
    /// The number of frames decoded from it.
    pub frames: u64,
    /// The number of episodes decoded from it.
    pub episodes: u64,
    /// The metadata from a list of videos.
    #[serde(default, skip_serializing_if = "ListMetadata::is_empty")]
    pub about: ListMetadata,
}

impl Receipt {
    /// Returns the task's rows in its stage's table. If the task made shards, only their frames
    /// count.
    #[must_use]
    pub fn rows(&self) -> u64 {
        let is_shard = |file: &&FileInfo| file.path.ends_with(".arrow");
        let shards = self.files.iter().any(|file| is_shard(&file));
        self.files.iter().filter(|file| !shards || is_shard(file)).map(|file| file.rows).sum()
    }
}

/// A video with a fault, unreadable as a whole or in part. It is a regular result of a task.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Reject {
    /// The path or address, as the user gave it.
    pub video: String,
    /// The BLAKE3 digest of the video's bytes.
    pub digest: String,
    /// The class of the fault, for counting.
    pub class: String,
    /// The message for people.
    pub reason: String,
    /// The number of good frames. They are kept.
    pub frames_kept: u64,
}

/// The outcome of [`file_receipt`].
#[derive(Debug, Clone, PartialEq)]
pub enum FilingOutcome {
    /// This attempt's receipt counts.
    Won,
    /// Another attempt's receipt counts, and this attempt's data were deleted.
    Lost(Box<Receipt>),
}

/// Returns the path of a task's receipt. `stage` is the stage's name.
#[must_use]
pub fn receipt_path(stage: &str, key: &str) -> String {
    format!("{stage}/receipts/{key}.json")
}

/// Returns the folder of one attempt's files.
#[must_use]
pub fn data_folder(stage: &str, key: &str, attempt: &str) -> String {
    format!("{stage}/data/{key}/{attempt}")
}

/// Files an attempt's receipt. If another attempt was first, deletes this attempt's data.
pub fn file_receipt(store: &Store, stage: &str, receipt: &Receipt) -> Result<FilingOutcome> {
    let path = receipt_path(stage, &receipt.key);
    if store.create(&path, &to_json(receipt))? == Created::New {
        return Ok(FilingOutcome::Won);
    }
    let theirs = read_receipt(store, stage, &receipt.key)?.ok_or(Error::Missing { path })?;
    // The same attempt filed it before, with other statistics.
    if theirs.attempt == receipt.attempt {
        return Ok(FilingOutcome::Won);
    }
    store.delete_all(&data_folder(stage, &receipt.key, &receipt.attempt))?;
    Ok(FilingOutcome::Lost(Box::new(theirs)))
}

/// Returns the receipt of a task, if it is done.
pub fn read_receipt(store: &Store, stage: &str, key: &str) -> Result<Option<Receipt>> {
    read_json(store, &receipt_path(stage, key))
}

/// Restores the own files of receipts, if they were deleted.
pub(super) fn recreate_missing_receipts<'a>(
    store: &Store,
    stage: &str,
    receipts: impl Iterator<Item = &'a Arc<Receipt>>,
) -> Result<()> {
    let mut lost: Vec<&Arc<Receipt>> = receipts.collect();
    // Many receipts: one listing is faster than a request for each.
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

/// Reads receipts by path. All must exist.
pub(super) fn read_receipts(store: &Store, paths: &[String]) -> Result<Vec<Receipt>> {
    read_many(store, paths)
}

/// Reads the receipts of tasks of one stage, in the order of `keys`. A task without a receipt gives
/// `None`.
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

/// Returns whether all of the tasks have a receipt.
pub fn are_filed(store: &Store, stage: &str, keys: &[String]) -> Result<bool> {
    // Many tasks: one listing instead of reading every receipt.
    if keys.len() > AT_ONCE {
        let filed: HashSet<String> =
            store.list(&format!("{stage}/receipts"))?.into_iter().collect();
        return Ok(keys.iter().all(|key| filed.contains(&receipt_path(stage, key))));
    }
    Ok(find_receipts(store, stage, keys)?.iter().all(Option::is_some))
}

/// The number of files read at once; their text is in memory together.
const AT_ONCE: usize = 256;

/// Reads JSON files. All must exist.
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

/// Encodes a value as indented JSON. Equal values give equal bytes.
pub(super) fn to_json(value: &impl Serialize) -> Vec<u8> {
    let mut json = serde_json::to_vec_pretty(value).expect("plain data with text keys");
    json.push(b'\n');
    json
}

/// Reads a JSON file of lapo after a check of its format. Returns `None` if the file does not
/// exist.
pub(super) fn read_json<T: DeserializeOwned>(store: &Store, path: &str) -> Result<Option<T>> {
    store.read(path)?.map(|bytes| parse_versioned(path, &bytes)).transpose()
}

/// Parses a JSON file of lapo after a check of its format.
pub fn parse_versioned<T: DeserializeOwned>(path: &str, bytes: &[u8]) -> Result<T> {
    /// The one field common to all versions.
    #[derive(Deserialize)]
    struct Header {
        format: u32,
    }
    let corrupt = |cause: serde_json::Error| Error::Corrupt {
        path: path.to_owned(),
        reason: cause.to_string(),
    };
    // The format first: a newer file must not be reported as damaged for its unknown fields.
    let found = serde_json::from_slice::<Header>(bytes).map_err(corrupt)?.format;
    if found != super::FORMAT {
        return Err(Error::OtherFormat { path: path.to_owned(), found, known: super::FORMAT });
    }
    serde_json::from_slice(bytes).map_err(corrupt)
}

/// Serialises maps of numbers. JSON has no NaN or infinity: they become `null`, and `null` becomes
/// NaN.
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
pub(super) mod tests;
