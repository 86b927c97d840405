//! Muon (Jordan et al., 2024, "Muon: An optimizer for hidden layers in neural networks"): a layer's mean gradient goes in, a matrix near it
//! whose singular values are all about one comes out, so that what a layer rarely needs is learnt as fast as what it always needs.
//!
//! Start with [`moved`].

use burn::tensor::{Tensor, backend::Backend};

/// Share of the mean gradient that stays at each step, as published.
const MOMENTUM: f64 = 0.95;
/// How far a step moves a weight, as root mean square and in learning rates; Adam's steps are of 0.2 to 0.4 (Liu et al., 2025, "Muon is
/// scalable for LLM training").
// After 300 steps on a maze 0.07, 0.2, 0.6 and 1.5 give an error of .88, .70, .38 and .59 of copying's.
const DISTANCE: f64 = 0.6;
/// What each iteration of [`orthogonal`] makes of a singular value s: a s + b s^3 + c s^5. Steep at 0 rather than exact at 1, as published.
const POLYNOMIAL: [f64; 3] = [3.4445, -4.7750, 2.0315];
const ITERATIONS: usize = 5;

/// The rows and columns of a parameter that is a convolution's weight, `[out, in * kernel * kernel]` (a transposed one's: in for out).
pub(super) fn matrix(shape: &[usize]) -> Option<[usize; 2]> {
    match shape {
        [rows, channels, height, width] => Some([*rows, channels * height * width]),
        _ => None,
    }
}

/// Takes the gradient into its mean and moves the parameter: `[parameter, mean]` go in and come out.
///
/// # Shapes
/// `[rows * columns]`
pub(super) fn moved<B: Backend>(
    [parameter, mean]: [Tensor<B, 1>; 2],
    gradient: Tensor<B, 1>,
    learning_rate: f64,
    shape: [usize; 2],
) -> [Tensor<B, 1>; 2] {
    let mean = mean * MOMENTUM + gradient.clone() * (1.0 - MOMENTUM);
    // A step ahead of the mean, as published.
    let ahead = mean.clone() * MOMENTUM + gradient * (1.0 - MOMENTUM);
    let count = parameter.dims();
    let direction = orthogonal(ahead.reshape(shape)).reshape(count);
    let [rows, columns] = shape;
    let distance = DISTANCE * (rows.max(columns) as f64).sqrt();
    [parameter - direction * (distance * learning_rate), mean]
}

/// The matrix with the same singular vectors and singular values of about one (0.7 to 1.2), by Newton-Schulz iterations.
///
/// # Shapes
/// `[rows, columns]`, in and out. Zeros stay zeros.
pub(super) fn orthogonal<B: Backend>(matrix: Tensor<B, 2>) -> Tensor<B, 2> {
    let [rows, columns] = matrix.dims();
    // The products below are square in the number of rows.
    if rows > columns {
        return orthogonal(matrix.transpose()).transpose();
    }
    let [a, b, c] = POLYNOMIAL;
    let norm = (matrix.clone() * matrix.clone()).sum().sqrt().clamp_min(1e-7);
    let mut x = matrix / norm.reshape([1, 1]);
    for _ in 0..ITERATIONS {
        let squared = x.clone().matmul(x.clone().transpose());
        let terms = squared.clone() * b + squared.clone().matmul(squared) * c;
        x = x.clone() * a + terms.matmul(x);
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

    /// PyTorch 2.15: two steps of `torch.optim.Muon([p], lr=0.3, weight_decay=0, adjust_lr_fn="match_rms_adamw")`, whose rate counts 0.2
    /// where ours counts 0.6, with its iterations in single precision rather than in bf16.
    #[test]
    fn steps_are_those_of_pytorch() {
        let wide = [
            0.9069, 1.55468, 1.73042, 1.35327, 0.66084, -0.3462, -1.25538, -1.56433, -1.52817,
            -0.8147, -0.26336, -0.01366,
        ];
        let tall = [
            0.99107, 1.53584, 1.63231, 1.3505, 0.65506, -0.33548, -1.26081, -1.59102, -1.29431,
            -0.91656, -0.21939, -0.02395,
        ];
        for (shape, expected) in [([3, 4], wide), ([4, 3], tall)] {
            let mut parts = [wave(12, 0.7), wave(12, 0.7).zeros_like()];
            for step in 0..2 {
                parts = moved(parts, wave(12, 0.2 + step as f32) * 0.1, 0.1, shape);
            }
            let [parameter, _] = parts;
            let found = host(parameter);
            assert!(
                found.iter().zip(expected).all(|(found, expected)| (found - expected).abs() < 2e-4),
                "{shape:?}: {found:?}"
            );
        }
    }

    /// Fifty times as far as it is long; where there is no gradient nothing moves.
    #[test]
    fn what_is_rare_moves_as_far_as_what_is_common() {
        for [common, rare] in [[1.0, 0.02], [3e-5, 3e-5]] {
            let matrix = Tensor::<Flex, 2>::from_floats(
                [[common, 0.0, 0.0], [0.0, rare, 0.0]],
                &Default::default(),
            );
            let [a, none, neither, nor, b, nothing] = host(orthogonal(matrix))[..] else {
                panic!("six values")
            };
            assert!((0.65..1.25).contains(&a) && (0.65..1.25).contains(&b), "{a} {b}");
            assert_eq!([none, neither, nor, nothing], [0.0; 4]);
        }
        assert_eq!(
            host(orthogonal(Tensor::<Flex, 2>::zeros([2, 3], &Default::default()))),
            [0.0; 6]
        );
    }
}
