//! Allocates outputs and the buffers of threads.

use rayon::prelude::*;

/// Below this number of values, one core finishes before another one wakes up.
const PARALLEL: usize = 1 << 17;
/// Values written at a time.
const PART: usize = 64;

/// Returns `len` zeros, written by all cores. One core alone would spend 5% of a training step on
/// this.
pub(super) fn zeros(len: usize) -> Vec<f32> {
    if len < PARALLEL {
        return vec![0.0; len];
    }
    let parts =
        rayon::iter::repeat_n([0f32; PART], len.div_ceil(PART)).with_min_len(PARALLEL / PART / 2);
    // Pages are mapped where they are first written: here, on all cores.
    let mut zeros: Vec<f32> = bytemuck::cast_vec(parts.collect::<Vec<_>>());
    zeros.truncate(len);
    zeros
}

/// Returns the first `len` values of a buffer, which grows if needed. Old values remain.
pub(super) fn sized(buffer: &mut Vec<f32>, len: usize) -> &mut [f32] {
    if buffer.len() < len {
        buffer.resize(len, 0.0);
    }
    &mut buffer[..len]
}
