//! Rolling back a dataset: an older version becomes the newest one again.

use super::error::{Error, Result};
use super::manifest::{Changes, Manifest, manifest_path};
use super::paths::Created;
use super::pins;
use super::store::Store;

/// Rolls back to an older version: creates a new version with the older one's tasks.
///
/// # Errors
/// Fails if the older version does not exist.
pub fn roll_back(
    store: &Store,
    stage: &str,
    to: u64,
    run: &str,
    now_unix_ms: u64,
) -> Result<Manifest> {
    // Pin before reading: no collector deletes the version's packs and data during the rollback.
    let _held = pins::reading(store, stage, to)?;
    let old = Manifest::read(store, stage, to)?
        .ok_or_else(|| Error::Missing { path: manifest_path(stage, to) })?;
    // Repeat if another commit takes the number first.
    loop {
        let newest = Manifest::newest(store, stage)?
            .ok_or_else(|| Error::Missing { path: format!("{stage}/manifests") })?;
        let next = Manifest {
            version: newest.version + 1,
            parent: Some(newest.version),
            committed_unix_ms: now_unix_ms,
            run: run.to_owned(),
            why: format!("rolled back to version {to}"),
            changes: Changes { tasks_added: old.totals.tasks, tasks_dropped: newest.totals.tasks },
            ..old.clone()
        };
        if store.create(&manifest_path(stage, next.version), &super::receipt::to_json(&next))?
            == Created::New
        {
            return Ok(next);
        }
    }
}
