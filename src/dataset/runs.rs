//! Records the runs of a workspace: `runs/<run>.begun.json` when a run begins, `runs/<run>.json`
//! when it ends. Start at [`begin`].
//!
//! A run's id is the next free number, so that runs are ordered without clocks. A killed run has
//! only the first file.

use std::hash::{BuildHasher, Hasher, RandomState};

use serde::{Deserialize, Serialize};
use serde_json::Value;

use super::error::{Error, Result};
use super::paths::Created;
use super::receipt::to_json;
use super::store::Store;

/// The record of a run's beginning.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Begun {
    /// The version of this file's format: [`super::FORMAT`].
    pub format: u32,
    /// The run's id.
    pub run: String,
    /// The pipeline's name.
    pub pipeline: String,
    /// The time of the start, in seconds since 1970.
    pub started_unix_secs: u64,
    /// The machine's host name.
    pub host: String,
    /// The PID on this machine.
    pub process: u32,
    /// A random id, unique to the run: containers may share host name, PID and time.
    pub id: String,
}

/// Begins a run and returns its id.
pub fn begin(store: &Store, pipeline: &str, host: &str, now_unix_secs: u64) -> Result<String> {
    let mut number = newest(store)? + 1;
    loop {
        let run = format!("{number:08}");
        let begun = Begun {
            format: super::FORMAT,
            run: run.clone(),
            pipeline: pipeline.to_owned(),
            started_unix_secs: now_unix_secs,
            host: host.to_owned(),
            process: std::process::id(),
            id: format!("{:016x}", RandomState::new().build_hasher().finish()),
        };
        // A number with a record but without a begun file is taken, too.
        if store.create(&begun_path(&run), &to_json(&begun))? == Created::New
            && !is_recorded(store, &run)?
        {
            return Ok(run);
        }
        number += 1;
    }
}

/// Writes the record of a finished run.
pub fn record(store: &Store, run: &str, record: &Value) -> Result<()> {
    match store.create(&record_path(run), &to_json(record))? {
        Created::New => Ok(()),
        Created::Exists => Err(Error::Corrupt {
            path: record_path(run),
            reason: "another run has already written a record with this number".into(),
        }),
    }
}

/// Returns whether a run has ended and written its record.
pub fn is_recorded(store: &Store, run: &str) -> Result<bool> {
    Ok(store.read(&record_path(run))?.is_some())
}

/// Deletes the beginning of a run that did nothing, and so frees its number.
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

/// Returns the run's number from the path of one of its files.
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
    use super::super::faulty_store::faulty_store;
    use super::*;

    #[test]
    fn concurrent_runs_with_equal_host_pid_and_time_get_different_ids() {
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
