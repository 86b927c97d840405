//! Reads the rows of tables as lazy frames: a column is read only if a query needs it.

use std::collections::BTreeSet;
use std::sync::Arc;

use polars::prelude::{
    Column, DataFrame, DataType, HiveOptions, IdxCa, IntoLazy, LazyFrame, NamedFrom, PlRefPath,
    PolarsError, ScanArgsParquet, ScanSources, Series, UnionArgs, concat,
};
use polars_buffer::Buffer;

use super::Catalog;
use crate::dataset::{self, FrameRows, Store, VideoRecord, schema};
use crate::query::Result;

impl Catalog {
    /// Returns the rejects of all stages.
    pub(super) fn rejects(&self, store: &Store) -> Result<Result<LazyFrame, PolarsError>> {
        let mut rejects = Vec::new();
        // Skip stages without rejects: their receipts need not be read.
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

    /// Returns the videos of all stages. The columns of video lists follow, with the prefix
    /// `listed_` if the name is taken.
    pub(super) fn videos(&self, store: &Store) -> Result<Result<LazyFrame, PolarsError>> {
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
            // A list column must not hide a column of lapo.
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

/// Returns the rows of shards. The reader never touches a pixel.
pub(super) fn frames(store: &Store, files: &[String]) -> Result<Result<LazyFrame, PolarsError>> {
    let mut rows = FrameRows::default();
    dataset::read_all_frame_rows(store, files, &mut rows)?;
    Ok(frames_of(rows).map(IntoLazy::lazy))
}

/// Builds a data frame of frame rows.
fn frames_of(rows: FrameRows) -> Result<DataFrame, PolarsError> {
    let height = rows.video.len();
    let place = IdxCa::new("".into(), rows.video);
    // Names are looked up in a table, so that a row costs one reference.
    let names = |column: &str, names: Vec<&str>| {
        Series::new(column.into(), names).take(&place).map(Column::from)
    };
    let columns = vec![
        names(schema::VIDEO, rows.videos.iter().map(|video| video.uri.as_str()).collect())?,
        names(
            schema::VIDEO_DIGEST,
            rows.videos.iter().map(|video| video.digest.as_str()).collect(),
        )?,
        // Use the column types of labels and other tables, so that they can be joined.
        Column::new(schema::EPISODE.into(), rows.episode).strict_cast(&DataType::Int32)?,
        Column::new(schema::FRAME_INDEX.into(), rows.frame_index).strict_cast(&DataType::Int64)?,
        Column::new(schema::TIME_S.into(), rows.time_s),
    ];
    DataFrame::new(height, columns)
}

/// Maximum number of mapped copies of object store files. Linux allows a process 65,530 maps.
const MAX_MAPS: usize = 10_000;

/// Returns the rows of Parquet files.
pub(super) fn scan_parquet(
    store: &Store,
    files: &[String],
) -> Result<Result<LazyFrame, PolarsError>> {
    // Local files are opened one by one by the engine, so their number does not matter.
    if let Some(paths) = local_paths(store, files)? {
        return Ok(scan(ScanSources::Paths(paths)));
    }
    scan_copies(store, files, MAX_MAPS)
}

/// Returns the rows of mapped files. If there are more than `most` files, they are mapped in turns
/// and their rows are kept in memory.
pub(in crate::query) fn scan_copies(
    store: &Store,
    files: &[String],
    most: usize,
) -> Result<Result<LazyFrame, PolarsError>> {
    if files.len() <= most {
        return Ok(scan(mapped(store, files)?));
    }
    let mut parts = Vec::new();
    for batch in files.chunks(most) {
        match scan(mapped(store, batch)?).and_then(LazyFrame::collect) {
            Ok(rows) => parts.push(rows.lazy()),
            Err(cause) => return Ok(Err(cause)),
        }
    }
    Ok(concat(parts, UnionArgs::default()))
}

/// Returns the paths of local files. They are opened when a query reaches them. `None` for an
/// object store, or if a path is not UTF-8.
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

/// Maps files into memory. Files of an object store are copied to this machine first.
fn mapped(store: &Store, files: &[String]) -> Result<ScanSources> {
    let maps = files.iter().map(|file| store.map(file).map(Buffer::from_owner));
    let maps: Arc<[Buffer<u8>]> = maps.collect::<Result<_, _>>()?;
    Ok(ScanSources::Buffers(maps))
}

/// Scans Parquet files lazily.
fn scan(sources: ScanSources) -> Result<LazyFrame, PolarsError> {
    // Folders are not Hive partitions, and their names may look like patterns.
    let hive_options = HiveOptions { enabled: Some(false), ..HiveOptions::default() };
    let options = ScanArgsParquet { hive_options, glob: false, ..ScanArgsParquet::default() };
    let mut rows = LazyFrame::scan_parquet_sources(sources, options)?;
    // Read the schema now, so that a file that is not Parquet fails here and not during the query.
    rows.collect_schema()?;
    Ok(rows)
}
