//! The loop of every training: steps, metrics, judgements, checkpoints, early stopping.
//!
//! [`TrainingLoop::run`] drives a [`Learner`]: the dynamics models, the latent policy, a decoder or
//! a PPO agent. A run that was killed resumes from its newest checkpoint and ends with the same
//! weights, because a step depends on nothing but the learner's state and the step's number.

use std::time::{Duration, Instant};

use super::metrics::Metrics;
use super::{Progress, ReadBack, Skips, Stop, TrainError, checkpoint};
use crate::dataset::{self, Store};

/// The number of skipped steps in a row that counts as divergence.
const MAX_SKIPPED: u64 = 10;
/// The metric of a skipped step. A resumed run counts skipped steps by it.
const SKIPPED: &str = "skipped";

/// Values of one row of the metrics, by name.
pub type Row = Vec<(String, f32)>;

/// The outcome of a step.
#[derive(Clone, Debug, PartialEq)]
pub enum Step {
    /// The weights moved.
    Taken {
        /// The metrics of the step.
        row: Row,
        /// A few words for the progress line.
        note: String,
        /// Skipped steps among the queued ones right before this step.
        skipped: u64,
    },
    /// A loss or a gradient was not finite, so the weights stayed as they were.
    Skipped {
        /// The quantity.
        what: &'static str,
        /// Its value.
        seen: f32,
        /// This step, and skipped ones among the queued ones right before it.
        skips: Skips,
    },
    /// The step waits for its turn on the device, so its outcome is unknown. A later step tells
    /// whether it was skipped.
    Queued,
}

impl Step {
    /// Converts the result of a trainer's step. Metrics that were not read are a queued step,
    /// [`TrainError::NotFinite`] is a skipped one; any other error stays an error.
    pub fn from_result<T>(
        result: Result<Option<T>, TrainError>,
        report: impl FnOnce(T) -> Step,
    ) -> Result<Step, TrainError> {
        match result {
            Ok(metrics) => Ok(metrics.map_or(Step::Queued, report)),
            Err(TrainError::NotFinite { what, seen, skips, .. }) => {
                Ok(Step::Skipped { what, seen, skips })
            }
            Err(error) => Err(error),
        }
    }
}

/// The result of judging the networks on held-out data.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Judgement {
    /// Its metrics.
    pub row: Row,
    /// A sentence to print. Default none.
    pub sentence: Option<String>,
}

/// Networks and their data, to be trained by a [`TrainingLoop`].
pub trait Learner {
    /// The error of a step.
    type Error: From<TrainError> + From<dataset::Error>;

    /// Prepares for the steps from `first` on, after a checkpoint was restored. Default nothing.
    fn begin(&mut self, first: u64) {
        _ = first;
    }

    /// Takes a step, numbered from 0. A skipped step must leave the weights as they were.
    fn step(&mut self, step: u64, read_back: ReadBack) -> Result<Step, Self::Error>;

    /// Returns whether the networks are judged after `taken` steps. Default never.
    fn is_judged(&self, taken: u64) -> bool {
        _ = taken;
        false
    }

    /// Judges the networks after `taken` steps.
    fn judge(&mut self, taken: u64) -> Result<Judgement, Self::Error> {
        _ = taken;
        Ok(Judgement::default())
    }

    /// Returns the whole state. A training that restores it continues bit by bit as this one does.
    fn save(&self) -> Result<Vec<u8>, TrainError>;

    /// Takes over a state that [`save`](Learner::save) returned.
    fn restore(&mut self, state: &[u8]) -> Result<(), TrainError>;
}

/// The choice of the final state.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub enum Selection {
    /// The state after the last step.
    #[default]
    Last,
    /// The state of the judgement with the lowest value.
    Best {
        /// The metric.
        column: &'static str,
        /// Training ends early after this many judgements in a row without a lower value. `None`:
        /// it takes every step.
        patience: Option<usize>,
    },
}

/// The place and frequency of checkpoints.
#[derive(Clone, Copy)]
pub struct Checkpoints<'a> {
    /// The workspace.
    pub store: &'a Store,
    /// The folder for checkpoints, relative to the workspace.
    pub folder: &'a str,
    /// Time between two checkpoints. It does not change the result.
    pub every: Duration,
}

/// The settings of a training loop.
#[derive(Clone, Copy)]
pub struct TrainingLoop<'a> {
    /// Steps to take.
    pub steps: u64,
    /// Units of a step in progress, metrics and names of checkpoints: 1 for supervised trainings,
    /// the environment steps of an update for PPO.
    pub units: u64,
    /// Steps between two rows of the metrics.
    pub log_every: u64,
    /// Whether a judged step has a row of its own between those.
    pub log_judged: bool,
    /// The choice of the final state.
    pub selection: Selection,
    /// The checkpoints. `None`: the training is too short for any, and a stop ends it at once.
    pub checkpoints: Option<Checkpoints<'a>>,
    /// The final state of a shorter training, to continue from if there is no checkpoint yet.
    pub continued: Option<FinalState<'a>>,
    /// Ends the training early with a checkpoint and [`TrainError::Stopped`].
    pub stop: Option<&'a Stop>,
    /// Observes the steps.
    pub progress: &'a dyn Progress,
}

/// The state at the end of a training, as [`Finished::state`] wrote it.
#[derive(Clone, Copy)]
pub struct FinalState<'a> {
    /// The file, for messages.
    pub file: &'a str,
    /// Its bytes: the number of steps as a line of text, then a checkpoint.
    pub bytes: &'a [u8],
}

/// A finished training.
#[derive(Clone, Debug, PartialEq)]
pub struct Finished {
    /// Its curve.
    pub metrics: Metrics,
    /// The number of steps of the selected state.
    pub steps: u64,
}

impl Finished {
    /// Returns the state to continue from with more steps.
    pub fn state<L: Learner>(&self, learner: &L) -> Result<Vec<u8>, TrainError> {
        let mut bytes = format!("{}\n", self.steps).into_bytes();
        bytes.extend(self.metrics.pack(&learner.save()?));
        Ok(bytes)
    }
}

/// The judgement with the lowest value so far.
#[derive(Clone, Copy, Debug, PartialEq)]
struct Best {
    steps: u64,
    /// Judgements since.
    since: usize,
}

/// The outcomes of the steps so far.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
struct Outcomes {
    /// Skipped steps in a row, without queued ones.
    skipped: u64,
    /// Queued steps since the last one whose outcome was known.
    queued: u64,
}

/// The state of the best judgement of a training without checkpoints.
type BestState = Option<(u64, Vec<u8>)>;

impl TrainingLoop<'_> {
    /// Trains from the newest checkpoint, or from the start, and selects the state to end with.
    ///
    /// # Errors
    /// [`TrainError::Stopped`] after a stop signal, [`TrainError::Diverged`] after too many skipped
    /// steps in a row, and any error of the learner or of a checkpoint.
    pub fn run<L: Learner>(&self, learner: &mut L) -> Result<Finished, L::Error> {
        let (first, mut metrics) = self.resume(learner)?;
        let mut best_state = BestState::None;
        let mut outcomes = Outcomes { skipped: self.skipped_before(&metrics, first), queued: 0 };
        let mut saved = Instant::now();
        // Only now: the learner draws its first batches here, for the steps after the checkpoint.
        learner.begin(first);
        let mut taken = first;
        while taken < self.steps && !self.is_patience_over(&metrics) {
            outcomes = self.step(learner, &mut metrics, taken, outcomes)?;
            taken += 1;
            let judged = learner.is_judged(taken);
            if judged {
                let judgement = learner.judge(taken)?;
                if let Some(sentence) = judgement.sentence {
                    self.progress.say(&sentence);
                }
                metrics.log(self.position(taken - 1), judgement.row);
            }
            // A training that is over needs no checkpoint: its caller writes the model next.
            let over = taken == self.steps || self.is_patience_over(&metrics);
            let best = self.best(&metrics);
            let is_best = judged && best.is_some_and(|best| best.steps == taken);
            let stopped = self.stop.and_then(Stop::signal).filter(|_| !over);
            match &self.checkpoints {
                // Without checkpoints the best state is kept in memory.
                None if is_best => best_state = Some((taken, learner.save()?)),
                Some(to)
                    if is_best || stopped.is_some() || (saved.elapsed() >= to.every && !over) =>
                {
                    let state = metrics.pack(&learner.save()?);
                    // Later checkpoints never delete the best one.
                    let kept = best.map(|best| best.steps * self.units);
                    checkpoint::save(to.store, to.folder, taken * self.units, &state, kept)?;
                    saved = Instant::now();
                }
                _ => {}
            }
            if let Some(signal) = stopped {
                return Err(TrainError::Stopped(signal).into());
            }
        }
        let steps = self.select(learner, &metrics, best_state, taken)?;
        Ok(Finished { metrics, steps })
    }

    /// Takes one step and logs it. Returns the outcomes with that of this step.
    fn step<L: Learner>(
        &self,
        learner: &mut L,
        metrics: &mut Metrics,
        step: u64,
        Outcomes { skipped: skipped_before, queued }: Outcomes,
    ) -> Result<Outcomes, L::Error> {
        // The last step and judged ones are always logged, so that their rows are complete.
        let is_logged = step.is_multiple_of(self.log_every)
            || step + 1 == self.steps
            || self.log_judged && learner.is_judged(step + 1);
        let read_back = if is_logged { ReadBack::Always } else { ReadBack::IfCheap };
        let outcome = learner.step(step, read_back)?;
        self.progress.advance(self.units);
        let mut log_skipped = |count: u64, problem: String| {
            self.progress.say(&match queued {
                0 => format!("step {step} was skipped: its {problem}"),
                _ => format!("{count} of the last {} steps were skipped: {problem}", queued + 1),
            });
            metrics.log(self.position(step), [(SKIPPED.to_owned(), count as f32)]);
        };
        match outcome {
            Step::Queued => Ok(Outcomes { skipped: skipped_before, queued: queued + 1 }),
            // One bad batch is harmless, many in a row are not.
            Step::Skipped { what, seen, skips } => {
                let is_whole_row = skips.since_read > queued;
                let steps =
                    if is_whole_row { skipped_before + skips.since_read } else { skips.in_a_row };
                if steps >= MAX_SKIPPED {
                    return Err(TrainError::Diverged { step, what, seen, steps }.into());
                }
                log_skipped(skips.since_read, format!("{what} is {seen}"));
                Ok(Outcomes { skipped: steps, queued: 0 })
            }
            Step::Taken { row, note, skipped } => {
                if skipped > 0 {
                    log_skipped(skipped, "loss or gradient norm was not finite".to_owned());
                }
                if is_logged {
                    self.progress.note(&note);
                    metrics.log(self.position(step), row);
                }
                Ok(Outcomes::default())
            }
        }
    }

    /// Returns the place of a step on the curve: the step itself, or the units at its end.
    fn position(&self, step: u64) -> u64 {
        if self.units == 1 { step } else { (step + 1) * self.units }
    }

    /// Restores the newest checkpoint, or the state to continue from. Returns the first step to
    /// take and the curve so far.
    fn resume<L: Learner>(&self, learner: &mut L) -> Result<(u64, Metrics), L::Error> {
        // A checkpoint of this training is further than the state it continues from.
        if let Some(Checkpoints { store, folder, .. }) = self.checkpoints
            && let Some((units, bytes)) = checkpoint::newest(store, folder)?
        {
            let metrics = restore(learner, &checkpoint::path(folder, units), &bytes)?;
            self.progress.resume(units);
            return Ok((units / self.units, metrics));
        }
        let Some(FinalState { file, bytes }) = self.continued else {
            return Ok((0, Metrics::default()));
        };
        let (steps, state) = split_steps(bytes).ok_or_else(|| {
            let reason = "it does not begin with a number of steps".to_owned();
            TrainError::UnreadableCheckpoint { file: file.to_owned(), reason }
        })?;
        let metrics = restore(learner, file, state)?;
        self.progress.resume(steps * self.units);
        Ok((steps, metrics))
    }

    /// Returns the number of skipped steps in a row right before `first`.
    fn skipped_before(&self, metrics: &Metrics, first: u64) -> u64 {
        let skipped: Vec<u64> = metrics.points(SKIPPED).map(|(position, _)| position).collect();
        let before = (0..first).rev();
        before.take_while(|&step| skipped.contains(&self.position(step))).count() as u64
    }

    /// Returns the best judgement so far, with [`Selection::Best`].
    fn best(&self, metrics: &Metrics) -> Option<Best> {
        let Selection::Best { column, .. } = self.selection else { return None };
        let judged: Vec<(u64, f32)> = metrics.points(column).collect();
        // The first of equal values: a later one is no improvement.
        let lowest = judged.iter().enumerate().min_by(|(_, a), (_, b)| a.1.total_cmp(&b.1));
        let (at, (position, _)) = lowest?;
        let steps = if self.units == 1 { position + 1 } else { position / self.units };
        Some(Best { steps, since: judged.len() - 1 - at })
    }

    /// Returns whether too many judgements in a row brought no lower value.
    fn is_patience_over(&self, metrics: &Metrics) -> bool {
        let Selection::Best { patience: Some(patience), .. } = self.selection else { return false };
        self.best(metrics).is_some_and(|best| best.since >= patience)
    }

    /// Restores the selected state. Returns its number of steps.
    fn select<L: Learner>(
        &self,
        learner: &mut L,
        metrics: &Metrics,
        best_state: BestState,
        taken: u64,
    ) -> Result<u64, L::Error> {
        let Some(best) = self.best(metrics).filter(|best| best.steps != taken) else {
            return Ok(taken);
        };
        match (self.checkpoints, best_state) {
            (Some(Checkpoints { store, folder, .. }), _) => {
                let path = checkpoint::path(folder, best.steps * self.units);
                restore(learner, &path, &store.require(&path)?)?;
            }
            (None, Some((_, state))) => learner.restore(&state)?,
            // The best state was before the one that this training continued from.
            (None, None) => return Ok(taken),
        }
        Ok(best.steps)
    }
}

/// Splits a final state into its steps and its checkpoint.
fn split_steps(bytes: &[u8]) -> Option<(u64, &[u8])> {
    let end = bytes.iter().position(|byte| *byte == b'\n')?;
    Some((std::str::from_utf8(&bytes[..end]).ok()?.parse().ok()?, &bytes[end + 1..]))
}

/// Restores a checkpoint. Returns the curve up to it.
fn restore<L: Learner>(learner: &mut L, file: &str, bytes: &[u8]) -> Result<Metrics, TrainError> {
    let unreadable =
        |reason: String| TrainError::UnreadableCheckpoint { file: file.to_owned(), reason };
    let (metrics, state) = Metrics::unpack(bytes).map_err(unreadable)?;
    learner.restore(state).map_err(|error| unreadable(error.to_string()))?;
    Ok(metrics)
}

#[cfg(test)]
mod tests;
