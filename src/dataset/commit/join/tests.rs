//! Histories of joined tables, checked row by row.
#![expect(clippy::unwrap_used, reason = "a test fails by panicking")]

use rand::{Rng, SeedableRng};
use rand_chacha::ChaCha8Rng;

use super::super::super::faulty_store::faulty_store;
use super::super::super::receipt::file_receipt;
use super::super::super::receipt::tests::receipt;
use super::super::super::{Column, data_folder, read_columns, write_table};
use super::super::tests::{by, by_key, commit_all, key};
use super::super::{Committed, Manifest, commit};
use super::*;

/// Makes a task with one table per number in `rows`, each of this many rows. The rows name the
/// task.
fn made(store: &Store, number: usize, attempt: &str, rows: &[usize]) -> Arc<Receipt> {
    let key = key(number);
    let table = |(at, rows): (usize, &usize)| {
        let path = format!("{}/labels-{at}.parquet", data_folder("s", &key, attempt));
        let text: Vec<String> =
            (0..*rows).map(|row| format!("{number} {attempt} {at} {row}")).collect();
        write_table(store, &path, &[("row", Column::Text(text))]).unwrap()
    };
    let files = rows.iter().enumerate().map(table).collect();
    let receipt = Receipt { files, ..receipt(&key, attempt) };
    file_receipt(store, "s", &receipt).unwrap();
    Arc::new(receipt)
}

fn rows_of(store: &Store, files: &[FileInfo]) -> Vec<String> {
    let rows = |file: &FileInfo| {
        read_columns(store, &file.path, &["row"]).unwrap().take_text("row").unwrap()
    };
    let mut rows: Vec<String> = files.iter().flat_map(rows).collect();
    rows.sort_unstable();
    rows
}

#[test]
fn the_tables_of_every_version_have_each_row_once_after_random_changes() {
    let mut random = ChaCha8Rng::seed_from_u64(11);
    for store in (0..10).map(|_| faulty_store(&[])) {
        let mut now = Vec::<Arc<Receipt>>::new();
        let mut versions = Vec::new();
        let mut next = 0;
        for run in 0..10 {
            let share = [0.0, 0.05, 0.6][random.random_range(0..3)];
            now.retain(|_| !random.random_bool(share));
            for _ in 0..random.random_range(0..12) {
                let place = if random.random_bool(0.7) {
                    now.len()
                } else {
                    random.random_range(0..=now.len())
                };
                let rows: Vec<usize> =
                    (0..random.random_range(0..3)).map(|_| random.random_range(0..30)).collect();
                now.insert(place, made(&store, next, "a", &rows));
                next += 1;
            }
            if random.random_bool(0.2) {
                // Delete a joined table: the next commit joins it again.
                if let Some(path) = store.list("s/tables").unwrap().first() {
                    store.delete(path).unwrap();
                }
            }
            let file_bytes = [1 << 10, 1 << 20][random.random_range(0..2)];
            let since = Manifest::newest(&store, "s").unwrap().map_or(0, |head| head.version);
            let (order, fresh) = by_key(&now);
            let run = format!("{run}");
            let by = Commit { file_bytes, ..by("s", &run, since) };
            commit(&store, &by, &order, &fresh).unwrap();
            let newest = Manifest::newest(&store, "s").unwrap();
            versions.extend(newest.map(|newest| (newest.version, now.clone())));
            check(&store, versions.last());
        }
        for version in versions.iter().filter(|(version, _)| is_whole(&store, *version)) {
            check(&store, Some(version));
        }
    }
}

fn is_whole(store: &Store, version: u64) -> bool {
    Manifest::read(store, "s", version)
        .unwrap()
        .unwrap()
        .damaged_tables(store, "s")
        .unwrap()
        .is_empty()
}

fn check(store: &Store, version: Option<&(u64, Vec<Arc<Receipt>>)>) {
    let Some((version, receipts)) = version else { return };
    assert!(is_whole(store, *version));
    let tables = Manifest::read(store, "s", *version)
        .unwrap()
        .unwrap()
        .tables(store, "labels.parquet")
        .unwrap();
    let own: Vec<FileInfo> = receipts.iter().flat_map(|receipt| receipt.files.clone()).collect();
    assert_eq!(rows_of(store, &tables), rows_of(store, &own));
    for file in &tables {
        store.verify(file).unwrap();
    }
}

#[test]
fn a_hundred_small_commits_leave_few_files_and_write_each_row_few_times() {
    let store = faulty_store(&[]);
    let mut now = Vec::new();
    let mut written = 0;
    for run in 0..100 {
        now.push(made(&store, run, "a", &[100]));
        let committed = commit_all(&store, "s", &format!("{run:03}"), &now);
        let Committed::New(manifest) = committed else { panic!("{committed:?}") };
        let files = manifest.tables(&store, "labels.parquet").unwrap();
        assert!(files.len() <= 8, "{} files after {run} commits", files.len());
        let is_new = |file: &&FileInfo| file.path.contains(&format!("tables/{run:03}-"));
        written += files.iter().filter(is_new).map(|file| file.rows).sum::<u64>();
    }
    assert!(written < 60_000, "{written} rows were written for 10,000");
}

#[test]
fn full_files_stay_and_only_the_file_with_a_dropped_task_is_joined_anew() {
    let store = faulty_store(&[]);
    let mut now: Vec<Arc<Receipt>> =
        (0..40).map(|number| made(&store, number, "a", &[50])).collect();
    let bytes = now[0].files[0].bytes;
    let full = Commit { file_bytes: bytes * 10, ..by("s", "1", 0) };
    let commit = |run: &str, now: &[Arc<Receipt>]| {
        let (order, fresh) = by_key(now);
        let since = Manifest::newest(&store, "s").unwrap().map_or(0, |head| head.version);
        commit(&store, &Commit { run, since, ..full }, &order, &fresh)
            .unwrap()
            .manifest()
            .joined
            .clone()
    };
    let first = commit("1", &now);
    assert!((4..=5).contains(&first.len()), "{first:?}");
    now.remove(5);
    now.insert(17, made(&store, 99, "a", &[50]));
    let second = commit("2", &now);
    let kept = first.iter().filter(|old| second.iter().any(|new| new.file == old.file)).count();
    assert!(kept >= first.len() - 2, "{first:?} {second:?}");
    assert!(
        second.iter().any(|joined| joined.tasks.len() == 2),
        "the new task stands between those of one file: {second:?}"
    );
}

#[test]
fn a_task_with_a_damaged_table_is_still_committed() {
    let store = faulty_store(&[]);
    let now: Vec<Arc<Receipt>> = (0..3).map(|number| made(&store, number, "a", &[5])).collect();
    store.delete(&now[1].files[0].path).unwrap();
    let committed = commit_all(&store, "s", "1", &now);
    assert_eq!(committed.manifest().tables(&store, "labels.parquet").unwrap().len(), 3);
}
