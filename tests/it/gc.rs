//! `lapo gc` finds what no receipt speaks of, and nothing else.

use std::collections::BTreeSet;
use std::fs;
use std::path::Path;
use std::time::Duration;

use crate::project::Project;

/// Every file below a folder, relative to it.
fn files(root: &Path) -> BTreeSet<String> {
    let entries = fs::read_dir(root).into_iter().flatten().map(|entry| entry.unwrap().path());
    let below = |path: std::path::PathBuf| {
        let name = path.file_name().unwrap().to_string_lossy().into_owned();
        if path.is_dir() { files(&path).into_iter().map(|file| format!("{name}/{file}")).collect() } else { BTreeSet::from([name]) }
    };
    entries.flat_map(below).collect()
}

/// The files that receipts speak of.
fn spoken_of(workspace: &Path) -> BTreeSet<String> {
    let receipts = files(workspace).into_iter().filter(|file| file.contains("/receipts/") && file.ends_with(".json"));
    let of = |receipt: String| {
        let receipt: serde_json::Value = serde_json::from_slice(&fs::read(workspace.join(receipt)).unwrap()).unwrap();
        receipt["files"].as_array().unwrap().iter().map(|file| file["path"].as_str().unwrap().to_owned()).collect::<Vec<_>>()
    };
    receipts.flat_map(of).collect()
}

fn told(project: &Project, more: &[&str]) -> Vec<serde_json::Value> {
    let said = project.lapo(&[&["gc", "--workspace", "ws", "--format", "json"], more].concat()).good();
    serde_json::from_str(&said.stdout).unwrap()
}

#[test]
fn what_killed_runs_left_is_found_and_nothing_else() {
    let project = Project::new(12);
    for millis in [30, 60, 90, 150, 250, 400] {
        let mut child = project.command(&["run", "pipeline.yaml", "--checkpoint-secs", "0", "--set", "steps=40"]).spawn().unwrap();
        std::thread::sleep(Duration::from_millis(millis));
        child.kill().unwrap();
        child.wait().unwrap();
    }
    project.run(&["--set", "steps=40"]).good();
    gc_finds_what_is_left_over(&project, &["--set", "steps=40"]);
}

/// All that is left over is found by walking the folder, and `gc` must find the same; then it is deleted.
pub fn gc_finds_what_is_left_over(project: &Project, settings: &[&str]) {
    let workspace = project.path("ws");
    // Whatever the kills met, one attempt is surely dead and one training surely left.
    for left in ["frames/data/k/dead/shard.arrow", "model/checkpoints/other/0000000004/state"] {
        fs::create_dir_all(workspace.join(left).parent().unwrap()).unwrap();
        fs::write(workspace.join(left), "left").unwrap();
    }
    let (all, spoken_of) = (files(&workspace), spoken_of(&workspace));
    let orphans: BTreeSet<String> = all
        .iter()
        .filter(|file| (file.contains("/data/") && !spoken_of.contains(*file)) || file.contains("/checkpoints/") || file.contains('#'))
        .cloned()
        .collect();

    assert_eq!(told(project, &[]).len(), 0, "all of it is younger than a week");
    let found = told(project, &["--older-than", "0s"]);
    let listed: BTreeSet<String> = found
        .iter()
        .flat_map(|found| {
            let path = found["path"].as_str().unwrap();
            all.iter().filter(move |file| *file == path || file.starts_with(&format!("{path}/")))
        })
        .cloned()
        .collect();
    assert_eq!(listed, orphans);
    assert_eq!(found.iter().map(|found| found["files"].as_u64().unwrap()).sum::<u64>(), orphans.len() as u64);
    assert_eq!(files(&workspace), all, "it only told");

    let said = project.lapo(&["gc", "--workspace", "ws", "--older-than", "0s", "--delete"]).good();
    assert!(said.stdout.contains("bytes deleted"), "{said:#?}");
    assert_eq!(files(&workspace), all.difference(&orphans).cloned().collect());
    assert!(project.run(settings).good().stdout.starts_with("0 tasks"));
}

#[test]
fn old_versions_go_where_that_is_asked_for() {
    let project = Project::new(6);
    project.run(&[]).good();
    let labels = project.query("SELECT * FROM labels ORDER BY video, frame_index");
    project.run(&["--set", "size=32"]).good();
    assert_eq!(told(&project, &["--older-than", "0s"]).len(), 0);
    let found = told(&project, &["--older-than", "0s", "--keep", "1", "--delete"]);
    assert!(["version", "receipt", "data"].iter().all(|what| found.iter().any(|found| found["what"] == *what)), "{found:#?}");
    assert!(project.run(&["--set", "size=32"]).good().stdout.starts_with("0 tasks"));
    // The first results are made again, and are what they were.
    assert!(!project.run(&[]).good().stdout.starts_with("0 tasks"));
    assert_eq!(project.query("SELECT * FROM labels ORDER BY video, frame_index"), labels);
    let said = project.lapo(&["gc", "--workspace", "ws", "--older-than", "1 week"]);
    assert!(said.code != 0 && said.stderr.contains("such as 12h"), "{said:#?}");
}
