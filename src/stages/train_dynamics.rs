//! Stage 1a: trains the IDM and the FDM together from frames alone (LAPO, section 4.1).
//!
//! Each step draws a batch of windows `o[t-k..t+1]`. The IDM sees whole windows and infers the
//! latent action between `o[t]` and `o[t+1]`. The FDM sees all but the last frame and the quantised
//! latent action, and predicts the last frame. The loop is [`TrainingLoop`]; a step is computed in
//! `train/dynamics_trainer.rs`. The stage writes `model.safetensors`, `metrics.parquet` and
//! `verdict.json`. Its settings are in `settings`, the data and the steps in `learner`, the
//! judgement of the model in `verdict`.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};

use super::model_files::write_model;
use super::plan::KeyFields;
use super::plan::key::digests;
use super::task_context::KeptState;
use super::{ArtifactKind, Error, LaneState, StageKind, StageTask, TaskContext, TaskOutput};
use crate::dataset::FileInfo;
use crate::train::{Batch, TrainingLoop, dynamics_trainer};

mod learner;
mod probe;
mod scores;
mod settings;
mod validation;
mod verdict;

use learner::{Data, DynamicsLearner};
pub use settings::{SupervisionConfig, TrainDynamicsConfig};
pub use verdict::Verdict;

/// The kind of all `train_dynamics` stages. Raise its version when the same frames and settings
/// give another model.
pub const KIND: StageKind = StageKind {
    key_inputs: &["frames", "without", "true_actions", "init", "state", "generation"],
    has_checkpoints: true,
    keeps_model: true,
    ..StageKind::new("train_dynamics", 8, &[ArtifactKind::Dynamics], "steps")
};
/// Steps between two rows of the metrics.
const LOG_EVERY: u64 = 10;
/// The maximum number of windows for the final verdict.
const VERDICT_WINDOWS: usize = 2048;
/// A shorter training is judged at its end only.
const FIRST_JUDGEMENT: u64 = 100;

/// A training on all shards of one version of a dataset.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct TrainDynamicsTask {
    /// The stage's settings.
    pub config: TrainDynamicsConfig,
    /// Seeds weights and batches.
    pub seed: u64,
    /// One in `holdout` videos is held out; 0: none is.
    pub holdout: usize,
    /// The side of the decoded frames, in pixels.
    pub size: usize,
    /// The frames, in the dataset's order.
    pub shards: Vec<FileInfo>,
    /// Files of true actions, if the stage has any.
    pub actions: Vec<FileInfo>,
    /// The digests of near-duplicate videos that are left out. Default none.
    #[serde(default)]
    pub without: Option<Vec<String>>,
    /// The weights that it starts from.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub init: Option<FileInfo>,
    /// The state of a shorter training that it continues from.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub state: Option<FileInfo>,
    /// How often `--refresh` repeated this training.
    #[serde(default)]
    pub generation: u64,
    /// The origin of the weights, for their metadata: the task's key, the dataset's version.
    pub provenance: BTreeMap<String, String>,
    /// Seconds between two checkpoints. They do not change the result.
    pub checkpoint_secs: u64,
}

impl StageTask for TrainDynamicsTask {
    fn key(&self) -> KeyFields {
        let TrainDynamicsTask {
            config,
            seed,
            holdout,
            size,
            shards,
            actions,
            without,
            init,
            state,
            generation,
            provenance: _,
            checkpoint_secs: _,
        } = self;
        let has_actions = config.actions.is_some();
        config
            .key_fields(*size)
            .setting("seed", seed)
            .setting("holdout", holdout)
            .input("frames", digests(shards))
            .input("generation", generation)
            .setting_if(has_actions, "measured", true)
            .input_if(has_actions, "true_actions", digests(actions))
            .setting_if(without.is_some(), "no_copies", true)
            .input_if(without.is_some(), "without", without)
            .input_if(init.is_some(), "init", digests(init.as_slice()))
            .input_if(state.is_some(), "state", digests(state.as_slice()))
    }

    fn run(&self, ctx: &TaskContext, _: &mut LaneState) -> Result<TaskOutput, Error> {
        run(self, ctx)
    }
}

impl TrainDynamicsConfig {
    /// Returns the settings in the key of a training on frames of `size` pixels a side.
    fn key_fields(&self, size: usize) -> KeyFields {
        let TrainDynamicsConfig {
            steps,
            batch,
            optimizer,
            learning_rate,
            idm_learning_rate,
            decorrelation,
            warmup_steps,
            precision,
            supervision,
            reference,
            accumulate,
            ema_decay,
            continued,
            // The key has the networks' sizes, which follow from these.
            preset: _,
            idm_scale: _,
            fdm_base: _,
            context: _,
            horizon: _,
            vq: _,
            predict: _,
            idm_head: _,
            fdm_action: _,
            fdm_bottom: _,
            // Inputs, which are in the key by their digests, and when to train again.
            frames: _,
            actions: _,
            without: _,
            init_from: _,
            refresh: _,
        } = self;
        KeyFields::new(&KIND)
            .setting("steps", steps)
            .setting("batch", batch)
            .setting("optimizer", optimizer)
            .setting("learning_rate", learning_rate)
            .setting("idm_learning_rate", idm_learning_rate)
            .setting("decorrelation", decorrelation)
            .setting("warmup_steps", warmup_steps)
            .setting("precision", precision)
            .setting("supervision", supervision)
            .settings_of(self.dynamics(size))
            // The same networks trained with the paper's optimiser and rates are another model.
            .setting_if(*reference, "reference", reference)
            .setting_if(*accumulate != 1, "accumulate", accumulate)
            .setting_if(ema_decay.is_some(), "ema_decay", ema_decay)
            .setting_if(*continued, "continue", true)
    }
}

/// Trains to the last step and judges the result.
fn run(task: &TrainDynamicsTask, ctx: &TaskContext) -> Result<TaskOutput, Error> {
    let data = Data::open(task, ctx)?;
    let config = task.config.dynamics(task.size);
    let optim = task.config.optim();
    let mut trainer =
        dynamics_trainer(&ctx.device, &config, &optim, data.supervision(task), task.seed)?;
    if let Some(file) = &task.init {
        trainer.import(&ctx.store.require_file(file)?)?;
    }
    let continued = ctx.continued(task.state.as_ref())?;
    // The scope ends after the threads that load frames, which borrow the data.
    std::thread::scope(|scope| {
        let mut learner = DynamicsLearner::new(scope, task, &data, ctx, trainer);
        let training = TrainingLoop {
            log_every: LOG_EVERY,
            log_judged: true,
            continued: continued.as_ref().map(KeptState::as_final),
            ..ctx.training_loop(task.config.steps, task.checkpoint_secs)
        };
        let mut finished = training.run(&mut learner)?;
        // Before the final verdict: a longer training logs its own.
        let state = if task.config.continued { Some(finished.state(&learner)?) } else { None };

        let verdict = learner.judge_finally(VERDICT_WINDOWS, config.vq.quantises())?;
        finished.metrics.log(task.config.steps.saturating_sub(1), verdict.row());
        ctx.progress.say(&verdict.sentence());
        let weights = learner.trainer.export(&task.provenance)?;
        let mut files =
            write_model(ctx, "model.safetensors", &weights, &verdict.json(), &finished.metrics)?;
        files.extend(ctx.write_state(state)?);
        let mut stats = verdict.stats();
        stats.insert("waited_for_frames".into(), learner.waited_share());
        Ok(TaskOutput { files, stats, ..TaskOutput::default() })
    })
}

/// Returns whether a training is judged after `taken` steps: at half of its steps, at a quarter, an
/// eighth and so on.
fn is_judged(taken: u64, steps: u64) -> bool {
    taken >= FIRST_JUDGEMENT && (1..u64::BITS).any(|halvings| steps >> halvings == taken)
}

/// Returns the frames of windows as a batch.
fn as_batch<'a>(frames: &'a [u8], windows: usize, task: &TrainDynamicsTask) -> Batch<'a> {
    Batch {
        frames,
        batch: windows,
        time: task.config.context + 2,
        height: task.size,
        width: task.size,
        actions: &[],
    }
}
