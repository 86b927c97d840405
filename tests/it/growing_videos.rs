//! Videos still being written are left for the next run; the others are committed.

use std::fs::{self, File};
use std::io::Write;
use std::path::Path;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use crate::project::{CommandOutput, Project};

/// Runs while another thread keeps appending to a file, then restores the file.
fn while_it_grows(path: &Path, run: impl FnOnce() -> CommandOutput) -> CommandOutput {
    let whole = fs::read(path).unwrap();
    let stop = AtomicBool::new(false);
    let output = std::thread::scope(|scope| {
        let grow = || {
            let mut file = File::options().append(true).open(path).unwrap();
            while !stop.load(Ordering::Relaxed) {
                file.write_all(&[0]).unwrap();
                std::thread::sleep(Duration::from_micros(200));
            }
        };
        scope.spawn(grow);
        let output = run();
        stop.store(true, Ordering::Relaxed);
        output
    });
    fs::write(path, whole).unwrap();
    output
}

/// Returns the names of all labelled videos.
fn labelled(project: &Project) -> Vec<String> {
    let rows = project.query("SELECT DISTINCT video FROM labels ORDER BY video");
    rows.as_array().unwrap().iter().map(|row| row["video"].as_str().unwrap().to_owned()).collect()
}

#[test]
fn a_growing_video_is_left_for_the_next_run_and_the_others_are_labelled() {
    let project = Project::new(6);
    let grown = project.path("videos/maze_1_002.mp4");
    let output = while_it_grows(&grown, || project.run(&[]));
    assert_eq!(output.code, 3, "partly done: {output:#?}");
    assert!(output.stderr.contains("videos/maze_1_002.mp4"), "{output:#?}");
    let others: Vec<String> =
        [0, 1, 3, 4, 5].map(|game| format!("videos/maze_1_{game:03}.mp4")).to_vec();
    assert_eq!(labelled(&project), others);
    project.run(&[]).success();
    assert_eq!(labelled(&project).len(), 6);
    project.run_changes_nothing(&[]);
}

#[test]
fn a_video_keeps_its_rows_while_it_is_being_replaced() {
    let project = Project::new(6);
    project.run(&[]).success();
    let labels = project.query("SELECT * FROM labels ORDER BY video, frame_index");
    project.add(6..8);
    let replaced = project.path("videos/maze_1_002.mp4");
    let output = while_it_grows(&replaced, || project.run(&[]));
    assert_eq!(output.code, 3, "partly done: {output:#?}");
    assert_eq!(labelled(&project).len(), 8);
    let kept =
        "SELECT * FROM labels WHERE video < 'videos/maze_1_006.mp4' ORDER BY video, frame_index";
    assert_eq!(project.query(kept), labels);
}

#[test]
fn a_video_that_changes_after_the_plan_fails_only_its_partition() {
    let project = Project::new(6);
    project.lapo(&["plan", "pipeline.yaml", "--out", "plans/a"]).success();
    fs::copy(project.path("videos/maze_1_001.mp4"), project.path("videos/maze_1_005.mp4")).unwrap();
    let worked = project.lapo(&["worker", "--plan", "plans/a", "--partition", "0", "1"]);
    assert!(
        worked.code != 0
            && worked.stdout.contains("partition 0: done")
            && worked.stdout.contains("partition 1: failed"),
        "{worked:#?}"
    );
    assert!(worked.stderr.contains("videos/maze_1_005.mp4"), "{worked:#?}");
    let refused = project.lapo(&["commit", "--plan", "plans/a"]);
    assert!(
        refused.code == 1 && refused.stderr.contains("1 of 2 partitions are not done"),
        "{refused:#?}"
    );
    let partial = project.lapo(&["commit", "--plan", "plans/a", "--partial"]);
    assert!(
        partial.code == 3 && partial.stderr.contains("videos/maze_1_005.mp4: the file changed"),
        "{partial:#?}"
    );
    // The partition with the changed video is missing; the other one has four videos.
    assert_eq!(project.query("SELECT count(DISTINCT video) AS n FROM frames")[0]["n"], 4);
    project.run(&[]).success();
    assert_eq!(project.query("SELECT count(DISTINCT video) AS n FROM labels")[0]["n"], 6);
}
