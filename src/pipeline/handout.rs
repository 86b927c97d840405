//! A plan becomes files that any engine can hand out. In: what can be done now; out: a folder of partitions, done in any order, anywhere
//! and any number of times, and committed once all are.
//!
//! Start at [`hand_out`]; then [`work`] for every partition, on whatever machine; then [`commit_all`]. What waits for these partitions is
//! in the next plan: plan, work and commit until a plan has none. Two live attempts at one partition are harmless, as everywhere: the first
//! receipt counts. The local executor does the same with threads.

use std::collections::HashSet;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use serde::{Deserialize, Serialize};

use super::Error;
use super::check::Checked;
use super::limit::Limit;
use super::plan::{PlanOptions, Planner, StagePlan};
use super::run::{StageSummary, Summary, Watch, Written, note, record, sums};
use crate::dataset::{Commit, Created, FORMAT, Receipt, Store, commit, read_receipt, receipts_of, unfiled};
use crate::executor::{Job, Means, local};

/// A plan's front page: `plan.json` in its folder.
#[derive(Clone, Debug, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Handout {
    format: u32,
    /// The run's id.
    pub run: String,
    /// Where results go.
    pub workspace: String,
    /// How many partitions there are, numbered from 0.
    pub partitions: usize,
    planned_unix_secs: u64,
    written: Written,
    stages: Vec<Share>,
}

/// What one stage has in a plan.
#[derive(Clone, Debug, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct Share {
    stage: String,
    kind: String,
    /// Its first partition, and how many.
    first: usize,
    count: usize,
    /// Whether these are all: a stage that waits for others is not committed.
    complete: bool,
    /// The dataset's version when this was planned.
    version: Option<u64>,
    reused: usize,
    videos: usize,
    most_rejected: Option<f64>,
    why: String,
    note: Option<String>,
}

/// Keys of a stage: `stages/NAME.json` in the folder.
#[derive(Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct Keys {
    /// Of the dataset, in its order.
    order: Vec<String>,
    /// Of the partitions, in theirs.
    new: Vec<String>,
}

/// So many partitions share a file.
const PER_FILE: usize = 1000;
const FRONT: &str = "plan.json";

fn jobs_file(partition: usize) -> String {
    format!("jobs/{:06}.jsonl", partition / PER_FILE)
}

/// Plans, and writes the plan into the folder `out`, which must hold none.
///
/// # Errors
/// Also where more videos are rejected already than `max_rejected` allows.
pub fn hand_out(checked: &Checked, store: &Store, options: &PlanOptions, out: &Store) -> Result<Handout, Error> {
    let taken =
        || Error::Request { what: "the folder for the plan holds one already".into(), hint: "name a new folder: --out plans/2".into() };
    if out.read(FRONT)?.is_some() {
        return Err(taken());
    }
    // What another plan left, one that was killed say, must not become a part of this one.
    let create = |path: &str, text: &str| match out.create(path, text.as_bytes())? {
        Created::New => Ok(()),
        Created::Exists => Err(taken()),
    };
    let now = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default().as_secs();
    let (run, workspace) = (format!("{now}-{}", local::fresh_id()), checked.spec.workspace.clone());
    let (mut stages, mut jobs) = (Vec::new(), Vec::new());
    for plan in Planner::new(checked, store, options)?.plan_all()? {
        let share = Share::of(&plan, checked, jobs.len());
        share.check(&plan.receipts)?;
        let keys = Keys { order: plan.order, new: plan.jobs.iter().map(|job| job.key.clone()).collect() };
        create(&format!("stages/{}.json", share.stage), &json(&keys))?;
        stages.push(share);
        jobs.extend(plan.jobs);
    }
    for (file, jobs) in jobs.chunks(PER_FILE).enumerate() {
        create(&jobs_file(file * PER_FILE), &jobs.iter().map(json).collect::<String>())?;
    }
    let written = Written::of(checked);
    let handout = Handout { format: FORMAT, run, workspace, partitions: jobs.len(), planned_unix_secs: now, written, stages };
    create(FRONT, &json(&handout))?;
    Ok(handout)
}

impl Share {
    fn of(plan: &StagePlan, checked: &Checked, first: usize) -> Self {
        let spec = checked.spec.stages.iter().find(|(name, _)| *name == plan.stage);
        Share {
            stage: plan.stage.clone(),
            kind: plan.kind.clone(),
            first,
            count: plan.jobs.len(),
            complete: plan.jobs.len() == plan.new,
            version: plan.since,
            reused: plan.reused,
            videos: plan.new_videos + plan.reused_videos,
            most_rejected: spec.and_then(|(_, spec)| spec.most_rejected()),
            why: plan.reasons(),
            note: plan.note.clone(),
        }
    }

    /// Whether what is done may be built upon.
    fn check(&self, done: &[Receipt]) -> Result<(), Error> {
        Limit::new(self.most_rejected, self.videos, done).check(&self.stage)
    }
}

/// The plan in the folder `out`.
pub fn read(out: &Store) -> Result<Handout, Error> {
    parse(FRONT, &out.require(FRONT)?)
}

/// Does one partition, unless it is done; says whether it was.
pub fn work(handout: &Handout, out: &Store, partition: usize, store: &Store, means: &Means, watch: &dyn Watch) -> Result<bool, Error> {
    if partition >= handout.partitions {
        let what = format!("there is no partition {partition}: the plan has {}, numbered from 0", handout.partitions);
        return Err(Error::Request { what, hint: "`lapo plan --out` prints how many there are".into() });
    }
    let (path, bytes) = (jobs_file(partition), out.require(&jobs_file(partition))?);
    let line = bytes.split(|byte| *byte == b'\n').nth(partition % PER_FILE).unwrap_or_default();
    let job: Job = parse(&path, line)?;
    if read_receipt(store, &job.stage, &job.key)?.is_some() {
        return Ok(true);
    }
    let progress = watch.begin(&StagePlan::empty(&job.stage, &job.kind), job.units);
    let stage = job.stage.clone();
    let done = local::run(store, vec![job], means, progress.as_ref(), &|_| true);
    match done.into_iter().next() {
        Some(Err(first)) => Err(Error::Tasks { stage, failed: 1, total: 1, first: Box::new(first) }),
        _ => Ok(false),
    }
}

/// Makes what was done the datasets' next versions; a plan that was committed, and what a later plan or run made, is left as it is.
///
/// # Errors
/// Where partitions are not done: how many, and the first of them. Where more videos were rejected than `max_rejected` allows; then no
/// version is made.
pub fn commit_all(handout: &Handout, out: &Store, store: &Store, watch: &dyn Watch) -> Result<Summary, Error> {
    let mut summary = Summary { run: handout.run.clone(), ..Summary::default() };
    for share in handout.stages.iter().filter(|share| share.complete) {
        let path = format!("stages/{}.json", share.stage);
        let keys: Keys = parse(&path, &out.require(&path)?)?;
        let missing: HashSet<String> = unfiled(store, &share.stage, &keys.order)?.into_iter().collect();
        if let Some(at) = keys.new.iter().position(|key| missing.contains(key)) {
            let what = format!(
                "stage {}: {} of {} partitions are not done; the first: {}",
                share.stage,
                missing.len(),
                share.count,
                share.first + at
            );
            return Err(Error::Request { what, hint: format!("lapo worker --plan ... --partition {}", share.first + at) });
        }
        let (receipts, new) = (receipts_of(store, &share.stage, &keys.order)?, keys.new.iter().collect::<HashSet<_>>());
        share.check(&receipts)?;
        let by = Commit { stage: &share.stage, run: &handout.run, why: &share.why, since: share.version.unwrap_or(0) };
        let manifest = commit(store, by, |_| keys.order.clone())?;
        let stage = StageSummary {
            stage: share.stage.clone(),
            kind: share.kind.clone(),
            new: share.count,
            reused: share.reused,
            done: sums(receipts.iter().filter(|receipt| new.contains(&receipt.key))),
            note: note(share.note.as_ref(), &manifest, &keys.order),
            ..StageSummary::default()
        };
        let stage = stage.with_total(&receipts, manifest.version);
        watch.end(&stage);
        summary.stages.push(stage);
    }
    let (since, now) = (Duration::from_secs(handout.planned_unix_secs), SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default());
    summary.seconds = now.saturating_sub(since).as_secs_f64();
    record(&handout.written, store, &summary, since, None)?;
    Ok(summary)
}

/// One line.
fn json(value: &impl Serialize) -> String {
    let text = serde_json::to_string(value).expect("plain data with text keys");
    text + "\n"
}

fn parse<'a, T: Deserialize<'a>>(path: &str, bytes: &'a [u8]) -> Result<T, Error> {
    let damaged = |cause: serde_json::Error| crate::dataset::Error::Corrupt { path: path.to_owned(), reason: cause.to_string() };
    Ok(serde_json::from_slice(bytes).map_err(damaged)?)
}
