//! Runs partitions of a plan: reads and checks their jobs, and executes the unfinished ones. Start
//! at [`work`].

use std::collections::{BTreeMap, BTreeSet};

use super::attempts::{Attempt, Ended, RecordingReporter};
use super::{PER_FILE, PartitionedPlan, edited, jobs_file, parse, places_file};
use crate::dataset::{HashMap, Store, find_receipts, is_key, is_name};
use crate::executor::{Job, JobResult, Resources, local};
use crate::pipeline::Error;
use crate::pipeline::plan::StagePlan;
use crate::pipeline::reporter::Reporter;
use crate::pipeline::task_failure::TaskFailure;
use crate::stages::plan::key::{Fields, key};

/// The result of a partition.
#[derive(Debug)]
pub struct PartitionResult {
    /// The partition's number.
    pub partition: usize,
    /// Whether it was already done, or the failure.
    pub result: Result<bool, TaskFailure>,
}

/// The partitions for one worker.
#[derive(Clone, Debug)]
pub struct Workload {
    /// Their numbers, ascending.
    pub partitions: Vec<usize>,
    /// Number of earlier attempts.
    pub attempt: usize,
}

/// Runs partitions, skips finished ones and returns the results in order. The jobs of a stage run
/// in parallel, as in a normal run. The plan's folder gets a record of the attempt.
///
/// # Errors
/// Fails if a partition does not exist, or if this version of lapo would run it differently than
/// planned.
pub fn work(
    plan: &PartitionedPlan,
    out: &Store,
    workload: &Workload,
    store: &Store,
    resources: &Resources,
    reporter: &dyn Reporter,
) -> Result<Vec<PartitionResult>, Error> {
    let jobs = jobs(plan, out, &workload.partitions)?;
    let neighbours = workload.partitions.chunk_by(|a, b| a + 1 == *b);
    let attempts: Vec<Attempt> = neighbours
        .map(|run| Attempt::begin(out, run[0]..run[0] + run.len(), workload.attempt))
        .collect::<Result<_, _>>()?;
    let reporter = RecordingReporter::new(reporter);
    let worked = run_jobs(plan, jobs, store, resources, &reporter);
    let failures = worked
        .iter()
        .flatten()
        .filter_map(|one| Some((one.partition, one.result.as_ref().err()?.clone())));
    let failures = failures.collect();
    let ended = match &worked {
        Err(error) if error.stopped().is_some() => Ended::Stopped,
        Ok(worked) if worked.iter().all(|one| one.result.is_ok()) => Ended::Done,
        _ => Ended::Failed,
    };
    for (at, attempt) in attempts.iter().enumerate() {
        // Once is enough.
        if at == 0 {
            reporter.record(attempt)?;
        }
        attempt.end(ended, &failures)?;
    }
    worked
}

/// Runs jobs, stage by stage.
fn run_jobs(
    plan: &PartitionedPlan,
    jobs: Vec<(usize, Job)>,
    store: &Store,
    resources: &Resources,
    reporter: &dyn Reporter,
) -> Result<Vec<PartitionResult>, Error> {
    let mut stages: BTreeMap<usize, Vec<(usize, Job)>> = BTreeMap::new();
    for (partition, job) in jobs {
        let index = plan.stages.iter().position(|share| share.stage == job.stage);
        let index = index.ok_or_else(|| {
            let reason = format!("`{}` is not a stage of this plan", job.stage);
            edited(&jobs_file(partition), reason)
        })?;
        stages.entry(index).or_default().push((partition, job));
    }
    let mut worked = Vec::new();
    for (index, jobs) in stages {
        let share = &plan.stages[index];
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
                // Finished by an earlier attempt.
                Some(_) => worked.push(PartitionResult { partition, result: Ok(true) }),
                None => open.push(job),
            }
        }
        if open.is_empty() {
            continue;
        }
        // Progress needs only the stage's name and kind, so an empty plan is enough.
        let progress = reporter.stage_started(
            &StagePlan::empty(&share.stage, share.kind()?),
            open.iter().map(|job| job.units).sum(),
        );
        let ended = local::run(store, open, resources, progress.as_ref(), &|_| true);
        if let Some(signal) = resources.stop.signal() {
            return Err(Error::Stopped(signal));
        }
        for JobResult { key, result } in ended {
            let result =
                result.map(|_| false).map_err(|error| TaskFailure::new(&share.stage, &key, &error));
            worked.push(PartitionResult { partition: numbers[key.as_str()], result });
        }
    }
    worked.sort_by_key(|worked| worked.partition);
    Ok(worked)
}

/// Reads and checks the jobs of partitions.
pub(super) fn jobs(
    plan: &PartitionedPlan,
    out: &Store,
    partitions: &[usize],
) -> Result<Vec<(usize, Job)>, Error> {
    let partitions: BTreeSet<usize> = partitions.iter().copied().collect();
    let partitions: Vec<usize> = partitions.into_iter().collect();
    if let Some(partition) = partitions.last().filter(|last| **last >= plan.partitions) {
        let last = match plan.partitions.checked_sub(1) {
            Some(last) => format!("the plan's last partition is {last}"),
            None => "the plan has no partitions".to_owned(),
        };
        return Err(Error::Request {
            what: format!("there is no partition {partition}: {last}"),
            hint: "`lapo plan --out` prints the number of partitions".into(),
        });
    }
    let mut jobs = Vec::with_capacity(partitions.len());
    // Neighbours in one file are read at once.
    for run in partitions.chunk_by(|a, b| a + 1 == *b && a / PER_FILE == b / PER_FILE) {
        let (path, places_path) = (jobs_file(run[0]), places_file(run[0]));
        let places: Vec<u64> = parse(&places_path, &out.require(&places_path)?)?;
        let place = |partition: usize| {
            let place = places.get(partition % PER_FILE).copied();
            place.ok_or_else(|| edited(&places_path, format!("lacks partition {partition}")))
        };
        let first = place(run[0])?;
        let ends = run.iter().map(|at| places.get(at % PER_FILE + 1).copied().unwrap_or(first));
        let end = ends.max().unwrap_or(first);
        let text = out.read_part(&path, first, end.saturating_sub(first))?;
        let lines = text.split(|byte| *byte == b'\n');
        for (partition, line) in run.iter().zip(lines) {
            let job: Job = parse(&path, line)?;
            check_job(&path, &job)?;
            jobs.push((*partition, job));
        }
    }
    if jobs.len() != partitions.len() {
        return Err(edited(&jobs_file(partitions[0]), "it lacks some jobs".into()));
    }
    Ok(jobs)
}

/// Returns an error if this program would file the job under another key than planned.
pub(in crate::pipeline) fn check_job(path: &str, job: &Job) -> Result<(), Error> {
    if !is_name(&job.stage) || !is_key(&job.key) {
        let reason = format!("`{}` of stage `{}` is not a task key", job.key, job.stage);
        return Err(edited(path, reason));
    }
    let fields = job.task.key().into_fields();
    let version = |fields: &Fields| {
        fields.get("version").and_then(serde_json::Value::as_u64).unwrap_or_default()
    };
    // Compare versions first: other versions hash other fields, so their keys differ as well.
    if version(&fields) != version(&job.fields) {
        let what = format!(
            "{path}: the plan was made for version {} of the stage kind `{}`, \
             this lapo has version {}",
            version(&job.fields),
            job.kind,
            version(&fields)
        );
        return Err(Error::Request {
            what,
            hint: "plan and work with the same version of lapo, or plan again with this one".into(),
        });
    }
    if key(&fields) != job.key {
        return Err(edited(
            path,
            format!(
                "the task of stage `{}` has the key {}, but the plan says {}",
                job.stage,
                key(&fields),
                job.key
            ),
        ));
    }
    Ok(())
}
