//! Plans in a workspace whose workers an engine starts: made, found again, cancelled, closed.

use std::path::Path;
use std::time::{Duration, Instant};

use serde::{Deserialize, Serialize};

use super::DriverOptions;
use crate::dataset::{Process, Store, pins, runs};
use crate::executor::engine::{Engine, PlanPlace};
use crate::executor::local::fresh_id;
use crate::pipeline::Error;
use crate::pipeline::check::Checked;
use crate::pipeline::partitions::attempts::{attempts, running_here};
use crate::pipeline::partitions::{self, PartitionedPlan, write_partitions};
use crate::pipeline::plan::PlanOptions;
use crate::pipeline::reporter::Reporter;
use crate::pipeline::session::{PipelineText, claim, now};
use crate::pipeline::summary::Summary;

/// The folder of plans in a workspace.
const PLANS: &str = "plans";
/// Plans with failures are kept this long, with the logs of their workers.
const KEPT: Duration = Duration::from_secs(30 * 24 * 3600);
/// Longest time for an engine to end workers.
const CANCEL_TIMEOUT: Duration = Duration::from_secs(60);
/// Longest time for workers to end after their last receipt.
const LAST_WORKERS: Duration = Duration::from_secs(30);

/// A plan in the workspace that is not committed yet.
pub(super) struct OpenPlan {
    pub header: PartitionedPlan,
    /// The plan's folder.
    pub out: Store,
    /// Where workers find it.
    pub place: PlanPlace,
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
    pub fn close(&self, store: &Store, engine: &mut dyn Engine) -> Result<(), Error> {
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
    pub fn cancel(&self, engine: &mut dyn Engine) -> Result<(), Error> {
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
pub(super) fn open_plan(
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
        let Some((header, record)) = unfinished(checked, store, &name)? else { continue };
        let folder = format!("{PLANS}/{name}");
        if record.executor != driver.executor {
            let executor = record.executor;
            return Err(Error::Request {
                what: format!(
                    "executor `{executor}` is still working on the plan {name} of an earlier run"
                ),
                hint: format!(
                    "run again with --executor {executor} to finish it, or to end it by Ctrl-C; \
                     if no worker is left, delete {folder} in the workspace"
                ),
            });
        }
        let plan = OpenPlan::new(header, plan_store(store, &name)?, &name, driver);
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

/// Reads a plan of this pipeline that is not committed yet. A plan that is over, or that cannot be
/// read, is deleted when it is old.
fn unfinished(
    checked: &Checked,
    store: &Store,
    name: &str,
) -> Result<Option<(PartitionedPlan, DriverRecord)>, Error> {
    let out = plan_store(store, name)?;
    // Without its header, another driver may be writing it at this moment. A plan of another
    // version of lapo cannot be worked on.
    let header = match partitions::is_complete(&out)?.then(|| partitions::read(&out)) {
        Some(Err(Error::Dataset(error))) if error.is_transient() => return Err(error.into()),
        Some(Ok(header)) => Some(header),
        Some(Err(_)) | None => None,
    };
    let is_over = match &header {
        Some(header) => header.changes == 0 || runs::is_recorded(store, &header.run)?,
        None => true,
    };
    let Some(header) = header.filter(|_| !is_over) else {
        if age(name).is_some_and(|age| age > KEPT) {
            store.delete_all(&format!("{PLANS}/{name}"))?;
        }
        return Ok(None);
    };
    if header.pipeline() != checked.spec.name {
        return Ok(None);
    }
    let Some(record) = out.read(DRIVER_FILE)? else { return Ok(None) };
    Ok(Some((header, partitions::parse(DRIVER_FILE, &record)?)))
}

/// Releases the pins and the number of a run that has committed nothing.
fn forget_run(plan: &PartitionedPlan, store: &Store) -> Result<(), Error> {
    pins::release(store, &plan.run)?;
    Ok(runs::abandon(store, &plan.run)?)
}

/// Records a run that has committed nothing.
pub(super) fn end_run(
    plan: &PartitionedPlan,
    store: &Store,
    summary: &Summary,
) -> Result<(), Error> {
    pins::release(store, &plan.run)?;
    let outcome = format!("{} partitions failed", summary.failures.len());
    let record = plan.written.record(summary, plan.planned_unix_secs(), &outcome);
    Ok(runs::record(store, &plan.run, &record)?)
}

/// Plans into a new folder of the workspace.
pub(super) fn new_plan(
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
