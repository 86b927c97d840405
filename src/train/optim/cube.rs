//! The steps of both optimisers on GPUs: a few kernels over all parameters.

use std::collections::BTreeMap;

use burn::tensor::TensorMetadata;
use burn::tensor::ops::FloatTensor;

use super::adam::{AdamBackend, Factors};
use super::muon;
use crate::models::conv::cube::many::{
    adam::{self, AdamFactors, AdamState},
    gate,
    muon::{Matrix, move_along, pack},
    orthogonal::orthogonal,
    square_sum,
};
use crate::models::conv::cube::queue::{CubeRuntime, Queue, Queued};

/// Matrices with at most as many rows are padded to the same size.
const SMALL: usize = 128;

impl<R: CubeRuntime> AdamBackend for Queue<R> {
    fn adam_all(
        states: Vec<[FloatTensor<Self>; 4]>,
        scale: FloatTensor<Self>,
        factors: Factors,
    ) -> Vec<[FloatTensor<Self>; 3]> {
        let Factors { beta1, beta2, epsilon, rate, root_correction } = factors;
        let factors = AdamFactors { beta1, beta2, epsilon, rate, root_correction };
        let states = states.into_iter().map(|[parameter, first, second, gradient]| AdamState {
            parameter,
            gradient,
            first,
            second,
        });
        adam::adam(states.collect(), scale, factors)
    }

    fn muon_all(
        states: Vec<[FloatTensor<Self>; 3]>,
        scale: FloatTensor<Self>,
        learning_rate: f64,
    ) -> Vec<[FloatTensor<Self>; 2]> {
        // Matrices of similar size share the launches of their iterations.
        let mut groups = BTreeMap::<usize, Vec<(usize, Matrix, [Queued<R>; 3])>>::new();
        let count = states.len();
        for (index, state) in states.into_iter().enumerate() {
            let shape = muon::matrix_shape(state[0].shape().as_slice()).expect("it is a matrix");
            let matrix = Matrix { rows: shape[0], columns: shape[1] };
            let size = matrix.wide()[0].next_power_of_two().max(SMALL);
            groups.entry(size).or_default().push((index, matrix, state));
        }
        let mut updated: Vec<_> = (0..count).map(|_| None).collect();
        for group in groups.into_values() {
            let mut parameters = Vec::new();
            let mut means = Vec::new();
            let mut gradients = Vec::new();
            let mut places = Vec::new();
            let mut matrices = Vec::new();
            for (index, matrix, [parameter, mean, gradient]) in group {
                places.push(index);
                matrices.push(matrix);
                parameters.push(parameter);
                means.push(mean);
                gradients.push(gradient);
            }
            let distances = matrices.iter().map(|&Matrix { rows, columns }| {
                (muon::distance([rows, columns]) * learning_rate) as f32
            });
            let distances = distances.collect();
            let momentum = muon::MOMENTUM as f32;
            let (means, packed) = pack(gradients, means, scale.clone(), matrices.clone(), momentum);
            let polynomial = muon::POLYNOMIAL.map(|factor| factor as f32);
            let directions = orthogonal(packed, muon::ITERATIONS, polynomial);
            let parameters = move_along(parameters, directions, matrices, distances);
            for (index, state) in places.into_iter().zip(parameters.into_iter().zip(means)) {
                updated[index] = Some([state.0, state.1]);
            }
        }
        updated.into_iter().map(|state| state.expect("each matrix is in a group")).collect()
    }

    fn square_sum(values: Vec<FloatTensor<Self>>) -> FloatTensor<Self> {
        square_sum(values)
    }

    fn clip(square_sum: FloatTensor<Self>, most: f64) -> [FloatTensor<Self>; 2] {
        gate::clip(square_sum, most as f32)
    }

    fn gate(loss: FloatTensor<Self>, norm: FloatTensor<Self>) -> [FloatTensor<Self>; 2] {
        gate::gate(loss, norm)
    }
}

#[cfg(test)]
mod tests {
    use burn::backend::Flex;
    use burn::tensor::Tensor;

    use super::*;
    use crate::models::Device;
    use crate::models::device::on_device;
    use crate::train::device_under_test;
    use crate::train::optim::{OptimConfig, unwrap, wrap};

    /// Returns values that look random, between -1 and 1.
    fn noise(count: usize, seed: usize) -> Vec<f32> {
        (0..count).map(|i| ((i * 7919 + seed * 104_729) as f32 * 0.618).sin()).collect()
    }

    /// Takes two steps of each optimiser on a device, and returns all parameters and moments.
    fn steps<B: AdamBackend>(at: &B::Device) -> Vec<Vec<f32>> {
        let shapes = [[5, 3, 3, 3], [64, 7, 3, 3], [130, 40, 1, 1], [33, 65, 2, 2]];
        let vector = |count, seed| Tensor::<B, 1>::from_floats(noise(count, seed).as_slice(), at);
        let parameter = |[a, b, c, d]: [usize; 4], seed| {
            vector(a * b * c * d, seed).reshape([a, b, c, d]).into_primitive().tensor()
        };
        let count = |shape: [usize; 4]| shape.iter().product();
        let scale = || unwrap(Tensor::<B, 1>::from_floats([0.5], at));
        let zeros = |shape| unwrap(vector(count(shape), 0) * 0.0);
        let mut muon: Vec<_> = shapes.map(|shape| [parameter(shape, 1), zeros(shape)]).into();
        let mut adam: Vec<_> =
            shapes.map(|shape| [parameter(shape, 1), zeros(shape), zeros(shape)]).into();
        for step in 1..3 {
            let gradient = |shape| unwrap(vector(count(shape), 1 + step) * 1e-3);
            let with_gradients = muon.into_iter().zip(shapes);
            let states = with_gradients.map(|([p, m], shape)| [p, m, gradient(shape)]);
            muon = B::muon_all(states.collect(), scale(), 0.1);
            let with_gradients = adam.into_iter().zip(shapes);
            let states = with_gradients.map(|([p, m, v], shape)| [p, m, v, gradient(shape)]);
            let factors = Factors::new(&OptimConfig::default(), step as u64);
            adam = B::adam_all(states.collect(), scale(), factors.with_learning_rate(0.1));
        }
        let all = muon.into_iter().flatten().chain(adam.into_iter().flatten());
        let host = |tensor: FloatTensor<B>| {
            let count = tensor.shape().num_elements();
            let flat = wrap::<B>(B::float_reshape(tensor, [count].into()));
            flat.into_data().into_vec().expect("f32")
        };
        all.map(host).collect()
    }

    #[test]
    fn steps_on_a_device_equal_those_on_the_cpu() {
        let device = device_under_test();
        if device == Device::Cpu {
            return;
        }
        let expected = steps::<Flex>(&Default::default());
        let seen = on_device!(&device, B, at => steps::<B>(&at));
        for (index, (seen, expected)) in seen.iter().zip(&expected).enumerate() {
            let off = seen.iter().zip(expected).fold(0_f32, |off, (a, b)| off.max((a - b).abs()));
            assert_eq!(seen.len(), expected.len());
            assert!(off < 2e-4, "{index}: off by {off}");
        }
    }

    #[test]
    fn a_step_is_clipped_and_refused_on_a_device_as_on_the_cpu() {
        fn decisions<B: AdamBackend>(at: &B::Device) -> Vec<f32> {
            let one = |value: f32| unwrap(Tensor::<B, 1>::from_floats([value], at));
            let pairs = [(9.0, 1.0), (1e-4, 1.0), (f32::NAN, 1.0), (4.0, f32::INFINITY)];
            let found = pairs.map(|(square_sum, loss)| {
                let [norm, scale] = B::clip(one(square_sum), 2.0);
                let [skipped, mark] = B::gate(one(loss), norm.clone());
                [norm, scale, skipped, mark]
            });
            let all = found.into_iter().flatten().map(wrap::<B>).collect();
            Tensor::cat(all, 0).into_data().into_vec().expect("f32")
        }
        let device = device_under_test();
        let seen = on_device!(&device, B, at => decisions::<B>(&at));
        let nan = f32::NAN;
        let expected =
            [3.0, 2.0 / 3.0, 0.0, 0.0, 1e-2, 1.0, 0.0, 0.0, nan, nan, 1.0, nan, 2.0, 1.0, 1.0, nan];
        for (index, (seen, expected)) in seen.iter().zip(expected).enumerate() {
            let equal = (seen - expected).abs() < 1e-5 || seen.is_nan() && expected.is_nan();
            assert!(equal, "{index}: {seen} for {expected}");
        }
    }
}
