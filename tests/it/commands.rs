//! The commands beside `run`: each by its whole transcript, or by what people do with it next.

use std::fs;

use serde_json::Value;

use crate::project::{PIPELINE, Project};

#[test]
fn init_writes_a_pipeline_that_checks_runs_and_is_not_overwritten() {
    let project = Project::new(4);
    // A name that YAML, patterns and variables could take for something else.
    let folder = "it's [1] ${x} clips";
    fs::rename(project.path("videos"), project.path(folder)).unwrap();
    fs::rename(project.path(folder).join("maze_1_000.mp4"), project.path(folder).join("UPPER.MP4"))
        .unwrap();
    fs::write(project.path(folder).join("notes.txt"), "no video").unwrap();
    let said = project.lapo(&["init", folder, "--output", "new.yaml"]).good();
    assert_eq!(said.stdout, "new.yaml: a pipeline for 4 videos; now: lapo run new.yaml\n");
    assert_eq!(said.stderr, "");
    let text = fs::read_to_string(project.path("new.yaml")).unwrap();
    let checked = project.lapo(&["check", "new.yaml"]).good();
    assert_eq!(checked.stdout, "new.yaml: good: frames -> dynamics -> labels\n");

    let again = project.lapo(&["init", folder, "--output", "new.yaml"]);
    assert_eq!((again.code, again.stdout.as_str()), (64, ""));
    assert_eq!(
        again.stderr,
        "error: new.yaml is there already, and left as it is\n  hint: name another file: --output other.yaml\n"
    );
    assert_eq!(fs::read_to_string(project.path("new.yaml")).unwrap(), text);

    // Shorter, and otherwise as it was written.
    fs::write(
        project.path("new.yaml"),
        text.replace("steps: 300", "steps: 3").replace("size: 64", "size: 16"),
    )
    .unwrap();
    let ran = project.lapo(&["run", "new.yaml"]).good();
    assert!(ran.stdout.contains("4 videos (4 new)"), "{ran:#?}");
}

#[test]
fn init_takes_a_pattern_and_says_where_no_video_is() {
    let project = Project::new(2);
    let said =
        project.lapo(&["init", "videos/*_001.mp4", "--name", "one", "-o", "one.yaml"]).good();
    assert!(said.stdout.contains("a pipeline for 1 videos"), "{said:#?}");
    let text = fs::read_to_string(project.path("one.yaml")).unwrap();
    assert!(
        text.contains("name: 'one'") && text.contains("videos: ['videos/*_001.mp4']"),
        "{text}"
    );
    fs::create_dir(project.path("empty")).unwrap();
    for nothing in ["empty", "nowhere/*.mp4"] {
        let said = project.lapo(&["init", nothing, "-o", "two.yaml"]);
        assert_eq!(said.code, 64);
        assert!(
            said.stderr.starts_with(&format!(
                "error: no video in {nothing}: expected files that end in 3gp, "
            )),
            "{said:#?}"
        );
        assert!(!project.path("two.yaml").exists());
    }
}

#[test]
fn completions_are_scripts_that_know_every_command() {
    let project = Project::new(0);
    for shell in ["bash", "zsh", "fish", "elvish", "powershell"] {
        let said = project.lapo(&["completions", shell]).good();
        for word in ["run", "init", "datasets", "checkpoint-secs"] {
            assert!(said.stdout.contains(word), "{shell} does not know {word}");
        }
    }
    fs::write(project.path("lapo.bash"), project.lapo(&["completions", "bash"]).good().stdout)
        .unwrap();
    let bash = std::process::Command::new("bash").arg("-n").arg(project.path("lapo.bash")).status();
    assert!(bash.is_ok_and(|status| status.success()));
}

#[test]
fn runs_are_listed_and_one_is_shown() {
    let project = Project::new(2);
    project.run(&[]).good();
    assert_eq!(project.run(&["--set", "steps=5", "--metrics-file", "nowhere/gauges"]).code, 1);
    fs::write(project.path("videos/maze_1_000.mp4"), "no video\n".repeat(50)).unwrap();
    fs::write(project.path("videos/maze_1_001.mp4"), "no video either\n".repeat(50)).unwrap();
    fs::write(
        project.path("pipeline.yaml"),
        PIPELINE.replace("videos_per_shard: 4", "videos_per_shard: 4, max_rejected: 0.1"),
    )
    .unwrap();
    let failed = project.run(&["--max-dropped", "1"]);
    assert_eq!(failed.code, 1, "{failed:#?}");

    let said = project.lapo(&["runs", "--workspace", "ws"]).good();
    let lines: Vec<&str> = said.stdout.lines().collect();
    assert_eq!(lines.len(), 3, "{said:#?}");
    assert!(lines[0].starts_with("run ") && lines[0].ends_with("outcome"), "{said:#?}");
    assert!(lines[1].contains(" test ") && lines[1].ends_with(" done"), "{said:#?}");
    assert!(lines[2].contains("stage "), "{said:#?}");

    let rows: Vec<Value> = serde_json::from_str(
        &project.lapo(&["runs", "--workspace", "ws", "--format", "json"]).good().stdout,
    )
    .unwrap();
    assert_eq!((rows.len(), &rows[0]["tasks"]), (2, &3.into()));
    let started = rows[0]["started"].as_str().unwrap();
    assert!(
        started.len() == 20 && started.ends_with('Z') && started.as_bytes()[10] == b'T',
        "{started}"
    );
    let id = rows[0]["run"].as_str().unwrap();
    let one = project.lapo(&["runs", id, "--workspace", "ws"]).good().stdout;
    assert!(
        one.starts_with(&format!("run: {id}\npipeline: test\n"))
            && one.contains("\nmodel (train_dynamics): 1 tasks new"),
        "{one}"
    );
    let last = project.lapo(&["runs", "--last", "1", "--workspace", "ws"]).good().stdout;
    assert!(last.lines().count() == 2 && !last.contains(id), "{last}");
    let unknown = project.lapo(&["runs", "nothing", "--workspace", "ws"]);
    assert_eq!(
        unknown.stderr,
        "error: no run begins with `nothing`\n  hint: `lapo runs` lists the newest ones\n"
    );
}

#[test]
fn a_run_does_only_the_stages_that_are_asked_for() {
    let project = Project::new(6);
    let versions = || {
        ["frames", "model", "labels"].map(|stage| {
            fs::read_dir(project.path("ws").join(stage).join("manifests"))
                .map_or(0, Iterator::count)
        })
    };
    let wrong = project.run(&["--only", "frame"]);
    assert_eq!((wrong.code, wrong.stdout.as_str()), (64, ""));
    assert_eq!(
        wrong.stderr,
        "error: --only frame: the pipeline has no such stage\n  hint: its stages are frames, model, labels\n"
    );
    assert_eq!(project.run(&["--only", "frames", "--until", "model"]).code, 64);

    let waits = project.run(&["--only", "labels"]);
    assert_eq!(waits.code, 1, "{waits:#?}");
    assert!(
        waits.stderr.contains("waits for stages that are left out")
            && waits.stderr.contains("--until labels"),
        "{waits:#?}"
    );
    assert_eq!(versions(), [0, 0, 0]);

    project.run(&["--only", "frames"]).good();
    assert_eq!(versions(), [1, 0, 0]);
    project.run(&["--until", "model"]).good();
    assert_eq!(versions(), [1, 1, 0]);
    project.add(6..8);
    // The model is there, so that labels would be made beside the frames; nobody asked for them.
    project.run(&["--only", "frames"]).good();
    assert_eq!(versions(), [2, 1, 0]);
    assert!(!project.path("ws/labels/data").exists());
    project.run(&["--only", "labels"]).good();
    assert_eq!(project.query("SELECT count(DISTINCT video) AS n FROM labels")[0]["n"], 8);
    project.run_changes_nothing(&[]);
}

#[test]
fn the_environment_chooses_what_is_read_and_never_where_a_run_writes() {
    let project = Project::new(2);
    fs::write(
        project.path("other.yaml"),
        PIPELINE.replace("workspace: ws", "workspace: other").replace("name: test", "name: other"),
    )
    .unwrap();
    project.run(&[]).good();
    let elsewhere = |args: &[&str]| {
        crate::project::said(project.command(args).env("LAPO_WORKSPACE", "ws").spawn().unwrap())
    };
    elsewhere(&["run", "other.yaml"]).good();
    assert!(project.path("other/labels").is_dir(), "it ran where its YAML says");
    let planned = elsewhere(&["plan", "other.yaml", "--set", "steps=4"]).good();
    assert!(planned.stdout.contains("frames (decode): 0 tasks new"), "{planned:#?}");
    let asked = elsewhere(&["query", "SELECT count(*) AS n FROM labels"]).good();
    assert!(asked.stdout.contains('n'), "{asked:#?}");
    assert!(elsewhere(&["runs"]).good().stdout.contains(" test "));
}

#[test]
fn several_workspaces_are_named_where_one_must_be_chosen() {
    let project = Project::new(1);
    for name in ["a", "b"] {
        let text = PIPELINE
            .replace("workspace: ws", &format!("workspace: runs/{name}"))
            .replace("holdout: 3", "holdout: 0");
        fs::write(
            project.path("pipeline.yaml"),
            text.replace("name: test", &format!("name: {name}")),
        )
        .unwrap();
        project.run(&[]).good();
    }
    let said = project.lapo(&["datasets"]);
    assert_eq!(said.code, 64, "{said:#?}");
    assert_eq!(
        said.stderr,
        "error: 2 workspaces under runs/: runs/a, runs/b\n  hint: name one: --workspace runs/a\n"
    );
}

#[test]
fn quiet_tells_nothing_and_verbose_tells_why() {
    let project = Project::new(2);
    let quiet = project.run(&["--quiet"]).good();
    assert_eq!(quiet.stderr, "");
    project.add(2..3);
    let verbose = project.run(&["-v"]).good();
    assert!(
        verbose
            .stderr
            .contains("frames: 1 tasks to do, 1 re-used; new because of new videos (1)\n"),
        "{verbose:#?}"
    );
    assert_eq!(project.run(&["-q", "-v"]).code, 64);
}

#[test]
fn help_has_the_cache_only_where_all_is_told() {
    let project = Project::new(0);
    let [short, long] = ["-h", "--help"].map(|flag| project.lapo(&["query", flag]).good().stdout);
    assert!(!short.contains("--cache") && long.contains("--cache-gib"), "{short}\n{long}");
}
