//! Tests of receipts, and receipts for the tests of other modules.

#![expect(clippy::unwrap_used, reason = "a test may panic")]
use super::super::faulty_store::{Fault, faulty_store};
use super::*;

/// Creates a receipt without files.
pub fn receipt(key: &str, attempt: &str) -> Receipt {
    Receipt {
        format: crate::dataset::FORMAT,
        key: key.into(),
        stage: "decode".into(),
        attempt: attempt.into(),
        fields: Fields::default(),
        files: vec![],
        inputs: vec![],
        videos: vec![],
        rejects: vec![],
        stats: BTreeMap::new(),
        made: Provenance::default(),
    }
}

/// Completes a task: writes a file and files the receipt.
pub fn made(store: &Store, stage: &str, key: &str, attempt: &str) -> Arc<Receipt> {
    let path = format!("{}/out", data_folder(stage, key, attempt));
    let bytes = format!("{key} by {attempt}");
    store.create(&path, bytes.as_bytes()).unwrap();
    let blake3 = blake3::hash(bytes.as_bytes()).to_hex().to_string();
    let files = vec![FileInfo { path, bytes: bytes.len() as u64, rows: 2, blake3 }];
    let receipt =
        Receipt { files, stats: BTreeMap::from([("frames".into(), 2.0)]), ..receipt(key, attempt) };
    file_receipt(store, stage, &receipt).unwrap();
    Arc::new(receipt)
}

fn workspace() -> (tempfile::TempDir, Store) {
    let folder = tempfile::tempdir().unwrap();
    let store = Store::open(folder.path().to_str().unwrap()).unwrap();
    (folder, store)
}

#[test]
fn one_of_many_concurrent_attempts_wins_and_only_its_data_remain() {
    let (_folder, local) = workspace();
    for store in [local, faulty_store(&[])] {
        let attempt = |i: usize| {
            let receipt = receipt("key", &format!("attempt{i}"));
            store
                .create(&format!("{}/x", data_folder("frames", "key", &receipt.attempt)), b"data")
                .unwrap();
            file_receipt(&store, "frames", &receipt).unwrap()
        };
        let filed = std::thread::scope(|scope| {
            let threads: Vec<_> = (0..32).map(|i| scope.spawn(move || attempt(i))).collect();
            threads.into_iter().map(|thread| thread.join().unwrap()).collect::<Vec<_>>()
        });
        assert_eq!(filed.iter().filter(|filed| **filed == FilingOutcome::Won).count(), 1);
        let winner = read_receipt(&store, "frames", "key").unwrap().unwrap();
        let data = store.list("frames/data").unwrap();
        assert_eq!(data, [format!("frames/data/key/{}/x", winner.attempt)]);
    }
}

#[test]
fn an_attempt_with_a_lost_reply_wins() {
    let store = faulty_store(&[Fault::LostReply]);
    assert_eq!(file_receipt(&store, "frames", &receipt("key", "a")).unwrap(), FilingOutcome::Won);
    let FilingOutcome::Lost(theirs) = file_receipt(&store, "frames", &receipt("key", "b")).unwrap()
    else {
        panic!()
    };
    assert_eq!(theirs.attempt, "a");
}

#[test]
fn a_task_that_crashed_before_its_receipt_can_be_done_again() {
    let store = faulty_store(&[]);
    store.create(&format!("{}/x", data_folder("frames", "key", "crashed")), b"data").unwrap();
    assert_eq!(read_receipt(&store, "frames", "key").unwrap(), None);
    assert_eq!(
        file_receipt(&store, "frames", &receipt("key", "second")).unwrap(),
        FilingOutcome::Won
    );
}

#[test]
fn receipts_read_back_equal_and_infinities_as_nan() {
    let (_folder, store) = workspace();
    let mut written = receipt("key", "a");
    written.fields = serde_json::Map::from_iter([("size".to_owned(), 64.into())]).into();
    written.stats.insert("seconds".into(), 1.5);
    file_receipt(&store, "frames", &written).unwrap();
    assert_eq!(read_receipt(&store, "frames", "key").unwrap().unwrap(), written);
    written.key = "diverged".into();
    written.stats.insert("loss".into(), f64::INFINITY);
    file_receipt(&store, "frames", &written).unwrap();
    assert!(read_receipt(&store, "frames", "diverged").unwrap().unwrap().stats["loss"].is_nan());
}

#[test]
fn a_newer_format_is_reported_before_unknown_fields() {
    let (_folder, store) = workspace();
    // Format 7 with a field of the future, then the current format with the same field.
    store.create("frames/receipts/k.json", br#"{"format": 7, "shiny": true}"#).unwrap();
    let error = read_receipt(&store, "frames", "k").unwrap_err();
    assert!(matches!(error, Error::OtherFormat { found: 7, .. }), "{error}");
    store.create("frames/receipts/l.json", br#"{"format": 2, "shiny": true}"#).unwrap();
    let error = read_receipt(&store, "frames", "l").unwrap_err();
    assert!(
        error.to_string().contains("frames/receipts/l.json") && error.to_string().contains("shiny"),
        "{error}"
    );
}
