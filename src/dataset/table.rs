//! Writes small Parquet tables, such as a training run's metrics. Start at [`write_table`].
//!
//! The module `table_reader` reads the columns back. Files have only types supported by all readers
//! and the Delta Lake protocol: signed integers, doubles, floats, text and plain lists, without an
//! embedded Arrow schema. A list has the same length in every row; the file's metadata states it.

use std::sync::Arc;

use arrow::array::{
    ArrayRef, DictionaryArray, Float32Array, Float64Array, Int32Array, Int64Array, ListArray,
    RecordBatch, StringArray,
};
use arrow::buffer::OffsetBuffer;
use arrow::datatypes::{Field, Int32Type, Schema};
use arrow::error::ArrowError;
use parquet::arrow::arrow_writer::{ArrowWriter, ArrowWriterOptions};
use parquet::basic::{Compression, ZstdLevel};
use parquet::errors::ParquetError;
use parquet::file::metadata::KeyValue;
use parquet::file::properties::{WriterProperties, WriterPropertiesBuilder};

use super::error::{Error, Result};
use super::new_file::{FileInfo, NewFile};
use super::schema::{FORMAT_KEY, TABLE_FORMAT, element, list_size_key};
use super::store::Store;

/// The approximate size of a row group. Larger ones make streaming readers run out of memory.
const ROW_GROUP_BYTES: usize = 10 << 20;

/// The values of a column.
#[derive(Debug, Clone, PartialEq)]
pub enum Column {
    /// Measurements; `None` is stored as null. Stored as doubles.
    F64(Vec<Option<f64>>),
    /// Whole numbers. Stored as int64.
    I64(Vec<i64>),
    /// Counts, such as steps. Stored as int64 and read back as [`Column::I64`]. A count above
    /// `i64::MAX` is an error.
    U64(Vec<u64>),
    /// Smaller counts, such as frame numbers. Stored as int64, since they may exceed int32, and
    /// read back as [`Column::I64`].
    U32(Vec<u32>),
    /// 64 bits without an order, such as hashes. Stored as the int64 with the same bits and read
    /// back as [`Column::I64`].
    Bits(Vec<u64>),
    /// Text.
    Text(Vec<String>),
    /// Repeating text: each row's index into the list of texts. Stored as text and read back as
    /// [`Column::Text`].
    Names(Vec<u32>, Vec<String>),
    /// Measurements at single precision. Stored as floats.
    F32(Vec<f32>),
    /// Concatenated lists of numbers, and the length of one list. Stored as lists of floats; the
    /// file's metadata states the length.
    F32Rows(Vec<f32>, usize),
}

/// Writes a table. All columns must have the same length.
///
/// # Errors
/// Names the first column with another length, or with a count above `i64::MAX`.
pub fn write_table(store: &Store, path: &str, columns: &[(&str, Column)]) -> Result<FileInfo> {
    let rows = columns.first().map_or(0, |(_, first)| first.len());
    let mut fields = Vec::new();
    let mut arrays = Vec::new();
    for (name, column) in columns {
        if column.len() != rows {
            let [found, expected] = [column.len() as u64, rows as u64];
            let what = format!("the length of column `{name}`");
            return Err(Error::WrongShape { path: path.to_owned(), what, found, expected });
        }
        let array = array(column).map_err(|reason| Error::Encode {
            path: path.to_owned(),
            reason: format!("column `{name}` {reason}"),
        })?;
        // Only measurements may be missing.
        fields.push(Field::new(*name, array.data_type().clone(), matches!(column, Column::F64(_))));
        arrays.push(array);
    }
    let schema = Arc::new(Schema::new(fields));
    let list_sizes = columns.iter().filter_map(|(name, column)| match column {
        Column::F32Rows(_, width) => Some(KeyValue::new(list_size_key(name), width.to_string())),
        _ => None,
    });
    let row_bytes: usize = columns.iter().map(|(_, column)| column.row_bytes()).sum();
    let properties = properties(row_bytes, list_sizes);
    let mut writer = parquet_writer(store, path, schema.clone(), properties.build())?;
    let batch = RecordBatch::try_new(schema, arrays)
        .map_err(|cause| Error::Encode { path: path.to_owned(), reason: cause.to_string() })?;
    writer.write(&batch).map_err(parquet_error(path))?;
    writer.into_inner().map_err(parquet_error(path))?.finish(rows as u64)
}

/// The number of names in the path of an attempt's file: `<stage>/data/<key>/<attempt>/<name>`.
const NAMES_IN_PATH: usize = 5;

/// Returns the sort of a Parquet file, which is its SQL table's name: the file name without its
/// suffix and trailing digits, `-` and `_`.
///
/// Returns `None` for files in folders below an attempt's own: they are parts of an exported
/// dataset in another program's layout.
#[must_use]
pub fn table_sort(path: &str) -> Option<&str> {
    if path.split('/').count() > NAMES_IN_PATH {
        return None;
    }
    let stem = path.rsplit('/').next()?.strip_suffix(".parquet")?;
    Some(stem.trim_end_matches(|c: char| c.is_ascii_digit() || c == '-' || c == '_'))
}

/// Returns the sort of a shard or table, its file name without numbers, such as `labels.parquet`.
/// Returns `None` for other files.
#[must_use]
pub fn table_name(path: &str) -> Option<String> {
    match table_sort(path) {
        Some(sort) => Some(format!("{sort}.parquet")),
        None => path.ends_with(".arrow").then(|| "shard.arrow".to_owned()),
    }
}

/// Returns the settings of all Parquet files. The same rows give the same bytes.
pub(super) fn properties(
    row_bytes: usize,
    metadata: impl Iterator<Item = KeyValue>,
) -> WriterPropertiesBuilder {
    let format = KeyValue::new(FORMAT_KEY.to_owned(), TABLE_FORMAT.to_string());
    WriterProperties::builder()
        .set_compression(Compression::ZSTD(ZstdLevel::try_new(3).expect("zstd has a level 3")))
        .set_created_by("lapo".to_owned())
        .set_max_row_group_row_count(Some((ROW_GROUP_BYTES / row_bytes.max(1)).max(1)))
        .set_key_value_metadata(Some(std::iter::once(format).chain(metadata).collect()))
}

/// Starts a Parquet file without an embedded Arrow schema. With one, readers would see dictionaries
/// and other Arrow types.
pub(super) fn parquet_writer(
    store: &Store,
    path: &str,
    schema: Arc<Schema>,
    properties: WriterProperties,
) -> Result<ArrowWriter<NewFile>> {
    let options =
        ArrowWriterOptions::new().with_properties(properties).with_skip_arrow_metadata(true);
    ArrowWriter::try_new_with_options(store.new_file(path)?, schema, options)
        .map_err(parquet_error(path))
}

/// Converts a Parquet error. An I/O error, such as a full disk, stays an I/O error.
pub(super) fn parquet_error(path: &str) -> impl FnOnce(ParquetError) -> Error {
    move |cause| match cause {
        ParquetError::External(inner) => match inner.downcast::<std::io::Error>() {
            Ok(cause) => Error::Io { action: "write", path: path.to_owned(), cause: *cause },
            Err(other) => Error::Encode { path: path.to_owned(), reason: other.to_string() },
        },
        other => Error::Encode { path: path.to_owned(), reason: other.to_string() },
    }
}

/// Creates a column of lists with the same length from their concatenated values.
pub(super) fn list_array(values: ArrayRef, length: usize) -> Result<ListArray, ArrowError> {
    let rows = values.len().checked_div(length).unwrap_or(0);
    let offsets = OffsetBuffer::try_from_repeated_length(length, rows)
        .map_err(|cause| ArrowError::InvalidArgumentError(cause.to_string()))?;
    ListArray::try_new(Arc::new(element(values.data_type().clone())), offsets, values, None)
}

impl Column {
    /// Returns the number of rows.
    #[must_use]
    pub fn len(&self) -> usize {
        match self {
            Column::F64(values) => values.len(),
            Column::I64(values) => values.len(),
            Column::U64(values) | Column::Bits(values) => values.len(),
            Column::U32(values) => values.len(),
            Column::Text(values) => values.len(),
            Column::Names(rows, _) => rows.len(),
            Column::F32(values) => values.len(),
            Column::F32Rows(values, width) => values.len().checked_div(*width).unwrap_or(0),
        }
    }

    /// Returns whether there are no rows.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// Returns the average bytes of a row in a Parquet file before compression.
    fn row_bytes(&self) -> usize {
        match self {
            Column::F64(_) | Column::I64(_) | Column::U64(_) | Column::U32(_) | Column::Bits(_) => {
                8
            }
            Column::Text(values) => {
                // Parquet stores a length of four bytes before each text.
                4 + values
                    .iter()
                    .map(String::len)
                    .sum::<usize>()
                    .checked_div(values.len())
                    .unwrap_or(0)
            }
            Column::Names(..) | Column::F32(_) => 4,
            Column::F32Rows(_, width) => 4 * width,
        }
    }
}

/// Encodes a column. The error continues a message that begins with the column's name.
fn array(column: &Column) -> Result<ArrayRef, String> {
    Ok(match column {
        Column::F64(values) => Arc::new(Float64Array::from(values.clone())),
        Column::I64(values) => Arc::new(Int64Array::from(values.clone())),
        Column::U64(values) => Arc::new(Int64Array::from(signed(values)?)),
        Column::U32(values) => {
            Arc::new(Int64Array::from_iter_values(values.iter().map(|value| i64::from(*value))))
        }
        Column::Bits(values) => {
            Arc::new(Int64Array::from_iter_values(values.iter().map(|value| value.cast_signed())))
        }
        Column::Text(values) => Arc::new(StringArray::from_iter_values(values)),
        Column::Names(rows, names) => {
            let names = Arc::new(StringArray::from_iter_values(names));
            let rows = rows.iter().map(|row| {
                i32::try_from(*row)
                    .map_err(|_| format!("has the index {row}, expected at most {}", i32::MAX))
            });
            let rows = Int32Array::from(rows.collect::<Result<Vec<_>, _>>()?);
            Arc::new(
                DictionaryArray::<Int32Type>::try_new(rows, names)
                    .map_err(|cause| cause.to_string())?,
            )
        }
        Column::F32(values) => Arc::new(Float32Array::from(values.clone())),
        Column::F32Rows(values, width) if values.len().checked_rem(*width) != Some(0) => {
            return Err(format!("holds {} numbers, expected lists of {width}", values.len()));
        }
        Column::F32Rows(values, width) => Arc::new(
            list_array(Arc::new(Float32Array::from(values.clone())), *width)
                .map_err(|cause| cause.to_string())?,
        ),
    })
}

fn signed(values: &[u64]) -> Result<Vec<i64>, String> {
    let mut signed = Vec::with_capacity(values.len());
    for (row, value) in values.iter().enumerate() {
        signed.push(
            i64::try_from(*value).map_err(|_| {
                format!("holds {value} in row {row}, expected at most {}", i64::MAX)
            })?,
        );
    }
    Ok(signed)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_sort_of_a_table_is_its_name_without_numbers() {
        let sorts = [
            ("a.b/curve_10.parquet", Some("curve")),
            ("l/a/labels-0001.parquet", Some("labels")),
            ("a/curve.csv", None),
            ("labels/data/key/attempt/labels.parquet", Some("labels")),
            ("export/data/key/attempt/meta/tasks.parquet", None),
        ];
        for (path, sort) in sorts {
            assert_eq!(table_sort(path), sort);
        }
    }
}
