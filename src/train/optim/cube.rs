//! The steps of both optimisers on GPUs: a few kernels over all parameters.

use std::collections::BTreeMap;

use burn::tensor::ops::FloatTensor;
use burn::tensor::{Tensor, TensorMetadata, TensorPrimitive};

use super::adam::{AdamBackend, Factors};
use super::muon;
use crate::models::conv::cube::many::{
    adam::{self, AdamFactors, AdamState},
    muon::{Matrix, move_along, pack},
    square_sum,
};
use crate::models::conv::cube::queue::{CubeRuntime, Queue, Queued};

/// Matrices with at most as many rows are padded to the same size.
const SMALL: usize = 64;

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
            let packed = Tensor::<Self, 3>::from_primitive(TensorPrimitive::Float(packed));
            let directions = muon::orthogonal_each(packed).into_primitive().tensor();
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
}
