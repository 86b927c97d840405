//! Mutated files: what reads a pipeline, a manifest, a receipt or a video answers, with a result or a fault, and never panics or hangs.
//!
//! A mutator of our own, over real files: bits flipped, pieces cut, doubled and swapped with other files', words and numbers put in. It
//! runs a little with the other tests; `LAPO_FUZZ_SECS=1800 cargo test --release --locked fuzz` runs each parser for half an hour and at
//! least a million times, `LAPO_FUZZ_VIDEOS=2000` mutates so many videos. What fails is printed with its seed.

use std::fs;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::path::Path;
use std::process::Command;
use std::sync::Arc;
use std::time::{Duration, Instant};

use lapo::dataset::{Access, Store, head, read_receipt};
use lapo::pipeline::{fault::Faults, parse::parse};
use rand::{Rng, SeedableRng, seq::IndexedRandom};
use rand_chacha::ChaCha8Rng;

use crate::project::Project;

/// Words that mean something to a parser.
const WORDS: [&str; 34] = [
    "null",
    "true",
    "-1",
    "0",
    "1e308",
    "NaN",
    ".inf",
    "18446744073709551616",
    "-9223372036854775809",
    "\"",
    "'",
    "{",
    "}",
    "[",
    "]",
    ": ",
    "- ",
    "\n",
    "\n  ",
    "\t",
    "&a ",
    "*a",
    "<<: *a",
    "!!binary ",
    "${",
    "${size}",
    "|",
    ">-",
    "\u{0}",
    "\u{feff}",
    "\u{202e}",
    "\\u0000",
    "é",
    "format",
];

/// So many times at least, and for so long.
fn bounds() -> (u64, Duration) {
    let secs = std::env::var("LAPO_FUZZ_SECS").map_or(0, |secs| secs.parse().unwrap());
    (if secs > 0 { 1_000_000 } else { 5_000 }, Duration::from_secs(secs))
}

/// One of the files, changed in one to eight places.
fn mutated(corpus: &[Vec<u8>], rng: &mut ChaCha8Rng) -> Vec<u8> {
    let mut bytes = corpus.choose(rng).unwrap().clone();
    for _ in 0..rng.random_range(1..=8) {
        let at = rng.random_range(0..=bytes.len());
        let end = (at + rng.random_range(0..40)).min(bytes.len());
        match rng.random_range(0..7) {
            0 if at < bytes.len() => bytes[at] ^= 1 << rng.random_range(0..8),
            1 => drop(bytes.splice(at..end, [])),
            2 => drop(bytes.splice(at..at, bytes[at..end].to_vec())),
            3 => drop(bytes.splice(at..at, WORDS.choose(rng).unwrap().bytes())),
            4 => drop(bytes.splice(at..end, WORDS.choose(rng).unwrap().bytes())),
            5 => {
                let other = corpus.choose(rng).unwrap();
                let from = rng.random_range(0..=other.len());
                let piece =
                    other[from..(from + rng.random_range(0..200)).min(other.len())].to_vec();
                drop(bytes.splice(at..at, piece));
            }
            _ if rng.random_bool(0.1) => bytes.truncate(at),
            _ => {
                let line: Vec<u8> =
                    bytes[at..].iter().copied().take_while(|byte| *byte != b'\n').collect();
                drop(bytes.splice(at..at, line.repeat(rng.random_range(1..4))));
            }
        }
    }
    bytes
}

/// Gives mutated files to `read`, which says whether it took one for good.
fn fuzz(what: &str, corpus: &[Vec<u8>], read: impl Fn(&[u8]) -> bool) {
    let ((least, time), begun, seed) = (bounds(), Instant::now(), u64::from(std::process::id()));
    let (mut rng, mut count, mut good, mut slowest) =
        (ChaCha8Rng::seed_from_u64(seed), 0_u64, 0_u64, Duration::ZERO);
    while count < least || begun.elapsed() < time {
        let (bytes, since) = (mutated(corpus, &mut rng), Instant::now());
        let answer = catch_unwind(AssertUnwindSafe(|| read(&bytes)));
        let Ok(taken) = answer else {
            panic!("{what}: seed {seed}, execution {count}: {}", String::from_utf8_lossy(&bytes))
        };
        slowest = slowest.max(since.elapsed());
        assert!(
            slowest < Duration::from_secs(5),
            "{what}: seed {seed}, execution {count} took {slowest:?}: {}",
            String::from_utf8_lossy(&bytes)
        );
        (count, good) = (count + 1, good + u64::from(taken));
    }
    println!(
        "{what}: {count} executions, {good} taken for good, the slowest {slowest:?}, {:?} in all",
        begun.elapsed()
    );
    assert!(
        good > 0 && good < count,
        "{what}: {good} of {count} taken for good: nothing is tested"
    );
}

#[test]
fn fuzz_pipelines() {
    let files = fs::read_dir(concat!(env!("CARGO_MANIFEST_DIR"), "/pipelines"))
        .unwrap()
        .map(|entry| fs::read(entry.unwrap().path()).unwrap());
    fuzz("pipelines", &files.collect::<Vec<_>>(), |bytes| {
        let text = String::from_utf8_lossy(bytes);
        let mut faults = Faults::new("p.yaml", &text);
        parse(&mut faults, &[]);
        let told = faults.into_result();
        told.is_ok_and(|()| true)
    });
}

/// The JSON files of a stage's folder after a real run.
fn written(folder: &str) -> Vec<Vec<u8>> {
    let project = Project::new(5);
    fs::write(project.path("videos/text.mp4"), "this is no video\n".repeat(40)).unwrap();
    project.run(&[]).good();
    let of = |stage: &str| {
        let entries = fs::read_dir(project.path("ws").join(stage).join(folder)).unwrap();
        entries.map(|entry| fs::read(entry.unwrap().path()).unwrap()).collect::<Vec<_>>()
    };
    ["frames", "model", "labels"].into_iter().flat_map(of).collect()
}

/// A store in memory in which `path` holds these bytes.
fn holding(path: &str, bytes: &[u8]) -> Store {
    let store =
        Store::over("fuzz", Arc::new(object_store::memory::InMemory::new()), &Access::default())
            .unwrap();
    store.create(path, bytes).unwrap();
    store
}

#[test]
fn fuzz_manifests() {
    fuzz("manifests", &written("manifests"), |bytes| {
        head(&holding("s/manifests/0000000001.json", bytes), "s").is_ok()
    });
}

#[test]
fn fuzz_receipts() {
    fuzz("receipts", &written("receipts"), |bytes| {
        read_receipt(&holding("s/receipts/k.json", bytes), "s", "k").is_ok()
    });
}

/// A video in each of eight containers.
fn containers(folder: &Path) -> Vec<(String, Vec<u8>)> {
    let kinds = [
        ("mp4", "-c:v libx264 -g 10 -pix_fmt yuv420p"),
        ("mkv", "-c:v libx264 -g 10 -pix_fmt yuv420p"),
        ("mov", "-c:v mpeg4"),
        ("avi", "-c:v mpeg4"),
        ("webm", "-c:v libvpx -b:v 300k"),
        ("ts", "-c:v mpeg2video"),
        ("flv", "-c:v flv"),
        ("mpg", "-c:v mpeg1video"),
    ];
    let made = kinds.map(|(kind, codec)| {
        let path = folder.join(format!("whole.{kind}"));
        let line =
            format!("ulimit -v 4000000; ffmpeg -v error -y -f lavfi -i testsrc2=size=96x64:rate=25 -t 1 {codec} '{}'", path.display());
        assert!(Command::new("bash").args(["-c", &line]).status().is_ok_and(|s| s.success()), "ffmpeg could not make a {kind}");
        (kind.to_owned(), fs::read(path).unwrap())
    });
    made.to_vec()
}

#[test]
fn fuzz_videos() {
    let count = std::env::var("LAPO_FUZZ_VIDEOS").map_or(96, |count| count.parse().unwrap());
    let (project, folder) = (Project::new(0), tempfile::tempdir().unwrap());
    let (kinds, seed) = (containers(folder.path()), u64::from(std::process::id()));
    let mut rng = ChaCha8Rng::seed_from_u64(seed);
    for i in 0..count {
        let (kind, whole) = &kinds[i % kinds.len()];
        let mut bytes = whole.clone();
        match rng.random_range(0..3) {
            // Bits anywhere.
            0 => (0..rng.random_range(1..60)).for_each(|_| {
                bytes[rng.random_range(0..whole.len())] ^= 1 << rng.random_range(0..8)
            }),
            1 => bytes.truncate(rng.random_range(1..whole.len())),
            // The header: the first bytes, and where some containers keep it, the last.
            _ => (0..rng.random_range(1..12)).for_each(|_| {
                let at = rng.random_range(0..600.min(whole.len()));
                bytes[if rng.random_bool(0.5) { at } else { whole.len() - 1 - at }] = rng.random();
            }),
        }
        fs::write(project.path("videos").join(format!("{i:05}.{kind}")), bytes).unwrap();
    }
    let begun = Instant::now();
    let only = "name: fuzz\nworkspace: ws\nstages:\n  frames: { decode: { videos: ['videos/*'], size: 16, limits: { deadline_secs: 20 } } }\n";
    fs::write(project.path("pipeline.yaml"), only).unwrap();
    let said = project.run(&[]).good();
    let classes =
        project.query("SELECT class, count(*) AS n FROM rejects GROUP BY class ORDER BY n DESC");
    println!("videos: {count}, seed {seed}, {:?}; rejects: {classes}", begun.elapsed());
    assert!(said.stdout.contains(&format!("{count} videos")), "{said:#?}");
    // Every video's 25 frames are there or its loss is told. No one can tell that a transport stream was cut between two packets, or that a
    // bit says of a picture that it is not to be shown: one in a hundred may be such, or three.
    let short = project
        .query("SELECT video, count(*) AS n FROM frames GROUP BY video HAVING count(*) < 25");
    let told = project.query("SELECT DISTINCT video FROM rejects");
    let told: Vec<&str> =
        told.as_array().unwrap().iter().map(|row| row["video"].as_str().unwrap()).collect();
    let lost: Vec<_> = short
        .as_array()
        .unwrap()
        .iter()
        .filter(|row| !told.contains(&row["video"].as_str().unwrap()))
        .collect();
    println!("frames are missing and no reject says so: {lost:?}");
    assert!(
        lost.len() * 100 <= count.max(300),
        "seed {seed}: frames are missing and no reject says so: {lost:?}"
    );
    let there = project.query("SELECT DISTINCT video FROM frames");
    let seen = there
        .as_array()
        .unwrap()
        .iter()
        .map(|row| row["video"].as_str().unwrap())
        .chain(told.iter().copied());
    assert_eq!(
        seen.collect::<std::collections::HashSet<_>>().len(),
        count,
        "seed {seed}: a video is nowhere"
    );
}
