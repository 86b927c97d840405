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

    /// Returns a trainable row of length `gain` in a random direction:
    /// `torch.nn.init.orthogonal_` of a matrix with one row.
    pub fn orthogonal_row(&mut self, width: usize, gain: f32) -> Param<Tensor<B, 2>> {
        let row = self.rng.normal(width);
        let length = row.iter().map(|x| f64::from(*x).powi(2)).sum::<f64>().sqrt();
        let row = row.iter().map(|x| (f64::from(gain * x) / length) as f32).collect();
        let row = TensorData::new(row, [1, width]);
        Param::from_tensor(Tensor::from_data::<TensorData>(row, self.device))
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

#[cfg(test)]
mod tests {
    use burn::backend::Flex;

    use super::*;
    use crate::weights::to_host;

    #[test]
    fn an_orthogonal_row_equals_pytorchs() {
        let device = Default::default();
        let mut init = Init::<Flex>::new(7, &device);
        let row = init.orthogonal_row(256, std::f32::consts::SQRT_2);
        let row = to_host(row.val()).expect("f32");
        // torch.manual_seed(7); torch.nn.init.orthogonal_(torch.empty(1, 256), 2 ** 0.5)
        let expected = [-0.0780549, 0.0376536, 0.0855523, -0.1321392];
        for (seen, expected) in row.iter().zip(expected) {
            assert!((seen - expected).abs() < 1e-6, "{seen} for {expected}");
        }
        assert!((row[255] + 0.0285931).abs() < 1e-6 && row.len() == 256);
    }
}
