//! Adam (Kingma & Ba, 2015): a parameter, its two moments and its gradient go in, the first three come out, moved. Fused on the CPU,
//! where the step's time is the memory it walks through. Start with [`AdamBackend::adam`].

use burn::backend::Flex;
use burn::backend::flex::FlexTensor;
use burn::tensor::ops::FloatTensor;
use burn::tensor::{DType, TensorData, TensorMetadata, backend::Backend};
use rayon::prelude::*;

use super::{OptimConfig, unwrap, wrap};

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

impl Factors {
    /// Those of a step, the first being one.
    pub(super) fn new(config: &OptimConfig, step: u64) -> Factors {
        let OptimConfig { beta1, beta2, epsilon, .. } = *config;
        let correction = |beta: f64| 1.0 - beta.powf(step as f64);
        Factors {
            beta1: beta1 as f32,
            beta2: beta2 as f32,
            epsilon: epsilon as f32,
            rate: correction(beta1).recip() as f32,
            spread: correction(beta2).sqrt().recip() as f32,
        }
    }

    /// The same for a learning rate.
    pub(super) fn at(self, learning_rate: f64) -> Factors {
        Factors { rate: self.rate * learning_rate as f32, ..self }
    }
}

/// A backend with its own way to move a parameter; by default it is put together from burn's operations.
pub trait AdamBackend: Backend {
    /// Takes `scale * gradient` into the moments and moves the parameter: `[parameter, first, second]` go in and come out.
    ///
    /// # Shapes
    /// - `scale`: `[1]`; all others `[count]`
    fn adam(
        parts: [FloatTensor<Self>; 3],
        gradient: FloatTensor<Self>,
        scale: FloatTensor<Self>,
        by: Factors,
    ) -> [FloatTensor<Self>; 3] {
        composed::<Self>(parts, gradient, scale, by)
    }
}

fn composed<B: Backend>(
    parts: [FloatTensor<B>; 3],
    gradient: FloatTensor<B>,
    scale: FloatTensor<B>,
    by: Factors,
) -> [FloatTensor<B>; 3] {
    let ([parameter, first, second], gradient) =
        (parts.map(wrap::<B>), wrap::<B>(gradient) * wrap(scale));
    let second = second * by.beta2 + gradient.clone() * gradient.clone() * (1.0 - by.beta2);
    let first = first * by.beta1 + gradient * (1.0 - by.beta1);
    let parameter =
        parameter - first.clone() / (second.clone().sqrt() * by.spread + by.epsilon) * by.rate;
    [parameter, first, second].map(unwrap)
}

#[cfg(feature = "cuda")]
impl AdamBackend for crate::models::gpu::Gpu {}

/// Values a thread takes at a time.
const CHUNK: usize = 1 << 14;

impl AdamBackend for Flex {
    fn adam(
        [parameter, first, second]: [FlexTensor; 3],
        gradient: FlexTensor,
        scale: FlexTensor,
        by: Factors,
    ) -> [FlexTensor; 3] {
        let [parameter, mut first, mut second, gradient] =
            [parameter, first, second, gradient].map(|tensor| tensor.to_contiguous());
        let scale = values(&scale)[0];
        let mut moved = vec![0.0; values(&parameter).len()];
        let moments = first
            .storage_mut::<f32>()
            .par_chunks_mut(CHUNK)
            .zip(second.storage_mut::<f32>().par_chunks_mut(CHUNK));
        let seen = values(&parameter).par_chunks(CHUNK).zip(values(&gradient).par_chunks(CHUNK));
        moved.par_chunks_mut(CHUNK).zip(moments).zip(seen).for_each(
            |((moved, (first, second)), (parameter, gradient))| {
                let moments = first.iter_mut().zip(second);
                for ((moved, (first, second)), (parameter, gradient)) in
                    moved.iter_mut().zip(moments).zip(parameter.iter().zip(gradient))
                {
                    let gradient = gradient * scale;
                    *second = *second * by.beta2 + gradient * gradient * (1.0 - by.beta2);
                    *first = *first * by.beta1 + gradient * (1.0 - by.beta1);
                    *moved =
                        parameter - *first / (second.sqrt() * by.spread + by.epsilon) * by.rate;
                }
            },
        );
        [FlexTensor::from_data(TensorData::new(moved, parameter.shape())), first, second]
    }
}

fn values(tensor: &FlexTensor) -> &[f32] {
    assert_eq!(tensor.dtype(), DType::F32, "parameters and gradients are single precision");
    tensor.as_slice().expect("contiguous")
}

#[cfg(test)]
mod tests {
    use super::super::tests::{host, vector};
    use super::*;

    #[test]
    fn fused_is_what_burn_composes() {
        let count = 3 * CHUNK + 5;
        let wave =
            |speed: f32| vector(&(0..count).map(|i| (i as f32 * speed).sin()).collect::<Vec<_>>());
        let by = Factors { beta1: 0.9, beta2: 0.999, epsilon: 1e-8, rate: 1e-3, spread: 3.0 };
        let parts = || [wave(0.1), wave(0.2), wave(0.3).abs()].map(unwrap);
        let run =
            |adam: fn([FlexTensor; 3], FlexTensor, FlexTensor, Factors) -> [FlexTensor; 3]| {
                adam(parts(), unwrap(wave(0.4)), unwrap(vector(&[0.5])), by)
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
