//! `lapo verify`: compares a workspace's files with their receipts.

use clap::Args as ClapArgs;

use super::flags::Format;
use super::stdout::print_as;
use super::workspace;
use crate::dataset::verify::{self, Depth, Report};
use crate::dataset::{Access, Store};
use crate::error::CommandError as Error;
use crate::error::Result;

/// Arguments of `lapo verify`.
#[derive(Debug, ClapArgs)]
pub struct VerifyArgs {
    /// Check only that files exist and have their size, not their content
    #[arg(long)]
    pub fast: bool,
    /// Delete damaged files and the receipts of their tasks; the next run redoes only these tasks
    #[arg(long)]
    pub delete: bool,
    /// Workspace to verify [default: the only one under runs/]
    #[arg(long, env = "LAPO_WORKSPACE")]
    pub workspace: Option<String>,
    /// Output format
    #[arg(long, value_enum, default_value_t = Format::Table)]
    pub format: Format,
}

/// Verifies every file of the newest versions. Fails if damaged files are found and not deleted.
pub fn run(args: &VerifyArgs, access: &Access) -> Result<()> {
    let store = Store::open_with(&workspace::find(args.workspace.as_deref())?, access)?;
    let depth = if args.fast { Depth::Sizes } else { Depth::Digests };
    let report = verify::verify(&store, depth)?;
    if args.delete {
        verify::delete(&store, &report.findings)?;
    }
    print_as(args.format, &report, |report| describe(report, args.delete))?;
    let left = report.findings.iter().filter(|finding| !args.delete || !finding.is_repairable());
    let left: Vec<_> = left.collect();
    if left.is_empty() {
        return Ok(());
    }
    let repairable = left.iter().filter(|finding| finding.is_repairable()).count();
    Err(Error::Damaged { files: left.len(), repairable }.into())
}

/// Returns a line per damaged file, and a last line with the totals.
fn describe(report: &Report, deleted: bool) -> String {
    let damaged = report.findings.len();
    let repairable = report.findings.iter().filter(|finding| finding.is_repairable()).count();
    let mut text = String::new();
    for finding in &report.findings {
        text += &format!("{}: {}\n", finding.path, finding.problem);
    }
    text += &format!("{} files of {} bytes: {damaged} damaged", report.files, report.bytes);
    if deleted && repairable > 0 {
        text += &format!("; {repairable} deleted: run the pipeline again to redo their tasks");
    }
    text + "\n"
}
