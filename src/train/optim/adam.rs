//! Adam (Kingma & Ba, 2015), fused into one loop on the CPU, where memory bandwidth limits a step.
//!
//! Start at [`AdamBackend::adam`].

use burn::backend::Flex;
use burn::backend::flex::FlexTensor;
use burn::tensor::ops::{FloatTensor, FloatTensorOps};
use burn::tensor::{DType, Tensor, TensorData, TensorMetadata};
use rayon::prelude::*;

use super::{NetBackend, OptimConfig, muon, unwrap, wrap};

/// The factors of one step, equal for all parameters.
#[derive(Clone, Copy, Debug)]
pub struct Factors {
    pub(super) beta1: f32,
    pub(super) beta2: f32,
    pub(super) epsilon: f32,
    /// The learning rate over the first moment's bias correction.
    pub(super) rate: f32,
    /// One over the root of the second moment's bias correction.
    pub(super) root_correction: f32,
}

impl Factors {
    /// Returns the factors of a step, counted from 1, for a learning rate of 1.
    pub(super) fn new(config: &OptimConfig, step: u64) -> Factors {
        let OptimConfig { beta1, beta2, epsilon, .. } = *config;
        let correction = |beta: f64| 1.0 - beta.powf(step as f64);
        Factors {
            beta1: beta1 as f32,
            beta2: beta2 as f32,
            epsilon: epsilon as f32,
            rate: correction(beta1).recip() as f32,
            root_correction: correction(beta2).sqrt().recip() as f32,
        }
    }

    /// Returns the factors for a learning rate.
    pub(super) fn with_learning_rate(self, learning_rate: f64) -> Factors {
        Factors { rate: self.rate * learning_rate as f32, ..self }
    }
}

/// A backend with the steps of both optimisers. Each takes all parameters of a network at once, so
/// that a GPU needs few launches.
///
/// If `scale` is NaN, a step is skipped: parameters and moments stay as they are.
pub trait AdamBackend: NetBackend {
    /// Updates `[parameter, first, second]`, a parameter and its two moments, by `scale` times the
    /// last tensor, its gradient.
    ///
    /// # Shapes
    /// - parameters: any; moments and gradients: flat; `scale`: `[1]`
    fn adam_all(
        states: Vec<[FloatTensor<Self>; 4]>,
        scale: FloatTensor<Self>,
        factors: Factors,
    ) -> Vec<[FloatTensor<Self>; 3]>;

    /// Updates `[parameter, mean]`, a matrix and its mean gradient, by `scale` times the last
    /// tensor, its gradient. See `muon`.
    ///
    /// # Shapes
    /// - parameters: kernels of convolutions; means and gradients: flat;
    ///   `scale`: `[1]`
    fn muon_all(
        states: Vec<[FloatTensor<Self>; 3]>,
        scale: FloatTensor<Self>,
        learning_rate: f64,
    ) -> Vec<[FloatTensor<Self>; 2]>;

    /// Returns the sum of all squares.
    ///
    /// # Shapes
    /// - `values`: flat; output: `[1]`
    fn square_sum(values: Vec<FloatTensor<Self>>) -> FloatTensor<Self>;

    /// Returns the norm of all gradients together, and the factor that clips it to `most`, as
    /// `torch.nn.utils.clip_grad_norm_` does, with its 1e-6.
    ///
    /// # Shapes
    /// - `square_sum` and outputs: `[1]`
    fn clip(square_sum: FloatTensor<Self>, most: f64) -> [FloatTensor<Self>; 2] {
        let norm = wrap::<Self>(square_sum).sqrt();
        let scale = ((norm.clone() + 1e-6).recip() * most).clamp_max(1.0);
        [norm, scale].map(unwrap)
    }

    /// Returns 1 and NaN if the step is skipped because one of these is not finite, else 0 and 0.
    ///
    /// # Shapes
    /// - inputs and outputs: `[1]`
    fn gate(loss: FloatTensor<Self>, norm: FloatTensor<Self>) -> [FloatTensor<Self>; 2];
}

/// Values in a chunk, the work of one thread at a time.
const CHUNK: usize = 1 << 14;

impl AdamBackend for Flex {
    fn adam_all(
        states: Vec<[FlexTensor; 4]>,
        scale: FlexTensor,
        factors: Factors,
    ) -> Vec<[FlexTensor; 3]> {
        let scale = values(&scale)[0];
        let updated = states.into_iter().map(|[parameter, first, second, gradient]| {
            if scale.is_nan() {
                return [parameter, first, second];
            }
            let shape = parameter.shape();
            let parameter = Flex::float_reshape(parameter, gradient.shape());
            let [parameter, first, second] =
                adam([parameter, first, second], gradient, scale, factors);
            [Flex::float_reshape(parameter, shape), first, second]
        });
        updated.collect()
    }

    fn muon_all(
        states: Vec<[FlexTensor; 3]>,
        scale: FlexTensor,
        learning_rate: f64,
    ) -> Vec<[FlexTensor; 2]> {
        let is_skipped = values(&scale)[0].is_nan();
        let updated = states.into_iter().map(|[parameter, mean, gradient]| {
            if is_skipped {
                return [parameter, mean];
            }
            let shape = parameter.shape();
            let matrix = muon::matrix_shape(shape.as_slice()).expect("it is a matrix");
            let parameter = Flex::float_reshape(parameter, gradient.shape());
            let gradient = wrap(gradient) * wrap(scale.clone());
            let state = [parameter, mean].map(wrap::<Flex>);
            let [parameter, mean] = muon::update(state, gradient, learning_rate, matrix);
            [Flex::float_reshape(unwrap(parameter), shape), unwrap(mean)]
        });
        updated.collect()
    }

    fn square_sum(values: Vec<FlexTensor>) -> FlexTensor {
        let squares = values.into_iter().map(|values| {
            let values = wrap::<Flex>(values);
            wrap::<Flex>(Flex::float_sum(unwrap(values.clone() * values)))
        });
        unwrap(Tensor::cat(squares.collect(), 0).sum())
    }

    fn gate(loss: FlexTensor, norm: FlexTensor) -> [FlexTensor; 2] {
        let is_skipped = !values(&loss)[0].is_finite() || !values(&norm)[0].is_finite();
        let gate = if is_skipped { [1.0, f32::NAN] } else { [0.0, 0.0] };
        gate.map(|value| FlexTensor::from_data(TensorData::new(vec![value], [1])))
    }
}

/// Updates a flat parameter and its two moments.
fn adam(
    [parameter, first, second]: [FlexTensor; 3],
    gradient: FlexTensor,
    scale: f32,
    factors: Factors,
) -> [FlexTensor; 3] {
    let Factors { beta1, beta2, epsilon, rate, root_correction } = factors;
    let [parameter, mut first, mut second, gradient] =
        [parameter, first, second, gradient].map(|tensor| tensor.to_contiguous());
    // The moments are updated in place. The parameter is not: the network still shares its
    // memory, so an in-place update would copy it first.
    let mut updated = vec![0.0; values(&parameter).len()];
    let moments = first
        .storage_mut::<f32>()
        .par_chunks_mut(CHUNK)
        .zip(second.storage_mut::<f32>().par_chunks_mut(CHUNK));
    let inputs = values(&parameter).par_chunks(CHUNK).zip(values(&gradient).par_chunks(CHUNK));
    updated.par_chunks_mut(CHUNK).zip(moments).zip(inputs).for_each(
        |((updated, (first, second)), (parameter, gradient))| {
            let moments = first.iter_mut().zip(second);
            // Zipped iterators need no bounds checks, so this loop is vectorised.
            for ((updated, (first, second)), (parameter, gradient)) in
                updated.iter_mut().zip(moments).zip(parameter.iter().zip(gradient))
            {
                let gradient = gradient * scale;
                *second = *second * beta2 + gradient * gradient * (1.0 - beta2);
                *first = *first * beta1 + gradient * (1.0 - beta1);
                *updated = parameter - *first / (second.sqrt() * root_correction + epsilon) * rate;
            }
        },
    );
    [FlexTensor::from_data(TensorData::new(updated, parameter.shape())), first, second]
}

fn values(tensor: &FlexTensor) -> &[f32] {
    assert_eq!(tensor.dtype(), DType::F32, "parameters and gradients are single precision");
    tensor.as_slice().expect("the tensor is contiguous")
}

#[cfg(test)]
mod tests {
    use super::super::tests::{host, vector};
    use super::*;

    /// The step in terms of burn's operations.
    fn composed(
        state: [FlexTensor; 3],
        gradient: FlexTensor,
        scale: f32,
        factors: Factors,
    ) -> [FlexTensor; 3] {
        let Factors { beta1, beta2, epsilon, rate, root_correction } = factors;
        let [parameter, first, second] = state.map(wrap::<Flex>);
        let gradient = wrap::<Flex>(gradient) * scale;
        let second = second * beta2 + gradient.clone() * gradient.clone() * (1.0 - beta2);
        let first = first * beta1 + gradient * (1.0 - beta1);
        let root = second.clone().sqrt() * root_correction + epsilon;
        let parameter = parameter - first.clone() / root * rate;
        [parameter, first, second].map(unwrap)
    }

    #[test]
    fn a_scale_that_is_nan_leaves_parameter_and_moments() {
        let factors = Factors::new(&OptimConfig::default(), 1);
        let state = [[1.0, 2.0], [3.0, 4.0], [5.0, 6.0]];
        let [parameter, first, second] = state.map(|values| unwrap(vector(&values)));
        let gradient = unwrap(vector(&[f32::INFINITY, 1.0]));
        let nan = unwrap(vector(&[f32::NAN]));
        let updated = Flex::adam_all(vec![[parameter, first, second, gradient]], nan, factors);
        assert_eq!(updated[0].clone().map(|tensor| host(wrap(tensor))), state.map(Vec::from));
    }

    #[test]
    fn the_fused_step_equals_the_composed_one() {
        // Several chunks, the last of them incomplete.
        let count = 3 * CHUNK + 5;
        let wave =
            |speed: f32| vector(&(0..count).map(|i| (i as f32 * speed).sin()).collect::<Vec<_>>());
        let factors =
            Factors { beta1: 0.9, beta2: 0.999, epsilon: 1e-8, rate: 1e-3, root_correction: 3.0 };
        let state = || [wave(0.1), wave(0.2), wave(0.3).abs()].map(unwrap);
        let run = |adam: fn([FlexTensor; 3], FlexTensor, f32, Factors) -> [FlexTensor; 3]| {
            adam(state(), unwrap(wave(0.4)), 0.5, factors).map(|tensor| host(wrap(tensor)))
        };
        for (fused, composed) in run(adam).iter().zip(run(composed)) {
            assert_eq!(fused.len(), count);
            assert!(
                fused.iter().zip(&composed).all(|(a, b)| (a - b).abs() <= 1e-6 * b.abs() + 1e-9)
            );
        }
    }
}
