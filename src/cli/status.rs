//! `lapo status`: shows which partitions of a plan are done.

use clap::{Args as ClapArgs, ValueEnum};
use serde_json::json;

use super::flags::at_least_one;
use super::fleet_view::stage_line;
use super::plan_folder::PlanFolderArgs;
use super::stdout::print;
use crate::dataset::Access;
use crate::error::Result;
use crate::executor::engine::{ranges, windows};
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
    #[arg(long, value_enum, default_value_t = StatusFormat::Table)]
    pub format: StatusFormat,
    /// With --format array: greatest number of elements of a job array
    #[arg(long, value_name = "N", default_value_t = 1001, value_parser = at_least_one())]
    pub max_array_size: usize,
}

/// How the progress is printed.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub enum StatusFormat {
    /// A line for each stage
    Table,
    /// JSON
    Json,
    /// The missing partitions as indices of a job array, such as 0-3,7; a line for each array, with
    /// its offset if it is not 0
    Array,
}

/// Prints the progress of every stage.
pub fn run(args: &StatusArgs, access: &Access) -> Result<()> {
    let open = args.plan.open(args.workspace.as_deref(), access)?;
    let status = partitions::status(&open.plan, &open.folder, &open.workspace)?;
    print(&match args.format {
        StatusFormat::Json => format!("{:#}\n", json!(status)),
        StatusFormat::Table => status.iter().map(line).collect(),
        StatusFormat::Array => arrays(&status, args.max_array_size),
    })
}

/// Returns a stage's progress and its missing partitions.
fn line(stage: &StageStatus) -> String {
    let mut line = stage_line(stage);
    if !stage.missing.is_empty() {
        line += &format!("; missing {}", ranges(&stage.missing));
    }
    line + "\n"
}

/// Returns the missing partitions as indices of job arrays.
fn arrays(status: &[StageStatus], size: usize) -> String {
    let mut missing: Vec<usize> = status.iter().flat_map(|stage| &stage.missing).copied().collect();
    missing.sort_unstable();
    let line = |(window, indices): (usize, Vec<usize>)| match window * size {
        0 => format!("{}\n", ranges(&indices)),
        offset => format!("{} {offset}\n", ranges(&indices)),
    };
    windows(&missing, size).into_iter().map(line).collect()
}
