//! Reports: a self-contained page whose tables equal the results of the queries that it shows.
//!
//! `LAPO_CHROMIUM` names a Chromium that opens the page. Without it, its test is skipped with a
//! note.

use std::process::Command;

use serde_json::Value;

use crate::project::{PIPELINE, Project};

/// Creates a project with a report on videos. The name of its pipeline must be escaped in HTML.
fn video_project() -> Project {
    let project = Project::new(9);
    let more = "
  policy: { train_policy: { labels: labels, steps: 20, batch: 8 } }
  my-page: { report: { frames: frames, dynamics: model, labels: labels, policy: policy,
      points: '${points}', pairs: 3, rollouts: 1 } }
";
    let text = PIPELINE
        .replace("name: test", "name: '<i>\"test\" & more</i>'")
        .replace("vars: {", "vars: { points: 60,")
        + more;
    std::fs::write(project.path("pipeline.yaml"), text).unwrap();
    project
}

/// A pipeline with a report on every stage for games.
const GAME: &str = "
name: maze
workspace: ws
holdout: 3
stages:
  play: { record: { game: maze, player: expert, noise: 0.1, episodes: 12, size: 16 } }
  model: { train_dynamics: { frames: play, steps: 4, batch: 4 } }
  labels: { label: { frames: play, dynamics: model } }
  policy: { train_policy: { labels: labels, steps: 4, batch: 4 } }
  decoder: { train_decoder: { labels: labels, actions: play, transitions: [4, 16], steps: 5 } }
  played: { evaluate: { policy: policy, decoder: decoder, game: maze, episodes: 4, envs: 4,
      labels: labels, actions: play, dynamics: model, frames: play, rollout: 3 } }
  agent: { finetune: { policy: policy, dynamics: model, game: maze, steps: 4096, envs: 8,
      rollout: 64, minibatches: 2 } }
  alone: { finetune: { policy: policy, supervised_path: false, game: maze, steps: 4096, envs: 8,
      rollout: 64, minibatches: 2 } }
  page: { report: { frames: play, dynamics: model, labels: labels, actions: play, policy: policy,
      decoder: decoder, evaluation: played, agents: [agent, alone] } }
";

/// Returns the page of a report stage.
fn page(project: &Project, stage: &str) -> String {
    String::from_utf8(project.files(stage, "report.html").remove(0)).unwrap()
}

/// Returns every text between `start` and the next `end`.
fn between<'a>(text: &'a str, start: &'a str, end: &'a str) -> impl Iterator<Item = &'a str> {
    text.split(start).skip(1).map(move |rest| rest.split(end).next().unwrap())
}

/// Replaces the HTML escapes.
fn unescape(html: &str) -> String {
    html.replace("&lt;", "<")
        .replace("&gt;", ">")
        .replace("&quot;", "\"")
        .replace("&#39;", "'")
        .replace("&amp;", "&")
}

/// Panics if the page loads anything from elsewhere.
fn check_self_contained(html: &str) {
    assert!(
        html.starts_with("<!DOCTYPE html>")
            && html.trim_end().ends_with("</html>")
            && html.matches("<html").count() == 1
    );
    for (start, end) in [("src=\"", "\""), ("href=\"", "\""), ("url(", ")")] {
        let elsewhere: Vec<_> = between(html, start, end)
            .filter(|to| !to.starts_with("data:") && !to.starts_with('#'))
            .collect();
        assert!(elsewhere.is_empty(), "{elsewhere:?}");
    }
    assert!(
        !html.contains("http:")
            && !html.contains("https:")
            && !html.contains("<script")
            && !html.contains("NaN")
    );
}

/// Runs every query on the page and compares its rows with the page. Returns the number of queries.
fn check_numbers(project: &Project, html: &str) -> usize {
    let parts: Vec<&str> = html.split("<pre class=\"sql\">").skip(1).collect();
    for part in &parts {
        let (command, rest) = part.split_once("</pre>").unwrap();
        let command = unescape(command);
        let sql =
            command.strip_prefix("lapo query \"").and_then(|sql| sql.strip_suffix('"')).unwrap();
        let found = project.query(&sql.replace("\\\"", "\""));
        // The page shows at most the first rows, so `zip` compares those.
        let found: Vec<&serde_json::Map<String, Value>> =
            found.as_array().unwrap().iter().map(|row| row.as_object().unwrap()).collect();
        let shown = rest.split("</details>").next().unwrap();
        assert_eq!(
            between(shown, "data-rows=\"", "\"").next().unwrap(),
            found.len().to_string(),
            "{sql}"
        );
        let names: Vec<String> = between(shown, "<th>", "</th>").map(unescape).collect();
        for (row, found) in between(shown, "\n<tr>", "</tr>").zip(&found) {
            assert_eq!(found.keys().collect::<Vec<_>>(), names.iter().collect::<Vec<_>>(), "{sql}");
            for (cell, found) in between(row, "<td>", "</td>").map(unescape).zip(found.values()) {
                let same = match found {
                    Value::Null => cell == "-",
                    Value::Number(number) => {
                        is_near(cell.parse().unwrap(), number.as_f64().unwrap())
                    }
                    other => Some(cell.as_str()) == other.as_str(),
                };
                assert!(same, "{sql}: the page has {cell}, the query {found}");
            }
        }
    }
    parts.len()
}

/// Compares a number with its four digits on the page.
fn is_near(shown: f64, found: f64) -> bool {
    // Rounding of a number near 0 may be larger than the number.
    (shown - found).abs() <= 5.1e-4 * found.abs() + 1e-11
}

#[test]
fn a_report_on_videos_shows_the_rows_of_its_queries() {
    let project = video_project();
    project.run(&[]).success();
    let html = page(&project, "my-page");
    check_self_contained(&html);
    assert!(html.contains("<h1>&lt;i&gt;&quot;test&quot; &amp; more&lt;/i&gt;</h1>"));
    assert!(check_numbers(&project, &html) >= 15);
    // Three frames of three pairs; six images of each of two rollouts: the first frame, four
    // predictions and the change.
    assert_eq!(html.matches("data:image/png;base64,").count(), 3 * 3 + 6 * 2);
    let map = project.query("SELECT count(*) AS n FROM \"my-page\"")[0]["n"].as_u64();
    assert_eq!(map, Some(60));

    project.run_changes_nothing(&[]);
    assert!(project.run(&["--set", "points=50"]).success().stdout.starts_with("1 tasks"));
    project.add(9..12);
    let output = project.run(&[]).success();
    assert!(output.stdout.starts_with("3 tasks"), "a shard, its labels and the page: {output:#?}");
    assert_ne!(page(&project, "my-page"), html);
    check_numbers(&project, &page(&project, "my-page"));
}

#[test]
fn a_report_on_a_game_has_all_sections() {
    if std::env::var_os("LAPO_PROCGEN").is_none() {
        eprintln!("skipped: LAPO_PROCGEN names no virtual environment with procgen-mirror");
        return;
    }
    let project = Project::new(0);
    std::fs::write(project.path("pipeline.yaml"), GAME).unwrap();
    project.run(&[]).success();
    let html = page(&project, "page");
    check_self_contained(&html);
    assert!(check_numbers(&project, &html) >= 20);
    for section in [
        "What ran",
        "Training",
        "Codebooks",
        "Map",
        "World model",
        "Policy",
        "Learning in the game",
    ] {
        assert!(html.contains(&format!("<h2>{section}</h2>")), "{section}");
    }
    project.run_changes_nothing(&[]);
}

#[test]
fn a_report_without_stages_or_with_wrong_ones_is_an_error() {
    let project = Project::new(1);
    for (settings, output) in [
        ("{}", "page.report.frames: is missing, and so is every other stage to show"),
        (
            "{ labels: frames }",
            "page.report.labels: `frames` is a `decode` stage, expected one that makes labels",
        ),
        ("{ evaluation: model }", "expected one that makes an evaluation"),
        ("{ labels: labels, points: 100000 }", "page.report.points: is 100000"),
    ] {
        std::fs::write(
            project.path("pipeline.yaml"),
            format!("{PIPELINE}  page: {{ report: {settings} }}\n"),
        )
        .unwrap();
        let run = project.run(&[]);
        assert!(run.code == 1 && run.stderr.contains(output), "{output}: {run:#?}");
    }
}

#[test]
fn a_browser_opens_the_page_without_console_messages() {
    let Some(chromium) = std::env::var_os("LAPO_CHROMIUM") else {
        eprintln!("skipped: LAPO_CHROMIUM names no Chromium");
        return;
    };
    let project = video_project();
    project.run(&[]).success();
    std::fs::write(project.path("page.html"), page(&project, "my-page")).unwrap();
    let picture = project.path("page.png");
    let mut browser = Command::new(chromium);
    browser.args([
        "--headless",
        "--no-sandbox",
        "--disable-gpu",
        "--enable-logging=stderr",
        "--window-size=1200,4000",
    ]);
    browser
        .arg(format!("--screenshot={}", picture.display()))
        .arg(format!("file://{}", project.path("page.html").display()));
    let output = browser.output().unwrap();
    let console = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success() && !console.contains("CONSOLE"), "{console}");
    assert!(std::fs::metadata(picture).unwrap().len() > 20_000);
}
