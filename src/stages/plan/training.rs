//! Plans of trainings: one task, or a kept model.
//!
//! A changed setting always trains a new model. New input alone does so only if `refresh` asks for
//! it. A policy is also trained again when another IDM labels its input, because its latent actions
//! then have another meaning.

use std::collections::BTreeMap;
use std::sync::Arc;

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use super::key::{Fields, WithSettings, canonical, key, settings, settings_of_receipt};
use super::{NewTask, PendingTasks, PlanInputs, PlannedTask, Reason, StagePlan};
use crate::dataset::{FileInfo, HashSet, Receipt};
use crate::stages::task_context::STATE_FILE;
use crate::stages::{StageKind, Task};

/// When a model is trained again although its settings are the same.
#[derive(Clone, Copy, Debug, Default, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub enum Refresh {
    /// Never.
    #[default]
    Never,
    /// On any change of the frames.
    Always,
    /// Once the number of frames has grown by this share: `{ growth: 0.25 }`.
    Growth(f64),
}

/// The plan of a training, common to all training stages.
pub struct Training<'a> {
    /// When the model is trained again.
    pub refresh: &'a Refresh,
    /// The plan of the stage the training learns from.
    pub source: &'a StagePlan,
    /// The artifact of that stage, such as `frames`.
    pub source_name: &'static str,
    /// The statistic of its receipts for the amount of training data.
    pub counted: &'static str,
    /// Other stages that must run before.
    pub beside: Vec<&'a StagePlan>,
    /// Training steps.
    pub steps: u64,
    /// Whether it continues from the state of a shorter training.
    pub continues: bool,
    /// Returns how much of the source a kept model has not seen.
    pub unseen: &'a dyn Fn(&Receipt) -> usize,
    /// The unit of `unseen`, such as `videos`.
    pub unseen_unit: &'static str,
    /// Creates the task of a variant.
    pub task: &'a dyn Fn(Variant) -> Task,
}

/// What distinguishes trainings with the same settings and inputs.
#[derive(Clone, Debug, Default)]
pub struct Variant {
    /// How often `--refresh` repeated the training.
    pub generation: u64,
    /// The state of a shorter training that it continues from.
    pub state: Option<FileInfo>,
    /// The origin of the weights, for their metadata.
    pub provenance: BTreeMap<String, String>,
}

impl Training<'_> {
    /// Plans the training. A model with these settings is kept unless `refresh` says otherwise.
    pub fn plan(&self, given: &PlanInputs, plan: &mut StagePlan) {
        // The variant is an input, so any variant gives the same settings.
        let fields = self.fields(&Variant::default());
        let version = format!("{}_version", self.source_name);
        plan.set_settings(&fields);
        let with_settings = WithSettings::new(&plan.settings);
        let current = plan.before_entries.first().map(|(key, _)| key.clone());
        let trained = |r: &&Arc<Receipt>| {
            with_settings.are_of(r) && r.fields.get("model") == fields.get("model")
        };
        // The current version's model is preferred, then the one of the newest data.
        let latest = |r: &&Arc<Receipt>| {
            (Some(&r.key) == current.as_ref(), stat(r, &version), generation(r))
        };
        let kept = given.receipts.iter().filter(trained).max_by_key(latest).cloned();
        let is_kept = |kept: &&Arc<Receipt>| !given.is_forced && self.keeps(kept);
        if let Some(kept) = kept.as_ref().filter(is_kept) {
            let unseen = (self.unseen)(kept);
            let on = kept.stats.get(&version);
            let on = on.map_or_else(|| "no version".into(), |version| format!("version {version}"));
            let unit = self.unseen_unit;
            plan.note = (unseen > 0)
                .then(|| format!("kept: trained on {on}, {unseen} newer {unit} unseen"));
            plan.tasks.push(PlannedTask::Done(kept.clone()));
            return;
        }
        // Without all inputs, the key of the task is not known yet.
        let is_new = |stage: &&StagePlan| stage.new_tasks() > 0;
        if is_new(&self.source) || self.beside.iter().any(is_new) {
            let reason = match kept {
                Some(_) => Reason::new_input(self.source_name),
                None => given.known.why(plan.kind, &fields),
            };
            plan.wait(PendingTasks { tasks: 1, videos: 0 }, reason);
            return;
        }
        self.add(given, kept.as_deref(), plan);
    }

    /// Adds the task. Its inputs are complete. It may be done already, in a run that did not
    /// commit.
    fn add(&self, given: &PlanInputs, kept: Option<&Receipt>, plan: &mut StagePlan) {
        let with_settings = WithSettings::new(&plan.settings);
        let trained = given.receipts.iter().filter(|r| with_settings.are_of(r));
        // Generations of uncommitted runs count, too, so that no number is used twice.
        let newest = trained.filter_map(|r| generation(r)).max().unwrap_or(0);
        let shorter = self.shorter_training(given, plan.kind);
        let mut variant = Variant {
            generation: kept.and_then(generation).unwrap_or(0),
            state: shorter.as_ref().map(|(_, state)| state.clone()),
            provenance: BTreeMap::new(),
        };
        // The same generation would give the same key, and so the old model.
        if given.is_forced && given.known.get(&key(&self.fields(&variant))).is_some() {
            variant.generation = newest + 1;
        }
        let own_key = key(&self.fields(&variant));
        variant.provenance.insert("lapo.key".to_owned(), own_key);
        let mut stats = BTreeMap::from([
            (self.counted.to_owned(), self.count() as f64),
            ("steps".to_owned(), self.steps as f64),
        ]);
        if let Some(version) = self.source.version() {
            let name = format!("lapo.{}_version", self.source_name);
            variant.provenance.insert(name, version.to_string());
            stats.insert(format!("{}_version", self.source_name), version as f64);
        }
        let task = (self.task)(variant);
        let inputs = self.source.tasks.keys();
        let continued = shorter.map(|(steps, _)| format!("continues at step {steps}"));
        plan.note = plan.note.take().or(continued);
        plan.add(NewTask { task, inputs, units: self.steps, stats }, given.known);
        // The comparison with other receipts would find the generation as the reason.
        if given.is_forced && plan.tasks.undone() > 0 {
            plan.why = BTreeMap::from([(Reason::Refresh, 1)]);
        }
    }

    /// Returns the longest training that differs in `steps` alone and is shorter: its steps and
    /// its final state.
    fn shorter_training(
        &self,
        given: &PlanInputs,
        kind: &'static StageKind,
    ) -> Option<(u64, FileInfo)> {
        if !self.continues {
            return None;
        }
        let fields = self.fields(&Variant::default());
        let without_steps = |mut settings: Fields| {
            settings.remove("steps");
            canonical(&settings)
        };
        let own = without_steps(settings(kind, fields.iter()));
        let with_state = given.receipts.iter().filter_map(|receipt| {
            let steps = receipt.fields.get("steps")?.as_u64()?;
            let state = receipt.files.iter().find(|file| file.path.ends_with(STATE_FILE))?;
            let is_shorter = steps < self.steps
                && receipt.fields.get("model") == fields.get("model")
                && without_steps(settings_of_receipt(receipt)) == own;
            is_shorter.then(|| (steps, generation(receipt), state))
        });
        let longest = with_state.max_by_key(|(steps, generation, _)| (*steps, *generation));
        longest.map(|(steps, _, state)| (steps, state.clone()))
    }

    /// Returns the fields of a variant's key.
    fn fields(&self, variant: &Variant) -> Fields {
        (self.task)(variant.clone()).key().into_fields()
    }

    /// Returns the amount of training data. New videos are expected to add as much as old ones did.
    fn count(&self) -> u64 {
        let there: u64 = self.source.tasks.receipts().map(|r| stat(r, self.counted)).sum();
        let new = self.source.new_videos();
        let reused = self.source.reused_videos();
        let expected = there as f64 * new as f64 / reused.max(1) as f64;
        there + if self.source.new_tasks() > 0 { expected as u64 } else { 0 }
    }

    /// Returns whether `refresh` keeps the existing model.
    fn keeps(&self, kept: &Receipt) -> bool {
        match self.refresh {
            Refresh::Never => true,
            Refresh::Always => {
                // New tasks mean new frames, even before their keys are known.
                self.source.new_tasks() == 0 && kept.inputs == self.source.tasks.keys()
            }
            Refresh::Growth(share) => {
                (self.count() as f64) < stat(kept, self.counted) as f64 * (1.0 + share)
            }
        }
    }
}

/// Returns the receipts of the source that the model was not trained on.
pub fn unseen<'p>(kept: &Receipt, source: &'p StagePlan) -> impl Iterator<Item = &'p Arc<Receipt>> {
    let seen: HashSet<String> = kept.inputs.iter().cloned().collect();
    source.tasks.receipts().filter(move |receipt| !seen.contains(&receipt.key))
}

/// Returns how often the model was trained again with the same settings.
fn generation(receipt: &Receipt) -> Option<u64> {
    receipt.fields.get("generation")?.as_u64()
}

fn stat(receipt: &Receipt, name: &str) -> u64 {
    receipt.stats.get(name).copied().unwrap_or(0.0) as u64
}
