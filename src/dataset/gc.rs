//! Garbage collection: finds the unused files of a workspace, and deletes them.
//!
//! Start at [`survey`], a read-only search with a reason for every file; then [`delete`].
//!
//! - Only workspaces with a `lapo.json` are surveyed, and in them only paths written by lapo. Other
//!   files are ignored.
//! - The age of a version counts from the commit that superseded it. The age of any other file
//!   counts from its last change.
//! - Pinned versions and tasks are kept: pins of active runs, of plans in progress and of readers
//!   (see [`pins`]).
//! - [`delete`] announces its deletions, then reads pins and newest versions again, and spares
//!   everything pinned or committed since the survey. It deletes manifests and receipts before
//!   data, and never restores a file, so it may be killed at any moment.

use std::collections::{BTreeMap, HashSet};
use std::time::{Duration, SystemTime};

use serde::Serialize;

use super::error::Result;
use super::integrity::is_probe;
use super::manifest::stage_names;
use super::paths::StoredFile;
use super::pins::{self, Pin};
use super::store::Store;
use super::{runs, workspace};

mod delete;
mod stage;
#[cfg(test)]
mod tests;

pub use delete::delete;
use stage::{Needed, Stage, run_of};

/// What to keep.
#[derive(Clone, Copy, Debug)]
pub struct Keep {
    /// The number of newest versions to keep per stage. `None` keeps all versions and all receipts.
    pub versions: Option<usize>,
    /// Keeps everything superseded or changed less than this ago.
    pub younger_than: Duration,
    /// The current time.
    pub now: SystemTime,
}

/// An unused file or folder.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize)]
pub struct Garbage {
    /// The stage. Files of the workspace itself have `runs`, `pins` or `probes`.
    pub stage: String,
    /// The reason.
    pub what: GarbageReason,
    /// The path, relative to the workspace.
    pub path: String,
    /// The number of files.
    pub files: u64,
    /// Their size in bytes.
    pub bytes: u64,
}

/// Why a file is unused, in the order of deletion.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum GarbageReason {
    /// An old version's manifest.
    Version,
    /// A receipt in no kept version.
    Receipt,
    /// The data of a deleted receipt.
    Data,
    /// The output of an attempt that failed, or lost against another attempt.
    Attempt,
    /// Checkpoints of a finished or abandoned training.
    Checkpoint,
    /// A pack of deleted versions, or of a failed commit.
    Pack,
    /// Joined tables of deleted versions, or of a failed commit.
    Joined,
    /// An incomplete file.
    Staged,
    /// An expired pin.
    Pin,
    /// The record of an old run, not named by any kept version.
    Record,
}

impl GarbageReason {
    /// Returns the reason in words.
    #[must_use]
    pub fn words(self) -> &'static str {
        match self {
            GarbageReason::Version => "old version",
            GarbageReason::Receipt => "receipt in no kept version",
            GarbageReason::Data => "data of a deleted receipt",
            GarbageReason::Attempt => "output of a failed or slower attempt",
            GarbageReason::Checkpoint => "checkpoints of an ended training",
            GarbageReason::Pack => "packed receipts in no kept version",
            GarbageReason::Joined => "joined tables in no kept version",
            GarbageReason::Staged => "incomplete file",
            GarbageReason::Pin => "expired pin",
            GarbageReason::Record => "record of an old run",
        }
    }
}

/// The result of a survey: unused files, and the pins in effect.
#[derive(Clone, Debug, Default, Serialize)]
pub struct Survey {
    /// Unused files, in the order of deletion.
    pub garbage: Vec<Garbage>,
    /// Live pins. They keep versions and tasks from being deleted.
    pub pins: Vec<Pin>,
    /// The newest version at the time of the survey, by stage.
    #[serde(skip)]
    newest: BTreeMap<String, u64>,
}

/// Incomplete files are left alone for this long, whatever [`Keep`] states: a create in progress
/// takes less time.
const STAGED_AGE: Duration = Duration::from_secs(3_600);
/// The records of this many newest runs are kept.
const KEPT_RECORDS: usize = 50;

/// Finds all unused files.
///
/// # Errors
/// Fails if the store has no `lapo.json`: it is not a workspace.
pub fn survey(store: &Store, keep: &Keep) -> Result<Survey> {
    workspace::require(store)?;
    let names = stage_names(store)?;
    let pins = pins::all(store)?;
    let live = Live::new(&pins, keep.now);
    let mut survey =
        Survey { pins: live.pins.iter().map(|pin| (*pin).clone()).collect(), ..Survey::default() };
    let mut named_runs = HashSet::new();
    for name in names {
        let stage = Stage::read(store, &name, keep, &live)?;
        named_runs.extend(stage.manifests.iter().map(|(manifest, _)| manifest.run.clone()));
        if let Some((newest, _)) = stage.manifests.last() {
            survey.newest.insert(name, newest.version);
        }
        stage.survey(store, &mut survey.garbage)?;
    }
    survey.garbage.extend(old_records(store, keep, &live, &named_runs)?);
    survey.garbage.extend(expired_pins(store, keep, &pins)?);
    // Manifests and receipts sort before data, so a killed collection never leaves a receipt
    // without its data.
    survey.garbage.sort_by(|a, b| (a.what, &a.path).cmp(&(b.what, &b.path)));
    Ok(survey)
}

/// Finds records of old runs not named by any version.
fn old_records(
    store: &Store,
    keep: &Keep,
    live: &Live,
    named: &HashSet<String>,
) -> Result<Vec<Garbage>> {
    if keep.versions.is_none() {
        return Ok(vec![]);
    }
    let mut files = store.files("runs")?;
    files.retain(|file| runs::number(&file.path).is_some());
    let mut numbers: Vec<u64> = files.iter().filter_map(|file| runs::number(&file.path)).collect();
    numbers.sort_unstable();
    numbers.dedup();
    // A run has several files, so count numbers, not files.
    let first = numbers.len().checked_sub(KEPT_RECORDS).map_or(0, |at| numbers[at]);
    let is_old = |file: &&StoredFile| {
        let number = runs::number(&file.path).unwrap_or(u64::MAX);
        let run = format!("{number:08}");
        number < first
            && keep.is_old(file)
            && !named.contains(&run)
            && !live.runs.contains(run.as_str())
    };
    Ok(files
        .iter()
        .filter(is_old)
        .map(|file| garbage_of("runs", GarbageReason::Record, file))
        .collect())
}

/// Finds expired pins, and left-over probes of the store.
fn expired_pins(store: &Store, keep: &Keep, pins: &[(String, Pin)]) -> Result<Vec<Garbage>> {
    let expired: HashSet<&str> = pins
        .iter()
        .filter(|(_, pin)| !pin.is_live(keep.now))
        .map(|(path, _)| path.as_str())
        .collect();
    let files = store.files("pins")?;
    let pins = files
        .iter()
        .filter(|file| expired.contains(file.path.as_str()) && keep.is_old(file))
        .map(|file| garbage_of("pins", GarbageReason::Pin, file));
    let probes = store.files("probes")?;
    let probes = probes
        .iter()
        .filter(|file| is_probe(&file.path) && keep.is_abandoned(file))
        .map(|file| garbage_of("probes", GarbageReason::Staged, file));
    Ok(pins.chain(probes).collect())
}

impl Keep {
    /// Returns whether a file changed last long enough ago.
    fn is_old(&self, file: &StoredFile) -> bool {
        self.is_past(file.modified)
    }

    fn is_past(&self, time: SystemTime) -> bool {
        time + self.younger_than <= self.now
    }

    /// Returns whether an incomplete file is old enough to be abandoned.
    fn is_abandoned(&self, file: &StoredFile) -> bool {
        file.modified + self.younger_than.max(STAGED_AGE) <= self.now
    }
}

/// Returns one file as garbage.
fn garbage_of(stage: &str, what: GarbageReason, file: &StoredFile) -> Garbage {
    Garbage { stage: stage.to_owned(), what, path: file.path.clone(), files: 1, bytes: file.bytes }
}

/// Everything named by live pins.
struct Live<'a> {
    pins: Vec<&'a Pin>,
    runs: HashSet<&'a str>,
    /// Stage and key.
    keys: HashSet<(&'a str, &'a str)>,
    /// Stage and version.
    versions: HashSet<(&'a str, u64)>,
}

impl<'a> Live<'a> {
    fn new(pins: &'a [(String, Pin)], now: SystemTime) -> Self {
        let pins: Vec<&Pin> = pins
            .iter()
            .map(|(_, pin)| pin)
            // Announcements of other collectors keep nothing.
            .filter(|pin| pin.is_live(now) && !pin.is_announcement())
            .collect();
        let mut live = Live {
            runs: pins.iter().map(|pin| pin.run.as_str()).collect(),
            keys: HashSet::new(),
            versions: HashSet::new(),
            pins,
        };
        for (stage, held) in live.pins.iter().flat_map(|pin| &pin.stages) {
            live.keys.extend(held.keys.iter().map(|key| (stage.as_str(), key.as_str())));
            live.versions.extend(held.versions.iter().map(|version| (stage.as_str(), *version)));
        }
        live
    }

    /// Returns whether pins keep a version. A pin also keeps the version after its own: a commit
    /// holding the pin must find the next number taken.
    fn holds(&self, stage: &str, version: u64) -> bool {
        [version, version.saturating_sub(1)]
            .iter()
            .any(|version| self.versions.contains(&(stage, *version)))
    }

    /// Returns whether a live run wrote a pack or a joined table. It may be about to commit it.
    fn is_of_live_run(&self, path: &str) -> bool {
        run_of(path).is_some_and(|run| self.runs.contains(run))
    }
}
