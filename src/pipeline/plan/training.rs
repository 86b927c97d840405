//! Plans of what is trained. In: a stage's settings and the plan of the stage it learns from; out: its one task, or the model that is kept.
//!
//! New input alone does not make a new model, unless `refresh` says so; a changed setting always does, and of a policy another model that
//! labels: its latent actions mean something else.

use std::collections::BTreeMap;

use super::{Planner, StagePlan};
use crate::dataset::{self, FileInfo, Receipt, head};
use crate::pipeline::key::{Fields, Known, key, of_train_dynamics, of_train_policy, settings};
use crate::pipeline::spec::StageSpec;
use crate::stages::Task;
use crate::stages::label::LabelConfig;
use crate::stages::train_dynamics::{Refresh, TrainDynamicsConfig, TrainDynamicsTask};
use crate::stages::train_policy::{TrainPolicyConfig, TrainPolicyTask};

/// A training, as all of them are planned.
struct Training<'a> {
    refresh: &'a Refresh,
    /// The stage it learns from.
    source: &'a StagePlan,
    /// Other stages that must have run.
    beside: Vec<&'a StagePlan>,
    /// What that is called, what is counted there, and what of it a kept model may not have seen.
    names: [&'static str; 3],
    steps: u64,
    unseen: &'a dyn Fn(&Receipt) -> usize,
    fields: &'a dyn Fn(u64) -> Fields,
    task: &'a dyn Fn(BTreeMap<String, String>) -> Task,
}

impl Training<'_> {
    /// How much there is to learn from; where videos are still to be decoded, they count as those do that were.
    fn count(&self) -> u64 {
        let there: u64 = self.source.receipts.iter().map(|r| stat(r, self.names[1])).sum();
        let StagePlan { new_videos, reused_videos, .. } = *self.source;
        let expected = there as f64 * new_videos as f64 / reused_videos.max(1) as f64;
        there + if self.source.new > 0 { expected as u64 } else { 0 }
    }

    /// Whether the model that exists still serves, by the stage's `refresh`.
    fn is_kept(&self, kept: &Receipt) -> bool {
        match self.refresh {
            Refresh::Never => true,
            Refresh::Always => self.source.new == 0 && kept.inputs == self.source.order,
            Refresh::Growth(share) => (self.count() as f64) < stat(kept, self.names[1]) as f64 * (1.0 + share),
        }
    }
}

impl Planner<'_> {
    /// One task.
    pub(super) fn train_dynamics(
        &self,
        plan: StagePlan,
        config: &TrainDynamicsConfig,
        receipts: &[Receipt],
    ) -> Result<StagePlan, dataset::Error> {
        let frames = &self.plans[&config.frames];
        let [actions, copies] = [&config.actions, &config.without].map(|name| name.as_ref().map(|name| &self.plans[name]));
        let copies_in_order = |copies: &StagePlan| {
            let (left_out, videos) = (copies.copies(), frames.receipts.iter().flat_map(|receipt| &receipt.videos));
            videos.filter(|video| left_out.contains(video.digest.as_str())).map(|video| video.digest.clone()).collect()
        };
        let size = frames.settings.get("size").and_then(serde_json::Value::as_u64).unwrap_or(64);
        let task = TrainDynamicsTask {
            config: config.clone(),
            seed: self.checked.spec.seed,
            size: size as usize,
            shards: frames.files(".arrow"),
            actions: actions.map(StagePlan::action_files).unwrap_or_default(),
            without: copies.map(copies_in_order),
            provenance: BTreeMap::new(),
            checkpoint_secs: self.options.checkpoint_secs,
        };
        let training = Training {
            refresh: &config.refresh,
            source: frames,
            beside: [actions, copies].into_iter().flatten().collect(),
            names: ["frames", "frames", "videos"],
            steps: config.steps,
            unseen: &|kept| unseen_videos(kept, frames),
            fields: &|generation| of_train_dynamics(&task, generation),
            task: &|provenance| Task::TrainDynamics(Box::new(TrainDynamicsTask { provenance, ..task.clone() })),
        };
        self.train(plan, &training, receipts)
    }

    /// One task.
    pub(super) fn train_policy(
        &self,
        plan: StagePlan,
        config: &TrainPolicyConfig,
        receipts: &[Receipt],
    ) -> Result<StagePlan, dataset::Error> {
        let labels = &self.plans[&config.labels];
        let model = self.labels_of(&config.labels).and_then(|config| self.plans[&config.dynamics].model());
        let task = TrainPolicyTask {
            config: config.clone(),
            seed: self.checked.spec.seed,
            labels: labels.files("labels.parquet"),
            shards: self.shards_of(&config.labels),
            provenance: BTreeMap::new(),
            checkpoint_secs: self.options.checkpoint_secs,
        };
        let training = Training {
            refresh: &config.refresh,
            source: labels,
            beside: vec![],
            names: ["labels", "transitions", "files of labels"],
            steps: config.steps,
            unseen: &|kept| labels.receipts.iter().filter(|r| !kept.inputs.contains(&r.key)).count() + labels.new,
            fields: &|generation| of_train_policy(&task, model, generation),
            task: &|provenance| Task::TrainPolicy(Box::new(TrainPolicyTask { provenance, ..task.clone() })),
        };
        self.train(plan, &training, receipts)
    }

    /// The shards that a stage of labels labels.
    pub(super) fn shards_of(&self, labels: &str) -> Vec<FileInfo> {
        self.labels_of(labels).map(|config| self.plans[&config.frames].files(".arrow")).unwrap_or_default()
    }

    /// The settings of a stage of labels.
    fn labels_of(&self, labels: &str) -> Option<&LabelConfig> {
        match self.checked.spec.stages.iter().find(|(name, _)| name == labels)? {
            (_, StageSpec::Label(config)) => Some(config),
            _ => None,
        }
    }

    /// A model with these settings is kept, unless `refresh` says otherwise.
    fn train(&self, mut plan: StagePlan, training: &Training, receipts: &[Receipt]) -> Result<StagePlan, dataset::Error> {
        let (source, fields) = (training.source, (training.fields)(0));
        let [name, _, units] = training.names;
        let version = format!("{name}_version");
        plan.settings = settings(&fields);
        let current = head(self.store, &plan.stage)?.and_then(|manifest| manifest.receipts.into_iter().next());
        let trained = |r: &&Receipt| settings(&r.fields) == plan.settings && r.fields.get("model") == fields.get("model");
        let latest = |r: &&Receipt| (Some(&r.key) == current.as_ref(), stat(r, &version), r.fields["generation"].as_u64());
        let kept = receipts.iter().filter(trained).max_by_key(latest).cloned();
        let forced = self.options.refresh.contains(&plan.stage);
        if let Some(kept) = kept.as_ref().filter(|kept| !forced && training.is_kept(kept)) {
            let unseen = (training.unseen)(kept);
            let on = kept.stats.get(&version).map_or_else(|| "no version".into(), |version| format!("version {version}"));
            plan.note = (unseen > 0).then(|| format!("kept: trained on {on}, {unseen} newer {units} unseen"));
            plan.order = vec![kept.key.clone()];
            plan.receipts = vec![kept.clone()];
            plan.reused = 1;
            return Ok(plan);
        }
        if source.new > 0 || training.beside.iter().any(|beside| beside.new > 0) {
            plan.new = 1;
            let reason = if kept.is_some() { format!("new {name}") } else { Known::new(receipts).why(&fields) };
            plan.why.insert(reason, 1);
            return Ok(plan);
        }
        self.new_training(&mut plan, training, kept.as_ref(), forced, receipts);
        Ok(plan)
    }

    /// What is learnt from is all there, and a model is to be trained on it (or was, by a run that was not committed).
    fn new_training(&self, plan: &mut StagePlan, training: &Training, kept: Option<&Receipt>, forced: bool, receipts: &[Receipt]) {
        let (source, [name, counted, _]) = (training.source, training.names);
        let generations = receipts.iter().filter(|r| settings(&r.fields) == plan.settings);
        let newest = generations.filter_map(|r| r.fields["generation"].as_u64()).max().unwrap_or(0);
        let mut fields = (training.fields)(kept.and_then(|k| k.fields["generation"].as_u64()).unwrap_or(0));
        if forced && receipts.iter().any(|r| r.key == key(&fields)) {
            fields = (training.fields)(newest + 1);
        }
        let (steps, inputs) = (training.steps, source.order.clone());
        let mut provenance = BTreeMap::from([("lapo.key".to_owned(), key(&fields))]);
        let mut stats = BTreeMap::from([(counted.to_owned(), training.count() as f64), ("steps".to_owned(), steps as f64)]);
        if let Some(version) = source.version {
            provenance.insert(format!("lapo.{name}_version"), version.to_string());
            stats.insert(format!("{name}_version"), version as f64);
        }
        plan.add(fields, inputs, stats, steps, (training.task)(provenance), &Known::new(receipts));
        if forced && plan.new > 0 {
            plan.why = BTreeMap::from([("asked for by --refresh".into(), 1)]);
        }
    }
}

/// Videos of the frames that the model was not trained on, those still to be decoded included.
fn unseen_videos(kept: &Receipt, frames: &StagePlan) -> usize {
    let unseen = frames.receipts.iter().filter(|r| !kept.inputs.contains(&r.key));
    unseen.map(|r| r.videos.len()).sum::<usize>() + frames.new_videos * usize::from(frames.new > 0)
}

fn stat(receipt: &Receipt, name: &str) -> u64 {
    receipt.stats.get(name).copied().unwrap_or(0.0) as u64
}
