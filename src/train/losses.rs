//! The losses of the dynamics training, each of shape `[1]`. The commitment loss, which keeps
//! latent actions near their codes, is in `models::vq`.

use burn::tensor::{Int, Tensor, TensorData, activation, backend::Backend};

use crate::models::Predict;
use crate::models::conv::matmul;
use crate::models::frames::{Windows, mean_per_window};
use crate::models::layers::{Linear, NetBackend};

/// The errors of the FDM's prediction.
pub(super) struct Prediction<B: Backend> {
    /// Mean squared error of the pixels, in [-0.5, 0.5].
    pub(super) error: Tensor<B, 1>,
    /// The error over the mean squared change from `o[t]`: 1 is as good as copying it. 0 if it is
    /// neither minimised nor read.
    pub(super) relative: Tensor<B, 1>,
    /// The error that training minimises.
    pub(super) minimised: Tensor<B, 1>,
}

/// Returns the errors of a prediction of `o[t+1]`. `is_read` says that all of them are needed.
///
/// # Shapes
/// - `predicted`: `[batch, channel, height, width]`
pub(super) fn prediction<B: NetBackend>(
    predict: Predict,
    windows: &Windows<B>,
    predicted: Tensor<B, 4>,
    is_read: bool,
) -> Prediction<B> {
    let error = mean_square(predicted - windows.next());
    let relative = || {
        // The minimum avoids a division by zero if nothing moves in the batch.
        let change = mean_square(windows.next() - windows.last()).clamp_min(1e-6);
        error.clone() / change
    };
    let relative = match predict {
        Predict::Frame if !is_read => error.zeros_like(),
        _ => relative(),
    };
    let minimised = match predict {
        Predict::Change => relative.clone(),
        Predict::Frame => error.clone(),
    };
    Prediction { error, relative, minimised }
}

/// Returns the cross-entropy of the true actions of a batch's last windows.
///
/// # Shapes
/// - `latent_action`: `[batch, latent_dim]`
/// - `actions`: `[labelled]`, at most `batch`
pub(super) fn cross_entropy<B: NetBackend>(
    action_head: &Linear<B>,
    latent_action: &Tensor<B, 2>,
    actions: &[u32],
) -> Tensor<B, 1> {
    let windows = latent_action.dims()[0];
    let labelled = actions.len();
    let supervised = latent_action.clone().narrow(0, windows - labelled, labelled);
    let logits = action_head.forward(supervised);
    let actions = actions.iter().map(|&action| action as i32).collect();
    let targets = Tensor::<B, 2, Int>::from_data(
        TensorData::new(actions, [labelled, 1]),
        &latent_action.device(),
    );
    -activation::log_softmax(logits, 1).gather(1, targets).mean()
}

/// Returns the mean squared correlation of two numbers of a latent action over a batch (Barlow
/// Twins, Zbontar et al., 2021): 1 if all numbers are proportional, about one over the batch size
/// if they are independent.
///
/// # Shapes
/// - `latent_action`: `[batch, latent_dim]`
pub(super) fn correlation<B: NetBackend>(latent_action: Tensor<B, 2>) -> Tensor<B, 1> {
    let [batch, latent_dim] = latent_action.dims();
    let centred = latent_action.clone() - latent_action.mean_dim(0);
    let deviation = (centred.clone() * centred.clone()).mean_dim(0).add_scalar(1e-5).sqrt();
    let normalised = centred / deviation;
    // `[batch, batch]` instead of `[latent_dim, latent_dim]`: the squares have the same sum, and
    // the matrix is smaller.
    let products = matmul(normalised.clone(), normalised.transpose()) / batch as f64;
    let latent_dim = latent_dim as f64;
    // Without the diagonal: each number's correlation with itself is 1.
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
    fn correlations_equal_numpy() {
        let rows = [[1.0, 3.0, 1.0], [2.0, 1.0, -1.0], [3.0, 4.0, 1.0], [4.0, 6.0, -1.0]];
        assert!((found(rows) - 0.251_282).abs() < 1e-4, "{}", found(rows));
    }

    #[test]
    fn proportional_numbers_correlate_fully_and_orthogonal_ones_not_at_all() {
        let proportional =
            found([[1.0, -2.0, 4.0], [2.0, -4.0, 8.0], [3.0, -6.0, 12.0], [4.0, -8.0, 16.0]]);
        assert!((proportional - 1.0).abs() < 1e-4, "{proportional}");
        let independent =
            found([[1.0, 1.0, 1.0], [1.0, -1.0, -1.0], [-1.0, 1.0, -1.0], [-1.0, -1.0, 1.0]]);
        assert!(independent.abs() < 1e-4, "{independent}");
    }
}
