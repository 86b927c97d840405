//! Trainings that read late, on the CPU, against those that read every step.
#![expect(clippy::unwrap_used, reason = "a test fails by panicking")]

use std::sync::Mutex;

use burn::backend::{Autodiff, Flex};

use super::*;
use crate::models::weights::Weights;
use crate::models::{DynamicsConfig, PolicyConfig, VqConfig};
use crate::train::dynamics_trainer::Trainer;
use crate::train::policy::Cloner;
use crate::train::{
    Batch, CloningBatch, DynamicsTrainer, Learner, OptimConfig, OptimizerKind, PolicyTrainer,
    Progress, Selection, Step, StepMetrics, StepSettings, TrainingLoop,
};

type Dynamics = Trainer<Autodiff<Flex>>;

const SIDE: usize = 16;
const WINDOWS: usize = 4;

fn dynamics(rule: OptimizerKind, revive_after: u32, reads_late: bool) -> Dynamics {
    let vq = VqConfig { entries: 8, dim: 4, revive_after, ..VqConfig::default() };
    let config = DynamicsConfig { frame_size: SIDE, fdm_base: 4, vq, ..DynamicsConfig::default() };
    let optim = OptimConfig { rule, ema_decay: Some(0.9), ..OptimConfig::default() };
    let mut trainer = Trainer::new(Default::default(), &config, &optim, None, 3);
    trainer.read_late(reads_late);
    trainer
}

/// Takes a step on two batches. With `broken`, the loss is not finite. The codebooks start at step
/// 1.
fn take(
    trainer: &mut Dynamics,
    step: usize,
    broken: bool,
    read_back: ReadBack,
) -> Result<Option<StepMetrics>> {
    let time = trainer.config.window();
    let bytes = WINDOWS * time * SIDE * SIDE * 3;
    let pixel = |i: usize, pass: usize| (i * 31 + i * i / 97 + (2 * step + pass) * 17) % 251;
    let frames = [0, 1].map(|pass| (0..bytes).map(|i| pixel(i, pass) as u8).collect::<Vec<u8>>());
    let batches = frames.each_ref().map(|frames| Batch {
        frames,
        batch: WINDOWS,
        time,
        height: SIDE,
        width: SIDE,
        actions: &[],
    });
    let decorrelation = if broken { f64::INFINITY } else { 0.03 };
    let pace = StepSettings { quantise: step > 0, decorrelation, ..StepSettings::even(1e-3) };
    trainer.step_accumulated(&batches, pace, read_back)
}

/// Returns all tensors of a checkpoint, without its number of steps.
fn tensors(checkpoint: &[u8]) -> Vec<(String, Vec<f32>)> {
    let weights = Weights::parse(checkpoint).unwrap();
    let values = |(name, shape): (String, Vec<usize>)| {
        let values = weights.get(&name, &shape).unwrap();
        (name, values)
    };
    weights.shapes_under("").into_iter().map(values).collect()
}

#[test]
fn a_training_that_reads_late_equals_one_that_reads_every_step() {
    for rule in [OptimizerKind::Muon, OptimizerKind::Adam] {
        let [mut late, mut immediate] = [true, false].map(|late| dynamics(rule, 100, late));
        for step in 0..6 {
            let read = take(&mut late, step, false, ReadBack::IfCheap).unwrap();
            let expected = take(&mut immediate, step, false, ReadBack::IfCheap).unwrap();
            // The codebooks start on the host.
            assert_eq!(read, expected.filter(|_| step == 1), "{rule:?}, step {step}");
        }
        assert!(late.save().unwrap() == immediate.save().unwrap(), "{rule:?}");
        let read = take(&mut late, 6, false, ReadBack::Always).unwrap();
        assert_eq!(read, take(&mut immediate, 6, false, ReadBack::Always).unwrap());
    }
}

#[test]
fn codes_are_revived_at_steps_that_are_read() {
    let [mut late, mut immediate] =
        [true, false].map(|late| dynamics(OptimizerKind::Adam, 1, late));
    let mut revived = 0;
    for step in 0..8 {
        let read = take(&mut late, step, false, ReadBack::Always).unwrap().unwrap();
        let expected = take(&mut immediate, step, false, ReadBack::Always).unwrap().unwrap();
        assert_eq!(read, expected, "step {step}");
        revived += read.codes_revived;
    }
    assert!(revived > 0, "no code was revived");
    assert!(late.save().unwrap() == immediate.save().unwrap());

    let mut rarely = dynamics(OptimizerKind::Adam, 1, true);
    for step in 0..7 {
        assert_eq!(take(&mut rarely, step, false, ReadBack::IfCheap).unwrap().is_some(), step == 1);
    }
    let ages = tensors(&rarely.save().unwrap()).into_iter().find(|(name, _)| name == "unused");
    let old = ages.unwrap().1.into_iter().filter(|age| *age > 1.0).count();
    assert!(old > 0, "no code grew older than its limit");
    let read = take(&mut rarely, 7, false, ReadBack::Always).unwrap().unwrap();
    assert!(read.codes_revived > 0, "{read:?}");
}

#[test]
fn a_step_that_is_not_finite_leaves_the_state_and_is_counted() {
    for rule in [OptimizerKind::Muon, OptimizerKind::Adam] {
        let mut trainer = dynamics(rule, 3, true);
        for step in 0..3 {
            take(&mut trainer, step, false, ReadBack::IfCheap).unwrap();
        }
        let before = tensors(&trainer.save().unwrap());
        for prefix in ["idm.", "wm.", "adam.first.", "ema.", "idm.vq.", "unused"] {
            assert!(before.iter().any(|(name, _)| name.starts_with(prefix)), "{prefix}");
        }
        for step in 3..5 {
            assert_eq!(take(&mut trainer, step, true, ReadBack::IfCheap).unwrap(), None);
            assert!(tensors(&trainer.save().unwrap()) == before, "{rule:?}, step {step}");
        }
        let error = take(&mut trainer, 5, true, ReadBack::Always).unwrap_err();
        let expected = Skips { since_read: 3, in_a_row: 3 };
        assert!(
            matches!(error, TrainError::NotFinite { step: 5, what: "loss", skips, .. }
                if skips == expected),
            "{error:?}"
        );
        assert!(tensors(&trainer.save().unwrap()) == before, "{rule:?}");

        take(&mut trainer, 6, true, ReadBack::IfCheap).unwrap();
        let read = take(&mut trainer, 7, false, ReadBack::Always).unwrap().unwrap();
        assert_eq!(read.skipped, 1);
        assert!(read.loss.is_finite() && tensors(&trainer.save().unwrap()) != before);
    }
}

#[test]
fn codebooks_that_would_start_at_a_broken_batch_start_later() {
    for late in [true, false] {
        let mut trainer = dynamics(OptimizerKind::Adam, 3, late);
        take(&mut trainer, 0, false, ReadBack::IfCheap).unwrap();
        let before = tensors(&trainer.save().unwrap());
        take(&mut trainer, 1, true, ReadBack::IfCheap).unwrap_err();
        assert!(tensors(&trainer.save().unwrap()) == before && !trainer.codebooks_started);
        assert!(take(&mut trainer, 2, false, ReadBack::IfCheap).unwrap().is_some());
        assert!(trainer.codebooks_started);
    }
}

/// Trains with a loss that is not finite at the steps `broken`.
struct Broken {
    trainer: Dynamics,
    broken: std::ops::RangeInclusive<u64>,
}

impl Learner for Broken {
    type Error = TrainError;

    fn step(&mut self, step: u64, read_back: ReadBack) -> Result<Step> {
        let is_broken = self.broken.contains(&step);
        let result = take(&mut self.trainer, step as usize, is_broken, read_back);
        Step::from_result(result, |metrics| {
            let row = vec![("loss".to_owned(), metrics.loss)];
            Step::Taken { row, note: String::new(), skipped: metrics.skipped }
        })
    }

    fn save(&self) -> Result<Vec<u8>> {
        self.trainer.save()
    }

    fn restore(&mut self, state: &[u8]) -> Result<()> {
        self.trainer.restore(state)
    }
}

#[derive(Default)]
struct Sentences(Mutex<Vec<String>>);

impl Progress for Sentences {
    fn advance(&self, _: u64) {}

    fn note(&self, _: &str) {}

    fn say(&self, text: &str) {
        self.0.lock().unwrap().push(text.to_owned());
    }
}

/// Returns the error, the sentences and the logged numbers of skipped steps of 21 steps.
fn train(broken: std::ops::RangeInclusive<u64>) -> (Option<String>, Vec<String>, Vec<(u64, f32)>) {
    let progress = Sentences::default();
    let training = TrainingLoop {
        steps: 21,
        units: 1,
        log_every: 10,
        log_judged: false,
        selection: Selection::Last,
        checkpoints: None,
        continued: None,
        stop: None,
        progress: &progress,
    };
    let mut learner = Broken { trainer: dynamics(OptimizerKind::Adam, 0, true), broken };
    let result = training.run(&mut learner);
    let skipped = result.as_ref().map_or(vec![], |end| end.metrics.points("skipped").collect());
    let error = result.err().map(|error| error.to_string());
    (error, progress.0.into_inner().unwrap(), skipped)
}

#[test]
fn ten_steps_in_a_row_that_are_not_finite_end_a_training() {
    let (error, sentences, _) = train(11..=20);
    let expected = "training diverged: the loss is inf at step 20, \
                    the last of 10 steps in a row that were not finite";
    assert_eq!((error.as_deref(), sentences.len()), (Some(expected), 0));

    // The row goes on beyond a step that is read.
    let (error, sentences, _) = train(3..=30);
    assert!(error.unwrap().contains("at step 20, the last of 18 steps in a row"));
    // Step 1 was read, because the codebooks started.
    assert_eq!(sentences, ["8 of the last 9 steps were skipped: loss is inf"]);
}

#[test]
fn skipped_steps_are_reported_when_a_later_step_is_read() {
    let (error, sentences, skipped) = train(12..=14);
    assert_eq!((error, skipped), (None, vec![(20, 3.0)]));
    let expected = "3 of the last 10 steps were skipped: loss or gradient norm was not finite";
    assert_eq!(sentences, [expected]);
}

#[test]
fn a_policy_that_reads_late_equals_one_that_reads_every_step() {
    let config = PolicyConfig { scale: 1, latent_dim: 4, frame_size: SIDE, channels: 3, frames: 1 };
    let optim = OptimConfig { ema_decay: Some(0.9), ..OptimConfig::default() };
    let [mut late, mut immediate] = [true, false].map(|late| {
        let mut policy = Cloner::<Autodiff<Flex>>::new(Default::default(), &config, &optim, 0);
        policy.read_late(late);
        policy
    });
    let frames: Vec<u8> = (0..4 * SIDE * SIDE * 3).map(|i| (i * 31 % 251) as u8).collect();
    let step = |policy: &mut Cloner<Autodiff<Flex>>, scale: f32, read_back| {
        let latent_action: Vec<f32> = (0..16).map(|i| scale * (i as f32 * 0.7).sin()).collect();
        let batch = CloningBatch { frames: &frames, latent_action: &latent_action };
        policy.step_accumulated(&[batch, batch], 1e-3, read_back)
    };
    for scale in [1.0, 2.0, 3.0] {
        assert_eq!(step(&mut late, scale, ReadBack::IfCheap).unwrap(), None);
        assert!(step(&mut immediate, scale, ReadBack::IfCheap).unwrap().is_some());
    }
    assert!(late.save().unwrap() == immediate.save().unwrap());

    let before = tensors(&late.save().unwrap());
    for scale in [f32::NAN, 1e30] {
        assert_eq!(step(&mut late, scale, ReadBack::IfCheap).unwrap(), None);
        assert!(tensors(&late.save().unwrap()) == before, "{scale}");
    }
    let read = step(&mut late, 1.0, ReadBack::Always).unwrap().unwrap();
    assert_eq!(read.skipped, 2);
}
