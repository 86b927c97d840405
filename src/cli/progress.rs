//! Progress on stderr: bars with rates and ETA on a terminal, plain lines elsewhere.

use std::io::IsTerminal;
use std::sync::Mutex;
use std::time::{Duration, Instant};

use indicatif::{ProgressBar, ProgressStyle};
use serde::Serialize;

use super::stderr;
use crate::pipeline::plan::StagePlan;
use crate::pipeline::run::{StageSummary, Watch};
use crate::stages::{Progress, Silent};

/// How much is told on stderr while a command runs.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Verbosity {
    /// Errors.
    Quiet,
    /// Also what every stage did, and how far it is now and then.
    Normal,
    /// Also why it has something to do; and how far it is every second.
    Verbose,
}

impl Verbosity {
    /// Returns the time between two lines on how far a stage is.
    pub fn pause(self) -> Duration {
        Duration::from_secs(if self == Verbosity::Verbose { 1 } else { 10 })
    }
}

/// A person, on a terminal or reading a log.
pub struct Person(pub Verbosity);

impl Watch for Person {
    fn begin(&self, plan: &StagePlan, units: u64) -> Box<dyn Progress> {
        if self.0 == Verbosity::Quiet {
            return Box::new(Silent);
        }
        if self.0 == Verbosity::Verbose {
            let (stage, new, reused) = (&plan.stage, plan.new_tasks(), plan.tasks.reused());
            stderr::line(format!(
                "{stage}: {new} tasks to do, {reused} re-used; new because of {}",
                plan.reasons()
            ));
        }
        match std::io::stderr().is_terminal() {
            true => Box::new(Bar::new(&plan.stage, plan.kind.unit, units)),
            false => Box::new(Counted::new(
                plan,
                units,
                self.0.pause(),
                |count: &Count| stderr::line(count),
                |text: &str| stderr::line(text),
            )),
        }
    }

    fn end(&self, stage: &StageSummary) {
        if self.0 == Verbosity::Quiet {
            return;
        }
        let rejects = if stage.total.rejects > 0 {
            format!(", {} rejects", stage.total.rejects)
        } else {
            String::new()
        };
        let left_out = |why: &str| {
            stage
                .done
                .get(&format!("{why}_frames"))
                .filter(|count| **count > 0.0)
                .map(|count| (*count, why.to_owned()))
        };
        let left_out = ["blank", "still"]
            .into_iter()
            .filter_map(left_out)
            .map(|(count, why)| format!(", {count} {why} frames left out"));
        let trimmed = stage
            .done
            .get("trimmed_videos")
            .filter(|count| **count > 0.0)
            .map(|count| format!(", {count} videos without their bars"));
        let left_out: String = left_out.chain(trimmed).collect();
        let note = stage.note.iter().map(|n| format!("; {n}")).collect::<String>();
        let StageSummary { stage, new, reused, seconds, .. } = stage;
        stderr::line(format!(
            "{stage}: {new} tasks done, {reused} re-used{rejects}{left_out} in {seconds:.1} s{note}"
        ));
    }
}

struct Bar(ProgressBar);

impl Bar {
    fn new(stage: &str, unit: &str, units: u64) -> Self {
        let template = format!(
            "{stage}: {{bar:30}} {{pos}}/{{len}} {unit}, {{per_sec}}, {{eta}} left  {{msg}}"
        );
        let style = ProgressStyle::with_template(&template)
            .unwrap_or_else(|_| ProgressStyle::default_bar());
        let bar = ProgressBar::new(units).with_style(style);
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

/// How far a stage is.
#[derive(Clone, Debug, Serialize)]
pub struct Count {
    pub stage: String,
    pub unit: &'static str,
    pub done: u64,
    pub units: u64,
    /// `None` until some units are done in some time.
    pub per_second: Option<f64>,
    /// `None` as long as the rate is unknown.
    pub seconds_left: Option<f64>,
    /// A few words on how it goes.
    pub note: String,
}

impl Count {
    /// The rate of this attempt, which found `resumed` units done, and how long the rest takes at that rate.
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

/// Returns how many a second, where something was done in some time.
pub fn rate(done: f64, seconds: f64) -> Option<f64> {
    (done > 0.0 && seconds > 0.0).then(|| done / seconds)
}

/// Counts, and tells how far it is now and then.
pub struct Counted<T, S> {
    state: Mutex<State>,
    tell: T,
    say: S,
}

struct State {
    count: Count,
    /// Units that an attempt before this one did.
    resumed: u64,
    begun: Instant,
    told: Instant,
    /// Between two lines.
    pause: Duration,
}

impl<T: Fn(&Count), S: Fn(&str)> Counted<T, S> {
    /// Nothing is done yet.
    pub fn new(plan: &StagePlan, units: u64, pause: Duration, tell: T, say: S) -> Self {
        let (now, unit) = (Instant::now(), plan.kind.unit);
        let count = Count {
            stage: plan.stage.clone(),
            unit,
            done: 0,
            units,
            per_second: None,
            seconds_left: None,
            note: String::new(),
        };
        Counted {
            state: Mutex::new(State { count, resumed: 0, begun: now, told: now, pause }),
            tell,
            say,
        }
    }
}

impl<T: Fn(&Count) + Sync, S: Fn(&str) + Sync> Progress for Counted<T, S> {
    fn advance(&self, units: u64) {
        let Ok(mut state) = self.state.lock() else { return };
        state.count.done += units;
        if state.told.elapsed() < state.pause {
            return;
        }
        let State { count, resumed, begun, .. } = &mut *state;
        count.measure(*resumed, begun.elapsed());
        (self.tell)(count);
        state.told = Instant::now();
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
        (self.say)(text);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_training_taken_up_again_promises_no_more_than_it_does() {
        let stage = "dynamics".to_owned();
        let mut count = Count {
            stage,
            unit: "steps",
            done: 950,
            units: 1000,
            per_second: None,
            seconds_left: None,
            note: String::new(),
        };
        count.measure(900, Duration::from_secs(10));
        assert_eq!((count.per_second, count.seconds_left), (Some(5.0), Some(10.0)));
        assert_eq!(count.to_string(), "dynamics: 950/1000 steps, 5.0/s, 10 s left  ");
    }

    #[test]
    fn no_rate_comes_of_no_time_or_of_nothing_done() {
        let mut count = Count {
            stage: "a".into(),
            unit: "steps",
            done: 9,
            units: 9,
            per_second: None,
            seconds_left: None,
            note: String::new(),
        };
        for (resumed, elapsed) in
            [(0, Duration::ZERO), (9, Duration::from_secs(1)), (9, Duration::ZERO)]
        {
            count.measure(resumed, elapsed);
            assert_eq!((count.per_second, count.seconds_left), (None, None));
        }
        assert_eq!(count.to_string(), "a: 9/9 steps  ");
    }
}
