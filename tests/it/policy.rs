//! Latent policies: training, checkpoints, and cloning from the labels of a pipeline.

use lapo::models::PolicyConfig;
use lapo::train::{CloningBatch, OptimConfig, PolicyTrainer, policy_trainer};

use crate::project::{PIPELINE, Project};
use crate::test_device::test_device;

const SIDE: usize = 16;
const LATENT: usize = 6;
const BATCH: usize = 16;

fn trainer(seed: u64) -> Box<dyn PolicyTrainer> {
    let config =
        PolicyConfig { scale: 1, latent_dim: LATENT, frame_size: SIDE, channels: 3, frames: 1 };
    policy_trainer(&test_device(), &config, &OptimConfig::default(), seed).unwrap()
}

/// Returns frames with a bright column, and latent actions that depend on its position.
fn columns(step: usize) -> (Vec<u8>, Vec<f32>) {
    let column = |i: usize| (i * 7 + step * 5) % SIDE;
    let pixel = |i: usize, at: usize| if at / 3 % SIDE == column(i) { 220 } else { 40 };
    let frames =
        (0..BATCH).flat_map(|i| (0..SIDE * SIDE * 3).map(move |at| pixel(i, at))).collect();
    let action = |i: usize, k: usize| ((column(i) * (k + 1)) as f32 * 0.4).sin();
    (frames, (0..BATCH).flat_map(|i| (0..LATENT).map(move |k| action(i, k))).collect())
}

fn train(trainer: &mut dyn PolicyTrainer, steps: std::ops::Range<usize>) -> Vec<f32> {
    let step = |step| {
        let (frames, latent_action) = columns(step);
        trainer
            .step(CloningBatch { frames: &frames, latent_action: &latent_action }, 1e-3)
            .unwrap()
            .loss
    };
    steps.map(step).collect()
}

#[test]
fn a_policy_learns_latent_actions_from_frames() {
    let mut policy = trainer(0);
    let losses = train(policy.as_mut(), 0..150);
    assert!(losses[0] > 0.3 && losses[149] < 0.02, "{} -> {}", losses[0], losses[149]);
    let (frames, expected) = columns(1000);
    let predicted = policy.act(&frames).unwrap();
    let error: f32 = predicted.iter().zip(&expected).map(|(a, b)| (a - b).powi(2)).sum::<f32>()
        / expected.len() as f32;
    assert!(error < 0.03, "{error}");
    assert!(policy.act(&frames[1..]).unwrap_err().to_string().contains("number of bytes"));
}

#[test]
fn a_restored_training_continues_bit_by_bit() {
    let mut whole = trainer(3);
    let mut half = trainer(3);
    let losses = train(whole.as_mut(), 0..6);
    train(half.as_mut(), 0..3);
    let state = half.save().unwrap();
    let mut rest = trainer(3);
    rest.restore(&state).unwrap();
    assert_eq!(train(rest.as_mut(), 3..6), losses[3..]);
    assert_eq!(
        rest.export(&Default::default()).unwrap(),
        whole.export(&Default::default()).unwrap()
    );
    assert!(
        trainer(4).restore(&state).unwrap_err().to_string().contains("its seed is 3, expected 4")
    );
}

/// Creates a project with a pipeline for a latent policy.
fn project() -> Project {
    let project = Project::new(9);
    let policy = "  policy: { train_policy: { labels: labels, steps: '${policy_steps}', \
                  batch: 8 } }\n";
    let text = PIPELINE.replace("steps: 4,", "steps: 4, policy_steps: 20,") + policy;
    std::fs::write(project.path("pipeline.yaml"), text).unwrap();
    project
}

#[test]
fn a_pipeline_clones_a_policy_and_retrains_it_only_for_new_settings_or_models() {
    let project = project();
    project.run(&[]).success();
    let verdict: serde_json::Value =
        serde_json::from_slice(&project.files("policy", "verdict.json")[0]).unwrap();
    let labels = project.query("SELECT count(*) AS n FROM labels")[0]["n"].as_u64().unwrap();
    let number =
        |name: &str| verdict[name].as_f64().unwrap_or_else(|| panic!("{name} in {verdict}"));
    assert_eq!(number("training_transitions") + number("transitions"), labels as f64);
    assert!(number("error") > 0.0 && number("mean_error") > 0.0, "{verdict}");
    let curve = project.query("SELECT step FROM policy WHERE loss IS NOT NULL");
    assert_eq!(
        curve
            .as_array()
            .unwrap()
            .iter()
            .map(|row| row["step"].as_u64().unwrap())
            .collect::<Vec<_>>(),
        // Every tenth step and the last one.
        [0, 10, 19]
    );

    let weights = project.files("policy", "policy.safetensors");
    project.run_changes_nothing(&[]);
    assert!(project.run(&["--set", "policy_steps=30"]).success().stdout.starts_with("1 tasks"));
    assert_ne!(project.files("policy", "policy.safetensors"), weights);
    // The policy of the first settings is re-used.
    assert!(project.run(&[]).success().stdout.starts_with("0 tasks"));
    assert_eq!(project.files("policy", "policy.safetensors"), weights);

    project.add(9..12);
    assert!(project.run(&[]).success().stderr.contains("newer files of labels unseen"));
    assert_eq!(project.files("policy", "policy.safetensors"), weights);

    // Another model has other latent actions, so its labels train a new policy.
    let other = project.lapo(&["plan", "pipeline.yaml", "--set", "steps=5"]).success().stdout;
    let policy = other
        .lines()
        .skip_while(|line| !line.starts_with("policy (train_policy): 1 tasks new"))
        .nth(1);
    assert_eq!(policy, Some("  new because of new model: 1"), "{other}");
    assert!(project.run(&["--set", "steps=5"]).success().stdout.starts_with("6 tasks"));
    assert_ne!(project.files("policy", "policy.safetensors"), weights);
    assert!(project.run(&[]).success().stdout.starts_with("0 tasks"));
    assert_eq!(project.files("policy", "policy.safetensors"), weights);

    // Only trained stages can be refreshed.
    let refused = project.run(&["--refresh", "labels"]);
    assert!(
        refused.code == 64 && refused.stderr.contains("choose one of model, policy; "),
        "{refused:#?}"
    );
    assert!(project.run(&["--refresh", "policy"]).success().stdout.starts_with("1 tasks"));
    assert_ne!(project.files("policy", "policy.safetensors"), weights);
}

#[test]
fn patience_stops_the_training_and_keeps_the_best_policy() {
    let project = project();
    let pipeline = std::fs::read_to_string(project.path("pipeline.yaml")).unwrap();
    let patience = "steps: 400, patience: 2, learning_rate: 0.01,";
    std::fs::write(
        project.path("pipeline.yaml"),
        pipeline.replace("steps: '${policy_steps}',", patience),
    )
    .unwrap();
    project.run(&[]).success();
    let verdict: serde_json::Value =
        serde_json::from_slice(&project.files("policy", "verdict.json")[0]).unwrap();
    let evaluated = project.query(
        "SELECT step, held_out_error FROM policy WHERE held_out_error IS NOT NULL ORDER BY step",
    );
    let evaluated: Vec<_> = evaluated
        .as_array()
        .unwrap()
        .iter()
        .map(|row| (row["step"].as_u64().unwrap(), row["held_out_error"].as_f64().unwrap()))
        .collect();
    // Two evaluations without improvement follow the best one. Evaluations are 20 steps apart.
    let (stopped, kept) = (evaluated[evaluated.len() - 1].0, evaluated[evaluated.len() - 3]);
    assert!(stopped < 399 && stopped % 20 == 19, "{evaluated:?}");
    assert!(evaluated.iter().all(|(_, error)| *error >= kept.1), "{evaluated:?}");
    assert_eq!(verdict["steps"], kept.0 + 1);
    assert_eq!(verdict["error"].as_f64().unwrap() as f32, kept.1 as f32);
    project.run_changes_nothing(&[]);

    let pipeline = std::fs::read_to_string(project.path("pipeline.yaml")).unwrap();
    std::fs::write(project.path("pipeline.yaml"), pipeline.replace("holdout: 3", "holdout: 0"))
        .unwrap();
    let output = project.run(&[]);
    assert!(
        output.code == 1 && output.stderr.contains("patience: has no videos to judge by"),
        "{output:#?}"
    );
}

#[test]
fn invalid_settings_of_a_policy_are_errors() {
    let project = project();
    std::fs::write(
        project.path("pipeline.yaml"),
        PIPELINE.to_owned()
            + "  policy: { train_policy: { labels: frames, steps: 0, accumulate: 0 } }\n",
    )
    .unwrap();
    let output = project.run(&[]);
    for word in ["policy.train_policy.labels: ", "steps: is 0", "accumulate: is 0"] {
        assert!(output.code == 1 && output.stderr.contains(word), "{word}: {output:#?}");
    }
}
