//! `lapo plan --sbatch`: scripts for Slurm that a person reads and submits, without a driver.
//!
//! Each wave has a script for every job array, `next.sbatch` and `submit.sh`. The last job of a wave
//! commits it, plans the next wave and submits it. If an array fails, Slurm cancels that job.

use std::fmt::Write;
use std::path::{Path, PathBuf};

use super::PlanArgs;
use crate::cli::executor_args::worker_command;
use crate::cli::stderr;
use crate::cli::stdout::print;
use crate::dataset::{Access, Store};
use crate::error::CommandError as Error;
use crate::error::Result;
use crate::executor::engine::{PlanPlace, Work, quoted, windows};
use crate::executor::settings::ExecutorSettings;
use crate::executor::slurm;
use crate::executor::slurm::script::{Array, Cluster, Scripts, resources};
use crate::pipeline::check::Checked;
use crate::pipeline::partitions::{PartitionedPlan, write_partitions};
use crate::pipeline::plan::PlanOptions;
use crate::stages::Needs;

/// Plans into the next numbered folder of `folder`, writes the scripts and prints the path of
/// `submit.sh`. Prints nothing if the plan changes nothing.
pub fn write(
    args: &PlanArgs,
    folder: &Path,
    (checked, store, options): (&Checked, &Store, &PlanOptions),
    access: &Access,
) -> Result<()> {
    let settings = args.executor.settings()?;
    let cluster = slurm::ask(&settings.slurm).map_err(crate::pipeline::Error::from)?;
    let folder = next_folder(folder)?;
    let plan_folder = Store::open_with(&folder.join("plan").display().to_string(), access)?;
    let plan = write_partitions(checked, store, options, &plan_folder)?;
    if plan.changes == 0 {
        let removed = std::fs::remove_dir_all(&folder);
        removed.map_err(|source| Error::Output { to: folder.display().to_string(), source })?;
        stderr::line("nothing to do");
        return Ok(());
    }
    let wave = Wave { args, settings: &settings, cluster: &cluster, plan: &plan, folder: &folder };
    let place = PlanPlace {
        name: format!("{}-{}", plan.pipeline(), plan.run),
        address: plan_folder.name(),
        base: plan.base.clone(),
        logs: settings
            .logs
            .as_ref()
            .map_or(folder.join("logs"), |logs| Path::new(&plan.base).join(logs)),
    };
    make_folder(&place.logs)?;
    let arrays = wave.arrays(&place)?;
    wave.write("next.sbatch", &wave.next(&place)?)?;
    wave.write("submit.sh", &wave.submit(&arrays))?;
    print(&format!("{}\n", folder.join("submit.sh").display()))
}

/// Creates the folder of the next wave: `FOLDER/1`, `FOLDER/2`, ...
fn next_folder(folder: &Path) -> Result<PathBuf, Error> {
    make_folder(folder)?;
    let failed = |source| Error::Output { to: folder.display().to_string(), source };
    let folder = std::path::absolute(folder).map_err(failed)?;
    for number in 1.. {
        let wave = folder.join(number.to_string());
        match std::fs::create_dir(&wave) {
            Err(cause) if cause.kind() == std::io::ErrorKind::AlreadyExists => {}
            created => return created.map(|()| wave).map_err(failed),
        }
    }
    unreachable!("some number is free")
}

fn make_folder(folder: &Path) -> Result<(), Error> {
    std::fs::create_dir_all(folder)
        .map_err(|source| Error::Output { to: folder.display().to_string(), source })
}

/// The scripts of one wave.
struct Wave<'a> {
    args: &'a PlanArgs,
    settings: &'a ExecutorSettings,
    cluster: &'a Cluster,
    plan: &'a PartitionedPlan,
    folder: &'a Path,
}

impl Wave<'_> {
    fn write(&self, name: &str, text: &str) -> Result<(), Error> {
        let path = self.folder.join(name);
        std::fs::write(&path, text)
            .map_err(|source| Error::Output { to: path.display().to_string(), source })
    }

    /// Writes a script for each job array and returns their names.
    fn arrays(&self, place: &PlanPlace) -> Result<Vec<String>> {
        let settings = self.settings;
        let worker = worker_command(settings, vec![])?;
        let mut names = Vec::new();
        for (stage, partitions, needs) in self.plan.stages_to_work() {
            let (resources, note) = resources(&settings.slurm, self.cluster, needs);
            if let Some(note) = note {
                stderr::line(format!("note: stage {stage}: {note}"));
            }
            let count = settings.shares(partitions);
            let shares: Vec<usize> = (0..count).collect();
            let size = self.cluster.max_array_size;
            let windows = windows(&shares, size);
            let work = Work { stage: stage.to_owned(), count, shares, attempt: 0, needs };
            let scripts = Scripts {
                plan: place,
                work: &work,
                settings: &settings.slurm,
                resources: &resources,
                worker: &worker,
            };
            let max_running = settings.max_workers.map(|most| (most / windows.len()).max(1));
            for (window, indices) in windows {
                let offset = window * size;
                let name = format!("lapo-{stage}");
                let array = Array { name, indices: &indices, offset, max_running };
                let file = format!("{stage}-{offset}.sbatch");
                self.write(&file, &scripts.requeued_array(&array))?;
                names.push(file);
            }
        }
        Ok(names)
    }

    /// Returns the script of the wave's last job.
    fn next(&self, place: &PlanPlace) -> Result<String> {
        // A plan of a million videos takes two GiB.
        let needs = Needs { gpu: false, cores: 1, memory_mib: 8192 };
        let (resources, _) = resources(&self.settings.slurm, self.cluster, needs);
        let lapo = quoted(&worker_command(self.settings, vec![])?.lapo);
        let container: String =
            self.settings.slurm.container.iter().map(|word| format!("{} ", quoted(word))).collect();
        let head = resources.job("lapo-commit", &place.logs.join("commit.log"), place);
        let prologue = self.settings.slurm.prologue.trim_end();
        Ok(format!(
            "{head}{prologue}\n\
             set -eu\n\
             {container}{lapo} commit --plan {plan}\n\
             # Prints nothing if there is nothing left to do.\n\
             next=$({container}{lapo} plan {again})\n\
             [ -z \"$next\" ] || sh \"$next\"\n",
            plan = quoted(&place.address),
            again = self.again(),
        ))
    }

    /// Returns the arguments of the next plan. `--refresh` and `--retry-rejected` mean one attempt.
    fn again(&self) -> String {
        let PlanArgs { pipeline, planning, executor, checkpoint_secs, .. } = self.args;
        let mut words = vec![pipeline.pipeline.clone()];
        let mut add = |flag: &str, value: String| words.extend([flag.to_owned(), value]);
        pipeline.set.iter().for_each(|pair| add("--set", pair.clone()));
        pipeline.workspace.iter().for_each(|workspace| add("--workspace", workspace.clone()));
        planning.max_dropped.iter().for_each(|share| add("--max-dropped", share.to_string()));
        add("--checkpoint-secs", checkpoint_secs.to_string());
        executor.arguments().into_iter().for_each(|(flag, value)| add(flag, value));
        let waves = self.folder.parent().unwrap_or(self.folder);
        add("--sbatch", waves.display().to_string());
        if planning.take_over {
            words.push("--take-over".into());
        }
        words.iter().map(|word| quoted(word)).collect::<Vec<_>>().join(" ")
    }

    /// Returns the script that submits all jobs of the wave.
    fn submit(&self, arrays: &[String]) -> String {
        let folder = quoted(&self.folder.display().to_string());
        let mut text = format!("#!/bin/sh\nset -eu\ncd {folder}\narrays=\n");
        for file in arrays {
            _ = writeln!(text, "arrays=$arrays:$(sbatch --parsable {})", quoted(file));
        }
        let dependency = if arrays.is_empty() { "" } else { "--dependency=afterok$arrays " };
        _ = writeln!(text, "sbatch --parsable {dependency}--kill-on-invalid-dep=yes next.sbatch");
        text
    }
}
