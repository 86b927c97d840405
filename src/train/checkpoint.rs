//! Checkpoints of a training run: `<scratch>/<step>/state`, each created whole or not at all.
//!
//! Two runs of the same training write the same bytes, so it does not matter whose checkpoint is read.

use crate::dataset::{Error, Store};

/// How many checkpoints are kept while training runs.
const KEPT: usize = 2;

/// The newest checkpoint: the step to go on with, and its bytes.
pub fn newest(store: &Store, folder: &str) -> Result<Option<(u64, Vec<u8>)>, Error> {
    let Some((step, path)) = all(store, folder)?.pop() else {
        return Ok(None);
    };
    Ok(store.read(&path)?.map(|bytes| (step, bytes.to_vec())))
}

/// Saves the state before `step`, then forgets older ones, but not the one before step `kept`, nor what a run that is ahead has saved.
pub fn save(
    store: &Store,
    folder: &str,
    step: u64,
    state: &[u8],
    kept: Option<u64>,
) -> Result<(), Error> {
    store.create(&path(folder, step), state)?;
    let mut saved = all(store, folder)?;
    saved.truncate(saved.len().saturating_sub(KEPT));
    saved
        .iter()
        .filter(|(old, _)| *old < step && Some(*old) != kept)
        .try_for_each(|(old, _)| store.delete_all(&of(folder, *old)))
}

/// Where the checkpoint before `step` lies.
pub fn path(folder: &str, step: u64) -> String {
    format!("{}/state", of(folder, step))
}

fn of(folder: &str, step: u64) -> String {
    format!("{folder}/{step:010}")
}

/// Every checkpoint of the folder, oldest first.
fn all(store: &Store, folder: &str) -> Result<Vec<(u64, String)>, Error> {
    let step = |path: &String| path.strip_suffix("/state")?.rsplit('/').next()?.parse().ok();
    let mut found: Vec<(u64, String)> =
        store.list(folder)?.into_iter().filter_map(|path| Some((step(&path)?, path))).collect();
    found.sort();
    Ok(found)
}

#[cfg(test)]
#[expect(clippy::unwrap_used, reason = "a test fails by panicking")]
mod tests {
    use super::*;

    #[test]
    fn the_newest_is_found_and_only_two_are_kept_beside_the_best() {
        let folder = tempfile::tempdir().unwrap();
        let store = Store::open(folder.path().to_str().unwrap()).unwrap();
        assert!(newest(&store, "d/checkpoints/k").unwrap().is_none());
        for step in [5, 10, 200] {
            save(&store, "d/checkpoints/k", step, &step.to_le_bytes(), None).unwrap();
        }
        assert_eq!(
            newest(&store, "d/checkpoints/k").unwrap(),
            Some((200, 200_u64.to_le_bytes().to_vec()))
        );
        assert_eq!(all(&store, "d/checkpoints/k").unwrap().len(), 2);
        for step in [300, 400] {
            save(&store, "d/checkpoints/k", step, b"", Some(10)).unwrap();
        }
        let steps: Vec<u64> =
            all(&store, "d/checkpoints/k").unwrap().into_iter().map(|(step, _)| step).collect();
        assert_eq!(steps, [10, 300, 400]);
        save(&store, "d/checkpoints/k", 20, b"", Some(10)).unwrap();
        assert_eq!(
            all(&store, "d/checkpoints/k").unwrap().len(),
            4,
            "a run that lags takes nothing from one that is ahead"
        );
    }
}
