//! Data that commands print on stdout, as a table or as JSON.

use std::io::Write;

use serde::Serialize;

use super::flags::Format;
use crate::error::CommandError as Error;
use crate::error::Result;

/// Prints text on stdout.
pub fn print(text: &str) -> Result<()> {
    let mut out = std::io::stdout().lock();
    // Flush here: errors of a flush at exit would be lost.
    let written = out.write_all(text.as_bytes()).and_then(|()| out.flush());
    written.map_err(|source| Error::Output { to: "stdout".into(), source })?;
    Ok(())
}

/// Prints a value on stdout, as JSON or as the text that `table` returns.
pub fn print_as<T: Serialize>(
    format: Format,
    value: &T,
    table: impl FnOnce(&T) -> String,
) -> Result<()> {
    print(&match format {
        Format::Json => format!("{:#}\n", serde_json::json!(value)),
        Format::Table => table(value),
    })
}
