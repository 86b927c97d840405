//! The hyperbolic tangent of many values, as a quotient of two polynomials, which SIMD can compute.
//!
//! Inputs and outputs are slices. Start at [`forward`].

use rayon::prelude::*;

use super::buffer::zeros;

/// Values per task of a thread.
const CHUNK: usize = 1 << 14;
/// From here on, the tangent rounds to one in f32.
const LIMIT: f32 = 7.905_311;
/// Coefficients of `x`, `x^3`, ... in the numerator and of `1`, `x^2`, ... in the denominator
/// (Eigen's rational approximation). The result is accurate to a few units in the last place.
const NUMERATOR: [f32; 7] = [
    4.893_525e-3,
    6.372_619_3e-4,
    1.485_722_4e-5,
    5.122_297_1e-8,
    -8.604_672e-11,
    2.000_188e-13,
    -2.760_768_5e-16,
];
const DENOMINATOR: [f32; 4] = [4.893_525e-3, 2.268_434_6e-3, 1.185_347_1e-4, 1.198_258_4e-6];

/// Computes `tanh(x)` elementwise.
pub(super) fn forward(x: &[f32]) -> Vec<f32> {
    let mut out = zeros(x.len());
    out.par_chunks_mut(CHUNK).zip(x.par_chunks(CHUNK)).for_each(|(out, x)| {
        for (out, x) in out.iter_mut().zip(x) {
            *out = tanh(*x);
        }
    });
    out
}

/// Returns the gradient of `x` from `out = tanh(x)` and the gradient of `out`.
pub(super) fn backward(out: &[f32], gradient: &[f32]) -> Vec<f32> {
    let mut dx = zeros(out.len());
    let chunks = dx.par_chunks_mut(CHUNK).zip(out.par_chunks(CHUNK));
    chunks.zip(gradient.par_chunks(CHUNK)).for_each(|((dx, out), g)| {
        for (dx, (out, g)) in dx.iter_mut().zip(out.iter().zip(g)) {
            *dx = (1.0 - out * out) * g;
        }
    });
    dx
}

fn tanh(x: f32) -> f32 {
    let x = x.clamp(-LIMIT, LIMIT);
    let square = x * x;
    // Horner's scheme, from the highest power down.
    let horner =
        |coefficients: &[f32]| coefficients.iter().rev().fold(0.0, |sum, c| sum * square + c);
    x * horner(&NUMERATOR) / horner(&DENOMINATOR)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn tanh_is_accurate_to_a_few_units_in_the_last_place() {
        for i in -100_000..=100_000 {
            let x = i as f32 * 1e-4;
            let want = f64::from(x).tanh();
            let error = (f64::from(tanh(x)) - want).abs();
            assert!(error <= 5e-7 * want.abs(), "tanh({x}) is off by {error}");
        }
        assert!(tanh(f32::NAN).is_nan());
    }
}
