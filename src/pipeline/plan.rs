//! What would run, and why. In: a checked pipeline and a workspace; out: for every stage the tasks that have no receipt.
//!
//! New videos, a retrained model, a changed setting and a killed run are one path: a task is its key, and a key without a receipt
//! is to be done. Nothing is written here. What is trained is planned in `training`: a model is kept although its input
//! has grown. `decode` is planned in `decode`, stages of one task in `single`.

use std::collections::{BTreeMap, HashMap};

use serde::Serialize;

use super::check::Checked;
use super::key::{Fields, Known, key, of_label, of_record, settings};
use super::spec::StageSpec;
use crate::dataset::{self, FileInfo, Manifest, Receipt, Store, all_receipts, head};
use crate::executor::Job;
use crate::stages::Task;
use crate::stages::label::{LabelConfig, LabelTask};
use crate::stages::record::RecordConfig;

mod ahead;
mod decode;
mod single;
mod training;

pub use ahead::{Ahead, Unwaiting};

/// What one stage has and lacks.
#[derive(Clone, Debug, Serialize)]
pub struct StagePlan {
    /// The stage's name.
    pub stage: String,
    /// Its kind.
    pub kind: String,
    /// Tasks that must run; some may not be known in detail before the stages they wait for have run.
    pub new: usize,
    /// Tasks whose receipts are there.
    pub reused: usize,
    /// Videos among the new tasks (`decode`; of `record`, episodes).
    pub new_videos: usize,
    /// Videos among the re-used tasks.
    pub reused_videos: usize,
    /// Why tasks are new: reason and number.
    pub why: BTreeMap<String, usize>,
    /// What else is to be said: a model that is kept, and what it has not seen.
    pub note: Option<String>,
    /// The settings as they come out of presets and overrides.
    pub settings: Fields,
    /// The new tasks, as far as they are known.
    #[serde(skip)]
    pub jobs: Vec<Job>,
    /// Keys of all tasks in the dataset's order, new ones included.
    #[serde(skip)]
    pub order: Vec<String>,
    /// The receipts that are there, in the dataset's order.
    #[serde(skip)]
    pub receipts: Vec<Receipt>,
    /// The newest version of the stage's dataset when planning began.
    #[serde(skip)]
    pub since: Option<u64>,
    /// The version that has just these receipts, if there is one: of runs that overlap, the later one's stays.
    #[serde(skip)]
    pub version: Option<u64>,
}

/// What a person asks for beyond the pipeline's file.
#[derive(Clone, Debug, Default)]
pub struct PlanOptions {
    /// Train these stages again, once, whatever their `refresh` says.
    pub refresh: Vec<String>,
    /// Seconds between two checkpoints of a training.
    pub checkpoint_secs: u64,
    /// Videos that were rejected are decoded again, with all that share a shard with them: those of these classes, or, where the list is
    /// empty, of any.
    pub retry_rejected: Option<Vec<String>>,
}

/// Plans stage by stage; each stage sees the plans of those before it.
pub struct Planner<'a> {
    /// The pipeline.
    pub checked: &'a Checked,
    /// Where results lie.
    pub store: &'a Store,
    /// What else is asked for.
    pub options: &'a PlanOptions,
    /// The stages planned (or run) so far.
    pub plans: HashMap<String, StagePlan>,
    /// The newest version of every stage's dataset when planning began.
    pub heads: HashMap<String, Manifest>,
    /// What this run has labelled before its stage's turn: new, although its receipts are there.
    pub ahead: Ahead,
}

impl<'a> Planner<'a> {
    /// Nothing planned yet.
    pub fn new(checked: &'a Checked, store: &'a Store, options: &'a PlanOptions) -> Result<Self, dataset::Error> {
        let newest = checked.spec.stages.iter().map(|(name, _)| Ok(head(store, name)?.map(|head| (name.clone(), head))));
        let heads = newest.filter_map(Result::transpose).collect::<Result<_, dataset::Error>>()?;
        Ok(Planner { checked, store, options, plans: HashMap::new(), heads, ahead: Ahead::default() })
    }

    /// Plans every stage, in running order.
    pub fn plan_all(mut self) -> Result<Vec<StagePlan>, dataset::Error> {
        let mut names = Vec::new();
        for &at in &self.checked.order {
            let plan = self.plan(at)?;
            names.push(plan.stage.clone());
            self.plans.insert(plan.stage.clone(), plan);
        }
        Ok(names.iter().filter_map(|name| self.plans.remove(name)).collect())
    }

    /// Plans one stage. The stages it takes from have been planned before, since [`Checked::order`] says so.
    pub fn plan(&self, at: usize) -> Result<StagePlan, dataset::Error> {
        let (name, spec) = &self.checked.spec.stages[at];
        let mut receipts = all_receipts(self.store, name)?;
        receipts.retain(|receipt| !self.ahead.has(name, &receipt.key));
        let head = self.heads.get(name);
        let plan = StagePlan { since: head.map(|head| head.version), ..StagePlan::empty(name, spec.kind()) };
        let mut plan = self.plan_stage(spec, plan, receipts)?;
        plan.version = head.filter(|head| plan.new == 0 && head.receipts == plan.order).map(|head| head.version);
        Ok(plan)
    }

    fn plan_stage(&self, spec: &StageSpec, plan: StagePlan, receipts: Vec<Receipt>) -> Result<StagePlan, dataset::Error> {
        match spec {
            StageSpec::Decode(config) => self.decode(plan, config, receipts),
            StageSpec::Record(config) => Ok(self.record(plan, config, &Known::new(&receipts))),
            StageSpec::ImportActions(config) => Ok(self.import_actions(plan, config, &Known::new(&receipts))),
            StageSpec::Deduplicate(config) => Ok(self.deduplicate(plan, config, &Known::new(&receipts))),
            StageSpec::TrainDynamics(config) => self.train_dynamics(plan, config, &receipts),
            StageSpec::ImportDynamics(config) => Ok(self.import_dynamics(plan, config, &Known::new(&receipts))),
            StageSpec::Label(config) => Ok(self.label(plan, config, &Known::new(&receipts))),
            StageSpec::TrainPolicy(config) => self.train_policy(plan, config, &receipts),
            StageSpec::TrainDecoder(config) => Ok(self.train_decoder(plan, config, &Known::new(&receipts))),
            StageSpec::Finetune(config) => Ok(self.finetune(plan, config, &Known::new(&receipts))),
            StageSpec::Evaluate(config) => Ok(self.evaluate(plan, config, &Known::new(&receipts))),
            StageSpec::Report(config) => Ok(self.report(plan, config, &Known::new(&receipts))),
        }
    }

    /// One task per shard; the first ones stay as they are when there are more.
    fn record(&self, mut plan: StagePlan, config: &RecordConfig, known: &Known) -> StagePlan {
        let seed = self.checked.spec.seed;
        let learnt: Vec<&StagePlan> =
            [&config.policy, &config.decoder, &config.agent].into_iter().flatten().map(|name| &self.plans[name]).collect();
        // Decoders stand by transitions, then by draw: the first draw of most is the one that plays.
        let weights = |plan: &&StagePlan| plan.files(if plan.kind == "train_decoder" { "-0.safetensors" } else { ".safetensors" }).pop();
        let weights = learnt.iter().map(|plan| weights(plan).unwrap_or_else(no_file)).collect();
        let (tasks, inputs) = (config.tasks(seed, weights), learnt.iter().flat_map(|plan| plan.order.clone()).collect::<Vec<_>>());
        plan.settings = tasks.first().map(|task| settings(&of_record(task))).unwrap_or_default();
        if let Some(waited) = learnt.iter().find(|plan| plan.new > 0) {
            (plan.new, plan.new_videos) = (tasks.len(), config.episodes as usize);
            plan.why.insert(format!("new {}", waited.stage), plan.new);
            return plan;
        }
        for task in tasks {
            let (count, reused) = (task.count, plan.reused);
            plan.add(of_record(&task), inputs.clone(), BTreeMap::new(), count, Task::Record(task), known);
            let videos = if plan.reused > reused { &mut plan.reused_videos } else { &mut plan.new_videos };
            *videos += count as usize;
        }
        plan
    }

    /// One task per shard, all new when the model is.
    fn label(&self, mut plan: StagePlan, config: &LabelConfig, known: &Known) -> StagePlan {
        let (frames, dynamics) = (&self.plans[&config.frames], &self.plans[&config.dynamics]);
        let [actions, copies] = [&config.actions, &config.without].map(|name| name.as_ref().map(|name| &self.plans[name]));
        let model = dynamics.model();
        plan.settings =
            settings(&of_label(&LabelTask { config: config.clone(), shard: no_file(), model: no_file(), actions: None, without: vec![] }));
        let waits = actions.filter(|actions| actions.new > 0 && frames.new == 0).map(|_| "new true actions");
        let waits = waits.or(copies.filter(|copies| copies.new > 0).map(|_| "new near-copies"));
        let Some(model) = model.filter(|_| waits.is_none()) else {
            plan.new = frames.new + frames.receipts.len();
            plan.why.insert(waits.unwrap_or("new model").into(), plan.new);
            return plan;
        };
        let true_actions = actions.map(StagePlan::action_files).unwrap_or_default();
        let copies = copies.map(StagePlan::copies).unwrap_or_default();
        for (i, shard) in frames.receipts.iter().enumerate() {
            let Some(file) = shard.files.first() else { continue };
            let (actions, digests) = (true_actions.get(i).cloned(), shard.videos.iter().map(|video| &video.digest));
            let without = digests.filter(|digest| copies.contains(digest.as_str())).cloned().collect();
            let task = LabelTask { config: config.clone(), shard: file.clone(), model: model.clone(), actions, without };
            plan.add_label(task, shard, &dynamics.receipts[0].key, known);
        }
        if frames.new > 0 {
            plan.new += frames.new;
            *plan.why.entry("new frames".into()).or_default() += frames.new;
        }
        plan
    }
}

impl StagePlan {
    /// Nothing to be done.
    pub fn empty(stage: &str, kind: &str) -> Self {
        StagePlan {
            stage: stage.into(),
            kind: kind.into(),
            new: 0,
            reused: 0,
            new_videos: 0,
            reused_videos: 0,
            why: BTreeMap::new(),
            note: None,
            settings: Fields::new(),
            jobs: Vec::new(),
            order: Vec::new(),
            receipts: Vec::new(),
            since: None,
            version: None,
        }
    }

    /// Why tasks are new, in one line.
    pub fn reasons(&self) -> String {
        self.why.iter().map(|(reason, count)| format!("{reason} ({count})")).collect::<Vec<_>>().join(", ")
    }

    /// The files of what is there whose names end so.
    fn files(&self, end: &str) -> Vec<FileInfo> {
        self.receipts.iter().flat_map(|receipt| &receipt.files).filter(|file| file.path.ends_with(end)).cloned().collect()
    }

    /// The weights that a training or an import made, once they are there.
    fn model(&self) -> Option<&FileInfo> {
        self.receipts.first().and_then(|receipt| receipt.files.first()).filter(|_| self.new == 0)
    }

    /// The files of true actions: as many as there are shards, in their order.
    fn action_files(&self) -> Vec<FileInfo> {
        self.receipts.iter().flat_map(|receipt| &receipt.files).filter(|file| file.holds_actions()).cloned().collect()
    }

    /// Adds a task: re-used where its key has a receipt, else new.
    fn add(&mut self, fields: Fields, inputs: Vec<String>, stats: BTreeMap<String, f64>, units: u64, task: Task, known: &Known) {
        let key = key(&fields);
        self.order.push(key.clone());
        if let Some(receipt) = known.get(&key) {
            self.receipts.push(receipt.clone());
            self.reused += 1;
            return;
        }
        *self.why.entry(known.why(&fields)).or_default() += 1;
        self.new += 1;
        let (stage, kind) = (self.stage.clone(), self.kind.clone());
        self.jobs.push(Job { stage, kind, key, fields, inputs, stats, units, task });
    }

    /// Adds the task of one shard's labels.
    fn add_label(&mut self, task: LabelTask, frames: &Receipt, dynamics: &str, known: &Known) {
        let (inputs, rows) = (vec![frames.key.clone(), dynamics.to_owned()], task.shard.rows);
        self.add(of_label(&task), inputs, BTreeMap::new(), rows, Task::Label(task), known);
    }

    /// Its jobs are done, and `newest` is the dataset's newest version.
    pub fn done(&mut self, new: Vec<Receipt>, newest: &Manifest) {
        let mut all: HashMap<String, Receipt> = self.receipts.drain(..).chain(new).map(|r| (r.key.clone(), r)).collect();
        self.receipts = self.order.iter().filter_map(|key| all.remove(key)).collect();
        (self.new, self.jobs) = (0, Vec::new());
        self.version = (newest.receipts == self.order).then_some(newest.version);
    }
}

fn no_file() -> FileInfo {
    FileInfo { path: String::new(), bytes: 0, rows: 0, blake3: String::new() }
}
