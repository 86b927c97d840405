//! Runs jobs in this process.
//!
//! - Videos and games run in parallel, one job per core.
//! - On a CPU, training and labelling run one job at a time, because one job uses all cores.
//! - On GPUs, labelling runs several jobs per device, so that one uploads while another computes
//!   and a third writes.

use std::hash::{BuildHasher, Hasher};
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::mpsc::Receiver;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use rayon::prelude::*;

use super::{ContinueAfter, Job, JobResult, Resources};
use crate::build_info::build_info;
use crate::dataset::{
    FORMAT, FilingOutcome, Provenance, Receipt, Store, data_folder, file_receipt, host,
    read_receipt,
};
use crate::models::Device;
use crate::models::gpu_failure::catch_gpu_failure;
use crate::stages::decode::decoder_process::Decoders;
use crate::stages::{Error, LaneState, Lanes, Progress, StageKind, Stop, TaskContext, TaskOutput};

/// Runs the jobs of one stage and returns their results in the jobs' order. Once `check_stop` returns
/// false, no further job is started.
///
/// A job is dropped as soon as its receipt is filed, so memory use stays about constant.
pub fn run(
    store: &Store,
    jobs: Vec<Job>,
    means: &Resources,
    progress: &dyn Progress,
    check_stop: &ContinueAfter,
) -> Vec<JobResult> {
    let stop = AtomicBool::new(false);
    let decoders = means.decoder.clone().map(Decoders::new);
    // Few jobs can use several cores each.
    let cores_free = (means.threads / jobs.len().max(1)).max(1);
    let executor = LocalExecutor {
        store,
        games: &means.games,
        decoders: decoders.as_ref(),
        cores_free,
        progress,
        stop_signal: &means.stop,
    };
    let run_one = |job: Job, device: Device, kept: &mut LaneState| {
        if stop.load(Ordering::Relaxed) || means.stop.is_set() {
            return None;
        }
        let key = job.key.clone();
        let result = executor.attempt(job, device, kept);
        if result.as_ref().is_ok_and(|receipt| !check_stop(receipt)) {
            stop.store(true, Ordering::Relaxed);
        }
        Some(JobResult { key, result })
    };
    let all_run = |lanes: Lanes| jobs.iter().all(|job| job.task.kind().lanes == lanes);
    // Decoding and recording keep one core busy each.
    if all_run(Lanes::PerCore) {
        let results = Mutex::new(Vec::with_capacity(jobs.len()));
        // `with_max_len(1)` makes every job a unit that an idle thread can steal.
        jobs.into_par_iter().with_max_len(1).enumerate().for_each(|(at, job)| {
            let result = run_one(job, means.devices[0], &mut None);
            lock(&results).extend(result.map(|result| (at, result)));
        });
        return in_order(results);
    }
    let lanes = if all_run(Lanes::PerGpu) {
        lanes(&means.devices, jobs.len())
    } else {
        vec![means.devices[0]]
    };
    let jobs = Mutex::new(jobs.into_iter());
    in_lanes(&|| lock(&jobs).next(), &lanes, &run_one)
}

/// Labels shards while others are still being decoded. Returns (stage, receipt) for every
/// successful job, if it was started before `stop` was set.
///
/// Jobs with a receipt are skipped. A failed job is dropped here: the label stage runs it again
/// later and reports the error.
pub fn label_while_decoding(
    store: &Store,
    jobs: Receiver<Job>,
    means: &Resources,
    progress: &dyn Progress,
    stop: &AtomicBool,
) -> Vec<(String, Arc<Receipt>)> {
    let executor = LocalExecutor {
        store,
        games: &means.games,
        decoders: None,
        cores_free: 1,
        progress,
        stop_signal: &means.stop,
    };
    let run_one = |job: Job, device: Device, kept: &mut LaneState| {
        if stop.load(Ordering::Relaxed)
            || means.stop.is_set()
            // An earlier run may have labelled this shard.
            || !matches!(read_receipt(store, &job.stage, &job.key), Ok(None))
        {
            return None;
        }
        let stage = job.stage.clone();
        executor.attempt(job, device, kept).ok().map(|receipt| (stage, receipt))
    };
    let jobs = Mutex::new(jobs);
    in_lanes(&|| lock(&jobs).recv().ok(), &lanes(&means.devices, usize::MAX), &run_one)
}

/// Number of concurrent label jobs on one GPU.
const LANES_PER_GPU: usize = 3;

/// Returns the devices to label on, one per lane and at most `most`: several lanes per GPU, or one
/// on the CPU.
fn lanes(devices: &[Device], most: usize) -> Vec<Device> {
    let gpus = devices.iter().filter(|device| **device != Device::Cpu);
    let lanes: Vec<Device> = gpus.flat_map(|device| [*device; LANES_PER_GPU]).take(most).collect();
    if lanes.is_empty() { vec![devices[0]] } else { lanes }
}

/// Runs the jobs on one thread per lane. Each lane takes the next job until none is left, or until
/// its GPU is lost and another device goes on. Results are in the jobs' order.
fn in_lanes<J: Send, R: Send>(
    jobs: &(dyn Fn() -> Option<J> + Sync),
    lanes: &[Device],
    run_one: &(impl Fn(J, Device, &mut LaneState) -> Option<R> + Sync),
) -> Vec<R> {
    let taken = Mutex::new(0_usize);
    let results = Mutex::new(Vec::new());
    let take = || {
        // The lock is held while the job is taken, so that numbers follow the jobs' order.
        let mut taken = lock(&taken);
        let job = jobs()?;
        *taken += 1;
        Some((*taken, job))
    };
    let work = |device: Device| {
        let mut kept = None;
        while let Some((at, job)) = take() {
            let result = run_one(job, device, &mut kept);
            lock(&results).extend(result.map(|result| (at, result)));
            let is_usable = |device: &Device| device.check().is_ok();
            if !is_usable(&device) && lanes.iter().any(is_usable) {
                break;
            }
        }
    };
    std::thread::scope(|scope| {
        for device in &lanes[1..] {
            scope.spawn(|| work(*device));
        }
        // The calling thread is the first lane.
        work(lanes[0]);
    });
    in_order(results)
}

/// Returns the results sorted by the number of their job.
fn in_order<R>(results: Mutex<Vec<(usize, R)>>) -> Vec<R> {
    let mut results = results.into_inner().unwrap_or_else(PoisonError::into_inner);
    results.sort_by_key(|(at, _)| *at);
    results.into_iter().map(|(_, result)| result).collect()
}

/// Locks a mutex. A panic in another thread does not poison the data.
fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

/// Settings of all attempts.
struct LocalExecutor<'a> {
    store: &'a Store,
    games: &'a [std::path::PathBuf],
    decoders: Option<&'a Decoders>,
    cores_free: usize,
    progress: &'a dyn Progress,
    stop_signal: &'a Stop,
}

impl LocalExecutor<'_> {
    /// Runs a job in a fresh folder and files its receipt. If another attempt filed first, its
    /// receipt is returned.
    ///
    /// Checkpoints are deleted only after a receipt is filed: until then an interrupted training
    /// resumes from them.
    fn attempt(
        &self,
        job: Job,
        device: Device,
        kept: &mut LaneState,
    ) -> Result<Arc<Receipt>, Error> {
        let LocalExecutor { store, games, decoders, cores_free, progress, stop_signal: stop } =
            *self;
        let attempt = fresh_id();
        let folder = data_folder(&job.stage, &job.key, &attempt);
        let scratch = format!("{}/checkpoints/{}", job.stage, job.key);
        let place = TaskContext {
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
        let kind = job.task.kind();
        let done = match catch_failure(kind, device, || job.task.run(&place, kept)) {
            Ok(done) => done,
            // Another attempt finished and deleted these checkpoints, or the store failed.
            Err(error) => {
                // Networks on a failed GPU are loaded again.
                *kept = None;
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
            made: provenance(device),
        };
        let filed = match file_receipt(store, &stage, &receipt)? {
            FilingOutcome::Won => receipt,
            FilingOutcome::Lost(winner) => *winner,
        };
        if let Some(checkpoints) = checkpoints {
            store.delete_all(&checkpoints)?;
        }
        Ok(Arc::new(filed))
    }
}

/// Returns the provenance of a task: the build, the device, the host and the time.
fn provenance(device: Device) -> Provenance {
    let build = build_info();
    Provenance {
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

/// Runs a job and turns a panic or a failure of its GPU into its error, so that other jobs continue.
fn catch_failure(
    kind: &StageKind,
    device: Device,
    work: impl FnOnce() -> Result<TaskOutput, Error>,
) -> Result<TaskOutput, Error> {
    // A decoding task is given a device, but does not use it.
    if kind.lanes == Lanes::PerCore {
        return catch_panic(work);
    }
    let failed = |source| Error::Gpu { source, memory_cure: kind.memory_cure };
    catch_panic(|| catch_gpu_failure(device, work).map_err(failed)?)
}

/// Runs a job and turns a panic into its error.
fn catch_panic(work: impl FnOnce() -> Result<TaskOutput, Error>) -> Result<TaskOutput, Error> {
    catch_unwind(AssertUnwindSafe(work))
        .unwrap_or_else(|panic| Err(Error::panicked(panic.as_ref())))
}

/// Returns a unique id for an attempt: a hash of the process, the time and a random state.
pub fn fresh_id() -> String {
    let mut hasher = std::hash::RandomState::new().build_hasher();
    hasher.write_u32(std::process::id());
    let since_1970 =
        std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH).unwrap_or_default();
    hasher.write_u128(since_1970.as_nanos());
    format!("{:016x}", hasher.finish())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_panic_fails_only_its_own_job() {
        let ended = catch_panic(|| panic!("no such layer: {}", 7));
        let Err(Error::Invariant { what }) = ended else { unreachable!("it panicked") };
        assert_eq!(what, "panic: no such layer: 7");
        assert!(catch_panic(|| Ok(TaskOutput::default())).is_ok());
    }

    #[test]
    fn lanes_run_every_job_once_and_keep_the_order() {
        let jobs = Mutex::new(0..200_u32);
        let done = Mutex::new(Vec::new());
        let double = |job: u32, _: Device, _: &mut LaneState| {
            std::thread::yield_now();
            lock(&done).push(job);
            (!job.is_multiple_of(7)).then_some(job * 2)
        };
        let answers = in_lanes(&|| lock(&jobs).next(), &[Device::Cpu; 4], &double);
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
