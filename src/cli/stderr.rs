//! Progress and errors on stderr. All other modules write to stderr through this one.
//!
//! stderr may close at any time (`2>&1 | head -1`, a dead log collector, a full disk). Failed
//! writes are ignored, and the command continues.

use std::fmt::Display;
use std::io::Write;

/// Writes one line.
pub fn line(text: impl Display) {
    // One write for the whole line, so that lines of several threads do not mix.
    write(&format!("{text}\n"));
}

/// Writes text without adding a newline.
pub fn write(text: &str) {
    let mut stderr = std::io::stderr().lock();
    _ = stderr.write_all(text.as_bytes()).and_then(|()| stderr.flush());
}
