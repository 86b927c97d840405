//! `lapo status`: shows which partitions of a plan are done.

use clap::Args as ClapArgs;

use super::flags::Format;
use super::plan_folder::PlanFolderArgs;
use super::stdout::print_as;
use crate::dataset::Access;
use crate::error::Result;
use crate::pipeline::partitions::{self, StageStatus};

/// Arguments of `lapo status`.
#[derive(Debug, ClapArgs)]
pub struct StatusArgs {
    #[command(flatten)]
    pub plan: PlanFolderArgs,
    /// Folder or address to use as the workspace [default: the plan's]
    #[arg(long)]
    pub workspace: Option<String>,
    /// Output format
    #[arg(long, value_enum, default_value_t = Format::Table)]
    pub format: Format,
}

/// Prints a line per stage.
pub fn run(args: &StatusArgs, access: &Access) -> Result<()> {
    let open = args.plan.open(args.workspace.as_deref(), access)?;
    let status = partitions::status(&open.plan, &open.folder, &open.workspace)?;
    print_as(args.format, &status, |stages| stages.iter().map(line).collect())
}

fn line(stage: &StageStatus) -> String {
    let StageStatus { stage, kind, done, missing } = stage;
    let total = done + missing.len();
    let mut line = format!("{stage} ({kind}): {done} of {total} partitions done");
    if !missing.is_empty() {
        let numbers: Vec<String> = missing.iter().map(ToString::to_string).collect();
        line += &format!("; missing {}", numbers.join(","));
    }
    line + "\n"
}
