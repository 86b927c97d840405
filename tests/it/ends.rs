//! How a process ends: exit codes, streams that go away, signals.

use std::fs;
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use serde_json::Value;

use crate::killed::results;
use crate::project::{PIPELINE, Project, Said, said};

#[test]
fn wrong_words_on_the_command_line_end_with_64_and_help_with_0() {
    let project = Project::new(0);
    let wrong: [&[&str]; 8] = [
        &["rnu"],
        &[],
        &["run"],
        &["run", "pipeline.yaml", "--no-such-flag"],
        &["run", "pipeline.yaml", "--threads", "0"],
        &["run", "pipeline.yaml", "--set", "steps"],
        &["query", "SELECT 1", "--workspace", "ws", "--format", "xml"],
        &["schema", "nothing"],
    ];
    for args in wrong {
        let said = project.lapo(args);
        assert_eq!((said.code, said.stdout.as_str()), (64, ""), "{args:?}: {said:#?}");
        assert!(!said.stderr.is_empty(), "{args:?}");
    }
    for args in [&["--help"][..], &["run", "--help"], &["-V"], &["--version"]] {
        let said = project.lapo(args).good();
        assert!(said.stdout.starts_with("lapo") || said.stdout.contains("Usage: lapo"), "{said:#?}");
        assert_eq!(said.stderr, "");
    }
}

#[test]
fn faults_of_the_user_end_with_1_and_what_may_pass_with_75() {
    let project = Project::new(1);
    assert_eq!(project.lapo(&["run", "no.yaml"]).code, 1);
    fs::write(project.path("pipeline.yaml"), PIPELINE.replace("16", "17")).unwrap();
    assert_eq!(project.run(&[]).code, 1);
    fs::write(project.path("pipeline.yaml"), PIPELINE.replace("workspace: ws", "workspace: s3://bucket/ws")).unwrap();
    let mut command = project.command(&["run", "pipeline.yaml"]);
    let nobody =
        [("AWS_ENDPOINT_URL", "http://127.0.0.1:1"), ("AWS_REGION", "x"), ("AWS_ACCESS_KEY_ID", "x"), ("AWS_SECRET_ACCESS_KEY", "x")];
    let passing = said(command.envs(nobody).env("AWS_ALLOW_HTTP", "true").spawn().unwrap());
    assert_eq!(passing.code, 75, "{passing:#?}");
}

#[test]
fn the_version_says_what_was_built() {
    let said = Project::new(0).lapo(&["--version"]).good();
    let lines: Vec<&str> = said.stdout.lines().collect();
    let [first, features, libav] = lines[..] else { panic!("{said:#?}") };
    assert!(first.starts_with(&format!("lapo {} (", env!("CARGO_PKG_VERSION"))), "{first}");
    assert!(features.starts_with("features: ") && libav.starts_with("libavcodec: "), "{said:#?}");
    let git = Command::new("git").args(["-C", env!("CARGO_MANIFEST_DIR"), "rev-parse", "--verify", "HEAD"]).output();
    let commit = first.split(['(', ')']).nth(1).unwrap().trim_end_matches("-dirty");
    if git.is_ok_and(|git| git.status.success()) {
        assert!(commit.len() >= 7 && commit.chars().all(|c| c.is_ascii_hexdigit()), "{commit}");
    } else {
        assert_eq!(commit, "unknown");
    }
}

/// Runs a shell line in the project's folder; `$LAPO` is the binary.
fn shell(project: &Project, line: &str) -> Said {
    let mut command = Command::new("bash");
    command.args(["-c", line]).current_dir(project.folder.path()).env("LAPO", env!("CARGO_BIN_EXE_lapo"));
    said(command.stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().unwrap())
}

#[test]
fn a_run_ends_well_when_stderr_goes_away() {
    for (what, line) in [
        ("a reader that wants one line", "\"$LAPO\" run pipeline.yaml 2> >(head -1 >&2)"),
        ("a reader of both streams", "{ \"$LAPO\" run pipeline.yaml; echo $? > code; } 2>&1 | head -1; exit $(cat code)"),
        ("no stderr", "\"$LAPO\" run pipeline.yaml 2>&-"),
        ("a full disk", "\"$LAPO\" run pipeline.yaml 2> /dev/full"),
        ("a full disk, of JSON", "\"$LAPO\" run pipeline.yaml --log-format json 2> /dev/full"),
        ("an error that nobody hears", "\"$LAPO\" run no.yaml 2> /dev/full; test $? = 1 && \"$LAPO\" run pipeline.yaml"),
    ] {
        let project = Project::new(2);
        let said = shell(&project, line);
        assert_eq!(said.code, 0, "{what}: {said:#?}");
        assert!(project.run(&[]).good().stdout.starts_with("0 tasks"), "{what}: the run came to its end");
    }
}

#[test]
fn a_listing_ends_quietly_when_stdout_goes_away() {
    let project = Project::new(2);
    project.run(&[]).good();
    for listing in ["query 'SELECT * FROM labels' --workspace ws", "datasets --workspace ws", "schema", "--help", "runs --workspace ws"] {
        let said = shell(&project, &format!("set -o pipefail; \"$LAPO\" {listing} | true"));
        assert_eq!((said.code, said.stderr.as_str()), (0, ""), "{listing}");
    }
    let said = shell(&project, "\"$LAPO\" datasets --workspace ws > /dev/full");
    assert_eq!(said.code, 1, "{said:#?}");
    assert!(said.stderr.starts_with("error: cannot write stdout: "), "{said:#?}");
}

/// Waits until something is so.
fn until(what: &str, child: &mut Child, mut is_so: impl FnMut() -> bool) {
    let begun = Instant::now();
    while !is_so() {
        assert!(child.try_wait().unwrap().is_none(), "the run ended before {what}");
        assert!(begun.elapsed() < Duration::from_secs(120), "{what}: not within two minutes");
        std::thread::sleep(Duration::from_millis(5));
    }
}

/// Sends a signal, and waits for the end, but not for ever.
fn end(mut child: Child, signal: &str) -> Said {
    let killed = Command::new("kill").args([format!("-{signal}"), child.id().to_string()]).status().unwrap();
    assert!(killed.success());
    let begun = Instant::now();
    while child.try_wait().unwrap().is_none() {
        if begun.elapsed() > Duration::from_secs(60) {
            child.kill().unwrap();
            panic!("it lived on for a minute after SIG{signal}");
        }
        std::thread::sleep(Duration::from_millis(5));
    }
    said(child)
}

/// The records of the project's runs, oldest first.
fn records(project: &Project) -> Vec<Value> {
    let files = fs::read_dir(project.path("ws/runs")).unwrap().map(|file| file.unwrap().path());
    let ended = files.filter(|file| !file.to_string_lossy().ends_with(".begun.json"));
    let mut records: Vec<Value> = ended.map(|file| serde_json::from_slice(&fs::read(file).unwrap()).unwrap()).collect();
    records.sort_by_key(|record| record["run"].as_str().unwrap().to_owned());
    records
}

/// The steps of a stage's checkpoints.
fn checkpoints(project: &Project, stage: &str) -> Vec<u64> {
    let folders = |path: &std::path::Path| fs::read_dir(path).into_iter().flatten().flatten().map(|entry| entry.path()).collect::<Vec<_>>();
    let keys = folders(&project.path("ws").join(stage).join("checkpoints"));
    let steps = keys.iter().flat_map(|key| folders(key)).filter(|step| step.join("state").exists());
    steps.filter_map(|step| step.file_name()?.to_str()?.parse().ok()).collect()
}

/// A run that says how far it is in JSON, so that a test may wait for a step.
fn steps_done(project: &Project) -> f64 {
    let gauges = fs::read_to_string(project.path("gauges")).unwrap_or_default();
    let line = gauges.lines().find(|line| line.starts_with("lapo_stage_units{") && line.contains("stage=\"model\""));
    line.and_then(|line| line.rsplit(' ').next()?.parse().ok()).unwrap_or(0.0)
}

#[test]
fn a_training_that_is_stopped_goes_on_from_its_last_step_to_the_same_bytes() {
    let (steps, never) = (["--set", "steps=400"], ["--checkpoint-secs", "3600"]);
    let project = Project::new(6);
    for (signal, code, name) in [("TERM", 143, "SIGTERM"), ("INT", 130, "SIGINT")] {
        let before = checkpoints(&project, "model").into_iter().max().unwrap_or(0);
        _ = fs::remove_file(project.path("gauges"));
        let mut child = project.command(&["run", "pipeline.yaml", "--metrics-file", "gauges"]).args(steps).args(never).spawn().unwrap();
        until("the training began", &mut child, || steps_done(&project) > 0.0);
        let stopped = end(child, signal);
        assert_eq!(stopped.code, code, "{stopped:#?}");
        assert_eq!(stopped.stdout, "");
        assert!(stopped.stderr.contains(&format!("error: stopped by {name}\n  hint: run again")), "{stopped:#?}");
        assert_eq!(records(&project).last().unwrap()["outcome"], format!("stopped by {name}"));
        let after = checkpoints(&project, "model").into_iter().max().expect("a checkpoint");
        assert!(after > before && after <= 400, "it goes on from {before}, and stopped at {after}");
    }
    project.run(&steps).good();
    assert!(checkpoints(&project, "model").is_empty(), "a training that is done needs none");
    let whole = Project::new(6);
    whole.run(&steps).good();
    assert!(results(&project) == results(&whole), "other bytes than those of a run that nobody stopped");
}

#[test]
fn decoding_that_is_stopped_blames_no_video_and_goes_on() {
    let project = Project::new(8);
    // As Ctrl-C on a terminal does: the whole group is told, the processes that decode too.
    let mut command = project.command(&["run", "pipeline.yaml", "--threads", "1"]);
    let mut child = std::os::unix::process::CommandExt::process_group(&mut command, 0).spawn().unwrap();
    until("the first shard was begun", &mut child, || {
        fs::read_dir(project.path("ws/frames/data")).is_ok_and(|mut all| all.next().is_some())
    });
    let group = Command::new("kill").args(["-INT", "--", &format!("-{}", child.id())]).status().unwrap();
    assert!(group.success());
    let stopped = said(child);
    assert_eq!(stopped.code, 130, "{stopped:#?}");
    project.run(&[]).good();
    assert_eq!(project.query("SELECT count(*) AS n FROM rejects")[0]["n"], 0);
    let whole = Project::new(8);
    whole.run(&[]).good();
    assert!(results(&project) == results(&whole));
}
