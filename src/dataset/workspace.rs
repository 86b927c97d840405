//! The marker of a workspace: `lapo.json`, created once by the first run.
//!
//! [`claim`] returns the marker or creates it. [`require`] fails if there is none: nothing is read or deleted in a folder without it. A
//! workspace belongs to the pipeline that the marker names.

use serde::{Deserialize, Serialize};

use super::checks::is_probe;
use super::error::{Error, Result};
use super::manifest::head;
use super::place::Created;
use super::receipt::{read_json, to_json};
use super::store::Store;

/// The file's name.
pub const MARKER: &str = "lapo.json";

/// What `lapo.json` says.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Workspace {
    /// The version of every file's format in the workspace: [`super::FORMAT`].
    pub format: u32,
    /// A random name that no other workspace has.
    pub id: String,
    /// The pipeline whose first run made it.
    pub pipeline: String,
    /// The version of lapo that made it.
    pub lapo: String,
    /// When it was made, in seconds since 1970.
    pub created_unix_secs: u64,
}

/// Who wants to write into a workspace.
#[derive(Debug, Clone, Copy)]
pub struct Claim<'a> {
    /// The pipeline's name.
    pub pipeline: &'a str,
    /// Pipelines that it shares the workspace with.
    pub shares_with: &'a [String],
    /// The stages that it writes.
    pub stages: &'a [&'a str],
    /// Whether it writes even where another pipeline wrote before.
    pub take_over: bool,
}

/// Returns the workspace's marker, made now where there is none.
///
/// # Errors
/// Where the workspace or one of the stages belongs to a pipeline that is not named, and `take_over` is not set; where a folder that is
/// not empty has no marker; where the store does not keep what was created first.
pub fn claim(store: &Store, claim: &Claim, id: &str, now_unix_secs: u64) -> Result<Workspace> {
    let marker = match read_json::<Workspace>(store, MARKER)? {
        Some(found) => found,
        None => create(store, claim.pipeline, id, now_unix_secs)?,
    };
    let is_allowed = |owner: &str| {
        owner == claim.pipeline
            || claim.take_over
            || claim.shares_with.iter().any(|name| name == owner)
    };
    let mut owned = false;
    for stage in claim.stages {
        let Some(newest) = head(store, stage)? else { continue };
        owned = true;
        if !is_allowed(&newest.pipeline) {
            let (owner, pipeline) = (newest.pipeline, claim.pipeline.to_owned());
            return Err(Error::OtherPipeline {
                workspace: store.name(),
                stage: Some((*stage).to_owned()),
                owner,
                pipeline,
            });
        }
    }
    if !owned && !is_allowed(&marker.pipeline) {
        let pipeline = claim.pipeline.to_owned();
        return Err(Error::OtherPipeline {
            workspace: store.name(),
            stage: None,
            owner: marker.pipeline,
            pipeline,
        });
    }
    Ok(marker)
}

/// Returns the workspace's marker.
///
/// # Errors
/// Where there is none: the folder is no workspace.
pub fn require(store: &Store) -> Result<Workspace> {
    read_json(store, MARKER)?.ok_or_else(|| Error::NoWorkspace { path: store.name() })
}

/// Returns the workspace's marker, if it has one.
pub fn find(store: &Store) -> Result<Option<Workspace>> {
    read_json(store, MARKER)
}

fn create(store: &Store, pipeline: &str, id: &str, created_unix_secs: u64) -> Result<Workspace> {
    if let Some(found) = foreign_name(store)? {
        // Another run may have made the marker, and written more, since this one looked.
        return read_json(store, MARKER)?
            .ok_or_else(|| Error::ForeignFolder { path: store.name(), found });
    }
    store.probe_create()?;
    let lapo = env!("CARGO_PKG_VERSION").to_owned();
    let (id, pipeline) = (id.to_owned(), pipeline.to_owned());
    let made = Workspace { format: super::FORMAT, id, pipeline, lapo, created_unix_secs };
    match store.create(MARKER, &to_json(&made))? {
        Created::New => Ok(made),
        Created::Exists => require(store),
    }
}

/// Returns a name in the folder that is not from runs of lapo that are making the marker, or died while making it.
fn foreign_name(store: &Store) -> Result<Option<String>> {
    for name in store.first_names()? {
        let is_ours = match name.as_str() {
            "probes" => store.files("probes")?.iter().all(|file| is_probe(&file.path)),
            name => name
                .strip_prefix(MARKER)
                .and_then(|rest| rest.strip_prefix('#'))
                .is_some_and(|digits| digits.parse::<u64>().is_ok()),
        };
        if !is_ours {
            return Ok(Some(name));
        }
    }
    Ok(None)
}

#[cfg(test)]
#[expect(clippy::unwrap_used, reason = "a test fails by panicking")]
mod tests {
    use std::fs;

    use super::super::faults::faulty_store;
    use super::*;

    const CLAIM: Claim =
        Claim { pipeline: "p", shares_with: &[], stages: &["frames"], take_over: false };

    fn local() -> (tempfile::TempDir, Store) {
        let folder = tempfile::tempdir().unwrap();
        let store = Store::open(folder.path().to_str().unwrap()).unwrap();
        (folder, store)
    }

    #[test]
    fn of_many_first_runs_at_once_one_makes_the_workspace_and_all_work_in_it() {
        for round in 0..20 {
            let (_folder, local) = local();
            for store in [local, faulty_store(&[])] {
                let ids = std::thread::scope(|scope| {
                    let claim_and_write = |i: usize| {
                        let claimed = claim(&store, &CLAIM, &format!("{i:02}"), 0).unwrap();
                        store.create(&format!("runs/{i:08}.begun.json"), b"{}").unwrap();
                        claimed.id
                    };
                    let threads: Vec<_> =
                        (0..8).map(|i| scope.spawn(move || claim_and_write(i))).collect();
                    threads.into_iter().map(|thread| thread.join().unwrap()).collect::<Vec<_>>()
                });
                assert!(ids.iter().all(|id| *id == ids[0]), "round {round}: {ids:?}");
            }
        }
    }

    #[test]
    fn what_a_run_leaves_that_dies_while_it_makes_the_workspace_is_not_foreign() {
        let probe = "probes/0123456789abcdef";
        for (left, is_ours) in [
            (&[probe][..], true),
            (&["probes/0123456789abcdef#77", "lapo.json#123", ".hidden"], true),
            (&[probe, "notes.txt"], false),
            (&["probes/mission.csv"], false),
            (&["lapo.json.bak"], false),
            (&["lapo.json#mine"], false),
            (&["runs/1.csv"], false),
        ] {
            let (folder, store) = local();
            for path in left {
                let path = folder.path().join(path);
                fs::create_dir_all(path.parent().unwrap()).unwrap();
                fs::write(path, b"one").unwrap();
            }
            let claimed = claim(&store, &CLAIM, "a", 0);
            assert_eq!(claimed.is_ok(), is_ours, "{left:?}: {claimed:?}");
            left.iter()
                .for_each(|path| assert!(folder.path().join(path).is_file(), "{path} is gone"));
        }
    }
}
