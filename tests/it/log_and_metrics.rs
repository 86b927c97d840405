//! The JSON log and the Prometheus metrics of runs and workers.

use std::fs;
use std::process::Command;

use serde_json::Value;

use crate::project::Project;

/// Parses a JSON log and checks the fields common to all events.
fn events(stderr: &str) -> Vec<Value> {
    let event =
        |line| serde_json::from_str::<Value>(line).unwrap_or_else(|e| panic!("{line}: {e}"));
    let events: Vec<Value> = stderr.lines().map(event).collect();
    for event in &events {
        assert!(event["unix_seconds"].as_f64().is_some_and(|seconds| seconds > 1.7e9), "{event:#}");
        let is_text = |field: &str| event[field].as_str().is_some_and(|text| !text.is_empty());
        assert!(is_text("event") && is_text("host") && is_text("time"), "{event:#}");
    }
    events
}

#[test]
fn every_line_of_a_json_log_is_an_event() {
    let project = Project::new(6);
    fs::write(project.path("videos/text.mp4"), "this is no video\n".repeat(40)).unwrap();
    let events = events(&project.run(&["--log-format", "json"]).success().stderr);
    let named =
        |name: &str| events.iter().filter(|event| event["event"] == name).collect::<Vec<_>>();
    let stages = |name: &str| {
        named(name).into_iter().map(|event| event["stage"].as_str().unwrap()).collect::<Vec<_>>()
    };
    assert_eq!(
        (stages("stage_began"), stages("stage_ended")),
        (vec!["frames", "model", "labels"], vec!["frames", "model", "labels"])
    );
    assert_eq!(
        (&named("stage_began")[0]["units"], &named("stage_began")[0]["unit"]),
        (&7.into(), &"videos".into())
    );
    assert_eq!(
        // Six games make two shards, and the text file is rejected.
        (&named("stage_ended")[0]["new"], &named("stage_ended")[0]["rejects"]),
        (&2.into(), &1.into())
    );
    assert_eq!(
        (&events[0]["event"], &events.last().unwrap()["event"]),
        (&"run_began".into(), &"run_ended".into())
    );
    assert_eq!(events.last().unwrap()["exit_code"], 0);
    let run = events[0]["run"].as_str().unwrap();
    assert!(events.iter().all(|event| event["run"] == run), "{events:#?}");
    assert!(project.path("ws/runs").join(format!("{run}.json")).is_file());
    assert!(
        named("said")
            .iter()
            .any(|event| event["text"].as_str().unwrap().contains("held-out windows")),
        "{events:#?}"
    );

    let output = project.run(&["--log-format", "json", "--set", "steps=none"]);
    let failed =
        self::events(&output.stderr).into_iter().find(|event| event["event"] == "error").unwrap();
    assert!(
        output.code == 1
            && failed["event"] == "error"
            && failed["message"].as_str().unwrap().contains("steps"),
        "{output:#?}"
    );
}

/// Prints every sample as `name stage value`.
const PRINT_SAMPLES: &str = "
import sys
from prometheus_client.parser import text_string_to_metric_families
for family in text_string_to_metric_families(open(sys.argv[1]).read()):
    assert family.type == 'gauge' and family.documentation, family
    for sample in family.samples:
        assert sample.labels['pipeline'] == 'test', sample
        print(sample.name, sample.labels.get('stage', '-'), float(sample.value))
";

#[test]
fn a_worker_writes_the_log_and_metrics_of_a_run() {
    let project = Project::new(6);
    project.lapo(&["plan", "pipeline.yaml", "--out", "plan"]).success();
    let args = [
        "worker",
        "--plan",
        "plan",
        "--partition",
        "0",
        "1",
        "--log-format",
        "json",
        "--metrics-file",
        "gauges",
    ];
    let events = events(&project.lapo(&args).success().stderr);
    assert!(
        events[0]["event"] == "run_began" && events.last().unwrap()["event"] == "run_ended",
        "{events:#?}"
    );
    assert!(events.iter().all(|event| event["run"] == events[0]["run"]), "{events:#?}");
    let gauges = fs::read_to_string(project.path("gauges")).unwrap();
    assert!(
        gauges.contains("lapo_stage_units{pipeline=\"test\",")
            && gauges.contains(",stage=\"frames\"} 6\n"),
        "{gauges}"
    );
    assert!(gauges.contains("lapo_run_succeeded{pipeline=\"test\","), "{gauges}");
    let committed = project.lapo(&["commit", "--plan", "plan"]).success();
    assert!(
        !committed.stdout.contains("/s decoded") && committed.stdout.contains("6 videos (6 new)"),
        "{committed:#?}"
    );
}

#[test]
fn prometheus_parses_the_metrics_file() {
    let Ok(python) = std::env::var("LAPO_PYTHON") else {
        eprintln!("skipped: LAPO_PYTHON names no Python with prometheus_client");
        return;
    };
    let project = Project::new(6);
    project.run(&["--metrics-file", "lapo.prom"]).success();
    let output = Command::new(&python)
        .args(["-c", PRINT_SAMPLES])
        .arg(project.path("lapo.prom"))
        .output()
        .unwrap();
    let samples = String::from_utf8(output.stdout).unwrap();
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    for line in [
        "lapo_run_succeeded - 1.0",
        "lapo_stage_tasks_new frames 2.0",
        "lapo_stage_units frames 6.0",
        "lapo_stage_units_done frames 6.0",
    ] {
        assert!(samples.lines().any(|sample| sample == line), "{line} in {samples}");
    }
    let labelled = project.query("SELECT count(*) AS n FROM labels")[0]["n"].as_u64().unwrap();
    assert!(
        samples.contains(&format!("lapo_stage_units_done labels {labelled}.0\n")),
        "{labelled} in {samples}"
    );

    let failing = Project::new(0);
    fs::write(failing.path("videos/text.mp4"), "this is no video\n".repeat(40)).unwrap();
    assert_eq!(failing.run(&["--metrics-file", "lapo.prom"]).code, 1);
    let gauges = fs::read_to_string(failing.path("lapo.prom")).unwrap();
    assert!(
        gauges.contains("lapo_run_succeeded{pipeline=\"test\"} 0\n")
            && gauges.contains("stage=\"frames\"} 1\n"),
        "{gauges}"
    );

    let output = project.run(&["--metrics-file", "nowhere/lapo.prom"]);
    assert!(
        output.code == 1 && output.stderr.contains("cannot write nowhere/lapo.prom"),
        "{output:#?}"
    );
}
