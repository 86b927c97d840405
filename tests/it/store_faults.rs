//! Concurrent commits, and an object store with lost, delayed and refused requests.

use std::time::Duration;

use lapo::dataset::{Commit, Manifest, Receipt, Store, commit, file_receipt};
use rand::{Rng, SeedableRng};

use crate::project::wait;
use crate::s3_server::{project_in_bucket, server};

/// Returns the files of every stage's newest version, in order.
fn newest_files(store: &Store) -> Vec<(String, Vec<u8>)> {
    let named = |stage: &'static str, name: &'static str| {
        let manifest = Manifest::newest(store, stage).unwrap().unwrap();
        let files: Vec<String> = manifest
            .files(store)
            .unwrap()
            .into_iter()
            .map(|file| file.path)
            .filter(|path| path.ends_with(name))
            .collect();
        files
            .into_iter()
            .map(move |path| (format!("{stage}/{name}"), store.require(&path).unwrap().to_vec()))
    };
    let frames = named("frames", "shard.arrow").chain(named("model", "model.safetensors"));
    frames.chain(named("labels", "labels.parquet")).collect()
}

/// Returns a receipt without files.
fn receipt(key: &str, attempt: usize) -> Receipt {
    let receipt = serde_json::json!({
        "format": lapo::dataset::FORMAT, "key": key, "stage": "decode",
        "attempt": format!("attempt{attempt}"), "fields": {}, "files": [],
        "inputs": [], "videos": [], "rejects": [], "stats": {},
        "made": {
            "lapo": "0", "commit": "", "libav": null, "device": "cpu", "host": "here",
            "finished_unix_secs": 0,
        },
    });
    serde_json::from_value(receipt).unwrap()
}

#[test]
fn each_of_32_concurrent_commits_makes_a_version_of_its_own() {
    let Some(server) = server() else { return };
    let copies = tempfile::tempdir().unwrap();
    let commit_one = |i: usize| {
        let store = Store::open_with("s3://lapo/commits", &server.access(copies.path())).unwrap();
        // Every committer files a receipt of its own and one with a key that all share.
        let own = format!("key{i}");
        file_receipt(&store, "frames", &receipt(&own, i)).unwrap();
        let filed = file_receipt(&store, "frames", &receipt("contested", i)).unwrap();
        let settings = serde_json::Map::new();
        let by = Commit {
            stage: "frames",
            kind: "decode",
            run: "00000001",
            pipeline: "p",
            take_over: false,
            why: "a test",
            settings: &settings,
            since: 99,
            now_unix_ms: 0,
            file_bytes: 1 << 20,
        };
        commit(&store, &by, std::slice::from_ref(&own), &Default::default()).unwrap();
        filed == lapo::dataset::FilingOutcome::Won
    };
    let won: Vec<bool> = std::thread::scope(|scope| {
        let threads: Vec<_> = (0..32).map(|i| scope.spawn(move || commit_one(i))).collect();
        threads.into_iter().map(|thread| thread.join().unwrap()).collect()
    });
    assert_eq!(
        won.iter().filter(|won| **won).count(),
        1,
        "exactly one attempt at the contested task wins"
    );
    let store = Store::open_with("s3://lapo/commits", &server.access(copies.path())).unwrap();
    let newest = Manifest::newest(&store, "frames").unwrap().unwrap();
    assert_eq!(newest.version, 32);
    let added_key = |version: u64| {
        Manifest::read(&store, "frames", version)
            .unwrap()
            .unwrap()
            .entries(&store)
            .unwrap()
            .remove(0)
            .0
    };
    let keys: std::collections::BTreeSet<String> = (1..=32).map(added_key).collect();
    assert_eq!(keys.len(), 32, "each commit made a version");
    assert_eq!(store.list("frames/manifests").unwrap().len(), 32);
}

/// Returns the number of fault schedules to try: `LAPO_FAULT_SCHEDULES`, or 8.
fn schedules() -> u64 {
    std::env::var("LAPO_FAULT_SCHEDULES").map_or(8, |count| count.parse().unwrap())
}

#[test]
fn faults_of_the_store_do_not_change_the_results() {
    let Some(server) = server() else { return };
    let (project, store) = project_in_bucket(server, "faults", 5);
    let workspace =
        |name: &str| Store::open_with(&format!("s3://lapo/faults/{name}"), store.access()).unwrap();
    server
        .lapo(&project, &["run", "pipeline.yaml", "--workspace", "s3://lapo/faults/calm"])
        .success();
    let expected = newest_files(&workspace("calm"));
    let mut died = 0;
    for seed in 0..schedules() {
        let mut rng = rand_chacha::ChaCha8Rng::seed_from_u64(seed);
        let name = format!("s3://lapo/faults/{seed}");
        let rate = rng.random_range(20..200);
        server.control(&format!("faults/{seed}/{rate}"));
        // Every second schedule also kills the run after a random number of requests.
        let run = || {
            server
                .command(&project, server.proxy, &["run", "pipeline.yaml", "--workspace", &name])
                .spawn()
                .unwrap()
        };
        let mut child = run();
        let last = rng.random_range(1..160);
        while seed % 2 == 0 && child.try_wait().unwrap().is_none() {
            if server.control("count") >= last {
                child.kill().unwrap();
                child.wait().unwrap();
                died += 1;
                child = run();
                break;
            }
            std::thread::sleep(Duration::from_millis(2));
        }
        wait(child).success();
        assert!(
            newest_files(&workspace(&seed.to_string())) == expected,
            "schedule {seed}: the results differ from those without faults"
        );
        store.delete_all(&seed.to_string()).unwrap();
    }
    println!("{} schedules, {died} of them with a killed run", schedules());
}
