//! A pipeline runs: stage by stage, plan, execute, commit. In: a checked pipeline; out: a [`Summary`], also kept in the workspace.
//!
//! Where a stage of labels need not wait for all frames, since its model is there and stays, shards are labelled while others are still
//! decoded: one slow video holds up its own shard's labels alone. Nothing is locked. What is done is in receipts, each created whole or not
//! at all; a run that dies is simply run again. A task that fails costs itself: the others are committed, and it is left for the next run.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{OnceLock, mpsc};
use std::time::{Duration, Instant};

use serde::Serialize;

use super::Error;
use super::check::Checked;
use super::limit::{Limit, check_dropped, check_readable};
use super::plan::{Ahead, PlanOptions, Planner, StagePlan, Unwaiting};
use super::session::{PinsFor, Session, TaskFailure};
use crate::dataset::{Committed, HashMap, HashSet, Receipt, Store, Totals, take_back};
use crate::executor::{Ended, Job, Means, local};
use crate::stages::Progress;

/// Whoever watches a run.
pub trait Watch {
    /// A run begins; called once, before any stage.
    fn start(&self, _run: &str) {}
    /// A stage begins; the returned progress is moved by its tasks, `units` in all.
    fn begin(&self, plan: &StagePlan, units: u64) -> Box<dyn Progress>;
    /// A stage ended.
    fn end(&self, stage: &StageSummary);
}

/// What one stage did.
#[derive(Clone, Debug, Default, Serialize)]
pub struct StageSummary {
    /// The stage's name.
    pub stage: String,
    /// Its kind.
    pub kind: String,
    /// Tasks that ran.
    pub new: usize,
    /// Tasks that were done already.
    pub reused: usize,
    /// Tasks that failed, and are left for the next run.
    pub failed: usize,
    /// Wall time; that of labels begins with the first shard to be labelled, and so overlaps that of its frames.
    pub seconds: f64,
    /// The version of its dataset now; 0 where it has none.
    pub version: u64,
    /// Whether this run made that version.
    pub changed: bool,
    /// Sums over the new tasks: `videos`, `frames`, `transitions`, ...
    pub done: BTreeMap<String, f64>,
    /// How much the whole dataset is.
    pub total: Totals,
    /// Videos of the version before that are gone.
    pub videos_gone: usize,
    /// Rows that the version before had more.
    pub rows_fewer: u64,
    /// Videos rejected wholly or in part, in the whole dataset.
    pub rejects: u64,
    /// What the plan had to say.
    pub note: Option<String>,
}

/// What a run did.
#[derive(Clone, Debug, Default, Serialize)]
pub struct Summary {
    /// The run's id; empty where nothing was to be done and nothing is kept.
    pub run: String,
    /// Its stages.
    pub stages: Vec<StageSummary>,
    /// Tasks that failed and videos that could not be read now: the rest is committed.
    pub failures: Vec<TaskFailure>,
    /// Wall time.
    pub seconds: f64,
}

/// Runs every stage and keeps a record under `runs/`. A run that finds nothing to do leaves no record, and needs no right to write.
///
/// # Errors
/// Where all tasks of a stage fail, or its only one; stages before it are committed. Tasks that fail beside others are in
/// [`Summary::failures`].
pub fn run(
    checked: &Checked,
    store: &Store,
    options: &PlanOptions,
    means: &Means,
    watch: &dyn Watch,
) -> Result<Summary, Error> {
    let start = Instant::now();
    let session = match Session::begin(checked, store, options, PinsFor::ThisProcess) {
        Ok(session) => session,
        Err(Error::Dataset(error)) if error.is_read_only() => {
            return nothing_to_do(checked, store, options, watch, start, error);
        }
        Err(error) => return Err(error),
    };
    let mut summary = Summary { run: session.run.clone(), ..Summary::default() };
    watch.start(&summary.run);
    let result = stages(&session, options, means, watch, &mut summary);
    summary.seconds = start.elapsed().as_secs_f64();
    let ended = session.end(&mut summary, result.as_ref().err());
    result?;
    ended?;
    Ok(summary)
}

/// The summary of a run that may not write, where there is nothing to be written.
fn nothing_to_do(
    checked: &Checked,
    store: &Store,
    options: &PlanOptions,
    watch: &dyn Watch,
    start: Instant,
    error: crate::dataset::Error,
) -> Result<Summary, Error> {
    let mut summary = Summary::default();
    for plan in Planner::new(checked, store, options)?.plan_all()? {
        if plan.changes() {
            return Err(error.into());
        }
        let stage = StageSummary::of(&plan, &HashMap::default());
        watch.end(&stage);
        summary.stages.push(stage);
    }
    summary.seconds = start.elapsed().as_secs_f64();
    Ok(summary)
}

fn stages(
    session: &Session,
    options: &PlanOptions,
    means: &Means,
    watch: &dyn Watch,
    summary: &mut Summary,
) -> Result<(), Error> {
    let mut planner = Planner::new(session.checked, session.store, options)?;
    for &at in &session.checked.order {
        means.stop.signal().map_or(Ok(()), |signal| Err(Error::Stopped(signal)))?;
        if !options.runs(&session.checked.spec.stages[at].0) {
            let plan = planner.plan(at)?;
            planner.plans.insert(plan.stage.clone(), plan);
            continue;
        }
        let begun = Instant::now();
        let mut running = Running {
            session,
            planner: &mut planner,
            means,
            watch,
            at,
            made: HashMap::default(),
            failures: Vec::new(),
        };
        let stage = running.run();
        summary.failures.append(&mut running.failures);
        let mut stage = stage?;
        stage.seconds += begun.elapsed().as_secs_f64();
        watch.end(&stage);
        summary.stages.push(stage);
    }
    Ok(())
}

/// A stage is planned again so many times where videos of it turn out not to be readable now.
const ROUNDS: usize = 3;

/// One stage while it runs.
struct Running<'s, 'p, 'a> {
    session: &'s Session<'a>,
    planner: &'p mut Planner<'a>,
    means: &'s Means,
    watch: &'s dyn Watch,
    at: usize,
    /// What this run made, by key.
    made: HashMap<String, Arc<Receipt>>,
    failures: Vec<TaskFailure>,
}

impl Running<'_, '_, '_> {
    fn run(&mut self) -> Result<StageSummary, Error> {
        let mut ahead = Duration::ZERO;
        for round in 1.. {
            let plan = self.planner.plan(self.at)?;
            let name = plan.stage.clone();
            if self.planner.options.only.is_some() && plan.waiting.tasks > 0 {
                let what =
                    format!("stage {name} waits for stages that are left out: {}", plan.reasons());
                return Err(Error::Request {
                    what,
                    hint: format!("run what it needs, too: --until {name}"),
                });
            }
            check_dropped(&plan, self.planner.options.max_dropped.or(self.spec_max_dropped()))?;
            if !self.session.hold(&plan)? {
                continue;
            }
            let (done, took) = self.planner.ahead.take(&name);
            ahead += took;
            self.made.extend(done);
            plan.damaged
                .iter()
                .try_for_each(|damaged| take_back(self.session.store, &name, damaged))?;
            let limit = self.limit(&plan);
            let failed = self.work(plan, &limit)?;
            limit.check(&name)?;
            let unavailable: BTreeMap<String, String> =
                failed.iter().filter_map(TaskFailure::unavailable).collect();
            if !unavailable.is_empty() && round < ROUNDS {
                self.failures
                    .extend(failed.into_iter().filter(|failure| failure.unavailable().is_some()));
                self.planner.now.left_out.extend(unavailable);
                continue;
            }
            return self.commit(failed, ahead);
        }
        unreachable!("the last round returns")
    }

    fn spec_max_dropped(&self) -> Option<f64> {
        self.session.checked.spec.stages[self.at].1.max_dropped()
    }

    fn limit(&self, plan: &StagePlan) -> Limit {
        let most = self.session.checked.spec.stages[self.at].1.max_rejected();
        Limit::new(most, plan.new_videos() + plan.reused_videos(), plan.tasks.receipts())
    }

    /// Does the stage's jobs; returns those that failed.
    ///
    /// # Errors
    /// Where none succeeded, or the stage is one task.
    fn work(&mut self, mut plan: StagePlan, limit: &Limit) -> Result<Vec<TaskFailure>, Error> {
        let name = plan.stage.clone();
        let mut jobs = plan.tasks.begin();
        jobs.retain(|job| !self.made.contains_key(&job.key));
        self.planner.plans.insert(name.clone(), plan);
        if jobs.is_empty() {
            return Ok(vec![]);
        }
        let unwaiting = self.planner.unwaiting(&name)?;
        let progress =
            self.watch.begin(&self.planner.plans[&name], jobs.iter().map(|job| job.units).sum());
        let (total, independent) = (jobs.len(), jobs.iter().all(|job| job.task.kind().independent));
        let (ended, labels) =
            execute(self.session, jobs, self.means, progress.as_ref(), limit, &unwaiting);
        self.planner.ahead.keep(labels);
        if let Some(signal) = self.means.stop.signal() {
            return Err(Error::Stopped(signal));
        }
        let (mut failed, mut first) = (Vec::new(), None);
        let begun = ended.len();
        for Ended { key, result } in ended {
            match result {
                Ok(receipt) => _ = self.made.insert(key, receipt),
                Err(error) => {
                    failed.push(TaskFailure::new(&name, &key, &error));
                    first.get_or_insert(error);
                }
            }
        }
        let is_hopeless = !independent
            || failed.len() == begun
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

    /// Makes what is done the next version.
    fn commit(&mut self, failed: Vec<TaskFailure>, ahead: Duration) -> Result<StageSummary, Error> {
        let name = &self.session.checked.spec.stages[self.at].0;
        let plan = self.planner.plans.get_mut(name).expect("planned by `work`");
        let undone = settle(plan, &self.made);
        check_readable(plan, &failed)?;
        let committed = self.session.commit(plan)?;
        let mut stage = StageSummary::of(plan, &self.made).with(&committed, plan);
        // A video that is left out is a failure of its own, however many tasks it was tried in.
        stage.failed = undone + plan.left_out.len();
        stage.seconds = ahead.as_secs_f64();
        self.failures.extend(plan.left_out.iter().map(|left| TaskFailure::left_out(name, left)));
        self.failures.extend(failed);
        let mut seen = HashSet::default();
        self.failures
            .retain(|failure| seen.insert((failure.stage.clone(), failure.subject.clone())));
        Ok(stage)
    }
}

/// Marks finished tasks as done and removes the others from the plan. If a removed task should have replaced tasks of the version before,
/// these stay. Returns how many tasks were removed.
pub(super) fn settle(plan: &mut StagePlan, made: &HashMap<String, Arc<Receipt>>) -> usize {
    let keys = |plan: &StagePlan| plan.tasks.keys().into_iter().collect::<HashSet<_>>();
    let before: HashSet<String> = plan
        .dropped
        .iter()
        .flat_map(|receipt| &receipt.videos)
        .map(|video| video.digest.clone())
        .collect();
    let planned = if plan.kind.restores && !before.is_empty() {
        Some(plan.planned_digests.clone())
    } else {
        None
    };
    let all = keys(plan);
    let undone = plan.tasks.end(
        made.iter()
            .map(|(key, receipt)| (key.clone(), receipt.clone()))
            .filter(|(key, _)| all.contains(key))
            .collect(),
    );
    if let Some(planned) = planned.filter(|_| undone > 0) {
        let there: HashSet<String> = plan
            .tasks
            .receipts()
            .flat_map(|receipt| &receipt.videos)
            .map(|video| video.digest.clone())
            .collect();
        let missing = planned
            .into_iter()
            .filter(|digest| !there.contains(digest) && before.contains(digest))
            .collect();
        let dropped = plan.dropped.clone();
        plan.tasks.restore(&dropped, missing);
    }
    plan.waiting = Default::default();
    undone
}

/// Jobs of labels that wait while frames are decoded, at most: decoding never waits for labels.
const WAITING: usize = 1000;

/// Does a stage's jobs, and labels their shards beside them where labels need not wait. When the jobs are done the rest is left to the
/// labels' own turn.
fn execute(
    session: &Session,
    jobs: Vec<Job>,
    means: &Means,
    progress: &dyn Progress,
    limit: &Limit,
    unwaiting: &[Unwaiting],
) -> (Vec<Ended>, Ahead) {
    let (store, stop, first) = (session.store, AtomicBool::new(false), OnceLock::new());
    std::thread::scope(|scope| {
        let (send, sent) = mpsc::sync_channel(WAITING);
        let beside = Beside { progress, done: AtomicU64::new(0) };
        let stop = &stop;
        let labels = scope.spawn(move || match unwaiting {
            [] => vec![],
            _ => local::follow(store, sent, means, &beside, stop),
        });
        let ended = local::run(store, jobs, means, progress, &|receipt| {
            for job in unwaiting.iter().filter_map(|stage| stage.job(receipt)) {
                // Its stage has not been planned, so that no pin names it yet. What is not pinned is left to the labels' own turn.
                if !session.hold_job(&job).unwrap_or(false) {
                    continue;
                }
                first.get_or_init(Instant::now);
                // Where the queue is full, or its other end has panicked, the job is left to the labels' own turn.
                _ = send.try_send(job);
            }
            limit.allows(receipt)
        });
        stop.store(true, Ordering::Relaxed);
        drop(send);
        let labels = labels.join().unwrap_or_else(|panic| std::panic::resume_unwind(panic));
        (ended, Ahead::new(labels, first.get().map(Instant::elapsed).unwrap_or_default()))
    })
}

/// Shows the progress of labelling beside that of decoding.
struct Beside<'a> {
    progress: &'a dyn Progress,
    done: AtomicU64,
}

impl Progress for Beside<'_> {
    fn advance(&self, units: u64) {
        let done = self.done.fetch_add(units, Ordering::Relaxed) + units;
        self.progress.note(&format!("{done} transitions labelled"));
    }

    fn note(&self, _: &str) {}

    fn say(&self, text: &str) {
        self.progress.say(text);
    }
}

impl StageSummary {
    /// What a stage's plan has become; `made` is what this run made of it, by key.
    pub(super) fn of(plan: &StagePlan, made: &HashMap<String, Arc<Receipt>>) -> Self {
        let new: Vec<&Arc<Receipt>> =
            plan.tasks.receipts().filter(|receipt| made.contains_key(&receipt.key)).collect();
        StageSummary {
            stage: plan.stage.clone(),
            kind: plan.kind.name.to_owned(),
            new: new.len(),
            reused: plan.tasks.reused() - new.len(),
            done: worked(sums(new)),
            total: plan.before.as_ref().map(|before| before.totals.clone()).unwrap_or_default(),
            version: plan.before.as_ref().map_or(0, |before| before.version),
            rejects: plan.before.as_ref().map_or(0, |before| before.totals.rejects),
            videos_gone: plan.videos_gone,
            note: plan.note.clone(),
            ..StageSummary::default()
        }
    }

    /// With what was committed of it.
    pub(super) fn with(self, committed: &Committed, plan: &StagePlan) -> Self {
        let manifest = committed.manifest();
        let before = plan.before.as_ref().map_or(0, |before| before.totals.rows);
        let stays = match committed {
            Committed::Overtaken(newest) => Some(format!(
                "version {} stays: run {} began later than this one",
                newest.version, newest.run
            )),
            _ => None,
        };
        StageSummary {
            version: manifest.version,
            changed: matches!(committed, Committed::New(_)),
            rows_fewer: before.saturating_sub(manifest.totals.rows),
            total: manifest.totals.clone(),
            rejects: manifest.totals.rejects,
            note: self
                .note
                .into_iter()
                .chain(stays)
                .reduce(|note, stays| format!("{note}; {stays}")),
            ..self
        }
    }
}

/// Leaves out what was copied under other names: nothing was decoded for it.
fn worked(mut done: BTreeMap<String, f64>) -> BTreeMap<String, f64> {
    for name in ["videos", "frames"] {
        if let (Some(copied), Some(all)) =
            (done.get(&format!("copied_{name}")).copied(), done.get_mut(name))
        {
            *all -= copied;
        }
    }
    done
}

/// Adds up the receipts' numbers.
fn sums<'a>(receipts: impl IntoIterator<Item = &'a Arc<Receipt>>) -> BTreeMap<String, f64> {
    let mut sums = BTreeMap::new();
    for (name, value) in receipts.into_iter().flat_map(|r| &r.stats) {
        *sums.entry(name.clone()).or_insert(0.0) += value;
    }
    sums
}
