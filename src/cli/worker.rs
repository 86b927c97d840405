//! `lapo worker`: does partitions of a plan.

use clap::Args as ClapArgs;

use super::compute_args::ComputeArgs;
use super::plan_folder::{OpenPlan, PlanFolderArgs};
use super::stdout::print;
use crate::dataset::Access;
use crate::error::CommandError as Error;
use crate::error::Result;
use crate::executor::Resources;
use crate::pipeline;
use crate::pipeline::partitions::{self, PartitionResult};
use crate::pipeline::reporter::Reporter;

/// Arguments of `lapo worker`.
#[derive(Debug, ClapArgs)]
pub struct WorkerArgs {
    #[command(flatten)]
    pub plan: PlanFolderArgs,
    /// Numbers of the partitions to do, from 0
    #[arg(long, value_name = "NUMBER", num_args = 1.., required = true)]
    pub partition: Vec<usize>,
    /// Folder or address to use as the workspace [default: the plan's]
    #[arg(long)]
    pub workspace: Option<String>,
    #[command(flatten)]
    pub compute: ComputeArgs,
}

/// Does the given partitions; those that are already done are skipped.
pub fn run(args: &WorkerArgs, access: &Access) -> Result<()> {
    let resources = args.compute.resources()?;
    let open = args.plan.open(args.workspace.as_deref(), access)?;
    // Relative paths of videos start from the folder in which the plan was made.
    let base = &open.plan.base;
    std::env::set_current_dir(base).map_err(|source| Error::Input {
        from: format!("the folder {base} in which the plan was made"),
        source,
    })?;
    args.compute.with_reporter(open.plan.pipeline(), |reporter| {
        work(&open, &args.partition, &resources, reporter)
    })
}

/// Does partitions, prints how each ended, and fails if any of them failed.
fn work(
    open: &OpenPlan,
    partitions: &[usize],
    resources: &Resources,
    reporter: &dyn Reporter,
) -> Result<()> {
    let OpenPlan { folder, plan, workspace } = open;
    reporter.run_started(&plan.run);
    let mut failures = Vec::new();
    let mut text = String::new();
    for PartitionResult { partition, result } in
        partitions::work(plan, folder, partitions, workspace, resources, reporter)?
    {
        let outcome = match result {
            Ok(true) => "was done already",
            Ok(false) => "done",
            Err(failure) => {
                failures.push(failure);
                "failed"
            }
        };
        text += &format!("partition {partition}: {outcome}\n");
    }
    let printed = print(&text);
    if failures.is_empty() {
        return printed;
    }
    // Failed partitions decide the exit code, even if stdout is closed.
    Err(pipeline::Error::Partitions { total: partitions.len(), failures }.into())
}
