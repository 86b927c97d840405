//! People. The only room that prints, reads the environment or picks an exit code. stdout is data, stderr is talk.

use std::io::Write;
use std::process::ExitCode;

use clap::Parser;
use serde::Serialize;

use crate::error::{Error as AnyError, Result};
use args::Format;
use exit::Exit;

mod args;
mod bench;
mod completions;
#[cfg(feature = "video")]
mod decoder;
mod doctor;
mod exit;
mod failures;
mod files;
mod fleet;
mod gauges;
mod gc;
mod human;
mod import;
mod init;
mod inspect;
mod look;
mod mend;
mod progress;
mod row_format;
mod run;
mod runs;
#[cfg(feature = "video")]
mod sandbox;
pub mod schema;
mod signals;
mod stderr;
mod watch;

/// The command line asked for something that cannot be.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// A value that is not what its flag takes.
    #[error("{what}")]
    Usage {
        /// What was said, and what was expected.
        what: String,
        /// The cure.
        hint: String,
    },
    /// Output could not be written.
    #[error("cannot write {to}: {source}")]
    Output {
        /// Where to.
        to: String,
        /// Why.
        source: std::io::Error,
    },
    /// Input could not be read.
    #[error("cannot read {from}: {source}")]
    Input {
        /// Where from.
        from: String,
        /// Why.
        source: std::io::Error,
    },
    /// Files are not what the receipts say.
    #[error("{0} files are damaged")]
    Damaged(usize),
    /// The machine lacks something.
    #[error("{0} of the checks failed")]
    Doctor(usize),
    /// The program panicked.
    #[error("internal: {what}")]
    Panic {
        /// The panic's message, and where it happened.
        what: String,
    },
}

impl Error {
    /// The cure, where it is known.
    pub fn hint(&self) -> Option<String> {
        match self {
            Error::Usage { hint, .. } => Some(hint.clone()),
            Error::Damaged(_) => Some("`lapo verify --delete` deletes just these, and the next run makes their tasks anew".into()),
            Error::Input { .. } | Error::Output { .. } | Error::Doctor(_) | Error::Panic { .. } => None,
        }
    }

    /// Returns whether the fault is in this program.
    pub fn is_bug(&self) -> bool {
        matches!(self, Error::Panic { .. })
    }
}

/// Does what the command line says.
pub fn run() -> ExitCode {
    let args = match args::Args::try_parse() {
        Ok(args) => args,
        Err(answer) => return answered(&answer).into(),
    };
    // A process that decodes dies of its panics: they tell its parent of the file.
    let result = match &args.command {
        #[cfg(feature = "video")]
        args::Command::Decoder(decoder) => decoder::run(decoder).map(|()| Exit::Done),
        _ => exit::guarded(|| dispatch(&args)),
    };
    let exit = match &result {
        Ok(exit) => *exit,
        Err(error) => Exit::of(error),
    };
    if let Err(error) = result.as_ref()
        && exit != Exit::Done
    {
        tell(error, args.command.tells_json());
    }
    if args.command.tells_json() {
        fleet::run_ended(exit);
    }
    exit.into()
}

/// Prints what clap has to say: help or a version that was asked for, or what is wrong with the command line.
fn answered(answer: &clap::Error) -> Exit {
    if answer.use_stderr() {
        stderr::write(&answer.render().to_string());
        return Exit::Usage;
    }
    match print(&answer.render().to_string()) {
        Ok(()) => Exit::Done,
        Err(error) => Exit::of(&error),
    }
}

fn dispatch(args: &args::Args) -> Result<Exit> {
    use args::Command;
    let access = &args.storage.access();
    let done = match &args.command {
        Command::Run(run) => return run::run(run, access),
        Command::Check(pipeline) => run::check(pipeline, access),
        Command::Plan(plan) => run::plan(plan, access),
        Command::Worker(worker) => run::worker(worker, access),
        Command::Commit(plan) => return run::commit(plan, access),
        Command::Query(query) => look::query(query, access),
        Command::Inspect(what) => inspect::run(what, access),
        Command::Datasets(datasets) => look::datasets(datasets, access),
        Command::Files(files) => files::run(files, access),
        Command::Verify(what) => mend::verify(what, access),
        Command::Rollback(what) => mend::rollback(what, access),
        Command::Status(plan) => run::status(plan, access),
        Command::Gc(gc) => gc::run(gc, access),
        Command::Runs(runs) => runs::run(runs, access),
        Command::Init(init) => init::run(init, access),
        Command::Completions(shell) => completions::run(shell),
        Command::Import(import) => import::run(import),
        Command::Schema(schema) => schema::run(schema),
        Command::Doctor(doctor) => doctor::run(doctor, access),
        Command::Bench(bench) => bench::run(bench, access),
        #[cfg(feature = "video")]
        Command::Decoder(decoder) => decoder::run(decoder),
    };
    done.map(|()| Exit::Done)
}

/// Tells an error and its cure on stderr.
fn tell(error: &AnyError, as_json: bool) {
    let (message, is_bug) = (error.to_string(), error.is_bug());
    let hint = if is_bug { Some(exit::how_to_report()) } else { error.hint() };
    if as_json {
        return fleet::event(
            "error",
            serde_json::json!({ "stage": stage_of(error), "message": message, "hint": hint }),
        );
    }
    let label = if message.contains('\n') { "errors:\n" } else { "error: " };
    stderr::line(format!("{label}{message}"));
    if let Some(hint) = hint {
        stderr::line(format!("  hint: {hint}"));
    }
}

/// The stage in which it happened, where it is known.
fn stage_of(error: &AnyError) -> Option<&str> {
    use crate::pipeline::Error as Failed;
    match error {
        AnyError::Pipeline(
            Failed::Tasks { stage, .. }
            | Failed::NoneReadable { stage, .. }
            | Failed::TooManyRejects { stage, .. }
            | Failed::TooManyDropped { stage, .. },
        ) => Some(stage),
        AnyError::Pipeline(Failed::Partitions { failures, .. }) => {
            failures.first().map(|failure| failure.stage.as_str())
        }
        _ => None,
    }
}

/// Facts as JSON or as a table.
fn told<T: Serialize>(format: Format, facts: &T, table: impl FnOnce(&T) -> String) -> String {
    match format {
        Format::Json => format!("{:#}\n", serde_json::json!(facts)),
        Format::Table => table(facts),
    }
}

/// Prints data.
fn print(text: &str) -> Result<()> {
    let mut out = std::io::stdout().lock();
    let written = out.write_all(text.as_bytes()).and_then(|()| out.flush());
    written.map_err(|source| Error::Output { to: "stdout".into(), source })?;
    Ok(())
}
