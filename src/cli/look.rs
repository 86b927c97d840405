//! `lapo query`, `lapo datasets`.

use std::fs::File;
use std::io::{BufWriter, ErrorKind, IsTerminal, Write};
use std::path::{Path, PathBuf};

use clap::Args as ClapArgs;

use super::args::Format;
use super::human::{bytes, date};
use super::row_format::RowFormat;
use super::{Error, print, told};
use crate::dataset::{Access, Store};
use crate::error::Result;
use crate::query::{self, Answer, Versions};

/// What `lapo query` takes.
#[derive(Debug, ClapArgs)]
pub struct Query {
    /// The question, e.g. "SELECT video, count(*) AS n FROM labels GROUP BY video"; `labels@3` is version 3
    pub sql: String,
    /// The workspace [default: the only one under runs/]
    #[arg(long, env = "LAPO_WORKSPACE")]
    pub workspace: Option<String>,
    /// Read this version of a stage, wherever the question names it
    #[arg(long, value_name = "STAGE=VERSION", value_parser = stage_version)]
    pub at: Vec<(String, u64)>,
    /// Read the versions that this run left behind; its id is the name of its record in WORKSPACE/runs
    #[arg(long, value_name = "RUN_ID")]
    pub run: Option<String>,
    /// How to print the rows [default: by the suffix of --output, else table]
    #[arg(long, value_enum, ignore_case = true)]
    pub format: Option<RowFormat>,
    /// Print at most this many rows [default: 1000 of a table, else all]
    #[arg(long, value_name = "ROWS")]
    pub limit: Option<u64>,
    /// Write to a file instead of stdout: .csv, .json, .jsonl, .ndjson, .parquet, or a table under any other name
    #[arg(long, short, value_name = "FILE")]
    pub output: Option<String>,
}

/// A stage and its version: `labels=3`.
fn stage_version(text: &str) -> Result<(String, u64), String> {
    let parts =
        text.split_once('=').and_then(|(stage, version)| Some((stage, version.parse().ok()?)));
    let (stage, version) = parts
        .filter(|(stage, _)| !stage.is_empty())
        .ok_or("expected a stage and its version, such as labels=3")?;
    Ok((stage.to_owned(), version))
}

/// What `lapo datasets` takes.
#[derive(Debug, ClapArgs)]
pub struct Datasets {
    /// A stage, to see its versions [default: the newest version of every stage]
    pub stage: Option<String>,
    /// What changed between two of its versions
    #[arg(long, value_names = ["FROM", "TO"], num_args = 2, requires = "stage")]
    pub diff: Vec<u64>,
    /// The workspace [default: the only one under runs/]
    #[arg(long, env = "LAPO_WORKSPACE")]
    pub workspace: Option<String>,
    /// How to print them
    #[arg(long, value_enum, ignore_case = true, default_value_t = Format::Table)]
    pub format: Format,
}

/// Rows of a table that are printed if nobody says how many.
const TABLE_ROWS: u64 = 1000;

/// `lapo query`: rows on stdout, or into a file.
pub fn query(args: &Query, access: &Access) -> Result<()> {
    let named = args.format.or_else(|| args.output.as_deref().and_then(RowFormat::of_file));
    let format = named.map_or(query::Format::Table, Into::into);
    let stdout = std::io::stdout();
    if args.output.is_none() && format == query::Format::Parquet && stdout.is_terminal() {
        let hint =
            "say where to write it (--output rows.parquet), or pipe it: | python -c ...".into();
        return Err(Error::Usage {
            what: "--format parquet cannot be shown on a terminal".into(),
            hint,
        }
        .into());
    }
    let store = Store::open_with(&workspace(args.workspace.as_deref())?, access)?;
    let mut versions = match &args.run {
        Some(run) => Versions::of_run(&store, run)?,
        None => Versions::default(),
    };
    for (stage, version) in &args.at {
        versions = versions.at(stage, *version);
    }
    let answer = query::answer(&store, &args.sql, &versions)?;
    let limit = args.limit.or((format == query::Format::Table).then_some(TABLE_ROWS));
    match &args.output {
        Some(path) => to_file(answer, format, limit, path),
        None => {
            to_stdout(answer, format, limit, &mut BufWriter::with_capacity(1 << 16, stdout.lock()))
        }
    }
}

fn to_stdout(
    answer: Answer,
    format: query::Format,
    limit: Option<u64>,
    out: &mut dyn Write,
) -> Result<()> {
    let failed = |source| Error::Output { to: "stdout".into(), source };
    let left_out = answer.write(format, limit, out).map_err(|error| match error {
        // Whoever reads a pipe may stop early.
        query::Error::Write(cause) if cause.kind() == ErrorKind::BrokenPipe => {
            failed(ErrorKind::BrokenPipe.into()).into()
        }
        other => crate::error::Error::from(other),
    })?;
    write_rest(format, limit, left_out, out).and_then(|()| out.flush()).map_err(failed)?;
    Ok(())
}

/// Says after a table how much of it is not there.
fn write_rest(
    format: query::Format,
    limit: Option<u64>,
    left_out: u64,
    out: &mut dyn Write,
) -> std::io::Result<()> {
    if format != query::Format::Table || left_out == 0 {
        return Ok(());
    }
    let all = limit.unwrap_or_default() + left_out;
    writeln!(
        out,
        "... {left_out} more rows: --limit {all} prints them all, --format csv writes them for programs"
    )
}

/// Writes a file that appears under its name when it is whole.
fn to_file(answer: Answer, format: query::Format, limit: Option<u64>, path: &str) -> Result<()> {
    let failed = |source| Error::Output { to: path.to_owned(), source };
    // A pipe or a device cannot be replaced by a file.
    let special = std::fs::metadata(path).is_ok_and(|found| !found.is_file());
    let staged = if special { PathBuf::from(path) } else { PathBuf::from(format!("{path}.part")) };
    let mut file = BufWriter::new(File::create(&staged).map_err(failed)?);
    let written = answer
        .write(format, limit, &mut file)
        .map_err(crate::error::Error::from)
        .and_then(|left_out| {
            write_rest(format, limit, left_out, &mut file)
                .and_then(|()| file.flush())
                .map_err(failed)?;
            Ok(())
        });
    if special {
        return written;
    }
    match written {
        Ok(()) => std::fs::rename(&staged, path).map_err(|source| failed(source).into()),
        Err(error) => {
            // What is half written is nobody's file; the first error is the one to tell.
            let _ = std::fs::remove_file(&staged);
            Err(error)
        }
    }
}

/// `lapo datasets`: what a workspace holds, how one dataset came to be, or what changed in it.
pub fn datasets(args: &Datasets, access: &Access) -> Result<()> {
    let store = Store::open_with(&workspace(args.workspace.as_deref())?, access)?;
    let text = match (&args.stage, args.diff.as_slice()) {
        (Some(stage), &[from, to]) => {
            told(args.format, &query::diff(&store, stage, [from, to])?, diff)
        }
        (Some(stage), _) => told(args.format, &query::history(&store, stage)?, |all| {
            all.iter().map(version).collect()
        }),
        (None, _) => told(args.format, &query::datasets(&store)?, |all| newest(all)),
    };
    print(&text)
}

fn newest(all: &[query::DatasetInfo]) -> String {
    let head = format!(
        "{:<16} {:<16} {:>7} {:>7} {:>7} {:>10} {:>12} {:>7}\n",
        "stage", "kind", "version", "tasks", "videos", "rows", "size", "rejects"
    );
    let line = |d: &query::DatasetInfo| {
        if let Some(damage) = &d.damage {
            return format!("{:<16} damaged: {damage}\n", d.stage);
        }
        format!(
            "{:<16} {:<16} {:>7} {:>7} {:>7} {:>10} {:>12} {:>7}\n",
            d.stage,
            d.kind,
            d.version,
            d.receipts,
            d.videos,
            d.rows,
            bytes(d.bytes),
            d.rejects
        )
    };
    head + &all.iter().map(line).collect::<String>()
}

fn version(version: &query::Version) -> String {
    let (version_bytes, committed) = (version.bytes, version.committed_unix_ms);
    let query::Version { version, tasks, added, dropped, rows, why, run, .. } = version;
    let (size, when) = (bytes(version_bytes), date(committed / 1000));
    format!(
        "{version}: {when}, {tasks} tasks (+{added} -{dropped}), {rows} rows, {size}; {}; run {run}\n",
        reason(why)
    )
}

/// Why a version has tasks that the one before did not have.
fn reason(why: &str) -> &str {
    if why.is_empty() { "tasks that were done before" } else { why }
}

fn diff(diff: &query::Diff) -> String {
    let query::Diff { versions: [from, to], why, fields, made, tasks, videos, rows } = diff;
    let mut text = format!("version {from} -> {to}: rows {} -> {}\n", rows[0], rows[1]);
    for (version, why) in why {
        text += &format!("why, version {version}: {}\n", reason(why));
    }
    for (name, [before, after]) in fields {
        text += &format!("{name}: {before} -> {after}\n");
    }
    for (name, [before, after]) in made {
        text += &format!("made by another {name}: {before} -> {after}\n");
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
    let mut found: Vec<String> = entries
        .map(|e| e.path())
        .filter(|p| is_workspace(p))
        .map(|p| p.display().to_string())
        .collect();
    found.sort();
    match found.as_slice() {
        [only] => Ok(only.clone()),
        [] => Err(Error::Usage {
            what: "no workspace under runs/".into(),
            hint: "run a pipeline first (lapo run pipelines/quickstart.yaml), or name one: --workspace FOLDER".into(),
        }),
        several => Err(Error::Usage {
            what: format!("{} workspaces under runs/: {}", several.len(), several.join(", ")),
            hint: format!("name one: --workspace {}", several[0]),
        }),
    }
}
