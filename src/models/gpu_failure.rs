//! Failures of GPUs during work, as errors.
//!
//! A GPU runs behind its caller, on a thread of its own. Where that thread fails, it panics, and the
//! caller sees at most that an answer is missing. So both sides record what they see, and
//! [`catch_gpu_failure`] turns the records into one error.

use std::fmt;
use std::panic::{AssertUnwindSafe, catch_unwind, resume_unwind};
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::thread::{self, ThreadId};

use super::{Device, ModelError};

/// A GPU failed during work.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{device} {failure}")]
pub struct GpuError {
    /// The GPU.
    pub device: String,
    /// How it failed.
    pub failure: GpuFailure,
}

/// How a GPU failed.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum GpuFailure {
    /// An allocation failed.
    OutOfMemory {
        /// Size of the allocation, if it is known.
        bytes: Option<u64>,
    },
    /// The GPU does not answer or does not compute any more.
    Lost {
        /// What its driver reports.
        reason: String,
    },
    /// Any other failure, such as a kernel that does not compile.
    Other {
        /// What its driver reports.
        reason: String,
    },
}

impl fmt::Display for GpuFailure {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            GpuFailure::OutOfMemory { bytes: Some(bytes) } => {
                write!(f, "is out of memory: it cannot allocate {} MiB", bytes.div_ceil(1 << 20))
            }
            GpuFailure::OutOfMemory { bytes: None } => f.write_str("is out of memory"),
            GpuFailure::Lost { reason } => write!(f, "stopped working: {reason}"),
            GpuFailure::Other { reason } => write!(f, "failed to compute: {reason}"),
        }
    }
}

impl GpuError {
    /// Returns advice for the user. `memory` is the advice if the GPU is out of memory.
    pub fn hint(&self, memory: &str) -> String {
        match self.failure {
            GpuFailure::OutOfMemory { .. } => memory.to_owned(),
            GpuFailure::Lost { .. } => {
                "check the GPU, for example with `nvidia-smi`; run again to continue".to_owned()
            }
            GpuFailure::Other { .. } => {
                "update the GPU's driver, or compute with `--device cpu`".to_owned()
            }
        }
    }

    /// Returns whether the same work may succeed if it is tried again unchanged.
    pub fn is_transient(&self) -> bool {
        matches!(self.failure, GpuFailure::Lost { .. })
    }
}

/// What a thread reported.
struct Record {
    thread: ThreadId,
    name: String,
    text: String,
}

/// All records of this process.
static RECORDS: Mutex<Vec<Record>> = Mutex::new(Vec::new());

fn records() -> MutexGuard<'static, Vec<Record>> {
    RECORDS.lock().unwrap_or_else(PoisonError::into_inner)
}

/// Records a failed computation of this thread.
fn record(text: &str) {
    let thread = thread::current();
    let name = thread.name().unwrap_or_default().to_owned();
    records().push(Record { thread: thread.id(), name, text: text.to_owned() });
}

/// Returns whether a thread with this name drives a GPU: cubecl calls it `DSD-TYPE-INDEX`.
fn drives_gpu(thread: Option<&str>) -> bool {
    thread.is_some_and(|name| ["DSD-", "DSU-"].iter().any(|start| name.starts_with(start)))
}

/// Records a panic if it comes from the code that drives a GPU, and returns whether it does. Panic
/// hooks call it with the panic's message and source file.
pub fn record_gpu_panic(message: &str, file: &str) -> bool {
    const CRATES: [&str; 7] =
        ["cubecl", "burn-fusion", "burn-cubecl", "burn-cuda", "burn-wgpu", "/wgpu", "/cudarc"];
    let is_read_back = message.starts_with("Error while reading data");
    let is_of_crate = CRATES.iter().any(|name| file.contains(name));
    let is_of_gpu = is_read_back || is_of_crate || drives_gpu(thread::current().name());
    if is_of_gpu {
        record(message);
    }
    is_of_gpu
}

/// Creates the error of a failed read-back.
pub fn execution_error(error: &dyn fmt::Debug) -> ModelError {
    let text = format!("{error:?}");
    record(&text);
    ModelError::Execution(summary(&text))
}

/// Runs work that computes on a device. If the device fails, the error is the failure, whether the
/// work panicked, returned an error or has lost a result without noticing. Other panics go on.
///
/// After a failure the device computes a trial. If that fails too, later checks of the device fail
/// with the same reason, so that later work does not hang or panic.
pub fn catch_gpu_failure<T, E>(
    device: Device,
    work: impl FnOnce() -> Result<T, E>,
) -> Result<Result<T, E>, GpuError> {
    if device == Device::Cpu {
        return Ok(work());
    }
    let before = records().len();
    let ended = catch_unwind(AssertUnwindSafe(work));
    let Some(failure) = failure_since(device, before) else {
        return Ok(ended.unwrap_or_else(|panic| resume_unwind(panic)));
    };
    let ended = match (ended, &failure) {
        // While kernels are tuned, one of many may fail, and another one is taken.
        (Ok(Ok(done)), GpuFailure::Other { .. }) => return Ok(Ok(done)),
        (ended, _) => ended,
    };
    // The tensors of the failed work are freed first.
    drop(ended);
    device.recover(&failure);
    Err(GpuError { device: device.to_string(), failure })
}

/// Returns the newest record, shortened.
pub(super) fn newest_text() -> Option<String> {
    let records = records();
    let is_cause = |record: &&Record| !record.text.contains("RecvError");
    records.iter().rev().find(is_cause).map(|record| summary(&record.text))
}

/// Returns the failure of this device that this thread or the device's threads have recorded.
fn failure_since(device: Device, before: usize) -> Option<GpuFailure> {
    let threads = device.threads();
    let here = thread::current().id();
    let is_of_device =
        |name: &str| drives_gpu(Some(name)) && threads.as_ref().is_some_and(|t| name.ends_with(t));
    let texts: Vec<String> = records()[before..]
        .iter()
        .filter(|record| record.thread == here || is_of_device(&record.name))
        .map(|record| record.text.clone())
        .collect();
    (!texts.is_empty()).then(|| classify(&texts))
}

/// Returns what these texts of a failure mean.
fn classify(texts: &[String]) -> GpuFailure {
    let all = texts.join("\n");
    let has = |words: &[&str]| words.iter().any(|word| all.contains(word));
    let lost = [
        "CUDA_ERROR_ECC_UNCORRECTABLE",
        "CUDA_ERROR_ILLEGAL_ADDRESS",
        "CUDA_ERROR_LAUNCH_FAILED",
        "CUDA_ERROR_DEVICE_UNAVAILABLE",
        "CUDA_ERROR_HARDWARE",
        "CUDA_ERROR_UNKNOWN",
        "is lost",
        "DeviceLost",
        "device lost",
    ];
    if has(&lost) {
        return GpuFailure::Lost { reason: driver_error(&all).unwrap_or("device lost").to_owned() };
    }
    if has(&["allocate buffer of size", "BufferTooBig", "OUT_OF_MEMORY", "emory left"]) {
        return GpuFailure::OutOfMemory { bytes: bytes(&all) };
    }
    // Texts after the first are often its consequences, such as a missing answer.
    let told = texts.iter().find(|text| !text.contains("RecvError") && !text.contains("CallError"));
    GpuFailure::Other { reason: summary(told.unwrap_or(&texts[0])) }
}

/// Returns the first name of an error of the CUDA driver in a text.
fn driver_error(text: &str) -> Option<&str> {
    let name = &text[text.find("CUDA_ERROR_")?..];
    let end = name.find(|c: char| !(c.is_ascii_uppercase() || c.is_ascii_digit() || c == '_'));
    Some(&name[..end.unwrap_or(name.len())])
}

/// Returns the size of the failed allocation in a text.
fn bytes(text: &str) -> Option<u64> {
    let size = ["buffer of size: ", "size: "].iter().find_map(|before| text.split_once(before))?.1;
    size.split(|c: char| !c.is_ascii_digit()).next()?.parse().ok()
}

/// Returns the causes in a text of several lines, without backtraces, on one line.
fn summary(text: &str) -> String {
    let is_cause = |line: &&str| {
        !line.is_empty() && !line.starts_with("Caused by") && !line.contains("acktrace")
    };
    let causes: Vec<&str> = text.lines().map(str::trim).filter(is_cause).collect();
    causes.join(" ").chars().take(300).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn of(text: &str) -> GpuFailure {
        classify(&[text.to_owned()])
    }

    #[test]
    fn reports_of_drivers_become_short_failures() {
        assert_eq!(
            of("called `Result::unwrap()` on an `Err` value: can't allocate buffer of size: \
                268435456\nNo backtrace available"),
            GpuFailure::OutOfMemory { bytes: Some(256 << 20) }
        );
        assert_eq!(
            of("An unknown error\nCaused by:\n  DriverError(CUDA_ERROR_ECC_UNCORRECTABLE, \"x\")"),
            GpuFailure::Lost { reason: "CUDA_ERROR_ECC_UNCORRECTABLE".into() }
        );
        assert_eq!(
            of("A compilation error\nCaused by:\n  no such header\nBacktrace:\nnone"),
            GpuFailure::Other { reason: "A compilation error no such header none".into() }
        );
    }

    #[test]
    fn the_cause_is_reported_rather_than_its_consequences() {
        let texts = ["unwrap on RecvError".to_owned(), "no such header".to_owned()];
        assert_eq!(classify(&texts), GpuFailure::Other { reason: "no such header".into() });
    }

    #[test]
    fn panics_of_our_own_code_are_no_failure_of_a_gpu() {
        assert!(!record_gpu_panic("index out of bounds", "src/models/label.rs"));
        assert!(record_gpu_panic("CallError", "/registry/cubecl-runtime-0.10.0/src/client.rs"));
    }

    #[test]
    fn work_on_the_cpu_is_passed_on_unchanged() {
        let done = catch_gpu_failure(Device::Cpu, || Err::<(), _>("no such file"));
        assert_eq!(done, Ok(Err("no such file")));
    }
}
