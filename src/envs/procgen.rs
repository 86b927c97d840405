//! Procgen (Cobbe et al., 2020): sixteen games with levels without end, through the library of its Python package.

use std::fmt;
use std::path::{Path, PathBuf};

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use super::libenv::{Libenv, Setting};
use super::state::State;
use super::{End, Error, Result, VecEnv};

/// Rows and columns that Procgen draws.
pub const NATIVE: usize = 64;
/// Buttons that Procgen's Python package offers together.
const ACTIONS: i32 = 15;
/// Abandons an episode.
const ABANDON: i32 = -1;

/// Which game.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
#[expect(missing_docs, reason = "their names are all there is to say")]
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

/// Mean returns in easy mode, levels without end.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Returns {
    /// Of random actions.
    pub random: f64,
    /// Of the paper's expert.
    pub expert: f64,
    /// Of the paper's latent policy with a decoder learnt offline from 256 transitions, and from 8,192.
    pub offline: [f64; 2],
    /// After four million steps in the game: PPO from scratch, the latent policy without the supervised path, and with it.
    pub online: [f64; 3],
}

impl Game {
    /// All of them.
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

    /// Its name in Procgen.
    pub fn name(self) -> &'static str {
        self.row().0
    }

    /// What others earned. Random and expert were published with LAPO's code; the others are read off the paper's figures, to about
    /// half a percent of an axis (Schmidt & Jiang, 2024).
    pub fn returns(self) -> Returns {
        let (_, random, expert, offline, online) = self.row();
        Returns { random, expert, offline, online }
    }

    fn row(self) -> (&'static str, f64, f64, [f64; 2], [f64; 3]) {
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

impl Returns {
    /// A return on the scale where random actions have 0 and the expert has 1.
    pub fn normalised(&self, mean: f64) -> f64 {
        (mean - self.random) / (self.expert - self.random)
    }
}

/// How hard the levels are.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub enum Mode {
    /// As in the paper.
    #[default]
    Easy,
    /// Larger levels, more that kills.
    Hard,
}

/// Which levels are played: `count` of them from `start` on; with a count of 0, all there are.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct Levels {
    /// The first level's number.
    #[serde(default)]
    pub start: u32,
    /// How many there are; 0: all.
    #[serde(default)]
    pub count: u32,
}

impl Levels {
    /// The number after the last level's.
    pub fn end(self) -> u64 {
        u64::from(self.start) + u64::from(self.count)
    }

    /// Whether Procgen can count so far.
    pub fn is_valid(self) -> bool {
        i32::try_from(self.end()).is_ok()
    }
}

/// A game, how it is played, and by how many at once.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ProcgenConfig {
    /// Which game.
    pub game: Game,
    /// How hard its levels are.
    pub mode: Mode,
    /// Which of them are played.
    pub levels: Levels,
    /// Seeds the order of levels; within one, everything is decided by the level and the actions.
    pub seed: u32,
    /// Environments.
    pub count: usize,
    /// Threads they share; 0: each steps in turn, on the caller's.
    pub threads: usize,
}

/// The folder of Procgen's Python package, which holds the library and the pictures.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Package {
    folder: PathBuf,
}

impl Package {
    /// Looks for the package in a few folders: the package itself, a `site-packages`, or a virtual environment.
    pub fn find(folders: &[PathBuf]) -> Result<Package> {
        let within = folders.iter().flat_map(|folder| {
            let environments = glob::glob(&format!(
                "{}/lib/python3*/site-packages/procgen",
                glob::Pattern::escape(&folder.to_string_lossy())
            ));
            [folder.clone(), folder.join("procgen")]
                .into_iter()
                .chain(environments.into_iter().flatten().flatten())
        });
        let found =
            within.map(|folder| Package { folder }).find(|package| package.library().is_file());
        found.ok_or_else(|| Error::NotFound { searched: folders.to_vec() })
    }

    /// The library.
    pub fn library(&self) -> PathBuf {
        let name = if cfg!(target_os = "macos") { "libenv.dylib" } else { "libenv.so" };
        self.folder.join("data/prebuilt").join(name)
    }

    /// The pictures, with a separator at the end.
    fn assets(&self) -> String {
        format!("{}/", self.folder.join("data/assets").display())
    }

    /// The folder itself.
    pub fn folder(&self) -> &Path {
        &self.folder
    }
}

/// Several environments of one game.
pub struct Procgen {
    env: Libenv,
    ends: Vec<End>,
    /// Steps of the running episodes.
    lengths: Vec<u32>,
    timeout: u32,
}

impl Procgen {
    /// Makes environments and begins their episodes. All of a process use the package that the first one did.
    pub fn new(package: &Package, config: &ProcgenConfig) -> Result<Self> {
        let int = |what, value: u64, least: u64| match i32::try_from(value) {
            Ok(number) if value >= least => Ok(Setting::Int(number)),
            _ => Err(Error::Range {
                what,
                seen: value as i64,
                expected: format!("{least} to {}", i32::MAX),
            }),
        };
        int("number of environments", config.count as u64, 1)?;
        let levels = config.levels;
        int("last level", levels.end(), 0)?;
        let mode = match config.mode {
            Mode::Easy => 0,
            Mode::Hard => 1,
        };
        let settings = [
            ("env_name", Setting::Text(config.game.name().into())),
            ("num_levels", int("number of levels", levels.count.into(), 0)?),
            ("start_level", int("first level", levels.start.into(), 0)?),
            ("num_actions", Setting::Int(ACTIONS)),
            ("use_sequential_levels", Setting::Flag(false)),
            ("debug_mode", Setting::Int(0)),
            ("rand_seed", int("seed", config.seed.into(), 0)?),
            ("num_threads", int("number of threads", config.threads as u64, 0)?),
            ("render_human", Setting::Flag(false)),
            ("resource_root", Setting::Text(package.assets())),
            ("center_agent", Setting::Flag(true)),
            ("use_generated_assets", Setting::Flag(false)),
            ("use_monochrome_assets", Setting::Flag(false)),
            ("restrict_themes", Setting::Flag(false)),
            ("use_backgrounds", Setting::Flag(true)),
            ("paint_vel_info", Setting::Flag(false)),
            ("distribution_mode", Setting::Int(mode)),
        ];
        let env = Libenv::new(&package.library(), config.count, &settings)?;
        let timeout = State::read(&env.state(0)?)?.timeout;
        Ok(Procgen {
            ends: vec![End::None; env.count()],
            lengths: vec![0; env.count()],
            timeout,
            env,
        })
    }

    /// All that one environment is, for [`set_state`](Self::set_state).
    pub fn state_bytes(&self, env: usize) -> Result<Vec<u8>> {
        self.env.state(env)
    }

    /// Makes an environment what it, or another of the same game, was. Bytes from elsewhere may end the process.
    pub fn set_state(&mut self, env: usize, state: &[u8]) -> Result<()> {
        let time = State::read(state)?.time;
        self.env.set_state(env, state)?;
        self.lengths[env] = time;
        self.ends[env] = End::None;
        Ok(())
    }

    /// The levels being played: `[env]`.
    pub fn levels(&self) -> &[i32] {
        self.env.info("level_seed").unwrap_or_default()
    }

    /// Acts, whatever the numbers.
    fn act(&mut self, actions: impl Iterator<Item = i32>) {
        self.env.act(actions);
        let complete = self.env.info("prev_level_complete").unwrap_or_default();
        for (i, (end, length)) in self.ends.iter_mut().zip(&mut self.lengths).enumerate() {
            *length += 1;
            *end = match (self.env.firsts()[i] != 0, complete.get(i)) {
                (false, _) => End::None,
                (true, Some(0)) if *length >= self.timeout => End::Truncated,
                (true, _) => End::Done,
            };
            if *end != End::None {
                *length = 0;
            }
        }
    }
}

impl VecEnv for Procgen {
    fn count(&self) -> usize {
        self.env.count()
    }

    fn frame_shape(&self) -> [usize; 3] {
        self.env.frame_shape()
    }

    fn actions(&self) -> usize {
        self.env.actions()
    }

    fn reset(&mut self) {
        self.act(std::iter::repeat_n(ABANDON, self.env.count()));
        self.ends.fill(End::None);
    }

    fn step(&mut self, actions: &[u32]) -> Result<()> {
        let (count, most) = (self.env.count(), self.env.actions());
        if actions.len() != count {
            return Err(Error::Range {
                what: "number of actions",
                seen: actions.len() as i64,
                expected: count.to_string(),
            });
        }
        if let Some(wrong) = actions.iter().find(|action| **action as usize >= most) {
            return Err(Error::Range {
                what: "action",
                seen: i64::from(*wrong),
                expected: format!("below {most}"),
            });
        }
        self.act(actions.iter().map(|action| *action as i32));
        Ok(())
    }

    fn frames(&self) -> &[u8] {
        self.env.frames()
    }

    fn rewards(&self) -> &[f32] {
        self.env.rewards()
    }

    fn ends(&self) -> &[End] {
        &self.ends
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_return_between_random_and_expert_is_between_0_and_1() {
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
