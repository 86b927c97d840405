//! `lapo run --executor slurm` and `lapo plan --sbatch` on a real Slurm: the bytes of a run on one
//! machine, whatever is killed.

use std::collections::BTreeMap;
use std::fs;
use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use serde_json::Value;

use crate::fleet::LONG;
use crate::guide::check_fleet_examples;
use crate::kill_and_resume::results;
use crate::project::{CommandOutput, PIPELINE, Project, wait};
use crate::slurm_cluster::SlurmCluster;

/// Returns a command of the binary that finds the cluster.
fn command(cluster: &SlurmCluster, project: &Project, args: &[&str]) -> Command {
    let mut command = cluster.command(env!("CARGO_BIN_EXE_lapo"));
    command
        .args(args)
        .current_dir(project.folder.path())
        .stdin(Stdio::null())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped());
    command
}

/// Starts `lapo run --executor slurm` with these settings of the executor.
fn start(cluster: &SlurmCluster, project: &Project, settings: &str, more: &[&str]) -> Child {
    fs::write(project.path("slurm.yaml"), settings).unwrap();
    let run = ["run", "pipeline.yaml", "--executor", "slurm", "--executor-config", "slurm.yaml"];
    command(cluster, project, &[&run, more].concat()).spawn().unwrap()
}

/// Runs `lapo run --executor slurm` to its end.
fn run(cluster: &SlurmCluster, project: &Project, more: &[&str]) -> CommandOutput {
    wait(start(cluster, project, "{}", more))
}

/// Waits until `is_so` returns true.
fn until(what: &str, cluster: &SlurmCluster, mut is_so: impl FnMut() -> bool) {
    let begun = Instant::now();
    while !is_so() {
        let state = || format!("{:#?}\n{}", cluster.jobs(), cluster.logs());
        assert!(begun.elapsed() < Duration::from_secs(120), "{what} never happens: {}", state());
        std::thread::sleep(Duration::from_millis(100));
    }
}

/// Returns the jobs of a stage that run now, with their nodes.
fn running(cluster: &SlurmCluster, stage: &str) -> Vec<String> {
    let mut jobs = cluster.jobs();
    jobs.retain(|job| job.contains(&format!(":{stage}:")) && job.contains(" RUNNING "));
    jobs
}

/// Sends a signal to a process.
fn signal(child: &Child, name: &str) {
    let sent = Command::new("kill").args([format!("-{name}"), child.id().to_string()]).status();
    assert!(sent.unwrap().success());
}

/// Returns whether the training of a project has written a checkpoint.
fn has_checkpoint(project: &Project) -> bool {
    let folders = fs::read_dir(project.path("ws/model/checkpoints")).into_iter().flatten();
    folders.flatten().any(|key| fs::read_dir(key.path()).is_ok_and(|mut all| all.next().is_some()))
}

#[test]
fn slurm_gives_the_bytes_of_one_machine_and_then_does_only_new_work() {
    // 45 partitions: three windows of an array of at most 20 elements.
    let Some(cluster) = SlurmCluster::start(20) else { return };
    let [project, alone] = [Project::new(45), Project::new(45)];
    for project in [&project, &alone] {
        let yaml = PIPELINE.replace("videos_per_shard: 4", "videos_per_shard: 1");
        fs::write(project.path("pipeline.yaml"), yaml).unwrap();
    }
    alone.run(&[]).success();
    let output = run(&cluster, &project, &[]).success();
    assert!(output.stdout.starts_with("91 tasks: 45 videos (45 new)"), "{output:#?}");
    assert!(results(&project) == results(&alone), "the bytes differ");
    assert_eq!(cluster.jobs(), [""; 0]);
    assert!(fs::read_dir(project.path("ws/plans")).unwrap().next().is_none(), "a plan is left");

    for project in [&project, &alone] {
        project.add(45..48);
    }
    alone.run(&[]).success();
    let output = run(&cluster, &project, &["--partitions-per-worker", "2"]).success();
    assert!(output.stdout.starts_with("6 tasks: 48 videos (3 new)"), "{output:#?}");
    assert!(output.stderr.contains("frames: 3 tasks done, 45 re-used"), "{output:#?}");
    assert!(results(&project) == results(&alone), "the bytes differ");
    project.run_changes_nothing(&[]);
    assert!(run(&cluster, &project, &[]).success().stdout.starts_with("0 tasks: 48 videos"));
}

/// Returns the digests of all results of a workspace, by stage, key and file name.
fn digests(workspace: &Path) -> BTreeMap<String, String> {
    let mut digests = BTreeMap::new();
    for stage in fs::read_dir(workspace).unwrap().flatten() {
        for path in fs::read_dir(stage.path().join("receipts")).into_iter().flatten().flatten() {
            let receipt: Value = serde_json::from_slice(&fs::read(path.path()).unwrap()).unwrap();
            for file in receipt["files"].as_array().unwrap() {
                let name = file["path"].as_str().unwrap().rsplit('/').next().unwrap();
                let name = format!("{}/{}/{name}", stage.path().display(), receipt["key"]);
                let name = name.replace(workspace.to_str().unwrap(), "");
                digests.insert(name, file["blake3"].to_string());
            }
        }
    }
    digests
}

#[test]
fn slurm_gives_the_bytes_of_the_quickstart_page_included() {
    let Some(cluster) = SlurmCluster::start(1001) else { return };
    let project = Project::new(0);
    let root = Path::new(env!("CARGO_MANIFEST_DIR"));
    std::os::unix::fs::symlink(root.join("data"), project.path("data")).unwrap();
    let yaml = fs::read_to_string(root.join("pipelines/quickstart.yaml")).unwrap();
    fs::write(project.path("pipeline.yaml"), yaml.replace("steps: 300", "steps: 60")).unwrap();
    let run = ["run", "pipeline.yaml", "--workspace", "alone"];
    project.lapo(&run).success();
    // Scripts must quote paths.
    let output = self::run(&cluster, &project, &["--workspace", "it's a ws"]).success();
    assert!(output.stdout.starts_with("19 tasks: 240 videos (240 new)"), "{output:#?}");
    let [alone, slurm] = ["alone", "it's a ws"].map(|workspace| digests(&project.path(workspace)));
    assert!(alone.len() > 30 && alone == slurm, "{alone:#?}\n{slurm:#?}");
}

#[test]
fn a_training_goes_on_elsewhere_when_its_node_dies() {
    let Some(mut cluster) = SlurmCluster::start(1001) else { return };
    let [project, alone] = [Project::new(8), Project::new(8)];
    alone.run(&LONG).success();
    // Any node may do it, with a GPU or not.
    let settings = "slurm: { gpu: { gres: '' } }";
    let driver = start(&cluster, &project, settings, &LONG);
    until("a checkpoint", &cluster, || has_checkpoint(&project));
    let jobs = running(&cluster, "model");
    let node = if jobs[0].ends_with("n1") { "n1" } else { "n2" };
    cluster.kill_node(node);
    let output = wait(driver).success();
    assert!(results(&project) == results(&alone), "the bytes differ: {output:#?}");
    project.run_changes_nothing(&LONG);
}

#[test]
fn a_training_resumes_after_its_time_limit() {
    let Some(cluster) = SlurmCluster::start(1001) else { return };
    let steps = ["--set", "steps=8000"];
    let [project, alone] = [Project::new(4), Project::new(4)];
    // Slurm warns 50 of 60 seconds before the limit.
    let settings = "slurm: { grace_secs: 50, cpu: { time: '1' } }";
    let driver = start(&cluster, &project, settings, &steps);
    alone.run(&steps).success();
    let output = wait(driver).success();
    assert!(results(&project) == results(&alone), "the bytes differ: {output:#?}");
}

#[test]
fn a_partition_that_always_fails_is_reported_and_the_rest_goes_on() {
    let Some(cluster) = SlurmCluster::start(1001) else { return };
    let project = Project::new(12);
    let settings = "
slurm:
  prologue: |
    case $SLURM_JOB_NAME in *:frames:*) [ $SLURM_ARRAY_TASK_ID != 1 ] || exit 9;; esac
";
    let output = wait(start(&cluster, &project, settings, &[]));
    assert_eq!(output.code, 3, "{output:#?}");
    let message = "stage frames: partition 1 is not done: 4 workers ended without a result";
    assert!(output.stderr.contains(message), "{output:#?}");
    assert!(output.stdout.contains("8 videos (8 new)"), "{output:#?}");
    assert_eq!(cluster.jobs(), [""; 0]);
    // The next run does the rest.
    let output = run(&cluster, &project, &[]).success();
    assert!(output.stdout.contains("12 videos (4 new)"), "{output:#?}");
    project.run_changes_nothing(&[]);
}

#[test]
fn a_killed_driver_finds_its_jobs_again() {
    let Some(cluster) = SlurmCluster::start(1001) else { return };
    let [project, alone] = [Project::new(8), Project::new(8)];
    alone.run(&LONG).success();
    let mut driver = start(&cluster, &project, "{}", &LONG);
    until("a checkpoint", &cluster, || has_checkpoint(&project));
    let before = running(&cluster, "model");
    signal(&driver, "KILL");
    driver.wait().unwrap();
    let driver = start(&cluster, &project, "{}", &LONG);
    std::thread::sleep(Duration::from_secs(1));
    let after = running(&cluster, "model");
    assert!(after.is_empty() || after == before, "started twice: {before:?} {after:?}");
    let output = wait(driver).success();
    assert!(output.stderr.contains("resuming plan"), "{output:#?}");
    assert!(results(&project) == results(&alone), "the bytes differ: {output:#?}");
}

#[test]
fn a_stopped_driver_leaves_no_job_unless_it_is_detached() {
    let Some(cluster) = SlurmCluster::start(1001) else { return };
    let project = Project::new(8);
    for (detach, is_left) in [(&["--detach"][..], true), (&[], false)] {
        let driver = start(&cluster, &project, "{}", &[&LONG, detach].concat());
        until("a job", &cluster, || !running(&cluster, "model").is_empty());
        // The second driver finds the job of the first at once.
        std::thread::sleep(Duration::from_secs(1));
        signal(&driver, "INT");
        let output = wait(driver);
        assert_eq!(output.code, 130, "{output:#?}");
        assert_eq!(!cluster.jobs().is_empty(), is_left, "{output:#?}");
    }
    run(&cluster, &project, &LONG).success();
    project.run_changes_nothing(&LONG);
}

#[test]
fn scripts_put_a_stopped_training_back_into_the_queue() {
    let Some(cluster) = SlurmCluster::start(1001) else { return };
    let steps = ["--set", "steps=8000"];
    let [project, alone] = [Project::new(4), Project::new(4)];
    let settings = "slurm: { grace_secs: 50, gpu: { gres: '', time: '1' } }";
    fs::write(project.path("slurm.yaml"), settings).unwrap();
    let plan = ["plan", "pipeline.yaml", "--sbatch", "waves", "--executor-config", "slurm.yaml"];
    let plan = command(&cluster, &project, &[&plan, &steps[..]].concat()).spawn().unwrap();
    let output = wait(plan).success();
    let submitted = cluster.command("sh").arg(output.stdout.trim()).output().unwrap();
    assert!(submitted.status.success(), "{submitted:?}");
    alone.run(&steps).success();
    until("the end of the last wave", &cluster, || cluster.jobs().is_empty());
    let log = fs::read_to_string(project.path("waves/2/logs/model-0+0.0.log")).unwrap();
    assert!(results(&project) == results(&alone), "the bytes differ: {log}");
    assert!(log.contains("stopped by SIGUSR1"), "{log}");
}

#[test]
fn examples_of_the_guide_print_what_the_page_shows() {
    let Some(cluster) = SlurmCluster::start(1001) else { return };
    let project = Project::new(6);
    check_fleet_examples("slurm", project.folder.path(), &[], |example| {
        let mut shell = cluster.command("sh");
        let path = Path::new(env!("CARGO_BIN_EXE_lapo")).parent().unwrap().display().to_string();
        shell
            .args(["-c", &format!("exec 2>&1\n{example}")])
            .current_dir(project.folder.path())
            .env("PATH", format!("{path}:{}", std::env::var("PATH").unwrap()));
        let output = shell.output().unwrap();
        let printed = String::from_utf8_lossy(&output.stdout).into_owned();
        (output.status.code().unwrap_or(-1), printed)
    });
    until("the end of the last wave", &cluster, || cluster.jobs().is_empty());
    assert!(project.path("runs/waves/labels/manifests").exists());
}

#[test]
fn scripts_of_a_plan_need_no_driver() {
    let Some(cluster) = SlurmCluster::start(2) else { return };
    let [project, alone] = [Project::new(9), Project::new(9)];
    alone.run(&[]).success();
    let plan = ["plan", "pipeline.yaml", "--sbatch", "waves"];
    let output = wait(command(&cluster, &project, &plan).spawn().unwrap()).success();
    let submit = output.stdout.trim();
    assert!(submit.ends_with("waves/1/submit.sh"), "{output:#?}");
    let submitted = cluster.command("sh").arg(submit).current_dir("/").output().unwrap();
    assert!(submitted.status.success(), "{submitted:?}");
    until("the end of the last wave", &cluster, || cluster.jobs().is_empty());
    let logs = || {
        let all = fs::read_dir(project.path("waves")).unwrap().flatten();
        let logs = all.map(|wave| fs::read_to_string(wave.path().join("logs/commit.log")));
        logs.collect::<Vec<_>>()
    };
    assert!(results(&project) == results(&alone), "the bytes differ: {:#?}", logs());
    project.run_changes_nothing(&[]);
    // decode, train, label
    assert_eq!(fs::read_dir(project.path("waves")).unwrap().count(), 3, "{:#?}", logs());
}
