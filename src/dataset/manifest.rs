//! Manifests: the versions of a stage's dataset.
//!
//! A manifest holds totals and settings, and lists the packs that hold the receipts. It is created once, under its number, so that a version
//! never changes. Start at [`head`]; [`commit`](super::commit()) creates versions.

use std::collections::BTreeMap;
use std::sync::Arc;

use serde::{Deserialize, Serialize};
use serde_json::{Map, Value};

use super::error::{Error, Result};
use super::joined::Joined;
use super::pack::Pack;
use super::pins;
use super::place::Created;
use super::place::FileInfo;
use super::place::is_name;
use super::receipt::{Receipt, Reject, VideoRecord, read_json};
use super::store::Store;
use super::table::table_sort;

/// One version of a stage's dataset.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Manifest {
    /// The version of this file's format: [`super::FORMAT`].
    pub format: u32,
    /// This version: 1, 2, 3 and so on; also the file's name.
    pub version: u64,
    /// The version before, if there is one.
    pub parent: Option<u64>,
    /// When it was committed, in milliseconds since 1970.
    pub committed_unix_ms: u64,
    /// The run that committed it: `runs/<run>.json` is its record.
    pub run: String,
    /// The pipeline.
    pub pipeline: String,
    /// The stage's kind, such as `decode`.
    pub kind: String,
    /// Why it was made.
    pub why: String,
    /// The settings of its tasks.
    pub settings: Map<String, Value>,
    /// How much it is.
    pub totals: Totals,
    /// What changed since the version before.
    pub changes: Changes,
    /// The receipts, in the dataset's order.
    pub packs: Vec<Pack>,
    /// Tables of many tasks in one file.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub joined: Vec<Joined>,
}

/// How much a version is.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Totals {
    /// Tasks.
    pub tasks: u64,
    /// Files.
    pub files: u64,
    /// What the files weigh.
    pub bytes: u64,
    /// Rows of the stage's own table.
    pub rows: u64,
    /// Videos that were read.
    pub videos: u64,
    /// Videos that could not be read, wholly or in part.
    pub rejects: u64,
    /// Sums of the tasks' counts: `frames`, `transitions`, ...
    pub counts: BTreeMap<String, u64>,
    /// Shards and tables, by sort: `shard.arrow`, `labels.parquet`.
    pub tables: BTreeMap<String, TableTotals>,
}

/// How much the files of one sort are.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct TableTotals {
    /// Files.
    pub files: u64,
    /// Rows.
    pub rows: u64,
}

/// Returns the sort of a shard or a table: its name without what numbers it, such as `labels.parquet`; none of other files.
#[must_use]
pub fn sort_of(path: &str) -> Option<String> {
    match table_sort(path) {
        Some(sort) => Some(format!("{sort}.parquet")),
        None => path.ends_with(".arrow").then(|| "shard.arrow".to_owned()),
    }
}

/// How a version differs from the one before.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Changes {
    /// Tasks that the version before did not have.
    pub tasks_added: u64,
    /// Tasks that only the version before had.
    pub tasks_dropped: u64,
}

/// Numbers of receipts that add up; the others are measures.
const COUNTS: [&str; 8] =
    ["videos", "frames", "episodes", "transitions", "copies", "actions", "unused", "env_steps"];

impl Totals {
    /// Adds what one task counts.
    pub fn add(&mut self, receipt: &Receipt) {
        self.combine(receipt, u64::saturating_add);
    }

    /// Takes away what one task counts.
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
        numbers.into_iter().for_each(|(total, number)| *total = with(*total, number));
        for name in COUNTS {
            if let Some(value) = receipt.stats.get(name) {
                let total = self.counts.entry(name.to_owned()).or_default();
                *total = with(*total, *value as u64);
            }
        }
        self.counts.retain(|_, count| *count > 0);
        for file in &receipt.files {
            let Some(sort) = sort_of(&file.path) else { continue };
            let table = self.tables.entry(sort).or_default();
            (table.files, table.rows) = (with(table.files, 1), with(table.rows, file.rows));
        }
        self.tables.retain(|_, table| table.files > 0);
    }

    /// Returns the totals of some receipts.
    pub fn of<'a>(receipts: impl IntoIterator<Item = &'a Arc<Receipt>>) -> Self {
        let mut totals = Self::default();
        receipts.into_iter().for_each(|receipt| totals.add(receipt));
        totals
    }
}

impl Manifest {
    /// Returns the receipts, in the dataset's order.
    pub fn receipts(&self, store: &Store) -> Result<Vec<Arc<Receipt>>> {
        let packs =
            self.packs.iter().map(|pack| pack.receipts(store)).collect::<Result<Vec<_>>>()?;
        Ok(packs.into_iter().flatten().collect())
    }

    /// Returns key and attempt of every task, in the dataset's order.
    pub fn entries(&self, store: &Store) -> Result<Vec<(String, String)>> {
        let packs = self
            .packs
            .iter()
            .map(|pack| Ok(pack.kept(pack.entries(store)?)))
            .collect::<Result<Vec<_>>>()?;
        Ok(packs.into_iter().flatten().collect())
    }

    /// Returns the sort of the stage's own table, if that is Parquet: the first by name. A stage that makes shards has none.
    #[must_use]
    pub fn own_table(&self) -> Option<&str> {
        let sorts = &self.totals.tables;
        sorts.keys().next().map(String::as_str).filter(|_| !sorts.contains_key("shard.arrow"))
    }

    /// Returns the files that hold all rows of one sort of table, such as `labels.parquet`, each row once: joined tables, and the files of
    /// tasks that are in none.
    ///
    /// # Errors
    /// Also where the manifest speaks of tasks that it does not have.
    pub fn tables(&self, store: &Store, sort: &str) -> Result<Vec<FileInfo>> {
        let mut is_joined = vec![false; self.packs.iter().map(Pack::tasks).sum()];
        let mut placed = Vec::new();
        for joined in self.joined.iter().filter(|joined| joined.sort().as_deref() == Some(sort)) {
            for place in joined.places() {
                let of_task = is_joined.get_mut(place).filter(|is_joined| !**is_joined);
                *of_task.ok_or_else(|| self.misplaced(joined, place))? = true;
            }
            placed.push((joined.places().next(), joined.file.clone()));
        }
        if is_joined.iter().any(|is_joined| !is_joined) {
            let packs =
                self.packs.iter().map(|pack| pack.files(store)).collect::<Result<Vec<_>>>()?;
            for (place, files) in
                packs.into_iter().flatten().enumerate().filter(|(place, _)| !is_joined[*place])
            {
                let files =
                    files.into_iter().filter(|file| sort_of(&file.path).as_deref() == Some(sort));
                placed.extend(files.map(|file| (Some(place), file)));
            }
        }
        placed.sort_by_key(|(place, _)| *place);
        Ok(placed.into_iter().map(|(_, file)| file).collect())
    }

    fn misplaced(&self, joined: &Joined, place: usize) -> Error {
        let reason = format!(
            "version {} lists it for task {place}, which it does not have or which another file holds",
            self.version
        );
        Error::Corrupt { path: joined.file.path.clone(), reason }
    }

    /// Returns the tasks' own files, in the dataset's order.
    pub fn files(&self, store: &Store) -> Result<Vec<FileInfo>> {
        let packs = self.packs.iter().map(|pack| pack.files(store)).collect::<Result<Vec<_>>>()?;
        Ok(packs.into_iter().flatten().flatten().collect())
    }

    /// Returns the videos that were read.
    pub fn videos(&self, store: &Store) -> Result<Vec<VideoRecord>> {
        let packs = self.packs.iter().map(|pack| pack.videos(store)).collect::<Result<Vec<_>>>()?;
        Ok(packs.into_iter().flatten().flatten().collect())
    }

    /// Returns the videos that could not be read, wholly or in part.
    pub fn rejects(&self, store: &Store) -> Result<Vec<Reject>> {
        let packs =
            self.packs.iter().map(|pack| pack.rejects(store)).collect::<Result<Vec<_>>>()?;
        Ok(packs.into_iter().flatten().flatten().collect())
    }
}

/// Returns the numbers of a stage's versions that there are, ascending.
pub fn versions(store: &Store, stage: &str) -> Result<Vec<u64>> {
    let paths = store.list(&format!("{stage}/manifests"))?;
    Ok(paths
        .iter()
        .filter_map(|path| path.rsplit('/').next()?.strip_suffix(".json")?.parse().ok())
        .collect())
}

/// Returns the newest version of a stage's dataset, if it has one.
pub fn head(store: &Store, stage: &str) -> Result<Option<Manifest>> {
    // A version that a collector deletes meanwhile is not the newest: what is listed again has a newer one.
    for _ in 0..8 {
        let Some(newest) = versions(store, stage)?.pop() else { return Ok(None) };
        if let Some(found) = at(store, stage, newest)? {
            return Ok(Some(found));
        }
    }
    Err(Error::Missing { path: format!("{stage}/manifests") })
}

/// Returns one version of a stage's dataset, if it exists.
///
/// # Errors
/// Where the number in the file is not that of its name: it was copied by hand.
pub fn at(store: &Store, stage: &str, version: u64) -> Result<Option<Manifest>> {
    let path = manifest_path(stage, version);
    match read_json::<Manifest>(store, &path)? {
        Some(found) if found.version != version => {
            let reason =
                format!("it says that it is version {}, its name says {version}", found.version);
            Err(Error::Misnamed { path, reason })
        }
        found => Ok(found),
    }
}

/// Returns the workspace's stages that have a dataset, each with its newest version, or the error of its damaged manifest: one damaged
/// stage must not hide the others.
///
/// # Errors
/// Fails if the workspace cannot be read.
pub fn stages(store: &Store) -> Result<Vec<(String, Result<Manifest>)>> {
    let is_damage = |error: &Error| {
        matches!(error, Error::Corrupt { .. } | Error::Misnamed { .. } | Error::OtherFormat { .. })
    };
    let mut stages = Vec::new();
    for stage in stage_names(store)? {
        match head(store, &stage) {
            Ok(newest) => stages.extend(newest.map(|newest| (stage, Ok(newest)))),
            Err(error) if is_damage(&error) => stages.push((stage, Err(error))),
            Err(error) => return Err(error),
        }
    }
    Ok(stages)
}

/// Returns the names of the workspace's folders that may be stages.
pub(super) fn stage_names(store: &Store) -> Result<Vec<String>> {
    let mut names = store.folders("")?;
    names.retain(|name| is_name(name) && !["pins", "runs", "probes"].contains(&name.as_str()));
    Ok(names)
}

/// Returns the path of a version's manifest: zero-padded, so that the order of names is the order of versions.
#[must_use]
pub fn manifest_path(stage: &str, version: u64) -> String {
    format!("{stage}/manifests/{version:010}.json")
}

/// Makes an older version the newest again: a new version of the same tasks.
///
/// # Errors
/// Where the version is not there.
pub fn rolled_back(
    store: &Store,
    stage: &str,
    to: u64,
    run: &str,
    now_unix_ms: u64,
) -> Result<Manifest> {
    // Held first, then looked at: no collector takes its packs and data while the new version is made.
    let _held = pins::reading(store, stage, to)?;
    let old =
        at(store, stage, to)?.ok_or_else(|| Error::Missing { path: manifest_path(stage, to) })?;
    loop {
        let newest = head(store, stage)?
            .ok_or_else(|| Error::Missing { path: format!("{stage}/manifests") })?;
        let next = Manifest {
            version: newest.version + 1,
            parent: Some(newest.version),
            committed_unix_ms: now_unix_ms,
            run: run.to_owned(),
            why: format!("rolled back to version {to}"),
            changes: Changes { tasks_added: old.totals.tasks, tasks_dropped: newest.totals.tasks },
            ..old.clone()
        };
        if store.create(&manifest_path(stage, next.version), &super::receipt::to_json(&next))?
            == Created::New
        {
            return Ok(next);
        }
    }
}
