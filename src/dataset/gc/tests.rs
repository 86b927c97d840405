//! What is collected, beside a slow model that knows only what the tests made.
#![expect(clippy::unwrap_used, reason = "a test fails by panicking")]

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::path::Path;
use std::sync::{Arc, LazyLock};

use rand::{Rng, SeedableRng};
use rand_chacha::ChaCha8Rng;

use super::super::commit::tests::key;
use super::super::pins::{Held, Holder};
use super::super::receipt::tests::receipt;
use super::super::receipt::to_json;
use super::super::workspace::Claim;
use super::super::{Column, Commit, Error, FileInfo, Receipt, commit, data_folder, write_table};
use super::*;

const HOUR: u64 = 3_600;
const NOW: u64 = 2_000_000_000;

fn now() -> SystemTime {
    UNIX_EPOCH + Duration::from_secs(NOW)
}

/// A folder in the making, and of every file whether it must stay.
struct Folder {
    root: tempfile::TempDir,
    store: Store,
    random: ChaCha8Rng,
    keep: Keep,
    /// Files that must stay.
    stays: BTreeSet<String>,
}

/// A task that is done.
struct Task {
    key: String,
    attempt: String,
    hours: u64,
}

impl Folder {
    fn new(seed: u64) -> Self {
        let root = tempfile::tempdir().unwrap();
        let store = Store::open(root.path().to_str().unwrap()).unwrap();
        let mut random = ChaCha8Rng::seed_from_u64(seed);
        let versions = [None, Some(1), Some(2)][random.random_range(0..3)];
        let younger_than = Duration::from_secs([0, 24, 24 * 7][random.random_range(0..3)] * HOUR);
        Folder {
            root,
            store,
            random,
            keep: Keep { versions, younger_than, now: now() },
            stays: BTreeSet::new(),
        }
    }

    /// Whether so many hours are long enough ago.
    fn is_old(&self, hours: u64) -> bool {
        hours * HOUR >= self.keep.younger_than.as_secs()
    }

    /// Writes a file that changed last so many hours ago.
    fn write(&mut self, path: &str, bytes: &[u8], hours: u64, stays: bool) {
        let place = self.root.path().join(path);
        fs::create_dir_all(place.parent().unwrap()).unwrap();
        fs::write(&place, bytes).unwrap();
        self.age(path, hours, stays);
    }

    fn age(&mut self, path: &str, hours: u64, stays: bool) {
        let time = now() - Duration::from_secs(hours * HOUR);
        fs::File::options()
            .append(true)
            .open(self.root.path().join(path))
            .unwrap()
            .set_modified(time)
            .unwrap();
        if stays {
            self.stays.insert(path.to_owned());
        }
    }

    /// A stage with versions, tasks in none, dead attempts, checkpoints and pins.
    fn add_stage(&mut self, stage: &str) {
        let tasks: Vec<Task> = (0..self.random.random_range(1..7))
            .map(|i| Task {
                key: key(i),
                attempt: format!("{i:016x}"),
                hours: self.random.random_range(0..400),
            })
            .collect();
        let mut ages: Vec<u64> =
            (0..self.random.random_range(0..4)).map(|_| self.random.random_range(0..400)).collect();
        ages.sort_unstable_by(|a, b| b.cmp(a));
        let members: Vec<BTreeSet<usize>> = ages
            .iter()
            .map(|_| (0..tasks.len()).filter(|_| self.random.random_bool(0.6)).collect())
            .collect();
        let pinned_version = (!ages.is_empty() && self.random.random_bool(0.3))
            .then(|| self.random.random_range(0..ages.len()));
        let pinned_key =
            self.random.random_bool(0.3).then(|| self.random.random_range(0..tasks.len() + 1));
        let pin_is_live = self.random.random_bool(0.7);
        let is_pinned = |task: usize| pin_is_live && pinned_key == Some(task);

        // Versions that hold the same as the one before are none.
        let mut made: Vec<(u64, BTreeSet<usize>, u64)> = Vec::new();
        for (hours, tasks_of) in ages.iter().zip(&members) {
            if made.last().map_or(!tasks_of.is_empty(), |(_, before, _)| before != tasks_of) {
                made.push((made.len() as u64 + 1, tasks_of.clone(), *hours));
            }
        }
        let pinned_version = pinned_version.filter(|at| *at < made.len()).map(|at| made[at].0);
        let kept: Vec<bool> = (0..made.len())
            .map(|at| {
                let is_newest = self.keep.versions.is_none_or(|most| at + most >= made.len());
                let superseded = made.get(at + 1).is_some_and(|(_, _, hours)| self.is_old(*hours));
                let held =
                    pinned_version.is_some_and(|held| [held, held + 1].contains(&made[at].0));
                is_newest || !superseded || (pin_is_live && held)
            })
            .collect();
        let in_kept: BTreeSet<usize> = made
            .iter()
            .zip(&kept)
            .filter(|(_, kept)| **kept)
            .flat_map(|((_, tasks, _), _)| tasks.clone())
            .collect();
        self.write_tasks(stage, &tasks, &in_kept, &is_pinned);
        self.commit(stage, &tasks, &made, &kept);
        self.leave_overs(stage, &tasks, &is_pinned);
        if pinned_version.is_some() || pinned_key.is_some() {
            let keys = pinned_key.map(key).into_iter().collect();
            let held = Held { versions: pinned_version.into_iter().collect(), keys };
            let holds = Duration::from_secs(HOUR);
            let now_unix_secs = if pin_is_live { NOW - HOUR / 2 } else { NOW - 2 * HOUR };
            let holder = Holder { run: "00000099", process: None, holds, now_unix_secs };
            pins::pin(&self.store, holder, stage, BTreeMap::from([(stage.to_owned(), held)]))
                .unwrap();
            let stays = pin_is_live || !self.is_old(1);
            self.age(&format!("pins/00000099-{stage}.json"), 1, stays);
        }
    }

    /// Receipts and their data: a receipt in no kept version goes, and its data with it.
    fn write_tasks(
        &mut self,
        stage: &str,
        tasks: &[Task],
        in_kept: &BTreeSet<usize>,
        is_pinned: &dyn Fn(usize) -> bool,
    ) {
        for (at, task) in tasks.iter().enumerate() {
            let stays = self.keep.versions.is_none()
                || in_kept.contains(&at)
                || is_pinned(at)
                || !self.is_old(task.hours);
            let receipt = filed(stage, task);
            self.write(&receipt_path_of(stage, task), &to_json(&receipt), task.hours, stays);
            let bytes: &[u8] =
                if receipt.files[0].path.ends_with(".parquet") { &TABLE.1 } else { b"data" };
            self.write(&receipt.files[0].path, bytes, task.hours, stays);
        }
    }

    fn commit(
        &mut self,
        stage: &str,
        tasks: &[Task],
        made: &[(u64, BTreeSet<usize>, u64)],
        kept: &[bool],
    ) {
        let settings = serde_json::Map::new();
        // Packs and joined tables: the hours of the version that made them, and whether a version that is kept has them.
        let mut packs: BTreeMap<String, (u64, bool)> = BTreeMap::new();
        for ((version, members, hours), is_kept) in made.iter().zip(kept) {
            let receipts: Vec<Arc<Receipt>> =
                members.iter().map(|at| Arc::new(filed(stage, &tasks[*at]))).collect();
            let order: Vec<String> = receipts.iter().map(|receipt| receipt.key.clone()).collect();
            let fresh =
                receipts.into_iter().map(|receipt| (receipt.key.clone(), receipt)).collect();
            let (kind, run, pipeline, why) = ("decode", "00000001", "p", "a test");
            let now_unix_ms = (NOW - hours * HOUR) * 1000;
            let by = Commit {
                stage,
                kind,
                run,
                pipeline,
                take_over: false,
                why,
                settings: &settings,
                since: version - 1,
                now_unix_ms,
                file_bytes: 1 << 20,
            };
            let manifest = commit(&self.store, &by, &order, &fresh).unwrap().manifest().clone();
            assert_eq!(manifest.version, *version);
            self.age(&manifest_path(stage, *version), *hours, *is_kept);
            let packed = manifest.packs.into_iter().map(|pack| pack.file.path);
            for path in packed.chain(manifest.joined.into_iter().map(|joined| joined.file.path)) {
                let pack = packs.entry(path).or_insert((*hours, false));
                pack.1 |= is_kept;
            }
        }
        let files = ["packs", "tables"]
            .map(|folder| self.store.list(&format!("{stage}/{folder}")).unwrap());
        for file in files.into_iter().flatten() {
            let (hours, is_needed) = packs.get(&file).copied().unwrap_or((300, false));
            let stays = is_needed || !self.is_old(hours);
            self.age(&file, hours, stays);
        }
    }

    /// Attempts without a receipt, checkpoints, and files that were never whole.
    fn leave_overs(&mut self, stage: &str, tasks: &[Task], is_pinned: &dyn Fn(usize) -> bool) {
        for at in 0..tasks.len() + 2 {
            for (folder, name) in
                [("data", "ffffffffffffffff/part"), ("checkpoints", "0000000004/state")]
            {
                if self.random.random_bool(0.4) {
                    let hours = self.random.random_range(0..400);
                    let stays = is_pinned(at) || !self.is_old(hours);
                    self.write(
                        &format!("{stage}/{folder}/{}/{name}", key(at)),
                        b"left",
                        hours,
                        stays,
                    );
                }
            }
        }
        if self.random.random_bool(0.4) {
            let hours = self.random.random_range(0..400);
            self.write(
                &format!("{stage}/tables/00000001-dead/labels.parquet"),
                b"joined",
                hours,
                !self.is_old(hours),
            );
        }
        for folder in ["receipts", "manifests", "packs"] {
            let hours = self.random.random_range(0..3);
            let stays = !self.is_old(hours) || hours == 0;
            let number: u32 = self.random.random();
            self.write(&format!("{stage}/{folder}/x.json#{number}"), b"", hours, stays);
        }
    }

    /// Trees of something else, some of which look like ours.
    fn add_foreign(&mut self) {
        let hex = key(7);
        for path in [
            "docs/C# guide.md".to_owned(),
            "photos/checkpoints/epoch1.pt".to_owned(),
            "mazes/data/train/a/clip.mp4".to_owned(),
            "mazes/receipts/shop#12/bill.json".to_owned(),
            "frames/notes.txt".to_owned(),
            "frames/tables/notes.txt".to_owned(),
            "labels/tables/mine/labels.parquet".to_owned(),
            "frames/data/readme".to_owned(),
            format!("frames/data/{hex}/not an attempt/x"),
            format!("frames/receipts/{hex}.txt"),
            "frames/manifests/newest.json.bak".to_owned(),
            "a folder with spaces/data/x/y".to_owned(),
        ] {
            if self.random.random_bool(0.7) {
                self.write(&path, b"mine", 9_999, true);
            }
        }
    }

    fn files(&self) -> BTreeSet<String> {
        files_below(self.root.path(), self.root.path())
    }
}

fn files_below(root: &Path, folder: &Path) -> BTreeSet<String> {
    let mut all = BTreeSet::new();
    for entry in fs::read_dir(folder).unwrap() {
        let path = entry.unwrap().path();
        if path.is_dir() {
            all.extend(files_below(root, &path));
        } else {
            all.insert(path.strip_prefix(root).unwrap().to_str().unwrap().to_owned());
        }
    }
    all
}

fn receipt_path_of(stage: &str, task: &Task) -> String {
    super::super::receipt_path(stage, &task.key)
}

/// A table, and its bytes.
static TABLE: LazyLock<(FileInfo, Vec<u8>)> = LazyLock::new(|| {
    let folder = tempfile::tempdir().unwrap();
    let store = Store::open(folder.path().to_str().unwrap()).unwrap();
    let file = write_table(&store, "labels.parquet", &[("row", Column::I64(vec![1]))]).unwrap();
    let bytes = fs::read(folder.path().join("labels.parquet")).unwrap();
    (file, bytes)
});

/// Tasks of `labels` make tables, all others shards.
fn filed(stage: &str, task: &Task) -> Receipt {
    let folder = data_folder(stage, &task.key, &task.attempt);
    let shard =
        || FileInfo { path: format!("{folder}/out.arrow"), bytes: 4, rows: 1, blake3: "b".into() };
    let table = || FileInfo { path: format!("{folder}/labels.parquet"), ..TABLE.0.clone() };
    let files = vec![if stage == "labels" { table() } else { shard() }];
    Receipt { files, ..receipt(&task.key, &task.attempt) }
}

fn claim(store: &Store) {
    workspace::claim(
        store,
        &Claim { pipeline: "p", shares_with: &[], stages: &[], take_over: false },
        "id",
        0,
    )
    .unwrap();
}

#[test]
fn of_200_folders_just_that_goes_which_a_slow_model_says() {
    for seed in 0..200 {
        let mut folder = Folder::new(seed);
        let is_marked = folder.random.random_bool(0.8);
        if is_marked {
            claim(&folder.store);
            folder.stays.insert(workspace::MARKER.to_owned());
        }
        for stage in ["frames", "labels"] {
            if folder.random.random_bool(0.8) {
                folder.add_stage(stage);
            }
        }
        folder.add_foreign();
        let before = folder.files();
        let found = match survey(&folder.store, &folder.keep) {
            Ok(found) => found,
            Err(error) => {
                assert!(
                    matches!(error, Error::NoWorkspace { .. }) && !is_marked,
                    "seed {seed}: {error}"
                );
                continue;
            }
        };
        assert!(is_marked, "seed {seed}");
        assert_eq!(folder.files(), before, "seed {seed}: a survey deletes nothing");
        let deleted = delete(&folder.store, &found, now()).unwrap();
        let (left, stays) = (folder.files(), &folder.stays);
        let lost: Vec<_> = stays.difference(&left).collect();
        let spared: Vec<_> = left.difference(stays).collect();
        assert!(
            lost.is_empty() && spared.is_empty(),
            "seed {seed}, {:?}: lost {lost:?}, spared {spared:?}",
            folder.keep
        );
        let counted: u64 = deleted.iter().map(|garbage| garbage.files).sum();
        assert_eq!(counted as usize, before.len() - left.len(), "seed {seed}: {deleted:?}");
    }
}

/// Two versions of other tasks, the first superseded an hour ago.
fn two_versions() -> Folder {
    let mut folder = Folder::new(0);
    folder.keep = Keep { versions: Some(1), younger_than: Duration::ZERO, now: now() };
    claim(&folder.store);
    let tasks: Vec<Task> =
        (0..2).map(|i| Task { key: key(i), attempt: format!("{i:016x}"), hours: 900 }).collect();
    folder.write_tasks("frames", &tasks, &BTreeSet::new(), &|_| true);
    folder.commit("frames", &tasks, &[(1, [0].into(), 800), (2, [1].into(), 1)], &[true, true]);
    folder
}

#[test]
fn a_version_s_age_counts_from_the_commit_that_superseded_it() {
    let mut folder = two_versions();
    folder.keep.younger_than = Duration::from_secs(24 * HOUR);
    assert_eq!(survey(&folder.store, &folder.keep).unwrap().garbage, []);
    folder.keep.younger_than = Duration::from_secs(HOUR);
    assert!(
        survey(&folder.store, &folder.keep)
            .unwrap()
            .garbage
            .iter()
            .any(|found| found.what == Waste::Version)
    );
}

#[test]
fn what_somebody_comes_to_rely_on_between_the_look_and_the_deletion_stays() {
    type Rely = dyn Fn(&Folder);
    let relies: [(&str, &Rely); 3] = [
        ("a reader pins the old version", &|folder| {
            let held = Held { versions: vec![1], keys: vec![] };
            let holder =
                Holder { run: "reader", process: None, holds: pins::READER, now_unix_secs: NOW };
            pins::pin(&folder.store, holder, "1", BTreeMap::from([("frames".to_owned(), held)]))
                .unwrap();
        }),
        ("a run pins the old task", &|folder| {
            let held = Held { versions: vec![], keys: vec![key(0)] };
            let holder =
                Holder { run: "00000009", process: None, holds: pins::RUN, now_unix_secs: NOW };
            pins::pin(&folder.store, holder, "1", BTreeMap::from([("frames".to_owned(), held)]))
                .unwrap();
        }),
        ("a run puts the setting back", &|folder| {
            let settings = serde_json::Map::new();
            let (stage, kind, run, pipeline, why) =
                ("frames", "decode", "00000009", "p", "put back");
            let by = Commit {
                stage,
                kind,
                run,
                pipeline,
                take_over: false,
                why,
                settings: &settings,
                since: 2,
                now_unix_ms: NOW * 1000,
                file_bytes: 1 << 20,
            };
            commit(&folder.store, &by, &[key(0)], &Default::default()).unwrap();
        }),
    ];
    for (what, rely) in relies {
        let folder = two_versions();
        let found = survey(&folder.store, &folder.keep).unwrap();
        assert!(found.garbage.iter().any(|found| found.what == Waste::Data));
        rely(&folder);
        delete(&folder.store, &found, now()).unwrap();
        let data =
            folder.store.read(&format!("frames/data/{}/{:016x}/out.arrow", key(0), 0)).unwrap();
        assert!(data.is_some(), "{what}");
        let receipt = folder.store.read(&super::super::receipt_path("frames", &key(0))).unwrap();
        assert!(receipt.is_some(), "{what}");
        if what.starts_with("a reader") {
            let version = at(&folder.store, "frames", 1).unwrap().unwrap();
            assert_eq!(version.receipts(&folder.store).unwrap().len(), 1, "{what}");
        }
    }
}
