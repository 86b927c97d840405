//! Faults of a pipeline file, gathered: each with file, line, column, key path and a cure, so that one look mends them all.

use std::fmt;

use super::locate::{Part, Place, locate};

/// One thing that is wrong with a pipeline file.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Fault {
    /// The file, as it was named.
    pub file: String,
    /// Where, if it can be said.
    pub place: Option<Place>,
    /// The key path: `stages.labels.label.frames`.
    pub key: String,
    /// What is wrong.
    pub message: String,
    /// What to do.
    pub hint: Option<String>,
    /// Whether waiting may cure it: no video is there yet.
    pub may_pass: bool,
}

impl fmt::Display for Fault {
    fn fmt(&self, f: &mut fmt::Formatter) -> fmt::Result {
        write!(f, "{}", self.file)?;
        if let Some(place) = self.place {
            write!(f, ":{}:{}", place.line, place.column)?;
        }
        let key = if self.key.is_empty() { String::new() } else { format!("{}: ", self.key) };
        write!(f, ": {key}{}", self.message)?;
        self.hint.iter().try_for_each(|hint| write!(f, "\n  hint: {hint}"))
    }
}

/// A pipeline's text and everything found wrong with it so far.
#[derive(Clone, Debug)]
pub struct Faults {
    file: String,
    text: String,
    found: Vec<Fault>,
}

impl Faults {
    /// Nothing found yet. A byte order mark, which Windows' programs write, is no part of the text.
    pub fn new(file: &str, text: &str) -> Self {
        Faults {
            file: file.into(),
            text: text.trim_start_matches('\u{feff}').into(),
            found: Vec::new(),
        }
    }

    /// The text.
    pub fn text(&self) -> &str {
        &self.text
    }

    /// How many so far.
    pub fn count(&self) -> usize {
        self.found.len()
    }

    /// Records a fault at a key path.
    pub fn at(&mut self, path: &[String], part: Part, message: String, hint: Option<String>) {
        let place = locate(&self.text, path, part);
        let fault = Fault {
            file: self.file.clone(),
            place,
            key: path.join("."),
            message,
            hint,
            may_pass: false,
        };
        if !self.found.contains(&fault) {
            self.found.push(fault);
        }
    }

    /// Records that there is no video yet at a key path.
    pub fn none_yet(&mut self, path: &[String], message: String, hint: String) {
        let before = self.found.len();
        self.at(path, Part::Value, message, Some(hint));
        self.found[before..].iter_mut().for_each(|fault| fault.may_pass = true);
    }

    /// Records that the text is not YAML.
    pub fn syntax(&mut self, error: &serde_yaml::Error) {
        let place = error.location().map(|at| Place { line: at.line(), column: at.column() });
        let fault = Fault {
            file: self.file.clone(),
            place,
            key: String::new(),
            message: error.to_string(),
            hint: None,
            may_pass: false,
        };
        self.found.push(fault);
    }

    /// All faults in the file's order, or nothing.
    pub fn into_result(mut self) -> Result<(), Vec<Fault>> {
        self.found.sort_by_key(|fault| fault.place);
        if self.found.is_empty() { Ok(()) } else { Err(self.found) }
    }
}

/// The known word closest to `word`, if one is close enough to be meant.
pub fn similar<'a>(word: &str, known: &[&'a str]) -> Option<&'a str> {
    let score = |k: &&str| strsim::jaro_winkler(word, k);
    known
        .iter()
        .copied()
        .max_by(|a, b| score(a).total_cmp(&score(b)))
        .filter(|best| score(best) > 0.8)
}
