//! What is kept and changed around an environment: the returns of its episodes, rewards of a learner's size, smaller frames.

use super::{End, NATIVE, VecEnv};

/// An episode that ended.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Episode {
    /// Which environment it was played in.
    pub env: usize,
    /// The sum of its rewards.
    pub episode_return: f64,
    /// Its steps.
    pub length: u64,
    /// How it ended.
    pub end: End,
}

/// Adds up rewards until episodes end.
#[derive(Clone, Debug)]
pub struct EpisodeStatistics {
    running: Vec<(f64, u64)>,
}

impl EpisodeStatistics {
    /// For so many environments, at the beginning of an episode each.
    pub fn new(envs: usize) -> Self {
        EpisodeStatistics { running: vec![(0.0, 0); envs] }
    }

    /// Takes up an environment's last step; returns the episodes it ended.
    pub fn update(&mut self, env: &dyn VecEnv) -> Vec<Episode> {
        self.take(env.rewards(), env.ends())
    }

    /// All it remembers, bit by bit.
    pub fn bits(&self) -> Vec<u64> {
        self.running.iter().flat_map(|(sum, length)| [sum.to_bits(), *length]).collect()
    }

    /// Takes over what another remembered.
    pub fn restore(&mut self, bits: &[u64]) {
        self.running =
            bits.chunks_exact(2).map(|pair| (f64::from_bits(pair[0]), pair[1])).collect();
    }

    fn take(&mut self, rewards: &[f32], ends: &[End]) -> Vec<Episode> {
        let mut ended = Vec::new();
        for (env, ((sum, length), (reward, end))) in
            self.running.iter_mut().zip(rewards.iter().zip(ends)).enumerate()
        {
            *sum += f64::from(*reward);
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

/// Divides rewards by the standard deviation of discounted returns, then clips them (as PPO's usual wrappers do).
#[derive(Clone, Debug)]
pub struct RewardScale {
    gamma: f64,
    clip: f64,
    returns: Vec<f64>,
    mean: f64,
    variance: f64,
    seen: f64,
}

impl RewardScale {
    /// For so many environments; rewards end within `[-clip, clip]`.
    pub fn new(envs: usize, gamma: f64, clip: f64) -> Self {
        RewardScale { gamma, clip, returns: vec![0.0; envs], mean: 0.0, variance: 1.0, seen: 1e-4 }
    }

    /// All it remembers, bit by bit.
    pub fn bits(&self) -> Vec<u64> {
        self.returns
            .iter()
            .chain([&self.mean, &self.variance, &self.seen])
            .map(|value| value.to_bits())
            .collect()
    }

    /// Takes over what another remembered.
    pub fn restore(&mut self, bits: &[u64]) {
        let mut values: Vec<f64> = bits.iter().map(|bits| f64::from_bits(*bits)).collect();
        if let [mean, variance, seen] = values.split_off(bits.len().saturating_sub(3))[..] {
            (self.mean, self.variance, self.seen, self.returns) = (mean, variance, seen, values);
        }
    }

    /// The rewards of one step, scaled by all that was seen so far.
    pub fn scale(&mut self, rewards: &[f32], ends: &[End]) -> Vec<f32> {
        for (sum, reward) in self.returns.iter_mut().zip(rewards) {
            *sum = *sum * self.gamma + f64::from(*reward);
        }
        self.see();
        for (sum, _) in self.returns.iter_mut().zip(ends).filter(|(_, end)| **end != End::None) {
            *sum = 0.0;
        }
        let deviation = (self.variance + 1e-8).sqrt();
        rewards
            .iter()
            .map(|reward| (f64::from(*reward) / deviation).clamp(-self.clip, self.clip) as f32)
            .collect()
    }

    /// Joins the mean and variance of this step's returns to those before (Chan et al., 1979).
    fn see(&mut self) {
        let count = self.returns.len() as f64;
        let mean = self.returns.iter().sum::<f64>() / count;
        let variance = self.returns.iter().map(|value| (value - mean).powi(2)).sum::<f64>() / count;
        let (total, apart) = (self.seen + count, mean - self.mean);
        self.variance = (self.variance * self.seen
            + variance * count
            + apart * apart * self.seen * count / total)
            / total;
        self.mean += apart * count / total;
        self.seen = total;
    }
}

/// Appends a frame of a game at `size` x `size`, each pixel the mean of the square it covers.
pub fn shrink(frame: &[u8], size: usize, out: &mut Vec<u8>) {
    let by = NATIVE / size;
    let half = (by * by / 2) as u32;
    for (row, column, channel) in
        (0..size).flat_map(|y| (0..size).flat_map(move |x| (0..3).map(move |c| (y, x, c))))
    {
        let square = (0..by * by).map(|i| (row * by + i / by) * NATIVE + column * by + i % by);
        let sum: u32 = square.map(|pixel| u32::from(frame[pixel * 3 + channel])).sum();
        out.push(((sum + half) / (by * by) as u32) as u8);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn returns_are_summed_by_environment_and_begin_anew() {
        let mut statistics = EpisodeStatistics::new(2);
        assert!(statistics.take(&[1.0, 2.0], &[End::None; 2]).is_empty());
        let ended = statistics.take(&[0.5, 4.0], &[End::None, End::Done]);
        assert_eq!(ended, [Episode { env: 1, episode_return: 6.0, length: 2, end: End::Done }]);
        let ended = statistics.take(&[1.0, 8.0], &[End::Truncated; 2]);
        assert_eq!(
            ended.iter().map(|e| (e.episode_return, e.length)).collect::<Vec<_>>(),
            [(2.5, 3), (8.0, 1)]
        );
    }

    /// The slow way: all returns at once.
    #[test]
    fn rewards_are_divided_by_the_deviation_of_all_returns_so_far() {
        let (mut scale, mut all, mut sum) = (RewardScale::new(1, 0.5, 10.0), Vec::new(), 0.0);
        for step in 0..50_u32 {
            let reward = f64::from(step * step % 7);
            sum = sum * 0.5 + reward;
            all.push(sum);
            let mean = all.iter().sum::<f64>() / all.len() as f64;
            let variance =
                all.iter().map(|value| (value - mean).powi(2)).sum::<f64>() / all.len() as f64;
            let scaled = scale.scale(&[reward as f32], &[End::None]);
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

    #[test]
    fn a_smaller_frame_is_the_mean_of_the_squares_it_covers() {
        let frame: Vec<u8> = (0..NATIVE * NATIVE * 3).map(|i| (i * 7 % 251) as u8).collect();
        let mut same = Vec::new();
        shrink(&frame, 64, &mut same);
        assert_eq!(same, frame);
        let mut half = Vec::new();
        shrink(&frame, 32, &mut half);
        assert_eq!(half.len(), 32 * 32 * 3);
        let at = |y: usize, x: usize, c: usize| f64::from(frame[(y * NATIVE + x) * 3 + c]);
        let mean = (at(10, 20, 1) + at(10, 21, 1) + at(11, 20, 1) + at(11, 21, 1)) / 4.0;
        assert_eq!(f64::from(half[(5 * 32 + 10) * 3 + 1]), (mean + 1e-9).round());
    }
}
