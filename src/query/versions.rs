//! Selects the versions of datasets for a query: from `--at labels=3`, or from a run's record.

use std::collections::BTreeMap;

use serde::Deserialize;

use super::{Error, Result, list};
use crate::dataset::{self, Store};

/// The selected version of each stage's dataset. The default is the newest.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Versions {
    of: BTreeMap<String, u64>,
    /// The run of this snapshot. It has versions of its own stages only.
    run: Option<String>,
}

/// The stages in a run's record.
#[derive(Deserialize)]
struct Record {
    stages: Vec<Stage>,
}

#[derive(Deserialize)]
struct Stage {
    stage: String,
    version: u64,
}

impl Versions {
    /// Returns the versions at the end of a run: a snapshot of all its stages.
    ///
    /// # Errors
    /// Fails if the run does not exist, and names the newest runs.
    pub fn of_run(store: &Store, run: &str) -> Result<Self> {
        let path = format!("runs/{run}.json");
        let Some(bytes) = store.read(&path)? else { return Err(no_run(store, run)?) };
        let corrupt = |cause: serde_json::Error| dataset::Error::Corrupt {
            path: path.clone(),
            reason: cause.to_string(),
        };
        let record: Record = serde_json::from_slice(&bytes).map_err(corrupt)?;
        let of = record.stages.into_iter().map(|stage| (stage.stage, stage.version)).collect();
        Ok(Self { of, run: Some(run.to_owned()) })
    }

    /// Selects a version of a stage.
    #[must_use]
    pub fn at(mut self, stage: &str, version: u64) -> Self {
        self.of.insert(stage.to_owned(), version);
        self
    }

    /// Returns the stages with a selected version.
    pub fn stages(&self) -> impl Iterator<Item = &String> {
        self.of.keys()
    }

    /// Returns the selected version of a stage, or `None` for the newest.
    ///
    /// # Errors
    /// Fails if the run did not have the stage.
    pub fn version(&self, stage: &str) -> Result<Option<u64>> {
        match (self.of.get(stage), &self.run) {
            (Some(version), _) => Ok(Some(*version)),
            (None, None) => Ok(None),
            (None, Some(run)) => Err(Error::NotInRun {
                stage: stage.to_owned(),
                run: run.clone(),
                stages: self.of.keys().cloned().collect(),
            }),
        }
    }
}

/// Returns the error for an unknown run.
fn no_run(store: &Store, run: &str) -> Result<Error> {
    let files = store.list("runs")?;
    let ids = files.iter().filter_map(|path| path.strip_prefix("runs/")?.strip_suffix(".json"));
    // Run ids sort by age.
    let newest: Vec<String> = ids.rev().take(5).map(str::to_owned).collect();
    let there = if newest.is_empty() {
        "no run has a record here".to_owned()
    } else {
        format!("newest runs here: {}", list(&newest))
    };
    Ok(Error::NoRun { run: run.to_owned(), there })
}
