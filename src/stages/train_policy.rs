//! Stage 2: clones a latent policy from the labels (LAPO, section 4.3).
//!
//! The policy sees `o[t]`, and with `frames` those before it in its episode, and predicts the latent action that followed it, before
//! quantisation, by mean squared error. The IDM is not needed: frames come from the shards, latent
//! actions from the labels. Held-out videos judge the policy. The stage
//! writes `policy.safetensors`, `metrics.parquet` and `verdict.json`.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};

use super::model_files::{ratio, verdict_json, write_model};
use super::plan::KeyFields;
use super::plan::key::digests;
use super::task_context::KeptState;
use super::{ArtifactKind, Error, LaneState, StageKind, StageTask, TaskContext, TaskOutput};
use crate::dataset::FileInfo;
use crate::models::PolicyConfig;
use crate::train::{OptimConfig, Selection, TrainingLoop, policy_trainer};

mod data;
mod learner;
mod settings;

use data::Data;
use learner::{HELD_OUT_ERROR, PolicyLearner};
pub use settings::TrainPolicyConfig;

/// The kind of all `train_policy` stages. Raise its version when the same labels and settings give
/// another policy.
pub const KIND: StageKind = StageKind {
    key_inputs: &["model", "labels", "init", "state", "generation"],
    has_checkpoints: true,
    keeps_model: true,
    ..StageKind::new("train_policy", 2, &[ArtifactKind::Policy], "steps")
};
/// Steps between two rows of the metrics.
const LOG_EVERY: u64 = 10;
/// The norm of the gradients is not limited, as in the published code.
const UNLIMITED: f64 = 1e9;

/// A training on the labels of one version of a dataset.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct TrainPolicyTask {
    /// The stage's settings.
    pub config: TrainPolicyConfig,
    /// Seeds weights and batches.
    pub seed: u64,
    /// One in `holdout` videos is held out; 0: none is.
    pub holdout: usize,
    /// Files of labels, in the dataset's order.
    pub labels: Vec<FileInfo>,
    /// The shards that they label.
    pub shards: Vec<FileInfo>,
    /// The digest of the model that labelled, if it is known.
    #[serde(default)]
    pub model: Option<String>,
    /// The weights that it starts from.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub init: Option<FileInfo>,
    /// The state of a shorter training that it continues from.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub state: Option<FileInfo>,
    /// How often `--refresh` repeated this training.
    #[serde(default)]
    pub generation: u64,
    /// The origin of the weights, for their metadata.
    pub provenance: BTreeMap<String, String>,
    /// Seconds between two checkpoints. They do not change the result.
    pub checkpoint_secs: u64,
}

/// The quality of a policy on held-out videos.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct PolicyVerdict {
    /// Training steps.
    pub steps: u64,
    /// Transitions that it was trained on.
    pub training_transitions: usize,
    /// Transitions it was judged on.
    pub transitions: usize,
    /// Whether they were held out.
    pub held_out: bool,
    /// Mean squared error of its latent actions.
    pub error: f64,
    /// The mean squared error of always predicting the mean latent action.
    pub mean_error: f64,
}

impl PolicyVerdict {
    /// Returns the verdict as a sentence.
    pub fn sentence(&self) -> String {
        let split = if self.held_out { "held-out" } else { "training" };
        let share = match ratio(self.error, self.mean_error) {
            Some(share) => format!(
                "the policy's error is {share:.2}x that of always predicting the mean latent action"
            ),
            None if self.mean_error == 0.0 => {
                "all latent actions are equal, so the policy cannot be judged".into()
            }
            None => "the policy's error is not finite, so it cannot be judged".into(),
        };
        format!("after {} steps, on {} {split} transitions, {share}", self.steps, self.transitions)
    }
}

impl StageTask for TrainPolicyTask {
    fn key(&self) -> KeyFields {
        // The labels name their shards.
        let TrainPolicyTask {
            config,
            seed,
            holdout,
            labels,
            model,
            init,
            state,
            generation,
            shards: _,
            provenance: _,
            checkpoint_secs: _,
        } = self;
        let TrainPolicyConfig {
            frames,
            steps,
            batch,
            learning_rate,
            warmup_steps,
            reference,
            precision,
            patience,
            accumulate,
            ema_decay,
            continued,
            // The key has the width, which follows from these.
            preset: _,
            scale: _,
            labels: _,
            init_from: _,
            refresh: _,
        } = config;
        KeyFields::new(&KIND)
            .setting("scale", config.resolved_scale())
            .setting_if(*frames != 1, "frames", frames)
            .setting("steps", steps)
            .setting("batch", batch)
            .setting("learning_rate", learning_rate)
            .setting("warmup_steps", warmup_steps)
            .setting_if(*reference, "reference", reference)
            .setting("precision", precision)
            .setting("holdout", holdout)
            .setting_if(patience.is_some(), "patience", patience)
            .setting_if(*accumulate != 1, "accumulate", accumulate)
            .setting_if(ema_decay.is_some(), "ema_decay", ema_decay)
            .setting_if(*continued, "continue", true)
            .setting("seed", seed)
            .input("model", model)
            .input("labels", digests(labels))
            .input_if(init.is_some(), "init", digests(init.as_slice()))
            .input_if(state.is_some(), "state", digests(state.as_slice()))
            .input("generation", generation)
    }

    fn run(&self, ctx: &TaskContext, _: &mut LaneState) -> Result<TaskOutput, Error> {
        run(self, ctx)
    }
}

/// Trains to the last step and judges the result.
fn run(task: &TrainPolicyTask, ctx: &TaskContext) -> Result<TaskOutput, Error> {
    let data = Data::open(task, ctx)?;
    let config = PolicyConfig {
        scale: task.config.resolved_scale(),
        latent_dim: data.latent_dim,
        frame_size: data.side,
        channels: 3,
        frames: task.config.frames,
    };
    let optim = OptimConfig {
        precision: task.config.precision,
        ema_decay: task.config.ema_decay,
        max_grad_norm: UNLIMITED,
        ..OptimConfig::default()
    };
    let mut trainer = policy_trainer(&ctx.device, &config, &optim, task.seed)?;
    if let Some(file) = &task.init {
        trainer.import(&ctx.store.require_file(file)?)?;
    }
    let continued = ctx.continued(task.state.as_ref())?;
    let selection = match task.config.patience {
        None => Selection::Last,
        patience => Selection::Best { column: HELD_OUT_ERROR, patience },
    };
    // The scope ends after the threads that load frames, which borrow the data.
    std::thread::scope(|scope| {
        let mut learner = PolicyLearner::new(scope, task, &data, ctx, trainer);
        let training = TrainingLoop {
            log_every: LOG_EVERY,
            selection,
            continued: continued.as_ref().map(KeptState::as_final),
            ..ctx.training_loop(task.config.steps, task.checkpoint_secs)
        };
        let finished = training.run(&mut learner)?;
        let state = if task.config.continued { Some(finished.state(&learner)?) } else { None };

        let verdict = data.judge(learner.trainer.as_ref(), task, finished.steps)?;
        ctx.progress.say(&verdict.sentence());
        let json = verdict_json(serde_json::json!({ "sentence": verdict.sentence() }), &verdict);
        let weights = learner.trainer.export(&task.provenance)?;
        let mut files = write_model(ctx, "policy.safetensors", &weights, &json, &finished.metrics)?;
        files.extend(ctx.write_state(state)?);
        let stats = [
            ("training_transitions", data.training.len() as f64),
            ("error", verdict.error),
            ("mean_error", verdict.mean_error),
        ];
        Ok(TaskOutput {
            files,
            stats: stats.map(|(name, value)| (name.to_owned(), value)).into(),
            ..TaskOutput::default()
        })
    })
}
