//! Adam (Kingma & Ba, 2015), fused into one loop on the CPU, where memory bandwidth limits a step.
//!
//! Start at [`AdamBackend::adam`].

use burn::backend::Flex;
use burn::backend::flex::FlexTensor;
use burn::tensor::ops::{FloatTensor, FloatTensorOps};
use burn::tensor::{DType, Tensor, TensorData, TensorMetadata, backend::Backend};
use rayon::prelude::*;

use super::{OptimConfig, unwrap, wrap};

/// The factors of one step, equal for all parameters.
#[derive(Clone, Copy, Debug)]
pub struct Factors {
    beta1: f32,
    beta2: f32,
    epsilon: f32,
    /// The learning rate over the first moment's bias correction.
    rate: f32,
    /// One over the root of the second moment's bias correction.
    root_correction: f32,
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

/// A backend with an Adam step and the sums that it needs. The defaults are composed of burn's
/// operations.
pub trait AdamBackend: Backend {
    /// Updates `[parameter, first, second]`, a parameter and its two moments, by the gradient
    /// `scale * gradient`. If `scale` is NaN, the step is skipped: all three stay as they are.
    ///
    /// # Shapes
    /// - `scale`: `[1]`; all others `[count]`
    fn adam(
        state: [FloatTensor<Self>; 3],
        gradient: FloatTensor<Self>,
        scale: FloatTensor<Self>,
        factors: Factors,
    ) -> [FloatTensor<Self>; 3] {
        composed::<Self>(state, gradient, scale, factors)
    }

    /// Returns the sum of all values, however many.
    ///
    /// # Shapes
    /// - `values`: `[count]`; output: `[1]`
    fn total(values: FloatTensor<Self>) -> FloatTensor<Self> {
        unwrap(sum_of_rows::<Self>(wrap(values)))
    }
}

/// Length of the rows that are summed one by one.
const ROW: usize = 4096;

/// Sums rows first, because one of burn's kernels sums a whole axis in one loop. That loses digits,
/// and Mesa's lavapipe ends every loop after 65,535 iterations: of 524,288 values the kernel then
/// adds half. See `tests/it/device_sums.rs`.
fn sum_of_rows<B: Backend>(values: Tensor<B, 1>) -> Tensor<B, 1> {
    let [count] = values.dims();
    let rows = count / ROW;
    if rows < 2 {
        return values.sum();
    }
    let summed = rows * ROW;
    let whole = values.clone().narrow(0, 0, summed).reshape([rows, ROW]).sum_dim(1);
    let sum = sum_of_rows(whole.reshape([rows]));
    if summed == count { sum } else { sum + values.narrow(0, summed, count - summed).sum() }
}

fn composed<B: Backend>(
    state: [FloatTensor<B>; 3],
    gradient: FloatTensor<B>,
    scale: FloatTensor<B>,
    factors: Factors,
) -> [FloatTensor<B>; 3] {
    let Factors { beta1, beta2, epsilon, rate, root_correction } = factors;
    let before = state.map(wrap::<B>);
    let [parameter, first, second] = before.clone();
    let scale = wrap::<B>(scale);
    let skipped = scale.clone().is_nan();
    let gradient = wrap::<B>(gradient) * scale;
    let second = second * beta2 + gradient.clone() * gradient.clone() * (1.0 - beta2);
    let first = first * beta1 + gradient * (1.0 - beta1);
    let root = second.clone().sqrt() * root_correction + epsilon;
    let parameter = parameter - first.clone() / root * rate;
    let [old_parameter, old_first, old_second] = before;
    [(parameter, old_parameter), (first, old_first), (second, old_second)]
        .map(|(new, old)| unwrap(new.mask_where(skipped.clone(), old)))
}

#[cfg(feature = "cuda")]
impl AdamBackend for crate::models::gpu::Cuda {}

#[cfg(feature = "vulkan")]
impl AdamBackend for crate::models::gpu::Vulkan {}

/// Values in a chunk, the work of one thread at a time.
const CHUNK: usize = 1 << 14;

impl AdamBackend for Flex {
    fn total(values: FlexTensor) -> FlexTensor {
        Flex::float_sum(values)
    }

    fn adam(
        [parameter, first, second]: [FlexTensor; 3],
        gradient: FlexTensor,
        scale: FlexTensor,
        factors: Factors,
    ) -> [FlexTensor; 3] {
        let Factors { beta1, beta2, epsilon, rate, root_correction } = factors;
        let scale = values(&scale)[0];
        if scale.is_nan() {
            return [parameter, first, second];
        }
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
                    *updated =
                        parameter - *first / (second.sqrt() * root_correction + epsilon) * rate;
                }
            },
        );
        [FlexTensor::from_data(TensorData::new(updated, parameter.shape())), first, second]
    }
}

fn values(tensor: &FlexTensor) -> &[f32] {
    assert_eq!(tensor.dtype(), DType::F32, "parameters and gradients are single precision");
    tensor.as_slice().expect("the tensor is contiguous")
}

#[cfg(test)]
mod tests {
    use super::super::tests::{host, vector};
    use super::*;

    #[test]
    fn a_scale_that_is_nan_leaves_parameter_and_moments() {
        let factors = Factors::new(&OptimConfig::default(), 1);
        let state = [[1.0, 2.0], [3.0, 4.0], [5.0, 6.0]];
        for adam in [Flex::adam, composed::<Flex>] {
            let tensors = state.map(|values| unwrap(vector(&values)));
            let gradient = unwrap(vector(&[f32::INFINITY, 1.0]));
            let updated = adam(tensors, gradient, unwrap(vector(&[f32::NAN])), factors);
            assert_eq!(updated.map(|tensor| host(wrap(tensor))), state.map(Vec::from));
        }
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
        let run =
            |adam: fn([FlexTensor; 3], FlexTensor, FlexTensor, Factors) -> [FlexTensor; 3]| {
                adam(state(), unwrap(wave(0.4)), unwrap(vector(&[0.5])), factors)
                    .map(|tensor| host(wrap(tensor)))
            };
        for (fused, composed) in run(Flex::adam).iter().zip(run(composed::<Flex>)) {
            assert_eq!(fused.len(), count);
            assert!(
                fused.iter().zip(&composed).all(|(a, b)| (a - b).abs() <= 1e-6 * b.abs() + 1e-9)
            );
        }
    }
}
