//! `lapo run --watch` and `min_age`: new and slowly copied videos.

use std::fs::{self, File};
use std::io::Write;
use std::process::Command;
use std::time::{Duration, Instant};

use crate::project::{Project, clip, wait};

const PIPELINE: &str = "
name: watched
workspace: ws
holdout: 0
stages:
  frames: { decode: { videos: ['videos/*.y4m'], size: 16, cut: null, videos_per_shard: 2 } }
  model: { train_dynamics: { frames: frames, preset: tiny, steps: 2, batch: 2 } }
  labels: { label: { frames: frames, dynamics: model } }
";

/// Copies a file piece by piece, like a slow network.
fn copy_slowly(project: &Project, name: &str, pieces: usize) {
    let whole = fs::read(project.path(&format!("whole/{name}"))).unwrap();
    let mut file = File::create(project.path(&format!("videos/{name}"))).unwrap();
    for piece in whole.chunks(whole.len().div_ceil(pieces)) {
        file.write_all(piece).unwrap();
        std::thread::sleep(Duration::from_millis(300));
    }
}

#[test]
fn a_watched_folder_labels_every_slowly_copied_video_once_and_whole() {
    let project = Project::new(0);
    fs::write(project.path("pipeline.yaml"), PIPELINE).unwrap();
    let videos: Vec<(String, usize)> =
        (0..6).map(|number| (format!("{number}.y4m"), 12 + number)).collect();
    for (name, frames) in &videos {
        clip(&project.path(&format!("whole/{name}")), *frames);
    }
    // The folder is empty when the watch begins.
    let mut child = project.command(&["run", "pipeline.yaml", "--watch", "1s"]).spawn().unwrap();
    std::thread::scope(|scope| {
        for (name, _) in &videos {
            scope.spawn(|| copy_slowly(&project, name, 12));
            // A copy takes 3.6 s, so several overlap.
            std::thread::sleep(Duration::from_millis(500));
        }
    });
    let labels = "SELECT video, count(*) AS n FROM labels GROUP BY video ORDER BY video";
    let expected: Vec<(String, u64)> = videos
        .iter()
        .map(|(name, frames)| (format!("videos/{name}"), *frames as u64 - 2))
        .collect();
    let begun = Instant::now();
    loop {
        let queried = project.lapo(&["query", labels, "--workspace", "ws", "--format", "json"]);
        let rows: serde_json::Value = serde_json::from_str(&queried.stdout).unwrap_or_default();
        let rows = rows.as_array().cloned().unwrap_or_default();
        let found: Vec<(String, u64)> = rows
            .iter()
            .map(|row| (row["video"].as_str().unwrap().to_owned(), row["n"].as_u64().unwrap()))
            .collect();
        // A half-copied video would have fewer rows.
        assert!(found.iter().all(|row| expected.contains(row)), "{found:?}");
        if found == expected {
            break;
        }
        assert!(child.try_wait().unwrap().is_none(), "the watch has ended");
        assert!(begun.elapsed() < Duration::from_secs(300), "{found:?}: {queried:#?}");
        std::thread::sleep(Duration::from_millis(200));
    }
    Command::new("kill").args(["-TERM", &child.id().to_string()]).status().unwrap();
    let output = wait(child);
    // 128 + SIGTERM.
    assert_eq!(output.code, 143, "{output:#?}");
    // Every video was decoded once.
    let new: u64 = output
        .stdout
        .lines()
        .filter_map(|line| line.split('(').nth(1)?.split(' ').next()?.parse::<u64>().ok())
        .sum();
    assert_eq!(new, 6, "{output:#?}");
}

#[test]
fn a_young_file_is_left_for_the_next_run_and_the_interval_is_checked() {
    let project = Project::new(0);
    let yaml = PIPELINE.replace("cut: null", "cut: null, min_age: 3600");
    fs::write(project.path("pipeline.yaml"), yaml).unwrap();
    for (name, frames) in [("old", 9), ("young", 12)] {
        clip(&project.path(&format!("videos/{name}.y4m")), frames);
    }
    let old = File::options().write(true).open(project.path("videos/old.y4m")).unwrap();
    old.set_modified(std::time::SystemTime::now() - Duration::from_secs(7200)).unwrap();
    let left = project.run(&[]);
    assert!(
        left.code == 3 && left.stderr.contains("videos/young.y4m: it was changed"),
        "{left:#?}"
    );
    assert_eq!(project.query("SELECT DISTINCT video FROM labels")[0]["video"], "videos/old.y4m");
    for time in ["0s", "soon", "5", "1d", "60 s"] {
        let output = project.run(&["--watch", time]);
        assert!(output.code == 64 && output.stderr.contains("--watch"), "{time}: {output:#?}");
    }
    let broken = project.path("pipeline.yaml");
    fs::write(&broken, PIPELINE.replace("size: 16", "size: 1")).unwrap();
    assert_eq!(project.run(&["--watch", "1s"]).code, 1, "an invalid pipeline is not watched");
}

/// A temporary state of the folder must never empty a dataset.
#[test]
fn a_folder_without_readable_videos_makes_no_version() {
    let project = Project::new(0);
    fs::write(
        project.path("pipeline.yaml"),
        PIPELINE.replace("cut: null", "cut: null, min_age: 3600"),
    )
    .unwrap();
    for name in ["a", "b"] {
        clip(&project.path(&format!("videos/{name}.y4m")), 9);
    }
    let refused = project.run(&[]);
    let why = "stage frames: none of its 2 videos can be read yet; the first: \
               videos/a.y4m: it was changed";
    assert!(refused.code != 0 && refused.stderr.contains(why), "{refused:#?}");
    let refused = project.lapo(&["plan", "pipeline.yaml", "--out", "plans/a"]);
    assert!(refused.code != 0 && refused.stderr.contains(why), "{refused:#?}");
    assert!(!project.path("ws/frames/manifests").exists());
    fs::write(project.path("pipeline.yaml"), PIPELINE).unwrap();
    project.lapo(&["plan", "pipeline.yaml", "--out", "plans/b"]).success();
    let partial = project.lapo(&["commit", "--plan", "plans/b", "--partial"]);
    assert!(
        partial.code == 1 && partial.stderr.contains("none of its 1 partitions is done"),
        "{partial:#?}"
    );
    assert!(!project.path("ws/frames/manifests").exists());
    project.run(&[]).success();
}
