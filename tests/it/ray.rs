//! `lapo run --executor ray` on a real Ray of two nodes, with a token: the bytes of a run on one
//! machine, whatever is killed.

use std::fs;
use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use crate::fleet::LONG;
use crate::guide::check_fleet_examples;
use crate::kill_and_resume::results;
use crate::project::{CommandOutput, PIPELINE, Project, wait};
use crate::ray_cluster::{ADDRESS, RayCluster};

const TOKEN: &str = "token-nobody-knows";

/// Starts `lapo run --executor ray` in the cluster's network.
fn start(cluster: &RayCluster, project: &Project, token: &str, more: &[&str]) -> Child {
    let python = std::env::var("LAPO_RAY").unwrap();
    let settings = format!("ray: {{ address: '{ADDRESS}', python: '{python}' }}");
    fs::write(project.path("ray.yaml"), settings).unwrap();
    cluster
        .command(env!("CARGO_BIN_EXE_lapo"))
        .args(["run", "pipeline.yaml", "--executor", "ray", "--executor-config", "ray.yaml"])
        .args(more)
        .current_dir(project.folder.path())
        .env("RAY_AUTH_TOKEN", token)
        .stdin(Stdio::null())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .unwrap()
}

/// Runs `lapo run --executor ray` to its end. No output may contain the token.
fn run(cluster: &RayCluster, project: &Project, more: &[&str]) -> CommandOutput {
    let output = wait(start(cluster, project, TOKEN, more)).success();
    assert!(!format!("{output:?}").contains(TOKEN), "{output:#?}");
    output
}

/// Creates a project with one partition for each video.
fn project(count: usize) -> Project {
    let project = Project::new(count);
    let yaml = PIPELINE.replace("videos_per_shard: 4", "videos_per_shard: 1");
    fs::write(project.path("pipeline.yaml"), yaml).unwrap();
    project
}

fn until(what: &str, cluster: &RayCluster, mut is_so: impl FnMut() -> bool) {
    let begun = Instant::now();
    while !is_so() {
        let in_time = begun.elapsed() < Duration::from_secs(120);
        assert!(in_time, "{what} never happens: {}", cluster.logs());
        std::thread::sleep(Duration::from_millis(50));
    }
}

/// Counts the files of a folder of the workspace, at any depth.
fn files(project: &Project, folder: &str) -> usize {
    fn count(folder: std::path::PathBuf) -> usize {
        let entries = fs::read_dir(folder).into_iter().flatten().flatten();
        entries.map(|entry| if entry.path().is_dir() { count(entry.path()) } else { 1 }).sum()
    }
    count(project.path("ws").join(folder))
}

/// One cluster for all: it takes as long to start as most of these.
#[test]
fn ray_gives_the_bytes_of_one_machine_whatever_is_killed() {
    let Some(mut cluster) = RayCluster::start(Some(TOKEN)) else { return };
    runs_do_only_new_work(&cluster);
    examples_of_the_guide_print_what_the_page_shows(&cluster);
    a_wrong_token_is_an_error(&cluster);
    a_killed_driver_finds_its_job_again(&cluster);
    a_stopped_driver_leaves_no_worker(&cluster);
    tasks_of_a_dead_node_run_elsewhere(&mut cluster);
}

fn runs_do_only_new_work(cluster: &RayCluster) {
    let [project, alone] = [project(9), project(9)];
    alone.run(&[]).success();
    let output = run(cluster, &project, &[]);
    assert!(output.stdout.starts_with("19 tasks: 9 videos (9 new)"), "{output:#?}");
    assert!(output.stderr.contains("stage model: 2 cores instead of 4"), "{output:#?}");
    assert!(results(&project) == results(&alone), "the bytes differ");
    for project in [&project, &alone] {
        project.add(9..12);
    }
    alone.run(&[]).success();
    let output = run(cluster, &project, &[]);
    assert!(output.stdout.starts_with("6 tasks: 12 videos (3 new)"), "{output:#?}");
    assert!(results(&project) == results(&alone), "the bytes differ");
    project.run_changes_nothing(&[]);
}

fn examples_of_the_guide_print_what_the_page_shows(cluster: &RayCluster) {
    let project = Project::new(6);
    let python = format!("python: {}", std::env::var("LAPO_RAY").unwrap());
    let lapo = format!("lapo: {}", env!("CARGO_BIN_EXE_lapo"));
    let replaced = [("python: python3", &*python), ("lapo: lapo", &*lapo)];
    check_fleet_examples("ray", project.folder.path(), &replaced, |example| {
        let mut shell = cluster.command("sh");
        let folder = Path::new(env!("CARGO_BIN_EXE_lapo")).parent().unwrap().display().to_string();
        shell
            .args(["-c", &format!("exec 2>&1\n{example}")])
            .current_dir(project.folder.path())
            .env("PATH", format!("{folder}:{}", std::env::var("PATH").unwrap()))
            .env("RAY_AUTH_TOKEN", TOKEN);
        let output = shell.output().unwrap();
        let printed = String::from_utf8_lossy(&output.stdout).into_owned();
        (output.status.code().unwrap_or(-1), printed)
    });
}

fn a_wrong_token_is_an_error(cluster: &RayCluster) {
    let project = project(1);
    let refused = wait(start(cluster, &project, "wrong", &[]));
    assert_eq!(refused.code, 1, "{refused:#?}");
    assert!(refused.stderr.contains("status 40"), "{refused:#?}");
    assert!(refused.stderr.contains("RAY_AUTH_TOKEN"), "{refused:#?}");
}

fn a_killed_driver_finds_its_job_again(cluster: &RayCluster) {
    let [project, alone] = [project(4), project(4)];
    alone.run(&LONG).success();
    let mut driver = start(cluster, &project, TOKEN, &LONG);
    until("a checkpoint", cluster, || files(&project, "model/checkpoints") > 0);
    let before = project.workers();
    driver.kill().unwrap();
    driver.wait().unwrap();
    let driver = start(cluster, &project, TOKEN, &LONG);
    std::thread::sleep(Duration::from_secs(1));
    let after = project.workers();
    assert!(after.is_empty() || after == before, "started twice: {before:?} {after:?}");
    let output = wait(driver).success();
    assert!(output.stderr.contains("resuming plan"), "{output:#?}");
    assert!(results(&project) == results(&alone), "the bytes differ: {output:#?}");
}

fn a_stopped_driver_leaves_no_worker(cluster: &RayCluster) {
    let project = project(4);
    let driver = start(cluster, &project, TOKEN, &LONG);
    until("a checkpoint", cluster, || files(&project, "model/checkpoints") > 0);
    let interrupt = Command::new("kill").args(["-INT", &driver.id().to_string()]).status();
    assert!(interrupt.unwrap().success());
    let output = wait(driver);
    assert_eq!(output.code, 130, "{output:#?}");
    assert_eq!(project.workers(), [""; 0]);
}

fn tasks_of_a_dead_node_run_elsewhere(cluster: &mut RayCluster) {
    let [project, alone] = [project(40), project(40)];
    alone.run(&[]).success();
    let driver = start(cluster, &project, TOKEN, &[]);
    until("some decoded videos", cluster, || files(&project, "frames/receipts") >= 8);
    cluster.kill_node();
    let output = wait(driver).success();
    assert!(results(&project) == results(&alone), "the bytes differ: {output:#?}");
}
