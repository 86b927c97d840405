//! A rollout, and its generalised advantage estimates.

use burn::tensor::Tensor;
use burn::tensor::backend::Backend;

use super::FinetuneConfig;
use crate::envs::wrappers::Episode;

/// The transitions between two updates. All but the frames, `last_values` and `episodes` are
/// `[step, env]`, flat.
#[derive(Default)]
pub(super) struct Rollout<B: Backend> {
    /// `[step + 1, env, height, width, channel]`: the frame before each step and after the last.
    pub(super) frames: Vec<u8>,
    /// Features of each frame from frozen convolutions. `None` if the convolutions learn.
    pub(super) base: Option<Tensor<B, 2>>,
    /// Logits of the supervised path.
    pub(super) supervised: Option<Tensor<B, 2>>,
    pub(super) actions: Vec<u32>,
    /// The log-probability of each action when it was taken.
    pub(super) log_probs: Vec<f32>,
    pub(super) values: Vec<f32>,
    /// Scaled and clipped.
    pub(super) rewards: Vec<f32>,
    /// Whether the step was the last of its episode.
    pub(super) dones: Vec<bool>,
    /// The value after the last step: `[env]`
    pub(super) last_values: Vec<f32>,
    /// The episodes that ended.
    pub(super) episodes: Vec<Episode>,
}

impl<B: Backend> Rollout<B> {
    /// Returns the frames before some of the steps.
    pub(super) fn frames_at(&self, mb_inds: &[usize]) -> Vec<u8> {
        let bytes = self.frames.len() / (self.actions.len() + self.last_values.len());
        mb_inds.iter().flat_map(|&i| &self.frames[i * bytes..][..bytes]).copied().collect()
    }
}

/// Computes generalised advantage estimates (Schulman et al., 2016) and returns: `[step, env]`
/// each.
///
/// The last step of an episode has no next value, even if the time limit ended it: no environment
/// shows the frame after it.
pub(super) fn advantages<B: Backend>(
    rollout: &Rollout<B>,
    config: &FinetuneConfig,
) -> (Vec<f32>, Vec<f32>) {
    let envs = rollout.last_values.len();
    let steps = rollout.values.len();
    let gamma = config.gamma as f32;
    let gae_lambda = config.gae_lambda as f32;
    let mut advantages = vec![0.0; steps];
    let mut last_gae_lam = vec![0.0; envs];
    for t in (0..steps).rev() {
        let env = t % envs;
        let next_nonterminal = if rollout.dones[t] { 0.0 } else { 1.0 };
        let next_value = *rollout.values.get(t + envs).unwrap_or(&rollout.last_values[env]);
        let delta = rollout.rewards[t] + gamma * next_value * next_nonterminal - rollout.values[t];
        last_gae_lam[env] = delta + gamma * gae_lambda * next_nonterminal * last_gae_lam[env];
        advantages[t] = last_gae_lam[env];
    }
    let returns = advantages
        .iter()
        .zip(&rollout.values)
        .map(|(advantage, value)| advantage + value)
        .collect();
    (advantages, returns)
}
