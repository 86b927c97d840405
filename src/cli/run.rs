//! `lapo run`: runs a pipeline, once or again and again.

use std::time::Duration;

use clap::Args as ClapArgs;

use super::compute_args::ComputeArgs;
use super::executor_args::{ExecutorArgs, ExecutorKind, remote_logs};
use super::exit::Exit;
use super::pipeline_args::{PipelineArgs, PlanningArgs};
use super::{summary, watch};
use crate::dataset::{Access, Store};
use crate::error::CommandError as Error;
use crate::error::Result;
use crate::executor::Resources;
use crate::pipeline::check::Checked;
use crate::pipeline::plan::PlanOptions;
use crate::pipeline::reporter::Reporter;
use crate::pipeline::run::run as run_pipeline;
use crate::pipeline::summary::Summary;
use crate::pipeline::waves::{self, DriverOptions};

/// Arguments of `lapo run`.
#[derive(Debug, ClapArgs)]
pub struct RunArgs {
    #[command(flatten)]
    pub pipeline: PipelineArgs,
    #[command(flatten)]
    pub planning: PlanningArgs,
    #[command(flatten)]
    pub compute: ComputeArgs,
    #[command(flatten)]
    pub executor: ExecutorArgs,
    /// Seconds between two checkpoints of a training
    #[arg(long, default_value_t = 60, env = "LAPO_CHECKPOINT_SECS")]
    pub checkpoint_secs: u64,
    /// Run only this stage; its inputs must be done; repeatable
    #[arg(long, value_name = "STAGE", conflicts_with = "until")]
    pub only: Vec<String>,
    /// Run only this stage and its inputs; repeatable
    #[arg(long, value_name = "STAGE")]
    pub until: Vec<String>,
    /// Run again this long after each run, until a signal: 60s, 5m, 1h; files changed within this
    /// time wait for a later run
    #[arg(long, value_name = "TIME", value_parser = parse_interval)]
    pub watch: Option<Duration>,
}

/// Parses an interval such as `60s`, `5m` or `1h`.
fn parse_interval(text: &str) -> Result<Duration, String> {
    let digits = text.trim_end_matches(|c: char| c.is_ascii_alphabetic());
    let unit = match &text[digits.len()..] {
        "ms" => 1e-3,
        "s" => 1.0,
        "m" => 60.0,
        "h" => 3600.0,
        _ => return Err("expected a number and a unit, such as 60s, 5m or 1h".into()),
    };
    let number: f64 = digits.parse().map_err(|_| format!("`{digits}` is not a number"))?;
    // `1e400` is parsed as infinity, on which `from_secs_f64` panics: check the range first.
    Some(number * unit)
        .filter(|seconds| (1e-3..=1e9).contains(seconds))
        .map(Duration::from_secs_f64)
        .ok_or_else(|| "expected at least 1ms and at most 1000000000s".into())
}

/// Runs the pipeline; prints one summary line per run.
pub fn run(args: &RunArgs, access: &Access) -> Result<Exit> {
    args.executor.check()?;
    let resources = match args.executor.executor {
        None => args.compute.resources()?,
        Some(_) => args.compute.resources_of_driver()?,
    };
    match args.watch {
        Some(interval) => {
            watch::repeat(interval, &resources.stop, || run_once(args, access, &resources))
        }
        None => run_once(args, access, &resources),
    }
}

fn run_once(args: &RunArgs, access: &Access, resources: &Resources) -> Result<Exit> {
    let (checked, store) = args.pipeline.open(access)?;
    let options = PlanOptions {
        only: selected_stages(&checked, args)?,
        min_age: args.watch.unwrap_or_default(),
        ..args.planning.options(&checked, args.checkpoint_secs)?
    };
    let work = |reporter: &dyn Reporter| match args.executor.executor {
        None => Ok(run_pipeline(&checked, &store, &options, resources, reporter)?),
        Some(kind) => drive(args, kind, (&checked, &store, &options), resources, reporter),
    };
    let summary = args.compute.with_reporter(&checked.spec.name, work)?;
    summary::print(&summary)
}

/// Runs the pipeline on workers that an engine starts.
fn drive(
    args: &RunArgs,
    kind: ExecutorKind,
    (checked, store, options): (&Checked, &Store, &PlanOptions),
    resources: &Resources,
    reporter: &dyn Reporter,
) -> Result<Summary> {
    let settings = args.executor.settings.settings()?;
    let forwarded = args.compute.forwarded(kind == ExecutorKind::Local);
    let mut engine = args.executor.engine(kind, &settings, resources.threads, forwarded)?;
    let driver = DriverOptions {
        executor: kind.name(),
        settings: &settings,
        detach: args.executor.detach,
        remote_logs: &remote_logs(),
        stop: &resources.stop,
    };
    Ok(waves::run(checked, store, options, &driver, engine.as_mut(), reporter)?)
}

/// Returns the stages of `--only`, or those of `--until` and all their inputs; `None` for all.
fn selected_stages(checked: &Checked, args: &RunArgs) -> Result<Option<Vec<String>>, Error> {
    let only = args.only.iter().map(|name| ("only", name));
    for (flag, name) in only.chain(args.until.iter().map(|name| ("until", name))) {
        let stages = &checked.spec.stages;
        if !stages.iter().any(|(stage, _)| stage == name) {
            let names: Vec<&str> = stages.iter().map(|(stage, _)| stage.as_str()).collect();
            return Err(Error::Usage {
                what: format!("--{flag} {name}: the pipeline has no stage `{name}`"),
                hint: format!("its stages are {}", names.join(", ")),
            });
        }
    }
    // clap rejects `--only` together with `--until`.
    if !args.only.is_empty() {
        return Ok(Some(args.only.clone()));
    }
    Ok((!args.until.is_empty()).then(|| with_inputs(checked, &args.until)))
}

/// Returns stages together with all stages that they read, directly or not.
fn with_inputs(checked: &Checked, stages: &[String]) -> Vec<String> {
    let mut selected = stages.to_vec();
    // Breadth first: the list grows while it is walked.
    let mut at = 0;
    while let Some(name) = selected.get(at).cloned() {
        let spec = checked.spec.stages.iter().find(|(stage, _)| *stage == name);
        for input in spec.into_iter().flat_map(|(_, spec)| spec.inputs()) {
            if !selected.iter().any(|stage| stage == input.stage) {
                selected.push(input.stage.to_owned());
            }
        }
        at += 1;
    }
    selected
}
