//! Runs a pipeline stage by stage: plan, execute, commit.
//!
//! - Finished work is recorded in receipts, each created atomically. There are no locks, and a run
//!   that dies is simply started again.
//! - A failed task does not stop its stage: the other tasks are committed, and the failed one is
//!   left for the next run.
//! - If the model of a label stage is already trained, shards are labelled while others are still
//!   being decoded. A slow video then delays only the labels of its own shard.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{OnceLock, mpsc};
use std::time::{Duration, Instant};

use super::Error;
use super::check::Checked;
use super::max_rejected::{RejectLimit, check_dropped, check_readable};
use super::plan::{
    PlanOptions, Planner, ReadyLabelStage, StagePlan, StreamedLabels, restore_previous,
};
use super::reporter::Reporter;
use super::session::{PinsFor, Session};
use super::summary::{StageSummary, Summary};
use super::task_failure::TaskFailure;
use crate::dataset::{HashMap, HashSet, Receipt, Store, delete_damaged_receipt};
use crate::executor::{Job, JobResult, Resources, local};
use crate::stages::Progress;

/// Runs every stage and writes a record into `runs/`.
///
/// A run without work writes no record, so a read-only workspace is enough for it.
///
/// # Errors
/// Fails if all tasks of a stage fail, or its only one. Stages before it stay committed. If only
/// some tasks fail, they are listed in [`Summary::failures`].
pub fn run(
    checked: &Checked,
    store: &Store,
    options: &PlanOptions,
    resources: &Resources,
    reporter: &dyn Reporter,
) -> Result<Summary, Error> {
    let start = Instant::now();
    let session = match Session::begin(checked, store, options, PinsFor::ThisProcess) {
        Ok(session) => session,
        Err(Error::Dataset(error)) if error.is_read_only() => {
            return nothing_to_do(checked, store, options, reporter, start, error);
        }
        Err(error) => return Err(error),
    };
    let mut summary = Summary { run: session.run.clone(), ..Summary::default() };
    reporter.run_started(&summary.run);
    let result = stages(&session, options, resources, reporter, &mut summary);
    summary.seconds = start.elapsed().as_secs_f64();
    // Release the pins even if a stage failed, but report that stage's error first.
    let ended = session.end(&mut summary, result.as_ref().err());
    result?;
    ended?;
    Ok(summary)
}

/// Returns the summary of a run in a read-only workspace, if nothing has to be written.
fn nothing_to_do(
    checked: &Checked,
    store: &Store,
    options: &PlanOptions,
    reporter: &dyn Reporter,
    start: Instant,
    error: crate::dataset::Error,
) -> Result<Summary, Error> {
    let mut summary = Summary::default();
    for plan in Planner::new(checked, store, options)?.plan_all()? {
        if plan.changes() {
            return Err(error.into());
        }
        let stage = StageSummary::of(&plan, &HashMap::default());
        reporter.stage_ended(&stage);
        summary.stages.push(stage);
    }
    summary.seconds = start.elapsed().as_secs_f64();
    Ok(summary)
}

/// Runs the stages in order, and adds their results to the summary.
fn stages(
    session: &Session,
    options: &PlanOptions,
    resources: &Resources,
    reporter: &dyn Reporter,
    summary: &mut Summary,
) -> Result<(), Error> {
    let mut planner = Planner::new(session.checked, session.store, options)?;
    for &at in &session.checked.order {
        if let Some(signal) = resources.stop.signal() {
            return Err(Error::Stopped(signal));
        }
        // Stages that are not run are still planned, because others read their plans.
        if !options.runs(&session.checked.spec.stages[at].0) {
            let plan = planner.plan(at)?;
            planner.plans.insert(plan.stage.clone(), plan);
            continue;
        }
        let begun = Instant::now();
        let mut running = RunningStage {
            session,
            planner: &mut planner,
            resources,
            reporter,
            at,
            made: HashMap::default(),
            failures: Vec::new(),
        };
        let stage = running.run();
        // Failures belong to the summary even if the stage returned an error.
        summary.failures.append(&mut running.failures);
        let mut stage = stage?;
        stage.seconds += begun.elapsed().as_secs_f64();
        reporter.stage_ended(&stage);
        summary.stages.push(stage);
    }
    Ok(())
}

/// Number of attempts to plan a stage if some of its videos turn out to be unreadable.
const MAX_ROUNDS: usize = 3;

/// A stage in progress.
struct RunningStage<'s, 'p, 'a> {
    session: &'s Session<'a>,
    planner: &'p mut Planner<'a>,
    resources: &'s Resources,
    reporter: &'s dyn Reporter,
    at: usize,
    /// The receipts of this run, by key.
    made: HashMap<String, Arc<Receipt>>,
    failures: Vec<TaskFailure>,
}

impl RunningStage<'_, '_, '_> {
    /// Plans, executes and commits the stage.
    fn run(&mut self) -> Result<StageSummary, Error> {
        let mut streaming_time = Duration::ZERO;
        for round in 1.. {
            let plan = self.planner.plan(self.at)?;
            let name = plan.stage.clone();
            if self.planner.options.only.is_some() && plan.waiting.tasks > 0 {
                let what =
                    format!("stage {name} waits for stages that are left out: {}", plan.reasons());
                return Err(Error::Request {
                    what,
                    hint: format!("run its inputs as well: --until {name}"),
                });
            }
            check_dropped(&plan, self.planner.options.max_dropped.or(self.spec_max_dropped()))?;
            if !self.session.pin_tasks(&plan)? {
                // Garbage collection took a task: plan again.
                continue;
            }
            // Labels that were streamed while the frames were decoded are finished tasks.
            let (done, took) = self.planner.streamed.take(&name);
            streaming_time += took;
            self.made.extend(done);
            for damaged in &plan.damaged {
                delete_damaged_receipt(self.session.store, &name, damaged)?;
            }
            let limit = self.reject_limit(&plan);
            let failed = self.work(plan, &limit)?;
            limit.check(&name)?;
            let unavailable: BTreeMap<String, String> =
                failed.iter().filter_map(TaskFailure::unavailable).collect();
            // Plan again without the unreadable videos, so that their shards hold the others.
            if !unavailable.is_empty() && round < MAX_ROUNDS {
                self.failures
                    .extend(failed.into_iter().filter(|failure| failure.unavailable().is_some()));
                self.planner.now.left_out.extend(unavailable);
                continue;
            }
            // Whatever is still unreadable is left for the next run.
            return self.commit(failed, streaming_time);
        }
        unreachable!("the last round returns")
    }

    /// Returns the pipeline's `max_dropped` for this stage.
    fn spec_max_dropped(&self) -> Option<f64> {
        self.session.checked.spec.stages[self.at].1.max_dropped()
    }

    /// Returns the limit on rejected videos, with the rejects of finished tasks counted.
    fn reject_limit(&self, plan: &StagePlan) -> RejectLimit {
        let most = self.session.checked.spec.stages[self.at].1.max_rejected();
        RejectLimit::new(most, plan.new_videos() + plan.reused_videos(), plan.tasks.receipts())
    }

    /// Runs the stage's jobs and returns the failures.
    ///
    /// # Errors
    /// Fails if no job succeeded, or if the stage has one job only.
    fn work(
        &mut self,
        mut plan: StagePlan,
        limit: &RejectLimit,
    ) -> Result<Vec<TaskFailure>, Error> {
        let name = plan.stage.clone();
        let mut jobs = plan.tasks.begin();
        // These were finished in an earlier round, or streamed.
        jobs.retain(|job| !self.made.contains_key(&job.key));
        self.planner.plans.insert(name.clone(), plan);
        if jobs.is_empty() {
            return Ok(vec![]);
        }
        let label_stages = self.planner.ready_label_stages(&name)?;
        let progress = self
            .reporter
            .stage_started(&self.planner.plans[&name], jobs.iter().map(|job| job.units).sum());
        let total = jobs.len();
        let independent = jobs.iter().all(|job| job.task.kind().independent);
        let (ended, labels) =
            execute(self.session, jobs, self.resources, progress.as_ref(), limit, &label_stages);
        self.planner.streamed.keep(labels);
        if let Some(signal) = self.resources.stop.signal() {
            return Err(Error::Stopped(signal));
        }
        let mut failed = Vec::new();
        let mut first = None;
        let started = ended.len();
        for JobResult { key, result } in ended {
            match result {
                Ok(receipt) => {
                    self.made.insert(key, receipt);
                }
                Err(error) => {
                    failed.push(TaskFailure::new(&name, &key, &error));
                    first.get_or_insert(error);
                }
            }
        }
        // Unreadable videos alone do not fail a stage: they are left for the next run.
        let is_hopeless = !independent
            || failed.len() == started
                && failed.iter().all(|failure| failure.unavailable().is_none());
        match first.filter(|_| is_hopeless) {
            Some(first) => {
                let count = failed.len();
                self.failures.extend(failed);
                Err(Error::Tasks { stage: name, failed: count, total, first: Box::new(first) })
            }
            None => Ok(failed),
        }
    }

    /// Commits the finished tasks as the next version.
    fn commit(
        &mut self,
        failed: Vec<TaskFailure>,
        streaming_time: Duration,
    ) -> Result<StageSummary, Error> {
        let name = &self.session.checked.spec.stages[self.at].0;
        let plan = self.planner.plans.get_mut(name).expect("planned by `work`");
        let undone = settle(plan, &self.made);
        check_readable(plan, &failed)?;
        let committed = self.session.commit(plan)?;
        let mut stage = StageSummary::of(plan, &self.made).with(&committed, plan);
        // A skipped video counts as one failure, however many tasks it was tried in.
        stage.failed = undone + plan.left_out.len();
        stage.seconds = streaming_time.as_secs_f64();
        self.failures.extend(plan.left_out.iter().map(|left| TaskFailure::left_out(name, left)));
        self.failures.extend(failed);
        // A video can fail in several rounds: report it once.
        let mut seen = HashSet::default();
        self.failures
            .retain(|failure| seen.insert((failure.stage.clone(), failure.subject.clone())));
        Ok(stage)
    }
}

/// Marks finished tasks as done, removes the others from the plan and returns how many were
/// removed.
///
/// If a removed task would have replaced tasks of the previous version, these stay.
pub(super) fn settle(plan: &mut StagePlan, made: &HashMap<String, Arc<Receipt>>) -> usize {
    let all: HashSet<String> = plan.tasks.keys().into_iter().collect();
    // Receipts of an earlier round may no longer be in the plan.
    let undone = plan.tasks.end(
        made.iter()
            .map(|(key, receipt)| (key.clone(), receipt.clone()))
            .filter(|(key, _)| all.contains(key))
            .collect(),
    );
    if undone > 0 {
        restore_previous(plan);
    }
    // A run commits what it has, so nothing waits any more.
    plan.waiting = Default::default();
    undone
}

/// Length of the queue of label jobs. Decoding never waits for labels.
const LABEL_QUEUE: usize = 1000;

/// Runs a stage's jobs, and labels their shards for ready label stages meanwhile. Once the jobs are
/// done, the remaining labels are left to their stages.
fn execute(
    session: &Session,
    jobs: Vec<Job>,
    resources: &Resources,
    progress: &dyn Progress,
    limit: &RejectLimit,
    label_stages: &[ReadyLabelStage],
) -> (Vec<JobResult>, StreamedLabels) {
    let store = session.store;
    let stop = AtomicBool::new(false);
    let first_label = OnceLock::new();
    std::thread::scope(|scope| {
        let (send, queue) = mpsc::sync_channel(LABEL_QUEUE);
        let progress_beside = LabelProgress { progress, done: AtomicU64::new(0) };
        let stop = &stop;
        let labels = scope.spawn(move || match label_stages {
            [] => vec![],
            _ => local::label_while_decoding(store, queue, resources, &progress_beside, stop),
        });
        let ended = local::run(store, jobs, resources, progress, &|receipt| {
            for job in label_stages.iter().filter_map(|stage| stage.job(receipt)) {
                // The label stage is not planned yet, so no pin protects this job. If it cannot be
                // pinned, it is left to the label stage.
                if !session.pin_job(&job).unwrap_or(false) {
                    continue;
                }
                first_label.get_or_init(Instant::now);
                // If the queue is full, or its receiver panicked, the job is left to the label
                // stage.
                _ = send.try_send(job);
            }
            limit.allows(receipt)
        });
        stop.store(true, Ordering::Relaxed);
        // Closing the queue ends the label threads.
        drop(send);
        let labels = labels.join().unwrap_or_else(|panic| std::panic::resume_unwind(panic));
        let took = first_label.get().map(Instant::elapsed).unwrap_or_default();
        (ended, StreamedLabels::new(labels, took))
    })
}

/// Shows the progress of labelling as a note beside the progress of decoding.
struct LabelProgress<'a> {
    progress: &'a dyn Progress,
    done: AtomicU64,
}

impl Progress for LabelProgress<'_> {
    fn advance(&self, units: u64) {
        let done = self.done.fetch_add(units, Ordering::Relaxed) + units;
        self.progress.note(&format!("{done} transitions labelled"));
    }

    fn note(&self, _: &str) {}

    fn say(&self, text: &str) {
        self.progress.say(text);
    }
}
