//! Recordings written as videos, and recordings of a trained policy.

use std::fs;
use std::sync::Arc;

use lapo::dataset::{Manifest, Receipt, Shard, Store};

use crate::project::Project;

/// Records episodes, trains a policy on them and records the policy.
const PLAYED: &str = "
name: played
workspace: ws
seed: 5
holdout: 3
stages:
  play: { record: { game: maze, player: sticky, episodes: 6, episodes_per_shard: 6,
      size: 16, max_frames: 40, videos: true } }
  model: { train_dynamics: { frames: play, steps: 4, batch: 4 } }
  labels: { label: { frames: play, dynamics: model } }
  policy: { train_policy: { labels: labels, steps: 4, batch: 8 } }
  decoder: { train_decoder: { labels: labels, actions: play, transitions: [16, 32], draws: 1,
      steps: 20, hidden: [8] } }
  again: { record: { game: maze, player: policy, policy: policy, decoder: decoder, episodes: 3,
      size: 32, max_frames: 20 } }
";

/// Decodes the videos of the recording and imports their actions.
const DECODED: &str = "
name: decoded
shares_with: [played]
workspace: ws
holdout: 3
stages:
  films: { decode: { videos: ['ws/play/data/**/*.mp4'], size: 16 } }
  done: { import_actions: { frames: films, file: ACTIONS } }
";

/// Creates a project and runs its pipeline. Returns `None` without Procgen.
fn project() -> Option<Project> {
    crate::procgen::venv()?;
    let project = Project::new(0);
    fs::write(project.path("pipeline.yaml"), PLAYED).unwrap();
    project.run(&[]).success();
    Some(project)
}

/// Returns the receipt of a stage with a single task.
fn receipt(store: &Store, stage: &str) -> Arc<Receipt> {
    Manifest::newest(store, stage).unwrap().unwrap().receipts(store).unwrap().remove(0)
}

#[test]
fn recorded_videos_decode_to_their_frames_and_actions() {
    let Some(project) = project() else { return };
    let store = Store::open(project.path("ws").to_str().unwrap()).unwrap();
    let played = receipt(&store, "play");
    let actions = played.files.iter().find(|file| file.holds_actions()).unwrap();
    assert_eq!(played.files.iter().filter(|file| file.path.ends_with(".mp4")).count(), 6);
    fs::write(
        project.path("pipeline.yaml"),
        DECODED.replace("ACTIONS", &format!("ws/{}", actions.path)),
    )
    .unwrap();
    project.run(&[]).success();

    let lengths = |stage: &str| {
        project.query(&format!("SELECT count(*) AS n FROM {stage} GROUP BY video ORDER BY video"))
    };
    assert_eq!(lengths("play"), lengths("films"));
    let actions_in = |table: &str| {
        project.query(&format!(
            "SELECT frame_index, action, reward FROM {table} ORDER BY video, frame_index"
        ))
    };
    assert_eq!(actions_in("play_actions"), actions_in("done"));
    let pixels = |stage: &str| {
        let shard = Shard::open(&store, &receipt(&store, stage).files[0].path).unwrap();
        (0..shard.rows()).flat_map(|row| shard.pixels(row).to_vec()).collect::<Vec<u8>>()
    };
    let played = pixels("play");
    let decoded = pixels("films");
    assert_eq!(played.len(), decoded.len());
    let mean_difference =
        played.iter().zip(&decoded).map(|(a, b)| u64::from(a.abs_diff(*b))).sum::<u64>() as f64
            / played.len() as f64;
    assert!(mean_difference < 4.0, "the mean difference is {mean_difference} of 255");
}

#[test]
fn a_trained_policy_can_be_recorded() {
    let Some(project) = project() else { return };
    let rows = project
        .query("SELECT count(DISTINCT video) AS videos, count(*) AS frames FROM again")[0]
        .clone();
    assert!(rows["videos"] == 3 && rows["frames"].as_u64().unwrap() <= 60, "{rows}");
    project.run_changes_nothing(&[]);
    // Another decoder plays differently. A random player takes no decoder.
    fs::write(project.path("pipeline.yaml"), PLAYED.replace("hidden: [8]", "hidden: [9]")).unwrap();
    let planned = project.planned(&[]);
    let new: Vec<&str> =
        planned.iter().filter(|(_, (new, _))| *new > 0).map(|(stage, _)| stage.as_str()).collect();
    assert_eq!(new, ["again", "decoder"]);
    fs::write(
        project.path("pipeline.yaml"),
        PLAYED.replace("player: policy, policy: policy", "player: random"),
    )
    .unwrap();
    let output = project.run(&[]);
    assert!(
        output.code == 1
            && output.stderr.contains("stages.again.record.decoder: is not used by this player"),
        "{output:#?}"
    );
    fs::write(
        project.path("pipeline.yaml"),
        PLAYED.replace("policy: policy, decoder: decoder, ", "policy: policy, "),
    )
    .unwrap();
    let output = project.run(&[]);
    assert!(
        output.code == 1 && output.stderr.contains("stages.again.record.decoder: is missing"),
        "{output:#?}"
    );
}
