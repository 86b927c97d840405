//! `lapo gc`: garbage collection. Lists files that are no longer needed, and deletes them on
//! request.

use std::collections::BTreeMap;
use std::time::{Duration, SystemTime};

use clap::Args as ClapArgs;

use super::flags::{Format, at_least_one};
use super::human_readable::{bytes, date};
use super::stdout::print_as;
use super::workspace;
use crate::dataset::gc::{Garbage, Keep, delete, survey};
use crate::dataset::pins::Pin;
use crate::dataset::{Access, Store};
use crate::error::Result;

/// Arguments of `lapo gc`.
#[derive(Debug, ClapArgs)]
pub struct GcArgs {
    /// Workspace to clean [default: the only one under runs/]
    #[arg(long, env = "LAPO_WORKSPACE")]
    pub workspace: Option<String>,
    /// Number of newest versions of each dataset to keep; older ones count as garbage
    /// [default: keep all versions and all results]
    #[arg(long, value_name = "VERSIONS", value_parser = at_least_one())]
    pub keep: Option<usize>,
    /// Minimum age of garbage, such as 12h or 7d: active runs may still need newer files
    #[arg(long, value_name = "DURATION", default_value = "7d", value_parser = parse_age)]
    pub older_than: Duration,
    /// Delete the garbage instead of only listing it
    #[arg(long)]
    pub delete: bool,
    /// Output format
    #[arg(long, value_enum, ignore_case = true, default_value_t = Format::Table)]
    pub format: Format,
}

/// Lists garbage; deletes it with `--delete`.
pub fn run(args: &GcArgs, access: &Access) -> Result<()> {
    let store = Store::open_with(&workspace::find(args.workspace.as_deref())?, access)?;
    let keep = Keep { versions: args.keep, younger_than: args.older_than, now: SystemTime::now() };
    let mut survey = survey(&store, &keep)?;
    if args.delete {
        survey.garbage = delete(&store, &survey, SystemTime::now())?;
    }
    print_as(args.format, &survey, |survey| {
        let pins: String = survey.pins.iter().map(pin_line).collect();
        table(&survey.garbage) + &pins + &total_line(&survey.garbage, args.delete)
    })
}

/// Returns a line about a run or a query that still needs files.
fn pin_line(pin: &Pin) -> String {
    let stages: Vec<&str> = pin.stages.keys().map(String::as_str).collect();
    let expires = date(pin.expires_unix_secs);
    format!("held by run {} until {expires}: {}\n", pin.run, stages.join(", "))
}

/// The garbage of one stage and one kind.
#[derive(Default)]
struct Row {
    count: u64,
    files: u64,
    bytes: u64,
}

/// Returns a table with a row per stage and kind of garbage; empty if there is no garbage.
fn table(all: &[Garbage]) -> String {
    let mut rows: BTreeMap<(&str, &str), Row> = BTreeMap::new();
    for found in all {
        let row = rows.entry((&found.stage, found.what.words())).or_default();
        row.count += 1;
        row.files += found.files;
        row.bytes += found.bytes;
    }
    if rows.is_empty() {
        return String::new();
    }
    let mut text =
        format!("{:<16} {:<40} {:>7} {:>7} {:>14}\n", "stage", "what", "count", "files", "size");
    for ((stage, what), Row { count, files, bytes: size }) in rows {
        let size = bytes(size);
        text += &format!("{stage:<16} {what:<40} {count:>7} {files:>7} {size:>14}\n");
    }
    text
}

fn total_line(all: &[Garbage], deleted: bool) -> String {
    if all.is_empty() {
        return "no garbage\n".into();
    }
    let size = bytes(all.iter().map(|found| found.bytes).sum());
    if deleted {
        format!("{size} deleted\n")
    } else {
        format!("{size}; nothing was deleted: add --delete to delete it\n")
    }
}

/// Parses an age: a whole number and a unit, such as `7d`, `12h`, `30m` or `0s`.
fn parse_age(text: &str) -> Result<Duration, String> {
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
    fn an_age_is_a_whole_number_with_a_unit() {
        for (text, seconds) in [("7d", 604_800), ("12h", 43_200), ("30m", 1_800), ("0s", 0)] {
            assert_eq!(parse_age(text), Ok(Duration::from_secs(seconds)));
        }
        for text in ["", "7", "d", "-1d", "1w", "99999999999999999999s", "999999d"] {
            assert!(parse_age(text).is_err(), "{text}");
        }
    }
}
