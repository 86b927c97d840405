//! Flags that choose where tasks run, and the engines they stand for.

use std::path::{Path, PathBuf};

use clap::{Args as ClapArgs, ValueEnum};

use super::flags::at_least_one;
use crate::error::CommandError as Error;
use crate::error::Result;
use crate::executor::engine::{Engine, WorkerCommand};
use crate::executor::processes::{ProcessCommand, Processes};
use crate::executor::ray::Ray;
use crate::executor::settings::ExecutorSettings;
use crate::executor::slurm::Slurm;
use crate::pipeline::load_executor_settings;

/// Where workers run.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub enum ExecutorKind {
    /// Processes of this machine
    Local,
    /// Job arrays of Slurm
    Slurm,
    /// A job of a Ray cluster
    Ray,
    /// A command for each worker, which starts it somewhere and waits for it
    Command,
}

impl ExecutorKind {
    /// Returns the name as users write it.
    pub fn name(self) -> &'static str {
        match self {
            ExecutorKind::Local => "local",
            ExecutorKind::Slurm => "slurm",
            ExecutorKind::Ray => "ray",
            ExecutorKind::Command => "command",
        }
    }
}

/// Settings of the workers.
#[derive(Debug, ClapArgs)]
pub struct ExecutorSettingsArgs {
    /// YAML file with the settings of the executor; see `lapo schema executor`
    #[arg(long, value_name = "FILE", env = "LAPO_EXECUTOR_CONFIG", help_heading = "Workers")]
    pub executor_config: Option<PathBuf>,
    /// Number of partitions that one worker does [default: 1]
    #[arg(long, value_name = "N", value_parser = at_least_one(), help_heading = "Workers")]
    partitions_per_worker: Option<usize>,
    /// Greatest number of concurrent workers
    #[arg(long, value_name = "N", value_parser = at_least_one(), help_heading = "Workers")]
    max_workers: Option<usize>,
}

impl ExecutorSettingsArgs {
    /// Returns the given flags and their values.
    pub fn arguments(&self) -> Vec<(&'static str, String)> {
        let file = self.executor_config.as_ref().map(|file| file.display().to_string());
        let partitions = self.partitions_per_worker.map(|number| number.to_string());
        let workers = self.max_workers.map(|number| number.to_string());
        let flags = [
            ("--executor-config", file),
            ("--partitions-per-worker", partitions),
            ("--max-workers", workers),
        ];
        flags.into_iter().filter_map(|(flag, value)| Some((flag, value?))).collect()
    }

    /// Returns the settings of the file, with those of the flags.
    pub fn settings(&self) -> Result<ExecutorSettings> {
        let mut settings = match &self.executor_config {
            Some(file) => load_executor_settings(file)?,
            None => ExecutorSettings::default(),
        };
        if let Some(partitions) = self.partitions_per_worker {
            settings.partitions_per_worker = partitions;
        }
        settings.max_workers = self.max_workers.or(settings.max_workers);
        settings.check().map_err(crate::pipeline::Error::from)?;
        Ok(settings)
    }
}

/// Where the tasks of a run are done.
#[derive(Debug, ClapArgs)]
pub struct ExecutorArgs {
    /// Where to run tasks [default: in this process]
    #[arg(long, value_enum, value_name = "WHERE", help_heading = "Workers")]
    pub executor: Option<ExecutorKind>,
    /// With --executor: leave the workers alone when this process is stopped; the same command
    /// finds them again
    #[arg(long, requires = "executor", help_heading = "Workers")]
    pub detach: bool,
    #[command(flatten)]
    pub settings: ExecutorSettingsArgs,
    /// With --executor command: a shell command that starts a worker and waits for it; {plan},
    /// {share}, {attempt}, {gpu}, {cores} and {memory_mib} are replaced
    #[arg(value_name = "COMMAND")]
    pub command: Option<String>,
}

impl ExecutorArgs {
    /// Checks that the flags fit together.
    pub fn check(&self) -> Result<(), Error> {
        let usage = |what: &str, hint: &str| {
            Err(Error::Usage { what: what.to_owned(), hint: hint.to_owned() })
        };
        match (self.executor, &self.command) {
            (Some(ExecutorKind::Command), None) => usage(
                "--executor command: the command is missing",
                "for example: lapo run pipeline.yaml --executor command \
                 'ssh node1 lapo worker --plan {plan} --share {share}'",
            ),
            (Some(ExecutorKind::Command), Some(command)) if !command.contains("{share}") => usage(
                "the command has no {share}: every worker would run the same partitions",
                "pass the share on: lapo worker --plan {plan} --share {share}",
            ),
            (Some(ExecutorKind::Command), Some(_)) | (_, None) => Ok(()),
            (_, Some(command)) => Err(Error::Usage {
                what: format!("unexpected argument `{command}`"),
                hint: "a command needs --executor command".into(),
            }),
        }
    }

    /// Creates the engine. `forwarded` are arguments of this command that also concern workers.
    pub fn engine(
        &self,
        kind: ExecutorKind,
        settings: &ExecutorSettings,
        cores: usize,
        forwarded: Vec<String>,
    ) -> Result<Box<dyn Engine>> {
        let worker = worker_command(settings, forwarded)?;
        let cores = u32::try_from(cores).unwrap_or(u32::MAX);
        Ok(match kind {
            ExecutorKind::Local => {
                let command = ProcessCommand::Worker(worker);
                Box::new(Processes::new(command, cores, settings.max_workers))
            }
            ExecutorKind::Command => {
                let command = ProcessCommand::Shell(self.command.clone().unwrap_or_default());
                Box::new(Processes::new(command, cores, settings.max_workers))
            }
            ExecutorKind::Slurm => {
                Box::new(Slurm::new(settings.slurm.clone(), worker, settings.max_workers))
            }
            ExecutorKind::Ray => {
                let variable = |name: &str| std::env::var(name).ok().filter(|set| !set.is_empty());
                let address = settings
                    .ray
                    .address
                    .clone()
                    .or_else(|| variable("RAY_API_SERVER_ADDRESS"))
                    .unwrap_or_else(|| "http://127.0.0.1:8265".to_owned());
                let token = variable("RAY_AUTH_TOKEN");
                let ray = Ray::new(
                    settings.ray.clone(),
                    &address,
                    token.as_deref(),
                    worker,
                    settings.max_workers,
                );
                Box::new(ray.map_err(crate::pipeline::Error::from)?)
            }
        })
    }
}

/// Returns how a worker is started: this program, unless the settings name another one.
pub fn worker_command(
    settings: &ExecutorSettings,
    forwarded: Vec<String>,
) -> Result<WorkerCommand, Error> {
    let lapo = match &settings.lapo {
        Some(lapo) => lapo.clone(),
        None => std::env::current_exe()
            .map_err(|source| Error::Input { from: "the path of this program".into(), source })?
            .display()
            .to_string(),
    };
    let arguments = forwarded.into_iter().chain(settings.worker_arguments.iter().cloned());
    Ok(WorkerCommand { lapo, arguments: arguments.collect(), stagger_secs: settings.stagger_secs })
}

/// Returns the folder for logs of workers whose workspace is in an object store.
pub fn remote_logs() -> PathBuf {
    std::env::current_dir().unwrap_or_default().join(Path::new("lapo-logs"))
}
