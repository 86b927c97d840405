//! How `lapo query` prints rows. In: a word, or the suffix of a file; out: [`RowFormat`].

use std::path::Path;

use clap::ValueEnum;

use crate::query::Format;

/// How rows are printed.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub enum RowFormat {
    /// A table for people
    Table,
    /// Comma-separated values; text that a spreadsheet would run as a formula gets a leading apostrophe
    Csv,
    /// One JSON array
    Json,
    /// One JSON object a line
    #[value(alias = "ndjson")]
    Jsonl,
    /// A Parquet file
    Parquet,
}

impl RowFormat {
    /// Returns the format that the suffix of a file names, in any case.
    pub fn of_file(path: &str) -> Option<Self> {
        let suffix = Path::new(path).extension()?.to_str()?;
        Self::from_str(suffix, true).ok()
    }
}

impl From<RowFormat> for Format {
    fn from(format: RowFormat) -> Self {
        match format {
            RowFormat::Table => Format::Table,
            RowFormat::Csv => Format::Csv,
            RowFormat::Json => Format::Json,
            RowFormat::Jsonl => Format::JsonLines,
            RowFormat::Parquet => Format::Parquet,
        }
    }
}
