//! The Python process of environments: its pipes, its deadline, and what it printed.

use std::io::{BufRead, BufReader, Read, Write};
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::{Child, ChildStdin, ChildStdout, Command, Stdio};
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use crate::envs::{Error, Result};

/// The script of the child.
const SERVER: &str = include_str!("server.py");
/// The part of the child's standard error that an error shows, in bytes.
const SHOWN_BYTES: usize = 2000;
/// How long an ended child's pipes are read. A process that it started may keep them open.
const LAST_WORDS: Duration = Duration::from_millis(500);
const PLAY: &str = "play it in Python to see why";
const PYTHON_CURE: &str =
    "install Python, or name a virtual environment that has gymnasium with `--gymnasium`";
/// What renderers print if they find no display.
const NO_DISPLAY: [&str; 5] = ["DISPLAY", "GLFW", "OpenGL", "gladLoadGL", "X11"];

/// A running child.
pub(super) struct PythonProcess {
    /// The environment's name, for errors.
    game: String,
    /// The path of Python, for errors.
    pub(super) python: String,
    child: Arc<Mutex<Child>>,
    commands: Option<ChildStdin>,
    answers: BufReader<ChildStdout>,
    printed: Arc<Mutex<Vec<u8>>>,
    reader: Option<JoinHandle<()>>,
    timeout: Duration,
    watch: Arc<(Mutex<Watch>, Condvar)>,
    watchdog: Option<JoinHandle<()>>,
}

/// What the watchdog waits for.
#[derive(Default)]
struct Watch {
    /// When the child must have answered; `None` if it was not asked.
    until: Option<Instant>,
    /// Whether the child was stopped because it did not answer.
    is_late: bool,
    /// Whether the environments are no longer needed.
    has_ended: bool,
}

impl PythonProcess {
    /// Starts the first Python of `folders` with Gymnasium, or else `python3`.
    pub(super) fn start(game: &str, folders: &[PathBuf], timeout: Duration) -> Result<Self> {
        let python = find_python(folders);
        let mut child = Command::new(&python)
            .args(["-u", "-c", SERVER])
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            // Ctrl-C in a terminal is for lapo alone, which then ends the child.
            .process_group(0)
            .spawn()
            .map_err(|cause| {
                let what = format!("cannot start {}: {cause}", python.display());
                fault(game, what, PYTHON_CURE)
            })?;
        let (Some(commands), Some(answers), Some(errors)) =
            (child.stdin.take(), child.stdout.take(), child.stderr.take())
        else {
            return Err(fault(game, "its child has no pipes", ""));
        };
        let printed = Arc::new(Mutex::new(Vec::new()));
        let kept = printed.clone();
        let child = Arc::new(Mutex::new(child));
        let watch = Arc::new((Mutex::default(), Condvar::new()));
        let (watched, watching) = (child.clone(), watch.clone());
        Ok(PythonProcess {
            game: game.to_owned(),
            python: python.display().to_string(),
            child,
            commands: Some(commands),
            answers: BufReader::new(answers),
            printed,
            reader: Some(std::thread::spawn(move || keep_tail(errors, &kept))),
            timeout,
            watch,
            watchdog: Some(std::thread::spawn(move || stop_late(&watched, &watching, timeout))),
        })
    }

    /// Sends a command; the answer must come before the timeout.
    pub(super) fn send(&mut self, bytes: &[u8]) -> Result<()> {
        locked(&self.watch.0).until = Some(Instant::now() + self.timeout);
        let sent = match &mut self.commands {
            Some(commands) => commands.write_all(bytes).and_then(|()| commands.flush()).is_ok(),
            None => false,
        };
        if sent { Ok(()) } else { Err(self.died()) }
    }

    /// Fills `bytes` from the answer.
    pub(super) fn read(&mut self, bytes: &mut [u8]) -> Result<()> {
        if self.answers.read_exact(bytes).is_err() { Err(self.died()) } else { Ok(()) }
    }

    /// Reads a line of the answer.
    pub(super) fn read_line(&mut self) -> Result<String> {
        let mut line = String::new();
        if matches!(self.answers.read_line(&mut line), Ok(1..)) {
            Ok(line)
        } else {
            Err(self.died())
        }
    }

    /// Ends the deadline, because the whole answer has been read.
    pub(super) fn answered(&self) {
        locked(&self.watch.0).until = None;
    }

    /// Returns the error of a child that has ended, with the end of what it printed.
    pub(super) fn died(&mut self) -> Error {
        self.commands = None;
        if locked(&self.watch.0).is_late {
            let what = format!("no answer for {} s: it hangs or is slow", self.timeout.as_secs());
            return fault(
                &self.game,
                what,
                "raise `timeout_secs` of the game, or play it in Python",
            );
        }
        // It has closed its pipe, so it is about to end; what is left of it is stopped.
        let until = Instant::now() + LAST_WORDS;
        let status = loop {
            match locked(&self.child).try_wait() {
                Ok(Some(status)) => break status.to_string(),
                Err(cause) => break cause.to_string(),
                Ok(None) if Instant::now() > until => break "it closed its output".into(),
                Ok(None) => std::thread::sleep(Duration::from_millis(10)),
            }
        };
        self.stop();
        while self.reader.as_ref().is_some_and(|reader| !reader.is_finished())
            && Instant::now() < until
        {
            std::thread::sleep(Duration::from_millis(10));
        }
        let printed = without_colours(&String::from_utf8_lossy(&locked(&self.printed)));
        let cure = if NO_DISPLAY.iter().any(|word| printed.contains(word)) {
            "set MUJOCO_GL=egl or MUJOCO_GL=osmesa, or run under `xvfb-run`"
        } else {
            PLAY
        };
        fault(&self.game, format!("its Python process ended ({status}): {printed}"), cure)
    }

    fn stop(&self) {
        let mut child = locked(&self.child);
        let _ = child.kill();
        let _ = child.wait();
    }

    /// Kills the child from outside, as a test.
    #[cfg(test)]
    pub(super) fn kill(&self) {
        self.stop();
    }
}

impl Drop for PythonProcess {
    fn drop(&mut self) {
        self.commands = None;
        locked(&self.watch.0).has_ended = true;
        self.watch.1.notify_all();
        // It ends by itself when it reads the end of its input, unless it hangs in a step.
        self.stop();
        if let Some(watchdog) = self.watchdog.take() {
            let _ = watchdog.join();
        }
    }
}

/// Kills the child when its deadline passes.
fn stop_late(child: &Mutex<Child>, watch: &(Mutex<Watch>, Condvar), timeout: Duration) {
    let mut state = locked(&watch.0);
    while !state.has_ended {
        let now = Instant::now();
        // Without a deadline it looks again after the timeout: no deadline is earlier than that.
        let left = state.until.map_or(timeout, |until| until.saturating_duration_since(now));
        if left.is_zero() {
            state.is_late = true;
            let _ = locked(child).kill();
            return;
        }
        let waited = watch.1.wait_timeout(state, left).unwrap_or_else(PoisonError::into_inner);
        state = waited.0;
    }
}

fn locked<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

/// Creates an error of an environment.
pub(super) fn fault(game: &str, what: impl Into<String>, cure: impl Into<String>) -> Error {
    Error::Gymnasium { game: game.into(), what: what.into(), cure: cure.into() }
}

/// Returns the Python of the first virtual environment with Gymnasium.
fn find_python(folders: &[PathBuf]) -> PathBuf {
    let found = folders.iter().find(|folder| has_gymnasium(folder));
    found.map_or_else(|| PathBuf::from("python3"), |folder| folder.join("bin/python"))
}

/// Returns whether a virtual environment has Gymnasium.
fn has_gymnasium(folder: &Path) -> bool {
    let escaped = glob::Pattern::escape(&folder.to_string_lossy());
    glob::glob(&format!("{escaped}/lib/python3*/site-packages/gymnasium"))
        .is_ok_and(|mut found| found.next().is_some())
}

/// Removes the escape sequences that colour text in a terminal.
fn without_colours(text: &str) -> String {
    let (first, coloured) = text.split_once('\u{1b}').unwrap_or((text, ""));
    let rest = |part: &str| part.split_once('m').map_or(String::new(), |(_, rest)| rest.into());
    let rest: String = coloured.split('\u{1b}').map(rest).collect();
    format!("{first}{rest}").trim().to_owned()
}

/// Reads until the end, and keeps the last part.
fn keep_tail(mut from: impl Read, kept: &Mutex<Vec<u8>>) {
    let mut buffer = [0; 4096];
    while let Ok(read @ 1..) = from.read(&mut buffer) {
        let mut kept = locked(kept);
        kept.extend_from_slice(&buffer[..read]);
        let surplus = kept.len().saturating_sub(SHOWN_BYTES);
        kept.drain(..surplus);
    }
}
