//! The marker of a workspace: `lapo.json`, created once by the first run.
//!
//! [`claim`] returns the marker or creates it. [`require`] fails if there is none: nothing is read or deleted in a folder without it. A
//! workspace belongs to the pipeline that the marker names.

use serde::{Deserialize, Serialize};

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
    let is_allowed = |owner: &str| owner == claim.pipeline || claim.take_over || claim.shares_with.iter().any(|name| name == owner);
    let mut owned = false;
    for stage in claim.stages {
        let Some(newest) = head(store, stage)? else { continue };
        owned = true;
        if !is_allowed(&newest.pipeline) {
            let (owner, pipeline) = (newest.pipeline, claim.pipeline.to_owned());
            return Err(Error::OtherPipeline { workspace: store.name(), stage: Some((*stage).to_owned()), owner, pipeline });
        }
    }
    if !owned && !is_allowed(&marker.pipeline) {
        let pipeline = claim.pipeline.to_owned();
        return Err(Error::OtherPipeline { workspace: store.name(), stage: None, owner: marker.pipeline, pipeline });
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
    let foreign = store.first_names()?;
    if let Some(found) = foreign.first() {
        return Err(Error::ForeignFolder { path: store.name(), found: found.clone() });
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
