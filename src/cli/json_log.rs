//! Progress and errors as JSON lines on stderr, for machines.

use std::sync::{Mutex, PoisonError};
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

use serde_json::{Value, json};

use super::exit::Exit;
use super::human_readable::date_with_millis;
use super::progress::{PeriodicProgress, Verbosity};
use super::stderr;
use crate::dataset::host;
use crate::pipeline::plan::StagePlan;
use crate::pipeline::reporter::{FleetStatus, Reporter};
use crate::pipeline::summary::StageSummary;
use crate::stages::{NoProgress, Progress};

/// Logs one event per line, each with its name, time, host and run.
pub struct JsonReporter(pub Verbosity);

/// The id of this process's run. Under `--watch`, of the latest one.
static RUN: Mutex<Option<String>> = Mutex::new(None);

/// The facts of a worker, which are in each of its events.
static WORKER: Mutex<Option<Value>> = Mutex::new(None);

/// Adds the partitions of a worker and its attempt to all later events.
pub fn set_worker(partitions: &str, attempt: usize) {
    *WORKER.lock().unwrap_or_else(PoisonError::into_inner) =
        Some(json!({ "partitions": partitions, "attempt": attempt }));
}

fn current_run() -> Option<String> {
    RUN.lock().unwrap_or_else(PoisonError::into_inner).clone()
}

impl Reporter for JsonReporter {
    fn run_started(&self, run: &str) {
        *RUN.lock().unwrap_or_else(PoisonError::into_inner) = Some(run.to_owned());
        event("run_began", json!({ "process": std::process::id() }));
    }

    fn stage_started(&self, plan: &StagePlan, units: u64) -> Box<dyn Progress> {
        let facts = json!({
            "stage": plan.stage,
            "kind": plan.kind.name,
            "tasks": plan.new_tasks(),
            "units": units,
            "unit": plan.kind.unit,
        });
        event("stage_began", facts);
        if self.0 == Verbosity::Quiet {
            return Box::new(NoProgress);
        }
        let stage = plan.stage.clone();
        let on_count = |count: &_| event("progress", json!(count));
        let on_message = move |text: &str| event("said", json!({ "stage": stage, "text": text }));
        Box::new(PeriodicProgress::new(plan, units, self.0.interval(), on_count, on_message))
    }

    fn stage_ended(&self, stage: &StageSummary) {
        event("stage_ended", json!(stage));
    }

    fn fleet(&self, status: &FleetStatus) {
        if self.0 != Verbosity::Quiet && is_due(self.0.interval()) {
            event("fleet", json!({ "workers": status.workers, "stages": status.stages }));
        }
    }

    fn say(&self, text: &str) {
        event("said", json!({ "text": text }));
    }

    fn note(&self, text: &str) {
        event("note", json!({ "text": text }));
    }
}

/// Returns whether the last report about workers is this long ago.
fn is_due(interval: Duration) -> bool {
    static LAST: Mutex<Option<Instant>> = Mutex::new(None);
    let mut last = LAST.lock().unwrap_or_else(PoisonError::into_inner);
    let is_due = last.is_none_or(|last| last.elapsed() >= interval);
    if is_due {
        *last = Some(Instant::now());
    }
    is_due
}

/// Logs how the run ended, if one began.
pub fn run_ended(exit: Exit) {
    if current_run().is_some() {
        event("run_ended", json!({ "exit_code": exit.code(), "outcome": exit.to_string() }));
    }
}

/// Logs an event: its facts, and when, where and in which run it happened.
pub fn event(name: &str, facts: Value) {
    let now = unix_seconds();
    let mut line = json!({
        "time": date_with_millis(now),
        "unix_seconds": now,
        "event": name,
        "host": host(),
    });
    // Every event starts with the same fields; its own facts follow.
    if let (Some(line), Value::Object(facts)) = (line.as_object_mut(), facts) {
        line.extend(current_run().map(|run| ("run".to_owned(), json!(run))));
        if let Some(Value::Object(worker)) = &*WORKER.lock().unwrap_or_else(PoisonError::into_inner)
        {
            line.extend(worker.clone());
        }
        line.extend(facts);
    }
    stderr::line(line);
}

/// Returns the seconds since 1970.
pub fn unix_seconds() -> f64 {
    SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default().as_secs_f64()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn events_belong_to_the_latest_run_of_a_watch() {
        for run in ["00000001", "00000002"] {
            JsonReporter(Verbosity::Quiet).run_started(run);
            assert_eq!(current_run().as_deref(), Some(run));
        }
    }
}
