//! A dataset never shrinks, and never becomes another pipeline's, unless somebody says so.

use std::fs;

use crate::project::{PIPELINE, Project, said};

fn count(project: &Project, sql: &str) -> u64 {
    project.query(sql)[0]["n"].as_u64().unwrap()
}

/// Writes the pipeline with other patterns.
fn take(project: &Project, patterns: &str) {
    fs::write(project.path("pipeline.yaml"), PIPELINE.replace("'videos/*'", patterns)).unwrap();
}

#[test]
fn a_pattern_that_matches_nothing_is_a_fault_before_anything_runs() {
    let project = Project::new(4);
    fs::rename(project.path("videos"), project.path("a")).unwrap();
    fs::create_dir(project.path("videos")).unwrap();
    project.add(4..8);
    take(&project, "'a/*', 'videos/*'");
    project.run(&[]).good();
    let before = project.committed();

    fs::rename(project.path("videos"), project.path("unmounted")).unwrap();
    for command in
        [&["run", "pipeline.yaml"][..], &["plan", "pipeline.yaml"], &["check", "pipeline.yaml"]]
    {
        let refused = project.lapo(
            &[command, &["--max-dropped", "1"][..if command[0] == "check" { 0 } else { 2 }]]
                .concat(),
        );
        assert!(refused.code == 1 && refused.stdout.is_empty(), "{refused:#?}");
        assert!(
            refused.stderr.contains("pipeline.yaml:7:39: stages.frames.decode.videos.1: no video matches videos/*\n  hint: "),
            "{refused:#?}"
        );
        assert!(!refused.stderr.contains("videos.0"), "{refused:#?}");
    }
    assert!(project.committed() == before);

    // The disk is there again, and all is as it was.
    fs::rename(project.path("unmounted"), project.path("videos")).unwrap();
    project.run_changes_nothing(&[]);
}

#[test]
fn videos_that_are_gone_stop_a_run_until_somebody_lets_them_go() {
    let project = Project::new(8);
    project.run(&[]).good();
    let (rows, sql) = (
        count(&project, "SELECT count(*) AS n FROM labels"),
        "SELECT count(DISTINCT video) AS n FROM labels",
    );
    let before = project.committed();
    (4..8).for_each(|game| {
        fs::remove_file(project.path(&format!("videos/maze_1_{game:03}.mp4"))).unwrap()
    });
    let told = project.lapo(&["plan", "pipeline.yaml"]).good();
    assert!(told.stdout.contains("4 videos gone"), "{told:#?}");

    let refused = project.run(&[]);
    let why = "stage frames: 4 of 8 videos of the newest version no longer match, `max_dropped` allows a share of 0.5";
    assert!(
        refused.code == 1 && refused.stderr.contains(why.rsplit_once(' ').unwrap().0),
        "{refused:#?}"
    );
    assert!(refused.stderr.contains("pass --max-dropped 1 once"), "{refused:#?}");
    assert!(project.committed() == before);
    assert_eq!(count(&project, sql), 8);

    let gone = project.run(&["--max-dropped", "1"]).good();
    let fewer = rows - count(&project, "SELECT count(*) AS n FROM labels");
    assert!(gone.stdout.contains("frames: 4 videos gone, "), "{gone:#?}");
    assert!(gone.stdout.contains(&format!("labels: {fewer} transitions fewer")), "{gone:#?}");
    assert_eq!(count(&project, sql), 4);
    let version = project
        .lapo(&["datasets", "frames", "--workspace", "ws", "--format", "json"])
        .good()
        .stdout;
    assert!(version.contains("4 videos gone"), "the version says why: {version}");
    project.run_changes_nothing(&[]);

    // A share of the pipeline's own.
    let lenient = PIPELINE.replace("videos_per_shard: 4", "videos_per_shard: 4, max_dropped: 0.6");
    fs::write(project.path("pipeline.yaml"), lenient).unwrap();
    (2..4).for_each(|game| {
        fs::remove_file(project.path(&format!("videos/maze_1_{game:03}.mp4"))).unwrap()
    });
    project.run(&[]).good();
    assert_eq!(count(&project, sql), 2);
}

#[test]
fn the_environment_never_sends_a_run_into_another_workspace() {
    let project = Project::new(4);
    project.run(&[]).good();
    let before = project.committed();
    fs::write(
        project.path("other.yaml"),
        PIPELINE.replace("name: test", "name: other").replace("workspace: ws", "workspace: ws2"),
    )
    .unwrap();
    (2..4).for_each(|game| {
        fs::remove_file(project.path(&format!("videos/maze_1_{game:03}.mp4"))).unwrap()
    });
    for args in [&["run", "other.yaml"][..], &["plan", "other.yaml", "--out", "plans/a"]] {
        said(project.command(args).env("LAPO_WORKSPACE", "ws").spawn().unwrap()).good();
    }
    assert!(project.committed() == before);
    assert!(project.path("ws2/frames/manifests").is_dir());
    // Readers take it.
    let rows = said(
        project
            .command(&["query", "SELECT count(*) FROM labels"])
            .env("LAPO_WORKSPACE", "ws2")
            .spawn()
            .unwrap(),
    );
    rows.good();
}

#[test]
fn a_workspace_belongs_to_a_pipeline_until_another_one_says_that_it_shares_or_takes_it() {
    let project = Project::new(4);
    project.run(&[]).good();
    let before = project.committed();
    let other = PIPELINE.replace("name: test", "name: other");
    fs::write(project.path("other.yaml"), &other).unwrap();
    for args in [&["run", "other.yaml"][..], &["plan", "other.yaml", "--out", "plans/a"]] {
        let refused = project.lapo(args);
        assert!(
            refused.code == 1
                && refused.stderr.contains("belongs to the pipeline `test`, this one is `other`"),
            "{refused:#?}"
        );
        assert!(
            refused.stderr.contains("shares_with: [test]")
                && refused.stderr.contains("--take-over"),
            "{refused:#?}"
        );
    }
    assert!(project.committed() == before);
    // Stages of other names do not make it another workspace.
    let renamed =
        "name: other\nworkspace: ws\nstages:\n  pictures: { decode: { videos: ['videos/*'] } }\n";
    fs::write(project.path("renamed.yaml"), renamed).unwrap();
    let refused = project.lapo(&["run", "renamed.yaml"]);
    assert!(
        refused.code == 1 && refused.stderr.contains("belongs to the pipeline `test`"),
        "{refused:#?}"
    );

    fs::write(project.path("shares.yaml"), format!("{other}shares_with: [test]\n")).unwrap();
    let shared = project.lapo(&["run", "shares.yaml"]).good();
    assert!(shared.stdout.starts_with("0 tasks"), "what is there is used: {shared:#?}");
    assert!(project.committed() == before);
    project.lapo(&["run", "other.yaml", "--take-over"]).good();
    project.lapo(&["run", "other.yaml"]).good();
    let refused = project.run(&[]);
    assert!(
        refused.code == 1 && refused.stderr.contains("belongs to the pipeline `other`"),
        "{refused:#?}"
    );
}
