//! The settings of `train_policy`.

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use super::{KIND, TrainPolicyTask};
use crate::dataset;
use crate::models::{PolicyConfig, Precision, Preset};
use crate::stages::plan::training::{Refresh, Training, Variant, unseen};
use crate::stages::plan::{PlanInputs, StagePlan};
use crate::stages::{
    ArtifactKind, FieldFault, FieldFaults, Input, LatentActions, Needs, Stage, StageKind,
};
use crate::train::schedule::Schedule;

/// Clones a policy that maps a frame to the latent action taken there.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct TrainPolicyConfig {
    /// The `label` stage to train on.
    pub labels: String,
    /// Size of the network: `tiny` (IMPALA x1), `small` (x2) or `paper` (x4).
    #[serde(default)]
    pub preset: Preset,
    /// Width of the IMPALA network as a multiple of (16, 32, 32). Default: the preset's.
    #[serde(default)]
    pub scale: Option<usize>,
    /// Training steps. Default 60,000, as in the paper.
    #[serde(default = "default_steps")]
    pub steps: u64,
    /// Frames that the policy sees: the current one and those before it in its episode, 1 to 8. One
    /// frame shows no velocity; raise it where speed or direction matters. At the beginning of an
    /// episode the first frame is repeated. Default 1, as in the paper.
    #[serde(default = "default_frames", skip_serializing_if = "is_one")]
    pub frames: usize,
    /// Frames in a step. Default 128, as in the paper.
    #[serde(default = "default_batch")]
    pub batch: usize,
    /// Passes in a step. Each takes an equal part of the batch, and the step follows the mean of
    /// their gradients. Raise it when a batch does not fit into the device's memory. Default 1.
    #[serde(default = "default_accumulate", skip_serializing_if = "is_one")]
    pub accumulate: usize,
    /// Adam's peak learning rate. Default 2e-4, as in the paper. It rises from 10% of it (published:
    /// 1%) during `warmup_steps` and falls to 0 at the end. Lower it if training diverges.
    #[serde(default = "default_learning_rate")]
    pub learning_rate: f64,
    /// Steps until the learning rate reaches its peak. Default 1,000, as in the paper, or a tenth
    /// of `steps` if that is less.
    #[serde(default)]
    pub warmup_steps: Option<u64>,
    /// Follows the published schedule of the learning rate, for comparison: it rises from 1% of the
    /// peak and is 0 one step after the end, at `steps` + 1. Default false.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub reference: bool,
    /// Decay of an exponential moving average of all weights, such as 0.999. Judgements and the
    /// exported policy then use the average. Default: no average.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub ema_decay: Option<f64>,
    /// Precision of the network's arithmetic: `f32`, or `bf16` for GPUs (slow on CPUs). Default
    /// `f32`.
    #[serde(default)]
    pub precision: Precision,
    /// Ends the training early after this many judgements in a row without a smaller error on
    /// held-out videos, and keeps the policy with the smallest. Judgements are 1,000 steps apart,
    /// or a twentieth of `steps` if that is less. Default: it takes all steps and keeps the last
    /// policy.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub patience: Option<usize>,
    /// The `train_policy` stage with the weights to start from, of a network of the same size.
    /// Default: random weights.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub init_from: Option<String>,
    /// Keeps the state at the end of the training, so that raising `steps` later continues from it
    /// instead of starting anew. The learning rate then follows the schedule of the new `steps`, so
    /// the policy differs from one trained with them at once. Default false.
    #[serde(default, rename = "continue", skip_serializing_if = "std::ops::Not::not")]
    pub continued: bool,
    /// When to train again as labels are added. Default `never`: the existing policy is kept.
    #[serde(default)]
    pub refresh: Refresh,
}

fn default_steps() -> u64 {
    60_000
}
fn default_frames() -> usize {
    1
}
fn default_batch() -> usize {
    128
}
fn default_accumulate() -> usize {
    1
}
fn is_one(number: &usize) -> bool {
    *number == 1
}
fn default_learning_rate() -> f64 {
    2e-4
}

impl TrainPolicyConfig {
    /// Returns the width of the network.
    pub fn resolved_scale(&self) -> usize {
        self.scale.unwrap_or_else(|| self.preset.policy(&self.preset.dynamics()).scale)
    }

    /// Returns the learning rate's schedule.
    pub(super) fn schedule(&self) -> Schedule {
        let peak = self.learning_rate;
        let warmup = self.warmup_steps.unwrap_or_else(|| 1000.min(self.steps / 10));
        let (first, end) = if self.reference { (0.01, self.steps + 1) } else { (0.1, self.steps) };
        Schedule::new(vec![(0.0, first * peak), (warmup as f64, peak), (end as f64, 0.0)])
    }
}

impl TrainPolicyConfig {
    /// Expects sizes of the network and of a step that exist.
    fn expect_sizes(&self, faults: &mut FieldFaults) {
        faults.expect_positive("steps", self.steps);
        faults.expect_positive("batch", self.batch);
        faults.expect_positive("accumulate", self.accumulate);
        faults.expect_value(
            self.batch.is_multiple_of(self.accumulate.max(1)),
            "accumulate",
            self.accumulate,
            "expected a divisor of `batch`",
        );
        faults.expect(self.scale != Some(0), "scale", "is 0", "expected at least 1");
        faults.expect_value(
            (1..=PolicyConfig::MAX_FRAMES).contains(&self.frames),
            "frames",
            self.frames,
            "expected a number from 1 to 8",
        );
    }
}

impl Stage for TrainPolicyConfig {
    type Task = TrainPolicyTask;

    fn kind(&self) -> &'static StageKind {
        &KIND
    }

    fn inputs(&self) -> Vec<Input<'_>> {
        let labels = Input::new("labels", &self.labels, ArtifactKind::Labels);
        let init = Input::given("init_from", &self.init_from, ArtifactKind::Policy)
            .map(|policy| policy.of_policy_frames(self.frames));
        [Some(labels), init].into_iter().flatten().collect()
    }

    fn validate(&self) -> Vec<FieldFault> {
        let mut faults = FieldFaults::default();
        self.expect_sizes(&mut faults);
        faults.expect_value(
            self.learning_rate.is_finite() && self.learning_rate > 0.0,
            "learning_rate",
            self.learning_rate,
            "expected a number above 0; the paper uses 2e-4",
        );
        let warmup = self.warmup_steps.unwrap_or(0);
        faults.expect_value(
            warmup < self.steps.max(1),
            "warmup_steps",
            warmup,
            "expected fewer than `steps`",
        );
        let decay = self.ema_decay.unwrap_or(0.0);
        faults.expect_value(
            (0.0..1.0).contains(&decay),
            "ema_decay",
            decay,
            "expected a number from 0 to below 1, e.g. 0.999",
        );
        faults.expect(
            self.patience != Some(0),
            "patience",
            "is 0",
            "expected at least 1, or no `patience` to take every step",
        );
        faults.expect(
            self.patience.is_none() || !self.continued,
            "continue",
            "has no last step to continue from: `patience` ends the training before it",
            "remove one of the two",
        );
        faults.into_vec()
    }

    fn needs(&self) -> Needs {
        // Frames take 0.7 GB; latent actions half a KiB for each transition.
        let memory_mib = if self.preset == Preset::Paper { 8192 } else { 2048 };
        Needs { gpu: true, cores: 4, memory_mib }
    }

    fn held_out_field(&self) -> Option<&'static str> {
        self.patience.map(|_| "patience")
    }

    fn policy_frames(&self) -> usize {
        self.frames
    }

    /// Adds one task, or keeps the existing policy.
    fn plan(&self, given: &PlanInputs, plan: &mut StagePlan) -> dataset::Result<()> {
        let labels = given.plan(&self.labels);
        let init = given.plan_if(self.init_from.as_ref());
        let model = given.input_of(&self.labels, "dynamics").and_then(StagePlan::model);
        // The shards of the frames that were labelled: the policy's input.
        let frames = given.input_of(&self.labels, "frames");
        let task = TrainPolicyTask {
            config: self.clone(),
            seed: given.seed,
            holdout: given.holdout,
            labels: labels.tasks.files("labels.parquet"),
            shards: frames.map(StagePlan::shards).unwrap_or_default(),
            model: model.map(|model| model.weights.blake3.clone()),
            init: init.map(StagePlan::weights),
            // `Training::plan` sets these three.
            state: None,
            generation: 0,
            provenance: Default::default(),
            checkpoint_secs: given.checkpoint_secs,
        };
        let training = Training {
            refresh: &self.refresh,
            source: labels,
            source_name: "labels",
            counted: "transitions",
            beside: init.into_iter().collect(),
            steps: self.steps,
            continues: self.continued,
            unseen: &|kept| unseen(kept, labels).count() + labels.new_tasks(),
            unseen_unit: "files of labels",
            task: &|Variant { generation, state, provenance }| {
                TrainPolicyTask { generation, state, provenance, ..task.clone() }.into()
            },
        };
        training.plan(given, plan);
        Ok(())
    }

    fn latent_actions(&self) -> Option<LatentActions<'_>> {
        Some(LatentActions::Labels(&self.labels))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn schedule(more: &str) -> Schedule {
        let config = format!(r#"{{"labels":"l","learning_rate":2e-4{more}}}"#);
        serde_json::from_str::<TrainPolicyConfig>(&config).expect("settings").schedule()
    }

    #[test]
    fn the_schedule_of_reference_equals_the_published_one() {
        // numpy.interp(step, [0, 1000, 60001], [2e-6, 2e-4, 0])
        let published = schedule(r#","reference":true"#);
        for (step, expected) in [
            (0, 2e-6),
            (500, 1.01e-4),
            (1_000, 2e-4),
            (30_000, 0.00010169658141387434),
            (59_999, 6.7795461093991816e-09),
        ] {
            let seen = published.at(step);
            assert!((seen / expected - 1.0).abs() < 1e-9, "step {step}: {seen}");
        }
        let default = schedule("");
        assert!((default.at(0) - 2e-5).abs() < 1e-12 && default.at(60_000) == 0.0);
    }
}
