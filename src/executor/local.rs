//! Runs jobs in this process: videos and games side by side, one to a core; networks one job at a time on a CPU, of which each uses all cores.
//! Labelling on GPUs takes several jobs to a device, so that one uploads while another computes and a third writes.

use std::hash::{BuildHasher, Hasher};
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::sync::{Mutex, PoisonError};

use rayon::prelude::*;

use super::{GoOn, Job, Means};
use crate::dataset::{FORMAT, Filed, Receipt, Store, data_folder, file_receipt};
use crate::models::Device;
use crate::stages::decode::child::Decoders;
use crate::stages::label::Label;
use crate::stages::{
    Done, Error, Progress, Task, Workplace, decode, evaluate, finetune, import_actions, import_dynamics, record, report, train_decoder,
    train_dynamics, train_policy,
};

/// Runs the jobs of one stage; a result per job that was begun, in the jobs' order. Where `go_on` says no, the rest is left.
pub fn run(store: &Store, jobs: &[Job], means: &Means, progress: &dyn Progress, go_on: &GoOn) -> Vec<Result<Receipt, Error>> {
    let stop = AtomicBool::new(false);
    let decoders = means.decoder.clone().map(Decoders::new);
    let here =
        Here { store, games: &means.games, decoders: decoders.as_ref(), cores_free: (means.threads / jobs.len().max(1)).max(1), progress };
    let one = |job: &Job, device: Device, worker: &mut Option<Label>| {
        if stop.load(Ordering::Relaxed) {
            return None;
        }
        let result = here.attempt(job, device, worker);
        if result.as_ref().is_ok_and(|receipt| !go_on(receipt)) {
            stop.store(true, Ordering::Relaxed);
        }
        Some(result)
    };
    if jobs.iter().all(|job| matches!(job.task, Task::Decode(_) | Task::Record(_))) {
        return jobs.par_iter().with_max_len(1).filter_map(|job| one(job, means.devices[0], &mut None)).collect();
    }
    let labels = jobs.iter().all(|job| matches!(job.task, Task::Label(_)));
    let gpus = means.devices.iter().filter(|device| **device != Device::Cpu);
    let lanes: Vec<Device> = gpus.flat_map(|device| [*device; LANES]).take(if labels { jobs.len() } else { 0 }).collect();
    match lanes.is_empty() {
        true => {
            let mut worker = None;
            jobs.iter().filter_map(|job| one(job, means.devices[0], &mut worker)).collect()
        }
        false => in_lanes(jobs, &lanes, &one),
    }
}

/// Jobs a GPU labels at once.
const LANES: usize = 3;

/// Each lane takes the next job, until none is left; results come back in the jobs' order.
fn in_lanes<J, R>(jobs: &[J], lanes: &[Device], one: &(impl Fn(&J, Device, &mut Option<Label>) -> Option<R> + Sync)) -> Vec<R>
where
    J: Sync,
    R: Send,
{
    let (next, results) = (AtomicUsize::new(0), Mutex::new(Vec::new()));
    let take = || {
        let at = next.fetch_add(1, Ordering::Relaxed);
        jobs.get(at).map(|job| (at, job))
    };
    std::thread::scope(|scope| {
        for device in lanes {
            scope.spawn(|| {
                let mut worker = None;
                while let Some((at, job)) = take() {
                    let result = one(job, *device, &mut worker);
                    results.lock().unwrap_or_else(PoisonError::into_inner).extend(result.map(|result| (at, result)));
                }
            });
        }
    });
    let mut results = results.into_inner().unwrap_or_else(PoisonError::into_inner);
    results.sort_by_key(|(at, _)| *at);
    results.into_iter().map(|(_, result)| result).collect()
}

/// What all attempts share.
struct Here<'a> {
    store: &'a Store,
    games: &'a [std::path::PathBuf],
    decoders: Option<&'a Decoders>,
    cores_free: usize,
    progress: &'a dyn Progress,
}

impl Here<'_> {
    /// Works in a folder of its own, then files the receipt; where another attempt was first, its receipt counts.
    fn attempt(&self, job: &Job, device: Device, worker: &mut Option<Label>) -> Result<Receipt, Error> {
        let Here { store, games, decoders, cores_free, progress } = *self;
        let attempt = fresh_id();
        let (folder, scratch) = (data_folder(&job.stage, &job.key, &attempt), format!("{}/checkpoints/{}", job.stage, job.key));
        let done = perform(job, &Workplace { store, folder, scratch, device, games, decoders, cores_free, progress }, worker)?;
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
}

fn perform(job: &Job, place: &Workplace, worker: &mut Option<Label>) -> Result<Done, Error> {
    match &job.task {
        Task::Decode(task) => decode::run(task, place),
        Task::Record(task) => record::run(task, place),
        Task::TrainDynamics(task) => train_dynamics::run(task, place),
        Task::TrainPolicy(task) => train_policy::run(task, place),
        Task::TrainDecoder(task) => train_decoder::run(task, place),
        Task::Finetune(task) => finetune::run(task, place),
        Task::Evaluate(task) => evaluate::run(task, place),
        Task::ImportActions(task) => import_actions::run(task, place),
        Task::Report(task) => report::run(task, place),
        Task::ImportDynamics(task) => import_dynamics::run(task, place),
        Task::Label(task) => {
            let kept = worker.take().filter(|worker| worker.serves(task));
            let label = kept.map_or_else(|| Label::new(place.store, &task.model, &place.device, task.config.precision), Ok)?;
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

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn lanes_do_every_job_once_and_answer_in_order() {
        let jobs: Vec<u32> = (0..200).collect();
        let done = Mutex::new(Vec::new());
        let one = |job: &u32, _: Device, _: &mut Option<Label>| {
            std::thread::yield_now();
            done.lock().expect("no job panics").push(*job);
            (!job.is_multiple_of(7)).then_some(job * 2)
        };
        let answers = in_lanes(&jobs, &[Device::Cpu; 4], &one);
        assert_eq!(answers, jobs.iter().filter(|job| !job.is_multiple_of(7)).map(|job| job * 2).collect::<Vec<_>>());
        let mut done = done.into_inner().expect("no job panics");
        done.sort_unstable();
        assert_eq!(done, jobs);
    }
}
