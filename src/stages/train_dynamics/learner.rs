//! The data of a training of IDM and FDM, and its steps.

use std::thread::Scope;
use std::time::{Duration, Instant};

use rand::Rng;

use super::probe::WindowActions;
use super::verdict::{Verdict, judge};
use super::{TrainDynamicsTask, as_batch, is_judged};
use crate::dataset::{self, Shards, WindowIndex};
use crate::stages::{Error, TaskContext};
use crate::train::batch::{self, WindowSampler};
use crate::train::prefetch::Prefetch;
use crate::train::{
    Batch, DynamicsTrainer, Judgement, Learner, ReadBack, Step, Supervision, TrainError,
};

/// The maximum number of windows for a judgement during training.
const JUDGED_WINDOWS: usize = 512;
/// The minimum number of windows in a split.
const MIN_WINDOWS: usize = 2;

/// The shards, and the windows to train on and to judge by.
pub(super) struct Data {
    pub(super) shards: Shards,
    pub(super) training: WindowIndex,
    pub(super) held_out: WindowIndex,
    pub(super) actions: Option<WindowActions>,
    /// Training windows with the true actions that supervise them.
    labelled: Vec<(usize, u32)>,
}

impl Data {
    pub(super) fn open(task: &TrainDynamicsTask, ctx: &TaskContext) -> Result<Data, Error> {
        let shards = Shards::open_files(ctx.store, &task.shards)?;
        if let Some(size) = shards.frame_size().filter(|size| size.height as usize != task.size) {
            let file = task.shards.first().map_or_else(String::new, |file| file.path.clone());
            return Err(Error::FrameSize { file, seen: size.height as usize, expected: task.size });
        }
        let time = task.config.context + 2;
        let horizon = |interval| task.config.horizon.frames(interval);
        let all = WindowIndex::with_horizon(&shards, time, horizon)
            .without(&shards, task.without.as_deref().unwrap_or_default())?;
        let [training, held_out] = all.split(&shards.split(task.holdout));
        for (split, windows) in [("training", training.len()), ("held-out", held_out.len())] {
            if windows < MIN_WINDOWS {
                let episodes = all.episodes();
                let needed = MIN_WINDOWS;
                return Err(Error::TooFewWindows { split, windows, episodes, time, needed });
            }
        }
        let has_actions = task.config.actions.is_some();
        let actions = has_actions.then(|| WindowActions::read(task, ctx.store)).transpose()?;
        let mut data = Data { shards, training, held_out, actions, labelled: Vec::new() };
        data.labelled = data.draw_labelled(task)?;
        Ok(data)
    }

    /// Draws the training windows that true actions supervise.
    fn draw_labelled(&self, task: &TrainDynamicsTask) -> Result<Vec<(usize, u32)>, Error> {
        let (Some(actions), Some(supervision)) = (&self.actions, &task.config.supervision) else {
            return Ok(Vec::new());
        };
        let labelled = actions.draw(&self.shards, &self.training, supervision.labels, task.seed)?;
        if labelled.len() < supervision.labels {
            let file = task.actions.first().map_or_else(String::new, |file| file.path.clone());
            return Err(Error::TooFewLabels {
                file,
                found: labelled.len(),
                asked: supervision.labels,
            });
        }
        Ok(labelled)
    }

    /// Returns the supervised windows of a step and their true actions.
    fn labelled(&self, task: &TrainDynamicsTask, step: u64) -> Vec<(usize, u32)> {
        // A generator per step, so that a resumed training draws the same windows.
        let count = task.config.supervision.as_ref().map_or(0, |supervision| supervision.batch);
        let mut rng = batch::generator(task.seed, "supervised", step);
        (0..count).map(|_| self.labelled[rng.random_range(0..self.labelled.len())]).collect()
    }

    /// Returns the supervision by the drawn true actions, if the stage has any.
    pub(super) fn supervision(&self, task: &TrainDynamicsTask) -> Option<Supervision> {
        let weight = task.config.supervision.as_ref()?.weight;
        let highest = self.labelled.iter().map(|(_, action)| *action).max()?;
        Some(Supervision { actions: highest as usize + 1, weight })
    }
}

/// The frames of a pass and the true actions of its last windows.
type Loaded = Result<(Vec<u8>, Vec<u32>), dataset::Error>;

/// IDM and FDM, learning from windows that are loaded ahead of the steps.
pub(super) struct DynamicsLearner<'scope, 'env> {
    scope: &'scope Scope<'scope, 'env>,
    task: &'env TrainDynamicsTask,
    data: &'env Data,
    ctx: &'env TaskContext<'env>,
    pub(super) trainer: Box<dyn DynamicsTrainer>,
    /// Returns the next pass.
    next: Option<Box<dyn FnMut() -> Loaded + 'scope>>,
    began: Instant,
    /// Time spent waiting for frames.
    waited: Duration,
}

impl<'scope, 'env> DynamicsLearner<'scope, 'env> {
    pub(super) fn new(
        scope: &'scope Scope<'scope, 'env>,
        task: &'env TrainDynamicsTask,
        data: &'env Data,
        ctx: &'env TaskContext<'env>,
        trainer: Box<dyn DynamicsTrainer>,
    ) -> Self {
        DynamicsLearner {
            scope,
            task,
            data,
            ctx,
            trainer,
            next: None,
            began: Instant::now(),
            waited: Duration::ZERO,
        }
    }

    /// Returns the share of the time in which the networks waited for frames.
    pub(super) fn waited_share(&self) -> f64 {
        self.waited.as_secs_f64() / self.began.elapsed().as_secs_f64().max(1e-9)
    }

    /// Judges the networks on at most `most` held-out windows.
    pub(super) fn judge_finally(&self, most: usize, quantise: bool) -> Result<Verdict, Error> {
        judge(self.trainer.as_ref(), self.task, self.data, most, quantise)
    }
}

impl Learner for DynamicsLearner<'_, '_> {
    type Error = Error;

    fn begin(&mut self, first: u64) {
        let task = self.task;
        let data = self.data;
        let passes = task.config.accumulate as u64;
        let windows = task.config.batch / task.config.accumulate;
        let drawn_before = first * task.config.batch as u64;
        // The sampler continues after the windows of earlier steps.
        let mut draws =
            WindowSampler::new(task.seed, self.trainer.drawn(), data.training.len(), drawn_before);
        let mut pass = first * passes;
        let draw = move || {
            // Each pass takes its part of the step's supervised windows. They come last.
            let labelled = data.labelled(task, pass / passes);
            let count = labelled.len() / passes as usize;
            let of_pass = labelled[(pass % passes) as usize * count..][..count].iter().copied();
            let (labelled, actions): (Vec<usize>, Vec<u32>) = of_pass.unzip();
            pass += 1;
            ([draws.next(windows), labelled].concat(), actions)
        };
        let load = move |(windows, actions): (Vec<usize>, Vec<u32>)| {
            let mut frames = Vec::new();
            batch::gather(&data.shards, &data.training, &windows, &mut frames)?;
            Ok((frames, actions))
        };
        let mut batches = Prefetch::start(self.scope, draw, load);
        self.next = Some(Box::new(move || batches.next_batch()));
        // Time before the first step does not count.
        self.began = Instant::now();
    }

    fn step(&mut self, step: u64, read_back: ReadBack) -> Result<Step, Error> {
        let begun = Instant::now();
        let next = self.next.as_mut().expect("`begin` came before");
        let passes = (0..self.task.config.accumulate)
            .map(|_| next())
            .collect::<Result<Vec<_>, dataset::Error>>()?;
        self.waited += begun.elapsed();
        let windows = self.task.config.batch / self.task.config.accumulate;
        let batches: Vec<Batch> = passes
            .iter()
            .map(|(frames, actions)| Batch {
                actions,
                ..as_batch(frames, windows + actions.len(), self.task)
            })
            .collect();
        let pace = self.task.config.pace(step);
        let trainer = &mut self.trainer;
        let result = self.ctx.device.run(|| trainer.step_accumulated(&batches, pace, read_back));
        Ok(Step::from_result(result, |metrics| {
            let note = format!(
                "fdm {:.3}x copying, perplexity {:.0?}",
                metrics.relative_loss, metrics.perplexity
            );
            Step::Taken { row: metrics.row(pace), note, skipped: metrics.skipped }
        })?)
    }

    fn is_judged(&self, taken: u64) -> bool {
        is_judged(taken, self.task.config.steps)
    }

    fn judge(&mut self, taken: u64) -> Result<Judgement, Error> {
        // As in the last step: quantised or not.
        let quantise = self.task.config.pace(taken - 1).quantise;
        let verdict = self.judge_finally(JUDGED_WINDOWS, quantise)?;
        let sentence = format!("after {taken} steps: {}", verdict.sentence());
        Ok(Judgement { row: verdict.row(), sentence: Some(sentence) })
    }

    fn save(&self) -> Result<Vec<u8>, TrainError> {
        self.trainer.save()
    }

    fn restore(&mut self, state: &[u8]) -> Result<(), TrainError> {
        self.trainer.restore(state)
    }
}
