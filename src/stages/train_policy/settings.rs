//! How a policy is cloned: what a pipeline says, its defaults, and what is wrong with it.

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use super::{KIND, TrainPolicyTask};
use crate::dataset;
use crate::models::{Precision, Preset};
use crate::stages::plan::training::{Refresh, Training, unseen};
use crate::stages::plan::{Given, StagePlan};
use crate::stages::{ArtifactKind, FieldFault, Input, LatentActions, Needs, Stage, StageKind};
use crate::train::schedule::Schedule;

/// Clones a policy that maps a frame to the latent action taken there.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct TrainPolicyConfig {
    /// The `label` stage it learns from.
    pub labels: String,
    /// Size of the network: `tiny` (IMPALA x1), `small` (x2) or `paper` (x4).
    #[serde(default)]
    pub preset: Preset,
    /// Width of the IMPALA network as a multiple of (16, 32, 32). Unset: the preset's.
    #[serde(default)]
    pub scale: Option<usize>,
    /// Optimiser steps. 60,000 in the paper.
    #[serde(default = "default_steps")]
    pub steps: u64,
    /// Frames a step. 128 in the paper.
    #[serde(default = "default_batch")]
    pub batch: usize,
    /// Adam's peak learning rate; it rises from 10 % in `warmup_steps` and falls to 0 at the end. Default 2e-4, as in the paper.
    #[serde(default = "default_learning_rate")]
    pub learning_rate: f64,
    /// Steps until the learning rate is at its peak. Default 1,000, as in the paper, or a tenth of the steps where these are few.
    #[serde(default)]
    pub warmup_steps: Option<u64>,
    /// How precisely the network computes: `f32`, or `bf16`, which is for GPUs and much slower without one. Default `f32`.
    #[serde(default)]
    pub precision: Precision,
    /// Every `holdout`-th video is kept from training and judges the policy; 0: none is.
    #[serde(default = "default_holdout")]
    pub holdout: usize,
    /// Training ends before its last step once so many judgements in a row found no smaller error on videos kept aside; the policy of the
    /// smallest is kept. They are 1,000 steps apart, or a twentieth of the steps where these are few. Unset: every step is taken, and the
    /// last policy kept.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub patience: Option<usize>,
    /// When new labels make a new policy. Default `never`: the policy that exists is kept.
    #[serde(default)]
    pub refresh: Refresh,
}

fn default_steps() -> u64 {
    60_000
}
fn default_batch() -> usize {
    128
}
fn default_learning_rate() -> f64 {
    2e-4
}
fn default_holdout() -> usize {
    5
}

impl TrainPolicyConfig {
    /// Width of the network.
    pub fn resolved_scale(&self) -> usize {
        self.scale.unwrap_or_else(|| self.preset.policy(&self.preset.dynamics()).scale)
    }

    pub(super) fn schedule(&self) -> Schedule {
        let (peak, warmup) =
            (self.learning_rate, self.warmup_steps.unwrap_or_else(|| 1000.min(self.steps / 10)));
        Schedule::new(vec![(0.0, 0.1 * peak), (warmup as f64, peak), (self.steps as f64, 0.0)])
    }
}

impl Stage for TrainPolicyConfig {
    type Task = TrainPolicyTask;

    fn kind(&self) -> &'static StageKind {
        &KIND
    }

    fn inputs(&self) -> Vec<Input<'_>> {
        vec![Input::new("labels", &self.labels, ArtifactKind::Labels)]
    }

    fn validate(&self) -> Vec<FieldFault> {
        let mut faults = Vec::new();
        let mut expect = |holds: bool, field, seen: String, cure| {
            if !holds {
                faults.push((field, seen, cure));
            }
        };
        expect(self.steps > 0, "steps", "is 0".into(), "expected at least 1");
        expect(self.batch > 0, "batch", "is 0".into(), "expected at least 1");
        expect(self.scale != Some(0), "scale", "is 0".into(), "expected at least 1");
        let rate = self.learning_rate;
        expect(
            rate.is_finite() && rate > 0.0,
            "learning_rate",
            format!("is {rate}"),
            "expected a number above 0; the paper uses 2e-4",
        );
        let warmup = self.warmup_steps.unwrap_or(0);
        expect(
            warmup < self.steps.max(1),
            "warmup_steps",
            format!("is {warmup}"),
            "expected fewer than `steps`",
        );
        expect(
            self.holdout != 1,
            "holdout",
            "is 1".into(),
            "it would keep every video from training; expected 0 (none) or at least 2",
        );
        let early = if self.patience == Some(0) {
            "is 0"
        } else {
            "has no videos to judge by: `holdout` is 0"
        };
        let stops = self.patience.is_none_or(|patience| patience > 0 && self.holdout > 0);
        expect(
            stops,
            "patience",
            early.into(),
            "expected at least 1 and a `holdout`, or nothing: every step is taken then",
        );
        faults
    }

    fn needs(&self) -> Needs {
        // Frames are read in 0.7 GB; the latent actions beside them take half a KiB a transition.
        let memory_mib = if self.preset == Preset::Paper { 8192 } else { 2048 };
        Needs { gpu: true, cores: 4, memory_mib }
    }

    /// Adds one task, or keeps the policy that is there.
    fn plan(&self, given: &Given, plan: &mut StagePlan) -> dataset::Result<()> {
        let labels = given.plan(&self.labels);
        let model = given.input_of(&self.labels, "dynamics").and_then(StagePlan::model);
        let frames = given.input_of(&self.labels, "frames");
        let task = TrainPolicyTask {
            config: self.clone(),
            seed: given.seed,
            labels: labels.tasks.files("labels.parquet"),
            shards: frames.map(StagePlan::shards).unwrap_or_default(),
            model: model.map(|model| model.weights.blake3.clone()),
            generation: 0,
            provenance: Default::default(),
            checkpoint_secs: given.checkpoint_secs,
        };
        let training = Training {
            refresh: &self.refresh,
            source: labels,
            source_name: "labels",
            counted: "transitions",
            beside: vec![],
            steps: self.steps,
            unseen: &|kept| unseen(kept, labels).count() + labels.new_tasks(),
            unseen_unit: "files of labels",
            task: &|generation, provenance| {
                TrainPolicyTask { generation, provenance, ..task.clone() }.into()
            },
        };
        training.plan(given, plan);
        Ok(())
    }

    fn latent_actions(&self) -> Option<LatentActions<'_>> {
        Some(LatentActions::Labels(&self.labels))
    }
}
