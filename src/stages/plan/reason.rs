//! Why a task is new.

use std::cmp::Ordering;
use std::fmt;

use serde::{Serialize, Serializer};

/// Why a task is new. Reasons are ordered by their texts and serialised as texts.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Reason {
    /// The stage has no receipt.
    NeverDone,
    /// Each setting and each input has a receipt, but not in this combination.
    NeverDoneWithTheseInputs,
    /// A setting differs from the most similar receipt.
    Setting {
        /// The setting.
        name: String,
        /// Its old value as JSON; `None` if the setting did not exist.
        old: Option<String>,
        /// Its new value as JSON.
        new: String,
    },
    /// An input, or its stage, is new.
    NewInput(String),
    /// The user asked for it with `--refresh`.
    Refresh,
}

impl Reason {
    /// Creates the reason for a new input.
    pub fn new_input(name: impl Into<String>) -> Self {
        Reason::NewInput(name.into())
    }
}

impl fmt::Display for Reason {
    fn fmt(&self, f: &mut fmt::Formatter) -> fmt::Result {
        match self {
            Reason::NeverDone => f.write_str("never done"),
            Reason::NeverDoneWithTheseInputs => f.write_str("never done with these inputs"),
            Reason::Setting { name, old: None, new } => write!(f, "{name}: {new}"),
            Reason::Setting { name, old: Some(old), new } => write!(f, "{name}: {old} -> {new}"),
            Reason::NewInput(name) => write!(f, "new {name}"),
            Reason::Refresh => f.write_str("asked for by --refresh"),
        }
    }
}

impl Ord for Reason {
    fn cmp(&self, other: &Self) -> Ordering {
        // Most tasks of a stage have one reason: its text is made only where two differ.
        if self == other {
            return Ordering::Equal;
        }
        self.to_string().cmp(&other.to_string())
    }
}

impl PartialOrd for Reason {
    fn partial_cmp(&self, other: &Self) -> Option<Ordering> {
        Some(self.cmp(other))
    }
}

impl Serialize for Reason {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_str(self)
    }
}
