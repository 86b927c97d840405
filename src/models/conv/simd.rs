//! Registers: how many values they hold, and values in and out of them.

use macerator::{Arch, Simd, Vector, WithSimd};

/// Values of a register of this processor.
pub(super) fn lanes() -> usize {
    Arch::new().dispatch(Lanes)
}

struct Lanes;

impl WithSimd for Lanes {
    type Output = usize;

    #[inline(always)]
    fn with_simd<S: Simd>(self) -> usize {
        S::lanes32()
    }
}

/// A register of one value.
#[inline(always)]
pub(super) fn splat<S: Simd>(value: f32) -> Vector<S, f32> {
    macerator::Scalar::splat(value)
}

/// Loads the first lanes of `from`.
#[inline(always)]
pub(super) fn load<S: Simd>(from: &[f32]) -> Vector<S, f32> {
    bytemuck::pod_read_unaligned(bytemuck::cast_slice(&from[..S::lanes32()]))
}

/// Stores into `to`, which has as many values as there are lanes.
#[inline(always)]
pub(super) fn store<S: Simd>(value: Vector<S, f32>, to: &mut [f32]) {
    bytemuck::cast_slice_mut(to).copy_from_slice(bytemuck::bytes_of(&value));
}
