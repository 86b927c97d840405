//! Procgen (Cobbe et al., 2020): sixteen games with procedurally generated levels, through the
//! library of its Python package.

mod game;

use std::path::{Path, PathBuf};

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

pub use self::game::{Game, PublishedReturns};
use super::libenv::{Libenv, Setting};
use super::state::State;
use super::{Action, ActionSpace, End, Error, Result, VecEnv};

/// Number of rows, and of columns, of Procgen's frames.
pub const FRAME_SIDE: usize = 64;
/// Number of actions, as in Procgen's Python package.
const ACTIONS: i32 = 15;
/// Action that abandons the episode.
const ABANDON: i32 = -1;
/// Frames per second of Procgen's own player.
const FPS: u32 = 15;

/// Difficulty of the levels.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub enum Mode {
    /// The paper's difficulty.
    #[default]
    Easy,
    /// Larger levels with more dangers.
    Hard,
}

/// The levels to play: `count` of them from `start` on, or all if `count` is 0.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct Levels {
    /// Number of the first level. Default 0.
    #[serde(default)]
    pub start: u32,
    /// Number of levels. Default 0: all.
    #[serde(default)]
    pub count: u32,
}

impl Levels {
    /// Returns the number after the last level.
    pub fn end(self) -> u64 {
        u64::from(self.start) + u64::from(self.count)
    }

    /// Returns whether the level numbers fit Procgen's 32-bit integers.
    pub fn is_valid(self) -> bool {
        i32::try_from(self.end()).is_ok()
    }
}

/// Configuration of environments of one game.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ProcgenConfig {
    /// The game.
    pub game: Game,
    /// Difficulty of the levels.
    pub mode: Mode,
    /// The levels to play.
    pub levels: Levels,
    /// Seed of the order of levels. Within a level, only the level and the actions decide.
    pub seed: u32,
    /// Number of environments.
    pub count: usize,
    /// Number of threads for all environments; 0 steps them in turn on the caller's thread.
    pub threads: usize,
}

/// Procgen's Python package, which contains the library and the images.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ProcgenPackage {
    folder: PathBuf,
}

impl ProcgenPackage {
    /// Finds the package in one of `folders`. Each may be the package itself, a `site-packages`
    /// folder, or a virtual environment.
    pub fn find(folders: &[PathBuf]) -> Result<ProcgenPackage> {
        let candidates = folders.iter().flat_map(|folder| {
            let environments = glob::glob(&format!(
                "{}/lib/python3*/site-packages/procgen",
                glob::Pattern::escape(&folder.to_string_lossy())
            ));
            [folder.clone(), folder.join("procgen")]
                .into_iter()
                .chain(environments.into_iter().flatten().flatten())
        });
        let found = candidates
            .map(|folder| ProcgenPackage { folder })
            .find(|package| package.library().is_file());
        found.ok_or_else(|| Error::NotFound { searched: folders.to_vec() })
    }

    /// Returns the path of the library.
    pub fn library(&self) -> PathBuf {
        let name = if cfg!(target_os = "macos") { "libenv.dylib" } else { "libenv.so" };
        self.folder.join("data/prebuilt").join(name)
    }

    /// Returns the folder of the images, with a trailing separator, as the library requires.
    fn assets(&self) -> String {
        format!("{}/", self.folder.join("data/assets").display())
    }

    /// Returns the folder of the package.
    pub fn folder(&self) -> &Path {
        &self.folder
    }
}

/// Several environments of one game.
pub struct Procgen {
    env: Libenv,
    space: ActionSpace,
    ends: Vec<End>,
    /// Number of steps of the current episodes.
    lengths: Vec<u32>,
    /// Largest number of steps of an episode.
    timeout: u32,
}

impl Procgen {
    /// Creates environments and starts their episodes.
    ///
    /// All environments of a process use the package of the first one.
    pub fn new(package: &ProcgenPackage, config: &ProcgenConfig) -> Result<Self> {
        let int = |what, value: u64, min: u64| match i32::try_from(value) {
            Ok(number) if value >= min => Ok(Setting::Int(number)),
            _ => Err(Error::Range {
                what,
                seen: value as i64,
                expected: format!("{min} to {}", i32::MAX),
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
            space: ActionSpace::Discrete { actions: env.actions() },
            timeout,
            env,
        })
    }

    /// Restores a state of this environment, or of another one of the same game.
    ///
    /// Bytes from any other source may end the process.
    pub fn set_state(&mut self, env: usize, state: &[u8]) -> Result<()> {
        let time = State::read(state)?.time;
        self.env.set_state(env, state)?;
        self.lengths[env] = time;
        self.ends[env] = End::None;
        Ok(())
    }

    /// Performs actions without checking them, and determines how episodes ended.
    fn act(&mut self, actions: impl Iterator<Item = i32>) {
        self.env.act(actions);
        let completed = self.env.info("prev_level_complete").unwrap_or_default();
        for (i, (end, length)) in self.ends.iter_mut().zip(&mut self.lengths).enumerate() {
            *length += 1;
            // The library reports only that an episode ended, so the reason is inferred: an
            // unfinished level at the time limit was truncated.
            *end = match (self.env.firsts()[i] != 0, completed.get(i)) {
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

    fn action_space(&self) -> &ActionSpace {
        &self.space
    }

    fn fps(&self) -> u32 {
        FPS
    }

    fn reset(&mut self) -> Result<()> {
        self.act(std::iter::repeat_n(ABANDON, self.env.count()));
        self.ends.fill(End::None);
        Ok(())
    }

    fn step(&mut self, actions: &[Action]) -> Result<()> {
        let count = self.env.count();
        let action_count = self.env.actions();
        if actions.len() != count {
            return Err(Error::Range {
                what: "number of actions",
                seen: actions.len() as i64,
                expected: count.to_string(),
            });
        }
        let mut numbers = Vec::with_capacity(count);
        for action in actions {
            // No number stands for a continuous action.
            let number =
                if let Action::Discrete(number) = action { i64::from(*number) } else { -1 };
            if !self.space.contains(action) {
                return Err(Error::Range {
                    what: "action",
                    seen: number,
                    expected: format!("below {action_count}"),
                });
            }
            numbers.push(number as i32);
        }
        self.act(numbers.into_iter());
        Ok(())
    }

    fn frames(&self) -> &[u8] {
        self.env.frames()
    }

    fn rewards(&self) -> Vec<f64> {
        self.env.rewards().iter().map(|reward| f64::from(*reward)).collect()
    }

    fn ends(&self) -> &[End] {
        &self.ends
    }

    fn levels(&self) -> Vec<i32> {
        self.env.info("level_seed").unwrap_or_default().to_vec()
    }

    fn state_bytes(&self, env: usize) -> Result<Vec<u8>> {
        self.env.state(env)
    }

    fn restore(&mut self, states: &[Vec<u8>]) -> Result<()> {
        states.iter().enumerate().try_for_each(|(env, state)| self.set_state(env, state))
    }
}
