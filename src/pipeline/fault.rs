//! Faults of a pipeline file, each with file, line, column, key path and a hint. A user can fix all
//! of them at once.
//!
//! The parser and the checks report faults by key path only. [`Faults::into_result`] looks up the
//! lines and columns once, when all faults are known.

use std::fmt;

use super::locate::{Part, Place, locate};

/// An error in a pipeline file.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Fault {
    /// The path of the file, as the user wrote it.
    pub file: String,
    /// Line and column, if known.
    pub place: Option<Place>,
    /// The key path, such as `stages.labels.label.frames`.
    pub key: String,
    /// The error message. It follows the key.
    pub message: String,
    /// Advice for the user, if there is any.
    pub hint: Option<String>,
    /// Whether the fault may disappear by itself, because the videos do not exist yet.
    pub may_pass: bool,
}

impl fmt::Display for Fault {
    fn fmt(&self, f: &mut fmt::Formatter) -> fmt::Result {
        write!(f, "{}", self.file)?;
        if let Some(place) = self.place {
            write!(f, ":{}:{}", place.line, place.column)?;
        }
        // Syntax errors have no key.
        let key = if self.key.is_empty() { String::new() } else { format!("{}: ", self.key) };
        write!(f, ": {key}{}", self.message)?;
        if let Some(hint) = &self.hint {
            write!(f, "\n  hint: {hint}")?;
        }
        Ok(())
    }
}

/// The text of a pipeline and its faults so far.
#[derive(Clone, Debug)]
pub struct Faults {
    file: String,
    text: String,
    reports: Vec<Report>,
}

/// A fault without its place.
#[derive(Clone, Debug, PartialEq, Eq)]
struct Report {
    position: Position,
    key: Vec<String>,
    message: String,
    hint: Option<String>,
    may_pass: bool,
}

/// How to find the place of a report.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Position {
    /// Look up the key path.
    Entry(Part),
    /// The YAML parser gave the place, or has none.
    Parsed(Option<Place>),
}

impl Faults {
    /// Creates an empty list of faults of a file.
    ///
    /// A byte order mark, as written by programs on Windows, is not part of the text.
    pub fn new(file: &str, text: &str) -> Self {
        Faults {
            file: file.into(),
            text: text.trim_start_matches('\u{feff}').into(),
            reports: Vec::new(),
        }
    }

    /// Returns the text of the file.
    pub fn text(&self) -> &str {
        &self.text
    }

    /// Returns the number of faults so far.
    pub fn count(&self) -> usize {
        self.reports.len()
    }

    /// Reports a fault of a key: it is unknown, missing or misplaced.
    pub fn at_key(&mut self, path: &[String], message: impl Into<String>, hint: Option<String>) {
        self.report(Position::Entry(Part::Key), path, message.into(), hint, false);
    }

    /// Reports a fault of a value.
    pub fn at_value(&mut self, path: &[String], message: impl Into<String>, hint: Option<String>) {
        self.report(Position::Entry(Part::Value), path, message.into(), hint, false);
    }

    /// Reports a value without a video. The fault may pass, because videos can arrive later.
    pub fn no_video_yet(&mut self, path: &[String], message: String, hint: String) {
        self.report(Position::Entry(Part::Value), path, message, Some(hint), true);
    }

    /// Reports that the text is not YAML.
    pub fn syntax(&mut self, error: &serde_yaml::Error) {
        let place = error.location().map(|at| Place { line: at.line(), column: at.column() });
        self.report(Position::Parsed(place), &[], error.to_string(), None, false);
    }

    fn report(
        &mut self,
        position: Position,
        path: &[String],
        message: String,
        hint: Option<String>,
        may_pass: bool,
    ) {
        let report = Report { position, key: path.to_vec(), message, hint, may_pass };
        if !self.reports.contains(&report) {
            self.reports.push(report);
        }
    }

    /// Finds the places of all faults and returns them in the file's order.
    pub fn into_result(self) -> Result<(), Vec<Fault>> {
        let mut faults: Vec<Fault> = Vec::new();
        for Report { position, key, message, hint, may_pass } in self.reports {
            let place = match position {
                Position::Entry(part) => locate(&self.text, &key, part),
                Position::Parsed(place) => place,
            };
            let file = self.file.clone();
            let fault = Fault { file, place, key: key.join("."), message, hint, may_pass };
            // A fault of a key and one of its value can fall onto the same place.
            if !faults.contains(&fault) {
                faults.push(fault);
            }
        }
        // The sort is stable: faults at one place stay in the order of the checks.
        faults.sort_by_key(|fault| fault.place);
        if faults.is_empty() { Ok(()) } else { Err(faults) }
    }
}

/// Returns the most similar known word, if one is similar enough.
pub fn similar<'a>(word: &str, known: &[&'a str]) -> Option<&'a str> {
    let score = |k: &&str| strsim::jaro_winkler(word, k);
    known
        .iter()
        .copied()
        .max_by(|a, b| score(a).total_cmp(&score(b)))
        .filter(|best| score(best) > 0.8)
}
