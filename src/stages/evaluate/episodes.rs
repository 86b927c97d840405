//! The table of evaluated episodes, and the mean returns of each player.

use serde::Serialize;

use super::Episode;
use super::latents;
use super::rollouts::Rollouts;
use crate::dataset::{Column, FileInfo, write_table};
use crate::envs::{End, Game, GameSetting, PublishedReturns};
use crate::stages::latent_quality::LatentQuality;
use crate::stages::player::GamePlayer;
use crate::stages::{Error, TaskContext};
use crate::train::probe::Probe;

/// Every episode of every player, column by column.
#[derive(Default)]
pub(super) struct EpisodeTable {
    player: Vec<String>,
    transitions: Vec<Option<u64>>,
    draw: Vec<Option<u64>>,
    level: Vec<i32>,
    episode_return: Vec<f64>,
    length: Vec<u64>,
    end: Vec<End>,
}

impl EpisodeTable {
    /// Returns the number of episodes.
    pub(super) fn len(&self) -> usize {
        self.player.len()
    }

    pub(super) fn extend(&mut self, player: &GamePlayer, episodes: Vec<Episode>) {
        let (name, transitions, draw) = match player {
            GamePlayer::Random | GamePlayer::Sticky(_) => ("random", None, None),
            GamePlayer::Expert => ("expert", None, None),
            GamePlayer::Trained(trained, _) => match trained.decoder() {
                Some([transitions, draw]) => ("policy", Some(transitions), Some(draw)),
                None => ("agent", None, None),
            },
        };
        for episode in episodes {
            self.player.push(name.to_owned());
            self.transitions.push(transitions);
            self.draw.push(draw);
            self.level.push(episode.level);
            self.episode_return.push(episode.episode_return);
            self.length.push(episode.length);
            self.end.push(episode.end);
        }
    }

    /// Writes a row for every episode. Writes no file if there are none.
    pub(super) fn write(&self, ctx: &TaskContext) -> Result<Vec<FileInfo>, Error> {
        if self.player.is_empty() {
            return Ok(vec![]);
        }
        let counts = |values: &[Option<u64>]| {
            Column::F64(values.iter().map(|value| value.map(|value| value as f64)).collect())
        };
        let ends = self
            .end
            .iter()
            .map(|end| if *end == End::Truncated { "truncated" } else { "done" }.to_owned());
        let columns = [
            ("player", Column::Text(self.player.clone())),
            ("transitions", counts(&self.transitions)),
            ("draw", counts(&self.draw)),
            (
                "level",
                Column::F64(self.level.iter().map(|level| Some(f64::from(*level))).collect()),
            ),
            (
                "episode_return",
                Column::F64(self.episode_return.iter().copied().map(Some).collect()),
            ),
            ("length", Column::U64(self.length.clone())),
            ("end", Column::Text(ends.collect())),
        ];
        Ok(vec![write_table(ctx.store, &format!("{}/episodes.parquet", ctx.folder), &columns)?])
    }

    /// Returns the mean returns of each player.
    pub(super) fn returns(&self, game: &GameSetting) -> GameReturns {
        let returns = game.procgen().map(Game::returns);
        let mut rows: Vec<PlayerReturns> = Vec::new();
        // Episodes of one player are consecutive, and so are the draws of equally many transitions.
        let mut at = 0;
        while at < self.player.len() {
            let same = |i: &usize| {
                (&self.player[*i], self.transitions[*i]) == (&self.player[at], self.transitions[at])
            };
            let end = (at..self.player.len()).take_while(same).count() + at;
            rows.push(PlayerReturns::new(
                &self.player[at],
                self.transitions[at],
                &self.episode_return[at..end],
                returns,
            ));
            at = end;
        }
        GameReturns { game: game.to_string(), rows, published: returns.map(Published::from) }
    }
}

/// The mean return of a player, over all draws of equally many transitions.
#[derive(Clone, Debug, PartialEq, Serialize)]
struct PlayerReturns {
    player: String,
    transitions: Option<u64>,
    episodes: usize,
    mean_return: f64,
    /// The standard error of the mean.
    standard_error: f64,
    /// The mean on a scale from 0 (published random actions) to 1 (published expert).
    #[serde(skip_serializing_if = "Option::is_none")]
    normalised: Option<f64>,
}

impl PlayerReturns {
    fn new(
        player: &str,
        transitions: Option<u64>,
        returns: &[f64],
        published: Option<PublishedReturns>,
    ) -> PlayerReturns {
        let count = returns.len() as f64;
        let mean = returns.iter().sum::<f64>() / count;
        // The unbiased estimate of the variance.
        let variance = returns.iter().map(|value| (value - mean).powi(2)).sum::<f64>()
            / (count - 1.0).max(1.0);
        PlayerReturns {
            player: player.to_owned(),
            transitions,
            episodes: returns.len(),
            mean_return: mean,
            standard_error: (variance / count).sqrt(),
            normalised: published.map(|published| published.normalised(mean)),
        }
    }
}

/// Published returns in this game, easy mode.
#[derive(Clone, Debug, PartialEq, Serialize)]
struct Published {
    random: f64,
    expert: f64,
    offline_256: f64,
    offline_8192: f64,
}

impl From<PublishedReturns> for Published {
    fn from(
        PublishedReturns { random, expert, offline: [few, many], .. }: PublishedReturns,
    ) -> Self {
        Published { random, expert, offline_256: few, offline_8192: many }
    }
}

/// The mean returns in a game.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub(super) struct GameReturns {
    game: String,
    rows: Vec<PlayerReturns>,
    /// None for environments of Gymnasium.
    #[serde(skip_serializing_if = "Option::is_none")]
    published: Option<Published>,
}

impl GameReturns {
    fn sentence(&self) -> String {
        let row = |row: &PlayerReturns| {
            let who = row
                .transitions
                .map_or(row.player.clone(), |transitions| format!("{transitions} transitions"));
            format!("{who} {:.2} (±{:.2})", row.mean_return, row.standard_error)
        };
        let rows: Vec<String> = self.rows.iter().map(row).collect();
        let means = format!("mean return in {}: {}", self.game, rows.join(", "));
        let Some(Published { random, expert, offline_256, offline_8192 }) = self.published else {
            return means;
        };
        format!(
            "{means}; published: random {random:.2}, expert {expert:.2}, 256 transitions \
             {offline_256:.2}, 8192 {offline_8192:.2}"
        )
    }
}

/// The results of all evaluations.
#[derive(Clone, Debug, Default, PartialEq, Serialize)]
pub(super) struct Evaluation {
    #[serde(flatten)]
    pub returns: Option<GameReturns>,
    pub probe: Option<Probe>,
    pub rollouts: Option<Rollouts>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub latents: Option<LatentQuality>,
}

impl Evaluation {
    pub(super) fn sentence(&self) -> String {
        let Evaluation { returns, probe, rollouts, latents: tested } = self;
        let sentences = [
            returns.as_ref().map(GameReturns::sentence),
            probe.as_ref().map(Probe::sentence),
            rollouts.as_ref().map(Rollouts::sentence),
            tested.as_ref().map(latents::sentence),
        ];
        sentences.into_iter().flatten().collect::<Vec<_>>().join("; ")
    }

    /// Writes the probe's row. Writes no file if there was no probe.
    pub(super) fn write(&self, ctx: &TaskContext) -> Result<Vec<FileInfo>, Error> {
        let Some(probe) = &self.probe else { return Ok(vec![]) };
        let number = |value: Option<f64>| Column::F64(vec![value]);
        let mut columns = vec![
            ("transitions", Column::U64(vec![probe.transitions as u64])),
            ("guessing", number(Some(probe.guessing))),
            ("linear", number(Some(probe.linear))),
            ("mlp", number(Some(probe.mlp))),
            ("mutual_information", number(probe.mutual_information)),
            ("action_entropy", number(probe.action_entropy)),
        ];
        // Discrete actions have no errors, so their table stays as it was.
        for (name, error) in [("linear_mse", probe.linear_mse), ("mlp_mse", probe.mlp_mse)] {
            columns.extend(error.map(|error| (name, number(Some(error)))));
        }
        Ok(vec![write_table(ctx.store, &format!("{}/probe.parquet", ctx.folder), &columns)?])
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn draws_of_equally_many_transitions_are_one_row() {
        let mut episodes = EpisodeTable::default();
        let episode =
            |episode_return| Episode { level: 0, episode_return, length: 3, end: End::Done };
        episodes.extend(&GamePlayer::Random, vec![episode(0.0), episode(10.0)]);
        let row = |transitions, returns: &[f64]| {
            PlayerReturns::new("policy", transitions, returns, Some(Game::Maze.returns()))
        };
        for returns in [[10.0, 10.0], [0.0, 10.0]] {
            for value in returns {
                episodes.player.push("policy".into());
                episodes.transitions.push(Some(64));
                episodes.draw.push(Some(0));
                episodes.level.push(0);
                episodes.episode_return.push(value);
                episodes.length.push(1);
                episodes.end.push(End::Done);
            }
        }
        let evaluation = episodes.returns(&GameSetting::Procgen(Game::Maze));
        assert_eq!(evaluation.rows.len(), 2);
        assert_eq!(evaluation.rows[1], row(Some(64), &[10.0, 10.0, 0.0, 10.0]));
        assert!((evaluation.rows[1].standard_error - 2.5).abs() < 1e-12);
    }
}
