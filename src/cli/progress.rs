//! Progress on stderr: bars with rates and ETA on a terminal, plain lines elsewhere.

use std::io::IsTerminal;
use std::sync::Mutex;
use std::time::{Duration, Instant};

use indicatif::{ProgressBar, ProgressStyle};
use serde::Serialize;

use crate::pipeline::plan::StagePlan;
use crate::pipeline::run::{StageSummary, Watch};
use crate::stages::Progress;

/// Between two plain lines of one stage.
const QUIET: Duration = Duration::from_secs(10);

/// A person, on a terminal or reading a log.
pub struct Person;

impl Watch for Person {
    fn begin(&self, plan: &StagePlan, units: u64) -> Box<dyn Progress> {
        let line = |count: &Count| {
            let Count { stage, unit, done, units, per_second, seconds_left, note } = count;
            eprintln!("{stage}: {done}/{units} {unit}, {per_second:.1}/s, {seconds_left:.0} s left  {note}");
        };
        match std::io::stderr().is_terminal() {
            true => Box::new(Bar::new(&plan.stage, unit(&plan.kind), units)),
            false => Box::new(Counted::new(plan, units, line, |text| eprintln!("{text}"))),
        }
    }

    fn end(&self, stage: &StageSummary) {
        let rejects = if stage.rejects > 0 { format!(", {} rejects", stage.rejects) } else { String::new() };
        let left_out =
            |why: &str| stage.done.get(&format!("{why}_frames")).filter(|count| **count > 0.0).map(|count| (*count, why.to_owned()));
        let left_out = ["blank", "still"].into_iter().filter_map(left_out).map(|(count, why)| format!(", {count} {why} frames left out"));
        let trimmed =
            stage.done.get("trimmed_videos").filter(|count| **count > 0.0).map(|count| format!(", {count} videos without their bars"));
        let left_out: String = left_out.chain(trimmed).collect();
        let note = stage.note.iter().map(|n| format!("; {n}")).collect::<String>();
        eprintln!("{}: {} tasks done, {} re-used{rejects}{left_out} in {:.1} s{note}", stage.stage, stage.new, stage.reused, stage.seconds);
    }
}

/// What a kind of stage counts.
pub fn unit(kind: &str) -> &'static str {
    match kind {
        "decode" | "deduplicate" => "videos",
        "record" | "evaluate" => "episodes",
        "train_decoder" => "decoders",
        "import_actions" => "shards",
        "report" => "sections",
        "finetune" => "env steps",
        "train_dynamics" | "train_policy" => "steps",
        _ => "transitions",
    }
}

struct Bar(ProgressBar);

impl Bar {
    fn new(stage: &str, unit: &str, units: u64) -> Self {
        let template = format!("{stage}: {{bar:30}} {{pos}}/{{len}} {unit}, {{per_sec}}, {{eta}} left  {{msg}}");
        let style = ProgressStyle::with_template(&template).unwrap_or_else(|_| ProgressStyle::default_bar());
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
        self.0.suspend(|| eprintln!("{text}"));
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
    pub per_second: f64,
    pub seconds_left: f64,
    /// A few words on how it goes.
    pub note: String,
}

impl Count {
    /// The rate of this attempt, which found `resumed` units done, and how long the rest takes at that rate.
    fn measure(&mut self, resumed: u64, elapsed: Duration) {
        self.per_second = self.done.saturating_sub(resumed) as f64 / elapsed.as_secs_f64();
        self.seconds_left = self.units.saturating_sub(self.done) as f64 / self.per_second.max(1e-9);
    }
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
}

impl<T: Fn(&Count), S: Fn(&str)> Counted<T, S> {
    /// Nothing is done yet.
    pub fn new(plan: &StagePlan, units: u64, tell: T, say: S) -> Self {
        let (now, unit) = (Instant::now(), unit(&plan.kind));
        let count = Count { stage: plan.stage.clone(), unit, done: 0, units, per_second: 0.0, seconds_left: 0.0, note: String::new() };
        Counted { state: Mutex::new(State { count, resumed: 0, begun: now, told: now }), tell, say }
    }
}

impl<T: Fn(&Count) + Sync, S: Fn(&str) + Sync> Progress for Counted<T, S> {
    fn advance(&self, units: u64) {
        let Ok(mut state) = self.state.lock() else { return };
        state.count.done += units;
        if state.told.elapsed() < QUIET {
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
        let mut count = Count { stage, unit: "steps", done: 950, units: 1000, per_second: 0.0, seconds_left: 0.0, note: String::new() };
        count.measure(900, Duration::from_secs(10));
        assert_eq!((count.per_second, count.seconds_left), (5.0, 10.0));
    }
}
