//! The table of evaluated episodes, and the mean returns of each player.

use serde::Serialize;

use super::Episode;
use super::latents;
use super::rollouts::Rollouts;
use crate::dataset::{Column, FileInfo, write_table};
use crate::envs::{End, Game, GameSetting, PublishedReturns};
use crate::stages::latent_quality::LatentQuality;
use crate::stages::level_means::{LevelMean, by_level, deviation};
use crate::stages::player::GamePlayer;
use crate::stages::{Error, TaskContext};
use crate::train::probe::Probe;

/// The name of the player with random actions.
const RANDOM: &str = "random";

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
            GamePlayer::Random | GamePlayer::Sticky(_) => (RANDOM, None, None),
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
        let published = game.procgen().map(Game::returns);
        let mut rows = Vec::new();
        let mut random = None;
        // Episodes of one player are consecutive, and so are the draws of equally many transitions.
        let mut at = 0;
        while at < self.player.len() {
            let same = |i: &usize| {
                (&self.player[*i], self.transitions[*i]) == (&self.player[at], self.transitions[at])
            };
            let end = (at..self.player.len()).take_while(same).count() + at;
            let levels = by_level((at..end).map(|i| self.level_and_return(i)));
            let mean = LevelMean::of(levels.values().copied());
            if self.player[at] == RANDOM {
                random = Some(levels.clone());
            }
            let random = random.as_ref().filter(|_| self.player[at] != RANDOM);
            rows.push(PlayerReturns {
                player: self.player[at].clone(),
                transitions: self.transitions[at],
                episodes: end - at,
                levels: mean.levels,
                mean_return: mean.mean,
                standard_error: mean.standard_error,
                deviation_of_draws: self.deviation_of_draws(at..end),
                over_random: random.map(|random| LevelMean::of_difference(&levels, random)),
                normalised: published.map(|published| published.normalised(mean.mean)),
            });
            at = end;
        }
        GameReturns { game: game.to_string(), rows, published: published.map(Published::from) }
    }

    fn level_and_return(&self, episode: usize) -> (i64, f64) {
        (self.level[episode].into(), self.episode_return[episode])
    }

    /// Returns the standard deviation of the mean returns of draws.
    fn deviation_of_draws(&self, episodes: std::ops::Range<usize>) -> Option<f64> {
        let by_draw = by_level(episodes.filter_map(|episode| {
            Some((self.draw[episode]? as i64, self.episode_return[episode]))
        }));
        deviation(&by_draw.into_values().collect::<Vec<_>>())
    }
}

/// The mean return of a player, over all draws of equally many transitions.
#[derive(Clone, Debug, PartialEq, Serialize)]
struct PlayerReturns {
    player: String,
    transitions: Option<u64>,
    episodes: usize,
    /// Levels, the independent units: all draws meet the same ones.
    levels: usize,
    mean_return: f64,
    /// The standard error of the mean over levels.
    standard_error: Option<f64>,
    /// The standard deviation of the means of draws.
    #[serde(skip_serializing_if = "Option::is_none")]
    deviation_of_draws: Option<f64>,
    /// The mean return over that of random actions, paired by level.
    #[serde(skip_serializing_if = "Option::is_none")]
    over_random: Option<LevelMean>,
    /// The mean on a scale from 0 (published random actions) to 1 (published expert).
    #[serde(skip_serializing_if = "Option::is_none")]
    normalised: Option<f64>,
}

impl PlayerReturns {
    fn sentence(&self) -> String {
        let who = self
            .transitions
            .map_or(self.player.clone(), |transitions| format!("{transitions} transitions"));
        let error = |error: Option<f64>| {
            error.map_or_else(|| "±?".to_owned(), |error| format!("±{error:.2}"))
        };
        let over = self.over_random.map_or_else(String::new, |over| {
            format!("; {:+.2} {} over random", over.mean, error(over.standard_error))
        });
        format!("{who} {:.2} ({}{over})", self.mean_return, error(self.standard_error))
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
        let rows: Vec<String> = self.rows.iter().map(PlayerReturns::sentence).collect();
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
    fn draws_of_equally_many_transitions_are_one_row_of_as_many_levels() {
        let mut episodes = EpisodeTable::default();
        let played = |returns: [f64; 2]| -> Vec<Episode> {
            let episode = |(level, episode_return)| Episode {
                level,
                episode_return,
                length: 3,
                end: End::Done,
            };
            (0..2).zip(returns).map(episode).collect()
        };
        episodes.extend(&GamePlayer::Random, played([0.0, 8.0]));
        for (draw, returns) in [[2.0, 10.0], [4.0, 12.0]].into_iter().enumerate() {
            episodes.extend(&GamePlayer::Expert, played(returns));
            let from = episodes.len() - 2;
            episodes.player[from..].fill("policy".into());
            episodes.transitions[from..].fill(Some(64));
            episodes.draw[from..].fill(Some(draw as u64));
        }
        let evaluation = episodes.returns(&GameSetting::Procgen(Game::Maze));
        let [random, policy] = &evaluation.rows[..] else { panic!("{evaluation:?}") };
        assert_eq!((random.levels, random.mean_return, &random.over_random), (2, 4.0, &None));
        assert_eq!((policy.episodes, policy.levels, policy.mean_return), (4, 2, 7.0));
        // The levels' means are 3 and 11, and each is 3 above random.
        assert_eq!(policy.standard_error, Some(4.0));
        let difference = LevelMean { mean: 3.0, standard_error: Some(0.0), levels: 2 };
        assert_eq!(policy.over_random, Some(difference));
        let between = policy.deviation_of_draws.unwrap_or(f64::NAN);
        assert!((between - 2.0_f64.sqrt()).abs() < 1e-12, "{between}");
        assert_eq!(policy.sentence(), "64 transitions 7.00 (±4.00; +3.00 ±0.00 over random)");
    }
}
