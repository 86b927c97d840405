//! An IDM that looks at what moves ([`IdmHead::Motion`](super::IdmHead)): changes of frames go in, normalised latent actions come out.
//!
//! What an agent does changes a few pixels by a little. So the IDM sees `o[t]` and the changes between frames, brought to the size of
//! its other inputs; its features are averaged over the places where `o[t+1]` differs from `o[t]`; and its latent actions have mean 0 and
//! variance 1 over a batch, so that they cannot shrink while the FDM does not use them yet.

use burn::module::{Module, Param};
use burn::tensor::{Tensor, TensorData, backend::Backend};

use super::Result;
use super::frames::{Windows, mean_per_window};
use super::init::{Init, set_state};
use super::layers::{BatchNorm2d, BatchStatistics, Linear, Mode, NetBackend, like};
use super::weights::to_host;

/// The scale of changes, and the normalisation of latent actions.
#[derive(Module, Debug)]
pub struct Motion<B: Backend> {
    /// `[1]`; 0 until [`start`](Self::start) has set it
    scale: Param<Tensor<B, 1>>,
    norm: BatchNorm2d<B>,
}

impl<B: NetBackend> Motion<B> {
    /// Changes are a quarter on average once scaled: as large as pixels, which lie in [-0.5, 0.5].
    const MEAN_CHANGE: f64 = 0.25;

    /// For latent actions of `latent_dim` numbers.
    pub fn new(init: &mut Init<'_, B>, latent_dim: usize) -> Self {
        Motion { scale: init.state([1], 0.0), norm: BatchNorm2d::without_gain(init, latent_dim) }
    }

    /// Takes the scale from the root mean squared change of some windows, unless the weights brought one along.
    pub fn start(&mut self, windows: &Windows<B>) -> Result<()> {
        if to_host(self.scale.val())?[0] != 0.0 {
            return Ok(());
        }
        let change = windows.next() - windows.last();
        // Windows in which nothing moves must not divide by zero.
        let change = mean_per_window(change.clone() * change).mean().clamp_min(1e-6).sqrt();
        set_state(&mut self.scale, change.recip() * Self::MEAN_CHANGE);
        Ok(())
    }

    /// The weight that makes of a window's frames what `weight` makes of `o[t]` and the scaled changes. The changes are linear in the
    /// frames, so nothing but this weight is ever computed for them.
    ///
    /// # Shapes
    /// - `weight` and output: `[out, time * channel, kernel, kernel]`
    pub fn of_changes(&self, weight: Tensor<B, 4>, time: usize) -> Tensor<B, 4> {
        let [out, channels, kernel, _] = weight.dims();
        let flat = weight.reshape([out, time, channels / time * kernel * kernel]);
        let matrix = |values| {
            Tensor::<B, 1>::from_data(TensorData::new(values, [time * time]), &flat.device())
        };
        let (kept, changed) = frames_to_inputs(time);
        let seen = matrix(kept) + matrix(changed) * self.scale.val();
        let seen = seen.reshape([1, time, time]).repeat_dim(0, out);
        seen.matmul(flat).reshape([out, channels, kernel, kernel])
    }

    /// # Shapes
    /// - `latent_action` and output: `[batch, latent_dim]`
    pub fn normalise(&self, latent_action: Tensor<B, 2>, mode: &mut Mode<'_, B>) -> Tensor<B, 2> {
        let [batch, latent_dim] = latent_action.dims();
        self.norm
            .forward(latent_action.reshape([batch, latent_dim, 1, 1]), mode)
            .reshape([batch, latent_dim])
    }

    /// Lets the last layer normalise, by the running statistics.
    pub fn fold_into(&self, head: &mut Linear<B>) {
        self.norm.fold_into(&mut head.weight, &mut head.bias, 0);
    }

    /// Moves the running statistics towards those of one batch.
    pub fn update(&mut self, seen: BatchStatistics<B>) {
        self.norm.update(seen);
    }
}

/// How each frame enters each input, `[frame, input]`: as it is, and by the scale. Input `t` is `o[t]` itself, each other one the change
/// to or from its neighbour on the side of `o[t]`.
fn frames_to_inputs(time: usize) -> (Vec<f32>, Vec<f32>) {
    let (mut kept, mut changed) = (vec![0.0; time * time], vec![0.0; time * time]);
    for input in 0..time {
        match input + 2 {
            same if same == time => kept[input * time + input] = 1.0,
            _ => {
                let from = input.min(time - 2);
                changed[from * time + input] = -1.0;
                changed[(from + 1) * time + input] = 1.0;
            }
        }
    }
    (kept, changed)
}

/// Averages features over the places where `o[t+1]` differs from `o[t]`, each weighing as much as the squared change there.
///
/// # Shapes
/// - `maps`: `[batch, channels, rows, columns]`
/// - output: `[batch, channels]`
pub fn where_moved<B: NetBackend>(maps: Tensor<B, 4>, windows: &Windows<B>) -> Tensor<B, 2> {
    let [batch, channels, rows, columns] = maps.dims();
    let change = windows.next() - windows.last();
    let [_, colours, height, width] = change.dims();
    let squared =
        (change.clone() * change).reshape([batch, colours * rows, height / rows, width]).sum_dim(2);
    let squared = squared.reshape([batch * colours * rows, columns, width / columns]).sum_dim(2);
    let weight = squared.reshape([batch, colours, rows * columns]).sum_dim(1);
    let weight = weight.clone() / (weight.sum_dim(2) + 1e-6);
    let maps = maps.reshape([batch, channels, rows * columns]);
    let weight = like(&maps, weight);
    maps.matmul(weight.swap_dims(1, 2)).reshape([batch, channels])
}

#[cfg(test)]
mod tests {
    use super::*;

    /// With two frames of context: changes, changes, `o[t]`, changes.
    #[test]
    fn inputs_are_changes_but_for_the_last_frame_known() {
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
