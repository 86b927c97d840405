//! Import of published PyTorch checkpoints.
//!
//! `tests/golden/idm_fdm.pt` was written by `torch.save` in the layout of the published code: the
//! states `idm` and `wm` and the settings, for frames of 16 x 16. Value `i` of tensor `name` is
//! `(7 i + 13 len(name)) % 101 / 1000 - 0.05`; variances and counts hold its absolute value.

use std::fs;
use std::path::PathBuf;

use lapo::models::weights::Weights;
use lapo::models::{Predict, metadata::DYNAMICS_FORMAT};

use crate::project::Project;

fn published() -> PathBuf {
    PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("tests/golden/idm_fdm.pt")
}

/// Returns the values of a tensor by the formula above.
fn expected(name: &str, count: usize) -> Vec<f32> {
    let positive = name.ends_with("running_var") || name.ends_with("ema_count");
    let value = |i: usize| ((i * 7 + name.len() * 13) % 101) as f32 - 50.0;
    (0..count).map(value).map(|v| if positive { v.abs() / 1000.0 } else { v / 1000.0 }).collect()
}

#[test]
fn a_published_checkpoint_becomes_safetensors_value_by_value() {
    let project = Project::new(0);
    let output =
        project.lapo(&["import", published().to_str().unwrap(), "model.safetensors"]).success();
    assert_eq!(
        output.stdout,
        "model.safetensors: IDM x1 and FDM 2, 1 frame(s) of context, frames of 16 x 16\n"
    );

    let weights = Weights::parse(&fs::read(project.path("model.safetensors")).unwrap()).unwrap();
    assert_eq!(weights.metadata["format"], DYNAMICS_FORMAT);
    let config = weights.dynamics_config().unwrap();
    assert_eq!(
        (config.vq.codebooks, config.vq.positions, config.vq.dim, config.vq.entries),
        (2, 4, 2, 8)
    );
    assert_eq!(config.predict, Predict::Frame);
    let mut tensors = 0;
    // `wm` is the FDM in published checkpoints.
    for network in ["idm", "wm"] {
        for (name, shape) in weights.shapes_under(&format!("{network}.")) {
            let seen = weights.get(&format!("{network}.{name}"), &shape).unwrap();
            assert_eq!(seen, expected(&name, seen.len()), "{network}.{name}");
            tensors += 1;
        }
    }
    assert!(tensors > 80, "{tensors}");
}

#[test]
fn a_pipeline_labels_with_an_imported_model() {
    let project = Project::new(3);
    let text = format!(
        "name: imported\nworkspace: ws\nstages:\n  \
         frames: {{ decode: {{ videos: ['videos/*'], size: 16 }} }}\n  \
         model: {{ import_dynamics: {{ weights: '{}' }} }}\n  \
         labels: {{ label: {{ frames: frames, dynamics: model, fdm_error: false }} }}\n",
        published().display()
    );
    fs::write(project.path("pipeline.yaml"), &text).unwrap();
    assert!(project.run(&[]).success().stdout.starts_with("3 tasks: 3 videos (3 new)"));
    project.run_changes_nothing(&[]);
    let rows = &project.query("SELECT count(*) AS n, count(fdm_error) AS errors FROM labels")[0];
    assert!(rows["n"].as_u64().unwrap() > 20, "{rows}");
    assert_eq!(rows["errors"], 0, "fdm_error is off");

    fs::write(project.path("pipeline.yaml"), text.replace(", fdm_error: false", "")).unwrap();
    assert!(
        project.run(&[]).success().stdout.starts_with("1 tasks"),
        "a new column relabels and does nothing else"
    );
    let rows = &project.query("SELECT count(*) AS n, count(fdm_error) AS errors FROM labels")[0];
    assert_eq!(rows["n"], rows["errors"]);
}

#[test]
fn errors_name_the_file_that_is_not_a_checkpoint() {
    let project = Project::new(1);
    let whole = fs::read(published()).unwrap();
    for (name, bytes) in [
        ("cut.pt", &whole[..whole.len() / 2]),
        ("text.pt", b"hello"),
        ("text.safetensors", b"hello"),
        ("empty.pt", b""),
    ] {
        fs::write(project.path(name), bytes).unwrap();
        let output = project.lapo(&["import", name, "out.safetensors"]);
        assert_eq!(output.code, 1, "{output:?}");
        assert!(
            output.stderr.starts_with(&format!("error: cannot read checkpoint {name}: ")),
            "{output:?}"
        );
        assert!(!project.path("out.safetensors").exists());
    }
    let missing =
        "name: x\nworkspace: ws\nstages: { model: { import_dynamics: { weights: nowhere.pt } } }\n";
    fs::write(project.path("pipeline.yaml"), missing).unwrap();
    let output = project.lapo(&["check", "pipeline.yaml"]);
    assert_eq!(output.code, 1);
    assert!(
        output.stderr.contains(
            "pipeline.yaml:3:48: stages.model.import_dynamics.weights: cannot read nowhere.pt"
        ),
        "{}",
        output.stderr
    );
}
