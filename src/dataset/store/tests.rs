//! Tests of [`Store`] on a folder and on a faulty object store.

#![expect(clippy::unwrap_used, reason = "a test may panic")]
use std::fs;
use std::io::{ErrorKind, Write};

use super::super::faulty_store::{Fault, faulty_store};
use super::*;

fn workspace() -> (tempfile::TempDir, Store) {
    let folder = tempfile::tempdir().unwrap();
    let store = Store::open(folder.path().join("new").to_str().unwrap()).unwrap();
    (folder, store)
}

#[test]
fn the_first_write_creates_the_workspace_and_only_complete_files_are_listed() {
    let (folder, store) = workspace();
    assert_eq!(store.list("").unwrap(), Vec::<String>::new());
    assert!(!folder.path().join("new").exists());
    assert_eq!(store.create("a/b/two.json", b"2").unwrap(), Created::New);
    assert_eq!(store.create("a/one.json", b"1").unwrap(), Created::New);
    // The temporary file of a killed writer.
    fs::write(folder.path().join("new/a/three.json#123"), b"").unwrap();
    assert_eq!(store.list("a").unwrap(), ["a/b/two.json", "a/one.json"]);
    assert_eq!(store.folders("").unwrap(), ["a"]);
    store.delete_all("a/b").unwrap();
    assert_eq!(store.list("").unwrap(), ["a/one.json"]);
    assert!(!folder.path().join("new/a/b").exists());
    // Deleting a missing folder succeeds.
    store.delete_all("nothing/here").unwrap();
}

#[test]
fn one_of_many_concurrent_creators_wins_and_its_bytes_remain() {
    let (_folder, local) = workspace();
    for store in [local, faulty_store(&[])] {
        let created = std::thread::scope(|scope| {
            let create =
                |i: u8| store.create("k/receipt.json", &[i; 1000]).map(|created| (i, created));
            let threads: Vec<_> =
                (0..32).map(|i| scope.spawn(move || create(i).unwrap())).collect();
            threads.into_iter().map(|thread| thread.join().unwrap()).collect::<Vec<_>>()
        });
        let winners: Vec<u8> =
            created.iter().filter(|(_, c)| *c == Created::New).map(|(i, _)| *i).collect();
        assert_eq!(winners.len(), 1);
        assert_eq!(store.read("k/receipt.json").unwrap().unwrap(), vec![winners[0]; 1000]);
        store.delete_all("k").unwrap();
    }
}

#[test]
fn a_create_with_a_lost_reply_succeeds() {
    let store = faulty_store(&[Fault::LostReply]);
    assert_eq!(store.create("a/x.json", b"mine").unwrap(), Created::New);
    assert_eq!(store.create("a/x.json", b"other").unwrap(), Created::Exists);
}

#[test]
fn an_upload_with_a_lost_reply_succeeds() {
    let store = faulty_store(&[Fault::LostReply]);
    let mut file = store.new_file("s/data/k/a/model").unwrap();
    file.write_all(b"mine").unwrap();
    let info = file.finish(1).unwrap();
    assert_eq!(store.require(&info.path).unwrap(), "mine");
}

#[test]
fn a_transient_fault_is_retried_and_a_full_disk_is_not() {
    let store = faulty_store(&[Fault::Before(ErrorKind::TimedOut), Fault::LostReply]);
    assert_eq!(store.create("a/x.json", b"mine").unwrap(), Created::New);
    let store = faulty_store(&[Fault::Before(ErrorKind::StorageFull)]);
    let error = store.create("a/x.json", b"mine").unwrap_err();
    assert!(!error.is_transient() && error.hint().is_some(), "{error}");
    assert_eq!(store.read("a/x.json").unwrap(), None);
}

#[test]
fn a_large_file_is_equal_on_disk_and_in_an_object_store() {
    // More than two parts of an upload.
    let bytes: Vec<u8> = (0..20 << 20).map(|i: u32| (i / 7) as u8).collect();
    let (_folder, local) = workspace();
    for store in [local, faulty_store(&[])] {
        let mut file = store.new_file("s/data/k/a/model").unwrap();
        file.write_all(&bytes).unwrap();
        let info = file.finish(3).unwrap();
        assert_eq!((info.bytes, info.rows), (bytes.len() as u64, 3));
        assert_eq!(info.blake3, blake3::hash(&bytes).to_hex().to_string());
        assert!(store.map(&info.path).unwrap() == bytes);
        // An unfinished file disappears when its writer is dropped.
        drop(store.new_file("s/data/k/a/unfinished").unwrap());
        assert_eq!(store.list("s").unwrap(), ["s/data/k/a/model"]);
        store.delete_all("s").unwrap();
    }
}

#[test]
fn no_call_reaches_a_file_outside_the_workspace() {
    let (folder, local) = workspace();
    let outside = folder.path().join("outside/file");
    fs::create_dir(folder.path().join("outside")).unwrap();
    fs::write(&outside, b"theirs").unwrap();
    let absolute = outside.to_str().unwrap();
    for store in [local, faulty_store(&[])] {
        store.create("a/inside", b"ours").unwrap();
        // Absolute, upwards, or with parts that are not names.
        for path in [
            absolute,
            "../outside/file",
            "a/../../outside/file",
            "/outside/file",
            "a//inside",
            "a/inside/",
            "a\\inside",
            "",
        ] {
            let refused = [
                store.create(path, b"new").is_err(),
                store.new_file(path).is_err(),
                store.read(path).is_err(),
                store.read_all(&[path.to_owned()]).is_err(),
                store.map(path).is_err(),
                store.delete(path).is_err(),
                path.is_empty() || store.delete_all(path).is_err(),
                path.is_empty() || store.files(path).is_err(),
                path.is_empty() || store.folders(path).is_err(),
            ];
            assert_eq!(refused, [true; 9], "{store:?} {path:?}");
        }
        assert_eq!(store.list("").unwrap(), ["a/inside"]);
    }
    assert_eq!(fs::read(&outside).unwrap(), b"theirs");
    assert_eq!(fs::read_dir(folder.path()).unwrap().count(), 2);
}

#[test]
fn unknown_schemes_are_refused() {
    let error = Store::open("ftp://bucket/prefix").unwrap_err();
    assert!(error.to_string().contains("`ftp`") && error.hint().is_some());
}
