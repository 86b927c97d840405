//! The commands `init`, `completions`, `runs` and `datasets`, and the flags that choose stages,
//! workspaces and verbosity.

use std::fs;

use serde_json::Value;

use crate::project::{PIPELINE, Project};

#[test]
fn init_writes_a_valid_pipeline_and_never_overwrites_a_file() {
    let project = Project::new(4);
    // Quotes, brackets and `${` have a meaning in YAML, in patterns and in variables.
    let folder = "it's [1] ${x} clips";
    fs::rename(project.path("videos"), project.path(folder)).unwrap();
    fs::rename(project.path(folder).join("maze_1_000.mp4"), project.path(folder).join("UPPER.MP4"))
        .unwrap();
    fs::write(project.path(folder).join("notes.txt"), "no video").unwrap();
    let output = project.lapo(&["init", folder, "--output", "new.yaml"]).success();
    assert_eq!(
        output.stdout,
        "new.yaml: a pipeline for 4 videos; run it with: lapo run new.yaml\n"
    );
    assert_eq!(output.stderr, "");
    let text = fs::read_to_string(project.path("new.yaml")).unwrap();
    let checked = project.lapo(&["check", "new.yaml"]).success();
    assert_eq!(checked.stdout, "new.yaml: valid: frames -> dynamics -> labels\n");

    let again = project.lapo(&["init", folder, "--output", "new.yaml"]);
    assert_eq!((again.code, again.stdout.as_str()), (64, ""));
    assert_eq!(
        again.stderr,
        "error: new.yaml already exists and was not overwritten\n  \
         hint: choose another file: --output other.yaml\n"
    );
    assert_eq!(fs::read_to_string(project.path("new.yaml")).unwrap(), text);

    // Run the file as it was written, but with a shorter training and smaller frames.
    fs::write(
        project.path("new.yaml"),
        text.replace("steps: 300", "steps: 3").replace("size: 64", "size: 16"),
    )
    .unwrap();
    let ran = project.lapo(&["run", "new.yaml"]).success();
    assert!(ran.stdout.contains("4 videos (4 new)"), "{ran:#?}");
}

#[test]
fn init_accepts_a_pattern_and_fails_without_videos() {
    let project = Project::new(2);
    let output =
        project.lapo(&["init", "videos/*_001.mp4", "--name", "one", "-o", "one.yaml"]).success();
    assert!(output.stdout.contains("a pipeline for 1 video;"), "{output:#?}");
    let text = fs::read_to_string(project.path("one.yaml")).unwrap();
    assert!(
        text.contains("name: 'one'") && text.contains("videos: ['videos/*_001.mp4']"),
        "{text}"
    );
    fs::create_dir(project.path("empty")).unwrap();
    for nothing in ["empty", "nowhere/*.mp4"] {
        let output = project.lapo(&["init", nothing, "-o", "two.yaml"]);
        assert_eq!(output.code, 64);
        assert!(
            output.stderr.starts_with(&format!(
                "error: found no videos in {nothing}: expected files with the extension 3gp, "
            )),
            "{output:#?}"
        );
        assert!(!project.path("two.yaml").exists());
    }
}

#[test]
fn completion_scripts_contain_commands_and_flags() {
    let project = Project::new(0);
    for shell in ["bash", "zsh", "fish", "elvish", "powershell"] {
        let output = project.lapo(&["completions", shell]).success();
        for word in ["run", "init", "datasets", "checkpoint-secs"] {
            assert!(output.stdout.contains(word), "{shell}: {word} is missing");
        }
    }
    fs::write(project.path("lapo.bash"), project.lapo(&["completions", "bash"]).success().stdout)
        .unwrap();
    let bash = std::process::Command::new("bash").arg("-n").arg(project.path("lapo.bash")).status();
    assert!(bash.is_ok_and(|status| status.success()));
}

#[test]
fn runs_lists_all_runs_or_shows_one() {
    let project = Project::new(2);
    project.run(&[]).success();
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

    let output = project.lapo(&["runs", "--workspace", "ws"]).success();
    let lines: Vec<&str> = output.stdout.lines().collect();
    assert_eq!(lines.len(), 3, "{output:#?}");
    assert!(lines[0].starts_with("run ") && lines[0].ends_with("outcome"), "{output:#?}");
    assert!(lines[1].contains(" test ") && lines[1].ends_with(" done"), "{output:#?}");
    assert!(lines[2].contains("stage "), "{output:#?}");

    let rows: Vec<Value> = serde_json::from_str(
        &project.lapo(&["runs", "--workspace", "ws", "--format", "json"]).success().stdout,
    )
    .unwrap();
    assert_eq!((rows.len(), &rows[0]["tasks"]), (2, &3.into()));
    let started = rows[0]["started"].as_str().unwrap();
    assert!(
        started.len() == 20 && started.ends_with('Z') && started.as_bytes()[10] == b'T',
        "{started}"
    );
    let id = rows[0]["run"].as_str().unwrap();
    let one = project.lapo(&["runs", id, "--workspace", "ws"]).success().stdout;
    assert!(
        one.starts_with(&format!("run: {id}\npipeline: test\n"))
            && one.contains("\nmodel (train_dynamics): 1 tasks new"),
        "{one}"
    );
    let last = project.lapo(&["runs", "--last", "1", "--workspace", "ws"]).success().stdout;
    assert!(last.lines().count() == 2 && !last.contains(id), "{last}");
    let unknown = project.lapo(&["runs", "nothing", "--workspace", "ws"]);
    assert_eq!(
        unknown.stderr,
        "error: no run has an id that starts with `nothing`\n  \
         hint: `lapo runs` lists the newest runs\n"
    );
}

#[test]
fn only_and_until_restrict_a_run_to_some_stages() {
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
        "error: --only frame: the pipeline has no stage `frame`\n  \
         hint: its stages are frames, model, labels\n"
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

    project.run(&["--only", "frames"]).success();
    assert_eq!(versions(), [1, 0, 0]);
    project.run(&["--until", "model"]).success();
    assert_eq!(versions(), [1, 1, 0]);
    project.add(6..8);
    // With the model, a run could label the new frames; `--only frames` must prevent that.
    project.run(&["--only", "frames"]).success();
    assert_eq!(versions(), [2, 1, 0]);
    assert!(!project.path("ws/labels/data").exists());
    project.run(&["--only", "labels"]).success();
    assert_eq!(project.query("SELECT count(DISTINCT video) AS n FROM labels")[0]["n"], 8);
    project.run_changes_nothing(&[]);
}

#[test]
fn lapo_workspace_applies_to_reads_and_not_to_runs() {
    let project = Project::new(2);
    fs::write(
        project.path("other.yaml"),
        PIPELINE.replace("workspace: ws", "workspace: other").replace("name: test", "name: other"),
    )
    .unwrap();
    project.run(&[]).success();
    let with_variable = |args: &[&str]| {
        crate::project::wait(project.command(args).env("LAPO_WORKSPACE", "ws").spawn().unwrap())
    };
    with_variable(&["run", "other.yaml"]).success();
    assert!(project.path("other/labels").is_dir(), "it ran in the workspace of its YAML");
    let planned = with_variable(&["plan", "other.yaml", "--set", "steps=4"]).success();
    assert!(planned.stdout.contains("frames (decode): 0 tasks new"), "{planned:#?}");
    let answer = with_variable(&["query", "SELECT count(*) AS n FROM labels"]).success();
    assert!(answer.stdout.contains('n'), "{answer:#?}");
    assert!(with_variable(&["runs"]).success().stdout.contains(" test "));
}

#[test]
fn an_ambiguous_workspace_is_an_error_that_lists_them() {
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
        project.run(&[]).success();
    }
    let output = project.lapo(&["datasets"]);
    assert_eq!(output.code, 64, "{output:#?}");
    assert_eq!(
        output.stderr,
        "error: found 2 workspaces under runs/: runs/a, runs/b\n  \
         hint: choose one: --workspace runs/a\n"
    );
}

#[test]
fn quiet_prints_nothing_and_verbose_prints_reasons() {
    let project = Project::new(2);
    let quiet = project.run(&["--quiet"]).success();
    assert_eq!(quiet.stderr, "");
    project.add(2..3);
    let verbose = project.run(&["-v"]).success();
    assert!(
        verbose
            .stderr
            .contains("frames: 1 tasks to do, 1 re-used; new because of new videos (1)\n"),
        "{verbose:#?}"
    );
    assert_eq!(project.run(&["-q", "-v"]).code, 64);
}

#[test]
fn only_the_long_help_shows_the_cache_flags() {
    let project = Project::new(0);
    let [short, long] =
        ["-h", "--help"].map(|flag| project.lapo(&["query", flag]).success().stdout);
    assert!(!short.contains("--cache") && long.contains("--cache-gib"), "{short}\n{long}");
}
