//! Batch normalisation by the statistics of the batch, forward and backward.
//!
//! Inputs and outputs are contiguous slices `[batch, channel, pixels]`. Start at [`forward`]. Sums
//! use f32 within an image and f64 across images, always in the same order.

use rayon::prelude::*;

use super::buffer::zeros;

/// Number of running sums per plane. The shape alone decides which value goes to which sum.
const PARTS: usize = 16;

/// Returns the normalised values, and the mean and biased variance of each channel.
///
/// # Shapes
/// - `x` and output: `[batch, channel, pixels]`
/// - `weight`, `bias`, mean and variance: `[channel]`
pub(super) fn forward(
    x: &[f32],
    weight: &[f32],
    bias: &[f32],
    pixels: usize,
    epsilon: f64,
) -> (Vec<f32>, Vec<f32>, Vec<f32>) {
    let channels = weight.len();
    let planes = |channel| x.chunks(pixels).skip(channel).step_by(channels);
    let count = (x.len() / channels) as f64;
    let (mean, variance): (Vec<_>, Vec<_>) = (0..channels)
        .into_par_iter()
        .map(|channel| {
            let mean = planes(channel).map(|x| f64::from(sum(x, |v| v))).sum::<f64>() / count;
            let from = mean as f32;
            // Squares are taken around the mean: a difference of large sums would lose digits.
            let square = |v: f32| (v - from) * (v - from);
            let squares = planes(channel).map(|x| f64::from(sum(x, square))).sum::<f64>();
            (from, (squares / count) as f32)
        })
        .unzip();
    let mut out = zeros(x.len());
    let planes = out.par_chunks_mut(pixels).zip(x.par_chunks(pixels)).enumerate();
    planes.for_each(|(i, (out, x))| {
        let channel = i % channels;
        let scale = weight[channel] * inverse_deviation(variance[channel], epsilon);
        let mean = mean[channel];
        let bias = bias[channel];
        for (out, v) in out.iter_mut().zip(x) {
            *out = (v - mean) * scale + bias;
        }
    });
    (out, mean, variance)
}

/// Returns the gradients of input, weight and bias for the gradient of the output.
///
/// # Shapes
/// - `x` and `gradient`: `[batch, channel, pixels]`
/// - `weight`, `mean` and `variance`: `[channel]`
pub(super) fn backward(
    x: &[f32],
    weight: &[f32],
    [mean, variance]: [&[f32]; 2],
    gradient: &[f32],
    pixels: usize,
    epsilon: f64,
) -> (Vec<f32>, Vec<f32>, Vec<f32>) {
    let channels = weight.len();
    let count = (x.len() / channels) as f64;
    let planes = |channel| {
        let planes = gradient.chunks(pixels).zip(x.chunks(pixels));
        planes.skip(channel).step_by(channels)
    };
    let (dw, db): (Vec<_>, Vec<_>) = (0..channels)
        .into_par_iter()
        .map(|channel| {
            let from = mean[channel];
            let along = planes(channel).map(|(g, x)| f64::from(dot(g, x, |v| v - from)));
            let bias = planes(channel).map(|(g, _)| f64::from(sum(g, |v| v)));
            let deviation = f64::from(inverse_deviation(variance[channel], epsilon));
            ((along.sum::<f64>() * deviation) as f32, bias.sum::<f64>() as f32)
        })
        .unzip();
    let mut dx = zeros(x.len());
    let planes = dx.par_chunks_mut(pixels).zip(x.par_chunks(pixels));
    planes.zip(gradient.par_chunks(pixels)).enumerate().for_each(|(i, ((dx, x), g))| {
        let channel = i % channels;
        let deviation = inverse_deviation(variance[channel], epsilon);
        let mean = mean[channel];
        let scale = weight[channel] * deviation;
        // The mean and the variance depend on every input, which adds these two terms.
        let level = (f64::from(db[channel]) / count) as f32;
        let slope = (f64::from(dw[channel]) / count) as f32 * deviation;
        for (dx, (g, x)) in dx.iter_mut().zip(g.iter().zip(x)) {
            *dx = scale * (g - level - (x - mean) * slope);
        }
    });
    (dx, dw, db)
}

/// Returns 1 / sqrt(variance + epsilon).
fn inverse_deviation(variance: f32, epsilon: f64) -> f32 {
    (1.0 / (f64::from(variance) + epsilon).sqrt()) as f32
}

/// Returns the sum of `f` over all values.
pub(super) fn sum(x: &[f32], f: impl Fn(f32) -> f32) -> f32 {
    let mut parts = [0.0; PARTS];
    // Independent sums, so that the loop vectorises.
    let (chunks, rest) = x.as_chunks::<PARTS>();
    for chunk in chunks {
        for (part, v) in parts.iter_mut().zip(chunk) {
            *part += f(*v);
        }
    }
    parts.iter().sum::<f32>() + rest.iter().map(|v| f(*v)).sum::<f32>()
}

/// Returns the sum of `g * f(x)` over all values.
pub(super) fn dot(g: &[f32], x: &[f32], f: impl Fn(f32) -> f32) -> f32 {
    let mut parts = [0.0; PARTS];
    let (g, g_rest) = g.as_chunks::<PARTS>();
    let (x, x_rest) = x.as_chunks::<PARTS>();
    for (g, x) in g.iter().zip(x) {
        for (part, (g, x)) in parts.iter_mut().zip(g.iter().zip(x)) {
            *part += g * f(*x);
        }
    }
    let rest = g_rest.iter().zip(x_rest).map(|(g, x)| g * f(*x));
    parts.iter().sum::<f32>() + rest.sum::<f32>()
}
