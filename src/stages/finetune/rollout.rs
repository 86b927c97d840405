//! What was played between two updates, and how much better it went than was expected.

use burn::tensor::Tensor;
use burn::tensor::backend::Backend;

use super::FinetuneConfig;

/// What was played between two updates: `[step, env]`, one row after the other.
pub(super) struct Rollout<B: Backend> {
    /// One step more than the others: `[step + 1, env, height, width, channel]`
    pub(super) frames: Vec<u8>,
    /// What frozen convolutions left of each frame; without them nothing.
    pub(super) base: Option<Tensor<B, 2>>,
    /// The supervised path's logits.
    pub(super) supervised: Option<Tensor<B, 2>>,
    pub(super) actions: Vec<u32>,
    /// Of the action taken, when it was taken.
    pub(super) log_probs: Vec<f32>,
    pub(super) values: Vec<f32>,
    /// Scaled and clipped.
    pub(super) rewards: Vec<f32>,
    /// Whether the step was its episode's last.
    pub(super) ends: Vec<bool>,
    /// The value of what each environment shows at the end: `[env]`
    pub(super) last_values: Vec<f32>,
    /// Returns and lengths of the episodes that ended.
    pub(super) episodes: Vec<(f64, u64)>,
}

impl<B: Backend> Default for Rollout<B> {
    fn default() -> Self {
        let (frames, base, supervised, actions, log_probs, values) = Default::default();
        let (rewards, ends, last_values, episodes) = Default::default();
        Rollout {
            frames,
            base,
            supervised,
            actions,
            log_probs,
            values,
            rewards,
            ends,
            last_values,
            episodes,
        }
    }
}

impl<B: Backend> Rollout<B> {
    /// The frames of some steps.
    pub(super) fn frames_at(&self, places: &[usize]) -> Vec<u8> {
        let bytes = self.frames.len() / (self.actions.len() + self.last_values.len());
        places.iter().flat_map(|&i| &self.frames[i * bytes..][..bytes]).copied().collect()
    }
}

/// Generalised advantage estimates (Schulman et al., 2016) and the returns they stand for: `[step, env]` each.
///
/// Nothing is expected after an episode's last step, even where its time was up: Procgen does not show what would have come.
pub(super) fn advantages<B: Backend>(
    rollout: &Rollout<B>,
    config: &FinetuneConfig,
) -> (Vec<f32>, Vec<f32>) {
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
    let returns = advantages
        .iter()
        .zip(&rollout.values)
        .map(|(advantage, value)| advantage + value)
        .collect();
    (advantages, returns)
}
