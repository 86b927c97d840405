//! `lapo inspect`: describes a stage's dataset or a file of weights.

use std::path::Path;

use clap::Args as ClapArgs;

use super::human_readable::bytes;
use super::stdout::print;
use super::workspace;
use crate::dataset::{Access, Store};
use crate::error::CommandError as Error;
use crate::error::Result;
use crate::models::weights::Weights;
use crate::query::{self, Inspection};

/// Arguments of `lapo inspect`.
#[derive(Debug, ClapArgs)]
pub struct InspectArgs {
    /// A stage's name, or a .safetensors file
    pub what: String,
    /// Workspace to read [default: the only one under runs/]
    #[arg(long, env = "LAPO_WORKSPACE")]
    pub workspace: Option<String>,
}

/// Prints a description of a safetensors file, or else of a stage's dataset.
pub fn run(args: &InspectArgs, access: &Access) -> Result<()> {
    if args.what.ends_with(".safetensors") {
        return print(&weights_text(&args.what)?);
    }
    let store = Store::open_with(&workspace::find(args.workspace.as_deref())?, access)?;
    print(&dataset_text(&query::inspect(&store, &args.what)?)?)
}

/// Describes a dataset: totals, settings, counts, tables, weights and the results of queries.
fn dataset_text(inspection: &Inspection) -> Result<String> {
    let info = &inspection.info;
    let mut text = format!(
        "{} ({}), version {}: {} tasks, {} files of {}, {} videos, {} rejects\n",
        info.stage,
        info.kind,
        info.version,
        info.receipts,
        info.files,
        bytes(info.bytes),
        info.videos,
        info.rejects
    );
    for sentence in &inspection.sentences {
        text += &format!("{sentence}\n");
    }
    text += "\nsettings and inputs\n";
    for (name, value) in &inspection.fields {
        text += &format!("  {name}: {}\n", shorten(&value.to_string()));
    }
    if !inspection.stats.is_empty() {
        text += "\ncounts\n";
        for (name, value) in &inspection.stats {
            text += &format!("  {name}: {value}\n");
        }
    }
    for (table, columns) in &inspection.tables {
        text += &format!("\ntable {table}\n  {}\n", columns.join(", "));
    }
    if !inspection.weights.is_empty() {
        text += "\nweights (see `lapo inspect WORKSPACE/FILE`)\n";
        for file in &inspection.weights {
            text += &format!("  {file}\n");
        }
    }
    for (sql, rows) in &inspection.answers {
        let mut table = Vec::new();
        query::write(rows, query::Format::Table, &mut table)?;
        text += &format!("\n{sql}\n{}", String::from_utf8_lossy(&table));
    }
    Ok(text)
}

/// Describes a safetensors file: its metadata, and the parameters of each network.
fn weights_text(path: &str) -> Result<String> {
    let file = std::fs::read(Path::new(path))
        .map_err(|source| Error::Input { from: path.into(), source })?;
    let weights = Weights::parse(&file).map_err(|error| Error::Usage {
        what: format!("{path}: {error}"),
        hint: "give a valid .safetensors file".into(),
    })?;
    let mut text = format!("{path}: {}\n", bytes(file.len() as u64));
    for (key, value) in &weights.metadata {
        // A config is a JSON object: print it one setting per line.
        if let Ok(config) = serde_json::from_str::<serde_json::Map<_, _>>(value) {
            text += &format!("\n{key}\n");
            for (name, value) in &config {
                text += &format!("  {name}: {value}\n");
            }
        } else {
            text += &format!("{key}: {}\n", shorten(value));
        }
    }
    for (network, tensors, parameters) in weights.networks() {
        text += &format!("\n{network}: {parameters} parameters in {tensors} tensors");
    }
    Ok(text + "\n")
}

/// Cuts a value after 100 characters.
fn shorten(text: &str) -> String {
    match text.char_indices().nth(100) {
        Some((at, _)) => format!("{}... ({} characters)", &text[..at], text.chars().count()),
        None => text.to_owned(),
    }
}
