//! Actions of the Delta protocol: the lines of a log entry, written and parsed. Start at [`Action`]
//! and [`info`].

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};
use serde_json::Value;

use super::{DeltaTable, TableVersion};
use crate::dataset::error::{Error, Result};
use crate::dataset::new_file::FileInfo;

/// One line of a log entry.
#[derive(Debug, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub(super) enum Action {
    CommitInfo(CommitInfo),
    Protocol(Protocol),
    MetaData(MetaData),
    Remove(Remove),
    Add(Add),
}

/// The commit's time, run and reason.
#[derive(Debug, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub(super) struct CommitInfo {
    /// The commit's time, in milliseconds since 1970.
    pub timestamp: u64,
    operation: String,
    operation_parameters: BTreeMap<String, String>,
    engine_info: String,
    /// lapo's own note, ignored by other readers. An entry without it comes from another program.
    pub lapo: Marker,
}

/// lapo's note of the state after an entry.
#[derive(Debug, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub(super) struct Marker {
    /// The version of the stage in the log after this entry; 0 for none.
    pub holds: u64,
    /// The table's metadata after this entry.
    pub metadata: MetaData,
}

/// The protocol versions required for reading and writing the table.
#[derive(Debug, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub(super) struct Protocol {
    pub min_reader_version: i32,
    pub min_writer_version: i32,
}

/// The table's id, name and schema.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub(super) struct MetaData {
    pub id: String,
    pub name: String,
    pub format: Format,
    pub schema_string: String,
    pub partition_columns: Vec<String>,
    pub configuration: BTreeMap<String, String>,
    pub created_time: u64,
}

/// The format of data files.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub(super) struct Format {
    pub provider: String,
    pub options: BTreeMap<String, String>,
}

/// A file added to the table.
#[derive(Debug, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub(super) struct Add {
    pub path: String,
    partition_values: BTreeMap<String, String>,
    pub size: u64,
    modification_time: u64,
    data_change: bool,
    pub stats: String,
}

/// A file removed from the table.
#[derive(Debug, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub(super) struct Remove {
    path: String,
    deletion_timestamp: u64,
    data_change: bool,
}

impl CommitInfo {
    pub fn new(version: &TableVersion, lapo: Marker) -> Self {
        let parameters =
            [("run", &version.run), ("pipeline", &version.pipeline), ("why", &version.why)];
        CommitInfo {
            timestamp: version.committed_unix_ms,
            operation: "WRITE".to_owned(),
            operation_parameters: parameters
                .map(|(name, value)| (name.to_owned(), value.clone()))
                .into(),
            engine_info: concat!("lapo/", env!("CARGO_PKG_VERSION")).to_owned(),
            lapo,
        }
    }
}

impl Default for Protocol {
    /// Version 1 for readers and 2 for writers: no table features.
    fn default() -> Self {
        Protocol { min_reader_version: 1, min_writer_version: 2 }
    }
}

impl MetaData {
    pub fn new(table: DeltaTable<'_>, schema_string: String, created_time: u64) -> Self {
        MetaData {
            id: table_id(table),
            name: table.stage.to_owned(),
            format: Format { provider: "parquet".to_owned(), options: BTreeMap::new() },
            schema_string,
            partition_columns: vec![],
            configuration: BTreeMap::new(),
            created_time,
        }
    }
}

impl Add {
    pub fn new(stage: &str, file: &FileInfo, modification_time: u64) -> Result<Self> {
        Ok(Add {
            path: relative(stage, file)?,
            partition_values: BTreeMap::new(),
            size: file.bytes,
            modification_time,
            data_change: true,
            stats: stats(file.rows),
        })
    }

    /// Returns the file as in a receipt, except for the digest: the log has none.
    pub fn file(&self, stage: &str, entry: &str) -> Result<FileInfo> {
        file(stage, entry, &self.path, self.size, &self.stats)
    }
}

impl Remove {
    pub fn new(stage: &str, file: &FileInfo, deletion_timestamp: u64) -> Result<Self> {
        Ok(Remove { path: relative(stage, file)?, deletion_timestamp, data_change: true })
    }

    /// Returns the file's path in the workspace.
    pub fn file_path(&self, stage: &str, entry: &str) -> Result<String> {
        Ok(format!("{stage}/{}", decode(entry, &self.path)?))
    }
}

/// Returns the statistics of a file, in the protocol's form.
pub(super) fn stats(rows: u64) -> String {
    format!("{{\"numRecords\":{rows}}}")
}

/// Returns a file listed in the log entry `entry`.
pub(super) fn file(
    stage: &str,
    entry: &str,
    path: &str,
    bytes: u64,
    stats: &str,
) -> Result<FileInfo> {
    let rows =
        serde_json::from_str::<Value>(stats).ok().and_then(|stats| stats["numRecords"].as_u64());
    let rows = rows.ok_or_else(|| {
        corrupt(entry, format!("`stats` of `{path}` is {stats}, expected {{\"numRecords\":..}}"))
    })?;
    Ok(FileInfo {
        path: format!("{stage}/{}", decode(entry, path)?),
        bytes,
        rows,
        blake3: String::new(),
    })
}

/// Parses the actions of an entry.
pub(super) fn parse(path: &str, bytes: &[u8]) -> Result<Vec<Action>> {
    let lines = bytes.split(|byte| *byte == b'\n').filter(|line| !line.is_empty());
    lines.map(|line| serde_json::from_slice(line).map_err(|cause| corrupt(path, cause))).collect()
}

/// Parses lapo's note in an entry. Fails with [`Error::ForeignLog`] if there is none.
pub(super) fn info(path: &str, bytes: &[u8]) -> Result<CommitInfo> {
    let first = bytes.split(|byte| *byte == b'\n').next().unwrap_or_default();
    match serde_json::from_slice(first) {
        Ok(Action::CommitInfo(info)) => Ok(info),
        _ => Err(Error::ForeignLog { path: path.to_owned() }),
    }
}

/// Returns the table's id, a UUID derived from the workspace's id and the stage's name alone.
fn table_id(table: DeltaTable<'_>) -> String {
    let digest = blake3::hash(format!("{}\n{}", table.workspace, table.stage).as_bytes());
    let mut id = [0; 16];
    id.copy_from_slice(&digest.as_bytes()[..16]);
    // RFC 9562: version 8 (custom), variant 10.
    id[6] = id[6] & 0x0f | 0x80;
    id[8] = id[8] & 0x3f | 0x80;
    let hex: String = id.iter().map(|byte| format!("{byte:02x}")).collect();
    format!("{}-{}-{}-{}-{}", &hex[..8], &hex[8..12], &hex[12..16], &hex[16..20], &hex[20..])
}

/// Returns a file's path in the log: relative to the stage's folder, URL-encoded.
pub(super) fn relative(stage: &str, file: &FileInfo) -> Result<String> {
    let inside = file.path.strip_prefix(stage).and_then(|path| path.strip_prefix('/'));
    let inside = inside.ok_or_else(|| {
        corrupt(&file.path, format!("expected a file in the folder of its stage `{stage}`"))
    })?;
    let mut encoded = String::with_capacity(inside.len());
    for &byte in inside.as_bytes() {
        match byte {
            b'A'..=b'Z' | b'a'..=b'z' | b'0'..=b'9' | b'-' | b'_' | b'.' | b'~' | b'/' => {
                encoded.push(char::from(byte))
            }
            _ => encoded.push_str(&format!("%{byte:02X}")),
        }
    }
    Ok(encoded)
}

/// Decodes a URL-encoded path.
fn decode(entry: &str, encoded: &str) -> Result<String> {
    let mut bytes = Vec::with_capacity(encoded.len());
    let mut rest = encoded.as_bytes();
    while let [byte, tail @ ..] = rest {
        rest = tail;
        if *byte != b'%' {
            bytes.push(*byte);
            continue;
        }
        let hex = tail
            .get(..2)
            .and_then(|hex| std::str::from_utf8(hex).ok())
            .and_then(|hex| u8::from_str_radix(hex, 16).ok());
        bytes.push(
            hex.ok_or_else(|| corrupt(entry, format!("the path `{encoded}` is not URL-encoded")))?,
        );
        rest = &tail[2..];
    }
    String::from_utf8(bytes)
        .map_err(|_| corrupt(entry, format!("the path `{encoded}` is not UTF-8")))
}

fn corrupt(path: &str, reason: impl std::fmt::Display) -> Error {
    Error::Corrupt { path: path.to_owned(), reason: reason.to_string() }
}

#[cfg(test)]
mod tests {
    #![expect(clippy::unwrap_used, reason = "a test may panic")]
    use super::*;

    #[test]
    fn paths_are_relative_and_encoded_and_survive_a_round_trip() {
        for (path, encoded) in [
            ("labels/data/k/a/labels.parquet", "data/k/a/labels.parquet"),
            ("labels/a b%/c=d?#.parquet", "a%20b%25/c%3Dd%3F%23.parquet"),
            ("labels/ä.parquet", "%C3%A4.parquet"),
        ] {
            let file = FileInfo { path: path.into(), bytes: 7, rows: 3, blake3: String::new() };
            let add = Add::new("labels", &file, 1).unwrap();
            assert_eq!(add.path, encoded);
            assert_eq!(add.file("labels", "entry").unwrap(), file);
        }
        for path in ["labels2/a.parquet", "frames/a.parquet", "labels"] {
            let file = FileInfo { path: path.into(), bytes: 7, rows: 3, blake3: String::new() };
            assert!(
                Add::new("labels", &file, 1).unwrap_err().to_string().contains("stage `labels`")
            );
        }
        for encoded in ["a%2", "a%zz", "%ff"] {
            assert!(decode("entry", encoded).is_err(), "{encoded}");
        }
    }
}
