//! A run, told to Prometheus: a file of gauges that its node exporter collects.

use std::collections::BTreeMap;
use std::fmt::Write;
use std::fs;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use super::Error;
use super::fleet::now;
use crate::pipeline::plan::StagePlan;
use crate::pipeline::run::{StageSummary, Watch};
use crate::stages::Progress;

/// Between two writes of the gauges.
const PAUSE: Duration = Duration::from_secs(10);

/// Watches as another does, and keeps a file of gauges.
pub struct Metered<'a> {
    watch: &'a dyn Watch,
    gauges: Arc<Mutex<Gauges>>,
}

struct Gauges {
    file: PathBuf,
    pipeline: String,
    /// By metric, then by stage.
    values: BTreeMap<&'static str, BTreeMap<String, f64>>,
    written: Instant,
    failed: Option<std::io::Error>,
}

/// What each metric is, for those who read the file.
const HELP: [(&str, &str); 8] = [
    ("lapo_run_finished_unix_seconds", "When the run ended."),
    ("lapo_run_succeeded", "1 where the run ended well, 0 where it failed."),
    ("lapo_stage_rejects", "Videos of the dataset that were rejected, wholly or in part."),
    ("lapo_stage_seconds", "Wall time of the stage."),
    ("lapo_stage_tasks_new", "Tasks this run did."),
    ("lapo_stage_tasks_reused", "Tasks that were done before."),
    (
        "lapo_stage_units",
        "Units of work this run has to do: videos, episodes, steps or transitions.",
    ),
    ("lapo_stage_units_done", "Units of work this run has done."),
];

impl<'a> Metered<'a> {
    /// Begins the file.
    pub fn new(watch: &'a dyn Watch, file: &Path, pipeline: &str) -> Result<Self, Error> {
        let (file, pipeline) = (file.to_owned(), pipeline.to_owned());
        let mut gauges = Gauges {
            file,
            pipeline,
            values: BTreeMap::new(),
            written: Instant::now(),
            failed: None,
        };
        gauges.write();
        gauges.check()?;
        Ok(Metered { watch, gauges: Arc::new(Mutex::new(gauges)) })
    }

    /// Says how the run ended.
    pub fn finish(self, well: bool) -> Result<(), Error> {
        let mut gauges = self.gauges.lock().unwrap_or_else(PoisonError::into_inner);
        gauges.set("lapo_run_succeeded", "", f64::from(u8::from(well)));
        gauges.set("lapo_run_finished_unix_seconds", "", now());
        gauges.write();
        gauges.check()
    }
}

impl Watch for Metered<'_> {
    fn start(&self, run: &str) {
        self.watch.start(run);
    }

    fn begin(&self, plan: &StagePlan, units: u64) -> Box<dyn Progress> {
        let mut gauges = self.gauges.lock().unwrap_or_else(PoisonError::into_inner);
        gauges.set("lapo_stage_units", &plan.stage, units as f64);
        gauges.set("lapo_stage_units_done", &plan.stage, 0.0);
        gauges.write();
        Box::new(Moved {
            progress: self.watch.begin(plan, units),
            stage: plan.stage.clone(),
            gauges: Arc::clone(&self.gauges),
        })
    }

    fn end(&self, stage: &StageSummary) {
        let mut gauges = self.gauges.lock().unwrap_or_else(PoisonError::into_inner);
        gauges.set("lapo_stage_seconds", &stage.stage, stage.seconds);
        gauges.set("lapo_stage_tasks_new", &stage.stage, stage.new as f64);
        gauges.set("lapo_stage_tasks_reused", &stage.stage, stage.reused as f64);
        gauges.set("lapo_stage_rejects", &stage.stage, stage.total.rejects as f64);
        gauges.write();
        self.watch.end(stage);
    }
}

/// A stage's progress, which moves a gauge too.
struct Moved {
    progress: Box<dyn Progress>,
    stage: String,
    gauges: Arc<Mutex<Gauges>>,
}

impl Progress for Moved {
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

impl Moved {
    fn count(&self, units: u64) {
        let mut gauges = self.gauges.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(done) = gauges
            .values
            .get_mut("lapo_stage_units_done")
            .and_then(|stages| stages.get_mut(&self.stage))
        {
            *done += units as f64;
        }
        if gauges.written.elapsed() >= PAUSE {
            gauges.write();
        }
    }
}

impl Gauges {
    fn set(&mut self, metric: &'static str, stage: &str, value: f64) {
        self.values.entry(metric).or_default().insert(stage.to_owned(), value);
    }

    /// Replaces the file, so that nobody reads half of one.
    fn write(&mut self) {
        let mut staged = self.file.clone().into_os_string();
        staged.push(".new");
        self.failed =
            fs::write(&staged, self.text()).and_then(|()| fs::rename(&staged, &self.file)).err();
        self.written = Instant::now();
    }

    /// Prometheus' text format.
    fn text(&self) -> String {
        let mut text = String::new();
        for (metric, help) in HELP {
            let Some(stages) = self.values.get(metric) else { continue };
            _ = writeln!(text, "# HELP {metric} {help}\n# TYPE {metric} gauge");
            for (stage, value) in stages {
                let stage = if stage.is_empty() {
                    String::new()
                } else {
                    format!(",stage=\"{}\"", escaped(stage))
                };
                _ = writeln!(
                    text,
                    "{metric}{{pipeline=\"{}\"{stage}}} {value}",
                    escaped(&self.pipeline)
                );
            }
        }
        text
    }

    fn check(&mut self) -> Result<(), Error> {
        let failed = |source| Error::Output { to: self.file.display().to_string(), source };
        self.failed.take().map_or(Ok(()), |source| Err(failed(source)))
    }
}

fn escaped(label: &str) -> String {
    label.replace('\\', "\\\\").replace('"', "\\\"").replace('\n', "\\n")
}
