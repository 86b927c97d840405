//! Lists the tables of a workspace: its stages, with their files and rows. Start at
//! [`Catalog::read`].

use polars::prelude::LazyFrame;

use super::{Error, Result};
use crate::dataset::{self, FileInfo, Manifest, Store};

mod rows;

#[cfg(test)]
pub(super) use rows::scan_copies;
use rows::{frames, scan_parquet};

/// A table of a workspace.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Table {
    /// The name in SQL. SQL keywords need double quotes.
    pub name: String,
    /// The stage of the rows. `None` for `rejects` and `videos`, because they combine all stages.
    pub stage: Option<String>,
    pub(super) content: Content,
}

/// The source of a table's rows.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Content {
    /// The frames of the stage's shards, without their pixels.
    Frames,
    /// The rows of the stage's Parquet files with this prefix.
    Parquet(String),
    /// The rejects in the receipts.
    Rejects,
    /// The videos in the receipts.
    Videos,
}

/// A summary of one version of a dataset.
#[derive(serde::Serialize, Debug, Clone, Default, PartialEq, Eq)]
pub struct DatasetInfo {
    /// The stage's name.
    pub stage: String,
    /// The stage's kind, such as `decode`.
    pub kind: String,
    /// The version.
    pub version: u64,
    /// The commit time, in milliseconds since 1970.
    pub committed_unix_ms: u64,
    /// Number of tasks.
    pub receipts: u64,
    /// Number of rows.
    pub rows: u64,
    /// Size in bytes.
    pub bytes: u64,
    /// Number of distinct input videos.
    pub videos: u64,
    /// Number of rejected videos, wholly or in part.
    pub rejects: u64,
    /// Number of files.
    pub files: u64,
    /// The reason why its manifest cannot be read. All other fields but `stage` are then empty.
    pub damage: Option<String>,
}

/// Short names for the table of the only stage with such rows.
const SHORT_NAMES: [&str; 2] = ["frames", "labels"];

/// The stages of a workspace and their tables.
pub(super) struct Catalog {
    stages: Vec<Stage>,
    pub tables: Vec<Table>,
    /// Stages with a damaged newest manifest, with the error. Their tables are unknown.
    pub damaged: Vec<(String, String)>,
    /// Ambiguous short names, each with the possible stages.
    pub ambiguous: Vec<(String, Vec<String>)>,
}

/// A stage with its newest manifest.
struct Stage {
    name: String,
    manifest: Manifest,
}

impl Catalog {
    /// Reads the newest manifest of every stage.
    pub fn read(store: &Store) -> Result<Self> {
        dataset::workspace::require(store)?;
        let mut stages = Vec::new();
        let mut damaged = Vec::new();
        for (name, newest) in dataset::stages(store)? {
            match newest {
                Ok(manifest) => stages.push(Stage { name, manifest }),
                Err(error) => damaged.push((name, error.to_string())),
            }
        }
        if stages.is_empty() && damaged.is_empty() {
            return Err(Error::EmptyWorkspace);
        }
        let mut tables: Vec<Table> = stages.iter().flat_map(Stage::tables).collect();
        let mut ambiguous = Vec::new();
        // A damaged stage might have such rows too, so short names are ambiguous then.
        for short in SHORT_NAMES.into_iter().filter(|_| damaged.is_empty()) {
            let meant: Vec<Table> =
                tables.iter().filter(|table| table.is_called(short)).cloned().collect();
            match &meant[..] {
                // A stage with the short name hides it.
                _ if tables.iter().any(|table| table.name == short) => {}
                [] => {}
                [one] => tables.push(Table { name: short.to_owned(), ..one.clone() }),
                many => ambiguous.push((
                    short.to_owned(),
                    many.iter().map(|table| table.name.clone()).collect(),
                )),
            }
        }
        for (name, content) in [("rejects", Content::Rejects), ("videos", Content::Videos)] {
            if tables.iter().all(|table| table.name != name) {
                tables.push(Table { name: name.to_owned(), stage: None, content });
            }
        }
        Ok(Self { stages, tables, damaged, ambiguous })
    }

    /// Fails if a damaged stage may have the table `name`.
    pub fn check_damage(&self, store: &Store, name: &str) -> Result<()> {
        let name = name.to_lowercase();
        let is_short = SHORT_NAMES.contains(&name.as_str());
        // Further tables of a stage are called `<stage>_<sort>`.
        let may_have = |stage: &str| {
            is_short
                || name
                    .strip_prefix(stage)
                    .is_some_and(|rest| rest.is_empty() || rest.starts_with('_'))
        };
        self.fail_if_damaged(store, |stage| may_have(&stage.to_lowercase()))
    }

    /// Fails if a damaged stage satisfies `fits`, with the error of the first one.
    pub fn fail_if_damaged(&self, store: &Store, fits: impl Fn(&str) -> bool) -> Result<()> {
        let fitting = self.damaged.iter().filter(|(stage, _)| fits(stage));
        for (stage, _) in fitting {
            // Reading the manifest again returns the full error.
            Manifest::newest(store, stage)?;
        }
        Ok(())
    }

    /// Returns the rows of a table with these files.
    pub fn scan(&self, store: &Store, table: &Table, files: &[FileInfo]) -> Result<LazyFrame> {
        let rows = match &table.content {
            Content::Frames => frames(store, &paths(files))?,
            Content::Parquet(_) => scan_parquet(store, &paths(files))?,
            Content::Rejects => self.rejects(store)?,
            Content::Videos => self.videos(store)?,
        };
        rows.map_err(|cause| {
            let path = table.stage.clone().unwrap_or_default();
            dataset::Error::Corrupt { path, reason: cause.to_string() }.into()
        })
    }

    /// Returns the number of rows of a table, according to its manifest.
    pub fn rows(&self, store: &Store, table: &Table, version: Option<u64>) -> Result<Option<u64>> {
        let Some(sort) = table.sort() else {
            let totals = self.stages.iter().map(|stage| &stage.manifest.totals);
            let rows = if table.content == Content::Rejects {
                totals.map(|totals| totals.rejects).sum()
            } else {
                totals.map(|totals| totals.videos).sum()
            };
            return Ok(Some(rows));
        };
        let manifest = self.at(store, table, version)?;
        Ok(manifest
            .map(|manifest| manifest.totals.tables.get(&sort).map_or(0, |totals| totals.rows)))
    }

    /// Returns the files of a table, in the newest or in the given version.
    pub fn files(
        &self,
        store: &Store,
        table: &Table,
        version: Option<u64>,
    ) -> Result<Vec<FileInfo>> {
        let (Some(sort), Some(manifest)) = (table.sort(), self.at(store, table, version)?) else {
            return Ok(vec![]);
        };
        Ok(manifest.tables(store, &sort)?)
    }

    /// Returns the manifest of a table's stage, newest or in the given version.
    fn at(&self, store: &Store, table: &Table, version: Option<u64>) -> Result<Option<Manifest>> {
        let Some(stage) = table.stage.as_deref().and_then(|name| self.stage(name)) else {
            return Ok(None);
        };
        // The newest manifest is already in memory.
        match version.filter(|version| *version != stage.manifest.version) {
            None => Ok(Some(stage.manifest.clone())),
            Some(version) => match Manifest::read(store, &stage.name, version)? {
                Some(manifest) => Ok(Some(manifest)),
                None => Err(no_version(store, &stage.name, version)?),
            },
        }
    }

    /// Returns an undamaged stage by name.
    fn stage(&self, name: &str) -> Option<&Stage> {
        self.stages.iter().find(|stage| stage.name == name)
    }

    /// Returns the newest manifest of a stage.
    pub fn manifest(&self, stage: &str) -> Option<&Manifest> {
        self.stage(stage).map(|stage| &stage.manifest)
    }

    /// Summarises every stage's dataset, damaged ones included.
    pub fn datasets(&self) -> Vec<DatasetInfo> {
        let damaged = self.damaged.iter().map(|(stage, damage)| DatasetInfo {
            stage: stage.clone(),
            damage: Some(damage.clone()),
            ..DatasetInfo::default()
        });
        let mut all: Vec<DatasetInfo> =
            self.stages.iter().map(Stage::info).chain(damaged).collect();
        all.sort_by(|one, other| one.stage.cmp(&other.stage));
        all
    }
}

/// Returns the paths of files.
fn paths(files: &[FileInfo]) -> Vec<String> {
    files.iter().map(|file| file.path.clone()).collect()
}

/// Returns the error for an unknown version.
pub(super) fn no_version(store: &Store, stage: &str, version: u64) -> Result<Error> {
    let existing = dataset::versions(store, stage)?
        .iter()
        .map(ToString::to_string)
        .collect::<Vec<_>>()
        .join(", ");
    Ok(Error::NoVersion { stage: stage.to_owned(), version, there: existing })
}

impl Stage {
    /// Returns the stage's main table, and one table for every further sort of Parquet file.
    fn tables(&self) -> Vec<Table> {
        let sorts = || self.manifest.totals.tables.keys();
        let mut contents: Vec<Content> = sorts()
            .any(|sort| sort == "shard.arrow")
            .then_some(Content::Frames)
            .into_iter()
            .collect();
        contents.extend(
            sorts()
                .filter_map(|sort| sort.strip_suffix(".parquet"))
                .map(|sort| Content::Parquet(sort.to_owned())),
        );
        let name_of = |(place, content): (usize, Content)| {
            let name = match &content {
                // The first table has the stage's own name.
                Content::Parquet(sort) if place > 0 => format!("{}_{sort}", self.name),
                _ => self.name.clone(),
            };
            Table { name, stage: Some(self.name.clone()), content }
        };
        contents.into_iter().enumerate().map(name_of).collect()
    }

    /// Summarises the newest version.
    fn info(&self) -> DatasetInfo {
        let Manifest { version, committed_unix_ms, kind, totals, .. } = &self.manifest;
        DatasetInfo {
            stage: self.name.clone(),
            kind: kind.clone(),
            version: *version,
            committed_unix_ms: *committed_unix_ms,
            receipts: totals.tasks,
            rows: totals.rows,
            bytes: totals.bytes,
            videos: totals.videos,
            rejects: totals.rejects,
            files: totals.files,
            damage: None,
        }
    }
}

impl Table {
    /// Returns the sort of its files, as manifests count them. `None` for a table without files.
    fn sort(&self) -> Option<String> {
        match &self.content {
            Content::Frames => Some("shard.arrow".to_owned()),
            Content::Parquet(sort) => Some(format!("{sort}.parquet")),
            Content::Rejects | Content::Videos => None,
        }
    }

    /// Returns whether the short name `short` can stand for this table.
    fn is_called(&self, short: &str) -> bool {
        match &self.content {
            Content::Frames => short == "frames",
            Content::Parquet(sort) => short == sort,
            Content::Rejects | Content::Videos => false,
        }
    }
}
