//! Pins: files in `pins/` that name versions and tasks which garbage collection must keep.
//!
//! A run, a handed-out plan or a reader creates a pin with [`pin`]. A pin ends when it is released, when it expires, or when the process
//! that made it ends.
//!
//! **Announce first, then look.** A process pins a receipt or a version, then reads what collectors have announced, then checks that the
//! file exists. A collector announces what it will delete (`announce`), then reads the pins, and spares what is pinned. In any order of
//! these steps, at least one of the two sees the other. Nothing is ever deleted and restored, so a collector may die at any moment.

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
/// How long an announcement holds: ten minutes. A collector deletes only in the first half.
const ANNOUNCEMENT: Duration = Duration::from_secs(600);
/// The `run` of an announcement.
const COLLECTION: &str = "collection";

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
pub fn pin(
    store: &Store,
    holder: Holder,
    name: &str,
    stages: BTreeMap<String, Held>,
) -> Result<()> {
    let Holder { run, process, holds, now_unix_secs } = holder;
    let path = format!("pins/{run}-{name}.json");
    let expires_unix_secs = now_unix_secs + holds.as_secs();
    let pin = Pin {
        format: super::FORMAT,
        run: run.to_owned(),
        process: process.cloned(),
        expires_unix_secs,
        stages,
    };
    // A process does not survive a power cut, and its pins need not either.
    match process {
        Some(_) => store.create_fleeting(&path, &to_json(&pin))?,
        None => store.create(&path, &to_json(&pin))?,
    };
    Ok(())
}

impl Pin {
    /// Whether this is not a pin but a collector's announcement of what it deletes.
    #[must_use]
    pub fn is_announcement(&self) -> bool {
        self.run == COLLECTION
    }

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

/// Returns the files of `pins/`, announcements included, with their paths; one that was released meanwhile is left out.
pub(super) fn all(store: &Store) -> Result<Vec<(String, Pin)>> {
    read(store, store.list("pins")?)
}

fn read(store: &Store, paths: Vec<String>) -> Result<Vec<(String, Pin)>> {
    let mut all = Vec::new();
    for path in paths.into_iter().filter(|path| path.ends_with(".json")) {
        match read_many(store, std::slice::from_ref(&path)) {
            Ok(mut pins) => all.extend(pins.pop().map(|pin| (path, pin))),
            Err(Error::Missing { .. }) => {}
            Err(error) => return Err(error),
        }
    }
    Ok(all)
}

/// A file of `pins/` that is deleted when this is dropped.
#[derive(Debug)]
pub struct TemporaryPin {
    store: Store,
    path: String,
}

impl Drop for TemporaryPin {
    fn drop(&mut self) {
        // One that cannot be deleted expires.
        let _ = self.store.delete(&self.path);
    }
}

/// Creates a pin of this process that ends when it is dropped; `None` where nothing may be written, and nothing can be held.
fn pin_while(
    store: &Store,
    run: &str,
    holds: Duration,
    now: SystemTime,
    stages: BTreeMap<String, Held>,
) -> Result<Option<TemporaryPin>> {
    let now_unix_secs = now.duration_since(UNIX_EPOCH).unwrap_or_default().as_secs();
    let process = Process::this();
    let holder = Holder { run, process: process.as_ref(), holds, now_unix_secs };
    let name = format!("{:016x}", RandomState::new().build_hasher().finish());
    match pin(store, holder, &name, stages) {
        Ok(()) => {
            Ok(Some(TemporaryPin { store: store.clone(), path: format!("pins/{run}-{name}.json") }))
        }
        Err(error) if error.is_read_only() => Ok(None),
        Err(error) => Err(error),
    }
}

/// Holds a version of a stage while it is read; `None` where nothing may be written, and nothing can be held.
///
/// # Errors
/// Fails with [`Error::Missing`] if the version does not exist, or is being collected.
pub fn reading(store: &Store, stage: &str, version: u64) -> Result<Option<TemporaryPin>> {
    held_by(store, "reader", stage, Some(version))
}

/// Holds the newest version of a stage, if it has one, and what `run` writes, while the run commits.
///
/// # Errors
/// As [`reading`].
pub(super) fn committing(
    store: &Store,
    run: &str,
    stage: &str,
    newest: Option<u64>,
) -> Result<Option<TemporaryPin>> {
    held_by(store, run, stage, newest)
}

fn held_by(
    store: &Store,
    run: &str,
    stage: &str,
    version: Option<u64>,
) -> Result<Option<TemporaryPin>> {
    let held = Held { versions: version.into_iter().collect(), keys: vec![] };
    let pinned = pin_while(
        store,
        run,
        READER,
        SystemTime::now(),
        BTreeMap::from([(stage.to_owned(), held)]),
    )?;
    let Some(version) = version else { return Ok(pinned) };
    let is_announced =
        announced(store)?.get(stage).is_some_and(|announced| announced.versions.contains(&version));
    match at(store, stage, version)? {
        Some(_) if !is_announced => Ok(pinned),
        _ => Err(Error::Missing { path: manifest_path(stage, version) }),
    }
}

/// What a collector will delete, announced until this is dropped.
#[derive(Debug)]
pub(super) struct Announcement {
    _file: Option<TemporaryPin>,
    ends: SystemTime,
}

impl Announcement {
    /// Whether it is too late to delete: the announcement will soon no longer count.
    pub(super) fn is_late(&self) -> bool {
        SystemTime::now() > self.ends
    }
}

/// Announces that these versions and tasks will be deleted, unless pins name them.
pub(super) fn announce(
    store: &Store,
    stages: BTreeMap<String, Held>,
    now: SystemTime,
) -> Result<Announcement> {
    let ends = SystemTime::now() + ANNOUNCEMENT / 2;
    Ok(Announcement { _file: pin_while(store, COLLECTION, ANNOUNCEMENT, now, stages)?, ends })
}

/// Returns the versions and tasks that collectors are about to delete, by stage.
pub fn announced(store: &Store) -> Result<BTreeMap<String, Held>> {
    let prefix = format!("pins/{COLLECTION}-");
    let mut announced = BTreeMap::<String, Held>::new();
    let paths = store.list("pins")?.into_iter().filter(|path| path.starts_with(&prefix)).collect();
    for (_, pin) in
        read(store, paths)?.into_iter().filter(|(_, pin)| pin.is_live(SystemTime::now()))
    {
        for (stage, held) in pin.stages {
            let all = announced.entry(stage).or_default();
            all.versions.extend(held.versions);
            all.keys.extend(held.keys);
        }
    }
    Ok(announced)
}
