//! Finished tasks of a stage: tasks with a receipt whose files exist at their full size.
//!
//! Planning starts at [`finished`]. One listing shows which receipts exist. Receipts are read from the packs of the newest version, then
//! from packs of older versions. A receipt's own file is read only if no version has it, or if it was filed after the newest version. Then
//! the size of every file that a receipt names is compared with what the receipt says.

use std::sync::Arc;

use rayon::prelude::*;

use super::disk;
use super::error::Result;
use super::hashing::{HashMap, HashSet};
use super::manifest::{Manifest, at, manifest_path, versions};
use super::place::is_key;
use super::receipt::{Receipt, find_receipts, receipt_path};
use super::store::Store;

/// The tasks of a stage that are done, in any version or none.
#[derive(Debug, Clone, Default)]
pub struct Finished {
    /// Receipts: those of the newest version in its order, then the others.
    pub receipts: Vec<Arc<Receipt>>,
    /// Tasks that were done, and whose files are no longer what they were.
    pub damaged: Vec<Damaged>,
}

/// A task whose output is damaged.
#[derive(Debug, Clone, PartialEq)]
pub struct Damaged {
    /// The receipt.
    pub receipt: Arc<Receipt>,
    /// The file.
    pub path: String,
    /// Its size; `None` where it is missing.
    pub found_bytes: Option<u64>,
}

/// Returns the tasks of a stage that are done.
pub fn finished(store: &Store, stage: &str, newest: Option<&Manifest>) -> Result<Finished> {
    let committed =
        newest.map_or(Ok(None), |newest| store.modified(&manifest_path(stage, newest.version)))?;
    let (mut missing, mut refiled) = (HashSet::default(), Vec::new());
    for file in store.files(&format!("{stage}/receipts"))? {
        let Some(key) = file
            .path
            .rsplit('/')
            .next()
            .and_then(|name| name.strip_suffix(".json"))
            .filter(|key| is_key(key))
        else {
            continue;
        };
        match committed {
            // Another attempt may have filed it since the version was made: its own file says so.
            Some(committed) if file.modified >= committed => refiled.push(key.to_owned()),
            _ => _ = missing.insert(key.to_owned()),
        }
    }
    if missing.is_empty() && refiled.is_empty() {
        return Ok(Finished::default());
    }
    let sizes = Sizes::of(store, stage)?;
    let mut done = Finished::default();
    let mut take = |mut receipts: Vec<Arc<Receipt>>, missing: &mut HashSet<String>| {
        receipts.retain(|receipt| missing.contains(&receipt.key));
        for (receipt, damage) in sizes.look(receipts)? {
            if damage.is_none() && missing.remove(&receipt.key) {
                done.receipts.push(receipt);
            }
        }
        Ok(())
    };
    take(newest.map_or(Ok(vec![]), |newest| newest.receipts(store))?, &mut missing)?;
    if missing.len() > ONE_BY_ONE {
        of_older_versions(store, stage, newest, &mut missing, &mut take)?;
    }
    let mut keys: Vec<String> = missing.into_iter().chain(refiled).collect();
    keys.sort_unstable();
    let filed = find_receipts(store, stage, &keys)?.into_iter().flatten().map(Arc::new).collect();
    for (receipt, damage) in sizes.look(filed)? {
        match damage {
            None => done.receipts.push(receipt),
            Some((path, found_bytes)) => done.damaged.push(Damaged { receipt, path, found_bytes }),
        }
    }
    if let Some(newest) = newest.filter(|_| !keys.is_empty()) {
        // Those that were read one by one may be the newest version's, too: its order stays.
        let entries = newest.entries(store)?;
        let rank: HashMap<&str, usize> =
            entries.iter().enumerate().map(|(at, (key, _))| (key.as_str(), at)).collect();
        done.receipts
            .sort_by_key(|receipt| rank.get(receipt.key.as_str()).copied().unwrap_or(usize::MAX));
    }
    Ok(done)
}

/// Up to so many receipts are read one by one.
const ONE_BY_ONE: usize = 64;

/// Takes those of some receipts that are missing and whole.
type Take<'a> = dyn FnMut(Vec<Arc<Receipt>>, &mut HashSet<String>) -> Result<()> + 'a;

/// Finds the missing receipts that older versions have.
fn of_older_versions(
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
        if missing.len() <= ONE_BY_ONE {
            break;
        }
        let Some(manifest) = at(store, stage, version)? else { continue };
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
    /// In a folder, each file is looked at when a receipt names it: a listing would open two folders for every task.
    Folder { store: &'a Store, data: String },
    /// An object store lists a thousand files a request.
    Listed(std::collections::HashMap<String, u64>),
}

/// A file that is not what its receipt says: its path, and its size if it exists.
type Damage = (String, Option<u64>);

impl<'a> Sizes<'a> {
    fn of(store: &'a Store, stage: &str) -> Result<Self> {
        let data = format!("{stage}/data");
        match store.local_path(&data)? {
            Some(_) => Ok(Self::Folder { store, data: data + "/" }),
            None => Ok(Self::Listed(store.sizes(&data)?)),
        }
    }

    /// Looks at the files of receipts; returns each receipt with its first damaged file, in their order.
    fn look(&self, receipts: Vec<Arc<Receipt>>) -> Result<Vec<(Arc<Receipt>, Option<Damage>)>> {
        let look = |receipt: Arc<Receipt>| {
            for file in &receipt.files {
                let found = self.bytes(&file.path)?;
                if found != Some(file.bytes) {
                    let damage = (file.path.clone(), found);
                    return Ok((receipt, Some(damage)));
                }
            }
            Ok((receipt, None))
        };
        receipts.into_par_iter().map(look).collect()
    }

    /// Returns the size of a file; `None` if there is none among the stage's data.
    fn bytes(&self, path: &str) -> Result<Option<u64>> {
        match self {
            Self::Listed(sizes) => Ok(sizes.get(path).copied()),
            // A receipt may have been edited: a path that leads elsewhere is that of a missing file.
            Self::Folder { store, data } => match store
                .local_path(path)
                .ok()
                .flatten()
                .filter(|_| path.starts_with(data.as_str()))
            {
                Some(file) => disk::size(&file),
                None => Ok(None),
            },
        }
    }
}

/// Takes back the receipt of a task whose output is damaged, so that the task is done again; one that was filed anew since stays.
pub fn take_back(store: &Store, stage: &str, damaged: &Damaged) -> Result<()> {
    let key = damaged.receipt.key.clone();
    let filed = find_receipts(store, stage, std::slice::from_ref(&key))?.pop().flatten();
    match filed.filter(|filed| filed.attempt == damaged.receipt.attempt) {
        Some(_) => store.delete(&receipt_path(stage, &key)),
        None => Ok(()),
    }
}

#[cfg(test)]
#[expect(clippy::unwrap_used, reason = "a test fails by panicking")]
mod tests {
    use super::super::commit::tests::{commit_all, key};
    use super::super::receipt::tests::made;
    use super::*;

    fn found(store: &Store) -> (Vec<String>, Vec<String>) {
        let newest = super::super::head(store, "s").unwrap();
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
    fn a_task_is_done_while_its_receipt_is_filed_and_its_files_are_whole() {
        let folder = tempfile::tempdir().unwrap();
        let store = Store::open(folder.path().to_str().unwrap()).unwrap();
        let receipts: Vec<Arc<Receipt>> = (0..4).map(|i| made(&store, "s", &key(i), "a")).collect();
        commit_all(&store, "s", "1", &receipts[..3]);
        let keys = |numbers: &[usize]| numbers.iter().map(|i| key(*i)).collect::<Vec<_>>();
        assert_eq!(found(&store), (keys(&[0, 1, 2, 3]), vec![]));
        // A file is gone, another one is cut short, a receipt was deleted by hand.
        store.delete(&receipts[0].files[0].path).unwrap();
        std::fs::write(folder.path().join(&receipts[3].files[0].path), "").unwrap();
        store.delete(&receipt_path("s", &key(1))).unwrap();
        assert_eq!(found(&store), (keys(&[2]), keys(&[0, 3])));
        // Made again by another attempt, and not committed yet.
        let newest = super::super::head(&store, "s").unwrap();
        for damaged in finished(&store, "s", newest.as_ref()).unwrap().damaged {
            take_back(&store, "s", &damaged).unwrap();
        }
        assert_eq!(found(&store), (keys(&[2]), vec![]));
        [0, 1, 3].iter().for_each(|i| _ = made(&store, "s", &key(*i), "b"));
        assert_eq!(found(&store), (keys(&[0, 1, 2, 3]), vec![]));
        let newest = super::super::head(&store, "s").unwrap();
        let done = finished(&store, "s", newest.as_ref()).unwrap();
        let attempts: Vec<&str> =
            done.receipts.iter().map(|receipt| receipt.attempt.as_str()).collect();
        assert_eq!(attempts, ["b", "b", "a", "b"]);
    }
}
