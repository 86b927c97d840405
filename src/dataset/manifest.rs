//! A manifest: which receipts are a stage's dataset, version after version.
//!
//! In: the keys of finished tasks. Out: a JSON file per version, created once, so that readers pin a version
//! and two committers at once lose nothing. Start at [`commit`].

use std::collections::HashSet;

use serde::{Deserialize, Serialize};

use super::error::{Error, Result};
use super::receipt::{Receipt, read_existing, read_json, read_many, receipt_path, to_json};
use super::store::{Created, Store};

/// One version of a stage's dataset.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Manifest {
    /// The version of this file's format: [`super::FORMAT`].
    pub format: u32,
    /// This version: 1, 2, 3 and so on.
    pub version: u64,
    /// The version before, if there is one.
    pub parent: Option<u64>,
    /// The keys of the receipts, in the dataset's order.
    pub receipts: Vec<String>,
    /// The run that committed it; its id starts with the second in which it began.
    pub run: String,
    /// Why it did, for people.
    pub why: String,
}

/// Who commits, and why.
#[derive(Debug, Clone, Copy)]
pub struct Commit<'a> {
    /// The stage's name.
    pub stage: &'a str,
    /// The run's id.
    pub run: &'a str,
    /// The reason, for people.
    pub why: &'a str,
    /// The newest version when the run began; 0 where there was none.
    pub since: u64,
}

impl Commit<'_> {
    /// Whether a version was made meanwhile by a run that began later, and so has seen what is newer.
    fn is_outdated(&self, head: &Manifest) -> bool {
        let began = |run: &str| run.split_once('-').and_then(|(seconds, _)| seconds.parse::<u64>().ok());
        head.version > self.since && began(&head.run) > began(self.run)
    }
}

/// Makes the receipts that `wanted` asks for the newest version.
///
/// `wanted` is given the newest manifest, and is asked again where another committer was faster: [`extend`] is
/// the one that loses nothing. Where the newest version has just these receipts, or those of a run that began
/// later, it is returned, and nothing is written. Every receipt must have been filed.
pub fn commit(store: &Store, commit: Commit<'_>, wanted: impl Fn(Option<&Manifest>) -> Vec<String>) -> Result<Manifest> {
    loop {
        let head = head(store, commit.stage)?;
        let receipts = wanted(head.as_ref());
        if let Some(head) = head.as_ref().filter(|head| head.receipts == receipts || commit.is_outdated(head)) {
            return Ok(head.clone());
        }
        require_filed(store, commit.stage, head.as_ref(), &receipts)?;
        let parent = head.map(|head| head.version);
        let next = Manifest {
            format: super::FORMAT,
            version: parent.unwrap_or(0) + 1,
            parent,
            receipts,
            run: commit.run.to_owned(),
            why: commit.why.to_owned(),
        };
        let path = manifest_path(commit.stage, next.version);
        if store.create(&path, &to_json(&next))? == Created::New {
            return Ok(next);
        }
    }
}

/// The newest manifest's receipts, then those of `keys` it lacks.
#[must_use]
pub fn extend(head: Option<&Manifest>, keys: &[String]) -> Vec<String> {
    let mut receipts = head.map(|head| head.receipts.clone()).unwrap_or_default();
    let mut known: HashSet<String> = receipts.iter().cloned().collect();
    receipts.extend(keys.iter().filter(|key| known.insert((*key).clone())).cloned());
    receipts
}

/// The newest version of a stage's dataset, if it has one.
pub fn head(store: &Store, stage: &str) -> Result<Option<Manifest>> {
    let paths = store.list(&format!("{stage}/manifests"))?;
    match paths.iter().rfind(|path| path.ends_with(".json")) {
        Some(path) => read_existing(store, path).map(Some),
        None => Ok(None),
    }
}

/// One version of a stage's dataset, if it exists.
pub fn at(store: &Store, stage: &str, version: u64) -> Result<Option<Manifest>> {
    read_json(store, &manifest_path(stage, version))
}

/// The receipts of some tasks, a manifest's say, in their order.
pub fn receipts_of(store: &Store, stage: &str, keys: &[String]) -> Result<Vec<Receipt>> {
    read_many(store, &keys.iter().map(|key| receipt_path(stage, key)).collect::<Vec<_>>())
}

/// Those of some tasks that have no receipt, in their order.
pub fn unfiled(store: &Store, stage: &str, keys: &[String]) -> Result<Vec<String>> {
    let filed: HashSet<String> = store.list(&format!("{stage}/receipts"))?.into_iter().collect();
    Ok(keys.iter().filter(|key| !filed.contains(&receipt_path(stage, key))).cloned().collect())
}

/// The names of the workspace's stages that have a dataset, each with its newest manifest.
pub fn stages(store: &Store) -> Result<Vec<(String, Manifest)>> {
    let mut stages = Vec::new();
    for stage in store.folders("")? {
        if let Some(head) = head(store, &stage)? {
            stages.push((stage, head));
        }
    }
    Ok(stages)
}

/// Zero-padded, so that the order of names is the order of versions.
fn manifest_path(stage: &str, version: u64) -> String {
    format!("{stage}/manifests/{version:010}.json")
}

/// A version must not speak of what is not there; those of the version before were checked then.
fn require_filed(store: &Store, stage: &str, head: Option<&Manifest>, receipts: &[String]) -> Result<()> {
    let known: HashSet<&String> = head.into_iter().flat_map(|head| &head.receipts).collect();
    let added: Vec<String> = receipts.iter().filter(|key| !known.contains(key)).cloned().collect();
    match unfiled(store, stage, &added)?.into_iter().next() {
        Some(key) => Err(Error::MissingReceipt { stage: stage.to_owned(), key }),
        None => Ok(()),
    }
}

#[cfg(test)]
mod tests {
    #![expect(clippy::unwrap_used, reason = "a test may panic")]
    use super::super::faults::{Fault, faulty_store};
    use super::super::receipt::file_receipt;
    use super::super::receipt::tests::receipt;
    use super::*;

    fn add(store: &Store, key: &str) -> Manifest {
        file_receipt(store, "frames", &receipt(key, "a")).unwrap();
        let by = Commit { stage: "frames", run: &format!("run of {key}"), why: "a test", since: 0 };
        commit(store, by, |head| extend(head, &[key.to_owned()])).unwrap()
    }

    #[test]
    fn of_many_commits_at_once_none_is_lost() {
        let folder = tempfile::tempdir().unwrap();
        let local = Store::open(folder.path().to_str().unwrap()).unwrap();
        for store in [local, faulty_store(&[])] {
            std::thread::scope(|scope| {
                for i in 0..16 {
                    let store = &store;
                    scope.spawn(move || add(store, &format!("key{i}")));
                }
            });
            let head = head(&store, "frames").unwrap().unwrap();
            let keys: HashSet<&str> = head.receipts.iter().map(String::as_str).collect();
            assert_eq!((head.version, head.receipts.len(), keys.len()), (16, 16, 16));
            // Every version extends the one before it.
            for version in 2..=16 {
                let [before, this] = [version - 1, version].map(|v| at(&store, "frames", v).unwrap().unwrap());
                assert_eq!(this.parent, Some(before.version));
                assert!(this.receipts.starts_with(&before.receipts));
            }
        }
    }

    #[test]
    fn committing_what_is_there_writes_nothing() {
        let store = faulty_store(&[]);
        assert_eq!(add(&store, "one").version, 1);
        assert_eq!(add(&store, "one").version, 1);
        assert_eq!(store.list("frames/manifests").unwrap(), ["frames/manifests/0000000001.json"]);
    }

    #[test]
    fn a_commit_whose_reply_got_lost_makes_one_version() {
        // The receipt's put is the first, the manifest's the second.
        let store = faulty_store(&[Fault::LostReply, Fault::LostReply]);
        assert_eq!(add(&store, "one").version, 1);
        assert_eq!(head(&store, "frames").unwrap().unwrap().version, 1);
    }

    #[test]
    fn of_runs_that_overlap_the_one_that_began_last_is_the_dataset() {
        let store = faulty_store(&[]);
        ["old", "new"].iter().for_each(|key| _ = file_receipt(&store, "frames", &receipt(key, "a")).unwrap());
        let commit = |run: &str, key: &str, since: u64| {
            let manifest = commit(&store, Commit { stage: "frames", run, why: "a test", since }, |_| vec![key.to_owned()]).unwrap();
            (manifest.version, manifest.receipts.concat())
        };
        assert_eq!(commit("1000-a", "old", 0), (1, "old".to_owned()));
        assert_eq!(commit("2000-b", "new", 0), (2, "new".to_owned()), "it began later, and ends later");
        assert_eq!(commit("1000-a", "old", 0), (2, "new".to_owned()), "it ends later, but began earlier");
        assert_eq!(commit("900-c", "old", 2), (3, "old".to_owned()), "it knew of the newest: its clock is wrong, no more");
    }

    #[test]
    fn a_receipt_nobody_filed_cannot_be_committed() {
        let store = faulty_store(&[]);
        let by = Commit { stage: "frames", run: "r", why: "w", since: 0 };
        let error = commit(&store, by, |head| extend(head, &["ghost".to_owned()])).unwrap_err();
        assert!(error.to_string().contains("`ghost`"), "{error}");
        assert_eq!(head(&store, "frames").unwrap(), None);
        assert!(stages(&store).unwrap().is_empty());
    }

    #[test]
    fn a_crash_between_receipt_and_manifest_is_made_good_by_the_next_commit() {
        let store = faulty_store(&[]);
        file_receipt(&store, "frames", &receipt("crashed", "a")).unwrap();
        add(&store, "later");
        let by = Commit { stage: "frames", run: "next", why: "the rest", since: 0 };
        let all = ["crashed".to_owned(), "later".to_owned()];
        let head = commit(&store, by, |head| extend(head, &all)).unwrap();
        assert_eq!(head.receipts, ["later", "crashed"]);
        assert_eq!(receipts_of(&store, "frames", &head.receipts).unwrap().len(), 2);
    }
}
