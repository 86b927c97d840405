//! The sixteen games of Procgen and their published returns.

use std::fmt;

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

/// A game of Procgen.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
#[expect(missing_docs, reason = "the names are the documentation")]
pub enum Game {
    Bigfish,
    Bossfight,
    Caveflyer,
    Chaser,
    Climber,
    Coinrun,
    Dodgeball,
    Fruitbot,
    Heist,
    Jumper,
    Leaper,
    Maze,
    Miner,
    Ninja,
    Plunder,
    Starpilot,
}

/// Published mean returns in easy mode, on unlimited levels.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct PublishedReturns {
    /// Return of random actions.
    pub random: f64,
    /// Return of the paper's expert.
    pub expert: f64,
    /// Returns of the paper's latent policy with a decoder trained offline on 256 and on 8,192
    /// transitions.
    pub offline: [f64; 2],
    /// Returns after 4,000,000 steps in the game: PPO from scratch, the latent policy without the
    /// supervised path, and the latent policy with it.
    pub online: [f64; 3],
}

impl Game {
    /// Every game.
    pub const ALL: [Game; 16] = [
        Game::Bigfish,
        Game::Bossfight,
        Game::Caveflyer,
        Game::Chaser,
        Game::Climber,
        Game::Coinrun,
        Game::Dodgeball,
        Game::Fruitbot,
        Game::Heist,
        Game::Jumper,
        Game::Leaper,
        Game::Maze,
        Game::Miner,
        Game::Ninja,
        Game::Plunder,
        Game::Starpilot,
    ];

    /// Returns the name in Procgen.
    pub fn name(self) -> &'static str {
        self.published().0
    }

    /// Returns the published returns of the game (Schmidt & Jiang, 2024).
    ///
    /// Random and expert returns are from LAPO's code. The others are read off the paper's figures,
    /// with a precision of about 0.5% of an axis.
    pub fn returns(self) -> PublishedReturns {
        let (_, random, expert, offline, online) = self.published();
        PublishedReturns { random, expert, offline, online }
    }

    /// Name, random, expert, offline and online returns.
    fn published(self) -> (&'static str, f64, f64, [f64; 2], [f64; 3]) {
        match self {
            Game::Bigfish => ("bigfish", 0.8742888, 36.336166, [36.3, 36.9], [2.58, 34.26, 34.87]),
            Game::Bossfight => {
                ("bossfight", 0.04618272, 11.634365, [9.46, 10.2], [9.26, 10.42, 10.62])
            }
            Game::Caveflyer => ("caveflyer", 2.5970738, 9.183605, [3.43, 3.58], [5.19, 6.53, 8.26]),
            Game::Chaser => ("chaser", 0.6632482, 9.955711, [0.87, 1.03], [3.55, 9.3, 10.06]),
            Game::Climber => ("climber", 2.2242901, 10.233627, [4.34, 5.77], [5.18, 9.86, 10.5]),
            Game::Coinrun => ("coinrun", 2.704834, 9.93251, [6.46, 6.66], [9.23, 9.48, 9.82]),
            Game::Dodgeball => {
                ("dodgeball", 0.612983, 13.486584, [13.95, 14.4], [1.51, 14.88, 15.73])
            }
            Game::Fruitbot => {
                ("fruitbot", -2.5330205, 29.925259, [1.74, 2.45], [27.6, 29.69, 29.46])
            }
            Game::Heist => ("heist", 3.0758767, 9.685265, [9.41, 9.74], [3.38, 9.83, 9.9]),
            Game::Jumper => ("jumper", 3.4105318, 8.460201, [7.51, 7.66], [6.85, 8.68, 8.85]),
            Game::Leaper => ("leaper", 2.5105245, 7.4082565, [2.49, 2.58], [5.33, 6.93, 6.85]),
            Game::Maze => ("maze", 4.2726293, 9.969294, [7.51, 9.41], [7.44, 9.88, 9.94]),
            Game::Miner => ("miner", 1.2513667, 11.892558, [7.27, 8.99], [5.71, 10.91, 12.0]),
            Game::Ninja => ("ninja", 2.5599792, 9.474582, [6.29, 6.66], [5.25, 8.31, 9.45]),
            Game::Plunder => ("plunder", 4.3207445, 11.460528, [2.86, 4.54], [4.03, 11.22, 13.81]),
            Game::Starpilot => {
                ("starpilot", 1.5251881, 66.98625, [52.8, 52.6], [36.38, 52.79, 56.29])
            }
        }
    }
}

impl fmt::Display for Game {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.name())
    }
}

impl PublishedReturns {
    /// Normalises a return: 0 for random actions, 1 for the expert.
    pub fn normalised(&self, mean: f64) -> f64 {
        (mean - self.random) / (self.expert - self.random)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn random_returns_normalise_to_0_and_expert_returns_to_1() {
        for game in Game::ALL {
            let returns = game.returns();
            assert!(
                returns.normalised(returns.random).abs() < 1e-12
                    && (returns.normalised(returns.expert) - 1.0).abs() < 1e-12
            );
            assert_eq!(serde_json::to_value(game).ok(), Some(game.name().into()));
        }
        assert!((Game::Maze.returns().normalised(7.51) - 0.568).abs() < 1e-3);
    }
}
