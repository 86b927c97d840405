//! The settings of `train_dynamics`, and the networks, optimiser and schedules derived from them.

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use super::{KIND, TrainDynamicsTask};
use crate::dataset::{self, Receipt};
use crate::models::{
    DynamicsConfig, FdmAction, Horizon, IdmHead, ModelError, Precision, Predict, Preset, VqConfig,
};
use crate::stages::plan::training::{Refresh, Training, Variant, unseen};
use crate::stages::plan::{PlanInputs, StagePlan};
use crate::stages::{ArtifactKind, FieldFault, Input, LatentActions, Needs, Stage, StageKind};
use crate::train::schedule::Schedule;
use crate::train::{OptimConfig, OptimizerKind, StepSettings};

/// Trains an inverse and a forward dynamics model through a vector-quantised bottleneck.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct TrainDynamicsConfig {
    /// The `decode` or `record` stage with the frames to train on.
    pub frames: String,
    /// Sizes of the networks: `tiny` (IDM x1, FDM 8), `small` (x2, 12) or `paper` (x4, 24).
    #[serde(default)]
    pub preset: Preset,
    /// Width of the IDM's IMPALA network as a multiple of (16, 32, 32). Default: the preset's.
    #[serde(default)]
    pub idm_scale: Option<usize>,
    /// Channels of the FDM's U-Net at full resolution. Default: the preset's.
    #[serde(default)]
    pub fdm_base: Option<usize>,
    /// Frames before `o[t]` that both models see. Default 1, as in the paper: a window is `o[t-1]`,
    /// `o[t]`, `o[t+1]`.
    #[serde(default = "default_context")]
    pub context: usize,
    /// How far a latent action leads: to `o[t+h]` with `horizon: h`. A number of frames, or a time
    /// such as `{ seconds: 0.5 }`, which is the nearest number of frames of each video. Raise it
    /// where frames hardly differ from the next ones. Labels have it in the column `horizon`; true
    /// actions are those at `o[t]`. Default 1, as in the paper.
    #[serde(default, skip_serializing_if = "Horizon::is_next_frame")]
    pub horizon: Horizon,
    /// The vector-quantised bottleneck between IDM and FDM.
    #[serde(default)]
    pub vq: VqConfig,
    /// The IDM's input. Default `motion`: `o[t]` and the changes between frames; features are
    /// averaged where pixels change, and latent actions are normalised. `flatten`: the frames, as
    /// in the paper.
    #[serde(default)]
    pub idm_head: Option<IdmHead>,
    /// How the latent action enters the FDM. Default `modulate`: it scales and shifts the channels
    /// of every level. `tile`: it is tiled over the input frame, as in the paper.
    #[serde(default)]
    pub fdm_action: Option<FdmAction>,
    /// Side of the lowest resolution of the FDM's U-Net, in pixels: a power of two from 4 to half
    /// the frame, or 1, as in the paper. Default 8, which is as accurate as 1 in 0.7 of the time.
    #[serde(default)]
    pub fdm_bottom: Option<usize>,
    /// The FDM's target. Default `change`: the change from `o[t]`, so that a still picture is
    /// predicted right from the first step. `frame`: the next frame, as in the paper.
    #[serde(default)]
    pub predict: Option<Predict>,
    /// Trains as the paper does, for comparison: `idm_head: flatten`, `fdm_action: tile`,
    /// `fdm_bottom: 1`, `predict: frame`, `optimizer: adam`, one learning rate of 3e-4, quantised
    /// from the first step, EMA counts that start at zero and decay by 0.999 a step, no revived
    /// codes. Default false.
    #[serde(default)]
    pub reference: bool,
    /// Training steps. Default 50,000, as in the paper.
    #[serde(default = "default_steps")]
    pub steps: u64,
    /// Windows in a step. Default 128, as in the paper.
    #[serde(default = "default_batch")]
    pub batch: usize,
    /// Passes in a step. Each takes an equal part of the batch, and the step follows the mean of
    /// their gradients. Raise it when a batch does not fit into the device's memory. Default 1.
    #[serde(default = "default_accumulate", skip_serializing_if = "is_one")]
    pub accumulate: usize,
    /// The optimiser of convolution weights; Adam updates all others. Default `muon` (Jordan et
    /// al., 2024), which needs half as many steps as `adam` on some games and as many on others.
    /// `adam` with `reference`.
    #[serde(default)]
    pub optimizer: Option<OptimizerKind>,
    /// Peak learning rate. It rises from 10% of it during `warmup_steps` and falls to 1% at the
    /// end. Default 2e-3; 3e-4 with `reference`, as in the paper. `muon` moves weights by 0.6 of it
    /// in a step. Lower it if training diverges.
    #[serde(default)]
    pub learning_rate: Option<f64>,
    /// Peak learning rate of the IDM. Default 0.3 of `learning_rate`, so that latent actions change
    /// more slowly than the FDM learns to read them; with `reference` the same as the FDM's.
    #[serde(default)]
    pub idm_learning_rate: Option<f64>,
    /// Weight of the mean squared correlation between the numbers of a latent action in the loss,
    /// until codes are in use (`vq.warmup`). It keeps the numbers from all encoding the same. The
    /// FDM's relative error has weight 1. Default 0.03; 0 with `reference`.
    #[serde(default)]
    pub decorrelation: Option<f64>,
    /// Steps until the learning rate reaches its peak. Default 50, as in the paper.
    #[serde(default = "default_warmup_steps")]
    pub warmup_steps: u64,
    /// Decay of an exponential moving average of all weights, such as 0.999. Judgements and the
    /// exported model then use the average. Default: no average.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub ema_decay: Option<f64>,
    /// Precision of the networks' arithmetic: `f32`, or `bf16` for GPUs (slow on CPUs). Default
    /// `f32`.
    #[serde(default)]
    pub precision: Precision,
    /// The stage with true actions: `record` or `import_actions`. The verdict then has a probe: how
    /// well latent actions predict them. The model does not learn from them, except with
    /// `supervision`. Default none.
    #[serde(default)]
    pub actions: Option<String>,
    /// The `deduplicate` stage whose near-duplicates are left out, so that no video counts twice or
    /// is both trained on and held out. Default none.
    #[serde(default)]
    pub without: Option<String>,
    /// Trains on a few true actions too, such as `{ labels: 256 }`. Default none.
    #[serde(default)]
    pub supervision: Option<SupervisionConfig>,
    /// The `train_dynamics` or `import_dynamics` stage with the weights to start from, of networks
    /// of the same sizes. Default: random weights.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub init_from: Option<String>,
    /// Keeps the state at the end of the training, so that raising `steps` later continues from it
    /// instead of starting anew. The learning rate then follows the schedule of the new `steps`, so
    /// the model differs from one trained with them at once. Default false.
    #[serde(default, rename = "continue", skip_serializing_if = "std::ops::Not::not")]
    pub continued: bool,
    /// When to train again as videos are added. Default `never`: the existing model labels them.
    #[serde(default)]
    pub refresh: Refresh,
}

fn default_accumulate() -> usize {
    1
}
fn is_one(number: &usize) -> bool {
    *number == 1
}
fn default_context() -> usize {
    1
}
fn default_steps() -> u64 {
    50_000
}
fn default_batch() -> usize {
    128
}
fn default_warmup_steps() -> u64 {
    50
}

/// Supervision by a few true actions, which a linear layer predicts from the latent actions (LAOM,
/// Nikulin et al., 2025).
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct SupervisionConfig {
    /// The number of training transitions, drawn at random, whose true actions are used.
    pub labels: usize,
    /// The number of them that join each batch. Default 16.
    #[serde(default = "default_supervised")]
    pub batch: usize,
    /// Weight of their cross-entropy (in nats) in the loss, in which the FDM's relative error has
    /// weight 1. Default 0.02. From 0.1 on the IDM memorises a few labels.
    #[serde(default = "default_weight")]
    pub weight: f64,
}

fn default_supervised() -> usize {
    16
}
fn default_weight() -> f64 {
    0.02
}

impl TrainDynamicsConfig {
    /// Returns the sizes of the networks for frames of `size` pixels a side.
    pub fn dynamics(&self, size: usize) -> DynamicsConfig {
        let preset = self.preset.dynamics();
        let config = DynamicsConfig {
            idm_scale: self.idm_scale.unwrap_or(preset.idm_scale),
            fdm_base: self.fdm_base.unwrap_or(preset.fdm_base),
            context: self.context,
            horizon: self.horizon,
            frame_size: size,
            vq: self.vq.clone(),
            idm_head: self.idm_head.unwrap_or_default(),
            fdm_action: self.fdm_action.unwrap_or_default(),
            fdm_bottom: self.fdm_bottom.unwrap_or(preset.fdm_bottom),
            predict: self.predict.unwrap_or_default(),
            ..preset
        };
        if !self.reference {
            return config;
        }
        // The sizes stay; the method becomes the published one.
        let published = config.reference();
        DynamicsConfig { vq: VqConfig { decay: 0.999, ..published.vq }, ..published }
    }

    /// Returns the optimiser's settings.
    pub fn optim(&self) -> OptimConfig {
        let rule = self.optimizer.unwrap_or(OptimizerKind::of_dynamics(self.reference));
        OptimConfig {
            rule,
            precision: self.precision,
            ema_decay: self.ema_decay,
            ..OptimConfig::default()
        }
    }

    /// Returns the learning rates and weights of a step.
    pub fn pace(&self, step: u64) -> StepSettings {
        let (peak, share) = if self.reference { (3e-4, 1.0) } else { (2e-3, 0.3) };
        let peak = self.learning_rate.unwrap_or(peak);
        // Both learning rates have the same shape.
        let at = |peak| Schedule::warmup_then_linear(peak, self.warmup_steps, self.steps).at(step);
        // Codes come into use after a share of the steps; the published ones from the first step.
        let quantise = self.vq.quantises()
            && (self.reference || step >= (self.vq.warmup * self.steps as f64) as u64);
        let decorrelation =
            if quantise || self.reference { 0.0 } else { self.decorrelation.unwrap_or(0.03) };
        StepSettings {
            learning_rate: at(peak),
            idm_learning_rate: at(self.idm_learning_rate.unwrap_or(share * peak)),
            quantise,
            decorrelation,
        }
    }
}

impl Stage for TrainDynamicsConfig {
    type Task = TrainDynamicsTask;

    fn kind(&self) -> &'static StageKind {
        &KIND
    }

    fn inputs(&self) -> Vec<Input<'_>> {
        let inputs = [
            Some(Input::new("frames", &self.frames, ArtifactKind::Frames)),
            Input::given("actions", &self.actions, ArtifactKind::Actions),
            Input::given("without", &self.without, ArtifactKind::Copies)
                .map(Input::of_the_same_frames),
            Input::given("init_from", &self.init_from, ArtifactKind::Dynamics),
        ];
        inputs.into_iter().flatten().collect()
    }

    fn validate(&self) -> Vec<FieldFault> {
        self.faults().into_vec()
    }

    fn needs(&self) -> Needs {
        // Frames take 0.7 GB, however many there are. The paper's networks at its batch size add a
        // few GiB of activations.
        let memory_mib = if self.preset == Preset::Paper { 8192 } else { 1024 };
        Needs { gpu: true, cores: 4, memory_mib }
    }

    /// Adds one task, or keeps the existing model.
    fn plan(&self, given: &PlanInputs, plan: &mut StagePlan) -> dataset::Result<()> {
        let frames = given.plan(&self.frames);
        let [actions, copies, init] = [&self.actions, &self.without, &self.init_from]
            .map(|name| given.plan_if(name.as_ref()));
        // In the order of the frames, so that the same near-duplicates give the same key.
        let copies_in_order = |copies: &StagePlan| {
            let left_out = copies.copies();
            let videos = frames.tasks.receipts().flat_map(|receipt| &receipt.videos);
            videos
                .filter(|video| left_out.contains(video.digest.as_str()))
                .map(|video| video.digest.clone())
                .collect()
        };
        // Both kinds of stages with frames have their size among the settings.
        let size = frames.settings.get("size").and_then(serde_json::Value::as_u64).unwrap_or(64);
        let task = TrainDynamicsTask {
            config: self.clone(),
            seed: given.seed,
            holdout: given.holdout,
            size: size as usize,
            shards: frames.shards(),
            actions: actions.map(StagePlan::action_files).unwrap_or_default(),
            without: copies.map(copies_in_order),
            init: init.map(StagePlan::weights),
            // `Training::plan` sets these three.
            state: None,
            generation: 0,
            provenance: Default::default(),
            checkpoint_secs: given.checkpoint_secs,
        };
        let training = Training {
            refresh: &self.refresh,
            source: frames,
            source_name: "frames",
            counted: "frames",
            beside: [actions, copies, init].into_iter().flatten().collect(),
            steps: self.steps,
            continues: self.continued,
            unseen: &|kept| unseen_videos(kept, frames),
            unseen_unit: "videos",
            task: &|Variant { generation, state, provenance }| {
                TrainDynamicsTask { generation, state, provenance, ..task.clone() }.into()
            },
        };
        training.plan(given, plan);
        Ok(())
    }

    fn network_fault(&self, frame_size: u32) -> Option<(&'static str, String, String)> {
        match self.dynamics(frame_size as usize).validate() {
            Err(ModelError::Config { field, seen, expected }) => Some((field, seen, expected)),
            _ => None,
        }
    }

    fn latent_actions(&self) -> Option<LatentActions<'_>> {
        Some(LatentActions::Own)
    }
}

/// Returns the number of videos that the model was not trained on, including videos still to be
/// decoded.
fn unseen_videos(kept: &Receipt, frames: &StagePlan) -> usize {
    let waiting = if frames.new_tasks() > 0 { frames.new_videos() } else { 0 };
    unseen(kept, frames).map(|receipt| receipt.videos.len()).sum::<usize>() + waiting
}
