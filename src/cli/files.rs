//! `lapo files`: prints the paths of a version's files, for polars, DuckDB, pyarrow and others.

use clap::{Args as ClapArgs, ValueEnum};
use serde_json::{Value, json};

use super::stdout::print;
use super::workspace;
use crate::dataset::{self, Access, FileInfo, Manifest, Store};
use crate::error::CommandError as Error;
use crate::error::Result;
use crate::query;

/// Arguments of `lapo files`.
#[derive(Debug, ClapArgs)]
pub struct FilesArgs {
    /// The stage
    pub stage: String,
    /// Version of its dataset [default: the newest]
    #[arg(long, value_name = "VERSION")]
    pub at: Option<u64>,
    /// Print only files of this name, such as labels.parquet or shard.arrow
    /// [default: the stage's main table, or all files of a stage without tables]
    #[arg(long, value_name = "NAME", conflicts_with = "all")]
    pub sort: Option<String>,
    /// Print every file of every task, instead of the tables that join small files
    #[arg(long)]
    pub all: bool,
    /// Workspace to read [default: the only one under runs/]
    #[arg(long, env = "LAPO_WORKSPACE")]
    pub workspace: Option<String>,
    /// Output format
    #[arg(long, value_enum, ignore_case = true, default_value_t = PathFormat::Lines)]
    pub format: PathFormat,
}

/// How paths are printed.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub enum PathFormat {
    /// One absolute path per line
    Lines,
    /// A JSON array of objects: path, bytes, rows, blake3
    Json,
}

/// Prints the paths.
pub fn run(args: &FilesArgs, access: &Access) -> Result<()> {
    let store = Store::open_with(&workspace::find(args.workspace.as_deref())?, access)?;
    dataset::workspace::require(&store)?;
    let manifest = match args.at {
        Some(version) => Manifest::read(&store, &args.stage, version)?,
        None => Manifest::newest(&store, &args.stage)?,
    };
    let Some(manifest) = manifest else {
        return Err(query::no_such_version(&store, &args.stage, args.at)?.into());
    };
    let sort = table_name(args, &manifest)?;
    let files =
        sort.map_or_else(|| manifest.files(&store), |sort| manifest.tables(&store, sort))?;
    // A workspace may be given with a slash at its end: `ws/`.
    let path = |file: &FileInfo| format!("{}/{}", store.name().trim_end_matches('/'), file.path);
    let text = match args.format {
        PathFormat::Lines => files.iter().map(|file| path(file) + "\n").collect(),
        PathFormat::Json => {
            let objects: Vec<Value> = files
                .iter()
                .map(|file| {
                    json!({
                        "path": path(file),
                        "bytes": file.bytes,
                        "rows": file.rows,
                        "blake3": file.blake3,
                    })
                })
                .collect();
            format!("{:#}\n", json!(objects))
        }
    };
    print(&text)
}

/// Returns the name of the table to print; `None` for all files.
fn table_name<'a>(args: &'a FilesArgs, manifest: &'a Manifest) -> Result<Option<&'a str>, Error> {
    let tables = &manifest.totals.tables;
    if let Some(name) = &args.sort {
        if !tables.contains_key(name) {
            let names: Vec<String> = tables.keys().map(|name| format!("`{name}`")).collect();
            return Err(Error::Usage {
                what: format!(
                    "--sort {name}: version {} of `{}` has no such files",
                    manifest.version, args.stage
                ),
                hint: format!("it has {}; --all prints every file", names.join(", ")),
            });
        }
        return Ok(Some(name));
    }
    if args.all {
        return Ok(None);
    }
    // Stages that make frames have other tables, too; the frames are their main one.
    let main = tables.keys().find(|name| *name == "shard.arrow").or_else(|| tables.keys().next());
    Ok(main.map(String::as_str))
}
