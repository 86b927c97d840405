//! Deletes the result of a survey: announces, looks again, deletes manifests and receipts, then
//! data. Start at [`delete`].

use std::collections::{BTreeMap, HashSet};
use std::time::SystemTime;

use super::super::error::Result;
use super::super::manifest::{Manifest, versions};
use super::super::pins::{self, PinnedData};
use super::super::store::Store;
use super::{Garbage, GarbageReason, Live, Needed, Survey, run_of};

/// The number of files per announcement.
const ANNOUNCED_FILES: usize = 1_000;

/// Deletes the garbage of a survey, except for files pinned or committed since. Returns the deleted
/// files.
pub fn delete(store: &Store, survey: &Survey, now: SystemTime) -> Result<Vec<Garbage>> {
    let mut in_use = InUse::default();
    let mut deleted = Vec::new();
    let (named, rest): (Vec<&Garbage>, Vec<&Garbage>) =
        survey.garbage.iter().partition(|found| is_named_by_pins(found.what));
    for some in named.chunks(ANNOUNCED_FILES) {
        // Announce first, then read the pins: see `pins` for why this order is safe.
        let announcement = pins::announce(store, named_in(some), now)?;
        in_use.look(store, survey, now)?;
        // A pinned version needs its tasks, packs and tables, too.
        in_use.spare_versions(store, some)?;
        for found in some.iter().filter(|found| !in_use.contains(found)) {
            if announcement.is_late() {
                // The announcement may expire soon. The next survey finds the rest.
                return Ok(deleted);
            }
            remove(store, found)?;
            deleted.push((*found).clone());
        }
    }
    in_use.look(store, survey, now)?;
    // The rest needs no announcement: nothing names these files any more.
    for found in rest.into_iter().filter(|found| !in_use.contains(found)) {
        remove(store, found)?;
        deleted.push(found.clone());
    }
    deleted.sort_by(|a, b| (a.what, &a.path).cmp(&(b.what, &b.path)));
    Ok(deleted)
}

/// Returns whether pins can name this garbage or its task.
fn is_named_by_pins(what: GarbageReason) -> bool {
    matches!(what, GarbageReason::Version | GarbageReason::Receipt | GarbageReason::Checkpoint)
}

fn remove(store: &Store, found: &Garbage) -> Result<()> {
    match found.what {
        GarbageReason::Data
        | GarbageReason::Attempt
        | GarbageReason::Checkpoint
        | GarbageReason::Joined => store.delete_all(&found.path),
        GarbageReason::Version
        | GarbageReason::Receipt
        | GarbageReason::Pack
        | GarbageReason::Staged
        | GarbageReason::Pin
        | GarbageReason::Record => store.delete(&found.path),
    }
}

/// Returns the versions and tasks of garbage, by stage.
fn named_in(some: &[&Garbage]) -> BTreeMap<String, PinnedData> {
    let mut stages = BTreeMap::<String, PinnedData>::new();
    for found in some {
        let held = stages.entry(found.stage.clone()).or_default();
        match found.what {
            GarbageReason::Version => held.versions.push(found.version()),
            _ => held.keys.push(found.key().to_owned()),
        }
    }
    stages
}

impl Garbage {
    fn file_name(&self) -> &str {
        self.path.rsplit('/').next().unwrap_or_default()
    }

    /// Returns the number of a version, from the name of its manifest.
    fn version(&self) -> u64 {
        self.file_name().trim_end_matches(".json").parse().unwrap_or(0)
    }

    /// Returns the key of a task, from the path of its receipt, data or checkpoint.
    fn key(&self) -> &str {
        self.path.split('/').nth(2).unwrap_or_default().trim_end_matches(".json")
    }
}

/// Everything named by pins, or in versions committed since the survey.
#[derive(Default)]
struct InUse {
    runs: HashSet<String>,
    keys: HashSet<(String, String)>,
    versions: HashSet<(String, u64)>,
    packs: HashSet<String>,
    /// Folders of joined tables.
    joined: HashSet<String>,
}

impl InUse {
    /// Adds everything named by current pins, or in versions committed since the survey.
    fn look(&mut self, store: &Store, survey: &Survey, now: SystemTime) -> Result<()> {
        let pins = pins::all(store)?;
        let live = Live::new(&pins, now);
        self.runs.extend(live.runs.iter().map(|run| (*run).to_owned()));
        self.keys
            .extend(live.keys.iter().map(|(stage, key)| ((*stage).to_owned(), (*key).to_owned())));
        self.versions
            .extend(live.versions.iter().map(|(stage, version)| ((*stage).to_owned(), *version)));
        let stages: HashSet<&String> = survey.garbage.iter().map(|found| &found.stage).collect();
        for stage in stages {
            let seen = survey.newest.get(stage).copied().unwrap_or(0);
            // Every version committed since the survey, not only the newest: a reader may have any.
            for version in versions(store, stage)?.into_iter().filter(|version| *version > seen) {
                let Some(manifest) = Manifest::read(store, stage, version)? else { continue };
                self.add(store, stage, &manifest)?;
            }
        }
        Ok(())
    }

    /// Adds everything in pinned versions among this garbage.
    fn spare_versions(&mut self, store: &Store, some: &[&Garbage]) -> Result<()> {
        let is_pinned =
            |found: &&&Garbage| found.what == GarbageReason::Version && self.contains(found);
        let pinned: Vec<_> = some.iter().filter(is_pinned).collect();
        for found in pinned {
            let Some(manifest) = Manifest::read(store, &found.stage, found.version())? else {
                continue;
            };
            self.add(store, &found.stage, &manifest)?;
        }
        Ok(())
    }

    fn add(&mut self, store: &Store, stage: &str, manifest: &Manifest) -> Result<()> {
        let needed = Needed::read(store, stage, std::iter::once(manifest))?;
        self.keys.extend(needed.keys.into_iter().map(|key| (stage.to_owned(), key)));
        self.packs.extend(needed.packs);
        self.joined.extend(
            // Joined tables are deleted by folder.
            needed.joined.iter().filter_map(|path| Some(path.rsplit_once('/')?.0.to_owned())),
        );
        Ok(())
    }

    fn contains(&self, found: &Garbage) -> bool {
        match found.what {
            GarbageReason::Version => {
                // As in `Live::holds`: a pin also keeps the version after its own.
                let version = found.version();
                [version, version.saturating_sub(1)]
                    .iter()
                    .any(|version| self.versions.contains(&(found.stage.clone(), *version)))
            }
            GarbageReason::Receipt
            | GarbageReason::Data
            | GarbageReason::Attempt
            | GarbageReason::Checkpoint => {
                self.keys.contains(&(found.stage.clone(), found.key().to_owned()))
            }
            GarbageReason::Pack | GarbageReason::Joined => {
                let is_of_live_run = run_of(&found.path).is_some_and(|run| self.runs.contains(run));
                self.packs.contains(&found.path)
                    || self.joined.contains(&found.path)
                    || is_of_live_run
            }
            GarbageReason::Staged | GarbageReason::Pin | GarbageReason::Record => false,
        }
    }
}
