//! Plans of stages that are one task each. In: a stage's settings and the plans of those it takes from; out: its one task, new or done.

use std::collections::BTreeMap;

use super::{Planner, StagePlan, Waiting, no_file};
use crate::dataset::{FileInfo, HashSet};
use crate::stages::deduplicate::{DeduplicateConfig, DeduplicateTask};
use crate::stages::digest_of;
use crate::stages::evaluate::{EvaluateConfig, EvaluateTask};
use crate::stages::finetune::{FinetuneConfig, FinetuneTask};
use crate::stages::import_actions::{ImportActionsConfig, ImportActionsTask};
use crate::stages::import_dynamics::{ImportDynamicsConfig, ImportDynamicsTask};
use crate::stages::plan::key::{
    Known, key, of_deduplicate, of_evaluate, of_finetune, of_import_actions, of_import_dynamics, of_report, of_train_decoder, settings,
};
use crate::stages::report::{ReportConfig, ReportTask, Source};
use crate::stages::train_decoder::{TrainDecoderConfig, TrainDecoderTask};
use crate::stages::{Task, report};

impl Planner<'_> {
    /// One task: whether a video is there at all is seen from all frames.
    pub(super) fn import_actions(&self, mut plan: StagePlan, config: &ImportActionsConfig, known: &Known) -> StagePlan {
        let frames = &self.plans[&config.frames];
        let task = ImportActionsTask {
            config: config.clone(),
            digest: digest_of(&config.file),
            shards: frames.tasks.files(".arrow"),
            rejected: frames.tasks.receipts().flat_map(|receipt| &receipt.rejects).map(|reject| reject.video.clone()).collect(),
        };
        let fields = of_import_actions(&task);
        plan.settings = settings(&fields);
        if !plan.waits_for([("frames", Some(frames))]) {
            let units = task.shards.len() as u64;
            plan.add(fields, frames.tasks.keys(), BTreeMap::new(), units, Task::ImportActions(task), known);
        }
        plan
    }

    /// One task: every video is compared with those before it.
    pub(super) fn deduplicate(&self, mut plan: StagePlan, config: &DeduplicateConfig, known: &Known) -> StagePlan {
        let frames = &self.plans[&config.frames];
        let task = DeduplicateTask { config: config.clone(), shards: frames.tasks.files(".arrow") };
        let fields = of_deduplicate(&task);
        plan.settings = settings(&fields);
        if !plan.waits_for([("frames", Some(frames))]) {
            let units = frames.tasks.receipts().map(|receipt| receipt.videos.len() as u64).sum();
            plan.add(fields, frames.tasks.keys(), BTreeMap::new(), units, Task::Deduplicate(task), known);
        }
        plan
    }

    /// One task; another file of weights is another model.
    pub(super) fn import_dynamics(&self, mut plan: StagePlan, config: &ImportDynamicsConfig, known: &Known) -> StagePlan {
        let task = ImportDynamicsTask { config: config.clone(), digest: digest_of(&config.weights) };
        let fields = of_import_dynamics(&task);
        plan.settings = settings(&fields);
        plan.add(fields, vec![], BTreeMap::new(), 1, Task::ImportDynamics(task), known);
        plan
    }

    /// One task: all decoders learn from the same labels.
    pub(super) fn train_decoder(&self, mut plan: StagePlan, config: &TrainDecoderConfig, known: &Known) -> StagePlan {
        let (labels, actions) = (&self.plans[&config.labels], &self.plans[&config.actions]);
        let task = TrainDecoderTask {
            config: config.clone(),
            seed: self.checked.spec.seed,
            labels: labels.tasks.files("labels.parquet"),
            actions: actions.action_files(),
        };
        let fields = of_train_decoder(&task);
        plan.settings = settings(&fields);
        if plan.waits_for([("labels", Some(labels)), ("true actions", Some(actions))]) {
            return plan;
        }
        let units = config.decoders().len() as u64;
        let inputs = labels.tasks.keys().into_iter().chain(actions.tasks.keys()).collect();
        plan.add(fields, inputs, BTreeMap::new(), units, Task::TrainDecoder(task), known);
        plan
    }

    /// One task.
    pub(super) fn finetune(&self, mut plan: StagePlan, config: &FinetuneConfig, known: &Known) -> StagePlan {
        let [policy, dynamics] = [&config.policy, &config.dynamics].map(|name| name.as_ref().map(|name| &self.plans[name]));
        let task = FinetuneTask {
            config: config.clone(),
            seed: config.seed.unwrap_or(self.checked.spec.seed),
            policy: policy.map(StagePlan::weights),
            dynamics: dynamics.map(StagePlan::weights),
            provenance: BTreeMap::new(),
            checkpoint_secs: self.options.checkpoint_secs,
        };
        let fields = of_finetune(&task);
        plan.settings = settings(&fields);
        if plan.waits_for([("policy", policy), ("dynamics", dynamics)]) {
            return plan;
        }
        let inputs = [policy, dynamics].into_iter().flatten().flat_map(|plan| plan.tasks.keys()).collect();
        let provenance = BTreeMap::from([("lapo.key".into(), key(&fields))]);
        let units = config.updates() * config.batch() as u64;
        plan.add(fields, inputs, BTreeMap::new(), units, Task::Finetune(Box::new(FinetuneTask { provenance, ..task })), known);
        plan
    }

    /// One task: all decoders play the same levels.
    pub(super) fn evaluate(&self, mut plan: StagePlan, config: &EvaluateConfig, known: &Known) -> StagePlan {
        let EvaluateConfig { policy, decoder, agent, labels, actions, dynamics, frames, .. } = config;
        let of = [policy, decoder, agent, labels, actions, dynamics, frames].map(|name| name.as_ref().map(|name| &self.plans[name]));
        let [policy, decoder, agent, labels, actions, dynamics, frames] = of;
        let task = EvaluateTask {
            config: config.clone(),
            seed: self.checked.spec.seed,
            policy: policy.map(StagePlan::weights),
            decoders: decoder.map(|decoder| decoder.tasks.files(".safetensors")).unwrap_or_default(),
            agent: agent.map(StagePlan::weights),
            labels: labels.map(|labels| labels.tasks.files("labels.parquet")).unwrap_or_default(),
            actions: actions.map(StagePlan::action_files).unwrap_or_default(),
            dynamics: dynamics.map(StagePlan::weights),
            shards: frames.map(|frames| frames.tasks.files(".arrow")).unwrap_or_default(),
        };
        let fields = of_evaluate(&task);
        plan.settings = settings(&fields);
        if plan.waits_for(["policy", "decoders", "agent", "labels", "true actions", "dynamics", "frames"].into_iter().zip(of)) {
            return plan;
        }
        let units = config.all_episodes(task.decoders.len() + usize::from(task.agent.is_some()));
        let inputs = of.into_iter().flatten().flat_map(|plan| plan.tasks.keys()).collect();
        plan.add(fields, inputs, BTreeMap::new(), units, Task::Evaluate(Box::new(task)), known);
        plan
    }

    /// One task: a page is made of everything at once.
    pub(super) fn report(&self, mut plan: StagePlan, config: &ReportConfig, known: &Known) -> StagePlan {
        let stages: Vec<&StagePlan> = config.stages().into_iter().map(|stage| &self.plans[stage]).collect();
        let task = ReportTask {
            config: config.clone(),
            pipeline: self.checked.spec.name.clone(),
            name: plan.stage.clone(),
            sources: stages.iter().map(|stage| stage.as_source()).collect(),
        };
        let fields = of_report(&task);
        plan.settings = settings(&fields);
        if let Some(waited) = stages.iter().find(|stage| stage.new_tasks() > 0) {
            plan.wait(Waiting { tasks: 1, videos: 0 }, format!("new {}", waited.stage));
            return plan;
        }
        let inputs = stages.iter().flat_map(|stage| stage.tasks.keys()).collect();
        plan.add(fields, inputs, BTreeMap::new(), report::SECTIONS, Task::Report(Box::new(task)), known);
        plan
    }
}

impl StagePlan {
    /// What a report says of the stage.
    fn as_source(&self) -> Source {
        let sum = |sums: &mut BTreeMap<String, f64>, (name, value): (&String, &f64)| *sums.entry(name.clone()).or_default() += value;
        let mut stats = BTreeMap::new();
        self.tasks.receipts().flat_map(|receipt| &receipt.stats).for_each(|stat| sum(&mut stats, stat));
        Source {
            stage: self.stage.clone(),
            kind: self.kind.clone(),
            settings: self.settings.clone(),
            tasks: self.tasks.keys(),
            stats,
            files: self.tasks.files(""),
            rejects: self.tasks.receipts().flat_map(|receipt| receipt.rejects.clone()).collect(),
        }
    }

    /// The file of weights of a stage that makes one.
    fn weights(&self) -> FileInfo {
        self.tasks.files(".safetensors").pop().unwrap_or_else(no_file)
    }

    /// The digests of videos that a stage of near-copies leaves out.
    pub(super) fn copies(&self) -> HashSet<&str> {
        self.tasks.receipts().flat_map(|receipt| &receipt.rejects).map(|reject| reject.digest.as_str()).collect()
    }

    /// Whether the stage's one task is not known yet, since an input is still to be made.
    fn waits_for<'a>(&mut self, inputs: impl IntoIterator<Item = (&'a str, Option<&'a StagePlan>)>) -> bool {
        let Some((name, _)) = inputs.into_iter().find(|(_, plan)| plan.is_some_and(|plan| plan.new_tasks() > 0)) else { return false };
        self.wait(Waiting { tasks: 1, videos: 0 }, format!("new {name}"));
        true
    }
}
