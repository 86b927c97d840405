//! `lapo run`, `lapo check`, `lapo plan`.

use super::args::{Again, Committed, Computing, LogFormat, Pipeline, Plan, Run, Storage, Worker};
use super::fleet::{self, Metered};
use super::progress::Person;
use super::{Error, print, told};
use crate::dataset::{Access, Store};
use crate::error::Result;
use crate::executor::Means;
use crate::models::Device;
use crate::pipeline::check::Checked;
use crate::pipeline::handout::{self, hand_out};
use crate::pipeline::plan::{PlanOptions, Planner, StagePlan};
use crate::pipeline::run::{StageSummary, Summary, Watch, run as run_pipeline};
use crate::pipeline::spec::StageSpec;
use crate::pipeline::{self, load};
use crate::stages::decode::child::Launch;

/// `lapo run`: ends with one line of truth on stdout.
pub fn run(args: &Run, access: &Access, storage: &Storage) -> Result<()> {
    let (checked, store) = open(&args.pipeline, access)?;
    let options = options(&checked, &args.again, args.checkpoint_secs)?;
    let (means, watch) = (means(&args.computing, storage)?, watch(&args.computing));
    let metered = args.metrics_file.as_ref().map(|file| Metered::new(watch, file, &checked.spec.name)).transpose()?;
    let result = run_pipeline(&checked, &store, &options, &means, metered.as_ref().map_or(watch, |metered| metered));
    let told = metered.map_or(Ok(()), |metered| metered.finish(result.is_ok()));
    let summary = result?;
    told?;
    print(&truth(&summary))
}

/// What the process may use.
fn means(args: &Computing, storage: &Storage) -> Result<Means> {
    let threads = use_threads(args.threads)?;
    let devices = args.device.split(',').map(str::parse::<Device>).collect::<Result<_, _>>()?;
    Ok(Means { devices, threads, decoder: decoder(args, storage, threads)?, games: args.games.folders() })
}

#[cfg(feature = "video")]
fn decoder(args: &Computing, storage: &Storage, threads: usize) -> Result<Option<Launch>, Error> {
    super::decoder::launch(args, storage, threads).map(Some)
}

#[cfg(not(feature = "video"))]
fn decoder(_: &Computing, _: &Storage, _: usize) -> Result<Option<Launch>, Error> {
    Ok(None)
}

fn watch(args: &Computing) -> &'static dyn Watch {
    match args.log_format {
        LogFormat::Text => &Person,
        LogFormat::Json => &fleet::Json,
    }
}

/// Sets how many cores work; all, where no number is given.
pub fn use_threads(asked: Option<usize>) -> Result<usize, Error> {
    let threads = asked.unwrap_or_else(|| std::thread::available_parallelism().map_or(1, Into::into)).max(1);
    let built = rayon::ThreadPoolBuilder::new().num_threads(threads).build_global();
    let usage = |e| Error::Usage { what: format!("--threads {threads}: {e}"), hint: "give a number of cores, or leave it out".into() };
    built.map_err(usage).map(|()| threads)
}

/// `lapo check`: silent but for one line when all is well.
pub fn check(args: &Pipeline, access: &Access) -> Result<()> {
    let (checked, _) = open(args, access)?;
    let names: Vec<&str> = checked.order.iter().map(|at| checked.spec.stages[*at].0.as_str()).collect();
    print(&format!("{}: good: {}\n", args.pipeline, names.join(" -> ")))
}

/// `lapo plan`: what would run, and why.
pub fn plan(args: &Plan, access: &Access) -> Result<()> {
    let (checked, store) = open(&args.pipeline, access)?;
    let options = options(&checked, &args.again, args.checkpoint_secs)?;
    if let Some(out) = &args.out {
        let handout = hand_out(&checked, &store, &options, &Store::open_with(out, access)?)?;
        return print(&format!("{}\n", handout.partitions));
    }
    let plans = Planner::new(&checked, &store, &options)?.plan_all()?;
    print(&told(args.format, "a plan is", &plans, |plans| plans.iter().map(described).collect())?)
}

/// `lapo worker`: partitions of a plan, those that are done left out.
pub fn worker(args: &Worker, access: &Access, storage: &Storage) -> Result<()> {
    let (means, watch) = (means(&args.computing, storage)?, watch(&args.computing));
    let plan = Store::open_with(&args.plan, access)?;
    let handout = handout::read(&plan)?;
    let store = Store::open_with(args.workspace.as_ref().unwrap_or(&handout.workspace), access)?;
    for partition in &args.partition {
        let was_done = handout::work(&handout, &plan, *partition, &store, &means, watch)?;
        print(&format!("partition {partition}: {}\n", if was_done { "was done already" } else { "done" }))?;
    }
    Ok(())
}

/// `lapo commit`: ends with the line of truth, as a run does.
pub fn commit(args: &Committed, access: &Access) -> Result<()> {
    let plan = Store::open_with(&args.plan, access)?;
    let handout = handout::read(&plan)?;
    let store = Store::open_with(args.workspace.as_ref().unwrap_or(&handout.workspace), access)?;
    print(&truth(&handout::commit_all(&handout, &plan, &store, &Person)?))
}

fn open(args: &Pipeline, access: &Access) -> Result<(Checked, Store)> {
    let set = args.set.iter().map(|pair| assignment(pair)).collect::<Result<Vec<_>, _>>()?;
    let mut checked = load(&args.pipeline, &set, access)?;
    if let Some(workspace) = &args.workspace {
        checked.spec.workspace.clone_from(workspace);
    }
    let store = Store::open_with(&checked.spec.workspace, access)?;
    Ok((checked, store))
}

fn assignment(pair: &str) -> Result<(String, String), Error> {
    let usage = || Error::Usage { what: format!("--set {pair}: expected NAME=VALUE"), hint: "for example --set game=heist".into() };
    pair.split_once('=').map(|(name, value)| (name.to_string(), value.to_string())).ok_or_else(usage)
}

/// `--refresh` must name stages whose model is kept although what it learns from grows; all others follow by themselves.
fn options(checked: &Checked, Again { refresh, retry_rejected }: &Again, checkpoint_secs: u64) -> Result<PlanOptions> {
    let is_kept = |(_, spec): &&(String, StageSpec)| matches!(spec, StageSpec::TrainDynamics(_) | StageSpec::TrainPolicy(_));
    let names: Vec<&str> = checked.spec.stages.iter().filter(is_kept).map(|(name, _)| name.as_str()).collect();
    match refresh.iter().find(|name| !names.contains(&name.as_str())) {
        Some(name) => Err(pipeline::Error::Request {
            what: format!("--refresh {name}: not a stage that keeps its model while what it learns from grows"),
            hint: match names.as_slice() {
                [] => "this pipeline has none; what a stage takes decides whether it is done again".into(),
                names => format!("these do: {}; what all others take decides whether they are done again", names.join(", ")),
            },
        })?,
        None => Ok(PlanOptions {
            refresh: refresh.clone(),
            checkpoint_secs,
            retry_rejected: retry_rejected.as_ref().map(|classes| classes.iter().filter(|class| !class.is_empty()).cloned().collect()),
        }),
    }
}

/// One stage of a plan, for people.
fn described(plan: &StagePlan) -> String {
    let videos = match plan.new_videos + plan.reused_videos {
        0 => String::new(),
        _ => format!(" ({} videos new, {} re-used)", plan.new_videos, plan.reused_videos),
    };
    let mut text = format!("{} ({}): {} tasks new, {} re-used{videos}\n", plan.stage, plan.kind, plan.new, plan.reused);
    text.extend(plan.why.iter().map(|(reason, count)| format!("  new because of {reason}: {count}\n")));
    text.extend(plan.note.iter().map(|note| format!("  {note}\n")));
    let shown = plan.settings.iter().filter(|(name, _)| !["stage", "version"].contains(&name.as_str()));
    let settings: Vec<String> = shown.map(|(name, value)| format!("{name} {value}")).collect();
    text + &format!("  with {}\n", settings.join(", "))
}

/// The one line of truth.
fn truth(summary: &Summary) -> String {
    // Not `sum`: that of nothing is -0, and would be printed so.
    let sum = |kind: &str, value: &dyn Fn(&StageSummary) -> f64| -> f64 {
        summary.stages.iter().filter(|stage| stage.kind == kind).map(value).fold(0.0, |sum, value| sum + value)
    };
    let all = |kind: &str, name: &str| sum(kind, &|stage| stage.total.get(name).copied().unwrap_or(0.0));
    let new = |kind: &str, name: &str| sum(kind, &|stage| stage.done.get(name).copied().unwrap_or(0.0));
    let rate = |kind: &str, name: &str| new(kind, name) / sum(kind, &|stage| stage.seconds).max(1e-9);
    let tasks: usize = summary.stages.iter().map(|stage| stage.new).sum();
    let rejects: usize = summary.stages.iter().map(|stage| stage.rejects).sum();
    let times: Vec<String> = summary.stages.iter().map(|stage| format!("{} {:.1} s", stage.stage, stage.seconds)).collect();
    format!(
        "{tasks} tasks: {} videos ({} new), {} frames, {} transitions ({} new), {rejects} rejects; \
         {:.0} frames/s decoded, {:.0} transitions/s labelled; {:.1} s: {}\n",
        all("decode", "videos") + all("record", "videos"),
        new("decode", "videos") + new("record", "videos"),
        all("decode", "frames") + all("record", "frames"),
        all("label", "transitions"),
        new("label", "transitions"),
        rate("decode", "frames"),
        rate("label", "transitions"),
        summary.seconds,
        times.join(", "),
    )
}
