//! The committed schemas, example pipelines and format page agree with the code.

use std::collections::BTreeSet;
use std::fs;
use std::path::Path;

use lapo::pipeline;
use serde_json::Value;

use crate::project::Project;

fn root() -> &'static Path {
    Path::new(env!("CARGO_MANIFEST_DIR"))
}

#[test]
fn committed_schemas_equal_the_code() {
    for (name, text) in lapo::cli::schema::all() {
        let path = root().join("schemas").join(name);
        let committed = fs::read_to_string(&path).unwrap_or_default();
        assert!(
            committed == text,
            "{} differs from the code; write it with `lapo schema --write schemas`",
            path.display()
        );
    }
    assert_eq!(
        fs::read_dir(root().join("schemas")).unwrap().count(),
        lapo::cli::schema::all().len()
    );
}

#[test]
fn every_example_pipeline_can_be_planned() {
    let workspace = tempfile::tempdir().unwrap();
    let store = lapo::dataset::Store::open(workspace.path().to_str().unwrap()).unwrap();
    for entry in fs::read_dir(root().join("pipelines")).unwrap() {
        let path = entry.unwrap().path();
        let checked = pipeline::load(path.to_str().unwrap(), &[], store.access())
            .unwrap_or_else(|e| panic!("{e}"));
        let options = pipeline::plan::PlanOptions::default();
        let plans =
            pipeline::plan::Planner::new(&checked, &store, &options).unwrap().plan_all().unwrap();
        // An empty workspace has no results to re-use.
        assert!(plans.iter().all(|plan| plan.new_tasks() > 0), "{}", path.display());
        assert!(plans[0].new_videos() > 0, "{}", path.display());
    }
    assert_eq!(fs::read_dir(workspace.path()).unwrap().count(), 0, "a plan writes nothing");
}

/// Adds the names of all fields of an object. The keys of maps are data and are left out.
fn add_fields(value: &Value, found: &mut BTreeSet<String>) {
    const MAPS: [&str; 8] =
        ["fields", "settings", "counts", "tables", "stats", "done", "vars", "about"];
    match value {
        Value::Object(object) => {
            for (name, value) in object {
                found.insert(name.clone());
                if !MAPS.contains(&name.as_str()) {
                    add_fields(value, found);
                }
            }
        }
        Value::Array(list) => {
            for value in list {
                add_fields(value, found);
            }
        }
        _ => {}
    }
}

#[test]
fn format_md_describes_every_field_on_disk() {
    let project = Project::new(4);
    fs::write(project.path("videos/broken.mp4"), "no video").unwrap();
    project.run(&[]).success();
    project.lapo(&["plan", "pipeline.yaml", "--set", "steps=5", "--out", "plans/a"]).success();
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
            add_fields(
                &serde_json::from_slice(&fs::read(path.unwrap()).unwrap()).unwrap(),
                &mut found,
            );
        }
        assert!(!found.is_empty(), "{kind}");
        // Pins and manifests also use stage names as keys.
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
