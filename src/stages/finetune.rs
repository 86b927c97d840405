//! Stage 3, online: fine-tunes a latent policy in its game by PPO (LAPO, section 4.4; Schulman et
//! al., 2017).
//!
//! One step of the training loop is one update: `Ppo::play` plays a rollout, `advantages` (in
//! `rollout`) computes GAE, and `Agent::update` (in `update`, with the loss) takes several epochs
//! of minibatches. [`LearningRates`] has the learning rate of each layer, `teacher` trains the
//! decoder of the supervised path, and [`AgentNet`] is the network. The stage writes
//! `agent.safetensors`, `metrics.parquet` and `verdict.json`.
//!
//! The convolutions of a latent policy are frozen, so a rollout keeps the features of each frame
//! and an update computes two linear layers only. The published code recomputes and differentiates
//! them in every pass, and counts these unused gradients in the norm that it clips. It also lets
//! the IDM see across the ends of episodes and rollouts, which lapo does not.

use std::collections::BTreeMap;
use std::time::Instant;

use burn::backend::Autodiff;
use burn::module::AutodiffModule;
use burn::tensor::Tensor;
use burn::tensor::backend::{AutodiffBackend, Backend};
use rand::Rng;
use serde::{Deserialize, Serialize};

use super::plan::KeyFields;
use super::player::draw;
use super::{
    ArtifactKind, Error, FrameScaler, LaneState, StageKind, StageTask, TaskContext, TaskOutput,
};
use crate::dataset::FileInfo;
use crate::envs::wrappers::{EpisodeStatistics, RewardScale};
use crate::envs::{Action, End, EnvConfig, Seeding, VecEnv};
use crate::models::Precision;
use crate::models::agent::AgentNet;
use crate::models::device::on_device;
use crate::models::frames::upload;
use crate::models::passes::in_passes;
use crate::models::weights::to_host;
use crate::train::optim::TrainBackend;
use crate::train::{Learner, ReadBack, Step, TrainError, TrainingLoop, batch};
use crate::video::Fit;

mod learning_rates;
mod rollout;
pub mod settings;
mod start;
mod state;
mod teacher;
#[cfg(test)]
mod tests;
mod timetable;
mod update;
mod verdict;

pub use learning_rates::LearningRates;
use rollout::{Rollout, advantages};
pub use settings::FinetuneConfig;
use start::{discrete_actions, start, teacher_of};
use teacher::Teacher;
pub use timetable::Timetable;
use update::Agent;

/// The kind of all `finetune` stages. Raise its version when the same inputs and settings give
/// another agent.
pub const KIND: StageKind = StageKind {
    key_inputs: &["model", "policy"],
    memory_cure: "lower `envs` or raise `minibatches` of this stage",
    has_checkpoints: true,
    ..StageKind::new("finetune", 2, &[ArtifactKind::Agent], "env steps")
};
/// The maximum magnitude of a reward after its division by the deviation of returns.
const REWARD_CLIP: f64 = 10.0;

/// A training of an agent in one game.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct FinetuneTask {
    /// The stage's settings.
    pub config: FinetuneConfig,
    /// Seeds weights, levels and actions.
    pub seed: u64,
    /// The weights of the latent policy. `None`: from scratch.
    pub policy: Option<FileInfo>,
    /// The weights of IDM and FDM, with a supervised path.
    pub dynamics: Option<FileInfo>,
    /// The origin of the weights, for their metadata.
    pub provenance: BTreeMap<String, String>,
    /// Seconds between two checkpoints. They do not change the result.
    pub checkpoint_secs: u64,
}

impl StageTask for FinetuneTask {
    fn key(&self) -> KeyFields {
        let FinetuneTask { config, seed, policy, dynamics, provenance: _, checkpoint_secs: _ } =
            self;
        let FinetuneConfig {
            game,
            mode,
            levels,
            steps,
            from_scratch,
            supervised_path,
            reference,
            preset,
            size,
            fit,
            envs,
            rollout,
            minibatches,
            epochs,
            learning_rate,
            gamma,
            gae_lambda,
            clip_coef,
            ent_coef,
            vf_coef,
            max_grad_norm,
            precision,
            // The key has the task's seed, which is this one or the pipeline's.
            seed: _,
            // Inputs, which are in the key by their digests.
            policy: _,
            dynamics: _,
        } = config;
        KeyFields::new(&KIND)
            .setting("game", game.identity())
            .setting("mode", mode)
            .setting("levels", levels)
            .setting("steps", steps)
            .setting("from_scratch", from_scratch)
            .setting("supervised_path", supervised_path)
            .setting_if(*reference, "reference", reference)
            // Short trainings had rates of 0 before the timetable shrank with `steps`.
            .setting_if(config.has_short_timetable(), "timetable", "scaled")
            .setting("preset", preset)
            .setting("size", size)
            .setting_if(*fit != Fit::Stretch, "fit", fit)
            .setting("envs", envs)
            .setting("rollout", rollout)
            .setting("minibatches", minibatches)
            .setting("epochs", epochs)
            .setting("learning_rate", learning_rate)
            .setting("gamma", gamma)
            .setting("gae_lambda", gae_lambda)
            .setting("clip_coef", clip_coef)
            .setting("ent_coef", ent_coef)
            .setting("vf_coef", vf_coef)
            .setting("max_grad_norm", max_grad_norm)
            .setting_if(*precision != Precision::F32, "precision", precision)
            .setting("seed", seed)
            .input_if(policy.is_some(), "policy", policy.as_ref().map(|policy| &policy.blake3))
            .input_if(dynamics.is_some(), "model", dynamics.as_ref().map(|file| &file.blake3))
    }

    fn run(&self, ctx: &TaskContext, _: &mut LaneState) -> Result<TaskOutput, Error> {
        run(self, ctx)
    }
}

/// Trains to the last update and writes the agent.
fn run(task: &FinetuneTask, ctx: &TaskContext) -> Result<TaskOutput, Error> {
    ctx.device.check()?;
    on_device!(&ctx.device, B, at => train(&mut Ppo::<Autodiff<B>>::new(task, ctx, at)?))
}

fn train<A: TrainBackend>(ppo: &mut Ppo<A>) -> Result<TaskOutput, Error> {
    let (task, ctx) = (ppo.task, ppo.ctx);
    let training = TrainingLoop {
        units: task.config.batch() as u64,
        ..ctx.training_loop(task.config.updates(), task.checkpoint_secs)
    };
    let finished = training.run(ppo)?;
    ppo.finish(&finished.metrics)
}

/// One step is one update: a rollout, its advantages, several epochs of minibatches.
impl<A: TrainBackend> Learner for Ppo<'_, A> {
    type Error = Error;

    /// An update is read as a whole, whatever `read_back` says: the next rollout waits for it
    /// anyway.
    fn step(&mut self, step: u64, _: ReadBack) -> Result<Step, Error> {
        let update = step + 1;
        let rollout = self.play(update)?;
        let (advantages, returns) = advantages(&rollout, &self.task.config);
        let begun = Instant::now();
        // An update takes many steps and finds out at its end whether all were finite.
        let before = self.agent.snapshot();
        let result =
            self.ctx.device.run(|| self.agent.update(update, &rollout, &advantages, &returns));
        self.add_seconds("seconds_improving", begun);
        let mut row = match result {
            Ok(row) => row,
            Err(TrainError::NotFinite { what, seen, skips, .. }) => {
                self.agent.restore(before);
                return Ok(Step::Skipped { what, seen, skips });
            }
            Err(error) => return Err(error.into()),
        };
        self.train_decoder(update, &rollout)?;
        row.extend(rollout.metrics(&returns));
        let episode_return = row.iter().find(|(name, _)| *name == "episode_return");
        let note = episode_return.map_or(String::new(), |(_, mean)| format!("return {mean:.2}"));
        let row = row.into_iter().map(|(name, value)| (name.to_owned(), value)).collect();
        Ok(Step::Taken { row, note, skipped: 0 })
    }

    fn save(&self) -> Result<Vec<u8>, TrainError> {
        self.save_state()
    }

    fn restore(&mut self, state: &[u8]) -> Result<(), TrainError> {
        self.restore_state(state)
    }
}

/// A PPO training: the agent, its environments, and the statistics of their episodes.
struct Ppo<'a, A: AutodiffBackend> {
    task: &'a FinetuneTask,
    ctx: &'a TaskContext<'a>,
    game: Box<dyn VecEnv>,
    /// The number of actions.
    actions: usize,
    scale: RewardScale,
    statistics: EpisodeStatistics,
    agent: Agent<A>,
    /// Trains the decoder of the supervised path, if there is one.
    teacher: Option<Teacher>,
    /// Seconds spent on each part of an update, for the receipt.
    seconds: BTreeMap<String, f64>,
}

/// The network's outputs for some frames.
struct Outputs<B: Backend> {
    /// Features of the convolutions: `[frame, feature]`
    base: Tensor<B, 2>,
    /// Logits of the supervised path: `[frame, action]`
    supervised: Option<Tensor<B, 2>>,
    /// `[frame, action]`
    logits: Vec<f32>,
    /// `[frame]`
    values: Vec<f32>,
}

impl<B: Backend> Outputs<B> {
    /// Concatenates the outputs of several passes.
    fn concat(passes: Vec<Outputs<B>>) -> Outputs<B> {
        let mut base = Vec::new();
        let mut supervised = Vec::new();
        let mut logits = Vec::new();
        let mut values = Vec::new();
        for pass in passes {
            base.push(pass.base);
            supervised.extend(pass.supervised);
            logits.extend(pass.logits);
            values.extend(pass.values);
        }
        let supervised = (!supervised.is_empty()).then(|| Tensor::cat(supervised, 0));
        Outputs { base: Tensor::cat(base, 0), supervised, logits, values }
    }
}

impl<'a, A: TrainBackend> Ppo<'a, A> {
    fn new(
        task: &'a FinetuneTask,
        ctx: &'a TaskContext<'a>,
        device: A::Device,
    ) -> Result<Self, Error> {
        let config = &task.config;
        ctx.device.check_precision(config.precision)?;
        // Procgen's seed is a positive i32.
        let seed = batch::generator(task.seed, "levels", 0).random::<u32>() >> 1;
        let envs = EnvConfig {
            mode: config.mode,
            levels: config.levels,
            seed,
            // So that all players meet the same episodes, and a killed run meets them again.
            seeding: Seeding::Each,
            count: config.envs,
            threads: ctx.game_threads(),
        };
        let game = config.game.open(ctx.games, &envs)?;
        let actions = discrete_actions(&config.game, game.as_ref())?;
        let (agent, net) = start(task, ctx, actions, &device)?;
        let teacher = teacher_of(task, ctx, &agent)?;
        Ok(Ppo {
            scale: RewardScale::new(game.count(), config.gamma, REWARD_CLIP),
            statistics: EpisodeStatistics::new(game.count()),
            agent: Agent::new(config.clone(), task.seed, agent, net, device),
            seconds: BTreeMap::new(),
            task,
            ctx,
            game,
            actions,
            teacher,
        })
    }

    /// Plays one rollout in all environments.
    fn play(&mut self, update: u64) -> Result<Rollout<A::InnerBackend>, Error> {
        let envs = self.game.count();
        let net = self.agent.net_in_precision().valid();
        let mut rng = batch::generator(self.task.seed, "finetune", update);
        let mut rollout = Rollout::default();
        let mut base = Vec::new();
        let mut supervised = Vec::new();
        for _ in 0..self.task.config.rollout {
            let outputs = self.forward(&net, &mut rollout.frames)?;
            for logits in outputs.logits.chunks_exact(self.actions) {
                let (action, log_prob) = draw(logits, 1.0, &mut rng);
                rollout.actions.push(action);
                rollout.log_probs.push(log_prob);
            }
            rollout.values.extend(&outputs.values);
            // Frozen convolutions give the same features in the update. From scratch they learn, so
            // the update computes them anew.
            if !self.task.config.from_scratch {
                base.push(outputs.base);
                supervised.extend(outputs.supervised);
            }
            let begun = Instant::now();
            let taken = &rollout.actions[rollout.actions.len() - envs..];
            self.game.step(&Action::discrete(taken))?;
            self.add_seconds("seconds_in_game", begun);
            rollout.rewards.extend(self.scale.scale(&self.game.rewards(), self.game.ends()));
            rollout.dones.extend(self.game.ends().iter().map(|end| *end != End::None));
            rollout.episodes.extend(self.statistics.update(self.game.as_ref()));
        }
        // The value after the last step, from which GAE bootstraps.
        rollout.last_values = self.forward(&net, &mut rollout.frames)?.values;
        rollout.base = (!base.is_empty()).then(|| Tensor::cat(base, 0));
        rollout.supervised = (!supervised.is_empty()).then(|| Tensor::cat(supervised, 0));
        Ok(rollout)
    }

    /// Runs the network on the current frames of all environments and appends them to `frames`.
    fn forward(
        &mut self,
        net: &AgentNet<A::InnerBackend>,
        frames: &mut Vec<u8>,
    ) -> Result<Outputs<A::InnerBackend>, Error> {
        let begun = Instant::now();
        let shape = self.agent.config.network.frame_shape();
        let native = self.game.frame_shape().iter().product::<usize>();
        let first = frames.len();
        let fit = self.task.config.fit;
        let scaler = FrameScaler::of_game(self.game.frame_shape(), shape[0], fit);
        for frame in self.game.frames().chunks_exact(native) {
            scaler.scale(frame, frames);
        }
        let precision = self.task.config.precision;
        let forward = |(net, device): &(AgentNet<A::InnerBackend>, A::Device),
                       frames: &[u8]|
         -> Result<_, Error> {
            let base = net.rl.base(upload(frames, shape, device).cast(precision.dtype()));
            let supervised = net.supervised_logits(base.clone());
            let (logits, value) = net.logits_and_value(base.clone(), supervised.clone());
            // One copy from the device for both.
            let actions = logits.dims()[1];
            let read = to_host(Tensor::cat(vec![logits, value], 1))?;
            let rows = read.chunks_exact(actions + 1);
            let logits = rows.clone().flat_map(|row| &row[..actions]).copied().collect();
            let values = rows.map(|row| row[actions]).collect();
            Ok(Outputs { base, supervised, logits, values })
        };
        let state = (net.clone(), self.agent.device.clone());
        // On CPUs each thread takes a few frames; on a GPU one pass takes many.
        let pass = self.ctx.device.pass() * shape.iter().product::<usize>();
        let frames = &frames[first..];
        let passes = in_passes::<A::InnerBackend, _, _, _, _>(&state, frames, pass, forward)?;
        self.add_seconds("seconds_acting", begun);
        Ok(Outputs::concat(passes))
    }

    /// Collects the pairs of a rollout and, if it is due after this update, trains the decoder of
    /// the supervised path on all pairs so far.
    fn train_decoder(
        &mut self,
        update: u64,
        rollout: &Rollout<A::InnerBackend>,
    ) -> Result<(), Error> {
        let decoder = self.agent.config.decoder.as_ref();
        let Some((teacher, decoder)) = self.teacher.as_mut().zip(decoder) else {
            return Ok(());
        };
        let env_steps = update * self.task.config.batch() as u64;
        let timetable = self.task.config.timetable();
        if !timetable.collects(env_steps) {
            teacher.clear();
            return Ok(());
        }
        let begun = Instant::now();
        teacher.collect(rollout)?;
        if timetable.trains_decoder(update, env_steps) && !teacher.pairs.is_empty() {
            let trained = teacher.train(decoder, self.task.seed, update)?;
            self.agent.net.set_decoder(&trained, &self.agent.device)?;
        }
        self.add_seconds("seconds_teaching", begun);
        Ok(())
    }

    /// Adds the time since `begun` to the seconds of a part.
    fn add_seconds(&mut self, part: &str, begun: Instant) {
        *self.seconds.entry(part.to_owned()).or_default() += begun.elapsed().as_secs_f64();
    }
}
