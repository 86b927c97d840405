//! Training in other ways than at once: continued, started from other weights, averaged, in passes.

use lapo::models::PolicyConfig;
use lapo::models::weights::Weights;
use lapo::train::{CloningBatch, OptimConfig, PolicyTrainer, ReadBack, TrainError, policy_trainer};

use crate::project::{PIPELINE, Project};
use crate::test_device::test_device;

const SIDE: usize = 16;
const LATENT: usize = 4;

/// Returns `count` frames and the latent actions that follow them.
fn pairs(count: usize, seed: usize) -> (Vec<u8>, Vec<f32>) {
    let pixel = |i: usize| ((i * 31 + seed * 17) % 251) as u8;
    let frames = (0..count * SIDE * SIDE * 3).map(pixel).collect();
    let latent_action = (0..count * LATENT).map(|i| ((i + seed) as f32 * 0.7).sin()).collect();
    (frames, latent_action)
}

fn policy(optim: &OptimConfig) -> Box<dyn PolicyTrainer> {
    let config =
        PolicyConfig { scale: 1, latent_dim: LATENT, frame_size: SIDE, channels: 3, frames: 1 };
    policy_trainer(&test_device(), &config, optim, 0).unwrap()
}

fn weights(trainer: &dyn PolicyTrainer) -> Vec<u8> {
    trainer.export(&Default::default()).unwrap()
}

/// The network of a policy has no batch statistics, so passes give the gradient of the whole batch.
#[test]
fn accumulated_passes_give_the_step_of_the_whole_batch() {
    let (frames, latent_action) = pairs(8, 0);
    let batch = |range: std::ops::Range<usize>| CloningBatch {
        frames: &frames[range.start * SIDE * SIDE * 3..range.end * SIDE * SIDE * 3],
        latent_action: &latent_action[range.start * LATENT..range.end * LATENT],
    };
    let optim = OptimConfig::default();
    let (mut whole, mut passes) = (policy(&optim), policy(&optim));
    for _ in 0..3 {
        let expected = whole.step(batch(0..8), 1e-3).unwrap();
        let found = passes
            .step_accumulated(&[batch(0..4), batch(4..8)], 1e-3, ReadBack::Always)
            .unwrap()
            .unwrap();
        assert!((found.loss - expected.loss).abs() < 1e-5, "{found:?} {expected:?}");
        assert!(
            (found.grad_norm / expected.grad_norm - 1.0).abs() < 1e-3,
            "{found:?} {expected:?}"
        );
    }
    let (frames, _) = pairs(3, 5);
    let (expected, found) = (whole.act(&frames).unwrap(), passes.act(&frames).unwrap());
    for (expected, found) in expected.iter().zip(&found) {
        assert!((expected - found).abs() < 1e-3, "{found} for {expected}");
    }
}

#[test]
fn a_step_that_is_not_finite_leaves_the_weights_as_they_were() {
    let mut trainer = policy(&OptimConfig { ema_decay: Some(0.9), ..OptimConfig::default() });
    let (frames, latent_action) = pairs(4, 0);
    let batch = CloningBatch { frames: &frames, latent_action: &latent_action };
    trainer.step(batch, 1e-3).unwrap();
    let before = weights(trainer.as_ref());
    for value in [f32::NAN, f32::INFINITY, 1e30] {
        let latent_action = vec![value; latent_action.len()];
        let broken = CloningBatch { frames: &frames, latent_action: &latent_action };
        let error = trainer.step(broken, 1e-3).unwrap_err();
        assert!(matches!(error, TrainError::NotFinite { .. }), "{value}: {error}");
        assert!(weights(trainer.as_ref()) == before, "{value}");
    }
    assert!(trainer.step(batch, 1e-3).unwrap().loss.is_finite());
    assert!(weights(trainer.as_ref()) != before);
}

#[test]
fn averaged_weights_change_less_and_survive_a_checkpoint() {
    let averaged = OptimConfig { ema_decay: Some(0.999), ..OptimConfig::default() };
    let (mut plain, mut smooth) = (policy(&OptimConfig::default()), policy(&averaged));
    let mut restored = policy(&averaged);
    let run = |trainer: &mut dyn PolicyTrainer, steps: std::ops::Range<usize>| {
        for step in steps {
            let (frames, latent_action) = pairs(4, step);
            let batch = CloningBatch { frames: &frames, latent_action: &latent_action };
            trainer.step(batch, 1e-2).unwrap();
        }
    };
    run(plain.as_mut(), 0..20);
    run(smooth.as_mut(), 0..10);
    restored.restore(&smooth.save().unwrap()).unwrap();
    run(smooth.as_mut(), 10..20);
    run(restored.as_mut(), 10..20);
    assert!(weights(smooth.as_ref()) == weights(restored.as_ref()));
    assert!(weights(smooth.as_ref()) != weights(plain.as_ref()));
    // Both took the same steps: without its average, the state is the same.
    let mut without_average = policy(&OptimConfig::default());
    let error = without_average.restore(&smooth.save().unwrap()).unwrap_err();
    assert!(error.to_string().contains("its optim is"), "{error}");
}

fn with_model(settings: &str) -> String {
    PIPELINE.replace("batch: 4 }", &format!("batch: 4{settings} }}"))
}

fn write_pipeline(project: &Project, text: &str) {
    std::fs::write(project.path("pipeline.yaml"), text).unwrap();
}

/// Returns the steps in the metrics of a stage.
fn steps(project: &Project, stage: &str) -> Vec<u64> {
    let rows = project.query(&format!("SELECT step FROM {stage} ORDER BY step"));
    rows.as_array().unwrap().iter().map(|row| row["step"].as_u64().unwrap()).collect()
}

#[test]
fn raised_steps_continue_from_the_kept_state() {
    let project = Project::new(6);
    write_pipeline(&project, &with_model(", continue: true"));
    project.run(&["--set", "steps=25"]).success();
    let short = steps(&project, "model");
    let planned = project.lapo(&["plan", "pipeline.yaml", "--set", "steps=45"]).success();
    assert!(planned.stdout.contains("continues at step 25"), "{planned:#?}");
    assert!(planned.stdout.contains("steps: 25 -> 45"), "{planned:#?}");

    let continued = project.run(&["--set", "steps=45"]).success();
    let long = steps(&project, "model");
    // A training from the start has no row of step 24, the last one of the shorter training.
    assert_eq!(short.last(), Some(&24));
    assert!(long.starts_with(&short), "{short:?} {long:?} {continued:#?}");
    assert_eq!(long.last(), Some(&44));
    project.run_changes_nothing(&["--set", "steps=45"]);

    // Fewer steps give the model that was trained with them, without training again.
    project.run(&["--set", "steps=25"]).success();
    assert_eq!(steps(&project, "model"), short);

    // Another setting starts anew.
    write_pipeline(&project, &with_model(", continue: true, context: 2"));
    let planned = project.lapo(&["plan", "pipeline.yaml", "--set", "steps=60"]).success();
    assert!(!planned.stdout.contains("continues at step"), "{planned:#?}");
}

#[test]
fn without_continue_raised_steps_train_anew() {
    let project = Project::new(6);
    project.run(&["--set", "steps=2"]).success();
    let planned = project.lapo(&["plan", "pipeline.yaml", "--set", "steps=4"]).success();
    assert!(planned.stdout.contains("steps: 2 -> 4"), "{planned:#?}");
    assert!(!planned.stdout.contains("continues"), "{planned:#?}");
}

#[test]
fn a_training_starts_from_the_weights_of_another_stage() {
    let project = Project::new(6);
    let training = "frames: frames, steps: 1, batch: 4, learning_rate: 1e-9";
    let stages = format!(
        "  fine: {{ train_dynamics: {{ {training}, init_from: model }} }}
  random: {{ train_dynamics: {{ {training} }} }}
"
    );
    write_pipeline(&project, &(PIPELINE.to_owned() + &stages));
    project.run(&["--set", "steps=30"]).success();
    // One step with a tiny learning rate hardly moves the weights that it starts from, and random
    // weights of the same seed are far from them.
    let weights = |stage: &str| {
        let weights = Weights::parse(&project.files(stage, "model.safetensors")[0]).unwrap();
        let shapes = weights.shapes_under("wm.final_conv.0.");
        assert_eq!(shapes.len(), 2, "{shapes:?}");
        let values = |(name, shape): (String, Vec<usize>)| {
            weights.get(&format!("wm.final_conv.0.{name}"), &shape).unwrap()
        };
        shapes.into_iter().flat_map(values).collect::<Vec<f32>>()
    };
    let (trained, fine, random) = (weights("model"), weights("fine"), weights("random"));
    let distance = |other: &[f32]| {
        trained.iter().zip(other).map(|(a, b)| (a - b).abs()).fold(0.0_f32, f32::max)
    };
    assert!(distance(&fine) < 1e-6, "{}", distance(&fine));
    assert!(distance(&random) > 1e-3, "{}", distance(&random));
    project.run_changes_nothing(&["--set", "steps=30"]);

    let circle = PIPELINE.replace("batch: 4 }", "batch: 4, init_from: model }");
    write_pipeline(&project, &circle);
    let refused = project.lapo(&["check", "pipeline.yaml"]);
    assert!(refused.code == 1 && refused.stderr.contains("model"), "{refused:#?}");
}

#[test]
fn settings_that_contradict_each_other_are_faults() {
    let project = Project::new(1);
    for (settings, expected) in [
        (", accumulate: 3", "accumulate: is 3"),
        (", accumulate: 0", "accumulate: is 0"),
        (", ema_decay: 1.0", "ema_decay: is 1"),
        (", reference: true, ema_decay: 0.9", "ema_decay: differs from the paper's value"),
    ] {
        write_pipeline(&project, &with_model(settings));
        let refused = project.lapo(&["check", "pipeline.yaml"]);
        assert!(refused.code == 1 && refused.stderr.contains(expected), "{settings}: {refused:#?}");
    }
    write_pipeline(&project, &with_model(", accumulate: 2, ema_decay: 0.9"));
    project.lapo(&["check", "pipeline.yaml"]).success();
}
