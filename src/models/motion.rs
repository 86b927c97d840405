//! The IDM's motion head ([`IdmHead::Motion`](super::IdmHead)): scaled frame changes as input,
//! normalised latent actions as output.
//!
//! An action changes few pixels, and only slightly. Therefore the IDM sees `o[t]` and the changes
//! between frames, scaled to the size of its other inputs. Its features are averaged over the
//! places where `o[t+1]` differs from `o[t]`. Its latent actions have mean 0 and variance 1 over a
//! batch, so they cannot shrink while the FDM does not use them yet.

use burn::module::{Module, Param};
use burn::tensor::{Tensor, backend::Backend};

use super::Result;
use super::conv::matmul;
use super::frames::{Windows, mean_per_window};
use super::init::{Init, set_state};
use super::layers::{BatchNorm2d, BatchStatistics, Linear, Mode, NetBackend, like};
use super::weights::to_host;

/// The scale of frame changes and the normalisation of latent actions.
#[derive(Module, Debug)]
pub struct Motion<B: Backend> {
    /// `[1]`; 0 until [`start`](Self::start) sets it
    scale: Param<Tensor<B, 1>>,
    norm: BatchNorm2d<B>,
    /// `[time * time]`: the matrices of [`frames_to_inputs`]
    kept: Tensor<B, 1>,
    changed: Tensor<B, 1>,
}

impl<B: NetBackend> Motion<B> {
    /// Root mean square of the scaled changes: of the size of pixels, which lie in [-0.5, 0.5].
    const MEAN_CHANGE: f64 = 0.25;

    /// Creates a head for windows of `time` frames and latent actions of length `latent_dim`.
    pub fn new(init: &mut Init<'_, B>, time: usize, latent_dim: usize) -> Self {
        let (kept, changed) = frames_to_inputs(time);
        Motion {
            scale: init.state([1], 0.0),
            norm: BatchNorm2d::without_gain(init, latent_dim),
            kept: init.constant(kept, [time * time]),
            changed: init.constant(changed, [time * time]),
        }
    }

    /// Sets the scale from the root mean squared change in `windows`. A scale loaded with the
    /// weights stays.
    pub fn start(&mut self, windows: &Windows<B>) -> Result<()> {
        if to_host(self.scale.val())?[0] != 0.0 {
            return Ok(());
        }
        let change = windows.next() - windows.last();
        // Avoids a division by zero if nothing moves.
        let change = mean_per_window(change.clone() * change).mean().clamp_min(1e-6).sqrt();
        set_state(&mut self.scale, change.recip() * Self::MEAN_CHANGE);
        Ok(())
    }

    /// Returns the weight that, applied to the frames of a window, gives the result of `weight`
    /// applied to `o[t]` and the scaled changes. This works because changes are linear in the
    /// frames; they are never computed.
    ///
    /// # Shapes
    /// - `weight` and output: `[out, time * channel, kernel, kernel]`
    pub fn weight_of_frames(&self, weight: Tensor<B, 4>, time: usize) -> Tensor<B, 4> {
        let [out, channels, kernel, _] = weight.dims();
        let flat = weight.reshape([out, time, channels / time * kernel * kernel]);
        let seen = self.kept.clone() + self.changed.clone() * self.scale.val();
        // [1, frame, input], repeated for each output channel.
        let seen = seen.reshape([1, time, time]).repeat_dim(0, out);
        matmul(seen, flat).reshape([out, channels, kernel, kernel])
    }

    /// Normalises latent actions to mean 0 and variance 1.
    ///
    /// # Shapes
    /// - `latent_action` and output: `[batch, latent_dim]`
    pub fn normalise(&self, latent_action: Tensor<B, 2>, mode: &mut Mode<'_, B>) -> Tensor<B, 2> {
        let [batch, latent_dim] = latent_action.dims();
        self.norm
            .forward(latent_action.reshape([batch, latent_dim, 1, 1]), mode)
            .reshape([batch, latent_dim])
    }

    /// Merges the normalisation by running statistics into the last layer.
    pub fn fold_into(&self, head: &mut Linear<B>) {
        self.norm.fold_into(&mut head.weight, &mut head.bias, 0);
    }

    /// Moves the running statistics towards those of one batch.
    pub fn update(&mut self, seen: Vec<BatchStatistics<B>>) {
        BatchNorm2d::update_all([&mut self.norm], seen);
    }
}

/// Returns two matrices that build the IDM's inputs from frames: one for unscaled frames, one for
/// changes. Input `t` is `o[t]` itself; every other input is the change between a frame and its
/// neighbour towards `o[t]`.
///
/// # Shapes
/// - outputs: `[frame, input]`
pub fn frames_to_inputs(time: usize) -> (Vec<f32>, Vec<f32>) {
    let mut kept = vec![0.0; time * time];
    let mut changed = vec![0.0; time * time];
    for input in 0..time {
        // A window is o[t-k] .. o[t], o[t+1], so o[t] is the last frame but one.
        if input + 2 == time {
            kept[input * time + input] = 1.0;
        } else {
            let from = input.min(time - 2);
            changed[from * time + input] = -1.0;
            changed[(from + 1) * time + input] = 1.0;
        }
    }
    (kept, changed)
}

/// Averages features over the places where `o[t+1]` differs from `o[t]`, weighted by the squared
/// change.
///
/// # Shapes
/// - `maps`: `[batch, channels, rows, columns]`
/// - `windows`: `[batch, time * channel, height, width]`
/// - output: `[batch, channels]`
pub fn mean_over_motion<B: NetBackend>(maps: Tensor<B, 4>, windows: &Windows<B>) -> Tensor<B, 2> {
    let [batch, channels, rows, columns] = maps.dims();
    let change = windows.next() - windows.last();
    let [_, colours, height, width] = change.dims();
    // Sums the squared change over the pixels of each feature: first rows, then columns, then
    // colours.
    let squared =
        (change.clone() * change).reshape([batch, colours * rows, height / rows, width]).sum_dim(2);
    let squared = squared.reshape([batch * colours * rows, columns, width / columns]).sum_dim(2);
    let weight = squared.reshape([batch, colours, rows * columns]).sum_dim(1);
    // The small number avoids a division by zero if nothing moves.
    let weight = weight.clone() / (weight.sum_dim(2) + 1e-6);
    let maps = maps.reshape([batch, channels, rows * columns]);
    let weight = like(&maps, weight);
    matmul(maps, weight.swap_dims(1, 2)).reshape([batch, channels])
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn all_inputs_except_the_current_frame_are_changes() {
        // Two frames of context give four inputs: change, change, `o[t]`, change.
        let (kept, changed) = frames_to_inputs(4);
        let input = |matrix: &[f32], input: usize| {
            (0..4).map(|frame| matrix[frame * 4 + input]).collect::<Vec<_>>()
        };
        assert_eq!(input(&changed, 0), [-1.0, 1.0, 0.0, 0.0]);
        assert_eq!(input(&changed, 1), [0.0, -1.0, 1.0, 0.0]);
        assert_eq!(input(&kept, 2), [0.0, 0.0, 1.0, 0.0]);
        assert_eq!(input(&changed, 3), [0.0, 0.0, -1.0, 1.0]);
        assert_eq!(kept.iter().sum::<f32>(), 1.0);
    }
}
