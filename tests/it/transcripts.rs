//! Output of commands: exit code, stdout and stderr.
//!
//! The pages in `transcripts/` are whole transcripts. Each has a project of its own. Below a command
//! stand `? CODE` unless it is 0, the lines of stdout, and those of stderr after `| `. What differs
//! from run to run is filtered. `LAPO_WRITE_TRANSCRIPTS=1` writes the pages anew: read the diff.

use std::fs;
use std::path::{Path, PathBuf};

use regex::Regex;

use crate::project::{CommandOutput, PIPELINE, Project, wait};

#[test]
fn commands_print_their_transcripts() {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/it/transcripts");
    let mut pages: Vec<PathBuf> =
        fs::read_dir(folder).unwrap().map(|page| page.unwrap().path()).collect();
    pages.sort();
    assert!(pages.len() >= 6);
    for page in pages {
        let expected = fs::read_to_string(&page).unwrap();
        let printed = transcript(&expected);
        if std::env::var_os("LAPO_WRITE_TRANSCRIPTS").is_some() {
            fs::write(&page, &printed).unwrap();
            continue;
        }
        let differs = printed.lines().zip(expected.lines()).find(|(now, before)| now != before);
        assert!(
            printed == expected,
            "{} differs, first at {differs:#?}\nprinted:\n{printed}",
            page.display()
        );
    }
}

/// Runs the commands of a page in a new project. Returns the page with what they print.
fn transcript(page: &str) -> String {
    let project = Project::new(6);
    let filters = filters(&project);
    let mut written = String::new();
    let mut is_console = false;
    for line in page.lines() {
        if line.starts_with("```") {
            is_console = line == "```console";
        } else if is_console {
            let Some(command) = line.strip_prefix("$ ") else { continue };
            written += &format!("{line}\n");
            written += &printed(&run(&project, command), &filters);
            continue;
        }
        written += &format!("{line}\n");
    }
    written
}

fn run(project: &Project, command: &str) -> CommandOutput {
    let lapo = Path::new(env!("CARGO_BIN_EXE_lapo")).parent().unwrap();
    let path = format!("{}:{}", lapo.display(), std::env::var("PATH").unwrap());
    let mut shell = std::process::Command::new("sh");
    shell.args(["-c", command]).current_dir(project.folder.path()).env("PATH", path);
    shell.env("LAPO_WORKSPACE", "ws").env_remove("LAPO_PROCGEN").env("COLUMNS", "100");
    shell.stdin(std::process::Stdio::null());
    shell.stdout(std::process::Stdio::piped()).stderr(std::process::Stdio::piped());
    wait(shell.spawn().unwrap())
}

/// Returns the text that stands below a command.
fn printed(output: &CommandOutput, filters: &[(Regex, &str)]) -> String {
    let mut text = String::new();
    if output.code != 0 {
        text += &format!("? {}\n", output.code);
    }
    for line in output.stdout.lines() {
        text += &format!("{line}\n");
    }
    for line in output.stderr.lines() {
        text += &format!("| {line}\n");
    }
    for (pattern, replacement) in filters {
        text = pattern.replace_all(&text, *replacement).into_owned();
    }
    text.lines().map(|line| format!("{}\n", line.trim_end())).collect()
}

/// Returns patterns of what differs from run to run or from machine to machine.
fn filters(project: &Project) -> Vec<(Regex, &'static str)> {
    let folder = regex::escape(&project.folder.path().display().to_string());
    [
        (folder.as_str(), "[folder]"),
        (r"\b[0-9a-f]{16,64}\b", "[digest]"),
        (r"\d{4}-\d\d-\d\d[T ]\d\d:\d\d(:\d\d)?(\.\d+)?Z?", "[date]"),
        (r"lapo \d+\.\d+\.\d+ \([^)]*\)", "lapo [version]"),
        // Rates of work that took no measurable time are left out.
        (r"\b[\d.,]+ frames/s decoded[,;] ", ""),
        (r"\b[\d.,]+ transitions/s labelled; ", ""),
        (r"\b\d+(\.\d+)? ?(ms|s|min)\b", "[time]"),
        (r"\b[\d.,]+ ([KMGT]i)?B\b", "[size]"),
        (r"\b\d+ bytes\b", "[size]"),
        (r"-?\b\d+\.\d+(e-?\d+)?", "[number]"),
        (r"process \d+", "process [id]"),
        // Columns are as wide as what was filtered.
        (r"  +", "  "),
    ]
    .map(|(pattern, replacement)| (Regex::new(pattern).unwrap(), replacement))
    .into()
}

#[test]
fn all_faults_of_a_pipeline_are_reported_at_once_and_nothing_is_written() {
    let project = Project::new(1);
    let text = "name: x
workspace: ws
stagess: 3
stages:
  frames: { decode: { videos: ['nowhere/*.mp4'], sise: 64, fps: fast } }
  model: { train_dynamic: { frames: frames } }
";
    fs::write(project.path("pipeline.yaml"), text).unwrap();
    let output = project.run(&[]);
    assert_eq!(output.code, 1);
    assert_eq!(output.stdout, "");
    assert_eq!(
        output.stderr,
        "errors:
pipeline.yaml:3:1: stagess: unknown key `stagess`
  hint: did you mean `stages`?
pipeline.yaml:5:50: stages.frames.decode.sise: unknown key `sise`
  hint: did you mean `size`?
pipeline.yaml:5:65: stages.frames.decode.fps: invalid type: string \"fast\", expected f64
pipeline.yaml:6:12: stages.model.train_dynamic: `train_dynamic` is not a kind of stage
  hint: did you mean `train_dynamics`?
"
    );
    assert!(!project.path("ws").exists());
}

#[test]
fn wrong_inputs_and_cycles_are_reported_at_once() {
    let project = Project::new(1);
    let text = "name: x
workspace: ws
stages:
  frames: { decode: { videos: ['nowhere/*.mp4'] } }
  model: { train_dynamics: { frames: labels } }
  labels: { label: { frames: frame, dynamics: model } }
  other: { label: { frames: labels, dynamics: other } }
";
    fs::write(project.path("pipeline.yaml"), text).unwrap();
    let output = project.lapo(&["check", "pipeline.yaml"]);
    assert_eq!(output.code, 1);
    for part in [
        "pipeline.yaml:4:32: stages.frames.decode.videos.0: no video matches nowhere/*.mp4\n  \
         hint: patterns are relative to the current folder, ",
        "pipeline.yaml:5:38: stages.model.train_dynamics.frames: `labels` is a `label` stage, \
         expected one that makes frames\n  hint: stages that make frames: frames",
        "pipeline.yaml:6:30: stages.labels.label.frames: there is no stage `frame`\n  \
         hint: did you mean `frames`?",
        "a cycle: model -> labels -> model",
        "a cycle: other -> other",
    ] {
        assert!(output.stderr.contains(part), "{part}\nis not in\n{}", output.stderr);
    }
}

#[test]
fn an_unreadable_workspace_and_a_missing_pipeline_are_errors() {
    let project = Project::new(1);
    fs::write(
        project.path("pipeline.yaml"),
        PIPELINE.replace("workspace: ws", "workspace: pipeline.yaml"),
    )
    .unwrap();
    let output = project.run(&[]);
    assert_eq!(output.code, 1);
    assert!(
        output
            .stderr
            .starts_with("errors:\npipeline.yaml:3:12: workspace: cannot read pipeline.yaml: "),
        "{output:#?}"
    );
    let output = project.lapo(&["run", "no.yaml"]);
    assert_eq!(
        (output.code, output.stderr.lines().next().unwrap()),
        (1, "error: cannot read no.yaml: No such file or directory (os error 2)")
    );
}

#[test]
fn a_run_prints_one_summary_line_and_its_data_can_be_queried() {
    let project = Project::new(5);
    let output = project.run(&[]).success();
    assert_eq!(output.stdout.lines().count(), 1, "{output:#?}");
    assert!(output.stderr.contains("the world model's error is"), "{output:#?}");
    let rows = project.query(
        "SELECT video, count(*) AS n, avg(fdm_error) FROM labels \
         GROUP BY video ORDER BY n DESC LIMIT 3",
    );
    assert_eq!(rows.as_array().unwrap().len(), 3);
    let table = project.lapo(&["query", "SELECT * FROM rejects", "--workspace", "ws"]).success();
    assert!(table.stdout.contains("frames_kept"), "{table:#?}");
    let datasets = project.lapo(&["datasets", "--workspace", "ws"]).success();
    assert_eq!(datasets.stdout.lines().count(), 4, "{datasets:#?}");
    let wrong = project.lapo(&["query", "SELECT * FROM label", "--workspace", "ws"]);
    assert_eq!(wrong.code, 1);
    assert!(wrong.stderr.contains("labels"), "{wrong:#?}");
}

#[test]
fn doctor_checks_video_games_device_and_memory() {
    let output = Project::new(0).lapo(&["doctor"]).success();
    assert!(output.stdout.contains("games: "), "{output:#?}");
    let wrong = Project::new(0).lapo(&["doctor", "--procgen", "/nowhere"]);
    assert!(
        wrong.code == 1
            && wrong.stdout.contains(
                "FAIL  games: cannot find the Procgen library (searched /nowhere); \
                 install it with `python3"
            ),
        "{wrong:#?}"
    );
    for word in ["libav", "h264", "device", "memory"] {
        assert!(output.stdout.contains(word), "{word}: {output:#?}");
    }
}
