//! Rollouts: the world model predicts several frames ahead from its own predictions.

use std::fs;

use crate::project::{PIPELINE, Project};
use crate::split::held_out;

const ROLLOUT: &str = "  ahead: { evaluate: { dynamics: model, frames: frames, rollout: 6 } }\n";

#[test]
fn the_error_one_frame_ahead_is_the_fdm_error_of_the_labels() {
    let project = Project::new(9);
    fs::write(project.path("pipeline.yaml"), PIPELINE.to_owned() + ROLLOUT).unwrap();
    let output = project.run(&[]).success();
    assert!(output.stderr.contains("x 1 ahead"), "{output:#?}");
    let rows = project.query("SELECT * FROM ahead ORDER BY frames_ahead");
    let number = |row: usize, name: &str| {
        rows[row][name].as_f64().unwrap_or_else(|| panic!("{name} in {rows}"))
    };
    assert_eq!(rows.as_array().unwrap().len(), 6);

    let held_out = held_out(&project).into_iter().map(|video| format!("'{video}'"));
    let held_out: Vec<String> = held_out.collect();
    // A rollout starts at every label with five more labels after it.
    let first = format!(
        "WITH ends AS (SELECT video, max(frame_index) AS last FROM labels \
         WHERE video IN ({}) GROUP BY video) \
         SELECT count(*) AS n, avg(fdm_error) AS error FROM labels \
         JOIN ends ON labels.video = ends.video WHERE frame_index + 5 <= last",
        held_out.join(", ")
    );
    let labels = project.query(&first)[0].clone();
    let count = labels["n"].as_u64().unwrap();
    let error = labels["error"].as_f64().unwrap();
    assert!((2..=128).contains(&count), "{labels}: evaluate uses all of up to 128 rollouts");
    assert!((number(0, "fdm_error") / error - 1.0).abs() < 1e-3, "{} for {labels}", rows[0]);
    assert!((0..6).all(|row| number(row, "fdm_error") != number(row, "shuffled_error")), "{rows}");
    // The same held-out windows as in the verdict of the training.
    let trained: serde_json::Value =
        serde_json::from_slice(&project.files("model", "verdict.json")[0]).unwrap();
    let evaluated = project.query("SELECT * FROM ahead_verdict")[0].clone();
    for name in ["splice_rebuilt", "transfer_rebuilt", "cycle_consistency", "additivity"] {
        let [seen, expected] = [&evaluated, &trained].map(|from| from[name].as_f64().unwrap());
        assert!((seen - expected).abs() < 1e-3, "{name}: {seen} and {expected}");
    }
    project.run_changes_nothing(&[]);

    let yaml = fs::read_to_string(project.path("pipeline.yaml")).unwrap();
    for (wrong, fault) in [
        ("{ dynamics: model }", "ahead.evaluate.frames: is missing"),
        ("{ frames: frames }", "ahead.evaluate.frames: has no `dynamics`"),
        ("{ dynamics: model, frames: frames, rollout: 0 }", "ahead.evaluate.rollout: is 0"),
        (
            "{ dynamics: model, frames: frames, rollout: 5000 }",
            "0 predicted windows of 5002 frames",
        ),
    ] {
        fs::write(
            project.path("pipeline.yaml"),
            yaml.replace("{ dynamics: model, frames: frames, rollout: 6 }", wrong),
        )
        .unwrap();
        let output = project.run(&[]);
        assert!(output.code != 0 && output.stderr.contains(fault), "{wrong}: {output:#?}");
    }
}
