//! The metrics of a rollout, and the verdict on the agent at the end.

use burn::module::AutodiffModule;
use burn::tensor::backend::Backend;
use serde::Serialize;

use super::Ppo;
use super::learner::Row;
use super::rollout::Rollout;
use crate::envs::Game;
use crate::stages::model_files::{verdict_json, write_model};
use crate::stages::{Error, TaskOutput};
use crate::train::metrics::Metrics;
use crate::train::optim::TrainBackend;

/// The mean return is over at least this many last episodes.
const LAST_EPISODES: f64 = 100.0;

/// The returns of the last episodes, which were played with exploration.
#[derive(Clone, Debug, PartialEq, Serialize)]
struct Verdict {
    game: Game,
    steps: u64,
    last_episodes: f64,
    mean_return: f64,
    /// The mean return on a scale from 0, the published return of random actions, to 1, the published
    /// expert's.
    normalised: f64,
}

impl Verdict {
    fn new(game: Game, steps: u64, metrics: &Metrics) -> Self {
        let (mut sum, mut last_episodes) = (0.0, 0.0);
        for (mean, count) in metrics.column("episode_return").zip(metrics.column("episodes")).rev()
        {
            if let (Some(mean), Some(count), true) = (mean, count, last_episodes < LAST_EPISODES) {
                (sum, last_episodes) =
                    (sum + f64::from(mean) * f64::from(count), last_episodes + f64::from(count));
            }
        }
        let mean_return = sum / last_episodes;
        Verdict {
            game,
            steps,
            last_episodes,
            mean_return,
            normalised: game.returns().normalised(mean_return),
        }
    }

    fn sentence(&self) -> String {
        let Verdict { game, steps, last_episodes, mean_return, normalised } = self;
        if !mean_return.is_finite() {
            return format!(
                "after {steps} steps in {game} no episode has ended, so the agent's return is unknown"
            );
        }
        format!(
            "after {steps} steps in {game} the last {last_episodes} episodes had a mean return of {mean_return:.2} ({normalised:.2} of the way from random to expert)"
        )
    }
}

impl<B: Backend> Rollout<B> {
    /// Returns the metrics of the rollout.
    pub(super) fn metrics(&self, returns: &[f32]) -> Row {
        let variance = |values: &mut dyn Iterator<Item = f32>| {
            let values: Vec<f64> = values.map(f64::from).collect();
            let mean = values.iter().sum::<f64>() / values.len() as f64;
            values.iter().map(|value| (value - mean).powi(2)).sum::<f64>() / values.len() as f64
        };
        // With equal returns the ratio is not finite, and such values are not logged.
        let residual =
            variance(&mut returns.iter().zip(&self.values).map(|(seen, value)| seen - value));
        let count = self.episodes.len();
        let mut row = vec![
            (
                "explained_variance",
                (1.0 - residual / variance(&mut returns.iter().copied())) as f32,
            ),
            ("episodes", count as f32),
        ];
        if count > 0 {
            let (sum, length) = self
                .episodes
                .iter()
                .fold((0.0, 0), |(sum, length), one| (sum + one.0, length + one.1));
            row.extend([
                ("episode_return", (sum / count as f64) as f32),
                ("episode_length", length as f32 / count as f32),
            ]);
        }
        row
    }
}

impl<A: TrainBackend> Ppo<'_, A> {
    /// Writes the agent, its curve and the verdict.
    pub(super) fn finish(&self, metrics: &Metrics) -> Result<TaskOutput, Error> {
        let (place, config) = (self.ctx, &self.task.config);
        let verdict = Verdict::new(config.game, config.updates() * config.batch() as u64, metrics);
        place.progress.say(&verdict.sentence());
        let weights =
            self.learner.net.valid().export(&self.learner.agent, &self.task.provenance)?;
        let json = verdict_json(serde_json::json!({ "sentence": verdict.sentence() }), &verdict);
        let files = write_model(place, "agent.safetensors", &weights, &json, metrics)?;
        let mut stats = self.seconds.clone();
        stats.extend([
            ("env_steps".to_owned(), verdict.steps as f64),
            ("mean_return".to_owned(), verdict.mean_return),
        ]);
        Ok(TaskOutput { files, stats, ..TaskOutput::default() })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_mean_return_weighs_updates_by_their_episodes() {
        let mut metrics = Metrics::default();
        for (step, mean, count) in [(1, 0.0, 50.0), (2, 10.0, 60.0), (3, 4.0, 40.0)] {
            metrics
                .log(step, [("episode_return".to_owned(), mean), ("episodes".to_owned(), count)]);
        }
        metrics.log(4, [("episodes".to_owned(), 0.0)]);
        let verdict = Verdict::new(Game::Maze, 4, &metrics);
        assert_eq!((verdict.last_episodes, verdict.mean_return), (100.0, 7.6));
        let none = Verdict::new(Game::Maze, 4, &Metrics::default()).sentence();
        assert!(none.contains("no episode has ended") && !none.contains("NaN"), "{none}");
    }
}
