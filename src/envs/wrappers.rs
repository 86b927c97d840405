//! Episode statistics and reward scaling, for any environment.

use super::{End, VecEnv};

/// A finished episode.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Episode {
    /// Number of its environment.
    pub env: usize,
    /// Sum of its rewards, undiscounted.
    pub episode_return: f64,
    /// Number of its steps.
    pub length: u64,
    /// How it ended.
    pub end: End,
}

/// Returns and lengths of the current episodes.
#[derive(Clone, Debug)]
pub struct EpisodeStatistics {
    /// Sum of rewards and number of steps, by environment.
    running: Vec<(f64, u64)>,
}

impl EpisodeStatistics {
    /// Creates statistics for environments at the start of their episodes.
    pub fn new(envs: usize) -> Self {
        EpisodeStatistics { running: vec![(0.0, 0); envs] }
    }

    /// Adds the last step of `env`, and returns the episodes that it ended.
    pub fn update(&mut self, env: &dyn VecEnv) -> Vec<Episode> {
        self.add(&env.rewards(), env.ends())
    }

    /// Returns the state as bits, for a checkpoint.
    pub fn bits(&self) -> Vec<u64> {
        self.running.iter().flat_map(|(sum, length)| [sum.to_bits(), *length]).collect()
    }

    /// Restores the state from [`bits`](Self::bits).
    pub fn restore(&mut self, bits: &[u64]) {
        self.running =
            bits.chunks_exact(2).map(|pair| (f64::from_bits(pair[0]), pair[1])).collect();
    }

    fn add(&mut self, rewards: &[f64], ends: &[End]) -> Vec<Episode> {
        let mut ended = Vec::new();
        for (env, ((sum, length), (reward, end))) in
            self.running.iter_mut().zip(rewards.iter().zip(ends)).enumerate()
        {
            *sum += *reward;
            *length += 1;
            if *end != End::None {
                ended.push(Episode {
                    env,
                    episode_return: std::mem::take(sum),
                    length: std::mem::take(length),
                    end: *end,
                });
            }
        }
        ended
    }
}

/// Scales rewards by the standard deviation of discounted returns and clips them, as the usual
/// wrappers of PPO do.
#[derive(Clone, Debug)]
pub struct RewardScale {
    gamma: f64,
    clip: f64,
    /// Discounted returns, by environment.
    returns: Vec<f64>,
    mean: f64,
    variance: f64,
    /// Number of returns in the mean and the variance.
    count: f64,
}

impl RewardScale {
    /// Creates a scale for `envs` environments. Scaled rewards are in `[-clip, clip]`.
    pub fn new(envs: usize, gamma: f64, clip: f64) -> Self {
        RewardScale { gamma, clip, returns: vec![0.0; envs], mean: 0.0, variance: 1.0, count: 1e-4 }
    }

    /// Returns the state as bits, for a checkpoint.
    pub fn bits(&self) -> Vec<u64> {
        self.returns
            .iter()
            .chain([&self.mean, &self.variance, &self.count])
            .map(|value| value.to_bits())
            .collect()
    }

    /// Restores the state from [`bits`](Self::bits).
    pub fn restore(&mut self, bits: &[u64]) {
        let mut values: Vec<f64> = bits.iter().map(|bits| f64::from_bits(*bits)).collect();
        if let [mean, variance, count] = values.split_off(bits.len().saturating_sub(3))[..] {
            self.mean = mean;
            self.variance = variance;
            self.count = count;
            self.returns = values;
        }
    }

    /// Scales the rewards of one step, using all returns so far.
    pub fn scale(&mut self, rewards: &[f64], ends: &[End]) -> Vec<f32> {
        for (sum, reward) in self.returns.iter_mut().zip(rewards) {
            *sum = *sum * self.gamma + *reward;
        }
        self.update_variance();
        // The returns of finished episodes still count in this step.
        for (sum, _) in self.returns.iter_mut().zip(ends).filter(|(_, end)| **end != End::None) {
            *sum = 0.0;
        }
        let deviation = (self.variance + 1e-8).sqrt();
        rewards
            .iter()
            .map(|reward| (*reward / deviation).clamp(-self.clip, self.clip) as f32)
            .collect()
    }

    /// Merges the mean and variance of this step's returns into the running ones (Chan et al.,
    /// 1979).
    fn update_variance(&mut self) {
        let count = self.returns.len() as f64;
        let mean = self.returns.iter().sum::<f64>() / count;
        let variance = self.returns.iter().map(|value| (value - mean).powi(2)).sum::<f64>() / count;
        let total = self.count + count;
        let delta = mean - self.mean;
        self.variance = (self.variance * self.count
            + variance * count
            + delta * delta * self.count * count / total)
            / total;
        self.mean += delta * count / total;
        self.count = total;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn returns_are_summed_by_environment_and_restart_with_each_episode() {
        let mut statistics = EpisodeStatistics::new(2);
        assert!(statistics.add(&[1.0, 2.0], &[End::None; 2]).is_empty());
        let ended = statistics.add(&[0.5, 4.0], &[End::None, End::Done]);
        assert_eq!(ended, [Episode { env: 1, episode_return: 6.0, length: 2, end: End::Done }]);
        let ended = statistics.add(&[1.0, 8.0], &[End::Truncated; 2]);
        assert_eq!(
            ended.iter().map(|e| (e.episode_return, e.length)).collect::<Vec<_>>(),
            [(2.5, 3), (8.0, 1)]
        );
    }

    /// Compares with the slow way, which computes the variance of all returns at once.
    #[test]
    fn rewards_are_divided_by_the_standard_deviation_of_all_returns_so_far() {
        let mut scale = RewardScale::new(1, 0.5, 10.0);
        let mut all = Vec::new();
        let mut sum = 0.0;
        for step in 0..50_u32 {
            let reward = f64::from(step * step % 7);
            sum = sum * 0.5 + reward;
            all.push(sum);
            let mean = all.iter().sum::<f64>() / all.len() as f64;
            let variance =
                all.iter().map(|value| (value - mean).powi(2)).sum::<f64>() / all.len() as f64;
            let scaled = scale.scale(&[reward], &[End::None]);
            if step > 10 {
                let expected = reward / variance.sqrt();
                assert!(
                    (f64::from(scaled[0]) - expected).abs() < 1e-3,
                    "{} for {expected}",
                    scaled[0]
                );
            }
        }
        scale.clip = 2.0;
        assert_eq!(scale.scale(&[1e6], &[End::None]), [2.0]);
    }
}
