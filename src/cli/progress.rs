//! Progress on stderr: bars with rates and ETA on a terminal, plain lines elsewhere.

use std::io::IsTerminal;
use std::sync::Mutex;
use std::time::{Duration, Instant};

use indicatif::{ProgressBar, ProgressStyle};

use crate::pipeline::plan::StagePlan;
use crate::pipeline::run::{StageSummary, Watch};
use crate::stages::Progress;

/// Between two plain lines of one stage.
const QUIET: Duration = Duration::from_secs(10);

/// A person, on a terminal or reading a log.
pub struct Person;

impl Watch for Person {
    fn begin(&self, plan: &StagePlan, units: u64) -> Box<dyn Progress> {
        let unit = match plan.kind.as_str() {
            "decode" => "videos",
            "record" | "evaluate" => "episodes",
            "train_decoder" => "decoders",
            "import_actions" => "shards",
            "report" => "sections",
            "finetune" => "env steps",
            "train_dynamics" | "train_policy" => "steps",
            _ => "transitions",
        };
        match std::io::stderr().is_terminal() {
            true => Box::new(Bar::new(&plan.stage, unit, units)),
            false => Box::new(Lines::new(&plan.stage, unit, units)),
        }
    }

    fn end(&self, stage: &StageSummary) {
        let rejects = if stage.rejects > 0 { format!(", {} rejects", stage.rejects) } else { String::new() };
        let note = stage.note.iter().map(|n| format!("; {n}")).collect::<String>();
        eprintln!("{}: {} tasks done, {} re-used{rejects} in {:.1} s{note}", stage.stage, stage.new, stage.reused, stage.seconds);
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

struct Lines {
    stage: String,
    unit: String,
    units: u64,
    state: Mutex<State>,
}

struct State {
    done: u64,
    note: String,
    begun: Instant,
    told: Instant,
}

impl Lines {
    fn new(stage: &str, unit: &str, units: u64) -> Self {
        let now = Instant::now();
        let state = State { done: 0, note: String::new(), begun: now, told: now };
        Lines { stage: stage.into(), unit: unit.into(), units, state: Mutex::new(state) }
    }
}

impl Progress for Lines {
    fn advance(&self, units: u64) {
        let Ok(mut state) = self.state.lock() else { return };
        state.done += units;
        if state.told.elapsed() < QUIET {
            return;
        }
        let rate = state.done as f64 / state.begun.elapsed().as_secs_f64();
        let left = self.units.saturating_sub(state.done) as f64 / rate.max(1e-9);
        let (done, note) = (state.done, &state.note);
        eprintln!("{}: {done}/{} {}, {rate:.1}/s, {left:.0} s left  {note}", self.stage, self.units, self.unit);
        state.told = Instant::now();
    }

    fn note(&self, text: &str) {
        if let Ok(mut state) = self.state.lock() {
            state.note = text.to_string();
        }
    }

    fn say(&self, text: &str) {
        eprintln!("{text}");
    }
}
