//! Writes Parquet files in another program's layout. Start at [`ExportTable::create`].
//!
//! The caller decides about row groups and metadata, and lists may have a fixed size. lapo's own
//! tables are written by `table` instead.

use std::collections::BTreeMap;
use std::sync::Arc;

use arrow::array::{
    ArrayRef, BooleanArray, FixedSizeListArray, Float32Array, Float64Array, Int64Array, ListArray,
    RecordBatch, StringArray,
};
use arrow::buffer::OffsetBuffer;
use arrow::datatypes::{Field, Schema, SchemaRef};
use arrow::error::ArrowError;
use parquet::arrow::arrow_writer::ArrowWriter;
use parquet::basic::Compression;
use parquet::file::metadata::KeyValue;
use parquet::file::properties::WriterProperties;

use super::error::{Error, Result};
use super::new_file::{FileInfo, NewFile};
use super::store::Store;
use super::table::parquet_error;

/// The values of a column, one per row.
#[derive(Debug, Clone, PartialEq)]
pub enum ExportColumn {
    /// Numbers at single precision.
    F32(Vec<f32>),
    /// Numbers at double precision.
    F64(Vec<f64>),
    /// Whole numbers.
    I64(Vec<i64>),
    /// Truth values.
    Bool(Vec<bool>),
    /// Text.
    Text(Vec<String>),
    /// Concatenated lists of numbers, and the fixed length of one list.
    F32Rows(Vec<f32>, usize),
    /// Concatenated lists of whole numbers, and the fixed length of one list.
    I64Rows(Vec<i64>, usize),
    /// Lists of text.
    TextLists(Vec<Vec<String>>),
    /// Lists of numbers at double precision.
    F64Lists(Vec<Vec<f64>>),
    /// Lists of whole numbers.
    I64Lists(Vec<Vec<i64>>),
    /// One number per colour channel, as nested lists of shape `[3, 1, 1]`.
    F64Channels(Vec<[f64; 3]>),
}

/// A Parquet file in another program's layout, compressed with Snappy. If it is dropped before
/// [`ExportTable::finish`], no file remains.
pub struct ExportTable {
    path: String,
    schema: SchemaRef,
    writer: ArrowWriter<NewFile>,
    rows: u64,
}

impl ExportTable {
    /// Starts the file `path` with the columns of `group`, its first row group.
    ///
    /// `metadata` are key-value pairs of the file, such as `pandas` or `huggingface`.
    ///
    /// # Errors
    /// Fails if the columns differ in length.
    pub fn create(
        store: &Store,
        path: &str,
        metadata: &[(&str, String)],
        group: &[(String, ExportColumn)],
    ) -> Result<Self> {
        let failed = |cause: ArrowError| encode_error(path, &cause);
        let mut fields = Vec::new();
        let mut columns = Vec::new();
        for (name, column) in group {
            let array = array(column).map_err(failed)?;
            fields.push(Field::new(name, array.data_type().clone(), true));
            columns.push(array);
        }
        let metadata = metadata.iter().map(|(key, value)| ((*key).to_owned(), value.clone()));
        let schema = Arc::new(Schema::new(fields));
        let batch = RecordBatch::try_new(schema, columns).map_err(failed)?;
        Self::create_for(store, path, metadata.collect(), &batch)
    }

    /// Starts the file `path` with a batch as its first row group.
    pub(super) fn create_for(
        store: &Store,
        path: &str,
        metadata: BTreeMap<String, String>,
        batch: &RecordBatch,
    ) -> Result<Self> {
        // Readers of Arrow's schema find the pairs there, all others in the file's own metadata.
        let pairs = metadata.iter().map(|(key, value)| KeyValue::new(key.clone(), value.clone()));
        let fields = batch.schema().fields().clone();
        let schema = Arc::new(Schema::new_with_metadata(fields, metadata.clone()));
        let properties = WriterProperties::builder()
            .set_compression(Compression::SNAPPY)
            .set_created_by("lapo".to_owned())
            .set_max_row_group_row_count(None)
            .set_key_value_metadata(Some(pairs.collect()))
            .build();
        let file = store.new_file(path)?;
        let writer = ArrowWriter::try_new(file, schema.clone(), Some(properties))
            .map_err(parquet_error(path))?;
        let mut table = Self { path: path.to_owned(), schema, writer, rows: 0 };
        table.write_batch(batch)?;
        Ok(table)
    }

    /// Writes one row group. It must have the columns of the first one.
    ///
    /// # Errors
    /// Fails for other columns, and if the columns differ in length.
    pub fn write(&mut self, group: &[(String, ExportColumn)]) -> Result<()> {
        let failed = |cause: ArrowError| encode_error(&self.path, &cause);
        let arrays: Vec<ArrayRef> = group
            .iter()
            .map(|(_, column)| array(column))
            .collect::<Result<_, _>>()
            .map_err(failed)?;
        let batch = RecordBatch::try_new(self.schema.clone(), arrays).map_err(failed)?;
        self.write_batch(&batch)
    }

    /// Writes a batch as one row group.
    pub(super) fn write_batch(&mut self, batch: &RecordBatch) -> Result<()> {
        let columns = batch.columns().to_vec();
        let batch = RecordBatch::try_new(self.schema.clone(), columns)
            .map_err(|cause| encode_error(&self.path, &cause))?;
        self.rows += batch.num_rows() as u64;
        self.writer.write(&batch).map_err(parquet_error(&self.path))?;
        self.writer.flush().map_err(parquet_error(&self.path))
    }

    /// Returns the number of bytes written so far.
    #[must_use]
    pub fn bytes(&self) -> u64 {
        self.writer.bytes_written() as u64
    }

    /// Completes the file.
    pub fn finish(self) -> Result<FileInfo> {
        let Self { path, writer, rows, .. } = self;
        writer.into_inner().map_err(parquet_error(&path))?.finish(rows)
    }
}

fn encode_error(path: &str, cause: &ArrowError) -> Error {
    Error::Encode { path: path.to_owned(), reason: cause.to_string() }
}

pub(super) fn array(column: &ExportColumn) -> Result<ArrayRef, ArrowError> {
    Ok(match column {
        ExportColumn::F32(values) => Arc::new(Float32Array::from(values.clone())),
        ExportColumn::F64(values) => Arc::new(Float64Array::from(values.clone())),
        ExportColumn::I64(values) => Arc::new(Int64Array::from(values.clone())),
        ExportColumn::Bool(values) => Arc::new(BooleanArray::from(values.clone())),
        ExportColumn::Text(values) => Arc::new(StringArray::from_iter_values(values)),
        ExportColumn::F32Rows(values, length) => {
            fixed_lists(Arc::new(Float32Array::from(values.clone())), *length)?
        }
        ExportColumn::I64Rows(values, length) => {
            fixed_lists(Arc::new(Int64Array::from(values.clone())), *length)?
        }
        ExportColumn::TextLists(lists) => {
            let values = StringArray::from_iter_values(lists.iter().flatten());
            variable_lists(Arc::new(values), lists.iter().map(Vec::len))?
        }
        ExportColumn::F64Lists(lists) => {
            let values = Float64Array::from_iter_values(lists.iter().flatten().copied());
            variable_lists(Arc::new(values), lists.iter().map(Vec::len))?
        }
        ExportColumn::I64Lists(lists) => {
            let values = Int64Array::from_iter_values(lists.iter().flatten().copied());
            variable_lists(Arc::new(values), lists.iter().map(Vec::len))?
        }
        ExportColumn::F64Channels(rows) => {
            let values = Float64Array::from_iter_values(rows.iter().flatten().copied());
            let pixels = variable_lists(Arc::new(values), std::iter::repeat_n(1, rows.len() * 3))?;
            let lines = variable_lists(pixels, std::iter::repeat_n(1, rows.len() * 3))?;
            variable_lists(lines, std::iter::repeat_n(3, rows.len()))?
        }
    })
}

/// Returns the field of a list's items, called as pyarrow calls it.
fn item(values: &ArrayRef) -> Arc<Field> {
    Arc::new(Field::new("element", values.data_type().clone(), true))
}

fn fixed_lists(values: ArrayRef, length: usize) -> Result<ArrayRef, ArrowError> {
    let size = i32::try_from(length)
        .map_err(|_| ArrowError::InvalidArgumentError(format!("lists of {length} values")))?;
    Ok(Arc::new(FixedSizeListArray::try_new(item(&values), size, values, None)?))
}

fn variable_lists(
    values: ArrayRef,
    lengths: impl IntoIterator<Item = usize>,
) -> Result<ArrayRef, ArrowError> {
    let offsets = OffsetBuffer::from_lengths(lengths);
    Ok(Arc::new(ListArray::try_new(item(&values), offsets, values, None)?))
}

#[cfg(test)]
mod tests {
    #![expect(clippy::unwrap_used, reason = "a test may panic")]
    use arrow::datatypes::DataType;
    use parquet::arrow::arrow_reader::ParquetRecordBatchReaderBuilder;

    use super::*;

    #[test]
    fn each_write_is_a_row_group_and_fixed_sizes_survive() {
        let folder = tempfile::tempdir().unwrap();
        let store = Store::open(folder.path().to_str().unwrap()).unwrap();
        let group = |first: i64, rows: usize| {
            let rows_i64 = (first..first + rows as i64).collect::<Vec<_>>();
            let pairs = rows_i64.iter().flat_map(|i| [*i as f32, 0.5]).collect();
            vec![
                ("index".to_owned(), ExportColumn::I64(rows_i64)),
                ("pair".to_owned(), ExportColumn::F32Rows(pairs, 2)),
                ("mean".to_owned(), ExportColumn::F64Channels(vec![[0.1, 0.2, 0.3]; rows])),
            ]
        };
        let path = "e/data/k/a/data/chunk-000/file-000.parquet";
        let metadata = [("huggingface", "{}".to_owned())];
        let mut table = ExportTable::create(&store, path, &metadata, &group(0, 3)).unwrap();
        table.write(&group(3, 2)).unwrap();
        let info = table.finish().unwrap();
        assert_eq!(info.rows, 5);
        let builder = ParquetRecordBatchReaderBuilder::try_new(store.map(path).unwrap()).unwrap();
        let groups = builder.metadata().row_groups();
        assert_eq!(groups.iter().map(|group| group.num_rows()).collect::<Vec<_>>(), [3, 2]);
        let kind = builder.schema().field(1).data_type().clone();
        assert!(matches!(kind, DataType::FixedSizeList(_, 2)), "{kind}");
        assert_eq!(builder.schema().metadata()["huggingface"], "{}");
    }

    #[test]
    fn columns_of_different_lengths_are_an_error() {
        let folder = tempfile::tempdir().unwrap();
        let store = Store::open(folder.path().to_str().unwrap()).unwrap();
        let group = [
            ("a".to_owned(), ExportColumn::I64(vec![1, 2])),
            ("b".to_owned(), ExportColumn::Bool(vec![true])),
        ];
        assert!(ExportTable::create(&store, "e/x.parquet", &[], &group).is_err());
    }
}
