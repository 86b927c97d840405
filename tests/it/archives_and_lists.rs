//! Videos in `tar` archives, as WebDataset makes them, and in lists.

use std::fs;
use std::process::Command;

use serde_json::Value;

use crate::project::{PIPELINE, Project};

const LABELS: &str =
    "SELECT frame_index, latent_code, fdm_error FROM labels ORDER BY video, frame_index";

/// Writes a pipeline that decodes `source` instead of the pattern.
fn write_source(project: &Project, source: &str) {
    fs::write(project.path("pipeline.yaml"), PIPELINE.replace("videos: ['videos/*']", source))
        .unwrap();
}

/// Makes an archive of a folder.
fn archive(project: &Project, name: &str, from: &str) {
    let line = format!("cd {from} && tar cf ../{name} *");
    assert!(
        Command::new("sh")
            .args(["-c", &line])
            .current_dir(project.folder.path())
            .status()
            .unwrap()
            .success()
    );
}

#[test]
fn videos_in_archives_get_the_labels_of_plain_files() {
    let project = Project::new(8);
    fs::write(project.path("videos/maze_1_000.json"), "{\"not\": \"a video\"}").unwrap();
    archive(&project, "clips.tar", "videos");
    write_source(&project, "videos: ['*.tar']");
    assert!(project.run(&[]).success().stdout.contains("8 videos (8 new)"));
    let alone = Project::new(8);
    alone.run(&[]).success();
    assert_eq!(project.query(LABELS), alone.query(LABELS));
    let names = project.query("SELECT DISTINCT video FROM labels ORDER BY video");
    assert_eq!(names[0]["video"], Value::from("clips.tar/maze_1_000.mp4"));

    // Only the new video of a grown archive is decoded.
    project.run_changes_nothing(&[]);
    project.add(8..9);
    archive(&project, "clips.tar", "videos");
    assert_eq!(project.planned(&[])["frames"], (1, 2));
    // Of half an archive, all complete videos are decoded and the cut one is rejected.
    let whole = fs::read(project.path("clips.tar")).unwrap();
    fs::write(project.path("clips.tar"), &whole[..whole.len() / 2]).unwrap();
    let output = project.run(&[]).success();
    assert!(output.stdout.contains("1 rejects"), "{output:#?}");
    let rejects = project.query("SELECT video, class, reason FROM rejects");
    assert!(rejects[0]["video"].as_str().unwrap().starts_with("clips.tar"), "{rejects}");
}

#[test]
fn videos_of_several_lists_are_decoded_once_and_missing_ones_are_rejected() {
    let project = Project::new(6);
    fs::write(
        project.path("clips.txt"),
        "# three of them\nvideos/maze_1_000.mp4\nvideos/maze_1_001.mp4\n\nvideos/nowhere.mp4\n",
    )
    .unwrap();
    let sizes: String = (0..4).map(|i| format!("train,videos/maze_1_{i:03}.mp4\n")).collect();
    fs::write(project.path("clips.csv"), format!("split,uri\n{sizes}")).unwrap();
    write_source(&project, "videos: ['videos/*_005.mp4'], lists: [clips.txt, clips.csv]");
    let output = project.run(&[]).success();
    assert!(
        output.stdout.contains("6 videos (6 new)") && output.stdout.contains("1 rejects"),
        "{output:#?}"
    );
    assert_eq!(
        project.query("SELECT video, class FROM rejects")[0]["video"],
        Value::from("videos/nowhere.mp4")
    );

    fs::write(project.path("clips.csv"), "split,file\nx,y.mp4\n").unwrap();
    let output = project.run(&[]);
    assert!(
        output.code == 1
            && output
                .stderr
                .contains("cannot read the list of videos `clips.csv`: it has no column `uri`"),
        "{output:#?}"
    );
}

#[test]
fn columns_of_lists_can_be_queried_and_follow_the_lists() {
    let project = Project::new(6);
    let list = |split: &str| {
        let rows: String = (0..6)
            .map(|i| {
                format!(
                    "videos/maze_1_{i:03}.mp4,{},{}\n",
                    if i < 4 { "train" } else { split },
                    2000 + i
                )
            })
            .collect();
        fs::write(project.path("clips.csv"), format!("uri,split,frames\n{rows}")).unwrap();
    };
    list("test");
    fs::write(project.path("more.csv"), "uri,licence,split\nvideos/maze_1_000.mp4,CC-BY,other\n")
        .unwrap();
    write_source(&project, "lists: [clips.csv, more.csv]");
    assert!(project.run(&[]).success().stdout.contains("6 videos (6 new)"));
    let sql = "SELECT split, count(DISTINCT video) AS videos, count(*) AS n \
               FROM labels JOIN videos USING (video) GROUP BY split ORDER BY split";
    let before = project.query(sql);
    assert_eq!(
        (&before[0]["split"], &before[0]["videos"], &before[1]["videos"]),
        (&"test".into(), &2.into(), &4.into()),
        "{before}"
    );
    let listed = project
        .query("SELECT video, licence, split, frames, listed_frames FROM videos ORDER BY video");
    assert_eq!(
        (&listed[0]["licence"], &listed[0]["split"], &listed[0]["listed_frames"]),
        (&"CC-BY".into(), &"train".into(), &"2000".into())
    );
    assert!(
        listed[1]["licence"].is_null() && listed[1]["frames"].is_u64(),
        "a column of lapo keeps its name: {listed}"
    );
    project.run_changes_nothing(&[]);

    // A changed row decodes its video again, to the same frames: no model or label is made again.
    list("holdout");
    assert_eq!(project.planned(&[])["frames"], (1, 1));
    let output = project.run(&[]).success();
    assert!(output.stdout.starts_with("1 tasks"), "{output:#?}");
    let after = project.query(sql);
    assert_eq!((&after[0]["split"], &after[0]["n"]), (&"holdout".into(), &before[0]["n"]));
}

#[test]
fn skipped_duplicates_take_over_when_the_first_video_is_removed() {
    let project = Project::new(3);
    for copy in ["a", "b"] {
        fs::copy(
            project.path("videos/maze_1_001.mp4"),
            project.path("videos").join(format!("maze_1_001_{copy}.mp4")),
        )
        .unwrap();
    }
    write_source(&project, "videos: ['videos/*'], duplicates: skip, max_rejected: 0");
    let output = project.run(&[]).success();
    assert!(
        output.stdout.contains("5 videos (5 new)") && output.stdout.contains("2 rejects"),
        "{output:#?}"
    );
    let rejects = project.query("SELECT video, class, reason FROM rejects ORDER BY video");
    assert_eq!(
        (&rejects[0]["video"], &rejects[1]["class"]),
        (&"videos/maze_1_001_a.mp4".into(), &"duplicate".into())
    );
    assert!(
        rejects[1]["reason"]
            .as_str()
            .unwrap()
            .ends_with("maze_1_001_b.mp4: has the bytes of videos/maze_1_001.mp4"),
        "{rejects}"
    );
    let videos = "SELECT DISTINCT video FROM labels ORDER BY video";
    assert_eq!(project.query(videos).as_array().unwrap().len(), 3);
    project.run_changes_nothing(&[]);

    fs::remove_file(project.path("videos/maze_1_001.mp4")).unwrap();
    project.run(&[]).success();
    assert_eq!(
        project.query(videos).as_array().unwrap().len(),
        3,
        "a duplicate still has the bytes"
    );
    assert_eq!(project.query("SELECT count(*) AS n FROM rejects")[0]["n"], 1);
}
