//! Gymnasium: any environment of the Python library, played in a child process.
//!
//! The child runs `server.py`, which describes the protocol. It ends when its input ends, so that
//! it never outlives this process.

use std::io::{BufRead, BufReader, Read, Write};
use std::path::PathBuf;
use std::process::{Child, ChildStdin, ChildStdout, Command, Stdio};
use std::sync::{Arc, Mutex};
use std::thread::JoinHandle;

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
use serde_json::{Map, Value, json};

use super::{End, Error, Result};

/// The script of the child.
const SERVER: &str = include_str!("gymnasium/server.py");
/// The part of the child's standard error that an error shows, in bytes.
const SHOWN_BYTES: usize = 2000;
/// The largest frame, in bytes.
const MAX_FRAME_BYTES: usize = 1 << 28;

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
}

/// The actions that an environment takes.
#[derive(Clone, Debug, PartialEq)]
pub enum ActionSpace {
    /// A number below `actions`.
    Discrete {
        /// Number of actions.
        actions: usize,
    },
    /// A number on each axis.
    Continuous {
        /// The least value of each axis; `None` if it has no bound.
        low: Vec<Option<f32>>,
        /// The largest value of each axis; `None` if it has no bound.
        high: Vec<Option<f32>>,
    },
}

/// An action of each environment.
#[derive(Clone, Debug, PartialEq)]
pub enum Actions {
    /// `[env]`
    Discrete(Vec<u32>),
    /// `[env, axis]`
    Continuous(Vec<f32>),
}

/// What the child says of its environments.
#[derive(Deserialize)]
#[serde(untagged)]
enum Answer {
    Error { error: String, cure: String },
    Discrete { shape: [usize; 3], actions: usize },
    Continuous { shape: [usize; 3], low: Vec<Option<f32>>, high: Vec<Option<f32>> },
}

/// Environments of Gymnasium that step together.
///
/// When an episode ends, the next one starts at once, and `frames` already holds its first frame.
pub struct Gymnasium {
    name: String,
    child: Child,
    commands: Option<ChildStdin>,
    answers: BufReader<ChildStdout>,
    errors: Arc<Mutex<Vec<u8>>>,
    error_reader: Option<JoinHandle<()>>,
    space: ActionSpace,
    shape: [usize; 3],
    frames: Vec<u8>,
    rewards: Vec<f64>,
    ends: Vec<End>,
}

impl Gymnasium {
    /// Starts an environment for each of `seeds`. The seed decides all its episodes.
    ///
    /// Plays with the first virtual environment of `folders` that has Gymnasium, or else with
    /// `python3`.
    ///
    /// # Errors
    /// Fails if Python or a package is missing, and for an environment without colour frames of a
    /// fixed size, or with actions that are neither discrete nor a box.
    pub fn new(game: &GymnasiumGame, folders: &[PathBuf], seeds: &[u32]) -> Result<Self> {
        let python = find_python(folders);
        let mut child = Command::new(&python)
            .args(["-u", "-c", SERVER])
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            .spawn()
            .map_err(|cause| Error::Gymnasium {
                game: game.gymnasium.clone(),
                what: format!("cannot start {}: {cause}", python.display()),
                cure: PYTHON_CURE.into(),
            })?;
        let (Some(commands), Some(answers), Some(errors)) =
            (child.stdin.take(), child.stdout.take(), child.stderr.take())
        else {
            return Err(fault(&game.gymnasium, "its child has no pipes", ""));
        };
        let tail = Arc::new(Mutex::new(Vec::new()));
        let kept = tail.clone();
        let error_reader = std::thread::spawn(move || keep_tail(errors, &kept));
        let mut gymnasium = Gymnasium {
            name: game.gymnasium.clone(),
            child,
            commands: Some(commands),
            answers: BufReader::new(answers),
            errors: tail,
            error_reader: Some(error_reader),
            space: ActionSpace::Discrete { actions: 0 },
            shape: [0; 3],
            frames: vec![],
            rewards: vec![0.0; seeds.len()],
            ends: vec![End::None; seeds.len()],
        };
        gymnasium.start(game, seeds, &python.display().to_string())?;
        Ok(gymnasium)
    }

    /// Sends the request, and reads what the environments are and their first frames.
    fn start(&mut self, game: &GymnasiumGame, seeds: &[u32], python: &str) -> Result<()> {
        let GymnasiumGame { gymnasium, make, imports } = game;
        let request = json!({ "id": gymnasium, "make": make, "imports": imports, "seeds": seeds });
        self.send(format!("{request}\n").as_bytes())?;
        let mut line = String::new();
        if !matches!(self.answers.read_line(&mut line), Ok(1..)) {
            return Err(self.died());
        }
        let answer = serde_json::from_str(&line)
            .map_err(|cause| fault(&self.name, format!("cannot read its answer: {cause}"), ""))?;
        (self.shape, self.space) = match answer {
            Answer::Error { error, cure } => {
                return Err(fault(&self.name, format!("{error} ({python})"), cure));
            }
            Answer::Discrete { shape, actions } => (shape, ActionSpace::Discrete { actions }),
            Answer::Continuous { shape, low, high } => {
                (shape, ActionSpace::Continuous { low, high })
            }
        };
        let bytes = self.shape.iter().product::<usize>();
        if !(1..=MAX_FRAME_BYTES).contains(&bytes) {
            let what = format!("a frame has the shape {:?}", self.shape);
            return Err(fault(&self.name, what, "set the size of its frames in `make`"));
        }
        self.frames = vec![0; bytes * seeds.len()];
        self.receive()
    }

    /// Returns the number of environments.
    pub fn count(&self) -> usize {
        self.ends.len()
    }

    /// Returns rows, columns and channels of a frame.
    pub fn frame_shape(&self) -> [usize; 3] {
        self.shape
    }

    /// Returns the actions that the environments take.
    pub fn action_space(&self) -> &ActionSpace {
        &self.space
    }

    /// Returns the current frame of each environment.
    ///
    /// # Shapes
    /// - output: `[env, height, width, channel]`, u8
    pub fn frames(&self) -> &[u8] {
        &self.frames
    }

    /// Returns the reward of the last step: `[env]`.
    pub fn rewards(&self) -> &[f64] {
        &self.rewards
    }

    /// Returns how the last step ended: `[env]`.
    pub fn ends(&self) -> &[End] {
        &self.ends
    }

    /// Abandons all episodes and starts new ones.
    pub fn reset(&mut self) -> Result<()> {
        self.send(b"r")?;
        self.receive()
    }

    /// Performs one action in every environment and waits for the results.
    ///
    /// # Errors
    /// Fails if the actions are not those of [`action_space`](Self::action_space), and if an
    /// environment fails.
    pub fn step(&mut self, actions: &Actions) -> Result<()> {
        let bytes: Vec<u8> = match (&self.space, actions) {
            (ActionSpace::Discrete { actions: limit }, Actions::Discrete(numbers))
                if numbers.len() == self.count()
                    && numbers.iter().all(|number| (*number as usize) < *limit) =>
            {
                numbers.iter().flat_map(|number| number.to_ne_bytes()).collect()
            }
            (ActionSpace::Continuous { low, .. }, Actions::Continuous(values))
                if values.len() == low.len() * self.count()
                    && values.iter().all(|value| value.is_finite()) =>
            {
                values.iter().flat_map(|value| value.to_ne_bytes()).collect()
            }
            (space, seen) => {
                let what = format!("the actions are {seen:?}, expected {space:?}");
                return Err(fault(&self.name, what, "use a decoder trained on its actions"));
            }
        };
        self.send(&[b"s".as_slice(), &bytes].concat())?;
        self.receive()
    }

    fn send(&mut self, bytes: &[u8]) -> Result<()> {
        let sent = match &mut self.commands {
            Some(commands) => commands.write_all(bytes).and_then(|()| commands.flush()).is_ok(),
            None => false,
        };
        if sent { Ok(()) } else { Err(self.died()) }
    }

    /// Reads the answer to a command.
    fn receive(&mut self) -> Result<()> {
        let mut status = [0];
        let mut rewards = vec![0; 8 * self.count()];
        let mut ends = vec![0; self.count()];
        if self.answers.read_exact(&mut status).is_err() {
            return Err(self.died());
        }
        if status[0] != 0 {
            return Err(self.failed());
        }
        let read = [&mut rewards, &mut ends, &mut self.frames]
            .into_iter()
            .try_for_each(|part| self.answers.read_exact(part));
        if read.is_err() {
            return Err(self.died());
        }
        let (chunks, _) = rewards.as_chunks();
        self.rewards = chunks.iter().map(|bytes| f64::from_ne_bytes(*bytes)).collect();
        let end = |code: &u8| match code {
            0 => End::None,
            1 => End::Done,
            _ => End::Truncated,
        };
        self.ends = ends.iter().map(end).collect();
        Ok(())
    }

    /// Reads the error that an environment raised.
    fn failed(&mut self) -> Error {
        let mut length = [0; 4];
        if self.answers.read_exact(&mut length).is_err() {
            return self.died();
        }
        let mut text = vec![];
        let limit = u64::from(u32::from_ne_bytes(length));
        if self.answers.by_ref().take(limit).read_to_end(&mut text).is_err() {
            return self.died();
        }
        match serde_json::from_slice(&text) {
            Ok(Answer::Error { error, cure }) => fault(&self.name, error, cure),
            _ => self.died(),
        }
    }

    /// Returns the error of a child that has ended, with the end of what it printed.
    fn died(&mut self) -> Error {
        self.commands = None;
        // It has closed its pipe, so it is about to end; what is left of it is stopped.
        std::thread::sleep(std::time::Duration::from_millis(100));
        let _ = self.child.kill();
        let status = self.child.wait().map_or_else(|_| "unknown".into(), |code| code.to_string());
        if let Some(reader) = self.error_reader.take() {
            let _ = reader.join();
        }
        let printed = self.errors.lock().map(|bytes| bytes.clone()).unwrap_or_default();
        let printed = String::from_utf8_lossy(&printed);
        let what = format!("its Python process ended ({status}): {}", printed.trim());
        fault(&self.name, what, "play it in Python to see why")
    }
}

impl Drop for Gymnasium {
    fn drop(&mut self) {
        self.commands = None;
        // It ends by itself when it reads the end of its input, unless it hangs in a step.
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

const PYTHON_CURE: &str =
    "install Python, or name a virtual environment that has gymnasium with `--procgen`";

fn fault(game: &str, what: impl Into<String>, cure: impl Into<String>) -> Error {
    Error::Gymnasium { game: game.into(), what: what.into(), cure: cure.into() }
}

/// Returns the Python of the first virtual environment with Gymnasium.
fn find_python(folders: &[PathBuf]) -> PathBuf {
    let has_gymnasium = |folder: &&PathBuf| {
        let escaped = glob::Pattern::escape(&folder.to_string_lossy());
        glob::glob(&format!("{escaped}/lib/python3*/site-packages/gymnasium"))
            .is_ok_and(|mut found| found.next().is_some())
    };
    let found = folders.iter().find(has_gymnasium);
    found.map_or_else(|| PathBuf::from("python3"), |folder| folder.join("bin/python"))
}

/// Reads until the end, and keeps the last part.
fn keep_tail(mut from: impl Read, kept: &Mutex<Vec<u8>>) {
    let mut buffer = [0; 4096];
    while let Ok(read @ 1..) = from.read(&mut buffer) {
        let Ok(mut kept) = kept.lock() else { return };
        kept.extend_from_slice(&buffer[..read]);
        let surplus = kept.len().saturating_sub(SHOWN_BYTES);
        kept.drain(..surplus);
    }
}

#[cfg(test)]
mod tests;
