//! The hyperbolic tangent of many values: a quotient of two polynomials, which SIMD can do.
//!
//! In and out: slices. Start at [`forward`].

use rayon::prelude::*;

use super::buffer::zeros;

/// Values a thread takes at a time.
const CHUNK: usize = 1 << 14;
/// Beyond, the tangent rounds to one in f32.
const LIMIT: f32 = 7.905_311;
/// Coefficients of `x`, `x^3`, ... over those of `1`, `x^2`, ... (Eigen's rational
/// approximation): right to a few units in the last place.
const ABOVE: [f32; 7] = [
    4.893_525e-3,
    6.372_619_3e-4,
    1.485_722_4e-5,
    5.122_297_1e-8,
    -8.604_672e-11,
    2.000_188e-13,
    -2.760_768_5e-16,
];
const BELOW: [f32; 4] = [4.893_525e-3, 2.268_434_6e-3, 1.185_347_1e-4, 1.198_258_4e-6];

/// `tanh(x)`.
pub(super) fn forward(x: &[f32]) -> Vec<f32> {
    let mut out = zeros(x.len());
    out.par_chunks_mut(CHUNK).zip(x.par_chunks(CHUNK)).for_each(|(out, x)| {
        out.iter_mut().zip(x).for_each(|(out, x)| *out = tanh(*x));
    });
    out
}

/// The gradient of `x`, given `out = tanh(x)` and its gradient.
pub(super) fn backward(out: &[f32], gradient: &[f32]) -> Vec<f32> {
    let mut dx = zeros(out.len());
    let chunks = dx.par_chunks_mut(CHUNK).zip(out.par_chunks(CHUNK));
    chunks.zip(gradient.par_chunks(CHUNK)).for_each(|((dx, out), g)| {
        let values = out.iter().zip(g);
        dx.iter_mut().zip(values).for_each(|(dx, (out, g))| *dx = (1.0 - out * out) * g);
    });
    dx
}

fn tanh(x: f32) -> f32 {
    let x = x.clamp(-LIMIT, LIMIT);
    let square = x * x;
    let horner =
        |coefficients: &[f32]| coefficients.iter().rev().fold(0.0, |sum, c| sum * square + c);
    x * horner(&ABOVE) / horner(&BELOW)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn is_right_to_a_few_units_in_the_last_place() {
        for i in -100_000..=100_000 {
            let x = i as f32 * 1e-4;
            let want = f64::from(x).tanh();
            let error = (f64::from(tanh(x)) - want).abs();
            assert!(error <= 5e-7 * want.abs(), "tanh({x}) is off by {error}");
        }
        assert!(tanh(f32::NAN).is_nan());
    }
}
