//! Horizons: latent actions that lead further than to the next frame.

use std::fs;

use lapo::dataset::{Manifest, Shards, Store};
use serde_json::Value;

use crate::project::{PIPELINE, Project};

/// A model of three frames, and one of the same time: the recordings have 15 frames a second.
const STAGES: &str = "
  timed: { train_dynamics: { frames: frames, steps: '${steps}', batch: 4,
      horizon: { seconds: 0.2 } } }
  timed_labels: { label: { frames: frames, dynamics: timed } }
  policy: { train_policy: { labels: labels, steps: 4, batch: 8 } }
";

fn pipeline() -> String {
    PIPELINE.replace("batch: 4", "batch: 4, horizon: 3") + STAGES
}

#[test]
fn labels_lead_from_each_frame_to_the_one_three_further_on() {
    let project = Project::new(9);
    fs::write(project.path("pipeline.yaml"), pipeline()).unwrap();
    project.run(&[]).success();
    let rows = project.query("SELECT video, frame_index, horizon, motion, row FROM labels");
    let rows = rows.as_array().unwrap();
    let store = Store::open(project.path("ws").to_str().unwrap()).unwrap();
    let files = Manifest::newest(&store, "frames").unwrap().unwrap().files(&store).unwrap();
    let paths = files.into_iter().map(|file| file.path).filter(|path| path.ends_with(".arrow"));
    let shards = Shards::open(&store, paths.collect()).unwrap();
    let mut expected = Vec::new();
    for shard in 0..3 {
        let shard = shards.shard(shard).unwrap();
        for row in 0..shard.rows().saturating_sub(3) {
            let same = |other: usize| shard.video(other) == shard.video(row);
            // The window begins one frame before `o[t]`.
            if row > 0 && same(row - 1) && same(row + 3) {
                let [now, then] = [row, row + 3].map(|row| shard.pixels(row));
                let change: u64 = now.iter().zip(then).map(|(a, b)| a.abs_diff(*b) as u64).sum();
                let motion = change as f64 / now.len() as f64 / 255.0;
                expected.push((shard.video(row).to_owned(), shard.frame_index(row), motion));
            }
        }
    }
    assert_eq!(rows.len(), expected.len());
    let place = |row: &Value| {
        (row["video"].as_str().unwrap().to_owned(), row["frame_index"].as_u64().unwrap() as u32)
    };
    for (row, (video, frame, motion)) in rows.iter().zip(expected) {
        assert_eq!((place(row), &row["horizon"]), ((video, frame), &Value::from(3)));
        assert!((row["motion"].as_f64().unwrap() - motion).abs() < 1e-5, "{row}: {motion}");
    }
    // 0.2 seconds are three frames: the same windows, the same model, the same labels.
    let columns = "frame_index, horizon, latent_action, fdm_error";
    let labels = |stage: &str| project.query(&format!("SELECT {columns} FROM {stage}"));
    assert!(labels("labels") == labels("timed_labels"));
    project.run_changes_nothing(&[]);
}

#[test]
fn a_horizon_where_it_cannot_be_used_is_an_error() {
    let project = Project::new(3);
    let error = |yaml: String, message: &str| {
        fs::write(project.path("pipeline.yaml"), yaml).unwrap();
        let output = project.run(&[]);
        assert!(output.code == 1 && output.stderr.contains(message), "{message}: {output:#?}");
    };
    error(pipeline().replace("horizon: 3", "horizon: 0"), "model.train_dynamics.horizon: is 0");
    let words = "expected a number of frames, or a time such as { seconds: 0.5 }";
    error(pipeline().replace("horizon: 3", "horizon: far"), words);
    error(pipeline().replace("0.2", "-1"), "timed.train_dynamics.horizon: is -1 seconds");
    error(pipeline().replace("horizon: 3", "horizon: 5000"), "0 training windows");
    let rollout = "  ahead: { evaluate: { dynamics: model, frames: frames, rollout: 2 } }\n";
    error(pipeline() + rollout, "the latent actions lead 3 frames ahead, expected the next frame");
}
