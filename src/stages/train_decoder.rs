//! Stage 3, offline: decoders from latent to true actions, learnt from a few transitions whose true action is known (LAPO, section 4.4).
//! In: labels and true actions; out: a decoder for each number of transitions and each draw of them, and their accuracy, `curve.parquet`.
//!
//! Which transitions are drawn depends on the seed and on the transitions alone: the 64 of one draw are among its 256, and neither changes
//! when other numbers are asked for. Every `holdout`-th video is kept from all of them and judges all of them.
//!
//! A decoder learns from the IDM's latent actions, as in the paper, and meets the policy's only when it plays. Learning from what the
//! policy answers was tried on maze: from 256 transitions the decoder then is right half as often and earns what random actions do; from
//! 8,192 it earns as much as this one.

use std::collections::{BTreeMap, BTreeSet};

use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use super::labelled_pairs::PairSampling;
use super::model_files::ratio;
use super::plan::key::digests;
use super::plan::{KeyFields, NewTask, PlanInputs, StagePlan};
use super::{
    ArtifactKind, Error, FieldFault, Input, LaneState, LatentActions, Needs, Stage, StageKind,
    StageTask, TaskContext, TaskOutput, write,
};
use crate::dataset::{self, Column, FileInfo, write_table};
use crate::models::{DecoderConfig, LoadedDecoder};
use crate::train::decoder::{Answers, Fit, Pairs, fit};
use crate::train::probe::{guessing, score};
use crate::train::{TrainError, checkpoint};

/// Learns what true action a latent action stands for, from a few transitions where both are known.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct TrainDecoderConfig {
    /// The `label` stage whose latent actions are decoded.
    pub labels: String,
    /// The stage that knows what was truly done: `record` or `import_actions`.
    pub actions: String,
    /// From how many transitions to learn; a decoder for each number. Default `[256]`; the paper's curve goes from 16 to 8192.
    #[serde(default = "default_transitions")]
    pub transitions: Vec<usize>,
    /// How often to draw so many transitions: a decoder for each draw. Default 3.
    #[serde(default = "default_draws")]
    pub draws: u64,
    /// Width of each hidden layer. Default `[128, 128]`.
    #[serde(default = "default_hidden")]
    pub hidden: Vec<usize>,
    /// Optimiser steps.
    #[serde(default = "default_steps")]
    pub steps: u64,
    /// Transitions a step.
    #[serde(default = "default_batch")]
    pub batch: usize,
    /// Adam's learning rate at the start; it falls to 0.
    #[serde(default = "default_learning_rate")]
    pub learning_rate: f64,
    /// Share of an action's likelihood that is spread over all of them, against overconfidence. Discrete actions only.
    #[serde(default = "default_label_smoothing")]
    pub label_smoothing: f64,
    /// Every `holdout`-th video is kept from training and judges the decoders; 0: none is.
    #[serde(default = "default_holdout")]
    pub holdout: usize,
}

fn default_transitions() -> Vec<usize> {
    vec![256]
}
fn default_draws() -> u64 {
    3
}
fn default_hidden() -> Vec<usize> {
    vec![128, 128]
}
fn default_steps() -> u64 {
    1000
}
fn default_batch() -> usize {
    256
}
fn default_learning_rate() -> f64 {
    1e-3
}
fn default_label_smoothing() -> f64 {
    0.05
}
fn default_holdout() -> usize {
    5
}

/// What all `train_decoder` stages have in common. Raise `version` when the same labels and settings give other decoders.
pub const KIND: StageKind = StageKind {
    key_inputs: &["labels", "true_actions"],
    has_checkpoints: true,
    ..StageKind::new("train_decoder", 1, &[ArtifactKind::Decoder], "decoders")
};

/// The labels of one version of a dataset, true actions, and how to learn from them.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct TrainDecoderTask {
    /// The stage's settings.
    pub config: TrainDecoderConfig,
    /// Seeds weights, batches and which transitions are drawn.
    pub seed: u64,
    /// Files of labels, in the dataset's order.
    pub labels: Vec<FileInfo>,
    /// Files of true actions.
    pub actions: Vec<FileInfo>,
}

impl TrainDecoderConfig {
    /// Every decoder that is asked for: how many transitions, and which draw of them.
    pub fn decoders(&self) -> Vec<(usize, u64)> {
        let numbers: BTreeSet<usize> = self.transitions.iter().copied().collect();
        numbers
            .into_iter()
            .flat_map(|transitions| (0..self.draws).map(move |draw| (transitions, draw)))
            .collect()
    }
}

impl Stage for TrainDecoderConfig {
    type Task = TrainDecoderTask;

    fn kind(&self) -> &'static StageKind {
        &KIND
    }

    fn inputs(&self) -> Vec<Input<'_>> {
        vec![
            Input::new("labels", &self.labels, ArtifactKind::Labels),
            Input::new("actions", &self.actions, ArtifactKind::Actions),
        ]
    }

    fn validate(&self) -> Vec<FieldFault> {
        let mut faults = Vec::new();
        let mut expect = |holds: bool, field, seen: String, cure| {
            if !holds {
                faults.push((field, seen, cure));
            }
        };
        expect(
            !self.transitions.is_empty(),
            "transitions",
            "is empty".into(),
            "expected at least one number, e.g. [64, 256]",
        );
        expect(
            !self.transitions.contains(&0),
            "transitions",
            "has a 0".into(),
            "expected numbers of at least 1",
        );
        expect(self.draws > 0, "draws", "is 0".into(), "expected at least 1");
        expect(
            !self.hidden.contains(&0),
            "hidden",
            "has a 0".into(),
            "expected widths of at least 1; [] for a linear decoder",
        );
        expect(self.steps > 0, "steps", "is 0".into(), "expected at least 1");
        expect(self.batch > 0, "batch", "is 0".into(), "expected at least 1");
        let (rate, smoothing) = (self.learning_rate, self.label_smoothing);
        expect(
            rate.is_finite() && rate > 0.0,
            "learning_rate",
            format!("is {rate}"),
            "expected a number above 0",
        );
        expect(
            (0.0..1.0).contains(&smoothing),
            "label_smoothing",
            format!("is {smoothing}"),
            "expected a share, 0 to below 1",
        );
        expect(
            self.holdout != 1,
            "holdout",
            "is 1".into(),
            "it would keep every video from training; expected 0 (none) or at least 2",
        );
        faults
    }

    fn needs(&self) -> Needs {
        // Small networks; the latent actions of the drawn transitions, half a KiB each, and where all labels are.
        Needs { gpu: false, cores: 2, memory_mib: 1024 }
    }

    /// Adds one task: all decoders learn from the same labels.
    fn plan(&self, given: &PlanInputs, plan: &mut StagePlan) -> dataset::Result<()> {
        let (labels, actions) = (given.plan(&self.labels), given.plan(&self.actions));
        let task = TrainDecoderTask {
            config: self.clone(),
            seed: given.seed,
            labels: labels.tasks.files("labels.parquet"),
            actions: actions.action_files(),
        };
        plan.set_settings(&task.key().into_fields());
        if plan.waits_for([("labels", Some(labels)), ("true actions", Some(actions))]) {
            return Ok(());
        }
        let units = self.decoders().len() as u64;
        let inputs = labels.tasks.keys().into_iter().chain(actions.tasks.keys()).collect();
        plan.add(NewTask::new(task, inputs, units), given.known);
        Ok(())
    }

    fn latent_actions(&self) -> Option<LatentActions<'_>> {
        Some(LatentActions::Labels(&self.labels))
    }
}

impl StageTask for TrainDecoderTask {
    fn key(&self) -> KeyFields {
        let TrainDecoderTask { config, seed, labels, actions } = self;
        let TrainDecoderConfig {
            transitions,
            draws,
            hidden,
            steps,
            batch,
            learning_rate,
            label_smoothing,
            holdout,
            labels: _,
            actions: _,
        } = config;
        KeyFields::new(&KIND)
            .setting("transitions", transitions)
            .setting("draws", draws)
            .setting("hidden", hidden)
            .setting("steps", steps)
            .setting("batch", batch)
            .setting("learning_rate", learning_rate)
            .setting("label_smoothing", label_smoothing)
            .setting("holdout", holdout)
            .setting("seed", seed)
            .input("labels", digests(labels))
            .input("true_actions", digests(actions))
    }

    fn run(&self, ctx: &TaskContext, _: &mut LaneState) -> Result<TaskOutput, Error> {
        run(self, ctx)
    }
}

/// Trains and judges every decoder.
fn run(task: &TrainDecoderTask, ctx: &TaskContext) -> Result<TaskOutput, Error> {
    let TrainDecoderConfig {
        hidden,
        steps,
        batch,
        learning_rate,
        label_smoothing,
        draws,
        holdout,
        ..
    } = task.config.clone();
    let most = task.config.transitions.iter().copied().max().unwrap_or(0);
    let TrainDecoderTask { labels, actions, seed, .. } = task;
    let known = PairSampling { labels, actions, most, least: most, draws, holdout, seed: *seed }
        .sample(ctx)?;
    let how = Fit {
        hidden: hidden.clone(),
        steps,
        batch,
        learning_rate,
        label_smoothing,
        stop: Some(ctx.stop.clone()),
    };
    let config = DecoderConfig { latent_dim: known.latent_dim, hidden, outputs: known.outputs };
    let (mut files, mut curve, mut trained) = (Vec::new(), Curve::default(), Trained::newest(ctx)?);
    for (at, (transitions, draw)) in task.config.decoders().into_iter().enumerate() {
        let train = || {
            let pairs = known.draws[draw as usize].take(&(0..transitions).collect::<Vec<_>>());
            let mut decoder =
                fit(&config, &how, &pairs, &known.spread, task.seed.wrapping_add(draw))?;
            decoder.metadata.insert("lapo.transitions".into(), transitions.to_string());
            decoder.metadata.insert("lapo.draw".into(), draw.to_string());
            Ok(decoder.export()?)
        };
        let decoder = LoadedDecoder::load(trained.get_or_train(at, ctx, train)?)?;
        let mut file = ctx
            .store
            .new_file(&format!("{}/decoder-{transitions:06}-{draw}.safetensors", ctx.folder))?;
        write(&mut file, &trained.0[at])?;
        files.push(file.finish(0)?);
        let score = curve.add(transitions, draw, &decoder, &known.held_out)?;
        ctx.progress.note(&format!("{transitions} transitions: {score:.3}"));
        ctx.progress.advance(1);
    }
    ctx.progress.say(&curve.sentence(&known.held_out, task.config.holdout > 0));
    files.push(curve.write(ctx)?);
    let stats = [("known", known.count as f64), ("held_out", known.held_out.len() as f64)];
    Ok(TaskOutput {
        files,
        stats: stats.map(|(name, value)| (name.to_owned(), value)).into(),
        ..TaskOutput::default()
    })
}

/// The weights of the decoders that are trained, in their order. A run that is stopped leaves them as its checkpoint.
struct Trained(Vec<Vec<u8>>);

impl Trained {
    fn newest(ctx: &TaskContext) -> Result<Self, Error> {
        let Some((count, bytes)) = checkpoint::newest(ctx.store, &ctx.scratch)? else {
            return Ok(Trained(vec![]));
        };
        let fault = |reason: String| Error::Checkpoint {
            file: checkpoint::path(&ctx.scratch, count),
            reason,
        };
        let texts: Vec<String> =
            serde_json::from_slice(&bytes).map_err(|e| fault(e.to_string()))?;
        let weights = texts.iter().map(|text| STANDARD.decode(text)).collect::<Result<_, _>>();
        Ok(Trained(weights.map_err(|e| fault(e.to_string()))?))
    }

    /// Returns a decoder's weights, trained now unless they are there. Decoders come one after the other.
    fn get_or_train(
        &mut self,
        at: usize,
        ctx: &TaskContext,
        train: impl FnOnce() -> Result<Vec<u8>, Error>,
    ) -> Result<&[u8], Error> {
        if at == self.0.len() {
            match train() {
                Err(stopped @ Error::Train(TrainError::Stopped(_))) => {
                    let texts: Vec<String> =
                        self.0.iter().map(|weights| STANDARD.encode(weights)).collect();
                    let state = serde_json::json!(texts).to_string();
                    checkpoint::save(ctx.store, &ctx.scratch, at as u64, state.as_bytes(), None)?;
                    return Err(stopped);
                }
                weights => self.0.push(weights?),
            }
        }
        Ok(&self.0[at])
    }
}

/// How well each decoder tells the true actions it is asked for.
#[derive(Default)]
struct Curve {
    transitions: Vec<u64>,
    draw: Vec<u64>,
    accuracy: Vec<Option<f64>>,
    r2: Vec<Option<f64>>,
}

impl Curve {
    fn add(
        &mut self,
        transitions: usize,
        draw: u64,
        decoder: &LoadedDecoder,
        asked: &Pairs,
    ) -> Result<f64, Error> {
        let score = score(&decoder.decode(&asked.latent_action)?, &asked.action);
        let discrete = matches!(asked.action, Answers::Discrete(_));
        self.transitions.push(transitions as u64);
        self.draw.push(draw);
        self.accuracy.push(discrete.then_some(score));
        self.r2.push((!discrete).then_some(score));
        Ok(score)
    }

    /// The curve in words: the mean over draws, for each number of transitions.
    fn sentence(&self, asked: &Pairs, held_out: bool) -> String {
        let mut means: BTreeMap<u64, (f64, f64)> = BTreeMap::new();
        for (i, transitions) in self.transitions.iter().enumerate() {
            let (sum, count) = means.entry(*transitions).or_default();
            *sum += self.accuracy[i].or(self.r2[i]).unwrap_or(f64::NAN);
            *count += 1.0;
        }
        let whose = if held_out { "held-out" } else { "training" };
        let means = means.into_iter().map(|(number, (sum, count))| match ratio(sum, count) {
            Some(mean) => format!("{mean:.3} from {number}"),
            None => format!("undefined from {number}"),
        });
        let means: Vec<String> = means.collect();
        let what = match &asked.action {
            right @ Answers::Discrete(_) => format!(
                "right on {whose} transitions (the commonest action: {:.3})",
                guessing(right)
            ),
            Answers::Continuous(..) => format!("R2 on {whose} transitions"),
        };
        format!("decoders are {what}: {}", means.join(", "))
    }

    fn write(self, ctx: &TaskContext) -> Result<FileInfo, Error> {
        let columns = [
            ("transitions", Column::U64(self.transitions)),
            ("draw", Column::U64(self.draw)),
            ("accuracy", Column::F64(self.accuracy)),
            ("r2", Column::F64(self.r2)),
        ];
        Ok(write_table(ctx.store, &format!("{}/curve.parquet", ctx.folder), &columns)?)
    }
}
