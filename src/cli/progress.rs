//! Progress on stderr: bars with rates and ETA on a terminal, plain lines elsewhere.

use std::io::IsTerminal;
use std::sync::Mutex;
use std::time::{Duration, Instant};

use indicatif::{ProgressBar, ProgressStyle};
use serde::Serialize;

use super::fleet_view::FleetView;
use super::stderr;
use crate::pipeline::plan::StagePlan;
use crate::pipeline::reporter::{FleetStatus, Reporter};
use crate::pipeline::summary::StageSummary;
use crate::stages::{NoProgress, Progress};

/// How much a command reports on stderr while it runs.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Verbosity {
    /// Only errors.
    Quiet,
    /// Also what every stage did, and its progress every 10 seconds.
    Normal,
    /// Also why a stage has new tasks, and its progress every second.
    Verbose,
}

impl Verbosity {
    /// Returns the time between two lines about the progress of a stage.
    pub fn interval(self) -> Duration {
        Duration::from_secs(if self == Verbosity::Verbose { 1 } else { 10 })
    }
}

/// Reports progress to a person, on a terminal or in a log file.
pub struct TerminalReporter {
    verbosity: Verbosity,
    fleet: FleetView,
}

impl TerminalReporter {
    /// Creates a reporter.
    pub fn new(verbosity: Verbosity) -> Self {
        TerminalReporter { verbosity, fleet: FleetView::new(verbosity.interval()) }
    }
}

impl Reporter for TerminalReporter {
    fn stage_started(&self, plan: &StagePlan, units: u64) -> Box<dyn Progress> {
        if self.verbosity == Verbosity::Quiet {
            return Box::new(NoProgress);
        }
        if self.verbosity == Verbosity::Verbose {
            let (new, reused) = (plan.new_tasks(), plan.tasks.reused());
            stderr::line(format!(
                "{}: {new} tasks to do, {reused} re-used; new because of {}",
                plan.stage,
                plan.reasons()
            ));
        }
        if std::io::stderr().is_terminal() {
            return Box::new(Bar::new(&plan.stage, plan.kind.unit, units));
        }
        let on_count = |count: &Count| stderr::line(count);
        let on_message = |text: &str| stderr::line(text);
        Box::new(PeriodicProgress::new(
            plan,
            units,
            self.verbosity.interval(),
            on_count,
            on_message,
        ))
    }

    fn stage_ended(&self, stage: &StageSummary) {
        if self.verbosity != Verbosity::Quiet {
            self.fleet.say(&stage_line(stage));
        }
    }

    fn fleet(&self, status: &FleetStatus) {
        if self.verbosity != Verbosity::Quiet {
            self.fleet.show(status);
        }
    }

    fn say(&self, text: &str) {
        if self.verbosity != Verbosity::Quiet {
            self.fleet.say(text);
        }
    }

    fn note(&self, text: &str) {
        if self.verbosity != Verbosity::Quiet {
            self.fleet.say(&format!("note: {text}"));
        }
    }
}

/// Returns one line about a stage that ended.
fn stage_line(summary: &StageSummary) -> String {
    let StageSummary { stage, new, reused, seconds, .. } = summary;
    let mut line = format!("{stage}: {new} tasks done, {reused} re-used");
    if summary.total.rejects > 0 {
        line += &format!(", {} rejects", summary.total.rejects);
    }
    let done = |name: &str| summary.done.get(name).filter(|count| **count > 0.0);
    for reason in ["blank", "still"] {
        if let Some(count) = done(&format!("{reason}_frames")) {
            line += &format!(", {count} {reason} frames left out");
        }
    }
    if let Some(count) = done("trimmed_videos") {
        line += &format!(", {count} videos without their bars");
    }
    line += &format!(" in {seconds:.1} s");
    if let Some(note) = &summary.note {
        line += &format!("; {note}");
    }
    line
}

/// A progress bar on a terminal; it disappears when the stage ends.
struct Bar(ProgressBar);

impl Bar {
    fn new(stage: &str, unit: &str, units: u64) -> Self {
        let template = format!(
            "{stage}: {{bar:30}} {{pos}}/{{len}} {unit}, {{per_sec}}, {{eta}} left  {{msg}}"
        );
        let style = ProgressStyle::with_template(&template)
            .unwrap_or_else(|_| ProgressStyle::default_bar());
        let bar = ProgressBar::new(units).with_style(style);
        // Redraw even if no unit ends for minutes, as in a long video.
        bar.enable_steady_tick(Duration::from_millis(200));
        Bar(bar)
    }
}

impl Progress for Bar {
    fn advance(&self, units: u64) {
        self.0.inc(units);
    }

    fn resume(&self, units: u64) {
        self.0.inc(units);
        // Units of an earlier attempt say nothing about the speed of this one.
        self.0.reset_eta();
    }

    fn note(&self, text: &str) {
        self.0.set_message(text.to_string());
    }

    fn say(&self, text: &str) {
        self.0.suspend(|| stderr::line(text));
    }
}

impl Drop for Bar {
    fn drop(&mut self) {
        self.0.finish_and_clear();
    }
}

/// The progress of a stage at one moment.
#[derive(Clone, Debug, Serialize)]
pub struct Count {
    pub stage: String,
    /// The unit of `done` and `units`: videos, episodes, steps or transitions.
    pub unit: &'static str,
    pub done: u64,
    pub units: u64,
    /// Units per second of this attempt; `None` until it has done some.
    pub per_second: Option<f64>,
    /// Estimated time to the end; `None` as long as the rate is unknown.
    pub seconds_left: Option<f64>,
    /// A short remark, such as the current loss.
    pub note: String,
}

impl Count {
    /// Sets the rate and the remaining time. `resumed` units were done by an earlier attempt, and
    /// do not count towards the rate.
    fn measure(&mut self, resumed: u64, elapsed: Duration) {
        self.per_second = rate(self.done.saturating_sub(resumed) as f64, elapsed.as_secs_f64());
        self.seconds_left =
            self.per_second.map(|rate| self.units.saturating_sub(self.done) as f64 / rate);
    }
}

impl std::fmt::Display for Count {
    fn fmt(&self, f: &mut std::fmt::Formatter) -> std::fmt::Result {
        let Count { stage, unit, done, units, per_second, seconds_left, note } = self;
        write!(f, "{stage}: {done}/{units} {unit}")?;
        if let (Some(rate), Some(left)) = (per_second, seconds_left) {
            write!(f, ", {rate:.1}/s, {left:.0} s left")?;
        }
        write!(f, "  {note}")
    }
}

/// Returns the units per second; `None` if nothing was done or no time has passed.
pub fn rate(done: f64, seconds: f64) -> Option<f64> {
    (done > 0.0 && seconds > 0.0).then(|| done / seconds)
}

/// Counts units, and passes the count on in regular intervals.
pub struct PeriodicProgress<C, M> {
    state: Mutex<State>,
    /// Called with the count, at most once per interval.
    on_count: C,
    /// Called with each message of the stage.
    on_message: M,
}

struct State {
    count: Count,
    /// Units done by an earlier attempt.
    resumed: u64,
    began: Instant,
    last_report: Instant,
    /// Minimum time between two reports.
    interval: Duration,
}

impl<C: Fn(&Count), M: Fn(&str)> PeriodicProgress<C, M> {
    /// Creates the progress of a stage that begins now.
    pub fn new(
        plan: &StagePlan,
        units: u64,
        interval: Duration,
        on_count: C,
        on_message: M,
    ) -> Self {
        let now = Instant::now();
        let count = Count {
            stage: plan.stage.clone(),
            unit: plan.kind.unit,
            done: 0,
            units,
            per_second: None,
            seconds_left: None,
            note: String::new(),
        };
        let state = State { count, resumed: 0, began: now, last_report: now, interval };
        PeriodicProgress { state: Mutex::new(state), on_count, on_message }
    }
}

impl<C: Fn(&Count) + Sync, M: Fn(&str) + Sync> Progress for PeriodicProgress<C, M> {
    fn advance(&self, units: u64) {
        // The lock is poisoned only after a panic; then skip the report.
        let Ok(mut state) = self.state.lock() else { return };
        state.count.done += units;
        if state.last_report.elapsed() < state.interval {
            return;
        }
        let State { count, resumed, began, .. } = &mut *state;
        count.measure(*resumed, began.elapsed());
        (self.on_count)(count);
        state.last_report = Instant::now();
    }

    fn resume(&self, units: u64) {
        let Ok(mut state) = self.state.lock() else { return };
        state.count.done += units;
        state.resumed += units;
    }

    fn note(&self, text: &str) {
        if let Ok(mut state) = self.state.lock() {
            state.count.note = text.to_owned();
        }
    }

    fn say(&self, text: &str) {
        (self.on_message)(text);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn count(stage: &str, done: u64, units: u64) -> Count {
        Count {
            stage: stage.into(),
            unit: "steps",
            done,
            units,
            per_second: None,
            seconds_left: None,
            note: String::new(),
        }
    }

    #[test]
    fn the_rate_of_a_resumed_training_ignores_earlier_steps() {
        let mut count = count("dynamics", 950, 1000);
        count.measure(900, Duration::from_secs(10));
        assert_eq!((count.per_second, count.seconds_left), (Some(5.0), Some(10.0)));
        assert_eq!(count.to_string(), "dynamics: 950/1000 steps, 5.0/s, 10 s left  ");
    }

    #[test]
    fn there_is_no_rate_without_time_or_without_work() {
        let mut count = count("a", 9, 9);
        for (resumed, elapsed) in
            [(0, Duration::ZERO), (9, Duration::from_secs(1)), (9, Duration::ZERO)]
        {
            count.measure(resumed, elapsed);
            assert_eq!((count.per_second, count.seconds_left), (None, None));
        }
        assert_eq!(count.to_string(), "a: 9/9 steps  ");
    }
}
