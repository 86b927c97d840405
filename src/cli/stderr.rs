//! What people and machines are told on the way: the only place that writes to stderr.
//!
//! stderr may go away at any time (`2>&1 | head -1`, a log collector that dies, a full disk): what cannot be written is dropped, and the
//! command goes on.

use std::fmt::Display;
use std::io::Write;

/// Writes one line.
pub fn line(text: impl Display) {
    // One write for the whole line, so that lines of several threads do not mix.
    write(&format!("{text}\n"));
}

/// Writes text as it is.
pub fn write(text: &str) {
    let mut stderr = std::io::stderr().lock();
    _ = stderr.write_all(text.as_bytes()).and_then(|()| stderr.flush());
}
