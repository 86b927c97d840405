//! Pins: files in `pins/` that name versions and tasks which garbage collection must keep.
//!
//! A run, a handed-out plan or a reader creates a pin with [`pin`]. A pin ends when it is released, when it expires, or when the process
//! that made it ends.
//!
//! **Pin first, then check.** A process pins a receipt or a version, and then checks that it still exists. The collector deletes receipts
//! and manifests first, then reads the pins again, and restores what is pinned. In either order of these steps the pinned data are kept.

use std::collections::BTreeMap;
use std::hash::{BuildHasher, Hasher, RandomState};
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use serde::{Deserialize, Serialize};

use super::error::{Error, Result};
use super::manifest::{at, manifest_path};
use super::process::Process;
use super::receipt::{read_many, to_json};
use super::store::Store;

/// How long a run's or a plan's pin holds, unless it is released before: a month.
pub const RUN: Duration = Duration::from_secs(30 * 86_400);
/// How long a reader's pin holds: an hour.
pub const READER: Duration = Duration::from_secs(3_600);

/// One file of `pins/`.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Pin {
    /// The version of this file's format: [`super::FORMAT`].
    pub format: u32,
    /// The run that needs it, or the reader.
    pub run: String,
    /// The process that needs it; `None` of a plan that is out, which many processes work on.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub process: Option<Process>,
    /// From when on it no longer counts, in seconds since 1970.
    pub expires_unix_secs: u64,
    /// What is needed, by stage.
    pub stages: BTreeMap<String, Held>,
}

/// What is needed of a stage.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Held {
    /// Versions, with all that is in them.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub versions: Vec<u64>,
    /// Tasks: their receipts, data and checkpoints.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub keys: Vec<String>,
}

/// Who pins, and for how long.
#[derive(Debug, Clone, Copy)]
pub struct Holder<'a> {
    /// The run, or the reader's name.
    pub run: &'a str,
    /// The process whose end ends the pin, if there is one.
    pub process: Option<&'a Process>,
    /// How long it holds at most.
    pub holds: Duration,
    /// Now, in seconds since 1970.
    pub now_unix_secs: u64,
}

/// Creates a pin; `name` is unique within the run.
pub fn pin(store: &Store, holder: Holder, name: &str, stages: BTreeMap<String, Held>) -> Result<()> {
    let Holder { run, process, holds, now_unix_secs } = holder;
    let path = format!("pins/{run}-{name}.json");
    let expires_unix_secs = now_unix_secs + holds.as_secs();
    let pin = Pin { format: super::FORMAT, run: run.to_owned(), process: process.cloned(), expires_unix_secs, stages };
    // A process does not survive a power cut, and its pins need not either.
    match process {
        Some(_) => store.create_fleeting(&path, &to_json(&pin))?,
        None => store.create(&path, &to_json(&pin))?,
    };
    Ok(())
}

impl Pin {
    /// Whether the pin still counts.
    #[must_use]
    pub fn is_live(&self, now: SystemTime) -> bool {
        let expires = UNIX_EPOCH + Duration::from_secs(self.expires_unix_secs);
        expires > now && !self.process.as_ref().is_some_and(Process::has_ended)
    }
}

/// Removes all pins of a run.
pub fn release(store: &Store, run: &str) -> Result<()> {
    let prefix = format!("pins/{run}-");
    let paths = store.list("pins")?;
    paths.iter().filter(|path| path.starts_with(&prefix)).try_for_each(|path| store.delete(path))
}

/// Returns the pins that there are, with their paths; one that was released meanwhile is left out.
pub(super) fn all(store: &Store) -> Result<Vec<(String, Pin)>> {
    let mut all = Vec::new();
    for path in store.list("pins")?.into_iter().filter(|path| path.ends_with(".json")) {
        match read_many(store, std::slice::from_ref(&path)) {
            Ok(mut pins) => all.extend(pins.pop().map(|pin| (path, pin))),
            Err(super::Error::Missing { .. }) => {}
            Err(error) => return Err(error),
        }
    }
    Ok(all)
}

/// A version that a reader holds until this is dropped.
#[derive(Debug)]
pub struct Reading {
    store: Store,
    path: String,
}

impl Drop for Reading {
    fn drop(&mut self) {
        // One that cannot be deleted expires.
        let _ = self.store.delete(&self.path);
    }
}

/// Holds a version of a stage while it is read; `None` where nothing may be written, and nothing can be held.
///
/// # Errors
/// Where the version is no longer there.
pub fn reading(store: &Store, stage: &str, version: u64) -> Result<Option<Reading>> {
    let now_unix_secs = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default().as_secs();
    let process = Process::this();
    let holder = Holder { run: "reader", process: process.as_ref(), holds: READER, now_unix_secs };
    let name = format!("{:016x}", RandomState::new().build_hasher().finish());
    let held = Held { versions: vec![version], keys: vec![] };
    let pinned = match pin(store, holder, &name, BTreeMap::from([(stage.to_owned(), held)])) {
        Ok(()) => Some(Reading { store: store.clone(), path: format!("pins/reader-{name}.json") }),
        Err(error) if error.is_read_only() => None,
        Err(error) => return Err(error),
    };
    match at(store, stage, version)? {
        Some(_) => Ok(pinned),
        None => Err(Error::Missing { path: manifest_path(stage, version) }),
    }
}
