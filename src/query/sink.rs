//! The formats of a query's rows, and the sinks that write them batch by batch.

use std::cell::RefCell;
use std::io::Write;
use std::rc::Rc;

use polars::io::parquet::write::BatchedWriter;
use polars::prelude::{AnyValue, DataFrame, PolarsError};

use super::text;
use super::{Error, Result};

/// An output format.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub enum Format {
    /// Aligned columns for reading.
    #[default]
    Table,
    /// Comma-separated values with a header. Lists are JSON arrays in quotes. Text gets a leading
    /// apostrophe if a spreadsheet would evaluate it as a formula.
    Csv,
    /// One JSON array of objects.
    Json,
    /// One JSON object per line.
    JsonLines,
    /// A Parquet file.
    Parquet,
}

/// A writer of rows.
pub(super) trait Sink {
    /// Writes or collects the next rows.
    fn rows(&mut self, rows: &DataFrame) -> Result<()>;
    /// Writes the rest after the last rows.
    fn finish(self: Box<Self>) -> Result<()>;
}

/// Writes rows as text, batch by batch.
pub(super) struct TextSink<'a> {
    pub(super) out: &'a mut (dyn Write + 'a),
    /// The keys of a JSON object, each with a colon. Empty for CSV.
    pub(super) names: Vec<String>,
    pub(super) style: Style,
    /// Whether any row was written.
    pub(super) any: bool,
}

#[derive(Clone, Copy, PartialEq, Eq)]
pub(super) enum Style {
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
            // Bound the buffer: a batch of long lists can be large.
            if bytes.len() >= 1 << 16 {
                self.out.write_all(&bytes).map_err(write_error)?;
                bytes.clear();
            }
        }
        self.out.write_all(&bytes).map_err(write_error)
    }

    fn finish(self: Box<Self>) -> Result<()> {
        match (self.style, self.any) {
            (Style::Json, true) => self.out.write_all(b"]\n").map_err(write_error),
            // No row opened the array.
            (Style::Json, false) => self.out.write_all(b"[]\n").map_err(write_error),
            (Style::Csv | Style::JsonLines, _) => Ok(()),
        }
    }
}

impl TextSink<'_> {
    /// Formats one row. `next` returns the value of a column.
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

/// Writes rows as row groups of one file.
pub(super) struct ParquetSink<'a> {
    pub(super) writer: BatchedWriter<ErrorKeeper<'a>>,
    pub(super) cause: Cause,
}

/// The first error of an [`ErrorKeeper`].
pub(super) type Cause = Rc<RefCell<Option<std::io::Error>>>;

/// Keeps the error of its writer, because the Parquet writer reports it only as text.
pub(super) struct ErrorKeeper<'a> {
    pub(super) out: &'a mut (dyn Write + 'a),
    pub(super) cause: Cause,
}

impl Write for ErrorKeeper<'_> {
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
        // Every chunk would become a row group of its own.
        rows.rechunk_mut();
        self.writer.write_batch(&rows).map_err(|error| parquet_error(&self.cause, &error))
    }

    fn finish(self: Box<Self>) -> Result<()> {
        self.writer.finish().map(|_| ()).map_err(|error| parquet_error(&self.cause, &error))
    }
}

/// Creates the error of a failed write.
pub(super) fn write_error(cause: std::io::Error) -> Error {
    Error::Write(cause.into())
}

/// Returns the error of the underlying writer if there is one, or else the Parquet writer's.
pub(super) fn parquet_error(cause: &Cause, error: &PolarsError) -> Error {
    match cause.borrow_mut().take() {
        Some(cause) => write_error(cause),
        None => Error::Format { format: "parquet", cause: error.to_string() },
    }
}
