//! What a workspace offers to a query: its stages, as tables.
//!
//! In: manifests and receipts. Out: [`Catalog`], the tables by name, and their rows as lazy frames that read a
//! column only when a query needs it. Start at [`Catalog::read`].

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use polars::prelude::{
    Column, DataFrame, DataType, HiveOptions, IdxCa, IntoLazy, LazyFrame, NamedFrom, PolarsError, ScanArgsParquet, ScanSources, Series, col,
};
use polars_buffer::Buffer;

use super::{Error, Result};
use crate::dataset::{self, FrameRows, Manifest, Receipt, Store, VideoRecord, schema};

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
    /// The frames of these shards, without their pixels.
    Frames(Vec<String>),
    /// The rows of these Parquet files, whose names begin with this word.
    Parquet(String, Vec<String>),
    /// The rejects in the receipts.
    Rejects,
    /// The videos in the receipts.
    Videos,
}

/// One stage's newest version.
#[derive(serde::Serialize, Debug, Clone, PartialEq, Eq)]
pub struct DatasetInfo {
    /// The stage's name.
    pub stage: String,
    /// The stage's kind, such as `decode`.
    pub kind: String,
    /// The version.
    pub version: u64,
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
}

/// The stages of a workspace, and the tables they make.
pub(super) struct Catalog {
    stages: Vec<Stage>,
    pub tables: Vec<Table>,
    /// Short names that several stages answer to.
    pub ambiguous: Vec<(String, Vec<String>)>,
}

struct Stage {
    name: String,
    manifest: Manifest,
    receipts: Vec<Receipt>,
}

impl Catalog {
    /// Reads every stage's newest manifest and its receipts.
    pub fn read(store: &Store) -> Result<Self> {
        let mut stages = Vec::new();
        for (name, manifest) in dataset::stages(store)? {
            let receipts = dataset::receipts_of(store, &name, &manifest.receipts)?;
            stages.push(Stage { name, manifest, receipts });
        }
        if stages.is_empty() {
            return Err(Error::EmptyWorkspace);
        }
        let mut tables: Vec<Table> = stages.iter().flat_map(Stage::tables).collect();
        let mut ambiguous = Vec::new();
        for short in ["frames", "labels"] {
            let meant: Vec<Table> = tables.iter().filter(|table| table.is_called(short)).cloned().collect();
            match &meant[..] {
                _ if tables.iter().any(|table| table.name == short) => {}
                [] => {}
                [one] => tables.push(Table { name: short.to_owned(), ..one.clone() }),
                many => ambiguous.push((short.to_owned(), many.iter().map(|table| table.name.clone()).collect())),
            }
        }
        for (name, content) in [("rejects", Content::Rejects), ("videos", Content::Videos)] {
            if tables.iter().all(|table| table.name != name) {
                tables.push(Table { name: name.to_owned(), stage: None, content });
            }
        }
        Ok(Self { stages, tables, ambiguous })
    }

    /// A table's rows.
    pub fn scan(&self, store: &Store, table: &Table) -> Result<LazyFrame> {
        let rows = match &table.content {
            Content::Frames(files) => frames(store, files)?,
            Content::Parquet(_, files) => scan_parquet(store, files)?,
            Content::Rejects => self.rejects(),
            Content::Videos => self.videos(),
        };
        rows.map_err(|cause| {
            let path = table.stage.clone().unwrap_or_default();
            dataset::Error::Corrupt { path, reason: cause.to_string() }.into()
        })
    }

    /// The receipts of a stage's newest version.
    pub fn receipts(&self, stage: &str) -> &[Receipt] {
        self.stages.iter().find(|one| one.name == stage).map_or(&[], |stage| &stage.receipts)
    }

    /// How much each stage's dataset is.
    pub fn datasets(&self) -> Vec<DatasetInfo> {
        self.stages.iter().map(Stage::info).collect()
    }

    fn rejects(&self) -> Result<LazyFrame, PolarsError> {
        let of_stage = |stage: &'_ Stage| -> Vec<_> {
            let rejects = stage.receipts.iter().flat_map(|receipt| &receipt.rejects);
            rejects.map(|reject| (stage.name.clone(), reject.clone())).collect()
        };
        let rejects: Vec<_> = self.stages.iter().flat_map(of_stage).collect();
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
        DataFrame::new(rejects.len(), columns).map(IntoLazy::lazy)
    }

    /// Every video of every stage, and what lists say of it, a column each: one of ours by the same name keeps it.
    fn videos(&self) -> Result<LazyFrame, PolarsError> {
        let mut videos: Vec<(&str, &VideoRecord)> = Vec::new();
        for stage in &self.stages {
            videos.extend(stage.receipts.iter().flat_map(|receipt| &receipt.videos).map(|video| (stage.name.as_str(), video)));
        }
        let text = |name: &str, value: fn(&VideoRecord) -> &str| {
            Column::new(name.into(), videos.iter().map(|(_, video)| value(video)).collect::<Vec<&str>>())
        };
        let count = |name: &str, value: fn(&VideoRecord) -> u64| {
            Column::new(name.into(), videos.iter().map(|(_, video)| value(video)).collect::<Vec<u64>>())
        };
        let mut columns = vec![
            Column::new("stage".into(), videos.iter().map(|(stage, _)| *stage).collect::<Vec<&str>>()),
            text("video", |video| &video.uri),
            text("digest", |video| &video.digest),
            count("bytes", |video| video.bytes),
            count("frames", |video| video.frames),
            count("episodes", |video| video.episodes),
        ];
        let told: BTreeSet<&String> = videos.iter().flat_map(|(_, video)| video.about.names()).collect();
        for name in told {
            let column = if columns.iter().any(|ours| ours.name() == name) { format!("listed_{name}") } else { name.clone() };
            let values: Vec<Option<&str>> = videos.iter().map(|(_, video)| video.about.get(name)).collect();
            columns.push(Column::new(column.into(), values));
        }
        DataFrame::new(videos.len(), columns).map(IntoLazy::lazy)
    }
}

impl Stage {
    /// The stage's own table, and one for every further sort of Parquet file it made.
    fn tables(&self) -> Vec<Table> {
        let mut shards = Vec::new();
        let mut sorts: BTreeMap<String, Vec<String>> = BTreeMap::new();
        for file in self.receipts.iter().flat_map(|receipt| &receipt.files) {
            let name = file.path.rsplit('/').next().unwrap_or_default();
            match name.rsplit_once('.') {
                Some((_, "arrow")) => shards.push(file.path.clone()),
                Some((stem, "parquet")) => {
                    let sort = stem.trim_end_matches(|c: char| c.is_ascii_digit() || c == '-' || c == '_');
                    sorts.entry(sort.to_owned()).or_default().push(file.path.clone());
                }
                _ => {}
            }
        }
        let mut contents: Vec<Content> = (!shards.is_empty()).then_some(Content::Frames(shards)).into_iter().collect();
        contents.extend(sorts.into_iter().map(|(sort, files)| Content::Parquet(sort, files)));
        let name_of = |(place, content): (usize, Content)| {
            let name = match &content {
                Content::Parquet(sort, _) if place > 0 => format!("{}_{sort}", self.name),
                _ => self.name.clone(),
            };
            Table { name, stage: Some(self.name.clone()), content }
        };
        contents.into_iter().enumerate().map(name_of).collect()
    }

    fn info(&self) -> DatasetInfo {
        let files = || self.receipts.iter().flat_map(|receipt| &receipt.files);
        let videos = self.receipts.iter().flat_map(|receipt| &receipt.videos).map(|video| &video.digest);
        let rejects = self.receipts.iter().map(|receipt| receipt.rejects.len());
        DatasetInfo {
            stage: self.name.clone(),
            kind: self.receipts.first().map(|receipt| receipt.stage.clone()).unwrap_or_default(),
            version: self.manifest.version,
            receipts: self.receipts.len() as u64,
            rows: self.receipts.iter().map(Receipt::rows).sum(),
            bytes: files().map(|file| file.bytes).sum(),
            videos: videos.collect::<BTreeSet<_>>().len() as u64,
            rejects: rejects.sum::<usize>() as u64,
            files: files().count() as u64,
        }
    }
}

impl Table {
    /// Whether the short name `short` may mean this table.
    fn is_called(&self, short: &str) -> bool {
        match &self.content {
            Content::Frames(_) => short == "frames",
            Content::Parquet(sort, _) => short == sort,
            Content::Rejects | Content::Videos => false,
        }
    }
}

/// The rows of shards, read by our own reader: it never touches a pixel.
fn frames(store: &Store, files: &[String]) -> Result<Result<LazyFrame, PolarsError>> {
    let mut rows = FrameRows::default();
    for file in files {
        dataset::read_frame_rows(store, file, &mut rows)?;
    }
    Ok(frames_of(rows).map(IntoLazy::lazy))
}

fn frames_of(rows: FrameRows) -> Result<DataFrame, PolarsError> {
    let height = rows.video.len();
    let place = IdxCa::new("".into(), rows.video);
    // Names are looked up, not repeated: a row costs a reference.
    let names = |column: &str, names: Vec<&str>| Series::new(column.into(), names).take(&place).map(Column::from);
    let columns = vec![
        names(schema::VIDEO, rows.videos.iter().map(|video| video.uri.as_str()).collect())?,
        names(schema::VIDEO_DIGEST, rows.videos.iter().map(|video| video.digest.as_str()).collect())?,
        Column::new(schema::EPISODE.into(), rows.episode),
        Column::new(schema::FRAME_INDEX.into(), rows.frame_index),
        Column::new(schema::TIME_S.into(), rows.time_s),
    ];
    DataFrame::new(height, columns)
}

/// The rows of Parquet files; names are text, so that `LIKE` and joins with other tables work.
fn scan_parquet(store: &Store, files: &[String]) -> Result<Result<LazyFrame, PolarsError>> {
    let maps = files.iter().map(|file| store.map(file).map(Buffer::from_owner));
    let maps: Arc<[Buffer<u8>]> = maps.collect::<Result<_, _>>()?;
    let text = |mut rows: LazyFrame| {
        let schema = rows.collect_schema()?;
        let names = schema.iter().filter(|(_, kind)| matches!(kind, DataType::Categorical(..)));
        let names: Vec<_> = names.map(|(name, _)| col(name.clone()).cast(DataType::String)).collect();
        Ok(if names.is_empty() { rows } else { rows.with_columns(names) })
    };
    // Our folders hold no columns in their names.
    let hive_options = HiveOptions { enabled: Some(false), ..HiveOptions::default() };
    let options = ScanArgsParquet { hive_options, ..ScanArgsParquet::default() };
    Ok(LazyFrame::scan_parquet_sources(ScanSources::Buffers(maps), options).and_then(text))
}
