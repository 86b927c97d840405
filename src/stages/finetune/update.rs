//! PPO's update: minibatches of a rollout, the loss, the learning rates of the agent's layers.

use burn::tensor::backend::{AutodiffBackend, Backend};
use burn::tensor::{Int, Tensor, TensorData, activation};
use rand::seq::SliceRandom;

use super::rollout::Rollout;
use super::{FinetuneConfig, LearningRates};
use crate::models::AgentConfig;
use crate::models::agent::AgentNet;
use crate::models::conv::ConvBackend;
use crate::models::frames::{Frames, upload};
use crate::models::weights::to_host;
use crate::train::optim::{Flat, Optimizer, TrainBackend, gradients, in_precision};
use crate::train::{OptimConfig, Skips, TrainError, batch};

/// An agent's network with its optimiser.
pub(super) struct Agent<A: AutodiffBackend> {
    settings: FinetuneConfig,
    seed: u64,
    pub(super) config: AgentConfig,
    pub(super) net: AgentNet<A>,
    pub(super) optimizer: Optimizer<A::InnerBackend>,
    rates: LearningRates,
    pub(super) device: A::Device,
}

/// The metrics of an update, by name.
pub(super) type Row = Vec<(&'static str, f32)>;

/// The metrics of a minibatch: [`Losses::metrics`] and the norm of the gradients.
pub(super) const METRICS: [&str; 6] =
    ["policy_loss", "value_loss", "entropy", "approx_kl", "clipfrac", "grad_norm"];

impl<A: TrainBackend> Agent<A> {
    pub(super) fn new(
        settings: FinetuneConfig,
        seed: u64,
        config: AgentConfig,
        net: AgentNet<A>,
        device: A::Device,
    ) -> Self {
        // 1e-5 is usual for PPO; 1e-8 is PyTorch's default.
        let epsilon = if settings.from_scratch { 1e-5 } else { 1e-8 };
        let optimizer = Optimizer::new(OptimConfig {
            max_grad_norm: settings.max_grad_norm,
            epsilon,
            ..OptimConfig::default()
        });
        Agent { rates: settings.learning_rates(), settings, seed, config, net, optimizer, device }
    }

    /// Returns the network for passes in the precision of the settings.
    pub(super) fn net_in_precision(&self) -> AgentNet<A> {
        in_precision::<A, _>("agent", &self.net, self.settings.precision, "")
    }

    /// Returns the state to restore if an update is not finite.
    pub(super) fn snapshot(&self) -> (AgentNet<A>, Optimizer<A::InnerBackend>) {
        (self.net.clone(), self.optimizer.clone())
    }

    /// Undoes an update.
    pub(super) fn restore(&mut self, before: (AgentNet<A>, Optimizer<A::InnerBackend>)) {
        (self.net, self.optimizer) = before;
    }

    /// Updates the agent by several epochs over a rollout, one minibatch a step. Returns the means
    /// of the minibatches' metrics.
    ///
    /// # Errors
    /// [`TrainError::NotFinite`] if one of them is not finite.
    pub(super) fn update(
        &mut self,
        update: u64,
        rollout: &Rollout<A::InnerBackend>,
        advantages: &[f32],
        returns: &[f32],
    ) -> Result<Row, TrainError> {
        // The learning rates are those at the beginning of the rollout.
        let env_steps = (update - 1) * self.settings.batch() as u64;
        let rates = [&self.rates.policy_head, &self.rates.value_head, &self.rates.trunk]
            .map(|rate| rate.at(env_steps));
        let mut rng = batch::generator(self.seed, "minibatch", update);
        let mut b_inds: Vec<usize> = (0..self.settings.batch()).collect();
        let size = self.settings.batch() / self.settings.minibatches;
        let frames = self.frames_of(rollout);
        let mut metrics = Vec::new();
        for _ in 0..self.settings.epochs {
            b_inds.shuffle(&mut rng);
            let epoch = Epoch::gather(rollout, advantages, returns, &b_inds, size, &self.device);
            for mb_inds in b_inds.chunks_exact(size) {
                let minibatch = epoch.minibatch(metrics.len() % self.settings.minibatches);
                let step = self.step(rollout, frames.as_ref(), minibatch, mb_inds, rates);
                metrics.push(step.reshape([1, METRICS.len()]));
            }
        }
        // One copy from the device for the whole update: no minibatch waits for it.
        let minibatches = metrics.len() as f32;
        let means = to_host(Tensor::cat(metrics, 0).sum_dim(0).div_scalar(minibatches))?;
        let not_finite = METRICS.iter().zip(&means).find(|(_, value)| !value.is_finite());
        if let Some((&what, &seen)) = not_finite {
            return Err(TrainError::NotFinite { step: update - 1, what, seen, skips: Skips::ONE });
        }
        let rates = ["rate_policy_head", "rate_value_head", "rate_trunk"]
            .into_iter()
            .zip(rates.map(|rate| rate as f32));
        Ok(METRICS.into_iter().zip(means).chain(rates).collect())
    }

    /// Uploads the frames of a rollout once if an update reads them again, on a GPU. On a CPU each
    /// minibatch converts its own, which needs less memory.
    pub(super) fn frames_of(
        &self,
        rollout: &Rollout<A::InnerBackend>,
    ) -> Option<Frames<A::InnerBackend>> {
        let are_read = rollout.base.is_none() && !A::InnerBackend::IS_CPU;
        let shape = self.config.network.frame_shape();
        are_read.then(|| Frames::upload(&rollout.frames, shape, &self.device))
    }

    /// Takes one step on a minibatch, with a learning rate for each layer. Returns [`METRICS`],
    /// computed before the step.
    pub(super) fn step(
        &mut self,
        rollout: &Rollout<A::InnerBackend>,
        frames: Option<&Frames<A::InnerBackend>>,
        minibatch: Minibatch<A>,
        mb_inds: &[usize],
        [policy_head, value_head, trunk]: [f64; 3],
    ) -> Tensor<A::InnerBackend, 1> {
        let index = &minibatch.index;
        let rows = |rows: &Tensor<A::InnerBackend, 2>| {
            Tensor::from_inner(rows.clone().select(0, index.clone()))
        };
        let net = self.net_in_precision();
        let base = match &rollout.base {
            Some(base) => rows(base),
            None => {
                let frames = match frames {
                    Some(frames) => frames.select(index.clone()),
                    None => {
                        let shape = self.config.network.frame_shape();
                        upload(&rollout.frames_at(mb_inds), shape, &self.device)
                    }
                };
                net.rl.base(Tensor::from_inner(frames.cast(self.settings.precision.dtype())))
            }
        };
        let supervised = rollout.supervised.as_ref().map(rows);
        let (logits, value) = net.logits_and_value(base, supervised);
        let losses = losses(logits, value, &minibatch, &self.settings);

        let mut all = Flat::new();
        gradients("agent", &net, &losses.total.backward(), &mut all);
        let mut step = self.optimizer.begin(all);
        // `apply` takes each gradient once, so the heads come before the rest of the network.
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
        // The remaining gradients: the trunk's last layer, and from scratch all layers before it.
        self.net = self.optimizer.apply(&mut step, "agent", trunk, self.net.clone());
        Tensor::cat(vec![losses.metrics.inner(), step.norm], 0)
    }
}

/// The data of all minibatches of an epoch, on the device.
pub(super) struct Epoch<A: AutodiffBackend> {
    /// `[4, minibatch, size]`: log-probabilities, values, advantages, returns
    columns: Tensor<A, 3>,
    /// `[2, minibatch, size]`: actions, places in the rollout
    indices: Tensor<A, 3, Int>,
}

impl<A: AutodiffBackend> Epoch<A> {
    /// Uploads the transitions of a rollout in the order `b_inds`, in minibatches of `size`.
    pub(super) fn gather<B: Backend>(
        rollout: &Rollout<B>,
        advantages: &[f32],
        returns: &[f32],
        b_inds: &[usize],
        size: usize,
        device: &A::Device,
    ) -> Self {
        let minibatches = b_inds.len() / size;
        let b_inds = &b_inds[..minibatches * size];
        let column = |values: &[f32]| b_inds.iter().map(|&i| values[i]).collect::<Vec<_>>();
        // Advantages are normalised within the minibatch, with the unbiased variance, as
        // `torch.std` has it.
        let mut normalised = Vec::new();
        for mb_inds in b_inds.chunks_exact(size) {
            let count = size as f64;
            let mean = mb_inds.iter().map(|&i| f64::from(advantages[i])).sum::<f64>() / count;
            let variance =
                mb_inds.iter().map(|&i| (f64::from(advantages[i]) - mean).powi(2)).sum::<f64>()
                    / (count - 1.0);
            let deviation = (variance.sqrt() + 1e-8) as f32;
            normalised.extend(mb_inds.iter().map(|&i| (advantages[i] - mean as f32) / deviation));
        }
        let columns =
            [column(&rollout.log_probs), column(&rollout.values), normalised, column(returns)];
        let indices = [
            b_inds.iter().map(|&i| rollout.actions[i] as i32).collect::<Vec<_>>(),
            b_inds.iter().map(|&i| i as i32).collect(),
        ];
        let data = TensorData::new(columns.concat(), [columns.len(), minibatches, size]);
        let places = TensorData::new(indices.concat(), [indices.len(), minibatches, size]);
        Epoch {
            columns: Tensor::from_data(data, device),
            indices: Tensor::from_data(places, device),
        }
    }

    /// Returns one of the minibatches.
    pub(super) fn minibatch(&self, number: usize) -> Minibatch<A> {
        let [_, _, size] = self.columns.dims();
        let columns = self.columns.clone().narrow(1, number, 1);
        let column = |row: usize| columns.clone().narrow(0, row, 1).reshape([size, 1]);
        let indices = self.indices.clone().narrow(1, number, 1);
        Minibatch {
            actions: indices.clone().narrow(0, 0, 1).reshape([size, 1]),
            index: indices.narrow(0, 1, 1).reshape([size]).inner(),
            log_probs: column(0),
            values: column(1),
            advantages: column(2),
            returns: column(3),
        }
    }
}

/// The data of a minibatch, each but the index `[batch, 1]`.
pub(super) struct Minibatch<A: AutodiffBackend> {
    /// Places in the rollout: `[batch]`
    pub(super) index: Tensor<A::InnerBackend, 1, Int>,
    pub(super) actions: Tensor<A, 2, Int>,
    pub(super) log_probs: Tensor<A, 2>,
    pub(super) values: Tensor<A, 2>,
    /// Normalised within the minibatch.
    pub(super) advantages: Tensor<A, 2>,
    pub(super) returns: Tensor<A, 2>,
}

/// The loss of a minibatch, and its metrics: [`METRICS`] without `grad_norm`.
pub(super) struct Losses<A: AutodiffBackend> {
    pub(super) total: Tensor<A, 1>,
    pub(super) metrics: Tensor<A, 1>,
}

/// Returns PPO's loss: the clipped surrogate, the clipped value loss and the entropy bonus.
///
/// # Shapes
/// - `logits`: `[batch, actions]`
/// - `value`: `[batch, 1]`
pub(super) fn losses<A: AutodiffBackend>(
    logits: Tensor<A, 2>,
    value: Tensor<A, 2>,
    minibatch: &Minibatch<A>,
    config: &FinetuneConfig,
) -> Losses<A> {
    let log_probs = activation::log_softmax(logits, 1);
    let entropy = (log_probs.clone().exp() * log_probs.clone()).sum_dim(1).mean().neg();
    let log_ratio = log_probs.gather(1, minibatch.actions.clone()) - minibatch.log_probs.clone();
    let ratio = log_ratio.clone().exp();
    let clip_coef = config.clip_coef;

    // The worse of the two losses: there is no gain in moving a ratio beyond the clip range.
    let neg_advantages = minibatch.advantages.clone().neg();
    let policy_loss = (neg_advantages.clone() * ratio.clone())
        .max_pair(neg_advantages * ratio.clone().clamp(1.0 - clip_coef, 1.0 + clip_coef))
        .mean();
    let square = |x: Tensor<A, 2>| x.clone() * x;
    let values = minibatch.values.clone();
    let clipped_value = values.clone() + (value.clone() - values).clamp(-clip_coef, clip_coef);
    let value_loss = square(value - minibatch.returns.clone())
        .max_pair(square(clipped_value - minibatch.returns.clone()))
        .mean()
        / 2.0;

    // The low-variance estimate k3 of http://joschu.net/blog/kl-approx.html.
    let approx_kl = (ratio.clone() - 1.0 - log_ratio).mean();
    let clipfrac = (ratio - 1.0).abs().greater_elem(clip_coef).float().mean();
    let total = policy_loss.clone() + value_loss.clone() * config.vf_coef
        - entropy.clone() * config.ent_coef;
    Losses {
        total,
        metrics: Tensor::cat(vec![policy_loss, value_loss, entropy, approx_kl, clipfrac], 0),
    }
}
