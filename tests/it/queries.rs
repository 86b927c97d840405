//! `lapo query`: output formats and files, versions, and errors.

use std::fs;

use crate::project::{Project, Said};

fn query(project: &Project, sql: &str, more: &[&str]) -> Said {
    project.lapo(&[&["query", sql, "--workspace", "ws"], more].concat())
}

#[test]
fn rows_are_written_to_the_chosen_file_in_the_chosen_format() {
    let project = Project::new(2);
    project.run(&[]).good();
    let sql =
        "SELECT video, frame_index, latent_code FROM labels ORDER BY video, frame_index LIMIT 3";
    let stdout = |more: &[&str]| query(&project, sql, more).good().stdout;
    for (file, format) in [
        ("a.csv", "csv"),
        ("a.JSON", "json"),
        ("a.jsonl", "jsonl"),
        ("a.ndjson", "ndjson"),
        ("a.txt", "table"),
        ("a", "Table"),
    ] {
        assert_eq!(query(&project, sql, &["--output", file]).good().stdout, "");
        assert_eq!(
            fs::read_to_string(project.path(file)).unwrap(),
            stdout(&["--format", format]),
            "{file}"
        );
        assert!(!project.path(&format!("{file}.part")).exists());
    }
    query(&project, sql, &["--output", "b.csv", "--format", "JSON"]).good();
    assert_eq!(
        fs::read_to_string(project.path("b.csv")).unwrap(),
        stdout(&["--format", "json"]),
        "--format overrides the suffix"
    );
    query(&project, sql, &["-o", "a.parquet"]).good();
    let parquet = fs::read(project.path("a.parquet")).unwrap();
    assert!(parquet.starts_with(b"PAR1") && parquet.ends_with(b"PAR1"));
    assert!(stdout(&["--format", "parquet"]).starts_with("PAR1"), "a pipe takes Parquet");
    assert_eq!(stdout(&["--format", "jsonl"]).lines().count(), 3);
    assert_eq!(stdout(&["--format", "csv", "--limit", "1"]).lines().count(), 2);

    let limited =
        query(&project, "SELECT frame_index FROM frames", &["--limit", "2"]).good().stdout;
    let all = project.query("SELECT count(*) AS n FROM frames")[0]["n"].as_u64().unwrap();
    let last = format!(
        "... {} more rows; print them with --limit {all}, or export all with --format csv",
        all - 2
    );
    assert_eq!(limited.lines().count(), 4);
    assert_eq!(limited.lines().last(), Some(last.as_str()));
    let whole = query(&project, "SELECT frame_index FROM frames", &["--limit", &all.to_string()])
        .good()
        .stdout;
    assert_eq!(whole.lines().count() as u64, all + 1);

    let failed =
        query(&project, "SELECT frame_index / 0 + nothing FROM labels", &["-o", "never.csv"]);
    assert_eq!((failed.code, project.path("never.csv").exists()), (1, false));
}

#[test]
fn at_and_run_choose_the_version_to_read() {
    let project = Project::new(2);
    project.run(&[]).good();
    let videos = |more: &[&str]| {
        query(&project, "SELECT video FROM labels", &[&["--format", "jsonl"], more].concat())
    };
    let runs = fs::read_dir(project.path("ws/runs"))
        .unwrap()
        .map(|entry| entry.unwrap().file_name().into_string().unwrap());
    let run = runs.filter_map(|name| name.strip_suffix(".json").map(str::to_owned)).next().unwrap();
    let newest = videos(&[]).good().stdout;
    assert_eq!(videos(&["--run", &run]).good().stdout, newest);
    assert_eq!(videos(&["--at", "labels=1"]).good().stdout, newest);
    assert_eq!(videos(&["--at", "labels=1", "--at", "frames=1"]).good().stdout, newest);
    assert_eq!(
        query(&project, "SELECT video FROM labels@1", &["--format", "jsonl"]).good().stdout,
        newest
    );
    for (more, message) in [
        (["--at", "labels=9"], "`labels` has no version 9"),
        (["--at", "nothing=1"], "the workspace has no stage `nothing`"),
        (["--run", "nothing"], "the workspace has no record of a run `nothing`"),
        (["--at", "labels"], "expected a stage and its version, such as labels=3"),
        (["--at", "labels=x"], "expected a stage and its version"),
    ] {
        let said = videos(&more);
        assert!(said.code != 0 && said.stderr.contains(message), "{message}: {}", said.stderr);
    }
    let said = query(&project, "SELECT motoin FROM labels", &[]);
    assert!(said.stderr.contains("did you mean `motion`?"), "{}", said.stderr);
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
        let help = project.lapo(&[command, "--help"]).good().stdout;
        let text = &help[help.find("--format").unwrap()..];
        let text = &text[..text[8..].find("\n      --").map_or(text.len(), |at| at + 8)];
        let offered: Vec<&str> = text
            .lines()
            .filter_map(|line| line.trim().strip_prefix("- ")?.split(' ').next())
            .collect();
        assert_eq!(offered, formats, "{command}");
    }
    let said = project.lapo(&["gc", "--workspace", "ws", "--format", "csv"]);
    assert!(
        said.code != 0 && said.stderr.contains("[possible values: table, json]"),
        "{}",
        said.stderr
    );
}
