//! `lapo rollback`: makes an older version of a dataset the newest again.

use std::time::{SystemTime, UNIX_EPOCH};

use clap::Args as ClapArgs;

use super::stdout::print;
use crate::dataset::{self, Access, Manifest, Store, host, runs};
use crate::error::Result;
use crate::query;

/// Arguments of `lapo rollback`.
#[derive(Debug, ClapArgs)]
pub struct RollbackArgs {
    /// The stage
    pub stage: String,
    /// The version to make the newest again
    pub version: u64,
    /// Workspace to change
    #[arg(long)]
    pub workspace: String,
}

/// Commits a new version with the tasks of an older one, and records this as a run.
pub fn run(args: &RollbackArgs, access: &Access) -> Result<()> {
    let store = Store::open_with(&args.workspace, access)?;
    let marker = dataset::workspace::require(&store)?;
    if Manifest::read(&store, &args.stage, args.version)?.is_none() {
        return Err(query::no_such_version(&store, &args.stage, Some(args.version))?.into());
    }
    let now = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
    // A rollback counts as a run, so that `lapo runs` lists it.
    let run = runs::begin(&store, &marker.pipeline, &host(), now.as_secs())?;
    let manifest =
        dataset::roll_back(&store, &args.stage, args.version, &run, now.as_millis() as u64)?;
    dataset::delta::publish_stage(&store, &args.stage, &manifest)?;
    let record = serde_json::json!({
        "format": dataset::FORMAT,
        "run": run,
        "pipeline": marker.pipeline,
        "started_unix_secs": now.as_secs(),
        "seconds": 0.0,
        "outcome": manifest.why,
        "stages": [{ "stage": args.stage, "version": manifest.version, "new": 0 }],
    });
    runs::record(&store, &run, &record)?;
    print(&format!(
        "{}: version {} has the tasks of version {}; \
         the next run of the pipeline commits its own tasks again\n",
        args.stage, manifest.version, args.version
    ))
}
