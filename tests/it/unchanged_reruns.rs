//! What a workspace has written down is believed: a second run of the same pipeline commits nothing, whatever its settings.

use std::collections::BTreeSet;
use std::fs;

use serde_json::Value;

use crate::project::{PIPELINE, Project};

/// Settings that a JSON reader of fewer digits would give back as their neighbours.
const FLOATS: [&str; 3] = ["blank: 0.03", "cut: 3.9", "still: { frames: 4, change: 0.0016 }"];

#[test]
fn a_setting_of_any_digits_is_the_same_setting_in_the_next_run() {
    for setting in FLOATS {
        let project = Project::new(8);
        fs::write(
            project.path("pipeline.yaml"),
            PIPELINE.replace("videos_per_shard: 4", &format!("videos_per_shard: 4, {setting}")),
        )
        .unwrap();
        project.run(&[]).good();
        let rows =
            || project.query("SELECT count(*) AS n, count(DISTINCT video) AS videos FROM labels");
        let labels = rows();
        assert!(labels[0]["n"].as_u64().unwrap() > 0, "{setting}");
        project.run_changes_nothing(&[]);
        project.run_changes_nothing(&[]);
        assert_eq!(rows(), labels, "{setting}");
        // A new clip joins the others.
        project.add(8..9);
        let said = project.run(&[]).good();
        assert!(said.stdout.contains(" 9 videos (1 new)"), "{setting}: {said:#?}");
    }
}

#[test]
fn a_model_is_kept_whatever_the_digits_of_its_settings() {
    let project = Project::new(6);
    let rate = "holdout: 3, learning_rate: 0.00011430930260456755";
    fs::write(project.path("pipeline.yaml"), PIPELINE.replace("holdout: 3", rate)).unwrap();
    project.run(&[]).good();
    let model = project.files("model", "model.safetensors");
    project.run_changes_nothing(&[]);
    project.add(6..8);
    assert_eq!(project.planned(&[])["model"], (0, 1));
    project.run(&[]).good();
    assert_eq!(project.files("model", "model.safetensors"), model);
    assert_eq!(project.planned(&[])["labels"], (0, 3));
}

/// Replaces a clip by another one under the same name, four times; each content stays known.
#[test]
fn a_replaced_video_is_read_once_and_not_by_every_plan() {
    let project = Project::new(4);
    project.run(&[]).good();
    for round in 1..5 {
        for game in 0..4 {
            let other = format!("data/maze/maze_1_{:03}.mp4", 20 + 4 * round + game);
            let other = std::path::Path::new(env!("CARGO_MANIFEST_DIR")).join(other);
            fs::copy(other, project.path(&format!("videos/maze_1_{game:03}.mp4"))).unwrap();
        }
        let said = project.run(&[]).good();
        assert!(said.stdout.contains("4 videos (4 new)"), "{said:#?}");
    }
    // Other bytes at the size and time that receipts know: only a plan that reads a video finds them.
    for game in 0..4 {
        let path = project.path(&format!("videos/maze_1_{game:03}.mp4"));
        let (bytes, modified) =
            (fs::metadata(&path).unwrap().len(), fs::metadata(&path).unwrap().modified().unwrap());
        fs::write(&path, vec![game as u8; bytes as usize]).unwrap();
        fs::File::options().write(true).open(&path).unwrap().set_modified(modified).unwrap();
    }
    assert!(
        project.planned(&[]).values().all(|(new, _)| *new == 0),
        "a plan reads videos that receipts know: {:?}",
        project.planned(&[])
    );
    project.run_changes_nothing(&[]);
}

/// Adds the names of an object's fields; those of maps, whose names are data, are left out.
fn fields(value: &Value, found: &mut BTreeSet<String>) {
    const MAPS: [&str; 8] =
        ["fields", "settings", "counts", "tables", "stats", "done", "vars", "about"];
    match value {
        Value::Object(object) => {
            for (name, value) in object {
                found.insert(name.clone());
                if !MAPS.contains(&name.as_str()) {
                    fields(value, found);
                }
            }
        }
        Value::Array(list) => list.iter().for_each(|value| fields(value, found)),
        _ => {}
    }
}

/// The format is a promise: what is on disk is in the page that describes it.
#[test]
fn every_field_on_disk_is_described() {
    let project = Project::new(4);
    fs::write(project.path("videos/broken.mp4"), "no video").unwrap();
    project.run(&[]).good();
    project.lapo(&["plan", "pipeline.yaml", "--set", "steps=5", "--out", "plans/a"]).good();
    let page = include_str!("../../src/dataset/format.md");
    for (kind, pattern) in [
        ("the workspace", "ws/lapo.json"),
        ("manifests", "ws/*/manifests/*.json"),
        ("receipts", "ws/*/receipts/*.json"),
        ("runs", "ws/runs/*.json"),
        ("pins", "ws/pins/*.json"),
        ("plans", "plans/a/stages/*.json"),
    ] {
        let mut found = BTreeSet::new();
        for path in glob::glob(project.path(pattern).to_str().unwrap()).unwrap() {
            fields(&serde_json::from_slice(&fs::read(path.unwrap()).unwrap()).unwrap(), &mut found);
        }
        assert!(!found.is_empty(), "{kind}");
        // A pin and a manifest name stages.
        let missing: Vec<&String> = found
            .iter()
            .filter(|name| {
                !["frames", "model", "labels"].contains(&name.as_str())
                    && !page.contains(&format!("`{name}`"))
            })
            .collect();
        assert!(missing.is_empty(), "{kind}: format.md does not describe {missing:?}");
    }
}
