//! Rows on their way out, batch by batch.
//!
//! In: batches of rows. Out: bytes in a [`Format`]. Start at [`open`].

use std::cell::RefCell;
use std::io::Write;
use std::rc::Rc;

use polars::io::parquet::write::BatchedWriter;
use polars::prelude::{AnyValue, DataFrame, ParquetWriter, PolarsError, Schema};

use super::print::TableSink;
use super::text;
use super::{Error, Result};

/// A way to write rows.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub enum Format {
    /// Aligned columns, for people.
    #[default]
    Table,
    /// Comma-separated values with a header; a list is a JSON array in quotes. Text that a spreadsheet would take for a formula gets a
    /// leading apostrophe.
    Csv,
    /// One array of objects.
    Json,
    /// One object a line.
    JsonLines,
    /// A Parquet file.
    Parquet,
}

/// What takes rows and writes them.
pub(super) trait Sink {
    /// Takes the next rows.
    fn rows(&mut self, rows: &DataFrame) -> Result<()>;
    /// Writes what is left once all rows are there.
    fn finish(self: Box<Self>) -> Result<()>;
}

/// Begins to write rows of these columns.
pub(super) fn open<'a>(
    format: Format,
    schema: &Schema,
    out: &'a mut (dyn Write + 'a),
) -> Result<Box<dyn Sink + 'a>> {
    Ok(match format {
        Format::Table => Box::new(TableSink::new(schema, out)),
        Format::Csv => {
            let mut header = Vec::new();
            let names: Vec<&str> = schema.iter_names().map(|name| name.as_str()).collect();
            text::line(&mut header, names.len(), |out, column| text::csv_text(out, names[column]));
            out.write_all(&header).map_err(stopped)?;
            Box::new(TextSink { out, names: vec![], style: Style::Csv, any: false })
        }
        Format::Json | Format::JsonLines => {
            let names = schema
                .iter_names()
                .map(|name| format!("{}:", serde_json::Value::from(name.as_str())))
                .collect();
            let style = if format == Format::Json { Style::Json } else { Style::JsonLines };
            Box::new(TextSink { out, names, style, any: false })
        }
        Format::Parquet => {
            let cause = Rc::default();
            let writer =
                ParquetWriter::new(Watched { out, cause: Rc::clone(&cause) }).batched(schema);
            Box::new(ParquetSink { writer: writer.map_err(|error| failed(&cause, &error))?, cause })
        }
    })
}

/// Rows as text, which is written batch by batch.
struct TextSink<'a> {
    out: &'a mut (dyn Write + 'a),
    /// The keys of an object, as JSON with a colon; CSV has none.
    names: Vec<String>,
    style: Style,
    /// Whether a row was written.
    any: bool,
}

#[derive(Clone, Copy, PartialEq, Eq)]
enum Style {
    Csv,
    Json,
    JsonLines,
}

impl Sink for TextSink<'_> {
    fn rows(&mut self, rows: &DataFrame) -> Result<()> {
        let mut bytes = Vec::new();
        let mut columns: Vec<_> =
            rows.columns().iter().map(|column| column.as_materialized_series().rechunk()).collect();
        let mut columns: Vec<_> = columns.iter_mut().map(|column| column.iter()).collect();
        for _ in 0..rows.height() {
            let next = |column: usize| columns[column].next().unwrap_or(AnyValue::Null);
            self.row(&mut bytes, rows.width(), next);
            if bytes.len() >= 1 << 16 {
                self.out.write_all(&bytes).map_err(stopped)?;
                bytes.clear();
            }
        }
        self.out.write_all(&bytes).map_err(stopped)
    }

    fn finish(self: Box<Self>) -> Result<()> {
        match (self.style, self.any) {
            (Style::Json, true) => self.out.write_all(b"]\n").map_err(stopped),
            (Style::Json, false) => self.out.write_all(b"[]\n").map_err(stopped),
            (Style::Csv | Style::JsonLines, _) => Ok(()),
        }
    }
}

impl TextSink<'_> {
    fn row<'v>(
        &mut self,
        out: &mut Vec<u8>,
        width: usize,
        mut next: impl FnMut(usize) -> AnyValue<'v>,
    ) {
        if self.style == Style::Csv {
            return text::line(out, width, |out, column| text::csv(out, &next(column)));
        }
        if self.style == Style::Json {
            out.push(if self.any { b',' } else { b'[' });
        }
        self.any = true;
        out.push(b'{');
        for (column, name) in self.names.iter().enumerate() {
            if column > 0 {
                out.push(b',');
            }
            out.extend_from_slice(name.as_bytes());
            text::json(out, &next(column));
        }
        out.push(b'}');
        if self.style == Style::JsonLines {
            out.push(b'\n');
        }
    }
}

/// Rows as row groups of one file.
struct ParquetSink<'a> {
    writer: BatchedWriter<Watched<'a>>,
    cause: Cause,
}

/// The first error of a [`Watched`].
type Cause = Rc<RefCell<Option<std::io::Error>>>;

/// Keeps the error of what it writes to: Parquet's writer tells it as text only.
struct Watched<'a> {
    out: &'a mut (dyn Write + 'a),
    cause: Cause,
}

impl Write for Watched<'_> {
    fn write(&mut self, bytes: &[u8]) -> std::io::Result<usize> {
        self.out
            .write(bytes)
            .inspect_err(|error| *self.cause.borrow_mut() = Some(error.kind().into()))
    }

    fn flush(&mut self) -> std::io::Result<()> {
        self.out.flush().inspect_err(|error| *self.cause.borrow_mut() = Some(error.kind().into()))
    }
}

impl Sink for ParquetSink<'_> {
    fn rows(&mut self, rows: &DataFrame) -> Result<()> {
        let mut rows = rows.clone();
        rows.rechunk_mut();
        self.writer.write_batch(&rows).map_err(|error| failed(&self.cause, &error))
    }

    fn finish(self: Box<Self>) -> Result<()> {
        self.writer.finish().map(|_| ()).map_err(|error| failed(&self.cause, &error))
    }
}

/// Tells why bytes could not be written.
pub(super) fn stopped(cause: std::io::Error) -> Error {
    Error::Write(cause.into())
}

fn failed(cause: &Cause, error: &PolarsError) -> Error {
    match cause.borrow_mut().take() {
        Some(cause) => stopped(cause),
        None => Error::Format { format: "parquet", cause: error.to_string() },
    }
}
