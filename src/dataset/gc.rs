//! Garbage collection: finds the files of a workspace that are no longer needed, and deletes them.
//!
//! Start at [`survey`], which changes nothing and gives a reason for every file; then [`delete`].
//!
//! - Only workspaces with a `lapo.json` are surveyed, and in them only paths that lapo itself writes. Other files are ignored.
//! - The age of a version counts from the commit that superseded it. The age of any other file counts from its last change.
//! - Pinned versions and tasks are kept: those of running runs, of plans that are handed out, and of readers (see [`pins`]).
//! - [`delete`] announces what it will delete, then reads pins and newest versions again, and spares what was pinned or committed since
//!   the survey. It deletes manifests and receipts before data, and restores nothing: it may be killed at any moment.

use std::collections::{BTreeMap, HashMap, HashSet};
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use serde::Serialize;

use super::checks::is_probe;
use super::error::{Error, Result};
use super::manifest::{Manifest, at, manifest_path, stage_names};
use super::pins::{self, Pin};
use super::place::Stored;
use super::place::is_key;
use super::receipt::find_receipts;
use super::store::Store;
use super::{runs, workspace};

mod delete;
#[cfg(test)]
mod tests;

pub use delete::delete;

/// What is kept.
#[derive(Clone, Copy, Debug)]
pub struct Keep {
    /// Newest versions of every dataset; without a number all of them, and every receipt.
    pub versions: Option<usize>,
    /// Whatever was superseded or changed less than this ago.
    pub younger_than: Duration,
    /// Now.
    pub now: SystemTime,
}

/// A file or a whole folder that is no longer needed.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize)]
pub struct Garbage {
    /// The stage whose it is; `runs`, `pins` and `probes` for the workspace's own.
    pub stage: String,
    /// Why it is not needed.
    pub what: Waste,
    /// Relative to the workspace.
    pub path: String,
    /// How many files there are.
    pub files: u64,
    /// What they weigh.
    pub bytes: u64,
}

/// Why a file is not needed, in the order of deletion.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum Waste {
    /// An old version's manifest.
    Version,
    /// A receipt that is in no version kept.
    Receipt,
    /// The data of such a receipt.
    Data,
    /// What an attempt wrote that died, or was slower than another.
    Attempt,
    /// Checkpoints of a training that ended, or was not gone on with.
    Checkpoint,
    /// Receipts of versions that are gone, or of a commit that died.
    Pack,
    /// Joined tables of such versions.
    Joined,
    /// A file that was never whole.
    Staged,
    /// A pin that has expired.
    Pin,
    /// The record of an old run that no version kept names.
    Record,
}

impl Waste {
    /// For people.
    #[must_use]
    pub fn words(self) -> &'static str {
        match self {
            Waste::Version => "old version",
            Waste::Receipt => "receipt in no version kept",
            Waste::Data => "data of such a receipt",
            Waste::Attempt => "attempt that died or was slower",
            Waste::Checkpoint => "checkpoints of a training that ended",
            Waste::Pack => "packed receipts of no version kept",
            Waste::Joined => "joined tables of no version kept",
            Waste::Staged => "file that was never whole",
            Waste::Pin => "expired pin",
            Waste::Record => "record of an old run",
        }
    }
}

/// What may be deleted, and the pins that keep more from being deleted.
#[derive(Clone, Debug, Default, Serialize)]
pub struct Survey {
    /// In the order in which it is deleted.
    pub garbage: Vec<Garbage>,
    /// The pins that hold something back.
    pub pins: Vec<Pin>,
    /// By stage, the newest version that was looked at.
    #[serde(skip)]
    newest: BTreeMap<String, u64>,
}

/// Files that were never whole are left alone for so long, whatever is asked: a create that is under way takes less.
const STAGED: Duration = Duration::from_secs(3_600);
/// So many newest runs keep their records.
const RECORDS: usize = 50;

/// Finds all files that are no longer needed.
///
/// # Errors
/// Where the store has no `lapo.json`: it is no workspace.
pub fn survey(store: &Store, keep: &Keep) -> Result<Survey> {
    workspace::require(store)?;
    let names = stage_names(store)?;
    let pins = pins::all(store)?;
    let live = Live::new(&pins, keep.now);
    let mut survey =
        Survey { pins: live.pins.iter().map(|pin| (*pin).clone()).collect(), ..Survey::default() };
    let mut named_runs = HashSet::new();
    for stage in names {
        let stage = Stage::read(store, &stage, keep, &live)?;
        named_runs.extend(stage.manifests.iter().map(|(manifest, _)| manifest.run.clone()));
        survey
            .newest
            .extend(stage.manifests.last().map(|(newest, _)| (stage.name.clone(), newest.version)));
        stage.survey(store, &mut survey.garbage)?;
    }
    survey.garbage.extend(old_records(store, keep, &live, &named_runs)?);
    survey.garbage.extend(expired(store, keep, &pins)?);
    survey.garbage.sort_by(|a, b| (a.what, &a.path).cmp(&(b.what, &b.path)));
    Ok(survey)
}

/// Records of old runs that no version names.
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
    let first = numbers.len().checked_sub(RECORDS).map_or(0, |at| numbers[at]);
    let is_old = |file: &&Stored| {
        let number = runs::number(&file.path).unwrap_or(u64::MAX);
        let run = format!("{number:08}");
        number < first
            && keep.is_old(file)
            && !named.contains(&run)
            && !live.runs.contains(run.as_str())
    };
    Ok(files.iter().filter(is_old).map(|file| one("runs", Waste::Record, file)).collect())
}

/// Pins that no longer count, and what a probe of the store left behind.
fn expired(store: &Store, keep: &Keep, pins: &[(String, Pin)]) -> Result<Vec<Garbage>> {
    let gone: HashSet<&str> = pins
        .iter()
        .filter(|(_, pin)| !pin.is_live(keep.now))
        .map(|(path, _)| path.as_str())
        .collect();
    let files = store.files("pins")?;
    let pins = files
        .iter()
        .filter(|file| gone.contains(file.path.as_str()) && keep.is_old(file))
        .map(|file| one("pins", Waste::Pin, file));
    let probes = store.files("probes")?;
    let probes = probes
        .iter()
        .filter(|file| is_probe(&file.path) && keep.is_staged(file))
        .map(|file| one("probes", Waste::Staged, file));
    Ok(pins.chain(probes).collect())
}

impl Keep {
    fn is_old(&self, file: &Stored) -> bool {
        self.is_past(file.modified)
    }

    fn is_past(&self, time: SystemTime) -> bool {
        time + self.younger_than <= self.now
    }

    fn is_staged(&self, file: &Stored) -> bool {
        file.modified + self.younger_than.max(STAGED) <= self.now
    }
}

fn one(stage: &str, what: Waste, file: &Stored) -> Garbage {
    Garbage { stage: stage.to_owned(), what, path: file.path.clone(), files: 1, bytes: file.bytes }
}

/// What live pins name.
struct Live<'a> {
    pins: Vec<&'a Pin>,
    runs: HashSet<&'a str>,
    keys: HashSet<(&'a str, &'a str)>,
    versions: HashSet<(&'a str, u64)>,
}

impl<'a> Live<'a> {
    fn new(pins: &'a [(String, Pin)], now: SystemTime) -> Self {
        let pins: Vec<&Pin> = pins
            .iter()
            .map(|(_, pin)| pin)
            .filter(|pin| pin.is_live(now) && !pin.is_announcement())
            .collect();
        let held = || pins.iter().flat_map(|pin| &pin.stages);
        Live {
            runs: pins.iter().map(|pin| pin.run.as_str()).collect(),
            keys: held()
                .flat_map(|(stage, held)| {
                    held.keys.iter().map(|key| (stage.as_str(), key.as_str()))
                })
                .collect(),
            versions: held()
                .flat_map(|(stage, held)| {
                    held.versions.iter().map(|version| (stage.as_str(), *version))
                })
                .collect(),
            pins,
        }
    }

    /// Whether a version is kept: it is pinned, or the version before is pinned by a commit that must find this number taken.
    fn holds(&self, stage: &str, version: u64) -> bool {
        [version, version.saturating_sub(1)]
            .iter()
            .any(|version| self.versions.contains(&(stage, *version)))
    }

    /// Whether a pack or a joined table was written by a run that may be about to commit it.
    fn is_of_live_run(&self, path: &str) -> bool {
        run_of(path).is_some_and(|run| self.runs.contains(run))
    }
}

/// The run in the path of a pack or of joined tables: `<stage>/packs/<run>-...`.
fn run_of(path: &str) -> Option<&str> {
    path.split('/').nth(2)?.split_once('-').map(|(run, _)| run)
}

/// What a path within a stage is, by its form.
#[derive(Debug, PartialEq, Eq)]
enum Is<'a> {
    Manifest(u64),
    Receipt(&'a str),
    Pack,
    Joined(&'a str),
    Data { key: &'a str, attempt: &'a str },
    Checkpoint(&'a str),
    Staged,
}

/// Tells what a file is by its path below the stage's folder; none where lapo writes no such file.
fn sort_of(path: &str) -> Option<Is<'_>> {
    let mut parts = path.splitn(4, '/');
    let (folder, first, second, rest) = (parts.next()?, parts.next()?, parts.next(), parts.next());
    let is_staged =
        |name: &str| name.rsplit_once('#').is_some_and(|(_, digits)| digits.parse::<u64>().is_ok());
    match (folder, second, rest) {
        ("manifests" | "receipts" | "packs", None, None) if is_staged(first) => Some(Is::Staged),
        ("manifests", None, None) => {
            let number = first.strip_suffix(".json").filter(|digits| digits.len() == 10)?;
            Some(Is::Manifest(number.parse().ok()?))
        }
        ("receipts", None, None) => {
            first.strip_suffix(".json").filter(|key| is_key(key)).map(Is::Receipt)
        }
        ("packs", None, None) => first.ends_with(".parquet").then_some(Is::Pack),
        ("tables", Some(file), None) if first.contains('-') && file.ends_with(".parquet") => {
            Some(Is::Joined(first))
        }
        ("data", Some(attempt), Some(_)) if is_key(first) && is_attempt(attempt) => {
            Some(Is::Data { key: first, attempt })
        }
        ("checkpoints", Some(_), _) if is_key(first) => Some(Is::Checkpoint(first)),
        _ => None,
    }
}

fn is_attempt(text: &str) -> bool {
    text.len() == 16 && text.bytes().all(|byte| matches!(byte, b'0'..=b'9' | b'a'..=b'f'))
}

/// One stage, as it is surveyed.
struct Stage<'a> {
    name: String,
    keep: &'a Keep,
    live: &'a Live<'a>,
    files: Vec<Stored>,
    /// Every version with the time of its file, oldest first.
    manifests: Vec<(Manifest, SystemTime)>,
}

impl<'a> Stage<'a> {
    fn read(store: &Store, name: &str, keep: &'a Keep, live: &'a Live<'a>) -> Result<Self> {
        let files = store.files(name)?;
        let mut manifests = Vec::new();
        for file in &files {
            if let Some(Is::Manifest(version)) = sort_of(&file.path[name.len() + 1..]) {
                manifests
                    .extend(at(store, name, version)?.map(|manifest| (manifest, file.modified)));
            }
        }
        Ok(Stage { name: name.to_owned(), keep, live, files, manifests })
    }

    fn survey(&self, store: &Store, garbage: &mut Vec<Garbage>) -> Result<()> {
        let (old, kept): (Vec<_>, Vec<_>) =
            (0..self.manifests.len()).partition(|at| self.is_old_version(*at));
        let needed = Needed::read(store, &self.name, kept.iter().map(|at| &self.manifests[*at].0))?;
        let old: HashSet<String> =
            old.iter().map(|at| manifest_path(&self.name, self.manifests[*at].0.version)).collect();
        let mut receipts = Vec::new();
        let mut folders = BTreeMap::<(Waste, String), (Garbage, SystemTime, bool)>::new();
        let mut attempts = HashMap::<&str, HashSet<&str>>::new();
        for file in &self.files {
            let Some(sort) = sort_of(&file.path[self.name.len() + 1..]) else { continue };
            match sort {
                Is::Manifest(_) if old.contains(&file.path) => {
                    garbage.push(self.one(Waste::Version, file))
                }
                Is::Receipt(key) if self.is_waste(key, file, &needed) => receipts.push((key, file)),
                Is::Pack if self.is_old_pack(file, &needed) => {
                    garbage.push(self.one(Waste::Pack, file))
                }
                Is::Staged if self.keep.is_staged(file) => {
                    garbage.push(self.one(Waste::Staged, file))
                }
                Is::Joined(name) => {
                    let folder = format!("{}/tables/{name}", self.name);
                    let is_needed =
                        needed.joined.contains(&file.path) || self.live.is_of_live_run(&file.path);
                    self.gather(&mut folders, Waste::Joined, folder, file, is_needed);
                }
                Is::Checkpoint(key) => {
                    let folder = format!("{}/checkpoints/{key}", self.name);
                    self.gather(&mut folders, Waste::Checkpoint, folder, file, self.is_pinned(key));
                }
                Is::Data { key, attempt } => {
                    attempts.entry(key).or_default().insert(attempt);
                    let folder = format!("{}/data/{key}/{attempt}", self.name);
                    let is_needed = self.is_pinned(key)
                        || needed.tasks.contains(&(key.to_owned(), attempt.to_owned()));
                    self.gather(&mut folders, Waste::Attempt, folder, file, is_needed);
                }
                _ => {}
            }
        }
        let winners = self.winners(store, &attempts, &needed)?;
        let wasted: HashSet<&str> = receipts.iter().map(|(key, _)| *key).collect();
        garbage.extend(receipts.iter().map(|(_, file)| self.one(Waste::Receipt, file)));
        for ((what, _), (mut found, modified, is_needed)) in folders {
            let key = found.path.split('/').nth(2).unwrap_or_default().to_owned();
            let is_winner = what == Waste::Attempt && winners.contains(found.path.as_str());
            if is_needed || (is_winner && !wasted.contains(key.as_str())) {
                continue;
            }
            if is_winner {
                found.what = Waste::Data;
            }
            if is_winner || self.keep.is_past(modified) {
                garbage.push(found);
            }
        }
        Ok(())
    }

    /// Whether a version is not among the newest, was superseded long enough ago, and is not pinned.
    fn is_old_version(&self, at: usize) -> bool {
        let Some(most) = self.keep.versions else { return false };
        let (version, next) = (self.manifests[at].0.version, self.manifests.get(at + 1));
        let superseded = next.map(|(next, written)| {
            (UNIX_EPOCH + Duration::from_millis(next.committed_unix_ms)).max(*written)
        });
        at + most < self.manifests.len()
            && superseded.is_some_and(|superseded| self.keep.is_past(superseded))
            && !self.live.holds(&self.name, version)
    }

    fn is_waste(&self, key: &str, file: &Stored, needed: &Needed) -> bool {
        self.keep.versions.is_some()
            && !needed.keys.contains(key)
            && !self.is_pinned(key)
            && self.keep.is_old(file)
    }

    fn is_old_pack(&self, file: &Stored, needed: &Needed) -> bool {
        !needed.packs.contains(&file.path)
            && self.keep.is_old(file)
            && !self.live.is_of_live_run(&file.path)
    }

    fn is_pinned(&self, key: &str) -> bool {
        self.live.keys.contains(&(self.name.as_str(), key))
    }

    /// Adds a file to its folder's weight and age.
    fn gather(
        &self,
        folders: &mut BTreeMap<(Waste, String), (Garbage, SystemTime, bool)>,
        what: Waste,
        folder: String,
        file: &Stored,
        is_needed: bool,
    ) {
        let fresh = || {
            (
                Garbage { path: folder.clone(), files: 0, bytes: 0, ..self.one(what, file) },
                file.modified,
                is_needed,
            )
        };
        let (found, modified, _) = folders.entry((what, folder.clone())).or_insert_with(fresh);
        (found.files, found.bytes, *modified) =
            (found.files + 1, found.bytes + file.bytes, file.modified.max(*modified));
    }

    /// The folders of data that a receipt names. Only receipts are read whose task has data that no version kept names.
    fn winners(
        &self,
        store: &Store,
        attempts: &HashMap<&str, HashSet<&str>>,
        needed: &Needed,
    ) -> Result<HashSet<String>> {
        let is_open = |(key, attempts): &(&&str, &HashSet<&str>)| {
            attempts
                .iter()
                .any(|attempt| !needed.tasks.contains(&((**key).to_owned(), (*attempt).to_owned())))
        };
        let mut keys: Vec<String> =
            attempts.iter().filter(is_open).map(|(key, _)| (*key).to_owned()).collect();
        keys.sort_unstable();
        let receipts = find_receipts(store, &self.name, &keys)?.into_iter().flatten();
        Ok(receipts
            .map(|receipt| super::data_folder(&self.name, &receipt.key, &receipt.attempt))
            .collect())
    }

    fn one(&self, what: Waste, file: &Stored) -> Garbage {
        one(&self.name, what, file)
    }
}

/// What the versions that are kept are made of.
#[derive(Default)]
struct Needed {
    keys: HashSet<String>,
    /// Key and attempt.
    tasks: HashSet<(String, String)>,
    packs: HashSet<String>,
    joined: HashSet<String>,
}

impl Needed {
    /// What versions need; one that another collector deletes meanwhile needs nothing.
    fn read<'m>(
        store: &Store,
        stage: &str,
        manifests: impl Iterator<Item = &'m Manifest>,
    ) -> Result<Self> {
        let (mut needed, mut read) = (Self::default(), HashMap::new());
        for manifest in manifests {
            match needed.add(store, manifest, &mut read) {
                Err(Error::Missing { .. }) if at(store, stage, manifest.version)?.is_none() => {}
                added => added?,
            }
        }
        needed.keys = needed.tasks.iter().map(|(key, _)| key.clone()).collect();
        Ok(needed)
    }

    fn add(
        &mut self,
        store: &Store,
        manifest: &Manifest,
        read: &mut HashMap<String, Vec<(String, String)>>,
    ) -> Result<()> {
        self.joined.extend(manifest.joined.iter().map(|joined| joined.file.path.clone()));
        for pack in &manifest.packs {
            self.packs.insert(pack.file.path.clone());
            if !read.contains_key(&pack.file.path) {
                read.insert(pack.file.path.clone(), pack.entries(store)?);
            }
            self.tasks.extend(pack.kept(read[&pack.file.path].clone()));
        }
        Ok(())
    }
}
