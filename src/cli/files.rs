//! `lapo files`: the paths of one version's files, for programs that read them: polars, DuckDB, pyarrow.

use clap::{Args as ClapArgs, ValueEnum};
use serde_json::json;

use super::look::workspace;
use super::{Error, print};
use crate::dataset::{self, Access, FileInfo, Store};
use crate::error::Result;
use crate::query;

/// What `lapo files` takes.
#[derive(Debug, ClapArgs)]
pub struct Files {
    /// The stage
    pub stage: String,
    /// A version of its dataset [default: the newest]
    #[arg(long, value_name = "VERSION")]
    pub at: Option<u64>,
    /// Only files of this sort, such as labels.parquet or shard.arrow [default: the stage's own table, or every file where it has none]
    #[arg(long, value_name = "NAME", conflicts_with = "all")]
    pub sort: Option<String>,
    /// Every file of every task, whatever it is; small tables are not joined
    #[arg(long)]
    pub all: bool,
    /// The workspace [default: the only one under runs/]
    #[arg(long, env = "LAPO_WORKSPACE")]
    pub workspace: Option<String>,
    /// How to print them
    #[arg(long, value_enum, ignore_case = true, default_value_t = PathFormat::Lines)]
    pub format: PathFormat,
}

/// How paths are printed.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub enum PathFormat {
    /// One absolute path a line
    Lines,
    /// A JSON array of objects: path, bytes, rows, blake3
    Json,
}

/// Prints the paths.
pub fn run(args: &Files, access: &Access) -> Result<()> {
    let store = Store::open_with(&workspace(args.workspace.as_deref())?, access)?;
    dataset::workspace::require(&store)?;
    let manifest = match args.at {
        Some(version) => dataset::at(&store, &args.stage, version)?,
        None => dataset::head(&store, &args.stage)?,
    };
    let Some(manifest) = manifest else {
        return Err(query::no_such_version(&store, &args.stage, args.at)?.into());
    };
    let sorts = &manifest.totals.tables;
    let own = if sorts.contains_key("shard.arrow") {
        Some("shard.arrow")
    } else {
        sorts.keys().next().map(String::as_str)
    };
    let sort = args.sort.as_deref().or(own).filter(|_| !args.all);
    if let Some(sort) = args.sort.as_ref().filter(|sort| !sorts.contains_key(*sort)) {
        let there = sorts.keys().map(|sort| format!("`{sort}`")).collect::<Vec<_>>().join(", ");
        let what = format!(
            "--sort {sort}: version {} of `{}` has no such files",
            manifest.version, args.stage
        );
        return Err(Error::Usage {
            what,
            hint: format!("it has {there}; --all prints every file"),
        }
        .into());
    }
    let files =
        sort.map_or_else(|| manifest.files(&store), |sort| manifest.tables(&store, sort))?;
    let place = |file: &FileInfo| format!("{}/{}", store.name().trim_end_matches('/'), file.path);
    print(&match args.format {
        PathFormat::Lines => files.iter().map(|file| place(file) + "\n").collect(),
        PathFormat::Json => {
            let object = |file: &FileInfo| json!({ "path": place(file), "bytes": file.bytes, "rows": file.rows, "blake3": file.blake3 });
            format!("{:#}\n", json!(files.iter().map(object).collect::<Vec<_>>()))
        }
    })
}
