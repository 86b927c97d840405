//! Metrics of a run for Prometheus: a file of gauges that its node exporter collects.

use std::collections::BTreeMap;
use std::fmt::Write;
use std::fs;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use super::json_log::unix_seconds;
use crate::error::CommandError as Error;
use crate::pipeline::plan::StagePlan;
use crate::pipeline::reporter::{FleetStatus, Reporter};
use crate::pipeline::summary::StageSummary;
use crate::stages::Progress;

/// Time between two writes of the file while a stage runs.
const WRITE_INTERVAL: Duration = Duration::from_secs(10);

/// Passes everything on to another reporter, and keeps a file of gauges.
pub struct PrometheusReporter<'a> {
    inner: &'a dyn Reporter,
    gauges: Arc<Mutex<Gauges>>,
}

struct Gauges {
    file: PathBuf,
    /// Labels of every metric, such as the pipeline.
    labels: Vec<(String, String)>,
    /// Values by metric, then by stage. Metrics of the whole run have an empty stage.
    values: BTreeMap<&'static str, BTreeMap<String, f64>>,
    last_write: Instant,
    /// Why the last write failed, if it did.
    failed: Option<std::io::Error>,
}

/// The help text of every metric. Metrics are written in this order.
const HELP: [(&str, &str); 11] = [
    ("lapo_run_finished_unix_seconds", "Time when the run ended."),
    ("lapo_run_succeeded", "1 if the run succeeded, 0 if it failed."),
    ("lapo_stage_partitions_done", "Partitions of the plan that workers have done."),
    ("lapo_stage_partitions_missing", "Partitions of the plan that are not done."),
    ("lapo_stage_rejects", "Videos of the dataset that were rejected, in full or in part."),
    ("lapo_stage_seconds", "Wall time of the stage."),
    ("lapo_stage_tasks_new", "Tasks done by this run."),
    ("lapo_stage_tasks_reused", "Tasks done by earlier runs."),
    ("lapo_stage_units", "Units of work to do: videos, episodes, steps or transitions."),
    ("lapo_stage_units_done", "Units of work done so far."),
    ("lapo_workers", "Queued and running workers of the run."),
];

impl<'a> PrometheusReporter<'a> {
    /// Creates the file, so that an unwritable path fails before the run begins.
    pub fn new(
        inner: &'a dyn Reporter,
        file: &Path,
        labels: Vec<(String, String)>,
    ) -> Result<Self, Error> {
        let mut gauges = Gauges {
            file: file.to_owned(),
            labels,
            values: BTreeMap::new(),
            last_write: Instant::now(),
            failed: None,
        };
        gauges.write();
        gauges.check()?;
        Ok(PrometheusReporter { inner, gauges: Arc::new(Mutex::new(gauges)) })
    }

    /// Writes how the run ended. Fails if the file cannot be written.
    pub fn finish(self, succeeded: bool) -> Result<(), Error> {
        let mut gauges = self.gauges.lock().unwrap_or_else(PoisonError::into_inner);
        gauges.set("lapo_run_succeeded", "", f64::from(u8::from(succeeded)));
        gauges.set("lapo_run_finished_unix_seconds", "", unix_seconds());
        gauges.write();
        gauges.check()
    }
}

impl Reporter for PrometheusReporter<'_> {
    fn run_started(&self, run: &str) {
        self.inner.run_started(run);
    }

    fn stage_started(&self, plan: &StagePlan, units: u64) -> Box<dyn Progress> {
        // Plain numbers are valid even after a panic: use a poisoned lock.
        let mut gauges = self.gauges.lock().unwrap_or_else(PoisonError::into_inner);
        gauges.set("lapo_stage_units", &plan.stage, units as f64);
        gauges.set("lapo_stage_units_done", &plan.stage, 0.0);
        gauges.write();
        Box::new(CountedProgress {
            progress: self.inner.stage_started(plan, units),
            stage: plan.stage.clone(),
            gauges: Arc::clone(&self.gauges),
        })
    }

    fn stage_ended(&self, stage: &StageSummary) {
        let mut gauges = self.gauges.lock().unwrap_or_else(PoisonError::into_inner);
        gauges.set("lapo_stage_seconds", &stage.stage, stage.seconds);
        gauges.set("lapo_stage_tasks_new", &stage.stage, stage.new as f64);
        gauges.set("lapo_stage_tasks_reused", &stage.stage, stage.reused as f64);
        gauges.set("lapo_stage_rejects", &stage.stage, stage.total.rejects as f64);
        gauges.write();
        self.inner.stage_ended(stage);
    }

    fn fleet(&self, status: &FleetStatus) {
        let mut gauges = self.gauges.lock().unwrap_or_else(PoisonError::into_inner);
        gauges.set("lapo_workers", "", status.workers as f64);
        for stage in status.stages {
            gauges.set("lapo_stage_partitions_done", &stage.stage, stage.done as f64);
            gauges.set("lapo_stage_partitions_missing", &stage.stage, stage.missing.len() as f64);
        }
        if gauges.last_write.elapsed() >= WRITE_INTERVAL {
            gauges.write();
        }
        self.inner.fleet(status);
    }

    fn say(&self, text: &str) {
        self.inner.say(text);
    }

    fn note(&self, text: &str) {
        self.inner.note(text);
    }
}

/// The progress of a stage; also counts the stage's gauge of units done.
struct CountedProgress {
    progress: Box<dyn Progress>,
    stage: String,
    gauges: Arc<Mutex<Gauges>>,
}

impl Progress for CountedProgress {
    fn advance(&self, units: u64) {
        self.progress.advance(units);
        self.count(units);
    }

    fn resume(&self, units: u64) {
        self.progress.resume(units);
        self.count(units);
    }

    fn note(&self, text: &str) {
        self.progress.note(text);
    }

    fn say(&self, text: &str) {
        self.progress.say(text);
    }
}

impl CountedProgress {
    fn count(&self, units: u64) {
        let mut gauges = self.gauges.lock().unwrap_or_else(PoisonError::into_inner);
        let stages = gauges.values.get_mut("lapo_stage_units_done");
        if let Some(done) = stages.and_then(|stages| stages.get_mut(&self.stage)) {
            *done += units as f64;
        }
        // Units may finish many times a second; Prometheus reads the file every few seconds.
        if gauges.last_write.elapsed() >= WRITE_INTERVAL {
            gauges.write();
        }
    }
}

impl Gauges {
    fn set(&mut self, metric: &'static str, stage: &str, value: f64) {
        self.values.entry(metric).or_default().insert(stage.to_owned(), value);
    }

    /// Replaces the file as a whole: a reader never sees half of one. A failure is kept for
    /// [`Gauges::check`], so that a full disk does not stop the run.
    fn write(&mut self) {
        let mut staged = self.file.clone().into_os_string();
        staged.push(".new");
        self.failed =
            fs::write(&staged, self.text()).and_then(|()| fs::rename(&staged, &self.file)).err();
        self.last_write = Instant::now();
    }

    /// Returns the gauges in Prometheus' text format.
    fn text(&self) -> String {
        let mut text = String::new();
        for (metric, help) in HELP {
            let Some(stages) = self.values.get(metric) else { continue };
            _ = writeln!(text, "# HELP {metric} {help}\n# TYPE {metric} gauge");
            for (stage, value) in stages {
                let own = (!stage.is_empty()).then(|| ("stage".to_owned(), stage.clone()));
                let labels = self.labels.iter().chain(&own);
                let labels: Vec<String> =
                    labels.map(|(name, value)| format!("{name}=\"{}\"", escape(value))).collect();
                _ = writeln!(text, "{metric}{{{}}} {value}", labels.join(","));
            }
        }
        text
    }

    /// Fails if the last write failed.
    fn check(&mut self) -> Result<(), Error> {
        let failed = |source| Error::Output { to: self.file.display().to_string(), source };
        self.failed.take().map_or(Ok(()), |source| Err(failed(source)))
    }
}

/// Escapes a label's value for Prometheus' text format.
fn escape(label: &str) -> String {
    label.replace('\\', "\\\\").replace('"', "\\\"").replace('\n', "\\n")
}
