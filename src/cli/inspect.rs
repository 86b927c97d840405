//! `lapo inspect`: what a dataset or a file of weights is.

use std::path::Path;

use super::args::Inspect;
use super::human::bytes;
use super::look::workspace;
use super::{Error, print};
use crate::dataset::{Access, Store};
use crate::error::Result;
use crate::models::weights::Weights;
use crate::query::{self, Inspection};

/// A stage's dataset, or else a safetensors file.
pub fn run(args: &Inspect, access: &Access) -> Result<()> {
    match args.what.ends_with(".safetensors") {
        true => print(&weights(&args.what)?),
        false => {
            let store = Store::open_with(&workspace(args.workspace.as_deref())?, access)?;
            print(&told(&query::inspect(&store, &args.what)?)?)
        }
    }
}

fn told(what: &Inspection) -> Result<String> {
    let info = &what.info;
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
    what.sentences.iter().for_each(|sentence| text += &format!("{sentence}\n"));
    text += "\nsettings and inputs\n";
    what.fields
        .iter()
        .for_each(|(name, value)| text += &format!("  {name}: {}\n", cut(&value.to_string())));
    if !what.stats.is_empty() {
        text += "\ncounts\n";
        what.stats.iter().for_each(|(name, value)| text += &format!("  {name}: {value}\n"));
    }
    for (table, columns) in &what.tables {
        text += &format!("\ntable {table}\n  {}\n", columns.join(", "));
    }
    if !what.weights.is_empty() {
        text += "\nweights, for `lapo inspect` too\n";
        what.weights.iter().for_each(|file| text += &format!("  {file}\n"));
    }
    for (sql, rows) in &what.answers {
        let mut table = Vec::new();
        query::write(rows, query::Format::Table, &mut table)?;
        text += &format!("\n{sql}\n{}", String::from_utf8_lossy(&table));
    }
    Ok(text)
}

/// What a safetensors file holds: its metadata, and of each network the tensors and numbers.
fn weights(path: &str) -> Result<String> {
    let file = std::fs::read(Path::new(path))
        .map_err(|source| Error::Input { from: path.into(), source })?;
    let weights = Weights::parse(&file).map_err(|e| Error::Usage {
        what: format!("{path}: {e}"),
        hint: "name a .safetensors file".into(),
    })?;
    let mut text = format!("{path}: {}\n", bytes(file.len() as u64));
    for (key, value) in &weights.metadata {
        match serde_json::from_str::<serde_json::Map<_, _>>(value) {
            Ok(config) => {
                text += &format!("\n{key}\n");
                config.iter().for_each(|(name, value)| text += &format!("  {name}: {value}\n"));
            }
            Err(_) => text += &format!("{key}: {}\n", cut(value)),
        }
    }
    for (network, tensors, numbers) in weights.networks() {
        text += &format!("\n{network}: {numbers} numbers in {tensors} tensors");
    }
    Ok(text + "\n")
}

/// A value that would fill the terminal is cut.
fn cut(text: &str) -> String {
    match text.char_indices().nth(100) {
        Some((at, _)) => format!("{}... ({} characters)", &text[..at], text.chars().count()),
        None => text.to_owned(),
    }
}
