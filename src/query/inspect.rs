//! What one stage's dataset is. In: a workspace and a stage's name; out: [`Inspection`], the facts of its receipts and what its tables say.

use std::collections::BTreeMap;
use std::sync::Arc;

use serde_json::{Map, Value};

use super::catalog::{Catalog, Content, DatasetInfo};
use super::{Error, Result, Rows, list, nearest, query};
use crate::dataset::{self, Receipt, Store};

/// One stage's newest version, told.
#[derive(Debug)]
pub struct Inspection {
    /// How much it is.
    pub info: DatasetInfo,
    /// What its tasks were set to, inputs included; of several tasks, what they share.
    pub fields: Map<String, Value>,
    /// Counts and seconds, all tasks together.
    pub stats: BTreeMap<String, f64>,
    /// What the stage says of its result.
    pub sentences: Vec<String>,
    /// Files of weights.
    pub weights: Vec<String>,
    /// Of every table its name, and columns with their types.
    pub tables: Vec<(String, Vec<String>)>,
    /// Questions, and what the tables answer.
    pub answers: Vec<(String, Rows)>,
}

/// Reads what there is to know of a stage.
///
/// # Errors
/// Names the stages there are where none is called so.
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
    let (mut tables, mut answers) = (Vec::new(), Vec::new());
    for table in catalog.tables.iter().filter(|table| table.stage.as_deref() == Some(stage)) {
        if ["frames", "labels"].contains(&table.name.as_str()) && table.name != stage {
            continue;
        }
        let columns =
            query(store, &format!("SELECT * FROM \"{}\" LIMIT 0", table.name))?.typed_columns();
        let sort =
            if let Content::Parquet(sort) = &table.content { sort.as_str() } else { "frames" };
        if let Some(sql) = question(sort, &table.name) {
            let rows = query(store, &sql)?;
            answers.push((sql, rows));
        }
        tables.push((table.name.clone(), columns));
    }
    let told =
        files().filter(|file| file.path.ends_with(".json")).map(|file| sentence(store, &file.path));
    let sentences = told.collect::<Result<Vec<Option<String>>>>()?;
    Ok(Inspection {
        info,
        fields: shared(&receipts),
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

/// The error of a stage that is not there.
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

/// What one asks first, by what sort of table it is.
fn question(sort: &str, table: &str) -> Option<String> {
    Some(match sort {
        "frames" => format!(
            "SELECT count(*) AS frames, count(DISTINCT video) AS videos, min(time_s) AS from_s, max(time_s) AS to_s FROM \"{table}\""
        ),
        "labels" => format!(
            "SELECT count(*) AS transitions, count(DISTINCT video) AS videos, count(true_action) AS with_true_action, avg(motion) AS motion, \
             avg(fdm_error) AS fdm_error FROM \"{table}\""
        ),
        "actions" => format!(
            "SELECT action, count(*) AS n FROM \"{table}\" GROUP BY action ORDER BY n DESC LIMIT 16"
        ),
        "metrics" => format!("SELECT * FROM \"{table}\" ORDER BY step DESC LIMIT 5"),
        "curve" => format!(
            "SELECT transitions, count(*) AS draws, avg(accuracy) AS accuracy, avg(r2) AS r2 FROM \"{table}\" GROUP BY transitions ORDER BY transitions"
        ),
        "episodes" => format!(
            "SELECT player, transitions, count(*) AS episodes, avg(episode_return) AS mean_return, avg(length) AS length FROM \"{table}\" \
             GROUP BY player, transitions ORDER BY player, transitions"
        ),
        _ => return None,
    })
}

/// The fields that all receipts have alike.
pub(super) fn shared(receipts: &[Arc<Receipt>]) -> Map<String, Value> {
    let Some((first, rest)) = receipts.split_first() else { return Map::new() };
    let alike = |(name, value): &(&String, &Value)| {
        rest.iter().all(|receipt| receipt.fields.get(name) == Some(value))
    };
    first.fields.iter().filter(alike).map(|(name, value)| (name.clone(), value.clone())).collect()
}

/// What a verdict says in words.
fn sentence(store: &Store, path: &str) -> Result<Option<String>> {
    let corrupt = |e: serde_json::Error| dataset::Error::Corrupt {
        path: path.to_owned(),
        reason: e.to_string(),
    };
    let told: Value = serde_json::from_slice(&store.require(path)?).map_err(corrupt)?;
    Ok(told["sentence"].as_str().map(str::to_owned))
}
