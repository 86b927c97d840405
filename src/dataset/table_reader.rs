//! Reads the tables of [`write_table`](super::write_table), whole or by column. Start at
//! [`read_table`] and [`read_columns`].

use std::collections::BTreeMap;

use arrow::array::{Array, ArrayRef, AsArray};
use arrow::datatypes::{DataType, Field, Float32Type, Float64Type, Int64Type, Schema};
use bytes::Bytes;
use parquet::arrow::ProjectionMask;
use parquet::arrow::arrow_reader::{
    ArrowReaderMetadata, ArrowReaderOptions, ParquetRecordBatchReader,
    ParquetRecordBatchReaderBuilder,
};
use parquet::schema::types::ColumnPath;

use super::error::{Error, Result};
use super::schema::{FORMAT_KEY, TABLE_FORMAT, list_size_key};
use super::store::Store;
use super::table::Column;

/// The number of rows decoded at once.
const BATCH_ROWS: usize = 8192;

/// A table, or some of its columns.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct Table {
    columns: Vec<(String, Column)>,
}

/// Reads a whole table into memory.
///
/// # Errors
/// Fails if the file is missing or damaged, has another format, or has columns of types never
/// written by [`write_table`](super::write_table).
pub fn read_table(store: &Store, path: &str) -> Result<Table> {
    let parquet = open_parquet(store, path)?;
    parquet.read_columns(path, None)
}

/// Reads some columns of a table into memory. Other columns are not decoded.
///
/// # Errors
/// Fails like [`read_table`], and if the table lacks one of the columns.
pub fn read_columns(store: &Store, path: &str, columns: &[&str]) -> Result<Table> {
    let parquet = open_parquet(store, path)?;
    parquet.read_columns(path, Some(columns))
}

/// An open Parquet file of lapo with a checked format.
pub(super) struct OpenParquet {
    bytes: Bytes,
    footer: ArrowReaderMetadata,
    /// The file's key-value metadata.
    pub metadata: BTreeMap<String, String>,
}

/// Opens a Parquet file and checks its format.
pub(super) fn open_parquet(store: &Store, path: &str) -> Result<OpenParquet> {
    let bytes = store.map(path)?;
    // Types come from the Parquet schema alone, as for every other reader.
    let options = ArrowReaderOptions::new().with_skip_arrow_metadata(true);
    let footer =
        ArrowReaderMetadata::load(&bytes, options).map_err(|cause| corrupt(path, cause))?;
    let entries = footer.metadata().file_metadata().key_value_metadata().into_iter().flatten();
    let metadata: BTreeMap<_, _> =
        entries.map(|entry| (entry.key.clone(), entry.value.clone().unwrap_or_default())).collect();
    let format = metadata.get(FORMAT_KEY).and_then(|format| format.parse().ok());
    match format
        .ok_or_else(|| corrupt(path, format!("its metadata has no entry `{FORMAT_KEY}`")))?
    {
        TABLE_FORMAT => Ok(OpenParquet { bytes, footer, metadata }),
        found => Err(Error::OtherFormat { path: path.to_owned(), found, known: TABLE_FORMAT }),
    }
}

fn corrupt(path: &str, reason: impl std::fmt::Display) -> Error {
    Error::Corrupt { path: path.to_owned(), reason: reason.to_string() }
}

impl OpenParquet {
    /// Returns the columns' types from the Parquet schema.
    pub fn schema(&self) -> &Schema {
        self.footer.schema()
    }

    /// Reads all columns batch by batch, with the types of `schema`.
    pub fn batches(self, path: &str, schema: Schema) -> Result<ParquetRecordBatchReader> {
        let options = ArrowReaderOptions::new().with_schema(schema.into());
        let footer = ArrowReaderMetadata::try_new(self.footer.metadata().clone(), options)
            .map_err(|cause| corrupt(path, cause))?;
        let builder = ParquetRecordBatchReaderBuilder::new_with_metadata(self.bytes, footer)
            .with_batch_size(BATCH_ROWS);
        builder.build().map_err(|cause| corrupt(path, cause))
    }

    /// Returns the average bytes of a row before compression.
    pub fn row_bytes(&self) -> usize {
        let bytes: i64 =
            self.footer.metadata().row_groups().iter().map(|group| group.total_byte_size()).sum();
        bytes
            .checked_div(self.footer.metadata().file_metadata().num_rows())
            .map_or(0, |bytes| usize::try_from(bytes).unwrap_or(0))
    }

    /// Returns the columns stored without a dictionary, because their values hardly ever repeat.
    pub fn columns_without_dictionary(&self) -> Vec<ColumnPath> {
        let columns =
            self.footer.metadata().row_groups().first().map_or(&[][..], |group| group.columns());
        let plain = columns.iter().filter(|column| column.dictionary_page_offset().is_none());
        plain.map(|column| column.column_path().clone()).collect()
    }

    /// Returns the schema of the file as other programs see it.
    #[cfg(test)]
    pub fn parquet_schema(&self) -> parquet::schema::types::Type {
        self.footer.parquet_schema().root_schema().clone()
    }

    /// Returns the length of a column's lists from the file's metadata.
    pub fn list_size(&self, column: &str) -> Option<usize> {
        self.metadata.get(&list_size_key(column))?.parse().ok()
    }

    /// Reads the wanted columns, or all for `None`, in the file's order.
    fn read_columns(self, path: &str, wanted: Option<&[&str]>) -> Result<Table> {
        let fields = self.footer.schema().fields().clone();
        let missing = wanted.into_iter().flatten().find(|name| fields.find(name).is_none());
        if let Some(name) = missing {
            return Err(corrupt(path, format!("it has no column `{name}`")));
        }
        let indices: Vec<usize> = (0..fields.len())
            .filter(|i| wanted.is_none_or(|names| names.contains(&fields[*i].name().as_str())))
            .collect();
        let rows = self.rows(path)?;
        let mut columns = Vec::with_capacity(indices.len());
        for &i in &indices {
            columns.push((fields[i].name().clone(), self.empty_column(path, &fields[i], rows)?));
        }
        let builder = ParquetRecordBatchReaderBuilder::new_with_metadata(self.bytes, self.footer)
            .with_batch_size(BATCH_ROWS);
        // Roots, because a list column is a tree of fields in Parquet.
        let mask = ProjectionMask::roots(builder.parquet_schema(), indices);
        for batch in builder.with_projection(mask).build().map_err(|cause| corrupt(path, cause))? {
            let batch = batch.map_err(|cause| corrupt(path, cause))?;
            for ((name, column), array) in columns.iter_mut().zip(batch.columns()) {
                column
                    .extend(array)
                    .map_err(|reason| corrupt(path, format!("column `{name}` {reason}")))?;
            }
        }
        Ok(Table { columns })
    }

    fn rows(&self, path: &str) -> Result<usize> {
        usize::try_from(self.footer.metadata().file_metadata().num_rows())
            .map_err(|cause| corrupt(path, cause))
    }

    /// Creates an empty column for a field's values.
    fn empty_column(&self, path: &str, field: &Field, rows: usize) -> Result<Column> {
        let name = field.name();
        Ok(match field.data_type() {
            DataType::Float64 => Column::F64(Vec::with_capacity(rows)),
            DataType::Float32 => Column::F32(Vec::with_capacity(rows)),
            DataType::Int64 => Column::I64(Vec::with_capacity(rows)),
            DataType::Utf8 => Column::Text(Vec::with_capacity(rows)),
            DataType::List(item) if *item.data_type() == DataType::Float32 => {
                let missing = format!(
                    "column `{name}` holds lists, but the file's metadata has no entry `{}`",
                    list_size_key(name)
                );
                Column::F32Rows(vec![], self.list_size(name).ok_or_else(|| corrupt(path, missing))?)
            }
            other => return Err(corrupt(path, format!("column `{name}` holds {other}"))),
        })
    }
}

impl Table {
    /// Returns the columns' names.
    pub fn names(&self) -> impl Iterator<Item = &str> {
        self.columns.iter().map(|(name, _)| name.as_str())
    }

    /// Returns the column with this name, if there is one.
    #[must_use]
    pub fn column(&self, name: &str) -> Option<&Column> {
        self.columns.iter().find(|(known, _)| known == name).map(|(_, column)| column)
    }

    /// Returns a column of measurements or counts, or `None` if it is missing or has another type.
    #[must_use]
    pub fn numbers(&self, name: &str) -> Option<Vec<Option<f64>>> {
        match self.column(name)? {
            Column::F64(values) => Some(values.clone()),
            Column::F32(values) => {
                Some(values.iter().map(|value| Some(f64::from(*value))).collect())
            }
            Column::I64(values) => Some(values.iter().map(|value| Some(*value as f64)).collect()),
            _ => None,
        }
    }

    /// Returns a column of whole numbers, or `None` if it is missing or has another type.
    #[must_use]
    pub fn counts(&self, name: &str) -> Option<&[i64]> {
        match self.column(name)? {
            Column::I64(values) => Some(values),
            _ => None,
        }
    }

    /// Returns a column of text, or `None` if it is missing or has another type.
    #[must_use]
    pub fn text(&self, name: &str) -> Option<&[String]> {
        match self.column(name)? {
            Column::Text(values) => Some(values),
            _ => None,
        }
    }

    /// Moves a column of text out of the table. Returns `None` if it is missing or has another
    /// type.
    pub fn take_text(&mut self, name: &str) -> Option<Vec<String>> {
        match &mut self.columns.iter_mut().find(|(known, _)| known == name)?.1 {
            Column::Text(values) => Some(std::mem::take(values)),
            _ => None,
        }
    }
}

impl Column {
    /// Adds values of the column's own type.
    ///
    /// # Errors
    /// Fails on missing values, except for measurements, and on lists of another length.
    fn extend(&mut self, array: &ArrayRef) -> Result<(), String> {
        if array.null_count() > 0 && !matches!(self, Column::F64(_)) {
            return Err("has missing values".into());
        }
        match self {
            Column::F64(values) => values.extend(array.as_primitive::<Float64Type>().iter()),
            Column::F32(values) => {
                values.extend_from_slice(array.as_primitive::<Float32Type>().values())
            }
            Column::I64(values) => {
                values.extend_from_slice(array.as_primitive::<Int64Type>().values())
            }
            Column::Text(values) => values.extend(
                array.as_string::<i32>().iter().map(|text| text.unwrap_or_default().to_owned()),
            ),
            Column::F32Rows(values, width) => values
                .extend_from_slice(elements(array, *width)?.as_primitive::<Float32Type>().values()),
            Column::U64(_) | Column::U32(_) | Column::Bits(_) | Column::Names(..) => {
                unreachable!("`empty_column` creates none of these")
            }
        }
        Ok(())
    }
}

/// Returns the concatenated elements of lists. All must have the length `size`.
pub(super) fn elements(array: &ArrayRef, size: usize) -> Result<ArrayRef, String> {
    let lists = array.as_list::<i32>();
    let offsets = lists.value_offsets();
    let length = |at: &[i32]| (at[1] - at[0]) as usize;
    match offsets.windows(2).map(length).find(|found| *found != size) {
        Some(found) => Err(format!("has a list of {found} values, expected {size}")),
        // An array may be a slice of a longer one: its first list need not begin at element 0.
        None => Ok(lists.values().slice(offsets[0] as usize, lists.len() * size)),
    }
}

#[cfg(test)]
mod tests {
    #![expect(clippy::unwrap_used, reason = "a test may panic")]
    use super::super::write_table;
    use super::*;

    const PATH: &str = "d/data/k/a/metrics.parquet";

    fn workspace() -> (tempfile::TempDir, Store) {
        let folder = tempfile::tempdir().unwrap();
        let store = Store::open(folder.path().to_str().unwrap()).unwrap();
        (folder, store)
    }

    #[test]
    fn a_table_reads_back_equal_with_signed_numbers() {
        let (_folder, store) = workspace();
        let columns = [
            ("step", Column::U64(vec![1, 1 << 40])),
            ("loss", Column::F64(vec![None, Some(0.1 + 0.2)])),
            ("frame_index", Column::U32(vec![7, u32::MAX])),
            ("hash", Column::Bits(vec![3, u64::MAX])),
            ("player", Column::Text(vec!["random".into(), "a \"b\"".into()])),
            ("left_out", Column::Names(vec![1, 0], vec![String::new(), "blank".into()])),
            ("change", Column::F32(vec![0.5, 0.1])),
            ("action", Column::F32Rows(vec![0.5, 1.0, -3.0, 4.0], 2)),
        ];
        write_table(&store, PATH, &columns).unwrap();
        let table = read_table(&store, PATH).unwrap();
        let expected = [
            ("step", Column::I64(vec![1, 1 << 40])),
            columns[1].clone(),
            ("frame_index", Column::I64(vec![7, i64::from(u32::MAX)])),
            ("hash", Column::I64(vec![3, -1])),
            columns[4].clone(),
            ("left_out", Column::Text(vec!["blank".into(), String::new()])),
            columns[6].clone(),
            columns[7].clone(),
        ];
        assert_eq!(table.columns, expected.map(|(name, column)| (name.to_owned(), column)));
        assert_eq!(table.numbers("step"), Some(vec![Some(1.0), Some(2f64.powi(40))]));
        assert_eq!(
            (table.numbers("player"), table.text("loss"), table.counts("hash")),
            (None, None, Some(&[3, -1][..]))
        );
    }

    #[test]
    fn some_columns_are_read_without_the_others() {
        let (_folder, store) = workspace();
        let text = |name: &str| (0..20_000).map(|row| format!("{name} {row}")).collect::<Vec<_>>();
        let columns = [
            ("key", Column::Text(text("k"))),
            ("rows", Column::I64((0..20_000).collect())),
            ("files", Column::Text(text("f"))),
        ];
        write_table(&store, PATH, &columns).unwrap();
        let table = read_columns(&store, PATH, &["files", "key"]).unwrap();
        assert_eq!(table.names().collect::<Vec<_>>(), ["key", "files"]);
        assert_eq!(
            (table.text("key"), table.text("files")),
            (Some(&text("k")[..]), Some(&text("f")[..]))
        );
        let error = read_columns(&store, PATH, &["key", "flies"]).unwrap_err();
        assert!(error.to_string().contains("it has no column `flies`"), "{error}");
        assert_eq!(read_columns(&store, PATH, &[]).unwrap(), Table::default());
    }

    #[test]
    fn an_empty_table_keeps_its_columns() {
        let (_folder, store) = workspace();
        let columns = [("key", Column::Text(vec![])), ("action", Column::F32Rows(vec![], 3))];
        write_table(&store, PATH, &columns).unwrap();
        assert_eq!(
            read_table(&store, PATH).unwrap().columns,
            columns.map(|(name, column)| (name.to_owned(), column))
        );
    }

    #[test]
    fn errors_name_the_column_with_invalid_values() {
        let (_folder, store) = workspace();
        let step = ("step", Column::U64(vec![1, 2]));
        let wrong = [
            (("loss", Column::F64(vec![Some(0.5)])), "column `loss` is 1, expected 2"),
            (
                ("hash", Column::U64(vec![0, u64::MAX])),
                "column `hash` holds 18446744073709551615 in row 1, \
                 expected at most 9223372036854775807",
            ),
            (
                ("action", Column::F32Rows(vec![0.5; 5], 2)),
                "column `action` holds 5 numbers, expected lists of 2",
            ),
            (("name", Column::Names(vec![0, 1], vec!["one".into()])), "column `name`"),
        ];
        for (column, expected) in wrong {
            let error = write_table(&store, PATH, &[step.clone(), column]).unwrap_err();
            assert!(error.to_string().contains(expected), "{error}");
            // The unfinished file is gone.
            assert_eq!(store.list("").unwrap(), Vec::<String>::new());
        }
    }

    #[test]
    fn a_damaged_or_missing_file_is_an_error() {
        let (_folder, store) = workspace();
        store.create(PATH, b"PAR1 not really PAR1").unwrap();
        assert!(matches!(read_table(&store, PATH), Err(Error::Corrupt { .. })));
        assert!(matches!(read_table(&store, "d/none.parquet"), Err(Error::Missing { .. })));
    }
}
