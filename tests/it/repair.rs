//! Damaged files: `lapo verify` finds them, and a run makes only their tasks again.

use std::fs;
use std::path::PathBuf;

use crate::kill_and_resume::results;
use crate::project::{PIPELINE, Project};

/// Returns the files called `name` in the newest version of a stage.
fn paths(project: &Project, stage: &str, name: &str) -> Vec<PathBuf> {
    let store = lapo::dataset::Store::open(project.path("ws").to_str().unwrap()).unwrap();
    let files =
        lapo::dataset::Manifest::newest(&store, stage).unwrap().unwrap().files(&store).unwrap();
    files
        .iter()
        .filter(|file| file.path.ends_with(name))
        .map(|file| project.path("ws").join(&file.path))
        .collect()
}

/// Returns the key of a task in a path `STAGE/data/KEY/ATTEMPT/NAME`.
fn key(path: &std::path::Path) -> String {
    path.ancestors().nth(2).unwrap().file_name().unwrap().to_str().unwrap().to_owned()
}

/// Cuts a file in half.
fn truncate(path: &PathBuf) {
    let bytes = fs::read(path).unwrap();
    fs::write(path, &bytes[..bytes.len() / 2]).unwrap();
}

/// Runs `lapo verify`. Returns its exit code and report.
fn verify(project: &Project, more: &[&str]) -> (i32, serde_json::Value) {
    let output =
        project.lapo(&[&["verify", "--workspace", "ws", "--format", "json"], more].concat());
    (output.code, serde_json::from_str(&output.stdout).unwrap())
}

#[test]
fn a_truncated_or_missing_file_is_made_again_and_nothing_else() {
    let project = Project::new(8);
    project.run(&[]).success();
    let whole = results(&project);
    type Damage = fn(&PathBuf);
    let cases: [(&str, &str, Damage); 4] = [
        ("frames", "shard.arrow", truncate),
        ("labels", "labels.parquet", |path| fs::remove_file(path).unwrap()),
        ("labels", "labels.parquet", truncate),
        ("frames", "quality.parquet", |path| fs::remove_file(path).unwrap()),
    ];
    for (stage, name, damage) in cases {
        let damaged = paths(&project, stage, name).remove(0);
        damage(&damaged);
        let (code, report) = verify(&project, &["--fast"]);
        assert!(
            code == 1 && report["findings"].as_array().unwrap().len() == 1,
            "{stage}/{name}: {report}"
        );
        let plan = project.lapo(&["plan", "pipeline.yaml"]).success();
        assert!(
            plan.stdout.contains("damaged, made again: ") && plan.stdout.contains(&key(&damaged)),
            "{plan:#?}"
        );
        let output = project.run(&[]).success();
        assert!(output.stdout.starts_with("1 tasks"), "{stage}/{name}: {output:#?}");
        assert!(results(&project) == whole, "{stage}/{name}");
        project.run_changes_nothing(&[]);
        assert_eq!(verify(&project, &[]).0, 0, "{stage}/{name}");
    }
}

/// A joined table copies the files of many tasks, so no task has to run again.
#[test]
fn a_damaged_joined_table_is_joined_again_without_running_tasks() {
    let project = Project::new(8);
    project.run(&[]).success();
    let rows = project.query("SELECT * FROM labels ORDER BY video, frame_index");
    let joined = || {
        let output = project.lapo(&["files", "labels", "--workspace", "ws"]).success();
        assert!(
            output.stdout.lines().count() == 1 && output.stdout.contains("/labels/tables/"),
            "{output:#?}"
        );
        PathBuf::from(output.stdout.trim())
    };
    for damage in [truncate as fn(&PathBuf), |path| fs::remove_file(path).unwrap()] {
        damage(&joined());
        let (code, report) = verify(&project, &["--fast"]);
        assert!(code == 1 && report["findings"].as_array().unwrap().len() == 1, "{report}");
        let plan = project.lapo(&["plan", "pipeline.yaml"]).success();
        assert!(plan.stdout.contains("damaged, joined again: labels/tables/"), "{plan:#?}");
        let output = project.run(&[]).success();
        assert!(output.stdout.starts_with("0 tasks"), "{output:#?}");
        assert_eq!(project.query("SELECT * FROM labels ORDER BY video, frame_index"), rows);
        assert_eq!(verify(&project, &[]).0, 0);
        project.run_changes_nothing(&[]);
    }
    // Damage without a change of size is found only by the digest, without `--fast`.
    let path = joined();
    let mut bytes = fs::read(&path).unwrap();
    let middle = bytes.len() / 2;
    // Flips a bit without changing the size.
    bytes[middle] ^= 1;
    fs::write(&path, bytes).unwrap();
    assert_eq!((verify(&project, &["--fast"]).0, verify(&project, &["--delete"]).0), (0, 0));
    project.run(&[]).success();
    assert_eq!(project.query("SELECT * FROM labels ORDER BY video, frame_index"), rows);
    assert_eq!(verify(&project, &[]).0, 0);
}

#[test]
fn verify_finds_every_kind_of_damage_and_delete_repeats_one_task_each() {
    let project = Project::new(12);
    project.run(&[]).success();
    let whole = results(&project);
    let sound = verify(&project, &[]);
    assert!(
        sound.0 == 0
            && sound.1["findings"].as_array().unwrap().is_empty()
            && sound.1["files"].as_u64().unwrap() > 8,
        "{sound:?}"
    );

    let labels = paths(&project, "labels", "labels.parquet");
    let shard = paths(&project, "frames", "shard.arrow").remove(0);
    truncate(&shard);
    fs::remove_file(&labels[0]).unwrap();
    let mut bytes = fs::read(&labels[1]).unwrap();
    let middle = bytes.len() / 2;
    bytes[middle] ^= 1;
    fs::write(&labels[1], bytes).unwrap();

    let found = |report: &serde_json::Value| {
        let findings = report["findings"].as_array().unwrap().iter();
        let mut found: Vec<String> =
            findings.map(|finding| finding["path"].as_str().unwrap().to_owned()).collect();
        found.sort();
        found
    };
    let expect = |files: &[&PathBuf]| {
        let mut paths: Vec<String> = files
            .iter()
            .map(|file| file.strip_prefix(project.path("ws")).unwrap().to_str().unwrap().to_owned())
            .collect();
        paths.sort();
        paths
    };
    let (code, report) = verify(&project, &["--fast"]);
    assert_eq!(
        (code, found(&report)),
        (1, expect(&[&shard, &labels[0]])),
        "`--fast` does not see a flipped bit"
    );
    let (code, report) = verify(&project, &[]);
    assert_eq!((code, found(&report)), (1, expect(&[&shard, &labels[0], &labels[1]])));

    // Deletes the damaged files, so that the next run makes them again.
    let (code, report) = verify(&project, &["--delete"]);
    assert_eq!((code, found(&report).len()), (0, 3));
    let output = project.run(&[]).success();
    assert!(output.stdout.starts_with("3 tasks"), "{output:#?}");
    assert!(results(&project) == whole);
    assert_eq!(verify(&project, &[]).0, 0);
    project.run_changes_nothing(&[]);
}

#[test]
fn a_damaged_manifest_does_not_hide_the_damage_of_other_stages() {
    let project = Project::new(4);
    project.run(&[]).success();
    truncate(&project.path("ws/frames/manifests/0000000001.json"));
    fs::remove_file(&paths(&project, "labels", "labels.parquet")[0]).unwrap();
    let stages = |report: &serde_json::Value| -> Vec<String> {
        let findings = report["findings"].as_array().unwrap().iter();
        findings.map(|finding| finding["stage"].as_str().unwrap().to_owned()).collect()
    };
    let (code, report) = verify(&project, &[]);
    assert!(code == 1 && stages(&report) == ["frames", "labels"], "{report}");
    // Nothing makes a manifest again, so it stays, and the verification still fails.
    let (code, _) = verify(&project, &["--delete"]);
    assert_eq!(code, 1);
    assert!(project.path("ws/frames/manifests/0000000001.json").exists());
    let output = project.lapo(&["verify", "--workspace", "ws", "--delete"]);
    assert!(output.code == 1 && output.stderr.contains("lapo rollback"), "{output:#?}");
}

#[test]
fn an_error_about_a_damaged_file_names_the_file_and_one_receipt() {
    let project = Project::new(8);
    project.run(&[]).success();
    let output = project.lapo(&["files", "labels", "--workspace", "ws"]).success();
    let joined = PathBuf::from(output.stdout.trim());
    fs::remove_file(&joined).unwrap();
    let output = project.lapo(&["query", "SELECT avg(motion) FROM labels", "--workspace", "ws"]);
    assert!(
        output.code == 1
            && output.stderr.contains("labels/tables/")
            && output.stderr.contains("joined again"),
        "{output:#?}"
    );
    let damaged = paths(&project, "frames", "shard.arrow").remove(0);
    for damage in [truncate as fn(&PathBuf), |path| fs::remove_file(path).unwrap()] {
        damage(&damaged);
        let output =
            project.lapo(&["query", "SELECT max(time_s) FROM frames", "--workspace", "ws"]);
        assert!(output.code == 1 && output.stderr.contains(&key(&damaged)), "{output:#?}");
        let hint = output.stderr.lines().find(|line| line.contains("hint: ")).unwrap_or_default();
        assert!(
            hint.contains(&format!("delete `frames/receipts/{}.json`", key(&damaged))),
            "{output:#?}"
        );
        assert!(!hint.contains("folder"), "{output:#?}");
    }
}

/// Older releases restored a version by copying its manifest; `lapo rollback` replaces this.
#[test]
fn a_manifest_copied_by_hand_is_an_error_and_rollback_restores_old_rows() {
    let project = Project::new(6);
    project.run(&[]).success();
    let labels = project.query("SELECT * FROM labels ORDER BY video, frame_index");
    project.run(&["--set", "steps=5"]).success();
    assert!(project.query("SELECT * FROM labels ORDER BY video, frame_index") != labels);
    let manifest = |version: u64| project.path(&format!("ws/labels/manifests/{version:010}.json"));
    fs::copy(manifest(1), manifest(4)).unwrap();
    for args in
        [&["run", "pipeline.yaml"][..], &["query", "SELECT * FROM labels", "--workspace", "ws"]]
    {
        let output = project.lapo(args);
        assert!(
            output.code == 1
                && output
                    .stderr
                    .contains("labels/manifests/0000000004.json` was not written by lapo"),
            "{output:#?}"
        );
        assert!(output.stderr.contains("lapo rollback"), "{output:#?}");
    }
    fs::remove_file(manifest(4)).unwrap();

    let output = project.lapo(&["rollback", "labels", "1", "--workspace", "ws"]).success();
    assert!(output.stdout.contains("version 3 has the tasks of version 1"), "{output:#?}");
    assert_eq!(project.query("SELECT * FROM labels ORDER BY video, frame_index"), labels);
    assert_eq!(project.query("SELECT * FROM labels@1 ORDER BY video, frame_index"), labels);
    let none = project.lapo(&["rollback", "labels", "9", "--workspace", "ws"]);
    assert!(none.code == 1 && none.stderr.contains("no version 9"), "{none:#?}");
    // The next run commits its own tasks again.
    project.run(&["--set", "steps=5"]).success();
    assert!(project.query("SELECT * FROM labels ORDER BY video, frame_index") != labels);
    project.run_changes_nothing(&["--set", "steps=5"]);
}

#[test]
fn damage_in_one_stage_does_not_break_queries_of_another() {
    let project = Project::new(4);
    let report = "  page: { report: { frames: frames, dynamics: model, labels: labels } }\n";
    fs::write(project.path("pipeline.yaml"), format!("{}\n{report}", PIPELINE.trim_end())).unwrap();
    project.run(&[]).success();
    let labels = project.query("SELECT * FROM labels ORDER BY video, frame_index");
    for file in ["ws/page/receipts/*.json", "ws/page/packs/*.parquet"] {
        let [path] = &glob::glob(project.path(file).to_str().unwrap())
            .unwrap()
            .map(Result::unwrap)
            .collect::<Vec<_>>()[..]
        else {
            panic!("one {file}")
        };
        truncate(path);
        assert_eq!(
            project.query("SELECT * FROM labels ORDER BY video, frame_index"),
            labels,
            "{file}"
        );
    }
}

/// Receipts are plain files, and users may edit them.
#[test]
fn an_absolute_path_in_a_receipt_reads_nothing_outside_the_workspace() {
    let project = Project::new(3);
    project.lapo(&["plan", "pipeline.yaml", "--out", "plans/a"]).success();
    project.lapo(&["worker", "--plan", "plans/a", "--partition", "0"]).success();
    let [receipt] = &glob::glob(project.path("ws/frames/receipts/*.json").to_str().unwrap())
        .unwrap()
        .map(Result::unwrap)
        .collect::<Vec<_>>()[..]
    else {
        panic!("one receipt")
    };
    let shards =
        glob::glob(project.path("ws/frames/data/*/*/shard.arrow").to_str().unwrap()).unwrap();
    let shard = shards.map(Result::unwrap).next().unwrap();
    let outside = project.path("outside.arrow");
    fs::rename(&shard, &outside).unwrap();
    let inside = shard.strip_prefix(project.path("ws")).unwrap().to_str().unwrap();
    let text = fs::read_to_string(receipt).unwrap();
    let edited = text.replace(inside, outside.to_str().unwrap());
    assert!(edited != text);
    fs::write(receipt, edited).unwrap();
    let committed = project.lapo(&["commit", "--plan", "plans/a"]);
    let queried = project.lapo(&["query", "SELECT count(*) AS n FROM frames", "--workspace", "ws"]);
    assert!(committed.code == 1 && queried.code == 1, "{committed:#?} {queried:#?}");
    assert!(committed.stderr.contains("is not a path in a workspace"), "{committed:#?}");
    // The next run makes the task again.
    project.run(&[]).success();
    assert_eq!(project.query("SELECT count(DISTINCT video) AS n FROM frames")[0]["n"], 3);
}
