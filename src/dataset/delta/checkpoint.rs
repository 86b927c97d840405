//! Checkpoints: the state after an entry as one Parquet file, so readers need not replay a long
//! log. Start at [`write`].
//!
//! `_last_checkpoint` is not written, since it would have to be replaced. Readers find checkpoints
//! by listing the log.

use std::sync::Arc;

use arrow::array::{
    Array, ArrayRef, AsArray, BooleanArray, Int32Array, Int64Array, ListArray, MapArray,
    RecordBatch, StringArray, StructArray, new_empty_array,
};
use arrow::buffer::{NullBuffer, OffsetBuffer};
use arrow::datatypes::{DataType, Field, Fields, Int64Type, Schema};
use arrow::error::ArrowError;
use parquet::arrow::arrow_reader::ParquetRecordBatchReaderBuilder;
use parquet::arrow::arrow_writer::{ArrowWriter, ArrowWriterOptions};
use parquet::basic::{Compression, ZstdLevel};
use parquet::file::properties::WriterProperties;

use super::actions::{self, MetaData, Protocol};
use super::{Log, State};
use crate::dataset::error::{Error, Result};
use crate::dataset::new_file::FileInfo;

/// Rows before the rows of files: one for the protocol, one for the metadata.
const HEAD: usize = 2;

/// Creates the checkpoint of an entry, unless it exists.
pub(super) fn write(log: &Log<'_>, entry: u64, state: &State) -> Result<()> {
    let path = path(log, entry);
    let encode = |reason: String| Error::Encode { path: path.clone(), reason };
    let paths = state
        .files
        .iter()
        .map(|file| actions::relative(log.table.stage, file))
        .collect::<Result<Vec<String>>>()?;
    let batch = rows(state, &paths).map_err(|cause| encode(cause.to_string()))?;
    let bytes = parquet_of(&batch).map_err(|cause| encode(cause.to_string()))?;
    // A checkpoint by another publisher has the same content.
    log.table.store.create(&path, &bytes).map(|_| ())
}

/// Returns the files listed in a checkpoint.
pub(super) fn read(log: &Log<'_>, entry: u64) -> Result<Vec<FileInfo>> {
    let path = path(log, entry);
    let corrupt = |reason: String| Error::Corrupt { path: path.clone(), reason };
    let builder = ParquetRecordBatchReaderBuilder::try_new(log.table.store.require(&path)?)
        .map_err(|cause| corrupt(cause.to_string()))?;
    let mut files = Vec::new();
    for batch in builder.build().map_err(|cause| corrupt(cause.to_string()))? {
        let batch = batch.map_err(|cause| corrupt(cause.to_string()))?;
        let add = batch
            .column_by_name("add")
            .and_then(|add| add.as_struct_opt())
            .ok_or_else(|| corrupt("it has no `add`".into()))?;
        let column = |name: &str| {
            add.column_by_name(name).ok_or_else(|| corrupt(format!("it has no `add.{name}`")))
        };
        let text = |name: &str| {
            column(name)?
                .as_string_opt::<i32>()
                .ok_or_else(|| corrupt(format!("`add.{name}` is not text")))
        };
        let paths = text("path")?;
        let stats = text("stats")?;
        let sizes = column("size")?
            .as_primitive_opt::<Int64Type>()
            .ok_or_else(|| corrupt("`add.size` is not int64".into()))?;
        // Rows without `add` have the protocol or the metadata.
        for row in (0..batch.num_rows()).filter(|row| add.is_valid(*row)) {
            let bytes =
                u64::try_from(sizes.value(row)).map_err(|cause| corrupt(cause.to_string()))?;
            let (file, stats) = (paths.value(row), stats.value(row));
            files.push(actions::file(log.table.stage, &path, file, bytes, stats)?);
        }
    }
    Ok(files)
}

fn path(log: &Log<'_>, entry: u64) -> String {
    format!("{}/{entry:020}.checkpoint.parquet", log.folder())
}

fn parquet_of(batch: &RecordBatch) -> parquet::errors::Result<Vec<u8>> {
    let properties = WriterProperties::builder()
        .set_compression(Compression::ZSTD(ZstdLevel::try_new(3).expect("zstd has a level 3")))
        .set_created_by("lapo".to_owned())
        // Maps and lists get the field names required by the Parquet format.
        .set_coerce_types(true);
    let options = ArrowWriterOptions::new()
        .with_properties(properties.build())
        // Only the Parquet schema counts for other readers.
        .with_skip_arrow_metadata(true);
    let mut writer = ArrowWriter::try_new_with_options(Vec::new(), batch.schema(), options)?;
    writer.write(batch)?;
    writer.into_inner()
}

/// Returns the rows of a checkpoint. Each row has a value in one action's column.
fn rows(state: &State, paths: &[String]) -> Result<RecordBatch, ArrowError> {
    let metadata = state.metadata.as_ref().expect("an entry has a schema");
    let count = HEAD + paths.len();
    let transactions = all_null(&[("appId", DataType::Utf8), ("version", DataType::Int64)], count);
    let removes = all_null(&[("path", DataType::Utf8), ("dataChange", DataType::Boolean)], count);
    // Readers expect a column for each kind of action, even without rows.
    let columns = [
        ("txn", action(transactions, |_| false, count)?),
        ("add", action(adds(state, paths)?, |row| row >= HEAD, count)?),
        ("remove", action(removes, |_| false, count)?),
        ("metaData", action(metadata_row(metadata, count)?, |row| row == 1, count)?),
        ("protocol", action(protocol_row(count), |row| row == 0, count)?),
    ];
    let fields: Vec<Field> = columns
        .iter()
        .map(|(name, column)| Field::new(*name, column.data_type().clone(), true))
        .collect();
    RecordBatch::try_new(
        Arc::new(Schema::new(fields)),
        columns.into_iter().map(|(_, column)| column).collect(),
    )
}

type Columns = Vec<(&'static str, ArrayRef)>;

/// Returns an action's column, with values in the rows selected by `is_set`.
fn action(
    columns: Columns,
    is_set: impl Fn(usize) -> bool,
    count: usize,
) -> Result<ArrayRef, ArrowError> {
    let set = NullBuffer::from((0..count).map(is_set).collect::<Vec<bool>>());
    let fields: Fields = columns
        .iter()
        .map(|(name, column)| Field::new(*name, column.data_type().clone(), true))
        .collect();
    let columns = columns.into_iter().map(|(_, column)| column).collect();
    Ok(Arc::new(StructArray::try_new(fields, columns, Some(set))?))
}

/// Returns columns of nulls.
fn all_null(columns: &[(&'static str, DataType)], count: usize) -> Columns {
    columns
        .iter()
        .map(|(name, data_type)| (*name, arrow::array::new_null_array(data_type, count)))
        .collect()
}

fn adds(state: &State, paths: &[String]) -> Result<Columns, ArrowError> {
    let files = &state.files;
    let count = HEAD + files.len();
    Ok(vec![
        ("path", texts(paths.iter().cloned())),
        ("partitionValues", empty_maps(count)?),
        ("size", numbers(files.iter().map(|file| file.bytes))?),
        ("modificationTime", numbers(files.iter().map(|_| state.committed_unix_ms))?),
        ("dataChange", Arc::new(BooleanArray::from(vec![true; count]))),
        ("stats", texts(files.iter().map(|file| actions::stats(file.rows)))),
    ])
}

/// Returns a column of texts, with nulls in the first rows.
fn texts(values: impl Iterator<Item = String>) -> ArrayRef {
    Arc::new(StringArray::from_iter(std::iter::repeat_n(None, HEAD).chain(values.map(Some))))
}

/// Returns a column of numbers, with zeros in the first rows.
fn numbers(values: impl Iterator<Item = u64>) -> Result<ArrayRef, ArrowError> {
    let signed = |value| {
        i64::try_from(value).map_err(|_| ArrowError::CastError(format!("{value} is not int64")))
    };
    let values = std::iter::repeat_n(0, HEAD).map(Ok).chain(values.map(signed));
    Ok(Arc::new(Int64Array::from(values.collect::<Result<Vec<_>, _>>()?)))
}

fn metadata_row(metadata: &MetaData, count: usize) -> Result<Columns, ArrowError> {
    let text = |value: &str| -> ArrayRef {
        Arc::new(StringArray::from_iter_values(std::iter::repeat_n(value, count)))
    };
    let format =
        vec![("provider", text(&metadata.format.provider)), ("options", empty_maps(count)?)];
    let created = i64::try_from(metadata.created_time)
        .map_err(|cause| ArrowError::CastError(cause.to_string()))?;
    let element = Arc::new(Field::new("element", DataType::Utf8, true));
    let no_columns = ListArray::try_new(
        element,
        OffsetBuffer::new_zeroed(count),
        new_empty_array(&DataType::Utf8),
        None,
    )?;
    Ok(vec![
        ("id", text(&metadata.id)),
        ("name", text(&metadata.name)),
        ("format", action(format, |_| true, count)?),
        ("schemaString", text(&metadata.schema_string)),
        ("partitionColumns", Arc::new(no_columns)),
        ("configuration", empty_maps(count)?),
        ("createdTime", Arc::new(Int64Array::from(vec![created; count]))),
    ])
}

fn protocol_row(count: usize) -> Columns {
    let Protocol { min_reader_version, min_writer_version } = Protocol::default();
    let number = |value: i32| -> ArrayRef { Arc::new(Int32Array::from(vec![value; count])) };
    vec![
        ("minReaderVersion", number(min_reader_version)),
        ("minWriterVersion", number(min_writer_version)),
    ]
}

/// Returns a column of empty maps from text to text.
fn empty_maps(count: usize) -> Result<ArrayRef, ArrowError> {
    let fields = Fields::from(vec![
        Field::new("key", DataType::Utf8, false),
        Field::new("value", DataType::Utf8, true),
    ]);
    let entries = StructArray::from(RecordBatch::new_empty(Arc::new(Schema::new(fields.clone()))));
    let field = Arc::new(Field::new("key_value", DataType::Struct(fields), false));
    Ok(Arc::new(MapArray::try_new(field, OffsetBuffer::new_zeroed(count), entries, None, false)?))
}
