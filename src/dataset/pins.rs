//! Pins: files in `pins/` with the versions and tasks to keep from garbage collection.
//!
//! A run, a handed-out plan or a reader creates a pin with [`pin`]. A pin ends when it is released,
//! when it expires, or when its process ends.
//!
//! **Write first, then read.** A process pins a receipt or a version, then reads the collectors'
//! announcements, then checks that the file exists. A collector announces its deletions
//! (`announce`), then reads the pins, and spares everything pinned. In any order of these steps, at
//! least one of the two sees the other. A collector never restores a deleted file, so it may die at
//! any moment.

use std::collections::BTreeMap;
use std::hash::{BuildHasher, Hasher, RandomState};
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use serde::{Deserialize, Serialize};

use super::error::{Error, Result};
use super::manifest::{Manifest, manifest_path};
use super::process::Process;
use super::receipt::{read_many, to_json};
use super::store::Store;

/// The lifetime of a run's or a plan's pin, unless it is released earlier: 30 days.
pub const RUN: Duration = Duration::from_secs(30 * 86_400);
/// The lifetime of a reader's pin: an hour.
pub const READER: Duration = Duration::from_secs(3_600);
/// The lifetime of an announcement: ten minutes. A collector deletes only in the first half.
const ANNOUNCEMENT: Duration = Duration::from_secs(600);
/// The `run` of an announcement.
const COLLECTION: &str = "collection";

/// One file of `pins/`.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Pin {
    /// The version of this file's format: [`super::FORMAT`].
    pub format: u32,
    /// The run that holds the pin; `reader` for a reader, `collection` for an announcement.
    pub run: String,
    /// The process that holds the pin; `None` for a handed-out plan, shared by many processes.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub process: Option<Process>,
    /// The time of expiry, in seconds since 1970.
    pub expires_unix_secs: u64,
    /// The pinned versions and tasks, by stage.
    pub stages: BTreeMap<String, PinnedData>,
}

/// The pinned data of one stage.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct PinnedData {
    /// Versions, with all of their packs and files.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub versions: Vec<u64>,
    /// Keys of tasks. A pin keeps their receipts, data and checkpoints.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub keys: Vec<String>,
}

/// The holder and the lifetime of a pin.
#[derive(Debug, Clone, Copy)]
pub struct PinHolder<'a> {
    /// The run, or the reader's name.
    pub run: &'a str,
    /// The process; the pin ends with it. `None` if the pin outlives processes.
    pub process: Option<&'a Process>,
    /// The longest lifetime.
    pub holds: Duration,
    /// The current time, in seconds since 1970.
    pub now_unix_secs: u64,
}

/// Creates a pin. `name` is unique within the run.
pub fn pin(
    store: &Store,
    holder: PinHolder,
    name: &str,
    stages: BTreeMap<String, PinnedData>,
) -> Result<()> {
    let PinHolder { run, process, holds, now_unix_secs } = holder;
    let path = format!("pins/{run}-{name}.json");
    let expires_unix_secs = now_unix_secs + holds.as_secs();
    let pin = Pin {
        format: super::FORMAT,
        run: run.to_owned(),
        process: process.cloned(),
        expires_unix_secs,
        stages,
    };
    // A pin bound to a process need not survive a power cut, because the process does not either.
    match process {
        Some(_) => store.create_fleeting(&path, &to_json(&pin))?,
        None => store.create(&path, &to_json(&pin))?,
    };
    Ok(())
}

impl Pin {
    /// Returns whether the file is a collector's announcement and not a pin.
    #[must_use]
    pub fn is_announcement(&self) -> bool {
        self.run == COLLECTION
    }

    /// Returns whether the pin still holds at `now`.
    #[must_use]
    pub fn is_live(&self, now: SystemTime) -> bool {
        let expires = UNIX_EPOCH + Duration::from_secs(self.expires_unix_secs);
        expires > now && !self.process.as_ref().is_some_and(Process::has_ended)
    }
}

/// Removes all pins of a run.
pub fn release(store: &Store, run: &str) -> Result<()> {
    let prefix = format!("pins/{run}-");
    for path in store.list("pins")?.iter().filter(|path| path.starts_with(&prefix)) {
        store.delete(path)?;
    }
    Ok(())
}

/// Returns the files of `pins/` with their paths, announcements included. Pins released meanwhile
/// are left out.
pub(super) fn all(store: &Store) -> Result<Vec<(String, Pin)>> {
    read(store, store.list("pins")?)
}

fn read(store: &Store, paths: Vec<String>) -> Result<Vec<(String, Pin)>> {
    let mut all = Vec::new();
    for path in paths.into_iter().filter(|path| path.ends_with(".json")) {
        match read_many(store, std::slice::from_ref(&path)) {
            Ok(mut pins) => all.extend(pins.pop().map(|pin| (path, pin))),
            // Released since the listing.
            Err(Error::Missing { .. }) => {}
            Err(error) => return Err(error),
        }
    }
    Ok(all)
}

/// A pin deleted on drop.
#[derive(Debug)]
pub struct TemporaryPin {
    store: Store,
    path: String,
}

impl Drop for TemporaryPin {
    fn drop(&mut self) {
        // If this fails, the pin still expires.
        let _ = self.store.delete(&self.path);
    }
}

/// Creates a pin of this process that ends when it is dropped. Returns `None` if the workspace is
/// read-only, where nothing can be pinned.
fn pin_while(
    store: &Store,
    run: &str,
    holds: Duration,
    now: SystemTime,
    stages: BTreeMap<String, PinnedData>,
) -> Result<Option<TemporaryPin>> {
    let now_unix_secs = now.duration_since(UNIX_EPOCH).unwrap_or_default().as_secs();
    let process = Process::this();
    let holder = PinHolder { run, process: process.as_ref(), holds, now_unix_secs };
    let name = format!("{:016x}", RandomState::new().build_hasher().finish());
    match pin(store, holder, &name, stages) {
        Ok(()) => {
            Ok(Some(TemporaryPin { store: store.clone(), path: format!("pins/{run}-{name}.json") }))
        }
        // Reading a read-only workspace must work, without protection from a collector.
        Err(error) if error.is_read_only() => Ok(None),
        Err(error) => Err(error),
    }
}

/// Pins a version of a stage while it is read. Returns `None` if the workspace is read-only.
///
/// # Errors
/// Fails with [`Error::Missing`] if the version does not exist or a collector is about to delete
/// it.
pub fn reading(store: &Store, stage: &str, version: u64) -> Result<Option<TemporaryPin>> {
    held_by(store, "reader", stage, Some(version))
}

/// Pins the newest version of a stage, if there is one, while `run` commits.
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
    let held = PinnedData { versions: version.into_iter().collect(), keys: vec![] };
    let pinned = pin_while(
        store,
        run,
        READER,
        SystemTime::now(),
        BTreeMap::from([(stage.to_owned(), held)]),
    )?;
    let Some(version) = version else { return Ok(pinned) };
    // Only now, after the pin is written: see the order of steps in this module's docs.
    let is_announced =
        announced(store)?.get(stage).is_some_and(|announced| announced.versions.contains(&version));
    match Manifest::read(store, stage, version)? {
        Some(_) if !is_announced => Ok(pinned),
        _ => Err(Error::Missing { path: manifest_path(stage, version) }),
    }
}

/// A collector's announcement of its deletions, in force until it is dropped.
#[derive(Debug)]
pub(super) struct Announcement {
    _file: Option<TemporaryPin>,
    ends: SystemTime,
}

impl Announcement {
    /// Returns whether it is too late to delete, because the announcement expires soon.
    pub(super) fn is_late(&self) -> bool {
        SystemTime::now() > self.ends
    }
}

/// Announces the deletion of these versions and tasks. The collector spares them if a pin has them.
pub(super) fn announce(
    store: &Store,
    stages: BTreeMap<String, PinnedData>,
    now: SystemTime,
) -> Result<Announcement> {
    let ends = SystemTime::now() + ANNOUNCEMENT / 2;
    Ok(Announcement { _file: pin_while(store, COLLECTION, ANNOUNCEMENT, now, stages)?, ends })
}

/// Returns the versions and tasks in live announcements of collectors, by stage.
pub fn announced(store: &Store) -> Result<BTreeMap<String, PinnedData>> {
    let prefix = format!("pins/{COLLECTION}-");
    let mut announced = BTreeMap::<String, PinnedData>::new();
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
