//! `lapo gc` finds all unreferenced files and no others.

use std::collections::BTreeSet;
use std::fs;
use std::path::Path;
use std::time::Duration;

use crate::project::Project;

/// Returns all files below a folder, relative to it.
fn files(root: &Path) -> BTreeSet<String> {
    let entries = fs::read_dir(root).into_iter().flatten().map(|entry| entry.unwrap().path());
    let below = |path: std::path::PathBuf| {
        let name = path.file_name().unwrap().to_string_lossy().into_owned();
        if path.is_dir() {
            files(&path).into_iter().map(|file| format!("{name}/{file}")).collect()
        } else {
            BTreeSet::from([name])
        }
    };
    entries.flat_map(below).collect()
}

/// Returns the joined tables of all manifests.
fn joined_tables(workspace: &Path) -> BTreeSet<String> {
    let manifests = files(workspace)
        .into_iter()
        .filter(|file| file.contains("/manifests/") && file.ends_with(".json"));
    let tables_of = |manifest: String| {
        let manifest: serde_json::Value =
            serde_json::from_slice(&fs::read(workspace.join(manifest)).unwrap()).unwrap();
        let joined = manifest["joined"].as_array().cloned().unwrap_or_default();
        joined
            .iter()
            .map(|joined| joined["file"]["path"].as_str().unwrap().to_owned())
            .collect::<Vec<_>>()
    };
    manifests.flat_map(tables_of).collect()
}

/// Returns the files of all receipts.
fn receipt_files(workspace: &Path) -> BTreeSet<String> {
    let receipts = files(workspace)
        .into_iter()
        .filter(|file| file.contains("/receipts/") && file.ends_with(".json"));
    let files_of = |receipt: String| {
        let receipt: serde_json::Value =
            serde_json::from_slice(&fs::read(workspace.join(receipt)).unwrap()).unwrap();
        receipt["files"]
            .as_array()
            .unwrap()
            .iter()
            .map(|file| file["path"].as_str().unwrap().to_owned())
            .collect::<Vec<_>>()
    };
    receipts.flat_map(files_of).collect()
}

/// Runs `lapo gc` and returns its list of garbage.
fn garbage(project: &Project, more: &[&str]) -> Vec<serde_json::Value> {
    let output =
        project.lapo(&[&["gc", "--workspace", "ws", "--format", "json"], more].concat()).success();
    let survey: serde_json::Value = serde_json::from_str(&output.stdout).unwrap();
    survey["garbage"].as_array().unwrap().clone()
}

#[test]
fn gc_finds_exactly_the_files_that_killed_runs_left() {
    let project = Project::new(12);
    // Killed runs leave files of attempts, checkpoints and pins.
    for millis in [30, 60, 90, 150, 250, 400] {
        let mut child = project
            .command(&["run", "pipeline.yaml", "--checkpoint-secs", "0", "--set", "steps=40"])
            .spawn()
            .unwrap();
        std::thread::sleep(Duration::from_millis(millis));
        child.kill().unwrap();
        child.wait().unwrap();
    }
    project.run(&["--set", "steps=40"]).success();
    assert_gc_finds_all_garbage(&project, &["--set", "steps=40"]);
}

/// Compares the garbage of `lapo gc` with a walk over the workspace, then deletes it.
pub fn assert_gc_finds_all_garbage(project: &Project, settings: &[&str]) {
    let workspace = project.path("ws");
    // In case no kill left any, adds the files of a dead attempt and an old checkpoint.
    for left in [
        "frames/data/0123456789abcdef0123456789abcdef/0123456789abcdef/shard.arrow",
        "model/checkpoints/0123456789abcdef0123456789abcdef/0000000004/state",
    ] {
        fs::create_dir_all(workspace.join(left).parent().unwrap()).unwrap();
        fs::write(workspace.join(left), "left").unwrap();
    }
    let all = files(&workspace);
    let listed_by_receipts = receipt_files(&workspace);
    let joined = joined_tables(&workspace);
    let orphans: BTreeSet<String> = all
        .iter()
        .filter(|file| {
            let is_unknown = file.contains("/data/") && !listed_by_receipts.contains(*file)
                || file.contains("/tables/") && !joined.contains(*file);
            // No finished run leaves a checkpoint.
            is_unknown || file.contains("/checkpoints/")
        })
        .cloned()
        .collect();

    assert_eq!(garbage(project, &[]).len(), 0, "all garbage is younger than a week");
    let mut found = garbage(project, &["--older-than", "0s"]);
    // `gc` also deletes the pins of killed runs, which the walk does not count.
    found.retain(|found| found["stage"] != "pins" && found["what"] != "pack");
    let listed: BTreeSet<String> = found
        .iter()
        .flat_map(|found| {
            let path = found["path"].as_str().unwrap();
            all.iter().filter(move |file| *file == path || file.starts_with(&format!("{path}/")))
        })
        .cloned()
        .collect();
    assert_eq!(listed, orphans);
    assert_eq!(
        found.iter().map(|found| found["files"].as_u64().unwrap()).sum::<u64>(),
        orphans.len() as u64
    );
    assert_eq!(files(&workspace), all, "a survey deletes nothing");

    let output =
        project.lapo(&["gc", "--workspace", "ws", "--older-than", "0s", "--delete"]).success();
    assert!(output.stdout.contains(" deleted"), "{output:#?}");
    let left = |files: BTreeSet<String>| {
        files
            .into_iter()
            .filter(|file| !file.starts_with("pins/") && !file.contains("/packs/"))
            .collect::<BTreeSet<_>>()
    };
    assert_eq!(left(files(&workspace)), left(all.difference(&orphans).cloned().collect()));
    project.run_changes_nothing(settings);
}

#[test]
fn keep_deletes_old_versions_and_their_data() {
    let project = Project::new(6);
    project.run(&[]).success();
    let labels = project.query("SELECT * FROM labels ORDER BY video, frame_index");
    project.run(&["--set", "size=32"]).success();
    assert_eq!(garbage(&project, &["--older-than", "0s"]).len(), 0);
    let found = garbage(&project, &["--older-than", "0s", "--keep", "1", "--delete"]);
    assert!(
        ["version", "receipt", "data"]
            .iter()
            .all(|what| found.iter().any(|found| found["what"] == *what)),
        "{found:#?}"
    );
    project.run_changes_nothing(&["--set", "size=32"]);
    // The deleted results are made again with the same values.
    assert!(!project.run(&[]).success().stdout.starts_with("0 tasks"));
    assert_eq!(project.query("SELECT * FROM labels ORDER BY video, frame_index"), labels);
    let output = project.lapo(&["gc", "--workspace", "ws", "--older-than", "1 week"]);
    assert!(output.code != 0 && output.stderr.contains("such as 12h"), "{output:#?}");
}

/// A folder without `lapo.json` is not a workspace, even if its folders have the names of one.
#[test]
fn gc_refuses_a_folder_that_is_not_a_workspace() {
    let project = Project::new(4);
    project.run(&[]).success();
    let (key, attempt) = ("0123456789abcdef0123456789abcdef", "0123456789abcdef");
    let left = [
        "mazes/data/train/a/clip.mp4".to_owned(),
        "docs/C# guide.md".to_owned(),
        "photos/checkpoints/epoch1.pt".to_owned(),
        format!("frames/data/{key}/{attempt}/shard.arrow"),
        format!("frames/receipts/{key}.json#12"),
    ];
    for file in &left {
        let path = project.path("home").join(file);
        fs::create_dir_all(path.parent().unwrap()).unwrap();
        fs::write(&path, "mine").unwrap();
        age(&path, 30);
    }
    let all = files(&project.path("home"));
    for workspace in ["home", "wss", "ws/frames"] {
        let output = project.lapo(&[
            "gc",
            "--workspace",
            workspace,
            "--keep",
            "1",
            "--older-than",
            "0s",
            "--delete",
        ]);
        assert!(output.code == 1 && output.stdout.is_empty(), "{workspace}: {output:#?}");
        assert!(
            output.stderr.contains("is not a lapo workspace: it has no lapo.json"),
            "{workspace}: {output:#?}"
        );
    }
    assert_eq!(files(&project.path("home")), all);
    assert!(!project.path("wss").exists(), "a mistyped workspace is not created");
    // Foreign files in a workspace are kept, too.
    for file in &left[..3] {
        let path = project.path("ws").join(file);
        fs::create_dir_all(path.parent().unwrap()).unwrap();
        fs::write(&path, "mine").unwrap();
        age(&path, 30);
    }
    project
        .lapo(&["gc", "--workspace", "ws", "--keep", "1", "--older-than", "0s", "--delete"])
        .success();
    assert!(left[..3].iter().all(|file| project.path("ws").join(file).is_file()));
    project.run_changes_nothing(&[]);
}

/// Sets a file's modification time back by `days`.
fn age(path: &Path, days: u64) {
    let file = fs::File::options().write(true).open(path).unwrap();
    file.set_modified(
        file.metadata().unwrap().modified().unwrap() - Duration::from_secs(days * 86_400),
    )
    .unwrap();
}

/// Makes all files of the workspace older by `days`, and the commit times in manifests.
fn age_all(project: &Project, days: u64) {
    for file in files(&project.path("ws")) {
        let path = project.path("ws").join(&file);
        if file.contains("/manifests/") {
            let text = fs::read_to_string(&path).unwrap();
            let mut manifest: serde_json::Value = serde_json::from_str(&text).unwrap();
            let committed = manifest["committed_unix_ms"].as_u64().unwrap() - days * 86_400_000;
            manifest["committed_unix_ms"] = committed.into();
            let modified = fs::metadata(&path).unwrap().modified().unwrap();
            fs::write(&path, manifest.to_string()).unwrap();
            fs::File::options().write(true).open(&path).unwrap().set_modified(modified).unwrap();
        }
        age(&path, days);
    }
}

/// The age of a version counts from the commit that superseded it, not from its files.
#[test]
fn a_version_is_kept_for_a_week_after_it_was_superseded() {
    let project = Project::new(6);
    project.run(&[]).success();
    age_all(&project, 30);
    let labels = project.query("SELECT * FROM labels ORDER BY video, frame_index");
    project.run(&["--set", "size=32"]).success();
    let before = files(&project.path("ws"));
    assert_eq!(garbage(&project, &["--keep", "1", "--delete"]), Vec::<serde_json::Value>::new());
    assert_eq!(files(&project.path("ws")), before);
    assert_eq!(project.query("SELECT * FROM labels@1 ORDER BY video, frame_index"), labels);
    // A week later it is deleted.
    age_all(&project, 8);
    let found = garbage(&project, &["--keep", "1", "--delete"]);
    assert!(
        ["version", "receipt", "data"]
            .iter()
            .all(|what| found.iter().any(|found| found["what"] == *what)),
        "{found:#?}"
    );
    let gone = project.lapo(&["query", "SELECT * FROM labels@1", "--workspace", "ws"]);
    assert!(gone.code == 1 && gone.stderr.contains("`labels` has no version 1"), "{gone:#?}");
    project.run_changes_nothing(&["--set", "size=32"]);
}

#[test]
fn an_uncommitted_plan_keeps_the_files_that_its_workers_read() {
    let project = Project::new(6);
    project.run(&[]).success();
    // The plan trains on frames that the next run supersedes.
    project.lapo(&["plan", "pipeline.yaml", "--set", "steps=5", "--out", "plans/a"]).success();
    project.run(&["--set", "size=32"]).success();
    let collect = ["--keep", "1", "--older-than", "0s", "--delete"];
    let survey =
        project.lapo(&["gc", "--workspace", "ws", "--keep", "1", "--older-than", "0s"]).success();
    assert!(survey.stdout.contains("held by run 00000002"), "{survey:#?}");
    garbage(&project, &collect);
    let worked = project.lapo(&["worker", "--plan", "plans/a", "--partition", "0"]).success();
    assert!(worked.stdout.contains("partition 0: done"), "{worked:#?}");
    project.lapo(&["commit", "--plan", "plans/a"]).success();
    // The commit released the old version.
    assert!(garbage(&project, &collect).iter().any(|found| found["what"] == "version"));
    project.run_changes_nothing(&["--set", "size=32"]);
}
