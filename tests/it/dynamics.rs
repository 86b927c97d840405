//! Training of IDM and FDM: reproducible and resumable bit by bit, and better than copying.

use std::collections::BTreeMap;

use lapo::models::{
    Device, DynamicsConfig, LabelOutputs, ModelError, Precision, Preset, VqConfig, labeller,
};
use lapo::train::{
    Batch, DynamicsTrainer, OptimConfig, OptimizerKind, StepMetrics, StepSettings, Supervision,
    TrainError, dynamics_trainer,
};

use crate::test_device::test_device;

const WINDOWS: usize = 8;

/// Returns windows of a bright square that moves up, down, left or right over a fixed pattern.
fn moving_squares(config: &DynamicsConfig, seed: usize) -> Vec<u8> {
    let (size, time) = (config.frame_size as i64, config.window() as i64);
    let mut frames = Vec::new();
    for window in 0..WINDOWS as i64 {
        // The square is 5 pixels wide and moves 3 pixels a frame.
        let (dx, dy) = [(0, 3), (0, -3), (3, 0), (-3, 0)][window as usize % 4];
        let start = (7 * (window + seed as i64) + 11) % (size / 2) + size / 8;
        for t in 0..time {
            for at in 0..size * size {
                let (x, y) = (at % size - start - dx * t, at / size - start - dy * t);
                let inside = (0..5).contains(&x) && (0..5).contains(&y);
                let pattern = ((at % size) * 2 + at / size) as u8 / 2;
                frames.extend(if inside { [250, 60, 200] } else { [pattern, 90, 40] });
            }
        }
    }
    frames
}

fn batch<'a>(config: &DynamicsConfig, frames: &'a [u8]) -> Batch<'a> {
    let size = config.frame_size;
    Batch { frames, batch: WINDOWS, time: config.window(), height: size, width: size, actions: &[] }
}

fn small() -> DynamicsConfig {
    let vq = VqConfig { entries: 8, dim: 4, revive_after: 2, ..VqConfig::default() };
    DynamicsConfig { frame_size: 32, fdm_base: 4, vq, ..DynamicsConfig::default() }
}

fn trainer(config: &DynamicsConfig, seed: u64) -> Box<dyn DynamicsTrainer> {
    trainer_by(OptimizerKind::Muon, config, seed)
}

fn trainer_by(rule: OptimizerKind, config: &DynamicsConfig, seed: u64) -> Box<dyn DynamicsTrainer> {
    dynamics_trainer(
        &test_device(),
        config,
        &OptimConfig { rule, ..OptimConfig::default() },
        None,
        seed,
    )
    .unwrap()
}

fn train(trainer: &mut dyn DynamicsTrainer, seeds: std::ops::Range<usize>) -> Vec<StepMetrics> {
    let config = trainer.config().clone();
    let pace = StepSettings { decorrelation: 0.03, ..StepSettings::even(1e-3) };
    seeds
        .map(|seed| trainer.step(&batch(&config, &moving_squares(&config, seed)), pace).unwrap())
        .collect()
}

/// Trains four steps in a pool of `threads` threads. Returns the training state and some labels.
fn train_with(threads: usize, rule: OptimizerKind, config: &DynamicsConfig) -> (Vec<u8>, Vec<f32>) {
    let pool = rayon::ThreadPoolBuilder::new().num_threads(threads).build().unwrap();
    pool.install(|| {
        let mut trainer = trainer_by(rule, config, 5);
        train(trainer.as_mut(), 0..4);
        let labeller =
            labeller(&test_device(), &trainer.export(&BTreeMap::new()).unwrap(), Precision::F32)
                .unwrap();
        let starts: Vec<_> = (0..WINDOWS).map(|window| window * config.window()).collect();
        let labelled = labeller
            .label(
                &moving_squares(config, 9),
                &starts,
                LabelOutputs { codes: true, fdm_error: true },
            )
            .unwrap();
        (
            trainer.save().unwrap(),
            [labelled.latent_action, labelled.fdm_error, labelled.motion].concat(),
        )
    })
}

#[test]
fn training_and_labels_do_not_depend_on_the_number_of_threads() {
    if test_device() != Device::Cpu {
        return println!("skipped: only the CPU computes in threads");
    }
    for (rule, config) in [
        (OptimizerKind::Muon, small()),
        (OptimizerKind::Muon, Preset::Tiny.dynamics()),
        (OptimizerKind::Adam, small()),
    ] {
        let one = train_with(1, rule, &config);
        assert!(one == train_with(2, rule, &config), "{rule:?}: two threads differ from one");
        assert!(one == train_with(3, rule, &config), "{rule:?}: three threads differ from one");
    }
}

#[test]
fn a_restored_training_continues_bit_by_bit() {
    for rule in [OptimizerKind::Muon, OptimizerKind::Adam] {
        // Revives codes after one unused step, so that the checkpoint must hold their usage.
        let vq = VqConfig { revive_after: 1, ..small().vq };
        let config = DynamicsConfig { vq, ..small() };
        let mut whole = trainer_by(rule, &config, 1);
        let metrics = train(whole.as_mut(), 0..6);

        let mut half = trainer_by(rule, &config, 1);
        train(half.as_mut(), 0..3);
        let mut rest = trainer_by(rule, &config, 1);
        rest.restore(&half.save().unwrap()).unwrap();
        assert_eq!(rest.steps(), 3);
        assert_eq!(train(rest.as_mut(), 3..6), metrics[3..]);
        assert!(rest.save().unwrap() == whole.save().unwrap(), "{rule:?}: the states differ");
        assert!(
            metrics.iter().any(|step| step.codes_revived > 0),
            "{rule:?}: no code was revived in {metrics:?}"
        );
    }
}

#[test]
fn the_decorrelation_penalty_lowers_the_correlation_of_latent_actions() {
    let config = small();
    let correlation = |decorrelation| {
        let mut trainer = trainer(&config, 1);
        let pace = StepSettings { quantise: false, decorrelation, ..StepSettings::even(1e-3) };
        let steps = (0..30).map(|seed| {
            trainer.step(&batch(&config, &moving_squares(&config, seed)), pace).unwrap().correlation
        });
        steps.collect::<Vec<_>>()
    };
    let without = correlation(0.0);
    let with = correlation(1.0);
    assert_eq!(without[0], with[0]);
    assert!(with[29] < 0.5 * without[29], "{} {}", with[29], without[29]);
}

#[test]
fn a_checkpoint_of_another_optimiser_is_refused() {
    let [adam, mut muon] =
        [OptimizerKind::Adam, OptimizerKind::Muon].map(|rule| trainer_by(rule, &small(), 1));
    let error = muon.restore(&adam.save().unwrap()).unwrap_err();
    assert!(matches!(error, TrainError::Checkpoint { what: "optim", .. }), "{error}");
}

/// The true action is the direction of the square.
#[test]
fn supervision_learns_true_actions_and_resumes_from_a_checkpoint() {
    let config = small();
    let start = || {
        dynamics_trainer(
            &test_device(),
            &config,
            &OptimConfig::default(),
            Some(Supervision { actions: 4, weight: 0.1 }),
            1,
        )
        .unwrap()
    };
    let step = |trainer: &mut dyn DynamicsTrainer, seed, actions: &[u32]| {
        trainer.step(
            &Batch { actions, ..batch(&config, &moving_squares(&config, seed)) },
            StepSettings::even(1e-3),
        )
    };
    let mut whole = start();
    let mut supervised_step = |seed| step(whole.as_mut(), seed, &[0, 1, 2, 3]).unwrap();
    let first = supervised_step(0);
    let later: Vec<_> = (1..40).map(&mut supervised_step).collect();
    assert!(later[38].action_loss < first.action_loss / 2.0, "{first:?} {:?}", later[38]);
    assert!(
        trainer(&config, 1)
            .step(&batch(&config, &moving_squares(&config, 0)), StepSettings::even(1e-3))
            .unwrap()
            .action_loss
            == 0.0
    );

    let mut half = start();
    for seed in 0..3 {
        step(half.as_mut(), seed, &[0, 1, 2, 3]).unwrap();
    }
    let mut rest = start();
    rest.restore(&half.save().unwrap()).unwrap();
    assert_eq!(step(rest.as_mut(), 3, &[0, 1, 2, 3]).unwrap(), later[2]);
    let error = step(rest.as_mut(), 4, &[4]).unwrap_err();
    assert_eq!(
        error.to_string(),
        "the batch does not fit the networks: its true action is 4, expected 3"
    );
}

#[test]
fn a_checkpoint_of_another_training_is_refused() {
    let mut other = trainer(&DynamicsConfig { fdm_base: 6, ..small() }, 1);
    let error = other.restore(&trainer(&small(), 1).save().unwrap()).unwrap_err();
    assert!(matches!(error, TrainError::Checkpoint { what: "dynamics", .. }), "{error}");
}

#[test]
fn a_batch_of_the_wrong_size_is_refused() {
    let config = small();
    let frames = moving_squares(&config, 0);
    let wrong = Batch { time: 4, ..batch(&config, &frames) };
    let error = trainer(&config, 1).step(&wrong, StepSettings::even(1e-3)).unwrap_err();
    assert_eq!(error.to_string(), "the batch does not fit the networks: its time is 4, expected 3");
}

#[test]
fn training_beats_copying_the_last_frame() {
    let config = small();
    let mut trainer = trainer(&config, 3);
    let frames = moving_squares(&config, 0);
    let first = trainer.step(&batch(&config, &frames), StepSettings::even(1e-3)).unwrap();
    assert!((first.relative_loss - 1.0).abs() < 1e-5, "an untrained model copies: {first:?}");
    for _ in 0..60 {
        trainer.step(&batch(&config, &frames), StepSettings::even(3e-3)).unwrap();
    }
    let last = trainer.step(&batch(&config, &frames), StepSettings::even(1e-3)).unwrap();
    assert!(last.relative_loss < 0.5, "{last:?}");
    // Every window gets the latent action of its neighbour.
    let shuffle: Vec<_> = (0..WINDOWS).map(|window| (window + 1) % WINDOWS).collect();
    let scores = trainer.evaluate(&batch(&config, &frames), &shuffle, true).unwrap();
    assert_eq!(scores.fdm_error.len(), WINDOWS);
    assert_eq!(scores.codes.len(), WINDOWS * config.codes());
    assert!(last.perplexity.iter().all(|&perplexity| perplexity > 1.5), "{last:?}");
}

#[test]
fn our_initialisation_uses_more_codes_than_the_published_one() {
    let perplexity = |config: &DynamicsConfig| {
        let mut trainer = trainer(config, 2);
        train(trainer.as_mut(), 0..3).pop().unwrap().perplexity
    };
    let published = perplexity(&small().reference());
    let ours = perplexity(&small());
    assert!(
        published.iter().sum::<f32>() < ours.iter().sum::<f32>(),
        "published {published:?}, ours {ours:?}"
    );
}

#[test]
fn a_label_depends_only_on_the_pixels_of_its_window() {
    let config = small();
    let weights = trainer(&config, 4).export(&BTreeMap::new()).unwrap();
    let labeller = labeller(&test_device(), &weights, Precision::F32).unwrap();
    let frames = moving_squares(&config, 0);
    let want = LabelOutputs { codes: true, fdm_error: true };
    let starts: Vec<_> =
        (0..WINDOWS * config.window() - 2).chain(0..40).map(|start| start % 20).collect();
    let together = labeller.label(&frames, &starts, want).unwrap();
    let (latent, codes) = (config.latent_dim(), config.codes());
    // Compares every seventh label with one computed from its window alone.
    for (row, &start) in starts.iter().enumerate().step_by(7) {
        let frame = config.frame_size * config.frame_size * config.channels;
        let own = &frames[start * frame..][..config.window() * frame];
        let alone = labeller.label(own, &[0], want).unwrap();
        assert_eq!(alone.latent_action, together.latent_action[row * latent..][..latent]);
        assert_eq!(alone.latent_code, together.latent_code[row * codes..][..codes]);
        assert_eq!(alone.fdm_error, together.fdm_error[row..][..1]);
        assert_eq!(alone.motion, together.motion[row..][..1]);
    }
}

#[test]
fn bfloat16_training_equals_f32_up_to_rounding() {
    if !computes_in_bf16() {
        return;
    }
    let run = |precision: Precision| {
        let optim = OptimConfig { precision, ..OptimConfig::default() };
        let mut trainer = dynamics_trainer(&test_device(), &small(), &optim, None, 4).unwrap();
        train(trainer.as_mut(), 0..4)
    };
    let exact = run(Precision::F32);
    let rounded = run(Precision::Bf16);
    for (rounded, exact) in rounded.iter().zip(&exact) {
        assert!(
            near(rounded.loss, exact.loss, 0.05) && near(rounded.grad_norm, exact.grad_norm, 0.2),
            "{rounded:?} {exact:?}"
        );
    }
    // The first prediction is always the last frame, so a later step is compared.
    assert_ne!(rounded[3].wm_loss, exact[3].wm_loss, "nothing was rounded");
}

#[test]
fn bfloat16_labels_equal_f32_labels_up_to_rounding() {
    if !computes_in_bf16() {
        return;
    }
    let mut trainer = trainer(&small(), 4);
    train(trainer.as_mut(), 0..4);
    let weights = trainer.export(&BTreeMap::new()).unwrap();
    let label = |precision: Precision| {
        let want = LabelOutputs { codes: true, fdm_error: true };
        labeller(&test_device(), &weights, precision)
            .unwrap()
            .label(&moving_squares(&small(), 0), &[0, 3, 6, 9], want)
            .unwrap()
    };
    let exact = label(Precision::F32);
    let rounded = label(Precision::Bf16);
    let largest = exact.latent_action.iter().fold(0.0_f32, |most, x| most.max(x.abs()));
    let difference = rounded
        .latent_action
        .iter()
        .zip(&exact.latent_action)
        .fold(0.0_f32, |most, (a, b)| most.max((a - b).abs()));
    assert!(difference > 0.0 && difference < 0.05 * largest, "{difference} of {largest}");
    let errors = rounded.fdm_error.iter().zip(&exact.fdm_error);
    assert!(errors.clone().all(|(a, b)| near(*a, *b, 0.1)), "{:?}", errors.collect::<Vec<_>>());
    assert_eq!(rounded.motion, exact.motion);
}

/// Returns whether the device under test computes in bf16. Otherwise it must refuse to.
fn computes_in_bf16() -> bool {
    let device = test_device();
    let Err(error) = device.check_precision(Precision::Bf16) else { return true };
    println!("skipped: {error}");
    let optim = OptimConfig { precision: Precision::Bf16, ..OptimConfig::default() };
    let refused = dynamics_trainer(&device, &small(), &optim, None, 4).err().unwrap();
    assert!(refused.to_string().contains("does not compute in bf16"), "{refused}");
    false
}

fn near(a: f32, b: f32, share: f32) -> bool {
    (a - b).abs() <= share * b.abs().max(1e-3)
}

#[test]
fn a_window_past_the_last_frame_is_refused() {
    let config = small();
    let labeller = labeller(
        &test_device(),
        &trainer(&config, 4).export(&BTreeMap::new()).unwrap(),
        Precision::F32,
    )
    .unwrap();
    let error =
        labeller.label(&moving_squares(&config, 0), &[22], LabelOutputs::default()).unwrap_err();
    assert!(matches!(error, ModelError::Frames { .. }), "{error}");
    assert_eq!(
        error.to_string(),
        "invalid window: got frames 22 to 24 of 24, expected 3 existing frames"
    );
}
