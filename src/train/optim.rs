//! The optimiser: clips the global norm of the gradients, then updates each parameter.
//!
//! `adam` updates all parameters; with [`OptimizerKind::Muon`], `muon` updates the weights of
//! convolutions. lapo does not use `burn`'s optimisers because LAPO clips the norm over *all*
//! gradients, and because a checkpoint must hold the moments under the parameters' names. Start at
//! [`Optimizer::begin`].

use std::collections::BTreeMap;

use burn::module::{AutodiffModule, Module, ModuleMapper, ModuleVisitor, Param};
use burn::tensor::backend::AutodiffBackend;
use burn::tensor::ops::FloatTensor;
use burn::tensor::{DType, Tensor, TensorMetadata, TensorPrimitive, backend::Backend};
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use super::read_back::Gate;
use crate::models::Precision;
use crate::models::layers::NetBackend;
use crate::models::weights::Path;

mod adam;
mod average;
#[cfg(any(feature = "cuda", feature = "vulkan"))]
mod cube;
mod muon;
mod precision;

pub use adam::AdamBackend;
use adam::Factors;
pub use average::Average;
pub use precision::in_precision;

/// A backend that trains: gradients by autodiff, networks and Adam by lapo's kernels.
pub trait TrainBackend:
    AutodiffBackend<InnerBackend: NetBackend + AdamBackend> + NetBackend
{
}

impl<A> TrainBackend for A where
    A: AutodiffBackend<InnerBackend: NetBackend + AdamBackend> + NetBackend
{
}

/// The optimiser of convolution weights. Adam updates all other parameters.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub enum OptimizerKind {
    /// Adam, as in the paper.
    #[default]
    Adam,
    /// Muon (Jordan et al., 2024).
    Muon,
}

impl OptimizerKind {
    /// Returns the default for dynamics models: Muon, or Adam for the published networks.
    pub fn of_dynamics(reference: bool) -> OptimizerKind {
        if reference { OptimizerKind::Adam } else { OptimizerKind::Muon }
    }
}

/// Settings of the optimiser. The learning rate is an argument of each step.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, default)]
pub struct OptimConfig {
    /// Decay of the mean gradient, per step. Default 0.9.
    pub beta1: f64,
    /// Decay of the mean squared gradient, per step. Default 0.999.
    pub beta2: f64,
    /// Added to the denominator, so that the division stays finite. Default 1e-8.
    pub epsilon: f64,
    /// Maximum norm of all gradients together. Larger ones are scaled down to it. Default 2.
    pub max_grad_norm: f64,
    /// The optimiser of convolution weights. Default `adam`.
    pub rule: OptimizerKind,
    /// Precision of the forward and backward passes. Parameters and moments are always single
    /// precision. Default `f32`.
    pub precision: Precision,
    /// Decay of the exponential moving average of all weights. Judgements and exported weights use
    /// the average. Default none: they use the weights themselves.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub ema_decay: Option<f64>,
}

impl Default for OptimConfig {
    fn default() -> Self {
        OptimConfig {
            beta1: 0.9,
            beta2: 0.999,
            epsilon: 1e-8,
            max_grad_norm: 2.0,
            rule: OptimizerKind::Adam,
            precision: Precision::F32,
            ema_decay: None,
        }
    }
}

/// Flat gradients or moments, by the published name of their parameter.
pub type Flat<B> = BTreeMap<String, Tensor<B, 1>>;

/// The optimiser's state.
#[derive(Clone, Debug)]
pub struct Optimizer<B: Backend> {
    config: OptimConfig,
    /// Steps taken.
    pub step: u64,
    /// Moving means of the gradients.
    pub first: Flat<B>,
    /// Moving means of the squared gradients. Muon needs none.
    pub second: Flat<B>,
}

/// A step in progress: its gradients, and the factor that clips them.
pub struct OptimizerStep<B: Backend> {
    /// Gradients whose parameters have not been updated yet.
    gradients: Flat<B>,
    /// `[1]`. NaN: all parameters and moments stay as they are.
    scale: Tensor<B, 1>,
    factors: Factors,
    /// The decision whether the step is taken, if the device decides.
    pub gate: Option<Gate<B>>,
    /// The norm of the gradients before clipping. It stays on the device, so that the step does not
    /// wait for it.
    pub norm: Tensor<B, 1>,
}

impl<B: AdamBackend> Optimizer<B> {
    /// Creates an optimiser whose moments are zero.
    pub fn new(config: OptimConfig) -> Self {
        Optimizer { config, step: 0, first: BTreeMap::new(), second: BTreeMap::new() }
    }

    /// Begins the next step: counts it, and computes the norm of all gradients together.
    pub fn begin(&mut self, gradients: Flat<B>) -> OptimizerStep<B> {
        self.step += 1;
        let square_sum = B::square_sum(gradients.values().cloned().map(unwrap).collect());
        let [norm, scale] = B::clip(square_sum, self.config.max_grad_norm).map(wrap);
        let factors = Factors::new(&self.config, self.step);
        OptimizerStep { gradients, scale, factors, gate: None, norm }
    }

    /// Updates the parameters of a network. Their names begin with `prefix`. A parameter without a
    /// gradient stays as it is.
    pub fn apply<A, M>(
        &mut self,
        step: &mut OptimizerStep<B>,
        prefix: &str,
        learning_rate: f64,
        network: M,
    ) -> M
    where
        A: AutodiffBackend<InnerBackend = B>,
        M: AutodiffModule<A>,
    {
        let mut parameters = Parameters::<B>(Path::new(prefix), Vec::new());
        network.visit(&mut parameters);
        let updated = self.updated(step, learning_rate, parameters.1);
        network.map(&mut Replacer::<B> { path: Path::new(prefix), updated })
    }

    /// Returns the updated values of those parameters that have a gradient, by name.
    fn updated(
        &mut self,
        step: &mut OptimizerStep<B>,
        learning_rate: f64,
        parameters: Vec<(String, FloatTensor<B>)>,
    ) -> BTreeMap<String, FloatTensor<B>> {
        let mut adam = Vec::new();
        let mut muon = Vec::new();
        for (name, parameter) in parameters {
            // Removing it makes sure that no parameter is updated twice in a step.
            let Some(gradient) = step.gradients.remove(&name) else { continue };
            let moment = |moments: &mut Flat<B>| {
                unwrap(moments.remove(&name).unwrap_or_else(|| gradient.zeros_like()))
            };
            let first = moment(&mut self.first);
            let is_matrix = muon::matrix_shape(parameter.shape().as_slice()).is_some();
            if self.config.rule == OptimizerKind::Muon && is_matrix {
                muon.push((name, [parameter, first, unwrap(gradient)]));
            } else {
                let second = moment(&mut self.second);
                adam.push((name, [parameter, first, second, unwrap(gradient)]));
            }
        }
        let mut updated = BTreeMap::new();
        let scale = || unwrap(step.scale.clone());
        let (names, states): (Vec<_>, Vec<_>) = adam.into_iter().unzip();
        let factors = step.factors.with_learning_rate(learning_rate);
        for (name, [parameter, first, second]) in
            names.into_iter().zip(B::adam_all(states, scale(), factors))
        {
            self.first.insert(name.clone(), wrap(first));
            self.second.insert(name.clone(), wrap(second));
            updated.insert(name, parameter);
        }
        let (names, states): (Vec<_>, Vec<_>) = muon.into_iter().unzip();
        for (name, [parameter, first]) in
            names.into_iter().zip(B::muon_all(states, scale(), learning_rate))
        {
            self.first.insert(name.clone(), wrap(first));
            updated.insert(name, parameter);
        }
        updated
    }
}

impl<B: AdamBackend> OptimizerStep<B> {
    /// Lets the device decide whether the step is taken: unless the loss and the norm are finite,
    /// [`Optimizer::apply`] leaves all parameters and moments as they are.
    ///
    /// # Shapes
    /// - `loss`: `[1]`
    pub fn decide_on_device(&mut self, loss: Tensor<B, 1>) -> &Gate<B> {
        let gate = Gate::new(loss, self.norm.clone());
        self.scale = gate.scale(self.scale.clone());
        self.gate.insert(gate)
    }
}

/// Adds gradients to others by name.
pub fn accumulate<B: Backend>(into: &mut Flat<B>, gradients: Flat<B>) {
    for (name, gradient) in gradients {
        let sum = match into.remove(&name) {
            Some(sum) => sum + gradient,
            None => gradient,
        };
        into.insert(name, sum);
    }
}

/// Divides summed gradients by the number of passes.
pub fn divide<B: Backend>(gradients: Flat<B>, passes: usize) -> Flat<B> {
    if passes == 1 {
        return gradients;
    }
    gradients
        .into_iter()
        .map(|(name, gradient)| (name, gradient.div_scalar(passes as f64)))
        .collect()
}

/// Collects the gradients of a network's parameters by name.
pub fn gradients<A: TrainBackend, M: Module<A>>(
    prefix: &str,
    network: &M,
    gradients: &A::Gradients,
    into: &mut Flat<A::InnerBackend>,
) {
    network.visit(&mut Collector::<A> { path: Path::new(prefix), gradients, into });
    // Parameters of a network in bf16 have gradients in bf16.
    let (names, cast): (Vec<_>, Vec<_>) = into
        .iter()
        .filter(|(_, gradient)| gradient.dtype() != DType::F32)
        .map(|(name, gradient)| (name.clone(), unwrap(gradient.clone())))
        .unzip();
    for (name, gradient) in names.into_iter().zip(A::InnerBackend::cast_all(cast, DType::F32)) {
        into.insert(name, wrap(gradient));
    }
}

/// Wraps a flat tensor of a backend.
pub fn wrap<B: Backend>(primitive: FloatTensor<B>) -> Tensor<B, 1> {
    Tensor::from_primitive(TensorPrimitive::Float(primitive))
}

/// Returns the backend's own flat tensor.
pub fn unwrap<B: Backend>(tensor: Tensor<B, 1>) -> FloatTensor<B> {
    tensor.into_primitive().tensor()
}

/// Collects the gradients of a network's parameters.
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

/// Collects the parameters of a network by name.
struct Parameters<B: Backend>(Path, Vec<(String, FloatTensor<B>)>);

impl<A: AutodiffBackend> ModuleVisitor<A> for Parameters<A::InnerBackend> {
    fn enter_module(&mut self, name: &str, container: &str) {
        self.0.enter(name, container);
    }

    fn exit_module(&mut self, _: &str, container: &str) {
        self.0.exit(container);
    }

    fn visit_float<const D: usize>(&mut self, param: &Param<Tensor<A, D>>) {
        let value = param.val().inner().into_primitive().tensor();
        self.1.push((self.0.name(), value));
    }
}

/// Replaces the parameters of a network by name.
struct Replacer<B: Backend> {
    path: Path,
    updated: BTreeMap<String, FloatTensor<B>>,
}

impl<A: AutodiffBackend> ModuleMapper<A> for Replacer<A::InnerBackend> {
    fn enter_module(&mut self, name: &str, container: &str) {
        self.path.enter(name, container);
    }

    fn exit_module(&mut self, _: &str, container: &str) {
        self.path.exit(container);
    }

    fn map_float<const D: usize>(&mut self, param: Param<Tensor<A, D>>) -> Param<Tensor<A, D>> {
        match self.updated.remove(&self.path.name()) {
            // A tensor of the inner backend has no gradients until `require_grad`.
            Some(value) => param.map(|_| {
                let value = Tensor::from_primitive(TensorPrimitive::Float(value));
                Tensor::from_inner(value).require_grad()
            }),
            None => param,
        }
    }
}

#[cfg(test)]
mod tests {
    use burn::backend::Flex;

    use super::*;

    type Vector = Tensor<Flex, 1>;

    pub(super) fn vector(values: &[f32]) -> Vector {
        Tensor::from_floats(values, &Default::default())
    }

    pub(super) fn host(tensor: Vector) -> Vec<f32> {
        tensor.into_data().into_vec().expect("f32")
    }

    /// Updates a parameter of two zeros.
    fn update(
        optimizer: &mut Optimizer<Flex>,
        step: &mut OptimizerStep<Flex>,
        name: &str,
    ) -> Vector {
        let parameter = vec![(name.to_owned(), unwrap(vector(&[0.0, 0.0])))];
        wrap(optimizer.updated(step, 0.1, parameter).remove(name).expect("it has a gradient"))
    }

    /// Adam's first step moves each weight by the learning rate, whatever the gradient.
    #[test]
    fn two_clipped_adam_steps_match_a_computation_by_hand() {
        let mut optimizer = Optimizer::new(OptimConfig::default());
        let mut step =
            optimizer.begin(Flat::<Flex>::from([("x".to_owned(), vector(&[3.0, -4.0]))]));
        assert!((step.norm.clone().into_scalar() - 5.0).abs() < 1e-6);
        // The gradient is clipped to (1.2, -1.6), of norm 2.
        let values = host(update(&mut optimizer, &mut step, "x"));
        assert!((values[0] + 0.1).abs() < 1e-6 && (values[1] - 0.1).abs() < 1e-6, "{values:?}");

        let mut step = optimizer.begin(Flat::from([("x".to_owned(), vector(&[0.0, 1.0]))]));
        let values = host(update(&mut optimizer, &mut step, "x"));
        // 0.12 and 0.16 are 0.1 of the first gradient; 0.19 = 1 - 0.9^2 corrects for the start at
        // 0.
        let expected = [0.9 * 0.12 / 0.19, (-0.9 * 0.16 + 0.1) / 0.19];
        let roots = [
            (0.999 * 0.001 * 1.44 / (1.0 - 0.999f64.powi(2))).sqrt(),
            ((0.999 * 0.001 * 2.56 + 0.001) / (1.0 - 0.999f64.powi(2))).sqrt(),
        ];
        for i in 0..2 {
            assert!(
                (f64::from(values[i]) + 0.1 * expected[i] / roots[i]).abs() < 1e-5,
                "{values:?}"
            );
        }
        let parameter = vec![("y".to_owned(), unwrap(vector(&[0.0])))];
        assert!(optimizer.updated(&mut step, 0.1, parameter).is_empty());
    }
}
