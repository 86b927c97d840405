//! The passes over the batches of one step, and what the host reads of them.

use burn::tensor::Tensor;
use burn::tensor::backend::AutodiffBackend;

use super::Trainer;
use crate::models::layers::BatchStatistics;
use crate::models::vq::Quantised;
use crate::train::Result;
use crate::train::dynamics::{StepMetrics, StepSettings};
use crate::train::optim::{Flat, OptimizerStep, TrainBackend};
use crate::train::read_back::{Skips, read_together};

/// Passes over the batches of one step.
pub(super) struct Passes<A: AutodiffBackend> {
    /// Each as [`Pass::scalars`].
    pub(super) scalars: Vec<[Tensor<A::InnerBackend, 1>; SCALARS]>,
    pub(super) idm_statistics: Vec<Vec<BatchStatistics<A>>>,
    pub(super) fdm_statistics: Vec<Vec<BatchStatistics<A>>>,
    pub(super) quantised: Vec<Quantised<A>>,
    /// `[code]`: the ages of the codes after this step. `None` if the step does not change them.
    pub(super) ages: Option<Tensor<A::InnerBackend, 1>>,
}

/// Values of a step that were read from the device.
pub(super) struct Reading {
    pub(super) metrics: StepMetrics,
    pub(super) skips: Skips,
    /// `[code]`: steps since the code was last used
    pub(super) ages: Vec<f32>,
}

/// The results of one pass over a batch, for the update.
pub(super) struct Pass<A: AutodiffBackend> {
    pub(super) gradients: Flat<A::InnerBackend>,
    /// Each `[1]`: the first fields of [`StepMetrics`].
    pub(super) scalars: [Tensor<A::InnerBackend, 1>; SCALARS],
    pub(super) idm_statistics: Vec<BatchStatistics<A>>,
    pub(super) fdm_statistics: Vec<BatchStatistics<A>>,
    pub(super) quantised: Option<Quantised<A>>,
}

/// Numbers in [`Pass::scalars`].
const SCALARS: usize = 6;

impl<A: AutodiffBackend> Default for Passes<A> {
    fn default() -> Self {
        Passes {
            scalars: vec![],
            idm_statistics: vec![],
            fdm_statistics: vec![],
            quantised: vec![],
            ages: None,
        }
    }
}

impl<A: AutodiffBackend> Passes<A> {
    /// Returns the sum of the losses. It is finite if all of them are.
    ///
    /// # Shapes
    /// - output: `[1]`
    pub(super) fn loss(&self) -> Tensor<A::InnerBackend, 1> {
        let losses = self.scalars.iter().map(|scalars| scalars[0].clone());
        losses.reduce(|sum, loss| sum + loss).expect("a step has at least one pass")
    }

    /// Returns how often all passes together use each code, or `None` if nothing is quantised.
    ///
    /// # Shapes
    /// - output: `[code]`
    pub(super) fn usage(&self) -> Option<Tensor<A::InnerBackend, 1>> {
        let usages = self.quantised.iter().map(|quantised| {
            let usage = quantised.usage.clone().inner();
            let count = usage.shape().num_elements();
            usage.reshape([count])
        });
        usages.reduce(|sum, usage| sum + usage)
    }
}

impl<A: TrainBackend> Trainer<A> {
    /// Reads all that a step reports, in one copy from the device.
    pub(super) fn read(
        &mut self,
        step: &OptimizerStep<A::InnerBackend>,
        pace: StepSettings,
        passes: &Passes<A>,
    ) -> Result<Reading> {
        let count = passes.scalars.len();
        let [scalars, norm, usage, ages, counts] = read_together([
            Tensor::cat(passes.scalars.concat(), 0),
            step.norm.clone(),
            passes.usage().unwrap_or_else(|| self.unused.zeros_like()),
            passes.ages.clone().unwrap_or_else(|| self.unused.clone()),
            self.skip_counts.take(),
        ])?;
        let scalar = |which: usize| {
            let values = scalars.iter().skip(which).step_by(SCALARS);
            values.sum::<f32>() / count as f32
        };
        let skips = Skips::of(&counts);
        let metrics = StepMetrics {
            loss: scalar(0),
            wm_loss: scalar(1),
            relative_loss: scalar(2),
            vq_loss: scalar(3),
            action_loss: scalar(4),
            correlation: scalar(5),
            grad_norm: norm[0],
            codes_revived: 0,
            skipped: skips.since_read,
            ..StepMetrics::of_usage(&usage, self.config.vq.entries, pace.quantise)
        };
        Ok(Reading { metrics, skips, ages })
    }
}
