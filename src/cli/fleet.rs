//! A run, told to machines: JSON lines on stderr. Gauges for Prometheus are in `gauges`.

use std::sync::OnceLock;
use std::time::{SystemTime, UNIX_EPOCH};

use serde_json::{Value, json};

use super::exit::Exit;
use super::progress::{Counted, Verbosity};
use super::{human, stderr};
use crate::dataset::host;
use crate::pipeline::plan::StagePlan;
use crate::pipeline::run::{StageSummary, Watch};
use crate::stages::{Progress, Silent};

/// One event per line, each with its name, its time, its host and its run.
pub struct Json(pub Verbosity);

/// The run that this process does; there is one at most.
static RUN: OnceLock<String> = OnceLock::new();

impl Watch for Json {
    fn start(&self, run: &str) {
        _ = RUN.set(run.to_owned());
        event("run_began", json!({ "process": std::process::id() }));
    }

    fn begin(&self, plan: &StagePlan, units: u64) -> Box<dyn Progress> {
        event(
            "stage_began",
            json!({ "stage": plan.stage, "kind": plan.kind.name, "tasks": plan.new_tasks(), "units": units, "unit": plan.kind.unit }),
        );
        if self.0 == Verbosity::Quiet {
            return Box::new(Silent);
        }
        let stage = plan.stage.clone();
        let told = |count: &_| event("progress", json!(count));
        let said = move |text: &str| event("said", json!({ "stage": stage, "text": text }));
        Box::new(Counted::new(plan, units, self.0.pause(), told, said))
    }

    fn end(&self, stage: &StageSummary) {
        event("stage_ended", json!(stage));
    }
}

/// Prints how the run ended, if one began.
pub fn run_ended(exit: Exit) {
    if RUN.get().is_some() {
        event("run_ended", json!({ "exit_code": exit.code(), "outcome": exit.to_string() }));
    }
}

/// Prints an event.
pub fn event(name: &str, facts: Value) {
    let now = now();
    let mut line = json!({ "time": human::date_with_millis(now), "unix_seconds": now, "event": name, "host": host() });
    if let (Some(line), Value::Object(facts)) = (line.as_object_mut(), facts) {
        line.extend(RUN.get().map(|run| ("run".to_owned(), json!(run))));
        line.extend(facts);
    }
    stderr::line(line);
}

/// Seconds since 1970.
pub fn now() -> f64 {
    SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default().as_secs_f64()
}
