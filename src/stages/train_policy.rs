//! Stage 2: a latent policy is cloned from the labels (LAPO, section 4.3). In: labels and the shards they are of; out:
//! `policy.safetensors`, `metrics.parquet` and a verdict, `verdict.json`.
//!
//! The policy sees one frame, `o[t]`, and learns the latent action before quantisation that followed it, by mean squared error. No IDM
//! takes part: frames come from the shards, latent actions from the labels. Every `holdout`-th video is kept from training and judges it.

use std::collections::BTreeMap;
use std::time::{Duration, Instant};

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use super::train_dynamics::Refresh;
use super::training::{resume, verdict_json};
use super::{Done, Error, Workplace, write};
use crate::dataset::FileInfo;
use crate::models::{PolicyConfig, Precision, Preset};
use crate::train::ahead::Ahead;
use crate::train::batch::Draws;
use crate::train::metrics::Metrics;
use crate::train::schedule::Schedule;
use crate::train::{OptimConfig, PolicyTrainer, Shown, checkpoint, policy_trainer};

mod data;

use data::Data;

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

/// The version of what this stage does: raise it when the same labels and settings give another policy.
pub const VERSION: u32 = 1;
/// Steps between two rows of the metrics.
const LOG_EVERY: u64 = 10;
/// The gradients' norm is not limited here, as in the published code.
const UNLIMITED: f64 = 1e9;

/// The labels of one version of a dataset, their shards, and how to learn from them.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct TrainPolicyTask {
    /// The stage's settings.
    pub config: TrainPolicyConfig,
    /// Seeds weights and batches.
    pub seed: u64,
    /// Files of labels, in the dataset's order.
    pub labels: Vec<FileInfo>,
    /// The shards these may be of.
    pub shards: Vec<FileInfo>,
    /// What the weights' file says of its origin.
    pub provenance: BTreeMap<String, String>,
    /// Seconds between two checkpoints; changes nothing in the result.
    pub checkpoint_secs: u64,
}

impl TrainPolicyConfig {
    /// Width of the network.
    pub fn resolved_scale(&self) -> usize {
        self.scale.unwrap_or_else(|| self.preset.policy(&self.preset.dynamics()).scale)
    }

    fn schedule(&self) -> Schedule {
        let (peak, warmup) = (self.learning_rate, self.warmup_steps.unwrap_or_else(|| 1000.min(self.steps / 10)));
        Schedule::new(vec![(0.0, 0.1 * peak), (warmup as f64, peak), (self.steps as f64, 0.0)])
    }

    /// Faults of single fields: `(field, what is wrong, cure)`.
    pub fn validate(&self) -> Vec<(&'static str, String, &'static str)> {
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
        expect(rate.is_finite() && rate > 0.0, "learning_rate", format!("is {rate}"), "expected a number above 0; the paper uses 2e-4");
        let warmup = self.warmup_steps.unwrap_or(0);
        expect(warmup < self.steps.max(1), "warmup_steps", format!("is {warmup}"), "expected fewer than `steps`");
        expect(self.holdout != 1, "holdout", "is 1".into(), "it would keep every video from training; expected 0 (none) or at least 2");
        faults
    }
}

/// What the policy is worth, on videos it never saw.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct PolicyVerdict {
    /// Transitions it learnt from.
    pub training_transitions: usize,
    /// Transitions it was judged on.
    pub transitions: usize,
    /// Whether these were kept from training.
    pub held_out: bool,
    /// Mean squared error of its latent actions.
    pub error: f64,
    /// The same for always answering the mean latent action.
    pub mean_error: f64,
}

impl PolicyVerdict {
    /// The verdict in words.
    pub fn sentence(&self) -> String {
        let whose = if self.held_out { "held-out" } else { "training" };
        let (transitions, share) = (self.transitions, self.error / self.mean_error);
        format!("on {transitions} {whose} transitions the policy's error is {share:.2}x that of always answering the mean latent action")
    }
}

/// Trains to the last step and judges the result.
pub fn run(task: &TrainPolicyTask, place: &Workplace) -> Result<Done, Error> {
    let data = Data::open(task, place)?;
    let config = PolicyConfig { scale: task.config.resolved_scale(), latent_dim: data.latent_dim, frame_size: data.side, channels: 3 };
    let optim = OptimConfig { precision: task.config.precision, max_grad_norm: UNLIMITED, ..OptimConfig::default() };
    let mut trainer = policy_trainer(&place.device, &config, &optim, task.seed)?;
    let (first, mut metrics) = resume(place, |state| trainer.restore(state))?;
    train(trainer.as_mut(), &mut metrics, task, &data, first, place)?;

    let verdict = data.judge(trainer.as_ref(), task)?;
    place.progress.say(&verdict.sentence());
    metrics.log(task.config.steps.saturating_sub(1), [("held_out_error_relative".to_owned(), (verdict.error / verdict.mean_error) as f32)]);
    let file = |name: &str| format!("{}/{name}", place.folder);
    let mut policy = place.store.new_file(&file("policy.safetensors"))?;
    write(&mut policy, &trainer.export(&task.provenance)?)?;
    let mut report = place.store.new_file(&file("verdict.json"))?;
    write(&mut report, verdict_json(serde_json::json!({ "sentence": verdict.sentence() }), &verdict).as_bytes())?;
    let [table, events] = metrics.write(place.store, &place.folder)?;
    let files = vec![policy.finish(0)?, table, report.finish(0)?, events];
    place.store.delete_all(&place.scratch)?;
    let stats = [("training_transitions", data.training.len() as f64), ("error", verdict.error), ("mean_error", verdict.mean_error)];
    Ok(Done { files, stats: stats.map(|(name, value)| (name.to_owned(), value)).into(), ..Done::default() })
}

/// The loop.
fn train(
    trainer: &mut dyn PolicyTrainer,
    metrics: &mut Metrics,
    task: &TrainPolicyTask,
    data: &Data,
    first: u64,
    place: &Workplace,
) -> Result<(), Error> {
    let (config, schedule) = (&task.config, task.config.schedule());
    let (pause, mut saved) = (Duration::from_secs(task.checkpoint_secs), Instant::now());
    let mut draws = Draws::new(task.seed, trainer.drawn(), data.training.len(), first * config.batch as u64);
    std::thread::scope(|scope| {
        let copy = move |drawn: Vec<usize>| data.gather(drawn.into_iter().map(|i| data.training[i]));
        let mut batches = Ahead::start(scope, || draws.next(config.batch), copy);
        for step in first..config.steps {
            let (frames, latent_action) = batches.wait()?;
            let learning_rate = schedule.at(step);
            let shown = Shown { frames: &frames, latent_action: &latent_action };
            let out = place.device.run(|| trainer.step(shown, learning_rate))?;
            if step % LOG_EVERY == 0 || step + 1 == config.steps {
                place.progress.note(&format!("error {:.4}", out.loss));
                let row = [("learning_rate", learning_rate as f32), ("loss", out.loss), ("grad_norm", out.grad_norm)];
                metrics.log(step, row.map(|(name, value)| (name.to_owned(), value)));
            }
            place.progress.advance(1);
            if saved.elapsed() >= pause && step + 1 < config.steps {
                checkpoint::save(place.store, &place.scratch, step + 1, &metrics.pack(&trainer.save()?))?;
                saved = Instant::now();
            }
        }
        Ok(())
    })
}
