//! Interrupted runs: killed at random moments, two at once, and on a full disk.

use std::path::Path;
use std::process::Child;
use std::time::{Duration, Instant};

use rand::{Rng, SeedableRng};

use crate::project::{Project, wait};

/// Returns the result files. Their bytes must not depend on interruptions.
pub fn results(project: &Project) -> Vec<Vec<Vec<u8>>> {
    [
        ("frames", "shard.arrow"),
        ("model", "model.safetensors"),
        ("model", "metrics.parquet"),
        ("labels", "labels.parquet"),
    ]
    .map(|(stage, name)| project.files(stage, name))
    .to_vec()
}

/// Waits until the run begins to write into a folder. Returns false if the run ended before.
fn has_begun(child: &mut Child, folder: &Path) -> bool {
    let start = Instant::now();
    while child.try_wait().unwrap().is_none() {
        if std::fs::read_dir(folder).is_ok_and(|mut entries| entries.next().is_some()) {
            return true;
        }
        assert!(start.elapsed() < Duration::from_secs(120), "{} never appeared", folder.display());
        std::thread::sleep(Duration::from_millis(1));
    }
    false
}

#[test]
fn a_run_killed_at_any_moment_resumes_to_the_same_bytes() {
    let steps = ["--set", "steps=12"];
    let whole = Project::new(12);
    whole.run(&steps).success();
    let expected = results(&whole);
    let mut rng = rand_chacha::ChaCha8Rng::seed_from_u64(std::process::id().into());
    let mut kills = 0;
    for round in 0..7 {
        let project = Project::new(12);
        for stage in ["frames/data", "model/checkpoints", "labels/data"] {
            let threads = if round % 2 == 0 { "1" } else { "2" };
            let mut command = project.command(&[
                "run",
                "pipeline.yaml",
                "--threads",
                threads,
                "--checkpoint-secs",
                "0",
            ]);
            let mut child = command.args(steps).spawn().unwrap();
            if has_begun(&mut child, &project.path("ws").join(stage)) {
                // The random delay hits reading, computing and writing.
                std::thread::sleep(Duration::from_micros(rng.random_range(0..150_000)));
            }
            kills += usize::from(child.try_wait().unwrap().is_none());
            child.kill().unwrap();
            child.wait().unwrap();
        }
        project.run(&steps).success();
        assert!(
            results(&project) == expected,
            "round {round}: the results differ from those of an uninterrupted run"
        );
        project.run_changes_nothing(&steps);
    }
    println!("{kills} of 21 kills met a running process");
    assert!(kills >= 14, "only {kills} of 21 kills met a running process");
}

#[test]
fn two_concurrent_runs_give_the_result_of_one() {
    let project = Project::new(8);
    let both: Vec<Child> =
        (0..2).map(|_| project.command(&["run", "pipeline.yaml"]).spawn().unwrap()).collect();
    for child in both {
        wait(child).success();
    }
    project.run_changes_nothing(&[]);
    let alone = Project::new(8);
    alone.run(&[]).success();
    assert!(results(&project) == results(&alone));
    assert_eq!(
        project.query("SELECT count(*) AS n FROM labels"),
        alone.query("SELECT count(*) AS n FROM labels")
    );
}

#[test]
fn a_full_disk_is_a_clear_error_and_the_next_run_continues() {
    let project = Project::new(12);
    let workspace = project.path("ws");
    std::fs::create_dir(&workspace).unwrap();
    let mount = |args: &[&str]| {
        std::process::Command::new("mount")
            .args(args)
            .arg(&workspace)
            .status()
            .is_ok_and(|s| s.success())
    };
    // Small enough to fill up before the run ends.
    if !mount(&["-t", "tmpfs", "-o", "size=400k", "tmpfs"]) {
        println!("skipped: mounting a small disk needs root");
        return;
    }
    let full = project.run(&[]);
    let grown = mount(&["-o", "remount,size=64m"]);
    let after = project.run(&[]);
    // Unmounts before an assertion can fail.
    let unmounted =
        std::process::Command::new("umount").arg(&workspace).status().is_ok_and(|s| s.success());
    assert!(grown && unmounted);
    assert_eq!(full.code, 1, "{full:#?}");
    assert!(
        full.stderr.contains("No space left on device") && full.stderr.contains("free space"),
        "{full:#?}"
    );
    assert!(after.success().stdout.contains("12 videos"));
}
