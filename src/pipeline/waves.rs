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
use std::time::{Duration, Instant};

use serde::{Deserialize, Serialize};

use super::Error;
use super::check::Checked;
use super::partitions::attempts::{attempts, running_here, said};
use super::partitions::{
    self, Missing, PartitionedPlan, commit_all, unchanged_stages, write_partitions,
};
use super::plan::{PlanOptions, StagePlan};
use super::reporter::Reporter;
use super::session::{PipelineText, claim, now};
use super::summary::{StageSummary, Summary};
use super::task_failure::TaskFailure;
use crate::dataset::{Process, Store, pins, runs};
use crate::executor::engine::{Engine, PlanPlace};
use crate::executor::local::fresh_id;
use crate::executor::settings::ExecutorSettings;
use crate::stages::{Progress, Stop};

mod wave;

use wave::{Wave, WaveEnd};

/// The folder of plans in a workspace.
const PLANS: &str = "plans";
/// Plans with failures are kept this long, with the logs of their workers.
const KEPT: Duration = Duration::from_secs(30 * 24 * 3600);
/// Longest time for an engine to end workers.
const CANCEL_TIMEOUT: Duration = Duration::from_secs(60);
/// Longest time for workers to end after their last receipt.
const LAST_WORKERS: Duration = Duration::from_secs(30);

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

/// A plan in the workspace that is not committed yet.
struct OpenPlan {
    header: PartitionedPlan,
    /// The plan's folder.
    out: Store,
    place: PlanPlace,
}

/// Which driver works on a plan, and how: the file `driver.json` beside it.
#[derive(Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct DriverRecord {
    /// The executor of its workers.
    executor: String,
    /// The options of the plan.
    refresh: Vec<String>,
    retry_rejected: Option<Vec<String>>,
    only: Option<Vec<String>>,
}

/// The file of [`DriverRecord`] in a plan's folder.
const DRIVER_FILE: &str = "driver.json";
/// The folder with a file for each process that has driven the plan.
const DRIVERS: &str = "drivers";

impl DriverRecord {
    fn new(options: &PlanOptions, driver: &DriverOptions) -> Self {
        DriverRecord {
            executor: driver.executor.to_owned(),
            refresh: options.refresh.clone(),
            retry_rejected: options.retry_rejected.clone(),
            only: options.only.clone(),
        }
    }
}

impl OpenPlan {
    fn new(header: PartitionedPlan, out: Store, name: &str, driver: &DriverOptions) -> Self {
        let logs = match (&driver.settings.logs, out.local_path("logs")) {
            (Some(logs), _) => Path::new(&header.base).join(logs).join(name),
            (None, Ok(Some(path))) => path,
            (None, _) => driver.remote_logs.join(name),
        };
        let place = PlanPlace {
            name: name.to_owned(),
            address: out.name(),
            base: header.base.clone(),
            logs,
        };
        OpenPlan { header, out, place }
    }

    /// Records that this process drives the plan.
    fn claim(&self) -> Result<(), Error> {
        let path = format!("{DRIVERS}/{:013}-{}.json", now().as_millis(), fresh_id());
        self.out.create(&path, partitions::json(&Process::this()).as_bytes())?;
        Ok(())
    }

    /// Returns an error if another process of this machine drives the plan. Drivers of two machines
    /// do no harm, but start workers twice.
    fn require_no_driver(&self) -> Result<(), Error> {
        for path in self.out.list(DRIVERS)? {
            let Some(bytes) = self.out.read(&path)? else { continue };
            let process: Option<Process> = partitions::parse(&path, &bytes)?;
            if process != Process::this() && process.is_some_and(|other| other.is_running_here()) {
                return Err(Error::Request {
                    what: format!("another process drives the plan {}", self.place.name),
                    hint: "wait for it, or stop it by Ctrl-C".into(),
                });
            }
        }
        Ok(())
    }

    /// Deletes the plan's folder, once no worker writes into it any more.
    fn close(&self, store: &Store, engine: &mut dyn Engine) -> Result<(), Error> {
        let begun = Instant::now();
        while !engine.alive(&self.place).is_ok_and(|alive| alive.is_empty()) {
            if begun.elapsed() > LAST_WORKERS {
                // Their tasks are done. Workers that are left run twice, or wait in a queue.
                _ = engine.cancel(&self.place);
                break;
            }
            std::thread::sleep(Duration::from_millis(100));
        }
        Ok(store.delete_all(&format!("{PLANS}/{}", self.place.name))?)
    }

    /// Ends all workers of the plan, also those that an earlier driver started on this machine.
    fn cancel(&self, engine: &mut dyn Engine) -> Result<(), Error> {
        let begun = Instant::now();
        loop {
            match engine.cancel(&self.place) {
                Err(error) if error.is_transient() && begun.elapsed() < CANCEL_TIMEOUT => {
                    std::thread::sleep(Duration::from_secs(1));
                }
                cancelled => break cancelled?,
            }
        }
        let mut orphans = running_here(&self.out, &attempts(&self.out)?)?;
        // Once: a second signal would not leave them time for a checkpoint.
        orphans.iter().for_each(|(_, process)| process.end(false));
        let begun = Instant::now();
        while !orphans.is_empty() {
            std::thread::sleep(Duration::from_millis(100));
            if begun.elapsed() > CANCEL_TIMEOUT {
                orphans.iter().for_each(|(_, process)| process.end(true));
                break;
            }
            orphans.retain(|(_, process)| process.is_running_here());
        }
        Ok(())
    }
}

/// Returns the store of a plan's folder.
fn plan_store(store: &Store, name: &str) -> Result<Store, Error> {
    Ok(Store::open_with(&format!("{}/{PLANS}/{name}", store.name()), store.access())?)
}

/// Returns the newest uncommitted plan of this pipeline. A plan with other settings or options is
/// cancelled, and old ones are deleted.
///
/// # Errors
/// Fails if another executor works on the plan.
fn open_plan(
    checked: &Checked,
    store: &Store,
    options: &PlanOptions,
    driver: &DriverOptions,
    engine: &mut dyn Engine,
    reporter: &dyn Reporter,
) -> Result<Option<OpenPlan>, Error> {
    let mut names = store.folders(PLANS)?;
    names.sort_unstable();
    while let Some(name) = names.pop() {
        let out = plan_store(store, &name)?;
        let folder = format!("{PLANS}/{name}");
        let is_old = age(&name).is_some_and(|age| age > KEPT);
        // Without its header, another driver may be writing it at this moment. A plan of another
        // version of lapo cannot be worked on.
        let header = match partitions::is_complete(&out)?.then(|| partitions::read(&out)) {
            Some(Ok(header)) => header,
            Some(Err(Error::Dataset(error))) if error.is_transient() => return Err(error.into()),
            None | Some(Err(_)) => {
                if is_old {
                    store.delete_all(&folder)?;
                }
                continue;
            }
        };
        if runs::is_recorded(store, &header.run)? || header.changes == 0 {
            if is_old {
                store.delete_all(&folder)?;
            }
            continue;
        }
        if header.pipeline() != checked.spec.name {
            continue;
        }
        let record = match out.read(DRIVER_FILE)? {
            Some(bytes) => partitions::parse::<DriverRecord>(DRIVER_FILE, &bytes)?,
            None => continue,
        };
        if record.executor != driver.executor {
            let executor = record.executor;
            return Err(Error::Request {
                what: format!("the plan {name} of an earlier run is at work by `{executor}`"),
                hint: format!(
                    "run again with --executor {executor} to finish it, or to end it by Ctrl-C; \
                     if no worker is left, delete {folder} in the workspace"
                ),
            });
        }
        let plan = OpenPlan::new(header, out, &name, driver);
        plan.require_no_driver()?;
        if plan.header.written == PipelineText::of(checked)
            && record == DriverRecord::new(options, driver)
        {
            reporter.note(&format!("resuming plan {name} of an earlier run"));
            plan.claim()?;
            return Ok(Some(plan));
        }
        reporter.note(&format!("pipeline or options changed: cancelling plan {name}"));
        plan.cancel(engine)?;
        forget_run(&plan.header, store)?;
        store.delete_all(&folder)?;
    }
    Ok(None)
}

/// Releases the pins and the number of a run that has committed nothing.
fn forget_run(plan: &PartitionedPlan, store: &Store) -> Result<(), Error> {
    pins::release(store, &plan.run)?;
    Ok(runs::abandon(store, &plan.run)?)
}

/// Records a run that has committed nothing.
fn end_run(plan: &PartitionedPlan, store: &Store, summary: &Summary) -> Result<(), Error> {
    pins::release(store, &plan.run)?;
    let outcome = format!("{} partitions failed", summary.failures.len());
    let record = plan.written.record(summary, plan.planned_unix_secs(), &outcome);
    Ok(runs::record(store, &plan.run, &record)?)
}

/// Plans into a new folder of the workspace.
fn new_plan(
    checked: &Checked,
    store: &Store,
    options: &PlanOptions,
    driver: &DriverOptions,
) -> Result<OpenPlan, Error> {
    let name = format!("{:013}-{}", now().as_millis(), &fresh_id()[..8]);
    let folder = format!("{PLANS}/{name}");
    let out = plan_store(store, &name)?;
    // The first file of a workspace claims it.
    claim(checked, store, options)?;
    // Before the plan: a plan without it would have no driver.
    let record = partitions::json(&DriverRecord::new(options, driver));
    out.create(DRIVER_FILE, record.as_bytes())?;
    let header = match write_partitions(checked, store, options, &out) {
        Ok(header) => header,
        Err(error) => {
            // Without its header a plan is of no use.
            store.delete_all(&folder)?;
            return Err(error);
        }
    };
    if header.partitions == 0
        && options.only.is_some()
        && let Some(stage) = header.waiting_stage()
    {
        forget_run(&header, store)?;
        store.delete_all(&folder)?;
        return Err(Error::Request {
            what: format!("stage {stage} waits for stages that are left out"),
            hint: format!("run its inputs as well: --until {stage}"),
        });
    }
    let plan = OpenPlan::new(header, out, &name, driver);
    plan.claim()?;
    Ok(plan)
}

/// Returns the age of a plan, which its name begins with.
fn age(name: &str) -> Option<Duration> {
    let millis = name.split('-').next()?.parse().ok()?;
    Some(now().saturating_sub(Duration::from_millis(millis)))
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
