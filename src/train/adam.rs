//! Adam (Kingma & Ba, 2015) after clipping the gradients' global norm: gradients go in, moved parameters come out.
//!
//! Written out rather than taken from `burn` because LAPO clips the norm over *all* gradients, and because a checkpoint must hold the
//! moments under the parameters' names. Start with [`Adam::step`].

use std::collections::BTreeMap;

use burn::module::{AutodiffModule, Module, ModuleMapper, ModuleVisitor, Param};
use burn::tensor::backend::AutodiffBackend;
use burn::tensor::{Tensor, backend::Backend};
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use crate::models::weights::Path;

/// Settings of the optimiser; the learning rate comes with each step.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, default)]
pub struct OptimConfig {
    /// Share of the mean gradient that stays at each step. Default 0.9.
    pub beta1: f64,
    /// Share of the mean squared gradient that stays at each step. Default 0.999.
    pub beta2: f64,
    /// Keeps the division finite. Default 1e-8.
    pub epsilon: f64,
    /// Gradients are scaled down to this norm, taken over all of them together. Default 2.
    pub max_grad_norm: f64,
}

impl Default for OptimConfig {
    fn default() -> Self {
        OptimConfig { beta1: 0.9, beta2: 0.999, epsilon: 1e-8, max_grad_norm: 2.0 }
    }
}

/// Flat gradients or moments by published parameter name.
pub type Flat<B> = BTreeMap<String, Tensor<B, 1>>;

/// The optimiser's state.
#[derive(Clone, Debug)]
pub struct Adam<B: Backend> {
    config: OptimConfig,
    /// Steps taken.
    pub step: u64,
    /// Moving means of the gradients.
    pub first: Flat<B>,
    /// Moving means of the squared gradients.
    pub second: Flat<B>,
}

impl<B: Backend> Adam<B> {
    /// Starts with all moments at zero.
    pub fn new(config: OptimConfig) -> Self {
        Adam { config, step: 0, first: BTreeMap::new(), second: BTreeMap::new() }
    }

    /// Begins the next step: clips the gradients and takes them into the moments.
    ///
    /// The gradients' norm before clipping comes back as a tensor, so that nothing waits for it.
    pub fn take(&mut self, gradients: Flat<B>) -> Tensor<B, 1> {
        let norm = global_norm(&gradients);
        let scale = ((norm.clone() + 1e-6).recip() * self.config.max_grad_norm).clamp_max(1.0);
        let OptimConfig { beta1, beta2, .. } = self.config;
        for (name, gradient) in gradients {
            let gradient = gradient * scale.clone();
            let squared = gradient.clone() * gradient.clone();
            move_mean(&mut self.first, &name, gradient, beta1);
            move_mean(&mut self.second, &name, squared, beta2);
        }
        self.step += 1;
        norm
    }

    /// Moves a network's parameters along the moments.
    pub fn apply<A, M>(&self, prefix: &str, network: M, learning_rate: f64) -> M
    where
        A: AutodiffBackend<InnerBackend = B>,
        M: AutodiffModule<A>,
    {
        network.map(&mut Mover { path: Path::new(prefix), adam: self, learning_rate })
    }

    fn moved(&self, name: &str, learning_rate: f64, parameter: Tensor<B, 1>) -> Option<Tensor<B, 1>> {
        let OptimConfig { beta1, beta2, epsilon, .. } = self.config;
        let (first, second) = (self.first.get(name)?.clone(), self.second.get(name)?.clone());
        let correction = |beta: f64| 1.0 - beta.powf(self.step as f64);
        let spread = second.sqrt() / correction(beta2).sqrt() + epsilon;
        Some(parameter - first / spread * (learning_rate / correction(beta1)))
    }
}

/// The gradients of a network's parameters, by name.
pub fn gradients<A: AutodiffBackend, M: Module<A>>(prefix: &str, network: &M, gradients: &A::Gradients, into: &mut Flat<A::InnerBackend>) {
    network.visit(&mut Collector::<A> { path: Path::new(prefix), gradients, into });
}

fn global_norm<B: Backend>(gradients: &Flat<B>) -> Tensor<B, 1> {
    let squares = gradients.values().map(|gradient| (gradient.clone() * gradient.clone()).sum()).collect();
    Tensor::cat(squares, 0).sum().sqrt()
}

fn move_mean<B: Backend>(means: &mut Flat<B>, name: &str, value: Tensor<B, 1>, decay: f64) {
    let share = value * (1.0 - decay);
    let moved = match means.remove(name) {
        Some(mean) => mean * decay + share,
        None => share,
    };
    means.insert(name.to_owned(), moved);
}

struct Collector<'a, A: AutodiffBackend> {
    path: Path,
    gradients: &'a A::Gradients,
    into: &'a mut Flat<A::InnerBackend>,
}

impl<A: AutodiffBackend> ModuleVisitor<A> for Collector<'_, A> {
    fn enter_module(&mut self, name: &str, container: &str) {
        self.path.enter(name, container);
    }

    fn exit_module(&mut self, _: &str, container: &str) {
        self.path.exit(container);
    }

    fn visit_float<const D: usize>(&mut self, param: &Param<Tensor<A, D>>) {
        if let Some(gradient) = param.grad(self.gradients) {
            let count = gradient.shape().num_elements();
            self.into.insert(self.path.name(), gradient.reshape([count]));
        }
    }
}

struct Mover<'a, B: Backend> {
    path: Path,
    adam: &'a Adam<B>,
    learning_rate: f64,
}

impl<A: AutodiffBackend> ModuleMapper<A> for Mover<'_, A::InnerBackend> {
    fn enter_module(&mut self, name: &str, container: &str) {
        self.path.enter(name, container);
    }

    fn exit_module(&mut self, _: &str, container: &str) {
        self.path.exit(container);
    }

    fn map_float<const D: usize>(&mut self, param: Param<Tensor<A, D>>) -> Param<Tensor<A, D>> {
        let shape = param.shape();
        let flat = param.val().inner().reshape([shape.num_elements()]);
        match self.adam.moved(&self.path.name(), self.learning_rate, flat) {
            Some(moved) => param.map(|_| Tensor::from_inner(moved.reshape(shape)).require_grad()),
            None => param,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use burn::backend::Flex;

    /// Two steps by hand: the first moves by the learning rate whatever the gradient, norms above the limit are scaled to it.
    #[test]
    fn steps_are_those_computed_by_hand() {
        let device = Default::default();
        let flat = |values: [f32; 2]| Flat::<Flex>::from([("x".to_owned(), Tensor::from_floats(values, &device))]);
        let mut adam = Adam::new(OptimConfig::default());
        let norm = adam.take(flat([3.0, -4.0])).into_scalar();
        assert!((norm - 5.0).abs() < 1e-6);
        // clipped to (1.2, -1.6)
        let moved = adam.moved("x", 0.1, Tensor::from_floats([0.0, 0.0], &device)).expect("it has moments");
        let values = moved.into_data().into_vec::<f32>().expect("f32");
        assert!((values[0] + 0.1).abs() < 1e-6 && (values[1] - 0.1).abs() < 1e-6, "{values:?}");

        adam.take(flat([0.0, 1.0]));
        let moved = adam.moved("x", 0.1, Tensor::from_floats([0.0, 0.0], &device)).expect("it has moments");
        let values = moved.into_data().into_vec::<f32>().expect("f32");
        let expected = [0.9 * 0.12 / 0.19, (-0.9 * 0.16 + 0.1) / 0.19];
        let spread =
            [(0.999 * 0.001 * 1.44 / (1.0 - 0.999f64.powi(2))).sqrt(), ((0.999 * 0.001 * 2.56 + 0.001) / (1.0 - 0.999f64.powi(2))).sqrt()];
        for i in 0..2 {
            assert!((f64::from(values[i]) + 0.1 * expected[i] / spread[i]).abs() < 1e-5, "{values:?}");
        }
        assert!(adam.moved("y", 0.1, Tensor::from_floats([0.0], &device)).is_none());
    }
}
