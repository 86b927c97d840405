//! Reading values of a step back from the device.
//!
//! Reading a value waits for all work queued before it. That costs nothing on a CPU: every step is
//! read before it moves the weights, and one that is not finite becomes an error. A GPU would be
//! idle at each wait. There a step is read only if its metrics are wanted. The device itself
//! decides by a [`Gate`] whether the weights move, and [`SkipCounts`] count the steps that it
//! skips.

use burn::module::{AutodiffModule, ModuleMapper, ModuleVisitor, Param};
use burn::tensor::backend::AutodiffBackend;
use burn::tensor::ops::FloatTensor;
use burn::tensor::{Tensor, TensorPrimitive, backend::Backend};

use super::optim::{AdamBackend, OptimizerStep, unwrap, wrap};
use super::{Result, TrainError};
use crate::models::weights::to_host;

/// Whether a step reads its metrics.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ReadBack {
    /// It does.
    Always,
    /// It does unless the device [reads late](crate::models::Device::reads_late).
    IfCheap,
}

/// Skipped steps, as far as a trainer knows.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Skips {
    /// Skipped steps since metrics were last read.
    pub since_read: u64,
    /// Skipped steps in a row up to the current step.
    pub in_a_row: u64,
}

impl Skips {
    /// A skipped step where every step is read.
    pub const ONE: Skips = Skips { since_read: 1, in_a_row: 1 };

    /// Returns the counts that [`SkipCounts::take`] left on the device, once they were read.
    pub fn of(counts: &[f32]) -> Skips {
        let [since_read, in_a_row] = [0, 1].map(|which| counts.get(which).map_or(0, |&n| n as u64));
        Skips { since_read, in_a_row }
    }

    /// Returns an error if loss or gradient norm of a step are not finite.
    pub fn check_finite(self, step: u64, loss: f32, norm: f32) -> Result<()> {
        let values = [("loss", loss), ("gradient norm", norm)];
        match values.into_iter().find(|(_, value)| !value.is_finite()) {
            Some((what, seen)) => {
                // Where every step is read, the device does not count.
                let skips = if self.in_a_row == 0 { Skips::ONE } else { self };
                Err(TrainError::NotFinite { step, what, seen, skips })
            }
            None => Ok(()),
        }
    }
}

/// The decision on the device whether a step is taken.
#[derive(Clone, Debug)]
pub struct Gate<B: Backend> {
    /// `[1]`: 1 if the step is skipped, else 0
    skipped: Tensor<B, 1>,
    /// `[1]`: NaN if the step is skipped, else 0
    mark: Tensor<B, 1>,
}

impl<B: AdamBackend> Gate<B> {
    /// Skips the step unless loss and gradient norm are finite.
    ///
    /// # Shapes
    /// - `loss` and `norm`: `[1]`
    pub fn new(loss: Tensor<B, 1>, norm: Tensor<B, 1>) -> Self {
        let [skipped, mark] = B::gate(unwrap(loss), unwrap(norm)).map(wrap);
        Gate { skipped, mark }
    }

    /// Returns `scale`, or NaN if the step is skipped.
    ///
    /// # Shapes
    /// - `scale` and output: `[1]`
    pub fn scale(&self, scale: Tensor<B, 1>) -> Tensor<B, 1> {
        scale + self.mark.clone()
    }

    /// Returns `new`, or `old` if the step is skipped.
    ///
    /// # Shapes
    /// - `old`, `new` and output: `[count]`
    pub fn choose(&self, old: Tensor<B, 1>, new: Tensor<B, 1>) -> Tensor<B, 1> {
        let chosen = B::choose(vec![unwrap(old)], vec![unwrap(new)], unwrap(self.mark.clone()));
        wrap(chosen.into_iter().next().expect("a pair gives a tensor"))
    }

    /// Returns `network` with the running statistics and codebooks of `before` if the step is
    /// skipped. Parameters stay as they are: the optimiser guards them.
    pub fn choose_state<A, M>(&self, before: &M, network: M) -> M
    where
        A: AutodiffBackend<InnerBackend = B>,
        M: AutodiffModule<A>,
    {
        let state = |network: &M| {
            let mut state = State::<B>(Vec::new());
            network.visit(&mut state);
            state.0
        };
        let chosen = B::choose(state(before), state(&network), unwrap(self.mark.clone()));
        network.map(&mut Replacer::<B>(chosen.into_iter()))
    }
}

/// Counts skipped steps, on a device that reads late.
///
/// The counts are no part of a checkpoint: they start anew when a training resumes.
#[derive(Clone, Debug)]
pub struct SkipCounts<B: Backend> {
    reads_late: bool,
    /// `[1]`: [`Skips::since_read`]
    since_read: Tensor<B, 1>,
    /// `[1]`: [`Skips::in_a_row`]
    in_a_row: Tensor<B, 1>,
}

impl<B: AdamBackend> SkipCounts<B> {
    /// Starts at no skipped steps.
    pub fn new(reads_late: bool, device: &B::Device) -> Self {
        let [since_read, in_a_row] = [0, 1].map(|_| Tensor::zeros([1], device));
        SkipCounts { reads_late, since_read, in_a_row }
    }

    /// Returns whether a step is read.
    pub fn is_read(&self, read_back: ReadBack) -> bool {
        !self.reads_late || read_back == ReadBack::Always
    }

    /// Lets a device that reads late decide whether a step is taken, and counts the step.
    ///
    /// # Shapes
    /// - `loss`: `[1]`
    pub fn decide(&mut self, step: &mut OptimizerStep<B>, loss: Tensor<B, 1>) {
        if !self.reads_late {
            return;
        }
        let gate = step.decide_on_device(loss);
        let skipped = gate.skipped.clone();
        self.since_read = self.since_read.clone() + skipped.clone();
        // A step that is taken ends a row of skipped ones.
        self.in_a_row = (self.in_a_row.clone() + 1.0) * skipped;
    }

    /// Returns the counts for [`Skips::of`], and forgets the steps since the last read.
    ///
    /// # Shapes
    /// - output: `[2]`
    pub fn take(&mut self) -> Tensor<B, 1> {
        let rest = self.since_read.zeros_like();
        let since_read = std::mem::replace(&mut self.since_read, rest);
        Tensor::cat(vec![since_read, self.in_a_row.clone()], 0)
    }
}

/// Reads tensors in one copy from the device.
pub fn read_together<B: Backend, const N: usize>(
    tensors: [Tensor<B, 1>; N],
) -> Result<[Vec<f32>; N]> {
    let lengths = tensors.each_ref().map(|tensor| tensor.dims()[0]);
    let mut values = to_host(Tensor::cat(tensors.to_vec(), 0))?.into_iter();
    Ok(lengths.map(|length| values.by_ref().take(length).collect()))
}

/// Collects the state of a network, in its order: all values that have no gradient.
struct State<B: Backend>(Vec<FloatTensor<B>>);

impl<A: AutodiffBackend> ModuleVisitor<A> for State<A::InnerBackend> {
    fn visit_float<const D: usize>(&mut self, param: &Param<Tensor<A, D>>) {
        if !param.is_require_grad() {
            self.0.push(param.val().inner().into_primitive().tensor());
        }
    }
}

/// Replaces the state of a network, in its order.
struct Replacer<B: Backend>(std::vec::IntoIter<FloatTensor<B>>);

impl<A: AutodiffBackend> ModuleMapper<A> for Replacer<A::InnerBackend> {
    fn map_float<const D: usize>(&mut self, param: Param<Tensor<A, D>>) -> Param<Tensor<A, D>> {
        if param.is_require_grad() {
            return param;
        }
        let value = self.0.next().expect("the state of this network was collected");
        param.map(|_| Tensor::from_inner(Tensor::from_primitive(TensorPrimitive::Float(value))))
    }
}

#[cfg(test)]
mod tests;
