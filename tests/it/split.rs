//! Held-out videos: the same ones in every stage.

use std::collections::BTreeSet;
use std::fs;

use lapo::dataset::{Split, VideoFrames, VideoRank};
use serde_json::Value;

use crate::project::{PIPELINE, Project};

const STAGES: &str = "
  actions: { import_actions: { frames: frames, file: actions.parquet, partial: true } }
  policy: { train_policy: { labels: labels, steps: 4, batch: 8 } }
  decoder: { train_decoder: { labels: labels, actions: actions, transitions: [8], draws: 1,
      steps: 20, hidden: [8] } }
  probe: { evaluate: { labels: labels, actions: actions, dynamics: model, frames: frames,
      rollout: 2 } }
";

/// Creates a project whose pipeline trains and judges every kind of model.
fn project(games: std::ops::Range<usize>) -> Project {
    let project = Project::new(0);
    project.add(games);
    let actions =
        std::path::Path::new(env!("CARGO_MANIFEST_DIR")).join("data/maze/actions.parquet");
    fs::copy(actions, project.path("actions.parquet")).unwrap();
    fs::write(project.path("pipeline.yaml"), PIPELINE.to_owned() + STAGES).unwrap();
    project.run(&[]).success();
    project
}

fn verdict(project: &Project, stage: &str) -> Value {
    serde_json::from_slice(&project.files(stage, "verdict.json")[0]).unwrap()
}

/// Returns the held-out videos, one in three by the hash of their digests.
pub fn held_out(project: &Project) -> BTreeSet<String> {
    let rows = project.query("SELECT DISTINCT video, video_digest FROM labels");
    let text = |row: &Value, name: &str| row[name].as_str().unwrap().to_owned();
    let videos: Vec<(String, VideoRank)> = rows
        .as_array()
        .unwrap()
        .iter()
        .map(|row| (text(row, "video"), VideoRank::of(&text(row, "video_digest"))))
        .collect();
    let frames = |(_, rank): &(String, VideoRank)| VideoFrames { rank: *rank, frames: [0, 9] };
    let split = Split::new(3, videos.iter().map(frames));
    let judges = videos.into_iter().filter(|(_, rank)| split.judges(*rank, 0));
    judges.map(|(video, _)| video).collect()
}

/// Returns the number of labelled transitions of held-out videos and of the others.
fn transitions(project: &Project) -> [u64; 2] {
    let held_out = held_out(project);
    let names: Vec<String> = held_out.iter().map(|video| format!("'{video}'")).collect();
    ["IN", "NOT IN"].map(|within| {
        let condition = format!("video {within} ({})", names.join(", "));
        let count = format!("SELECT count(*) AS n FROM labels WHERE {condition}");
        project.query(&count)[0]["n"].as_u64().unwrap()
    })
}

#[test]
fn every_stage_holds_out_the_same_videos_whatever_their_names() {
    let project = project(0..9);
    let [judged, trained] = transitions(&project);
    assert!(judged > 20 && trained > judged);
    let of_model = verdict(&project, "model");
    assert_eq!(of_model["training_windows"], trained);
    assert_eq!(of_model["windows"], judged);
    let of_policy = verdict(&project, "policy");
    assert_eq!(of_policy["training_transitions"], trained);
    assert_eq!(of_policy["transitions"], judged);
    let probe = project.query("SELECT transitions FROM probe");
    assert_eq!(probe[0]["transitions"], judged);

    // Other names in another order: no video changes sides, and nothing trains again.
    let before = held_out(&project);
    for (number, game) in (0..9).rev().enumerate() {
        let from = project.path(&format!("videos/maze_1_{game:03}.mp4"));
        fs::rename(from, project.path(&format!("videos/renamed_{number}.mp4"))).unwrap();
    }
    let renamed = PIPELINE.to_owned();
    fs::write(project.path("pipeline.yaml"), renamed).unwrap();
    project.run(&[]).success();
    let renumbered = |name: &String| {
        let game: usize =
            name.trim_end_matches(".mp4").rsplit('_').next().unwrap().parse().unwrap();
        format!("videos/renamed_{}.mp4", 8 - game)
    };
    assert_eq!(held_out(&project), before.iter().map(renumbered).collect());
    assert_eq!(transitions(&project), [judged, trained]);
    assert_eq!(verdict(&project, "model"), of_model);
}

#[test]
fn a_single_video_trains_and_is_judged_on_its_last_fifth() {
    // The longest recording, of 77 frames.
    let project = project(185..186);
    let rows = project.query("SELECT frame_index FROM labels ORDER BY frame_index");
    let all = rows.as_array().unwrap().len() as u64;
    for (stage, trained, judged) in [
        ("model", "training_windows", "windows"),
        ("policy", "training_transitions", "transitions"),
    ] {
        let verdict = verdict(&project, stage);
        let [trained, judged] = [trained, judged].map(|name| verdict[name].as_u64().unwrap());
        assert!(judged * 5 <= all + 5 && judged * 6 >= all, "{stage}: {judged} of {all}");
        assert!(trained + judged < all && trained * 4 > all * 2, "{stage}: {trained} of {all}");
        assert_eq!(verdict["held_out"], true);
    }
}

#[test]
fn a_wrong_holdout_is_a_fault_with_its_place_and_cure() {
    let project = Project::new(1);
    for (from, to, fault, cure) in [
        ("holdout: 3", "holdout: 1", "5:10: holdout: is 1", "at least 2"),
        ("batch: 4", "batch: 4, holdout: 5", "unknown key `holdout`", "move it to the top level"),
    ] {
        fs::write(project.path("pipeline.yaml"), PIPELINE.replace(from, to)).unwrap();
        let output = project.lapo(&["check", "pipeline.yaml"]);
        assert!(output.code == 1 && output.stderr.contains(fault), "{output:#?}");
        assert!(output.stderr.contains(cure), "{output:#?}");
    }
}
