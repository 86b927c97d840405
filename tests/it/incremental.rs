//! Incremental runs: only new videos, changed settings and new models make tasks.

use std::fs;

use crate::project::{PIPELINE, Project};
use crate::split::held_out;

#[test]
fn a_second_run_does_nothing_and_new_videos_add_only_their_tasks() {
    let project = Project::new(10);
    let first = project.run(&[]).success();
    // Three shards and their labels, and one model.
    assert!(first.stdout.starts_with("7 tasks: 10 videos (10 new)"), "{first:#?}");
    let before = project.files("labels", "labels.parquet");
    assert_eq!(before.len(), 3);

    assert!(project.run(&[]).success().stdout.starts_with("0 tasks: 10 videos (0 new)"));

    project.add(10..15);
    let plan = project.lapo(&["plan", "pipeline.yaml"]).success().stdout;
    assert!(plan.contains("kept: trained on version 1, 5 newer videos unseen"), "{plan}");
    assert!(plan.contains("(5 videos new, 10 re-used)"), "{plan}");
    assert_eq!(project.planned(&[])["labels"], (2, 3));
    let more = project.run(&[]).success();
    // Two new shards and their labels.
    assert!(more.stdout.starts_with("4 tasks: 15 videos (5 new)"), "{more:#?}");
    assert!(more.stderr.contains("kept: trained on version 1, 5 newer videos unseen"), "{more:#?}");
    assert_eq!(project.files("labels", "labels.parquet")[..3], before[..]);
    assert_eq!(project.query("SELECT count(DISTINCT video) AS n FROM labels")[0]["n"], 15);
}

#[test]
fn a_new_model_relabels_everything_and_decodes_nothing() {
    let project = Project::new(6);
    project.run(&[]).success();
    let before = project.files("labels", "labels.parquet");
    assert_eq!(project.planned(&["--set", "steps=5"])["frames"], (0, 2));
    let plan = project.lapo(&["plan", "pipeline.yaml", "--set", "steps=5"]).success().stdout;
    assert!(plan.contains("new because of steps: 4 -> 5"), "{plan}");
    let other = project.run(&["--set", "steps=5"]).success();
    // The model and the labels of two shards.
    assert!(other.stdout.starts_with("3 tasks: 6 videos (0 new)"), "{other:#?}");
    assert_ne!(project.files("labels", "labels.parquet"), before);

    let forced = project.run(&["--set", "steps=5", "--refresh", "model"]).success();
    assert!(forced.stdout.starts_with("3 tasks: 6 videos (0 new)"), "{forced:#?}");
    project.run_changes_nothing(&["--set", "steps=5"]);

    let back = project.run(&[]).success();
    assert!(
        back.stdout.starts_with("0 tasks"),
        "the first model and its labels are re-used: {back:#?}"
    );
    assert_eq!(project.files("labels", "labels.parquet"), before);
}

#[test]
fn refresh_decides_when_new_videos_train_a_new_model() {
    for (refresh, trained) in
        [("always", 1), ("{ growth: 0.1 }", 1), ("{ growth: 9.0 }", 0), ("never", 0)]
    {
        let project = Project::new(4);
        fs::write(
            project.path("pipeline.yaml"),
            PIPELINE.replace("batch: 4", &format!("batch: 4, refresh: {refresh}")),
        )
        .unwrap();
        project.run(&[]).success();
        project.run_changes_nothing(&[]);
        project.add(4..8);
        assert_eq!(
            // One shard, the model and two label tasks, or else one shard and one label task.
            project.run(&[]).success().stdout.chars().next(),
            Some(if trained == 1 { '4' } else { '2' }),
            "{refresh}"
        );
    }
}

#[test]
fn a_removed_video_leaves_the_dataset() {
    let project = Project::new(6);
    project.run(&[]).success();
    fs::remove_file(project.path("videos/maze_1_001.mp4")).unwrap();
    let refused = project.run(&[]);
    assert!(
        refused.code == 1
            && refused.stderr.contains("1 of 6 videos of the newest version no longer match"),
        "{refused:#?}"
    );
    let output = project.run(&["--max-dropped", "1"]).success();
    assert!(
        output.stdout.contains("frames: 1 video gone, ") && output.stdout.contains("labels: "),
        "{output:#?}"
    );
    let videos = project.query("SELECT DISTINCT video FROM labels ORDER BY video");
    let videos: Vec<&str> =
        videos.as_array().unwrap().iter().map(|row| row["video"].as_str().unwrap()).collect();
    assert_eq!(videos, [0, 2, 3, 4, 5].map(|i| format!("videos/maze_1_{i:03}.mp4")));
}

/// Creates a project with three versions: four videos, two more, then one less and another size.
fn project_with_three_versions() -> Project {
    let project = Project::new(4);
    project.run(&[]).success();
    project.add(4..6);
    project.run(&[]).success();
    fs::remove_file(project.path("videos/maze_1_000.mp4")).unwrap();
    project.run(&["--set", "size=32", "--max-dropped", "1"]).success();
    project
}

/// Returns the output of `lapo datasets frames` as JSON.
fn datasets(project: &Project, more: &[&str]) -> serde_json::Value {
    let args = ["datasets", "frames", "--workspace", "ws", "--format", "json"];
    let output = project.lapo(&[&args, more].concat()).success();
    serde_json::from_str(&output.stdout).unwrap()
}

#[test]
fn datasets_lists_versions_and_their_differences() {
    let project = project_with_three_versions();
    let versions = datasets(&project, &[]);
    let column = |name: &str| {
        versions
            .as_array()
            .unwrap()
            .iter()
            .map(|version| version[name].as_u64().unwrap())
            .collect::<Vec<_>>()
    };
    assert_eq!(
        (column("version"), column("tasks"), column("added"), column("dropped")),
        (vec![1, 2, 3], vec![1, 2, 2], vec![1, 1, 2], vec![0, 0, 2])
    );
    assert_eq!(
        column("rows")[2],
        project.query("SELECT count(*) AS n FROM frames")[0]["n"].as_u64().unwrap()
    );
    for version in versions.as_array().unwrap() {
        let record = format!("ws/runs/{}.json", version["run"].as_str().unwrap());
        assert!(project.path(&record).is_file(), "{version}");
    }

    let grown = datasets(&project, &["--diff", "1", "2"]);
    assert_eq!(
        grown["videos"],
        serde_json::json!({
            "added": ["videos/maze_1_004.mp4", "videos/maze_1_005.mp4"],
            "dropped": [],
        })
    );
    assert_eq!(
        (&grown["fields"], &grown["why"]),
        (&serde_json::json!({}), &serde_json::json!([[2, "new videos (1)"]]))
    );
    assert_eq!(grown["rows"], serde_json::json!(column("rows")[..2]));
    let resized = datasets(&project, &["--diff", "2", "3"]);
    assert_eq!(resized["fields"], serde_json::json!({ "size": [16, 32] }));
    assert_eq!(resized["videos"]["dropped"], serde_json::json!(["videos/maze_1_000.mp4"]));
    assert_eq!(resized["why"], serde_json::json!([[3, "size: 16 -> 32 (2), 1 video gone"]]));
}

#[test]
fn datasets_prints_differences_and_rejects_unknown_versions() {
    let project = project_with_three_versions();
    let output =
        project.lapo(&["datasets", "frames", "--workspace", "ws", "--diff", "2", "3"]).success();
    assert!(
        output.stdout.contains("size: 16 -> 32\n")
            && output.stdout.contains("- videos/maze_1_000.mp4\n"),
        "{output:#?}"
    );
    let output = project.lapo(&["datasets", "frames", "--workspace", "ws", "--diff", "2", "7"]);
    assert!(
        output.code != 0
            && output.stderr.contains("no version 7")
            && output.stderr.contains("1, 2, 3"),
        "{output:#?}"
    );
    let output = project.lapo(&["datasets", "frame", "--workspace", "ws"]);
    assert!(output.code != 0 && output.stderr.contains("did you mean `frames`?"), "{output:#?}");
}

#[test]
fn one_thread_and_two_give_the_same_bytes() {
    let one = Project::new(6);
    let two = Project::new(6);
    one.run(&["--threads", "1"]).success();
    two.run(&["--threads", "2"]).success();
    for (stage, name) in [
        ("frames", "shard.arrow"),
        ("model", "model.safetensors"),
        ("model", "metrics.parquet"),
        ("labels", "labels.parquet"),
    ] {
        assert_eq!(one.files(stage, name), two.files(stage, name), "{stage} {name}");
    }
}

#[test]
fn identical_videos_are_all_labelled() {
    let project = Project::new(2);
    for copy in ["a.mp4", "b.mp4", "c.mp4"] {
        fs::copy(project.path("videos/maze_1_000.mp4"), project.path("videos").join(copy)).unwrap();
    }
    project.run(&[]).success();
    let whole =
        project.query("SELECT video, count(*) AS n FROM labels GROUP BY video ORDER BY video");
    assert_eq!(whole.as_array().unwrap().len(), 5);
    // A new copy with the first name does not replace an older one.
    fs::copy(project.path("videos/a.mp4"), project.path("videos/A.mp4")).unwrap();
    let more = project.run(&[]).success();
    assert!(more.stdout.starts_with("2 tasks: 6 videos (1 new)"), "{more:#?}");
    let rows =
        project.query("SELECT video, count(*) AS n FROM labels GROUP BY video ORDER BY video");
    let (first, rest) = rows.as_array().unwrap().split_first().unwrap();
    assert_eq!(rest, whole.as_array().unwrap());
    assert!(
        first["video"].as_str().unwrap().ends_with("A.mp4") && first["n"] == rest[0]["n"],
        "{rows}"
    );
    project.run_changes_nothing(&[]);
}

/// With and without quantisation, labelling and training pass the same latent actions to the FDM.
#[test]
fn labels_have_the_fdm_error_of_the_verdict() {
    for (vq, used) in [("vq: { warmup: 0 }", 2), ("vq: { warmup: 1 }", 0)] {
        let project = Project::new(9);
        fs::write(
            project.path("pipeline.yaml"),
            PIPELINE.replace("batch: 4", &format!("batch: 4, {vq}")),
        )
        .unwrap();
        project.run(&["--set", "steps=30"]).success();
        let verdict: serde_json::Value =
            serde_json::from_slice(&project.files("model", "verdict.json")[0]).unwrap();
        assert_eq!(verdict["codes_used"].as_array().unwrap().len(), used, "{verdict}");
        let videos = project.query(
            "SELECT video, avg(fdm_error) AS error, count(*) AS n FROM labels \
             GROUP BY video ORDER BY video",
        );
        let held_out = held_out(&project);
        let judged = videos.as_array().unwrap().iter();
        let judged = judged.filter(|row| held_out.contains(row["video"].as_str().unwrap()));
        let (sum, count) = judged.fold((0.0, 0.0), |(sum, count), row| {
            let n = row["n"].as_f64().unwrap();
            (sum + n * row["error"].as_f64().unwrap(), count + n)
        });
        assert_eq!(verdict["windows"].as_f64(), Some(count), "{vq}");
        let error = verdict["fdm_error"].as_f64().unwrap();
        assert!(
            (sum / count / error - 1.0).abs() < 1e-3,
            "{vq}: {} in labels, {error} in the verdict",
            sum / count
        );
        let codes =
            project.query("SELECT DISTINCT array_to_string(latent_code, '-') AS codes FROM labels");
        assert_eq!(codes.as_array().unwrap().len() == 1, used == 0, "{codes}");
    }
}
