//! `lapo query`, `lapo datasets`.

use std::fs::File;
use std::io::{BufWriter, Write};
use std::path::Path;

use super::args::{Datasets, Format, Query};
use super::{Error, print, told};
use crate::dataset::{Access, Store};
use crate::error::Result;
use crate::query;

/// `lapo query`: rows on stdout, or into a file.
pub fn query(args: &Query, access: &Access) -> Result<()> {
    let store = Store::open_with(&workspace(args.workspace.as_deref())?, access)?;
    let rows = query::query(&store, &args.sql)?;
    let format = match args.format {
        Format::Table => query::Format::Table,
        Format::Csv => query::Format::Csv,
        Format::Json => query::Format::Json,
        Format::Parquet => query::Format::Parquet,
    };
    match &args.output {
        Some(path) => {
            let failed = |source| Error::Output { to: path.clone(), source };
            let mut file = BufWriter::new(File::create(path).map_err(failed)?);
            query::write(&rows, format, &mut file)?;
            file.flush().map_err(failed)?;
            Ok(())
        }
        None if format == query::Format::Parquet => {
            Err(Error::Usage { what: "--format parquet writes a file".into(), hint: "say where: --output rows.parquet".into() })?
        }
        None => {
            let mut text = Vec::new();
            query::write(&rows, format, &mut text)?;
            print(&String::from_utf8_lossy(&text))
        }
    }
}

/// `lapo datasets`: what a workspace holds, how one dataset came to be, or what changed in it.
pub fn datasets(args: &Datasets, access: &Access) -> Result<()> {
    let store = Store::open_with(&workspace(args.workspace.as_deref())?, access)?;
    let text = match (&args.stage, args.diff.as_slice()) {
        (Some(stage), &[from, to]) => told(args.format, "datasets are", &query::diff(&store, stage, [from, to])?, diff),
        (Some(stage), _) => told(args.format, "datasets are", &query::history(&store, stage)?, |all| all.iter().map(version).collect()),
        (None, _) => told(args.format, "datasets are", &query::datasets(&store)?, |all| newest(all)),
    };
    print(&text?)
}

fn newest(all: &[query::DatasetInfo]) -> String {
    let head = format!(
        "{:<16} {:<16} {:>7} {:>7} {:>7} {:>10} {:>12} {:>7}\n",
        "stage", "kind", "version", "tasks", "videos", "rows", "bytes", "rejects"
    );
    let line = |d: &query::DatasetInfo| {
        format!(
            "{:<16} {:<16} {:>7} {:>7} {:>7} {:>10} {:>12} {:>7}\n",
            d.stage, d.kind, d.version, d.receipts, d.videos, d.rows, d.bytes, d.rejects
        )
    };
    head + &all.iter().map(line).collect::<String>()
}

fn version(version: &query::Version) -> String {
    let query::Version { version, tasks, added, dropped, rows, bytes, why, run } = version;
    format!("{version}: {tasks} tasks (+{added} -{dropped}), {rows} rows, {bytes} bytes; {}; run {run}\n", reason(why))
}

/// Why a version has tasks that the one before did not have.
fn reason(why: &str) -> &str {
    if why.is_empty() { "tasks that were done before" } else { why }
}

fn diff(diff: &query::Diff) -> String {
    let query::Diff { versions: [from, to], why, fields, tasks, videos, rows } = diff;
    let mut text = format!("version {from} -> {to}: rows {} -> {}\n", rows[0], rows[1]);
    for (version, why) in why {
        text += &format!("why, version {version}: {}\n", reason(why));
    }
    for (name, [before, after]) in fields {
        text += &format!("{name}: {before} -> {after}\n");
    }
    text += &format!("tasks: +{} -{}\n", tasks.added.len(), tasks.dropped.len());
    for (sign, videos) in [("+", &videos.added), ("-", &videos.dropped)] {
        text += &videos.iter().map(|video| format!("{sign} {video}\n")).collect::<String>();
    }
    text
}

/// The workspace that was named, or the only one under `runs/`.
pub(super) fn workspace(named: Option<&str>) -> Result<String, Error> {
    if let Some(named) = named {
        return Ok(named.into());
    }
    let is_workspace = |path: &Path| path.join("runs").is_dir();
    let entries = std::fs::read_dir("runs").into_iter().flatten().flatten();
    let mut found: Vec<String> = entries.map(|e| e.path()).filter(|p| is_workspace(p)).map(|p| p.display().to_string()).collect();
    found.sort();
    match found.as_slice() {
        [only] => Ok(only.clone()),
        [] => Err(Error::Usage {
            what: "no workspace under runs/".into(),
            hint: "run a pipeline first (lapo run pipelines/quickstart.yaml), or name one: --workspace FOLDER".into(),
        }),
        several => Err(Error::Usage {
            what: format!("{} workspaces under runs/", several.len()),
            hint: format!("name one: --workspace {}", several.join(" | ")),
        }),
    }
}
