//! Random workspaces. Each one records which of its files must survive a collection.

use std::fs;
use std::path::Path;
use std::sync::{Arc, LazyLock};

use rand::{Rng, SeedableRng};
use rand_chacha::ChaCha8Rng;

use super::super::super::commit::tests::key;
use super::super::super::pins::{self, PinHolder, PinnedData};
use super::super::super::receipt::tests::receipt;
use super::super::super::receipt::{receipt_path, to_json};
use super::super::super::store::Store;
use super::super::super::{
    Column, FileInfo, Receipt, commit, data_folder, manifest::manifest_path, write_table,
};
use super::*;

/// A workspace in the making.
pub struct Workspace {
    pub root: tempfile::TempDir,
    pub store: Store,
    pub random: ChaCha8Rng,
    pub keep: Keep,
    /// Files that must stay.
    pub stays: BTreeSet<String>,
}

/// A finished task.
pub struct Task {
    pub key: String,
    pub attempt: String,
    /// The age of its files.
    pub hours: u64,
}

/// A version of a stage.
pub struct Version {
    pub number: u64,
    /// Tasks, by index.
    pub tasks: BTreeSet<usize>,
    /// The age of the version.
    pub hours: u64,
}

impl Workspace {
    pub fn new(seed: u64) -> Self {
        let root = tempfile::tempdir().unwrap();
        let store = Store::open(root.path().to_str().unwrap()).unwrap();
        let mut random = ChaCha8Rng::seed_from_u64(seed);
        let versions = [None, Some(1), Some(2)][random.random_range(0..3)];
        let younger_than = Duration::from_secs([0, 24, 24 * 7][random.random_range(0..3)] * HOUR);
        Workspace {
            root,
            store,
            random,
            keep: Keep { versions, younger_than, now: now() },
            stays: BTreeSet::new(),
        }
    }

    /// Returns whether this many hours are old enough for deletion.
    fn is_old(&self, hours: u64) -> bool {
        hours * HOUR >= self.keep.younger_than.as_secs()
    }

    /// Writes a file with this age. `stays` states whether it must survive.
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

    /// Adds a stage with versions, tasks in no version, dead attempts, checkpoints and pins.
    pub fn add_stage(&mut self, stage: &str) {
        let tasks: Vec<Task> = (0..self.random.random_range(1..7))
            .map(|i| Task {
                key: key(i),
                attempt: format!("{i:016x}"),
                hours: self.random.random_range(0..400),
            })
            .collect();
        let versions = self.random_versions(tasks.len());
        let pinned_version = (!versions.is_empty() && self.random.random_bool(0.3))
            .then(|| versions[self.random.random_range(0..versions.len())].number);
        let pinned_key =
            self.random.random_bool(0.3).then(|| self.random.random_range(0..tasks.len() + 1));
        let pin_is_live = self.random.random_bool(0.7);
        let is_pinned = |task: usize| pin_is_live && pinned_key == Some(task);

        let kept: Vec<bool> = (0..versions.len())
            .map(|index| {
                let number = versions[index].number;
                let is_newest =
                    self.keep.versions.is_none_or(|most| index + most >= versions.len());
                let is_superseded =
                    versions.get(index + 1).is_some_and(|next| self.is_old(next.hours));
                let is_held = pinned_version.is_some_and(|held| [held, held + 1].contains(&number));
                is_newest || !is_superseded || (pin_is_live && is_held)
            })
            .collect();
        let kept_versions = versions.iter().zip(&kept).filter(|(_, kept)| **kept);
        let in_kept: BTreeSet<usize> =
            kept_versions.flat_map(|(version, _)| version.tasks.clone()).collect();
        self.write_tasks(stage, &tasks, &in_kept, &is_pinned);
        self.commit_versions(stage, &tasks, &versions, &kept);
        self.add_left_overs(stage, &tasks, &is_pinned);
        if pinned_version.is_some() || pinned_key.is_some() {
            let keys = pinned_key.map(key).into_iter().collect();
            let held = PinnedData { versions: pinned_version.into_iter().collect(), keys };
            self.add_pin(stage, held, pin_is_live);
        }
    }

    /// Returns up to three versions, each a random choice of tasks.
    fn random_versions(&mut self, tasks: usize) -> Vec<Version> {
        let mut ages: Vec<u64> =
            (0..self.random.random_range(0..4)).map(|_| self.random.random_range(0..400)).collect();
        ages.sort_unstable_by(|a, b| b.cmp(a));
        let mut versions: Vec<Version> = Vec::new();
        for hours in ages {
            let tasks: BTreeSet<usize> =
                (0..tasks).filter(|_| self.random.random_bool(0.6)).collect();
            // A version with the tasks of the one before is not committed.
            if versions.last().map_or(!tasks.is_empty(), |before| before.tasks != tasks) {
                versions.push(Version { number: versions.len() as u64 + 1, tasks, hours });
            }
        }
        versions
    }

    fn add_pin(&mut self, stage: &str, held: PinnedData, is_live: bool) {
        let holds = Duration::from_secs(HOUR);
        let now_unix_secs = if is_live { NOW - HOUR / 2 } else { NOW - 2 * HOUR };
        let holder = PinHolder { run: "00000099", process: None, holds, now_unix_secs };
        let stages = BTreeMap::from([(stage.to_owned(), held)]);
        pins::pin(&self.store, holder, stage, stages).unwrap();
        let stays = is_live || !self.is_old(1);
        self.age(&format!("pins/00000099-{stage}.json"), 1, stays);
    }

    /// Writes receipts and data. A receipt in no kept version is deleted, together with its data.
    pub fn write_tasks(
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
            let receipt = receipt_of(stage, task);
            self.write(&receipt_path(stage, &task.key), &to_json(&receipt), task.hours, stays);
            let bytes: &[u8] =
                if receipt.files[0].path.ends_with(".parquet") { &TABLE.1 } else { b"data" };
            self.write(&receipt.files[0].path, bytes, task.hours, stays);
        }
    }

    /// Commits versions to a stage. `kept` states which of them must stay.
    pub fn commit_versions(
        &mut self,
        stage: &str,
        tasks: &[Task],
        versions: &[Version],
        kept: &[bool],
    ) {
        // Age of packs and joined tables, and whether a kept version has them.
        let mut packs: BTreeMap<String, (u64, bool)> = BTreeMap::new();
        for (Version { number, tasks: members, hours }, is_kept) in versions.iter().zip(kept) {
            let receipts: Vec<Arc<Receipt>> =
                members.iter().map(|at| Arc::new(receipt_of(stage, &tasks[*at]))).collect();
            let order: Vec<String> = receipts.iter().map(|receipt| receipt.key.clone()).collect();
            let fresh =
                receipts.into_iter().map(|receipt| (receipt.key.clone(), receipt)).collect();
            let by = commit_of(stage, "00000001", number - 1, *hours);
            let manifest = commit(&self.store, &by, &order, &fresh).unwrap().manifest().clone();
            assert_eq!(manifest.version, *number);
            self.age(&manifest_path(stage, *number), *hours, *is_kept);
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

    /// Adds attempts without a receipt, checkpoints, and incomplete files.
    fn add_left_overs(&mut self, stage: &str, tasks: &[Task], is_pinned: &dyn Fn(usize) -> bool) {
        for at in 0..tasks.len() + 2 {
            for (folder, name) in
                [("data", "ffffffffffffffff/part"), ("checkpoints", "0000000004/state")]
            {
                if self.random.random_bool(0.4) {
                    let hours = self.random.random_range(0..400);
                    let stays = is_pinned(at) || !self.is_old(hours);
                    let path = format!("{stage}/{folder}/{}/{name}", key(at));
                    self.write(&path, b"left", hours, stays);
                }
            }
        }
        if self.random.random_bool(0.4) {
            let hours = self.random.random_range(0..400);
            let path = format!("{stage}/tables/00000001-dead/labels.parquet");
            self.write(&path, b"joined", hours, !self.is_old(hours));
        }
        for folder in ["receipts", "manifests", "packs"] {
            let hours = self.random.random_range(0..3);
            let stays = !self.is_old(hours) || hours == 0;
            let number: u32 = self.random.random();
            self.write(&format!("{stage}/{folder}/x.json#{number}"), b"", hours, stays);
        }
    }

    /// Adds files of other programs. Some have names like lapo's.
    pub fn add_foreign(&mut self) {
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

    pub fn files(&self) -> BTreeSet<String> {
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

/// A table, and its bytes.
static TABLE: LazyLock<(FileInfo, Vec<u8>)> = LazyLock::new(|| {
    let folder = tempfile::tempdir().unwrap();
    let store = Store::open(folder.path().to_str().unwrap()).unwrap();
    let file = write_table(&store, "labels.parquet", &[("row", Column::I64(vec![1]))]).unwrap();
    let bytes = fs::read(folder.path().join("labels.parquet")).unwrap();
    (file, bytes)
});

/// Returns a task's receipt: with a table in the stage `labels`, with a shard elsewhere.
fn receipt_of(stage: &str, task: &Task) -> Receipt {
    let folder = data_folder(stage, &task.key, &task.attempt);
    let shard =
        || FileInfo { path: format!("{folder}/out.arrow"), bytes: 4, rows: 1, blake3: "b".into() };
    let table = || FileInfo { path: format!("{folder}/labels.parquet"), ..TABLE.0.clone() };
    let files = vec![if stage == "labels" { table() } else { shard() }];
    Receipt { files, ..receipt(&task.key, &task.attempt) }
}
