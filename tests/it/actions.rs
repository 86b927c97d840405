//! True actions: imported from files, used to probe and supervise a model and to train decoders.

use std::fs;
use std::path::Path;

use serde_json::Value;

use crate::project::{PIPELINE, Project};
use crate::split::held_out;

const LABELS_WITH_ACTIONS: &str = "FROM labels JOIN actions \
    ON labels.video = actions.video AND labels.frame_index = actions.frame_index";

/// Creates a project with a dynamics stage that reads true actions from `file`, which may also
/// list other videos. `more` holds further settings of the training.
pub fn project(count: usize, file: &str, more: &str) -> Project {
    importing(count, &format!("{file}, partial: true"), more)
}

/// Creates a project with an `import_actions` stage; `file` holds its settings after `file: `.
fn importing(count: usize, file: &str, more: &str) -> Project {
    let project = Project::new(count);
    let recorded = Path::new(env!("CARGO_MANIFEST_DIR")).join("data/maze/actions.parquet");
    fs::copy(recorded, project.path("actions.parquet")).unwrap();
    fs::write(project.path("other.parquet"), "no Parquet").unwrap();
    let text = PIPELINE.replace("batch: 4", &format!("batch: 4, actions: actions{more}"))
        + &format!("  actions: {{ import_actions: {{ frames: frames, file: {file} }} }}\n");
    fs::write(project.path("pipeline.yaml"), text).unwrap();
    project
}

fn verdict(project: &Project) -> serde_json::Value {
    let files = project.files("model", "verdict.json");
    serde_json::from_slice(&files[0]).unwrap()
}

#[test]
fn a_verdict_holds_the_probe_of_true_actions() {
    let project = project(9, "actions.parquet", "");
    project.run(&[]).success();
    let probe = verdict(&project)["probe"].clone();
    let number = |name: &str| probe[name].as_f64().unwrap_or_else(|| panic!("{name} in {probe}"));
    assert!(number("transitions") > 20.0 && number("guessing") > 0.2, "{probe}");
    for share in ["linear", "mlp"] {
        assert!((0.0..=1.0).contains(&number(share)), "{probe}");
    }
    assert!(number("mutual_information") <= number("action_entropy") + 1e-9, "{probe}");
    let confusion_total: u64 = probe["confusion"]
        .as_array()
        .unwrap()
        .iter()
        .flat_map(|row| row.as_array().unwrap())
        .filter_map(|n| n.as_u64())
        .sum();
    assert_eq!(Some(confusion_total), probe["transitions"].as_u64());
    project.run_changes_nothing(&[]);
}

#[test]
fn the_training_curve_holds_intermediate_probe_scores() {
    let project = project(9, "actions.parquet", "");
    project.run(&["--set", "steps=400"]).success();
    let curve = project.query(
        "SELECT step, information_used, probe_mlp, codes_used_0, splice_rebuilt, information_db, \
         commonest_code_share FROM model \
         WHERE information_used IS NOT NULL",
    );
    let rows = curve.as_array().unwrap();
    let steps: Vec<_> = rows.iter().map(|row| row["step"].as_u64().unwrap()).collect();
    assert_eq!(steps, [99, 199, 399]);
    assert!(rows.iter().all(|row| row["probe_mlp"].is_number()), "{curve}");
    for name in ["splice_rebuilt", "information_db"] {
        assert!(rows.iter().all(|row| row[name].is_number()), "{name}: {curve}");
    }
    // Quantisation has not begun after a quarter of the steps.
    assert_eq!(
        rows.iter().map(|row| row["codes_used_0"].is_number()).collect::<Vec<_>>(),
        [false, true, true]
    );
    assert!(rows[0]["commonest_code_share"].is_null(), "{curve}");
    assert!(rows[2]["commonest_code_share"].is_number(), "{curve}");
    let last = rows.last().unwrap()["information_used"].as_f64().unwrap();
    assert!(
        (last / verdict(&project)["information_used"].as_f64().unwrap() - 1.0).abs() < 1e-6,
        "{curve}"
    );
}

#[test]
fn supervision_needs_as_many_true_actions_as_it_asks_for() {
    let supervised = project(9, "actions.parquet", ", supervision: { labels: 32, batch: 4 }");
    supervised.run(&[]).success();
    assert!(verdict(&supervised)["probe"].is_object());

    let output = project(9, "actions.parquet", ", supervision: { labels: 100000 }").run(&[]);
    assert_eq!(output.code, 1, "{output:#?}");
    assert!(
        output.stderr.contains("expected at least 100000")
            && output.stderr.contains("hint: ask for fewer"),
        "{output:#?}"
    );
}

#[test]
fn a_file_without_actions_is_an_error() {
    let output = project(4, "missing.parquet", "").run(&[]);
    assert!(
        output.code == 1 && output.stderr.contains("file: cannot read missing.parquet"),
        "{output:#?}"
    );
    let output = project(4, "other.parquet", "").run(&[]);
    assert!(
        output.code == 1 && output.stderr.contains("cannot read true actions from `other.parquet`"),
        "{output:#?}"
    );
    let output = project(4, "actions.parquet", ", supervision: { labels: 0 }").run(&[]);
    assert!(
        output.code == 1 && output.stderr.contains("supervision: has no labels"),
        "{output:#?}"
    );
}

/// Returns the imported actions as CSV rows, in the order of videos and frames.
fn csv(project: &Project) -> Vec<String> {
    let actions =
        project.query("SELECT video, frame_index, action FROM actions ORDER BY video, frame_index");
    let row = |row: &serde_json::Value| {
        format!("{},{},{}", row["video"].as_str().unwrap(), row["frame_index"], row["action"])
    };
    actions.as_array().unwrap().iter().map(row).collect()
}

#[test]
fn actions_from_csv_equal_actions_from_parquet() {
    let project = project(4, "actions.parquet", "");
    project.run(&[]).success();
    let rows = csv(&project);
    let frames =
        project.query("SELECT count(*) AS n FROM frames")[0]["n"].as_u64().unwrap() as usize;
    // The last frame of a video may have no action.
    assert!(rows.len() <= frames && rows.len() + 4 >= frames, "{} of {frames}", rows.len());

    let text = format!("video,frame_index,action\n{}\n", rows.join("\n"));
    fs::write(project.path("actions.csv"), text.replace("videos/", "")).unwrap();
    let yaml = fs::read_to_string(project.path("pipeline.yaml")).unwrap();
    fs::write(
        project.path("pipeline.yaml"),
        yaml.replace("actions.parquet, partial: true", "actions.csv"),
    )
    .unwrap();
    project.run(&[]).success();
    assert_eq!(csv(&project), rows);
    project.run_changes_nothing(&[]);
}

#[test]
fn labels_carry_true_actions_and_old_shards_keep_their_labels() {
    let project = project(5, "actions.parquet", "");
    let yaml = fs::read_to_string(project.path("pipeline.yaml")).unwrap();
    fs::write(
        project.path("pipeline.yaml"),
        yaml.replace("dynamics: model }", "dynamics: model, actions: actions }"),
    )
    .unwrap();
    project.run(&[]).success();
    let matching = format!("SELECT count(*) AS n {LABELS_WITH_ACTIONS} WHERE true_action = action");
    let labelled = project.query("SELECT count(*) AS n FROM labels WHERE true_action IS NOT NULL")
        [0]["n"]
        .as_u64()
        .unwrap();
    assert_eq!(project.query(&matching)[0]["n"].as_u64(), Some(labelled));
    assert!(
        labelled + 5 >= project.query("SELECT count(*) AS n FROM labels")[0]["n"].as_u64().unwrap()
    );
    // New videos add three tasks: one shard, its actions, its labels.
    project.add(5..7);
    assert!(project.run(&[]).success().stdout.starts_with("3 tasks"));
}

#[test]
fn actions_that_do_not_match_the_videos_are_errors() {
    let expect_error = |lines: &[&str], words: &str| {
        let project = importing(2, "actions.csv", "");
        fs::write(
            project.path("actions.csv"),
            format!("video,frame_index,action\n{}\n", lines.join("\n")),
        )
        .unwrap();
        let output = project.run(&[]);
        assert!(output.code == 1 && output.stderr.contains(words), "{words}: {output:#?}");
    };
    expect_error(&["maze_9.mp4,0,1"], "actions.csv: no video is called `maze_9.mp4`");
    expect_error(
        &["maze_1_000.mp4,0,1", "maze_1_000.mp4,9999,1"],
        "frame 9999 of `maze_1_000.mp4` does not exist: the last decoded frame is",
    );
    expect_error(
        &["maze_1_000.mp4,0,1", "maze_1_000.mp4,0,2"],
        "frame 0 of `maze_1_000.mp4` has two actions",
    );
    expect_error(
        &["maze_1_000.mp4,0,1", "maze_1_000.mp4,2,2"],
        "frame 1 of `maze_1_000.mp4` has no action",
    );
    expect_error(
        &["maze_1_000.mp4,0,1", "videos/maze_1_000.mp4,1,2"],
        "both mean `videos/maze_1_000.mp4`",
    );
    expect_error(&["maze_1_000.mp4,0,jump"], "line 2: `action` is `jump`");
}

const DECODER: &str = "  decoder: { train_decoder: { labels: labels, actions: actions, \
    transitions: [8, 32], draws: 2, steps: 60 } }\n";

#[test]
fn decoders_are_trained_from_a_few_true_actions() {
    let project = project(9, "actions.parquet", "");
    let yaml = fs::read_to_string(project.path("pipeline.yaml")).unwrap() + DECODER;
    fs::write(project.path("pipeline.yaml"), &yaml).unwrap();
    project.run(&[]).success();
    let curve = project
        .query("SELECT transitions, draw, accuracy, r2 FROM decoder ORDER BY transitions, draw");
    let rows = curve.as_array().unwrap();
    assert_eq!(
        rows.iter().map(|row| row["transitions"].as_u64().unwrap()).collect::<Vec<_>>(),
        [8, 8, 32, 32]
    );
    assert!(
        rows.iter()
            .all(|row| row["accuracy"].as_f64().is_some_and(|share| (0.0..=1.0).contains(&share))
                && row["r2"].is_null())
    );
    let decoders = project.files("decoder", ".safetensors");
    // Two numbers of transitions, two draws of each.
    assert_eq!(decoders.len(), 4);

    // A new number of transitions trains new decoders only and keeps those of 32.
    fs::write(project.path("pipeline.yaml"), yaml.replace("[8, 32]", "[16, 32]")).unwrap();
    assert!(project.run(&[]).success().stdout.starts_with("1 tasks"));
    let others = project.files("decoder", ".safetensors");
    assert!(
        others.contains(&decoders[2])
            && others.contains(&decoders[3])
            && !others.contains(&decoders[0])
    );

    let gaussian = yaml.replace("transitions: [8, 32]", "head: gaussian, transitions: [8, 32]");
    fs::write(project.path("pipeline.yaml"), gaussian).unwrap();
    let output = project.run(&[]);
    let message = "the true actions are discrete, but `head` is `gaussian`";
    assert!(output.code == 1 && output.stderr.contains(message), "{output:#?}");

    fs::write(project.path("pipeline.yaml"), yaml.replace("[8, 32]", "[100000]")).unwrap();
    let output = project.run(&[]);
    assert!(output.code == 1 && output.stderr.contains("expected at least 100000"), "{output:#?}");
}

const EVALUATION: &str = "  asked: { evaluate: { labels: labels, actions: actions } }\n";

#[test]
fn labels_are_evaluated_against_true_actions_without_a_game() {
    let project = project(9, "actions.parquet", "");
    let yaml = fs::read_to_string(project.path("pipeline.yaml")).unwrap() + EVALUATION;
    fs::write(project.path("pipeline.yaml"), &yaml).unwrap();
    project.run(&[]).success();
    let scores = project.query("SELECT * FROM asked")[0].clone();
    let number = |name: &str| scores[name].as_f64().unwrap_or_else(|| panic!("{name} in {scores}"));
    let held_out = held_out(&project).into_iter().map(|video| format!("'{video}'"));
    let held_out = held_out.collect::<Vec<_>>().join(", ");
    let counts = project.query(&format!(
        "SELECT actions.action, count(*) AS n {LABELS_WITH_ACTIONS} \
             WHERE labels.video IN ({held_out}) GROUP BY actions.action"
    ));
    let counts: Vec<f64> =
        counts.as_array().unwrap().iter().map(|row| row["n"].as_f64().unwrap()).collect();
    let all: f64 = counts.iter().sum();
    let entropy: f64 = counts.iter().map(|n| -n / all * (n / all).log2()).sum();
    assert_eq!(number("transitions"), all);
    assert!(
        (number("guessing") - counts.iter().copied().fold(0.0, f64::max) / all).abs() < 1e-9,
        "{scores} {counts:?}"
    );
    assert!(
        (number("action_entropy") - entropy).abs() < 1e-9
            && number("mutual_information") <= entropy,
        "{scores} {entropy}"
    );
    assert!(
        (0.0..=1.0).contains(&number("linear")) && (0.0..=1.0).contains(&number("mlp")),
        "{scores}"
    );
    project.run_changes_nothing(&[]);

    for (wrong, fault) in [
        ("{ labels: labels }", "asked.evaluate.actions: is missing"),
        ("{ actions: actions }", "asked.evaluate.actions: has no `labels`"),
        ("{ labels: labels, actions: actions, game: maze }", "asked.evaluate.game: is maze"),
        ("{ labels: labels, actions: actions, holdout: 3 }", "unknown key `holdout`"),
        ("{}", "asked.evaluate.policy: is missing"),
    ] {
        fs::write(
            project.path("pipeline.yaml"),
            yaml.replace("{ labels: labels, actions: actions }", wrong),
        )
        .unwrap();
        let output = project.run(&[]);
        assert!(output.code == 1 && output.stderr.contains(fault), "{wrong}: {output:#?}");
    }
}

#[test]
fn continuous_actions_are_probed_and_decoded() {
    let project = project(9, "actions.parquet", "");
    project.run(&[]).success();
    // Turns a discrete action into a continuous one, the unit vector at this angle.
    let as_unit_vector = |line: &String| {
        let (frame, action) = line.rsplit_once(',').unwrap();
        let angle = action.parse::<f64>().unwrap();
        format!("{frame},{},{}", angle.cos(), angle.sin())
    };
    let rows: Vec<String> = csv(&project).iter().map(as_unit_vector).collect();
    fs::write(
        project.path("actions.csv"),
        format!("video,frame_index,action_0,action_1\n{}\n", rows.join("\n")),
    )
    .unwrap();
    let yaml = fs::read_to_string(project.path("pipeline.yaml")).unwrap();
    let yaml = yaml.replace("actions.parquet", "actions.csv") + DECODER + EVALUATION;
    fs::write(project.path("pipeline.yaml"), &yaml).unwrap();
    project.run(&["--refresh", "model"]).success();
    assert!(
        verdict(&project)["probe"]["linear"].is_number()
            && verdict(&project)["probe"]["mlp_mse"].is_number()
            && verdict(&project)["probe"]["mutual_information"].is_null()
    );
    let scores = project.query("SELECT * FROM asked")[0].clone();
    assert!(
        scores["linear"].is_number()
            && scores["linear_mse"].is_number()
            && scores["guessing"] == 0.0
            && scores["mutual_information"].is_null(),
        "{scores}"
    );
    // Continuous actions have R², discrete ones an accuracy.
    for head in ["mse", "gaussian"] {
        let yaml =
            yaml.replace("transitions: [8, 32]", &format!("transitions: [32], head: {head}"));
        fs::write(project.path("pipeline.yaml"), yaml).unwrap();
        project.run(&[]).success();
        let curve = project.query("SELECT transitions, accuracy, r2 FROM decoder");
        let is_scored = |row: &Value| {
            row["transitions"] == 32 && row["r2"].is_number() && row["accuracy"].is_null()
        };
        assert!(curve.as_array().unwrap().iter().all(is_scored), "{curve}");
    }
}
