//! Small Parquet tables, such as a training run's metrics.
//!
//! In: named columns of equal length. Out: a file any Parquet reader opens, or the columns again. Start at [`write_table`] and
//! [`read_table`].

use std::sync::Arc;

use arrow::array::{
    Array, ArrayRef, AsArray, DictionaryArray, FixedSizeListArray, Float32Array, Float64Array, RecordBatch, StringArray, UInt32Array,
    UInt64Array,
};
use arrow::datatypes::{DataType, Field, Float32Type, Float64Type, Int32Type, Schema, UInt32Type, UInt64Type};
use parquet::arrow::ArrowWriter;
use parquet::arrow::arrow_reader::ParquetRecordBatchReaderBuilder;
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
    /// Names that repeat: where each row's is, and the names. They are read back as text by others, here not at all.
    Names(Vec<u32>, Vec<String>),
    /// Measurements at single precision; here, too, they are only written.
    F32(Vec<f32>),
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

/// A table that [`write_table`] wrote, column by column.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct Table {
    columns: Vec<(String, Column)>,
}

/// Reads a whole table into memory.
pub fn read_table(store: &Store, path: &str) -> Result<Table> {
    let corrupt = |reason: String| Error::Corrupt { path: path.to_owned(), reason };
    let builder = ParquetRecordBatchReaderBuilder::try_new(store.map(path)?).map_err(|cause| corrupt(cause.to_string()))?;
    let empty = |field: &Arc<Field>| {
        let column = match field.data_type() {
            DataType::Float64 => Column::F64(vec![]),
            DataType::UInt64 => Column::U64(vec![]),
            DataType::UInt32 => Column::U32(vec![]),
            DataType::Utf8 => Column::Text(vec![]),
            DataType::FixedSizeList(item, width) if *item.data_type() == DataType::Float32 => {
                Column::F32Rows(vec![], usize::try_from(*width).map_err(|_| corrupt(format!("lists of {width} numbers")))?)
            }
            other => return Err(corrupt(format!("column `{}` holds {other}", field.name()))),
        };
        Ok((field.name().clone(), column))
    };
    let mut columns = builder.schema().fields().iter().map(empty).collect::<Result<Vec<_>>>()?;
    for batch in builder.build().map_err(|cause| corrupt(cause.to_string()))? {
        let batch = batch.map_err(|cause| corrupt(cause.to_string()))?;
        columns.iter_mut().zip(batch.columns()).for_each(|((_, column), array)| column.extend(array));
    }
    Ok(Table { columns })
}

impl Table {
    /// The names of the columns.
    pub fn names(&self) -> impl Iterator<Item = &str> {
        self.columns.iter().map(|(name, _)| name.as_str())
    }

    /// A column as measurements, counts included; none where there is no such column or it holds names.
    #[must_use]
    pub fn numbers(&self, name: &str) -> Option<Vec<Option<f64>>> {
        match &self.columns.iter().find(|(known, _)| known == name)?.1 {
            Column::F64(values) => Some(values.clone()),
            Column::U64(values) => Some(values.iter().map(|value| Some(*value as f64)).collect()),
            Column::U32(values) => Some(values.iter().map(|value| Some(f64::from(*value))).collect()),
            Column::Text(_) | Column::Names(..) | Column::F32(_) | Column::F32Rows(..) => None,
        }
    }

    /// A column of names; none where there is no such column or it holds numbers.
    #[must_use]
    pub fn text(&self, name: &str) -> Option<&[String]> {
        match &self.columns.iter().find(|(known, _)| known == name)?.1 {
            Column::Text(values) => Some(values),
            _ => None,
        }
    }
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

impl Column {
    /// How many rows it has.
    #[must_use]
    pub fn len(&self) -> usize {
        match self {
            Column::F64(values) => values.len(),
            Column::U64(values) => values.len(),
            Column::U32(values) => values.len(),
            Column::Text(values) => values.len(),
            Column::Names(rows, _) => rows.len(),
            Column::F32(values) => values.len(),
            Column::F32Rows(values, width) => values.len() / width,
        }
    }

    /// Whether it has no row.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// Adds values of the column's own type.
    fn extend(&mut self, array: &ArrayRef) {
        match self {
            Column::F64(values) => values.extend(array.as_primitive::<Float64Type>().iter()),
            Column::U64(values) => values.extend(array.as_primitive::<UInt64Type>().values()),
            Column::U32(values) => values.extend(array.as_primitive::<UInt32Type>().values()),
            Column::Text(values) => values.extend(array.as_string::<i32>().iter().map(|text| text.unwrap_or_default().to_owned())),
            Column::Names(..) | Column::F32(_) => unreachable!("`read_table` makes none"),
            Column::F32Rows(values, _) => {
                let rows = array.as_fixed_size_list();
                let numbers = rows.values().as_primitive::<Float32Type>().values();
                values.extend(&numbers[rows.value_offset_at(0)..][..rows.len() * rows.value_length() as usize]);
            }
        }
    }
}

fn array(column: &Column) -> ArrayRef {
    match column {
        Column::F64(values) => Arc::new(Float64Array::from(values.clone())),
        Column::U64(values) => Arc::new(UInt64Array::from(values.clone())),
        Column::U32(values) => Arc::new(UInt32Array::from(values.clone())),
        Column::Text(values) => Arc::new(StringArray::from(values.clone())),
        Column::Names(rows, names) => {
            let names = Arc::new(StringArray::from(names.clone()));
            let rows = rows.iter().map(|row| i32::try_from(*row).expect("names are few")).collect::<Vec<_>>();
            Arc::new(DictionaryArray::<Int32Type>::try_new(rows.into(), names).expect("every row's name is among them"))
        }
        Column::F32(values) => Arc::new(Float32Array::from(values.clone())),
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
    fn a_table_comes_back_as_it_was() {
        let folder = tempfile::tempdir().unwrap();
        let store = Store::open(folder.path().to_str().unwrap()).unwrap();
        let columns = [
            ("step", Column::U64(vec![1, 1 << 40])),
            ("loss", Column::F64(vec![None, Some(0.1 + 0.2)])),
            ("frame_index", Column::U32(vec![7, 8])),
            ("player", Column::Text(vec!["random".into(), "a \"b\"".into()])),
        ];
        write_table(&store, "d/data/k/a/metrics.parquet", &columns).unwrap();
        let table = read_table(&store, "d/data/k/a/metrics.parquet").unwrap();
        assert_eq!(table.columns, columns.map(|(name, column)| (name.to_owned(), column)));
        assert_eq!(table.numbers("step"), Some(vec![Some(1.0), Some(2f64.powi(40))]));
        assert_eq!((table.numbers("player"), table.text("loss")), (None, None));
    }

    #[test]
    fn columns_of_different_lengths_are_refused_by_name() {
        let folder = tempfile::tempdir().unwrap();
        let store = Store::open(folder.path().to_str().unwrap()).unwrap();
        let columns = [("step", Column::U64(vec![1, 2])), ("loss", Column::F64(vec![Some(0.5)]))];
        let error = write_table(&store, "d/data/k/a/metrics.parquet", &columns).unwrap_err();
        assert!(error.to_string().contains("column `loss` is 1, expected 2"), "{error}");
    }
}
