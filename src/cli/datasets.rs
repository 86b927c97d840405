//! `lapo datasets`: lists a workspace's datasets, a dataset's versions, or changes between two.

use clap::Args as ClapArgs;

use super::flags::Format;
use super::human_readable::{bytes, date};
use super::stdout::print_as;
use super::workspace;
use crate::dataset::{Access, Store};
use crate::error::Result;
use crate::query::{self, DatasetInfo, Diff, Version};

/// Arguments of `lapo datasets`.
#[derive(Debug, ClapArgs)]
pub struct DatasetsArgs {
    /// List the versions of this stage [default: list the newest version of every stage]
    pub stage: Option<String>,
    /// Show what changed between two versions of the stage
    #[arg(long, value_names = ["FROM", "TO"], num_args = 2, requires = "stage")]
    pub diff: Vec<u64>,
    /// Workspace to read [default: the only one under runs/]
    #[arg(long, env = "LAPO_WORKSPACE")]
    pub workspace: Option<String>,
    /// Output format
    #[arg(long, value_enum, ignore_case = true, default_value_t = Format::Table)]
    pub format: Format,
}

/// Prints datasets, versions or a difference, as the arguments choose.
pub fn run(args: &DatasetsArgs, access: &Access) -> Result<()> {
    let store = Store::open_with(&workspace::find(args.workspace.as_deref())?, access)?;
    match (&args.stage, args.diff.as_slice()) {
        (Some(stage), &[from, to]) => {
            print_as(args.format, &query::diff(&store, stage, [from, to])?, diff_text)
        }
        (Some(stage), _) => print_as(args.format, &query::history(&store, stage)?, |versions| {
            versions.iter().map(version_line).collect()
        }),
        (None, _) => print_as(args.format, &query::datasets(&store)?, |all| newest_table(all)),
    }
}

/// Returns a table of the newest versions, one dataset per line.
fn newest_table(all: &[DatasetInfo]) -> String {
    let head = format!(
        "{:<16} {:<16} {:>7} {:>7} {:>7} {:>10} {:>12} {:>7}\n",
        "stage", "kind", "version", "tasks", "videos", "rows", "size", "rejects"
    );
    let line = |d: &DatasetInfo| {
        // One damaged dataset must not hide the others.
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

fn version_line(version: &Version) -> String {
    let size = bytes(version.bytes);
    let date = date(version.committed_unix_ms / 1000);
    let why = reason(&version.why);
    let Version { version, tasks, added, dropped, rows, run, .. } = version;
    format!(
        "{version}: {date}, {tasks} tasks (+{added} -{dropped}), {rows} rows, {size}; {why}; \
         run {run}\n"
    )
}

/// Returns why a version has new tasks. Without a reason, it only reuses earlier tasks.
fn reason(why: &str) -> &str {
    if why.is_empty() { "re-used tasks" } else { why }
}

/// Returns the changes between two versions, one per line.
fn diff_text(diff: &Diff) -> String {
    let Diff { versions: [from, to], why, fields, made, tasks, videos, rows } = diff;
    let mut text = format!("version {from} -> {to}: rows {} -> {}\n", rows[0], rows[1]);
    for (version, why) in why {
        text += &format!("reason for version {version}: {}\n", reason(why));
    }
    for (name, [before, after]) in fields {
        text += &format!("{name}: {before} -> {after}\n");
    }
    for (name, [before, after]) in made {
        text += &format!("made with another {name}: {before} -> {after}\n");
    }
    text += &format!("tasks: +{} -{}\n", tasks.added.len(), tasks.dropped.len());
    for (sign, videos) in [("+", &videos.added), ("-", &videos.dropped)] {
        for video in videos {
            text += &format!("{sign} {video}\n");
        }
    }
    text
}
