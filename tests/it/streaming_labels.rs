//! Shards are labelled while slower videos are still being decoded.

use std::fs;
use std::time::{Duration, Instant};

use crate::decoder_crashes::{add_long_video, kill, signal_decoder};
use crate::project::{PIPELINE, Project, wait};

/// Creates a project with a model trained on three games without near-duplicates, then adds five
/// games and a long video. Returns `None` without the ffmpeg command line.
fn trained_project_with_new_videos() -> Option<Project> {
    let project = Project::new(3);
    let deduplicated = "  copies: { deduplicate: { frames: frames } }\n  \
                        model: { train_dynamics: { without: copies, ";
    let text = PIPELINE
        .replace("videos_per_shard: 4", "videos_per_shard: 1")
        .replace("  model: { train_dynamics: { ", deduplicated);
    fs::write(project.path("pipeline.yaml"), text).unwrap();
    project.run(&[]).success();
    project.add(3..8);
    add_long_video(&project).then_some(project)
}

/// Returns the number of entries in a folder of the workspace.
fn count_files(project: &Project, folder: &str) -> usize {
    fs::read_dir(project.path("ws").join(folder)).unwrap().count()
}

#[test]
fn labels_streamed_during_decoding_equal_labels_made_afterwards() {
    let Some(project) = trained_project_with_new_videos() else { return };
    // One thread waits for the stopped decoder, the other one labels.
    let run = project.command(&["run", "pipeline.yaml", "--threads", "2"]).spawn().unwrap();
    let decoder = signal_decoder(&run, "maze_1_001_long.mp4", "-STOP");
    let deadline = Instant::now() + Duration::from_secs(120);
    // Three old shards and five new ones; the shard of the long video is still missing.
    while count_files(&project, "labels/receipts") < 8 {
        assert!(Instant::now() < deadline, "labels wait for the stopped decoder");
        std::thread::sleep(Duration::from_millis(20));
    }
    assert_eq!(
        (count_files(&project, "frames/receipts"), count_files(&project, "frames/manifests")),
        (8, 1),
        "the decoder is still stopped"
    );
    kill(&decoder, "-CONT");
    let run = wait(run).success();
    assert!(run.stdout.starts_with("13 tasks: 9 videos (6 new)"), "{run:#?}");
    assert!(run.stderr.contains("labels: 6 tasks done, 3 re-used"), "{run:#?}");
    project.run_changes_nothing(&[]);
    let history = project.lapo(&["datasets", "labels", "--workspace", "ws"]).success();
    assert!(history.stdout.contains("new frames (6)"), "{history:#?}");

    let labels = project.files("labels", "labels.parquet");
    fs::rename(project.path("ws/labels"), project.path("streamed")).unwrap();
    assert!(project.run(&[]).success().stdout.starts_with("9 tasks"));
    assert!(
        labels == project.files("labels", "labels.parquet"),
        "streamed labels differ from labels made after decoding"
    );
}

#[test]
fn a_model_due_for_retraining_labels_no_shards() {
    let Some(project) = trained_project_with_new_videos() else { return };
    let text = fs::read_to_string(project.path("pipeline.yaml")).unwrap();
    fs::write(
        project.path("pipeline.yaml"),
        text.replace("batch: 4", "batch: 4, refresh: { growth: 0.5 }"),
    )
    .unwrap();
    let planned = project.planned(&[]);
    assert_eq!(
        (planned["model"], planned["labels"]),
        ((1, 0), (9, 0)),
        "six new videos besides three old ones"
    );
    project.run(&["--threads", "2"]).success();
    let labels = project.query("SELECT count(DISTINCT video) AS n FROM labels");
    assert_eq!(labels[0]["n"], 9);
    assert_eq!(
        count_files(&project, "labels/receipts"),
        3 + 9,
        "three labels of the first model, nine of the second"
    );
}
