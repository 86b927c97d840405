//! What a stage has and lacks: its plan. In: receipts and the settings of a stage; out: its tasks, each done or new, and why.
//!
//! | file | what it holds |
//! |---|---|
//! | [`tasks`] | the tasks of a stage's dataset, in order |
//! | [`key`](mod@key) | what decides whether a task is done already |
//! | [`receipts`] | the tasks that are done, by key, and why another one is new |
//! | `reason` | why a task is new, as a sentence |
//! | [`training`] | when a trained model is kept |
//! | `view` | a plan as `lapo plan --format json` prints it |

use std::collections::BTreeMap;
use std::sync::Arc;

use serde::{Deserialize, Serialize};

pub mod key;
mod reason;
pub mod receipts;
pub mod tasks;
pub mod training;
mod view;

pub use super::decode::videos::Now;
use super::{ArtifactKind, Needs, StageKind, StageSpec, Task};
use crate::dataset::{Access, Damaged, FileInfo, HashMap, HashSet, ListedVideo, Manifest, Receipt};
use key::key;
pub use key::{Fields, KeyFields};
pub use reason::Reason;
pub use receipts::ReceiptIndex;
pub use tasks::{Planned, Tasks};

/// What a stage may look at when it plans its tasks.
pub struct Given<'a> {
    /// The pipeline's name.
    pub pipeline: &'a str,
    /// The pipeline's seed.
    pub seed: u64,
    /// All stages of the pipeline.
    pub stages: &'a [(String, StageSpec)],
    /// The plans of the stages before this one, its inputs among them.
    pub plans: &'a HashMap<String, StagePlan>,
    /// The receipts of this stage.
    pub receipts: &'a [Arc<Receipt>],
    /// The same, by key.
    pub known: &'a ReceiptIndex<'a>,
    /// Seconds between two checkpoints of a training.
    pub checkpoint_secs: u64,
    /// Whether it trains again, once, whatever its `refresh` says.
    pub is_forced: bool,
    /// Videos with rejects of these classes are decoded again; of all classes if the list is empty.
    pub retry_rejected: Option<&'a [String]>,
    /// What the stage's patterns and lists of videos match.
    pub videos: &'a [ListedVideo],
    /// Notes on the stage's lists, for people.
    pub notes: &'a [String],
    /// Which videos this run leaves for the next one.
    pub now: &'a Now,
    /// Access to object stores.
    pub access: &'a Access,
}

impl<'a> Given<'a> {
    /// Returns the plan of an input.
    pub fn plan(&self, stage: &str) -> &'a StagePlan {
        &self.plans[stage]
    }

    /// Returns the plan of an input, if there is one.
    pub fn plan_if(&self, stage: Option<&String>) -> Option<&'a StagePlan> {
        stage.map(|stage| self.plan(stage))
    }

    /// Returns the plan of an input's own input: the stage in this field of its settings.
    pub fn input_of(&self, stage: &str, field: &str) -> Option<&'a StagePlan> {
        let (_, spec) = self.stages.iter().find(|(name, _)| name == stage)?;
        let input = spec.inputs().into_iter().find(|input| input.field == field)?;
        self.plans.get(input.stage)
    }
}

/// A trained model: the receipt's key, and the weights.
#[derive(Clone, Copy, Debug)]
pub struct Model<'a> {
    /// The key of the task that made it.
    pub key: &'a str,
    /// The weights.
    pub weights: &'a FileInfo,
}

/// A task to be added to a plan.
#[derive(Debug)]
pub struct NewTask {
    /// What to do.
    pub task: Task,
    /// Keys of the receipts it builds on.
    pub inputs: Vec<String>,
    /// How far the progress bar moves for it.
    pub units: u64,
    /// Counts known beforehand, filed with the receipt.
    pub stats: BTreeMap<String, f64>,
}

impl NewTask {
    /// Creates a task of which no counts are known beforehand.
    pub fn new(task: impl Into<Task>, inputs: Vec<String>, units: u64) -> Self {
        NewTask { task: task.into(), inputs, units, stats: BTreeMap::new() }
    }
}

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
    pub kind: &'static StageKind,
    /// What one of its tasks needs to run.
    pub needs: Needs,
    /// Its tasks, as far as they are known, in the dataset's order.
    pub tasks: Tasks,
    /// Tasks that are not known before the stages they wait for have run.
    pub waiting: Waiting,
    /// Why tasks are new: reason and number.
    pub why: BTreeMap<Reason, usize>,
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
    pub fn empty(stage: &str, kind: &'static StageKind) -> Self {
        StagePlan {
            stage: stage.into(),
            kind,
            needs: Needs::default(),
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
        if self.kind.makes(ArtifactKind::Frames) { self.tasks.reused_videos() } else { 0 }
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
        self.committed.or_else(|| {
            self.before.as_ref().filter(|_| !self.changes()).map(|before| before.version)
        })
    }

    /// Rows that the newest version has and the plan has not; 0 while that is not known.
    pub fn rows_fewer(&self) -> u64 {
        let Some(before) = self.before.as_ref().filter(|_| self.new_tasks() == 0) else { return 0 };
        before.totals.rows.saturating_sub(self.tasks.receipts().map(|receipt| receipt.rows()).sum())
    }

    /// Why tasks are new, and what is gone, in one line.
    pub fn reasons(&self) -> String {
        let why = self.why.iter().map(|(reason, count)| format!("{reason} ({count})"));
        let gone =
            (self.videos_gone > 0).then(|| counted(self.videos_gone, "video gone", "videos gone"));
        let reasons = why.chain(gone).collect::<Vec<_>>().join(", ");
        match reasons.is_empty() {
            true if !self.damaged_tables.is_empty() => "damaged tables, joined again".into(),
            true if self.changes() => "other tasks than before".into(),
            _ => reasons,
        }
    }

    /// Returns the model of a stage that makes one, once it is there.
    pub fn model(&self) -> Option<Model<'_>> {
        let receipt = self.tasks.receipts().next().filter(|_| self.new_tasks() == 0)?;
        Some(Model { key: &receipt.key, weights: receipt.files.first()? })
    }

    /// Returns the file of weights of a stage that makes one; an empty one while there is none.
    pub fn weights(&self) -> FileInfo {
        self.last_file(".safetensors")
    }

    /// Returns the last file whose name ends so; an empty one while there is none.
    pub fn last_file(&self, end: &str) -> FileInfo {
        self.tasks.files(end).pop().unwrap_or_else(no_file)
    }

    /// Returns the shards of frames, in the dataset's order.
    pub fn shards(&self) -> Vec<FileInfo> {
        self.tasks.files(".arrow")
    }

    /// Returns the files of true actions: one for each shard, in their order.
    pub fn action_files(&self) -> Vec<FileInfo> {
        let files = self.tasks.receipts().flat_map(|receipt| &receipt.files);
        files.filter(|file| file.holds_actions()).cloned().collect()
    }

    /// Returns the digests of the videos that a stage of near-duplicates leaves out.
    pub fn copies(&self) -> HashSet<&str> {
        let rejects = self.tasks.receipts().flat_map(|receipt| &receipt.rejects);
        rejects.map(|reject| reject.digest.as_str()).collect()
    }

    /// Returns the digests of all videos of all tasks.
    pub fn digests(&self) -> HashSet<&str> {
        self.tasks.iter().flat_map(Planned::digests).collect()
    }

    /// Sets the settings to those that these fields of a key have.
    pub fn set_settings(&mut self, fields: &Fields) {
        self.settings = key::settings(self.kind, fields);
    }

    /// Adds tasks of which only the number is known.
    pub fn wait(&mut self, waiting: Waiting, why: Reason) {
        self.waiting.tasks += waiting.tasks;
        self.waiting.videos += waiting.videos;
        *self.why.entry(why).or_default() += waiting.tasks;
    }

    /// Waits with the stage's one task if one of the inputs is still to be made. Returns whether it
    /// waits.
    pub fn waits_for<'a>(
        &mut self,
        inputs: impl IntoIterator<Item = (&'a str, Option<&'a StagePlan>)>,
    ) -> bool {
        let is_new = |plan: &StagePlan| plan.new_tasks() > 0;
        let mut inputs = inputs.into_iter();
        let Some((name, _)) = inputs.find(|(_, plan)| plan.is_some_and(is_new)) else {
            return false;
        };
        self.wait(Waiting { tasks: 1, videos: 0 }, Reason::new_input(name));
        true
    }

    /// Adds a task: as done if its key has a receipt, else as new.
    pub fn add(&mut self, new: NewTask, known: &ReceiptIndex) {
        let NewTask { task, inputs, units, stats } = new;
        let fields = task.key().into_fields();
        let key = key(&fields);
        if self.tasks.has(&key) {
            return;
        }
        if let Some(receipt) = known.get(&key) {
            self.tasks.push(Planned::Done(receipt.clone()));
            return;
        }
        *self.why.entry(known.why(self.kind, &fields)).or_default() += 1;
        let (stage, kind) = (self.stage.clone(), self.kind.name.to_owned());
        let job = Job { stage, kind, key, fields, inputs, stats, units, task };
        self.tasks.push(Planned::New(Box::new(job)));
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
