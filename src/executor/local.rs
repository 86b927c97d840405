//! Runs jobs in this process: videos side by side, one to a core; networks one job at a time, since each uses all cores.

use std::hash::{BuildHasher, Hasher};
use std::sync::atomic::{AtomicBool, Ordering};

use rayon::prelude::*;

use super::{GoOn, Job, Means};
use crate::dataset::{FORMAT, Filed, Receipt, Store, data_folder, file_receipt};
use crate::stages::label::Label;
use crate::stages::{Done, Error, Progress, Task, Workplace, decode, import_dynamics, train_dynamics};

/// Runs the jobs of one stage; a result per job that was begun, in the jobs' order. Where `go_on` says no, the rest is left.
pub fn run(store: &Store, jobs: &[Job], means: &Means, progress: &dyn Progress, go_on: &GoOn) -> Vec<Result<Receipt, Error>> {
    let stop = AtomicBool::new(false);
    let cores_free = (means.threads / jobs.len().max(1)).max(1);
    let one = |job: &Job, worker: &mut Option<Label>| {
        if stop.load(Ordering::Relaxed) {
            return None;
        }
        let result = attempt(store, job, means, cores_free, progress, worker);
        if result.as_ref().is_ok_and(|receipt| !go_on(receipt)) {
            stop.store(true, Ordering::Relaxed);
        }
        Some(result)
    };
    let side_by_side = jobs.iter().all(|job| matches!(job.task, Task::Decode(_)));
    if side_by_side {
        jobs.par_iter().with_max_len(1).filter_map(|job| one(job, &mut None)).collect()
    } else {
        let mut worker = None;
        jobs.iter().filter_map(|job| one(job, &mut worker)).collect()
    }
}

/// Works in a folder of its own, then files the receipt; where another attempt was first, its receipt counts.
fn attempt(
    store: &Store,
    job: &Job,
    means: &Means,
    cores_free: usize,
    progress: &dyn Progress,
    worker: &mut Option<Label>,
) -> Result<Receipt, Error> {
    let attempt = fresh_id();
    let place = Workplace {
        store,
        folder: data_folder(&job.stage, &job.key, &attempt),
        scratch: format!("{}/checkpoints/{}", job.stage, job.key),
        device: means.device,
        cores_free,
        progress,
    };
    let done = perform(job, &place, worker)?;
    let mut stats = done.stats;
    stats.extend(job.stats.clone());
    let receipt = Receipt {
        format: FORMAT,
        key: job.key.clone(),
        stage: job.kind.clone(),
        attempt,
        fields: job.fields.clone(),
        files: done.files,
        inputs: job.inputs.clone(),
        videos: done.videos,
        rejects: done.rejects,
        stats,
    };
    match file_receipt(store, &job.stage, &receipt)? {
        Filed::Won => Ok(receipt),
        Filed::Lost(theirs) => Ok(*theirs),
    }
}

fn perform(job: &Job, place: &Workplace, worker: &mut Option<Label>) -> Result<Done, Error> {
    match &job.task {
        Task::Decode(task) => decode::run(task, place),
        Task::TrainDynamics(task) => train_dynamics::run(task, place),
        Task::ImportDynamics(task) => import_dynamics::run(task, place),
        Task::Label(task) => {
            let kept = worker.take().filter(|worker| worker.serves(task));
            let label = kept.map_or_else(|| Label::new(place.store, &task.model, &place.device), Ok)?;
            worker.insert(label).run(task, place)
        }
    }
}

/// An id no other attempt has: the process, the time and the hasher's random state.
pub fn fresh_id() -> String {
    let mut hasher = std::hash::RandomState::new().build_hasher();
    hasher.write_u32(std::process::id());
    let since = std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH).unwrap_or_default();
    hasher.write_u128(since.as_nanos());
    format!("{:016x}", hasher.finish())
}
