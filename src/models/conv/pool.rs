//! Max pooling of a batch, forward and backward.
//!
//! In: dense planes `[batch * channel, height, width]`. Out: the maxima, and for each the number
//! of its pixel in the window, which the way back follows. Start at [`Pool`].

use macerator::{Arch, Simd, WithSimd};
use rayon::prelude::*;

use super::buffer::zeros;

/// The row of a pixel that is none: after all others.
const BORDER: u32 = 1 << 16;

/// A square pooling window.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Pool {
    /// Rows and columns of a window.
    pub kernel: usize,
    /// Step from one window to the next.
    pub stride: usize,
    /// Border around the image that never is the maximum.
    pub padding: usize,
}

impl Pool {
    /// The size of what is left of an image.
    pub fn output(&self, [height, width]: [usize; 2]) -> [usize; 2] {
        [height, width].map(|size| (size + 2 * self.padding - self.kernel) / self.stride + 1)
    }

    /// Whether every window has at least one pixel of the image, and few enough to be counted in a byte.
    pub(super) fn fits(&self, [height, width]: [usize; 2]) -> bool {
        height.min(width) + 2 * self.padding >= self.kernel
            && 2 * self.padding <= self.kernel
            && self.kernel <= 15
    }

    /// Maxima and where in its window each was found; the first of equals, as PyTorch.
    pub(super) fn forward(&self, x: &[f32], size: [usize; 2]) -> (Vec<f32>, Vec<u8>) {
        let [height, width] = self.output(size);
        let plane = size[0] * size[1];
        let mut maxima = zeros(x.len() / plane * height * width);
        let mut places = vec![0; maxima.len()];
        maxima
            .par_chunks_mut(height * width)
            .zip(places.par_chunks_mut(height * width))
            .zip(x.par_chunks(plane))
            .for_each_init(Scratch::default, |scratch, ((maxima, places), x)| {
                Arch::new().dispatch(Plane { pool: *self, x, size, maxima, places, scratch });
            });
        (maxima, places)
    }

    /// The input's gradient: each maximum's goes where the maximum came from.
    pub(super) fn backward(&self, gradient: &[f32], places: &[u8], size: [usize; 2]) -> Vec<f32> {
        let ([height, width], [rows, columns]) = (self.output(size), size);
        let planes = gradient.len() / (height * width);
        // From a window's corner, which may lie in the border, to its pixels.
        let offsets: Vec<usize> = (0..self.kernel * self.kernel)
            .map(|place| place / self.kernel * columns + place % self.kernel)
            .collect();
        let border = self.padding * columns + self.padding;
        let mut dx = zeros(planes * rows * columns);
        dx.par_chunks_mut(rows * columns)
            .zip(gradient.par_chunks(height * width))
            .zip(places.par_chunks(height * width))
            .for_each(|((dx, gradient), places)| {
                let windows = gradient.chunks(width).zip(places.chunks(width));
                for (y, (gradient, places)) in windows.enumerate() {
                    for (x, (g, place)) in gradient.iter().zip(places).enumerate() {
                        let corner = y * self.stride * columns + x * self.stride;
                        dx[corner + offsets[*place as usize] - border] += g;
                    }
                }
            });
        dx
    }
}

/// One plane's maxima without their places: all that inference needs.
pub(super) struct Maxima<'a> {
    pub pool: Pool,
    /// Starts with the plane's first pixel.
    pub x: &'a [f32],
    /// Values from one row of `x` to the next.
    pub row: usize,
    /// The plane's height and width.
    pub size: [usize; 2],
    /// Overwritten, but for what lies between its rows.
    pub maxima: &'a mut [f32],
    /// Values from one row of `maxima` to the next.
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
            for y in rows {
                inner
                    .iter_mut()
                    .zip(&x[y * row..][..width])
                    .for_each(|(best, x)| *best = larger(*x, *best));
            }
            best[..count].copy_from_slice(&column[..count]);
            for kx in 1..pool.kernel {
                best.iter_mut().zip(&column[kx..]).for_each(|(best, x)| *best = larger(*x, *best));
            }
            match pool.stride {
                // Compiles to shuffles, which a step does not.
                2 => maxima
                    .iter_mut()
                    .zip(best.chunks_exact(2))
                    .for_each(|(maximum, pair)| *maximum = pair[0]),
                stride => maxima
                    .iter_mut()
                    .zip(best.iter().step_by(stride))
                    .for_each(|(maximum, best)| *maximum = *best),
            }
        }
    }
}

/// The larger of two numbers, or the one that is not a number.
#[inline(always)]
fn larger(x: f32, best: f32) -> f32 {
    if (x > best) | x.is_nan() { x } else { best }
}

/// One plane's pooling, a struct so that it compiles for the processor's widest registers.
struct Plane<'a> {
    pool: Pool,
    x: &'a [f32],
    size: [usize; 2],
    maxima: &'a mut [f32],
    places: &'a mut [u8],
    scratch: &'a mut Scratch,
}

/// A row of windows' columns: the maximum of each and its row; then each window's and its place.
#[derive(Default)]
struct Scratch {
    column: Vec<f32>,
    row: Vec<u32>,
    best: Vec<f32>,
    place: Vec<u32>,
}

impl WithSimd for Plane<'_> {
    type Output = ();

    #[inline(always)]
    fn with_simd<S: Simd>(self) {
        let Plane { pool, x, size, maxima, places, scratch } = self;
        let [_, width] = pool.output(size);
        for (y, (maxima, places)) in
            maxima.chunks_exact_mut(width).zip(places.chunks_exact_mut(width)).enumerate()
        {
            scratch.columns(pool, x, size, y * pool.stride);
            scratch.windows(pool.kernel);
            let found = scratch.best.iter().zip(&scratch.place).step_by(pool.stride);
            for ((maximum, place), (best, at)) in maxima.iter_mut().zip(places).zip(found) {
                (*maximum, *place) = (*best, *at as u8);
            }
        }
    }
}

impl Scratch {
    /// The maximum of each column of the windows whose first row is `top`, counted with the
    /// border.
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
                let better = (x > *column) | x.is_nan() | (*row == BORDER);
                *column = if better { x } else { *column };
                *row = if better { ky as u32 } else { *row };
            }
        }
    }

    /// The maximum of each window, one starting at every column.
    #[inline(always)]
    fn windows(&mut self, kernel: usize) {
        let count = self.column.len() + 1 - kernel;
        self.best.clear();
        self.best.extend_from_slice(&self.column[..count]);
        self.place.clear();
        self.place.extend(self.row[..count].iter().map(|row| row * kernel as u32));
        for kx in 1..kernel {
            let (column, row) = (&self.column[kx..][..count], &self.row[kx..][..count]);
            let best = self.best.iter_mut().zip(&mut self.place);
            for ((best, place), (&column, &row)) in best.zip(column.iter().zip(row)) {
                let at = row * kernel as u32 + kx as u32;
                let better =
                    (column > *best) | column.is_nan() | ((column == *best) & (at < *place));
                *best = if better { column } else { *best };
                *place = if better { at } else { *place };
            }
        }
    }
}
