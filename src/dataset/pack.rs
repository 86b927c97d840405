//! Packs: Parquet files with the receipts of a version, one row per task.
//!
//! A pack never changes. A dataset of a million tasks takes a few packs, and a reader decodes only
//! the columns it needs.
//!
//! Columns: `key`, `attempt` and `stage` as in the receipt; `files`, `videos` and `rejects` as JSON
//! lists; `origin` holds the other fields as one JSON object.

use std::sync::Arc;

use rayon::prelude::*;
use serde::de::DeserializeOwned;
use serde::{Deserialize, Serialize};

use super::error::{Error, Result};
use super::key_fields::Fields;
use super::paths::FileInfo;
use super::receipt::{Provenance, Receipt, Reject, VideoRecord, numbers};
use super::store::Store;
use super::table::{Column, write_table};
use super::table_reader::{Table, read_columns};

/// The most receipts in one file.
pub(super) const MOST: usize = 1 << 15;

/// A file of receipts, as a manifest lists it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Pack {
    /// The Parquet file.
    pub file: FileInfo,
    /// The rows outside the dataset: tasks dropped since the file was written. Ascending.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub dropped: Vec<u32>,
}

/// The fields of a receipt without columns of their own.
#[derive(Serialize, Deserialize)]
struct Origin {
    fields: Fields,
    inputs: Vec<String>,
    #[serde(with = "numbers")]
    stats: std::collections::BTreeMap<String, f64>,
    made: Provenance,
}

/// The name and the number of frames of a video; other fields are skipped.
#[derive(Debug, Deserialize)]
pub(super) struct VideoFrames {
    pub uri: String,
    pub frames: u64,
}

/// Writes receipts into the new file `path`, in their order.
pub(super) fn write(store: &Store, path: &str, receipts: &[Arc<Receipt>]) -> Result<Pack> {
    let text = |value: &(dyn Fn(&Receipt) -> String + Sync)| {
        Column::Text(receipts.par_iter().map(|receipt| value(receipt)).collect())
    };
    let origin = |receipt: &Receipt| {
        let Receipt { fields, inputs, stats, made, .. } = receipt.clone();
        json(&Origin { fields, inputs, stats, made })
    };
    let columns = [
        ("key", text(&|receipt| receipt.key.clone())),
        ("attempt", text(&|receipt| receipt.attempt.clone())),
        ("stage", text(&|receipt| receipt.stage.clone())),
        ("files", text(&|receipt| json(&receipt.files))),
        ("videos", text(&|receipt| json(&receipt.videos))),
        ("rejects", text(&|receipt| json(&receipt.rejects))),
        ("origin", text(&origin)),
    ];
    Ok(Pack { file: write_table(store, path, &columns)?, dropped: vec![] })
}

fn json(value: &impl Serialize) -> String {
    serde_json::to_string(value).expect("plain data with text keys")
}

impl Pack {
    /// Returns the number of tasks, without dropped rows.
    #[must_use]
    pub fn tasks(&self) -> usize {
        (self.file.rows as usize).saturating_sub(self.dropped.len())
    }

    /// Returns the key and the attempt of every row, dropped ones included.
    pub(super) fn entries(&self, store: &Store) -> Result<Vec<(String, String)>> {
        let mut table = self.columns(store, &["key", "attempt"])?;
        let keys = self.take(&mut table, "key")?;
        let attempts = self.take(&mut table, "attempt")?;
        Ok(keys.into_iter().zip(attempts).collect())
    }

    /// Returns the receipts without dropped rows, in order.
    pub(super) fn receipts(&self, store: &Store) -> Result<Vec<Arc<Receipt>>> {
        let rows = self.all_receipts(store)?;
        Ok(self.kept(rows))
    }

    /// Returns the receipts of all rows, dropped ones included.
    pub(super) fn all_receipts(&self, store: &Store) -> Result<Vec<Arc<Receipt>>> {
        let mut table = self
            .columns(store, &["key", "attempt", "stage", "files", "videos", "rejects", "origin"])?;
        let keys = self.take(&mut table, "key")?;
        let attempts = self.take(&mut table, "attempt")?;
        let stages = self.take(&mut table, "stage")?;
        let files = self.take(&mut table, "files")?;
        let videos = self.take(&mut table, "videos")?;
        let rejects = self.take(&mut table, "rejects")?;
        let origins = self.take(&mut table, "origin")?;
        // Tasks of one stage have mostly equal fields. Sharing them saves memory.
        let like = origins
            .first()
            .map_or(Ok(Fields::default()), |origin| Ok(self.parse::<Origin>(origin)?.fields))?;
        let names = keys.into_par_iter().zip(attempts).zip(stages);
        let rows = names.zip(files).zip(videos).zip(rejects).zip(origins);
        rows.map(|((((((key, attempt), stage), files), videos), rejects), origin)| {
            let files: Vec<FileInfo> = self.parse(&files)?;
            let videos: Vec<VideoRecord> = self.parse(&videos)?;
            let rejects: Vec<Reject> = self.parse(&rejects)?;
            let Origin { fields, inputs, stats, made } = self.parse(&origin)?;
            let fields = fields.sharing(&like);
            Ok(Arc::new(Receipt {
                format: super::FORMAT,
                key,
                stage,
                attempt,
                fields,
                files,
                inputs,
                videos,
                rejects,
                stats,
                made,
            }))
        })
        .collect()
    }

    /// Returns the files of every task without dropped rows, in order.
    pub(super) fn files(&self, store: &Store) -> Result<Vec<Vec<FileInfo>>> {
        self.json_column(store, "files")
    }

    /// Returns the files of every task, dropped ones included.
    pub(super) fn files_of_all_rows(&self, store: &Store) -> Result<Vec<Vec<FileInfo>>> {
        let mut table = self.columns(store, &["files"])?;
        self.take(&mut table, "files")?.par_iter().map(|text| self.parse(text)).collect()
    }

    /// Returns the videos of every task without dropped rows, in order.
    pub(super) fn videos(&self, store: &Store) -> Result<Vec<Vec<VideoRecord>>> {
        self.json_column(store, "videos")
    }

    /// Returns the names and numbers of frames of every task's videos, dropped tasks included.
    pub(super) fn names(&self, store: &Store) -> Result<Vec<Vec<VideoFrames>>> {
        let mut table = self.columns(store, &["videos"])?;
        self.take(&mut table, "videos")?.par_iter().map(|text| self.parse(text)).collect()
    }

    /// Returns the rejects of every task without dropped rows, in order.
    pub(super) fn rejects(&self, store: &Store) -> Result<Vec<Vec<Reject>>> {
        self.json_column(store, "rejects")
    }

    fn json_column<T: DeserializeOwned + Send>(&self, store: &Store, name: &str) -> Result<Vec<T>> {
        let mut table = self.columns(store, &[name])?;
        let texts = self.kept(self.take(&mut table, name)?);
        texts.par_iter().map(|text| self.parse(text)).collect()
    }

    /// Removes the dropped rows.
    pub(super) fn kept<T>(&self, rows: Vec<T>) -> Vec<T> {
        // Both are ascending, so one pass suffices.
        let mut dropped = self.dropped.iter().peekable();
        let keep = |(row, value): (usize, T)| {
            let is_dropped = dropped.next_if(|next| **next as usize == row).is_some();
            (!is_dropped).then_some(value)
        };
        rows.into_iter().enumerate().filter_map(keep).collect()
    }

    fn columns(&self, store: &Store, names: &[&str]) -> Result<Table> {
        read_columns(store, &self.file.path, names)
    }

    fn take(&self, table: &mut Table, name: &str) -> Result<Vec<String>> {
        let rows = table
            .take_text(name)
            .ok_or_else(|| self.corrupt(format!("it has no text column `{name}`")))?;
        if rows.len() as u64 == self.file.rows {
            return Ok(rows);
        }
        let (found, expected) = (rows.len(), self.file.rows);
        Err(self.corrupt(format!("it has {found} rows, expected {expected} by the manifest")))
    }

    fn parse<T: DeserializeOwned>(&self, text: &str) -> Result<T> {
        serde_json::from_str(text).map_err(|cause| self.corrupt(cause.to_string()))
    }

    fn corrupt(&self, reason: String) -> Error {
        Error::Corrupt { path: self.file.path.clone(), reason }
    }
}

#[cfg(test)]
#[expect(clippy::unwrap_used, reason = "a test fails by panicking")]
mod tests {
    use super::super::faulty_store::faulty_store;
    use super::super::receipt::tests::receipt;
    use super::*;

    #[test]
    fn receipts_read_back_equal_and_without_dropped_rows() {
        let store = faulty_store(&[]);
        let mut all: Vec<Arc<Receipt>> =
            (0..5).map(|i| Arc::new(receipt(&format!("k{i}"), "a"))).collect();
        let second = Arc::make_mut(&mut all[1]);
        // Numbers that need all of their digits.
        second.fields =
            serde_json::Map::from_iter([("blank".to_owned(), 0.029999999329447746.into())]).into();
        second.stats.insert("loss".into(), 0.1 + 0.2);
        second.files.push(FileInfo {
            path: "s/data/k1/a/x".into(),
            bytes: 3,
            rows: 2,
            blake3: "b".into(),
        });
        let mut pack = write(&store, "s/packs/p.parquet", &all).unwrap();
        assert_eq!(pack.receipts(&store).unwrap(), all);
        pack.dropped = vec![0, 3];
        assert_eq!(
            pack.receipts(&store).unwrap(),
            [all[1].clone(), all[2].clone(), all[4].clone()]
        );
        assert_eq!(pack.files(&store).unwrap(), [all[1].files.clone(), vec![], vec![]]);
        // `entries` is the one that includes dropped rows.
        assert_eq!((pack.tasks(), pack.entries(&store).unwrap().len()), (3, 5));
    }
}
