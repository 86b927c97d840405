//! Tests of the log against a slow model: a replay line by line must give the files of each
//! version.
#![expect(clippy::unwrap_used, reason = "a test may panic")]

use std::cell::{Cell, RefCell};
use std::collections::{BTreeMap, HashSet};
use std::io::ErrorKind;

use rand::seq::SliceRandom;
use rand::{Rng, SeedableRng};
use rand_chacha::ChaCha8Rng;
use serde_json::Value;

use super::*;
use crate::dataset::faulty_store::{Fault, faulty_store};
use crate::dataset::{Column, Error, write_table};

/// So few entries between checkpoints give a short history several ones.
const CHECKPOINT_EVERY_FEW: u64 = 4;

/// The history of a stage, with the versions deleted by garbage collection.
struct History {
    store: Store,
    /// Real files. One half of them has another column.
    pool: Vec<FileInfo>,
    versions: RefCell<Vec<TableVersion>>,
    deleted: RefCell<HashSet<u64>>,
}

fn local() -> (tempfile::TempDir, Store) {
    let folder = tempfile::tempdir().unwrap();
    let store = Store::open(folder.path().to_str().unwrap()).unwrap();
    (folder, store)
}

impl History {
    fn new(store: Store) -> Self {
        let file = |at: usize| {
            let name = if at < 6 { "motion" } else { "fdm_error" };
            let columns =
                [("row", Column::U64(vec![0; at + 1])), (name, Column::F32(vec![0.5; at + 1]))];
            write_table(&store, &format!("labels/data/key {at}/a/labels.parquet"), &columns)
                .unwrap()
        };
        let pool = (0..12).map(file).collect();
        History { store, pool, versions: RefCell::default(), deleted: RefCell::default() }
    }

    fn table(&self) -> DeltaTable<'_> {
        DeltaTable { store: &self.store, workspace: "id", stage: "labels" }
    }

    fn newest(&self) -> u64 {
        self.versions.borrow().len() as u64
    }

    fn commit(&self, files: Vec<FileInfo>) {
        let committed_unix_ms = 1_700_000_000_000 + self.newest();
        let version = TableVersion {
            committed_unix_ms,
            run: "run".into(),
            pipeline: "p".into(),
            why: "a \"test\"".into(),
            files,
        };
        self.versions.borrow_mut().push(version);
    }

    /// Adds a version: with more files, with fewer, or with other files in another order.
    fn commit_any(&self, rng: &mut ChaCha8Rng) {
        let mut files =
            self.versions.borrow().last().map_or_else(Vec::new, |version| version.files.clone());
        match rng.random_range(0..4) {
            0 if !files.is_empty() => _ = files.remove(rng.random_range(0..files.len())),
            1 => {
                files = self.pool.clone();
                files.shuffle(rng);
                files.truncate(rng.random_range(0..6));
            }
            _ => {
                let unused: Vec<&FileInfo> =
                    self.pool.iter().filter(|file| !files.contains(file)).collect();
                files.extend(unused.first().map(|file| (*file).clone()));
            }
        }
        self.commit(files);
    }

    fn delete_any(&self, rng: &mut ChaCha8Rng) {
        if self.newest() > 1 {
            self.deleted.borrow_mut().insert(rng.random_range(1..self.newest()));
        }
    }

    fn version(&self, version: u64) -> Option<TableVersion> {
        if self.deleted.borrow().contains(&version) {
            None
        } else {
            self.versions.borrow().get(version as usize - 1).cloned()
        }
    }

    fn publish(&self, newest: u64) -> Result<()> {
        publish_with(
            self.table(),
            newest,
            &|version| Ok(self.version(version)),
            CHECKPOINT_EVERY_FEW,
        )
    }

    /// Publishes while another publisher and a collection interfere between two of its steps.
    fn publish_disturbed(&self, rng: &mut ChaCha8Rng) -> Result<()> {
        let steps = Cell::new(0);
        let disturbed_step = rng.random_range(0..6);
        let newest = self.newest();
        let other = rng.random_range(1..=newest);
        let rng = RefCell::new(rng);
        let versions = |version| {
            let before = self.version(version);
            if steps.replace(steps.get() + 1) == disturbed_step {
                if rng.borrow_mut().random_bool(0.5) {
                    self.delete_any(&mut rng.borrow_mut());
                }
                self.publish(other)?;
            }
            // A manifest may be deleted between reading and use.
            Ok(if rng.borrow_mut().random_bool(0.5) { before } else { self.version(version) })
        };
        publish_with(self.table(), newest, &versions, CHECKPOINT_EVERY_FEW)
    }

    /// Removes the last entries, as if a run had been killed earlier.
    fn kill(&self, entries: usize) {
        let names = self.store.list("labels/_delta_log").unwrap();
        let entry = |name: &&String| name.ends_with(".json");
        for name in names.iter().filter(entry).rev().take(entries) {
            self.store.delete(name).unwrap();
            self.store.delete(&name.replace(".json", ".checkpoint.parquet")).unwrap();
        }
    }

    /// Replays the log and compares each version, its schema and each checkpoint. Returns the
    /// number of entries.
    fn check(&self) -> u64 {
        let names = self.store.list("labels/_delta_log").unwrap();
        let entries: Vec<&String> = names.iter().filter(|name| name.ends_with(".json")).collect();
        let mut files = BTreeMap::new();
        let mut schema = String::new();
        let mut holds = 0;
        for (at, name) in entries.iter().enumerate() {
            assert_eq!(**name, format!("labels/_delta_log/{at:020}.json"));
            let bytes = self.store.require(name).unwrap();
            let actions: Vec<Value> = bytes
                .split(|b| *b == b'\n')
                .filter(|l| !l.is_empty())
                .map(|l| serde_json::from_slice(l).unwrap())
                .collect();
            assert_eq!(
                actions.iter().filter(|action| action["protocol"].is_object()).count(),
                usize::from(at == 0)
            );
            for action in &actions {
                replay(action, &mut files);
                if let Some(found) = action["metaData"]["schemaString"].as_str() {
                    assert_ne!(found, schema, "metadata only where it changes");
                    schema = found.to_owned();
                }
            }
            let version = at as u64 + 1;
            let now = actions[0]["commitInfo"]["lapo"]["holds"].as_u64().unwrap();
            if now == version {
                let expected = &self.versions.borrow()[at].files;
                assert_eq!(files, listed(expected), "version {version}");
                if let Some(first) = expected.first() {
                    assert_eq!(schema, schema::of_file(&self.store, &first.path).unwrap());
                }
            } else {
                let is_change =
                    |action: &Value| action["add"].is_object() || action["remove"].is_object();
                assert_eq!((now, actions.iter().any(is_change)), (holds, false));
                assert!(
                    self.deleted.borrow().contains(&version),
                    "version {version} has a manifest, but no entry"
                );
            }
            holds = now;
            self.check_checkpoint(at as u64, &files);
        }
        entries.len() as u64
    }

    fn check_checkpoint(&self, entry: u64, files: &BTreeMap<String, (u64, u64)>) {
        let log = Log {
            table: self.table(),
            versions: &|_| Ok(None),
            checkpoint_every: CHECKPOINT_EVERY_FEW,
        };
        let path = format!("labels/_delta_log/{entry:020}.checkpoint.parquet");
        let there = self.store.read(&path).unwrap().is_some();
        assert!(!there || (entry > 0 && entry.is_multiple_of(CHECKPOINT_EVERY_FEW)), "{path}");
        if there {
            assert_eq!(listed(&checkpoint::read(&log, entry).unwrap()), *files, "{path}");
        }
    }
}

/// Applies one action. It must not add an existing file or remove a missing one.
fn replay(action: &Value, files: &mut BTreeMap<String, (u64, u64)>) {
    let path =
        |action: &Value| format!("labels/{}", action["path"].as_str().unwrap().replace("%20", " "));
    if let Some(add) = action.get("add") {
        let stats: Value = serde_json::from_str(add["stats"].as_str().unwrap()).unwrap();
        let facts = (add["size"].as_u64().unwrap(), stats["numRecords"].as_u64().unwrap());
        assert_eq!(files.insert(path(add), facts), None, "{add} exists already");
    }
    if let Some(remove) = action.get("remove") {
        assert!(files.remove(&path(remove)).is_some(), "{remove} does not exist");
    }
}

fn listed(files: &[FileInfo]) -> BTreeMap<String, (u64, u64)> {
    files.iter().map(|file| (file.path.clone(), (file.bytes, file.rows))).collect()
}

/// Runs versions, collections, kills, concurrent publishers and faults in random order.
fn run_random_history(history: &History, rng: &mut ChaCha8Rng) {
    for _ in 0..rng.random_range(1..40) {
        match rng.random_range(0..8) {
            0 => history.delete_any(rng),
            1 => history.kill(rng.random_range(1..4)),
            2 | 3 if history.newest() > 0 => _ = history.publish_disturbed(rng),
            4 if history.newest() > 0 => _ = history.publish(history.newest()),
            _ => history.commit_any(rng),
        }
    }
    history.commit_any(rng);
    while history.publish(history.newest()).is_err() {}
    assert_eq!(history.check(), history.newest());
}

#[test]
fn replaying_the_log_gives_the_files_of_each_version() {
    for seed in 0..100 {
        let rng = &mut ChaCha8Rng::seed_from_u64(seed);
        // A disk syncs each file, so it gets fewer histories.
        if seed % 10 == 0 {
            let (_folder, store) = local();
            run_random_history(&History::new(store), rng);
        }
        let fault = |_| match rng.random_range(0..20) {
            0..4 => Fault::Before(ErrorKind::StorageFull),
            // Each one costs the wait before a retry.
            4 => Fault::LostReply,
            _ => Fault::Pass,
        };
        let faults: Vec<Fault> = (0..60).map(fault).collect();
        let passes = vec![Fault::Pass; 12];
        run_random_history(&History::new(faulty_store(&[passes, faults].concat())), rng);
    }
}

#[test]
fn concurrent_publishers_write_one_log() {
    let (_folder, store) = local();
    for store in [store, faulty_store(&[])] {
        let history = History::new(store);
        let rng = &mut ChaCha8Rng::seed_from_u64(7);
        for _ in 0..20 {
            history.commit_any(rng);
        }
        let store = &history.store;
        let versions = history.versions.borrow().clone();
        std::thread::scope(|scope| {
            for _ in 0..8 {
                scope.spawn(|| {
                    let table = DeltaTable { store, workspace: "id", stage: "labels" };
                    publish_with(
                        table,
                        20,
                        &|version| Ok(versions.get(version as usize - 1).cloned()),
                        CHECKPOINT_EVERY_FEW,
                    )
                    .unwrap();
                });
            }
        });
        assert_eq!(history.check(), 20);
    }
}

#[test]
fn publishing_again_changes_nothing() {
    let (_folder, store) = local();
    let history = History::new(store);
    let rng = &mut ChaCha8Rng::seed_from_u64(3);
    for _ in 0..9 {
        history.commit_any(rng);
    }
    history.publish(9).unwrap();
    let files = history.store.files("labels/_delta_log").unwrap();
    assert_eq!(files.len(), 9 + 2, "one entry per version, and two checkpoints");
    history.publish(9).unwrap();
    history.publish(4).unwrap();
    assert_eq!(history.store.files("labels/_delta_log").unwrap(), files);
}

#[test]
fn a_checkpoint_missing_after_a_kill_is_written_later() {
    let (_folder, store) = local();
    let history = History::new(store);
    let rng = &mut ChaCha8Rng::seed_from_u64(3);
    for _ in 0..6 {
        history.commit_any(rng);
    }
    history.publish(6).unwrap();
    let checkpoint = "labels/_delta_log/00000000000000000004.checkpoint.parquet";
    history.store.delete(checkpoint).unwrap();
    // Its version was deleted since, so the checkpoint must come from the log.
    history.deleted.borrow_mut().extend(1..6);
    history.publish(6).unwrap();
    assert!(history.store.read(checkpoint).unwrap().is_some());
    history.check();
}

#[test]
fn a_table_changed_by_another_program_is_refused_with_a_safe_hint() {
    let (_folder, store) = local();
    let history = History::new(store);
    history.commit(history.pool[..2].to_vec());
    history.publish(1).unwrap();
    let foreign = concat!(
        r#"{"commitInfo":{"timestamp":1,"operation":"OPTIMIZE","#,
        r#""operationParameters":{},"engineInfo":"delta-rs"}}"#
    )
    .as_bytes();
    history.store.create("labels/_delta_log/00000000000000000001.json", foreign).unwrap();
    for newest in [1, 2, 3] {
        history.commit(history.pool[..3].to_vec());
        let error = history.publish(newest).unwrap_err();
        let Error::ForeignLog { path } = &error else { panic!("{error}") };
        assert!(path.ends_with("/00000000000000000001.json"), "{error}");
        assert!(error.hint().unwrap().contains("`labels/_delta_log`"));
    }
    history.store.delete_all("labels/_delta_log").unwrap();
    history.publish(4).unwrap();
    assert_eq!(history.check(), 4);
}

#[test]
fn a_small_commit_on_a_large_version_writes_kilobytes() {
    let (_folder, store) = local();
    let history = History::new(store);
    let first = history.pool[0].clone();
    let path = |at: usize| {
        format!("labels/data/{}/1a2b3c/labels.parquet", blake3::hash(&at.to_le_bytes()).to_hex())
    };
    let many = (0..125_000).map(|at| FileInfo { path: path(at), ..first.clone() });
    let mut files: Vec<FileInfo> = std::iter::once(first.clone()).chain(many).collect();
    history.commit(files.clone());
    files.push(history.pool[1].clone());
    _ = files.remove(7);
    history.commit(files);
    history.publish(2).unwrap();
    let sizes: Vec<u64> =
        history.store.files("labels/_delta_log").unwrap().iter().map(|file| file.bytes).collect();
    assert!(sizes[0] > 125_000 * 150 && sizes[1] < 4096, "{sizes:?}");
    history.check();
}
