//! Rows as people and programs read them.
//!
//! In: [`Rows`]. Out: text or bytes. Start at [`write`].

use std::fmt::Write as _;
use std::io::Write;

use polars::prelude::{AnyValue, Column, CsvWriter, DataFrame, DataType, ParquetWriter, PolarsError, SerWriter};

use super::{Error, Result, Rows};

/// How many values of a list a table shows.
const LIST_SHOWN: usize = 3;

/// A way to write rows.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub enum Format {
    /// Aligned columns, for people.
    #[default]
    Table,
    /// Comma-separated values with a header; a list is a JSON array in quotes.
    Csv,
    /// One array of objects.
    Json,
    /// A Parquet file.
    Parquet,
}

/// Writes rows in a format.
pub fn write(rows: &Rows, format: Format, out: &mut dyn Write) -> Result<()> {
    match format {
        Format::Table => out.write_all(table(&rows.0).as_bytes()).map_err(|cause| Error::Write(cause.into())),
        Format::Csv => CsvWriter::new(out).finish(&mut flat(&rows.0)?).map_err(failed("csv")),
        Format::Json => objects(&rows.0, out).map_err(|cause| Error::Write(cause.into())),
        Format::Parquet => ParquetWriter::new(out).finish(&mut rows.0.clone()).map(|_| ()).map_err(failed("parquet")),
    }
}

/// All rows, aligned: numbers to the right, text to the left, two spaces between.
fn table(rows: &DataFrame) -> String {
    let columns: Vec<(Vec<String>, bool)> = rows.columns().iter().map(|column| (cells(column), is_number(column))).collect();
    let widths: Vec<usize> = columns.iter().map(|(cells, _)| cells.iter().map(|cell| cell.chars().count()).max().unwrap_or(0)).collect();
    let mut text = String::new();
    for line in 0..=rows.height() {
        let mut row = String::new();
        for ((cells, is_number), width) in columns.iter().zip(&widths) {
            let cell = &cells[line];
            let written = if *is_number { write!(row, "{cell:>width$}  ") } else { write!(row, "{cell:<width$}  ") };
            written.expect("a string grows as needed");
        }
        text.push_str(row.trim_end());
        text.push('\n');
    }
    text
}

/// A column's name and its values, as a table shows them.
fn cells(column: &Column) -> Vec<String> {
    let values = (0..column.len()).map(|row| cell(&column.get(row).unwrap_or(AnyValue::Null)));
    std::iter::once(column.name().to_string()).chain(values).collect()
}

fn cell(value: &AnyValue) -> String {
    match value {
        AnyValue::Null => "-".to_owned(),
        AnyValue::Float32(number) => decimal(f64::from(*number)),
        AnyValue::Float64(number) => decimal(*number),
        AnyValue::Array(items, _) | AnyValue::List(items) => {
            let shown: Vec<String> = items.iter().take(LIST_SHOWN).map(|item| cell(&item)).collect();
            let rest = items.len().saturating_sub(LIST_SHOWN);
            let rest = if rest > 0 { format!(", +{rest}") } else { String::new() };
            format!("[{}{rest}]", shown.join(", "))
        }
        other => other.str_value().into_owned(),
    }
}

/// A number to six significant digits, in the shorter of the two notations.
fn decimal(number: f64) -> String {
    let magnitude = number.abs();
    if number == 0.0 || !number.is_finite() || (1e-4..1e9).contains(&magnitude) {
        let places = if magnitude >= 1.0 { 6 - magnitude.log10().floor().min(5.0) as usize } else { 7 };
        let text = format!("{number:.places$}");
        return if text.contains('.') { text.trim_end_matches('0').trim_end_matches('.').to_owned() } else { text };
    }
    format!("{number:.5e}")
}

fn is_number(column: &Column) -> bool {
    column.dtype().is_primitive_numeric()
}

/// An array of one object a row. Written here, since polars' own writer brings a second and a third JSON library to build.
fn objects(rows: &DataFrame, out: &mut dyn Write) -> std::io::Result<()> {
    for row in 0..rows.height() {
        let fields = rows.columns().iter().map(|column| {
            let name = serde_json::Value::from(column.name().as_str());
            format!("{name}:{}", json(&column.get(row).unwrap_or(AnyValue::Null)))
        });
        write!(out, "{}{{{}}}", if row == 0 { '[' } else { ',' }, fields.collect::<Vec<_>>().join(","))?;
    }
    out.write_all(if rows.height() == 0 { b"[]\n" } else { b"]\n" })
}

/// The rows with every list written as JSON text: CSV knows no lists.
fn flat(rows: &DataFrame) -> Result<DataFrame> {
    let columns = rows.columns().iter().map(|column| match column.dtype() {
        DataType::Array(..) | DataType::List(_) => {
            let values = (0..column.len()).filter_map(|row| column.get(row).ok());
            let values = values.map(|value| (!value.is_null()).then(|| json(&value)));
            Column::new(column.name().clone(), values.collect::<Vec<Option<String>>>())
        }
        _ => column.clone(),
    });
    DataFrame::new(rows.height(), columns.collect()).map_err(failed("csv"))
}

/// A value as JSON text, numbers to the last digit.
fn json(value: &AnyValue) -> String {
    match value {
        AnyValue::Array(items, _) | AnyValue::List(items) => {
            let items: Vec<String> = items.iter().map(|item| json(&item)).collect();
            format!("[{}]", items.join(","))
        }
        AnyValue::Float32(number) if number.is_finite() => format!("{number:?}"),
        AnyValue::Float64(number) if number.is_finite() => format!("{number:?}"),
        AnyValue::Null | AnyValue::Float32(_) | AnyValue::Float64(_) => "null".to_owned(),
        AnyValue::Boolean(_) => value.str_value().into_owned(),
        number if number.is_integer() => number.str_value().into_owned(),
        text => serde_json::Value::from(text.str_value().as_ref()).to_string(),
    }
}

fn failed(format: &'static str) -> impl FnOnce(PolarsError) -> Error {
    move |cause| match cause {
        PolarsError::IO { error, .. } => Error::Write(error),
        other => Error::Format { format, cause: other.to_string() },
    }
}
