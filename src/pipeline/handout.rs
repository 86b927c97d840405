//! A plan becomes files that any engine can hand out. In: what can be done now; out: a folder of partitions, done in any order, anywhere
//! and any number of times, and committed once all are.
//!
//! Start at [`hand_out`]; then [`work`] for the partitions, on whatever machines; then [`commit_all`]. What waits for these partitions is
//! in the next plan: plan, work and commit until a plan changes nothing; a plan without partitions may still change something, where videos
//! are gone or a setting was put back. Two live attempts at one partition are harmless, as everywhere: the first receipt counts. The local
//! executor does the same with threads.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};

use super::Error;
use super::check::Checked;
use super::limit::{Limit, check_dropped, check_readable};
use super::plan::{PlanOptions, Planner, StagePlan};
use super::run::Watch;
use super::session::{PinsFor, Session, TaskFailure, Written, now};
use crate::dataset::{
    self, Created, FORMAT, HashMap, HashSet, Store, find_receipts, is_key, is_name, pins,
};
use crate::executor::{Ended, Job, Means, local};
use crate::stages::plan::key::{Fields, key};
use crate::stages::{StageKind, kind_of};

mod commit;

pub use commit::{Missing, commit_all};

/// A plan's front page: `plan.json` in its folder.
#[derive(Clone, Debug, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Handout {
    format: u32,
    /// The run's id.
    pub run: String,
    /// The version of lapo that planned it.
    pub lapo: String,
    /// Where results go: an absolute path, or an address.
    pub workspace: String,
    /// The folder that relative paths of videos start from.
    pub base: String,
    /// How many partitions there are, numbered from 0.
    pub partitions: usize,
    /// How many stages' datasets will change.
    pub changes: usize,
    planned_unix_secs: u64,
    take_over: bool,
    written: Written,
    stages: Vec<Share>,
}

impl Handout {
    /// Returns the name of the pipeline that was planned.
    pub fn pipeline(&self) -> &str {
        &self.written.pipeline
    }
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
    videos_gone: usize,
    most_rejected: Option<f64>,
    file_bytes: u64,
    settings: Fields,
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

/// How far a stage's partitions are.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct StageStatus {
    /// The stage's name.
    pub stage: String,
    /// Its kind.
    pub kind: String,
    /// Partitions that are done.
    pub done: usize,
    /// The numbers of those that are not.
    pub missing: Vec<usize>,
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
/// Also where more videos are rejected already than `max_rejected` allows, or more are gone than `max_dropped` does.
pub fn hand_out(
    checked: &Checked,
    store: &Store,
    options: &PlanOptions,
    out: &Store,
) -> Result<Handout, Error> {
    if out.read(FRONT)?.is_some() {
        return Err(taken());
    }
    let session = Session::begin(checked, store, options, PinsFor::Workers)?;
    let written = write_plan(&session, options, out);
    if !written.as_ref().is_ok_and(|plan| plan.changes > 0) {
        pins::release(store, &session.run)?;
        dataset::runs::abandon(store, &session.run)?;
    }
    written
}

fn taken() -> Error {
    Error::Request {
        what: "the folder for the plan holds one already".into(),
        hint: "name a new folder: --out plans/2".into(),
    }
}

/// Plans all stages, and writes the plan.
fn write_plan(session: &Session, options: &PlanOptions, out: &Store) -> Result<Handout, Error> {
    let (checked, store) = (session.checked, session.store);
    let plans = held(session, options)?;
    // What another plan left, one that was killed say, must not become a part of this one.
    let create = |path: &str, text: &str| match out.create(path, text.as_bytes())? {
        Created::New => Ok(()),
        Created::Exists => Err(taken()),
    };
    let (mut stages, mut jobs, mut changes) = (Vec::new(), Vec::new(), 0);
    for mut plan in plans {
        check_dropped(&plan, options.max_dropped.or(max_dropped(checked, &plan.stage)))?;
        check_readable(&plan, &[])?;
        changes += usize::from(plan.changes());
        let new: Vec<String> = plan.tasks.jobs().map(|job| job.key.clone()).collect();
        let share = Share::of(&plan, checked, jobs.len(), new.len());
        Limit::new(share.most_rejected, share.videos, plan.tasks.receipts()).check(&share.stage)?;
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
    let handout = Handout {
        format: FORMAT,
        run: session.run.clone(),
        lapo: env!("CARGO_PKG_VERSION").into(),
        workspace: store.name(),
        base: std::env::current_dir().map(|here| here.display().to_string()).unwrap_or_default(),
        partitions: jobs.len(),
        changes,
        planned_unix_secs: now().as_secs(),
        take_over: options.take_over,
        written: Written::of(checked),
        stages,
    };
    create(FRONT, &json(&handout))?;
    Ok(handout)
}

/// Plans all stages, and pins what the plans rely on.
fn held(session: &Session, options: &PlanOptions) -> Result<Vec<StagePlan>, Error> {
    loop {
        let plans = Planner::new(session.checked, session.store, options)?.plan_all()?;
        let mut all_there = true;
        for plan in &plans {
            all_there &= session.hold(plan)?;
            for damaged in &plan.damaged {
                dataset::take_back(session.store, &plan.stage, damaged)?;
            }
        }
        if all_there {
            return Ok(plans);
        }
    }
}

fn max_dropped(checked: &Checked, stage: &str) -> Option<f64> {
    checked.spec.stage(stage).and_then(|spec| spec.max_dropped())
}

impl Share {
    /// Returns its kind.
    fn kind(&self) -> Result<&'static StageKind, Error> {
        let unknown = || edited(FRONT, format!("`{}` is not a kind of stage", self.kind));
        kind_of(&self.kind).ok_or_else(unknown)
    }

    fn of(plan: &StagePlan, checked: &Checked, first: usize, count: usize) -> Self {
        Share {
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

/// The plan in the folder `out`.
///
/// # Errors
/// Where it is of another format, or its names lead out of the workspace.
pub fn read(out: &Store) -> Result<Handout, Error> {
    let handout: Handout = dataset::parse_versioned(FRONT, &out.require(FRONT)?)?;
    match handout.stages.iter().find(|share| !is_name(&share.stage)) {
        Some(share) => Err(edited(FRONT, format!("`{}` is no name of a stage", share.stage))),
        None => Ok(handout),
    }
}

fn edited(path: &str, reason: String) -> Error {
    Error::Request {
        what: format!("{path}: {reason}"),
        hint: "plan again: `lapo plan --out` writes a whole plan".into(),
    }
}

/// What became of a partition.
#[derive(Debug)]
pub struct Worked {
    /// Its number.
    pub partition: usize,
    /// Whether it was done before; or why it failed.
    pub result: Result<bool, TaskFailure>,
}

/// Does partitions, those that are done left out, a stage's side by side as a run does; tells what became of each, in order.
///
/// # Errors
/// Where there is no such partition, or one that this version of lapo would do otherwise than was planned.
pub fn work(
    handout: &Handout,
    out: &Store,
    partitions: &[usize],
    store: &Store,
    means: &Means,
    watch: &dyn Watch,
) -> Result<Vec<Worked>, Error> {
    let mut stages: BTreeMap<usize, Vec<(usize, Job)>> = BTreeMap::new();
    for (partition, job) in jobs(handout, out, partitions)? {
        let place = handout.stages.iter().position(|share| share.stage == job.stage);
        let place = place.ok_or_else(|| {
            edited(&jobs_file(partition), format!("`{}` is no stage of this plan", job.stage))
        })?;
        stages.entry(place).or_default().push((partition, job));
    }
    let mut worked = Vec::new();
    for (place, jobs) in stages {
        let share = &handout.stages[place];
        let keys: Vec<String> = jobs.iter().map(|(_, job)| job.key.clone()).collect();
        let filed = find_receipts(store, &share.stage, &keys)?;
        let numbers: HashMap<&str, usize> = keys
            .iter()
            .map(String::as_str)
            .zip(jobs.iter().map(|(partition, _)| *partition))
            .collect();
        let mut open = Vec::new();
        for ((partition, job), filed) in jobs.into_iter().zip(filed) {
            match filed {
                Some(_) => worked.push(Worked { partition, result: Ok(true) }),
                None => open.push(job),
            }
        }
        if open.is_empty() {
            continue;
        }
        let progress = watch.begin(
            &StagePlan::empty(&share.stage, share.kind()?),
            open.iter().map(|job| job.units).sum(),
        );
        let ended = local::run(store, open, means, progress.as_ref(), &|_| true);
        if let Some(signal) = means.stop.signal() {
            return Err(Error::Stopped(signal));
        }
        for Ended { key, result } in ended {
            let result =
                result.map(|_| false).map_err(|error| TaskFailure::new(&share.stage, &key, &error));
            worked.push(Worked { partition: numbers[key.as_str()], result });
        }
    }
    worked.sort_by_key(|worked| worked.partition);
    Ok(worked)
}

/// Reads and checks the jobs of partitions.
fn jobs(handout: &Handout, out: &Store, partitions: &[usize]) -> Result<Vec<(usize, Job)>, Error> {
    let mut files: HashMap<String, bytes::Bytes> = HashMap::default();
    let mut jobs = Vec::new();
    let partitions: std::collections::BTreeSet<usize> = partitions.iter().copied().collect();
    for partition in partitions {
        if partition >= handout.partitions {
            let what = format!(
                "there is no partition {partition}: the plan has {}, numbered from 0",
                handout.partitions
            );
            return Err(Error::Request {
                what,
                hint: "`lapo plan --out` prints how many there are".into(),
            });
        }
        let path = jobs_file(partition);
        let bytes = match files.get(&path) {
            Some(bytes) => bytes.clone(),
            None => files.entry(path.clone()).or_insert(out.require(&path)?).clone(),
        };
        let line = bytes.split(|byte| *byte == b'\n').nth(partition % PER_FILE).unwrap_or_default();
        let job: Job = parse(&path, line)?;
        check(&path, &job)?;
        jobs.push((partition, job));
    }
    Ok(jobs)
}

/// Refuses a job that this program would file under a key that is not its own.
pub(super) fn check(path: &str, job: &Job) -> Result<(), Error> {
    if !is_name(&job.stage) || !is_key(&job.key) {
        return Err(edited(
            path,
            format!("`{}` of stage `{}` is no key of a task", job.key, job.stage),
        ));
    }
    let fields = job.task.key().into_fields();
    let version = |fields: &Fields| {
        fields.get("version").and_then(serde_json::Value::as_u64).unwrap_or_default()
    };
    if version(&fields) != version(&job.fields) {
        let what = format!(
            "{path}: the plan was made for version {} of the stage kind `{}`, this lapo has version {}",
            version(&job.fields),
            job.kind,
            version(&fields)
        );
        return Err(Error::Request {
            what,
            hint: "use one version of lapo for planning and working, or plan again with this one"
                .into(),
        });
    }
    if key(&fields) != job.key {
        return Err(edited(
            path,
            format!(
                "the task of stage `{}` has the key {}, the plan says {}",
                job.stage,
                key(&fields),
                job.key
            ),
        ));
    }
    Ok(())
}

/// Tells how far the partitions of a plan are.
pub fn status(handout: &Handout, out: &Store, store: &Store) -> Result<Vec<StageStatus>, Error> {
    let of = |share: &Share| {
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
    handout.stages.iter().filter(|share| share.count > 0).map(of).collect()
}

fn keys(out: &Store, share: &Share) -> Result<Keys, Error> {
    let path = format!("stages/{}.json", share.stage);
    let keys: Keys = parse(&path, &out.require(&path)?)?;
    match keys.order.iter().chain(&keys.new).find(|key| !is_key(key)) {
        Some(key) => Err(edited(&path, format!("`{key}` is no key of a task"))),
        None => Ok(keys),
    }
}

/// One line.
fn json(value: &impl Serialize) -> String {
    let text = serde_json::to_string(value).expect("plain data with text keys");
    text + "\n"
}

fn parse<'a, T: Deserialize<'a>>(path: &str, bytes: &'a [u8]) -> Result<T, Error> {
    let damaged = |cause: serde_json::Error| edited(path, cause.to_string());
    serde_json::from_slice(bytes).map_err(damaged)
}
