//! The loop with a learner of one number.
#![expect(clippy::unwrap_used, reason = "a test fails by panicking")]

use super::*;
use crate::train::{NoProgress, Signal};

/// Sums the numbers of its steps. With `values` it is judged after every second step, by the next
/// of them.
#[derive(Clone, Debug, Default)]
struct Sum {
    sum: u64,
    begun_at: u64,
    /// Skipped steps.
    skips: Vec<u64>,
    /// The step during which a stop signal arrives.
    stops_after: Option<(u64, Stop)>,
    values: Vec<f32>,
}

impl Learner for Sum {
    type Error = TrainError;

    fn begin(&mut self, first: u64) {
        self.begun_at = first;
    }

    fn step(&mut self, step: u64, _: ReadBack) -> Result<Step, TrainError> {
        if self.skips.contains(&step) {
            return Ok(Step::Skipped { what: "loss", seen: f32::NAN, skips: Skips::ONE });
        }
        if let Some((_, stop)) = self.stops_after.as_ref().filter(|(at, _)| *at == step) {
            stop.set(Signal::Terminate);
        }
        self.sum += step;
        let row = vec![("sum".into(), self.sum as f32)];
        Ok(Step::Taken { row, note: String::new(), skipped: 0 })
    }

    fn is_judged(&self, taken: u64) -> bool {
        !self.values.is_empty() && taken.is_multiple_of(2)
    }

    fn judge(&mut self, taken: u64) -> Result<Judgement, TrainError> {
        let value = self.values[(taken / 2 - 1) as usize];
        Ok(Judgement { row: vec![("value".into(), value)], sentence: None })
    }

    fn save(&self) -> Result<Vec<u8>, TrainError> {
        Ok(self.sum.to_le_bytes().to_vec())
    }

    fn restore(&mut self, state: &[u8]) -> Result<(), TrainError> {
        self.sum = u64::from_le_bytes(state.try_into().unwrap());
        Ok(())
    }
}

fn training(steps: u64) -> TrainingLoop<'static> {
    TrainingLoop {
        steps,
        units: 1,
        log_every: 1,
        log_judged: false,
        selection: Selection::Last,
        checkpoints: None,
        continued: None,
        stop: None,
        progress: &NoProgress,
    }
}

fn best(patience: Option<usize>) -> Selection {
    Selection::Best { column: "value", patience }
}

fn store() -> (tempfile::TempDir, Store) {
    let folder = tempfile::tempdir().unwrap();
    let store = Store::open(folder.path().to_str().unwrap()).unwrap();
    (folder, store)
}

/// Checkpoints only on a stop and on a best judgement.
fn rarely(store: &Store) -> Option<Checkpoints<'_>> {
    Some(Checkpoints { store, folder: "checkpoints", every: Duration::from_secs(3600) })
}

#[test]
fn a_skipped_step_is_logged_and_leaves_the_state() {
    let mut learner = Sum { skips: vec![3], ..Sum::default() };
    let finished = training(5).run(&mut learner).unwrap();
    assert_eq!(learner.sum, 1 + 2 + 4);
    assert_eq!(finished.metrics.points("skipped").collect::<Vec<_>>(), [(3, 1.0)]);
    assert_eq!(finished.metrics.points("sum").count(), 4);
}

#[test]
fn ten_skipped_steps_in_a_row_end_a_training_and_nine_do_not() {
    let run = |skips: std::ops::Range<u64>| {
        training(40).run(&mut Sum { skips: skips.collect(), ..Sum::default() })
    };
    run(5..14).unwrap();
    let error = run(5..15).unwrap_err();
    assert!(matches!(error, TrainError::Diverged { step: 14, steps: 10, .. }), "{error}");
}

#[test]
fn a_training_stopped_at_any_step_ends_like_an_uninterrupted_one() {
    let skips: Vec<u64> = (3..9).collect();
    let values = vec![5.0, 3.0, 4.0, 1.0, 2.0, 6.0];
    for selection in [Selection::Last, best(None), best(Some(4))] {
        let uninterrupted = Sum { skips: skips.clone(), values: values.clone(), ..Sum::default() };
        let (_folder, whole_store) = store();
        let mut whole = uninterrupted.clone();
        let whole_loop =
            TrainingLoop { selection, checkpoints: rarely(&whole_store), ..training(12) };
        let expected = whole_loop.run(&mut whole).unwrap();
        for at in (0..11).filter(|at| !skips.contains(at)) {
            let (_folder, own_store) = store();
            let stop = Stop::default();
            let stopped = TrainingLoop {
                selection,
                checkpoints: rarely(&own_store),
                stop: Some(&stop),
                ..training(12)
            };
            let mut learner =
                Sum { stops_after: Some((at, stop.clone())), ..uninterrupted.clone() };
            let error = stopped.run(&mut learner).unwrap_err();
            assert!(matches!(error, TrainError::Stopped(Signal::Terminate)), "{error}");
            let mut resumed = uninterrupted.clone();
            let again = TrainingLoop { stop: None, ..stopped };
            assert_eq!(again.run(&mut resumed).unwrap(), expected, "stopped at {at}");
            assert_eq!((resumed.sum, resumed.begun_at), (whole.sum, at + 1));
        }
    }
}

#[test]
fn skipped_steps_before_and_after_a_resume_count_together() {
    let (_folder, store) = store();
    let checkpoints =
        Some(Checkpoints { store: &store, folder: "checkpoints", every: Duration::ZERO });
    let short = TrainingLoop { checkpoints, ..training(100) };
    let stop = Stop::default();
    stop.set(Signal::Interrupt);
    let mut learner = Sum { skips: (4..14).collect(), ..Sum::default() };
    for _ in 0..9 {
        let stopped = TrainingLoop { stop: Some(&stop), ..short };
        assert!(matches!(stopped.run(&mut learner), Err(TrainError::Stopped(_))));
    }
    let error = short.run(&mut learner).unwrap_err();
    assert!(matches!(error, TrainError::Diverged { step: 13, .. }), "{error}");
}

#[test]
fn the_best_state_is_selected_and_patience_ends_a_training() {
    for (values, patience, steps, taken) in [
        (vec![5.0, 3.0, 4.0, 4.0, 4.0], None, 4, 10),
        (vec![5.0, 3.0, 4.0, 4.0, 2.0], Some(2), 4, 8),
        (vec![5.0, 3.0, 3.0, 4.0, 2.0], None, 10, 10),
        (vec![5.0, 5.0, 5.0, 5.0, 5.0], Some(9), 2, 10),
    ] {
        let (_folder, store) = store();
        let to = Checkpoints { store: &store, folder: "c", every: Duration::from_secs(3600) };
        for checkpoints in [None, Some(to)] {
            let mut learner = Sum { values: values.clone(), ..Sum::default() };
            let training = TrainingLoop { selection: best(patience), checkpoints, ..training(10) };
            let finished = training.run(&mut learner).unwrap();
            assert_eq!(finished.steps, steps, "{values:?}");
            assert_eq!(learner.sum, (0..steps).sum::<u64>(), "{values:?}");
            assert_eq!(finished.metrics.points("sum").count(), taken, "{values:?}");
        }
    }
}

#[test]
fn a_finished_training_continues_with_more_steps() {
    let mut learner = Sum::default();
    let state = training(4).run(&mut learner).unwrap().state(&learner).unwrap();
    let continued = Some(FinalState { file: "training.state", bytes: &state });
    let mut longer = Sum::default();
    let finished = TrainingLoop { continued, ..training(7) }.run(&mut longer).unwrap();
    assert_eq!((longer.sum, longer.begun_at), ((0..7).sum(), 4));
    assert_eq!(finished.metrics.points("sum").count(), 7);
    let broken = Some(FinalState { file: "training.state", bytes: b"four" });
    let error = TrainingLoop { continued: broken, ..training(7) }.run(&mut longer).unwrap_err();
    assert!(error.to_string().starts_with("cannot resume from the checkpoint training.state"));
}

#[test]
fn a_step_of_many_units_counts_them() {
    let (_folder, store) = store();
    let checkpoints = Some(Checkpoints { store: &store, folder: "c", every: Duration::ZERO });
    let training = TrainingLoop { units: 256, checkpoints, ..training(3) };
    let finished = training.run(&mut Sum::default()).unwrap();
    let positions: Vec<u64> = finished.metrics.points("sum").map(|(step, _)| step).collect();
    assert_eq!(positions, [256, 512, 768]);
    assert_eq!(checkpoint::newest(&store, "c").unwrap().unwrap().0, 512);
    let mut resumed = Sum::default();
    assert_eq!(training.run(&mut resumed).unwrap(), finished);
    assert_eq!(resumed.begun_at, 2);
}
