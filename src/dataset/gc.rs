//! What nobody needs. In: a workspace, how many versions to keep, how old garbage must be; out: what may be deleted, and it is gone.
//!
//! Start at [`garbage`]. What a run made and filed is kept, committed or not, unless versions are limited: the next run takes it up. What
//! is younger than the limit may belong to a run that lives, and is left alone. A run that plans while old results are deleted may find one
//! of them gone; it fails with its name, and the next one makes it again.

use std::collections::{BTreeMap, HashMap, HashSet};
use std::time::{Duration, SystemTime};

use serde::Serialize;

use super::error::Result;
use super::manifest::Manifest;
use super::receipt::{all_receipts, data_folder, read_existing, receipt_path};
use super::store::{Store, Stored};

/// What is kept.
#[derive(Clone, Copy, Debug)]
pub struct Keep {
    /// Newest versions of every dataset; without a number all of them.
    pub versions: Option<usize>,
    /// Whatever changed less than this ago.
    pub younger_than: Duration,
}

/// A file, or a folder and all in it, that nobody needs.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize)]
pub struct Garbage {
    /// The stage whose it is; `runs` for the runs' records.
    pub stage: String,
    /// Why nobody needs it.
    pub what: Waste,
    /// Relative to the workspace.
    pub path: String,
    /// How many files there are.
    pub files: u64,
    /// What they weigh.
    pub bytes: u64,
}

/// Why nobody needs something; in the order in which it may be deleted.
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
    /// A file that was never whole.
    Staged,
}

impl Waste {
    /// For people.
    pub fn words(self) -> &'static str {
        match self {
            Waste::Version => "old version",
            Waste::Receipt => "receipt in no version kept",
            Waste::Data => "its data",
            Waste::Attempt => "attempt that died or was slower",
            Waste::Checkpoint => "checkpoints of a training that ended",
            Waste::Staged => "file that was never whole",
        }
    }
}

/// All that nobody needs, sorted as it may be deleted.
pub fn garbage(store: &Store, keep: &Keep) -> Result<Vec<Garbage>> {
    let (mut all, before) = (Vec::new(), SystemTime::now() - keep.younger_than);
    for stage in store.folders("")? {
        let old = Old { stage: &stage, before, files: store.files(&stage)? };
        old.versions(store, keep.versions, &mut all)?;
        all.extend(old.aged(old.grouped(Waste::Checkpoint, "checkpoints", 1)));
        let staged = old.files.iter().filter(|file| file.is_staged() && !old.in_folder(file, "data") && file.modified <= before);
        all.extend(staged.map(|file| old.one(Waste::Staged, file)));
    }
    all.sort_by(|a, b| (a.what, &a.path).cmp(&(b.what, &b.path)));
    Ok(all)
}

/// Deletes it, manifests before receipts before data, so that nothing that is left speaks of what is not there.
pub fn delete(store: &Store, garbage: &[Garbage]) -> Result<()> {
    for found in garbage {
        match found.what {
            Waste::Version | Waste::Receipt | Waste::Staged => store.delete(&found.path)?,
            Waste::Data | Waste::Attempt | Waste::Checkpoint => store.delete_all(&found.path)?,
        }
    }
    Ok(())
}

/// A stage's files, and before when they must have changed last.
struct Old<'a> {
    stage: &'a str,
    before: SystemTime,
    files: Vec<Stored>,
}

impl Old<'_> {
    /// Versions, receipts, and what attempts wrote.
    fn versions(&self, store: &Store, most: Option<usize>, all: &mut Vec<Garbage>) -> Result<()> {
        let filed: Vec<&Stored> = self.files.iter().filter(|file| !file.is_staged()).collect();
        let manifests: Vec<&Stored> = filed.iter().copied().filter(|file| self.in_folder(file, "manifests")).collect();
        let kept = most.map_or(0, |most| manifests.len().saturating_sub(most));
        let (old, kept): (Vec<_>, Vec<_>) = manifests.iter().enumerate().partition(|(i, file)| *i < kept && file.modified <= self.before);
        all.extend(old.into_iter().map(|(_, file)| self.one(Waste::Version, file)));
        let mut needed = HashSet::new();
        for (_, file) in kept {
            needed.extend(read_existing::<Manifest>(store, &file.path)?.receipts);
        }
        let times: HashMap<&str, &Stored> = filed.iter().map(|file| (file.path.as_str(), *file)).collect();
        let mut attempts = self.grouped(Waste::Attempt, "data", 2);
        for receipt in all_receipts(store, self.stage)? {
            let folder = data_folder(self.stage, &receipt.key, &receipt.attempt);
            let (file, data) = (times.get(receipt_path(self.stage, &receipt.key).as_str()), attempts.remove(&folder));
            let Some(file) = file.filter(|file| most.is_some() && !needed.contains(&receipt.key) && file.modified <= self.before) else {
                continue;
            };
            all.push(self.one(Waste::Receipt, file));
            all.extend(data.map(|data| Garbage { what: Waste::Data, ..data.0 }));
        }
        all.extend(self.aged(attempts));
        Ok(())
    }

    /// Folders in which nothing changed lately.
    fn aged(&self, folders: BTreeMap<String, (Garbage, SystemTime)>) -> impl Iterator<Item = Garbage> + use<> {
        let before = self.before;
        folders.into_values().filter(move |(_, modified)| *modified <= before).map(|(found, _)| found)
    }

    /// Files by the folder so many levels below one of the stage's; each with the time at which one of its files changed last.
    fn grouped(&self, what: Waste, folder: &str, levels: usize) -> BTreeMap<String, (Garbage, SystemTime)> {
        let mut folders = BTreeMap::new();
        for file in self.files.iter().filter(|file| self.in_folder(file, folder)) {
            let path = file.path.split('/').take(2 + levels).collect::<Vec<_>>().join("/");
            let fresh = || (Garbage { files: 0, bytes: 0, path: path.clone(), ..self.one(what, file) }, file.modified);
            let (found, modified) = folders.entry(path.clone()).or_insert_with(fresh);
            (found.files, found.bytes, *modified) = (found.files + 1, found.bytes + file.bytes, file.modified.max(*modified));
        }
        folders
    }

    fn in_folder(&self, file: &Stored, folder: &str) -> bool {
        file.path.strip_prefix(self.stage).and_then(|rest| rest.strip_prefix('/')?.strip_prefix(folder)).is_some_and(|r| r.starts_with('/'))
    }

    fn one(&self, what: Waste, file: &Stored) -> Garbage {
        Garbage { stage: self.stage.to_owned(), what, path: file.path.clone(), files: 1, bytes: file.bytes }
    }
}

#[cfg(test)]
#[expect(clippy::unwrap_used, reason = "a test fails by panicking")]
mod tests {
    use super::super::manifest::{Commit, commit};
    use super::super::receipt::file_receipt;
    use super::super::receipt::tests::receipt;
    use super::*;

    const ALL: Duration = Duration::ZERO;

    /// Two versions: of task 1, then of task 2; and task 3, which no version has.
    fn workspace() -> (tempfile::TempDir, Store) {
        let folder = tempfile::tempdir().unwrap();
        let store = Store::open(folder.path().to_str().unwrap()).unwrap();
        for key in ["k1", "k2", "k3"] {
            store.create(&format!("frames/data/{key}/a/shard.arrow"), key.as_bytes()).unwrap();
            file_receipt(&store, "frames", &receipt(key, "a")).unwrap();
            if key != "k3" {
                commit(&store, Commit { stage: "frames", run: "r", why: "a test", since: 0 }, |_| vec![key.to_owned()]).unwrap();
            }
        }
        (folder, store)
    }

    fn found(store: &Store, versions: Option<usize>, younger_than: Duration) -> Vec<(Waste, String)> {
        garbage(store, &Keep { versions, younger_than }).unwrap().into_iter().map(|found| (found.what, found.path)).collect()
    }

    #[test]
    fn dead_attempts_left_checkpoints_and_torn_files_are_garbage_once_they_are_old() {
        let (folder, store) = workspace();
        assert_eq!(found(&store, None, ALL), []);
        store.create("frames/data/k1/b/shard.arrow", b"slower").unwrap();
        store.create("frames/checkpoints/k9/0000000005/state", b"left").unwrap();
        std::fs::write(folder.path().join("frames/receipts/k4.json#12"), "{").unwrap();
        let expect = [
            (Waste::Attempt, "frames/data/k1/b".to_owned()),
            (Waste::Checkpoint, "frames/checkpoints/k9".into()),
            (Waste::Staged, "frames/receipts/k4.json#12".into()),
        ];
        assert_eq!(found(&store, None, ALL), expect);
        assert_eq!(found(&store, None, Duration::from_secs(60)), []);
        let all = garbage(&store, &Keep { versions: None, younger_than: ALL }).unwrap();
        assert_eq!(all.iter().map(|found| (found.files, found.bytes)).collect::<Vec<_>>(), [(1, 6), (1, 4), (1, 1)]);
        delete(&store, &all).unwrap();
        assert_eq!(found(&store, None, ALL), []);
        assert!(store.read("frames/data/k1/a/shard.arrow").unwrap().is_some());
    }

    #[test]
    fn of_old_versions_goes_what_no_newer_one_has() {
        let (_folder, store) = workspace();
        assert_eq!(found(&store, Some(1), Duration::from_secs(60)), []);
        let garbage = garbage(&store, &Keep { versions: Some(1), younger_than: ALL }).unwrap();
        let paths: Vec<&str> = garbage.iter().map(|found| found.path.as_str()).collect();
        let expect = [
            "frames/manifests/0000000001.json",
            "frames/receipts/k1.json",
            "frames/receipts/k3.json",
            "frames/data/k1/a",
            "frames/data/k3/a",
        ];
        assert_eq!(paths, expect);
        delete(&store, &garbage).unwrap();
        assert_eq!(store.read("frames/data/k2/a/shard.arrow").unwrap().as_deref(), Some(&b"k2"[..]));
        assert_eq!(found(&store, Some(1), ALL), []);
    }
}
