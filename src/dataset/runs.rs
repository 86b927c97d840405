//! The runs of a workspace: `runs/<run>.begun.json` is created when a run begins, `runs/<run>.json` when it ends.
//!
//! A run's id is the next free number, so that runs are ordered without clocks. A killed run has only the first file. Start at [`begin`].

use std::hash::{BuildHasher, Hasher, RandomState};

use serde::{Deserialize, Serialize};
use serde_json::Value;

use super::error::{Error, Result};
use super::place::Created;
use super::receipt::to_json;
use super::store::Store;

/// What is kept when a run begins.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Begun {
    /// The version of this file's format: [`super::FORMAT`].
    pub format: u32,
    /// The run's id.
    pub run: String,
    /// The pipeline's name.
    pub pipeline: String,
    /// When it began, in seconds since 1970.
    pub started_unix_secs: u64,
    /// The machine's name, and the process.
    pub host: String,
    /// The process, on that machine.
    pub process: u32,
    /// A random name that no other run has: containers may share host name, process number and time.
    pub id: String,
}

/// Gives a run its id.
pub fn begin(store: &Store, pipeline: &str, host: &str, now_unix_secs: u64) -> Result<String> {
    let mut number = newest(store)? + 1;
    loop {
        let run = format!("{number:08}");
        let (pipeline, host, process) = (pipeline.to_owned(), host.to_owned(), std::process::id());
        let id = format!("{:016x}", RandomState::new().build_hasher().finish());
        let begun = Begun {
            format: super::FORMAT,
            run: run.clone(),
            pipeline,
            started_unix_secs: now_unix_secs,
            host,
            process,
            id,
        };
        if store.create(&begun_path(&run), &to_json(&begun))? == Created::New
            && !is_recorded(store, &run)?
        {
            return Ok(run);
        }
        number += 1;
    }
}

/// Keeps what a run did.
pub fn record(store: &Store, run: &str, record: &Value) -> Result<()> {
    match store.create(&record_path(run), &to_json(record))? {
        Created::New => Ok(()),
        Created::Exists => Err(Error::Corrupt {
            path: record_path(run),
            reason: "another run has this number".into(),
        }),
    }
}

/// Whether a run has ended and kept its record.
pub fn is_recorded(store: &Store, run: &str) -> Result<bool> {
    Ok(store.read(&record_path(run))?.is_some())
}

/// Forgets a run that did nothing.
pub fn abandon(store: &Store, run: &str) -> Result<()> {
    store.delete(&begun_path(run))
}

/// Returns the path of a run's record.
#[must_use]
pub fn record_path(run: &str) -> String {
    format!("runs/{run}.json")
}

pub(super) fn begun_path(run: &str) -> String {
    format!("runs/{run}.begun.json")
}

/// The number of a run's file, if it is one.
pub(super) fn number(path: &str) -> Option<u64> {
    let name = path.strip_prefix("runs/")?;
    name.strip_suffix(".begun.json").or_else(|| name.strip_suffix(".json"))?.parse().ok()
}

fn newest(store: &Store) -> Result<u64> {
    Ok(store.list("runs")?.iter().filter_map(|path| number(path)).max().unwrap_or(0))
}

#[cfg(test)]
#[expect(clippy::unwrap_used, reason = "a test fails by panicking")]
mod tests {
    use super::super::faults::faulty_store;
    use super::*;

    #[test]
    fn runs_that_begin_in_the_same_second_under_one_host_name_and_number_are_two() {
        let folder = tempfile::tempdir().unwrap();
        for store in [Store::open(folder.path().to_str().unwrap()).unwrap(), faulty_store(&[])] {
            let runs = std::thread::scope(|scope| {
                let threads: Vec<_> = (0..16)
                    .map(|_| scope.spawn(|| begin(&store, "p", "pod", 7).unwrap()))
                    .collect();
                threads
                    .into_iter()
                    .map(|thread| thread.join().unwrap())
                    .collect::<std::collections::BTreeSet<String>>()
            });
            assert_eq!(runs.len(), 16);
        }
    }
}
