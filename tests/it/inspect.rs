//! `lapo inspect`: descriptions of stages and of weights, and its errors.

use crate::project::Project;

#[test]
fn a_stage_and_its_weights_are_described() {
    let project = Project::new(6);
    project.run(&[]).success();
    let inspect =
        |what: &str| project.lapo(&["inspect", what, "--workspace", "ws"]).success().stdout;
    let frames = inspect("frames");
    assert!(frames.starts_with("frames (decode), version 1: 2 tasks, 4 files of "), "{frames}");
    let counted = project.query("SELECT count(*) AS n FROM frames")[0]["n"].as_u64().unwrap();
    for part in [
        "\n  size: 16\n".to_owned(),
        format!("\n  frames: {counted}\n"),
        "\ntable frames\n  video str, ".to_owned(),
        format!("\n{counted:>6}       6"),
    ] {
        assert!(frames.contains(&part), "{part} is not in\n{frames}");
    }
    let model = inspect("model");
    let sentence = "held-out windows the world model's error is ";
    assert!(
        model.contains(sentence)
            && model.contains("\n  steps: 4\n")
            && model.contains("ORDER BY step DESC"),
        "{model}"
    );
    let file = model.lines().map(str::trim).find(|line| line.ends_with(".safetensors")).unwrap();
    let weights = project.lapo(&["inspect", &format!("ws/{file}")]).success().stdout;
    for part in ["\nformat: lapo-dynamics/2\n", "\n  frame_size: 16\n", "\nidm: ", "\nwm: "] {
        assert!(weights.contains(part), "{part} is not in\n{weights}");
    }
    assert!(inspect("labels").contains("with_true_action"));
}

#[test]
fn a_missing_stage_is_an_error_that_lists_the_stages() {
    let project = Project::new(3);
    let output = project.lapo(&["inspect", "frames", "--workspace", "ws"]);
    assert!(
        output.code == 1 && output.stderr.contains("hint: run a pipeline in it first"),
        "{output:#?}"
    );
    project.run(&[]).success();
    let output = project.lapo(&["inspect", "modle", "--workspace", "ws"]);
    assert_eq!(
        output.stderr,
        "error: the workspace has no stage `modle`\n  \
         hint: did you mean `model`? stages here: `frames`, `labels`, `model`\n"
    );
    let output = project.lapo(&["inspect", "none.safetensors"]);
    assert!(
        output.code == 1 && output.stderr.starts_with("error: cannot read none.safetensors: "),
        "{output:#?}"
    );
    std::fs::write(project.path("bad.safetensors"), "{}").unwrap();
    let output = project.lapo(&["inspect", "bad.safetensors"]);
    assert!(
        output.code != 0 && output.stderr.starts_with("error: bad.safetensors: "),
        "{output:#?}"
    );
}
