//! PPO fine-tuning in the real game: agents train, resume after a kill, and play.

use std::fs;

use crate::project::Project;

/// Three agents: with the latent policy, without its supervised path, and from scratch.
const PIPELINE: &str = "
name: finetuned
workspace: ws
seed: 4
vars: { steps: 96, hidden: '' }
stages:
  play: { record: { game: maze, player: expert, noise: 0.2, episodes: 8, size: 16 } }
  model: { train_dynamics: { frames: play, steps: 4, batch: 4, holdout: 3 } }
  labels: { label: { frames: play, dynamics: model } }
  policy: { train_policy: { labels: labels, steps: 4, batch: 8, holdout: 3 } }
  agent: { finetune: { policy: policy, dynamics: model, game: maze, steps: '${steps}', envs: 4,
      rollout: 6, minibatches: 2 } }
  alone: { finetune: { policy: policy, supervised_path: false, game: maze, steps: 48, envs: 4,
      rollout: 6, minibatches: 2 } }
  scratch: { finetune: { from_scratch: true, size: 16, game: coinrun, steps: '${steps}', envs: 4,
      rollout: 6, minibatches: 2 } }
  score: { evaluate: { agent: agent, game: maze, episodes: 3, envs: 3 } }
  again: { record: { game: coinrun, player: agent, agent: scratch, episodes: 2, size: 16,
      max_frames: 20 } }
";

/// Creates a project, or returns `None` without Procgen.
fn project() -> Option<Project> {
    crate::procgen::venv()?;
    let project = Project::new(0);
    fs::write(project.path("pipeline.yaml"), PIPELINE).unwrap();
    Some(project)
}

#[test]
fn agents_train_and_play_and_a_second_run_trains_nothing() {
    let Some(project) = project() else { return };
    project.run(&[]).success();
    project.run_changes_nothing(&[]);
    for stage in ["agent", "scratch"] {
        let rows = project.query(&format!(
            "SELECT step, entropy, grad_norm, rate_trunk FROM {stage} ORDER BY step"
        ));
        let rows = rows.as_array().unwrap();
        assert_eq!(
            rows.iter().map(|row| row["step"].as_u64().unwrap()).collect::<Vec<_>>(),
            // Four environments take six steps for every update.
            [24, 48, 72, 96]
        );
        assert!(
            // A uniform policy over 15 actions has an entropy of 2.7.
            rows.iter().all(|row| row["entropy"].as_f64().unwrap() > 2.0
                && row["grad_norm"].as_f64().unwrap() > 0.0),
            "{rows:?}"
        );
    }
    let players =
        project.query("SELECT player, count(*) AS n FROM score GROUP BY player ORDER BY player");
    assert_eq!(
        players,
        serde_json::json!([
            { "player": "agent", "n": 3 },
            { "player": "expert", "n": 3 },
            { "player": "random", "n": 3 },
        ])
    );
    assert_eq!(project.query("SELECT count(DISTINCT video) AS n FROM again")[0]["n"], 2);
    // The number of threads does not matter. More steps make another training.
    let again = self::project().unwrap();
    again.run(&["--threads", "1"]).success();
    for (stage, file) in [
        ("agent", "agent.safetensors"),
        ("scratch", "agent.safetensors"),
        ("scratch", "metrics.parquet"),
    ] {
        assert!(project.files(stage, file) == again.files(stage, file), "{stage}/{file}");
    }
    let planned = project.planned(&["--set", "steps=120"]);
    let new: Vec<&str> =
        planned.iter().filter(|(_, (new, _))| *new > 0).map(|(stage, _)| stage.as_str()).collect();
    assert_eq!(new, ["again", "agent", "score", "scratch"]);
}

#[test]
fn a_killed_training_resumes_to_the_same_bytes() {
    let Some(whole) = project() else { return };
    let steps = ["--set", "steps=480"];
    let every_step = ["--checkpoint-secs", "0"];
    whole.run(&steps).success();
    let killed = project().unwrap();
    let mut child = killed
        .command(&[&["run", "pipeline.yaml"], &steps[..], &every_step].concat())
        .spawn()
        .unwrap();
    let checkpoints = |stage: &str| {
        let folders = fs::read_dir(killed.path("ws").join(stage).join("checkpoints"))
            .into_iter()
            .flatten()
            .flatten();
        folders.flat_map(|key| fs::read_dir(key.path()).into_iter().flatten().flatten()).count()
    };
    for stage in ["agent", "scratch"] {
        // Kills the run once in each stage, after its first checkpoint.
        while checkpoints(stage) == 0 {
            assert!(child.try_wait().unwrap().is_none(), "the run ended before it was killed");
            std::thread::sleep(std::time::Duration::from_millis(2));
        }
        child.kill().unwrap();
        child.wait().unwrap();
        child = killed
            .command(&[&["run", "pipeline.yaml"], &steps[..], &every_step].concat())
            .spawn()
            .unwrap();
    }
    assert!(crate::project::wait(child).code == 0);
    for stage in ["agent", "scratch"] {
        for file in ["agent.safetensors", "metrics.parquet"] {
            assert!(whole.files(stage, file) == killed.files(stage, file), "{stage}/{file}");
        }
    }
}

#[test]
fn stages_that_do_not_fit_together_are_errors() {
    let Some(project) = project() else { return };
    let errors_after = |from: &str, to: &str| {
        fs::write(project.path("pipeline.yaml"), PIPELINE.replacen(from, to, 1)).unwrap();
        let output = project.run(&[]);
        assert_eq!(output.code, 1, "{output:#?}");
        output.stderr
    };
    let output = errors_after("dynamics: model, game", "game");
    assert!(output.contains("stages.agent.finetune.dynamics: is missing"), "{output}");
    let output = errors_after("policy: policy, supervised_path: false", "supervised_path: false");
    assert!(output.contains("stages.alone.finetune.policy: is missing"), "{output}");
    let output = errors_after(
        "finetune: { policy: policy, dynamics: model",
        "finetune: { policy: labels, dynamics: model",
    );
    assert!(
        output.contains("is a `label` stage, expected one that makes a latent policy"),
        "{output}"
    );
    let output = errors_after("minibatches: 2", "minibatches: 5");
    assert!(
        output.contains("stages.agent.finetune.minibatches: is 5")
            && output.contains("expected a divisor"),
        "{output}"
    );
    let output = errors_after("evaluate: { agent: agent, ", "evaluate: { ");
    assert!(output.contains("stages.score.evaluate.policy: is missing"), "{output}");
    let other = "labels2: { label: { frames: play, dynamics: model2 } }
  model2: { train_dynamics: { frames: play, steps: 4, batch: 4, holdout: 3, vq: { dim: 8 } } }
  policy: { train_policy: { labels: labels2, ";
    let output = errors_after("policy: { train_policy: { labels: labels, ", other);
    let mixed = "finetune.dynamics: `model` uses the latent actions of `model`, \
                 but `policy` uses those of `model2`";
    assert!(output.contains(mixed), "{output}");
}
