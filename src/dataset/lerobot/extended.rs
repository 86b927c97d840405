//! Writes a dataset of version 3.0 again, with further columns.
//!
//! Rows keep their files, so that every place that names a file stays true. Videos are copied.

use std::collections::{BTreeMap, BTreeSet};
use std::io::copy;

use arrow::array::{ArrayRef, AsArray, RecordBatch};
use arrow::compute::{cast, concat_batches};
use arrow::datatypes::{DataType, Field, Int64Type, Schema};
use bytes::Bytes;
use parquet::arrow::arrow_reader::{ArrowReaderOptions, ParquetRecordBatchReaderBuilder};
use serde_json::{Map, Value};

use super::{Fault, Lerobot, info, unreadable};
use crate::dataset::archive::open_source;
use crate::dataset::error::{Error, Result};
use crate::dataset::export_table::{ExportColumn, ExportTable, array};
use crate::dataset::new_file::FileInfo;
use crate::dataset::store::Store;

/// The metadata key of Hugging Face `datasets`.
const HUGGINGFACE: &str = "huggingface";

/// Columns by name.
pub type Group = Vec<(String, ExportColumn)>;

/// The files of a dataset, relative to it.
pub struct DatasetFiles {
    /// Tables of frames.
    pub rows: Vec<String>,
    /// Tables of episodes.
    pub episodes: Vec<String>,
    /// Videos and everything below `meta` that stays as it is.
    pub copied: Vec<String>,
}

impl Lerobot<'_> {
    /// Returns the content of `meta/info.json`.
    #[must_use]
    pub fn info(&self) -> &Map<String, Value> {
        &self.info.json
    }

    /// Returns the content of `meta/stats.json`, which may be missing.
    ///
    /// # Errors
    /// Fails if it is damaged.
    pub fn statistics(&self) -> Result<Map<String, Value>> {
        const PATH: &str = "meta/stats.json";
        let missing = |error: &Error| error.io_kind() == Some(std::io::ErrorKind::NotFound);
        match self.read(PATH) {
            Err(error) if missing(&error) => Ok(Map::new()),
            text => serde_json::from_slice(&text?).map_err(|cause| {
                Fault::new(format!("it is damaged: {cause}"), "copy the file again")
                    .of(&self.root, PATH)
            }),
        }
    }

    /// Returns the files of the dataset.
    ///
    /// # Errors
    /// Fails for a dataset of version 2.1, and as [`Lerobot::episodes`].
    pub fn files(&self) -> Result<DatasetFiles> {
        if !self.info.is_joined {
            let reason = "it is of version 2.1, but only datasets of version 3.0 are extended";
            let cure = "convert it with the script `convert_dataset_v21_to_v30` of `lerobot`";
            return Err(Fault::new(reason, cure).of(&self.root, info::PATH));
        }
        let episodes = self.episodes()?;
        let mut copied = BTreeSet::new();
        for episode in &episodes {
            for (camera, (place, _)) in &episode.videos {
                let path = self.info.video_path(camera, place);
                copied.insert(path.map_err(|fault| fault.of(&self.root, info::PATH))?);
            }
        }
        let tables = self.episode_files()?;
        let kept = ["meta/info.json", "meta/stats.json"];
        let others = self.files_below("meta")?.into_iter();
        copied.extend(others.filter(|file| !tables.contains(file) && !kept.contains(&&**file)));
        Ok(DatasetFiles {
            rows: self.files_of(&episodes)?,
            episodes: tables,
            copied: copied.into_iter().collect(),
        })
    }

    /// Copies a file of the dataset to `path` of a workspace.
    ///
    /// # Errors
    /// Fails if the file cannot be read or written.
    pub fn copy(&self, file: &str, store: &Store, path: &str) -> Result<FileInfo> {
        let failed = |cause| unreadable(&self.root, file, cause);
        let from = format!("{}/{file}", self.root);
        let mut from = open_source(&from, None, self.access).map_err(failed)?;
        let mut to = store.new_file(path)?;
        copy(&mut from, &mut to).map_err(failed)?;
        to.finish(0)
    }

    /// Copies a table of frames, a row group for each episode. `more` returns the further columns of
    /// an episode, `[frame, ..]`; `features` are their types for Hugging Face `datasets`.
    ///
    /// # Errors
    /// Fails if the file cannot be read or written, and if `more` does.
    pub fn write_rows<E: From<Error>>(
        &self,
        file: &str,
        (store, path): (&Store, &str),
        features: &Map<String, Value>,
        more: &mut dyn FnMut(u64) -> Result<Group, E>,
    ) -> Result<FileInfo, E> {
        let batches = self.batches(file)?;
        let mut table: Option<ExportTable> = None;
        let mut episode: Option<(u64, Vec<RecordBatch>)> = None;
        let mut write = |(number, parts): (u64, Vec<RecordBatch>)| -> Result<(), E> {
            let failed = |cause: arrow::error::ArrowError| self.damaged(file, &cause);
            let batch = concat_batches(&parts[0].schema(), &parts).map_err(failed)?;
            let batch = self.joined(file, &batch, &more(number)?, features)?;
            append(&mut table, store, path, &batch)?;
            Ok(())
        };
        for batch in batches {
            let numbers = self.episode_numbers(file, &batch)?;
            let mut first = 0;
            while first < numbers.len() {
                let number = numbers[first];
                let rest = numbers[first..].iter().take_while(|other| **other == number);
                let rows = batch.slice(first, rest.count());
                first += rows.num_rows();
                match &mut episode {
                    Some((of, parts)) if *of == number => parts.push(rows),
                    episode => {
                        if let Some(done) = episode.replace((number, vec![rows])) {
                            write(done)?;
                        }
                    }
                }
            }
        }
        if let Some(done) = episode {
            write(done)?;
        }
        let empty = || Fault::new("it has no rows", "copy the file again").of(&self.root, file);
        Ok(table.ok_or_else(empty)?.finish()?)
    }

    /// Copies a table of episodes. `more` returns the further columns of some episodes.
    ///
    /// # Errors
    /// As [`Lerobot::write_rows`].
    pub fn write_episodes<E: From<Error>>(
        &self,
        file: &str,
        (store, path): (&Store, &str),
        more: &mut dyn FnMut(&[u64]) -> Result<Group, E>,
    ) -> Result<FileInfo, E> {
        let mut table: Option<ExportTable> = None;
        for batch in self.batches(file)? {
            let numbers = self.episode_numbers(file, &batch)?;
            let batch = self.joined(file, &batch, &more(&numbers)?, &Map::new())?;
            append(&mut table, store, path, &batch)?;
        }
        let empty = || Fault::new("it has no rows", "copy the file again").of(&self.root, file);
        Ok(table.ok_or_else(empty)?.finish()?)
    }

    fn batches(&self, file: &str) -> Result<Vec<RecordBatch>> {
        let bytes: Bytes = self.read(file)?.into();
        let options = ArrowReaderOptions::new();
        let builder = ParquetRecordBatchReaderBuilder::try_new_with_options(bytes, options)
            .map_err(|cause| self.damaged(file, &cause))?;
        let batches = builder.build().map_err(|cause| self.damaged(file, &cause))?;
        batches.collect::<Result<_, _>>().map_err(|cause| self.damaged(file, &cause))
    }

    fn episode_numbers(&self, file: &str, batch: &RecordBatch) -> Result<Vec<u64>> {
        let column = batch.column_by_name("episode_index");
        let wide = column.and_then(|column| cast(column, &DataType::Int64).ok());
        let wide = wide.ok_or_else(|| self.damaged(file, &"it has no `episode_index`"))?;
        let numbers = wide.as_primitive::<Int64Type>().values().iter();
        Ok(numbers.map(|number| number.unsigned_abs()).collect())
    }

    /// Adds columns to a batch, and their types to its metadata.
    fn joined(
        &self,
        file: &str,
        batch: &RecordBatch,
        more: &[(String, ExportColumn)],
        features: &Map<String, Value>,
    ) -> Result<RecordBatch> {
        let schema = batch.schema();
        let mut fields: Vec<Field> =
            schema.fields().iter().map(|field| field.as_ref().clone()).collect();
        let mut columns: Vec<ArrayRef> = batch.columns().to_vec();
        for (name, column) in more {
            let column = array(column).map_err(|cause| self.damaged(file, &cause))?;
            fields.push(Field::new(name, column.data_type().clone(), true));
            columns.push(column);
        }
        let mut metadata: BTreeMap<String, String> = pairs(&schema);
        if let Some(text) = metadata.get_mut(HUGGINGFACE) {
            let mut value: Value =
                serde_json::from_str(text).map_err(|cause| self.damaged(file, &cause))?;
            let declared = value.pointer_mut("/info/features").and_then(Value::as_object_mut);
            if let Some(declared) = declared {
                declared.extend(features.clone());
                *text = value.to_string();
            }
        }
        let schema = Schema::new_with_metadata(fields, metadata);
        RecordBatch::try_new(schema.into(), columns).map_err(|cause| self.damaged(file, &cause))
    }

    fn damaged(&self, file: &str, cause: &dyn std::fmt::Display) -> Error {
        Fault::new(format!("it is damaged: {cause}"), "copy the file again").of(&self.root, file)
    }
}

/// Writes a row group, the first one into a new file.
fn append(
    table: &mut Option<ExportTable>,
    store: &Store,
    path: &str,
    batch: &RecordBatch,
) -> Result<()> {
    if let Some(table) = table {
        return table.write_batch(batch);
    }
    let metadata = pairs(&batch.schema());
    *table = Some(ExportTable::create_for(store, path, metadata, batch)?);
    Ok(())
}

/// Returns the metadata of a file.
fn pairs(schema: &Schema) -> BTreeMap<String, String> {
    schema.metadata().iter().map(|(key, value)| (key.clone(), value.clone())).collect()
}
