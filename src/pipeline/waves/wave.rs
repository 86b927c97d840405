//! One wave: works on the partitions of a plan until each is done or given up.

use std::collections::BTreeMap;
use std::ops::Range;
use std::time::{Duration, Instant};

use super::{DriverOptions, OpenPlan};
use crate::dataset::{HashMap, HashSet, Process, Store};
use crate::executor::engine::{Engine, Share, Work};
use crate::pipeline::Error;
use crate::pipeline::partitions::attempts::{RecordedAttempt, attempts, failures, running_here};
use crate::pipeline::partitions::{StageStatus, keys_to_work, status_of, unfinished_partition};
use crate::pipeline::reporter::{FleetStatus, Reporter};
use crate::pipeline::session::now;
use crate::pipeline::task_failure::TaskFailure;

/// Shortest and longest time between two looks at receipts and workers.
const POLL: (Duration, Duration) = (Duration::from_millis(100), Duration::from_secs(60));
/// The time between two looks while nothing changes.
const IDLE_POLL: Duration = Duration::from_secs(2);
/// A look may take at most this share of the time between two looks.
const POLL_SHARE: u32 = 20;
/// Waiting times before the first, second and every later restart of a share.
const RESTART_DELAYS: [Duration; 3] =
    [Duration::from_secs(1), Duration::from_secs(5), Duration::from_secs(25)];
/// How often an engine may refuse in a row while no worker is alive.
const MAX_REFUSALS: usize = 5;
/// How long an engine may not answer, before its first answer and after it. Workers go on without.
const FIRST_SILENCE: Duration = Duration::from_secs(10);
const LONG_SILENCE: Duration = Duration::from_secs(600);
/// A worker that is stopped this soon has made no progress: its time limit is too short.
const SHORT_ATTEMPT_SECS: f64 = 5.0;

/// A wave in progress.
pub(super) struct Wave<'a> {
    plan: &'a OpenPlan,
    store: &'a Store,
    driver: &'a DriverOptions<'a>,
    engine: &'a mut dyn Engine,
    reporter: &'a dyn Reporter,
    /// The key of every partition.
    keys: Vec<String>,
    shares: HashMap<Share, Attempts>,
    /// Workers on this machine that an earlier driver started: their partitions, and the processes.
    orphans: Vec<(Range<usize>, Process)>,
    ended: WaveEnd,
    /// How often the engine has refused to start workers since it last did.
    refusals: usize,
    silence: Silence,
}

/// How long an engine has not answered.
#[derive(Clone, Copy, Debug, Default)]
struct Silence {
    has_answered: bool,
    since: Option<Instant>,
}

/// The attempts at a share that this process has started.
#[derive(Clone, Debug, Default)]
struct Attempts {
    /// Number of starts.
    started: usize,
    /// Number of workers that ended without all receipts.
    failed: usize,
    /// The last attempt that was stopped before its time limit.
    last_stop: Option<String>,
    /// Earliest time of the next start.
    next: Option<Instant>,
}

/// The result of a wave.
#[derive(Debug, Default)]
pub(super) struct WaveEnd {
    /// Number of partitions that were done in it.
    pub done: usize,
    /// The partitions that were given up.
    pub failures: BTreeMap<usize, TaskFailure>,
    /// Seconds from the plan to the last receipt of each stage.
    pub seconds: BTreeMap<String, f64>,
}

impl<'a> Wave<'a> {
    /// Prepares a wave. Partitions of tasks in `given_up` are not started.
    pub fn new(
        plan: &'a OpenPlan,
        store: &'a Store,
        driver: &'a DriverOptions<'a>,
        engine: &'a mut dyn Engine,
        reporter: &'a dyn Reporter,
        given_up: &HashSet<String>,
    ) -> Result<Self, Error> {
        let keys = keys_to_work(&plan.header, &plan.out)?;
        let mut wave = Wave {
            plan,
            store,
            driver,
            engine,
            reporter,
            keys,
            shares: HashMap::default(),
            orphans: running_here(&plan.out, &attempts(&plan.out)?)?,
            ended: WaveEnd::default(),
            refusals: 0,
            silence: Silence::default(),
        };
        for partition in 0..wave.keys.len() {
            if given_up.contains(&wave.keys[partition]) {
                let failure = wave.unfinished(partition);
                wave.ended.failures.insert(partition, failure);
            }
        }
        Ok(wave)
    }

    /// Works until every partition is done or given up.
    ///
    /// # Errors
    /// Fails if the engine refuses to start any worker, or if the process is asked to stop.
    pub fn work(mut self) -> Result<WaveEnd, Error> {
        let mut missing_before = None;
        let mut poll = POLL.0;
        loop {
            if let Some(signal) = self.driver.stop.signal() {
                self.leave_or_cancel()?;
                return Err(Error::Stopped(signal));
            }
            let begun = Instant::now();
            // Workers before receipts: a worker files its receipts before it ends.
            let alive = match self.engine.alive(&self.plan.place) {
                Err(error) if error.is_transient() => {
                    self.unanswered(error.into())?;
                    self.pause(IDLE_POLL);
                    continue;
                }
                alive => alive?,
            };
            self.silence = Silence { has_answered: true, since: None };
            let attempts = attempts(&self.plan.out)?;
            let status = status_of(&self.plan.header, &self.keys, self.store, &attempts)?;
            self.note_finished(&status);
            self.reporter.fleet(&FleetStatus {
                stages: &status,
                workers: alive.len(),
                given_up: self.ended.failures.len(),
            });
            let missing: HashSet<usize> =
                status.iter().flat_map(|stage| &stage.missing).copied().collect();
            // A worker that was given up may have finished after all.
            self.ended.failures.retain(|partition, _| missing.contains(partition));
            let missing = missing.len();
            if missing == self.ended.failures.len() {
                self.ended.done = self.keys.len() - missing;
                return Ok(self.ended);
            }
            self.start_missing(&status, &alive, &attempts)?;
            // Looks often while something happens, and seldom if looking is expensive.
            let is_idle = missing_before == Some(missing);
            poll = if is_idle { (poll * 3 / 2).min(IDLE_POLL) } else { POLL.0 };
            missing_before = Some(missing);
            self.pause(poll.max(begun.elapsed() * POLL_SHARE).min(POLL.1));
        }
    }

    /// Notes when stages have finished.
    fn note_finished(&mut self, status: &[StageStatus]) {
        let seconds = now().as_secs_f64() - self.plan.header.planned_unix_secs() as f64;
        for stage in status.iter().filter(|stage| stage.missing.is_empty()) {
            self.ended.seconds.entry(stage.stage.clone()).or_insert(seconds);
        }
    }

    /// Starts a worker for every share with missing partitions that has none.
    fn start_missing(
        &mut self,
        status: &[StageStatus],
        alive: &HashSet<Share>,
        attempts: &[RecordedAttempt],
    ) -> Result<(), Error> {
        let covered = self.covered(alive)?;
        let plan = self.plan;
        for (name, partitions, needs) in plan.header.stages_to_work() {
            let missing = status.iter().find(|stage| stage.stage == name);
            let is_open = |partition: &&usize| {
                !covered.contains(*partition) && !self.ended.failures.contains_key(*partition)
            };
            let missing = missing.into_iter().flat_map(|stage| &stage.missing);
            let open: Vec<usize> = missing.filter(is_open).copied().collect();
            // Shares of one attempt start together.
            let mut to_start: BTreeMap<usize, Vec<usize>> = BTreeMap::new();
            for share in self.shares_of(name, partitions, &open)? {
                if let Some(attempt) = self.next_attempt(&share, attempts, &open)? {
                    to_start.entry(attempt).or_default().push(share.index);
                }
            }
            let count = self.driver.settings.shares(partitions);
            for (attempt, shares) in to_start {
                let work = Work { stage: name.to_owned(), count, shares, attempt, needs };
                self.start(work, !alive.is_empty())?;
            }
        }
        for note in self.engine.notes() {
            self.reporter.note(&note);
        }
        Ok(())
    }

    /// Returns the partitions that have a worker.
    fn covered(&mut self, alive: &HashSet<Share>) -> Result<HashSet<usize>, Error> {
        let mut covered: HashSet<usize> = HashSet::default();
        for share in alive {
            covered.extend(self.plan.header.partitions_of(share)?);
            // Also workers of an earlier driver, and of a start that the engine refused in part.
            let state = self.shares.entry(share.clone()).or_default();
            state.started = state.started.max(1);
        }
        // They may have ended after the receipts were listed: keep them for one more look.
        self.orphans.retain(|(partitions, process)| {
            covered.extend(partitions.clone());
            process.is_running_here()
        });
        Ok(covered)
    }

    /// Starts workers.
    fn start(&mut self, work: Work, has_workers: bool) -> Result<(), Error> {
        match self.engine.start(&self.plan.place, &work) {
            Err(error) if error.is_transient() => self.refused(error.into(), has_workers),
            Err(error) => {
                self.leave_or_cancel()?;
                Err(error.into())
            }
            Ok(()) => {
                self.refusals = 0;
                for index in work.shares {
                    let stage = Some(work.stage.clone());
                    let share = Share { stage, index, count: work.count };
                    let state = self.shares.entry(share).or_default();
                    state.started += 1;
                    state.next = None;
                }
                Ok(())
            }
        }
    }

    /// Returns the shares of these partitions of a stage, in order.
    fn shares_of(
        &self,
        stage: &str,
        partitions: usize,
        open: &[usize],
    ) -> Result<Vec<Share>, Error> {
        let count = self.driver.settings.shares(partitions);
        let of = |index| Share { stage: Some(stage.to_owned()), index, count };
        let first = self.plan.header.partitions_of(&of(0))?.start;
        let mut indices: Vec<usize> =
            open.iter().map(|partition| share_of(partition - first, partitions, count)).collect();
        indices.dedup();
        Ok(indices.into_iter().map(of).collect())
    }

    /// Returns the number of a share's next attempt if it can start now. Gives its partitions up if
    /// there have been too many.
    fn next_attempt(
        &mut self,
        share: &Share,
        attempts: &[RecordedAttempt],
        open: &[usize],
    ) -> Result<Option<usize>, Error> {
        let partitions = self.plan.header.partitions_of(share)?;
        let stage = share.stage.as_deref().unwrap_or_default();
        let has_checkpoints = self.plan.header.has_checkpoints(stage);
        let state = self.shares.entry(share.clone()).or_default();
        if state.started == 0 {
            return Ok(Some(0));
        }
        if state.next.is_none() {
            let last = attempts.iter().rev().find(|attempt| attempt.partitions == partitions);
            // A training has a checkpoint, and goes on from there. Each stop counts once.
            let stop =
                last.filter(|last| has_checkpoints && state.last_stop.as_ref() != Some(&last.id));
            let lasted = stop.map(|stop| stop.seconds_until_stop(&self.plan.out)).transpose()?;
            if lasted.flatten().is_some_and(|seconds| seconds > SHORT_ATTEMPT_SECS) {
                state.last_stop = last.map(|last| last.id.clone());
                return Ok(Some(state.started));
            }
            let delay = RESTART_DELAYS[state.failed.min(RESTART_DELAYS.len() - 1)];
            state.failed += 1;
            state.next = Some(Instant::now() + delay);
        }
        let Attempts { started, failed, next, .. } = state.clone();
        if failed <= self.driver.settings.restarts {
            return Ok(next.is_none_or(|next| next <= Instant::now()).then_some(started));
        }
        let lost: Vec<usize> =
            open.iter().filter(|partition| partitions.contains(*partition)).copied().collect();
        let recorded = failures(&self.plan.out, attempts, &lost)?;
        for partition in lost {
            let failure = match recorded.get(&partition) {
                Some(failure) => failure.clone(),
                None => self.lost(share, partition, started),
            };
            self.ended.failures.insert(partition, failure);
        }
        Ok(None)
    }

    /// Creates the failure of a partition whose workers ended without a result or an error.
    fn lost(&self, share: &Share, partition: usize, started: usize) -> TaskFailure {
        let mut failure = self.unfinished(partition);
        failure.message += &format!(": {started} workers ended without a result");
        let words = self.engine.last_words(&self.plan.place, share, started - 1);
        failure.message.extend(words.map(|words| format!("; {words}")));
        failure
    }

    fn unfinished(&self, partition: usize) -> TaskFailure {
        let stage = self.plan.header.stage_of(partition).unwrap_or_default();
        unfinished_partition(stage, &self.keys[partition], partition)
    }

    /// Reports that the engine does not answer. Fails if it has not for long.
    fn unanswered(&mut self, error: Error) -> Result<(), Error> {
        let since = match self.silence.since {
            Some(since) => since,
            None => {
                self.reporter.note(&format!("{error}; tries again"));
                *self.silence.since.insert(Instant::now())
            }
        };
        let most = if self.silence.has_answered { LONG_SILENCE } else { FIRST_SILENCE };
        if since.elapsed() > most { Err(error) } else { Ok(()) }
    }

    /// Reports that the engine refused to start workers. Fails if it refuses always.
    fn refused(&mut self, error: Error, has_workers: bool) -> Result<(), Error> {
        self.refusals += 1;
        if self.refusals == 1 {
            self.reporter.note(&format!("{error}; tries again"));
        }
        if self.refusals >= MAX_REFUSALS && !has_workers { Err(error) } else { Ok(()) }
    }

    /// Ends all workers, or leaves them alone with `--detach`.
    fn leave_or_cancel(&mut self) -> Result<(), Error> {
        if self.driver.detach {
            self.reporter.note("workers go on; the same command finds them again");
            return Ok(());
        }
        self.reporter.note("cancelling all workers");
        self.plan.cancel(self.engine)
    }

    /// Sleeps, but not beyond a signal.
    fn pause(&self, time: Duration) {
        let begun = Instant::now();
        while begun.elapsed() < time && !self.driver.stop.is_set() {
            std::thread::sleep(POLL.0.min(time.saturating_sub(begun.elapsed())));
        }
    }
}

/// Returns the share that holds a partition; the inverse of [`Share::range`].
fn share_of(partition: usize, partitions: usize, shares: usize) -> usize {
    (((partition as u128 + 1) * shares as u128 - 1) / partitions as u128) as usize
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_partition_is_in_its_share() {
        for (partitions, count) in [(1, 1), (7, 3), (120, 12), (1001, 1001), (10, 4)] {
            for partition in 0..partitions {
                let index = share_of(partition, partitions, count);
                let share = Share { stage: None, index, count };
                assert!(share.range(partitions).contains(&partition), "{partition} {count}");
            }
        }
    }
}
