//! Manifests: the versions of a stage's dataset. Start at [`Manifest::newest`].
//!
//! A manifest holds totals and settings, and lists the packs of receipts.
//! [`commit`](super::commit()) creates it once, under its version number, so that a version never
//! changes.

use std::collections::BTreeMap;
use std::sync::Arc;

use serde::{Deserialize, Serialize};
use serde_json::{Map, Value};

use super::error::{Error, Result};
use super::joined::JoinedTable;
use super::pack::Pack;
use super::paths::{FileInfo, is_name};
use super::receipt::{Receipt, Reject, VideoRecord, read_json};
use super::store::Store;
use super::table::table_name;

/// One version of a stage's dataset.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Manifest {
    /// The version of this file's format: [`super::FORMAT`].
    pub format: u32,
    /// The version number: 1, 2, 3 and so on. It is also the file's name.
    pub version: u64,
    /// The previous version, if there is one.
    pub parent: Option<u64>,
    /// The time of the commit, in milliseconds since 1970.
    pub committed_unix_ms: u64,
    /// The run that committed it. `runs/<run>.json` is its record.
    pub run: String,
    /// The pipeline's name.
    pub pipeline: String,
    /// The stage's kind, such as `decode`.
    pub kind: String,
    /// The reason for the version, such as new videos.
    pub why: String,
    /// The settings of its tasks.
    pub settings: Map<String, Value>,
    /// The size of the version.
    pub totals: Totals,
    /// The changes since the previous version.
    pub changes: Changes,
    /// The packs of receipts, in the dataset's order.
    pub packs: Vec<Pack>,
    /// The joined tables; each repeats the rows of many tasks in one file.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub joined: Vec<JoinedTable>,
}

/// The size of a version: sums over its tasks.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Totals {
    /// The number of tasks.
    pub tasks: u64,
    /// The number of the tasks' files.
    pub files: u64,
    /// The total size of these files, in bytes.
    pub bytes: u64,
    /// The rows of the stage's own table.
    pub rows: u64,
    /// The number of decoded videos.
    pub videos: u64,
    /// The number of videos with a fault, unreadable as a whole or in part.
    pub rejects: u64,
    /// Sums of the tasks' counts: `frames`, `transitions` and others.
    pub counts: BTreeMap<String, u64>,
    /// Totals of shards and tables by sort: `shard.arrow`, `labels.parquet`.
    pub tables: BTreeMap<String, TableTotals>,
}

/// The size of all files of one sort.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct TableTotals {
    /// The number of files.
    pub files: u64,
    /// The number of rows.
    pub rows: u64,
}

/// The difference between a version and the previous one.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Changes {
    /// The number of tasks new in this version.
    pub tasks_added: u64,
    /// The number of tasks only in the previous version.
    pub tasks_dropped: u64,
}

/// The entries of a receipt's `stats` to sum up. The others are measurements.
const COUNTS: [&str; 10] = [
    "videos",
    "frames",
    "episodes",
    "transitions",
    "copies",
    "actions",
    "unused",
    "env_steps",
    "tasks_on_cuda",
    "tasks_on_vulkan",
];

impl Totals {
    /// Adds one task.
    pub fn add(&mut self, receipt: &Receipt) {
        self.combine(receipt, u64::saturating_add);
    }

    /// Subtracts one task.
    pub fn remove(&mut self, receipt: &Receipt) {
        self.combine(receipt, u64::saturating_sub);
    }

    fn combine(&mut self, receipt: &Receipt, with: fn(u64, u64) -> u64) {
        let bytes = receipt.files.iter().map(|file| file.bytes).sum();
        let numbers = [
            (&mut self.tasks, 1),
            (&mut self.files, receipt.files.len() as u64),
            (&mut self.bytes, bytes),
            (&mut self.rows, receipt.rows()),
            (&mut self.videos, receipt.videos.len() as u64),
            (&mut self.rejects, receipt.rejects.len() as u64),
        ];
        for (total, number) in numbers {
            *total = with(*total, number);
        }
        for name in COUNTS {
            if let Some(value) = receipt.stats.get(name) {
                let total = self.counts.entry(name.to_owned()).or_default();
                *total = with(*total, *value as u64);
            }
        }
        // Totals after `remove` equal totals without the task: an entry of zero would differ.
        self.counts.retain(|_, count| *count > 0);
        for file in &receipt.files {
            let Some(sort) = table_name(&file.path) else { continue };
            let table = self.tables.entry(sort).or_default();
            table.files = with(table.files, 1);
            table.rows = with(table.rows, file.rows);
        }
        self.tables.retain(|_, table| table.files > 0);
    }

    /// Returns the number of label tasks by class of device, if several classes computed them.
    #[must_use]
    pub fn mixed_devices(&self) -> Option<Vec<(&'static str, u64)>> {
        let tasks_on = |count| self.counts.get(count).copied().unwrap_or_default();
        let [cuda, vulkan] = ["tasks_on_cuda", "tasks_on_vulkan"].map(tasks_on);
        let cpu = self.tasks.saturating_sub(cuda + vulkan);
        let used: Vec<_> = [("cpu", cpu), ("cuda", cuda), ("vulkan", vulkan)]
            .into_iter()
            .filter(|(_, tasks)| *tasks > 0)
            .collect();
        (used.len() > 1).then_some(used)
    }

    /// Returns the totals of the receipts.
    pub fn of<'a>(receipts: impl IntoIterator<Item = &'a Arc<Receipt>>) -> Self {
        let mut totals = Self::default();
        for receipt in receipts {
            totals.add(receipt);
        }
        totals
    }
}

impl Manifest {
    /// Returns the newest version of a stage's dataset, if it has one.
    pub fn newest(store: &Store, stage: &str) -> Result<Option<Self>> {
        // A collector may delete the listed version meanwhile. It never deletes the newest, so a new
        // listing has a newer one.
        for _ in 0..8 {
            let Some(newest) = versions(store, stage)?.pop() else { return Ok(None) };
            if let Some(found) = Self::read(store, stage, newest)? {
                return Ok(Some(found));
            }
        }
        Err(Error::Missing { path: format!("{stage}/manifests") })
    }

    /// Returns one version of a stage's dataset, if it exists.
    ///
    /// # Errors
    /// Fails if the version in the file differs from its name, because the file was copied by
    /// hand.
    pub fn read(store: &Store, stage: &str, version: u64) -> Result<Option<Self>> {
        let path = manifest_path(stage, version);
        match read_json::<Self>(store, &path)? {
            Some(found) if found.version != version => {
                let reason = format!(
                    "it holds version {}, but its name is of version {version}",
                    found.version
                );
                Err(Error::Misnamed { path, reason })
            }
            found => Ok(found),
        }
    }

    /// Returns the receipts, in the dataset's order.
    pub fn receipts(&self, store: &Store) -> Result<Vec<Arc<Receipt>>> {
        let packs =
            self.packs.iter().map(|pack| pack.receipts(store)).collect::<Result<Vec<_>>>()?;
        Ok(packs.into_iter().flatten().collect())
    }

    /// Returns every task's key and attempt, in the dataset's order.
    pub fn entries(&self, store: &Store) -> Result<Vec<(String, String)>> {
        let packs = self
            .packs
            .iter()
            .map(|pack| Ok(pack.kept(pack.entries(store)?)))
            .collect::<Result<Vec<_>>>()?;
        Ok(packs.into_iter().flatten().collect())
    }

    /// Returns the sort of the stage's own Parquet table, the first by name. A stage with shards
    /// has none.
    #[must_use]
    pub fn own_table(&self) -> Option<&str> {
        let sorts = &self.totals.tables;
        sorts.keys().next().map(String::as_str).filter(|_| !sorts.contains_key("shard.arrow"))
    }

    /// Returns the files with all rows of one sort of table, such as `labels.parquet`. They are the
    /// joined tables, and the own files of all other tasks, so each row appears once.
    ///
    /// # Errors
    /// Fails if a pack cannot be read, or if two joined tables list the same task or one lists an
    /// unknown task.
    pub fn tables(&self, store: &Store, sort: &str) -> Result<Vec<FileInfo>> {
        let mut is_joined = vec![false; self.packs.iter().map(Pack::tasks).sum()];
        // Each file with the index of its first task, to sort by.
        let mut files = Vec::new();
        for joined in self.joined.iter().filter(|joined| joined.sort().as_deref() == Some(sort)) {
            for task in joined.places() {
                let slot = is_joined.get_mut(task).filter(|is_joined| !**is_joined);
                *slot.ok_or_else(|| self.bad_join(joined, task))? = true;
            }
            files.push((joined.places().next(), joined.file.clone()));
        }
        // If every task is joined, no pack is read at all.
        if is_joined.iter().any(|is_joined| !is_joined) {
            let packs =
                self.packs.iter().map(|pack| pack.files(store)).collect::<Result<Vec<_>>>()?;
            for (task, own_files) in packs.into_iter().flatten().enumerate() {
                if !is_joined[task] {
                    let tables = own_files
                        .into_iter()
                        .filter(|file| table_name(&file.path).as_deref() == Some(sort));
                    files.extend(tables.map(|file| (Some(task), file)));
                }
            }
        }
        files.sort_by_key(|(task, _)| *task);
        Ok(files.into_iter().map(|(_, file)| file).collect())
    }

    /// Returns, for each joined table, whether its file exists with the recorded size.
    pub(super) fn intact_tables(&self, store: &Store, stage: &str) -> Result<Vec<bool>> {
        if self.joined.is_empty() {
            return Ok(vec![]);
        }
        let sizes = store.sizes(&format!("{stage}/tables"))?;
        let is_intact =
            |joined: &JoinedTable| sizes.get(&joined.file.path) == Some(&joined.file.bytes);
        Ok(self.joined.iter().map(is_intact).collect())
    }

    /// Returns the paths of the version's joined tables with a missing file or another size.
    pub fn damaged_tables(&self, store: &Store, stage: &str) -> Result<Vec<String>> {
        let intact = self.intact_tables(store, stage)?;
        let damaged = self.joined.iter().zip(intact).filter(|(_, is_intact)| !is_intact);
        Ok(damaged.map(|(joined, _)| joined.file.path.clone()).collect())
    }

    /// Creates the error for a joined table with an unknown task, or one in another joined table.
    fn bad_join(&self, joined: &JoinedTable, task: usize) -> Error {
        let reason = format!(
            "version {} lists it for task {task}, but this task is missing or in another file, too",
            self.version
        );
        Error::Corrupt { path: joined.file.path.clone(), reason }
    }

    /// Returns the tasks' own files, in the dataset's order.
    pub fn files(&self, store: &Store) -> Result<Vec<FileInfo>> {
        let packs = self.packs.iter().map(|pack| pack.files(store)).collect::<Result<Vec<_>>>()?;
        Ok(packs.into_iter().flatten().flatten().collect())
    }

    /// Returns the decoded videos.
    pub fn videos(&self, store: &Store) -> Result<Vec<VideoRecord>> {
        let packs = self.packs.iter().map(|pack| pack.videos(store)).collect::<Result<Vec<_>>>()?;
        Ok(packs.into_iter().flatten().flatten().collect())
    }

    /// Returns the rejects: videos with a fault, unreadable as a whole or in part.
    pub fn rejects(&self, store: &Store) -> Result<Vec<Reject>> {
        let packs =
            self.packs.iter().map(|pack| pack.rejects(store)).collect::<Result<Vec<_>>>()?;
        Ok(packs.into_iter().flatten().flatten().collect())
    }
}

/// Returns the numbers of a stage's existing versions, ascending.
pub fn versions(store: &Store, stage: &str) -> Result<Vec<u64>> {
    let paths = store.list(&format!("{stage}/manifests"))?;
    Ok(paths
        .iter()
        .filter_map(|path| path.rsplit('/').next()?.strip_suffix(".json")?.parse().ok())
        .collect())
}

/// Returns the newest version of every stage with a dataset. A damaged manifest gives the stage's
/// error, so that one damaged stage does not hide the others.
///
/// # Errors
/// Fails if the workspace cannot be read.
pub fn stages(store: &Store) -> Result<Vec<(String, Result<Manifest>)>> {
    let is_damage = |error: &Error| {
        matches!(error, Error::Corrupt { .. } | Error::Misnamed { .. } | Error::OtherFormat { .. })
    };
    let mut stages = Vec::new();
    for stage in stage_names(store)? {
        match Manifest::newest(store, &stage) {
            Ok(newest) => stages.extend(newest.map(|newest| (stage, Ok(newest)))),
            Err(error) if is_damage(&error) => stages.push((stage, Err(error))),
            Err(error) => return Err(error),
        }
    }
    Ok(stages)
}

/// Returns the names of the workspace's folders, except lapo's own.
pub(super) fn stage_names(store: &Store) -> Result<Vec<String>> {
    let mut names = store.folders("")?;
    names.retain(|name| {
        is_name(name) && !["pins", "plans", "runs", "probes"].contains(&name.as_str())
    });
    Ok(names)
}

/// Returns the path of a version's manifest. The number is zero-padded, so that names sort by
/// version.
#[must_use]
pub fn manifest_path(stage: &str, version: u64) -> String {
    format!("{stage}/manifests/{version:010}.json")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn totals_tell_datasets_of_several_devices_apart() {
        let on = |tasks, counts: &[(&str, u64)]| {
            let counts = counts.iter().map(|(name, count)| ((*name).to_owned(), *count)).collect();
            Totals { tasks, counts, ..Totals::default() }.mixed_devices()
        };
        assert_eq!(on(3, &[]), None);
        assert_eq!(on(3, &[("tasks_on_cuda", 3)]), None);
        assert_eq!(on(3, &[("tasks_on_cuda", 2)]), Some(vec![("cpu", 1), ("cuda", 2)]));
        let gpus = [("tasks_on_cuda", 2), ("tasks_on_vulkan", 1)];
        assert_eq!(on(3, &gpus), Some(vec![("cuda", 2), ("vulkan", 1)]));
    }
}
