//! What a workspace offers to a query: its stages, as tables.
//!
//! In: manifests. Out: [`Catalog`], the tables by name, and their rows as lazy frames that read a
//! column only when a query needs it. Start at [`Catalog::read`].

use std::collections::BTreeSet;
use std::sync::Arc;

use polars::prelude::{
    Column, DataFrame, DataType, HiveOptions, IdxCa, IntoLazy, LazyFrame, NamedFrom, PlRefPath,
    PolarsError, ScanArgsParquet, ScanSources, Series, UnionArgs, concat,
};
use polars_buffer::Buffer;

use super::{Error, Result};
use crate::dataset::{self, FileInfo, FrameRows, Manifest, Store, VideoRecord, schema};

/// A table a query can name.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Table {
    /// Its name in SQL; one that is also a word of SQL needs double quotes.
    pub name: String,
    /// The stage whose rows it has; `None` for `rejects` and `videos`, which have every stage's.
    pub stage: Option<String>,
    pub(super) content: Content,
}

/// Where a table's rows come from.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Content {
    /// The frames of the stage's shards, without their pixels.
    Frames,
    /// The rows of the stage's Parquet files whose names begin with this word.
    Parquet(String),
    /// The rejects in the receipts.
    Rejects,
    /// The videos in the receipts.
    Videos,
}

/// One version of a stage.
#[derive(serde::Serialize, Debug, Clone, Default, PartialEq, Eq)]
pub struct DatasetInfo {
    /// The stage's name.
    pub stage: String,
    /// The stage's kind, such as `decode`.
    pub kind: String,
    /// The version.
    pub version: u64,
    /// When it was committed, in milliseconds since 1970.
    pub committed_unix_ms: u64,
    /// How many tasks made it.
    pub receipts: u64,
    /// How many rows it has.
    pub rows: u64,
    /// How much it weighs.
    pub bytes: u64,
    /// How many different videos went in.
    pub videos: u64,
    /// How many videos could not be read, wholly or in part.
    pub rejects: u64,
    /// How many files it is.
    pub files: u64,
    /// Why its manifest cannot be read; then nothing else is known of it but the stage's name.
    pub damage: Option<String>,
}

/// Names that mean a stage's table where just one stage has such.
const SHORT_NAMES: [&str; 2] = ["frames", "labels"];

/// The stages of a workspace, and the tables they make.
pub(super) struct Catalog {
    stages: Vec<Stage>,
    pub tables: Vec<Table>,
    /// Stages whose newest manifest is damaged, and how. Which tables they have is not known.
    pub damaged: Vec<(String, String)>,
    /// Short names that several stages answer to.
    pub ambiguous: Vec<(String, Vec<String>)>,
}

struct Stage {
    name: String,
    manifest: Manifest,
}

impl Catalog {
    /// Reads every stage's newest manifest.
    pub fn read(store: &Store) -> Result<Self> {
        dataset::workspace::require(store)?;
        let (mut stages, mut damaged) = (Vec::new(), Vec::new());
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
        // A damaged stage may answer to a short name, too: then it means none.
        for short in SHORT_NAMES.into_iter().filter(|_| damaged.is_empty()) {
            let meant: Vec<Table> =
                tables.iter().filter(|table| table.is_called(short)).cloned().collect();
            match &meant[..] {
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

    /// Fails with the error of a damaged stage that may have the table called `name`.
    pub fn check_damage(&self, store: &Store, name: &str) -> Result<()> {
        let name = name.to_lowercase();
        let is_short = SHORT_NAMES.contains(&name.as_str());
        let may_have = |stage: &str| {
            is_short
                || name
                    .strip_prefix(stage)
                    .is_some_and(|rest| rest.is_empty() || rest.starts_with('_'))
        };
        self.fail_if_damaged(store, |stage| may_have(&stage.to_lowercase()))
    }

    /// Fails with the error of the first damaged stage that fits.
    pub fn fail_if_damaged(&self, store: &Store, fits: impl Fn(&str) -> bool) -> Result<()> {
        let fitting = self.damaged.iter().filter(|(stage, _)| fits(stage));
        // Reading the manifest again gives the whole error.
        fitting
            .map(|(stage, _)| stage)
            .try_for_each(|stage| Ok(dataset::head(store, stage).map(drop)?))
    }

    /// A table's rows; `files` are its files.
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

    /// How many rows a table has, by its manifest.
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

    /// A table's files, in the newest version or the one that is named.
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

    /// The version of a table's stage: the newest, or the one that is named.
    fn at(&self, store: &Store, table: &Table, version: Option<u64>) -> Result<Option<Manifest>> {
        let Some(stage) = table.stage.as_deref().and_then(|name| self.stage(name)) else {
            return Ok(None);
        };
        match version.filter(|version| *version != stage.manifest.version) {
            None => Ok(Some(stage.manifest.clone())),
            Some(version) => match dataset::at(store, &stage.name, version)? {
                Some(manifest) => Ok(Some(manifest)),
                None => Err(no_version(store, &stage.name, version)?),
            },
        }
    }

    fn stage(&self, name: &str) -> Option<&Stage> {
        self.stages.iter().find(|stage| stage.name == name)
    }

    /// The version of a stage that is read.
    pub fn manifest(&self, stage: &str) -> Option<&Manifest> {
        self.stage(stage).map(|stage| &stage.manifest)
    }

    /// How much each stage's dataset is, and which is damaged.
    pub fn datasets(&self) -> Vec<DatasetInfo> {
        let damaged = self.damaged.iter().map(|(stage, damage)| {
            let (stage, damage) = (stage.clone(), Some(damage.clone()));
            DatasetInfo { stage, damage, ..DatasetInfo::default() }
        });
        let mut all: Vec<DatasetInfo> =
            self.stages.iter().map(Stage::info).chain(damaged).collect();
        all.sort_by(|one, other| one.stage.cmp(&other.stage));
        all
    }

    fn rejects(&self, store: &Store) -> Result<Result<LazyFrame, PolarsError>> {
        let mut rejects = Vec::new();
        for stage in self.stages.iter().filter(|stage| stage.manifest.totals.rejects > 0) {
            rejects.extend(
                stage
                    .manifest
                    .rejects(store)?
                    .into_iter()
                    .map(|reject| (stage.name.clone(), reject)),
            );
        }
        let text = |name: &str, value: fn(&(String, dataset::Reject)) -> &str| {
            Column::new(name.into(), rejects.iter().map(value).collect::<Vec<&str>>())
        };
        let kept: Vec<u64> = rejects.iter().map(|(_, reject)| reject.frames_kept).collect();
        let columns = vec![
            text("stage", |(stage, _)| stage),
            text("video", |(_, reject)| &reject.video),
            text("digest", |(_, reject)| &reject.digest),
            text("class", |(_, reject)| &reject.class),
            text("reason", |(_, reject)| &reject.reason),
            Column::new("frames_kept".into(), kept),
        ];
        Ok(DataFrame::new(rejects.len(), columns).map(IntoLazy::lazy))
    }

    /// Every video of every stage, and what lists say of it, a column each: one of ours by the same name keeps it.
    fn videos(&self, store: &Store) -> Result<Result<LazyFrame, PolarsError>> {
        let mut videos: Vec<(&str, VideoRecord)> = Vec::new();
        for stage in self.stages.iter().filter(|stage| stage.manifest.totals.videos > 0) {
            videos.extend(
                stage.manifest.videos(store)?.into_iter().map(|video| (stage.name.as_str(), video)),
            );
        }
        let text = |name: &str, value: fn(&VideoRecord) -> &str| {
            Column::new(
                name.into(),
                videos.iter().map(|(_, video)| value(video)).collect::<Vec<&str>>(),
            )
        };
        let count = |name: &str, value: fn(&VideoRecord) -> u64| {
            Column::new(
                name.into(),
                videos.iter().map(|(_, video)| value(video)).collect::<Vec<u64>>(),
            )
        };
        let mut columns = vec![
            Column::new(
                "stage".into(),
                videos.iter().map(|(stage, _)| *stage).collect::<Vec<&str>>(),
            ),
            text("video", |video| &video.uri),
            text("digest", |video| &video.digest),
            count("bytes", |video| video.bytes),
            count("frames", |video| video.frames),
            count("episodes", |video| video.episodes),
        ];
        let listed: BTreeSet<&String> =
            videos.iter().flat_map(|(_, video)| video.about.names()).collect();
        for name in listed {
            let column = if columns.iter().any(|ours| ours.name() == name) {
                format!("listed_{name}")
            } else {
                name.clone()
            };
            let values: Vec<Option<&str>> =
                videos.iter().map(|(_, video)| video.about.get(name)).collect();
            columns.push(Column::new(column.into(), values));
        }
        Ok(DataFrame::new(videos.len(), columns).map(IntoLazy::lazy))
    }
}

fn paths(files: &[FileInfo]) -> Vec<String> {
    files.iter().map(|file| file.path.clone()).collect()
}

/// The error of a version that is not there.
pub(super) fn no_version(store: &Store, stage: &str, version: u64) -> Result<Error> {
    let there = dataset::versions(store, stage)?
        .iter()
        .map(ToString::to_string)
        .collect::<Vec<_>>()
        .join(", ");
    Ok(Error::NoVersion { stage: stage.to_owned(), version, there })
}

impl Stage {
    /// The stage's own table, and one for every further sort of Parquet file it made.
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
                Content::Parquet(sort) if place > 0 => format!("{}_{sort}", self.name),
                _ => self.name.clone(),
            };
            Table { name, stage: Some(self.name.clone()), content }
        };
        contents.into_iter().enumerate().map(name_of).collect()
    }

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
    /// The sort of its files, as manifests count them; none where it is not made of files.
    fn sort(&self) -> Option<String> {
        match &self.content {
            Content::Frames => Some("shard.arrow".to_owned()),
            Content::Parquet(sort) => Some(format!("{sort}.parquet")),
            Content::Rejects | Content::Videos => None,
        }
    }

    /// Whether the short name `short` may mean this table.
    fn is_called(&self, short: &str) -> bool {
        match &self.content {
            Content::Frames => short == "frames",
            Content::Parquet(sort) => short == sort,
            Content::Rejects | Content::Videos => false,
        }
    }
}

/// The rows of shards, read by our own reader: it never touches a pixel.
fn frames(store: &Store, files: &[String]) -> Result<Result<LazyFrame, PolarsError>> {
    let mut rows = FrameRows::default();
    dataset::read_all_frame_rows(store, files, &mut rows)?;
    Ok(frames_of(rows).map(IntoLazy::lazy))
}

fn frames_of(rows: FrameRows) -> Result<DataFrame, PolarsError> {
    let height = rows.video.len();
    let place = IdxCa::new("".into(), rows.video);
    // Names are looked up, not repeated: a row costs a reference.
    let names = |column: &str, names: Vec<&str>| {
        Series::new(column.into(), names).take(&place).map(Column::from)
    };
    let columns = vec![
        names(schema::VIDEO, rows.videos.iter().map(|video| video.uri.as_str()).collect())?,
        names(
            schema::VIDEO_DIGEST,
            rows.videos.iter().map(|video| video.digest.as_str()).collect(),
        )?,
        // The types that labels and tables have, so that they can be joined.
        Column::new(schema::EPISODE.into(), rows.episode).strict_cast(&DataType::Int32)?,
        Column::new(schema::FRAME_INDEX.into(), rows.frame_index).strict_cast(&DataType::Int64)?,
        Column::new(schema::TIME_S.into(), rows.time_s),
    ];
    DataFrame::new(height, columns)
}

/// Most files of an object store that are mapped at once: Linux allows a process 65,530 maps.
const MOST_MAPS: usize = 10_000;

/// The rows of Parquet files.
fn scan_parquet(store: &Store, files: &[String]) -> Result<Result<LazyFrame, PolarsError>> {
    if let Some(paths) = local_paths(store, files)? {
        return Ok(scan(ScanSources::Paths(paths)));
    }
    scan_copies(store, files, MOST_MAPS)
}

/// The rows of files that are mapped, at most `most` of them at once: of more, the rows are kept instead of the maps.
pub(super) fn scan_copies(
    store: &Store,
    files: &[String],
    most: usize,
) -> Result<Result<LazyFrame, PolarsError>> {
    if files.len() <= most {
        return Ok(scan(mapped(store, files)?));
    }
    let mut parts = Vec::new();
    for some in files.chunks(most) {
        match scan(mapped(store, some)?).and_then(LazyFrame::collect) {
            Ok(rows) => parts.push(rows.lazy()),
            Err(cause) => return Ok(Err(cause)),
        }
    }
    Ok(concat(parts, UnionArgs::default()))
}

/// The files of a folder by path, to be opened when a query gets there; `None` of an object store, or a path that is not UTF-8.
fn local_paths(store: &Store, files: &[String]) -> Result<Option<Buffer<PlRefPath>>> {
    let mut paths = Vec::with_capacity(files.len());
    for file in files {
        match store.local_path(file)? {
            Some(path) if path.to_str().is_some() => {
                paths.push(PlRefPath::new(path.to_string_lossy()))
            }
            _ => return Ok(None),
        }
    }
    Ok(Some(paths.into()))
}

/// Files as buffers, from copies on this machine where the workspace is not local.
fn mapped(store: &Store, files: &[String]) -> Result<ScanSources> {
    let maps = files.iter().map(|file| store.map(file).map(Buffer::from_owner));
    let maps: Arc<[Buffer<u8>]> = maps.collect::<Result<_, _>>()?;
    Ok(ScanSources::Buffers(maps))
}

fn scan(sources: ScanSources) -> Result<LazyFrame, PolarsError> {
    // Our folders hold no columns in their names, and names may look like patterns.
    let hive_options = HiveOptions { enabled: Some(false), ..HiveOptions::default() };
    let options = ScanArgsParquet { hive_options, glob: false, ..ScanArgsParquet::default() };
    let mut rows = LazyFrame::scan_parquet_sources(sources, options)?;
    // A file that is no Parquet is found here, not in the midst of an answer.
    rows.collect_schema()?;
    Ok(rows)
}
