//! Stage 1a: the IDM and the FDM learn together from frames alone (LAPO, section 4.1). In: shards; out: `model.safetensors`,
//! `metrics.parquet` and a verdict a person understands, `verdict.json`.
//!
//! Each step: draw a batch of windows `o[t-k..t+1]`; the IDM sees all of it and says in a few codes what happened between `o[t]` and
//! `o[t+1]`; the FDM sees all but the last frame, and these codes, and predicts the last frame. A killed run goes on from its newest
//! checkpoint and ends with the same weights, since a batch depends on nothing but (seed, step).

use std::collections::BTreeMap;
use std::sync::mpsc::{SyncSender, sync_channel};
use std::time::{Duration, Instant};

use rand::seq::SliceRandom;
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use super::{Done, Error, Workplace, write};
use crate::dataset::{FileInfo, Shards, WindowIndex};
use crate::models::{DynamicsConfig, Precision, Predict, Preset, VqConfig};
use crate::train::metrics::Metrics;
use crate::train::schedule::Schedule;
use crate::train::{Batch, DynamicsTrainer, OptimConfig, dynamics_trainer};
use crate::train::{batch, checkpoint};

/// Trains an inverse and a forward dynamics model through a vector-quantised bottleneck.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct TrainDynamicsConfig {
    /// The `decode` stage whose frames it learns from.
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
    /// What the FDM predicts. Default `change`: the change from `o[t]`, which is right about a still picture from the first step (25x
    /// lower error than the paper's after 400 steps, `tiny`, on `data/maze`). `frame`: the next frame itself, as in the paper.
    #[serde(default)]
    pub predict: Option<Predict>,
    /// The published training, for parity: predicts the frame, EMA counts start at zero, no code is revived. Overrides `predict` and `vq`.
    /// After 300 steps of `tiny` on `data/maze` the held-out error (x1000) of seeds 0, 1, 2 and 4 is 5.6, 5.8, 6.0 and 6.8; PyTorch's from
    /// the same seeds 5.4, 5.1, 6.1 and 6.7.
    #[serde(default)]
    pub reference: bool,
    /// Optimiser steps. 50,000 in the paper.
    #[serde(default = "default_steps")]
    pub steps: u64,
    /// Windows a step. 128 in the paper.
    #[serde(default = "default_batch")]
    pub batch: usize,
    /// Adam's peak learning rate. 3e-4 in the paper; it rises from 10 % in `warmup_steps` and falls to 1 % at the end.
    #[serde(default = "default_learning_rate")]
    pub learning_rate: f64,
    /// Steps until the learning rate is at its peak. 50 in the paper.
    #[serde(default = "default_warmup_steps")]
    pub warmup_steps: u64,
    /// How precisely the networks compute: `f32`, or `bf16`, several times faster on a GPU and much slower without one. Default `f32`.
    #[serde(default)]
    pub precision: Precision,
    /// Every `holdout`-th episode is kept from training and judges the model; 0: none is.
    #[serde(default = "default_holdout")]
    pub holdout: usize,
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
fn default_learning_rate() -> f64 {
    3e-4
}
fn default_warmup_steps() -> u64 {
    50
}
fn default_holdout() -> usize {
    5
}

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

/// The version of what this stage does: raise it when the same frames and settings give another model.
pub const VERSION: u32 = 3;
/// Steps between two rows of the metrics.
const LOG_EVERY: u64 = 10;
/// Most windows the verdict is based on, and how many a pass takes.
const VERDICT_WINDOWS: usize = 2048;
const VERDICT_BATCH: usize = 128;
/// Batches that lie ready before they are needed.
const AHEAD: usize = 2;
/// Fewest windows worth training on.
const LEAST_WINDOWS: usize = 2;

/// All shards of one version of a dataset, and how to learn from them.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct TrainDynamicsTask {
    /// The stage's settings.
    pub config: TrainDynamicsConfig,
    /// Seeds weights and batches.
    pub seed: u64,
    /// Size of a frame, as decoded.
    pub size: usize,
    /// The frames, in the dataset's order.
    pub shards: Vec<FileInfo>,
    /// What the weights' file says of its origin (the task's key, the dataset's version).
    pub provenance: BTreeMap<String, String>,
    /// Seconds between two checkpoints; changes nothing in the result.
    pub checkpoint_secs: u64,
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
            predict: self.predict.unwrap_or_default(),
            ..preset
        };
        if self.reference { config.reference() } else { config }
    }

    /// Faults of single fields: `(field, what is wrong, cure)`.
    pub fn validate(&self) -> Vec<(&'static str, String, &'static str)> {
        let mut faults = Vec::new();
        let mut expect = |holds: bool, field, seen: String, cure| {
            if !holds {
                faults.push((field, seen, cure));
            }
        };
        let positive = [
            ("steps", self.steps),
            ("batch", self.batch as u64),
            ("idm_scale", self.idm_scale.unwrap_or(1) as u64),
            ("fdm_base", self.fdm_base.unwrap_or(2) as u64 / 2),
        ];
        for (field, value) in positive {
            expect(value > 0, field, "is too small".into(), "expected at least 1 (fdm_base: 2)");
        }
        expect(self.context <= 16, "context", format!("is {}", self.context), "expected 0 to 16 frames; the paper uses 1");
        expect(
            self.learning_rate.is_finite() && self.learning_rate > 0.0,
            "learning_rate",
            format!("is {}", self.learning_rate),
            "expected a number above 0; the paper uses 3e-4",
        );
        expect(self.holdout != 1, "holdout", "is 1".into(), "it would keep every episode from training; expected 0 (none) or at least 2");
        expect(
            !(self.reference && self.predict == Some(Predict::Change)),
            "predict",
            "is `change` beside `reference: true`".into(),
            "the published training predicts the frame: remove one of the two",
        );
        if let Refresh::Growth(share) = self.refresh {
            expect(share.is_finite() && share > 0.0, "refresh", format!("is growth: {share}"), "expected a share above 0, e.g. 0.25");
        }
        faults
    }
}

/// Trains to the last step and judges the result.
pub fn run(task: &TrainDynamicsTask, place: &Workplace) -> Result<Done, Error> {
    let config = task.config.dynamics(task.size);
    let data = Data::open(task, place)?;
    let optim = OptimConfig { precision: task.config.precision, ..OptimConfig::default() };
    let mut trainer = dynamics_trainer(&place.device, &config, &optim, task.seed)?;
    let mut metrics = Metrics::default();
    let first = resume(trainer.as_mut(), &mut metrics, place)?;
    let waited = train(trainer.as_mut(), &mut metrics, task, &data, first, place)?;

    let verdict = judge(trainer.as_ref(), &config, task, &data)?;
    place.progress.say(&verdict.sentence());
    let file = |name: &str| format!("{}/{name}", place.folder);
    let mut model = place.store.new_file(&file("model.safetensors"))?;
    write(&mut model, &trainer.export(&task.provenance)?)?;
    let mut report = place.store.new_file(&file("verdict.json"))?;
    write(&mut report, verdict.json().as_bytes())?;
    let files = vec![model.finish(0)?, metrics.write(place.store, &file("metrics.parquet"))?, report.finish(0)?];
    place.store.delete_all(&place.scratch)?;
    let mut stats = verdict.stats();
    stats.insert("waited_for_frames".into(), waited);
    Ok(Done { files, stats, ..Done::default() })
}

/// The shards, and the windows to learn from and to judge by.
struct Data {
    shards: Shards,
    training: WindowIndex,
    held_out: WindowIndex,
}

impl Data {
    fn open(task: &TrainDynamicsTask, place: &Workplace) -> Result<Data, Error> {
        let shards = Shards::open(place.store, task.shards.iter().map(|file| file.path.clone()).collect())?;
        if let Some(size) = shards.frame_size().filter(|size| size.height as usize != task.size) {
            let file = task.shards.first().map_or_else(String::new, |file| file.path.clone());
            return Err(Error::FrameSize { file, seen: size.height as usize, expected: task.size });
        }
        let (time, every) = (task.config.context + 2, task.config.holdout);
        let all = WindowIndex::new(&shards, time);
        let is_held_out = |episode: usize| every > 0 && episode.is_multiple_of(every);
        let training = all.subset(|episode| !is_held_out(episode));
        let held_out = if every == 0 { all.subset(|_| true) } else { all.subset(is_held_out) };
        for (split, windows) in [("training", training.len()), ("held-out", held_out.len())] {
            if windows < LEAST_WINDOWS {
                let (episodes, needed) = (all.episodes(), LEAST_WINDOWS);
                return Err(Error::TooFewWindows { split, windows, episodes, time, needed });
            }
        }
        Ok(Data { shards, training, held_out })
    }
}

/// Takes up the newest checkpoint, if there is one; returns the step to go on with.
fn resume(trainer: &mut dyn DynamicsTrainer, metrics: &mut Metrics, place: &Workplace) -> Result<u64, Error> {
    let Some((step, bytes)) = checkpoint::newest(place.store, &place.scratch)? else { return Ok(0) };
    let file = checkpoint::path(&place.scratch, step);
    let fault = |reason: String| Error::Checkpoint { file: file.clone(), reason };
    let (rows, state) = Metrics::unpack(&bytes).map_err(fault)?;
    trainer.restore(state).map_err(|e| fault(e.to_string()))?;
    *metrics = rows;
    place.progress.advance(step);
    Ok(step)
}

/// The loop; returns the share of its time in which the networks waited for frames.
fn train(
    trainer: &mut dyn DynamicsTrainer,
    metrics: &mut Metrics,
    task: &TrainDynamicsTask,
    data: &Data,
    first: u64,
    place: &Workplace,
) -> Result<f64, Error> {
    let config = &task.config;
    let schedule = Schedule::warmup_then_linear(config.learning_rate, config.warmup_steps, config.steps);
    let (pause, mut saved) = (Duration::from_secs(task.checkpoint_secs), Instant::now());
    let draws = batch::Draws::new(task.seed, trainer.drawn(), data.training.len(), first * config.batch as u64);
    let (began, mut waited) = (Instant::now(), Duration::ZERO);
    std::thread::scope(|scope| {
        let (send, batches) = sync_channel(AHEAD);
        scope.spawn(move || draw_ahead(draws, data, config.batch, &send));
        for step in first..config.steps {
            let asked = Instant::now();
            let frames = batches.recv().expect("batches are drawn for as long as they are received")?;
            waited += asked.elapsed();
            let learning_rate = schedule.at(step);
            let out = trainer.step(&as_batch(&frames, config.batch, task), learning_rate)?;
            if step % LOG_EVERY == 0 || step + 1 == config.steps {
                place.progress.note(&format!("fdm {:.3}x copying, perplexity {:.0?}", out.relative_loss, out.perplexity));
                metrics.push(step, learning_rate, &out);
            }
            place.progress.advance(1);
            if saved.elapsed() >= pause && step + 1 < config.steps {
                checkpoint::save(place.store, &place.scratch, step + 1, &metrics.pack(&trainer.save()?))?;
                saved = Instant::now();
            }
        }
        Ok(waited.as_secs_f64() / began.elapsed().as_secs_f64().max(1e-9))
    })
}

/// Copies batches out of the shards, ahead of the networks, until nobody receives them.
fn draw_ahead(mut draws: batch::Draws, data: &Data, size: usize, send: &SyncSender<Result<Vec<u8>, crate::dataset::Error>>) {
    loop {
        let mut frames = Vec::new();
        let gathered = batch::gather(&data.shards, &data.training, &draws.next(size), &mut frames);
        if send.send(gathered.map(|()| frames)).is_err() {
            return;
        }
    }
}

fn as_batch<'a>(frames: &'a [u8], windows: usize, task: &TrainDynamicsTask) -> Batch<'a> {
    Batch { frames, batch: windows, time: task.config.context + 2, height: task.size, width: task.size }
}

/// What the model is worth, on windows it never saw.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Verdict {
    /// Windows it was trained on.
    pub training_windows: usize,
    /// Windows it was judged on.
    pub windows: usize,
    /// Whether these were kept from training.
    pub held_out: bool,
    /// Mean squared error of the FDM, pixels in [-0.5, 0.5].
    pub fdm_error: f64,
    /// The same for copying `o[t]`.
    pub copy_error: f64,
    /// The same for the FDM given another window's latent action.
    pub fdm_error_shuffled: f64,
    /// Codes in use, by codebook.
    pub codes_used: Vec<usize>,
    /// Perplexity of the codes, by codebook.
    pub perplexity: Vec<f64>,
    /// Codes a codebook holds.
    pub entries: usize,
}

/// Runs the FDM on held-out windows, with their own and with shuffled latent actions.
fn judge(trainer: &dyn DynamicsTrainer, config: &DynamicsConfig, task: &TrainDynamicsTask, data: &Data) -> Result<Verdict, Error> {
    let mut windows = batch::spread(&data.held_out, VERDICT_WINDOWS);
    windows.shuffle(&mut batch::generator(task.seed, "verdict", 0)); // neighbours share their action; shuffled, they do not
    let mut sums = [0.0_f64; 3];
    let mut counts = vec![vec![0_u64; config.vq.entries]; config.vq.codebooks];
    let mut frames = Vec::new();
    for part in windows.chunks(VERDICT_BATCH) {
        batch::gather(&data.shards, &data.held_out, part, &mut frames)?;
        let others: Vec<usize> = (0..part.len()).map(|i| (i + 1) % part.len()).collect();
        let out = trainer.evaluate(&as_batch(&frames, part.len(), task), &others)?;
        for (sum, errors) in sums.iter_mut().zip([&out.fdm_error, &out.copy_error, &out.fdm_error_shuffled]) {
            *sum += errors.iter().map(|e| f64::from(*e)).sum::<f64>();
        }
        for (i, code) in out.codes.iter().enumerate() {
            let book = i / config.vq.positions % config.vq.codebooks;
            counts[book][usize::from(*code)] += 1;
        }
    }
    let [fdm_error, copy_error, fdm_error_shuffled] = sums.map(|sum| sum / windows.len() as f64);
    Ok(Verdict {
        training_windows: data.training.len(),
        windows: windows.len(),
        held_out: task.config.holdout > 0,
        fdm_error,
        copy_error,
        fdm_error_shuffled,
        codes_used: counts.iter().map(|book| book.iter().filter(|n| **n > 0).count()).collect(),
        perplexity: counts.iter().map(|book| perplexity(book)).collect(),
        entries: config.vq.entries,
    })
}

/// exp(entropy): as many equally frequent codes would be as uncertain.
fn perplexity(counts: &[u64]) -> f64 {
    let total = counts.iter().sum::<u64>().max(1) as f64;
    let shares = counts.iter().filter(|n| **n > 0).map(|n| *n as f64 / total);
    (-shares.map(|p| p * p.ln()).sum::<f64>()).exp()
}

impl Verdict {
    /// The verdict in words.
    pub fn sentence(&self) -> String {
        let whose = if self.held_out { "held-out" } else { "training" };
        let codes: Vec<String> = self.codes_used.iter().map(ToString::to_string).collect();
        format!(
            "on {} {whose} windows the world model's error is {:.2}x copying the last frame; {}; codes in use: {} of {}",
            self.windows,
            self.fdm_error / self.copy_error,
            self.information(),
            codes.join(" and "),
            self.entries
        )
    }

    /// How much worse the FDM gets when it is told another window's latent action.
    pub fn information_used(&self) -> f64 {
        self.fdm_error_shuffled / self.fdm_error
    }

    fn information(&self) -> String {
        let used = self.information_used();
        match used {
            x if x < 1.02 => format!("shuffled latents cost nothing ({used:.3}x): the latents carry no information yet"),
            x if x < 1.5 => format!("shuffled latents cost {used:.2}x: the latents carry a little"),
            _ => format!("shuffled latents cost {used:.2}x: the latents carry what happened"),
        }
    }

    fn json(&self) -> String {
        let mut value = serde_json::json!({ "sentence": self.sentence(), "information_used": self.information_used() });
        if let (Some(all), Ok(serde_json::Value::Object(fields))) = (value.as_object_mut(), serde_json::to_value(self)) {
            all.extend(fields);
        }
        format!("{value:#}\n")
    }

    fn stats(&self) -> BTreeMap<String, f64> {
        BTreeMap::from([
            ("training_windows".into(), self.training_windows as f64),
            ("fdm_error".into(), self.fdm_error),
            ("copy_error".into(), self.copy_error),
            ("fdm_error_shuffled".into(), self.fdm_error_shuffled),
            ("least_codes_used".into(), self.codes_used.iter().copied().min().unwrap_or(0) as f64),
        ])
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn perplexity_counts_equally_frequent_codes() {
        assert!((perplexity(&[5, 5, 5, 5, 0]) - 4.0).abs() < 1e-12);
        assert!((perplexity(&[7, 0, 0]) - 1.0).abs() < 1e-12);
        assert!((perplexity(&[]) - 1.0).abs() < 1e-12);
    }

    #[test]
    fn the_verdict_says_when_latents_carry_nothing() {
        let verdict = Verdict {
            training_windows: 900,
            windows: 222,
            held_out: true,
            fdm_error: 1.8e-4,
            copy_error: 3.1e-4,
            fdm_error_shuffled: 1.8e-4,
            codes_used: vec![34, 41],
            perplexity: vec![20.0, 22.0],
            entries: 64,
        };
        assert_eq!(
            verdict.sentence(),
            "on 222 held-out windows the world model's error is 0.58x copying the last frame; shuffled latents cost nothing \
             (1.000x): the latents carry no information yet; codes in use: 34 and 41 of 64"
        );
    }
}
