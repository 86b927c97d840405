//! The exponential moving average of all weights of a training.

use burn::module::{Module, ModuleMapper, ModuleVisitor, Param};
use burn::tensor::{Tensor, backend::Backend};

use super::super::read_back::Gate;
use super::{AdamBackend, Flat};
use crate::models::weights::Path;

/// The averaged weights, flat and by name. Running statistics and codebooks are averaged too, so
/// that they fit the averaged weights.
#[derive(Clone, Debug)]
pub struct Average<B: Backend> {
    decay: f64,
    /// The averages.
    pub weights: Flat<B>,
}

impl<B: AdamBackend> Average<B> {
    /// Creates an average of no weights yet.
    pub fn new(decay: f64) -> Self {
        Average { decay, weights: Flat::new() }
    }

    /// Takes in a network after step `step`, the first being 1. Early averages decay faster:
    /// `(1 + step) / (10 + step)`, so that a short training does not end near its initial weights.
    ///
    /// With a `gate`, the averages stay as they are if it skips the step; averages that do not
    /// exist yet start at the network's weights all the same.
    pub fn update<M: Module<B>>(
        &mut self,
        prefix: &str,
        network: &M,
        step: u64,
        gate: Option<&Gate<B>>,
    ) {
        let decay = self.decay.min((1.0 + step as f64) / (10.0 + step as f64));
        network.visit(&mut Updater { path: Path::new(prefix), average: self, decay, gate });
    }

    /// Returns the network with the averaged weights.
    pub fn of<M: Module<B>>(&self, prefix: &str, network: M) -> M {
        network.map(&mut Replacer { path: Path::new(prefix), average: self })
    }
}

struct Updater<'a, B: Backend> {
    path: Path,
    average: &'a mut Average<B>,
    decay: f64,
    gate: Option<&'a Gate<B>>,
}

impl<B: AdamBackend> ModuleVisitor<B> for Updater<'_, B> {
    fn enter_module(&mut self, name: &str, container: &str) {
        self.path.enter(name, container);
    }

    fn exit_module(&mut self, _: &str, container: &str) {
        self.path.exit(container);
    }

    fn visit_float<const D: usize>(&mut self, param: &Param<Tensor<B, D>>) {
        let name = self.path.name();
        let count = param.shape().num_elements();
        let value: Tensor<B, 1> = param.val().reshape([count]);
        let average = match self.average.weights.remove(&name) {
            Some(old) => {
                let moved =
                    |old: Tensor<B, 1>| old * self.decay + value.clone() * (1.0 - self.decay);
                match self.gate {
                    Some(gate) => gate.choose(old.clone(), moved(old)),
                    None => moved(old),
                }
            }
            None => value,
        };
        self.average.weights.insert(name, average);
    }
}

struct Replacer<'a, B: Backend> {
    path: Path,
    average: &'a Average<B>,
}

impl<B: AdamBackend> ModuleMapper<B> for Replacer<'_, B> {
    fn enter_module(&mut self, name: &str, container: &str) {
        self.path.enter(name, container);
    }

    fn exit_module(&mut self, _: &str, container: &str) {
        self.path.exit(container);
    }

    fn map_float<const D: usize>(&mut self, param: Param<Tensor<B, D>>) -> Param<Tensor<B, D>> {
        match self.average.weights.get(&self.path.name()) {
            Some(average) => {
                let shape = param.shape();
                param.map(|_| average.clone().reshape(shape))
            }
            None => param,
        }
    }
}

#[cfg(test)]
mod tests {
    use burn::backend::Flex;

    use super::super::tests::{host, vector};
    use super::*;
    use crate::models::init::Init;
    use crate::models::layers::Linear;
    use crate::models::weights::Weights;

    /// 0.9 is above the early decays 2/11 and 3/12, so those apply.
    #[test]
    fn early_averages_follow_the_weights_faster() {
        let linear = |value: f32| {
            let mut weights = Weights::default();
            let fresh = Linear::<Flex>::new(&mut Init::new(1, &Default::default()), 1, 1);
            weights.put("net.weight", &[1, 1], &[value]);
            weights.put("net.bias", &[1], &[0.0]);
            weights.load("net", fresh, &Default::default()).expect("both tensors are there")
        };
        let mut average = Average::new(0.9);
        for (step, value) in [(1, 4.0), (2, 8.0), (3, 2.0)] {
            average.update("net", &linear(value), step, None);
        }
        let second = 4.0 * 0.25 + 8.0 * 0.75;
        let third = second * (4.0 / 13.0) + 2.0 * (9.0 / 13.0);
        let averaged = average.of("net", linear(0.0));
        let seen = host(averaged.weight.val().reshape([1]));
        assert!((f64::from(seen[0]) - third).abs() < 1e-5, "{seen:?} for {third}");
        let untouched = host(Average::new(0.9).of("net", linear(3.0)).weight.val().reshape([1]));
        assert_eq!(untouched, host(vector(&[3.0])));
    }
}
