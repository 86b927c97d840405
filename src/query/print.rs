//! Prints rows as an aligned table.

use std::fmt::Write as _;
use std::io::Write;

use polars::prelude::{AnyValue, DataFrame, Schema};

use super::sink::{Sink, write_error};
use super::{Result, text};

/// Collects all rows of a table before it writes them, because the width of a column depends on all
/// its cells.
pub(super) struct TableSink<'a> {
    out: &'a mut (dyn Write + 'a),
    columns: Vec<Cells>,
}

/// A column: its name and its values, as text.
struct Cells {
    cells: Vec<String>,
    is_number: bool,
}

impl<'a> TableSink<'a> {
    pub fn new(schema: &Schema, out: &'a mut (dyn Write + 'a)) -> Self {
        let column = |(name, kind): (&polars::prelude::PlSmallStr, &polars::prelude::DataType)| {
            Cells { cells: vec![text::printable(name)], is_number: kind.is_primitive_numeric() }
        };
        Self { out, columns: schema.iter().map(column).collect() }
    }
}

impl Sink for TableSink<'_> {
    fn rows(&mut self, rows: &DataFrame) -> Result<()> {
        for (column, values) in self.columns.iter_mut().zip(rows.columns()) {
            let values =
                (0..values.len()).map(|row| text::cell(&values.get(row).unwrap_or(AnyValue::Null)));
            column.cells.extend(values);
        }
        Ok(())
    }

    fn finish(self: Box<Self>) -> Result<()> {
        self.out.write_all(aligned(&self.columns).as_bytes()).map_err(write_error)
    }
}

/// Returns the rows as text: numbers aligned right, text left, with two spaces in between.
fn aligned(columns: &[Cells]) -> String {
    let widths: Vec<usize> = columns
        .iter()
        .map(|column| column.cells.iter().map(|cell| cell.chars().count()).max().unwrap_or(0))
        .collect();
    let mut text = String::new();
    for line in 0..columns.first().map_or(0, |column| column.cells.len()) {
        let mut row = String::new();
        for (Cells { cells, is_number }, width) in columns.iter().zip(&widths) {
            let cell = &cells[line];
            let written = if *is_number {
                write!(row, "{cell:>width$}  ")
            } else {
                write!(row, "{cell:<width$}  ")
            };
            written.expect("a string grows as needed");
        }
        // The last column needs no padding.
        text.push_str(row.trim_end());
        text.push('\n');
    }
    text
}
