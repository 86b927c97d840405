//! Writes a plan as numbered partitions, which any engine can distribute.
//!
//! 1. [`write_partitions`] writes all ready tasks into a folder, one partition each.
//! 2. [`work`] runs partitions, on any machine, in any order, any number of times.
//! 3. [`commit_all`] commits the results once all partitions are done.
//!
//! Tasks with these partitions as inputs are in the next plan. Repeat the three steps until a plan
//! changes nothing. A plan without partitions can still change something, for example if videos
//! were removed or a setting was reverted.
//!
//! Two concurrent attempts at one partition are harmless: the first receipt counts.

use serde::{Deserialize, Serialize};

use super::Error;
use super::check::Checked;
use super::max_rejected::{RejectLimit, check_dropped, check_readable};
use super::plan::{PlanOptions, Planner, StagePlan};
use super::session::{PinsFor, PipelineText, Session, now};
use crate::dataset::{self, Created, FORMAT, HashSet, Store, is_key, is_name, pins};
use crate::stages::plan::key::Fields;
use crate::stages::{StageKind, kind_of};

mod commit;
mod work;

pub use commit::{Missing, commit_all};
#[cfg(test)]
pub(super) use work::check_job;
pub use work::{PartitionResult, work};

/// The header of a plan, `plan.json` in its folder.
#[derive(Clone, Debug, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct PartitionedPlan {
    format: u32,
    /// The run's id.
    pub run: String,
    /// The version of lapo at planning time.
    pub lapo: String,
    /// The workspace: an absolute path or an object store address.
    pub workspace: String,
    /// The base folder for relative paths of videos.
    pub base: String,
    /// Number of partitions. They are numbered from 0.
    pub partitions: usize,
    /// Number of stages with a changed dataset.
    pub changes: usize,
    planned_unix_secs: u64,
    take_over: bool,
    written: PipelineText,
    stages: Vec<StageShare>,
}

impl PartitionedPlan {
    /// Returns the name of the planned pipeline.
    pub fn pipeline(&self) -> &str {
        &self.written.pipeline
    }
}

/// One stage's part of a plan.
#[derive(Clone, Debug, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct StageShare {
    stage: String,
    kind: String,
    /// The number of its first partition.
    first: usize,
    /// Number of partitions.
    count: usize,
    /// Whether these are all tasks of the stage. A stage with waiting tasks is not committed.
    complete: bool,
    /// The dataset's version at planning time.
    version: Option<u64>,
    reused: usize,
    videos: usize,
    videos_gone: usize,
    most_rejected: Option<f64>,
    file_bytes: u64,
    settings: Fields,
    why: String,
    note: Option<String>,
}

/// The task keys of a stage, `stages/NAME.json` in the folder.
#[derive(Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct Keys {
    /// Keys of all tasks in the dataset's order.
    order: Vec<String>,
    /// Keys of the new tasks in the order of the partitions.
    new: Vec<String>,
}

/// The progress of a stage's partitions.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct StageStatus {
    /// The stage's name.
    pub stage: String,
    /// Its kind.
    pub kind: String,
    /// Number of finished partitions.
    pub done: usize,
    /// The numbers of the unfinished partitions.
    pub missing: Vec<usize>,
}

/// Number of partitions per file.
const PER_FILE: usize = 1000;
/// The file of the header. It is written last, so a folder without it holds no complete plan.
const HEADER_FILE: &str = "plan.json";

/// Returns the file with the job of a partition.
fn jobs_file(partition: usize) -> String {
    format!("jobs/{:06}.jsonl", partition / PER_FILE)
}

/// Plans the pipeline and writes the plan into the folder `out`, which must not contain one.
///
/// # Errors
/// Also fails if more videos are already rejected than `max_rejected` allows, or more have
/// disappeared than `max_dropped` allows.
pub fn write_partitions(
    checked: &Checked,
    store: &Store,
    options: &PlanOptions,
    out: &Store,
) -> Result<PartitionedPlan, Error> {
    if out.read(HEADER_FILE)?.is_some() {
        return Err(folder_in_use());
    }
    let session = Session::begin(checked, store, options, PinsFor::Workers)?;
    let written = write_plan(&session, options, out);
    // Without changes, or after an error, neither pins nor the run number are needed.
    if !written.as_ref().is_ok_and(|plan| plan.changes > 0) {
        pins::release(store, &session.run)?;
        dataset::runs::abandon(store, &session.run)?;
    }
    written
}

/// Returns the error of a folder with another plan.
fn folder_in_use() -> Error {
    Error::Request {
        what: "the folder for the plan already contains a plan".into(),
        hint: "choose a new folder, e.g. --out plans/2".into(),
    }
}

/// Plans all stages and writes the plan.
fn write_plan(
    session: &Session,
    options: &PlanOptions,
    out: &Store,
) -> Result<PartitionedPlan, Error> {
    let Session { checked, store, .. } = *session;
    let plans = plan_and_pin(session, options)?;
    // Files left by another plan, such as a killed one, must not become part of this one.
    let create = |path: &str, text: &str| match out.create(path, text.as_bytes())? {
        Created::New => Ok(()),
        Created::Exists => Err(folder_in_use()),
    };
    let mut stages = Vec::new();
    let mut jobs = Vec::new();
    let mut changes = 0;
    for mut plan in plans {
        check_dropped(&plan, options.max_dropped.or(max_dropped(checked, &plan.stage)))?;
        check_readable(&plan, &[])?;
        // A stage can change without new tasks, for example if videos are gone.
        changes += usize::from(plan.changes());
        let new: Vec<String> = plan.tasks.jobs().map(|job| job.key.clone()).collect();
        let share = StageShare::of(&plan, checked, jobs.len(), new.len());
        RejectLimit::new(share.most_rejected, share.videos, plan.tasks.receipts())
            .check(&share.stage)?;
        create(
            &format!("stages/{}.json", share.stage),
            &json(&Keys { order: plan.tasks.keys(), new }),
        )?;
        stages.push(share);
        jobs.extend(plan.tasks.begin());
    }
    for (file, jobs) in jobs.chunks(PER_FILE).enumerate() {
        create(&jobs_file(file * PER_FILE), &jobs.iter().map(json).collect::<String>())?;
    }
    let partitioned = PartitionedPlan {
        format: FORMAT,
        run: session.run.clone(),
        lapo: env!("CARGO_PKG_VERSION").into(),
        workspace: store.name(),
        base: std::env::current_dir().map(|here| here.display().to_string()).unwrap_or_default(),
        partitions: jobs.len(),
        changes,
        planned_unix_secs: now().as_secs(),
        take_over: options.take_over,
        written: PipelineText::of(checked),
        stages,
    };
    create(HEADER_FILE, &json(&partitioned))?;
    Ok(partitioned)
}

/// Plans all stages and pins all tasks and versions of the plans.
fn plan_and_pin(session: &Session, options: &PlanOptions) -> Result<Vec<StagePlan>, Error> {
    loop {
        let plans = Planner::new(session.checked, session.store, options)?.plan_all()?;
        let mut all_pinned = true;
        for plan in &plans {
            all_pinned &= session.pin_tasks(plan)?;
            for damaged in &plan.damaged {
                dataset::delete_damaged_receipt(session.store, &plan.stage, damaged)?;
            }
        }
        if all_pinned {
            return Ok(plans);
        }
        // Garbage collection took a task: plan again.
    }
}

/// Returns the pipeline's `max_dropped` for a stage.
fn max_dropped(checked: &Checked, stage: &str) -> Option<f64> {
    checked.spec.stage(stage).and_then(|spec| spec.max_dropped())
}

impl StageShare {
    /// Returns the stage's kind.
    fn kind(&self) -> Result<&'static StageKind, Error> {
        let unknown = || edited(HEADER_FILE, format!("`{}` is not a kind of stage", self.kind));
        kind_of(&self.kind).ok_or_else(unknown)
    }

    /// Describes a stage with `count` partitions from `first` on.
    fn of(plan: &StagePlan, checked: &Checked, first: usize, count: usize) -> Self {
        StageShare {
            stage: plan.stage.clone(),
            kind: plan.kind.name.to_owned(),
            first,
            count,
            complete: plan.waiting.tasks == 0,
            version: plan.before.as_ref().map(|before| before.version),
            reused: plan.tasks.reused(),
            videos: plan.new_videos() + plan.reused_videos(),
            videos_gone: plan.videos_gone,
            most_rejected: checked.spec.stage(&plan.stage).and_then(|spec| spec.max_rejected()),
            file_bytes: checked.spec.file_bytes(&plan.stage),
            settings: plan.settings.clone(),
            why: plan.reasons(),
            note: plan.note.clone(),
        }
    }
}

/// Reads the plan in the folder `out`.
///
/// # Errors
/// Fails if the plan has another format version, or if a name in it leads out of the workspace.
pub fn read(out: &Store) -> Result<PartitionedPlan, Error> {
    let header = out.read(HEADER_FILE)?.ok_or_else(|| Error::Request {
        what: format!("{} is not the folder of a plan: `{HEADER_FILE}` is missing", out.name()),
        hint: "pass the folder that `lapo plan --out` wrote".into(),
    })?;
    let partitioned: PartitionedPlan = dataset::parse_versioned(HEADER_FILE, &header)?;
    match partitioned.stages.iter().find(|share| !is_name(&share.stage)) {
        Some(share) => {
            Err(edited(HEADER_FILE, format!("`{}` is not a valid stage name", share.stage)))
        }
        None => Ok(partitioned),
    }
}

/// Returns the error of a plan file with unexpected content.
fn edited(path: &str, reason: String) -> Error {
    Error::Request {
        what: format!("{path}: {reason}"),
        hint: "plan again into a new folder with `lapo plan --out`".into(),
    }
}

/// Returns the progress of every stage's partitions.
pub fn status(
    partitioned: &PartitionedPlan,
    out: &Store,
    store: &Store,
) -> Result<Vec<StageStatus>, Error> {
    let of = |share: &StageShare| {
        let keys: Keys = keys(out, share)?;
        let filed: HashSet<String> =
            store.list(&format!("{}/receipts", share.stage))?.into_iter().collect();
        let is_missing = |key: &String| !filed.contains(&dataset::receipt_path(&share.stage, key));
        let missing: Vec<usize> = keys
            .new
            .iter()
            .enumerate()
            .filter(|(_, key)| is_missing(key))
            .map(|(at, _)| share.first + at)
            .collect();
        Ok(StageStatus {
            stage: share.stage.clone(),
            kind: share.kind.clone(),
            done: share.count - missing.len(),
            missing,
        })
    };
    partitioned.stages.iter().filter(|share| share.count > 0).map(of).collect()
}

/// Reads and checks the task keys of a stage.
fn keys(out: &Store, share: &StageShare) -> Result<Keys, Error> {
    let path = format!("stages/{}.json", share.stage);
    let keys: Keys = parse(&path, &out.require(&path)?)?;
    match keys.order.iter().chain(&keys.new).find(|key| !is_key(key)) {
        Some(key) => Err(edited(&path, format!("`{key}` is not a task key"))),
        None => Ok(keys),
    }
}

/// Serializes a value as one line of JSON.
fn json(value: &impl Serialize) -> String {
    let text = serde_json::to_string(value).expect("plain data with text keys");
    text + "\n"
}

/// Parses a plan file.
fn parse<'a, T: Deserialize<'a>>(path: &str, bytes: &'a [u8]) -> Result<T, Error> {
    let damaged = |cause: serde_json::Error| edited(path, cause.to_string());
    serde_json::from_slice(bytes).map_err(damaged)
}
