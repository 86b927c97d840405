//! The metrics of a rollout, and the verdict on the agent at the end.

use burn::module::AutodiffModule;
use burn::tensor::backend::Backend;
use serde::Serialize;

use super::Ppo;
use super::rollout::Rollout;
use super::update::Row;
use crate::envs::{Game, GameSetting, Mode};
use crate::stages::model_files::{verdict_json, write_model};
use crate::stages::{Error, TaskOutput};
use crate::train::metrics::Metrics;
use crate::train::optim::TrainBackend;

/// The mean return is over at least the last 100 episodes, if there are as many.
const LAST_EPISODES: f64 = 100.0;

/// The quality of an agent: the returns of its last training episodes, with exploration.
#[derive(Clone, Debug, PartialEq, Serialize)]
struct Verdict {
    game: String,
    steps: u64,
    last_episodes: f64,
    mean_return: f64,
    /// The mean return on a scale from 0, the published return of random actions, to 1, the
    /// published expert's. None for environments of Gymnasium, and for hard levels: the published
    /// returns are those of easy ones.
    #[serde(skip_serializing_if = "Option::is_none")]
    normalised: Option<f64>,
}

impl Verdict {
    fn new(game: &GameSetting, mode: Mode, steps: u64, metrics: &Metrics) -> Self {
        let mut sum = 0.0;
        let mut last_episodes = 0.0;
        let updates = metrics.column("episode_return").zip(metrics.column("episodes"));
        for (mean, count) in updates.rev() {
            if last_episodes >= LAST_EPISODES {
                break;
            }
            // The mean is null after an update in which no episode ended.
            if let (Some(mean), Some(count)) = (mean, count) {
                sum += f64::from(mean) * f64::from(count);
                last_episodes += f64::from(count);
            }
        }
        let mean_return = sum / last_episodes;
        Verdict {
            game: game.to_string(),
            steps,
            last_episodes,
            mean_return,
            normalised: game
                .procgen()
                .filter(|_| mode == Mode::Easy)
                .map(Game::returns)
                .map(|returns| returns.normalised(mean_return)),
        }
    }

    fn sentence(&self) -> String {
        let Verdict { game, steps, last_episodes, mean_return, normalised } = self;
        if !mean_return.is_finite() {
            return format!(
                "after {steps} steps in {game} no episode has ended, so the agent's return is \
                 unknown"
            );
        }
        let share = normalised.map_or(String::new(), |normalised| {
            format!(" ({normalised:.2} of the way from random to expert)")
        });
        format!(
            "after {steps} steps in {game} the last {last_episodes} episodes had a mean return of \
             {mean_return:.2}{share}"
        )
    }
}

impl<B: Backend> Rollout<B> {
    /// Returns the metrics of the rollout.
    pub(super) fn metrics(&self, returns: &[f32]) -> Row {
        let residuals = returns.iter().zip(&self.values).map(|(seen, value)| seen - value);
        // With equal returns the ratio is not finite, and such values are not logged.
        let explained = 1.0 - variance(residuals) / variance(returns.iter().copied());
        let count = self.episodes.len();
        let mut row = vec![("explained_variance", explained as f32), ("episodes", count as f32)];
        if count > 0 {
            let sum: f64 = self.episodes.iter().map(|episode| episode.episode_return).sum();
            let length: u64 = self.episodes.iter().map(|episode| episode.length).sum();
            row.extend([
                ("episode_return", (sum / count as f64) as f32),
                ("episode_length", length as f32 / count as f32),
            ]);
        }
        row
    }
}

fn variance(values: impl Iterator<Item = f32>) -> f64 {
    let values: Vec<f64> = values.map(f64::from).collect();
    let mean = values.iter().sum::<f64>() / values.len() as f64;
    values.iter().map(|value| (value - mean).powi(2)).sum::<f64>() / values.len() as f64
}

impl<A: TrainBackend> Ppo<'_, A> {
    /// Writes the agent, its metrics and the verdict.
    pub(super) fn finish(&self, metrics: &Metrics) -> Result<TaskOutput, Error> {
        let place = self.ctx;
        let config = &self.task.config;
        let steps = config.updates() * config.batch() as u64;
        let verdict = Verdict::new(&config.game, config.mode, steps, metrics);
        place.progress.say(&verdict.sentence());
        let weights = self.agent.net.valid().export(&self.agent.config, &self.task.provenance)?;
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
        let maze = GameSetting::Procgen(Game::Maze);
        let verdict = Verdict::new(&maze, Mode::Easy, 4, &metrics);
        assert_eq!((verdict.last_episodes, verdict.mean_return), (100.0, 7.6));
        assert!(verdict.normalised.is_some());
        // The published returns are those of easy levels.
        assert_eq!(Verdict::new(&maze, Mode::Hard, 4, &metrics).normalised, None);
        let none = Verdict::new(&maze, Mode::Easy, 4, &Metrics::default()).sentence();
        assert!(none.contains("no episode has ended") && !none.contains("NaN"), "{none}");
    }
}
