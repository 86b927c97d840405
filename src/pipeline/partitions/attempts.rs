//! What workers record in the plan's folder: that an attempt began, and how it ended unless
//! receipts say so.
//!
//! ```text
//! attempts/FIRST-COUNT/ID.json          began: host, process, share, attempt
//! attempts/FIRST-COUNT/ID.failed.json   ended with failures, one for each failed partition
//! attempts/FIRST-COUNT/ID.stopped.json  stopped by a signal after a checkpoint
//! attempts/FIRST-COUNT/ID.done.json     ended without failures
//! attempts/FIRST-COUNT/ID.said.json     what its stages said, such as how well a model learned
//! ```
//!
//! FIRST and COUNT are the partitions of the attempt. IDs sort by time. A worker that is killed
//! leaves only the first file.

use std::collections::BTreeMap;
use std::ops::Range;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Instant;

use serde::{Deserialize, Serialize};

use super::json;
use crate::dataset::{self, FORMAT, Process, Store, host};
use crate::executor::local::fresh_id;
use crate::pipeline::Error;
use crate::pipeline::plan::StagePlan;
use crate::pipeline::reporter::Reporter;
use crate::pipeline::session::now;
use crate::pipeline::summary::StageSummary;
use crate::pipeline::task_failure::TaskFailure;
use crate::stages::Progress;

/// An attempt at some partitions, recorded by the worker when it begins.
#[derive(Clone, Debug, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct Began {
    format: u32,
    attempt: usize,
    host: String,
    process: Option<Process>,
    began_unix_secs: u64,
}

/// How an attempt ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Ended {
    /// Every partition is done.
    Done,
    /// Some partitions failed.
    Failed,
    /// A signal stopped it. A training has written a checkpoint.
    Stopped,
}

impl Ended {
    fn name(self) -> &'static str {
        match self {
            Ended::Done => "done",
            Ended::Failed => "failed",
            Ended::Stopped => "stopped",
        }
    }
}

/// Failures by partition.
type Failures = BTreeMap<usize, TaskFailure>;

/// How an attempt ended.
#[derive(Debug, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct EndRecord {
    /// Seconds since it began.
    seconds: f64,
    failures: Failures,
}

/// An attempt of this process, which has begun.
pub(super) struct Attempt<'a> {
    out: &'a Store,
    path: String,
    began: Instant,
}

impl<'a> Attempt<'a> {
    /// Records that an attempt at neighbouring partitions begins.
    pub fn begin(out: &'a Store, partitions: Range<usize>, attempt: usize) -> Result<Self, Error> {
        let time = now();
        let folder = format!("attempts/{}-{}", partitions.start, partitions.len());
        let path = format!("{folder}/{:013}-{}", time.as_millis(), fresh_id());
        let began = Began {
            format: FORMAT,
            attempt,
            host: host(),
            process: Process::this(),
            began_unix_secs: time.as_secs(),
        };
        out.create(&format!("{path}.json"), json(&began).as_bytes())?;
        Ok(Attempt { out, path, began: Instant::now() })
    }

    /// Records how the attempt ended.
    pub fn end(&self, ended: Ended, failures: &Failures) -> Result<(), Error> {
        let path = format!("{}.{}.json", self.path, ended.name());
        let seconds = self.began.elapsed().as_secs_f64();
        let record = EndRecord { seconds, failures: failures.clone() };
        self.out.create(&path, json(&record).as_bytes())?;
        Ok(())
    }
}

/// Keeps what stages say, and passes everything on to another reporter.
pub(super) struct RecordingReporter<'a> {
    reporter: &'a dyn Reporter,
    said: Arc<Mutex<Vec<String>>>,
}

impl<'a> RecordingReporter<'a> {
    pub fn new(reporter: &'a dyn Reporter) -> Self {
        RecordingReporter { reporter, said: Arc::default() }
    }

    /// Records what stages have said, if they said anything.
    pub fn record(&self, attempt: &Attempt) -> Result<(), Error> {
        let said = self.said.lock().unwrap_or_else(PoisonError::into_inner);
        if !said.is_empty() {
            attempt.out.create(&format!("{}.said.json", attempt.path), json(&*said).as_bytes())?;
        }
        Ok(())
    }
}

impl Reporter for RecordingReporter<'_> {
    fn stage_started(&self, plan: &StagePlan, units: u64) -> Box<dyn Progress> {
        let progress = self.reporter.stage_started(plan, units);
        Box::new(RecordingProgress { progress, said: Arc::clone(&self.said) })
    }

    fn stage_ended(&self, stage: &StageSummary) {
        self.reporter.stage_ended(stage);
    }
}

struct RecordingProgress {
    progress: Box<dyn Progress>,
    said: Arc<Mutex<Vec<String>>>,
}

impl Progress for RecordingProgress {
    fn advance(&self, units: u64) {
        self.progress.advance(units);
    }

    fn resume(&self, units: u64) {
        self.progress.resume(units);
    }

    fn note(&self, text: &str) {
        self.progress.note(text);
    }

    fn say(&self, text: &str) {
        self.said.lock().unwrap_or_else(PoisonError::into_inner).push(text.to_owned());
        self.progress.say(text);
    }
}

/// Returns the partitions and processes of attempts that certainly run on this machine.
pub fn running_here(
    out: &Store,
    attempts: &[RecordedAttempt],
) -> Result<Vec<(Range<usize>, Process)>, Error> {
    let mut running = Vec::new();
    for attempt in attempts.iter().filter(|attempt| attempt.ended.is_none()) {
        if let Some(process) = attempt.process(out)?
            && process.is_running_here()
        {
            running.push((attempt.partitions.clone(), process));
        }
    }
    Ok(running)
}

/// Returns what the stages of all attempts have said, the oldest first, each text once.
pub fn said(out: &Store) -> Result<Vec<String>, Error> {
    let mut paths = out.list("attempts")?;
    paths.retain(|path| path.ends_with(".said.json"));
    paths.sort_unstable_by(|a, b| a.rsplit('/').next().cmp(&b.rsplit('/').next()));
    let mut all: Vec<String> = Vec::new();
    for path in paths {
        let texts: Vec<String> = super::parse(&path, &out.require(&path)?)?;
        for text in texts {
            if !all.contains(&text) {
                all.push(text);
            }
        }
    }
    Ok(all)
}

/// An attempt as the names of its files tell it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct RecordedAttempt {
    /// Its partitions.
    pub partitions: Range<usize>,
    /// Its id. Later attempts have greater ones.
    pub id: String,
    /// How it ended. `None` if it has not, or was killed.
    pub ended: Option<Ended>,
}

impl RecordedAttempt {
    /// Returns the beginning of the paths of its files.
    fn path(&self) -> String {
        format!("attempts/{}-{}/{}", self.partitions.start, self.partitions.len(), self.id)
    }

    /// Returns how long it lasted, if it was stopped by a signal.
    pub fn seconds_until_stop(&self, out: &Store) -> Result<Option<f64>, Error> {
        if self.ended != Some(Ended::Stopped) {
            return Ok(None);
        }
        let path = format!("{}.stopped.json", self.path());
        let Some(bytes) = out.read(&path)? else { return Ok(None) };
        let record: EndRecord = super::parse(&path, &bytes)?;
        Ok(Some(record.seconds))
    }

    /// Returns whether it has not ended, as far as this machine knows: a killed process of another
    /// machine counts as running.
    pub fn is_running(&self, out: &Store) -> Result<bool, Error> {
        if self.ended.is_some() {
            return Ok(false);
        }
        Ok(!self.process(out)?.is_some_and(|process| process.has_ended()))
    }

    /// Returns its process, if its machine told it.
    fn process(&self, out: &Store) -> Result<Option<Process>, Error> {
        let path = format!("{}.json", self.path());
        let Some(bytes) = out.read(&path)? else { return Ok(None) };
        let began: Began = dataset::parse_versioned(&path, &bytes)?;
        Ok(began.process)
    }
}

/// Returns all recorded attempts, the oldest first.
pub fn attempts(out: &Store) -> Result<Vec<RecordedAttempt>, Error> {
    let mut attempts: BTreeMap<(String, usize), RecordedAttempt> = BTreeMap::new();
    for path in out.list("attempts")? {
        let Some((attempt, ended)) = parsed(&path) else { continue };
        let key = (attempt.id.clone(), attempt.partitions.start);
        let known = attempts.entry(key).or_insert(attempt);
        known.ended = known.ended.or(ended);
    }
    Ok(attempts.into_values().collect())
}

/// Reads the path of one of an attempt's files.
fn parsed(path: &str) -> Option<(RecordedAttempt, Option<Ended>)> {
    let (folder, name) = path.strip_prefix("attempts/")?.split_once('/')?;
    let (first, count) = folder.split_once('-')?;
    let first: usize = first.parse().ok()?;
    let partitions = first..first.checked_add(count.parse().ok()?)?;
    let name = name.strip_suffix(".json")?;
    let (id, ended) = match name.split_once('.') {
        None => (name, None),
        Some((id, ended)) => {
            let all = [Ended::Done, Ended::Failed, Ended::Stopped];
            (id, Some(all.into_iter().find(|kind| kind.name() == ended)?))
        }
    };
    Some((RecordedAttempt { partitions, id: id.to_owned(), ended: None }, ended))
}

/// Returns the failures of these partitions in their newest attempts.
pub fn failures(
    out: &Store,
    attempts: &[RecordedAttempt],
    partitions: &[usize],
) -> Result<Failures, Error> {
    let mut failures = Failures::new();
    // From the newest to the oldest: the last failure of a partition counts.
    for attempt in attempts.iter().rev().filter(|attempt| attempt.ended == Some(Ended::Failed)) {
        let concerns = |partition: &&usize| {
            attempt.partitions.contains(*partition) && !failures.contains_key(*partition)
        };
        let open: Vec<usize> = partitions.iter().filter(concerns).copied().collect();
        if open.is_empty() {
            continue;
        }
        let path = format!("{}.failed.json", attempt.path());
        let Some(bytes) = out.read(&path)? else { continue };
        let mut recorded: EndRecord = super::parse(&path, &bytes)?;
        let failure = |at| Some((at, recorded.failures.remove(&at)?));
        failures.extend(open.into_iter().filter_map(failure));
    }
    Ok(failures)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn failure(message: &str) -> TaskFailure {
        TaskFailure {
            stage: "frames".into(),
            key: "k".into(),
            subject: "k".into(),
            message: message.into(),
            hint: None,
            transient: false,
            is_video: false,
            is_bug: false,
        }
    }

    #[test]
    fn the_newest_failure_of_a_partition_counts() {
        let folder = tempfile::tempdir().expect("a temporary folder");
        let out = Store::open(&folder.path().display().to_string()).expect("a folder");
        let fail = |partitions: Range<usize>, failed: &[(usize, &str)]| {
            let attempt = Attempt::begin(&out, partitions, 0).expect("written");
            let failures = failed.iter().map(|(at, text)| (*at, failure(text))).collect();
            attempt.end(Ended::Failed, &failures).expect("written");
            std::thread::sleep(std::time::Duration::from_millis(2));
        };
        fail(0..4, &[(1, "old"), (2, "only once")]);
        fail(0..4, &[(1, "new")]);
        let running = Attempt::begin(&out, 4..6, 1).expect("written");
        let all = attempts(&out).expect("listed");
        let kinds: Vec<_> =
            all.iter().map(|attempt| (attempt.partitions.clone(), attempt.ended)).collect();
        let failed = Some(Ended::Failed);
        assert_eq!(kinds, [(0..4, failed), (0..4, failed), (4..6, None)]);
        assert!(all[2].is_running(&out).expect("read"));
        running.end(Ended::Stopped, &Failures::new()).expect("written");
        assert!(!attempts(&out).expect("listed")[2].is_running(&out).expect("read"));
        let found = failures(&out, &all, &[1, 2, 3]).expect("read");
        let found: Vec<_> = found.iter().map(|(at, failure)| (*at, &*failure.message)).collect();
        assert_eq!(found, [(1, "new"), (2, "only once")]);
    }
}
