//! Gymnasium: any environment of the Python library, played in a child process.
//!
//! The child runs `server.py`, which describes the protocol. It ends when its input ends, so that
//! it never outlives this process.
//!
//! **Seeds.** Episode `k` of environment `i` of `n` is number `k n + i`, and its seed is `(seed +
//! 2654435761 number) mod 2^31`, whatever happened before. So every player meets the same episodes.
//! With [`Seeding::First`] only episode 0 of each environment is seeded, as in vector environments
//! of Gymnasium: seeding an Atari game takes as long as 300 steps.

use std::path::PathBuf;
use std::time::Duration;

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
use serde_json::{Map, Value, json};

use super::{Action, ActionSpace, End, Result, VecEnv};
use child::{PythonProcess, fault};

mod child;

/// The largest frame, in bytes.
const MAX_FRAME_BYTES: usize = 1 << 28;
/// The step from the seed of an episode to that of the next one: 2^32 by the golden ratio, so that
/// seeds differ in many bits. `server.py` has the same number.
const SEED_STEP: u64 = 2_654_435_761;
/// Frames per second of an environment that states none.
const DEFAULT_FPS: u32 = 15;

/// An environment of Gymnasium.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct GymnasiumGame {
    /// The environment's name in Gymnasium, such as `MiniGrid-Empty-5x5-v0`.
    pub gymnasium: String,
    /// Arguments of `gymnasium.make`, such as `{ max_episode_steps: 100 }`. `render_mode` is always
    /// `rgb_array`. Default: none.
    #[serde(default, skip_serializing_if = "Map::is_empty")]
    pub make: Map<String, Value>,
    /// Python modules to import first, because they register the environment, such as
    /// `[minigrid]`. Default: none.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub imports: Vec<String>,
    /// Seconds that Python may take to make the environments, and to step all of them once, before
    /// it is stopped with an error. It is not part of a task's key. Default 120.
    #[serde(default = "default_timeout_secs", skip_serializing_if = "is_default_timeout")]
    pub timeout_secs: u32,
}

fn default_timeout_secs() -> u32 {
    120
}

fn is_default_timeout(timeout_secs: &u32) -> bool {
    *timeout_secs == default_timeout_secs()
}

impl GymnasiumGame {
    /// Returns what decides the environment: all but the timeout.
    pub fn identity(&self) -> Value {
        let GymnasiumGame { gymnasium, make, imports, timeout_secs: _ } = self;
        json!({ "gymnasium": gymnasium, "make": make, "imports": imports })
    }

    /// Returns what is wrong with the settings, and the cure.
    pub fn fault(&self) -> Option<(&'static str, &'static str)> {
        if self.gymnasium.trim().is_empty() {
            return Some(("has no name", "name an environment, such as `MiniGrid-Empty-5x5-v0`"));
        }
        if self.make.contains_key("render_mode") {
            return Some(("sets `render_mode`", "remove it from `make`: it is always `rgb_array`"));
        }
        (self.timeout_secs == 0).then_some(("has a `timeout_secs` of 0", "expected at least 1"))
    }
}

/// Which episodes of an environment are seeded.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Seeding {
    /// Each, so that it does not depend on those before.
    Each,
    /// The first one. Others follow from it and all actions since.
    First,
}

/// What the child says of its environments.
#[derive(Deserialize)]
#[serde(untagged)]
enum Answer {
    Error { error: String, cure: String },
    Discrete { shape: [usize; 3], fps: Option<u32>, actions: usize },
    Continuous { shape: [usize; 3], fps: Option<u32>, low: Bounds, high: Bounds },
}

type Bounds = Vec<Option<f32>>;

/// The current episode of an environment: enough to come back to its frame.
#[derive(Clone, Debug, Default, Serialize, Deserialize)]
struct EpisodeSoFar(u64, Vec<Action>);

/// Environments of Gymnasium that step together.
pub struct Gymnasium {
    name: String,
    process: PythonProcess,
    seed: u32,
    space: ActionSpace,
    shape: [usize; 3],
    fps: u32,
    frames: Vec<u8>,
    rewards: Vec<f64>,
    ends: Vec<End>,
    episodes: Vec<EpisodeSoFar>,
}

impl Gymnasium {
    /// Starts `count` environments.
    ///
    /// Plays with the first virtual environment of `folders` that has Gymnasium, or else with
    /// `python3`.
    ///
    /// # Errors
    /// Fails if Python or a package is missing, and for an environment without colour frames of a
    /// fixed size, or with actions that are neither discrete nor a box.
    pub fn new(
        game: &GymnasiumGame,
        folders: &[PathBuf],
        (seed, seeding): (u32, Seeding),
        count: usize,
    ) -> Result<Self> {
        let timeout = Duration::from_secs(game.timeout_secs.max(1).into());
        let mut gymnasium = Gymnasium {
            name: game.gymnasium.clone(),
            process: PythonProcess::start(&game.gymnasium, folders, timeout)?,
            seed,
            space: ActionSpace::Discrete { actions: 0 },
            shape: [0; 3],
            fps: DEFAULT_FPS,
            frames: vec![],
            rewards: vec![0.0; count],
            ends: vec![End::None; count],
            episodes: (0..count as u64).map(|number| EpisodeSoFar(number, vec![])).collect(),
        };
        gymnasium.start(game, seeding)?;
        Ok(gymnasium)
    }

    /// Sends the request, and reads what the environments are and their first frames.
    fn start(&mut self, game: &GymnasiumGame, seeding: Seeding) -> Result<()> {
        let GymnasiumGame { gymnasium, make, imports, timeout_secs: _ } = game;
        let (seed, count) = (self.seed, self.ends.len());
        let request = json!({
            "id": gymnasium, "make": make, "imports": imports, "seed": seed, "count": count,
            "seeds_each": seeding == Seeding::Each,
        });
        self.process.send(format!("{request}\n").as_bytes())?;
        let answer = serde_json::from_str(&self.process.read_line()?)
            .map_err(|cause| fault(&self.name, format!("cannot read its answer: {cause}"), ""))?;
        let fps;
        (self.shape, fps, self.space) = match answer {
            Answer::Error { error, cure } => {
                let python = &self.process.python;
                return Err(fault(&self.name, format!("{error} ({python})"), cure));
            }
            Answer::Discrete { shape, fps, actions } => {
                (shape, fps, ActionSpace::Discrete { actions })
            }
            Answer::Continuous { shape, fps, low, high } => {
                (shape, fps, ActionSpace::Continuous { low, high })
            }
        };
        self.fps = fps.unwrap_or(DEFAULT_FPS);
        let bytes = self.shape.iter().product::<usize>();
        if !(1..=MAX_FRAME_BYTES).contains(&bytes) {
            let what = format!("a frame has the shape {:?}", self.shape);
            return Err(fault(&self.name, what, "set the size of its frames in `make`"));
        }
        self.frames = vec![0; bytes * count];
        self.receive()
    }

    /// Reads the answer to a command.
    fn receive(&mut self) -> Result<()> {
        let mut status = [0];
        let mut rewards = vec![0; 8 * self.count()];
        let mut ends = vec![0; self.count()];
        self.process.read(&mut status)?;
        if status[0] != 0 {
            return Err(self.failed()?);
        }
        self.process.read(&mut rewards)?;
        self.process.read(&mut ends)?;
        self.process.read(&mut self.frames)?;
        self.process.answered();
        let (chunks, _) = rewards.as_chunks();
        self.rewards = chunks.iter().map(|bytes| f64::from_ne_bytes(*bytes)).collect();
        let end = |code: &u8| match code {
            0 => End::None,
            1 => End::Done,
            _ => End::Truncated,
        };
        self.ends = ends.iter().map(end).collect();
        let count = self.count() as u64;
        for (episode, _) in
            self.episodes.iter_mut().zip(&self.ends).filter(|(_, end)| **end != End::None)
        {
            *episode = EpisodeSoFar(episode.0 + count, vec![]);
        }
        Ok(())
    }

    /// Reads the error that an environment raised.
    fn failed(&mut self) -> Result<super::Error> {
        let mut length = [0; 4];
        self.process.read(&mut length)?;
        let mut text = vec![0; u32::from_ne_bytes(length) as usize];
        self.process.read(&mut text)?;
        match serde_json::from_slice(&text) {
            Ok(Answer::Error { error, cure }) => Ok(fault(&self.name, error, cure)),
            _ => Err(self.process.died()),
        }
    }

    /// Returns the seed of an episode by its number.
    fn seed_of(&self, number: u64) -> u32 {
        let sum = u64::from(self.seed).wrapping_add(SEED_STEP.wrapping_mul(number));
        (sum % (1 << 31)) as u32
    }
}

impl VecEnv for Gymnasium {
    fn count(&self) -> usize {
        self.ends.len()
    }

    fn frame_shape(&self) -> [usize; 3] {
        self.shape
    }

    fn action_space(&self) -> &ActionSpace {
        &self.space
    }

    fn fps(&self) -> u32 {
        self.fps
    }

    fn reset(&mut self) -> Result<()> {
        self.process.send(b"r")?;
        self.receive()?;
        let count = self.count() as u64;
        for episode in &mut self.episodes {
            *episode = EpisodeSoFar(episode.0 + count, vec![]);
        }
        Ok(())
    }

    fn step(&mut self, actions: &[Action]) -> Result<()> {
        let wrong = actions.iter().find(|action| !self.space.contains(action));
        if let Some(action) = wrong {
            let what = format!("an action is {action}, expected one of {}", self.space);
            return Err(fault(&self.name, what, "use a decoder trained on its actions"));
        }
        if actions.len() != self.count() {
            let what = format!("{} actions, expected {}", actions.len(), self.count());
            return Err(fault(&self.name, what, ""));
        }
        let mut command = vec![b's'];
        for (action, episode) in actions.iter().zip(&mut self.episodes) {
            match action {
                Action::Discrete(number) => command.extend(number.to_ne_bytes()),
                Action::Continuous(values) => {
                    command.extend(values.iter().flat_map(|value| value.to_ne_bytes()));
                }
            }
            episode.1.push(action.clone());
        }
        self.process.send(&command)?;
        self.receive()
    }

    fn frames(&self) -> &[u8] {
        &self.frames
    }

    fn rewards(&self) -> Vec<f64> {
        self.rewards.clone()
    }

    fn ends(&self) -> &[End] {
        &self.ends
    }

    /// Returns the seeds of the current episodes.
    fn levels(&self) -> Vec<i32> {
        self.episodes.iter().map(|episode| self.seed_of(episode.0) as i32).collect()
    }

    /// Returns the number of the episode, and its actions so far, as JSON.
    fn state_bytes(&self, env: usize) -> Result<Vec<u8>> {
        serde_json::to_vec(&self.episodes[env])
            .map_err(|cause| fault(&self.name, format!("cannot save its state: {cause}"), ""))
    }

    /// Takes the actions of each episode again.
    fn restore(&mut self, states: &[Vec<u8>]) -> Result<()> {
        let read = |state: &Vec<u8>| serde_json::from_slice(state);
        let cannot = |cause| fault(&self.name, format!("cannot read a state: {cause}"), "");
        let episodes: Vec<EpisodeSoFar> =
            states.iter().map(read).collect::<Result<_, _>>().map_err(cannot)?;
        if episodes.len() != self.count() {
            let what = format!("{} states, expected {}", episodes.len(), self.count());
            return Err(fault(&self.name, what, ""));
        }
        let text = json!(episodes).to_string();
        let mut command = vec![b'p'];
        command.extend((text.len() as u32).to_ne_bytes());
        command.extend(text.bytes());
        self.episodes = episodes;
        self.process.send(&command)?;
        self.receive()
    }
}

#[cfg(test)]
mod tests;
