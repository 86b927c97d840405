//! Memory for outputs and for what threads keep to themselves.

use rayon::prelude::*;

/// Values that one core is done with before another has woken.
const PARALLEL: usize = 1 << 17;
/// Values written at a time.
const PART: usize = 64;

/// So many zeros, written by all cores: one alone takes a twentieth of a training step for it.
pub(super) fn zeros(len: usize) -> Vec<f32> {
    if len < PARALLEL {
        return vec![0.0; len];
    }
    let parts =
        rayon::iter::repeat_n([0f32; PART], len.div_ceil(PART)).with_min_len(PARALLEL / PART / 2);
    let mut zeros: Vec<f32> = bytemuck::cast_vec(parts.collect::<Vec<_>>());
    zeros.truncate(len);
    zeros
}

/// The first `len` values of a buffer that only grows.
pub(super) fn sized(buffer: &mut Vec<f32>, len: usize) -> &mut [f32] {
    if buffer.len() < len {
        buffer.resize(len, 0.0);
    }
    &mut buffer[..len]
}
