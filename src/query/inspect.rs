//! Describes the dataset of one stage from its receipts and tables. Start at [`inspect`].

use std::collections::BTreeMap;
use std::sync::Arc;

use serde_json::{Map, Value};

use super::catalog::{Catalog, Content, DatasetInfo};
use super::{Error, Result, Rows, list, nearest, query};
use crate::dataset::{self, Receipt, Store};

/// A description of a stage's newest version.
#[derive(Debug)]
pub struct Inspection {
    /// Its size.
    pub info: DatasetInfo,
    /// The common settings and inputs of its tasks.
    pub fields: Map<String, Value>,
    /// Statistics such as counts and seconds, summed over all tasks.
    pub stats: BTreeMap<String, f64>,
    /// The sentences of its verdicts.
    pub sentences: Vec<String>,
    /// The paths of its weight files.
    pub weights: Vec<String>,
    /// The name of every table, and its columns with their types.
    pub tables: Vec<(String, Vec<String>)>,
    /// Example queries and their rows.
    pub answers: Vec<(String, Rows)>,
}

/// Describes a stage.
///
/// # Errors
/// Fails if the stage does not exist. The error lists the stages.
pub fn inspect(store: &Store, stage: &str) -> Result<Inspection> {
    let catalog = Catalog::read(store)?;
    let infos = catalog.datasets();
    let Some(info) = infos.iter().find(|info| info.stage == stage).cloned() else {
        return Err(no_stage(store, stage)?);
    };
    catalog.fail_if_damaged(store, |damaged| damaged == stage)?;
    let receipts =
        catalog.manifest(stage).map_or(Ok(vec![]), |manifest| manifest.receipts(store))?;
    let files = || receipts.iter().flat_map(|receipt| &receipt.files);
    let mut stats = BTreeMap::new();
    for (name, value) in receipts.iter().flat_map(|receipt| &receipt.stats) {
        *stats.entry(name.clone()).or_default() += value;
    }
    let mut tables = Vec::new();
    let mut answers = Vec::new();
    for table in catalog.tables.iter().filter(|table| table.stage.as_deref() == Some(stage)) {
        // A short name is another name of the stage's own table.
        if ["frames", "labels"].contains(&table.name.as_str()) && table.name != stage {
            continue;
        }
        let columns =
            query(store, &format!("SELECT * FROM \"{}\" LIMIT 0", table.name))?.typed_columns();
        let sort =
            if let Content::Parquet(sort) = &table.content { sort.as_str() } else { "frames" };
        if let Some(sql) = example_query(sort, &table.name) {
            // The rows are small: example queries aggregate or have a limit.
            let rows = query(store, &sql)?;
            answers.push((sql, rows));
        }
        tables.push((table.name.clone(), columns));
    }
    let verdicts =
        files().filter(|file| file.path.ends_with(".json")).map(|file| sentence(store, &file.path));
    let sentences = verdicts.collect::<Result<Vec<Option<String>>>>()?;
    Ok(Inspection {
        info,
        fields: shared_fields(&receipts),
        stats,
        sentences: sentences.into_iter().flatten().collect(),
        weights: files()
            .filter(|file| file.path.ends_with(".safetensors"))
            .map(|file| file.path.clone())
            .collect(),
        tables,
        answers,
    })
}

/// Returns the error for an unknown stage.
pub(super) fn no_stage(store: &Store, stage: &str) -> Result<Error> {
    let stages: Vec<String> = dataset::stages(store)?.into_iter().map(|(name, _)| name).collect();
    if stages.is_empty() {
        return Ok(Error::EmptyWorkspace);
    }
    let near =
        nearest(stage, &stages).map(|name| format!("did you mean `{name}`? ")).unwrap_or_default();
    Ok(Error::NoStage {
        stage: stage.into(),
        hint: format!("{near}stages here: {}", list(&stages)),
    })
}

/// Returns an example query for a table, depending on its sort of rows.
fn example_query(sort: &str, table: &str) -> Option<String> {
    Some(match sort {
        "frames" => format!(
            "SELECT count(*) AS frames, count(DISTINCT video) AS videos, min(time_s) AS from_s, \
             max(time_s) AS to_s FROM \"{table}\""
        ),
        "labels" => format!(
            "SELECT count(*) AS transitions, count(DISTINCT video) AS videos, \
             count(true_action) AS with_true_action, avg(motion) AS motion, \
             avg(fdm_error) AS fdm_error FROM \"{table}\""
        ),
        "actions" => format!(
            "SELECT action, count(*) AS n FROM \"{table}\" GROUP BY action ORDER BY n DESC \
             LIMIT 16"
        ),
        "metrics" => format!("SELECT * FROM \"{table}\" ORDER BY step DESC LIMIT 5"),
        "curve" => format!(
            "SELECT transitions, count(*) AS draws, avg(accuracy) AS accuracy, avg(r2) AS r2 \
             FROM \"{table}\" GROUP BY transitions ORDER BY transitions"
        ),
        "episodes" => format!(
            "SELECT player, transitions, count(*) AS episodes, \
             avg(episode_return) AS mean_return, avg(length) AS length FROM \"{table}\" \
             GROUP BY player, transitions ORDER BY player, transitions"
        ),
        _ => return None,
    })
}

/// Returns the common key fields of all receipts.
pub(super) fn shared_fields(receipts: &[Arc<Receipt>]) -> Map<String, Value> {
    let Some((first, rest)) = receipts.split_first() else { return Map::new() };
    let alike = |(name, value): &(&String, &Value)| {
        rest.iter().all(|receipt| receipt.fields.get(name) == Some(value))
    };
    first.fields.iter().filter(alike).map(|(name, value)| (name.clone(), value.clone())).collect()
}

/// Returns the sentence of a verdict file.
fn sentence(store: &Store, path: &str) -> Result<Option<String>> {
    let corrupt = |e: serde_json::Error| dataset::Error::Corrupt {
        path: path.to_owned(),
        reason: e.to_string(),
    };
    let verdict: Value = serde_json::from_slice(&store.require(path)?).map_err(corrupt)?;
    Ok(verdict["sentence"].as_str().map(str::to_owned))
}
