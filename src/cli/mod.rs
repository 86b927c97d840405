//! People. The only room that prints, reads the environment or picks an exit code. stdout is data, stderr is talk.

use std::io::Write;
use std::process::ExitCode;

use clap::Parser;
use serde::Serialize;

use crate::error::{Error as AnyError, Result};
use args::Format;

mod args;
mod bench;
#[cfg(feature = "video")]
mod decoder;
mod doctor;
mod fleet;
mod gc;
mod import;
mod inspect;
mod look;
mod progress;
mod run;
pub mod schema;

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
    /// The machine lacks something.
    #[error("{0} of the checks failed")]
    Doctor(usize),
}

impl Error {
    /// The cure, where it is known.
    pub fn hint(&self) -> Option<String> {
        match self {
            Error::Usage { hint, .. } => Some(hint.clone()),
            Error::Input { .. } | Error::Output { .. } | Error::Doctor(_) => None,
        }
    }
}

/// Does what the command line says.
pub fn run() -> ExitCode {
    let args = args::Args::parse();
    match dispatch(&args) {
        Ok(()) => ExitCode::SUCCESS,
        Err(AnyError::Cli(Error::Output { source, .. })) if source.kind() == std::io::ErrorKind::BrokenPipe => ExitCode::SUCCESS,
        Err(error) => {
            tell(&error, args.command.tells_json());
            ExitCode::from(error.exit_code())
        }
    }
}

fn dispatch(args: &args::Args) -> Result<()> {
    use args::Command;
    let access = &args.storage.access();
    match &args.command {
        Command::Run(run) => run::run(run, access, &args.storage),
        Command::Check(pipeline) => run::check(pipeline, access),
        Command::Plan(plan) => run::plan(plan, access),
        Command::Worker(worker) => run::worker(worker, access, &args.storage),
        Command::Commit(plan) => run::commit(plan, access),
        Command::Query(query) => look::query(query, access),
        Command::Inspect(what) => inspect::run(what, access),
        Command::Datasets(datasets) => look::datasets(datasets, access),
        Command::Gc(gc) => gc::run(gc, access),
        Command::Import(import) => import::run(import),
        Command::Schema(schema) => schema::run(schema),
        Command::Doctor(doctor) => doctor::run(doctor, access),
        Command::Bench(bench) => bench::run(bench, access),
        #[cfg(feature = "video")]
        Command::Decoder(decoder) => decoder::run(decoder, access),
    }
}

/// An error and its cure, on stderr.
fn tell(error: &AnyError, as_json: bool) {
    let message = error.to_string();
    if as_json {
        return fleet::event("error", serde_json::json!({ "message": message, "hint": error.hint() }));
    }
    let label = if message.contains('\n') { "errors:\n" } else { "error: " };
    eprintln!("{label}{message}");
    if let Some(hint) = error.hint() {
        eprintln!("  hint: {hint}");
    }
}

/// Facts as JSON or as a table; `are` says what they are: "datasets are".
fn told<T: Serialize>(format: Format, are: &str, facts: &T, table: impl FnOnce(&T) -> String) -> Result<String, Error> {
    match format {
        Format::Json => Ok(format!("{:#}\n", serde_json::json!(facts))),
        Format::Table => Ok(table(facts)),
        other => Err(Error::Usage {
            what: format!("--format {other:?}: {are} printed as table or json"),
            hint: "leave --format out, or say --format json".into(),
        }),
    }
}

/// Prints data.
fn print(text: &str) -> Result<()> {
    let mut out = std::io::stdout().lock();
    let written = out.write_all(text.as_bytes()).and_then(|()| out.flush());
    written.map_err(|source| Error::Output { to: "stdout".into(), source })?;
    Ok(())
}
