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
use crate::dataset::{self, Created, FORMAT, Store, is_key, is_name, pins};
use crate::executor::engine::Share;
use crate::stages::plan::key::Fields;
use crate::stages::{Needs, StageKind, kind_of};

pub mod attempts;
mod commit;
mod status;
mod work;

pub use commit::{Missing, commit_all};
pub(super) use commit::{unchanged_stages, unfinished_partition};
pub(super) use status::status_of;
pub use status::{StageStatus, status};
#[cfg(test)]
pub(super) use work::check_job;
pub use work::{PartitionResult, Workload, work};

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
    pub(super) written: PipelineText,
    stages: Vec<StageShare>,
}

impl PartitionedPlan {
    /// Returns the name of the planned pipeline.
    pub fn pipeline(&self) -> &str {
        &self.written.pipeline
    }

    /// Returns the partitions of a share.
    ///
    /// # Errors
    /// Fails if the plan has no such stage.
    pub fn partitions_of(&self, share: &Share) -> Result<std::ops::Range<usize>, Error> {
        let Some(name) = &share.stage else { return Ok(share.range(self.partitions)) };
        let stage = self.stages.iter().find(|stage| stage.stage == *name).ok_or_else(|| {
            let names: Vec<&str> = self.stages.iter().map(|stage| stage.stage.as_str()).collect();
            Error::Request {
                what: format!("the plan has no stage `{name}`"),
                hint: format!("its stages are {}", names.join(", ")),
            }
        })?;
        let range = share.range(stage.count);
        Ok(stage.first + range.start..stage.first + range.end)
    }

    /// Returns the time of the plan, in seconds since 1970.
    pub fn planned_unix_secs(&self) -> u64 {
        self.planned_unix_secs
    }

    /// Returns the stage of a partition.
    pub(super) fn stage_of(&self, partition: usize) -> Option<&str> {
        let has =
            |stage: &&StageShare| (stage.first..stage.first + stage.count).contains(&partition);
        self.stages.iter().find(has).map(|stage| stage.stage.as_str())
    }

    /// Returns whether the tasks of a stage are useful without each other.
    pub(super) fn is_independent(&self, stage: &str) -> bool {
        let stage = self.stages.iter().find(|share| share.stage == stage);
        stage.and_then(|stage| kind_of(&stage.kind)).is_some_and(|kind| kind.independent)
    }

    /// Returns whether tasks of a stage keep checkpoints.
    pub(super) fn has_checkpoints(&self, stage: &str) -> bool {
        let stage = self.stages.iter().find(|share| share.stage == stage);
        stage.and_then(|stage| kind_of(&stage.kind)).is_some_and(|kind| kind.has_checkpoints)
    }

    /// Returns a stage with tasks that wait for other stages.
    pub(super) fn waiting_stage(&self) -> Option<&str> {
        self.stages.iter().find(|stage| !stage.complete).map(|stage| stage.stage.as_str())
    }

    /// Returns name, number of partitions and needs of every stage with partitions.
    pub fn stages_to_work(&self) -> impl Iterator<Item = (&str, usize, Needs)> {
        let stages = self.stages.iter().filter(|stage| stage.count > 0);
        stages.map(|stage| (stage.stage.as_str(), stage.count, stage.needs))
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
    /// The resources of one partition.
    needs: Needs,
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

/// Number of partitions per file.
const PER_FILE: usize = 1000;
/// The file of the header. It is written last, so a folder without it holds no complete plan.
const HEADER_FILE: &str = "plan.json";

/// Returns the file with the job of a partition.
fn jobs_file(partition: usize) -> String {
    format!("jobs/{:06}.jsonl", partition / PER_FILE)
}

/// Returns the file with the places of jobs in their file. A job may list thousands of videos, and
/// a worker reads only its own.
fn places_file(partition: usize) -> String {
    format!("jobs/{:06}.places.json", partition / PER_FILE)
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
    for mut plan in plans.into_iter().filter(|plan| options.runs(&plan.stage)) {
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
        let mut text = String::new();
        // The beginning of every line, and the end of the last one.
        let mut places = vec![0];
        for job in jobs {
            text += &json(job);
            places.push(text.len() as u64);
        }
        create(&jobs_file(file * PER_FILE), &text)?;
        create(&places_file(file * PER_FILE), &json(&places))?;
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
            needs: plan.needs,
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

/// Returns whether the folder holds a whole plan.
pub(super) fn is_complete(out: &Store) -> Result<bool, Error> {
    Ok(out.read(HEADER_FILE)?.is_some())
}

/// Returns the key of every partition.
pub(super) fn keys_to_work(plan: &PartitionedPlan, out: &Store) -> Result<Vec<String>, Error> {
    let mut keys = Vec::with_capacity(plan.partitions);
    for share in &plan.stages {
        let new = self::keys(out, share)?.new;
        if keys.len() != share.first || new.len() != share.count {
            let reason = format!("it has {} new keys, expected {}", new.len(), share.count);
            return Err(edited(&format!("stages/{}.json", share.stage), reason));
        }
        keys.extend(new);
    }
    Ok(keys)
}

/// Returns the error of a plan file with unexpected content.
fn edited(path: &str, reason: String) -> Error {
    Error::Request {
        what: format!("{path}: {reason}"),
        hint: "plan again into a new folder with `lapo plan --out`".into(),
    }
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
pub(super) fn json(value: &impl Serialize) -> String {
    let text = serde_json::to_string(value).expect("plain data with text keys");
    text + "\n"
}

/// Parses a plan file.
pub(super) fn parse<'a, T: Deserialize<'a>>(path: &str, bytes: &'a [u8]) -> Result<T, Error> {
    let damaged = |cause: serde_json::Error| edited(path, cause.to_string());
    serde_json::from_slice(bytes).map_err(damaged)
}
