//! Reads the tables that [`write_table`](super::write_table) wrote, column by column.
//!
//! In: a Parquet file's path, and perhaps the names of some columns. Out: [`Table`]. Start at [`read_table`] and [`read_columns`].

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

/// Rows that are decoded at once.
const BATCH_ROWS: usize = 8192;

/// A table, or some of its columns.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct Table {
    columns: Vec<(String, Column)>,
}

/// Reads a whole table into memory.
///
/// # Errors
/// Says whether the file is missing, has another format, is damaged, or holds columns that [`write_table`](super::write_table) never writes.
pub fn read_table(store: &Store, path: &str) -> Result<Table> {
    let parquet = open_parquet(store, path)?;
    parquet.read_columns(path, None)
}

/// Reads some columns of a table into memory; no other column is decoded.
///
/// # Errors
/// Those of [`read_table`], and a column that the table does not have.
pub fn read_columns(store: &Store, path: &str, columns: &[&str]) -> Result<Table> {
    let parquet = open_parquet(store, path)?;
    parquet.read_columns(path, Some(columns))
}

/// A Parquet file of ours whose format was checked.
pub(super) struct OpenParquet {
    bytes: Bytes,
    footer: ArrowReaderMetadata,
    /// The file's own metadata, by key.
    pub metadata: BTreeMap<String, String>,
}

/// Opens a Parquet file and checks that it states the format we write.
pub(super) fn open_parquet(store: &Store, path: &str) -> Result<OpenParquet> {
    let bytes = store.map(path)?;
    let options = ArrowReaderOptions::new().with_skip_arrow_metadata(true);
    let footer =
        ArrowReaderMetadata::load(&bytes, options).map_err(|cause| corrupt(path, cause))?;
    let entries = footer.metadata().file_metadata().key_value_metadata().into_iter().flatten();
    let metadata: BTreeMap<_, _> =
        entries.map(|entry| (entry.key.clone(), entry.value.clone().unwrap_or_default())).collect();
    let format = metadata.get(FORMAT_KEY).and_then(|format| format.parse().ok());
    match format.ok_or_else(|| corrupt(path, "it states no format"))? {
        TABLE_FORMAT => Ok(OpenParquet { bytes, footer, metadata }),
        found => Err(Error::OtherFormat { path: path.to_owned(), found, known: TABLE_FORMAT }),
    }
}

fn corrupt(path: &str, reason: impl std::fmt::Display) -> Error {
    Error::Corrupt { path: path.to_owned(), reason: reason.to_string() }
}

impl OpenParquet {
    /// Returns the columns' types, as the Parquet schema states them.
    pub fn schema(&self) -> &Schema {
        self.footer.schema()
    }

    /// Reads all columns as the types of `schema`, batch by batch.
    pub fn batches(self, path: &str, schema: Schema) -> Result<ParquetRecordBatchReader> {
        let options = ArrowReaderOptions::new().with_schema(schema.into());
        let footer = ArrowReaderMetadata::try_new(self.footer.metadata().clone(), options)
            .map_err(|cause| corrupt(path, cause))?;
        let builder = ParquetRecordBatchReaderBuilder::new_with_metadata(self.bytes, footer)
            .with_batch_size(BATCH_ROWS);
        builder.build().map_err(|cause| corrupt(path, cause))
    }

    /// Returns the bytes of a row before compression, on average.
    pub fn row_bytes(&self) -> usize {
        let bytes: i64 =
            self.footer.metadata().row_groups().iter().map(|group| group.total_byte_size()).sum();
        bytes
            .checked_div(self.footer.metadata().file_metadata().num_rows())
            .map_or(0, |bytes| usize::try_from(bytes).unwrap_or(0))
    }

    /// Returns the columns that are written without a dictionary, since their values hardly ever repeat.
    pub fn columns_without_dictionary(&self) -> Vec<ColumnPath> {
        let columns =
            self.footer.metadata().row_groups().first().map_or(&[][..], |group| group.columns());
        let plain = columns.iter().filter(|column| column.dictionary_page_offset().is_none());
        plain.map(|column| column.column_path().clone()).collect()
    }

    /// Returns the columns as other programs see them.
    #[cfg(test)]
    pub fn parquet_schema(&self) -> parquet::schema::types::Type {
        self.footer.parquet_schema().root_schema().clone()
    }

    /// Returns the length that the metadata states for the lists in a column.
    pub fn list_size(&self, column: &str) -> Option<usize> {
        self.metadata.get(&list_size_key(column))?.parse().ok()
    }

    /// Reads columns, all where none are named, in the file's order.
    fn read_columns(self, path: &str, wanted: Option<&[&str]>) -> Result<Table> {
        let fields = self.footer.schema().fields().clone();
        let missing = wanted.into_iter().flatten().find(|name| fields.find(name).is_none());
        if let Some(name) = missing {
            return Err(corrupt(path, format!("it has no column `{name}`")));
        }
        let places: Vec<usize> = (0..fields.len())
            .filter(|at| wanted.is_none_or(|names| names.contains(&fields[*at].name().as_str())))
            .collect();
        let rows = self.rows(path)?;
        let empty =
            |at: &usize| Ok((fields[*at].name().clone(), self.empty(path, &fields[*at], rows)?));
        let mut columns = places.iter().map(empty).collect::<Result<Vec<_>>>()?;
        let builder = ParquetRecordBatchReaderBuilder::new_with_metadata(self.bytes, self.footer)
            .with_batch_size(BATCH_ROWS);
        let mask = ProjectionMask::roots(builder.parquet_schema(), places);
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

    /// Makes the column that a field's values go into.
    fn empty(&self, path: &str, field: &Field, rows: usize) -> Result<Column> {
        let name = field.name();
        Ok(match field.data_type() {
            DataType::Float64 => Column::F64(Vec::with_capacity(rows)),
            DataType::Float32 => Column::F32(Vec::with_capacity(rows)),
            DataType::Int64 => Column::I64(Vec::with_capacity(rows)),
            DataType::Utf8 => Column::Text(Vec::with_capacity(rows)),
            DataType::List(item) if *item.data_type() == DataType::Float32 => {
                let stated = format!(
                    "column `{name}` holds lists, and the file's metadata does not state `{}`",
                    list_size_key(name)
                );
                Column::F32Rows(vec![], self.list_size(name).ok_or_else(|| corrupt(path, stated))?)
            }
            other => return Err(corrupt(path, format!("column `{name}` holds {other}"))),
        })
    }
}

impl Table {
    /// Lists the names of the columns.
    pub fn names(&self) -> impl Iterator<Item = &str> {
        self.columns.iter().map(|(name, _)| name.as_str())
    }

    /// Returns a column, if there is one of this name.
    #[must_use]
    pub fn column(&self, name: &str) -> Option<&Column> {
        self.columns.iter().find(|(known, _)| known == name).map(|(_, column)| column)
    }

    /// Returns a column as measurements, counts included; `None` if there is no such column or it holds text or lists.
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

    /// Returns a column of whole numbers; `None` if there is no such column or it holds something else.
    #[must_use]
    pub fn counts(&self, name: &str) -> Option<&[i64]> {
        match self.column(name)? {
            Column::I64(values) => Some(values),
            _ => None,
        }
    }

    /// Returns a column of text; `None` if there is no such column or it holds numbers.
    #[must_use]
    pub fn text(&self, name: &str) -> Option<&[String]> {
        match self.column(name)? {
            Column::Text(values) => Some(values),
            _ => None,
        }
    }

    /// Takes a column of text out; `None` if there is no such column or it holds numbers.
    pub fn take_text(&mut self, name: &str) -> Option<Vec<String>> {
        match &mut self.columns.iter_mut().find(|(known, _)| known == name)?.1 {
            Column::Text(values) => Some(std::mem::take(values)),
            _ => None,
        }
    }
}

impl Column {
    /// Adds values of the column's own type, or says why they are none.
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
                unreachable!("`empty` makes none")
            }
        }
        Ok(())
    }
}

/// Returns the elements of lists that all have the length `size`.
pub(super) fn elements(array: &ArrayRef, size: usize) -> Result<ArrayRef, String> {
    let lists = array.as_list::<i32>();
    let offsets = lists.value_offsets();
    let length = |at: &[i32]| (at[1] - at[0]) as usize;
    match offsets.windows(2).map(length).find(|found| *found != size) {
        Some(found) => Err(format!("has a list of {found} values, expected {size}")),
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
    fn a_table_comes_back_as_it_was_with_signed_numbers() {
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
    fn what_a_table_cannot_hold_is_refused_by_name() {
        let (_folder, store) = workspace();
        let step = ("step", Column::U64(vec![1, 2]));
        let wrong = [
            (("loss", Column::F64(vec![Some(0.5)])), "column `loss` is 1, expected 2"),
            (
                ("hash", Column::U64(vec![0, u64::MAX])),
                "column `hash` holds 18446744073709551615 in row 1, expected at most 9223372036854775807",
            ),
            (
                ("action", Column::F32Rows(vec![0.5; 5], 2)),
                "column `action` holds 5 numbers, expected lists of 2",
            ),
            (("name", Column::Names(vec![0, 1], vec!["one".into()])), "column `name`"),
        ];
        for (column, said) in wrong {
            let error = write_table(&store, PATH, &[step.clone(), column]).unwrap_err();
            assert!(error.to_string().contains(said), "{error}");
            assert_eq!(store.list("").unwrap(), Vec::<String>::new());
        }
    }

    #[test]
    fn a_file_that_is_no_table_is_refused() {
        let (_folder, store) = workspace();
        store.create(PATH, b"PAR1 not really PAR1").unwrap();
        assert!(matches!(read_table(&store, PATH), Err(Error::Corrupt { .. })));
        assert!(matches!(read_table(&store, "d/none.parquet"), Err(Error::Missing { .. })));
    }
}
