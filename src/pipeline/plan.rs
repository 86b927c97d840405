//! What would run, and why. In: a checked pipeline and a workspace; out: for every stage its tasks, each done or new.
//!
//! New videos, a retrained model, a changed setting and a killed run are one path: a task is its key, and a key without a receipt
//! is to be done. Nothing is written here. What is trained is planned in `training`: a model is kept although its input
//! has grown. `decode` is planned in `decode`, stages of one task in `single`.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use super::check::Checked;
use super::spec::StageSpec;
use crate::dataset::{self, Finished, HashMap, HashSet, Manifest, Receipt, Store, finished, head};
use crate::stages::Task;
use crate::stages::decode::videos::Now;
use crate::stages::label::{LabelConfig, LabelTask};
use crate::stages::plan::key::{Known, of_label, of_record, settings};
use crate::stages::plan::no_file;
use crate::stages::record::RecordConfig;

mod ahead;
mod decode;
mod single;
mod training;

pub use crate::stages::plan::{LeftOut, Planned, StagePlan, Tasks, Waiting};
pub use ahead::{Ahead, Unwaiting};

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
    /// The pipeline writes into a workspace of another one.
    pub take_over: bool,
    /// The share of a dataset's videos that may be gone, instead of what the pipeline says.
    pub max_dropped: Option<f64>,
    /// Files that were changed less long ago are left for the next run, whatever the pipeline says.
    pub min_age: Duration,
    /// Run only these stages; the others are planned. `None`: run all.
    pub only: Option<Vec<String>>,
}

impl PlanOptions {
    /// Returns whether a stage is run, and not only planned.
    pub fn runs(&self, stage: &str) -> bool {
        self.only.as_ref().is_none_or(|only| only.iter().any(|name| name == stage))
    }
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
    /// What this run says of videos, such as which ones it leaves for the next one.
    pub now: Now,
}

impl<'a> Planner<'a> {
    /// Nothing planned yet.
    pub fn new(checked: &'a Checked, store: &'a Store, options: &'a PlanOptions) -> Result<Self, dataset::Error> {
        let newest = checked.spec.stages.iter().map(|(name, _)| Ok(head(store, name)?.map(|head| (name.clone(), head))));
        let heads = newest.filter_map(Result::transpose).collect::<Result<_, dataset::Error>>()?;
        let (plans, ahead) = Default::default();
        let now = Now { min_age: options.min_age, ..Now::default() };
        Ok(Planner { checked, store, options, plans, heads, ahead, now })
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
        let before = self.heads.get(name);
        let Finished { mut receipts, damaged } = finished(self.store, name, before)?;
        receipts.retain(|receipt| !self.ahead.has(name, &receipt.key));
        let before_entries = before.map_or(Ok(vec![]), |before| before.entries(self.store))?;
        let damaged_tables = before.map_or(Ok(vec![]), |before| before.damaged_tables(self.store, name))?;
        let plan = StagePlan { before: before.cloned(), before_entries, damaged, damaged_tables, ..StagePlan::empty(name, spec.kind()) };
        let all = receipts.clone();
        let mut plan = self.plan_stage(spec, plan, receipts)?;
        let planned: HashSet<&str> = plan.tasks.iter().map(Planned::key).collect();
        let gone: HashSet<&str> = plan.before_entries.iter().map(|(key, _)| key.as_str()).filter(|key| !planned.contains(key)).collect();
        if !gone.is_empty() {
            let known: HashMap<&str, &Arc<Receipt>> = all.iter().map(|receipt| (receipt.key.as_str(), receipt)).collect();
            let gone = plan.before_entries.iter().filter(|(key, _)| gone.contains(key.as_str()));
            plan.dropped = gone.filter_map(|(key, _)| known.get(key.as_str()).map(|receipt| (*receipt).clone())).collect();
        }
        if !plan.dropped.is_empty() {
            plan.planned_digests = plan.digests().into_iter().map(str::to_owned).collect();
            plan.videos_gone = self.videos_gone(&plan);
        }
        Ok(plan)
    }

    /// Videos of the newest version that no longer match, by name and content.
    fn videos_gone(&self, plan: &StagePlan) -> usize {
        let Some(listed) = self.checked.videos.get(&plan.stage) else { return 0 };
        let there: HashSet<&str> = listed.iter().map(|video| video.uri.as_str()).collect();
        let is_there =
            |uri: &str| there.contains(uri) || uri.rsplit_once(".tar/").is_some_and(|(tar, _)| there.contains(&*format!("{tar}.tar")));
        let videos = plan.dropped.iter().flat_map(|receipt| &receipt.videos);
        videos.filter(|video| !is_there(&video.uri) && !plan.planned_digests.contains(&video.digest)).count()
    }

    fn plan_stage(&self, spec: &StageSpec, plan: StagePlan, receipts: Vec<Arc<Receipt>>) -> Result<StagePlan, dataset::Error> {
        match spec {
            StageSpec::Decode(config) => self.decode(plan, config, receipts),
            StageSpec::Record(config) => Ok(self.record(plan, config, &Known::new(&receipts))),
            StageSpec::ImportActions(config) => Ok(self.import_actions(plan, config, &Known::new(&receipts))),
            StageSpec::Deduplicate(config) => Ok(self.deduplicate(plan, config, &Known::new(&receipts))),
            StageSpec::TrainDynamics(config) => Ok(self.train_dynamics(plan, config, &receipts)),
            StageSpec::ImportDynamics(config) => Ok(self.import_dynamics(plan, config, &Known::new(&receipts))),
            StageSpec::Label(config) => Ok(self.label(plan, config, &Known::new(&receipts))),
            StageSpec::TrainPolicy(config) => Ok(self.train_policy(plan, config, &receipts)),
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
        let weights =
            |plan: &&StagePlan| plan.tasks.files(if plan.kind == "train_decoder" { "-0.safetensors" } else { ".safetensors" }).pop();
        let weights = learnt.iter().map(|plan| weights(plan).unwrap_or_else(no_file)).collect();
        let (tasks, inputs) = (config.tasks(seed, weights), learnt.iter().flat_map(|plan| plan.tasks.keys()).collect::<Vec<_>>());
        plan.settings = tasks.first().map(|task| settings(&of_record(task))).unwrap_or_default();
        if let Some(waited) = learnt.iter().find(|plan| plan.new_tasks() > 0) {
            plan.wait(Waiting { tasks: tasks.len(), videos: config.episodes as usize }, format!("new {}", waited.stage));
            return plan;
        }
        for task in tasks {
            let units = task.count;
            plan.add(of_record(&task), inputs.clone(), BTreeMap::new(), units, Task::Record(task), known);
        }
        plan
    }

    /// One task per shard, all new when the model is.
    fn label(&self, mut plan: StagePlan, config: &LabelConfig, known: &Known) -> StagePlan {
        let (frames, dynamics) = (&self.plans[&config.frames], &self.plans[&config.dynamics]);
        let [actions, copies] = [&config.actions, &config.without].map(|name| name.as_ref().map(|name| &self.plans[name]));
        plan.settings =
            settings(&of_label(&LabelTask { config: config.clone(), shard: no_file(), model: no_file(), actions: None, without: vec![] }));
        let waits = actions.filter(|actions| actions.new_tasks() > 0 && frames.new_tasks() == 0).map(|_| "new true actions");
        let waits = waits.or(copies.filter(|copies| copies.new_tasks() > 0).map(|_| "new near-copies"));
        let Some((dynamics, model)) = dynamics.model().filter(|_| waits.is_none()) else {
            let tasks = frames.new_tasks() + frames.tasks.reused();
            plan.wait(Waiting { tasks, videos: 0 }, waits.unwrap_or("new model").into());
            return plan;
        };
        let true_actions = actions.map(StagePlan::action_files).unwrap_or_default();
        let copies = copies.map(StagePlan::copies).unwrap_or_default();
        for (i, shard) in frames.tasks.receipts().enumerate() {
            let Some(file) = shard.files.first() else { continue };
            let (actions, digests) = (true_actions.get(i).cloned(), shard.videos.iter().map(|video| &video.digest));
            let without = digests.filter(|digest| copies.contains(digest.as_str())).cloned().collect();
            let task = LabelTask { config: config.clone(), shard: file.clone(), model: model.clone(), actions, without };
            plan.add_label(task, shard, &dynamics.key, known);
        }
        if frames.new_tasks() > 0 {
            plan.wait(Waiting { tasks: frames.new_tasks(), videos: 0 }, "new frames".into());
        }
        plan
    }
}

impl StagePlan {
    /// Adds the task of one shard's labels.
    fn add_label(&mut self, task: LabelTask, frames: &Receipt, dynamics: &str, known: &Known) {
        let (inputs, rows) = (vec![frames.key.clone(), dynamics.to_owned()], task.shard.rows);
        self.add(of_label(&task), inputs, BTreeMap::new(), rows, Task::Label(task), known);
    }
}
