//! Histories of commits, checked version by version.
#![expect(clippy::unwrap_used, reason = "a test fails by panicking")]

use rand::seq::SliceRandom;
use rand::{Rng, SeedableRng};
use rand_chacha::ChaCha8Rng;

use super::super::Totals;
use super::super::faulty_store::{Fault, faulty_store};
use super::super::receipt::tests::{made, receipt};
use super::super::receipt::{file_receipt, receipt_path};
use super::*;

/// Returns the key of a test's task.
pub fn key(number: usize) -> String {
    format!("{number:032x}")
}

/// Commits these receipts as the newest version.
pub fn commit_all(store: &Store, stage: &str, run: &str, receipts: &[Arc<Receipt>]) -> Committed {
    let since = Manifest::newest(store, stage).unwrap().map_or(0, |head| head.version);
    let (order, fresh) = by_key(receipts);
    commit(store, &by(stage, run, since), &order, &fresh).unwrap()
}

/// Returns a commit of pipeline `p`.
pub fn by<'a>(stage: &'a str, run: &'a str, since: u64) -> Commit<'a> {
    static NONE: std::sync::LazyLock<Map<String, Value>> = std::sync::LazyLock::new(Map::new);
    Commit {
        stage,
        kind: "decode",
        run,
        pipeline: "p",
        take_over: false,
        why: "a test",
        settings: &NONE,
        since,
        now_unix_ms: 0,
        file_bytes: 1 << 20,
    }
}

/// Returns the keys in order, and the receipts by key.
pub fn by_key(receipts: &[Arc<Receipt>]) -> (Vec<String>, HashMap<String, Arc<Receipt>>) {
    let order = receipts.iter().map(|receipt| receipt.key.clone()).collect();
    (order, receipts.iter().map(|receipt| (receipt.key.clone(), receipt.clone())).collect())
}

#[test]
fn every_version_has_exactly_the_committed_tasks_after_random_changes() {
    let mut random = ChaCha8Rng::seed_from_u64(7);
    for store in (0..20).map(|_| faulty_store(&[])) {
        let mut now = Vec::new();
        let mut all = Vec::new();
        let mut next = 0;
        for run in 0..12 {
            // Drop some tasks, add some at the end or in between, and rarely shuffle all.
            let share = [0.0, 0.05, 0.6][random.random_range(0..3)];
            now.retain(|_| !random.random_bool(share));
            for _ in 0..random.random_range(0..30) {
                let at = if random.random_bool(0.8) {
                    now.len()
                } else {
                    random.random_range(0..=now.len())
                };
                now.insert(at, made(&store, "s", &key(next), "a"));
                next += 1;
            }
            if random.random_bool(0.1) {
                now.shuffle(&mut random);
            }
            if !now.is_empty() && random.random_bool(0.3) {
                // Damage a task and make it again under its key.
                let at = random.random_range(0..now.len());
                store.delete(&receipt_path("s", &now[at].key)).unwrap();
                now[at] = made(&store, "s", &now[at].key.clone(), &format!("again{run}"));
            }
            commit_all(&store, "s", &format!("{run}"), &now);
            let newest = Manifest::newest(&store, "s").unwrap();
            assert_eq!(
                newest.as_ref().map(|newest| &newest.totals).unwrap_or(&Totals::default()),
                &Totals::of(&now)
            );
            all.extend(newest.map(|newest| (newest.version, now.clone())));
        }
        for (version, expected) in all {
            let manifest = Manifest::read(&store, "s", version).unwrap().unwrap();
            assert_eq!(manifest.receipts(&store).unwrap(), expected);
            let files: Vec<_> = expected.iter().flat_map(|receipt| receipt.files.clone()).collect();
            assert_eq!(manifest.files(&store).unwrap(), files);
        }
    }
}

#[test]
fn a_thousand_small_commits_make_few_packs_and_write_few_rows_each() {
    let store = faulty_store(&[]);
    let mut now: Vec<Arc<Receipt>> = Vec::new();
    let mut written = 0;
    for run in 0..1000 {
        now.push(Arc::new(receipt(&key(run), "a")));
        file_receipt(&store, "s", &now[run]).unwrap();
        let (order, _) = by_key(&now);
        let (_, fresh) = by_key(&now[run..]);
        let committed =
            commit(&store, &by("s", &format!("{run:04}"), run as u64), &order, &fresh).unwrap();
        let Committed::New(manifest) = committed else { panic!("{committed:?}") };
        assert!(manifest.packs.len() <= 12, "{} packs after {run} commits", manifest.packs.len());
        written += manifest.packs.last().unwrap().file.rows;
    }
    assert_eq!(Manifest::newest(&store, "s").unwrap().unwrap().receipts(&store).unwrap(), now);
    assert!(written < 12_000, "{written} rows were written for 1,000");
}

#[test]
fn concurrent_commits_make_one_complete_version_each() {
    let folder = tempfile::tempdir().unwrap();
    let local = Store::open(folder.path().to_str().unwrap()).unwrap();
    for store in [local, faulty_store(&[])] {
        std::thread::scope(|scope| {
            for i in 0..16 {
                let store = &store;
                scope.spawn(move || {
                    let receipt = made(store, "s", &key(i), "a");
                    let (order, fresh) = by_key(&[receipt]);
                    commit(store, &by("s", "1", 99), &order, &fresh).unwrap();
                });
            }
        });
        assert_eq!(versions(&store, "s").unwrap(), (1..=16).collect::<Vec<_>>());
        for version in 1..=16 {
            let manifest = Manifest::read(&store, "s", version).unwrap().unwrap();
            assert_eq!(
                (manifest.parent.unwrap_or(0), manifest.receipts(&store).unwrap().len()),
                (version - 1, 1)
            );
        }
    }
}

#[test]
fn committing_the_same_tasks_writes_nothing_and_a_lost_reply_makes_one_version() {
    let store =
        faulty_store(&[Fault::LostReply, Fault::LostReply, Fault::LostReply, Fault::LostReply]);
    let receipts = [made(&store, "s", &key(1), "a")];
    assert!(matches!(commit_all(&store, "s", "1", &receipts), Committed::New(_)));
    let before = store.list("s").unwrap();
    assert!(matches!(commit_all(&store, "s", "2", &receipts), Committed::Unchanged(_)));
    assert_eq!(store.list("s").unwrap(), before);
    let taken = Commit { pipeline: "other", take_over: true, ..by("s", "3", 1) };
    let (order, fresh) = by_key(&receipts);
    assert_eq!(commit(&store, &taken, &order, &fresh).unwrap().manifest().pipeline, "other");
}

#[test]
fn of_overlapping_runs_the_one_that_started_last_wins() {
    let store = faulty_store(&[]);
    let [old, new] = [1, 2].map(|number| made(&store, "s", &key(number), "a"));
    let commit = |run: &str, receipt: &Arc<Receipt>, since: u64| {
        let (order, fresh) = by_key(std::slice::from_ref(receipt));
        let committed = commit(&store, &by("s", run, since), &order, &fresh).unwrap();
        let overtaken = matches!(committed, Committed::Overtaken(_));
        (
            committed.manifest().version,
            committed.manifest().receipts(&store).unwrap()[0].key.clone(),
            overtaken,
        )
    };
    assert_eq!(commit("00000001", &old, 0), (1, key(1), false));
    assert_eq!(commit("00000002", &new, 0), (2, key(2), false), "it started later and ends later");
    assert_eq!(
        commit("00000001", &old, 0),
        (2, key(2), true),
        "it ends later, but started earlier"
    );
    assert_eq!(commit("00000001", &new, 0), (2, key(2), false), "the newest version has its tasks");
}

#[test]
fn a_task_without_a_receipt_cannot_be_committed() {
    let store = faulty_store(&[]);
    let error = commit(&store, &by("s", "1", 0), &[key(1)], &HashMap::default()).unwrap_err();
    assert!(
        matches!(&error, Error::MissingReceipt { key: missing, .. } if *missing == key(1)),
        "{error}"
    );
    assert_eq!(Manifest::newest(&store, "s").unwrap(), None);
}

#[test]
fn a_manifest_with_a_number_unlike_its_name_is_an_error_and_no_endless_loop() {
    let store = faulty_store(&[]);
    let receipts = [1, 2].map(|number| made(&store, "s", &key(number), "a"));
    commit_all(&store, "s", "1", &receipts[..1]);
    let copy = store.require(&manifest_path("s", 1)).unwrap();
    store.create(&manifest_path("s", 3), &copy).unwrap();
    let (order, fresh) = by_key(&receipts);
    let error = commit(&store, &by("s", "2", 1), &order, &fresh).unwrap_err();
    assert!(matches!(error, Error::Misnamed { .. }), "{error}");
}
