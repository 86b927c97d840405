//! Stage 3 online: a latent policy learns in the game, by PPO (LAPO, section 4.4; Schulman et al., 2017). In: a latent policy and the IDM
//! that labelled for it, or nothing; out: `agent.safetensors`, `metrics.parquet` and a verdict, `verdict.json`.
//!
//! Read from top to bottom: `learn` is the loop; it plays a rollout (`Ppo::play`), looks back (`advantages`, in `rollout`) and improves the
//! agent (`learner`, where the loss is). Which layer learns when is in [`settings`], how the decoder is taught in `teacher`, what the
//! network is in [`AgentNet`].
//!
//! The latent policy's convolutions stay as they were cloned, so a rollout keeps what they left of each frame and an update goes through
//! two linear layers alone. The published code computes and differentiates them in every pass over a rollout, and counts those gradients,
//! which nothing uses and nothing clears, into the norm it clips; it lets the IDM look across the ends of episodes, and rollouts.
//!
//! `pipelines/maze_online_small.yaml`, two cores, the policy of `maze_small.yaml` (seed 0, 80,000 mazes, an IDM that learnt by Adam at a
//! tenth of the FDM's rate; the table's seeds are those of this stage): mean returns of the episodes that ended in each stretch of steps (in
//! brackets how many, all seeds together). The first episodes to end are the short ones, so that what is earned before 20,000 steps says
//! little.
//!
//! | steps | 20k to 41k | 61k to 82k | 123k to 164k | 225k to 299k |
//! |---|---|---|---|---|
//! | both paths | 8.27, 8.48, 7.83 (396) | 7.73, 7.71, 7.51 (418) | 7.74, 7.55, 7.62 (812) | 8.15, 7.98, 7.77 (1,649) |
//! | the same, latent actions without codes | 7.91, 7.92, 7.52 (347) | 7.37, 6.16, 7.18 (378) | 7.54, 7.16, 7.31 (741) | 7.88, 7.56, 7.71 (1,512) |
//! | without the supervised path | 2.63, 3.64, 2.91 (222) | 5.20, 6.21, 6.16 (298) | 7.79, 7.00, 7.33 (712) | 7.48, 7.85, 8.04 (1,523) |
//! | from scratch | 3.92, 4.89, 3.13 (251) | 3.01, 4.21, 3.86 (237) | 4.69, 3.94, 3.39 (406) | 6.09, 5.17, 3.30 (730) |
//!
//! Random actions earn 4.1. From the latent policy all end where its own decoder ends (7.90 from 256 labels, `stages::evaluate`): its
//! convolutions, a tiny network's, say no more of a maze. The policy of 40,000 mazes ended at 7.51, 7.75 and 7.82; from it more passes
//! (12 epochs) and five times the learning rate earned 6.4 and 7.3 after 300,000 steps, 12 epochs with `gamma: 0.99` 7.3.
//! Of 112 seconds without the supervised path 92 are acting, 11 the game, 8 the updates: 2,500 steps a second.
//! From scratch 600 a second. A quicker game from scratch, coinrun (`preset: tiny`, `size: 32`): after 147,456 steps, four minutes, three
//! seeds earn 6.55, 6.45 and 6.47 in 400 episodes, where random actions earn 2.75 and the paper's offline policies 6.46 and 6.66.

use std::collections::BTreeMap;
use std::time::{Duration, Instant};

use burn::backend::Autodiff;
use burn::module::AutodiffModule;
use burn::tensor::Tensor;
use burn::tensor::backend::{AutodiffBackend, Backend};
use rand::Rng;
use rayon::prelude::*;
use serde::{Deserialize, Serialize};

use super::plan::KeyFields;
use super::player::draw;
use super::training::resume;
use super::{ArtifactKind, Done, Error, Kept, StageKind, StageTask, Workplace};
use crate::dataset::FileInfo;
use crate::envs::wrappers::{EpisodeStatistics, RewardScale, shrink};
use crate::envs::{End, Package, Procgen, ProcgenConfig, VecEnv};
use crate::models::agent::AgentNet;
use crate::models::device::on_device;
use crate::models::frames::upload;
use crate::models::layers::NetBackend;
use crate::models::weights::to_host;
use crate::train::optim::AdamBackend;
use crate::train::{batch, checkpoint};

mod learner;
mod rollout;
pub mod settings;
mod start;
mod state;
mod teacher;
#[cfg(test)]
mod tests;
mod verdict;

use learner::Learner;
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

    fn run(&self, place: &Workplace, _: &mut Kept) -> Result<Done, Error> {
        run(self, place)
    }
}

/// Learns to the last update and says what the agent earns.
fn run(task: &FinetuneTask, place: &Workplace) -> Result<Done, Error> {
    place.device.check()?;
    on_device!(&place.device, B, at => learn(&mut Ppo::<Autodiff<B>>::new(task, place, at)?))
}

/// The loop.
fn learn<A>(ppo: &mut Ppo<A>) -> Result<Done, Error>
where
    A: AutodiffBackend + NetBackend,
    A::InnerBackend: NetBackend + AdamBackend,
{
    let (task, place) = (ppo.task, ppo.place);
    let (config, batch) = (&task.config, task.config.batch() as u64);
    let (first, mut metrics) = resume(place, |state| ppo.restore(state))?;
    let (mut saved, pause) = (Instant::now(), Duration::from_secs(task.checkpoint_secs));
    for update in first / batch + 1..=config.updates() {
        let done = update * batch;
        let rollout = ppo.play(update)?;
        let (advantages, returns) = advantages(&rollout, config);
        let begun = Instant::now();
        let mut row =
            place.device.run(|| ppo.learner.improve(update, &rollout, &advantages, &returns))?;
        ppo.took("seconds_improving", begun);
        ppo.teach(update, done, &rollout)?;

        row.extend(rollout.told(&returns));
        let earned = row
            .iter()
            .find(|(name, _)| *name == "episode_return")
            .map_or(String::new(), |(_, mean)| format!("return {mean:.2}"));
        place.progress.note(&earned);
        place.progress.advance(batch);
        metrics.log(done, row.into_iter().map(|(name, value)| (name.to_owned(), value)));
        if place.stop.is_set() || (saved.elapsed() >= pause && update < config.updates()) {
            checkpoint::save(place.store, &place.scratch, done, &metrics.pack(&ppo.save()?), None)?;
            saved = Instant::now();
        }
        place.go_on()?;
    }
    ppo.finish(&metrics)
}

/// All that is remembered from one update to the next.
struct Ppo<'a, A: AutodiffBackend> {
    task: &'a FinetuneTask,
    place: &'a Workplace<'a>,
    game: Procgen,
    scale: RewardScale,
    statistics: EpisodeStatistics,
    learner: Learner<A>,
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

impl<'a, A> Ppo<'a, A>
where
    A: AutodiffBackend + NetBackend,
    A::InnerBackend: NetBackend + AdamBackend,
{
    fn new(
        task: &'a FinetuneTask,
        place: &'a Workplace<'a>,
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
            threads: place.game_threads(),
        };
        let game = Procgen::new(&Package::find(place.games)?, &procgen)?;
        let (agent, net) = start(task, place, game.actions(), &device)?;
        let teacher = teacher_of(task, place, &agent)?;
        Ok(Ppo {
            scale: RewardScale::new(game.count(), config.gamma, REWARD_CLIP),
            statistics: EpisodeStatistics::new(game.count()),
            learner: Learner::new(config.clone(), task.seed, agent, net, device),
            seconds: BTreeMap::new(),
            task,
            place,
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
            self.took("seconds_in_game", begun);
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
        let pass = self.place.device.pass() * shape.iter().product::<usize>();
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
        self.took("seconds_acting", begun);
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
        self.took("seconds_teaching", begun);
        Ok(())
    }

    fn took(&mut self, what: &str, begun: Instant) {
        *self.seconds.entry(what.to_owned()).or_default() += begun.elapsed().as_secs_f64();
    }
}
