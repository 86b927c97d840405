//! `lapo gc`: what nobody needs is told, and deleted where that is asked for.

use std::collections::BTreeMap;
use std::time::{Duration, SystemTime};

use clap::Args as ClapArgs;

use super::args::{Format, at_least_one};
use super::human::{bytes, date};
use super::look::workspace;
use super::{print, told};
use crate::dataset::gc::{Garbage, Keep, delete, survey};
use crate::dataset::pins::Pin;
use crate::dataset::{Access, Store};
use crate::error::Result;

/// What `lapo gc` takes.
#[derive(Debug, ClapArgs)]
pub struct Gc {
    /// The workspace [default: the only one under runs/]
    #[arg(long, env = "LAPO_WORKSPACE")]
    pub workspace: Option<String>,
    /// Newest versions of each dataset to keep, with all that is in them [default: every version, and every result]
    #[arg(long, value_name = "VERSIONS", value_parser = at_least_one())]
    pub keep: Option<usize>,
    /// What changed later is left alone: a run that lives may need it
    #[arg(long, value_name = "DURATION", default_value = "7d", value_parser = duration)]
    pub older_than: Duration,
    /// Delete it, rather than only list it
    #[arg(long)]
    pub delete: bool,
    /// How to print it
    #[arg(long, value_enum, ignore_case = true, default_value_t = Format::Table)]
    pub format: Format,
}

/// Lists garbage; deletes it with `--delete`.
pub fn run(args: &Gc, access: &Access) -> Result<()> {
    let store = Store::open_with(&workspace(args.workspace.as_deref())?, access)?;
    let keep = Keep { versions: args.keep, younger_than: args.older_than, now: SystemTime::now() };
    let mut survey = survey(&store, &keep)?;
    if args.delete {
        survey.garbage = delete(&store, &survey, SystemTime::now())?;
    }
    print(&told(args.format, &survey, |survey| {
        table(&survey.garbage) + &held(&survey.pins) + &sum(&survey.garbage, args.delete)
    }))
}

/// Who holds something back.
fn held(pins: &[Pin]) -> String {
    let line = |pin: &Pin| {
        let stages: Vec<&str> = pin.stages.keys().map(String::as_str).collect();
        format!(
            "held by run {} until {}: {}\n",
            pin.run,
            date(pin.expires_unix_secs),
            stages.join(", ")
        )
    };
    pins.iter().map(line).collect()
}

/// A line for every stage and kind of waste.
fn table(all: &[Garbage]) -> String {
    let mut rows: BTreeMap<(&str, &str), [u64; 3]> = BTreeMap::new();
    for found in all {
        let row = rows.entry((&found.stage, found.what.words())).or_default();
        (row[0], row[1], row[2]) = (row[0] + 1, row[1] + found.files, row[2] + found.bytes);
    }
    let line = |stage: &str, what: &str, numbers: [String; 3]| {
        let [count, files, size] = numbers;
        format!("{stage:<16} {what:<40} {count:>7} {files:>7} {size:>14}\n")
    };
    let head = line("stage", "what", ["count", "files", "size"].map(String::from));
    let cells =
        |[count, files, size]: [u64; 3]| [count.to_string(), files.to_string(), bytes(size)];
    let rows: String = rows
        .into_iter()
        .map(|((stage, what), numbers)| line(stage, what, cells(numbers)))
        .collect();
    if rows.is_empty() { rows } else { head + &rows }
}

fn sum(all: &[Garbage], deleted: bool) -> String {
    let size = bytes(all.iter().map(|found| found.bytes).sum());
    match (all.is_empty(), deleted) {
        (true, _) => "no garbage\n".into(),
        (false, true) => format!("{size} deleted\n"),
        (false, false) => format!("{size}; nothing was deleted: say --delete\n"),
    }
}

/// A number and its unit: `7d`, `12h`, `30m`, `0s`.
pub fn duration(text: &str) -> Result<Duration, String> {
    let at = text.find(|c: char| !c.is_ascii_digit()).unwrap_or(text.len());
    let unit = match &text[at..] {
        "s" => 1,
        "m" => 60,
        "h" => 3600,
        "d" => 86_400,
        _ => return Err("expected a number and s, m, h or d, such as 12h".into()),
    };
    let seconds = text[..at]
        .parse::<u64>()
        .ok()
        .and_then(|number| number.checked_mul(unit))
        .filter(|seconds| *seconds < 1 << 32);
    seconds
        .map(Duration::from_secs)
        .ok_or_else(|| "expected a whole number of less than 136 years, such as 12h".into())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_duration_has_a_unit() {
        for (text, seconds) in [("7d", 604_800), ("12h", 43_200), ("30m", 1_800), ("0s", 0)] {
            assert_eq!(duration(text), Ok(Duration::from_secs(seconds)));
        }
        for text in ["", "7", "d", "-1d", "1w", "99999999999999999999s", "999999d"] {
            assert!(duration(text).is_err(), "{text}");
        }
    }
}
