//! The formats of `lapo query`, chosen by `--format` or by the suffix of the output file.

use std::path::Path;

use clap::ValueEnum;

use crate::query::Format;

/// How rows are printed.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub enum RowFormat {
    /// A table for people
    Table,
    /// Comma-separated values; text that a spreadsheet would run as a formula gets an apostrophe
    Csv,
    /// One JSON array
    Json,
    /// One JSON object per line
    #[value(alias = "ndjson")]
    Jsonl,
    /// A Parquet file
    Parquet,
}

impl RowFormat {
    /// Returns the format of a file's suffix, in upper or lower case.
    pub fn from_suffix(path: &str) -> Option<Self> {
        let suffix = Path::new(path).extension()?.to_str()?;
        // Suffixes are the values of `--format`, aliases included.
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
