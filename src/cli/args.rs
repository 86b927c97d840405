//! The words of the command line.

use std::path::PathBuf;
use std::time::Duration;

use clap::builder::RangedU64ValueParser;
use clap::{Args as ClapArgs, Parser, Subcommand, ValueEnum};

use super::bench::Bench;
use super::completions::Completions;
use super::init::Init;
use super::progress::Verbosity;
use super::runs::Runs;
use crate::build_info::{BuildInfo, build_info};
use crate::dataset::{Access, CacheFolder};

/// Turns unlabelled video into policies: latent actions (LAPO) as a declarative, incremental pipeline.
#[derive(Debug, Parser)]
#[command(version = build(BuildInfo::short), long_version = build(BuildInfo::long), after_help = "Start with: lapo run pipelines/quickstart.yaml")]
pub struct Args {
    #[command(subcommand)]
    pub command: Command,
    #[command(flatten)]
    pub storage: Storage,
}

/// What `-V` and `--version` print.
fn build(told: fn(&BuildInfo) -> String) -> &'static str {
    Box::leak(told(build_info()).into_boxed_str())
}

/// How object stores are reached: credentials, region and endpoint are in the environment.
#[derive(Debug, ClapArgs)]
pub struct Storage {
    /// Where copies of files in object stores are kept [default: ~/.cache/lapo/copies; without a home a private folder in /tmp]
    #[arg(
        long,
        global = true,
        env = "LAPO_CACHE",
        value_name = "FOLDER",
        hide_short_help = true,
        help_heading = "Object stores"
    )]
    cache: Option<PathBuf>,
    /// How many GiB of them, about
    #[arg(
        long,
        global = true,
        env = "LAPO_CACHE_GIB",
        default_value_t = 16,
        hide_short_help = true,
        help_heading = "Object stores"
    )]
    cache_gib: u64,
}

impl Storage {
    /// What the environment says of object stores.
    pub fn access(&self) -> Access {
        let theirs = |name: &str| {
            ["AWS_", "GOOGLE_", "AZURE_"].iter().any(|prefix| name.starts_with(prefix))
        };
        let options = std::env::vars_os().filter_map(|(name, value)| {
            Some((name.into_string().ok()?, value.into_string().ok()?))
        });
        let folder = self
            .cache
            .clone()
            .or_else(|| cache("copies"))
            .map_or(CacheFolder::Private, CacheFolder::At);
        Access::new(
            options.filter(|(name, _)| theirs(name)),
            folder,
            self.cache_gib.saturating_mul(1 << 30),
        )
    }
}

/// Returns our folder for files that may be deleted at any time; `None` without a home and XDG_CACHE_HOME.
fn cache(name: &str) -> Option<PathBuf> {
    cache_in(std::env::var_os("XDG_CACHE_HOME").map(PathBuf::from), std::env::home_dir(), name)
}

/// The XDG specification has relative paths ignored, and what is empty counts as not set.
fn cache_in(cache: Option<PathBuf>, home: Option<PathBuf>, name: &str) -> Option<PathBuf> {
    let cache = cache.filter(|cache| cache.is_absolute());
    let cache =
        cache.or_else(|| home.filter(|home| home.is_absolute()).map(|home| home.join(".cache")))?;
    Some(cache.join("lapo").join(name))
}

#[derive(Debug, Subcommand)]
pub enum Command {
    /// Run a pipeline: only what is new is done
    Run(Run),
    /// Say what is wrong with a pipeline, without running it
    Check(Pipeline),
    /// Show what would run, and why
    Plan(Plan),
    /// Do partitions of a plan that `lapo plan --out` wrote: for any engine that hands out work
    Worker(Worker),
    /// Make what the workers of a plan did the datasets' next versions
    Commit(Committed),
    /// Ask a workspace with SQL: tables `labels`, `frames`, `videos`, `rejects` and every stage by name
    Query(super::look::Query),
    /// Say what a stage's dataset is, or a file of weights
    Inspect(Inspect),
    /// List a workspace's datasets, a dataset's versions, or what changed between two of these
    Datasets(super::look::Datasets),
    /// Print the paths of a dataset's files, for programs that read them
    Files(super::files::Files),
    /// Look whether a workspace's files are what its receipts say
    Verify(super::mend::Verify),
    /// Make an older version of a dataset the newest again
    Rollback(super::mend::Rollback),
    /// Tell which partitions of a plan are done
    Status(Planned),
    /// Say what nobody needs any more, and delete it where asked to
    Gc(super::gc::Gc),
    /// List a workspace's runs, or show what one of them did
    Runs(Runs),
    /// Write a pipeline for a folder of videos
    Init(Init),
    /// Turn a published PyTorch checkpoint into safetensors
    Import(Import),
    /// Print the JSON Schema of the YAML, or another schema
    Schema(Schema),
    /// Say what this machine offers: decoders, devices, memory, storage
    Doctor(Doctor),
    /// Measure how fast this machine labels and trains
    Bench(Bench),
    /// Print a script that completes lapo's words in a shell
    Completions(Completions),
    /// Decode what is asked for on stdin
    #[cfg(feature = "video")]
    #[command(hide = true)]
    Decoder(Decoder),
}

impl Command {
    /// Whether errors are told as JSON.
    pub fn tells_json(&self) -> bool {
        let format = match self {
            Command::Run(run) => run.computing.log_format,
            Command::Worker(worker) => worker.computing.log_format,
            _ => LogFormat::Text,
        };
        format == LogFormat::Json
    }
}

#[derive(Debug, ClapArgs)]
pub struct Pipeline {
    /// The pipeline's YAML file
    pub pipeline: String,
    /// Override a variable of `vars:`
    #[arg(long, value_name = "NAME=VALUE")]
    pub set: Vec<String>,
    /// Use this workspace instead of the pipeline's
    #[arg(long)]
    pub workspace: Option<String>,
}

#[derive(Debug, ClapArgs)]
pub struct Run {
    #[command(flatten)]
    pub pipeline: Pipeline,
    #[command(flatten)]
    pub again: Again,
    #[command(flatten)]
    pub computing: Computing,
    /// Seconds between two checkpoints of a training
    #[arg(long, default_value_t = 60, env = "LAPO_CHECKPOINT_SECS")]
    pub checkpoint_secs: u64,
    /// Run only this stage; those before it must be done. Give it again for several
    #[arg(long, value_name = "STAGE", conflicts_with = "until")]
    pub only: Vec<String>,
    /// Run only this stage and all that it needs. Give it again for several
    #[arg(long, value_name = "STAGE")]
    pub until: Vec<String>,
    /// Run again so long after each end, until a signal comes: 60s, 5m, 1h. Files that were changed less long ago wait for a later run
    #[arg(long, value_name = "TIME", value_parser = duration)]
    pub watch: Option<Duration>,
}

/// Reads a time such as `60s`, `5m` or `1h`.
fn duration(text: &str) -> Result<Duration, String> {
    let digits = text.trim_end_matches(|c: char| c.is_ascii_alphabetic());
    let unit = match &text[digits.len()..] {
        "ms" => 1e-3,
        "s" => 1.0,
        "m" => 60.0,
        "h" => 3600.0,
        _ => return Err("expected a number and a unit, such as 60s, 5m or 1h".into()),
    };
    let number: f64 = digits.parse().map_err(|_| format!("`{digits}` is no number"))?;
    Some(number * unit)
        .filter(|seconds| (1e-3..=1e9).contains(seconds))
        .map(Duration::from_secs_f64)
        .ok_or_else(|| "expected more than 0".into())
}

/// How the process computes.
#[derive(Debug, ClapArgs)]
pub struct Computing {
    /// Cores to use [default: all]
    #[arg(long, value_parser = at_least_one())]
    pub threads: Option<usize>,
    /// What computes: auto, cpu or cuda:N; of several GPUs (cuda:0,cuda:1) the first trains and all label
    #[arg(long, default_value = "auto", env = "LAPO_DEVICE")]
    pub device: String,
    /// Most memory that a process which decodes a video may take [default: 4, or its share of half of the machine's]
    #[arg(long, value_name = "GIB", env = "LAPO_DECODER_MEMORY_GIB")]
    pub decoder_memory_gib: Option<f64>,
    /// How progress is told on stderr
    #[arg(long, value_enum, default_value_t = LogFormat::Text, env = "LAPO_LOG_FORMAT")]
    pub log_format: LogFormat,
    /// Keep gauges in this file, for the textfile collector of Prometheus' node exporter: /var/lib/node_exporter/lapo.prom
    #[arg(long, value_name = "FILE")]
    pub metrics_file: Option<PathBuf>,
    /// Tell no progress, only errors
    #[arg(long, short, conflicts_with = "verbose")]
    quiet: bool,
    /// Tell progress every second, and why each stage has something to do
    #[arg(long, short)]
    verbose: bool,
    /// Where games are.
    #[command(flatten)]
    pub games: Games,
}

impl Computing {
    /// Returns how much is told.
    pub fn verbosity(&self) -> Verbosity {
        match (self.quiet, self.verbose) {
            (true, _) => Verbosity::Quiet,
            (_, true) => Verbosity::Verbose,
            _ => Verbosity::Normal,
        }
    }
}

/// A number of at least 1.
pub fn at_least_one() -> RangedU64ValueParser<usize> {
    RangedU64ValueParser::new().range(1..)
}

#[derive(Debug, ClapArgs)]
pub struct Worker {
    /// The folder of the plan, or its address in an object store
    #[arg(long, value_name = "FOLDER")]
    pub plan: String,
    /// Which partitions, from 0; the others are other workers'
    #[arg(long, value_name = "NUMBER", num_args = 1.., required = true)]
    pub partition: Vec<usize>,
    /// Use this workspace instead of the plan's
    #[arg(long)]
    pub workspace: Option<String>,
    #[command(flatten)]
    pub computing: Computing,
}

#[cfg(feature = "video")]
#[derive(Debug, ClapArgs)]
pub struct Decoder {
    /// Most memory it may take
    #[arg(long, value_name = "GIB")]
    pub memory_gib: f64,
}

#[derive(Debug, ClapArgs)]
pub struct Committed {
    /// The folder of the plan, or its address in an object store
    #[arg(long, value_name = "FOLDER")]
    pub plan: String,
    /// Commit what is done although some partitions are not: these are left for the next plan
    #[arg(long)]
    pub partial: bool,
    /// Use this workspace instead of the plan's
    #[arg(long)]
    pub workspace: Option<String>,
}

#[derive(Debug, ClapArgs)]
pub struct Planned {
    /// The folder of the plan, or its address in an object store
    #[arg(long, value_name = "FOLDER")]
    pub plan: String,
    /// Use this workspace instead of the plan's
    #[arg(long)]
    pub workspace: Option<String>,
    /// How to print it: table or json
    #[arg(long, value_enum, default_value_t = Format::Table)]
    pub format: Format,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub enum LogFormat {
    /// Bars or lines, for people
    Text,
    /// One JSON object a line
    Json,
}

#[derive(Debug, ClapArgs)]
pub struct Plan {
    #[command(flatten)]
    pub pipeline: Pipeline,
    #[command(flatten)]
    pub again: Again,
    /// Write what can be done now into this new folder (or s3://...), for `lapo worker` and `lapo commit`, and print how many partitions
    #[arg(long, value_name = "FOLDER")]
    pub out: Option<String>,
    /// Of a plan with --out: seconds between two checkpoints of a training
    #[arg(long, default_value_t = 60, env = "LAPO_CHECKPOINT_SECS")]
    pub checkpoint_secs: u64,
    /// How to print it
    #[arg(long, value_enum, ignore_case = true, default_value_t = Format::Table)]
    pub format: Format,
}

/// What is done again although it is done.
#[derive(Debug, ClapArgs)]
pub struct Again {
    /// Train this stage (`train_dynamics` or `train_policy`) again, whatever its `refresh` says
    #[arg(long, value_name = "STAGE")]
    pub refresh: Vec<String>,
    /// Decode videos again that were rejected, those of a class or all: after a change of `limits`, or of libav
    #[arg(long, value_name = "CLASS", num_args = 0..=1, require_equals = true, default_missing_value = "")]
    pub retry_rejected: Option<Vec<String>>,
    /// Let this share of the dataset's videos go (0 to 1), instead of what `max_dropped` says
    #[arg(long, value_name = "SHARE")]
    pub max_dropped: Option<f64>,
    /// Write into a workspace of another pipeline: its datasets become this pipeline's
    #[arg(long)]
    pub take_over: bool,
}

#[derive(Debug, ClapArgs)]
pub struct Inspect {
    /// A stage's name, or a .safetensors file
    pub what: String,
    /// The workspace [default: the only one under runs/]
    #[arg(long, env = "LAPO_WORKSPACE")]
    pub workspace: Option<String>,
}

#[derive(Debug, ClapArgs)]
pub struct Import {
    /// The checkpoint: idm_fdm.pt or latent_policy.pt
    pub checkpoint: String,
    /// The file to write, e.g. model.safetensors; the stage `import_dynamics` takes it, or the checkpoint itself
    pub output: String,
}

#[derive(Debug, ClapArgs)]
pub struct Schema {
    /// Which schema: pipeline (the YAML's JSON Schema), shard or labels
    #[arg(default_value = "pipeline")]
    pub name: String,
    /// Write all schemas into this folder instead
    #[arg(long)]
    pub write: Option<String>,
}

#[derive(Debug, ClapArgs)]
pub struct Doctor {
    /// Also try to write into this workspace
    #[arg(long)]
    pub workspace: Option<String>,
    /// Where games are.
    #[command(flatten)]
    pub games: Games,
}

/// Where games are.
#[derive(Debug, ClapArgs)]
pub struct Games {
    /// Procgen: its Python package's folder, or a virtual environment that holds it [default: ~/.cache/lapo/procgen]
    #[arg(long, env = "LAPO_PROCGEN")]
    procgen: Option<PathBuf>,
}

impl Games {
    /// Whether somebody said where.
    pub fn are_named(&self) -> bool {
        self.procgen.is_some()
    }

    /// Where to look.
    pub fn folders(&self) -> Vec<PathBuf> {
        self.procgen.clone().or_else(|| cache("procgen")).into_iter().collect()
    }
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub enum Format {
    /// A table for people
    Table,
    /// JSON
    Json,
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_cache_is_where_the_environment_says_with_or_without_a_home() {
        let folder = |cache: Option<&str>, home: Option<&str>| {
            cache_in(cache.map(Into::into), home.map(Into::into), "copies")
        };
        assert_eq!(folder(Some("/c"), None), Some("/c/lapo/copies".into()));
        assert_eq!(folder(Some("/c"), Some("/h")), Some("/c/lapo/copies".into()));
        for unset in [None, Some(""), Some("relative")] {
            assert_eq!(folder(unset, Some("/h")), Some("/h/.cache/lapo/copies".into()));
            assert_eq!([folder(unset, None), folder(unset, Some(""))], [None, None]);
        }
    }
}
