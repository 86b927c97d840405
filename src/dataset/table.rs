//! Small Parquet tables, such as a training run's metrics.
//!
//! In: named columns of equal length. Out: a file any Parquet reader opens. Start at [`write_table`].

use std::sync::Arc;

use arrow::array::{ArrayRef, FixedSizeListArray, Float32Array, Float64Array, RecordBatch, StringArray, UInt32Array, UInt64Array};
use arrow::datatypes::{DataType, Field, Schema};
use parquet::arrow::ArrowWriter;
use parquet::basic::{Compression, ZstdLevel};
use parquet::errors::ParquetError;
use parquet::file::metadata::KeyValue;
use parquet::file::properties::{WriterProperties, WriterPropertiesBuilder};

use super::error::{Error, Result};
use super::new_file::FileInfo;
use super::schema::FORMAT_KEY;
use super::store::Store;

/// The values of a column.
#[derive(Debug, Clone, PartialEq)]
pub enum Column {
    /// Measurements; null where there is none.
    F64(Vec<Option<f64>>),
    /// Counts, such as steps.
    U64(Vec<u64>),
    /// Smaller counts, such as frame numbers.
    U32(Vec<u32>),
    /// Names.
    Text(Vec<String>),
    /// Numbers that belong together, so many to a row.
    F32Rows(Vec<f32>, usize),
}

/// Writes a table; every column must have the same length.
pub fn write_table(store: &Store, path: &str, columns: &[(&str, Column)]) -> Result<FileInfo> {
    let arrays: Vec<ArrayRef> = columns.iter().map(|(_, column)| array(column)).collect();
    let rows = arrays.first().map_or(0, |first| first.len());
    let fields = columns.iter().zip(&arrays).map(|((name, _), array)| {
        if array.len() != rows {
            let [found, expected] = [array.len() as u64, rows as u64];
            let what = format!("the length of column `{name}`");
            return Err(Error::WrongShape { path: path.to_owned(), what, found, expected });
        }
        Ok(Field::new(*name, array.data_type().clone(), array.is_nullable()))
    });
    let schema = Arc::new(Schema::new(fields.collect::<Result<Vec<_>>>()?));
    let properties = properties().set_key_value_metadata(Some(vec![format_entry()])).build();
    let file = store.new_file(path)?;
    let mut writer = ArrowWriter::try_new(file, schema.clone(), Some(properties)).map_err(parquet_error(path))?;
    let batch = RecordBatch::try_new(schema, arrays).map_err(|cause| Error::Encode { path: path.to_owned(), reason: cause.to_string() })?;
    writer.write(&batch).map_err(parquet_error(path))?;
    writer.into_inner().map_err(parquet_error(path))?.finish(rows as u64)
}

/// What all our Parquet files have in common: the same rows are the same bytes.
pub(super) fn properties() -> WriterPropertiesBuilder {
    WriterProperties::builder()
        .set_compression(Compression::ZSTD(ZstdLevel::try_new(3).expect("zstd has a level 3")))
        .set_created_by("lapo".to_owned())
}

/// The entry every Parquet file of ours carries.
pub(super) fn format_entry() -> KeyValue {
    KeyValue::new(FORMAT_KEY.to_owned(), super::FORMAT.to_string())
}

/// Keeps a full disk recognisable: an I/O error inside Parquet stays one.
pub(super) fn parquet_error(path: &str) -> impl FnOnce(ParquetError) -> Error {
    move |cause| match cause {
        ParquetError::External(inner) => match inner.downcast::<std::io::Error>() {
            Ok(cause) => Error::Io { action: "write", path: path.to_owned(), cause: *cause },
            Err(other) => Error::Encode { path: path.to_owned(), reason: other.to_string() },
        },
        other => Error::Encode { path: path.to_owned(), reason: other.to_string() },
    }
}

fn array(column: &Column) -> ArrayRef {
    match column {
        Column::F64(values) => Arc::new(Float64Array::from(values.clone())),
        Column::U64(values) => Arc::new(UInt64Array::from(values.clone())),
        Column::U32(values) => Arc::new(UInt32Array::from(values.clone())),
        Column::Text(values) => Arc::new(StringArray::from(values.clone())),
        Column::F32Rows(values, width) => {
            let item = Arc::new(Field::new("item", DataType::Float32, false));
            let width = i32::try_from(*width).expect("rows are short");
            Arc::new(FixedSizeListArray::new(item, width, Arc::new(Float32Array::from(values.clone())), None))
        }
    }
}

#[cfg(test)]
mod tests {
    #![expect(clippy::unwrap_used, reason = "a test may panic")]
    use super::*;

    #[test]
    fn columns_of_different_lengths_are_refused_by_name() {
        let folder = tempfile::tempdir().unwrap();
        let store = Store::open(folder.path().to_str().unwrap()).unwrap();
        let columns = [("step", Column::U64(vec![1, 2])), ("loss", Column::F64(vec![Some(0.5)]))];
        let error = write_table(&store, "d/data/k/a/metrics.parquet", &columns).unwrap_err();
        assert!(error.to_string().contains("column `loss` is 1, expected 2"), "{error}");
    }
}
