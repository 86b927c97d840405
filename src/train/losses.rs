//! What a training step minimises: predictions and latent actions go in, numbers `[1]` come out. The bottleneck's own loss, which keeps
//! latent actions near their codes, is in `models::vq`.

use burn::tensor::{Int, Tensor, TensorData, activation, backend::Backend};

use crate::models::Predict;
use crate::models::frames::{Windows, mean_per_window};
use crate::models::layers::{Linear, NetBackend};

/// How far a prediction is off.
pub(super) struct Prediction<B: Backend> {
    /// Mean squared error of the pixels, which span 1.
    pub(super) wm: Tensor<B, 1>,
    /// The same over the mean squared change from `o[t]`: 1 is as good as copying it.
    pub(super) relative: Tensor<B, 1>,
    /// The one of the two that is learnt from.
    pub(super) minimised: Tensor<B, 1>,
}

/// The world model's loss.
///
/// # Shapes
/// - `predicted`: `[batch, channel, height, width]`
pub(super) fn prediction<B: NetBackend>(
    predict: Predict,
    windows: &Windows<B>,
    predicted: Tensor<B, 4>,
) -> Prediction<B> {
    let wm = mean_square(predicted - windows.next());
    // A batch where nothing moves must not divide by zero.
    let change = mean_square(windows.next() - windows.last()).clamp_min(1e-6);
    let relative = wm.clone() / change;
    let minimised = match predict {
        Predict::Change => relative.clone(),
        Predict::Frame => wm.clone(),
    };
    Prediction { wm, relative, minimised }
}

/// The cross-entropy of the true actions of a batch's last windows.
///
/// # Shapes
/// - `latent_action`: `[batch, latent_dim]`
/// - `actions`: at most as many as windows
pub(super) fn cross_entropy<B: NetBackend>(
    tell: &Linear<B>,
    latent_action: &Tensor<B, 2>,
    actions: &[u32],
) -> Tensor<B, 1> {
    let (windows, known) = (latent_action.dims()[0], actions.len());
    let scores = tell.forward(latent_action.clone().narrow(0, windows - known, known));
    let actions = actions.iter().map(|&action| action as i32).collect();
    let right = Tensor::<B, 2, Int>::from_data(
        TensorData::new(actions, [known, 1]),
        &latent_action.device(),
    );
    -activation::log_softmax(scores, 1).gather(1, right).mean()
}

/// The mean squared correlation, over a batch, of two numbers of a latent action (Barlow Twins, Zbontar et al., 2021): 1 if all of them say
/// the same, about one over the batch if each says something of its own.
///
/// # Shapes
/// - `latent_action`: `[batch, latent_dim]`
pub(super) fn correlation<B: Backend>(latent_action: Tensor<B, 2>) -> Tensor<B, 1> {
    let [batch, latent_dim] = latent_action.dims();
    let centred = latent_action.clone() - latent_action.mean_dim(0);
    let deviation = (centred.clone() * centred.clone()).mean_dim(0).add_scalar(1e-5).sqrt();
    let normalised = centred / deviation;
    // The squares of these sum to those of the correlations, and are fewer.
    let products = normalised.clone().matmul(normalised.transpose()) / batch as f64;
    let latent_dim = latent_dim as f64;
    // Each number's correlation with itself is 1.
    ((products.clone() * products).sum() - latent_dim) / (latent_dim * (latent_dim - 1.0)).max(1.0)
}

fn mean_square<B: Backend>(x: Tensor<B, 4>) -> Tensor<B, 1> {
    mean_per_window(x.clone() * x).mean()
}

#[cfg(test)]
mod tests {
    use burn::backend::Flex;

    use super::*;

    fn found(rows: [[f32; 3]; 4]) -> f32 {
        correlation(Tensor::<Flex, 2>::from_floats(rows, &Default::default())).into_scalar()
    }

    /// Against `numpy.corrcoef`: correlations of 0.744, 0 and -0.447.
    #[test]
    fn correlations_are_those_of_numpy() {
        let rows = [[1.0, 3.0, 1.0], [2.0, 1.0, -1.0], [3.0, 4.0, 1.0], [4.0, 6.0, -1.0]];
        assert!((found(rows) - 0.251_282).abs() < 1e-4, "{}", found(rows));
    }

    #[test]
    fn copies_are_all_correlated_and_a_still_number_is_not() {
        assert!(
            (found([[1.0, -2.0, 4.0], [2.0, -4.0, 8.0], [3.0, -6.0, 12.0], [4.0, -8.0, 16.0]])
                - 1.0)
                .abs()
                < 1e-4
        );
        let independent =
            found([[1.0, 1.0, 1.0], [1.0, -1.0, -1.0], [-1.0, 1.0, -1.0], [-1.0, -1.0, 1.0]]);
        assert!(independent.abs() < 1e-4, "{independent}");
    }
}
