//! `lapo query`: output formats and files, versions, and errors.

use std::fs;

use crate::project::{CommandOutput, Project};

fn query(project: &Project, sql: &str, more: &[&str]) -> CommandOutput {
    project.lapo(&[&["query", sql, "--workspace", "ws"], more].concat())
}

#[test]
fn rows_are_written_to_the_chosen_file_in_the_chosen_format() {
    let project = Project::new(2);
    project.run(&[]).success();
    let sql =
        "SELECT video, frame_index, latent_code FROM labels ORDER BY video, frame_index LIMIT 3";
    let stdout = |more: &[&str]| query(&project, sql, more).success().stdout;
    for (file, format) in [
        ("a.csv", "csv"),
        ("a.JSON", "json"),
        ("a.jsonl", "jsonl"),
        ("a.ndjson", "ndjson"),
        ("a.txt", "table"),
        ("a", "Table"),
    ] {
        assert_eq!(query(&project, sql, &["--output", file]).success().stdout, "");
        assert_eq!(
            fs::read_to_string(project.path(file)).unwrap(),
            stdout(&["--format", format]),
            "{file}"
        );
        assert!(!project.path(&format!("{file}.part")).exists());
    }
    query(&project, sql, &["--output", "b.csv", "--format", "JSON"]).success();
    assert_eq!(
        fs::read_to_string(project.path("b.csv")).unwrap(),
        stdout(&["--format", "json"]),
        "--format overrides the suffix"
    );
    query(&project, sql, &["-o", "a.parquet"]).success();
    let parquet = fs::read(project.path("a.parquet")).unwrap();
    assert!(parquet.starts_with(b"PAR1") && parquet.ends_with(b"PAR1"));
    assert!(stdout(&["--format", "parquet"]).starts_with("PAR1"), "a pipe takes Parquet");
    assert_eq!(stdout(&["--format", "jsonl"]).lines().count(), 3);
    assert_eq!(stdout(&["--format", "csv", "--limit", "1"]).lines().count(), 2);

    let limited =
        query(&project, "SELECT frame_index FROM frames", &["--limit", "2"]).success().stdout;
    let all = project.query("SELECT count(*) AS n FROM frames")[0]["n"].as_u64().unwrap();
    let last = format!(
        "... {} more rows; print them with --limit {all}, or export all with --format csv",
        all - 2
    );
    assert_eq!(limited.lines().count(), 4);
    assert_eq!(limited.lines().last(), Some(last.as_str()));
    let whole = query(&project, "SELECT frame_index FROM frames", &["--limit", &all.to_string()])
        .success()
        .stdout;
    assert_eq!(whole.lines().count() as u64, all + 1);

    let failed =
        query(&project, "SELECT frame_index / 0 + nothing FROM labels", &["-o", "never.csv"]);
    assert_eq!((failed.code, project.path("never.csv").exists()), (1, false));
}

#[test]
fn at_and_run_choose_the_version_to_read() {
    let project = Project::new(2);
    project.run(&[]).success();
    let videos = |more: &[&str]| {
        query(&project, "SELECT video FROM labels", &[&["--format", "jsonl"], more].concat())
    };
    let runs = fs::read_dir(project.path("ws/runs"))
        .unwrap()
        .map(|entry| entry.unwrap().file_name().into_string().unwrap());
    let run = runs.filter_map(|name| name.strip_suffix(".json").map(str::to_owned)).next().unwrap();
    let newest = videos(&[]).success().stdout;
    assert_eq!(videos(&["--run", &run]).success().stdout, newest);
    assert_eq!(videos(&["--at", "labels=1"]).success().stdout, newest);
    assert_eq!(videos(&["--at", "labels=1", "--at", "frames=1"]).success().stdout, newest);
    assert_eq!(
        query(&project, "SELECT video FROM labels@1", &["--format", "jsonl"]).success().stdout,
        newest
    );
    for (more, message) in [
        (["--at", "labels=9"], "`labels` has no version 9"),
        (["--at", "nothing=1"], "the workspace has no stage `nothing`"),
        (["--run", "nothing"], "the workspace has no record of a run `nothing`"),
        (["--at", "labels"], "expected a stage and its version, such as labels=3"),
        (["--at", "labels=x"], "expected a stage and its version"),
    ] {
        let output = videos(&more);
        assert!(
            output.code != 0 && output.stderr.contains(message),
            "{message}: {}",
            output.stderr
        );
    }
    let output = query(&project, "SELECT motoin FROM labels", &[]);
    assert!(output.stderr.contains("did you mean `motion`?"), "{}", output.stderr);
}

#[test]
fn help_lists_the_formats_of_each_command() {
    let project = Project::new(0);
    for (command, formats) in [
        ("query", vec!["table:", "csv:", "json:", "jsonl:", "parquet:"]),
        ("plan", vec!["table:", "json:"]),
        ("datasets", vec!["table:", "json:"]),
        ("gc", vec!["table:", "json:"]),
        ("bench", vec!["table:", "json:"]),
    ] {
        let help = project.lapo(&[command, "--help"]).success().stdout;
        let text = &help[help.find("--format").unwrap()..];
        let text = &text[..text[8..].find("\n      --").map_or(text.len(), |at| at + 8)];
        let offered: Vec<&str> = text
            .lines()
            .filter_map(|line| line.trim().strip_prefix("- ")?.split(' ').next())
            .collect();
        assert_eq!(offered, formats, "{command}");
    }
    let output = project.lapo(&["gc", "--workspace", "ws", "--format", "csv"]);
    assert!(
        output.code != 0 && output.stderr.contains("[possible values: table, json]"),
        "{}",
        output.stderr
    );
}
