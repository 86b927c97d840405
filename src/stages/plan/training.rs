//! Plans of trainings. In: a stage's settings and the plan of the stage it learns from; out: its one task, or the model that is kept.
//!
//! New input alone does not make a new model, unless `refresh` says so; a changed setting always does, and of a policy another model that
//! labels: its latent actions mean something else.

use std::collections::BTreeMap;
use std::sync::Arc;

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use super::key::{Fields, WithSettings, canonical, key, settings, settings_of_receipt};
use super::{Given, NewTask, Planned, Reason, StagePlan, Waiting};
use crate::dataset::{FileInfo, HashSet, Receipt};
use crate::stages::workplace::STATE_FILE;
use crate::stages::{StageKind, Task};

/// When a trained model is trained again although its settings stayed the same.
#[derive(Clone, Copy, Debug, Default, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub enum Refresh {
    /// Not because of new videos.
    #[default]
    Never,
    /// On any change of the frames.
    Always,
    /// When the number of frames has grown by this share since: `{ growth: 0.25 }`.
    Growth(f64),
}

/// A training, as all of them are planned.
pub struct Training<'a> {
    /// When it trains again.
    pub refresh: &'a Refresh,
    /// The stage it learns from.
    pub source: &'a StagePlan,
    /// What that stage makes, such as `frames`.
    pub source_name: &'static str,
    /// The statistic of its receipts that measures how much there is to learn from.
    pub counted: &'static str,
    /// Other stages that must have run.
    pub beside: Vec<&'a StagePlan>,
    /// Steps of the training.
    pub steps: u64,
    /// Whether it continues from the state of a shorter training.
    pub continues: bool,
    /// How much of the source a kept model has not seen, and what that counts.
    pub unseen: &'a dyn Fn(&Receipt) -> usize,
    /// What `unseen` counts, such as `videos`.
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
    /// Plans the training: a model with these settings is kept, unless `refresh` says otherwise.
    pub fn plan(&self, given: &Given, plan: &mut StagePlan) {
        let fields = self.fields(&Variant::default());
        let version = format!("{}_version", self.source_name);
        plan.set_settings(&fields);
        let with_settings = WithSettings::new(&plan.settings);
        let current = plan.before_entries.first().map(|(key, _)| key.clone());
        let trained = |r: &&Arc<Receipt>| {
            with_settings.are_of(r) && r.fields.get("model") == fields.get("model")
        };
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
            plan.tasks.push(Planned::Done(kept.clone()));
            return;
        }
        let is_new = |stage: &&StagePlan| stage.new_tasks() > 0;
        if is_new(&self.source) || self.beside.iter().any(is_new) {
            let reason = match kept {
                Some(_) => Reason::new_input(self.source_name),
                None => given.known.why(plan.kind, &fields),
            };
            plan.wait(Waiting { tasks: 1, videos: 0 }, reason);
            return;
        }
        self.add(given, kept.as_deref(), plan);
    }

    /// Adds the task: what it learns from is all there. It may have run in a run that did not
    /// commit it.
    fn add(&self, given: &Given, kept: Option<&Receipt>, plan: &mut StagePlan) {
        let with_settings = WithSettings::new(&plan.settings);
        let trained = given.receipts.iter().filter(|r| with_settings.are_of(r));
        let newest = trained.filter_map(|r| generation(r)).max().unwrap_or(0);
        let shorter = self.shorter_training(given, plan.kind);
        let mut variant = Variant {
            generation: kept.and_then(generation).unwrap_or(0),
            state: shorter.as_ref().map(|(_, state)| state.clone()),
            provenance: BTreeMap::new(),
        };
        // The same training again makes the same model, unless its key says that it is another one.
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
        if given.is_forced && plan.tasks.undone() > 0 {
            plan.why = BTreeMap::from([(Reason::Refresh, 1)]);
        }
    }

    /// Returns the longest training that differs in `steps` alone and is shorter: its steps and
    /// its final state.
    fn shorter_training(&self, given: &Given, kind: &'static StageKind) -> Option<(u64, FileInfo)> {
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

    /// Returns how much there is to learn from. Videos that are still to be decoded are expected to
    /// count as much as those that were.
    fn count(&self) -> u64 {
        let there: u64 = self.source.tasks.receipts().map(|r| stat(r, self.counted)).sum();
        let (new, reused) = (self.source.new_videos(), self.source.reused_videos());
        let expected = there as f64 * new as f64 / reused.max(1) as f64;
        there + if self.source.new_tasks() > 0 { expected as u64 } else { 0 }
    }

    /// Returns whether the model that exists still serves, by the stage's `refresh`.
    fn keeps(&self, kept: &Receipt) -> bool {
        match self.refresh {
            Refresh::Never => true,
            Refresh::Always => {
                self.source.new_tasks() == 0 && kept.inputs == self.source.tasks.keys()
            }
            Refresh::Growth(share) => {
                (self.count() as f64) < stat(kept, self.counted) as f64 * (1.0 + share)
            }
        }
    }
}

/// Returns what a model's training has not seen of its source.
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
