//! Stage 3, online: fine-tunes a latent policy in its game by PPO (LAPO, section 4.4; Schulman et
//! al., 2017).
//!
//! One step of the training loop is one update: `Ppo::play` plays a rollout, `advantages` (in
//! `rollout`) computes GAE, and `Agent::update` (in `learner`, with the loss) takes several epochs of
//! minibatches. [`settings`] has the learning rate of each layer, `teacher` trains the decoder of the
//! supervised path, and [`AgentNet`] is the network. The stage writes `agent.safetensors`,
//! `metrics.parquet` and `verdict.json`.
//!
//! The convolutions of a latent policy are frozen, so a rollout keeps the features of each frame and
//! an update computes two linear layers only. The published code recomputes and differentiates them
//! in every pass, and counts these unused gradients in the norm that it clips. It also lets the IDM
//! see across the ends of episodes and rollouts, which lapo does not.

use std::collections::BTreeMap;
use std::time::Instant;

use burn::backend::Autodiff;
use burn::module::AutodiffModule;
use burn::tensor::Tensor;
use burn::tensor::backend::{AutodiffBackend, Backend};
use rand::Rng;
use rayon::prelude::*;
use serde::{Deserialize, Serialize};

use super::plan::KeyFields;
use super::player::draw;
use super::{ArtifactKind, Error, LaneState, StageKind, StageTask, TaskContext, TaskOutput};
use crate::dataset::FileInfo;
use crate::envs::wrappers::{EpisodeStatistics, RewardScale, shrink};
use crate::envs::{End, Procgen, ProcgenConfig, ProcgenPackage, VecEnv};
use crate::models::agent::AgentNet;
use crate::models::device::on_device;
use crate::models::frames::upload;
use crate::models::weights::to_host;
use crate::train::optim::TrainBackend;
use crate::train::{Learner, Step, TrainError, TrainingLoop, batch};

mod learner;
mod rollout;
pub mod settings;
mod start;
mod state;
mod teacher;
#[cfg(test)]
mod tests;
mod verdict;

use learner::Agent;
use rollout::{Rollout, advantages};
pub use settings::{FinetuneConfig, Rates};
use start::{start, teacher_of};
use teacher::Teacher;

/// What all `finetune` stages have in common. Raise `version` when the same inputs and settings give another agent.
pub const KIND: StageKind = StageKind {
    key_inputs: &["model", "policy"],
    has_checkpoints: true,
    ..StageKind::new("finetune", 2, &[ArtifactKind::Agent], "env steps")
};
/// Rewards, divided by the deviation of returns, end here.
const REWARD_CLIP: f64 = 10.0;

/// Where to start from, and how to learn.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct FinetuneTask {
    /// The stage's settings.
    pub config: FinetuneConfig,
    /// Seeds weights, levels and chance.
    pub seed: u64,
    /// The latent policy's weights, unless it starts from scratch.
    pub policy: Option<FileInfo>,
    /// The weights of IDM and FDM, where there is a supervised path.
    pub dynamics: Option<FileInfo>,
    /// What the weights' file says of its origin.
    pub provenance: BTreeMap<String, String>,
    /// Seconds between two checkpoints; changes nothing in the result.
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
            preset,
            size,
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
            // The task's own, or the pipeline's.
            seed: _,
            policy: _,
            dynamics: _,
        } = config;
        KeyFields::new(&KIND)
            .setting("game", game)
            .setting("mode", mode)
            .setting("levels", levels)
            .setting("steps", steps)
            .setting("from_scratch", from_scratch)
            .setting("supervised_path", supervised_path)
            .setting("preset", preset)
            .setting("size", size)
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
            .setting("seed", seed)
            .input_if(policy.is_some(), "policy", policy.as_ref().map(|policy| &policy.blake3))
            .input_if(
                dynamics.is_some(),
                "model",
                dynamics.as_ref().map(|dynamics| &dynamics.blake3),
            )
    }

    fn run(&self, ctx: &TaskContext, _: &mut LaneState) -> Result<TaskOutput, Error> {
        run(self, ctx)
    }
}

/// Trains to the last update and reports what the agent earns.
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

    fn step(&mut self, step: u64) -> Result<Step, Error> {
        let update = step + 1;
        let rollout = self.play(update)?;
        let (advantages, returns) = advantages(&rollout, &self.task.config);
        let begun = Instant::now();
        let before = self.learner.snapshot();
        let result =
            self.ctx.device.run(|| self.learner.update(update, &rollout, &advantages, &returns));
        self.add_seconds("seconds_improving", begun);
        let mut row = match result {
            Ok(row) => row,
            Err(TrainError::NotFinite { what, seen, .. }) => {
                self.learner.go_back(before);
                return Ok(Step::Skipped { what, seen });
            }
            Err(error) => return Err(error.into()),
        };
        self.teach(update, update * self.task.config.batch() as u64, &rollout)?;
        row.extend(rollout.metrics(&returns));
        let episode_return = row.iter().find(|(name, _)| *name == "episode_return");
        let note = episode_return.map_or(String::new(), |(_, mean)| format!("return {mean:.2}"));
        let row = row.into_iter().map(|(name, value)| (name.to_owned(), value)).collect();
        Ok(Step::Taken { row, note })
    }

    fn save(&self) -> Result<Vec<u8>, TrainError> {
        self.save_state()
    }

    fn restore(&mut self, state: &[u8]) -> Result<(), TrainError> {
        self.restore_state(state)
    }
}

/// All that is remembered from one update to the next.
struct Ppo<'a, A: AutodiffBackend> {
    task: &'a FinetuneTask,
    ctx: &'a TaskContext<'a>,
    game: Procgen,
    scale: RewardScale,
    statistics: EpisodeStatistics,
    learner: Agent<A>,
    teacher: Option<Teacher>,
    /// Where the time went.
    seconds: BTreeMap<String, f64>,
}

/// What the network says of some frames.
struct Acted<B: Backend> {
    base: Tensor<B, 2>,
    supervised: Option<Tensor<B, 2>>,
    logits: Vec<f32>,
    values: Vec<f32>,
}

impl<'a, A: TrainBackend> Ppo<'a, A> {
    fn new(
        task: &'a FinetuneTask,
        ctx: &'a TaskContext<'a>,
        device: A::Device,
    ) -> Result<Self, Error> {
        let config = &task.config;
        let seed = batch::generator(task.seed, "levels", 0).random::<u32>() >> 1;
        let procgen = ProcgenConfig {
            game: config.game,
            mode: config.mode,
            levels: config.levels,
            seed,
            count: config.envs,
            threads: ctx.game_threads(),
        };
        let game = Procgen::new(&ProcgenPackage::find(ctx.games)?, &procgen)?;
        let (agent, net) = start(task, ctx, game.actions(), &device)?;
        let teacher = teacher_of(task, ctx, &agent)?;
        Ok(Ppo {
            scale: RewardScale::new(game.count(), config.gamma, REWARD_CLIP),
            statistics: EpisodeStatistics::new(game.count()),
            learner: Agent::new(config.clone(), task.seed, agent, net, device),
            seconds: BTreeMap::new(),
            task,
            ctx,
            game,
            teacher,
        })
    }

    /// Plays a rollout.
    fn play(&mut self, update: u64) -> Result<Rollout<A::InnerBackend>, Error> {
        let (envs, net, frozen) =
            (self.game.count(), self.learner.net.valid(), !self.task.config.from_scratch);
        let mut rng = batch::generator(self.task.seed, "finetune", update);
        let (mut rollout, mut base, mut supervised) = (Rollout::default(), Vec::new(), Vec::new());
        for _ in 0..self.task.config.rollout {
            let acted = self.act(&net, &mut rollout.frames)?;
            for logits in acted.logits.chunks_exact(self.game.actions()) {
                let (action, log_prob) = draw(logits, 1.0, &mut rng);
                rollout.actions.push(action);
                rollout.log_probs.push(log_prob);
            }
            rollout.values.extend(&acted.values);
            if frozen {
                base.push(acted.base);
                supervised.extend(acted.supervised);
            }
            let begun = Instant::now();
            self.game.step(&rollout.actions[rollout.actions.len() - envs..])?;
            self.add_seconds("seconds_in_game", begun);
            rollout.rewards.extend(self.scale.scale(self.game.rewards(), self.game.ends()));
            rollout.ends.extend(self.game.ends().iter().map(|end| *end != End::None));
            rollout.episodes.extend(
                self.statistics
                    .update(&self.game)
                    .into_iter()
                    .map(|episode| (episode.episode_return, episode.length)),
            );
        }
        rollout.last_values = self.act(&net, &mut rollout.frames)?.values;
        rollout.base = (!base.is_empty()).then(|| Tensor::cat(base, 0));
        rollout.supervised = (!supervised.is_empty()).then(|| Tensor::cat(supervised, 0));
        Ok(rollout)
    }

    /// Looks at what all environments show, and keeps it.
    fn act(
        &mut self,
        net: &AgentNet<A::InnerBackend>,
        seen: &mut Vec<u8>,
    ) -> Result<Acted<A::InnerBackend>, Error> {
        let begun = Instant::now();
        let (shape, native) = (
            self.learner.agent.network.frame_shape(),
            self.game.frame_shape().iter().product::<usize>(),
        );
        let first = seen.len();
        self.game.frames().chunks_exact(native).for_each(|frame| shrink(frame, shape[0], seen));
        let pass = self.ctx.device.pass() * shape.iter().product::<usize>();
        let look = |(net, device): &mut (AgentNet<A::InnerBackend>, A::Device),
                    frames: &[u8]|
         -> Result<_, Error> {
            let base = net.rl.base(upload(frames, shape, device));
            let supervised = net.supervised_logits(base.clone());
            let (logits, value) = net.logits_and_value(base.clone(), supervised.clone());
            Ok((base, supervised, to_host(logits)?, to_host(value)?))
        };
        let on = (net.clone(), self.learner.device.clone());
        let parts: Vec<_> =
            seen[first..].par_chunks(pass).map_with(on, look).collect::<Result<_, _>>()?;
        let (mut base, mut supervised, mut logits, mut values) =
            (Vec::new(), Vec::new(), Vec::new(), Vec::new());
        for part in parts {
            base.push(part.0);
            supervised.extend(part.1);
            logits.extend(part.2);
            values.extend(part.3);
        }
        self.add_seconds("seconds_acting", begun);
        let supervised = (!supervised.is_empty()).then(|| Tensor::cat(supervised, 0));
        Ok(Acted { base: Tensor::cat(base, 0), supervised, logits, values })
    }

    /// Where there is a supervised path and it is time, its decoder learns what the rollout shows.
    fn teach(
        &mut self,
        update: u64,
        done: u64,
        rollout: &Rollout<A::InnerBackend>,
    ) -> Result<(), Error> {
        let Some((teacher, decoder)) =
            self.teacher.as_mut().zip(self.learner.agent.decoder.as_ref())
        else {
            return Ok(());
        };
        if !Teacher::listens(done) {
            teacher.forget();
            return Ok(());
        }
        let begun = Instant::now();
        teacher.remember(rollout)?;
        if Teacher::teaches(update, done) && !teacher.pairs.is_empty() {
            let taught = teacher.teach(decoder, self.task.seed, update)?;
            self.learner.net.set_decoder(&taught, &self.learner.device)?;
        }
        self.add_seconds("seconds_teaching", begun);
        Ok(())
    }

    fn add_seconds(&mut self, what: &str, begun: Instant) {
        *self.seconds.entry(what.to_owned()).or_default() += begun.elapsed().as_secs_f64();
    }
}
