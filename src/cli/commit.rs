//! `lapo commit`: commits the finished partitions of a plan as new dataset versions.

use clap::Args as ClapArgs;

use super::exit::Exit;
use super::plan_folder::PlanFolderArgs;
use super::progress::{TerminalReporter, Verbosity};
use super::summary;
use crate::dataset::Access;
use crate::error::Result;
use crate::pipeline::partitions::{self, Missing};

/// Arguments of `lapo commit`.
#[derive(Debug, ClapArgs)]
pub struct CommitArgs {
    #[command(flatten)]
    pub plan: PlanFolderArgs,
    /// Commit the finished partitions even if others are missing; the next plan contains those
    #[arg(long)]
    pub partial: bool,
    /// Folder or address to use as the workspace [default: the plan's]
    #[arg(long)]
    pub workspace: Option<String>,
}

/// Commits, and prints the same summary line as a run.
pub fn run(args: &CommitArgs, access: &Access) -> Result<Exit> {
    let open = args.plan.open(args.workspace.as_deref(), access)?;
    // Workers may still be active, may have failed, or may never have started.
    let missing = if args.partial { Missing::LeaveOut } else { Missing::Refuse };
    let reporter = TerminalReporter::new(Verbosity::Normal);
    let summary =
        partitions::commit_all(&open.plan, &open.folder, &open.workspace, missing, &reporter)?;
    summary::print(&summary)
}
