//! Finished tasks of a stage: tasks with a receipt and with files of the right size. Start at
//! [`finished`].
//!
//! One listing shows which receipts exist. Most are read from the packs of the newest version, then
//! of older versions. A receipt's own file is read only if no version has it, or if it was filed
//! after the newest version. Finally the size of every file is compared with its receipt.

use std::sync::Arc;

use rayon::prelude::*;

use super::disk;
use super::error::Result;
use super::hashing::{HashMap, HashSet};
use super::manifest::{Manifest, manifest_path, versions};
use super::paths::is_key;
use super::receipt::{Receipt, find_receipts, receipt_path};
use super::store::Store;

/// The finished tasks of a stage, in any version or none.
#[derive(Debug, Clone, Default)]
pub struct Finished {
    /// Receipts: the newest version's in its order, then all others.
    pub receipts: Vec<Arc<Receipt>>,
    /// Tasks with a receipt, but with a missing or resized file.
    pub damaged: Vec<DamagedTask>,
}

/// A task with a damaged file.
#[derive(Debug, Clone, PartialEq)]
pub struct DamagedTask {
    /// The task's receipt.
    pub receipt: Arc<Receipt>,
    /// The damaged file, relative to the workspace.
    pub path: String,
    /// The size found; `None` if the file is missing.
    pub found_bytes: Option<u64>,
}

/// Returns the finished tasks of a stage.
pub fn finished(store: &Store, stage: &str, newest: Option<&Manifest>) -> Result<Finished> {
    let ReceiptFiles { mut missing, refiled } = ReceiptFiles::list(store, stage, newest)?;
    if missing.is_empty() && refiled.is_empty() {
        return Ok(Finished::default());
    }
    let sizes = Sizes::of(store, stage)?;
    let mut done = Finished::default();
    let mut take = |mut receipts: Vec<Arc<Receipt>>, missing: &mut HashSet<String>| {
        receipts.retain(|receipt| missing.contains(&receipt.key));
        for (receipt, damage) in sizes.check(receipts)? {
            // A damaged task stays missing: its own receipt file decides below.
            if damage.is_none() && missing.remove(&receipt.key) {
                done.receipts.push(receipt);
            }
        }
        Ok(())
    };
    if let Some(newest) = newest {
        take(newest.receipts(store)?, &mut missing)?;
    }
    // Reading a whole pack pays off only for many receipts.
    if missing.len() > MAX_SINGLE_READS {
        take_from_older_versions(store, stage, newest, &mut missing, &mut take)?;
    }
    let mut keys: Vec<String> = missing.into_iter().chain(refiled).collect();
    keys.sort_unstable();
    let filed = find_receipts(store, stage, &keys)?.into_iter().flatten().map(Arc::new).collect();
    for (receipt, damage) in sizes.check(filed)? {
        match damage {
            None => done.receipts.push(receipt),
            Some((path, found_bytes)) => {
                done.damaged.push(DamagedTask { receipt, path, found_bytes })
            }
        }
    }
    if let Some(newest) = newest.filter(|_| !keys.is_empty()) {
        // Receipts read one by one may be in the newest version, too: restore its order.
        let entries = newest.entries(store)?;
        let rank: HashMap<&str, usize> =
            entries.iter().enumerate().map(|(at, (key, _))| (key.as_str(), at)).collect();
        done.receipts
            .sort_by_key(|receipt| rank.get(receipt.key.as_str()).copied().unwrap_or(usize::MAX));
    }
    Ok(done)
}

/// Up to this many receipts are read from their own files.
const MAX_SINGLE_READS: usize = 64;

/// The keys of a stage's receipt files.
#[derive(Default)]
struct ReceiptFiles {
    /// Not yet read from a pack.
    missing: HashSet<String>,
    /// Changed since the newest version.
    refiled: Vec<String>,
}

impl ReceiptFiles {
    fn list(store: &Store, stage: &str, newest: Option<&Manifest>) -> Result<Self> {
        let committed = match newest {
            Some(newest) => store.modified(&manifest_path(stage, newest.version))?,
            None => None,
        };
        let mut files = Self::default();
        for file in store.files(&format!("{stage}/receipts"))? {
            let name = file.path.rsplit('/').next().unwrap_or_default();
            let Some(key) = name.strip_suffix(".json").filter(|key| is_key(key)) else { continue };
            // Another attempt may have filed it since the version was committed, so the packs may
            // have an old receipt.
            if committed.is_some_and(|committed| file.modified >= committed) {
                files.refiled.push(key.to_owned());
            } else {
                files.missing.insert(key.to_owned());
            }
        }
        Ok(files)
    }
}

/// Takes the missing receipts with undamaged files.
type Take<'a> = dyn FnMut(Vec<Arc<Receipt>>, &mut HashSet<String>) -> Result<()> + 'a;

/// Takes missing receipts from the packs of older versions, newest first.
fn take_from_older_versions(
    store: &Store,
    stage: &str,
    newest: Option<&Manifest>,
    missing: &mut HashSet<String>,
    take: &mut Take,
) -> Result<()> {
    let mut seen: Vec<String> = newest
        .into_iter()
        .flat_map(|newest| &newest.packs)
        .map(|pack| pack.file.path.clone())
        .collect();
    for version in versions(store, stage)?.into_iter().rev().skip(1) {
        if missing.len() <= MAX_SINGLE_READS {
            break;
        }
        let Some(manifest) = Manifest::read(store, stage, version)? else { continue };
        for pack in manifest.packs {
            if !seen.contains(&pack.file.path) {
                take(pack.all_receipts(store)?, missing)?;
                seen.push(pack.file.path);
            }
        }
    }
    Ok(())
}

/// The sizes of a stage's data files.
enum Sizes<'a> {
    /// A local folder: the size of each file is read when needed, since a listing would open two
    /// folders for every task.
    Folder { store: &'a Store, data: String },
    /// An object store: listed once, a thousand files a request.
    Listed(std::collections::HashMap<String, u64>),
}

/// A damaged file: its path, and its size if it exists.
type Damage = (String, Option<u64>);

impl<'a> Sizes<'a> {
    fn of(store: &'a Store, stage: &str) -> Result<Self> {
        let data = format!("{stage}/data");
        match store.local_path(&data)? {
            Some(_) => Ok(Self::Folder { store, data: data + "/" }),
            None => Ok(Self::Listed(store.sizes(&data)?)),
        }
    }

    /// Checks the files of receipts. Returns the receipts in order, each with its first damaged
    /// file.
    fn check(&self, receipts: Vec<Arc<Receipt>>) -> Result<Vec<(Arc<Receipt>, Option<Damage>)>> {
        let check = |receipt: Arc<Receipt>| {
            for file in &receipt.files {
                let found = self.bytes(&file.path)?;
                if found != Some(file.bytes) {
                    let damage = (file.path.clone(), found);
                    return Ok((receipt, Some(damage)));
                }
            }
            Ok((receipt, None))
        };
        receipts.into_par_iter().map(check).collect()
    }

    /// Returns the size of a file; `None` if the stage has no such data file.
    fn bytes(&self, path: &str) -> Result<Option<u64>> {
        match self {
            Self::Listed(sizes) => Ok(sizes.get(path).copied()),
            // A receipt may have been edited by hand: a path outside counts as missing.
            Self::Folder { store, data } => {
                let local = store.local_path(path).ok().flatten();
                match local.filter(|_| path.starts_with(data.as_str())) {
                    Some(file) => disk::size(&file),
                    None => Ok(None),
                }
            }
        }
    }
}

/// Deletes the receipt of a damaged task, so the next run repeats the task. A receipt filed since
/// by another attempt stays.
pub fn delete_damaged_receipt(store: &Store, stage: &str, damaged: &DamagedTask) -> Result<()> {
    let key = damaged.receipt.key.clone();
    let filed = find_receipts(store, stage, std::slice::from_ref(&key))?.pop().flatten();
    if filed.is_some_and(|filed| filed.attempt == damaged.receipt.attempt) {
        store.delete(&receipt_path(stage, &key))?;
    }
    Ok(())
}

#[cfg(test)]
#[expect(clippy::unwrap_used, reason = "a test fails by panicking")]
mod tests {
    use super::super::commit::tests::{commit_all, key};
    use super::super::receipt::tests::made;
    use super::*;

    fn found(store: &Store) -> (Vec<String>, Vec<String>) {
        let newest = Manifest::newest(store, "s").unwrap();
        let done = finished(store, "s", newest.as_ref()).unwrap();
        let keys = |receipts: Vec<Arc<Receipt>>| {
            receipts.iter().map(|receipt| receipt.key.clone()).collect()
        };
        (
            keys(done.receipts),
            keys(done.damaged.into_iter().map(|damaged| damaged.receipt).collect()),
        )
    }

    #[test]
    fn a_task_is_finished_while_its_receipt_exists_and_its_files_are_complete() {
        let folder = tempfile::tempdir().unwrap();
        let store = Store::open(folder.path().to_str().unwrap()).unwrap();
        let receipts: Vec<Arc<Receipt>> = (0..4).map(|i| made(&store, "s", &key(i), "a")).collect();
        commit_all(&store, "s", "1", &receipts[..3]);
        let keys = |numbers: &[usize]| numbers.iter().map(|i| key(*i)).collect::<Vec<_>>();
        assert_eq!(found(&store), (keys(&[0, 1, 2, 3]), vec![]));
        // Delete a file, cut another one short, and delete a receipt by hand.
        store.delete(&receipts[0].files[0].path).unwrap();
        std::fs::write(folder.path().join(&receipts[3].files[0].path), "").unwrap();
        store.delete(&receipt_path("s", &key(1))).unwrap();
        assert_eq!(found(&store), (keys(&[2]), keys(&[0, 3])));
        // Another attempt makes the tasks again, without a commit.
        let newest = Manifest::newest(&store, "s").unwrap();
        for damaged in finished(&store, "s", newest.as_ref()).unwrap().damaged {
            delete_damaged_receipt(&store, "s", &damaged).unwrap();
        }
        assert_eq!(found(&store), (keys(&[2]), vec![]));
        for i in [0, 1, 3] {
            made(&store, "s", &key(i), "b");
        }
        assert_eq!(found(&store), (keys(&[0, 1, 2, 3]), vec![]));
        let newest = Manifest::newest(&store, "s").unwrap();
        let done = finished(&store, "s", newest.as_ref()).unwrap();
        let attempts: Vec<&str> =
            done.receipts.iter().map(|receipt| receipt.attempt.as_str()).collect();
        assert_eq!(attempts, ["b", "b", "a", "b"]);
    }
}
