//! Stage 2: a latent policy is cloned from the labels (LAPO, section 4.3). In: labels and the shards they are of; out:
//! `policy.safetensors`, `metrics.parquet` and a verdict, `verdict.json`.
//!
//! The policy sees one frame, `o[t]`, and learns the latent action before quantisation that followed it, by mean squared error. No IDM
//! takes part: frames come from the shards, latent actions from the labels. Every `holdout`-th video is kept from training and judges it.

use std::collections::BTreeMap;
use std::time::{Duration, Instant};

use serde::{Deserialize, Serialize};

use super::plan::KeyFields;
use super::plan::key::digests;
use super::training::{go_back, ratio, resume, verdict_json};
use super::{ArtifactKind, Done, Error, Kept, StageKind, StageTask, Workplace, write};
use crate::dataset::FileInfo;
use crate::models::PolicyConfig;
use crate::train::ahead::Ahead;
use crate::train::batch::Draws;
use crate::train::metrics::Metrics;
use crate::train::{OptimConfig, PolicyTrainer, Shown, checkpoint, policy_trainer};

mod data;
mod settings;

use data::Data;
pub use settings::TrainPolicyConfig;

/// What all `train_policy` stages have in common. Raise `version` when the same labels and settings give another policy.
pub const KIND: StageKind = StageKind {
    key_inputs: &["model", "labels", "generation"],
    has_checkpoints: true,
    keeps_model: true,
    ..StageKind::new("train_policy", 1, &[ArtifactKind::Policy], "steps")
};
/// Steps between two rows of the metrics.
const LOG_EVERY: u64 = 10;
/// Steps between two judgements on videos kept aside, at most; there are at least so many where there are as many steps.
const JUDGE_EVERY: u64 = 1000;
const JUDGEMENTS: u64 = 20;
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
    /// The digest of the model that labelled, if it is there already.
    #[serde(default)]
    pub model: Option<String>,
    /// How often the same training was asked for again, by `--refresh`.
    #[serde(default)]
    pub generation: u64,
    /// What the weights' file says of its origin.
    pub provenance: BTreeMap<String, String>,
    /// Seconds between two checkpoints; changes nothing in the result.
    pub checkpoint_secs: u64,
}

/// What the policy is worth, on videos it never saw.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct PolicyVerdict {
    /// Steps it took.
    pub steps: u64,
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
        let share = match ratio(self.error, self.mean_error) {
            Some(share) => format!(
                "the policy's error is {share:.2}x that of always answering the mean latent action"
            ),
            None if self.mean_error == 0.0 => {
                "all latent actions are alike, so the policy cannot be judged".into()
            }
            None => "the policy's error is no finite number, so it cannot be judged".into(),
        };
        format!("after {} steps, on {} {whose} transitions, {share}", self.steps, self.transitions)
    }
}

impl StageTask for TrainPolicyTask {
    fn key(&self) -> KeyFields {
        // Which shards the labels are of is in the labels.
        let TrainPolicyTask {
            config,
            seed,
            labels,
            model,
            generation,
            shards: _,
            provenance: _,
            checkpoint_secs: _,
        } = self;
        let TrainPolicyConfig {
            steps,
            batch,
            learning_rate,
            warmup_steps,
            precision,
            holdout,
            patience,
            // The width is in the key as it comes out of these.
            preset: _,
            scale: _,
            labels: _,
            refresh: _,
        } = config;
        KeyFields::new(&KIND)
            .setting("scale", config.resolved_scale())
            .setting("steps", steps)
            .setting("batch", batch)
            .setting("learning_rate", learning_rate)
            .setting("warmup_steps", warmup_steps)
            .setting("precision", precision)
            .setting("holdout", holdout)
            .setting_if(patience.is_some(), "patience", patience)
            .setting("seed", seed)
            .input("model", model)
            .input("labels", digests(labels))
            .input("generation", generation)
    }

    fn run(&self, place: &Workplace, _: &mut Kept) -> Result<Done, Error> {
        run(self, place)
    }
}

/// Trains to the last step and judges the result.
fn run(task: &TrainPolicyTask, place: &Workplace) -> Result<Done, Error> {
    let data = Data::open(task, place)?;
    let config = PolicyConfig {
        scale: task.config.resolved_scale(),
        latent_dim: data.latent_dim,
        frame_size: data.side,
        channels: 3,
    };
    let optim = OptimConfig {
        precision: task.config.precision,
        max_grad_norm: UNLIMITED,
        ..OptimConfig::default()
    };
    let mut trainer = policy_trainer(&place.device, &config, &optim, task.seed)?;
    let (first, mut metrics) = resume(place, |state| trainer.restore(state))?;
    train(trainer.as_mut(), &mut metrics, task, &data, first, place)?;

    let steps = match Best::of(&metrics, &task.config) {
        Some(Best { steps, .. }) => {
            go_back(place, steps, |state| trainer.restore(state)).map(|()| steps)?
        }
        None => task.config.steps,
    };
    let verdict = data.judge(trainer.as_ref(), task, steps)?;
    place.progress.say(&verdict.sentence());
    let file = |name: &str| format!("{}/{name}", place.folder);
    let mut policy = place.store.new_file(&file("policy.safetensors"))?;
    write(&mut policy, &trainer.export(&task.provenance)?)?;
    let mut report = place.store.new_file(&file("verdict.json"))?;
    write(
        &mut report,
        verdict_json(serde_json::json!({ "sentence": verdict.sentence() }), &verdict).as_bytes(),
    )?;
    let [table, events] = metrics.write(place.store, &place.folder)?;
    let files = vec![policy.finish(0)?, table, report.finish(0)?, events];
    let stats = [
        ("training_transitions", data.training.len() as f64),
        ("error", verdict.error),
        ("mean_error", verdict.mean_error),
    ];
    Ok(Done {
        files,
        stats: stats.map(|(name, value)| (name.to_owned(), value)).into(),
        ..Done::default()
    })
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
    let judge_every = (config.steps / JUDGEMENTS).clamp(1, JUDGE_EVERY);
    let mut best = Best::of(metrics, config);
    let (pause, mut saved) = (Duration::from_secs(task.checkpoint_secs), Instant::now());
    let mut draws =
        Draws::new(task.seed, trainer.drawn(), data.training.len(), first * config.batch as u64);
    std::thread::scope(|scope| {
        let copy =
            move |drawn: Vec<usize>| data.gather(drawn.into_iter().map(|i| data.training[i]));
        let mut batches = Ahead::start(scope, || draws.next(config.batch), copy);
        for step in first..config.steps {
            let (frames, latent_action) = batches.wait()?;
            let learning_rate = schedule.at(step);
            let shown = Shown { frames: &frames, latent_action: &latent_action };
            let out = place.device.run(|| trainer.step(shown, learning_rate))?;
            let last = step + 1 == config.steps;
            if step % LOG_EVERY == 0 || last {
                place.progress.note(&format!("error {:.4}", out.loss));
                let row = [
                    ("learning_rate", learning_rate as f32),
                    ("loss", out.loss),
                    ("grad_norm", out.grad_norm),
                ];
                metrics.log(step, row.map(|(name, value)| (name.to_owned(), value)));
            }
            place.progress.advance(1);
            if config.holdout > 0 && ((step + 1).is_multiple_of(judge_every) || last) {
                let error = data.judge(trainer, task, step + 1)?.error;
                metrics.log(step, [("held_out_error".to_owned(), error as f32)]);
                best = Best::of(metrics, config);
            }
            let over = last || best.is_some_and(|best| best.is_left_alone);
            let is_best = best.is_some_and(|best| best.steps == step + 1);
            let stops = place.stop.is_set() && !over;
            if is_best || stops || (saved.elapsed() >= pause && !over) {
                let state = metrics.pack(&trainer.save()?);
                checkpoint::save(
                    place.store,
                    &place.scratch,
                    step + 1,
                    &state,
                    best.map(|best| best.steps),
                )?;
                saved = Instant::now();
            }
            if over {
                break;
            }
            if stops {
                place.go_on()?;
            }
        }
        Ok(())
    })
}

/// The smallest error on videos kept aside, where these end a training.
#[derive(Clone, Copy, Debug, PartialEq)]
struct Best {
    /// Steps it took.
    steps: u64,
    /// Whether so many judgements after it were worse that training ends.
    is_left_alone: bool,
}

impl Best {
    fn of(metrics: &Metrics, config: &TrainPolicyConfig) -> Option<Best> {
        let judged: Vec<(u64, f32)> = metrics.points("held_out_error").collect();
        let (at, (step, _)) =
            judged.iter().enumerate().min_by(|(_, (_, a)), (_, (_, b))| a.total_cmp(b))?;
        Some(Best { steps: step + 1, is_left_alone: judged.len() - 1 - at >= config.patience? })
    }
}
