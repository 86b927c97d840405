//! Seeded initial weights, identical on every run and device and for any number of threads.
//!
//! They equal PyTorch's, number by number: uniform in ±1/sqrt(fan in), drawn in the order in which
//! the modules are created.

use burn::module::{Param, ParamId};
use burn::tensor::{Int, Tensor, TensorData, backend::Backend};

use super::torch_rng::TorchRng;

/// Draws parameters in sequence: the order of the calls decides the values.
pub struct Init<'a, B: Backend> {
    rng: TorchRng,
    device: &'a B::Device,
}

impl<'a, B: Backend> Init<'a, B> {
    /// Starts the random stream of `seed`.
    pub fn new(seed: u64, device: &'a B::Device) -> Self {
        Init { rng: TorchRng::new(seed), device }
    }

    /// Returns the count of random numbers drawn so far.
    pub fn drawn(&self) -> u64 {
        self.rng.drawn()
    }

    /// Returns a trainable parameter, uniform in ±`bound`.
    pub fn uniform<const D: usize>(
        &mut self,
        shape: [usize; D],
        bound: f32,
    ) -> Param<Tensor<B, D>> {
        Param::from_tensor(self.draw(shape, bound))
    }

    /// Returns a trainable parameter filled with `value`.
    pub fn full<const D: usize>(&self, shape: [usize; D], value: f32) -> Param<Tensor<B, D>> {
        Param::from_tensor(Tensor::full(shape, value, self.device))
    }

    /// Returns non-trainable state filled with `value`. It is stored with the weights.
    pub fn state<const D: usize>(&self, shape: [usize; D], value: f32) -> Param<Tensor<B, D>> {
        Param::initialized(ParamId::new(), Tensor::full(shape, value, self.device))
    }

    /// Returns non-trainable state, uniform in ±`bound`. It is stored with the weights.
    pub fn uniform_state<const D: usize>(
        &mut self,
        shape: [usize; D],
        bound: f32,
    ) -> Param<Tensor<B, D>> {
        Param::initialized(ParamId::new(), self.draw(shape, bound))
    }

    /// Returns a constant tensor. It is neither trained nor stored with the weights.
    pub fn constant<const D: usize>(&self, values: Vec<f32>, shape: [usize; D]) -> Tensor<B, D> {
        Tensor::from_data(TensorData::new(values, shape), self.device)
    }

    /// Returns the whole numbers below `count`, as a constant tensor.
    pub fn numbers_below(&self, count: usize) -> Tensor<B, 1, Int> {
        Tensor::arange(0..count as i64, self.device)
    }

    fn draw<const D: usize>(&mut self, shape: [usize; D], bound: f32) -> Tensor<B, D> {
        let count = shape.iter().product();
        let values: Vec<f32> = (0..count).map(|_| self.rng.uniform(bound)).collect();
        Tensor::from_data(TensorData::new(values, shape), self.device)
    }
}

/// Replaces the value of non-trainable state.
pub fn set_state<B: Backend, const D: usize>(state: &mut Param<Tensor<B, D>>, value: Tensor<B, D>) {
    *state = Param::initialized(state.id, value.detach());
}
