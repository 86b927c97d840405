//! The progress of all workers of a run, for people: a live view on a terminal, lines elsewhere.

use std::io::IsTerminal;
use std::sync::{Mutex, PoisonError};
use std::time::{Duration, Instant};

use indicatif::{ProgressBar, ProgressStyle};

use super::stderr;
use crate::pipeline::partitions::StageStatus;
use crate::pipeline::reporter::FleetStatus;

/// Shows the progress of workers.
pub struct FleetView {
    /// Time between two lines, if there is no terminal.
    interval: Duration,
    state: Mutex<State>,
}

#[derive(Default)]
struct State {
    bar: Option<ProgressBar>,
    last: Option<Instant>,
}

impl FleetView {
    /// Creates a view that shows nothing yet.
    pub fn new(interval: Duration) -> Self {
        FleetView { interval, state: Mutex::default() }
    }

    /// Shows the progress of all stages.
    pub fn show(&self, status: &FleetStatus) {
        let mut state = self.state.lock().unwrap_or_else(PoisonError::into_inner);
        let lines = lines(status);
        if std::io::stderr().is_terminal() {
            let bar = state.bar.get_or_insert_with(|| {
                let bar = ProgressBar::new_spinner();
                let style = ProgressStyle::with_template("{msg}");
                bar.set_style(style.unwrap_or_else(|_| ProgressStyle::default_spinner()));
                bar
            });
            bar.set_message(lines.join("\n"));
            bar.tick();
            return;
        }
        if state.last.is_some_and(|last| last.elapsed() < self.interval) {
            return;
        }
        // A run that ends at once needs no progress.
        if state.last.replace(Instant::now()).is_some() {
            lines.iter().for_each(stderr::line);
        }
    }

    /// Prints a line that stays.
    pub fn say(&self, text: &str) {
        let mut state = self.state.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(bar) = state.bar.take() {
            bar.finish_and_clear();
        }
        stderr::line(text);
    }
}

impl Drop for FleetView {
    fn drop(&mut self) {
        let state = self.state.get_mut().unwrap_or_else(PoisonError::into_inner);
        if let Some(bar) = state.bar.take() {
            bar.finish_and_clear();
        }
    }
}

/// Returns a line for each stage that is not finished, and the number of workers in the last one.
fn lines(status: &FleetStatus) -> Vec<String> {
    let open = status.stages.iter().filter(|stage| !stage.missing.is_empty());
    let mut lines: Vec<String> = open.map(stage_line).collect();
    if let Some(last) = lines.last_mut() {
        *last += &format!("; {} workers queued or running", status.workers);
        if status.given_up > 0 {
            *last += &format!(", {} partitions given up", status.given_up);
        }
    }
    lines
}

/// Returns the progress of a stage: `frames (decode): 37 of 120 partitions done, 8 running, 2
/// failed; 1.3/s, 64 s left`.
pub fn stage_line(status: &StageStatus) -> String {
    let StageStatus { stage, kind, done, missing, running, failed, per_second, seconds_left } =
        status;
    let mut line = format!("{stage} ({kind}): {done} of {} partitions done", done + missing.len());
    if *running > 0 {
        line += &format!(", {running} running");
    }
    if !failed.is_empty() {
        line += &format!(", {} failed", failed.len());
    }
    if let (Some(rate), Some(left), false) = (per_second, seconds_left, missing.is_empty()) {
        line += &format!("; {rate:.1}/s, {left:.0} s left");
    }
    line
}
