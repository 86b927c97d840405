//! True actions: they measure a model, a few of them may teach it, and a file that does not fit is told.

use std::fs;
use std::path::Path;

use crate::project::{PIPELINE, Project};

/// The pipeline of a project whose model knows a file of true actions.
fn project(count: usize, actions: &str, more: &str) -> Project {
    let project = Project::new(count);
    let recorded = Path::new(env!("CARGO_MANIFEST_DIR")).join("data/maze/actions.parquet");
    fs::copy(recorded, project.path("actions.parquet")).unwrap();
    fs::write(project.path("other.parquet"), "no Parquet").unwrap();
    let text = PIPELINE.replace("holdout: 3", &format!("holdout: 3, actions: {actions}{more}"));
    fs::write(project.path("pipeline.yaml"), text).unwrap();
    project
}

fn verdict(project: &Project) -> serde_json::Value {
    let files = project.files("model", "verdict.json");
    serde_json::from_slice(&files[0]).unwrap()
}

#[test]
fn a_verdict_says_what_latents_tell_of_true_actions() {
    let project = project(9, "actions.parquet", "");
    project.run(&[]).good();
    let probe = verdict(&project)["probe"].clone();
    let number = |name: &str| probe[name].as_f64().unwrap_or_else(|| panic!("{name} in {probe}"));
    assert!(number("windows") > 20.0 && number("commonest") > 0.2, "{probe}");
    for share in ["linear", "mlp"] {
        assert!((0.0..=1.0).contains(&number(share)), "{probe}");
    }
    assert!(number("mutual_information") <= number("action_entropy") + 1e-9, "{probe}");
    let told: u64 = probe["confusion"].as_array().unwrap().iter().flat_map(|row| row.as_array().unwrap()).filter_map(|n| n.as_u64()).sum();
    assert_eq!(Some(told), probe["windows"].as_u64());
    assert!(project.run(&[]).good().stdout.starts_with("0 tasks"));
}

/// At a quarter of the steps nothing is quantised yet.
#[test]
fn the_curve_shows_on_the_way_what_latents_tell() {
    let project = project(9, "actions.parquet", "");
    project.run(&["--set", "steps=400"]).good();
    let curve = project.query("SELECT step, information_used, probe_mlp, codes_used_0 FROM model WHERE information_used IS NOT NULL");
    let rows = curve.as_array().unwrap();
    let steps: Vec<_> = rows.iter().map(|row| row["step"].as_u64().unwrap()).collect();
    assert_eq!(steps, [99, 199, 399]);
    assert!(rows.iter().all(|row| row["probe_mlp"].is_number()), "{curve}");
    assert_eq!(rows.iter().map(|row| row["codes_used_0"].is_number()).collect::<Vec<_>>(), [false, true, true]);
    let last = rows.last().unwrap()["information_used"].as_f64().unwrap();
    assert!((last / verdict(&project)["information_used"].as_f64().unwrap() - 1.0).abs() < 1e-6, "{curve}");
}

#[test]
fn a_few_true_actions_teach_and_too_few_are_told() {
    let taught = project(9, "actions.parquet", ", supervision: { labels: 32, batch: 4 }");
    taught.run(&[]).good();
    assert!(verdict(&taught)["probe"].is_object());

    let said = project(9, "actions.parquet", ", supervision: { labels: 100000 }").run(&[]);
    assert_eq!(said.code, 1, "{said:#?}");
    assert!(said.stderr.contains("`supervision` asks for 100000") && said.stderr.contains("hint: lower `labels`"), "{said:#?}");
}

#[test]
fn a_file_that_holds_no_actions_is_told() {
    let said = project(4, "missing.parquet", "").run(&[]);
    assert!(said.code == 1 && said.stderr.contains("actions: cannot read missing.parquet"), "{said:#?}");
    let said = project(4, "other.parquet", "").run(&[]);
    assert!(said.code == 1 && said.stderr.contains("cannot read true actions from `other.parquet`"), "{said:#?}");
    let said = project(4, "actions.parquet", ", supervision: { labels: 0 }").run(&[]);
    assert!(said.code == 1 && said.stderr.contains("supervision: learns from nothing"), "{said:#?}");
}
