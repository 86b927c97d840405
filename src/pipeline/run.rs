//! A pipeline runs: stage by stage, plan, execute, commit. In: a checked pipeline; out: a [`Summary`], also kept in the workspace.
//!
//! Where a stage of labels need not wait for all frames, since its model is there and stays, shards are labelled while others are still
//! decoded: one slow video holds up its own shard's labels alone. Nothing is locked. What is done is in receipts, each created whole or not
//! at all; a run that dies is simply run again.

use std::collections::BTreeMap;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{OnceLock, mpsc};
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

use serde::{Deserialize, Serialize};

use super::Error;
use super::check::Checked;
use super::limit::Limit;
use super::plan::{Ahead, PlanOptions, Planner, StagePlan, Unwaiting};
use crate::dataset::{Commit, Manifest, Receipt, Store, commit};
use crate::executor::{Job, Means, local};
use crate::stages::{self, Progress};

/// Whoever watches a run.
pub trait Watch {
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
    /// Wall time; that of labels begins with the first shard to be labelled, and so overlaps that of its frames.
    pub seconds: f64,
    /// The version of its dataset now.
    pub version: u64,
    /// Sums over the new tasks: `videos`, `frames`, `transitions`, ...
    pub done: BTreeMap<String, f64>,
    /// Sums over the whole dataset.
    pub total: BTreeMap<String, f64>,
    /// Videos rejected wholly or in part, in the whole dataset.
    pub rejects: usize,
    /// What the plan had to say.
    pub note: Option<String>,
}

/// What a run did.
#[derive(Clone, Debug, Default, Serialize)]
pub struct Summary {
    /// The run's id.
    pub run: String,
    /// Its stages.
    pub stages: Vec<StageSummary>,
    /// Wall time.
    pub seconds: f64,
}

/// Runs every stage and keeps a record under `runs/`.
pub fn run(checked: &Checked, store: &Store, options: &PlanOptions, means: &Means, watch: &dyn Watch) -> Result<Summary, Error> {
    let (start, since) = (Instant::now(), SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default());
    let mut summary = Summary { run: format!("{}-{}", since.as_secs(), local::fresh_id()), ..Summary::default() };
    let result = stages(checked, store, options, means, watch, &mut summary);
    summary.seconds = start.elapsed().as_secs_f64();
    let recorded = record(&Written::of(checked), store, &summary, since, result.as_ref().err());
    result?;
    recorded?;
    Ok(summary)
}

fn stages(
    checked: &Checked,
    store: &Store,
    options: &PlanOptions,
    means: &Means,
    watch: &dyn Watch,
    summary: &mut Summary,
) -> Result<(), Error> {
    let (mut planner, run) = (Planner::new(checked, store, options)?, summary.run.clone());
    for &at in &checked.order {
        let begun = Instant::now();
        let mut stage = run_stage(&mut planner, at, means, watch, &run)?;
        stage.seconds += begun.elapsed().as_secs_f64();
        watch.end(&stage);
        summary.stages.push(stage);
    }
    Ok(())
}

fn run_stage(planner: &mut Planner, at: usize, means: &Means, watch: &dyn Watch, run: &str) -> Result<StageSummary, Error> {
    let (mut plan, store) = (planner.plan(at)?, planner.store);
    let limit = Limit::new(planner.checked.spec.stages[at].1.most_rejected(), plan.new_videos + plan.reused_videos, &plan.receipts);
    let (mut new, ahead) = planner.ahead.take(&mut plan);
    let jobs = std::mem::take(&mut plan.jobs);
    let name = plan.stage.clone();
    planner.plans.insert(name.clone(), plan);
    if !jobs.is_empty() {
        let unwaiting = planner.unwaiting(&name)?;
        let progress = watch.begin(&planner.plans[&name], jobs.iter().map(|job| job.units).sum());
        let total = jobs.len();
        let (results, labels) = execute(store, jobs, means, progress.as_ref(), &limit, &unwaiting);
        planner.ahead.keep(labels);
        let (done, failed): (Vec<_>, Vec<_>) = results.into_iter().partition(Result::is_ok);
        let count = failed.len();
        if let Some(Err(first)) = failed.into_iter().next() {
            return Err(Error::Tasks { stage: name, failed: count, total, first: Box::new(first) });
        }
        new.extend(done.into_iter().flatten());
    }
    limit.check(&name)?;
    let plan = planner.plans.get_mut(&name).expect("inserted above");
    let by = Commit { stage: &name, run, why: &plan.reasons(), since: plan.since.unwrap_or(0) };
    let manifest = commit(store, by, |_| plan.order.clone())?;
    let stage = StageSummary {
        stage: name,
        kind: plan.kind.clone(),
        new: new.len(),
        reused: plan.reused,
        note: note(plan.note.as_ref(), &manifest, &plan.order),
        done: sums(&new),
        seconds: ahead.as_secs_f64(),
        ..StageSummary::default()
    };
    plan.done(new, &manifest);
    Ok(stage.with_total(&plan.receipts, manifest.version))
}

/// What is to be said of a stage: what its plan did, and whether the dataset is another run's, which began later and has seen more.
pub(super) fn note(planned: Option<&String>, manifest: &Manifest, order: &[String]) -> Option<String> {
    let Manifest { version, run, .. } = manifest;
    let stays = (manifest.receipts != order).then(|| format!("version {version} stays: run {run} began later than this one"));
    planned.cloned().into_iter().chain(stays).reduce(|planned, stays| format!("{planned}; {stays}"))
}

/// Jobs of labels that wait while frames are decoded, at most: decoding never waits for labels.
const WAITING: usize = 1000;

/// Does a stage's jobs, and labels their shards beside them where labels need not wait. When the jobs are done the rest is left to the
/// labels' own turn.
fn execute(
    store: &Store,
    jobs: Vec<Job>,
    means: &Means,
    progress: &dyn Progress,
    limit: &Limit,
    unwaiting: &[Unwaiting],
) -> (Vec<Result<Receipt, stages::Error>>, Ahead) {
    let (stop, first) = (AtomicBool::new(false), OnceLock::new());
    std::thread::scope(|scope| {
        let (send, sent) = mpsc::sync_channel(WAITING);
        let beside = Beside { progress, done: AtomicU64::new(0) };
        let stop = &stop;
        let labels = scope.spawn(move || match unwaiting {
            [] => vec![],
            _ => local::follow(store, sent, means, &beside, stop),
        });
        let results = local::run(store, jobs, means, progress, &|receipt| {
            for job in unwaiting.iter().filter_map(|stage| stage.job(receipt)) {
                first.get_or_init(Instant::now);
                // Where the queue is full, or its other end has panicked, the job is left to the labels' own turn.
                _ = send.try_send(job);
            }
            limit.allows(receipt)
        });
        stop.store(true, Ordering::Relaxed);
        drop(send);
        let labels = labels.join().unwrap_or_else(|panic| std::panic::resume_unwind(panic));
        (results, Ahead::new(labels, first.get().map(Instant::elapsed).unwrap_or_default()))
    })
}

/// Labels' progress, told beside that of the frames.
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
    /// With what the whole dataset counts.
    pub(super) fn with_total(self, receipts: &[Receipt], version: u64) -> Self {
        let rejects = receipts.iter().map(|receipt| receipt.rejects.len()).sum();
        StageSummary { total: sums(receipts), rejects, version, ..self }
    }
}

/// Adds up the receipts' counts, and what their videos and rejects count.
pub(super) fn sums<'a>(receipts: impl IntoIterator<Item = &'a Receipt>) -> BTreeMap<String, f64> {
    let mut sums = BTreeMap::new();
    for (name, value) in receipts.into_iter().flat_map(|r| &r.stats) {
        *sums.entry(name.clone()).or_insert(0.0) += value;
    }
    sums
}

/// A pipeline as somebody wrote it, for the record.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub(super) struct Written {
    pipeline: String,
    vars: BTreeMap<String, String>,
    yaml: String,
}

impl Written {
    pub(super) fn of(checked: &Checked) -> Self {
        Written { pipeline: checked.spec.name.clone(), vars: checked.spec.vars.clone(), yaml: checked.text.clone() }
    }
}

/// Keeps what the run did: `runs/<run id>.json`.
pub(super) fn record(written: &Written, store: &Store, summary: &Summary, since: Duration, failed: Option<&Error>) -> Result<(), Error> {
    let record = serde_json::json!({
        "format": crate::dataset::FORMAT,
        "run": summary.run,
        "pipeline": written.pipeline,
        "started_unix_secs": since.as_secs(),
        "seconds": summary.seconds,
        "outcome": failed.map_or("done".to_string(), ToString::to_string),
        "lapo": env!("CARGO_PKG_VERSION"),
        "stages": summary.stages,
        "vars": written.vars,
        "yaml": written.yaml,
    });
    store.create(&format!("runs/{}.json", summary.run), format!("{record:#}\n").as_bytes())?;
    Ok(())
}
