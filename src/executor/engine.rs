//! An engine starts workers on other machines. Start at [`Engine`].
//!
//! An engine only starts, lists and cancels processes. Whether work is done is decided by receipts
//! in the workspace, so an engine needs no results of its workers.

use std::collections::BTreeMap;
use std::fmt::Write;
use std::io::{Read, Seek, SeekFrom};
use std::ops::Range;
use std::path::{Path, PathBuf};

use crate::dataset::{HashSet, is_name};
use crate::stages::Needs;

/// An engine failed to start, list or cancel workers.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// A program of the engine could not be started, or failed.
    #[error("{program} failed: {reason}")]
    Program {
        /// The program, such as `sbatch`.
        program: String,
        /// What it printed, or why it could not be started.
        reason: String,
        /// Whether the same call may succeed later.
        is_transient: bool,
        /// Advice for the user.
        hint: String,
    },
    /// A service did not answer as expected.
    #[error("{url}: {reason}")]
    Service {
        /// The address of the request.
        url: String,
        /// The answer, or why there was none.
        reason: String,
        /// Whether the same request may succeed later.
        is_transient: bool,
        /// Advice for the user.
        hint: String,
    },
    /// A file of logs cannot be written.
    #[error("cannot write {path}: {cause}")]
    Log {
        /// The file.
        path: String,
        /// The cause.
        cause: std::io::Error,
    },
    /// A setting of the executor is missing or wrong.
    #[error("{what}")]
    Settings {
        /// The setting, the value seen and the value expected.
        what: String,
        /// Advice for the user.
        hint: String,
    },
    /// Workers did not end although they were cancelled.
    #[error("{workers} workers have not ended {seconds} s after they were cancelled")]
    StillRunning {
        /// Number of workers.
        workers: usize,
        /// Seconds since the cancellation.
        seconds: u64,
    },
}

impl Error {
    /// Returns advice for the user, if there is any.
    pub fn hint(&self) -> Option<String> {
        match self {
            Error::Program { hint, .. }
            | Error::Service { hint, .. }
            | Error::Settings { hint, .. } => Some(hint.clone()),
            Error::Log { .. } => Some("set `logs` to a folder that can be written".into()),
            Error::StillRunning { .. } => {
                Some("their nodes may be down; late results are ignored".into())
            }
        }
    }

    /// Returns whether the same call may succeed later.
    pub fn is_transient(&self) -> bool {
        match self {
            Error::Service { is_transient, .. } | Error::Program { is_transient, .. } => {
                *is_transient
            }
            Error::StillRunning { .. } => true,
            Error::Log { .. } | Error::Settings { .. } => false,
        }
    }
}

/// A share of a stage's partitions: part `index` of `count` equal parts. Written `frames:3/200`.
#[derive(Clone, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Share {
    /// The stage. `None` is the whole plan.
    pub stage: Option<String>,
    /// The part's number, from 0.
    pub index: usize,
    /// Number of parts.
    pub count: usize,
}

impl Share {
    /// Returns this share of `partitions` partitions, which are numbered from 0.
    #[must_use]
    pub fn range(&self, partitions: usize) -> Range<usize> {
        // In 128 bits, since the product of two large counts may not fit into 64.
        let cut = |at: usize| (at as u128 * partitions as u128 / self.count as u128) as usize;
        cut(self.index)..cut(self.index + 1)
    }
}

impl std::fmt::Display for Share {
    fn fmt(&self, f: &mut std::fmt::Formatter) -> std::fmt::Result {
        if let Some(stage) = &self.stage {
            write!(f, "{stage}:")?;
        }
        write!(f, "{}/{}", self.index, self.count)
    }
}

impl std::str::FromStr for Share {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let expected = || {
            format!(
                "`{text}`: expected K/N or STAGE:K/N with K from 0 to N-1, such as frames:3/200"
            )
        };
        let (stage, part) = split_stage(text);
        let (index, count) = part.split_once('/').ok_or_else(expected)?;
        let (Ok(index), Ok(count)) = (index.parse::<usize>(), count.parse::<usize>()) else {
            return Err(expected());
        };
        if index >= count || !stage.is_none_or(is_name) {
            return Err(expected());
        }
        Ok(Share { stage: stage.map(str::to_owned), index, count })
    }
}

/// Splits `STAGE:REST` into the stage and the rest.
pub fn split_stage(text: &str) -> (Option<&str>, &str) {
    text.split_once(':').map_or((None, text), |(stage, rest)| (Some(stage), rest))
}

/// Workers to start: some shares of one stage.
#[derive(Clone, Debug)]
pub struct Work {
    /// The stage.
    pub stage: String,
    /// Number of shares that all partitions of the stage are divided into.
    pub count: usize,
    /// The shares to start, in ascending order.
    pub shares: Vec<usize>,
    /// Number of earlier attempts at these shares.
    pub attempt: usize,
    /// The resources of one worker.
    pub needs: Needs,
}

impl Work {
    /// Returns a share of the stage.
    pub(super) fn share(&self, index: usize) -> Share {
        Share { stage: Some(self.stage.clone()), index, count: self.count }
    }
}

/// Where the workers of a plan find it.
#[derive(Clone, Debug)]
pub struct PlanPlace {
    /// A name that no other plan has. Jobs of an engine are found by it.
    pub name: String,
    /// The plan's folder: an absolute path, or an address in an object store.
    pub address: String,
    /// The folder to start workers in.
    pub base: String,
    /// The folder for logs of workers.
    pub logs: PathBuf,
}

/// How to start lapo on the machine of a worker.
#[derive(Clone, Debug)]
pub struct WorkerCommand {
    /// The path of lapo there.
    pub lapo: String,
    /// More arguments of `lapo worker`.
    pub arguments: Vec<String>,
    /// The first workers start within this time after the plan was made. Default: a second for
    /// every 200 workers, at most 60.
    pub stagger_secs: Option<u64>,
}

impl WorkerCommand {
    /// Returns the arguments of lapo, without those that select the partitions.
    pub(super) fn arguments(&self, plan: &PlanPlace, threads: u32) -> Vec<String> {
        let mut words = vec!["worker".into(), "--plan".into(), plan.address.clone()];
        // A second `--threads` would be an error, and the user's own counts.
        if !self.arguments.iter().any(|argument| argument.starts_with("--threads")) {
            words.extend(["--threads".into(), threads.to_string()]);
        }
        words.extend(self.arguments.iter().cloned());
        words
    }

    /// Returns the program and its arguments for workers that start at the same time.
    pub(super) fn words(&self, plan: &PlanPlace, work: &Work, threads: u32) -> Vec<String> {
        let mut words = vec![self.lapo.clone()];
        words.extend(self.arguments(plan, threads));
        let stagger = self.stagger_secs.unwrap_or((work.shares.len() as u64 / 200).min(60));
        if stagger > 0 {
            words.extend(["--stagger-secs".into(), stagger.to_string()]);
        }
        words
    }
}

/// Starts workers. Two live workers with the same share are harmless, since the first receipt of a
/// task counts.
pub trait Engine {
    /// Starts a worker for each share.
    ///
    /// # Errors
    /// Fails if the engine refuses. Some of the workers may have been started: those are alive.
    fn start(&mut self, plan: &PlanPlace, work: &Work) -> Result<(), Error>;

    /// Returns the shares of the plan with a queued or running worker, also those that an earlier
    /// process started.
    ///
    /// # Errors
    /// Fails if the engine does not answer.
    fn alive(&mut self, plan: &PlanPlace) -> Result<HashSet<Share>, Error>;

    /// Ends all workers of the plan, and waits until none is left.
    ///
    /// # Errors
    /// Fails if the engine does not answer, or if workers are left.
    fn cancel(&mut self, plan: &PlanPlace) -> Result<(), Error>;

    /// Returns remarks for the user since the last call, such as resources that were reduced.
    fn notes(&mut self) -> Vec<String> {
        vec![]
    }

    /// Returns where the log of a worker is and how it ends, if the engine knows.
    fn last_words(&self, plan: &PlanPlace, share: &Share, attempt: usize) -> Option<String>;
}

/// Returns the path of a log and its last line.
pub(super) fn end_of_log(path: &Path) -> String {
    match last_line(path) {
        Some(line) => format!("{} ends with: {line}", path.display()),
        None => format!("its log is {}", path.display()),
    }
}

/// Returns the last line of a file that is not empty.
fn last_line(path: &Path) -> Option<String> {
    let mut file = std::fs::File::open(path).ok()?;
    let end = file.metadata().ok()?.len();
    file.seek(SeekFrom::Start(end.saturating_sub(2000))).ok()?;
    let mut bytes = Vec::new();
    file.read_to_end(&mut bytes).ok()?;
    let text = String::from_utf8_lossy(&bytes);
    text.lines().rev().find(|line| !line.trim().is_empty()).map(|line| line.trim().to_owned())
}

/// Returns ascending numbers as ranges: `0-3,7,9-12`.
#[must_use]
pub fn ranges(numbers: &[usize]) -> String {
    let mut text = String::new();
    let mut rest = numbers;
    while let [first, ..] = rest {
        let run = rest.iter().enumerate().take_while(|(at, number)| **number == first + at).count();
        let comma = if text.is_empty() { "" } else { "," };
        _ = match run {
            1 => write!(text, "{comma}{first}"),
            _ => write!(text, "{comma}{first}-{}", first + run - 1),
        };
        rest = &rest[run..];
    }
    text
}

/// Groups ascending numbers by windows of `size`: the number of the window, and the positions in
/// it.
#[must_use]
pub fn windows(numbers: &[usize], size: usize) -> BTreeMap<usize, Vec<usize>> {
    let mut windows: BTreeMap<usize, Vec<usize>> = BTreeMap::new();
    for number in numbers {
        windows.entry(number / size).or_default().push(number % size);
    }
    windows
}

/// Quotes a word for a POSIX shell.
#[must_use]
pub fn quoted(word: &str) -> String {
    let is_plain = |c: char| c.is_ascii_alphanumeric() || "-_./:=,@%+".contains(c);
    if !word.is_empty() && word.chars().all(is_plain) {
        return word.to_owned();
    }
    format!("'{}'", word.replace('\'', r"'\''"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn shares_cover_every_partition_once() {
        for (partitions, count) in [(0, 1), (1, 1), (7, 3), (3, 7), (120, 120), (1001, 20)] {
            let share = |index| Share { stage: None, index, count };
            let all: Vec<usize> =
                (0..count).flat_map(|index| share(index).range(partitions)).collect();
            assert_eq!(all, (0..partitions).collect::<Vec<_>>(), "{partitions}/{count}");
        }
        let last = Share { stage: None, index: usize::MAX - 1, count: usize::MAX };
        assert_eq!(last.range(usize::MAX), usize::MAX - 1..usize::MAX);
    }

    #[test]
    fn shares_are_written_as_they_are_read() {
        for text in ["3/200", "frames:0/1"] {
            assert_eq!(text.parse::<Share>().map(|share| share.to_string()).as_deref(), Ok(text));
        }
        for wrong in ["", "3", "3/3", "-1/3", "a/b", "a b:0/1", ":0/1", "0/0", "frames:1"] {
            assert!(wrong.parse::<Share>().is_err(), "{wrong}");
        }
    }

    #[test]
    fn ranges_name_every_number() {
        assert_eq!(ranges(&[]), "");
        assert_eq!(ranges(&[5]), "5");
        assert_eq!(ranges(&[0, 1, 2, 3, 7, 9, 10]), "0-3,7,9-10");
    }

    #[test]
    fn windows_never_hold_a_number_beyond_their_size() {
        let split = windows(&[0, 19, 20, 45], 20);
        assert_eq!(
            split.into_iter().collect::<Vec<_>>(),
            [(0, vec![0, 19]), (1, vec![0]), (2, vec![5])]
        );
    }

    #[test]
    fn quoted_words_survive_a_shell() {
        for word in ["", "a b", "it's", "$HOME", "`x`", "a\"b", "\\", "/plain/path-1.0", "ä*?"] {
            let echo = format!("printf %s {}", quoted(word));
            let output = std::process::Command::new("sh").args(["-c", &echo]).output();
            let printed = output.map(|output| output.stdout).unwrap_or_default();
            assert_eq!(String::from_utf8_lossy(&printed), word);
        }
    }
}
