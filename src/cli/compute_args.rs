//! Flags for commands that compute, `run` and `worker`: cores, devices, memory and logging.

use std::path::{Path, PathBuf};

use clap::{Args as ClapArgs, ValueEnum};

use super::device_choice::{parse_devices, print_note};
use super::flags::{GameArgs, at_least_one};
use super::json_log::{self, JsonReporter};
use super::progress::{TerminalReporter, Verbosity};
use super::prometheus::PrometheusReporter;
use super::signals::stop_on_signals;
use crate::error::CommandError as Error;
use crate::error::Result;
use crate::executor::Resources;
use crate::models::Device;
use crate::pipeline::reporter::Reporter;
use crate::stages::Signal;
use crate::stages::decode::decoder_process::DecoderCommand;

/// Resources and logging of a command that computes.
#[derive(Debug, ClapArgs)]
pub struct ComputeArgs {
    /// Number of CPU cores to use [default: all]
    #[arg(long, value_parser = at_least_one())]
    pub threads: Option<usize>,
    /// Device for networks: auto, cpu, cuda:N or vulkan:N; of several GPUs (cuda:0,cuda:1), the
    /// first trains and all label
    #[arg(long, default_value = "auto", env = "LAPO_DEVICE")]
    pub device: String,
    /// Memory limit of each process that decodes videos, in GiB
    /// [default: an equal share of half of the machine's memory, at least 1 and at most 4]
    #[arg(long, value_name = "GIB", env = "LAPO_DECODER_MEMORY_GIB")]
    pub decoder_memory_gib: Option<f64>,
    /// Format of progress and errors on stderr
    #[arg(long, value_enum, default_value_t = LogFormat::Text, env = "LAPO_LOG_FORMAT")]
    pub log_format: LogFormat,
    /// Write Prometheus metrics to this file, for the textfile collector of its node exporter; a
    /// worker may also get a folder
    #[arg(long, value_name = "FILE")]
    pub metrics_file: Option<PathBuf>,
    /// Report only errors
    #[arg(long, short, conflicts_with = "verbose")]
    quiet: bool,
    /// Report progress every second instead of every 10, and why each stage has new tasks
    #[arg(long, short)]
    verbose: bool,
    #[command(flatten)]
    pub games: GameArgs,
}

/// Format of progress and errors.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub enum LogFormat {
    /// Progress bars on a terminal, else lines of text
    Text,
    /// One JSON object per line
    Json,
}

impl ComputeArgs {
    /// Returns whether progress and errors are JSON.
    pub fn logs_json(&self) -> bool {
        self.log_format == LogFormat::Json
    }

    /// Returns the flags that also concern workers of an engine, if the user gave them. Workers on
    /// this machine share its threads.
    pub fn forwarded(&self, are_local: bool) -> Vec<String> {
        let mut flags = Vec::new();
        let mut add = |name: &str, value: String| flags.extend([name.to_owned(), value]);
        if let Some(threads) = self.threads.filter(|_| !are_local) {
            add("--threads", threads.to_string());
        }
        if self.device != "auto" {
            add("--device", self.device.clone());
        }
        if let Some(memory) = self.decoder_memory_gib {
            add("--decoder-memory-gib", memory.to_string());
        }
        for (flag, at) in self.games.given() {
            add(flag, at.display().to_string());
        }
        if self.logs_json() {
            add("--log-format", "json".into());
        }
        flags
    }

    /// Returns how much to report.
    fn verbosity(&self) -> Verbosity {
        match (self.quiet, self.verbose) {
            (true, _) => Verbosity::Quiet,
            (_, true) => Verbosity::Verbose,
            _ => Verbosity::Normal,
        }
    }

    /// Sets up the thread pool and the signal handlers; returns the resources of the process.
    pub fn resources(&self) -> Result<Resources> {
        self.resources_until(&[Signal::Interrupt, Signal::Terminate, Signal::User1])
    }

    /// Sets up a worker. An engine may send several signals while a checkpoint is written, so only
    /// a second Ctrl-C ends it at once.
    pub fn resources_of_worker(&self) -> Result<Resources> {
        self.resources_until(&[Signal::Interrupt])
    }

    /// Sets up a process that only starts workers elsewhere: devices are those of other machines.
    pub fn resources_of_driver(&self) -> Result<Resources> {
        Ok(Resources {
            devices: vec![Device::Cpu],
            threads: set_threads(self.threads)?,
            decoder: None,
            games: vec![],
            stop: stop_on_signals(&[Signal::Interrupt, Signal::Terminate, Signal::User1])?,
        })
    }

    fn resources_until(&self, impatient: &[Signal]) -> Result<Resources> {
        let threads = set_threads(self.threads)?;
        let devices = parse_devices(&self.device, local_id().as_deref(), |text| self.note(text))?;
        Ok(Resources {
            devices,
            threads,
            decoder: self.decoder(threads)?,
            games: self.games.folders(),
            stop: stop_on_signals(impatient)?,
        })
    }

    /// Tells the user something, as `--log-format` and `--quiet` say.
    fn note(&self, text: &str) {
        match self.log_format {
            _ if self.quiet => {}
            LogFormat::Text => print_note(text),
            LogFormat::Json => json_log::event("note", serde_json::json!({ "text": text })),
        }
    }

    /// Returns how to start a process that decodes videos.
    #[cfg(feature = "video")]
    fn decoder(&self, threads: usize) -> Result<Option<DecoderCommand>, Error> {
        super::decoder::launch(self.decoder_memory_gib, threads).map(Some)
    }

    #[cfg(not(feature = "video"))]
    fn decoder(&self, _: usize) -> Result<Option<DecoderCommand>, Error> {
        Ok(None)
    }

    /// Does work with the reporters that these flags choose.
    pub fn with_reporter<T>(
        &self,
        pipeline: &str,
        work: impl FnOnce(&dyn Reporter) -> Result<T>,
    ) -> Result<T> {
        self.with_labelled_reporter(pipeline, &[], work)
    }

    /// Does work with the reporters that these flags choose, and more labels of the metrics.
    pub fn with_labelled_reporter<T>(
        &self,
        pipeline: &str,
        labels: &[(String, String)],
        work: impl FnOnce(&dyn Reporter) -> Result<T>,
    ) -> Result<T> {
        let reporter: Box<dyn Reporter> = match self.log_format {
            LogFormat::Text => Box::new(TerminalReporter::new(self.verbosity())),
            LogFormat::Json => Box::new(JsonReporter(self.verbosity())),
        };
        let Some(file) = &self.metrics_file else { return work(reporter.as_ref()) };
        let all = std::iter::once(("pipeline".to_owned(), pipeline.to_owned()));
        let all = all.chain(labels.iter().cloned()).collect();
        let prometheus =
            PrometheusReporter::new(reporter.as_ref(), &metrics_file(file, labels), all)?;
        let result = work(&prometheus);
        let written = prometheus.finish(result.is_ok());
        // An error of the work is more important than one of the metrics file.
        let done = result?;
        written?;
        Ok(done)
    }
}

/// Returns the number of this process among those of its machine, if its engine says so.
fn local_id() -> Option<String> {
    ["LAPO_LOCAL_ID", "SLURM_LOCALID"].iter().find_map(|name| std::env::var(name).ok())
}

/// Returns the file for metrics. In a folder, each worker has a file of its own.
fn metrics_file(file: &Path, labels: &[(String, String)]) -> PathBuf {
    let label = |name| labels.iter().find(|(label, _)| label == name).map(|(_, value)| value);
    match (label("run"), label("partitions")) {
        (Some(run), Some(partitions)) if file.is_dir() => {
            // Ranges of many partitions are too long for a name.
            let first = partitions.split([',', '-']).next().unwrap_or_default();
            file.join(format!("lapo-{run}-{first}.prom"))
        }
        _ => file.to_owned(),
    }
}

/// Sets the number of threads that compute, by default one per core, and returns it.
pub fn set_threads(threads: Option<usize>) -> Result<usize, Error> {
    let threads =
        threads.unwrap_or_else(|| std::thread::available_parallelism().map_or(1, Into::into));
    // The pool is global; a process can set it only once.
    let built = rayon::ThreadPoolBuilder::new().num_threads(threads).build_global();
    built.map(|()| threads).map_err(|cause| Error::Usage {
        what: format!("--threads {threads}: {cause}"),
        hint: "give a number of cores, or omit the flag".into(),
    })
}
