//! Stage 3 online: a latent policy learns in the game, by PPO (LAPO, section 4.4; Schulman et al., 2017). In: a latent policy and the IDM
//! that labelled for it, or nothing; out: `agent.safetensors`, `metrics.parquet` and a verdict, `verdict.json`.
//!
//! Read from top to bottom: `learn` is the loop; it plays a rollout (`Ppo::play`), looks back (`advantages`) and improves the agent
//! (`Learner::improve`, whose loss is `losses`). Which layer learns when is in [`settings`], how the decoder is taught in `teacher`,
//! what the network is in [`AgentNet`].
//!
//! The latent policy's convolutions stay as they were cloned, so a rollout keeps what they left of each frame and an update goes through
//! two linear layers alone. The published code computes and differentiates them in every pass over a rollout, and counts those gradients,
//! which nothing uses and nothing clears, into the norm it clips; it lets the IDM look across the ends of episodes, and rollouts.
//!
//! `pipelines/maze_online_small.yaml`, two cores, the policy of `maze_small.yaml` (seed 0, 80,000 mazes, an IDM that learnt at a tenth of
//! the FDM's rate; the table's seeds are those of this stage): mean returns of the episodes that ended in each stretch of steps (in brackets how many, all seeds together). The first
//! episodes to end are the short ones, so that what is earned before 20,000 steps says little.
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
use burn::tensor::backend::{AutodiffBackend, Backend};
use burn::tensor::{Int, Tensor, TensorData, activation};
use rand::Rng;
use rand::seq::SliceRandom;
use rayon::prelude::*;
use serde::{Deserialize, Serialize};

use super::player::draw;
use super::training::resume;
use super::{Done, Error, Workplace};
use crate::dataset::FileInfo;
use crate::envs::wrappers::{EpisodeStatistics, RewardScale, shrink};
use crate::envs::{End, Package, Procgen, ProcgenConfig, VecEnv};
use crate::models::AgentConfig;
use crate::models::agent::AgentNet;
use crate::models::device::on_device;
use crate::models::frames::upload;
use crate::models::layers::NetBackend;
use crate::models::weights::to_host;
use crate::train::adam::{Adam, AdamBackend, Flat, gradients};
use crate::train::{OptimConfig, TrainError, batch, checkpoint};

pub mod settings;
mod start;
mod state;
mod teacher;
#[cfg(test)]
mod tests;
mod verdict;

pub use settings::{FinetuneConfig, Rates};
use start::{start, teacher_of};
use teacher::Teacher;

/// The version of what this stage does: raise it when the same inputs and settings give another agent.
pub const VERSION: u32 = 2;
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

/// Learns to the last update and says what the agent earns.
pub fn run(task: &FinetuneTask, place: &Workplace) -> Result<Done, Error> {
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
        let mut row = place.device.run(|| ppo.learner.improve(update, &rollout, &advantages, &returns))?;
        ppo.took("seconds_improving", begun);
        ppo.teach(update, done, &rollout)?;

        row.extend(rollout.told(&returns));
        let earned = row.iter().find(|(name, _)| *name == "episode_return").map_or(String::new(), |(_, mean)| format!("return {mean:.2}"));
        place.progress.note(&earned);
        place.progress.advance(batch);
        metrics.log(done, row.into_iter().map(|(name, value)| (name.to_owned(), value)));
        if saved.elapsed() >= pause && update < config.updates() {
            checkpoint::save(place.store, &place.scratch, done, &metrics.pack(&ppo.save()?), None)?;
            saved = Instant::now();
        }
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

/// What was played between two updates: `[step, env]`, one row after the other.
struct Rollout<B: Backend> {
    /// One step more than the others: `[step + 1, env, height, width, channel]`
    frames: Vec<u8>,
    /// What frozen convolutions left of each frame; without them nothing.
    base: Option<Tensor<B, 2>>,
    /// The supervised path's logits.
    supervised: Option<Tensor<B, 2>>,
    actions: Vec<u32>,
    /// Of the action taken, when it was taken.
    log_probs: Vec<f32>,
    values: Vec<f32>,
    /// Scaled and clipped.
    rewards: Vec<f32>,
    /// Whether the step was its episode's last.
    ends: Vec<bool>,
    /// The value of what each environment shows at the end: `[env]`
    last_values: Vec<f32>,
    /// Returns and lengths of the episodes that ended.
    episodes: Vec<(f64, u64)>,
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
    fn new(task: &'a FinetuneTask, place: &'a Workplace<'a>, device: A::Device) -> Result<Self, Error> {
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
        let (envs, net, frozen) = (self.game.count(), self.learner.net.valid(), !self.task.config.from_scratch);
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
            rollout.episodes.extend(self.statistics.update(&self.game).into_iter().map(|episode| (episode.episode_return, episode.length)));
        }
        rollout.last_values = self.act(&net, &mut rollout.frames)?.values;
        rollout.base = (!base.is_empty()).then(|| Tensor::cat(base, 0));
        rollout.supervised = (!supervised.is_empty()).then(|| Tensor::cat(supervised, 0));
        Ok(rollout)
    }

    /// Looks at what all environments show, and keeps it.
    fn act(&mut self, net: &AgentNet<A::InnerBackend>, seen: &mut Vec<u8>) -> Result<Acted<A::InnerBackend>, Error> {
        let begun = Instant::now();
        let (shape, native) = (self.learner.agent.network.frame_shape(), self.game.frame_shape().iter().product::<usize>());
        let first = seen.len();
        self.game.frames().chunks_exact(native).for_each(|frame| shrink(frame, shape[0], seen));
        let pass = self.place.device.pass() * shape.iter().product::<usize>();
        let look = |(net, device): &mut (AgentNet<A::InnerBackend>, A::Device), frames: &[u8]| -> Result<_, Error> {
            let base = net.rl.base(upload(frames, shape, device));
            let supervised = net.supervised_logits(base.clone());
            let (logits, value) = net.logits_and_value(base.clone(), supervised.clone());
            Ok((base, supervised, to_host(logits)?, to_host(value)?))
        };
        let on = (net.clone(), self.learner.device.clone());
        let parts: Vec<_> = seen[first..].par_chunks(pass).map_with(on, look).collect::<Result<_, _>>()?;
        let (mut base, mut supervised, mut logits, mut values) = (Vec::new(), Vec::new(), Vec::new(), Vec::new());
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
    fn teach(&mut self, update: u64, done: u64, rollout: &Rollout<A::InnerBackend>) -> Result<(), Error> {
        let Some((teacher, decoder)) = self.teacher.as_mut().zip(self.learner.agent.decoder.as_ref()) else { return Ok(()) };
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

/// Generalised advantage estimates (Schulman et al., 2016) and the returns they stand for: `[step, env]` each.
///
/// Nothing is expected after an episode's last step, even where its time was up: Procgen does not show what would have come.
fn advantages<B: Backend>(rollout: &Rollout<B>, config: &FinetuneConfig) -> (Vec<f32>, Vec<f32>) {
    let (envs, steps) = (rollout.last_values.len(), rollout.values.len());
    let (gamma, gae_lambda) = (config.gamma as f32, config.gae_lambda as f32);
    let mut advantages = vec![0.0; steps];
    let mut after = vec![0.0; envs];
    for at in (0..steps).rev() {
        let env = at % envs;
        let nonterminal = if rollout.ends[at] { 0.0 } else { 1.0 };
        let next_value = *rollout.values.get(at + envs).unwrap_or(&rollout.last_values[env]);
        let delta = rollout.rewards[at] + gamma * next_value * nonterminal - rollout.values[at];
        after[env] = delta + gamma * gae_lambda * nonterminal * after[env];
        advantages[at] = after[env];
    }
    let returns = advantages.iter().zip(&rollout.values).map(|(advantage, value)| advantage + value).collect();
    (advantages, returns)
}

/// The network and what moves it.
struct Learner<A: AutodiffBackend> {
    config: FinetuneConfig,
    seed: u64,
    agent: AgentConfig,
    net: AgentNet<A>,
    adam: Adam<A::InnerBackend>,
    rates: Rates,
    device: A::Device,
}

/// What one update says, by name.
type Row = Vec<(&'static str, f32)>;

/// What is logged of a minibatch: [`Losses::parts`] and the gradients' norm.
const PARTS: [&str; 6] = ["policy_loss", "value_loss", "entropy", "approx_kl", "clipfrac", "grad_norm"];

impl<A> Learner<A>
where
    A: AutodiffBackend + NetBackend,
    A::InnerBackend: NetBackend + AdamBackend,
{
    fn new(config: FinetuneConfig, seed: u64, agent: AgentConfig, net: AgentNet<A>, device: A::Device) -> Self {
        let epsilon = if config.from_scratch { 1e-5 } else { 1e-8 };
        let adam = Adam::new(OptimConfig { max_grad_norm: config.max_grad_norm, epsilon, ..OptimConfig::default() });
        Learner { rates: config.rates(), config, seed, agent, net, adam, device }
    }

    /// Goes through a rollout several times, a minibatch a step; returns the means of what these saw.
    fn improve(&mut self, update: u64, rollout: &Rollout<A::InnerBackend>, advantages: &[f32], returns: &[f32]) -> Result<Row, Error> {
        let at = (update - 1) * self.config.batch() as u64;
        let rates = [&self.rates.policy_head, &self.rates.value_head, &self.rates.trunk].map(|rate| rate.at(at));
        let mut rng = batch::generator(self.seed, "minibatch", update);
        let (mut order, mut seen): (Vec<usize>, _) = ((0..self.config.batch()).collect(), Vec::new());
        for _ in 0..self.config.epochs {
            order.shuffle(&mut rng);
            for places in order.chunks_exact(self.config.batch() / self.config.minibatches) {
                seen.push(self.step(rollout, advantages, returns, places, rates).reshape([1, PARTS.len()]));
            }
        }
        let steps = seen.len() as f32;
        let parts = to_host(Tensor::cat(seen, 0).sum_dim(0).div_scalar(steps))?;
        if let Some((&what, &seen)) = PARTS.iter().zip(&parts).find(|(_, value)| !value.is_finite()) {
            return Err(TrainError::NotFinite { step: at, what, seen }.into());
        }
        let rates = ["rate_policy_head", "rate_value_head", "rate_trunk"].into_iter().zip(rates.map(|rate| rate as f32));
        Ok(PARTS.into_iter().zip(parts).chain(rates).collect())
    }

    /// One minibatch: moves the weights, each layer by its own rate; returns [`PARTS`] as they were before.
    fn step(
        &mut self,
        rollout: &Rollout<A::InnerBackend>,
        advantages: &[f32],
        returns: &[f32],
        places: &[usize],
        [policy_head, value_head, trunk]: [f64; 3],
    ) -> Tensor<A::InnerBackend, 1> {
        let shown = Minibatch::<A>::gather(rollout, advantages, returns, places, &self.device);
        let base = match &rollout.base {
            Some(base) => Tensor::from_inner(select(base, places, &self.device)),
            None => self.net.rl.base(upload(&rollout.frames_at(places), self.agent.network.frame_shape(), &self.device)),
        };
        let supervised = rollout.supervised.as_ref().map(|logits| Tensor::from_inner(select(logits, places, &self.device)));
        let (logits, value) = self.net.logits_and_value(base, supervised);
        let losses = losses(logits, value, &shown, &self.config);

        let mut all = Flat::new();
        gradients("agent", &self.net, &losses.total.backward(), &mut all);
        let mut step = self.adam.begin(all);
        let rl = &mut self.net.rl;
        rl.policy_head = self.adam.apply(&mut step, "agent.rl.policy_head", policy_head, rl.policy_head.clone());
        rl.value_head = self.adam.apply(&mut step, "agent.rl.value_head", value_head, rl.value_head.clone());
        // What is left: the trunk's last layer, and from scratch all before it.
        self.net = self.adam.apply(&mut step, "agent", trunk, self.net.clone());
        Tensor::cat(vec![losses.parts.inner(), step.norm], 0)
    }
}

/// What a rollout says of a minibatch; each `[batch, 1]`.
struct Minibatch<A: AutodiffBackend> {
    actions: Tensor<A, 2, Int>,
    log_probs: Tensor<A, 2>,
    values: Tensor<A, 2>,
    /// Normalised within the minibatch.
    advantages: Tensor<A, 2>,
    returns: Tensor<A, 2>,
}

impl<A: AutodiffBackend> Minibatch<A> {
    fn gather<B: Backend>(rollout: &Rollout<B>, advantages: &[f32], returns: &[f32], places: &[usize], device: &A::Device) -> Self {
        let column = |values: &[f32]| -> Tensor<A, 2> {
            let values: Vec<f32> = places.iter().map(|&i| values[i]).collect();
            Tensor::from_data(TensorData::new(values, [places.len(), 1]), device)
        };
        let actions: Vec<i32> = places.iter().map(|&i| rollout.actions[i] as i32).collect();
        let count = places.len() as f64;
        let mean = places.iter().map(|&i| f64::from(advantages[i])).sum::<f64>() / count;
        let variance = places.iter().map(|&i| (f64::from(advantages[i]) - mean).powi(2)).sum::<f64>() / (count - 1.0);
        Minibatch {
            actions: Tensor::from_data(TensorData::new(actions, [places.len(), 1]), device),
            log_probs: column(&rollout.log_probs),
            values: column(&rollout.values),
            advantages: (column(advantages) - mean) / (variance.sqrt() + 1e-8),
            returns: column(returns),
        }
    }
}

/// What is to be made small, and what is logged of it: [`PARTS`] but the norm.
struct Losses<A: AutodiffBackend> {
    total: Tensor<A, 1>,
    parts: Tensor<A, 1>,
}

/// PPO's loss: the clipped surrogate, the clipped value's error and the entropy.
///
/// # Shapes
/// - `logits`: `[batch, actions]`
/// - `value`: `[batch, 1]`
fn losses<A: AutodiffBackend>(logits: Tensor<A, 2>, value: Tensor<A, 2>, old: &Minibatch<A>, config: &FinetuneConfig) -> Losses<A> {
    let log_probs = activation::log_softmax(logits, 1);
    let entropy = (log_probs.clone().exp() * log_probs.clone()).sum_dim(1).mean().neg();
    let log_ratio = log_probs.gather(1, old.actions.clone()) - old.log_probs.clone();
    let (ratio, clip) = (log_ratio.clone().exp(), config.clip_coef);

    let blame = old.advantages.clone().neg();
    let policy_loss = (blame.clone() * ratio.clone()).max_pair(blame * ratio.clone().clamp(1.0 - clip, 1.0 + clip)).mean();
    let square = |x: Tensor<A, 2>| x.clone() * x;
    let clipped_value = old.values.clone() + (value.clone() - old.values.clone()).clamp(-clip, clip);
    let value_loss = square(value - old.returns.clone()).max_pair(square(clipped_value - old.returns.clone())).mean() / 2.0;

    let approx_kl = (ratio.clone() - 1.0 - log_ratio).mean();
    let clipfrac = (ratio - 1.0).abs().greater_elem(clip).float().mean();
    let total = policy_loss.clone() + value_loss.clone() * config.vf_coef - entropy.clone() * config.ent_coef;
    Losses { total, parts: Tensor::cat(vec![policy_loss, value_loss, entropy, approx_kl, clipfrac], 0) }
}

/// Some rows.
fn select<B: Backend>(rows: &Tensor<B, 2>, places: &[usize], device: &B::Device) -> Tensor<B, 2> {
    let places: Vec<i32> = places.iter().map(|&i| i as i32).collect();
    let count = places.len();
    rows.clone().select(0, Tensor::from_data(TensorData::new(places, [count]), device))
}

impl<B: Backend> Default for Rollout<B> {
    fn default() -> Self {
        let (frames, base, supervised, actions, log_probs, values) = Default::default();
        let (rewards, ends, last_values, episodes) = Default::default();
        Rollout { frames, base, supervised, actions, log_probs, values, rewards, ends, last_values, episodes }
    }
}

impl<B: Backend> Rollout<B> {
    /// The frames of some steps.
    fn frames_at(&self, places: &[usize]) -> Vec<u8> {
        let bytes = self.frames.len() / (self.actions.len() + self.last_values.len());
        places.iter().flat_map(|&i| &self.frames[i * bytes..][..bytes]).copied().collect()
    }
}
