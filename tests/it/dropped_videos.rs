//! Missing videos: a run drops them from the dataset only within `max_dropped`.

use std::fs;

use crate::project::{PIPELINE, Project};

fn count(project: &Project, sql: &str) -> u64 {
    project.query(sql)[0]["n"].as_u64().unwrap()
}

/// Writes the pipeline with other video patterns.
fn write_patterns(project: &Project, patterns: &str) {
    fs::write(project.path("pipeline.yaml"), PIPELINE.replace("'videos/*'", patterns)).unwrap();
}

#[test]
fn a_pattern_without_matches_is_an_error_before_any_task_runs() {
    let project = Project::new(4);
    fs::rename(project.path("videos"), project.path("a")).unwrap();
    fs::create_dir(project.path("videos")).unwrap();
    project.add(4..8);
    write_patterns(&project, "'a/*', 'videos/*'");
    project.run(&[]).success();
    let before = project.committed();

    fs::rename(project.path("videos"), project.path("unmounted")).unwrap();
    for command in
        [&["run", "pipeline.yaml"][..], &["plan", "pipeline.yaml"], &["check", "pipeline.yaml"]]
    {
        let more: &[&str] = if command[0] == "check" { &[] } else { &["--max-dropped", "1"] };
        let refused = project.lapo(&[command, more].concat());
        assert!(refused.code == 1 && refused.stdout.is_empty(), "{refused:#?}");
        assert!(
            refused.stderr.contains(
                "pipeline.yaml:8:39: stages.frames.decode.videos.1: \
                 no video matches videos/*\n  hint: "
            ),
            "{refused:#?}"
        );
        assert!(!refused.stderr.contains("videos.0"), "{refused:#?}");
    }
    assert!(project.committed() == before);

    // After the disk is mounted again, nothing is left to do.
    fs::rename(project.path("unmounted"), project.path("videos")).unwrap();
    project.run_changes_nothing(&[]);
}

#[test]
fn missing_videos_stop_a_run_unless_max_dropped_allows_them() {
    let project = Project::new(8);
    project.run(&[]).success();
    let rows = count(&project, "SELECT count(*) AS n FROM labels");
    let sql = "SELECT count(DISTINCT video) AS n FROM labels";
    let before = project.committed();
    for game in 4..8 {
        fs::remove_file(project.path(&format!("videos/maze_1_{game:03}.mp4"))).unwrap();
    }
    let planned = project.lapo(&["plan", "pipeline.yaml"]).success();
    assert!(planned.stdout.contains("4 videos gone"), "{planned:#?}");

    let refused = project.run(&[]);
    let why = "stage frames: 4 of 8 videos of the newest version no longer match, \
               `max_dropped` allows a share of 0.5";
    assert!(
        refused.code == 1 && refused.stderr.contains(why.rsplit_once(' ').unwrap().0),
        "{refused:#?}"
    );
    assert!(refused.stderr.contains("pass --max-dropped 1 once"), "{refused:#?}");
    assert!(project.committed() == before);
    assert_eq!(count(&project, sql), 8);

    let gone = project.run(&["--max-dropped", "1"]).success();
    let fewer = rows - count(&project, "SELECT count(*) AS n FROM labels");
    assert!(gone.stdout.contains("frames: 4 videos gone, "), "{gone:#?}");
    assert!(gone.stdout.contains(&format!("labels: {fewer} transitions fewer")), "{gone:#?}");
    assert_eq!(count(&project, sql), 4);
    let version = project
        .lapo(&["datasets", "frames", "--workspace", "ws", "--format", "json"])
        .success()
        .stdout;
    assert!(version.contains("4 videos gone"), "the version records the reason: {version}");
    project.run_changes_nothing(&[]);

    // The pipeline sets a higher share itself.
    let lenient = PIPELINE.replace("videos_per_shard: 4", "videos_per_shard: 4, max_dropped: 0.6");
    fs::write(project.path("pipeline.yaml"), lenient).unwrap();
    for game in 2..4 {
        fs::remove_file(project.path(&format!("videos/maze_1_{game:03}.mp4"))).unwrap();
    }
    project.run(&[]).success();
    assert_eq!(count(&project, sql), 2);
}
