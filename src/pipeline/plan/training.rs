//! Plans of what is trained. In: a stage's settings and the plan of the stage it learns from; out: its one task, or the model that is kept.
//!
//! New input alone does not make a new model, unless `refresh` says so; a changed setting always does, and of a policy another model that
//! labels: its latent actions mean something else.

use std::collections::BTreeMap;
use std::sync::Arc;

use super::{Planned, Planner, StagePlan, Waiting};
use crate::dataset::{FileInfo, HashSet, Receipt};
use crate::pipeline::spec::StageSpec;
use crate::stages::Task;
use crate::stages::label::LabelConfig;
use crate::stages::plan::key::{Fields, Known, WithSettings, key, of_train_dynamics, of_train_policy, settings};
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
        let there: u64 = self.source.tasks.receipts().map(|r| stat(r, self.names[1])).sum();
        let (new, reused) = (self.source.new_videos(), self.source.reused_videos());
        let expected = there as f64 * new as f64 / reused.max(1) as f64;
        there + if self.source.new_tasks() > 0 { expected as u64 } else { 0 }
    }

    /// Whether the model that exists still serves, by the stage's `refresh`.
    fn is_kept(&self, kept: &Receipt) -> bool {
        match self.refresh {
            Refresh::Never => true,
            Refresh::Always => self.source.new_tasks() == 0 && kept.inputs == self.source.tasks.keys(),
            Refresh::Growth(share) => (self.count() as f64) < stat(kept, self.names[1]) as f64 * (1.0 + share),
        }
    }
}

impl Planner<'_> {
    /// One task.
    pub(super) fn train_dynamics(&self, plan: StagePlan, config: &TrainDynamicsConfig, receipts: &[Arc<Receipt>]) -> StagePlan {
        let frames = &self.plans[&config.frames];
        let [actions, copies] = [&config.actions, &config.without].map(|name| name.as_ref().map(|name| &self.plans[name]));
        let copies_in_order = |copies: &StagePlan| {
            let (left_out, videos) = (copies.copies(), frames.tasks.receipts().flat_map(|receipt| &receipt.videos));
            videos.filter(|video| left_out.contains(video.digest.as_str())).map(|video| video.digest.clone()).collect()
        };
        let size = frames.settings.get("size").and_then(serde_json::Value::as_u64).unwrap_or(64);
        let task = TrainDynamicsTask {
            config: config.clone(),
            seed: self.checked.spec.seed,
            size: size as usize,
            shards: frames.tasks.files(".arrow"),
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
    pub(super) fn train_policy(&self, plan: StagePlan, config: &TrainPolicyConfig, receipts: &[Arc<Receipt>]) -> StagePlan {
        let labels = &self.plans[&config.labels];
        let model = self.labels_of(&config.labels).and_then(|config| self.plans[&config.dynamics].model()).map(|(_, model)| model);
        let task = TrainPolicyTask {
            config: config.clone(),
            seed: self.checked.spec.seed,
            labels: labels.tasks.files("labels.parquet"),
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
            unseen: &|kept| unseen(kept, labels).count() + labels.new_tasks(),
            fields: &|generation| of_train_policy(&task, model, generation),
            task: &|provenance| Task::TrainPolicy(Box::new(TrainPolicyTask { provenance, ..task.clone() })),
        };
        self.train(plan, &training, receipts)
    }

    /// The shards that a stage of labels labels.
    pub(super) fn shards_of(&self, labels: &str) -> Vec<FileInfo> {
        self.labels_of(labels).map(|config| self.plans[&config.frames].tasks.files(".arrow")).unwrap_or_default()
    }

    /// The settings of a stage of labels.
    fn labels_of(&self, labels: &str) -> Option<&LabelConfig> {
        match self.checked.spec.stages.iter().find(|(name, _)| name == labels)? {
            (_, StageSpec::Label(config)) => Some(config),
            _ => None,
        }
    }

    /// A model with these settings is kept, unless `refresh` says otherwise.
    fn train(&self, mut plan: StagePlan, training: &Training, receipts: &[Arc<Receipt>]) -> StagePlan {
        let (source, fields) = (training.source, (training.fields)(0));
        let [name, _, units] = training.names;
        let version = format!("{name}_version");
        plan.settings = settings(&fields);
        let with_settings = WithSettings::new(&plan.settings);
        let current = plan.before_entries.first().map(|(key, _)| key.clone());
        let trained = |r: &&Arc<Receipt>| with_settings.are_of(r) && r.fields.get("model") == fields.get("model");
        let latest = |r: &&Arc<Receipt>| (Some(&r.key) == current.as_ref(), stat(r, &version), generation(r));
        let kept = receipts.iter().filter(trained).max_by_key(latest).cloned();
        let forced = self.options.refresh.contains(&plan.stage);
        if let Some(kept) = kept.as_ref().filter(|kept| !forced && training.is_kept(kept)) {
            let unseen = (training.unseen)(kept);
            let on = kept.stats.get(&version).map_or_else(|| "no version".into(), |version| format!("version {version}"));
            plan.note = (unseen > 0).then(|| format!("kept: trained on {on}, {unseen} newer {units} unseen"));
            plan.tasks.push(Planned::Done(kept.clone()));
            return plan;
        }
        if source.new_tasks() > 0 || training.beside.iter().any(|beside| beside.new_tasks() > 0) {
            let reason = if kept.is_some() { format!("new {name}") } else { Known::new(receipts).why(&fields) };
            plan.wait(Waiting { tasks: 1, videos: 0 }, reason);
            return plan;
        }
        self.new_training(&mut plan, training, kept.as_deref(), forced, receipts);
        plan
    }

    /// What is learnt from is all there, and a model is to be trained on it (or was, by a run that was not committed).
    fn new_training(&self, plan: &mut StagePlan, training: &Training, kept: Option<&Receipt>, forced: bool, receipts: &[Arc<Receipt>]) {
        let (source, [name, counted, _]) = (training.source, training.names);
        let with_settings = WithSettings::new(&plan.settings);
        let newest = receipts.iter().filter(|r| with_settings.are_of(r)).filter_map(|r| generation(r)).max().unwrap_or(0);
        let mut fields = (training.fields)(kept.and_then(generation).unwrap_or(0));
        if forced && receipts.iter().any(|r| r.key == key(&fields)) {
            fields = (training.fields)(newest + 1);
        }
        let (steps, inputs) = (training.steps, source.tasks.keys());
        let mut provenance = BTreeMap::from([("lapo.key".to_owned(), key(&fields))]);
        let mut stats = BTreeMap::from([(counted.to_owned(), training.count() as f64), ("steps".to_owned(), steps as f64)]);
        if let Some(version) = source.version() {
            provenance.insert(format!("lapo.{name}_version"), version.to_string());
            stats.insert(format!("{name}_version"), version as f64);
        }
        plan.add(fields, inputs, stats, steps, (training.task)(provenance), &Known::new(receipts));
        if forced && plan.tasks.undone() > 0 {
            plan.why = BTreeMap::from([("asked for by --refresh".into(), 1)]);
        }
    }
}

/// What a model's training has not seen of its source.
fn unseen<'p>(kept: &Receipt, source: &'p StagePlan) -> impl Iterator<Item = &'p Arc<Receipt>> {
    let seen: HashSet<String> = kept.inputs.iter().cloned().collect();
    source.tasks.receipts().filter(move |receipt| !seen.contains(&receipt.key))
}

/// Videos of the frames that the model was not trained on, those still to be decoded included.
fn unseen_videos(kept: &Receipt, frames: &StagePlan) -> usize {
    unseen(kept, frames).map(|r| r.videos.len()).sum::<usize>() + frames.new_videos() * usize::from(frames.new_tasks() > 0)
}

fn generation(receipt: &Receipt) -> Option<u64> {
    receipt.fields.get("generation")?.as_u64()
}

fn stat(receipt: &Receipt, name: &str) -> u64 {
    receipt.stats.get(name).copied().unwrap_or(0.0) as u64
}
