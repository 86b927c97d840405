//! `lapo plan --kubernetes`: a manifest with an Indexed Job for each stage of the plan.

use std::path::Path;

use crate::cli::executor_args::worker_command;
use crate::dataset::Store;
use crate::error::CommandError as Error;
use crate::error::Result;
use crate::executor::engine::{PlanPlace, Work};
use crate::executor::kubernetes::{JobLimits, job};
use crate::executor::settings::ExecutorSettings;
use crate::pipeline::partitions::PartitionedPlan;
use crate::pipeline::yaml_documents;

/// Writes the manifest. A plan without partitions gives an empty one.
pub fn write(
    file: &Path,
    settings: &ExecutorSettings,
    plan: &PartitionedPlan,
    folder: &Store,
) -> Result<()> {
    // The path of this program means nothing in a container.
    let lapo = settings.lapo.clone().or_else(|| Some("lapo".to_owned()));
    let worker = worker_command(&ExecutorSettings { lapo, ..settings.clone() }, vec![])?;
    let place = PlanPlace {
        name: format!("{}-{}", plan.pipeline(), plan.run),
        address: folder.name(),
        base: plan.base.clone(),
        logs: std::path::PathBuf::new(),
    };
    let limits = JobLimits { max_workers: settings.max_workers, restarts: settings.restarts };
    let jobs = plan.stages_to_work().map(|(stage, partitions, needs)| {
        let count = settings.shares(partitions);
        let shares = (0..count).collect();
        let work = Work { stage: stage.to_owned(), count, shares, attempt: 0, needs };
        job(&place, &work, &settings.kubernetes, &worker, limits)
    });
    let text = yaml_documents(jobs.collect::<Vec<_>>());
    std::fs::write(file, text)
        .map_err(|source| Error::Output { to: file.display().to_string(), source })?;
    Ok(())
}
