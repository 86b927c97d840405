//! `lapo runs`: lists a workspace's runs, or shows one, from the records under `runs/`.

use std::fmt::Write;

use clap::Args as ClapArgs;
use serde_json::{Value, json};

use super::flags::{Format, at_least_one};
use super::human_readable::date;
use super::stdout::print_as;
use super::workspace;
use crate::dataset::{self, Access, Store};
use crate::error::CommandError as Error;
use crate::error::Result;

/// Arguments of `lapo runs`.
#[derive(Debug, ClapArgs)]
pub struct RunsArgs {
    /// Show the run with this id, or with an id that starts so [default: list the newest runs]
    pub id: Option<String>,
    /// Number of runs to list, the newest ones
    #[arg(long, value_name = "RUNS", default_value_t = 20, value_parser = at_least_one())]
    pub last: usize,
    /// Workspace to read [default: the only one under runs/]
    #[arg(long, env = "LAPO_WORKSPACE")]
    pub workspace: Option<String>,
    /// Output format
    #[arg(long, value_enum, default_value_t = Format::Table)]
    pub format: Format,
}

/// Lists the newest runs, or shows one.
pub fn run(args: &RunsArgs, access: &Access) -> Result<()> {
    let store = Store::open_with(&workspace::find(args.workspace.as_deref())?, access)?;
    let mut ids = list_ids(&store)?;
    if let Some(id) = &args.id {
        let record = read_record(&store, &find_id(&ids, id)?)?;
        return print_as(args.format, &record, describe);
    }
    let mut rows = Vec::new();
    for id in ids.split_off(ids.len().saturating_sub(args.last)) {
        rows.push(list_row(&read_record(&store, &id)?));
    }
    print_as(args.format, &rows, |rows| table(rows))
}

/// Returns the ids of all runs, oldest first, including active and killed ones.
fn list_ids(store: &Store) -> Result<Vec<String>, dataset::Error> {
    dataset::workspace::require(store)?;
    // A run writes `ID.begun.json` when it begins, and `ID.json` when it ends.
    let id = |path: &String| {
        let name = path.strip_prefix("runs/")?;
        Some(name.strip_suffix(".begun.json").or_else(|| name.strip_suffix(".json"))?.to_owned())
    };
    let mut ids: Vec<String> = store.list("runs")?.iter().filter_map(id).collect();
    ids.sort_unstable();
    ids.dedup();
    Ok(ids)
}

/// Returns the only id that starts with this prefix.
fn find_id(ids: &[String], prefix: &str) -> Result<String, Error> {
    let found: Vec<&String> = ids.iter().filter(|id| id.starts_with(prefix)).collect();
    match found[..] {
        [only] => Ok(only.clone()),
        [] => Err(Error::Usage {
            what: format!("no run has an id that starts with `{prefix}`"),
            hint: "`lapo runs` lists the newest runs".into(),
        }),
        [first, second, ..] => Err(Error::Usage {
            what: format!("{} runs have an id that starts with `{prefix}`", found.len()),
            hint: format!("give more of the id, such as {first} or {second}"),
        }),
    }
}

/// Reads the record of a run. For a run without one, returns how it began.
fn read_record(store: &Store, id: &str) -> Result<Value, dataset::Error> {
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

/// Returns the row of a run in the list.
fn list_row(record: &Value) -> Value {
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
    record["started_unix_secs"].as_u64().map_or_else(|| "-".into(), date)
}

/// Returns a table of runs. Of the outcome, which may be a long error, it has only the first line.
fn table(rows: &[Value]) -> String {
    let mut text = format!(
        "{:<27} {:<20} {:<20} {:>9} {:>7} {}\n",
        "run", "pipeline", "started", "seconds", "tasks", "outcome"
    );
    for row in rows {
        let text_of = |name: &str| row[name].as_str().unwrap_or("-");
        let [run, pipeline, started] = ["run", "pipeline", "started"].map(text_of);
        let seconds = row["seconds"].as_f64().unwrap_or(0.0);
        let outcome = text_of("outcome").lines().next().unwrap_or("");
        _ = writeln!(
            text,
            "{run:<27} {pipeline:<20} {started:<20} {seconds:>9.1} {:>7} {outcome}",
            row["tasks"]
        );
    }
    text
}

/// Describes one run. JSON output has the pipeline's text, too.
fn describe(record: &Value) -> String {
    let mut text = String::new();
    for name in ["run", "pipeline", "lapo"] {
        _ = writeln!(text, "{name}: {}", record[name].as_str().unwrap_or("-"));
    }
    let seconds = record["seconds"].as_f64().unwrap_or(0.0);
    let outcome = record["outcome"].as_str().unwrap_or("-");
    _ = writeln!(text, "started: {}\nseconds: {seconds:.1}\noutcome: {outcome}", started(record));
    for stage in stages(record) {
        let [name, kind] = ["stage", "kind"].map(|field| stage[field].as_str().unwrap_or("-"));
        let [new, reused, version, rejects] =
            ["new", "reused", "version", "rejects"].map(|field| stage[field].as_u64().unwrap_or(0));
        let seconds = stage["seconds"].as_f64().unwrap_or(0.0);
        _ = writeln!(
            text,
            "{name} ({kind}): {new} tasks new, {reused} re-used, {rejects} rejects, \
             {seconds:.1} s, version {version}"
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
    fn a_unique_prefix_of_an_id_finds_the_run() {
        let ids = ["100-aa", "100-ab", "90-c"].map(String::from);
        assert_eq!(find_id(&ids, "9").ok().as_deref(), Some("90-c"));
        assert_eq!(find_id(&ids, "100-ab").ok().as_deref(), Some("100-ab"));
        for wrong in ["100", "7", ""] {
            assert!(matches!(find_id(&ids, wrong), Err(Error::Usage { .. })), "{wrong}");
        }
    }

    #[test]
    fn a_record_without_most_fields_is_still_listed() {
        let row =
            list_row(&json!({ "run": "5-x", "outcome": "stage frames: failed\nsecond line" }));
        let text = table(&[row]);
        assert!(
            text.lines().nth(1).is_some_and(
                |line| line.starts_with("5-x ") && line.ends_with(" stage frames: failed")
            ),
            "{text}"
        );
        assert!(describe(&json!({})).starts_with("run: -\n"));
    }
}
