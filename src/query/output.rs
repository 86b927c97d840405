//! Writes the rows of a query in a [`Format`]. Start at [`write`].

use std::io::Write;
use std::rc::Rc;

use polars::prelude::{ParquetWriter, Schema};

use super::print::TableSink;
use super::sink::{
    ErrorKeeper, Format, ParquetSink, Sink, Style, TextSink, parquet_error, write_error,
};
use super::{Result, Rows, text};

/// Writes rows in a format.
///
/// # Errors
/// Fails if writing to `out` fails.
pub fn write(rows: &Rows, format: Format, out: &mut dyn Write) -> Result<()> {
    let mut sink = open(format, rows.0.schema(), out)?;
    sink.rows(&rows.0)?;
    sink.finish()
}

/// Opens a sink for rows with these columns.
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
            out.write_all(&header).map_err(write_error)?;
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
                ParquetWriter::new(ErrorKeeper { out, cause: Rc::clone(&cause) }).batched(schema);
            Box::new(ParquetSink {
                writer: writer.map_err(|error| parquet_error(&cause, &error))?,
                cause,
            })
        }
    })
}
