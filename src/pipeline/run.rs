//! A pipeline runs: stage by stage, plan, execute, commit. In: a checked pipeline; out: a [`Summary`], also kept in the workspace.
//!
//! Nothing is locked. What is done is in receipts, each created whole or not at all; a run that dies is simply run again.

use std::collections::BTreeMap;
use std::sync::{Mutex, PoisonError};
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

use serde::{Deserialize, Serialize};

use super::Error;
use super::check::Checked;
use super::plan::{PlanOptions, Planner, StagePlan};
use super::spec::StageSpec;
use crate::dataset::{Commit, Receipt, Store, commit};
use crate::executor::{Means, local};
use crate::stages::Progress;
use crate::stages::decode::DUPLICATE;

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
    /// Wall time.
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
    let mut planner = Planner::new(checked, store, options);
    for &at in &checked.order {
        let begun = Instant::now();
        let plan = planner.plan(at)?;
        let (plan, mut stage) = run_stage(&checked.spec.stages[at].1, plan, store, means, watch, &summary.run)?;
        stage.seconds = begun.elapsed().as_secs_f64();
        watch.end(&stage);
        summary.stages.push(stage);
        planner.plans.insert(plan.stage.clone(), plan);
    }
    Ok(())
}

fn run_stage(
    spec: &StageSpec,
    plan: StagePlan,
    store: &Store,
    means: &Means,
    watch: &dyn Watch,
    run: &str,
) -> Result<(StagePlan, StageSummary), Error> {
    let limit = Limit::new(spec.most_rejected(), plan.new_videos + plan.reused_videos, &plan.receipts);
    let mut new = Vec::new();
    if !plan.jobs.is_empty() {
        let progress = watch.begin(&plan, plan.jobs.iter().map(|job| job.units).sum());
        let results = local::run(store, &plan.jobs, means, progress.as_ref(), &|receipt| limit.allows(receipt));
        let total = plan.jobs.len();
        let (done, failed): (Vec<_>, Vec<_>) = results.into_iter().partition(Result::is_ok);
        let count = failed.len();
        if let Some(Err(first)) = failed.into_iter().next() {
            return Err(Error::Tasks { stage: plan.stage, failed: count, total, first: Box::new(first) });
        }
        new.extend(done.into_iter().flatten());
    }
    limit.check(&plan.stage)?;
    let manifest = commit(store, Commit { stage: &plan.stage, run, why: &plan.reasons() }, |_| plan.order.clone())?;
    let (reused, note, done) = (plan.reused, plan.note.clone(), sums(&new));
    let stage =
        StageSummary { stage: plan.stage.clone(), kind: plan.kind.clone(), new: new.len(), reused, note, done, ..StageSummary::default() };
    let plan = plan.done(new, manifest.version);
    let stage = stage.with_total(&plan.receipts, manifest.version);
    Ok((plan, stage))
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

/// `max_rejected`: the share of videos that may be rejected before the run stops.
pub(super) struct Limit {
    most: Option<f64>,
    videos: usize,
    classes: Mutex<BTreeMap<String, u64>>,
}

impl Limit {
    pub(super) fn new(most: Option<f64>, videos: usize, receipts: &[Receipt]) -> Self {
        let limit = Limit { most, videos, classes: Mutex::default() };
        receipts.iter().for_each(|receipt| _ = limit.allows(receipt));
        limit
    }

    /// Counts a receipt's rejects; false once there are too many.
    fn allows(&self, receipt: &Receipt) -> bool {
        let mut classes = self.classes.lock().unwrap_or_else(PoisonError::into_inner);
        let faulty = receipt.rejects.iter().filter(|reject| reject.class != DUPLICATE);
        faulty.for_each(|reject| *classes.entry(reject.class.clone()).or_default() += 1);
        self.most.is_none_or(|most| classes.values().sum::<u64>() as f64 <= most * self.videos as f64)
    }

    /// The error of a run with too many rejects, their reasons counted.
    pub(super) fn check(&self, stage: &str) -> Result<(), Error> {
        let classes = self.classes.lock().unwrap_or_else(PoisonError::into_inner);
        let rejected = classes.values().sum::<u64>();
        match self.most.filter(|most| rejected as f64 > most * self.videos as f64) {
            None => Ok(()),
            Some(most) => Err(Error::TooManyRejects {
                stage: stage.into(),
                rejected,
                videos: self.videos,
                most,
                classes: classes.iter().map(|(class, count)| format!("{count} {class}")).collect::<Vec<_>>().join(", "),
            }),
        }
    }
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
