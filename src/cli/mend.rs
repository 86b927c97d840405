//! `lapo verify` and `lapo rollback`: whether a workspace's files are whole, and a dataset as it was.

use std::time::{SystemTime, UNIX_EPOCH};

use clap::Args as ClapArgs;

use super::args::Format;
use super::look::workspace;
use super::{Error, print, told};
use crate::dataset::verify::{self, Depth, Report};
use crate::dataset::{self, Access, Store, host, runs};
use crate::error::Result;
use crate::query;

/// What `lapo verify` takes.
#[derive(Debug, ClapArgs)]
pub struct Verify {
    /// Look only whether files are there at their size, not at their content
    #[arg(long)]
    pub fast: bool,
    /// Delete damaged files and the receipts of their tasks: the next run makes just these tasks anew
    #[arg(long)]
    pub delete: bool,
    /// The workspace [default: the only one under runs/]
    #[arg(long, env = "LAPO_WORKSPACE")]
    pub workspace: Option<String>,
    /// How to print it: table or json
    #[arg(long, value_enum, default_value_t = Format::Table)]
    pub format: Format,
}

/// What `lapo rollback` takes.
#[derive(Debug, ClapArgs)]
pub struct Rollback {
    /// The stage
    pub stage: String,
    /// The version that becomes the newest again
    pub version: u64,
    /// The workspace
    #[arg(long)]
    pub workspace: String,
}

/// Looks at every file of the newest versions; ends with 1 where some are damaged and stay.
pub fn verify(args: &Verify, access: &Access) -> Result<()> {
    let store = Store::open_with(&workspace(args.workspace.as_deref())?, access)?;
    let report = verify::verify(&store, if args.fast { Depth::Sizes } else { Depth::Digests })?;
    if args.delete {
        verify::delete(&store, &report.findings)?;
    }
    print(&told(args.format, &report, |report| findings(report, args.delete)))?;
    match report.findings.len() {
        0 => Ok(()),
        _ if args.delete => Ok(()),
        count => Err(Error::Damaged(count).into()),
    }
}

fn findings(report: &Report, deleted: bool) -> String {
    let lines = report.findings.iter().map(|found| format!("{}: {}\n", found.path, found.problem));
    let all = format!(
        "{} files of {} bytes: {} damaged",
        report.files,
        report.bytes,
        report.findings.len()
    );
    let end = match (report.findings.is_empty(), deleted) {
        (true, _) => "",
        (false, true) => "; deleted: run the pipeline again, it makes their tasks anew",
        (false, false) => "",
    };
    lines.chain([format!("{all}{end}\n")]).collect()
}

/// Makes an older version the newest again.
pub fn rollback(args: &Rollback, access: &Access) -> Result<()> {
    let store = Store::open_with(&args.workspace, access)?;
    let marker = dataset::workspace::require(&store)?;
    if dataset::at(&store, &args.stage, args.version)?.is_none() {
        return Err(query::no_such_version(&store, &args.stage, Some(args.version))?.into());
    }
    let now = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
    let run = runs::begin(&store, &marker.pipeline, &host(), now.as_secs())?;
    let manifest =
        dataset::rolled_back(&store, &args.stage, args.version, &run, now.as_millis() as u64)?;
    dataset::delta::publish_stage(&store, &args.stage, &manifest)?;
    let record = serde_json::json!({
        "format": dataset::FORMAT, "run": run, "pipeline": marker.pipeline, "started_unix_secs": now.as_secs(), "seconds": 0.0,
        "outcome": manifest.why, "stages": [{ "stage": args.stage, "version": manifest.version, "new": 0 }],
    });
    runs::record(&store, &run, &record)?;
    print(&format!(
        "{}: version {} has the tasks of version {}; the next run of the pipeline commits its own tasks again\n",
        args.stage, manifest.version, args.version
    ))
}
