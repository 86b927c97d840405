//! Which version of each dataset a query reads. In: `--at labels=3`, or a run's record; out: [`Versions`].

use std::collections::BTreeMap;

use serde::Deserialize;

use super::{Error, Result, list};
use crate::dataset::{self, Store};

/// Which version of each stage's dataset a query reads: the newest, unless told otherwise.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Versions {
    of: BTreeMap<String, u64>,
    /// The run whose snapshot this is: it knows only its own stages.
    run: Option<String>,
}

/// What a run's record says of its stages.
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
    /// Returns the versions that a run left behind: the snapshot of all of its stages.
    ///
    /// # Errors
    /// Names the newest runs where there is no such one.
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

    /// Reads this version of a stage.
    #[must_use]
    pub fn at(mut self, stage: &str, version: u64) -> Self {
        self.of.insert(stage.to_owned(), version);
        self
    }

    /// The stages that are not read at their newest version.
    pub fn stages(&self) -> impl Iterator<Item = &String> {
        self.of.keys()
    }

    /// Returns the version of a stage; `None` is the newest.
    ///
    /// # Errors
    /// Fails for a stage that the run did not have.
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

fn no_run(store: &Store, run: &str) -> Result<Error> {
    let files = store.list("runs")?;
    let ids = files.iter().filter_map(|path| path.strip_prefix("runs/")?.strip_suffix(".json"));
    let newest: Vec<String> = ids.rev().take(5).map(str::to_owned).collect();
    let there = if newest.is_empty() {
        "no run has a record here".to_owned()
    } else {
        format!("newest runs here: {}", list(&newest))
    };
    Ok(Error::NoRun { run: run.to_owned(), there })
}
