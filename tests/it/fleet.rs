//! `lapo run --executor local` and `--executor command`, the selection of a worker's share, and
//! manifests for Kubernetes. Slurm and Ray have files of their own.

use std::fs;
use std::process::{Child, Command};
use std::time::{Duration, Instant};

use serde_json::Value;

use crate::kill_and_resume::results;
use crate::project::{CommandOutput, PIPELINE, Project, wait};
use crate::python;
use crate::s3_server::{project_in_bucket, server};

/// A command for `--executor command`, with the path of the binary.
fn worker_command() -> String {
    format!("'{}' worker --plan {{plan}} --share {{share}}", env!("CARGO_BIN_EXE_lapo"))
}

fn signal(child: &Child, name: &str) {
    let sent = Command::new("kill").args([format!("-{name}"), child.id().to_string()]).status();
    assert!(sent.unwrap().success());
}

/// Waits until a training has written a checkpoint.
fn wait_for_checkpoint(project: &Project) {
    let begun = Instant::now();
    let folders = || fs::read_dir(project.path("ws/model/checkpoints")).into_iter().flatten();
    while !folders().flatten().any(|key| fs::read_dir(key.path()).unwrap().next().is_some()) {
        assert!(begun.elapsed() < Duration::from_secs(120), "no checkpoint");
        std::thread::sleep(Duration::from_millis(20));
    }
}

/// A training that takes some seconds, and writes a checkpoint every second.
pub const LONG: [&str; 4] = ["--set", "steps=1500", "--checkpoint-secs", "1"];

#[test]
fn local_workers_and_commands_give_the_bytes_of_one_process() {
    let alone = Project::new(9);
    alone.run(&[]).success();
    let command = worker_command();
    let executors: [&[&str]; 3] = [
        &["--executor", "local"],
        &["--executor", "local", "--partitions-per-worker", "2", "--max-workers", "1"],
        &["--executor", "command", &command],
    ];
    let projects = executors.map(|executor| {
        let project = Project::new(9);
        let output = project.run(executor).success();
        assert!(output.stdout.starts_with("7 tasks: 9 videos (9 new)"), "{output:#?}");
        assert!(output.stderr.contains("held-out windows"), "what the model learned: {output:#?}");
        assert!(results(&project) == results(&alone), "the bytes differ: {executor:?}");
        project.run_changes_nothing(executor);
        project
    });
    alone.add(9..12);
    alone.run(&[]).success();
    for (project, executor) in projects.iter().zip(executors) {
        project.add(9..12);
        let output = project.run(executor).success();
        assert!(output.stderr.contains("labels: 1 tasks done, 3 re-used"), "{output:#?}");
        assert!(!output.stderr.contains("model: 1"), "the model is kept: {output:#?}");
        assert!(results(project) == results(&alone), "the bytes differ: {executor:?}");
        let left = fs::read_dir(project.path("ws/plans")).into_iter().flatten().count();
        assert_eq!(left, 0, "plans are left");
    }
}

#[test]
fn a_worker_that_always_dies_costs_its_partition_only() {
    let project = Project::new(12);
    // The share 1 of the frames dies without a word, another one after its second attempt.
    let command = format!(
        "case {{share}} in frames:1/*) echo no luck; exit 9;; \
         frames:2/*) [ {{attempt}} -ge 1 ] || kill -9 $$;; esac; {}",
        worker_command()
    );
    let output = project.run(&["--executor", "command", &command]);
    assert_eq!(output.code, 3, "{output:#?}");
    let message = "failed: stage frames: stage frames: partition 1 is not done: 4 workers ended \
                   without a result; ";
    assert!(output.stderr.contains(message), "{output:#?}");
    assert!(output.stderr.contains("frames-1-of-3.3.log ends with: no luck"), "{output:#?}");
    assert!(output.stdout.starts_with("5 tasks: 8 videos (8 new)"), "{output:#?}");
    // The logs stay.
    assert_eq!(fs::read_dir(project.path("ws/plans")).unwrap().count(), 1);
    project.run(&["--executor", "local"]).success();
    project.run_changes_nothing(&[]);
}

#[test]
fn a_task_that_always_fails_is_reported_with_its_own_error() {
    let project = Project::new(8);
    let output = project.run(&["--executor", "local", "--set", "steps=0"]);
    assert_eq!(output.code, 1, "faults of the pipeline come first: {output:#?}");
    let yaml = PIPELINE.replace("batch: 4", "batch: 4, learning_rate: 1e30");
    fs::write(project.path("pipeline.yaml"), yaml).unwrap();
    let output = project.run(&["--executor", "local", "--set", "steps=40"]);
    assert_eq!(output.code, 1, "{output:#?}");
    assert!(output.stderr.contains("training diverged: the loss is NaN at step 10"), "{output:#?}");
    assert!(output.stderr.contains("frames: 2 tasks done"), "the rest went on: {output:#?}");
    let alone = Project::new(8);
    let yaml = fs::read_to_string(project.path("pipeline.yaml")).unwrap();
    fs::write(alone.path("pipeline.yaml"), yaml).unwrap();
    assert_eq!(alone.run(&["--set", "steps=40"]).code, 1, "as in one process");
}

/// What failed as a whole must not stand in the way of the next run.
#[test]
fn a_run_of_which_everything_failed_is_over() {
    let project = Project::new(3);
    let output = project.run(&["--executor", "command", "echo {share} is hopeless; exit 9"]);
    assert_eq!(output.code, 75, "it may succeed elsewhere: {output:#?}");
    let message = "stage frames: partition 0 is not done: 4 workers ended without a result; ";
    assert!(output.stderr.contains(message), "{output:#?}");
    project.add(3..5);
    let output = project.run(&["--executor", "local"]).success();
    assert!(!output.stderr.contains("resuming"), "{output:#?}");
    assert!(output.stdout.contains("5 videos (5 new)"), "{output:#?}");
    project.run_changes_nothing(&[]);
}

#[test]
fn one_driver_at_a_time_and_one_executor_work_on_a_plan() {
    let project = Project::new(4);
    let args = [&["run", "pipeline.yaml", "--executor", "local", "--detach"], &LONG[..]].concat();
    let driver = project.command(&args).spawn().unwrap();
    wait_for_checkpoint(&project);
    let second = wait(project.command(&args).spawn().unwrap());
    assert_eq!(second.code, 1, "{second:#?}");
    assert!(second.stderr.contains("another process drives the plan"), "{second:#?}");
    signal(&driver, "INT");
    assert_eq!(wait(driver).code, 130);
    assert_eq!(project.workers().len(), 1, "a detached worker goes on");
    let other = project.run(&["--executor", "command", &worker_command()]);
    assert_eq!(other.code, 1, "{other:#?}");
    assert!(other.stderr.contains("executor `local` is still working on the plan"), "{other:#?}");
    let output = wait(project.command(&args).spawn().unwrap()).success();
    assert!(output.stderr.contains("resuming plan"), "{output:#?}");
    project.run_changes_nothing(&LONG);
}

#[test]
fn workspaces_in_object_stores_need_no_shared_folder() {
    let Some(server) = server() else { return };
    let (project, store) = project_in_bucket(server, "fleet", 5);
    let run = ["run", "pipeline.yaml", "--executor", "local"];
    let output = server.lapo(&project, &run).success();
    assert!(output.stdout.starts_with("5 tasks: 5 videos (5 new)"), "{output:#?}");
    assert!(store.list("ws/plans").unwrap().is_empty(), "a plan is left");
    assert!(server.lapo(&project, &run).success().stdout.starts_with("0 tasks: 5 videos"));
}

#[test]
fn a_killed_driver_goes_on_with_its_plan() {
    let [project, alone] = [Project::new(8), Project::new(8)];
    alone.run(&LONG).success();
    let args = [&["run", "pipeline.yaml", "--executor", "local"], &LONG[..]].concat();
    let mut driver = project.command(&args).spawn().unwrap();
    wait_for_checkpoint(&project);
    driver.kill().unwrap();
    driver.wait().unwrap();
    let before = project.workers();
    assert_eq!(before.len(), 1, "the worker goes on");
    let driver = project.command(&args).spawn().unwrap();
    std::thread::sleep(Duration::from_millis(500));
    let after = project.workers();
    assert!(after.is_empty() || after == before, "started twice: {before:?} {after:?}");
    let output = wait(driver).success();
    assert!(output.stderr.contains("resuming plan"), "{output:#?}");
    assert!(results(&project) == results(&alone), "the bytes differ");
}

#[test]
fn a_stopped_driver_ends_its_workers_and_another_pipeline_text_replaces_the_plan() {
    let project = Project::new(8);
    let args = [&["run", "pipeline.yaml", "--executor", "local"], &LONG[..]].concat();
    let driver = project.command(&args).spawn().unwrap();
    wait_for_checkpoint(&project);
    signal(&driver, "INT");
    let output = wait(driver);
    assert_eq!(output.code, 130, "{output:#?}");
    assert_eq!(project.workers(), [""; 0]);
    assert_eq!(fs::read_dir(project.path("ws/plans")).unwrap().count(), 1);
    // Other settings: the open plan is of no use.
    let output = project.run(&["--executor", "local"]).success();
    assert!(output.stderr.contains("pipeline or options changed"), "{output:#?}");
    let alone = Project::new(8);
    alone.run(&[]).success();
    assert!(results(&project) == results(&alone), "the bytes differ");
}

#[test]
fn a_worker_that_is_stopped_before_its_time_limit_exits_with_75_and_resumes() {
    let [project, alone] = [Project::new(4), Project::new(4)];
    alone.run(&LONG).success();
    project.run(&["--only", "frames"]).success();
    let plan = [&["plan", "pipeline.yaml", "--out", "plan"], &LONG[..]].concat();
    project.lapo(&plan).success();
    let worker = ["worker", "--plan", "plan", "--partition", "0"];
    for name in ["USR1", "TERM"] {
        let child = project.command(&worker).spawn().unwrap();
        wait_for_checkpoint(&project);
        // The handlers of the second worker are installed by then.
        std::thread::sleep(Duration::from_millis(700));
        signal(&child, name);
        let output = wait(child);
        assert_eq!(output.code, 75, "{output:#?}");
    }
    project.lapo(&worker).success();
    project.lapo(&["commit", "--plan", "plan"]).success();
    project.run(&LONG).success();
    assert!(results(&project) == results(&alone), "the bytes differ");
}

#[test]
fn workers_find_their_share_in_the_environment_of_their_engine() {
    let project = Project::new(9);
    let yaml = PIPELINE.replace("videos_per_shard: 4", "videos_per_shard: 1");
    fs::write(project.path("pipeline.yaml"), yaml).unwrap();
    project.lapo(&["plan", "pipeline.yaml", "--out", "plan"]).success();
    let work = |variable: (&str, &str), more: &[&str]| -> CommandOutput {
        let args = [&["worker", "--plan", "plan", "--quiet"], more].concat();
        wait(project.command(&args).env(variable.0, variable.1).spawn().unwrap())
    };
    let numbers = |output: CommandOutput| -> Vec<u32> {
        let output = output.success();
        let number = |line: &str| line.split([' ', ':']).nth(1).unwrap().parse().unwrap();
        output.stdout.lines().map(number).collect()
    };
    type Case<T> = ((&'static str, &'static str), &'static [&'static str], T);
    let cases: [Case<&[u32]>; 6] = [
        (("SLURM_ARRAY_TASK_ID", "3"), &[], &[3]),
        (("SLURM_ARRAY_TASK_ID", "3"), &["--offset", "2"], &[5]),
        (("JOB_COMPLETION_INDEX", "1"), &["--shares", "frames:4"], &[2, 3]),
        (("JOB_COMPLETION_INDEX", "0"), &["--shares", "4", "--offset", "3"], &[6, 7, 8]),
        (("SLURM_ARRAY_TASK_ID", "7"), &["--share", "frames:0/4"], &[0, 1]),
        (("SLURM_ARRAY_TASK_ID", "7"), &["--partition", "8"], &[8]),
    ];
    for (variable, more, expected) in cases {
        assert_eq!(numbers(work(variable, more)), expected, "{variable:?} {more:?}");
    }
    let wrong: [Case<&str>; 4] = [
        (("SLURM_ARRAY_TASK_ID", "9"), &[], "select share 9, but there are 9"),
        (("SLURM_ARRAY_TASK_ID", "x"), &[], "SLURM_ARRAY_TASK_ID=x: expected a number"),
        (("JOB_COMPLETION_INDEX", "0"), &["--shares", "0"], "--shares 0: expected [STAGE:]N"),
        (("X", "0"), &["--share", "3/3"], "expected K/N or STAGE:K/N"),
    ];
    for (variable, more, expected) in wrong {
        let output = work(variable, more);
        assert_eq!(output.code, 64, "{output:#?}");
        assert!(output.stderr.contains(expected), "{output:#?}");
    }
    let missing = project.lapo(&["status", "--plan", "plan", "--format", "array"]).success();
    assert_eq!(missing.stdout, "4\n");
    let windows = ["status", "--plan", "plan", "--format", "array", "--max-array-size", "3"];
    assert_eq!(project.lapo(&windows).success().stdout, "1 3\n");
}

#[test]
fn logs_and_metrics_name_run_partitions_attempt_and_host() {
    let project = Project::new(9);
    project.lapo(&["plan", "pipeline.yaml", "--out", "plan"]).success();
    fs::create_dir(project.path("metrics")).unwrap();
    let args = ["worker", "--plan", "plan", "--share", "frames:1/2", "--attempt", "2"];
    let more = ["--log-format", "json", "--metrics-file", "metrics"];
    let output = project.lapo(&[&args[..], &more].concat()).success();
    for line in output.stderr.lines() {
        let event: Value = serde_json::from_str(line).unwrap();
        assert_eq!((&event["partitions"], &event["attempt"]), (&"1-2".into(), &2.into()), "{line}");
        assert_eq!((&event["run"], event["host"].is_string()), (&"00000001".into(), true));
    }
    let metrics = fs::read_to_string(project.path("metrics/lapo-00000001-1.prom")).unwrap();
    let labels = "{pipeline=\"test\",partitions=\"1-2\",attempt=\"2\",host=\"";
    assert!(metrics.contains(&format!("lapo_run_succeeded{labels}")), "{metrics}");
}

#[test]
fn faults_of_the_executor_are_clear() {
    let project = Project::new(1);
    fs::write(project.path("wrong.yaml"), "slurm:\n  cpu: { partitoin: x }\n").unwrap();
    let cases: [(&[&str], i32, &str); 6] = [
        (&["--executor", "command"], 64, "the command is missing"),
        (&["--executor", "command", "lapo worker"], 64, "the command has no {share}"),
        (&["--executor", "local", "x {share}"], 64, "unexpected argument `x {share}`"),
        (&["surplus"], 64, "unexpected argument `surplus`"),
        (&["--detach"], 64, "--executor"),
        (
            &["--executor", "slurm", "--executor-config", "wrong.yaml"],
            1,
            "wrong.yaml: slurm.cpu: unknown field `partitoin`",
        ),
    ];
    for (args, code, expected) in cases {
        let output = project.run(args);
        assert_eq!(output.code, code, "{args:?}: {output:#?}");
        assert!(output.stderr.contains(expected), "{args:?}: {output:#?}");
    }
    // A machine without Slurm.
    let mut command = project.command(&["run", "pipeline.yaml", "--executor", "slurm"]);
    let output = wait(command.env("PATH", "/nowhere").spawn().unwrap());
    assert_eq!(output.code, 1, "{output:#?}");
    assert!(output.stderr.contains("squeue failed: "), "{output:#?}");
    assert!(output.stderr.contains("hint: run lapo on a machine where `sinfo`"), "{output:#?}");
}

#[test]
fn manifests_for_kubernetes_are_valid_and_their_commands_work() {
    let project = Project::new(9);
    let settings = "
partitions_per_worker: 2
max_workers: 50
kubernetes:
  image: registry.example/lapo:1
  namespace: vision
  pod:
    volumes: [{ name: data, persistentVolumeClaim: { claimName: data } }]
    nodeSelector: { pool: decode }
  container:
    volumeMounts: [{ name: data, mountPath: /data }]
    envFrom: [{ secretRef: { name: bucket } }]
";
    fs::write(project.path("fleet.yaml"), settings).unwrap();
    let mut kinds = Vec::new();
    for wave in ["decode", "train", "label"] {
        let out = format!("plans/{wave}");
        let manifest = format!("{wave}.yaml");
        let args = ["plan", "pipeline.yaml", "--out", &out, "--kubernetes", &manifest];
        let config: &[&str] = &["--executor-config", "fleet.yaml"];
        let config = if wave == "train" { &[] } else { config };
        project.lapo(&[&args[..], config].concat()).success();
        kinds.extend(work_on(&project, &manifest));
        project.lapo(&["commit", "--plan", &out]).success();
    }
    assert_eq!(kinds, ["frames:2", "model:1", "labels:2"]);
    project.run_changes_nothing(&[]);
    let manifests: Vec<_> = ["decode.yaml", "train.yaml", "label.yaml"]
        .iter()
        .map(|name| project.path(name).display().to_string())
        .collect();
    let checked = python::passes(
        "
import sys
import kubernetes_validate
import yaml
for path in sys.argv[1:]:
    for document in yaml.safe_load_all(open(path)):
        # The oldest release with retries for each index, and the newest that is published.
        for release in ['1.29', kubernetes_validate.latest_version()]:
            kubernetes_validate.validate(document, release, strict=True)
        print(document['metadata']['name'])
",
        manifests,
    );
    if let Some(names) = checked {
        assert_eq!(names.lines().count(), 4, "{names}");
    }
}

/// Runs the commands of a manifest as its pods would. Returns the shares of each job.
fn work_on(project: &Project, manifest: &str) -> Vec<String> {
    let text = fs::read_to_string(project.path(manifest)).unwrap();
    let mut shares = Vec::new();
    // A list of one word per line, as `serde_yaml` writes it.
    for job in text.split("---\n") {
        let (_, command) = job.split_once("command:\n").unwrap();
        let words = command.lines().map_while(|line| line.trim().strip_prefix("- "));
        let words: Vec<&str> = words.map(|word| word.trim_matches(['\'', '"'])).collect();
        assert_eq!(words[0], "lapo");
        let (_, completions) = job.split_once("completions: ").unwrap();
        let completions: usize = completions.lines().next().unwrap().parse().unwrap();
        for index in 0..completions {
            let mut pod = project.command(&words[1..]);
            pod.env("JOB_COMPLETION_INDEX", index.to_string());
            wait(pod.spawn().unwrap()).success();
        }
        let at = words.iter().position(|word| *word == "--shares").unwrap();
        shares.push(words[at + 1].to_owned());
    }
    shares
}
