//! The list of commands. Each command's arguments are in the command's own file.

use clap::{Parser, Subcommand};

use super::act::ActArgs;
use super::bench::BenchArgs;
use super::commit::CommitArgs;
use super::completions::CompletionsArgs;
use super::compute_args::LogFormat;
use super::datasets::DatasetsArgs;
#[cfg(feature = "video")]
use super::decoder::DecoderArgs;
use super::doctor::DoctorArgs;
use super::export::ExportArgs;
use super::files::FilesArgs;
use super::flags::StorageArgs;
use super::gc::GcArgs;
use super::import::ImportArgs;
use super::init::InitArgs;
use super::inspect::InspectArgs;
use super::pipeline_args::PipelineArgs;
use super::plan::PlanArgs;
use super::query::QueryArgs;
use super::rollback::RollbackArgs;
use super::run::RunArgs;
use super::runs::RunsArgs;
use super::schema::SchemaArgs;
use super::status::StatusArgs;
use super::verify::VerifyArgs;
use super::worker::WorkerArgs;
use crate::build_info::{BuildInfo, build_info};

/// Turns unlabelled video into policies: an incremental pipeline of latent actions (LAPO).
#[derive(Debug, Parser)]
#[command(
    version = version(BuildInfo::short),
    long_version = version(BuildInfo::long),
    after_help = "Start with: lapo run pipelines/quickstart.yaml"
)]
pub struct Args {
    #[command(subcommand)]
    pub command: Command,
    #[command(flatten)]
    pub storage: StorageArgs,
}

/// Returns the text of `-V` or `--version`. clap needs it for the life of the process.
fn version(render: fn(&BuildInfo) -> String) -> &'static str {
    Box::leak(render(build_info()).into_boxed_str())
}

#[derive(Debug, Subcommand)]
pub enum Command {
    // Pipelines.
    /// Run a pipeline; finished work is reused
    Run(RunArgs),
    /// Check a pipeline for errors without running it
    Check(PipelineArgs),
    /// Show which tasks a run would do, and why
    Plan(PlanArgs),

    // Plans whose tasks other machines do.
    /// Do partitions of a plan made by `lapo plan --out`
    Worker(WorkerArgs),
    /// Show which partitions of a plan are done
    Status(StatusArgs),
    /// Commit the finished partitions of a plan as new dataset versions
    Commit(CommitArgs),

    // Data of a workspace.
    /// Query a workspace with SQL: `labels`, `frames`, `videos`, `rejects` and every stage by name
    Query(QueryArgs),
    /// Describe a stage's dataset or a file of weights
    Inspect(InspectArgs),
    /// List datasets, a dataset's versions, or the changes between two versions
    Datasets(DatasetsArgs),
    /// Print the paths of a dataset's files, for other programs
    Files(FilesArgs),
    /// List a workspace's runs, or show one run
    Runs(RunsArgs),

    // Trained networks outside of a pipeline.
    /// Answer frames with actions, on stdin or a local socket
    Act(ActArgs),

    // Maintenance of a workspace.
    /// Compare a workspace's files with their receipts
    Verify(VerifyArgs),
    /// Make an older version of a dataset the newest again
    Rollback(RollbackArgs),
    /// List files that are no longer needed; delete them with --delete
    Gc(GcArgs),

    // Files and information for setting up.
    /// Write a pipeline for a folder of videos
    Init(InitArgs),
    /// Convert a published PyTorch checkpoint to safetensors
    Import(ImportArgs),
    /// Write trained weights as an ONNX file
    Export(ExportArgs),
    /// Print the JSON Schema of pipelines, or the schema of shards or labels
    Schema(SchemaArgs),
    /// Check this machine: decoders, devices, games, memory, storage
    Doctor(DoctorArgs),
    /// Measure how fast this machine labels, trains and plays
    Bench(BenchArgs),
    /// Print a shell completion script
    Completions(CompletionsArgs),

    // Internal.
    /// Decode videos requested on stdin
    #[cfg(feature = "video")]
    #[command(hide = true)]
    Decoder(DecoderArgs),
}

impl Command {
    /// Returns whether progress and errors are logged as JSON.
    pub fn logs_json(&self) -> bool {
        let format = match self {
            Command::Run(run) => run.compute.log_format,
            Command::Worker(worker) => worker.compute.log_format,
            _ => LogFormat::Text,
        };
        format == LogFormat::Json
    }
}
