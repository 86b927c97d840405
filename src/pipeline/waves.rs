//! Runs a pipeline on workers that an engine starts: plan, start what is missing, wait for
//! receipts, commit, until a plan changes nothing. Start at [`run`].
//!
//! - The plan of a wave is in the workspace, at `plans/NAME`. A driver that is killed and started
//!   again finds the plan there and its workers at the engine, and goes on.
//! - Receipts decide what is done. A share whose worker has ended without all receipts is started
//!   again; after some restarts its partitions are given up, and the rest goes on.
//! - A worker that is stopped before its time limit is started again without being counted.

use std::collections::BTreeMap;
use std::path::Path;
use std::time::Instant;

use super::Error;
use super::check::Checked;
use super::partitions::attempts::said;
use super::partitions::{Missing, PartitionedPlan, commit_all, unchanged_stages};
use super::plan::{PlanOptions, StagePlan};
use super::reporter::Reporter;
use super::summary::{StageSummary, Summary};
use super::task_failure::TaskFailure;
use crate::dataset::Store;
use crate::executor::engine::Engine;
use crate::executor::settings::ExecutorSettings;
use crate::stages::{Progress, Stop};

mod open_plan;
mod wave;

use open_plan::{OpenPlan, end_run, new_plan, open_plan};
use wave::{Wave, WaveEnd};

/// How the driver works.
pub struct DriverOptions<'a> {
    /// The name of the executor.
    pub executor: &'a str,
    /// Settings of the executor.
    pub settings: &'a ExecutorSettings,
    /// Whether workers go on when the driver is stopped.
    pub detach: bool,
    /// The folder for logs of workers if the workspace is in an object store.
    pub remote_logs: &'a Path,
    /// Set when the process receives a signal to stop.
    pub stop: &'a Stop,
}

/// Runs every stage on workers that `engine` starts.
///
/// # Errors
/// Fails if the engine refuses or does not answer, or if nothing is done of a stage that others
/// need. What is done stays committed. Other failures are in [`Summary::failures`].
pub fn run(
    checked: &Checked,
    store: &Store,
    options: &PlanOptions,
    driver: &DriverOptions,
    engine: &mut dyn Engine,
    reporter: &dyn Reporter,
) -> Result<Summary, Error> {
    let start = Instant::now();
    let mut options = options.clone();
    let mut total = Total::default();
    loop {
        let resumed = open_plan(checked, store, &options, driver, engine, reporter)?;
        let is_resumed = resumed.is_some();
        let plan = match resumed {
            Some(open) => open,
            None => new_plan(checked, store, &options, driver)?,
        };
        if plan.header.changes == 0 {
            for stage in unchanged_stages(&plan.header, store)? {
                if !total.has(&stage.stage) {
                    reporter.stage_ended(&stage);
                }
                total.add_stages(vec![stage]);
            }
            plan.close(store, engine)?;
            break;
        }
        reporter.run_started(&plan.header.run);
        let wave = Wave::new(&plan, store, driver, engine, reporter, &options.given_up)?;
        let ended = wave.work()?;
        for text in said(&plan.out)? {
            reporter.say(&text);
        }
        let mut committed = commit(&plan, store, &ended, reporter)?;
        let is_changed = committed.stages.iter().any(|stage| stage.changed);
        if committed.failures.is_empty() {
            plan.close(store, engine)?;
        }
        let has_learned = options.forget(&plan.header, &ended, is_resumed);
        if is_resumed {
            // They are tried again in the next wave.
            committed.failures.clear();
        }
        total.add(committed, &ended, &plan.header);
        // A plan of an earlier run does not know what is new since.
        if ended.done == 0 && !is_changed && !has_learned && !is_resumed {
            break;
        }
    }
    total.summary.seconds = start.elapsed().as_secs_f64();
    total.finish()
}

/// Commits what is done.
fn commit(
    plan: &OpenPlan,
    store: &Store,
    ended: &WaveEnd,
    reporter: &dyn Reporter,
) -> Result<Summary, Error> {
    let reporter = ChangesOnly { reporter, seconds: &ended.seconds };
    match commit_all(&plan.header, &plan.out, store, Missing::LeaveOut, &reporter) {
        // Nothing is done, so there is nothing to commit. The run ends all the same.
        Err(Error::Request { .. }) if ended.done == 0 && !ended.failures.is_empty() => {
            let failures = ended.failures.values().cloned().collect();
            let run = plan.header.run.clone();
            let summary = Summary { run, failures, ..Summary::default() };
            end_run(&plan.header, store, &summary)?;
            Ok(summary)
        }
        committed => {
            let mut committed = committed?;
            // These say more than "not done".
            for failure in &mut committed.failures {
                let is_same =
                    |known: &&TaskFailure| known.key == failure.key && known.stage == failure.stage;
                if let Some(known) = ended.failures.values().find(is_same) {
                    failure.clone_from(known);
                }
            }
            Ok(committed)
        }
    }
}

impl PlanOptions {
    /// Removes what a wave has done, and leaves out what failed in it. Returns whether something
    /// failed that was not known to fail.
    fn forget(&mut self, plan: &PartitionedPlan, ended: &WaveEnd, is_resumed: bool) -> bool {
        // Both mean one more attempt, not one in every wave.
        let worked: Vec<&str> = plan.stages_to_work().map(|(stage, ..)| stage).collect();
        self.refresh.retain(|stage| !worked.contains(&stage.as_str()));
        self.retry_rejected = None;
        // What failed in an earlier run may succeed in this one.
        if is_resumed {
            return false;
        }
        let mut has_learned = false;
        for failure in ended.failures.values() {
            has_learned |= match failure.unavailable() {
                Some((video, reason)) => self.left_out.insert(video, reason).is_none(),
                None => self.given_up.insert(failure.key.clone()),
            };
        }
        has_learned
    }
}

/// The sum of all waves.
#[derive(Default)]
struct Total {
    summary: Summary,
    /// Failures of stages of which nothing is left.
    hopeless: Vec<TaskFailure>,
    partitions: usize,
}

impl Total {
    fn add(&mut self, committed: Summary, ended: &WaveEnd, plan: &PartitionedPlan) {
        self.partitions += ended.done + ended.failures.len();
        self.summary.run = committed.run;
        let mut stages = committed.stages;
        for stage in &mut stages {
            stage.seconds = ended.seconds.get(&stage.stage).copied().unwrap_or(0.0);
        }
        for failure in committed.failures {
            let is_new = |known: &TaskFailure| known.key != failure.key || failure.key.is_empty();
            if !self.summary.failures.iter().all(is_new) {
                continue;
            }
            let has_version =
                stages.iter().any(|stage| stage.stage == failure.stage && stage.version > 0);
            if !has_version || !plan.is_independent(&failure.stage) {
                self.hopeless.push(failure.clone());
            }
            self.summary.failures.push(failure);
        }
        self.add_stages(stages);
    }

    fn has(&self, stage: &str) -> bool {
        self.summary.stages.iter().any(|known| known.stage == stage)
    }

    fn add_stages(&mut self, stages: Vec<StageSummary>) {
        for stage in stages {
            let all = &mut self.summary.stages;
            match all.iter_mut().find(|known| known.stage == stage.stage) {
                None => all.push(stage),
                Some(known) => {
                    let StageSummary { new, seconds, changed, videos_gone, rows_fewer, .. } =
                        *known;
                    let (reused, mut done) = (known.reused, std::mem::take(&mut known.done));
                    for (name, value) in &stage.done {
                        *done.entry(name.clone()).or_default() += value;
                    }
                    *known = StageSummary {
                        new: new + stage.new,
                        reused,
                        done,
                        seconds: seconds + stage.seconds,
                        changed: changed || stage.changed,
                        videos_gone: videos_gone + stage.videos_gone,
                        rows_fewer: rows_fewer + stage.rows_fewer,
                        ..stage
                    };
                }
            }
        }
    }

    /// Returns the summary, or an error if nothing is left of a stage.
    fn finish(self) -> Result<Summary, Error> {
        if self.hopeless.is_empty() {
            return Ok(self.summary);
        }
        Err(Error::Partitions { failures: self.hopeless, total: self.partitions })
    }
}

/// Reports only stages that have changed, with the time that their partitions took.
struct ChangesOnly<'a> {
    reporter: &'a dyn Reporter,
    seconds: &'a BTreeMap<String, f64>,
}

impl Reporter for ChangesOnly<'_> {
    fn stage_started(&self, plan: &StagePlan, units: u64) -> Box<dyn Progress> {
        self.reporter.stage_started(plan, units)
    }

    fn stage_ended(&self, stage: &StageSummary) {
        if stage.changed || stage.new > 0 {
            let seconds = self.seconds.get(&stage.stage).copied().unwrap_or(0.0);
            self.reporter.stage_ended(&StageSummary { seconds, ..stage.clone() });
        }
    }
}
