//! `lapo plan --out`, `lapo worker` and `lapo commit` give the results of `lapo run`, even when
//! workers are killed.

use std::collections::HashSet;
use std::fs;
use std::process::Child;
use std::time::Duration;

use rand::{Rng, SeedableRng};

use crate::gc::assert_gc_finds_all_garbage;
use crate::kill_and_resume::results;
use crate::project::{PIPELINE, Project, wait};

/// Plans into a new folder. Returns the numbers of partitions and of changed datasets.
fn plan_with_changes(project: &Project, folder: &str) -> (usize, usize) {
    let output =
        project.lapo(&["plan", "pipeline.yaml", "--out", folder, "--format", "json"]).success();
    let plan: serde_json::Value = serde_json::from_str(&output.stdout).unwrap();
    (plan["partitions"].as_u64().unwrap() as usize, plan["changes"].as_u64().unwrap() as usize)
}

/// Plans into a new folder and returns the number of partitions.
fn plan(project: &Project, folder: &str) -> usize {
    plan_with_changes(project, folder).0
}

/// Starts a worker for one partition.
fn worker(project: &Project, plan: &str, partition: usize) -> Child {
    project
        .command(&["worker", "--plan", plan, "--partition", &partition.to_string()])
        .spawn()
        .unwrap()
}

#[test]
fn plan_worker_and_commit_repeated_to_the_end_equal_a_run() {
    let project = Project::new(9);
    let mut waves = Vec::new();
    loop {
        let folder = format!("plans/{}", waves.len());
        let partitions = plan(&project, &folder);
        if partitions == 0 {
            break;
        }
        waves.push(partitions);
        // A commit needs all partitions.
        let early = project.lapo(&["commit", "--plan", &folder]);
        assert!(
            early.code == 1
                && early
                    .stderr
                    .contains(&format!("{partitions} of {partitions} partitions are not done")),
            "{early:#?}"
        );
        assert!(early.stderr.contains("lapo status"), "{early:#?}");
        // In reverse order, and two workers for each partition.
        let workers: Vec<Child> = (0..partitions)
            .rev()
            .flat_map(|partition| [partition, partition])
            .map(|partition| worker(&project, &folder, partition))
            .collect();
        for child in workers {
            wait(child).success();
        }
        assert!(wait(worker(&project, &folder, 0)).success().stdout.contains("was done already"));
        let first = project.lapo(&["commit", "--plan", &folder]).success();
        // Repeating a commit changes nothing.
        let second = project.lapo(&["commit", "--plan", &folder]).success();
        assert!(
            first.stdout.contains("9 videos") && second.stdout.contains("9 videos"),
            "{first:#?} {second:#?}"
        );
    }
    assert_eq!(waves, [3, 1, 3], "decode, train, label");
    project.run_changes_nothing(&[]);
    let alone = Project::new(9);
    alone.run(&[]).success();
    assert!(results(&project) == results(&alone));
}

#[test]
fn too_many_rejects_are_neither_committed_nor_used_by_a_plan() {
    let project = Project::new(2);
    for i in 0..6 {
        fs::write(project.path(&format!("videos/bad{i}.mp4")), format!("bad {i}")).unwrap();
    }
    let allow_rejected = |most: &str| {
        let yaml = PIPELINE
            .replace("videos_per_shard: 4", &format!("videos_per_shard: 4, max_rejected: {most}"));
        fs::write(project.path("pipeline.yaml"), yaml).unwrap();
    };
    allow_rejected("0.5");
    let partitions = plan(&project, "plans/a");
    for partition in 0..partitions {
        wait(worker(&project, "plans/a", partition)).success();
    }
    for args in
        [&["commit", "--plan", "plans/a"][..], &["plan", "pipeline.yaml", "--out", "plans/b"]]
    {
        let refused = project.lapo(args);
        let why = "6 of 8 videos rejected, `max_rejected` allows a share of 0.5: ";
        assert!(refused.code == 1 && refused.stderr.contains(why), "{args:?}: {refused:#?}");
        assert!(!project.path("ws/frames/manifests").exists(), "{args:?}");
    }
    allow_rejected("0.75");
    assert_eq!(plan(&project, "plans/c"), 1, "finished tasks count, and training is next");
    // The frames are not committed as a version yet.
    let job: serde_json::Value =
        serde_json::from_slice(&fs::read(project.path("plans/c/jobs/000000.jsonl")).unwrap())
            .unwrap();
    let stats = job["stats"].as_object().unwrap();
    assert!(stats.contains_key("frames") && !stats.contains_key("frames_version"), "{stats:?}");
}

#[test]
fn a_plan_never_uses_files_of_an_interrupted_plan() {
    let project = Project::new(3);
    assert_eq!(plan(&project, "plans/a"), 1);
    fs::remove_file(project.path("plans/a/plan.json")).unwrap();
    assert_eq!(plan(&project, "plans/a"), 1, "the same plan again");
    fs::remove_file(project.path("plans/a/plan.json")).unwrap();
    project.add(3..5);
    let output = project.lapo(&["plan", "pipeline.yaml", "--out", "plans/a"]);
    assert!(output.code == 1 && output.stderr.contains("choose a new folder"), "{output:#?}");
}

/// An engine may retry a commit a week later, and two engines may plan at once.
#[test]
fn committing_an_old_plan_keeps_newer_versions() {
    let project = Project::new(3);
    let work = |folder: &str| {
        let partitions = plan(&project, folder);
        for partition in 0..partitions {
            wait(worker(&project, folder, partition)).success();
        }
    };
    work("plans/first");
    project.lapo(&["commit", "--plan", "plans/first"]).success();
    project.add(3..5);
    work("plans/second");
    project.add(5..6);
    std::thread::sleep(Duration::from_secs(1)); // start times have whole seconds
    project.run(&[]).success();
    let whole = results(&project);

    let again = project.lapo(&["commit", "--plan", "plans/first"]).success();
    assert!(again.stderr.contains("version 2 stays: run "), "{again:#?}");
    let late = project.lapo(&["commit", "--plan", "plans/second"]).success();
    assert!(late.stderr.contains("version 2 stays: run "), "{late:#?}");
    assert!(results(&project) == whole);
    assert_eq!(plan(&project, "plans/third"), 0);
    project.lapo(&["commit", "--plan", "plans/third"]).success();
    assert!(results(&project) == whole);
}

#[test]
fn a_missing_plan_or_partition_is_a_clear_error() {
    let project = Project::new(3);
    assert_eq!(plan(&project, "plans/a"), 1);
    for (args, expect) in [
        (&["plan", "pipeline.yaml", "--out", "plans/a"][..], "choose a new folder"),
        (&["worker", "--plan", "plans/a", "--partition", "1"], "the plan's last partition is 0"),
        (&["worker", "--plan", "plans/b", "--partition", "0"], "`plan.json` is missing"),
        (&["commit", "--plan", "plans/b"], "`plan.json` is missing"),
    ] {
        let output = project.lapo(args);
        assert!(output.code == 1 && output.stderr.contains(expect), "{args:?}: {output:#?}");
    }
}

#[test]
fn workers_killed_during_two_runs_do_not_change_the_results() {
    let project = Project::new(16);
    let alone = Project::new(16);
    alone.run(&[]).success();
    let partitions = plan(&project, "plans/0");
    let mut rng = rand_chacha::ChaCha8Rng::seed_from_u64(std::process::id().into());
    // Two runs and the workers do the same tasks at the same time.
    let runs: Vec<Child> =
        (0..2).map(|_| project.command(&["run", "pipeline.yaml"]).spawn().unwrap()).collect();
    let mut killed = 0;
    for few in (0..20).collect::<Vec<usize>>().chunks(4) {
        let mut workers: Vec<Child> =
            few.iter().map(|i| worker(&project, "plans/0", i % partitions)).collect();
        std::thread::sleep(Duration::from_millis(rng.random_range(5..120)));
        for child in &mut workers {
            killed += usize::from(child.try_wait().unwrap().is_none());
            child.kill().unwrap();
            child.wait().unwrap();
        }
    }
    for child in runs {
        wait(child).success();
    }
    println!("{killed} of 20 kills met a running worker");
    assert!(killed >= 5, "only {killed} of 20 kills met a running worker");
    project.run_changes_nothing(&[]);
    assert!(results(&project) == results(&alone));
    let rows = project.query(
        "SELECT count(*) AS n, \
         count(DISTINCT concat(video, '/', cast(frame_index AS varchar))) AS rows FROM labels",
    );
    assert_eq!(rows[0]["n"], rows[0]["rows"], "a row occurs twice");
    let store = lapo::dataset::Store::open(project.path("ws").to_str().unwrap()).unwrap();
    for stage in ["frames", "labels"] {
        let entries = lapo::dataset::Manifest::newest(&store, stage)
            .unwrap()
            .unwrap()
            .entries(&store)
            .unwrap();
        let keys: HashSet<&String> = entries.iter().map(|(key, _)| key).collect();
        assert_eq!(keys.len(), entries.len(), "a task occurs twice");
        let filed = |key: &&String| {
            project.path("ws").join(stage).join("receipts").join(format!("{key}.json")).is_file()
        };
        assert!(keys.iter().all(filed), "a receipt is missing");
    }
    // An uncommitted plan protects the files of its workers from `gc`, so it is committed first.
    project.lapo(&["commit", "--plan", "plans/0"]).success();
    assert_gc_finds_all_garbage(&project, &[]);
}

/// A removed video and a restored setting need a new version, even if no task has to run.
#[test]
fn a_plan_without_tasks_commits_removed_videos_and_restored_settings() {
    let project = Project::new(8);
    project.run(&[]).success();
    for game in 4..8 {
        fs::remove_file(project.path(&format!("videos/maze_1_{game:03}.mp4"))).unwrap();
    }
    let refused = project.lapo(&["plan", "pipeline.yaml", "--out", "plans/refused"]);
    assert!(
        refused.code == 1
            && refused.stderr.contains("4 of 8 videos of the newest version no longer match"),
        "{refused:#?}"
    );
    // Plans, works and commits until nothing changes. Returns the number of rounds.
    let commit_all = |more: &[&str], name: &str| {
        for round in 0..5 {
            let folder = format!("plans/{name}{round}");
            let args = ["plan", "pipeline.yaml", "--out", &folder, "--format", "json"];
            let output = project.lapo(&[&args, more].concat()).success();
            let plan: serde_json::Value = serde_json::from_str(&output.stdout).unwrap();
            if plan["changes"] == 0 {
                return round;
            }
            let partitions = plan["partitions"].as_u64().unwrap() as usize;
            for partition in 0..partitions {
                wait(worker(&project, &folder, partition)).success();
            }
            project.lapo(&["commit", "--plan", &folder]).success();
        }
        panic!("still changing after five rounds");
    };
    let rows = |project: &Project| {
        project.query("SELECT count(DISTINCT video) AS videos FROM labels")[0]["videos"]
            .as_u64()
            .unwrap()
    };
    assert_eq!((commit_all(&["--max-dropped", "1"], "gone"), rows(&project)), (1, 4));
    let labels = project.query("SELECT * FROM labels ORDER BY video, frame_index");
    commit_all(&["--set", "size=32"], "other");
    assert!(project.query("SELECT * FROM labels ORDER BY video, frame_index") != labels);
    assert_eq!(commit_all(&[], "back"), 1);
    assert_eq!(project.query("SELECT * FROM labels ORDER BY video, frame_index"), labels);
    project.run_changes_nothing(&[]);
}

/// Such jobs come from an upgrade in the middle of a plan, or from an edited plan.
#[test]
fn a_worker_refuses_a_job_that_does_not_match_its_key() {
    let project = Project::new(3);
    assert_eq!(plan_with_changes(&project, "plans/a"), (1, 3));
    let job = fs::read_to_string(project.path("plans/a/jobs/000000.jsonl")).unwrap();
    let front = fs::read_to_string(project.path("plans/a/plan.json")).unwrap();
    let cases = [
        (
            "another setting",
            "jobs/000000.jsonl",
            job.replace("\"size\":16", "\"size\":32"),
            "the plan says",
        ),
        (
            "another version of the stage",
            "jobs/000000.jsonl",
            job.replace(
                &format!("\"version\":{}", lapo::stages::decode::KIND.version),
                "\"version\":2",
            ),
            "the plan was made for version 2",
        ),
        (
            "an absolute path",
            "jobs/000000.jsonl",
            job.replace("\"stage\":\"frames\"", "\"stage\":\"/tmp/x\""),
            "of stage `/tmp/x` is not a task key",
        ),
        (
            "a newer format",
            "plan.json",
            front.replace("\"format\":2", "\"format\":99"),
            "has format 99",
        ),
        (
            "a stage out of the workspace",
            "plan.json",
            front.replace("\"stage\":\"frames\"", "\"stage\":\"../x\""),
            "is not a valid stage name",
        ),
    ];
    for (case, file, edited, expect) in cases {
        let path = project.path("plans/a").join(file);
        let whole = fs::read_to_string(&path).unwrap();
        // The edit must have changed the file.
        assert!(edited != whole, "{case}");
        fs::write(&path, edited).unwrap();
        let refused = wait(worker(&project, "plans/a", 0));
        assert!(refused.code == 1 && refused.stderr.contains(expect), "{case}: {refused:#?}");
        assert!(!project.path("ws/frames/receipts").exists(), "{case}");
        fs::write(&path, whole).unwrap();
    }
    wait(worker(&project, "plans/a", 0)).success();
}
