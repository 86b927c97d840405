//! Batch normalisation with the batch's own statistics, forward and backward.
//!
//! In and out: dense slices `[batch, channel, pixels]`. Start at [`forward`]. Sums are taken
//! image by image, in f32 within one and in f64 across, always in the same order.

use rayon::prelude::*;

use super::buffer::zeros;

/// Running sums a plane is added up in; what is added to which depends on the shape alone.
const PARTS: usize = 16;

/// Normalised values, and each channel's mean and (biased) variance.
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
        let (mean, bias) = (mean[channel], bias[channel]);
        out.iter_mut().zip(x).for_each(|(out, v)| *out = (v - mean) * scale + bias);
    });
    (out, mean, variance)
}

/// The gradients of the input, the weight and the bias, given the output's.
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
        let (mean, scale) = (mean[channel], weight[channel] * deviation);
        let level = (f64::from(db[channel]) / count) as f32;
        let slope = (f64::from(dw[channel]) / count) as f32 * deviation;
        for (dx, (g, x)) in dx.iter_mut().zip(g.iter().zip(x)) {
            *dx = scale * (g - level - (x - mean) * slope);
        }
    });
    (dx, dw, db)
}

fn inverse_deviation(variance: f32, epsilon: f64) -> f32 {
    (1.0 / (f64::from(variance) + epsilon).sqrt()) as f32
}

/// The sum of what `f` makes of each value.
pub(super) fn sum(x: &[f32], f: impl Fn(f32) -> f32) -> f32 {
    let mut parts = [0.0; PARTS];
    let (chunks, rest) = x.as_chunks::<PARTS>();
    for chunk in chunks {
        parts.iter_mut().zip(chunk).for_each(|(part, v)| *part += f(*v));
    }
    parts.iter().sum::<f32>() + rest.iter().map(|v| f(*v)).sum::<f32>()
}

/// The sum of `g` times what `f` makes of `x`.
pub(super) fn dot(g: &[f32], x: &[f32], f: impl Fn(f32) -> f32) -> f32 {
    let mut parts = [0.0; PARTS];
    let ((g, g_rest), (x, x_rest)) = (g.as_chunks::<PARTS>(), x.as_chunks::<PARTS>());
    for (g, x) in g.iter().zip(x) {
        parts.iter_mut().zip(g.iter().zip(x)).for_each(|(part, (g, x))| *part += g * f(*x));
    }
    let rest = g_rest.iter().zip(x_rest).map(|(g, x)| g * f(*x));
    parts.iter().sum::<f32>() + rest.sum::<f32>()
}
