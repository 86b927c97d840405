//! Channels scaled and shifted image by image (FiLM, Perez et al., 2018), forward and backward.
//!
//! In and out: dense slices; `x`, outputs and their gradients `[batch, channel, pixels]`, `by` `[batch, 2 * channel]`, its scales first.
//! burn broadcasts value by value, on one core: most of a training step, were it not for this.

use rayon::prelude::*;

use super::buffer::zeros;
use super::norm::{dot, sum};

/// `x * (1 + scale) + shift`.
pub(super) fn forward(x: &[f32], by: &[f32], channels: usize, pixels: usize) -> Vec<f32> {
    let mut out = zeros(x.len());
    out.par_chunks_mut(pixels).zip(x.par_chunks(pixels)).enumerate().for_each(
        |(plane, (out, x))| {
            let (scale, shift) =
                (1.0 + by[place(plane, channels)], by[place(plane, channels) + channels]);
            out.iter_mut().zip(x).for_each(|(out, x)| *out = x * scale + shift);
        },
    );
    out
}

/// The gradients of `x` and `by`, given the output's.
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
        let scale = 1.0 + by[place(plane, channels)];
        dx.iter_mut().zip(gradient).for_each(|(dx, gradient)| *dx = gradient * scale);
        [dot(gradient, x, |x| x), sum(gradient, |gradient| gradient)]
    });
    let sums: Vec<[f32; 2]> = sums.collect();
    let images = sums.chunks(channels);
    let by = images
        .flat_map(|image| image.iter().map(|sums| sums[0]).chain(image.iter().map(|sums| sums[1])));
    (dx, by.collect())
}

/// Where in `by` a plane's scale is.
fn place(plane: usize, channels: usize) -> usize {
    plane / channels * 2 * channels + plane % channels
}
