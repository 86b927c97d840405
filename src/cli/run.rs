//! `lapo run`, `lapo check`, `lapo plan`.

use std::time::Duration;

use super::args::{Again, Committed, Computing, LogFormat, Pipeline, Plan, Planned, Run, Worker};
use super::exit::Exit;
use super::gauges::Metered;
use super::progress::{Person, Verbosity, rate};
use super::signals::stop_on_signals;
use super::{Error, failures, fleet, print, stderr, told, watch};
use crate::dataset::{Access, Store};
use crate::error::Result;
use crate::executor::Means;
use crate::models::Device;
use crate::pipeline::check::{Checked, workspace_fault};
use crate::pipeline::handout::{self, Handout, Missing, StageStatus, Worked, hand_out};
use crate::pipeline::plan::{PlanOptions, Planner, StagePlan};
use crate::pipeline::run::{StageSummary, Summary, Watch, run as run_pipeline};
use crate::pipeline::spec::StageSpec;
use crate::pipeline::{self, load};
use crate::stages::decode::child::Launch;
use crate::stages::{ArtifactKind, KINDS, kind_of};

/// `lapo run`: ends with one line of truth on stdout. With `--watch` each round does.
pub fn run(args: &Run, access: &Access) -> Result<Exit> {
    let means = means(&args.computing)?;
    match args.watch {
        Some(interval) => watch::rounds(interval, &means.stop, || once(args, access, &means)),
        None => once(args, access, &means),
    }
}

/// One run.
fn once(args: &Run, access: &Access, means: &Means) -> Result<Exit> {
    let (checked, store) = open(&args.pipeline, access)?;
    let only = chosen(&checked, args)?;
    let min_age = args.watch.unwrap_or_default();
    let options =
        PlanOptions { only, min_age, ..options(&checked, &args.again, args.checkpoint_secs)? };
    let work = |watch: &dyn Watch| Ok(run_pipeline(&checked, &store, &options, means, watch)?);
    let summary = watched(&args.computing, &checked.spec.name, work)?;
    print(&truth(&summary))?;
    Ok(exit_of(&summary))
}

/// Returns how a run ends that came to its end, and tells which tasks failed.
fn exit_of(summary: &Summary) -> Exit {
    let failures = failures_of(summary);
    failures::lines(&failures, &summary.run).iter().for_each(stderr::line);
    if failures.is_empty() { Exit::Done } else { Exit::Partial }
}

/// The messages of the tasks that failed while others were committed.
fn failures_of(summary: &Summary) -> Vec<String> {
    summary
        .failures
        .iter()
        .map(|failure| format!("stage {}: {}", failure.stage, failure.message))
        .collect()
}

/// The stages that are asked for: those of `--only`, or those of `--until` and all that they need; `None` for all.
fn chosen(checked: &Checked, args: &Run) -> Result<Option<Vec<String>>, Error> {
    let stages = &checked.spec.stages;
    let spec = |name: &str| stages.iter().find(|(known, _)| known == name).map(|(_, spec)| spec);
    let names = || stages.iter().map(|(name, _)| name.as_str()).collect::<Vec<_>>().join(", ");
    for (flag, name) in args
        .only
        .iter()
        .map(|name| ("only", name))
        .chain(args.until.iter().map(|name| ("until", name)))
    {
        if spec(name).is_none() {
            let what = format!("--{flag} {name}: the pipeline has no such stage");
            return Err(Error::Usage { what, hint: format!("its stages are {}", names()) });
        }
    }
    let (mut chosen, mut at) = ([args.only.as_slice(), &args.until].concat(), 0);
    while let Some(name) = chosen.get(at).filter(|_| !args.until.is_empty()).cloned() {
        let needed = spec(&name)
            .into_iter()
            .flat_map(|spec| spec.inputs())
            .map(|input| input.stage.to_owned());
        let new: Vec<String> = needed.filter(|input| !chosen.contains(input)).collect();
        chosen.extend(new);
        at += 1;
    }
    Ok((!chosen.is_empty()).then_some(chosen))
}

/// Works, watched as the flags say.
fn watched<T>(
    args: &Computing,
    pipeline: &str,
    work: impl FnOnce(&dyn Watch) -> Result<T>,
) -> Result<T> {
    let watch: Box<dyn Watch> = match args.log_format {
        LogFormat::Text => Box::new(Person(args.verbosity())),
        LogFormat::Json => Box::new(fleet::Json(args.verbosity())),
    };
    let Some(file) = &args.metrics_file else { return work(watch.as_ref()) };
    let metered = Metered::new(watch.as_ref(), file, pipeline)?;
    let result = work(&metered);
    let told = metered.finish(result.is_ok());
    let done = result?;
    told?;
    Ok(done)
}

/// What the process may use.
fn means(args: &Computing) -> Result<Means> {
    let threads = use_threads(args.threads)?;
    let devices = args.device.split(',').map(str::parse::<Device>).collect::<Result<_, _>>()?;
    let (decoder, games) = (decoder(args, threads)?, args.games.folders());
    Ok(Means { devices, threads, decoder, games, stop: stop_on_signals()? })
}

#[cfg(feature = "video")]
fn decoder(args: &Computing, threads: usize) -> Result<Option<Launch>, Error> {
    super::decoder::launch(args, threads).map(Some)
}

#[cfg(not(feature = "video"))]
fn decoder(_: &Computing, _: usize) -> Result<Option<Launch>, Error> {
    Ok(None)
}

/// Sets how many cores work; all, where no number is given.
pub fn use_threads(asked: Option<usize>) -> Result<usize, Error> {
    let threads =
        asked.unwrap_or_else(|| std::thread::available_parallelism().map_or(1, Into::into));
    let built = rayon::ThreadPoolBuilder::new().num_threads(threads).build_global();
    let usage = |e| Error::Usage {
        what: format!("--threads {threads}: {e}"),
        hint: "give a number of cores, or leave it out".into(),
    };
    built.map_err(usage).map(|()| threads)
}

/// `lapo check`: silent but for one line when all is well.
pub fn check(args: &Pipeline, access: &Access) -> Result<()> {
    let (checked, _) = open(args, access)?;
    let names: Vec<&str> =
        checked.order.iter().map(|at| checked.spec.stages[*at].0.as_str()).collect();
    print(&format!("{}: good: {}\n", args.pipeline, names.join(" -> ")))
}

/// `lapo plan`: what would run, and why.
pub fn plan(args: &Plan, access: &Access) -> Result<()> {
    let (checked, store) = open(&args.pipeline, access)?;
    let options = options(&checked, &args.again, args.checkpoint_secs)?;
    if let Some(out) = &args.out {
        let handout = hand_out(&checked, &store, &options, &Store::open_with(out, access)?)?;
        let (partitions, changes) = (handout.partitions, handout.changes);
        let facts =
            serde_json::json!({ "run": handout.run, "partitions": partitions, "changes": changes });
        return print(&told(args.format, &facts, |_| {
            format!("{partitions} partitions, {changes} changes\n")
        }));
    }
    let plans = Planner::new(&checked, &store, &options)?.plan_all()?;
    print(&told(args.format, &plans, |plans| plans.iter().map(described).collect()))
}

/// `lapo worker`: partitions of a plan, those that are done left out.
pub fn worker(args: &Worker, access: &Access) -> Result<()> {
    let means = means(&args.computing)?;
    let (plan, handout, store) = planned(&args.plan, args.workspace.as_deref(), access)?;
    // Relative paths of videos start where the plan was made.
    let failed = |source| Error::Input {
        from: format!("the folder {} in which the plan was made", handout.base),
        source,
    };
    std::env::set_current_dir(&handout.base).map_err(failed)?;
    watched(&args.computing, handout.pipeline(), |watch| {
        watch.start(&handout.run);
        let worked = handout::work(&handout, &plan, &args.partition, &store, &means, watch)?;
        let (mut failures, mut said) = (Vec::new(), String::new());
        for Worked { partition, result } in worked {
            let how = match result {
                Ok(true) => "was done already",
                Ok(false) => "done",
                Err(failure) => {
                    failures.push(failure);
                    "failed"
                }
            };
            said += &format!("partition {partition}: {how}\n");
        }
        // Whether anybody reads what is done or not, what failed decides how the worker ends.
        let told = print(&said);
        match failures.is_empty() {
            true => told,
            false => {
                Err(pipeline::Error::Partitions { total: args.partition.len(), failures }.into())
            }
        }
    })
}

/// A plan that is out, and the workspace it is for.
fn planned(
    plan: &str,
    workspace: Option<&str>,
    access: &Access,
) -> Result<(Store, Handout, Store)> {
    let plan = Store::open_with(plan, access)?;
    let handout = handout::read(&plan)?;
    let store = Store::open_with(workspace.unwrap_or(&handout.workspace), access)?;
    crate::dataset::workspace::require(&store)?;
    Ok((plan, handout, store))
}

/// `lapo status`: how far the partitions of a plan are.
pub fn status(args: &Planned, access: &Access) -> Result<()> {
    let (plan, handout, store) = planned(&args.plan, args.workspace.as_deref(), access)?;
    let status = handout::status(&handout, &plan, &store)?;
    let line = |stage: &StageStatus| {
        let missing = stage.missing.iter().map(ToString::to_string).collect::<Vec<_>>().join(",");
        let missing =
            if missing.is_empty() { String::new() } else { format!("; missing {missing}") };
        format!(
            "{} ({}): {} of {} partitions done{missing}\n",
            stage.stage,
            stage.kind,
            stage.done,
            stage.done + stage.missing.len()
        )
    };
    print(&told(args.format, &status, |status| status.iter().map(line).collect()))
}

/// `lapo commit`: ends with the line of truth, as a run does.
pub fn commit(args: &Committed, access: &Access) -> Result<Exit> {
    let (plan, handout, store) = planned(&args.plan, args.workspace.as_deref(), access)?;
    let missing = if args.partial { Missing::LeaveOut } else { Missing::Refuse };
    let summary =
        handout::commit_all(&handout, &plan, &store, missing, &Person(Verbosity::Normal))?;
    print(&truth(&summary))?;
    Ok(exit_of(&summary))
}

fn open(args: &Pipeline, access: &Access) -> Result<(Checked, Store)> {
    let set = args.set.iter().map(|pair| assignment(pair)).collect::<Result<Vec<_>, _>>()?;
    let mut checked = load(&args.pipeline, &set, access)?;
    if let Some(workspace) = &args.workspace {
        if let Some((fault, hint)) = workspace_fault(workspace) {
            return Err(
                Error::Usage { what: format!("--workspace {workspace}: {fault}"), hint }.into()
            );
        }
        checked.spec.workspace.clone_from(workspace);
    }
    let store = Store::open_with(&checked.spec.workspace, access)?;
    Ok((checked, store))
}

fn assignment(pair: &str) -> Result<(String, String), Error> {
    let usage = || Error::Usage {
        what: format!("--set {pair}: expected NAME=VALUE"),
        hint: "for example --set game=heist".into(),
    };
    pair.split_once('=')
        .map(|(name, value)| (name.to_string(), value.to_string()))
        .ok_or_else(usage)
}

/// `--refresh` must name stages whose model is kept although what it learns from grows; all others follow by themselves.
fn options(
    checked: &Checked,
    Again { refresh, retry_rejected, max_dropped, take_over }: &Again,
    checkpoint_secs: u64,
) -> Result<PlanOptions> {
    let is_kept = |(_, spec): &&(String, StageSpec)| spec.kind().keeps_model;
    let names: Vec<&str> =
        checked.spec.stages.iter().filter(is_kept).map(|(name, _)| name.as_str()).collect();
    match refresh.iter().find(|name| !names.contains(&name.as_str())) {
        Some(name) => Err(Error::Usage {
            what: format!(
                "--refresh {name}: not a stage that keeps its model while what it learns from grows"
            ),
            hint: match names.as_slice() {
                [] => "this pipeline has none; what a stage takes decides whether it is done again"
                    .into(),
                names => format!(
                    "these do: {}; what all others take decides whether they are done again",
                    names.join(", ")
                ),
            },
        })?,
        None => Ok(PlanOptions {
            refresh: refresh.clone(),
            checkpoint_secs,
            only: None,
            min_age: Duration::ZERO,
            retry_rejected: retry_rejected
                .as_ref()
                .map(|classes| classes.iter().filter(|class| !class.is_empty()).cloned().collect()),
            max_dropped: *max_dropped,
            take_over: *take_over,
        }),
    }
}

/// One stage of a plan, for people.
fn described(plan: &StagePlan) -> String {
    let videos = match plan.new_videos() + plan.reused_videos() {
        0 => String::new(),
        _ => format!(" ({} videos new, {} re-used)", plan.new_videos(), plan.reused_videos()),
    };
    let (new, reused) = (plan.new_tasks(), plan.tasks.reused());
    let mut text =
        format!("{} ({}): {new} tasks new, {reused} re-used{videos}\n", plan.stage, plan.kind.name);
    text.extend(
        plan.why.iter().map(|(reason, count)| format!("  new because of {reason}: {count}\n")),
    );
    text.extend(
        gone(plan.videos_gone, plan.rows_fewer(), plan.kind.name).map(|gone| format!("  {gone}\n")),
    );
    text.extend(
        plan.damaged.iter().map(|damaged| format!("  damaged, made again: {}\n", damaged.path)),
    );
    text.extend(
        plan.damaged_tables.iter().map(|path| format!("  damaged, joined again: {path}\n")),
    );
    text.extend(
        plan.left_out
            .iter()
            .map(|left| format!("  left for the next run: {}: {}\n", left.video, left.reason)),
    );
    text.extend(plan.note.iter().map(|note| format!("  {note}\n")));
    let shown =
        plan.settings.iter().filter(|(name, _)| !["stage", "version"].contains(&name.as_str()));
    let settings: Vec<String> = shown.map(|(name, value)| format!("{name} {value}")).collect();
    text + &format!("  with {}\n", settings.join(", "))
}

/// What a dataset has lost, in words.
pub fn gone(videos: usize, rows: u64, kind: &str) -> Option<String> {
    let unit = kind_of(kind).map_or("row", |kind| kind.row);
    let plural =
        |count: u64, one: &str| format!("{count} {one}{}", if count == 1 { "" } else { "s" });
    let videos = (videos > 0).then(|| format!("{} gone", plural(videos as u64, "video")));
    let rows = (rows > 0).then(|| format!("{} fewer", plural(rows, unit)));
    videos.into_iter().chain(rows).reduce(|videos, rows| format!("{videos}, {rows}"))
}

/// The one line of truth.
fn truth(summary: &Summary) -> String {
    // Not `sum`: that of nothing is -0, and would be printed so.
    let sum = |stages: &[&StageSummary], value: &dyn Fn(&StageSummary) -> f64| -> f64 {
        stages.iter().map(|stage| value(stage)).fold(0.0, |sum, value| sum + value)
    };
    let makers = |artifact: ArtifactKind| -> Vec<&StageSummary> {
        let makes =
            |stage: &&StageSummary| kind_of(&stage.kind).is_some_and(|kind| kind.makes(artifact));
        summary.stages.iter().filter(makes).collect()
    };
    let all = |artifact, name: &str| {
        sum(&makers(artifact), &|stage| {
            stage.total.counts.get(name).map_or(0.0, |count| *count as f64)
        })
    };
    let done = |stage: &StageSummary, name: &str| stage.done.get(name).copied().unwrap_or(0.0);
    let new = |artifact, name: &str| sum(&makers(artifact), &|stage| done(stage, name));
    let speed = |kind: &&str| {
        let speed = kind_of(kind)?.speed?;
        let stages: Vec<&StageSummary> =
            summary.stages.iter().filter(|stage| stage.kind == **kind).collect();
        let rate = rate(
            sum(&stages, &|stage| done(stage, speed.of)),
            sum(&stages, &|stage| stage.seconds),
        )?;
        Some(format!("{rate:.0} {}", speed.unit))
    };
    let rates: Vec<String> = KINDS.iter().filter_map(speed).collect();
    let rates = if rates.is_empty() { String::new() } else { format!("{}; ", rates.join(", ")) };
    let tasks: usize = summary.stages.iter().map(|stage| stage.new).sum();
    let rejects: u64 = summary.stages.iter().map(|stage| stage.total.rejects).sum();
    let times: Vec<String> = summary
        .stages
        .iter()
        .map(|stage| format!("{} {:.1} s", stage.stage, stage.seconds))
        .collect();
    let lost = |stage: &StageSummary| {
        Some(format!(
            "{}: {}; ",
            stage.stage,
            gone(stage.videos_gone, stage.rows_fewer, &stage.kind)?
        ))
    };
    let lost: String = summary.stages.iter().filter_map(lost).collect();
    format!(
        "{tasks} tasks: {} videos ({} new), {} frames, {} transitions ({} new), {rejects} rejects; {lost}\
         {rates}{:.1} s: {}\n",
        all(ArtifactKind::Frames, "videos"),
        new(ArtifactKind::Frames, "videos"),
        all(ArtifactKind::Frames, "frames"),
        all(ArtifactKind::Labels, "transitions"),
        new(ArtifactKind::Labels, "transitions"),
        summary.seconds,
        times.join(", "),
    )
}
