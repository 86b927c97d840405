//! Adam (Kingma & Ba, 2015) after clipping the gradients' global norm: gradients go in, moved parameters come out.
//!
//! Written out rather than taken from `burn` because LAPO clips the norm over *all* gradients, and because a checkpoint must hold the
//! moments under the parameters' names; and fused on the CPU, where the step's time is the memory it walks through. Start with
//! [`Adam::begin`].

use std::collections::BTreeMap;

use burn::backend::Flex;
use burn::backend::flex::FlexTensor;
use burn::module::{AutodiffModule, Module, ModuleMapper, ModuleVisitor, Param};
use burn::tensor::backend::AutodiffBackend;
use burn::tensor::ops::FloatTensor;
use burn::tensor::{DType, Tensor, TensorData, TensorMetadata, TensorPrimitive, backend::Backend};
use rayon::prelude::*;
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use crate::models::Precision;
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
    /// How precisely the networks compute on the way to their gradients; parameters and moments are single precision. Default `f32`.
    pub precision: Precision,
}

impl Default for OptimConfig {
    fn default() -> Self {
        OptimConfig { beta1: 0.9, beta2: 0.999, epsilon: 1e-8, max_grad_norm: 2.0, precision: Precision::F32 }
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

/// The numbers of one step that are the same for all parameters.
#[derive(Clone, Copy, Debug)]
pub struct Factors {
    beta1: f32,
    beta2: f32,
    epsilon: f32,
    /// One over the first moment's correction for its start at zero; times the learning rate, once a network's is known.
    rate: f32,
    /// One over the root of the second moment's correction.
    spread: f32,
}

/// A backend with its own way to move a parameter; by default it is put together from burn's operations.
pub trait AdamBackend: Backend {
    /// Takes `scale * gradient` into the moments and moves the parameter: `[parameter, first, second]` go in and come out.
    ///
    /// # Shapes
    /// - `scale`: `[1]`; all others `[count]`
    fn adam(parts: [FloatTensor<Self>; 3], gradient: FloatTensor<Self>, scale: FloatTensor<Self>, by: Factors) -> [FloatTensor<Self>; 3] {
        composed::<Self>(parts, gradient, scale, by)
    }
}

fn composed<B: Backend>(parts: [FloatTensor<B>; 3], gradient: FloatTensor<B>, scale: FloatTensor<B>, by: Factors) -> [FloatTensor<B>; 3] {
    let ([parameter, first, second], gradient) = (parts.map(wrap::<B>), wrap::<B>(gradient) * wrap(scale));
    let second = second * by.beta2 + gradient.clone() * gradient.clone() * (1.0 - by.beta2);
    let first = first * by.beta1 + gradient * (1.0 - by.beta1);
    let parameter = parameter - first.clone() / (second.clone().sqrt() * by.spread + by.epsilon) * by.rate;
    [parameter, first, second].map(unwrap)
}

fn wrap<B: Backend>(primitive: FloatTensor<B>) -> Tensor<B, 1> {
    Tensor::from_primitive(TensorPrimitive::Float(primitive))
}

fn unwrap<B: Backend>(tensor: Tensor<B, 1>) -> FloatTensor<B> {
    tensor.into_primitive().tensor()
}

#[cfg(feature = "cuda")]
impl AdamBackend for crate::models::gpu::Gpu {}

/// Values a thread takes at a time.
const CHUNK: usize = 1 << 14;

impl AdamBackend for Flex {
    fn adam([parameter, first, second]: [FlexTensor; 3], gradient: FlexTensor, scale: FlexTensor, by: Factors) -> [FlexTensor; 3] {
        let [parameter, mut first, mut second, gradient] = [parameter, first, second, gradient].map(|tensor| tensor.to_contiguous());
        let scale = values(&scale)[0];
        let mut moved = vec![0.0; values(&parameter).len()];
        let moments = first.storage_mut::<f32>().par_chunks_mut(CHUNK).zip(second.storage_mut::<f32>().par_chunks_mut(CHUNK));
        let seen = values(&parameter).par_chunks(CHUNK).zip(values(&gradient).par_chunks(CHUNK));
        moved.par_chunks_mut(CHUNK).zip(moments).zip(seen).for_each(|((moved, (first, second)), (parameter, gradient))| {
            let moments = first.iter_mut().zip(second);
            for ((moved, (first, second)), (parameter, gradient)) in moved.iter_mut().zip(moments).zip(parameter.iter().zip(gradient)) {
                let gradient = gradient * scale;
                *second = *second * by.beta2 + gradient * gradient * (1.0 - by.beta2);
                *first = *first * by.beta1 + gradient * (1.0 - by.beta1);
                *moved = parameter - *first / (second.sqrt() * by.spread + by.epsilon) * by.rate;
            }
        });
        [FlexTensor::from_data(TensorData::new(moved, parameter.shape())), first, second]
    }
}

fn values(tensor: &FlexTensor) -> &[f32] {
    assert_eq!(tensor.dtype(), DType::F32, "parameters and gradients are single precision");
    tensor.as_slice().expect("contiguous")
}

/// A step that has begun: gradients by name, and what scales them down to the norm allowed.
pub struct Step<B: Backend> {
    gradients: Flat<B>,
    scale: Tensor<B, 1>,
    factors: Factors,
    /// The gradients' norm before clipping, as a tensor, so that nothing waits for it.
    pub norm: Tensor<B, 1>,
}

impl<B: AdamBackend> Adam<B> {
    /// Starts with all moments at zero.
    pub fn new(config: OptimConfig) -> Self {
        Adam { config, step: 0, first: BTreeMap::new(), second: BTreeMap::new() }
    }

    /// Begins the next step: takes all gradients' norm and counts.
    pub fn begin(&mut self, gradients: Flat<B>) -> Step<B> {
        self.step += 1;
        let OptimConfig { beta1, beta2, epsilon, max_grad_norm, .. } = self.config;
        let correction = |beta: f64| 1.0 - beta.powf(self.step as f64);
        let factors = Factors {
            beta1: beta1 as f32,
            beta2: beta2 as f32,
            epsilon: epsilon as f32,
            rate: correction(beta1).recip() as f32,
            spread: correction(beta2).sqrt().recip() as f32,
        };
        let norm = global_norm(&gradients);
        let scale = ((norm.clone() + 1e-6).recip() * max_grad_norm).clamp_max(1.0);
        Step { gradients, scale, factors, norm }
    }

    /// Moves a network's parameters, whose names begin with `prefix`.
    pub fn apply<A, M>(&mut self, step: &mut Step<B>, prefix: &str, learning_rate: f64, network: M) -> M
    where
        A: AutodiffBackend<InnerBackend = B>,
        M: AutodiffModule<A>,
    {
        network.map(&mut Mover { path: Path::new(prefix), adam: self, step, learning_rate })
    }

    /// The moved parameter, or nothing where it has no gradient.
    fn moved(&mut self, step: &mut Step<B>, name: &str, learning_rate: f64, parameter: Tensor<B, 1>) -> Option<Tensor<B, 1>> {
        let gradient = step.gradients.remove(name)?;
        let moment = |moments: &mut Flat<B>| moments.remove(name).unwrap_or_else(|| gradient.zeros_like());
        let parts = [parameter, moment(&mut self.first), moment(&mut self.second)];
        let factors = Factors { rate: step.factors.rate * learning_rate as f32, ..step.factors };
        let moved = B::adam(parts.map(unwrap), unwrap(gradient), unwrap(step.scale.clone()), factors);
        let [parameter, first, second] = moved.map(wrap);
        self.first.insert(name.to_owned(), first);
        self.second.insert(name.to_owned(), second);
        Some(parameter)
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
    adam: &'a mut Adam<B>,
    step: &'a mut Step<B>,
    learning_rate: f64,
}

impl<A: AutodiffBackend> ModuleMapper<A> for Mover<'_, A::InnerBackend>
where
    A::InnerBackend: AdamBackend,
{
    fn enter_module(&mut self, name: &str, container: &str) {
        self.path.enter(name, container);
    }

    fn exit_module(&mut self, _: &str, container: &str) {
        self.path.exit(container);
    }

    fn map_float<const D: usize>(&mut self, param: Param<Tensor<A, D>>) -> Param<Tensor<A, D>> {
        let shape = param.shape();
        let flat = param.val().inner().reshape([shape.num_elements()]);
        match self.adam.moved(self.step, &self.path.name(), self.learning_rate, flat) {
            Some(moved) => param.map(|_| Tensor::from_inner(moved.reshape(shape)).require_grad()),
            None => param,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    type Vector = Tensor<Flex, 1>;

    fn vector(values: &[f32]) -> Vector {
        Tensor::from_floats(values, &Default::default())
    }

    fn host(tensor: Vector) -> Vec<f32> {
        tensor.into_data().into_vec().expect("f32")
    }

    /// Two steps by hand: the first moves by the learning rate whatever the gradient, norms above the limit are scaled to it.
    #[test]
    fn steps_are_those_computed_by_hand() {
        let mut adam = Adam::new(OptimConfig::default());
        let mut step = adam.begin(Flat::<Flex>::from([("x".to_owned(), vector(&[3.0, -4.0]))]));
        assert!((step.norm.clone().into_scalar() - 5.0).abs() < 1e-6);
        // clipped to (1.2, -1.6)
        let values = host(adam.moved(&mut step, "x", 0.1, vector(&[0.0, 0.0])).expect("it has a gradient"));
        assert!((values[0] + 0.1).abs() < 1e-6 && (values[1] - 0.1).abs() < 1e-6, "{values:?}");

        let mut step = adam.begin(Flat::from([("x".to_owned(), vector(&[0.0, 1.0]))]));
        let values = host(adam.moved(&mut step, "x", 0.1, vector(&[0.0, 0.0])).expect("it has a gradient"));
        let expected = [0.9 * 0.12 / 0.19, (-0.9 * 0.16 + 0.1) / 0.19];
        let spread =
            [(0.999 * 0.001 * 1.44 / (1.0 - 0.999f64.powi(2))).sqrt(), ((0.999 * 0.001 * 2.56 + 0.001) / (1.0 - 0.999f64.powi(2))).sqrt()];
        for i in 0..2 {
            assert!((f64::from(values[i]) + 0.1 * expected[i] / spread[i]).abs() < 1e-5, "{values:?}");
        }
        assert!(adam.moved(&mut step, "y", 0.1, vector(&[0.0])).is_none());
    }

    #[test]
    fn fused_is_what_burn_composes() {
        let count = 3 * CHUNK + 5;
        let wave = |speed: f32| vector(&(0..count).map(|i| (i as f32 * speed).sin()).collect::<Vec<_>>());
        let by = Factors { beta1: 0.9, beta2: 0.999, epsilon: 1e-8, rate: 1e-3, spread: 3.0 };
        let parts = || [wave(0.1), wave(0.2), wave(0.3).abs()].map(unwrap);
        let run = |adam: fn([FlexTensor; 3], FlexTensor, FlexTensor, Factors) -> [FlexTensor; 3]| {
            adam(parts(), unwrap(wave(0.4)), unwrap(vector(&[0.5])), by).map(|tensor| host(wrap(tensor)))
        };
        for (fused, composed) in run(Flex::adam).iter().zip(run(composed::<Flex>)) {
            assert_eq!(fused.len(), count);
            assert!(fused.iter().zip(&composed).all(|(a, b)| (a - b).abs() <= 1e-6 * b.abs() + 1e-9));
        }
    }
}
