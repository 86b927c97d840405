//! How a process ends: exit codes, closed output streams, signals.

use std::fs;
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use serde_json::Value;

use crate::kill_and_resume::results;
use crate::project::{CommandOutput, PIPELINE, Project, wait};

#[test]
fn usage_errors_exit_with_64_and_help_with_0() {
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
        let output = project.lapo(args);
        assert_eq!((output.code, output.stdout.as_str()), (64, ""), "{args:?}: {output:#?}");
        assert!(!output.stderr.is_empty(), "{args:?}");
    }
    for args in [&["--help"][..], &["run", "--help"], &["-V"], &["--version"]] {
        let output = project.lapo(args).success();
        assert!(
            output.stdout.starts_with("lapo") || output.stdout.contains("Usage: lapo"),
            "{output:#?}"
        );
        assert_eq!(output.stderr, "");
    }
}

#[test]
fn permanent_errors_exit_with_1_and_temporary_ones_with_75() {
    let project = Project::new(1);
    assert_eq!(project.lapo(&["run", "no.yaml"]).code, 1);
    fs::write(project.path("pipeline.yaml"), PIPELINE.replace("16", "17")).unwrap();
    assert_eq!(project.run(&[]).code, 1);
    fs::write(
        project.path("pipeline.yaml"),
        PIPELINE.replace("workspace: ws", "workspace: s3://bucket/ws"),
    )
    .unwrap();
    let mut command = project.command(&["run", "pipeline.yaml"]);
    // Nothing listens at port 1.
    let closed_port = [
        ("AWS_ENDPOINT_URL", "http://127.0.0.1:1"),
        ("AWS_REGION", "x"),
        ("AWS_ACCESS_KEY_ID", "x"),
        ("AWS_SECRET_ACCESS_KEY", "x"),
    ];
    let unreachable =
        wait(command.envs(closed_port).env("AWS_ALLOW_HTTP", "true").spawn().unwrap());
    assert_eq!(unreachable.code, 75, "{unreachable:#?}");
}

#[test]
fn version_shows_the_commit_features_and_libav() {
    let output = Project::new(0).lapo(&["--version"]).success();
    let lines: Vec<&str> = output.stdout.lines().collect();
    let [first, features, libav] = lines[..] else { panic!("{output:#?}") };
    assert!(first.starts_with(&format!("lapo {} (", env!("CARGO_PKG_VERSION"))), "{first}");
    assert!(features.starts_with("features: ") && libav.starts_with("libavcodec: "), "{output:#?}");
    let git = Command::new("git")
        .args(["-C", env!("CARGO_MANIFEST_DIR"), "rev-parse", "--verify", "HEAD"])
        .output();
    let commit = first.split(['(', ')']).nth(1).unwrap().trim_end_matches("-dirty");
    if git.is_ok_and(|git| git.status.success()) {
        assert!(commit.len() >= 7 && commit.chars().all(|c| c.is_ascii_hexdigit()), "{commit}");
    } else {
        assert_eq!(commit, "unknown");
    }
}

/// Runs a shell line in the project's folder; `$LAPO` is the binary.
fn shell(project: &Project, line: &str) -> CommandOutput {
    let mut command = Command::new("bash");
    command
        .args(["-c", line])
        .current_dir(project.folder.path())
        .env("LAPO", env!("CARGO_BIN_EXE_lapo"));
    wait(
        command.stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().unwrap(),
    )
}

#[test]
fn a_run_succeeds_when_stderr_is_closed() {
    for (what, line) in [
        ("a reader of one line", "\"$LAPO\" run pipeline.yaml 2> >(head -1 >&2)"),
        (
            "a reader of both streams",
            "{ \"$LAPO\" run pipeline.yaml; echo $? > code; } 2>&1 | head -1; exit $(cat code)",
        ),
        ("no stderr", "\"$LAPO\" run pipeline.yaml 2>&-"),
        ("a full disk", "\"$LAPO\" run pipeline.yaml 2> /dev/full"),
        ("a full disk and JSON logs", "\"$LAPO\" run pipeline.yaml --log-format json 2> /dev/full"),
        (
            "an error on a full disk, then a run",
            "\"$LAPO\" run no.yaml 2> /dev/full; test $? = 1 && \"$LAPO\" run pipeline.yaml",
        ),
    ] {
        let project = Project::new(2);
        let output = shell(&project, line);
        assert_eq!(output.code, 0, "{what}: {output:#?}");
        assert!(
            project.run(&[]).success().stdout.starts_with("0 tasks"),
            "{what}: the run was complete"
        );
    }
}

#[test]
fn a_command_ends_silently_when_the_reader_of_stdout_is_gone() {
    let project = Project::new(2);
    project.run(&[]).success();
    for listing in [
        "query 'SELECT * FROM labels' --workspace ws",
        "datasets --workspace ws",
        "schema",
        "--help",
        "runs --workspace ws",
    ] {
        let output = shell(&project, &format!("set -o pipefail; \"$LAPO\" {listing} | true"));
        assert_eq!((output.code, output.stderr.as_str()), (0, ""), "{listing}");
    }
    let output = shell(&project, "\"$LAPO\" datasets --workspace ws > /dev/full");
    assert_eq!(output.code, 1, "{output:#?}");
    assert!(output.stderr.starts_with("error: cannot write stdout: "), "{output:#?}");
}

/// Waits until a condition holds, while the child runs.
fn wait_until(what: &str, child: &mut Child, mut holds: impl FnMut() -> bool) {
    let begun = Instant::now();
    while !holds() {
        assert!(child.try_wait().unwrap().is_none(), "the run ended before {what}");
        assert!(begun.elapsed() < Duration::from_secs(120), "{what}: not within two minutes");
        std::thread::sleep(Duration::from_millis(5));
    }
}

/// Sends a signal, and waits for the child to end.
fn send_signal(child: Child, signal: &str) -> CommandOutput {
    let killed =
        Command::new("kill").args([format!("-{signal}"), child.id().to_string()]).status().unwrap();
    assert!(killed.success());
    wait_a_minute(child)
}

/// Waits for the child to end, for at most a minute.
fn wait_a_minute(mut child: Child) -> CommandOutput {
    let begun = Instant::now();
    while child.try_wait().unwrap().is_none() {
        if begun.elapsed() > Duration::from_secs(60) {
            child.kill().unwrap();
            panic!("the process did not end within a minute");
        }
        std::thread::sleep(Duration::from_millis(5));
    }
    wait(child)
}

/// Returns the outcomes of the project's runs.
fn outcomes(project: &Project) -> Vec<String> {
    let files = fs::read_dir(project.path("ws/runs"))
        .unwrap()
        .map(|file| fs::read(file.unwrap().path()).unwrap());
    // The file of a run that has not ended has no outcome.
    let outcome = |bytes: Vec<u8>| {
        Some(serde_json::from_slice::<Value>(&bytes).unwrap()["outcome"].as_str()?.to_owned())
    };
    files.filter_map(outcome).collect()
}

/// Returns the steps of a stage's checkpoints.
fn checkpoints(project: &Project, stage: &str) -> Vec<u64> {
    let folders = |path: &std::path::Path| {
        fs::read_dir(path)
            .into_iter()
            .flatten()
            .flatten()
            .map(|entry| entry.path())
            .collect::<Vec<_>>()
    };
    let keys = folders(&project.path("ws").join(stage).join("checkpoints"));
    let steps = keys.iter().flat_map(|key| folders(key)).filter(|step| step.join("state").exists());
    steps.filter_map(|step| step.file_name()?.to_str()?.parse().ok()).collect()
}

/// Returns whether a run with `--metrics-file gauges` has begun a stage.
fn has_begun(project: &Project, stage: &str) -> bool {
    let gauges = fs::read_to_string(project.path("gauges")).unwrap_or_default();
    gauges.lines().any(|line| {
        line.starts_with("lapo_stage_units{") && line.contains(&format!("stage=\"{stage}\""))
    })
}

#[test]
fn a_stopped_training_resumes_from_its_checkpoint_to_the_same_bytes() {
    let steps = ["--set", "steps=1500"];
    let project = Project::new(6);
    for (signal, code, name) in [("TERM", 143, "SIGTERM"), ("INT", 130, "SIGINT")] {
        let before = checkpoints(&project, "model").into_iter().max().unwrap_or(0);
        let log = || fs::read_to_string(project.path("log")).unwrap();
        let mut command = project.command(&[
            "run",
            "pipeline.yaml",
            "--checkpoint-secs",
            "3600",
            "--log-format",
            "json",
            "--verbose",
        ]);
        let stderr = fs::File::create(project.path("log")).unwrap();
        let mut child = command.args(steps).stderr(stderr).spawn().unwrap();
        wait_until("the first second of the training", &mut child, || {
            log().lines().any(|line| {
                line.contains("\"event\":\"progress\"") && line.contains("\"stage\":\"model\"")
            })
        });
        let stopped = send_signal(child, signal);
        assert_eq!((stopped.code, stopped.stdout.as_str()), (code, ""), "{}", log());
        assert!(
            log().contains(&format!("\"message\":\"stopped by {name}\",\"hint\":\"run again")),
            "{}",
            log()
        );
        assert!(
            outcomes(&project).contains(&format!("stopped by {name}")),
            "{:?}",
            outcomes(&project)
        );
        let after = checkpoints(&project, "model").into_iter().max().expect("a checkpoint");
        assert!(after > before && after < 1500, "resumed from {before}, stopped at {after}");
    }
    project.run(&steps).success();
    assert!(checkpoints(&project, "model").is_empty(), "a finished training has no checkpoints");
    let whole = Project::new(6);
    whole.run(&steps).success();
    assert!(results(&project) == results(&whole), "the bytes differ from an uninterrupted run");
}

#[test]
fn stopped_decoding_rejects_no_video_and_resumes() {
    let project = Project::new(8);
    // Ctrl-C on a terminal signals the whole process group, including the decoders.
    let mut command = project.command(&["run", "pipeline.yaml", "--threads", "1"]);
    let mut child =
        std::os::unix::process::CommandExt::process_group(&mut command, 0).spawn().unwrap();
    wait_until("the first shard was begun", &mut child, || {
        fs::read_dir(project.path("ws/frames/data")).is_ok_and(|mut all| all.next().is_some())
    });
    let group =
        Command::new("kill").args(["-INT", "--", &format!("-{}", child.id())]).status().unwrap();
    assert!(group.success());
    let stopped = wait(child);
    assert_eq!(stopped.code, 130, "{stopped:#?}");
    project.run(&[]).success();
    assert_eq!(project.query("SELECT count(*) AS n FROM rejects")[0]["n"], 0);
    let whole = Project::new(8);
    whole.run(&[]).success();
    assert!(results(&project) == results(&whole));
}

#[test]
fn action_decoders_trained_before_a_stop_are_not_trained_again() {
    let more = "  decoder: { train_decoder: { labels: labels, actions: actions, \
                transitions: [8, 16, 32], draws: 2, steps: 600 } }\n";
    let new = || {
        let project = crate::actions::project(9, "actions.parquet", "");
        let yaml = fs::read_to_string(project.path("pipeline.yaml")).unwrap() + more;
        fs::write(project.path("pipeline.yaml"), yaml).unwrap();
        project
    };
    let project = new();
    let mut child =
        project.command(&["run", "pipeline.yaml", "--metrics-file", "gauges"]).spawn().unwrap();
    wait_until("decoders are trained", &mut child, || has_begun(&project, "decoder"));
    // Stop somewhere within the six trainings.
    std::thread::sleep(Duration::from_millis(300));
    assert_eq!(send_signal(child, "TERM").code, 143);
    assert_eq!(checkpoints(&project, "decoder").len(), 1);
    project.run(&[]).success();
    assert!(checkpoints(&project, "decoder").is_empty());
    let whole = new();
    whole.run(&[]).success();
    for name in [".safetensors", "curve.parquet"] {
        assert!(project.files("decoder", name) == whole.files("decoder", name), "{name}");
    }
}

#[test]
fn a_second_signal_ends_a_waiting_process() {
    let project = Project::new(1);
    if !crate::decoder_crashes::add_long_video(&project) {
        return;
    }
    let mut child = project.command(&["run", "pipeline.yaml", "--threads", "1"]).spawn().unwrap();
    let decoder = crate::decoder_crashes::signal_decoder(&child, "maze_1_001_long.mp4", "-STOP");
    let run = child.id().to_string();
    crate::decoder_crashes::kill(&run, "-TERM");
    std::thread::sleep(Duration::from_millis(200));
    if child.try_wait().unwrap().is_none() {
        crate::decoder_crashes::kill(&run, "-TERM");
    }
    let ended = wait_a_minute(child);
    crate::decoder_crashes::kill(&decoder, "-KILL");
    assert_eq!(ended.code, 143, "{ended:#?}");
    project.run(&[]).success();
}
