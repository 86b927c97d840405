//! The plan of a stage: its tasks, each done or new, and why it is new.
//!
//! A plan is computed from the stage's settings and from receipts; it reads no frames.
//!
//! | file | contents |
//! |---|---|
//! | [`tasks`] | the tasks of a stage's dataset, in order |
//! | [`key`](mod@key) | the key of a task: a task with a known key is done |
//! | [`receipts`] | the finished tasks by key, and why another task is new |
//! | `reason` | the reason why a task is new, as a sentence |
//! | [`training`] | plans of trainings: when a trained model is kept |
//! | `view` | a plan as JSON, for `lapo plan --format json` |

use std::collections::BTreeMap;
use std::sync::Arc;

use serde::{Deserialize, Serialize};

pub mod key;
mod reason;
pub mod receipts;
pub mod tasks;
pub mod training;
mod view;

pub use super::decode::videos::DeferredVideos;
use super::{ArtifactKind, Needs, StageKind, StageSpec, Task};
use crate::dataset::{
    Access, DamagedTask, FileInfo, HashMap, HashSet, ListedVideo, Manifest, Receipt,
};
use key::key;
pub use key::{Fields, KeyFields};
pub use reason::Reason;
pub use receipts::ReceiptIndex;
pub use tasks::{PlannedTask, Tasks};

/// The inputs of planning a stage.
pub struct PlanInputs<'a> {
    /// The pipeline's name.
    pub pipeline: &'a str,
    /// The pipeline's seed.
    pub seed: u64,
    /// One in `holdout` videos is held out; 0: none is.
    pub holdout: usize,
    /// All stages of the pipeline.
    pub stages: &'a [(String, StageSpec)],
    /// The plans of the stages before this one, its inputs among them.
    pub plans: &'a HashMap<String, StagePlan>,
    /// The receipts of this stage.
    pub receipts: &'a [Arc<Receipt>],
    /// The same receipts, by key.
    pub known: &'a ReceiptIndex<'a>,
    /// Seconds between two checkpoints of a training.
    pub checkpoint_secs: u64,
    /// Whether `--refresh` asks for a new training, whatever the stage's `refresh` is.
    pub is_forced: bool,
    /// Classes of rejects to decode again. An empty list means all classes.
    pub retry_rejected: Option<&'a [String]>,
    /// The matches of the stage's patterns and lists.
    pub videos: &'a [ListedVideo],
    /// Notes on the stage's lists of videos.
    pub notes: &'a [String],
    /// The videos this run leaves for the next one.
    pub now: &'a DeferredVideos,
    /// Access to object stores.
    pub access: &'a Access,
}

impl<'a> PlanInputs<'a> {
    /// Returns the plan of an input.
    pub fn plan(&self, stage: &str) -> &'a StagePlan {
        &self.plans[stage]
    }

    /// Returns the plan of an input if the input is set.
    pub fn plan_if(&self, stage: Option<&String>) -> Option<&'a StagePlan> {
        stage.map(|stage| self.plan(stage))
    }

    /// Returns the plan of an input's input: the stage that `stage` names in `field`.
    pub fn input_of(&self, stage: &str, field: &str) -> Option<&'a StagePlan> {
        let (_, spec) = self.stages.iter().find(|(name, _)| name == stage)?;
        let input = spec.inputs().into_iter().find(|input| input.field == field)?;
        self.plans.get(input.stage)
    }
}

/// A trained model: the key of its receipt, and its weights.
#[derive(Clone, Copy, Debug)]
pub struct Model<'a> {
    /// The key of its task.
    pub key: &'a str,
    /// The weights.
    pub weights: &'a FileInfo,
}

/// A task to add to a plan.
#[derive(Debug)]
pub struct NewTask {
    /// The task.
    pub task: Task,
    /// Keys of the receipts it builds on.
    pub inputs: Vec<String>,
    /// The progress units of the task.
    pub units: u64,
    /// Counts known before the task runs. They are stored in its receipt.
    pub stats: BTreeMap<String, f64>,
}

impl NewTask {
    /// Creates a task without counts known before it runs.
    pub fn new(task: impl Into<Task>, inputs: Vec<String>, units: u64) -> Self {
        NewTask { task: task.into(), inputs, units, stats: BTreeMap::new() }
    }
}

/// A task and the key of its result.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct Job {
    /// The stage's name, which is also the folder of its results.
    pub stage: String,
    /// The stage's kind.
    pub kind: String,
    /// The task's key.
    pub key: String,
    /// The fields the key is made of.
    pub fields: serde_json::Map<String, serde_json::Value>,
    /// Keys of the receipts it builds on.
    pub inputs: Vec<String>,
    /// Counts known before the task runs. They are stored in its receipt.
    pub stats: BTreeMap<String, f64>,
    /// The progress units of the task.
    pub units: u64,
    /// The task.
    pub task: Task,
}

/// The plan of one stage.
#[derive(Clone, Debug)]
pub struct StagePlan {
    /// The stage's name.
    pub stage: String,
    /// Its kind.
    pub kind: &'static StageKind,
    /// An estimate of the resources of one of its tasks.
    pub needs: Needs,
    /// Its known tasks, in the dataset's order.
    pub tasks: Tasks,
    /// The tasks not known until the stage's inputs have run.
    pub waiting: PendingTasks,
    /// Why tasks are new: the number of tasks for each reason.
    pub why: BTreeMap<Reason, usize>,
    /// A note for the user, such as how many videos a kept model has not seen.
    pub note: Option<String>,
    /// The settings after presets and overrides.
    pub settings: Fields,
    /// The newest version of the stage's dataset when planning began.
    pub before: Option<Manifest>,
    /// Key and attempt of each task of that version.
    pub before_entries: Vec<(String, String)>,
    /// The tasks of that version missing from this plan. Their outputs are intact.
    pub dropped: Vec<Arc<Receipt>>,
    /// The number of lost videos of that version.
    pub videos_gone: usize,
    /// The digests of all planned videos, if some tasks of that version are not planned.
    pub planned_digests: HashSet<String>,
    /// Videos left for the next run: they are still being written, or a read failed for now.
    pub left_out: Vec<DeferredVideo>,
    /// Finished tasks whose outputs are damaged.
    pub damaged: Vec<DamagedTask>,
    /// Joined tables of the newest version that are missing or truncated. A commit joins them
    /// again.
    pub damaged_tables: Vec<String>,
    /// The version this run committed.
    pub committed: Option<u64>,
}

/// Numbers of tasks that cannot be planned yet.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct PendingTasks {
    /// The number of tasks.
    pub tasks: usize,
    /// The number of videos they will read.
    pub videos: usize,
}

/// A video left for the next run.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct DeferredVideo {
    /// Its path or address.
    pub video: String,
    /// The reason.
    pub reason: String,
}

impl StagePlan {
    /// Creates a plan without tasks.
    pub fn empty(stage: &str, kind: &'static StageKind) -> Self {
        StagePlan {
            stage: stage.into(),
            kind,
            needs: Needs::default(),
            tasks: Tasks::default(),
            waiting: PendingTasks::default(),
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

    /// Returns the number of tasks to run, including tasks not known yet.
    pub fn new_tasks(&self) -> usize {
        self.tasks.undone() + self.waiting.tasks
    }

    /// Returns the number of videos of the new tasks (of `record`: episodes).
    pub fn new_videos(&self) -> usize {
        self.tasks.new_videos() + self.waiting.videos
    }

    /// Returns the number of videos of the re-used tasks.
    pub fn reused_videos(&self) -> usize {
        if self.kind.makes(ArtifactKind::Frames) { self.tasks.reused_videos() } else { 0 }
    }

    /// Returns whether the plan differs from the newest version: tasks are new, gone or reordered.
    pub fn changes(&self) -> bool {
        // The attempt counts, too: a task done again has other files under the same key.
        let entries = || self.tasks.receipts().map(|receipt| (&receipt.key, &receipt.attempt));
        self.new_tasks() > 0
            || !self.damaged_tables.is_empty()
            || !entries().eq(self.before_entries.iter().map(|(key, attempt)| (key, attempt)))
            || self.before.is_none()
    }

    /// Returns the version with exactly these tasks, if there is one. Of overlapping runs, the
    /// version of the later one stays.
    pub fn version(&self) -> Option<u64> {
        // A version committed by this run is newer than `before`.
        self.committed.or_else(|| {
            self.before.as_ref().filter(|_| !self.changes()).map(|before| before.version)
        })
    }

    /// Returns how many rows fewer than the newest version the plan has; 0 while tasks are new.
    pub fn rows_fewer(&self) -> u64 {
        // The rows of new tasks are unknown until they have run.
        let Some(before) = self.before.as_ref().filter(|_| self.new_tasks() == 0) else { return 0 };
        before.totals.rows.saturating_sub(self.tasks.receipts().map(|receipt| receipt.rows()).sum())
    }

    /// Returns the reasons for new tasks and the number of lost videos, in one line.
    pub fn reasons(&self) -> String {
        let why = self.why.iter().map(|(reason, count)| format!("{reason} ({count})"));
        let gone =
            (self.videos_gone > 0).then(|| counted(self.videos_gone, "video gone", "videos gone"));
        let reasons = why.chain(gone).collect::<Vec<_>>().join(", ");
        if !reasons.is_empty() {
            reasons
        } else if !self.damaged_tables.is_empty() {
            "damaged tables, joined again".into()
        } else if self.changes() {
            "other tasks than before".into()
        } else {
            String::new()
        }
    }

    /// Returns the model the stage made, if it has run.
    pub fn model(&self) -> Option<Model<'_>> {
        // A stage that makes a model has one task.
        let receipt = self.tasks.receipts().next().filter(|_| self.new_tasks() == 0)?;
        Some(Model { key: &receipt.key, weights: receipt.files.first()? })
    }

    /// Returns the weights the stage made, or [`no_file`] if it has not run.
    pub fn weights(&self) -> FileInfo {
        self.last_file(".safetensors")
    }

    /// Returns the last file with a name ending in `end`, or [`no_file`].
    pub fn last_file(&self, end: &str) -> FileInfo {
        self.tasks.files(end).pop().unwrap_or_else(no_file)
    }

    /// Returns the shards of frames, in the dataset's order.
    pub fn shards(&self) -> Vec<FileInfo> {
        self.tasks.files(".arrow")
    }

    /// Returns the files of true actions: one for each shard, in the shards' order.
    pub fn action_files(&self) -> Vec<FileInfo> {
        let files = self.tasks.receipts().flat_map(|receipt| &receipt.files);
        files.filter(|file| file.holds_actions()).cloned().collect()
    }

    /// Returns the digests of the near-duplicates a `deduplicate` stage rejects.
    pub fn copies(&self) -> HashSet<&str> {
        let rejects = self.tasks.receipts().flat_map(|receipt| &receipt.rejects);
        rejects.map(|reject| reject.digest.as_str()).collect()
    }

    /// Returns the digests of all videos of all tasks.
    pub fn digests(&self) -> HashSet<&str> {
        self.tasks.iter().flat_map(PlannedTask::digests).collect()
    }

    /// Sets the plan's settings from the fields of a key.
    pub fn set_settings(&mut self, fields: &Fields) {
        self.settings = key::settings(self.kind, fields);
    }

    /// Adds tasks of which only the numbers are known.
    pub fn wait(&mut self, waiting: PendingTasks, why: Reason) {
        self.waiting.tasks += waiting.tasks;
        self.waiting.videos += waiting.videos;
        *self.why.entry(why).or_default() += waiting.tasks;
    }

    /// Lets the stage's one task wait if an input is still to be made. Returns whether it waits.
    pub fn waits_for<'a>(
        &mut self,
        inputs: impl IntoIterator<Item = (&'a str, Option<&'a StagePlan>)>,
    ) -> bool {
        let is_new = |plan: &StagePlan| plan.new_tasks() > 0;
        let mut inputs = inputs.into_iter();
        // The first new input is the reason; the others would only repeat it.
        let Some((name, _)) = inputs.find(|(_, plan)| plan.is_some_and(is_new)) else {
            return false;
        };
        self.wait(PendingTasks { tasks: 1, videos: 0 }, Reason::new_input(name));
        true
    }

    /// Adds a task: as done if its key has a receipt, otherwise as new.
    pub fn add(&mut self, new: NewTask, known: &ReceiptIndex) {
        let NewTask { task, inputs, units, stats } = new;
        let fields = task.key().into_fields();
        let key = key(&fields);
        // Equal tasks, such as labels of two shards without frames, are done once.
        if self.tasks.has(&key) {
            return;
        }
        if let Some(receipt) = known.get(&key) {
            self.tasks.push(PlannedTask::Done(receipt.clone()));
            return;
        }
        *self.why.entry(known.why(self.kind, &fields)).or_default() += 1;
        let job = Job {
            stage: self.stage.clone(),
            kind: self.kind.name.to_owned(),
            key,
            fields,
            inputs,
            stats,
            units,
            task,
        };
        self.tasks.push(PlannedTask::New(Box::new(job)));
    }
}

/// Returns a count with the singular or plural of its noun.
pub fn counted(count: usize, one: &str, many: &str) -> String {
    format!("{count} {}", if count == 1 { one } else { many })
}

/// Returns the placeholder for the file of an unfinished task.
pub fn no_file() -> FileInfo {
    FileInfo { path: String::new(), bytes: 0, rows: 0, blake3: String::new() }
}
