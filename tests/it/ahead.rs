//! Labels need not wait for the slowest video.

use std::fs;
use std::time::{Duration, Instant};

use crate::hostile::{add_long_video, kill, strike};
use crate::project::{PIPELINE, Project, said};

/// Three games and the model trained on them, near-copies left out, then five more and a long video that nobody has decoded.
fn grown() -> Option<Project> {
    let project = Project::new(3);
    let copies = "  copies: { deduplicate: { frames: frames } }\n  model: { train_dynamics: { without: copies, ";
    let text = PIPELINE
        .replace("videos_per_shard: 4", "videos_per_shard: 1")
        .replace("  model: { train_dynamics: { ", copies);
    fs::write(project.path("pipeline.yaml"), text).unwrap();
    project.run(&[]).good();
    project.add(3..8);
    add_long_video(&project).then_some(project)
}

fn count(project: &Project, folder: &str) -> usize {
    fs::read_dir(project.path("ws").join(folder)).unwrap().count()
}

#[test]
fn shards_are_labelled_while_a_slow_video_is_decoded_and_to_the_same_bytes() {
    let Some(project) = grown() else { return };
    let run = project.command(&["run", "pipeline.yaml", "--threads", "2"]).spawn().unwrap();
    let decoder = strike(&run, "maze_1_001_long.mp4", "-STOP");
    let deadline = Instant::now() + Duration::from_secs(120);
    while count(&project, "labels/receipts") < 8 {
        assert!(Instant::now() < deadline, "labels wait for the video that stands still");
        std::thread::sleep(Duration::from_millis(20));
    }
    assert_eq!(
        (count(&project, "frames/receipts"), count(&project, "frames/manifests")),
        (8, 1),
        "the video still stands"
    );
    kill(&decoder, "-CONT");
    let run = said(run).good();
    assert!(run.stdout.starts_with("13 tasks: 9 videos (6 new)"), "{run:#?}");
    assert!(run.stderr.contains("labels: 6 tasks done, 3 re-used"), "{run:#?}");
    project.run_changes_nothing(&[]);
    let history = project.lapo(&["datasets", "labels", "--workspace", "ws"]).good();
    assert!(history.stdout.contains("new frames (6)"), "{history:#?}");

    let labels = project.files("labels", "labels.parquet");
    fs::rename(project.path("ws/labels"), project.path("ahead")).unwrap();
    assert!(project.run(&[]).good().stdout.starts_with("9 tasks"));
    assert!(
        labels == project.files("labels", "labels.parquet"),
        "labels made ahead are the labels of their own turn"
    );
}

#[test]
fn a_model_that_will_be_trained_again_labels_nothing_before() {
    let Some(project) = grown() else { return };
    let text = fs::read_to_string(project.path("pipeline.yaml")).unwrap();
    fs::write(
        project.path("pipeline.yaml"),
        text.replace("holdout: 3", "holdout: 3, refresh: { growth: 0.5 }"),
    )
    .unwrap();
    let planned = project.planned(&[]);
    assert_eq!(
        (planned["model"], planned["labels"]),
        ((1, 0), (9, 0)),
        "six new videos beside three"
    );
    project.run(&["--threads", "2"]).good();
    let labels = project.query("SELECT count(DISTINCT video) AS n FROM labels");
    assert_eq!(labels[0]["n"], 9);
    assert_eq!(
        count(&project, "labels/receipts"),
        3 + 9,
        "those of the first model, and those of the second"
    );
}
