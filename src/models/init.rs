//! Initial weights: a seed goes in, parameters come out, the same on every run, device and number of threads.
//!
//! They are PyTorch's, number by number: uniform in ±1/sqrt(fan in), drawn layer after layer as its modules are made.

use burn::module::{Param, ParamId};
use burn::tensor::{Tensor, TensorData, backend::Backend};

use super::random::TorchRng;

/// Draws parameters one after the other, so that their order is part of the result.
pub struct Init<'a, B: Backend> {
    rng: TorchRng,
    device: &'a B::Device,
}

impl<'a, B: Backend> Init<'a, B> {
    /// Starts the stream of `seed`.
    pub fn new(seed: u64, device: &'a B::Device) -> Self {
        Init { rng: TorchRng::new(seed), device }
    }

    /// How many random numbers were drawn so far.
    pub fn drawn(&self) -> u64 {
        self.rng.drawn()
    }

    /// A parameter to be trained, uniform in ±`bound`.
    pub fn uniform<const D: usize>(
        &mut self,
        shape: [usize; D],
        bound: f32,
    ) -> Param<Tensor<B, D>> {
        Param::from_tensor(self.draw(shape, bound))
    }

    /// A parameter to be trained, `value` everywhere.
    pub fn full<const D: usize>(&self, shape: [usize; D], value: f32) -> Param<Tensor<B, D>> {
        Param::from_tensor(Tensor::full(shape, value, self.device))
    }

    /// State that is kept with the weights but has no gradient, `value` everywhere.
    pub fn state<const D: usize>(&self, shape: [usize; D], value: f32) -> Param<Tensor<B, D>> {
        Param::initialized(ParamId::new(), Tensor::full(shape, value, self.device))
    }

    /// State that is kept with the weights but has no gradient, uniform in ±`bound`.
    pub fn uniform_state<const D: usize>(
        &mut self,
        shape: [usize; D],
        bound: f32,
    ) -> Param<Tensor<B, D>> {
        Param::initialized(ParamId::new(), self.draw(shape, bound))
    }

    fn draw<const D: usize>(&mut self, shape: [usize; D], bound: f32) -> Tensor<B, D> {
        let count = shape.iter().product();
        let values: Vec<f32> = (0..count).map(|_| self.rng.uniform(bound)).collect();
        Tensor::from_data(TensorData::new(values, shape), self.device)
    }
}

/// Replaces the value of a parameter that has no gradient.
pub fn set_state<B: Backend, const D: usize>(state: &mut Param<Tensor<B, D>>, value: Tensor<B, D>) {
    *state = Param::initialized(state.id, value.detach());
}
