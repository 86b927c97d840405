//! Runs jobs in this process: videos and games side by side, one to a core; networks one job at a time on a CPU, of which each uses all
//! cores. Labelling on GPUs takes several jobs to a device, so that one uploads while another computes and a third writes.

use std::hash::{BuildHasher, Hasher};
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::mpsc::Receiver;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use rayon::prelude::*;

use super::{Ended, GoOn, Job, Means};
use crate::build_info::build_info;
use crate::dataset::{
    FORMAT, Filed, Made, Receipt, Store, data_folder, file_receipt, host, read_receipt,
};
use crate::models::Device;
use crate::stages::decode::child::Decoders;
use crate::stages::{Done, Error, Kept, Lanes, Progress, Stop, Workplace};

/// Runs the jobs of one stage; how each job ended that was begun, in the jobs' order. Where `go_on` says no, the rest is left.
///
/// A job is gone once its receipt is there: what a stage holds in memory stays about what it was when it began.
pub fn run(
    store: &Store,
    jobs: Vec<Job>,
    means: &Means,
    progress: &dyn Progress,
    go_on: &GoOn,
) -> Vec<Ended> {
    let stop = AtomicBool::new(false);
    let decoders = means.decoder.clone().map(Decoders::new);
    let cores_free = (means.threads / jobs.len().max(1)).max(1);
    let here = Here {
        store,
        games: &means.games,
        decoders: decoders.as_ref(),
        cores_free,
        progress,
        asked_to_end: &means.stop,
    };
    let one = |job: Job, device: Device, kept: &mut Kept| {
        if stop.load(Ordering::Relaxed) || means.stop.is_set() {
            return None;
        }
        let (key, result) = (job.key.clone(), here.attempt(job, device, kept));
        if result.as_ref().is_ok_and(|receipt| !go_on(receipt)) {
            stop.store(true, Ordering::Relaxed);
        }
        Some(Ended { key, result })
    };
    let all_run = |lanes: Lanes| jobs.iter().all(|job| job.task.kind().lanes == lanes);
    if all_run(Lanes::PerCore) {
        let results = Mutex::new(Vec::with_capacity(jobs.len()));
        let each = |(at, job)| {
            let result = one(job, means.devices[0], &mut None);
            locked(&results).extend(result.map(|result| (at, result)));
        };
        jobs.into_par_iter().with_max_len(1).enumerate().for_each(each);
        return in_order(results);
    }
    let lanes = if all_run(Lanes::PerGpu) {
        lanes(&means.devices, jobs.len())
    } else {
        vec![means.devices[0]]
    };
    let jobs = Mutex::new(jobs.into_iter());
    in_lanes(&|| locked(&jobs).next(), &lanes, &one)
}

/// Labels shards as they come, while others are still decoded; the receipts of those that were begun before `stop` was set, as
/// (stage, receipt). What is done already is passed over, and what fails is left to the stage's own turn, which says why.
pub fn follow(
    store: &Store,
    jobs: Receiver<Job>,
    means: &Means,
    progress: &dyn Progress,
    stop: &AtomicBool,
) -> Vec<(String, Arc<Receipt>)> {
    let here = Here {
        store,
        games: &means.games,
        decoders: None,
        cores_free: 1,
        progress,
        asked_to_end: &means.stop,
    };
    let one = |job: Job, device: Device, kept: &mut Kept| {
        if stop.load(Ordering::Relaxed)
            || means.stop.is_set()
            || !matches!(read_receipt(store, &job.stage, &job.key), Ok(None))
        {
            return None;
        }
        let stage = job.stage.clone();
        here.attempt(job, device, kept).ok().map(|receipt| (stage, receipt))
    };
    let jobs = Mutex::new(jobs);
    in_lanes(&|| locked(&jobs).recv().ok(), &lanes(&means.devices, usize::MAX), &one)
}

/// Jobs a GPU labels at once.
const LANES: usize = 3;

/// Where labels are made, at most `most` at once: several lanes to a GPU, or one on the CPU.
fn lanes(devices: &[Device], most: usize) -> Vec<Device> {
    let gpus = devices.iter().filter(|device| **device != Device::Cpu);
    let lanes: Vec<Device> = gpus.flat_map(|device| [*device; LANES]).take(most).collect();
    if lanes.is_empty() { vec![devices[0]] } else { lanes }
}

/// Each lane takes the next job, until there is none; results come back in the jobs' order.
fn in_lanes<J: Send, R: Send>(
    jobs: &(dyn Fn() -> Option<J> + Sync),
    lanes: &[Device],
    one: &(impl Fn(J, Device, &mut Kept) -> Option<R> + Sync),
) -> Vec<R> {
    let (taken, results) = (Mutex::new(0_usize), Mutex::new(Vec::new()));
    let take = || {
        let mut taken = locked(&taken);
        let job = jobs()?;
        *taken += 1;
        Some((*taken, job))
    };
    let work = |device: Device| {
        let mut kept = None;
        while let Some((at, job)) = take() {
            let result = one(job, device, &mut kept);
            locked(&results).extend(result.map(|result| (at, result)));
        }
    };
    std::thread::scope(|scope| {
        lanes[1..].iter().for_each(|device| _ = scope.spawn(|| work(*device)));
        work(lanes[0]);
    });
    in_order(results)
}

fn in_order<R>(results: Mutex<Vec<(usize, R)>>) -> Vec<R> {
    let mut results = results.into_inner().unwrap_or_else(PoisonError::into_inner);
    results.sort_by_key(|(at, _)| *at);
    results.into_iter().map(|(_, result)| result).collect()
}

fn locked<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

/// What all attempts share.
struct Here<'a> {
    store: &'a Store,
    games: &'a [std::path::PathBuf],
    decoders: Option<&'a Decoders>,
    cores_free: usize,
    progress: &'a dyn Progress,
    asked_to_end: &'a Stop,
}

impl Here<'_> {
    /// Works in a folder of its own, then files the receipt; where another attempt was first, its receipt counts. Only then are checkpoints
    /// deleted: until then a training that is lost goes on from them.
    fn attempt(&self, job: Job, device: Device, kept: &mut Kept) -> Result<Arc<Receipt>, Error> {
        let Here { store, games, decoders, cores_free, progress, asked_to_end: stop } = *self;
        let attempt = fresh_id();
        let (folder, scratch) = (
            data_folder(&job.stage, &job.key, &attempt),
            format!("{}/checkpoints/{}", job.stage, job.key),
        );
        let place = Workplace {
            store,
            folder,
            scratch,
            device,
            games,
            decoders,
            cores_free,
            progress,
            stop,
        };
        let done = match guarded(|| job.task.run(&place, kept)) {
            Ok(done) => done,
            // The attempt that was first has taken this one's checkpoints away, or the store fails.
            Err(error) => {
                return read_receipt(store, &job.stage, &job.key)
                    .ok()
                    .flatten()
                    .map(Arc::new)
                    .ok_or(error);
            }
        };
        let checkpoints = job.task.kind().has_checkpoints.then_some(place.scratch);
        let Job { stage, kind, key, fields, inputs, stats, .. } = job;
        let receipt = Receipt {
            format: FORMAT,
            key,
            stage: kind,
            attempt,
            fields: fields.into(),
            files: done.files,
            inputs,
            videos: done.videos,
            rejects: done.rejects,
            stats: done.stats.into_iter().chain(stats).collect(),
            made: made(device),
        };
        let filed = match file_receipt(store, &stage, &receipt)? {
            Filed::Won => receipt,
            Filed::Lost(theirs) => *theirs,
        };
        if let Some(checkpoints) = checkpoints {
            store.delete_all(&checkpoints)?;
        }
        Ok(Arc::new(filed))
    }
}

/// By what, where and when a task was done.
fn made(device: Device) -> Made {
    let build = build_info();
    Made {
        lapo: build.version.into(),
        commit: build.commit.into(),
        libav: build.libav.clone(),
        device: device.to_string(),
        host: host(),
        finished_unix_secs: std::time::SystemTime::now()
            .duration_since(std::time::UNIX_EPOCH)
            .unwrap_or_default()
            .as_secs(),
    }
}

/// Makes a panic an error of the job it happened in, so that the others go on.
fn guarded(work: impl FnOnce() -> Result<Done, Error>) -> Result<Done, Error> {
    catch_unwind(AssertUnwindSafe(work))
        .unwrap_or_else(|panic| Err(Error::panicked(panic.as_ref())))
}

/// An id no other attempt has: the process, the time and the hasher's random state.
pub fn fresh_id() -> String {
    let mut hasher = std::hash::RandomState::new().build_hasher();
    hasher.write_u32(std::process::id());
    let since =
        std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH).unwrap_or_default();
    hasher.write_u128(since.as_nanos());
    format!("{:016x}", hasher.finish())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_panic_is_the_error_of_its_job_alone() {
        let ended = guarded(|| panic!("no such layer: {}", 7));
        let Err(Error::Invariant { what }) = ended else { unreachable!("it panicked") };
        assert_eq!(what, "panic: no such layer: 7");
        assert!(guarded(|| Ok(Done::default())).is_ok());
    }

    #[test]
    fn lanes_do_every_job_once_and_answer_in_order() {
        let jobs = Mutex::new(0..200_u32);
        let done = Mutex::new(Vec::new());
        let one = |job: u32, _: Device, _: &mut Kept| {
            std::thread::yield_now();
            locked(&done).push(job);
            (!job.is_multiple_of(7)).then_some(job * 2)
        };
        let answers = in_lanes(&|| locked(&jobs).next(), &[Device::Cpu; 4], &one);
        assert_eq!(
            answers,
            (0..200_u32)
                .filter(|job| !job.is_multiple_of(7))
                .map(|job| job * 2)
                .collect::<Vec<_>>()
        );
        let mut done = done.into_inner().expect("no job panics");
        done.sort_unstable();
        assert_eq!(done, (0..200).collect::<Vec<_>>());
    }
}
