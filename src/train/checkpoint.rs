//! Checkpoints of a training: `<scratch>/<step>/state`, each created atomically.
//!
//! Two runs of the same training write the same bytes, so either may resume from the other's
//! checkpoints.

use crate::dataset::{Error, Store};

/// The number of newest checkpoints to keep.
const KEPT: usize = 2;

/// Returns the newest checkpoint: the step to continue with, and its bytes.
pub fn newest(store: &Store, folder: &str) -> Result<Option<(u64, Vec<u8>)>, Error> {
    let Some((step, path)) = list(store, folder)?.pop() else {
        return Ok(None);
    };
    Ok(store.read(&path)?.map(|bytes| (step, bytes.to_vec())))
}

/// Saves the state before `step`, then deletes all but the two newest checkpoints and the one
/// before step `kept`.
pub fn save(
    store: &Store,
    folder: &str,
    step: u64,
    state: &[u8],
    kept: Option<u64>,
) -> Result<(), Error> {
    store.create(&path(folder, step), state)?;
    let mut saved = list(store, folder)?;
    saved.truncate(saved.len().saturating_sub(KEPT));
    for (old, _) in saved {
        // A run that lags deletes nothing that a run ahead of it has saved.
        if old < step && Some(old) != kept {
            store.delete_all(&step_folder(folder, old))?;
        }
    }
    Ok(())
}

/// Returns the path of the checkpoint before `step`.
pub fn path(folder: &str, step: u64) -> String {
    format!("{}/state", step_folder(folder, step))
}

fn step_folder(folder: &str, step: u64) -> String {
    format!("{folder}/{step:010}")
}

/// Returns the steps and paths of all checkpoints of a folder, oldest first.
fn list(store: &Store, folder: &str) -> Result<Vec<(u64, String)>, Error> {
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
    fn the_two_newest_checkpoints_are_kept_beside_the_best() {
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
        assert_eq!(list(&store, "d/checkpoints/k").unwrap().len(), 2);
        for step in [300, 400] {
            save(&store, "d/checkpoints/k", step, b"", Some(10)).unwrap();
        }
        let steps: Vec<u64> =
            list(&store, "d/checkpoints/k").unwrap().into_iter().map(|(step, _)| step).collect();
        assert_eq!(steps, [10, 300, 400]);
        save(&store, "d/checkpoints/k", 20, b"", Some(10)).unwrap();
        assert_eq!(
            list(&store, "d/checkpoints/k").unwrap().len(),
            4,
            "a run that lags deletes no checkpoint of one that is ahead"
        );
    }
}
