//! How a command ends: its exit code, and what a panic becomes.

use std::panic::{AssertUnwindSafe, PanicHookInfo, catch_unwind};
use std::process::ExitCode;
use std::sync::{Mutex, PoisonError};

use super::{Error, stderr};
use crate::build_info::build_info;
use crate::error::{Error as AnyError, Result};
use crate::stages::Signal;

/// How a command ends.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Exit {
    /// All is done.
    Done,
    /// The user's or the data's fault.
    Fault,
    /// Some tasks failed; what the others made is committed.
    Partial,
    /// The command line asks for something that cannot be.
    Usage,
    /// Our fault.
    Bug,
    /// The same command may succeed when tried again as it is.
    TryAgain,
    /// A signal ended it. What was done is kept.
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

    /// Returns how a command ends that failed so.
    pub fn of(error: &AnyError) -> Exit {
        if let Some(signal) = error.stopped() {
            return Exit::Stopped(signal);
        }
        match error {
            AnyError::Cli(Error::Usage { .. }) => Exit::Usage,
            // Whoever read our output wanted no more of it.
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

/// Where threads panicked, and with what message.
static PANICS: Mutex<Vec<String>> = Mutex::new(Vec::new());

/// Runs a command. A panic becomes [`Error::Panic`], without the words and the backtrace that Rust prints, unless `RUST_BACKTRACE` is set.
pub fn guarded(command: impl FnOnce() -> Result<Exit>) -> Result<Exit> {
    let (theirs, wants_backtrace) = (
        std::panic::take_hook(),
        std::env::var_os("RUST_BACKTRACE").is_some_and(|value| value != "0"),
    );
    std::panic::set_hook(Box::new(move |info| {
        panics().push(described(info));
        if wants_backtrace {
            theirs(info);
        }
    }));
    let result = catch_unwind(AssertUnwindSafe(command));
    drop(std::panic::take_hook());
    let first = std::mem::take(&mut *panics()).into_iter().next();
    match (result, first) {
        (Err(_), first) => Err(Error::Panic { what: first.unwrap_or_default() })?,
        (Ok(Err(error)), Some(first)) if error.is_bug() => {
            stderr::line(format!("the first panic: {first}"));
            Err(error)
        }
        (Ok(result), Some(first)) => {
            stderr::line(format!("a thread panicked, and the command went on without it: {first}"));
            result
        }
        (Ok(result), None) => result,
    }
}

fn panics() -> std::sync::MutexGuard<'static, Vec<String>> {
    PANICS.lock().unwrap_or_else(PoisonError::into_inner)
}

fn described(info: &PanicHookInfo) -> String {
    let message = info.payload_as_str().unwrap_or("without a message");
    info.location().map_or_else(
        || message.to_owned(),
        |place| format!("{message}, at {}:{}", place.file(), place.line()),
    )
}

/// What to do about a fault of ours.
pub fn how_to_report() -> String {
    let build = build_info();
    format!(
        "this is a bug in lapo {}: please report it with this message, the command and the pipeline; what is done is kept",
        build.short()
    )
}

#[cfg(test)]
mod tests {
    use std::io::{Error as IoError, ErrorKind};

    use super::*;
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

    /// Every kind of error, as deep as it comes, and how the command ends. `tests/it/ends.rs` has the same for the real binary.
    fn table() -> Vec<(AnyError, Exit)> {
        let changed = || stages::Error::Changed { file: "a.mp4".into() };
        let bug = || stages::Error::Invariant { what: "x".into() };
        let output = |kind: ErrorKind| Error::Output { to: "stdout".into(), source: kind.into() };
        let usage = || Error::Usage { what: String::new(), hint: String::new() };
        let missing = || dataset::Error::Missing { path: "a".into() };
        let diverged = train::TrainError::NotFinite { step: 1, what: "loss", seen: f32::NAN };
        let stopped = |signal| stages::Error::Train(train::TrainError::Stopped(signal));
        let (busy, disk) = (|| io(ErrorKind::ResourceBusy), || io(ErrorKind::StorageFull));
        let fault = || video::Fault::new(video::FaultClass::EmptyFile, "no bytes");
        let file = || video::Error::Refused { path: "a.mp4".into(), fault: fault() };
        let read =
            |kind: ErrorKind| video::Error::Read { path: "a.mp4".into(), source: kind.into() };
        vec![
            (file().into(), Exit::Fault),
            (read(ErrorKind::NotFound).into(), Exit::Fault),
            (read(ErrorKind::TimedOut).into(), Exit::TryAgain),
            (tasks(stages::Error::Video(read(ErrorKind::TimedOut))), Exit::TryAgain),
            (disk().into(), Exit::Fault),
            (missing().into(), Exit::Fault),
            (busy().into(), Exit::TryAgain),
            (envs::Error::NotFound { searched: vec![] }.into(), Exit::Fault),
            (models::ModelError::Execution(String::new()).into(), Exit::Fault),
            (bug().into(), Exit::Bug),
            (changed().into(), Exit::TryAgain),
            (stages::Error::Dataset(busy()).into(), Exit::TryAgain),
            (stages::Error::Dataset(disk()).into(), Exit::Fault),
            (
                stages::Error::Decoder { video: String::new(), how: String::new() }.into(),
                Exit::TryAgain,
            ),
            (stages::Error::Stopped(Signal::Terminate).into(), Exit::Stopped(Signal::Terminate)),
            (
                pipeline::Error::Read { file: String::new(), source: IoError::other("x") }.into(),
                Exit::Fault,
            ),
            (pipeline::Error::Faults(vec![]).into(), Exit::Fault),
            (
                pipeline::Error::Request { what: String::new(), hint: String::new() }.into(),
                Exit::Fault,
            ),
            (pipeline::Error::Dataset(busy()).into(), Exit::TryAgain),
            (pipeline::Error::Dataset(missing()).into(), Exit::Fault),
            (pipeline::Error::Stopped(Signal::Interrupt).into(), Exit::Stopped(Signal::Interrupt)),
            (tasks(bug()), Exit::Bug),
            (tasks(changed()), Exit::TryAgain),
            (tasks(stages::Error::Dataset(busy())), Exit::TryAgain),
            (tasks(stages::Error::Train(diverged)), Exit::Fault),
            (tasks(stopped(Signal::Terminate)), Exit::Stopped(Signal::Terminate)),
            (tasks(stages::Error::Stopped(Signal::Interrupt)), Exit::Stopped(Signal::Interrupt)),
            (query::Error::EmptyWorkspace.into(), Exit::Fault),
            (query::Error::Dataset(busy()).into(), Exit::TryAgain),
            (query::Error::Dataset(missing()).into(), Exit::Fault),
            (usage().into(), Exit::Usage),
            (output(ErrorKind::StorageFull).into(), Exit::Fault),
            (output(ErrorKind::BrokenPipe).into(), Exit::Done),
            (Error::Input { from: String::new(), source: IoError::other("x") }.into(), Exit::Fault),
            (Error::Doctor(2).into(), Exit::Fault),
            (Error::Panic { what: String::new() }.into(), Exit::Bug),
        ]
    }

    #[test]
    fn every_error_has_the_exit_code_of_whose_fault_it_is() {
        for (error, exit) in table() {
            assert_eq!(Exit::of(&error), exit, "{error:?}");
        }
    }

    #[test]
    fn codes_are_those_that_scripts_and_schedulers_know() {
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
    fn a_panic_is_an_error_that_says_where() {
        let panicking = || -> Result<Exit> { panic!("no such thing: {}", 7) };
        let error = guarded(panicking).err().map(|error| (Exit::of(&error), error.to_string()));
        let (exit, text) = error.expect("it panicked");
        assert_eq!(exit, Exit::Bug);
        assert!(text.contains("no such thing: 7, at src/cli/exit.rs:"), "{text}");
    }
}
