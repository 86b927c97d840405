//! PPO fine-tuning in the real game: agents train, resume after a kill, and play.

use std::fs;

use burn::backend::Flex;
use lapo::models::agent::AgentNet;
use lapo::models::init::Init;
use lapo::models::policy::Policy;
use lapo::models::weights::Weights;

use crate::project::Project;

/// Four agents: with the latent policy, as published, without its supervised path, and from
/// scratch. The published one hardly moves, so that its initial weights can be seen.
const PIPELINE: &str = "
name: finetuned
workspace: ws
seed: 4
vars: { steps: 144 }
holdout: 3
stages:
  play: { record: { game: maze, player: expert, noise: 0.2, episodes: 8, size: 16 } }
  model: { train_dynamics: { frames: play, steps: 4, batch: 4 } }
  labels: { label: { frames: play, dynamics: model } }
  policy: { train_policy: { labels: labels, steps: 4, batch: 8 } }
  agent: { finetune: { policy: policy, dynamics: model, game: maze, steps: '${steps}', envs: 4,
      rollout: 6, minibatches: 2 } }
  published: { finetune: { policy: policy, dynamics: model, game: maze, steps: '${steps}', envs: 4,
      rollout: 6, minibatches: 2, reference: true, learning_rate: 1.0e-6 } }
  alone: { finetune: { policy: policy, supervised_path: false, game: maze, steps: 144, envs: 4,
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
            [24, 48, 72, 96, 120, 144]
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
    let planned = project.planned(&["--set", "steps=168"]);
    let new: Vec<&str> =
        planned.iter().filter(|(_, (new, _))| *new > 0).map(|(stage, _)| stage.as_str()).collect();
    assert_eq!(new, ["again", "agent", "published", "score", "scratch"]);
}

/// Returns the weights that an agent of the pipeline starts from.
fn initial_weights(project: &Project, agent: &Weights, reference: bool) -> Weights {
    let device = Default::default();
    let policy = Weights::parse(&project.files("policy", "policy.safetensors")[0]).unwrap();
    let latent = policy.policy_config().unwrap();
    // The seed of the pipeline.
    let mut init = Init::<Flex>::new(4, &device);
    let policy = policy.load("policy", Policy::new(&mut init, &latent), &device).unwrap();
    let mut net = AgentNet::of_policy(&mut init, &agent.agent_config().unwrap(), policy);
    if reference {
        net.rl.init_value_head_as_published(&mut init);
    }
    let mut weights = Weights::default();
    weights.store::<Flex, _>("agent", &net).unwrap();
    weights
}

#[test]
fn in_a_short_training_every_part_of_an_agent_learns_and_frozen_layers_do_not() {
    let Some(project) = project() else { return };
    project.run(&[]).success();
    for (stage, reference) in [("agent", false), ("published", true)] {
        let agent = Weights::parse(&project.files(stage, "agent.safetensors")[0]).unwrap();
        let initial = initial_weights(&project, &agent, reference);
        let mut learning = 0;
        for (name, shape) in agent.shapes_under("agent.") {
            let [now, before] = [&agent, &initial]
                .map(|weights| weights.get(&format!("agent.{name}"), &shape).unwrap());
            let frozen = ["rl.conv_stack.", "supervised.fc.", "supervised.latent_head."];
            if frozen.iter().any(|layers| name.starts_with(layers)) {
                assert!(now == before, "{stage}: {name} is frozen, but moved");
                continue;
            }
            learning += 1;
            let moved = now.iter().zip(&before).filter(|(now, before)| now != before).count();
            // A unit of ReLU that is never active has no gradients.
            assert!(5 * moved > now.len(), "{stage}: {moved} weights of {name} moved");
            // The learning rate of the published agent does not reach its decoder.
            if reference && !name.starts_with("supervised.decoder.") {
                let far = now.iter().zip(&before).map(|(now, before)| (now - before).abs());
                assert!(far.fold(0.0, f32::max) < 1e-4, "{stage}: {name} began elsewhere");
            }
        }
        // Weight and bias of the trunk's last layer, both heads, and the decoder's four layers.
        assert_eq!(learning, 2 * (1 + 2 + 4), "{stage}");
        let rates = project.query(&format!(
            "SELECT max(rate_policy_head) AS policy_head, max(rate_value_head) AS value_head, \
             max(rate_trunk) AS trunk, min(rate_trunk) AS rest FROM {stage}"
        ));
        let rate = |name: &str| rates[0][name].as_f64().unwrap();
        let peak = if reference { 1e-6 } else { 1e-2 };
        assert!(rate("policy_head") > 0.1 * peak && rate("value_head") > 0.1 * peak, "{rates}");
        assert!(rate("trunk") > 0.03 * peak && rate("rest") == 0.0, "{rates}");
    }
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
    // The environment steps of the newest checkpoint.
    let newest = |stage: &str| {
        let folders = fs::read_dir(killed.path("ws").join(stage).join("checkpoints"))
            .into_iter()
            .flatten()
            .flatten();
        let checkpoints =
            folders.flat_map(|key| fs::read_dir(key.path()).into_iter().flatten().flatten());
        let steps = |name: std::ffi::OsString| name.to_str()?.parse::<u64>().ok();
        checkpoints.filter_map(|entry| steps(entry.file_name())).max().unwrap_or(0)
    };
    for stage in ["agent", "published", "scratch"] {
        // Kills the run once in each stage, when the decoder has been trained and the heads move.
        // From then on the decoder is trained again after every update, on all pairs since the
        // beginning.
        while newest(stage) < 144 {
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
    for stage in ["agent", "published", "scratch"] {
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
    let output = errors_after("dynamics: { frames: play", "dynamics: { frames: play, context: 6");
    let short = "a rollout of 6 steps has no window of 8 frames";
    assert!(output.contains(short) && output.contains("raise `rollout`"), "{output}");
    let output = errors_after("minibatches: 2", "minibatches: 5");
    assert!(
        output.contains("stages.agent.finetune.minibatches: is 5")
            && output.contains("expected a divisor"),
        "{output}"
    );
    let output = errors_after("steps: 144, envs", "steps: 119, envs");
    assert!(
        output.contains("stages.alone.finetune.steps: is 119, less than 120")
            && output.contains("expected at least 5 x `envs` x `rollout`"),
        "{output}"
    );
    let output = errors_after("evaluate: { agent: agent, ", "evaluate: { ");
    assert!(output.contains("stages.score.evaluate.policy: is missing"), "{output}");
    let other = "labels2: { label: { frames: play, dynamics: model2 } }
  model2: { train_dynamics: { frames: play, steps: 4, batch: 4, vq: { dim: 8 } } }
  policy: { train_policy: { labels: labels2, ";
    let output = errors_after("policy: { train_policy: { labels: labels, ", other);
    let mixed = "finetune.dynamics: `model` uses the latent actions of `model`, \
                 but `policy` uses those of `model2`";
    assert!(output.contains(mixed), "{output}");
}
