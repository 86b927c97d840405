//! What a stage has and lacks: its plan. In: receipts and the settings of a stage; out: its tasks, each done or new, and why.
//!
//! | file | what it holds |
//! |---|---|
//! | [`tasks`] | the tasks of a stage's dataset, in order |
//! | [`key`] | what decides whether a task is done already |
//! | `view` | a plan as `lapo plan --format json` prints it |

use std::collections::BTreeMap;
use std::sync::Arc;

use serde::{Deserialize, Serialize};

pub mod key;
pub mod tasks;
mod view;

use super::Task;
use crate::dataset::{Damaged, FileInfo, HashSet, Manifest, Receipt};
use key::{Fields, Known, key};
pub use tasks::{Planned, Tasks};

/// One task, and under which key its result is filed.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct Job {
    /// The stage's name: the folder of its results.
    pub stage: String,
    /// The stage's kind.
    pub kind: String,
    /// The task's key.
    pub key: String,
    /// What the key was made of.
    pub fields: serde_json::Map<String, serde_json::Value>,
    /// Keys of the receipts it builds on.
    pub inputs: Vec<String>,
    /// Counts known beforehand, filed with the receipt.
    pub stats: BTreeMap<String, f64>,
    /// How far the progress bar moves for it.
    pub units: u64,
    /// What to do.
    pub task: Task,
}

/// What one stage has and lacks.
#[derive(Clone, Debug)]
pub struct StagePlan {
    /// The stage's name.
    pub stage: String,
    /// Its kind.
    pub kind: String,
    /// Its tasks, as far as they are known, in the dataset's order.
    pub tasks: Tasks,
    /// Tasks that are not known before the stages they wait for have run.
    pub waiting: Waiting,
    /// Why tasks are new: reason and number.
    pub why: BTreeMap<String, usize>,
    /// A note for people, such as how many videos a kept model has not seen.
    pub note: Option<String>,
    /// The settings as they come out of presets and overrides.
    pub settings: Fields,
    /// The newest version of the stage's dataset when planning began.
    pub before: Option<Manifest>,
    /// Key and attempt of that version's tasks.
    pub before_entries: Vec<(String, String)>,
    /// Those of its tasks that are not planned, their outputs whole.
    pub dropped: Vec<Arc<Receipt>>,
    /// Videos of that version that are gone.
    pub videos_gone: usize,
    /// The digests of all videos of the plan, where some of the version before are not planned.
    pub planned_digests: HashSet<String>,
    /// Videos left for the next run: they are still being written, or reading them failed in passing.
    pub left_out: Vec<LeftOut>,
    /// Tasks that were done, and whose outputs are damaged.
    pub damaged: Vec<Damaged>,
    /// Joined tables of the newest version that are missing or cut short: a commit joins them again.
    pub damaged_tables: Vec<String>,
    /// The version that this run made of it, once it has.
    pub committed: Option<u64>,
}

/// Tasks whose number is known and nothing else.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Waiting {
    /// How many tasks.
    pub tasks: usize,
    /// How many videos they will read.
    pub videos: usize,
}

/// A video that is left for the next run.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct LeftOut {
    /// Its path or address.
    pub video: String,
    /// Why.
    pub reason: String,
}

impl StagePlan {
    /// Nothing to be done.
    pub fn empty(stage: &str, kind: &str) -> Self {
        StagePlan {
            stage: stage.into(),
            kind: kind.into(),
            tasks: Tasks::default(),
            waiting: Waiting::default(),
            why: BTreeMap::new(),
            note: None,
            settings: Fields::new(),
            before: None,
            before_entries: Vec::new(),
            dropped: Vec::new(),
            videos_gone: 0,
            planned_digests: HashSet::default(),
            left_out: Vec::new(),
            damaged: Vec::new(),
            damaged_tables: Vec::new(),
            committed: None,
        }
    }

    /// Tasks that must run, those that are not known yet included.
    pub fn new_tasks(&self) -> usize {
        self.tasks.undone() + self.waiting.tasks
    }

    /// Videos among the new tasks (`decode`; of `record`, episodes).
    pub fn new_videos(&self) -> usize {
        self.tasks.new_videos() + self.waiting.videos
    }

    /// Videos among the re-used tasks.
    pub fn reused_videos(&self) -> usize {
        if ["decode", "record"].contains(&self.kind.as_str()) { self.tasks.reused_videos() } else { 0 }
    }

    /// Whether the newest version is not just these tasks: some are new, gone, or in another order.
    pub fn changes(&self) -> bool {
        let entries = || self.tasks.receipts().map(|receipt| (&receipt.key, &receipt.attempt));
        self.new_tasks() > 0
            || !self.damaged_tables.is_empty()
            || !entries().eq(self.before_entries.iter().map(|(key, attempt)| (key, attempt)))
            || self.before.is_none()
    }

    /// The version that has just these tasks, if there is one: of runs that overlap, the later one's stays.
    pub fn version(&self) -> Option<u64> {
        self.committed.or_else(|| self.before.as_ref().filter(|_| !self.changes()).map(|before| before.version))
    }

    /// Rows that the newest version has and the plan has not; 0 while that is not known.
    pub fn rows_fewer(&self) -> u64 {
        let Some(before) = self.before.as_ref().filter(|_| self.new_tasks() == 0) else { return 0 };
        before.totals.rows.saturating_sub(self.tasks.receipts().map(|receipt| receipt.rows()).sum())
    }

    /// Why tasks are new, and what is gone, in one line.
    pub fn reasons(&self) -> String {
        let why = self.why.iter().map(|(reason, count)| format!("{reason} ({count})"));
        let gone = (self.videos_gone > 0).then(|| counted(self.videos_gone, "video gone", "videos gone"));
        let reasons = why.chain(gone).collect::<Vec<_>>().join(", ");
        match reasons.is_empty() {
            true if !self.damaged_tables.is_empty() => "damaged tables, joined again".into(),
            true if self.changes() => "other tasks than before".into(),
            _ => reasons,
        }
    }

    /// The receipt of a training or an import and the weights that it made, once they are there.
    pub fn model(&self) -> Option<(&Arc<Receipt>, &FileInfo)> {
        let receipt = self.tasks.receipts().next().filter(|_| self.new_tasks() == 0)?;
        Some((receipt, receipt.files.first()?))
    }

    /// The files of true actions: as many as there are shards, in their order.
    pub fn action_files(&self) -> Vec<FileInfo> {
        self.tasks.receipts().flat_map(|receipt| &receipt.files).filter(|file| file.holds_actions()).cloned().collect()
    }

    /// The digests of all videos of all tasks.
    pub fn digests(&self) -> HashSet<&str> {
        self.tasks.iter().flat_map(Planned::digests).collect()
    }

    /// Adds tasks of which only the number is known.
    pub fn wait(&mut self, waiting: Waiting, why: String) {
        self.waiting.tasks += waiting.tasks;
        self.waiting.videos += waiting.videos;
        *self.why.entry(why).or_default() += waiting.tasks;
    }

    /// Adds a task: re-used where its key has a receipt, else new.
    pub fn add(&mut self, fields: Fields, inputs: Vec<String>, stats: BTreeMap<String, f64>, units: u64, task: Task, known: &Known) {
        let key = key(&fields);
        if self.tasks.has(&key) {
            return;
        }
        if let Some(receipt) = known.get(&key) {
            self.tasks.push(Planned::Done(receipt.clone()));
            return;
        }
        *self.why.entry(known.why(&fields)).or_default() += 1;
        let (stage, kind) = (self.stage.clone(), self.kind.clone());
        self.tasks.push(Planned::New(Box::new(Job { stage, kind, key, fields, inputs, stats, units, task })));
    }
}

/// A number and what it counts.
pub fn counted(count: usize, one: &str, many: &str) -> String {
    format!("{count} {}", if count == 1 { one } else { many })
}

/// Returns the file of a task that is not done yet.
pub fn no_file() -> FileInfo {
    FileInfo { path: String::new(), bytes: 0, rows: 0, blake3: String::new() }
}
