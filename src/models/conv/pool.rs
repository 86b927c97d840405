//! Max pooling of a batch, forward and backward.
//!
//! Input is contiguous planes `[batch * channel, height, width]`. Output is the maxima and, for
//! each, its index within the window, which the backward pass needs. Start at [`Pool`].

use macerator::{Arch, Simd, WithSimd};
use rayon::prelude::*;

use super::buffer::zeros;

/// Row number of pixels in the border: greater than all others.
const BORDER: u32 = 1 << 16;

/// A square pooling window.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Pool {
    /// Rows and columns of a window.
    pub kernel: usize,
    /// Distance between two windows.
    pub stride: usize,
    /// Width of the border around the image. A border pixel never is the maximum.
    pub padding: usize,
}

impl Pool {
    /// Returns the size of the pooled image.
    pub fn output(&self, [height, width]: [usize; 2]) -> [usize; 2] {
        [height, width].map(|size| (size + 2 * self.padding - self.kernel) / self.stride + 1)
    }

    /// Returns whether every window overlaps the image and its indices fit in a byte.
    pub(super) fn fits(&self, [height, width]: [usize; 2]) -> bool {
        height.min(width) + 2 * self.padding >= self.kernel
            && 2 * self.padding <= self.kernel
            && self.kernel <= 15
    }

    /// Returns the maxima and their indices within the windows. Ties go to the first pixel, as
    /// in PyTorch.
    pub(super) fn forward(&self, x: &[f32], size: [usize; 2]) -> (Vec<f32>, Vec<u8>) {
        let [height, width] = self.output(size);
        let plane = size[0] * size[1];
        let mut maxima = zeros(x.len() / plane * height * width);
        let mut indices = vec![0; maxima.len()];
        maxima
            .par_chunks_mut(height * width)
            .zip(indices.par_chunks_mut(height * width))
            .zip(x.par_chunks(plane))
            .for_each_init(Scratch::default, |scratch, ((maxima, indices), x)| {
                Arch::new().dispatch(PoolPlane { pool: *self, x, size, maxima, indices, scratch });
            });
        (maxima, indices)
    }

    /// Returns the gradient of the input: the gradient of each maximum goes to its pixel.
    pub(super) fn backward(&self, gradient: &[f32], indices: &[u8], size: [usize; 2]) -> Vec<f32> {
        let [height, width] = self.output(size);
        let [rows, columns] = size;
        let planes = gradient.len() / (height * width);
        // Offsets from the corner of a window to its pixels. The corner may lie in the border.
        let offsets: Vec<usize> = (0..self.kernel * self.kernel)
            .map(|index| index / self.kernel * columns + index % self.kernel)
            .collect();
        let border = self.padding * columns + self.padding;
        let mut dx = zeros(planes * rows * columns);
        dx.par_chunks_mut(rows * columns)
            .zip(gradient.par_chunks(height * width))
            .zip(indices.par_chunks(height * width))
            .for_each(|((dx, gradient), indices)| {
                let windows = gradient.chunks(width).zip(indices.chunks(width));
                for (y, (gradient, indices)) in windows.enumerate() {
                    for (x, (g, index)) in gradient.iter().zip(indices).enumerate() {
                        let corner = y * self.stride * columns + x * self.stride;
                        dx[corner + offsets[*index as usize] - border] += g;
                    }
                }
            });
        dx
    }
}

/// Pools one plane without indices, for inference.
pub(super) struct Maxima<'a> {
    pub pool: Pool,
    /// Starts at the first pixel of the plane.
    pub x: &'a [f32],
    /// Distance between two rows of `x`.
    pub row: usize,
    /// Height and width of the plane.
    pub size: [usize; 2],
    /// Overwritten, except for the gaps between its rows.
    pub maxima: &'a mut [f32],
    /// Distance between two rows of `maxima`.
    pub to_row: usize,
}

impl WithSimd for Maxima<'_> {
    type Output = ();

    #[inline(always)]
    fn with_simd<S: Simd>(self) {
        let Maxima { pool, x, row, size: [height, width], maxima, to_row } = self;
        let mut column = vec![f32::NEG_INFINITY; width + 2 * pool.padding];
        let count = column.len() + 1 - pool.kernel;
        let mut best = vec![0.0; count.next_multiple_of(2)];
        for (y, maxima) in maxima.chunks_exact_mut(to_row).enumerate() {
            let top = y * pool.stride;
            let rows =
                top.saturating_sub(pool.padding)..(top + pool.kernel - pool.padding).min(height);
            let inner = &mut column[pool.padding..][..width];
            inner.fill(f32::NEG_INFINITY);
            // 1. The maximum of each column of the window. Border columns stay -inf.
            for y in rows {
                for (best, x) in inner.iter_mut().zip(&x[y * row..][..width]) {
                    *best = larger(*x, *best);
                }
            }
            best[..count].copy_from_slice(&column[..count]);
            // 2. The maximum of neighbouring columns, for a window at every column.
            for kx in 1..pool.kernel {
                for (best, x) in best.iter_mut().zip(&column[kx..]) {
                    *best = larger(*x, *best);
                }
            }
            // 3. Only the windows that the stride selects.
            if pool.stride == 2 {
                // Pairs compile to shuffles; `step_by` does not.
                for (maximum, pair) in maxima.iter_mut().zip(best.chunks_exact(2)) {
                    *maximum = pair[0];
                }
            } else {
                for (maximum, best) in maxima.iter_mut().zip(best.iter().step_by(pool.stride)) {
                    *maximum = *best;
                }
            }
        }
    }
}

/// Returns the larger number; NaN wins.
#[inline(always)]
fn larger(x: f32, best: f32) -> f32 {
    if (x > best) | x.is_nan() { x } else { best }
}

/// Pools one plane with indices. A struct, so that it compiles for the widest registers of the
/// processor.
struct PoolPlane<'a> {
    pool: Pool,
    x: &'a [f32],
    size: [usize; 2],
    maxima: &'a mut [f32],
    indices: &'a mut [u8],
    scratch: &'a mut Scratch,
}

/// Buffers for one row of windows: the maximum of each column and its row, then the maximum of each
/// window and its index.
#[derive(Default)]
struct Scratch {
    column: Vec<f32>,
    row: Vec<u32>,
    best: Vec<f32>,
    index: Vec<u32>,
}

impl WithSimd for PoolPlane<'_> {
    type Output = ();

    #[inline(always)]
    fn with_simd<S: Simd>(self) {
        let PoolPlane { pool, x, size, maxima, indices, scratch } = self;
        let [_, width] = pool.output(size);
        for (y, (maxima, indices)) in
            maxima.chunks_exact_mut(width).zip(indices.chunks_exact_mut(width)).enumerate()
        {
            scratch.columns(pool, x, size, y * pool.stride);
            scratch.windows(pool.kernel);
            let found = scratch.best.iter().zip(&scratch.index).step_by(pool.stride);
            for ((maximum, index), (best, at)) in maxima.iter_mut().zip(indices).zip(found) {
                *maximum = *best;
                *index = *at as u8;
            }
        }
    }
}

impl Scratch {
    /// Computes the maximum of each column for the windows whose first row is `top`, counted with
    /// the border.
    #[inline(always)]
    fn columns(&mut self, pool: Pool, x: &[f32], [height, width]: [usize; 2], top: usize) {
        let first = pool.padding.saturating_sub(top);
        let last = pool.kernel.min(height + pool.padding - top);
        self.column.clear();
        self.column.resize(width + 2 * pool.padding, f32::NEG_INFINITY);
        self.row.clear();
        self.row.resize(width + 2 * pool.padding, BORDER);
        let column = &mut self.column[pool.padding..][..width];
        let row = &mut self.row[pool.padding..][..width];
        for ky in first..last {
            let x = &x[(top + ky - pool.padding) * width..][..width];
            for ((column, row), &x) in column.iter_mut().zip(row.iter_mut()).zip(x) {
                // No branches, so that it vectorises. The first pixel replaces the border, even if
                // it is -inf.
                let better = (x > *column) | x.is_nan() | (*row == BORDER);
                *column = if better { x } else { *column };
                *row = if better { ky as u32 } else { *row };
            }
        }
    }

    /// Computes the maximum of each window, for a window at every column.
    #[inline(always)]
    fn windows(&mut self, kernel: usize) {
        let count = self.column.len() + 1 - kernel;
        self.best.clear();
        self.best.extend_from_slice(&self.column[..count]);
        self.index.clear();
        self.index.extend(self.row[..count].iter().map(|row| row * kernel as u32));
        for kx in 1..kernel {
            let column = &self.column[kx..][..count];
            let row = &self.row[kx..][..count];
            let best = self.best.iter_mut().zip(&mut self.index);
            for ((best, index), (&column, &row)) in best.zip(column.iter().zip(row)) {
                // A later column may tie in an upper row, hence at a smaller index: it wins.
                let at = row * kernel as u32 + kx as u32;
                let better =
                    (column > *best) | column.is_nan() | ((column == *best) & (at < *index));
                *best = if better { column } else { *best };
                *index = if better { at } else { *index };
            }
        }
    }
}
