//! The log against a slow model: replaying it line by line gives the files of each version.
#![expect(clippy::unwrap_used, reason = "a test may panic")]

use std::cell::{Cell, RefCell};
use std::collections::{BTreeMap, HashSet};
use std::io::ErrorKind;

use rand::seq::SliceRandom;
use rand::{Rng, SeedableRng};
use rand_chacha::ChaCha8Rng;
use serde_json::Value;

use super::*;
use crate::dataset::faults::{Fault, faulty_store};
use crate::dataset::{Column, Error, write_table};

/// A checkpoint after so few entries that a short history has several.
const EVERY: u64 = 4;

/// A stage's whole history, and which of it was collected.
struct World {
    store: Store,
    /// Real files; those of one half have another column.
    pool: Vec<FileInfo>,
    versions: RefCell<Vec<TableVersion>>,
    collected: RefCell<HashSet<u64>>,
}

fn local() -> (tempfile::TempDir, Store) {
    let folder = tempfile::tempdir().unwrap();
    let store = Store::open(folder.path().to_str().unwrap()).unwrap();
    (folder, store)
}

impl World {
    fn new(store: Store) -> Self {
        let file = |at: usize| {
            let name = if at < 6 { "motion" } else { "fdm_error" };
            let columns =
                [("row", Column::U64(vec![0; at + 1])), (name, Column::F32(vec![0.5; at + 1]))];
            write_table(&store, &format!("labels/data/key {at}/a/labels.parquet"), &columns)
                .unwrap()
        };
        let pool = (0..12).map(file).collect();
        World { store, pool, versions: RefCell::default(), collected: RefCell::default() }
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

    /// Adds a version: longer, shorter, or of other files in another order.
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

    fn collect_any(&self, rng: &mut ChaCha8Rng) {
        if self.newest() > 1 {
            self.collected.borrow_mut().insert(rng.random_range(1..self.newest()));
        }
    }

    fn version(&self, version: u64) -> Option<TableVersion> {
        if self.collected.borrow().contains(&version) {
            None
        } else {
            self.versions.borrow().get(version as usize - 1).cloned()
        }
    }

    fn publish(&self, newest: u64) -> Result<()> {
        publish_with(self.table(), newest, &|version| Ok(self.version(version)), EVERY)
    }

    /// Publishes while another publisher and a collection come between two of its steps.
    fn publish_disturbed(&self, rng: &mut ChaCha8Rng) -> Result<()> {
        let (steps, at, newest) = (Cell::new(0), rng.random_range(0..6), self.newest());
        let other = rng.random_range(1..=newest);
        let rng = RefCell::new(rng);
        let versions = |version| {
            let before = self.version(version);
            if steps.replace(steps.get() + 1) == at {
                if rng.borrow_mut().random_bool(0.5) {
                    self.collect_any(&mut rng.borrow_mut());
                }
                self.publish(other)?;
            }
            // What was read may be old when it is used.
            Ok(if rng.borrow_mut().random_bool(0.5) { before } else { self.version(version) })
        };
        publish_with(self.table(), newest, &versions, EVERY)
    }

    /// Removes the last entries: what a run killed earlier would not have written.
    fn kill(&self, entries: usize) {
        let names = self.store.list("labels/_delta_log").unwrap();
        let entry = |name: &&String| name.ends_with(".json");
        for name in names.iter().filter(entry).rev().take(entries) {
            self.store.delete(name).unwrap();
            self.store.delete(&name.replace(".json", ".checkpoint.parquet")).unwrap();
        }
    }

    /// Replays the whole log and compares each version, its schema and each checkpoint. Returns the number of entries.
    fn check(&self) -> u64 {
        let names = self.store.list("labels/_delta_log").unwrap();
        let entries: Vec<&String> = names.iter().filter(|name| name.ends_with(".json")).collect();
        let (mut files, mut schema, mut holds) = (BTreeMap::new(), String::new(), 0);
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
                expected.first().iter().for_each(|first| {
                    assert_eq!(schema, schema::of_file(&self.store, &first.path).unwrap())
                });
            } else {
                assert_eq!((now, actions.iter().any(|action| action["add"].is_object() || action["remove"].is_object())), (holds, false));
                assert!(
                    self.collected.borrow().contains(&version),
                    "version {version} is there, but not in its entry"
                );
            }
            holds = now;
            self.check_checkpoint(at as u64, &files);
        }
        entries.len() as u64
    }

    fn check_checkpoint(&self, entry: u64, files: &BTreeMap<String, (u64, u64)>) {
        let log = Log { table: self.table(), versions: &|_| Ok(None), checkpoint_every: EVERY };
        let path = format!("labels/_delta_log/{entry:020}.checkpoint.parquet");
        let there = self.store.read(&path).unwrap().is_some();
        assert!(!there || (entry > 0 && entry.is_multiple_of(EVERY)), "{path}");
        if there {
            assert_eq!(listed(&checkpoint::read(&log, entry).unwrap()), *files, "{path}");
        }
    }
}

/// Applies one action, which must not add what is there or remove what is not.
fn replay(action: &Value, files: &mut BTreeMap<String, (u64, u64)>) {
    let path =
        |action: &Value| format!("labels/{}", action["path"].as_str().unwrap().replace("%20", " "));
    if let Some(add) = action.get("add") {
        let stats: Value = serde_json::from_str(add["stats"].as_str().unwrap()).unwrap();
        let facts = (add["size"].as_u64().unwrap(), stats["numRecords"].as_u64().unwrap());
        assert_eq!(files.insert(path(add), facts), None, "{add} is there already");
    }
    if let Some(remove) = action.get("remove") {
        assert!(files.remove(&path(remove)).is_some(), "{remove} is not there");
    }
}

fn listed(files: &[FileInfo]) -> BTreeMap<String, (u64, u64)> {
    files.iter().map(|file| (file.path.clone(), (file.bytes, file.rows))).collect()
}

/// Versions, collections, kills, second publishers and faults in any order.
fn any_history(world: &World, rng: &mut ChaCha8Rng) {
    for _ in 0..rng.random_range(1..40) {
        match rng.random_range(0..8) {
            0 => world.collect_any(rng),
            1 => world.kill(rng.random_range(1..4)),
            2 | 3 if world.newest() > 0 => _ = world.publish_disturbed(rng),
            4 if world.newest() > 0 => _ = world.publish(world.newest()),
            _ => world.commit_any(rng),
        }
    }
    world.commit_any(rng);
    while world.publish(world.newest()).is_err() {}
    assert_eq!(world.check(), world.newest());
}

#[test]
fn replaying_the_log_gives_the_files_of_each_version() {
    for seed in 0..100 {
        let rng = &mut ChaCha8Rng::seed_from_u64(seed);
        // A disk waits for each file to be lasting: fewer histories there.
        if seed % 10 == 0 {
            let (_folder, store) = local();
            any_history(&World::new(store), rng);
        }
        let fault = |_| match rng.random_range(0..20) {
            0..4 => Fault::Before(ErrorKind::StorageFull),
            // Each costs the wait of a retry.
            4 => Fault::LostReply,
            _ => Fault::Pass,
        };
        let faults: Vec<Fault> = (0..60).map(fault).collect();
        let passes = vec![Fault::Pass; 12];
        any_history(&World::new(faulty_store(&[passes, faults].concat())), rng);
    }
}

#[test]
fn many_publishers_at_once_write_one_log() {
    let (_folder, store) = local();
    for store in [store, faulty_store(&[])] {
        let world = World::new(store);
        let rng = &mut ChaCha8Rng::seed_from_u64(7);
        (0..20).for_each(|_| world.commit_any(rng));
        let (store, versions) = (&world.store, world.versions.borrow().clone());
        std::thread::scope(|scope| {
            for _ in 0..8 {
                scope.spawn(|| {
                    let table = DeltaTable { store, workspace: "id", stage: "labels" };
                    publish_with(
                        table,
                        20,
                        &|version| Ok(versions.get(version as usize - 1).cloned()),
                        EVERY,
                    )
                    .unwrap();
                });
            }
        });
        assert_eq!(world.check(), 20);
    }
}

#[test]
fn a_published_log_is_left_alone() {
    let (_folder, store) = local();
    let world = World::new(store);
    let rng = &mut ChaCha8Rng::seed_from_u64(3);
    (0..9).for_each(|_| world.commit_any(rng));
    world.publish(9).unwrap();
    let files = world.store.files("labels/_delta_log").unwrap();
    assert_eq!(files.len(), 9 + 2, "an entry a version, and two checkpoints");
    world.publish(9).unwrap();
    world.publish(4).unwrap();
    assert_eq!(world.store.files("labels/_delta_log").unwrap(), files);
}

#[test]
fn a_checkpoint_that_a_killed_run_left_out_is_written_later() {
    let (_folder, store) = local();
    let world = World::new(store);
    let rng = &mut ChaCha8Rng::seed_from_u64(3);
    (0..6).for_each(|_| world.commit_any(rng));
    world.publish(6).unwrap();
    let checkpoint = "labels/_delta_log/00000000000000000004.checkpoint.parquet";
    world.store.delete(checkpoint).unwrap();
    // Its version was collected since: the log itself says what it held.
    world.collected.borrow_mut().extend(1..6);
    world.publish(6).unwrap();
    assert!(world.store.read(checkpoint).unwrap().is_some());
    world.check();
}

#[test]
fn a_table_that_another_program_wrote_to_is_refused_with_a_safe_cure() {
    let (_folder, store) = local();
    let world = World::new(store);
    world.commit(world.pool[..2].to_vec());
    world.publish(1).unwrap();
    let foreign = br#"{"commitInfo":{"timestamp":1,"operation":"OPTIMIZE","operationParameters":{},"engineInfo":"delta-rs"}}"#;
    world.store.create("labels/_delta_log/00000000000000000001.json", foreign).unwrap();
    for newest in [1, 2, 3] {
        world.commit(world.pool[..3].to_vec());
        let error = world.publish(newest).unwrap_err();
        assert!(
            matches!(&error, Error::ForeignLog { path } if path.ends_with("/00000000000000000001.json")),
            "{error}"
        );
        assert!(error.hint().unwrap().contains("`labels/_delta_log`"));
    }
    world.store.delete_all("labels/_delta_log").unwrap();
    world.publish(4).unwrap();
    assert_eq!(world.check(), 4);
}

#[test]
fn a_small_commit_on_a_large_version_writes_kilobytes() {
    let (_folder, store) = local();
    let world = World::new(store);
    let first = world.pool[0].clone();
    let path = |at: usize| {
        format!("labels/data/{}/1a2b3c/labels.parquet", blake3::hash(&at.to_le_bytes()).to_hex())
    };
    let many = (0..125_000).map(|at| FileInfo { path: path(at), ..first.clone() });
    let mut files: Vec<FileInfo> = std::iter::once(first.clone()).chain(many).collect();
    world.commit(files.clone());
    files.push(world.pool[1].clone());
    _ = files.remove(7);
    world.commit(files);
    world.publish(2).unwrap();
    let sizes: Vec<u64> =
        world.store.files("labels/_delta_log").unwrap().iter().map(|file| file.bytes).collect();
    assert!(sizes[0] > 125_000 * 150 && sizes[1] < 4096, "{sizes:?}");
    world.check();
}
