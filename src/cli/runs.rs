//! `lapo runs`: what ran in a workspace, as the records under `runs/` say.

use std::fmt::Write;

use clap::Args as ClapArgs;
use serde_json::{Value, json};

use super::args::{Format, at_least_one};
use super::look::workspace;
use super::{Error, human, print, told};
use crate::dataset::{self, Access, Store};
use crate::error::Result;

#[derive(Debug, ClapArgs)]
pub struct Runs {
    /// A run's id, or the beginning of one, to see what that run did [default: list the newest runs]
    pub id: Option<String>,
    /// How many of the newest runs to list
    #[arg(long, value_name = "RUNS", default_value_t = 20, value_parser = at_least_one())]
    pub last: usize,
    /// The workspace [default: the only one under runs/]
    #[arg(long, env = "LAPO_WORKSPACE")]
    pub workspace: Option<String>,
    /// How to print it: table or json
    #[arg(long, value_enum, default_value_t = Format::Table)]
    pub format: Format,
}

/// Lists the newest runs, or shows one.
pub fn run(args: &Runs, access: &Access) -> Result<()> {
    let store = Store::open_with(&workspace(args.workspace.as_deref())?, access)?;
    let mut ids = ids(&store)?;
    let text = match &args.id {
        Some(id) => told(args.format, &read(&store, &one(&ids, id)?)?, shown),
        None => {
            let newest = ids.split_off(ids.len().saturating_sub(args.last));
            let records =
                newest.iter().map(|id| read(&store, id)).collect::<Result<Vec<_>, _>>()?;
            told(args.format, &records.iter().map(listed).collect::<Vec<_>>(), |rows| table(rows))
        }
    };
    print(&text)
}

/// The ids of all runs, oldest first; those that have not ended, or were killed, too.
fn ids(store: &Store) -> Result<Vec<String>, dataset::Error> {
    dataset::workspace::require(store)?;
    let id = |path: &String| {
        let name = path.strip_prefix("runs/")?;
        Some(name.strip_suffix(".begun.json").or_else(|| name.strip_suffix(".json"))?.to_owned())
    };
    let mut ids: Vec<String> = store.list("runs")?.iter().filter_map(id).collect();
    ids.sort_unstable();
    ids.dedup();
    Ok(ids)
}

/// The one run whose id begins so.
fn one(ids: &[String], beginning: &str) -> Result<String, Error> {
    let found: Vec<&String> = ids.iter().filter(|id| id.starts_with(beginning)).collect();
    match found[..] {
        [only] => Ok(only.clone()),
        [] => Err(Error::Usage {
            what: format!("no run begins with `{beginning}`"),
            hint: "`lapo runs` lists the newest ones".into(),
        }),
        [first, second, ..] => Err(Error::Usage {
            what: format!("{} runs begin with `{beginning}`", found.len()),
            hint: format!("give more of the id: {first}, {second}"),
        }),
    }
}

fn read(store: &Store, id: &str) -> Result<Value, dataset::Error> {
    let path = format!("runs/{id}.json");
    let Some(bytes) = store.read(&path)? else {
        let begun: dataset::runs::Begun =
            dataset::parse_versioned(&path, &store.require(&format!("runs/{id}.begun.json"))?)?;
        let mut record = json!(begun);
        record["outcome"] = "not ended: it runs, or was killed".into();
        return Ok(record);
    };
    serde_json::from_slice(&bytes)
        .map_err(|cause| dataset::Error::Corrupt { path, reason: cause.to_string() })
}

/// A run in a row.
fn listed(record: &Value) -> Value {
    let tasks: u64 = stages(record).filter_map(|stage| stage["new"].as_u64()).sum();
    json!({
        "run": record["run"],
        "pipeline": record["pipeline"],
        "started": started(record),
        "started_unix_secs": record["started_unix_secs"],
        "seconds": record["seconds"],
        "tasks": tasks,
        "outcome": record["outcome"],
    })
}

fn stages(record: &Value) -> impl Iterator<Item = &Value> {
    record["stages"].as_array().into_iter().flatten()
}

fn started(record: &Value) -> String {
    record["started_unix_secs"].as_u64().map_or_else(|| "-".into(), human::date)
}

/// A table whose last column, the outcome, may be long: only its first line is shown.
fn table(rows: &[Value]) -> String {
    let mut text = format!(
        "{:<27} {:<20} {:<20} {:>9} {:>7} {}\n",
        "run", "pipeline", "started", "seconds", "tasks", "outcome"
    );
    for row in rows {
        let word = |name: &str| row[name].as_str().unwrap_or("-");
        let (seconds, outcome) =
            (row["seconds"].as_f64().unwrap_or(0.0), word("outcome").lines().next().unwrap_or(""));
        let [run, pipeline, started] = ["run", "pipeline", "started"].map(word);
        _ = writeln!(
            text,
            "{run:<27} {pipeline:<20} {started:<20} {seconds:>9.1} {:>7} {outcome}",
            row["tasks"]
        );
    }
    text
}

/// One run: its record without the pipeline's text, which JSON has.
fn shown(record: &Value) -> String {
    let mut text = String::new();
    for name in ["run", "pipeline", "lapo"] {
        _ = writeln!(text, "{name}: {}", record[name].as_str().unwrap_or("-"));
    }
    let (seconds, outcome) =
        (record["seconds"].as_f64().unwrap_or(0.0), record["outcome"].as_str().unwrap_or("-"));
    _ = writeln!(text, "started: {}\nseconds: {seconds:.1}\noutcome: {outcome}", started(record));
    for stage in stages(record) {
        let (name, kind) =
            (stage["stage"].as_str().unwrap_or("-"), stage["kind"].as_str().unwrap_or("-"));
        let [new, reused, version, rejects] =
            ["new", "reused", "version", "rejects"].map(|field| stage[field].as_u64().unwrap_or(0));
        let seconds = stage["seconds"].as_f64().unwrap_or(0.0);
        _ = writeln!(
            text,
            "{name} ({kind}): {new} tasks new, {reused} re-used, {rejects} rejects, {seconds:.1} s, version {version}"
        );
    }
    for failure in record["failures"].as_array().into_iter().flatten() {
        _ = writeln!(text, "failed: {failure}");
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_run_is_named_by_enough_of_its_id() {
        let ids = ["100-aa", "100-ab", "90-c"].map(String::from);
        assert_eq!(one(&ids, "9").ok().as_deref(), Some("90-c"));
        assert_eq!(one(&ids, "100-ab").ok().as_deref(), Some("100-ab"));
        for wrong in ["100", "7", ""] {
            assert!(matches!(one(&ids, wrong), Err(Error::Usage { .. })), "{wrong}");
        }
    }

    #[test]
    fn a_record_of_which_nothing_is_known_is_listed_all_the_same() {
        let row = listed(&json!({ "run": "5-x", "outcome": "stage frames: failed\nsecond line" }));
        let text = table(&[row]);
        assert!(
            text.lines().nth(1).is_some_and(
                |line| line.starts_with("5-x ") && line.ends_with(" stage frames: failed")
            ),
            "{text}"
        );
        assert!(shown(&json!({})).starts_with("run: -\n"));
    }
}
