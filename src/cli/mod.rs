//! The command line: parses the arguments, runs one command and picks the exit code.
//!
//! Only this module prints, reads the environment or picks an exit code. Data goes to stdout;
//! progress and errors go to stderr. Start at [`run`].
//!
//! | file | holds |
//! |---|---|
//! | `args` | the list of commands; each command has a file of its name |
//! | `flags`, `*_args`, `plan_folder`, `workspace` | shared arguments |
//! | `progress`, `fleet_view`, `json_log`, `prometheus` | progress: for people, as JSON, as metrics |
//! | `summary`, `failures` | how a run ended: one line on stdout, failed tasks on stderr |
//! | `exit`, `error`, `signals` | exit codes, errors and panics, SIGINT and SIGTERM |
//! | `stdout`, `stderr`, `human_readable` | output streams; sizes and dates as text |
//! | `decoder`, `sandbox` | the child process that decodes untrusted videos |

use std::process::ExitCode;

use clap::{CommandFactory, Parser};

use crate::error::{Error as AnyError, Result};
use exit::Exit;

mod act;
mod args;
mod bench;
mod check;
mod commit;
mod completions;
mod compute_args;
mod datasets;
#[cfg(feature = "video")]
mod decoder;
mod device_choice;
mod doctor;
mod executor_args;
mod exit;
mod export;
mod failures;
mod files;
mod flags;
mod fleet_view;
mod gc;
mod human_readable;
mod import;
mod init;
mod inspect;
mod json_log;
mod pipeline_args;
mod plan;
mod plan_folder;
mod progress;
mod prometheus;
mod query;
mod rollback;
mod row_format;
mod run;
mod runs;
#[cfg(feature = "video")]
mod sandbox;
pub mod schema;
mod signals;
#[cfg(all(unix, any(feature = "cuda", feature = "vulkan")))]
mod stack;
mod status;
mod stderr;
mod stdout;
mod summary;
mod verify;
mod watch;
mod worker;
mod workspace;

/// Runs the command that the process arguments name, and returns its exit code.
pub fn run() -> ExitCode {
    let args = match args::Args::try_parse() {
        Ok(args) => args,
        // clap returns an error for `--help` and `--version`, too.
        Err(answer) => return print_clap(&answer).into(),
    };
    let result = match &args.command {
        // A panic must end the decoder process: its parent then blames the video.
        #[cfg(feature = "video")]
        args::Command::Decoder(decoder) => decoder::run(decoder).map(|()| Exit::Done),
        _ => {
            #[cfg(all(unix, any(feature = "cuda", feature = "vulkan")))]
            stack::enlarge();
            exit::catch_panics(|| dispatch(&args))
        }
    };
    let exit = match &result {
        Ok(exit) => *exit,
        Err(error) => Exit::from_error(error),
    };
    // A closed stdout is an error that ends with `Exit::Done`: it needs no message.
    if let Err(error) = result.as_ref()
        && exit != Exit::Done
    {
        report(error, args.command.logs_json());
    }
    if args.command.logs_json() {
        json_log::run_ended(exit);
    }
    exit.into()
}

/// Prints what clap answers: help or the version to stdout, a usage error to stderr.
fn print_clap(answer: &clap::Error) -> Exit {
    if answer.use_stderr() {
        stderr::write(&answer.render().to_string());
        return Exit::Usage;
    }
    match stdout::print(&answer.render().to_string()) {
        Ok(()) => Exit::Done,
        Err(error) => Exit::from_error(&error),
    }
}

fn dispatch(args: &args::Args) -> Result<Exit> {
    use args::Command;
    let access = &args.storage.access();
    let done = match &args.command {
        // These may succeed in part or be interrupted, which has exit codes of its own.
        Command::Run(run) => return run::run(run, access),
        Command::Check(pipeline) => check::run(pipeline, access),
        Command::Plan(plan) => plan::run(plan, access),
        Command::Worker(worker) => return worker::run(worker, access),
        Command::Commit(commit) => return commit::run(commit, access),
        Command::Act(act) => return act::run(act),
        Command::Query(query) => query::run(query, access),
        Command::Inspect(inspect) => inspect::run(inspect, access),
        Command::Datasets(datasets) => datasets::run(datasets, access),
        Command::Files(files) => files::run(files, access),
        Command::Verify(verify) => verify::run(verify, access),
        Command::Rollback(rollback) => rollback::run(rollback, access),
        Command::Status(status) => status::run(status, access),
        Command::Gc(gc) => gc::run(gc, access),
        Command::Runs(runs) => runs::run(runs, access),
        Command::Init(init) => init::run(init, access),
        Command::Completions(shell) => completions::run(shell, args::Args::command()),
        Command::Import(import) => import::run(import),
        Command::Export(export) => export::run(export),
        Command::Schema(schema) => schema::run(schema),
        Command::Doctor(doctor) => doctor::run(doctor, access),
        Command::Bench(bench) => bench::run(bench, access),
        #[cfg(feature = "video")]
        Command::Decoder(decoder) => decoder::run(decoder),
    };
    done.map(|()| Exit::Done)
}

/// Reports an error and its hint on stderr.
fn report(error: &AnyError, as_json: bool) {
    let message = error.to_string();
    let hint = if error.is_bug() { Some(exit::how_to_report()) } else { error.hint() };
    if as_json {
        let stage = failed_stage(error);
        let event = serde_json::json!({ "stage": stage, "message": message, "hint": hint });
        return json_log::event("error", event);
    }
    let label = if message.contains('\n') { "errors:\n" } else { "error: " };
    stderr::line(format!("{label}{message}"));
    if let Some(hint) = hint {
        stderr::line(format!("  hint: {hint}"));
    }
}

/// Returns the stage that failed, if the error names one.
fn failed_stage(error: &AnyError) -> Option<&str> {
    use crate::pipeline::Error as PipelineError;
    match error {
        AnyError::Pipeline(
            PipelineError::Tasks { stage, .. }
            | PipelineError::NoneReadable { stage, .. }
            | PipelineError::TooManyRejects { stage, .. }
            | PipelineError::TooManyDropped { stage, .. },
        ) => Some(stage),
        AnyError::Pipeline(PipelineError::Partitions { failures, .. }) => {
            failures.first().map(|failure| failure.stage.as_str())
        }
        _ => None,
    }
}
