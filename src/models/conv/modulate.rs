//! Scales and shifts the channels of each image (FiLM, Perez et al., 2018), forward and backward.
//!
//! Inputs and outputs are contiguous slices: `x`, outputs and their gradients
//! `[batch, channel, pixels]`, `by` `[batch, 2 * channel]` with the scales first. burn broadcasts
//! value by value on one core, which would take most of a training step.

use rayon::prelude::*;

use super::buffer::zeros;
use super::norm::{dot, sum};

/// Computes `x * (1 + scale) + shift`.
///
/// # Shapes
/// - `x` and output: `[batch, channel, pixels]`
/// - `by`: `[batch, 2 * channel]`
pub(super) fn forward(x: &[f32], by: &[f32], channels: usize, pixels: usize) -> Vec<f32> {
    let mut out = zeros(x.len());
    out.par_chunks_mut(pixels).zip(x.par_chunks(pixels)).enumerate().for_each(
        |(plane, (out, x))| {
            let scale = 1.0 + by[scale_index(plane, channels)];
            let shift = by[scale_index(plane, channels) + channels];
            for (out, x) in out.iter_mut().zip(x) {
                *out = x * scale + shift;
            }
        },
    );
    out
}

/// Returns the gradients of `x` and `by` for the gradient of the output.
pub(super) fn backward(
    x: &[f32],
    by: &[f32],
    gradient: &[f32],
    channels: usize,
    pixels: usize,
) -> (Vec<f32>, Vec<f32>) {
    let mut dx = zeros(x.len());
    let planes = dx
        .par_chunks_mut(pixels)
        .zip(gradient.par_chunks(pixels))
        .zip(x.par_chunks(pixels))
        .enumerate();
    let sums = planes.map(|(plane, ((dx, gradient), x))| {
        let scale = 1.0 + by[scale_index(plane, channels)];
        for (dx, gradient) in dx.iter_mut().zip(gradient) {
            *dx = gradient * scale;
        }
        [dot(gradient, x, |x| x), sum(gradient, |gradient| gradient)]
    });
    let sums: Vec<[f32; 2]> = sums.collect();
    let images = sums.chunks(channels);
    // Per image: the gradients of all scales, then those of all shifts.
    let by = images
        .flat_map(|image| image.iter().map(|sums| sums[0]).chain(image.iter().map(|sums| sums[1])));
    (dx, by.collect())
}

/// Returns the index of the scale of a plane in `by`.
fn scale_index(plane: usize, channels: usize) -> usize {
    plane / channels * 2 * channels + plane % channels
}
