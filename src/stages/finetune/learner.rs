//! PPO's update: a rollout's minibatches, its loss and the rates of the agent's layers.

use burn::tensor::backend::{AutodiffBackend, Backend};
use burn::tensor::{Int, Tensor, TensorData, activation};
use rand::seq::SliceRandom;

use super::rollout::Rollout;
use super::{FinetuneConfig, Rates};
use crate::models::AgentConfig;
use crate::models::agent::AgentNet;
use crate::models::frames::upload;
use crate::models::layers::NetBackend;
use crate::models::weights::to_host;
use crate::stages::Error;
use crate::train::optim::{AdamBackend, Flat, Optimizer, gradients};
use crate::train::{OptimConfig, TrainError, batch};

/// The network and what moves it.
pub(super) struct Learner<A: AutodiffBackend> {
    config: FinetuneConfig,
    seed: u64,
    pub(super) agent: AgentConfig,
    pub(super) net: AgentNet<A>,
    pub(super) optimizer: Optimizer<A::InnerBackend>,
    rates: Rates,
    pub(super) device: A::Device,
}

/// What one update says, by name.
pub(super) type Row = Vec<(&'static str, f32)>;

/// What is logged of a minibatch: [`Losses::parts`] and the gradients' norm.
pub(super) const PARTS: [&str; 6] =
    ["policy_loss", "value_loss", "entropy", "approx_kl", "clipfrac", "grad_norm"];

impl<A> Learner<A>
where
    A: AutodiffBackend + NetBackend,
    A::InnerBackend: NetBackend + AdamBackend,
{
    pub(super) fn new(
        config: FinetuneConfig,
        seed: u64,
        agent: AgentConfig,
        net: AgentNet<A>,
        device: A::Device,
    ) -> Self {
        let epsilon = if config.from_scratch { 1e-5 } else { 1e-8 };
        let optimizer = Optimizer::new(OptimConfig {
            max_grad_norm: config.max_grad_norm,
            epsilon,
            ..OptimConfig::default()
        });
        Learner { rates: config.rates(), config, seed, agent, net, optimizer, device }
    }

    /// Goes through a rollout several times, a minibatch a step; returns the means of what these saw.
    pub(super) fn improve(
        &mut self,
        update: u64,
        rollout: &Rollout<A::InnerBackend>,
        advantages: &[f32],
        returns: &[f32],
    ) -> Result<Row, Error> {
        let at = (update - 1) * self.config.batch() as u64;
        let rates = [&self.rates.policy_head, &self.rates.value_head, &self.rates.trunk]
            .map(|rate| rate.at(at));
        let mut rng = batch::generator(self.seed, "minibatch", update);
        let (mut order, mut seen): (Vec<usize>, _) =
            ((0..self.config.batch()).collect(), Vec::new());
        for _ in 0..self.config.epochs {
            order.shuffle(&mut rng);
            for places in order.chunks_exact(self.config.batch() / self.config.minibatches) {
                seen.push(
                    self.step(rollout, advantages, returns, places, rates)
                        .reshape([1, PARTS.len()]),
                );
            }
        }
        let steps = seen.len() as f32;
        let parts = to_host(Tensor::cat(seen, 0).sum_dim(0).div_scalar(steps))?;
        if let Some((&what, &seen)) = PARTS.iter().zip(&parts).find(|(_, value)| !value.is_finite())
        {
            return Err(TrainError::NotFinite { step: at, what, seen }.into());
        }
        let rates = ["rate_policy_head", "rate_value_head", "rate_trunk"]
            .into_iter()
            .zip(rates.map(|rate| rate as f32));
        Ok(PARTS.into_iter().zip(parts).chain(rates).collect())
    }

    /// One minibatch: moves the weights, each layer by its own rate; returns [`PARTS`] as they were before.
    pub(super) fn step(
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
            None => self.net.rl.base(upload(
                &rollout.frames_at(places),
                self.agent.network.frame_shape(),
                &self.device,
            )),
        };
        let supervised = rollout
            .supervised
            .as_ref()
            .map(|logits| Tensor::from_inner(select(logits, places, &self.device)));
        let (logits, value) = self.net.logits_and_value(base, supervised);
        let losses = losses(logits, value, &shown, &self.config);

        let mut all = Flat::new();
        gradients("agent", &self.net, &losses.total.backward(), &mut all);
        let mut step = self.optimizer.begin(all);
        let rl = &mut self.net.rl;
        rl.policy_head = self.optimizer.apply(
            &mut step,
            "agent.rl.policy_head",
            policy_head,
            rl.policy_head.clone(),
        );
        rl.value_head = self.optimizer.apply(
            &mut step,
            "agent.rl.value_head",
            value_head,
            rl.value_head.clone(),
        );
        // What is left: the trunk's last layer, and from scratch all before it.
        self.net = self.optimizer.apply(&mut step, "agent", trunk, self.net.clone());
        Tensor::cat(vec![losses.parts.inner(), step.norm], 0)
    }
}

/// What a rollout says of a minibatch; each `[batch, 1]`.
pub(super) struct Minibatch<A: AutodiffBackend> {
    pub(super) actions: Tensor<A, 2, Int>,
    pub(super) log_probs: Tensor<A, 2>,
    pub(super) values: Tensor<A, 2>,
    /// Normalised within the minibatch.
    pub(super) advantages: Tensor<A, 2>,
    pub(super) returns: Tensor<A, 2>,
}

impl<A: AutodiffBackend> Minibatch<A> {
    fn gather<B: Backend>(
        rollout: &Rollout<B>,
        advantages: &[f32],
        returns: &[f32],
        places: &[usize],
        device: &A::Device,
    ) -> Self {
        let column = |values: &[f32]| -> Tensor<A, 2> {
            let values: Vec<f32> = places.iter().map(|&i| values[i]).collect();
            Tensor::from_data(TensorData::new(values, [places.len(), 1]), device)
        };
        let actions: Vec<i32> = places.iter().map(|&i| rollout.actions[i] as i32).collect();
        let count = places.len() as f64;
        let mean = places.iter().map(|&i| f64::from(advantages[i])).sum::<f64>() / count;
        let variance =
            places.iter().map(|&i| (f64::from(advantages[i]) - mean).powi(2)).sum::<f64>()
                / (count - 1.0);
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
pub(super) struct Losses<A: AutodiffBackend> {
    pub(super) total: Tensor<A, 1>,
    pub(super) parts: Tensor<A, 1>,
}

/// PPO's loss: the clipped surrogate, the clipped value's error and the entropy.
///
/// # Shapes
/// - `logits`: `[batch, actions]`
/// - `value`: `[batch, 1]`
pub(super) fn losses<A: AutodiffBackend>(
    logits: Tensor<A, 2>,
    value: Tensor<A, 2>,
    old: &Minibatch<A>,
    config: &FinetuneConfig,
) -> Losses<A> {
    let log_probs = activation::log_softmax(logits, 1);
    let entropy = (log_probs.clone().exp() * log_probs.clone()).sum_dim(1).mean().neg();
    let log_ratio = log_probs.gather(1, old.actions.clone()) - old.log_probs.clone();
    let (ratio, clip) = (log_ratio.clone().exp(), config.clip_coef);

    let blame = old.advantages.clone().neg();
    let policy_loss = (blame.clone() * ratio.clone())
        .max_pair(blame * ratio.clone().clamp(1.0 - clip, 1.0 + clip))
        .mean();
    let square = |x: Tensor<A, 2>| x.clone() * x;
    let clipped_value =
        old.values.clone() + (value.clone() - old.values.clone()).clamp(-clip, clip);
    let value_loss = square(value - old.returns.clone())
        .max_pair(square(clipped_value - old.returns.clone()))
        .mean()
        / 2.0;

    let approx_kl = (ratio.clone() - 1.0 - log_ratio).mean();
    let clipfrac = (ratio - 1.0).abs().greater_elem(clip).float().mean();
    let total = policy_loss.clone() + value_loss.clone() * config.vf_coef
        - entropy.clone() * config.ent_coef;
    Losses {
        total,
        parts: Tensor::cat(vec![policy_loss, value_loss, entropy, approx_kl, clipfrac], 0),
    }
}

/// Some rows.
fn select<B: Backend>(rows: &Tensor<B, 2>, places: &[usize], device: &B::Device) -> Tensor<B, 2> {
    let places: Vec<i32> = places.iter().map(|&i| i as i32).collect();
    let count = places.len();
    rows.clone().select(0, Tensor::from_data(TensorData::new(places, [count]), device))
}
