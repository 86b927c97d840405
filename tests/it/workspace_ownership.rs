//! A workspace belongs to one pipeline, and no other one writes to it by mistake.

use std::fs;

use crate::project::{PIPELINE, Project, wait};

#[test]
fn runs_ignore_the_workspace_of_the_environment() {
    let project = Project::new(4);
    project.run(&[]).success();
    let before = project.committed();
    fs::write(
        project.path("other.yaml"),
        PIPELINE.replace("name: test", "name: other").replace("workspace: ws", "workspace: ws2"),
    )
    .unwrap();
    for game in 2..4 {
        fs::remove_file(project.path(&format!("videos/maze_1_{game:03}.mp4"))).unwrap();
    }
    for args in [&["run", "other.yaml"][..], &["plan", "other.yaml", "--out", "plans/a"]] {
        // The pipeline names `ws2`; the environment names `ws`.
        wait(project.command(args).env("LAPO_WORKSPACE", "ws").spawn().unwrap()).success();
    }
    assert!(project.committed() == before);
    assert!(project.path("ws2/frames/manifests").is_dir());
    // Read-only commands do use it.
    let rows = wait(
        project
            .command(&["query", "SELECT count(*) FROM labels"])
            .env("LAPO_WORKSPACE", "ws2")
            .spawn()
            .unwrap(),
    );
    rows.success();
}

#[test]
fn another_pipeline_must_share_or_take_over_a_workspace() {
    let project = Project::new(4);
    project.run(&[]).success();
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
    // A pipeline with other stage names is refused, too.
    let renamed =
        "name: other\nworkspace: ws\nstages:\n  pictures: { decode: { videos: ['videos/*'] } }\n";
    fs::write(project.path("renamed.yaml"), renamed).unwrap();
    let refused = project.lapo(&["run", "renamed.yaml"]);
    assert!(
        refused.code == 1 && refused.stderr.contains("belongs to the pipeline `test`"),
        "{refused:#?}"
    );

    fs::write(project.path("shares.yaml"), format!("{other}shares_with: [test]\n")).unwrap();
    let shared = project.lapo(&["run", "shares.yaml"]).success();
    assert!(shared.stdout.starts_with("0 tasks"), "existing results are re-used: {shared:#?}");
    assert!(project.committed() == before);
    project.lapo(&["run", "other.yaml", "--take-over"]).success();
    project.lapo(&["run", "other.yaml"]).success();
    let refused = project.run(&[]);
    assert!(
        refused.code == 1 && refused.stderr.contains("belongs to the pipeline `other`"),
        "{refused:#?}"
    );
}
