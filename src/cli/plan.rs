//! `lapo plan`: shows which tasks a run would do, or writes them as partitions for workers.

use std::path::PathBuf;

use clap::Args as ClapArgs;

use super::executor_args::ExecutorSettingsArgs;
use super::flags::Format;
use super::pipeline_args::{PipelineArgs, PlanningArgs};
use super::stdout::print_as;
use super::summary::shrinkage;
use crate::dataset::{Access, Store};
use crate::error::Result;
use crate::pipeline::partitions::write_partitions;
use crate::pipeline::plan::{Planner, StagePlan};

mod kubernetes;
mod sbatch;

/// Arguments of `lapo plan`.
#[derive(Debug, ClapArgs)]
pub struct PlanArgs {
    #[command(flatten)]
    pub pipeline: PipelineArgs,
    #[command(flatten)]
    pub planning: PlanningArgs,
    /// Write all ready tasks as partitions into this new folder (or s3://...), for `lapo worker`
    /// and `lapo commit`; prints the number of partitions
    #[arg(long, value_name = "FOLDER")]
    pub out: Option<String>,
    /// With --out: seconds between two checkpoints of a training
    #[arg(long, default_value_t = 60, env = "LAPO_CHECKPOINT_SECS")]
    pub checkpoint_secs: u64,
    /// Also write a manifest for Kubernetes: an Indexed Job for each stage; needs --out in a place
    /// that the pods can reach
    #[arg(long, value_name = "FILE", requires = "out")]
    pub kubernetes: Option<PathBuf>,
    /// Write the plan and scripts for Slurm into the next numbered folder of this one, and print the
    /// path of the script that submits them; each wave of jobs plans and submits the next
    #[arg(long, value_name = "FOLDER", conflicts_with = "out")]
    pub sbatch: Option<PathBuf>,
    #[command(flatten)]
    pub executor: ExecutorSettingsArgs,
    /// Output format
    #[arg(long, value_enum, ignore_case = true, default_value_t = Format::Table)]
    pub format: Format,
}

/// Prints the plan of every stage. With `--out`, writes partitions and prints their number.
pub fn run(args: &PlanArgs, access: &Access) -> Result<()> {
    let (checked, store) = args.pipeline.open(access)?;
    let options = args.planning.options(&checked, args.checkpoint_secs)?;
    if let Some(folder) = &args.sbatch {
        return sbatch::write(args, folder, (&checked, &store, &options), access);
    }
    if let Some(out) = &args.out {
        let folder = Store::open_with(out, access)?;
        let plan = write_partitions(&checked, &store, &options, &folder)?;
        if let Some(file) = &args.kubernetes {
            kubernetes::write(file, &args.executor.settings()?, &plan, &folder)?;
        }
        let facts = serde_json::json!({
            "run": plan.run,
            "partitions": plan.partitions,
            "changes": plan.changes,
        });
        return print_as(args.format, &facts, |_| {
            format!("{} partitions, {} changes\n", plan.partitions, plan.changes)
        });
    }
    let plans = Planner::new(&checked, &store, &options)?.plan_all()?;
    print_as(args.format, &plans, |plans| plans.iter().map(describe).collect())
}

/// Describes one stage's plan: its tasks, the reasons for new ones, and its settings.
fn describe(plan: &StagePlan) -> String {
    let kind = plan.kind.name;
    let (new, reused) = (plan.new_tasks(), plan.tasks.reused());
    let mut text = format!("{} ({kind}): {new} tasks new, {reused} re-used", plan.stage);
    let new_videos = plan.new_videos();
    let reused_videos = plan.reused_videos();
    if new_videos + reused_videos > 0 {
        text += &format!(" ({new_videos} videos new, {reused_videos} re-used)");
    }
    text += "\n";
    for (reason, count) in &plan.why {
        text += &format!("  new because of {reason}: {count}\n");
    }
    if let Some(shrinkage) = shrinkage(plan.videos_gone, plan.rows_fewer(), kind) {
        text += &format!("  {shrinkage}\n");
    }
    for damaged in &plan.damaged {
        text += &format!("  damaged, made again: {}\n", damaged.path);
    }
    for path in &plan.damaged_tables {
        text += &format!("  damaged, joined again: {path}\n");
    }
    for left in &plan.left_out {
        text += &format!("  left for the next run: {}: {}\n", left.video, left.reason);
    }
    if let Some(note) = &plan.note {
        text += &format!("  {note}\n");
    }
    // The first line has the kind of the stage; the version of its code is internal.
    let shown =
        plan.settings.iter().filter(|(name, _)| !["stage", "version"].contains(&name.as_str()));
    let settings: Vec<String> = shown.map(|(name, value)| format!("{name} {value}")).collect();
    text + &format!("  with {}\n", settings.join(", "))
}
