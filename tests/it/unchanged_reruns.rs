//! A second run of an unchanged pipeline commits nothing, whatever its settings.

use std::fs;

use crate::project::{PIPELINE, Project};

/// Settings that a JSON parser with less precision would round to another number.
const FLOATS: [&str; 3] = ["blank: 0.03", "cut: 3.9", "still: { frames: 4, change: 0.0016 }"];

#[test]
fn a_setting_with_many_digits_is_unchanged_in_the_next_run() {
    for setting in FLOATS {
        let project = Project::new(8);
        fs::write(
            project.path("pipeline.yaml"),
            PIPELINE.replace("videos_per_shard: 4", &format!("videos_per_shard: 4, {setting}")),
        )
        .unwrap();
        project.run(&[]).success();
        let rows =
            || project.query("SELECT count(*) AS n, count(DISTINCT video) AS videos FROM labels");
        let labels = rows();
        assert!(labels[0]["n"].as_u64().unwrap() > 0, "{setting}");
        project.run_changes_nothing(&[]);
        project.run_changes_nothing(&[]);
        assert_eq!(rows(), labels, "{setting}");
        // A new clip does not decode the others again.
        project.add(8..9);
        let output = project.run(&[]).success();
        assert!(output.stdout.contains(" 9 videos (1 new)"), "{setting}: {output:#?}");
    }
}

#[test]
fn a_model_is_kept_when_its_learning_rate_has_many_digits() {
    let project = Project::new(6);
    let rate = "batch: 4, learning_rate: 0.00011430930260456755";
    fs::write(project.path("pipeline.yaml"), PIPELINE.replace("batch: 4", rate)).unwrap();
    project.run(&[]).success();
    let model = project.files("model", "model.safetensors");
    project.run_changes_nothing(&[]);
    project.add(6..8);
    // The new videos do not train a new model.
    assert_eq!(project.planned(&[])["model"], (0, 1));
    project.run(&[]).success();
    assert_eq!(project.files("model", "model.safetensors"), model);
    assert_eq!(project.planned(&[])["labels"], (0, 3));
}

/// Replaces every clip four times under the same name. Receipts keep the digest of each content.
#[test]
fn a_replaced_video_is_read_once_and_not_by_every_plan() {
    let project = Project::new(4);
    project.run(&[]).success();
    for round in 1..5 {
        for game in 0..4 {
            let other = format!("data/maze/maze_1_{:03}.mp4", 20 + 4 * round + game);
            let other = std::path::Path::new(env!("CARGO_MANIFEST_DIR")).join(other);
            fs::copy(other, project.path(&format!("videos/maze_1_{game:03}.mp4"))).unwrap();
        }
        let output = project.run(&[]).success();
        assert!(output.stdout.contains("4 videos (4 new)"), "{output:#?}");
    }
    // New bytes with the size and time of the receipts: only a plan that reads the file notices.
    for game in 0..4 {
        let path = project.path(&format!("videos/maze_1_{game:03}.mp4"));
        let metadata = fs::metadata(&path).unwrap();
        let modified = metadata.modified().unwrap();
        fs::write(&path, vec![game as u8; metadata.len() as usize]).unwrap();
        fs::File::options().write(true).open(&path).unwrap().set_modified(modified).unwrap();
    }
    assert!(
        project.planned(&[]).values().all(|(new, _)| *new == 0),
        "a plan reads videos that receipts list: {:?}",
        project.planned(&[])
    );
    project.run_changes_nothing(&[]);
}
