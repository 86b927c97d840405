//! SIMD registers: their width, loads and stores.

use macerator::{Arch, Simd, Vector, WithSimd};

/// Returns the number of f32 values in a register of this processor.
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

/// Returns a register filled with `value`.
#[inline(always)]
pub(super) fn splat<S: Simd>(value: f32) -> Vector<S, f32> {
    macerator::Scalar::splat(value)
}

/// Loads a register from the first values of `from`. The address may be unaligned.
#[inline(always)]
pub(super) fn load<S: Simd>(from: &[f32]) -> Vector<S, f32> {
    bytemuck::pod_read_unaligned(bytemuck::cast_slice(&from[..S::lanes32()]))
}

/// Stores a register into `to`, whose length must be the number of lanes.
#[inline(always)]
pub(super) fn store<S: Simd>(value: Vector<S, f32>, to: &mut [f32]) {
    bytemuck::cast_slice_mut(to).copy_from_slice(bytemuck::bytes_of(&value));
}
