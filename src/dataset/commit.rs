//! Commits: finished tasks become the next version of a dataset. Start at [`commit`].
//!
//! Versions share packs. A pack stays if most of its rows are still in use and in order; the
//! manifest lists its dropped rows. New and scattered rows go to a new pack, together with the
//! small packs before them, so a dataset of n tasks has O(log n) small packs (`pack_layout`). Small
//! tables of tasks are joined in the same way (`join`).

use std::sync::Arc;

use serde_json::{Map, Value};

use super::error::{Error, Result};
use super::hashing::{HashMap, HashSet};
use super::manifest::{Manifest, manifest_path, versions};
use super::pack::Pack;
use super::paths::Created;
use super::pins;
use super::receipt::{Receipt, to_json};
use super::store::Store;

mod join;
mod pack_layout;
mod parent;
mod unique_names;

use parent::{Parent, Slot};

/// A commit's stage, run, reason and settings.
#[derive(Debug, Clone, Copy)]
pub struct Commit<'a> {
    /// The stage's name.
    pub stage: &'a str,
    /// The stage's kind.
    pub kind: &'a str,
    /// The run's id. Later runs have greater ids.
    pub run: &'a str,
    /// The pipeline's name.
    pub pipeline: &'a str,
    /// Whether to commit a version of this pipeline even if the newest version, made by another
    /// pipeline, has the same tasks.
    pub take_over: bool,
    /// The reason, in words.
    pub why: &'a str,
    /// The settings shared by all tasks.
    pub settings: &'a Map<String, Value>,
    /// The newest version at planning time; 0 if there was none.
    pub since: u64,
    /// The current time, in milliseconds since 1970.
    pub now_unix_ms: u64,
    /// The size of a full joined table, in bytes.
    pub file_bytes: u64,
}

/// The outcome of a commit.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Committed {
    /// The commit created this version.
    New(Manifest),
    /// This newest version already has exactly these tasks.
    Unchanged(Manifest),
    /// A run that started later has committed since. Its version, this one, stays the newest.
    Overtaken(Manifest),
}

impl Committed {
    /// Returns the newest version.
    #[must_use]
    pub fn manifest(&self) -> &Manifest {
        match self {
            Self::New(manifest) | Self::Unchanged(manifest) | Self::Overtaken(manifest) => manifest,
        }
    }
}

/// Commits the tasks `order` as the newest version.
///
/// `fresh` has receipts by key. A receipt in neither `fresh` nor the newest version is read from
/// its file. A receipt in `fresh` replaces one of another attempt in the newest version.
///
/// # Errors
/// Fails if a task has no receipt, and if two videos with frames have the same name.
pub fn commit(
    store: &Store,
    by: &Commit,
    order: &[String],
    fresh: &HashMap<String, Arc<Receipt>>,
) -> Result<Committed> {
    // A version lists each task once.
    let mut seen = HashSet::default();
    let order: Vec<String> = order.iter().filter(|key| seen.insert(*key)).cloned().collect();
    let order = order.as_slice();
    let mut newest = Manifest::newest(store, by.stage)?;
    loop {
        let newest_number = newest.as_ref().map(|manifest| manifest.version);
        // The pin makes garbage collection keep this version, the number after it (a number must
        // never be used twice) and the packs that this run is about to write.
        let _pin = match pins::committing(store, by.run, by.stage, newest_number) {
            Err(Error::Missing { .. }) => {
                newest = Manifest::newest(store, by.stage)?;
                continue;
            }
            pin => pin?,
        };
        // Another version may have been committed before the pin existed.
        if newest_number != versions(store, by.stage)?.last().copied() {
            newest = Manifest::newest(store, by.stage)?;
            continue;
        }
        let parent = Parent::read(store, newest.as_ref())?;
        let slots = parent.slots(order, fresh);
        if let Some(manifest) = &newest {
            let is_taken_over = by.take_over && manifest.pipeline != by.pipeline;
            let is_same = parent.is_same(&slots) && !is_taken_over;
            // A damaged joined table is replaced even if the tasks are the same.
            if is_same && manifest.damaged_tables(store, by.stage)?.is_empty() {
                return Ok(Committed::Unchanged(manifest.clone()));
            }
            if manifest.version > by.since && *manifest.run > *by.run {
                return Ok(Committed::Overtaken(manifest.clone()));
            }
        }
        let next = parent.next(store, by, order, &slots, fresh)?;
        let path = manifest_path(by.stage, next.version);
        if store.create(&path, &to_json(&next))? == Created::New {
            return Ok(Committed::New(next));
        }
        // Another committer was faster. Its version is read by name, since a listing may be out of
        // date.
        let theirs = Manifest::read(store, by.stage, next.version)?;
        newest = Manifest::newest(store, by.stage)?
            .filter(|listed| theirs.as_ref().is_none_or(|theirs| listed.version > theirs.version))
            .or(theirs);
    }
}

/// Returns a random name for a new file.
fn fresh_name() -> String {
    use std::hash::{BuildHasher, Hasher, RandomState};
    format!("{:016x}", RandomState::new().build_hasher().finish())
}

#[cfg(test)]
pub(super) mod tests;
