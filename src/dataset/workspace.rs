//! The marker of a workspace: `lapo.json`, created once by the first run.
//!
//! [`claim`] returns the marker or creates it. [`require`] fails if there is none, so that lapo
//! neither reads nor deletes files in other folders. The workspace belongs to the pipeline in the
//! marker.

use serde::{Deserialize, Serialize};

use super::error::{Error, Result};
use super::integrity::is_probe;
use super::manifest::Manifest;
use super::paths::Created;
use super::receipt::{read_json, to_json};
use super::store::Store;

/// The marker's file name.
pub const MARKER: &str = "lapo.json";

/// The content of `lapo.json`.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Workspace {
    /// The format of all files in the workspace: [`super::FORMAT`].
    pub format: u32,
    /// A random id, unique to the workspace.
    pub id: String,
    /// The pipeline of the first run.
    pub pipeline: String,
    /// The version of lapo in the first run.
    pub lapo: String,
    /// The time of creation, in seconds since 1970.
    pub created_unix_secs: u64,
}

/// A pipeline's request to write into a workspace.
#[derive(Debug, Clone, Copy)]
pub struct Claim<'a> {
    /// The pipeline's name.
    pub pipeline: &'a str,
    /// Other pipelines with access to the workspace.
    pub shares_with: &'a [String],
    /// The names of the stages to write.
    pub stages: &'a [&'a str],
    /// Whether to take over stages of other pipelines.
    pub take_over: bool,
}

/// Returns the workspace's marker. Creates it if there is none.
///
/// # Errors
/// Fails if:
/// - the workspace or a stage belongs to a pipeline outside the claim, and `take_over` is not set
/// - the folder is not empty but has no marker
/// - the store overwrites existing files on create
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
        let Some(newest) = Manifest::newest(store, stage)? else { continue };
        owned = true;
        if !is_allowed(&newest.pipeline) {
            return Err(Error::OtherPipeline {
                workspace: store.name(),
                stage: Some((*stage).to_owned()),
                owner: newest.pipeline,
                pipeline: claim.pipeline.to_owned(),
            });
        }
    }
    // A pipeline with stages here, even after a take-over, need not be the marker's pipeline.
    if !owned && !is_allowed(&marker.pipeline) {
        return Err(Error::OtherPipeline {
            workspace: store.name(),
            stage: None,
            owner: marker.pipeline,
            pipeline: claim.pipeline.to_owned(),
        });
    }
    Ok(marker)
}

/// Returns the workspace's marker.
///
/// # Errors
/// Fails if there is none, because the folder is not a workspace.
pub fn require(store: &Store) -> Result<Workspace> {
    read_json(store, MARKER)?.ok_or_else(|| Error::NoWorkspace { path: store.name() })
}

/// Returns the workspace's marker, if it has one.
pub fn find(store: &Store) -> Result<Option<Workspace>> {
    read_json(store, MARKER)
}

fn create(store: &Store, pipeline: &str, id: &str, created_unix_secs: u64) -> Result<Workspace> {
    if let Some(found) = foreign_name(store)? {
        // Another run may have created the marker and more files since this run looked.
        return read_json(store, MARKER)?
            .ok_or_else(|| Error::ForeignFolder { path: store.name(), found });
    }
    store.probe_create()?;
    let marker = Workspace {
        format: super::FORMAT,
        id: id.to_owned(),
        pipeline: pipeline.to_owned(),
        lapo: env!("CARGO_PKG_VERSION").to_owned(),
        created_unix_secs,
    };
    match store.create(MARKER, &to_json(&marker))? {
        Created::New => Ok(marker),
        // Of concurrent first runs, one creates the marker and all use it.
        Created::Exists => require(store),
    }
}

/// Returns a name in the folder of another program, if there is one. Files of a run that is
/// creating the marker, or died at it, are lapo's own.
fn foreign_name(store: &Store) -> Result<Option<String>> {
    for name in store.first_names()? {
        let is_ours = match name.as_str() {
            "probes" => store.files("probes")?.iter().all(|file| is_probe(&file.path)),
            // The temporary file of the marker's create.
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

    use super::super::faulty_store::faulty_store;
    use super::*;

    const CLAIM: Claim =
        Claim { pipeline: "p", shares_with: &[], stages: &["frames"], take_over: false };

    fn local() -> (tempfile::TempDir, Store) {
        let folder = tempfile::tempdir().unwrap();
        let store = Store::open(folder.path().to_str().unwrap()).unwrap();
        (folder, store)
    }

    #[test]
    fn concurrent_first_runs_create_one_workspace_and_all_use_it() {
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
    fn files_of_a_run_killed_while_creating_the_workspace_are_not_foreign() {
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
            // Claiming deletes nothing.
            for path in left {
                assert!(folder.path().join(path).is_file(), "{path} is gone");
            }
        }
    }
}
