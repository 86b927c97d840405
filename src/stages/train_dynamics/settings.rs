//! The fields of the stage in YAML, what they mean for the networks, and which of their values are faults.

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use super::{KIND, TrainDynamicsTask};
use crate::dataset::{self, Receipt};
use crate::models::{
    DynamicsConfig, FdmAction, IdmHead, ModelError, Precision, Predict, Preset, VqConfig,
};
use crate::stages::plan::training::{Refresh, Training, unseen};
use crate::stages::plan::{Given, StagePlan};
use crate::stages::{ArtifactKind, FieldFault, Input, LatentActions, Needs, Stage, StageKind};
use crate::train::schedule::Schedule;
use crate::train::{OptimConfig, Pace, Rule};

/// Trains an inverse and a forward dynamics model through a vector-quantised bottleneck.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct TrainDynamicsConfig {
    /// The `decode` or `record` stage whose frames it learns from.
    pub frames: String,
    /// Sizes of the networks: `tiny` (IDM x1, FDM 8), `small` (x2, 12) or `paper` (x4, 24).
    #[serde(default)]
    pub preset: Preset,
    /// Width of the IDM's IMPALA network as a multiple of (16, 32, 32). Unset: the preset's.
    #[serde(default)]
    pub idm_scale: Option<usize>,
    /// Channels of the FDM's U-Net at full resolution. Unset: the preset's.
    #[serde(default)]
    pub fdm_base: Option<usize>,
    /// Frames before `o[t]` that both models see. 1, as in the paper: a window is `o[t-1]`, `o[t]`, `o[t+1]`.
    #[serde(default = "default_context")]
    pub context: usize,
    /// The bottleneck.
    #[serde(default)]
    pub vq: VqConfig,
    /// What the IDM looks at. Default `motion`: at `o[t]` and the changes between frames, its features averaged where pixels change, its
    /// latent actions normalised. `flatten`: at the frames, as in the paper; a probe then tells .29 of a maze's actions after 600 steps, not
    /// .75, and .06 of bigfish's after 1,200, not .20: no more than guessing.
    #[serde(default)]
    pub idm_head: Option<IdmHead>,
    /// How the latent action enters the FDM. Default `modulate`: it scales and shifts the channels of every level. `tile`: it is tiled
    /// over the frame at the input, as in the paper; a probe then tells .56 of a maze's actions after 600 steps, not .75.
    #[serde(default)]
    pub fdm_action: Option<FdmAction>,
    /// Side of the picture at the bottom of the FDM's U-Net, in pixels: a power of two from 4 to half the frame, or 1, as in the
    /// paper. Default 8: as good as 1, in 0.7 of the time.
    #[serde(default)]
    pub fdm_bottom: Option<usize>,
    /// What the FDM predicts. Default `change`: the change from `o[t]`, which is right about a still picture from the first step (25x
    /// lower error than the paper's after 400 steps, `tiny`, on `data/maze`). `frame`: the next frame itself, as in the paper.
    #[serde(default)]
    pub predict: Option<Predict>,
    /// The published training, for parity: `idm_head: flatten`, `fdm_action: tile`, `fdm_bottom: 1`, `predict: frame`; codes are used from
    /// the first step, EMA counts start at zero and keep .999 a step, no code is revived; both networks have the same learning rate.
    /// After 300 steps of `tiny` on `data/maze` the held-out error (x1000) of seeds 0, 1, 2 and 4 is 5.7, 7.6, 6.0 and 7.0; PyTorch's
    /// from the same seeds 5.4, 5.1, 6.1 and 6.7. With .99 a step seed 1 has 5.8.
    #[serde(default)]
    pub reference: bool,
    /// Optimiser steps. 50,000 in the paper.
    #[serde(default = "default_steps")]
    pub steps: u64,
    /// Windows a step. 128 in the paper.
    #[serde(default = "default_batch")]
    pub batch: usize,
    /// What moves the weights of convolutions; Adam moves all else. Default `muon` (Jordan et al., 2024), which gets as far as `adam` in
    /// half of its time on bigfish and coinrun, and in as much on mazes: after 1,200 steps of bigfish a probe tells .29 of the actions,
    /// `adam`'s .22, and .28 after 2,460 (none decorrelated). `adam` with `reference`, as in the paper.
    #[serde(default)]
    pub optimizer: Option<Rule>,
    /// Peak learning rate; it rises from 10 % in `warmup_steps` and falls to 1 % at the end. Default 2e-3: with `adam` the error is .28 of
    /// copying's after 600 steps of a maze, .58 at 3e-4, as in the paper and with `reference`. `muon` moves weights by 0.6 of it a step.
    #[serde(default)]
    pub learning_rate: Option<f64>,
    /// The same for the IDM alone. Default 0.3 of `learning_rate`: after 1,200 steps of bigfish a probe tells .29 of the actions, .26 at
    /// 0.15 and .18 at 0.6, where latent actions move on before the FDM reads them. With `reference` the same as the FDM's.
    #[serde(default)]
    pub idm_learning_rate: Option<f64>,
    /// What the mean squared correlation of two numbers of a latent action counts against the FDM's relative error until codes are used
    /// (`vq.warmup`): they shall not all say the same. Default 0.03: after 4,350 steps of bigfish, seed 1, a probe tells .34 of the actions,
    /// at 0 .12, in 1.2 dimensions of 128. On mazes the error is .10 of copying's, at 0 .15. To the end of the training a probe tells .01
    /// more on bigfish and .02 less on mazes. None with `reference`.
    #[serde(default)]
    pub decorrelation: Option<f64>,
    /// Steps until the learning rate is at its peak. 50 in the paper.
    #[serde(default = "default_warmup_steps")]
    pub warmup_steps: u64,
    /// How precisely the networks compute: `f32`, or `bf16`, which is for GPUs and much slower without one. Default `f32`.
    #[serde(default)]
    pub precision: Precision,
    /// Every `holdout`-th episode is kept from training and judges the model; 0: none is.
    #[serde(default = "default_holdout")]
    pub holdout: usize,
    /// The stage that knows true actions, where somebody recorded some: `record` or `import_actions`. The verdict says how well they can be
    /// told from latent actions; the model learns from none of them but those of `supervision`.
    #[serde(default)]
    pub actions: Option<String>,
    /// The `deduplicate` stage whose near-copies are left out: what is there twice counts twice, and a copy of a training video that is
    /// held out judges nothing. Default none.
    #[serde(default)]
    pub without: Option<String>,
    /// Learns from a few of the true actions too: `{ labels: 256 }`. Default none.
    #[serde(default)]
    pub supervision: Option<SupervisionConfig>,
    /// When new videos make a new model. Default `never`: they are labelled with the model that exists.
    #[serde(default)]
    pub refresh: Refresh,
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
fn default_holdout() -> usize {
    5
}

/// A few true actions, which a linear layer learns to tell from latent actions while these are learnt (LAOM, Nikulin et al., 2025).
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct SupervisionConfig {
    /// How many transitions of the training episodes, drawn at random, are learnt from with their true action.
    pub labels: usize,
    /// How many of them join each batch. Default 16.
    #[serde(default = "default_supervised")]
    pub batch: usize,
    /// What a nat of their cross-entropy counts against the FDM's relative error. Default 0.02, which helps where actions can be told
    /// apart and harms nowhere it was tried; from 0.1 on few labels are learnt by heart.
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
    /// The networks these settings ask for, on frames of `size` pixels.
    pub fn dynamics(&self, size: usize) -> DynamicsConfig {
        let preset = self.preset.dynamics();
        let config = DynamicsConfig {
            idm_scale: self.idm_scale.unwrap_or(preset.idm_scale),
            fdm_base: self.fdm_base.unwrap_or(preset.fdm_base),
            context: self.context,
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
        let published = config.reference();
        DynamicsConfig { vq: VqConfig { decay: 0.999, ..published.vq }, ..published }
    }

    /// The optimiser.
    pub fn optim(&self) -> OptimConfig {
        let rule = self.optimizer.unwrap_or(Rule::of_dynamics(self.reference));
        OptimConfig { rule, precision: self.precision, ..OptimConfig::default() }
    }

    /// How far each step goes.
    pub fn pace(&self, step: u64) -> Pace {
        let (peak, share) = if self.reference { (3e-4, 1.0) } else { (2e-3, 0.3) };
        let peak = self.learning_rate.unwrap_or(peak);
        let at = |peak| Schedule::warmup_then_linear(peak, self.warmup_steps, self.steps).at(step);
        let quantise = self.vq.quantises()
            && (self.reference || step >= (self.vq.warmup * self.steps as f64) as u64);
        let decorrelation =
            if quantise || self.reference { 0.0 } else { self.decorrelation.unwrap_or(0.03) };
        Pace {
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
        ];
        inputs.into_iter().flatten().collect()
    }

    fn validate(&self) -> Vec<FieldFault> {
        let mut faults = Vec::new();
        let mut expect = |holds: bool, field, seen: String, cure| {
            if !holds {
                faults.push((field, seen, cure));
            }
        };
        for (field, value) in [("steps", self.steps), ("batch", self.batch as u64)] {
            expect(value > 0, field, "is 0".into(), "expected at least 1");
        }
        expect(
            self.context <= 16,
            "context",
            format!("is {}", self.context),
            "expected 0 to 16 frames; the paper uses 1",
        );
        for (field, rate) in
            [("learning_rate", self.learning_rate), ("idm_learning_rate", self.idm_learning_rate)]
        {
            let rate = rate.unwrap_or(3e-4);
            expect(
                rate.is_finite() && rate > 0.0,
                field,
                format!("is {rate}"),
                "expected a number above 0; the paper uses 3e-4",
            );
        }
        let weight = self.decorrelation.unwrap_or(0.0);
        expect(
            weight.is_finite() && weight >= 0.0,
            "decorrelation",
            format!("is {weight}"),
            "expected a number of at least 0",
        );
        if let Some(supervision) = &self.supervision {
            expect(
                self.actions.is_some(),
                "supervision",
                "has no true actions".into(),
                "name the stage that knows them with `actions:`",
            );
            let positive = supervision.labels > 0 && supervision.batch > 0;
            expect(
                positive,
                "supervision",
                "learns from nothing".into(),
                "expected `labels` and `batch` of at least 1",
            );
            let weight = supervision.weight;
            expect(
                weight.is_finite() && weight > 0.0,
                "supervision",
                format!("has weight {weight}"),
                "expected a number above 0",
            );
        }
        expect(
            self.holdout != 1,
            "holdout",
            "is 1".into(),
            "it would keep every episode from training; expected 0 (none) or at least 2",
        );
        let vq = VqConfig::default();
        let departures = [
            ("optimizer", self.optimizer == Some(Rule::Muon)),
            ("idm_learning_rate", self.idm_learning_rate.is_some()),
            ("supervision", self.supervision.is_some()),
            ("decorrelation", weight > 0.0),
            ("predict", self.predict == Some(Predict::Change)),
            ("idm_head", self.idm_head == Some(IdmHead::Motion)),
            ("fdm_action", self.fdm_action == Some(FdmAction::Modulate)),
            ("fdm_bottom", self.fdm_bottom.is_some_and(|side| side != 1)),
            // Of fields that are the default's or the paper's nobody can tell who set them.
            ("vq.warmup", self.vq.quantises() && ![0.0, vq.warmup].contains(&self.vq.warmup)),
            ("vq.decay", ![0.999, vq.decay].contains(&self.vq.decay)),
            ("vq.revive_after", ![0, vq.revive_after].contains(&self.vq.revive_after)),
        ];
        for (field, departs) in departures {
            let cure = "the published training does not do so: remove one of the two";
            expect(
                !(self.reference && departs),
                field,
                "departs from the paper beside `reference: true`".into(),
                cure,
            );
        }
        if let Refresh::Growth(share) = self.refresh {
            expect(
                share.is_finite() && share > 0.0,
                "refresh",
                format!("is growth: {share}"),
                "expected a share above 0, e.g. 0.25",
            );
        }
        faults
    }

    fn needs(&self) -> Needs {
        // Any amount of frames is read in 0.7 GB; the paper's networks at its batch add activations of a few GiB.
        let memory_mib = if self.preset == Preset::Paper { 8192 } else { 1024 };
        Needs { gpu: true, cores: 4, memory_mib }
    }

    /// Adds one task, or keeps the model that is there.
    fn plan(&self, given: &Given, plan: &mut StagePlan) -> dataset::Result<()> {
        let frames = given.plan(&self.frames);
        let [actions, copies] =
            [&self.actions, &self.without].map(|name| given.plan_if(name.as_ref()));
        let copies_in_order = |copies: &StagePlan| {
            let (left_out, videos) =
                (copies.copies(), frames.tasks.receipts().flat_map(|receipt| &receipt.videos));
            videos
                .filter(|video| left_out.contains(video.digest.as_str()))
                .map(|video| video.digest.clone())
                .collect()
        };
        let size = frames.settings.get("size").and_then(serde_json::Value::as_u64).unwrap_or(64);
        let task = TrainDynamicsTask {
            config: self.clone(),
            seed: given.seed,
            size: size as usize,
            shards: frames.shards(),
            actions: actions.map(StagePlan::action_files).unwrap_or_default(),
            without: copies.map(copies_in_order),
            generation: 0,
            provenance: Default::default(),
            checkpoint_secs: given.checkpoint_secs,
        };
        let training = Training {
            refresh: &self.refresh,
            source: frames,
            source_name: "frames",
            counted: "frames",
            beside: [actions, copies].into_iter().flatten().collect(),
            steps: self.steps,
            unseen: &|kept| unseen_videos(kept, frames),
            unseen_unit: "videos",
            task: &|generation, provenance| {
                TrainDynamicsTask { generation, provenance, ..task.clone() }.into()
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

/// Returns the number of videos that the model was not trained on, those still to be decoded included.
fn unseen_videos(kept: &Receipt, frames: &StagePlan) -> usize {
    let waiting = if frames.new_tasks() > 0 { frames.new_videos() } else { 0 };
    unseen(kept, frames).map(|receipt| receipt.videos.len()).sum::<usize>() + waiting
}

#[cfg(test)]
mod tests {
    use super::*;

    fn faults(reference: bool, field: &str, value: &str) -> Vec<&'static str> {
        let outer = field.split('.').next().unwrap_or(field);
        let fields =
            format!(r#"{{ "frames": "frames", "reference": {reference}, "{outer}": {value} }}"#);
        let config: TrainDynamicsConfig =
            serde_json::from_str(&fields).expect("fields of the stage");
        config.validate().into_iter().map(|(field, ..)| field).collect()
    }

    #[test]
    fn nothing_departs_from_the_paper_beside_reference() {
        for (field, departs, keeps) in [
            ("optimizer", r#""muon""#, r#""adam""#),
            ("decorrelation", "0.1", "0"),
            ("predict", r#""change""#, r#""frame""#),
            ("idm_head", r#""motion""#, r#""flatten""#),
            ("fdm_action", r#""modulate""#, r#""tile""#),
            ("fdm_bottom", "8", "1"),
            ("vq.warmup", r#"{ "warmup": 0.5 }"#, r#"{ "warmup": 0 }"#),
            ("vq.warmup", r#"{ "warmup": 0.5 }"#, r#"{ "warmup": 1 }"#),
            ("vq.decay", r#"{ "decay": 0.95 }"#, r#"{ "decay": 0.999 }"#),
            ("vq.revive_after", r#"{ "revive_after": 50 }"#, r#"{ "revive_after": 0 }"#),
        ] {
            assert_eq!(faults(true, field, departs), [field]);
            assert_eq!(faults(true, field, keeps), [""; 0]);
            assert_eq!(faults(false, field, departs), [""; 0]);
        }
    }
}
