//! The steps of a latent policy's training.

use std::thread::Scope;

use super::{Data, TrainPolicyTask};
use crate::dataset;
use crate::stages::{Error, TaskContext};
use crate::train::batch::WindowSampler;
use crate::train::prefetch::Prefetch;
use crate::train::schedule::Schedule;
use crate::train::{CloningBatch, Judgement, Learner, PolicyTrainer, ReadBack, Step, TrainError};

/// The metric of the judgements on held-out videos.
pub(super) const HELD_OUT_ERROR: &str = "held_out_error";
/// The maximum number of steps between two judgements.
const JUDGE_EVERY: u64 = 1000;
/// The minimum number of judgements, if there are as many steps.
const MIN_JUDGEMENTS: u64 = 20;

/// The frames of a pass and the latent actions that follow them.
type Loaded = Result<(Vec<u8>, Vec<f32>), dataset::Error>;

/// A latent policy, learning from frames that are loaded ahead of the steps.
pub(super) struct PolicyLearner<'scope, 'env> {
    scope: &'scope Scope<'scope, 'env>,
    task: &'env TrainPolicyTask,
    data: &'env Data,
    ctx: &'env TaskContext<'env>,
    schedule: Schedule,
    pub(super) trainer: Box<dyn PolicyTrainer>,
    /// Returns the next pass.
    next: Option<Box<dyn FnMut() -> Loaded + 'scope>>,
}

impl<'scope, 'env> PolicyLearner<'scope, 'env> {
    pub(super) fn new(
        scope: &'scope Scope<'scope, 'env>,
        task: &'env TrainPolicyTask,
        data: &'env Data,
        ctx: &'env TaskContext<'env>,
        trainer: Box<dyn PolicyTrainer>,
    ) -> Self {
        let schedule = task.config.schedule();
        PolicyLearner { scope, task, data, ctx, schedule, trainer, next: None }
    }
}

impl Learner for PolicyLearner<'_, '_> {
    type Error = Error;

    fn begin(&mut self, first: u64) {
        let data = self.data;
        let config = &self.task.config;
        let frames = config.batch / config.accumulate;
        let drawn_before = first * config.batch as u64;
        let drawn = self.trainer.drawn();
        // The sampler continues after the frames of earlier steps.
        let mut draws =
            WindowSampler::new(self.task.seed, drawn, data.training.len(), drawn_before);
        let load =
            move |drawn: Vec<usize>| data.gather(drawn.into_iter().map(|i| data.training[i]));
        let mut batches = Prefetch::start(self.scope, move || draws.next(frames), load);
        self.next = Some(Box::new(move || batches.next_batch()));
    }

    fn step(&mut self, step: u64, read_back: ReadBack) -> Result<Step, Error> {
        let next = self.next.as_mut().expect("`begin` came before");
        let passes = (0..self.task.config.accumulate)
            .map(|_| next())
            .collect::<Result<Vec<_>, dataset::Error>>()?;
        let batches: Vec<CloningBatch> = passes
            .iter()
            .map(|(frames, latent_action)| CloningBatch { frames, latent_action })
            .collect();
        let learning_rate = self.schedule.at(step);
        let trainer = &mut self.trainer;
        let result =
            self.ctx.device.run(|| trainer.step_accumulated(&batches, learning_rate, read_back));
        Ok(Step::from_result(result, |metrics| {
            let row = [
                ("learning_rate", learning_rate as f32),
                ("loss", metrics.loss),
                ("grad_norm", metrics.grad_norm),
            ];
            let row = row.map(|(name, value)| (name.to_owned(), value)).to_vec();
            let note = format!("error {:.4}", metrics.loss);
            Step::Taken { row, note, skipped: metrics.skipped }
        })?)
    }

    fn is_judged(&self, taken: u64) -> bool {
        let steps = self.task.config.steps;
        let every = (steps / MIN_JUDGEMENTS).clamp(1, JUDGE_EVERY);
        self.task.holdout > 0 && (taken.is_multiple_of(every) || taken == steps)
    }

    fn judge(&mut self, taken: u64) -> Result<Judgement, Error> {
        let error = self.data.judge(self.trainer.as_ref(), self.task, taken)?.error;
        Ok(Judgement { row: vec![(HELD_OUT_ERROR.to_owned(), error as f32)], sentence: None })
    }

    fn save(&self) -> Result<Vec<u8>, TrainError> {
        self.trainer.save()
    }

    fn restore(&mut self, state: &[u8]) -> Result<(), TrainError> {
        self.trainer.restore(state)
    }
}
