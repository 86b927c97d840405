//! Muon (Jordan et al., 2024, "Muon: An optimizer for hidden layers in neural networks").
//!
//! A step follows the mean gradient of a layer with all its singular values set to about one, so
//! that rare directions are learnt as fast as common ones. Start at [`update`].

use burn::tensor::Tensor;

use crate::models::conv::matmul;
use crate::models::layers::NetBackend;

/// Decay of the mean gradient per step, as published.
pub(super) const MOMENTUM: f64 = 0.95;
/// Root mean square of a step's change of the weights, in learning rates. Adam's is 0.2 to 0.4 (Liu
/// et al., 2025, "Muon is scalable for LLM training").
// The best of 0.07, 0.2, 0.6 and 1.5 on mazes.
const DISTANCE: f64 = 0.6;
/// An iteration of [`orthogonal`] maps a singular value s to a s + b s^3 + c s^5. The published
/// coefficients are steep at 0 rather than exact at 1.
pub(super) const POLYNOMIAL: [f64; 3] = [3.4445, -4.7750, 2.0315];
pub(super) const ITERATIONS: usize = 5;

/// Returns a convolution's weight as a matrix of `[out, in * kernel * kernel]`, or `None` for other
/// parameters. The rows of a transposed convolution are its input channels.
pub(super) fn matrix_shape(shape: &[usize]) -> Option<[usize; 2]> {
    match shape {
        [rows, channels, height, width] => Some([*rows, channels * height * width]),
        _ => None,
    }
}

/// Updates `[parameter, mean]`, a parameter and its mean gradient. `shape` is its rows and columns.
///
/// # Shapes
/// - `parameter`, `mean`, `gradient` and the output: `[rows * columns]`
pub(super) fn update<B: NetBackend>(
    [parameter, mean]: [Tensor<B, 1>; 2],
    gradient: Tensor<B, 1>,
    learning_rate: f64,
    shape: [usize; 2],
) -> [Tensor<B, 1>; 2] {
    let mean = mean * MOMENTUM + gradient.clone() * (1.0 - MOMENTUM);
    // Nesterov momentum, as published.
    let nesterov = mean.clone() * MOMENTUM + gradient * (1.0 - MOMENTUM);
    let count = parameter.dims();
    let direction = orthogonal(nesterov.reshape(shape)).reshape(count);
    [parameter - direction * (distance(shape) * learning_rate), mean]
}

/// Returns the length of a step along an orthogonal matrix, in learning rates.
pub(super) fn distance([rows, columns]: [usize; 2]) -> f64 {
    // The root mean square of an orthogonal matrix is one over the root of its longer side.
    DISTANCE * (rows.max(columns) as f64).sqrt()
}

/// Returns the matrix with the same singular vectors and singular values of about one (0.7 to 1.2),
/// by Newton-Schulz iterations. A zero matrix stays zero.
///
/// # Shapes
/// - `matrix` and the output: `[rows, columns]`
pub(super) fn orthogonal<B: NetBackend>(matrix: Tensor<B, 2>) -> Tensor<B, 2> {
    let [rows, columns] = matrix.dims();
    // The products below are square in the number of rows, so fewer rows are faster.
    if rows > columns {
        return orthogonal(matrix.transpose()).transpose();
    }
    let [a, b, c] = POLYNOMIAL;
    // The Frobenius norm is at least the largest singular value, so all are at most 1 after this.
    let norm = (matrix.clone() * matrix.clone()).sum().sqrt().clamp_min(1e-7);
    let mut x = matrix / norm.reshape([1, 1]);
    for _ in 0..ITERATIONS {
        let squared = matmul(x.clone(), x.clone().transpose());
        let terms = squared.clone() * b + matmul(squared.clone(), squared) * c;
        x = x.clone() * a + matmul(terms, x);
    }
    x
}

#[cfg(test)]
mod tests {
    use burn::backend::Flex;

    use super::*;

    type Vector = Tensor<Flex, 1>;

    fn wave(count: usize, speed: f32) -> Vector {
        let values: Vec<_> =
            (0..count).map(|i| (i as f32 * speed).sin() + (i as f32 * 0.31).cos()).collect();
        Tensor::from_floats(values.as_slice(), &Default::default())
    }

    fn host<const D: usize>(tensor: Tensor<Flex, D>) -> Vec<f32> {
        tensor.into_data().into_vec().expect("f32")
    }

    /// PyTorch 2.15: two steps of `torch.optim.Muon([p], lr=0.3, weight_decay=0,
    /// adjust_lr_fn="match_rms_adamw")`. Its factor is 0.2 instead of 0.6, so its learning rate is
    /// 0.3 instead of 0.1. Its iterations ran in single precision instead of bf16.
    #[test]
    fn two_steps_equal_pytorch() {
        let wide = [
            0.9069, 1.55468, 1.73042, 1.35327, 0.66084, -0.3462, -1.25538, -1.56433, -1.52817,
            -0.8147, -0.26336, -0.01366,
        ];
        let tall = [
            0.99107, 1.53584, 1.63231, 1.3505, 0.65506, -0.33548, -1.26081, -1.59102, -1.29431,
            -0.91656, -0.21939, -0.02395,
        ];
        for (shape, expected) in [([3, 4], wide), ([4, 3], tall)] {
            let mut state = [wave(12, 0.7), wave(12, 0.7).zeros_like()];
            for step in 0..2 {
                state = update(state, wave(12, 0.2 + step as f32) * 0.1, 0.1, shape);
            }
            let [parameter, _] = state;
            let found = host(parameter);
            assert!(
                found.iter().zip(expected).all(|(found, expected)| (found - expected).abs() < 2e-4),
                "{shape:?}: {found:?}"
            );
        }
    }

    #[test]
    fn singular_values_become_about_one_and_zeros_stay_zeros() {
        // A ratio of 50, and a matrix that is nearly zero.
        for [common, rare] in [[1.0, 0.02], [3e-5, 3e-5]] {
            let matrix = Tensor::<Flex, 2>::from_floats(
                [[common, 0.0, 0.0], [0.0, rare, 0.0]],
                &Default::default(),
            );
            let found = host(orthogonal(matrix));
            assert_eq!(found.len(), 6);
            for singular_value in [found[0], found[4]] {
                assert!((0.65..1.25).contains(&singular_value), "{found:?}");
            }
            assert_eq!([found[1], found[2], found[3], found[5]], [0.0; 4]);
        }
        assert_eq!(
            host(orthogonal(Tensor::<Flex, 2>::zeros([2, 3], &Default::default()))),
            [0.0; 6]
        );
    }
}
