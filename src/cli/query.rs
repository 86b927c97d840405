//! `lapo query`: runs SQL over a workspace, and prints the rows or writes them to a file.

use std::fs::File;
use std::io::{BufWriter, ErrorKind, IsTerminal, Write};
use std::path::PathBuf;

use clap::Args as ClapArgs;

use super::row_format::RowFormat;
use super::workspace;
use crate::dataset::{Access, Store};
use crate::error::CommandError as Error;
use crate::error::Result;
use crate::query::{self, Format, QueryResult, Versions};

/// Arguments of `lapo query`.
#[derive(Debug, ClapArgs)]
pub struct QueryArgs {
    /// The query, such as "SELECT video, count(*) AS n FROM labels GROUP BY video"; `labels@3`
    /// reads version 3 of labels
    pub sql: String,
    /// Workspace to read [default: the only one under runs/]
    #[arg(long, env = "LAPO_WORKSPACE")]
    pub workspace: Option<String>,
    /// Read this version of a stage wherever the query names it; repeatable
    #[arg(long, value_name = "STAGE=VERSION", value_parser = parse_stage_version)]
    pub at: Vec<(String, u64)>,
    /// Read the versions as they were at the end of this run; `lapo runs` lists the ids
    #[arg(long, value_name = "RUN_ID")]
    pub run: Option<String>,
    /// Format of the rows [default: by the suffix of --output, else table]
    #[arg(long, value_enum, ignore_case = true)]
    pub format: Option<RowFormat>,
    /// Maximum number of rows to print [default: 1000 for tables, else all]
    #[arg(long, value_name = "ROWS")]
    pub limit: Option<u64>,
    /// Write to a file instead of stdout: .csv, .json, .jsonl, .ndjson or .parquet; any other name
    /// gets a table
    #[arg(long, short, value_name = "FILE")]
    pub output: Option<String>,
}

/// Parses a stage and its version: `labels=3`.
fn parse_stage_version(text: &str) -> Result<(String, u64), String> {
    let parts =
        text.split_once('=').and_then(|(stage, version)| Some((stage, version.parse().ok()?)));
    let (stage, version) = parts
        .filter(|(stage, _)| !stage.is_empty())
        .ok_or("expected a stage and its version, such as labels=3")?;
    Ok((stage.to_owned(), version))
}

/// Rows of a table that are printed without `--limit`.
const TABLE_ROWS: u64 = 1000;

/// Prints the rows of a query, or writes them to a file.
pub fn run(args: &QueryArgs, access: &Access) -> Result<()> {
    let named = args.format.or_else(|| args.output.as_deref().and_then(RowFormat::from_suffix));
    let format = named.map_or(Format::Table, Into::into);
    let stdout = std::io::stdout();
    if args.output.is_none() && format == Format::Parquet && stdout.is_terminal() {
        return Err(Error::Usage {
            what: "--format parquet cannot be printed on a terminal".into(),
            hint: "write a file (--output rows.parquet), or pipe the output to a program".into(),
        }
        .into());
    }
    let store = Store::open_with(&workspace::find(args.workspace.as_deref())?, access)?;
    let mut versions = match &args.run {
        Some(run) => Versions::of_run(&store, run)?,
        None => Versions::default(),
    };
    for (stage, version) in &args.at {
        versions = versions.at(stage, *version);
    }
    let answer = query::answer(&store, &args.sql, &versions)?;
    // A table is for people; the other formats are for programs, which want all rows.
    let limit = args.limit.or((format == Format::Table).then_some(TABLE_ROWS));
    match &args.output {
        Some(path) => write_file(answer, format, limit, path),
        None => {
            // Rows are many small writes.
            let mut out = BufWriter::with_capacity(1 << 16, stdout.lock());
            write_stdout(answer, format, limit, &mut out)
        }
    }
}

fn write_stdout(
    answer: QueryResult,
    format: Format,
    limit: Option<u64>,
    out: &mut dyn Write,
) -> Result<()> {
    let cannot_write = |source| Error::Output { to: "stdout".into(), source };
    let rest = answer.write(format, limit, out).map_err(|error| match error {
        // The reader of a pipe may stop early; that is no failure of the query.
        query::Error::Write(cause) if cause.kind() == ErrorKind::BrokenPipe => {
            cannot_write(ErrorKind::BrokenPipe.into()).into()
        }
        other => crate::error::Error::from(other),
    })?;
    write_rest(format, limit, rest, out).and_then(|()| out.flush()).map_err(cannot_write)?;
    Ok(())
}

/// Writes below a table how many rows are missing from it.
fn write_rest(
    format: Format,
    limit: Option<u64>,
    rest: u64,
    out: &mut dyn Write,
) -> std::io::Result<()> {
    if format != Format::Table || rest == 0 {
        return Ok(());
    }
    let all = limit.unwrap_or_default() + rest;
    writeln!(
        out,
        "... {rest} more rows; print them with --limit {all}, or export all with --format csv"
    )
}

/// Writes a file, which appears under its name only when it is complete.
fn write_file(answer: QueryResult, format: Format, limit: Option<u64>, path: &str) -> Result<()> {
    let cannot_write = |source| Error::Output { to: path.to_owned(), source };
    // A pipe or a device cannot be replaced by a file: write into it directly.
    let is_special = std::fs::metadata(path).is_ok_and(|found| !found.is_file());
    // In the folder of the target, so that the rename is atomic.
    let staged =
        if is_special { PathBuf::from(path) } else { PathBuf::from(format!("{path}.part")) };
    let mut file = BufWriter::new(File::create(&staged).map_err(cannot_write)?);
    let written = answer
        .write(format, limit, &mut file)
        .map_err(crate::error::Error::from)
        .and_then(|rest| {
            write_rest(format, limit, rest, &mut file)
                .and_then(|()| file.flush())
                .map_err(cannot_write)?;
            Ok(())
        });
    if is_special {
        return written;
    }
    match written {
        Ok(()) => std::fs::rename(&staged, path).map_err(|source| cannot_write(source).into()),
        Err(error) => {
            // Report the first error, not a second one of the cleanup.
            let _ = std::fs::remove_file(&staged);
            Err(error)
        }
    }
}
