//! Collections of random workspaces against a slow model, and races with runs and readers.
#![expect(clippy::unwrap_used, reason = "a test fails by panicking")]

use std::collections::{BTreeMap, BTreeSet};
use std::sync::LazyLock;
use std::time::UNIX_EPOCH;

use rand::Rng;
use serde_json::{Map, Value};

use super::super::commit::tests::key;
use super::super::manifest::Manifest;
use super::super::pins::{PinHolder, PinnedData};
use super::super::receipt_path;
use super::super::workspace::Claim;
use super::super::{Commit, Error, commit};
use super::*;

mod workspaces;

use workspaces::{Task, Version, Workspace};

const HOUR: u64 = 3_600;
const NOW: u64 = 2_000_000_000;

fn now() -> SystemTime {
    UNIX_EPOCH + Duration::from_secs(NOW)
}

/// Returns a commit to a `decode` stage of pipeline `p`, some hours before now.
fn commit_of<'a>(stage: &'a str, run: &'a str, since: u64, hours: u64) -> Commit<'a> {
    static NO_SETTINGS: LazyLock<Map<String, Value>> = LazyLock::new(Map::new);
    Commit {
        stage,
        kind: "decode",
        run,
        pipeline: "p",
        take_over: false,
        why: "a test",
        settings: &NO_SETTINGS,
        since,
        now_unix_ms: (NOW - hours * HOUR) * 1000,
        file_bytes: 1 << 20,
    }
}

fn claim(store: &Store) {
    workspace::claim(
        store,
        &Claim { pipeline: "p", shares_with: &[], stages: &[], take_over: false },
        "id",
        0,
    )
    .unwrap();
}

#[test]
fn exactly_the_garbage_of_200_random_workspaces_is_deleted() {
    for seed in 0..200 {
        let mut workspace = Workspace::new(seed);
        let is_marked = workspace.random.random_bool(0.8);
        if is_marked {
            claim(&workspace.store);
            workspace.stays.insert(workspace::MARKER.to_owned());
        }
        for stage in ["frames", "labels"] {
            if workspace.random.random_bool(0.8) {
                workspace.add_stage(stage);
            }
        }
        workspace.add_foreign();
        let before = workspace.files();
        let found = match survey(&workspace.store, &workspace.keep) {
            Ok(found) => found,
            Err(error) => {
                assert!(
                    matches!(error, Error::NoWorkspace { .. }) && !is_marked,
                    "seed {seed}: {error}"
                );
                continue;
            }
        };
        assert!(is_marked, "seed {seed}");
        assert_eq!(workspace.files(), before, "seed {seed}: a survey deletes nothing");
        let deleted = delete(&workspace.store, &found, now()).unwrap();
        let left = workspace.files();
        let stays = &workspace.stays;
        let lost: Vec<_> = stays.difference(&left).collect();
        let spared: Vec<_> = left.difference(stays).collect();
        assert!(
            lost.is_empty() && spared.is_empty(),
            "seed {seed}, {:?}: lost {lost:?}, spared {spared:?}",
            workspace.keep
        );
        let counted: u64 = deleted.iter().map(|garbage| garbage.files).sum();
        assert_eq!(counted as usize, before.len() - left.len(), "seed {seed}: {deleted:?}");
    }
}

/// Returns a workspace with two versions of different tasks. The first was superseded an hour ago.
fn two_versions() -> Workspace {
    let mut workspace = Workspace::new(0);
    workspace.keep = Keep { versions: Some(1), younger_than: Duration::ZERO, now: now() };
    claim(&workspace.store);
    let tasks: Vec<Task> =
        (0..2).map(|i| Task { key: key(i), attempt: format!("{i:016x}"), hours: 900 }).collect();
    workspace.write_tasks("frames", &tasks, &BTreeSet::new(), &|_| true);
    let versions = [
        Version { number: 1, tasks: [0].into(), hours: 800 },
        Version { number: 2, tasks: [1].into(), hours: 1 },
    ];
    workspace.commit_versions("frames", &tasks, &versions, &[true, true]);
    workspace
}

#[test]
fn the_age_of_a_version_counts_from_the_commit_that_superseded_it() {
    let mut workspace = two_versions();
    workspace.keep.younger_than = Duration::from_secs(24 * HOUR);
    assert_eq!(survey(&workspace.store, &workspace.keep).unwrap().garbage, []);
    workspace.keep.younger_than = Duration::from_secs(HOUR);
    assert!(
        survey(&workspace.store, &workspace.keep)
            .unwrap()
            .garbage
            .iter()
            .any(|found| found.what == GarbageReason::Version)
    );
}

fn pin(workspace: &Workspace, run: &str, holds: Duration, held: PinnedData) {
    let holder = PinHolder { run, process: None, holds, now_unix_secs: NOW };
    let stages = BTreeMap::from([("frames".to_owned(), held)]);
    pins::pin(&workspace.store, holder, "1", stages).unwrap();
}

#[test]
fn files_pinned_or_committed_between_survey_and_deletion_stay() {
    type Change = dyn Fn(&Workspace);
    let changes: [(&str, &Change); 3] = [
        ("a reader pins the old version", &|workspace| {
            let held = PinnedData { versions: vec![1], keys: vec![] };
            pin(workspace, "reader", pins::READER, held);
        }),
        ("a run pins the old task", &|workspace| {
            let held = PinnedData { versions: vec![], keys: vec![key(0)] };
            pin(workspace, "00000009", pins::RUN, held);
        }),
        ("a run puts the setting back", &|workspace| {
            let by = commit_of("frames", "00000009", 2, 0);
            commit(&workspace.store, &by, &[key(0)], &Default::default()).unwrap();
        }),
    ];
    for (what, change) in changes {
        let workspace = two_versions();
        let found = survey(&workspace.store, &workspace.keep).unwrap();
        assert!(found.garbage.iter().any(|found| found.what == GarbageReason::Data));
        change(&workspace);
        delete(&workspace.store, &found, now()).unwrap();
        let data =
            workspace.store.read(&format!("frames/data/{}/{:016x}/out.arrow", key(0), 0)).unwrap();
        assert!(data.is_some(), "{what}");
        let receipt = workspace.store.read(&receipt_path("frames", &key(0))).unwrap();
        assert!(receipt.is_some(), "{what}");
        if what.starts_with("a reader") {
            let version = Manifest::read(&workspace.store, "frames", 1).unwrap().unwrap();
            assert_eq!(version.receipts(&workspace.store).unwrap().len(), 1, "{what}");
        }
    }
}
