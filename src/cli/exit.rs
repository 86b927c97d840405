//! Exit codes, and panics as errors.

use std::panic::{AssertUnwindSafe, PanicHookInfo, catch_unwind};
use std::process::ExitCode;
use std::sync::{Mutex, PoisonError};

use super::stderr;
use crate::build_info::build_info;
use crate::error::CommandError as Error;
use crate::error::{Error as AnyError, Result};
use crate::models::gpu_failure::record_gpu_panic;
use crate::stages::Signal;

/// How a command ends.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Exit {
    /// Everything is done. Code 0.
    Done,
    /// The input is wrong or something is missing; a retry does not help. Code 1.
    Fault,
    /// Some tasks failed; the others are committed. Code 3.
    Partial,
    /// The command line is wrong. Code 64.
    Usage,
    /// A bug in lapo. Code 70.
    Bug,
    /// A temporary problem; the same command may succeed later. Code 75.
    TryAgain,
    /// A signal ended the command; completed tasks are kept. Code 128 plus the signal's number.
    Stopped(Signal),
}

impl Exit {
    /// Returns the process's exit code.
    pub fn code(self) -> u8 {
        match self {
            Exit::Done => 0,
            Exit::Fault => 1,
            Exit::Partial => 3,
            Exit::Usage => 64,
            Exit::Bug => 70,
            Exit::TryAgain => 75,
            Exit::Stopped(signal) => 128 + signal as u8,
        }
    }

    /// Returns how a command with this error ends.
    pub fn from_error(error: &AnyError) -> Exit {
        match error.stopped() {
            // Sent before a time limit: whoever set it can give more time.
            Some(Signal::User1) => return Exit::TryAgain,
            Some(signal) => return Exit::Stopped(signal),
            None => {}
        }
        match error {
            AnyError::Cli(Error::Usage { .. }) => Exit::Usage,
            // A reader such as `head` closed the pipe: that is no failure.
            AnyError::Cli(Error::Output { source, .. })
                if source.kind() == std::io::ErrorKind::BrokenPipe =>
            {
                Exit::Done
            }
            error if error.is_bug() => Exit::Bug,
            error if error.is_transient() => Exit::TryAgain,
            _ => Exit::Fault,
        }
    }
}

impl std::fmt::Display for Exit {
    fn fmt(&self, f: &mut std::fmt::Formatter) -> std::fmt::Result {
        match self {
            Exit::Done => f.write_str("done"),
            Exit::Fault => f.write_str("failed"),
            Exit::Partial => f.write_str("done in part"),
            Exit::Usage => f.write_str("wrong usage"),
            Exit::Bug => f.write_str("failed by a bug in lapo"),
            Exit::TryAgain => f.write_str("failed, and may succeed when tried again"),
            Exit::Stopped(signal) => write!(f, "stopped by {signal}"),
        }
    }
}

impl From<Exit> for ExitCode {
    fn from(exit: Exit) -> ExitCode {
        ExitCode::from(exit.code())
    }
}

/// The messages and source locations of all panics so far, in any thread.
static PANICS: Mutex<Vec<String>> = Mutex::new(Vec::new());

/// Runs a command; a panic becomes [`Error::Panic`]. Rust's own message and backtrace are printed
/// only if `RUST_BACKTRACE` is set.
pub fn catch_panics(command: impl FnOnce() -> Result<Exit>) -> Result<Exit> {
    let default_hook = std::panic::take_hook();
    let wants_backtrace = std::env::var_os("RUST_BACKTRACE").is_some_and(|value| value != "0");
    std::panic::set_hook(Box::new(move |info| {
        let file = info.location().map_or("", |location| location.file());
        // The failure of a GPU becomes the error of the task that used it.
        if !record_gpu_panic(info.payload_as_str().unwrap_or_default(), file) {
            panics().push(describe(info));
        }
        if wants_backtrace {
            default_hook(info);
        }
    }));
    let result = catch_unwind(AssertUnwindSafe(command));
    drop(std::panic::take_hook());
    // The first panic is the cause; others often follow from it, such as poisoned locks.
    let first = std::mem::take(&mut *panics()).into_iter().next();
    match (result, first) {
        // The command itself panicked.
        (Err(_), first) => Err(Error::Panic { what: first.unwrap_or_default() })?,
        // Another thread panicked, and the command failed because of it.
        (Ok(Err(error)), Some(first)) if error.is_bug() => {
            stderr::line(format!("first panic: {first}"));
            Err(error)
        }
        // Another thread panicked, without an effect on the result.
        (Ok(result), Some(first)) => {
            stderr::line(format!("a thread panicked, but the command ended without it: {first}"));
            result
        }
        (Ok(result), None) => result,
    }
}

fn panics() -> std::sync::MutexGuard<'static, Vec<String>> {
    PANICS.lock().unwrap_or_else(PoisonError::into_inner)
}

/// Returns a panic's message and source location.
fn describe(info: &PanicHookInfo) -> String {
    let message = info.payload_as_str().unwrap_or("panic without a message");
    info.location().map_or_else(
        || message.to_owned(),
        |location| format!("{message}, at {}:{}", location.file(), location.line()),
    )
}

/// Returns the hint for a bug in lapo.
pub fn how_to_report() -> String {
    format!(
        "this is a bug in lapo {}: please report this message, the command and the pipeline; \
         completed tasks are kept",
        build_info().short()
    )
}

#[cfg(test)]
mod tests {
    use std::io::{Error as IoError, ErrorKind};

    use super::*;
    use crate::models::gpu_failure::{GpuError, GpuFailure};
    use crate::{dataset, envs, models, pipeline, query, stages, train, video};

    fn io(kind: ErrorKind) -> dataset::Error {
        dataset::Error::Io { action: "write", path: "/w/a".into(), cause: kind.into() }
    }

    fn tasks(first: stages::Error) -> AnyError {
        pipeline::Error::Tasks {
            stage: "frames".into(),
            failed: 2,
            total: 3,
            first: Box::new(first),
        }
        .into()
    }

    fn busy() -> dataset::Error {
        io(ErrorKind::ResourceBusy)
    }

    fn missing() -> dataset::Error {
        dataset::Error::Missing { path: "a".into() }
    }

    fn changed() -> stages::Error {
        stages::Error::Changed { file: "a.mp4".into() }
    }

    fn bug() -> stages::Error {
        stages::Error::Invariant { what: "x".into() }
    }

    fn unreadable_video(kind: ErrorKind) -> video::Error {
        video::Error::Read { path: "a.mp4".into(), source: kind.into() }
    }

    /// Asserts how a command ends for each error. `tests/it/ends.rs` does so with the real binary.
    fn assert_exits<const N: usize>(cases: [(AnyError, Exit); N]) {
        for (error, exit) in cases {
            assert_eq!(Exit::from_error(&error), exit, "{error:?}");
        }
    }

    #[test]
    fn errors_of_videos_data_and_models_have_their_exit_code() {
        let fault = video::Fault::new(video::FaultClass::EmptyFile, "no bytes");
        assert_exits([
            (video::Error::Refused { path: "a.mp4".into(), fault }.into(), Exit::Fault),
            (unreadable_video(ErrorKind::NotFound).into(), Exit::Fault),
            (unreadable_video(ErrorKind::TimedOut).into(), Exit::TryAgain),
            (io(ErrorKind::StorageFull).into(), Exit::Fault),
            (missing().into(), Exit::Fault),
            (busy().into(), Exit::TryAgain),
            (envs::Error::NotFound { searched: vec![] }.into(), Exit::Fault),
            (models::ModelError::Execution(String::new()).into(), Exit::Fault),
            (query::Error::EmptyWorkspace.into(), Exit::Fault),
            (query::Error::Dataset(busy()).into(), Exit::TryAgain),
            (query::Error::Dataset(missing()).into(), Exit::Fault),
        ]);
    }

    #[test]
    fn a_lost_gpu_may_work_again_but_a_full_one_needs_other_settings() {
        let gpu = |failure| {
            let source = GpuError { device: "cuda:0".into(), failure };
            stages::Error::Gpu { source, memory_cure: "lower `batch`" }
        };
        let lost = gpu(GpuFailure::Lost { reason: "CUDA_ERROR_UNKNOWN".into() });
        let full = gpu(GpuFailure::OutOfMemory { bytes: Some(3 << 19) });
        assert_eq!(full.to_string(), "cuda:0 is out of memory: it cannot allocate 2 MiB");
        assert_eq!(full.hint().as_deref(), Some("lower `batch`"));
        assert_exits([(tasks(lost), Exit::TryAgain), (tasks(full), Exit::Fault)]);
    }

    #[test]
    fn errors_of_stages_have_their_exit_code() {
        let killed = stages::Error::Decoder { video: String::new(), how: String::new() };
        let stopped = stages::Error::Stopped(Signal::Terminate);
        assert_exits([
            (bug().into(), Exit::Bug),
            (changed().into(), Exit::TryAgain),
            (stages::Error::Dataset(busy()).into(), Exit::TryAgain),
            (stages::Error::Dataset(io(ErrorKind::StorageFull)).into(), Exit::Fault),
            (killed.into(), Exit::TryAgain),
            (stopped.into(), Exit::Stopped(Signal::Terminate)),
        ]);
    }

    #[test]
    fn errors_of_pipelines_have_the_exit_code_of_their_cause() {
        let read = IoError::other("x");
        let request = pipeline::Error::Request { what: String::new(), hint: String::new() };
        let stopped = pipeline::Error::Stopped(Signal::Interrupt);
        let diverged = train::TrainError::NotFinite {
            step: 1,
            what: "loss",
            seen: f32::NAN,
            skips: train::Skips::ONE,
        };
        let training_stopped = train::TrainError::Stopped(Signal::Terminate);
        let timed_out = unreadable_video(ErrorKind::TimedOut);
        assert_exits([
            (pipeline::Error::Read { file: String::new(), source: read }.into(), Exit::Fault),
            (pipeline::Error::Faults(vec![]).into(), Exit::Fault),
            (request.into(), Exit::Fault),
            (pipeline::Error::Dataset(busy()).into(), Exit::TryAgain),
            (pipeline::Error::Dataset(missing()).into(), Exit::Fault),
            (stopped.into(), Exit::Stopped(Signal::Interrupt)),
            (pipeline::Error::Stopped(Signal::User1).into(), Exit::TryAgain),
            (tasks(stages::Error::Video(timed_out)), Exit::TryAgain),
            (tasks(bug()), Exit::Bug),
            (tasks(changed()), Exit::TryAgain),
            (tasks(stages::Error::Dataset(busy())), Exit::TryAgain),
            (tasks(stages::Error::Train(diverged)), Exit::Fault),
            (tasks(stages::Error::Train(training_stopped)), Exit::Stopped(Signal::Terminate)),
            (tasks(stages::Error::Stopped(Signal::Interrupt)), Exit::Stopped(Signal::Interrupt)),
        ]);
    }

    #[test]
    fn errors_of_the_command_line_have_their_exit_code() {
        let usage = Error::Usage { what: String::new(), hint: String::new() };
        let input = Error::Input { from: String::new(), source: IoError::other("x") };
        let output = |kind: ErrorKind| Error::Output { to: "stdout".into(), source: kind.into() };
        assert_exits([
            (usage.into(), Exit::Usage),
            (output(ErrorKind::StorageFull).into(), Exit::Fault),
            (output(ErrorKind::BrokenPipe).into(), Exit::Done),
            (input.into(), Exit::Fault),
            (Error::Doctor(2).into(), Exit::Fault),
            (Error::Panic { what: String::new() }.into(), Exit::Bug),
        ]);
    }

    #[test]
    fn exit_codes_follow_sysexits_and_shell_conventions() {
        let [interrupted, terminated] = [Signal::Interrupt, Signal::Terminate].map(Exit::Stopped);
        let all = [
            Exit::Done,
            Exit::Fault,
            Exit::Partial,
            Exit::Usage,
            Exit::Bug,
            Exit::TryAgain,
            interrupted,
            terminated,
        ];
        assert_eq!(all.map(Exit::code), [0, 1, 3, 64, 70, 75, 130, 143]);
    }

    #[test]
    fn a_panic_is_an_error_with_message_and_location() {
        let panicking = || -> Result<Exit> { panic!("no such thing: {}", 7) };
        let error = catch_panics(panicking)
            .err()
            .map(|error| (Exit::from_error(&error), error.to_string()));
        let (exit, text) = error.expect("it panicked");
        assert_eq!(exit, Exit::Bug);
        assert!(text.contains("no such thing: 7, at src/cli/exit.rs:"), "{text}");
    }
}
