//! Tests random schedules of runs, plans, workers, commits, collectors and readers in one
//! workspace.
//!
//! In any order of their steps, and if any of them is killed: no video is lost, no version number
//! is given twice, and every version stays intact.

#![expect(clippy::unwrap_used, reason = "a test fails by panicking")]

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::path::Path;
use std::sync::Mutex;

use rand::seq::{IndexedRandom, SliceRandom};
use rand::{Rng, SeedableRng};
use rand_chacha::ChaCha8Rng;

use crate::dataset::{FileInfo, Manifest, StepScheduler, Store, faulty_store, versions};
use crate::executor::Resources;
use crate::models::Device;
use crate::pipeline::plan::PlanOptions;
use crate::pipeline::reporter::SilentReporter;
use crate::pipeline::run::run;

mod actors;
mod world;

use actors::{Actor, Schedule, collect};
use world::{Results, World, results, train_weights};

/// The number of schedules, unless the variable `LAPO_FAULT_SCHEDULES` sets another.
const SCHEDULES: u64 = 500;
/// The number of videos that come and go.
const VIDEOS: usize = 6;

fn resources() -> Resources {
    Resources {
        devices: vec![Device::Cpu],
        threads: 1,
        decoder: None,
        games: vec![],
        stop: Default::default(),
    }
}

fn options() -> PlanOptions {
    PlanOptions { max_dropped: Some(1.0), ..PlanOptions::default() }
}

/// Checks that every version can be read completely.
fn expect_intact(store: &Store) {
    for stage in ["frames", "model", "labels"] {
        for version in versions(store, stage).unwrap() {
            let manifest = Manifest::read(store, stage, version).unwrap().unwrap();
            assert_eq!(manifest.receipts(store).unwrap().len() as u64, manifest.totals.tasks);
            let files = manifest.files(store).unwrap();
            let joined = manifest.joined.iter().map(|joined| &joined.file);
            for file in files.iter().chain(joined) {
                store.verify(file).unwrap_or_else(|error| panic!("{stage}@{version}: {error}"));
            }
            // Joined tables and the tasks' own files hold the same rows.
            let rows = |files: &[FileInfo]| files.iter().map(|file| file.rows).sum::<u64>();
            if stage == "labels" {
                let tables = manifest.tables(store, "labels.parquet").unwrap();
                assert_eq!(rows(&tables), rows(&files), "labels@{version}");
            }
        }
    }
}

/// Draws the users of a schedule, and the step at which each is killed.
fn draw_actors(random: &mut ChaCha8Rng) -> Vec<(Actor, Option<u32>)> {
    use Actor::{Collector, Engine, Reader, Rollback, Run, Videos};
    // The likeliest conflict: two writers and a collector. The order and the number vary.
    let mut actors = vec![
        *[Run, Engine].choose(random).unwrap(),
        *[Run, Engine, Collector].choose(random).unwrap(),
        Collector,
    ];
    let more: Vec<Actor> = (0..2)
        .map(|_| *[Run, Engine, Collector, Reader, Videos, Rollback].choose(random).unwrap())
        .collect();
    actors.extend(more);
    actors.shuffle(random);
    actors.truncate(random.random_range(2..=4));
    actors
        .into_iter()
        .map(|actor| (actor, random.random_bool(0.4).then(|| random.random_range(1..250))))
        .collect()
}

/// The results of a run without faults, by the set of videos.
type ExpectedResults = BTreeMap<BTreeSet<usize>, Results>;

/// Returns the results for a set of videos: those of one run in a fresh workspace.
fn expected<'e>(
    known: &'e mut ExpectedResults,
    weights: &Path,
    videos: &BTreeSet<usize>,
) -> &'e Results {
    known.entry(videos.clone()).or_insert_with(|| {
        let world = World::new(weights);
        for number in videos {
            world.add(*number);
        }
        let store = faulty_store(&[]);
        run(&world.checked(), &store, &options(), &resources(), &SilentReporter).unwrap();
        results(&store)
    })
}

/// Adds the first videos. In most schedules, runs once and then changes the videos.
fn prepare(world: &World, store: &Store, random: &mut ChaCha8Rng) {
    for number in 0..3 {
        world.add(number);
    }
    if random.random_bool(0.7) {
        run(&world.checked(), store, &options(), &resources(), &SilentReporter).unwrap();
        for number in 3..random.random_range(3..=VIDEOS) {
            world.add(number);
        }
        if random.random() {
            fs::remove_file(world.video(0)).unwrap();
        }
    }
}

/// Runs all actors at once, each in a thread of its own.
fn run_actors(schedule: &Schedule, actors: &[(Actor, Option<u32>)]) {
    // All users exist before the first step, so that the order depends on the seed alone.
    let stores: Vec<Store> = actors
        .iter()
        .enumerate()
        .map(|(number, (_, dies_at))| schedule.turns.store(number, *dies_at))
        .collect();
    let seed = schedule.seed;
    let act = |number: usize, actor: Actor, store: &Store| {
        // Threads of its own: a task that waits for its turn must not block other users.
        let threads = rayon::ThreadPoolBuilder::new().num_threads(2).build().unwrap();
        let result = threads.install(|| schedule.act(actor, number, store));
        let is_killed = schedule.turns.leave(number);
        assert!(
            result.is_ok() || is_killed,
            "schedule {seed}, {actors:?}: {number} {actor:?}: {}",
            result.unwrap_err()
        );
    };
    std::thread::scope(|scope| {
        for ((number, (actor, _)), store) in actors.iter().enumerate().zip(&stores) {
            let act = &act;
            scope.spawn(move || act(number, *actor, store));
        }
    });
}

fn test_schedule(seed: u64, weights: &Path, known: &mut ExpectedResults) {
    let mut random = ChaCha8Rng::seed_from_u64(seed);
    let world = World::new(weights);
    let store = if seed.is_multiple_of(2) {
        Store::open(world.folder.path().join("ws").to_str().unwrap()).unwrap()
    } else {
        faulty_store(&[])
    };
    prepare(&world, &store, &mut random);
    let newest = |stage: &str| {
        Manifest::newest(&store, stage).unwrap().map(|newest| (stage.to_owned(), newest.version))
    };
    let committed = ["frames", "model", "labels"].iter().filter_map(|stage| newest(stage));
    let committed = Mutex::new(committed.collect());
    let actors = draw_actors(&mut random);
    let turns = StepScheduler::new(&store, seed);
    let schedule = Schedule { world: &world, turns, committed, seed };
    run_actors(&schedule, &actors);
    let mut committed = schedule.committed.into_inner().unwrap();
    committed.sort();
    assert!(
        committed.windows(2).all(|pair| pair[0] != pair[1]),
        "schedule {seed}: a version number was given twice: {committed:?}"
    );
    expect_intact(&store);
    // One more run completes what killed users left undone.
    run(&world.checked(), &store, &options(), &resources(), &SilentReporter).unwrap();
    let present = world.present();
    let found = results(&store);
    let wanted = expected(known, weights, &present);
    assert!(
        found == *wanted,
        "schedule {seed}: the results differ from a run without faults: {found:#?} {wanted:#?}"
    );
    collect(&store).unwrap();
    expect_intact(&store);
    // A run without a number has done nothing.
    let again = run(&world.checked(), &store, &options(), &resources(), &SilentReporter).unwrap();
    assert_eq!(again.run, "", "schedule {seed}: {again:?}");
    assert!(
        results(&store) == *expected(known, weights, &present),
        "schedule {seed}: the results differ after a collection"
    );
}

#[test]
fn no_order_of_steps_and_no_kill_loses_anything() {
    let schedules =
        std::env::var("LAPO_FAULT_SCHEDULES").map_or(SCHEDULES, |number| number.parse().unwrap());
    let first = std::env::var("LAPO_FAULT_SEED").map_or(0, |number| number.parse().unwrap());
    let folder = tempfile::tempdir().unwrap();
    let weights = train_weights(folder.path());
    let mut known = ExpectedResults::new();
    for seed in first..first + schedules {
        test_schedule(seed, &weights, &mut known);
    }
}
