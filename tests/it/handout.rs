//! The contract for other engines: plan, work and commit give what a run gives, whoever dies on the way.

use std::collections::HashSet;
use std::fs;
use std::process::Child;
use std::time::Duration;

use rand::{Rng, SeedableRng};

use crate::gc::gc_finds_what_is_left_over;
use crate::killed::results;
use crate::project::{PIPELINE, Project, said};

/// Plans into a new folder; how many partitions there are.
fn plan(project: &Project, folder: &str) -> usize {
    let said = project.lapo(&["plan", "pipeline.yaml", "--out", folder]).good();
    said.stdout.trim().parse().unwrap()
}

fn worker(project: &Project, plan: &str, partition: usize) -> Child {
    project.command(&["worker", "--plan", plan, "--partition", &partition.to_string()]).spawn().unwrap()
}

#[test]
fn plan_work_and_commit_until_nothing_is_left_is_a_run() {
    let project = Project::new(9);
    let mut waves = Vec::new();
    loop {
        let folder = format!("plans/{}", waves.len());
        let partitions = plan(&project, &folder);
        if partitions == 0 {
            break;
        }
        waves.push(partitions);
        let early = project.lapo(&["commit", "--plan", &folder]);
        assert!(early.code == 1 && early.stderr.contains(&format!("{partitions} of {partitions} partitions are not done")), "{early:#?}");
        assert!(early.stderr.contains("--partition 0"), "{early:#?}");
        // The last first, and each by two workers at once.
        let both = (0..partitions).rev().flat_map(|partition| [worker(&project, &folder, partition), worker(&project, &folder, partition)]);
        both.collect::<Vec<Child>>().into_iter().for_each(|child| _ = said(child).good());
        assert!(said(worker(&project, &folder, 0)).good().stdout.contains("was done already"));
        let first = project.lapo(&["commit", "--plan", &folder]).good();
        let second = project.lapo(&["commit", "--plan", &folder]).good();
        assert!(first.stdout.contains("9 videos") && second.stdout.contains("9 videos"), "{first:#?} {second:#?}");
    }
    assert_eq!(waves, [3, 1, 3], "decode, train, label");
    assert!(project.run(&[]).good().stdout.starts_with("0 tasks"));
    let alone = Project::new(9);
    alone.run(&[]).good();
    assert!(results(&project) == results(&alone));
}

#[test]
fn too_many_rejects_are_never_committed_nor_planned_upon() {
    let project = Project::new(2);
    (0..6).for_each(|i| fs::write(project.path("videos").join(format!("bad{i}.mp4")), format!("bad {i}")).unwrap());
    let limited = |most: &str| {
        let yaml = PIPELINE.replace("videos_per_shard: 4", &format!("videos_per_shard: 4, max_rejected: {most}"));
        fs::write(project.path("pipeline.yaml"), yaml).unwrap();
    };
    limited("0.5");
    let partitions = plan(&project, "plans/a");
    (0..partitions).for_each(|partition| _ = said(worker(&project, "plans/a", partition)).good());
    for args in [&["commit", "--plan", "plans/a"][..], &["plan", "pipeline.yaml", "--out", "plans/b"]] {
        let refused = project.lapo(args);
        let why = "6 of 8 videos rejected, `max_rejected` allows a share of 0.5: ";
        assert!(refused.code == 1 && refused.stderr.contains(why), "{args:?}: {refused:#?}");
        assert!(!project.path("ws/frames/manifests").exists(), "{args:?}");
    }
    limited("0.75");
    assert_eq!(plan(&project, "plans/c"), 1, "what is done counts, and training is next");
    // These frames are no version yet.
    let job: serde_json::Value = serde_json::from_slice(&fs::read(project.path("plans/c/jobs/000000.jsonl")).unwrap()).unwrap();
    let stats = job["stats"].as_object().unwrap();
    assert!(stats.contains_key("frames") && !stats.contains_key("frames_version"), "{stats:?}");
}

#[test]
fn what_a_killed_plan_left_never_becomes_part_of_another() {
    let project = Project::new(3);
    assert_eq!(plan(&project, "plans/a"), 1);
    fs::remove_file(project.path("plans/a/plan.json")).unwrap();
    assert_eq!(plan(&project, "plans/a"), 1, "the same plan again");
    fs::remove_file(project.path("plans/a/plan.json")).unwrap();
    project.add(3..5);
    let said = project.lapo(&["plan", "pipeline.yaml", "--out", "plans/a"]);
    assert!(said.code == 1 && said.stderr.contains("name a new folder"), "{said:#?}");
}

/// An engine may try a commit again a week later, and two may plan at once.
#[test]
fn an_old_plan_s_commit_undoes_nothing_that_came_since() {
    let project = Project::new(3);
    let work = |folder: &str| {
        let partitions = plan(&project, folder);
        (0..partitions).for_each(|partition| _ = said(worker(&project, folder, partition)).good());
    };
    work("plans/first");
    project.lapo(&["commit", "--plan", "plans/first"]).good();
    project.add(3..5);
    work("plans/second");
    project.add(5..6);
    std::thread::sleep(Duration::from_secs(1)); // what began in the same second is as old
    project.run(&[]).good();
    let whole = results(&project);

    let again = project.lapo(&["commit", "--plan", "plans/first"]).good();
    assert!(again.stdout.contains("3 videos"), "{again:#?}");
    let late = project.lapo(&["commit", "--plan", "plans/second"]).good();
    assert!(late.stderr.contains("version 2 stays: run "), "{late:#?}");
    assert!(results(&project) == whole);
    assert_eq!(plan(&project, "plans/third"), 0);
    project.lapo(&["commit", "--plan", "plans/third"]).good();
    assert!(results(&project) == whole);
}

#[test]
fn a_plan_that_is_not_there_or_has_no_such_partition_is_a_clear_error() {
    let project = Project::new(3);
    assert_eq!(plan(&project, "plans/a"), 1);
    for (args, expect) in [
        (&["plan", "pipeline.yaml", "--out", "plans/a"][..], "name a new folder"),
        (&["worker", "--plan", "plans/a", "--partition", "1"], "the plan has 1, numbered from 0"),
        (&["worker", "--plan", "plans/b", "--partition", "0"], "`plan.json` is missing"),
        (&["commit", "--plan", "plans/b"], "`plan.json` is missing"),
    ] {
        let said = project.lapo(args);
        assert!(said.code == 1 && said.stderr.contains(expect), "{args:?}: {said:#?}");
    }
}

#[test]
fn workers_killed_at_random_while_two_runs_work_change_nothing() {
    let project = Project::new(16);
    let alone = Project::new(16);
    alone.run(&[]).good();
    let partitions = plan(&project, "plans/0");
    let mut rng = rand_chacha::ChaCha8Rng::seed_from_u64(std::process::id().into());
    let runs: Vec<Child> = (0..2).map(|_| project.command(&["run", "pipeline.yaml"]).spawn().unwrap()).collect();
    let mut killed = 0;
    for few in (0..20).collect::<Vec<usize>>().chunks(4) {
        let mut workers: Vec<Child> = few.iter().map(|i| worker(&project, "plans/0", i % partitions)).collect();
        std::thread::sleep(Duration::from_millis(rng.random_range(5..120)));
        for child in &mut workers {
            killed += usize::from(child.try_wait().unwrap().is_none());
            child.kill().unwrap();
            child.wait().unwrap();
        }
    }
    runs.into_iter().for_each(|child| _ = said(child).good());
    println!("{killed} of 20 kills met a living worker");
    assert!(killed >= 5, "only {killed} of 20 kills met a living worker");
    assert!(project.run(&[]).good().stdout.starts_with("0 tasks"));
    assert!(results(&project) == results(&alone));
    let rows = project.query("SELECT count(*) AS n, count(DISTINCT concat(video, '/', cast(frame_index AS varchar))) AS rows FROM labels");
    assert_eq!(rows[0]["n"], rows[0]["rows"], "no row twice");
    for stage in ["frames", "labels"] {
        let newest = std::fs::read_dir(project.path("ws").join(stage).join("manifests")).unwrap().map(|e| e.unwrap().path()).max().unwrap();
        let manifest: serde_json::Value = serde_json::from_slice(&std::fs::read(newest).unwrap()).unwrap();
        let keys: Vec<&str> = manifest["receipts"].as_array().unwrap().iter().map(|key| key.as_str().unwrap()).collect();
        assert_eq!(keys.len(), keys.iter().collect::<HashSet<_>>().len(), "no receipt twice");
        let filed = |key: &&str| project.path("ws").join(stage).join("receipts").join(format!("{key}.json")).is_file();
        assert!(keys.iter().all(filed), "every receipt is there");
    }
    gc_finds_what_is_left_over(&project, &[]);
}
