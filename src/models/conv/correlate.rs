//! The inner loops of a convolution's gradients of weight and bias; see [`convolve`](super::convolve). Start at [`Correlate`].

use macerator::{Simd, Vector, WithSimd};

use super::plane::TILE;
use super::simd::{load, splat};

/// Output channels a tile of gradients holds.
const OUTPUTS: usize = 4;
/// Positions of a line that [`Correlate`] goes through before it turns to other channels, about.
const BLOCK: usize = 20 * TILE;
/// Registers of one line that [`Correlate`] takes in one step; `UNROLL` of them divide [`TILE`].
const UNROLL: usize = 3;

/// Adds up the weights' gradient: `sums[o][c][ky][kx] += sum over p of
/// gradient[o][p] * input[c][p + ky * row + kx]`.
pub(super) struct Correlate<'a> {
    /// `[output channel, line]`, its first position first.
    pub gradient: &'a [f32],
    /// Values in a gradient line.
    pub gradient_line: usize,
    /// `[channel, line]`
    pub input: &'a [f32],
    /// Values in an input line.
    pub line: usize,
    /// `[output channel, channel, kernel, kernel]`
    pub sums: &'a mut [f32],
    /// Positions, a multiple of [`TILE`].
    pub positions: usize,
    /// Positions from one row to the next.
    pub row: usize,
    /// Rows and columns of the kernel: 1, 2 or 3.
    pub kernel: usize,
}

impl WithSimd for Correlate<'_> {
    type Output = ();

    #[inline(always)]
    fn with_simd<S: Simd>(self) {
        // Kernel columns times input channels of a tile: what the registers hold.
        match (self.kernel, S::lanes32() >= 16) {
            (1, true) => self.run::<S, 1, 6>(),
            (2, true) => self.run::<S, 2, 3>(),
            (3, true) => self.run::<S, 3, 2>(),
            (1, false) => self.run::<S, 1, 2>(),
            (2, false) => self.run::<S, 2, 1>(),
            (3, false) => self.run::<S, 3, 1>(),
            (kernel, _) => unreachable!("no inner loop for a kernel of {kernel}"),
        }
    }
}

impl Correlate<'_> {
    #[inline(always)]
    fn run<S: Simd, const K: usize, const C: usize>(self) {
        let channels = self.input.len() / self.line;
        let outputs = self.sums.len() / (channels * K * K);
        let block = (self.positions / self.positions.div_ceil(BLOCK)).next_multiple_of(TILE);
        for start in (0..self.positions).step_by(block) {
            let steps = start..self.positions.min(start + block);
            for o in (0..outputs).step_by(OUTPUTS) {
                for c in (0..channels).step_by(C) {
                    for ky in 0..K {
                        // Past the last channel a tile repeats it and drops the result.
                        let rows: [_; OUTPUTS] =
                            std::array::from_fn(|i| (o + i).min(outputs - 1) * self.gradient_line);
                        let lines: [_; C] = std::array::from_fn(|i| {
                            (c + i).min(channels - 1) * self.line + ky * self.row
                        });
                        let tile = self.tile::<S, K, C>(rows, lines, steps.clone());
                        for (i, tile) in tile.iter().enumerate().take(outputs - o) {
                            for (j, tile) in tile.iter().enumerate().take(channels - c) {
                                let at = (((o + i) * channels + c + j) * K + ky) * K;
                                for (sum, part) in self.sums[at..at + K].iter_mut().zip(tile) {
                                    *sum += part.reduce_add();
                                }
                            }
                        }
                    }
                }
            }
        }
    }

    #[inline(always)]
    fn tile<S: Simd, const K: usize, const C: usize>(
        &self,
        rows: [usize; OUTPUTS],
        lines: [usize; C],
        steps: std::ops::Range<usize>,
    ) -> [[[Vector<S, f32>; K]; C]; OUTPUTS] {
        let lanes = S::lanes32();
        let mut sums = [[[splat::<S>(0.0); K]; C]; OUTPUTS];
        for at in steps.step_by(UNROLL * lanes) {
            // One bounds check a channel for UNROLL registers.
            let gradients: [_; OUTPUTS] =
                std::array::from_fn(|o| &self.gradient[rows[o] + at..][..UNROLL * lanes]);
            let inputs: [_; C] =
                std::array::from_fn(|c| &self.input[lines[c] + at..][..UNROLL * lanes + K - 1]);
            for u in 0..UNROLL {
                let mut gradient = [splat::<S>(0.0); OUTPUTS];
                for (gradient, from) in gradient.iter_mut().zip(gradients) {
                    *gradient = load::<S>(&from[u * lanes..]);
                }
                for (c, input) in inputs.iter().enumerate() {
                    for kx in 0..K {
                        let input = load::<S>(&input[u * lanes + kx..]);
                        for (sums, gradient) in sums.iter_mut().zip(gradient) {
                            sums[c][kx] = gradient.mul_add(input, sums[c][kx]);
                        }
                    }
                }
            }
        }
        sums
    }
}

/// Adds up each line: the bias's gradient.
pub(super) struct SumLines<'a> {
    /// `[output channel, line]`
    pub lines: &'a [f32],
    /// Values in a line.
    pub line: usize,
    /// `[output channel]`, added to.
    pub sums: &'a mut [f32],
}

impl WithSimd for SumLines<'_> {
    type Output = ();

    #[inline(always)]
    fn with_simd<S: Simd>(self) {
        let lanes = S::lanes32();
        for (sum, line) in self.sums.iter_mut().zip(self.lines.chunks_exact(self.line)) {
            let mut parts = [splat::<S>(0.0); 4];
            let mut chunks = line.chunks_exact(4 * lanes);
            for chunk in &mut chunks {
                for (v, part) in parts.iter_mut().enumerate() {
                    *part += load::<S>(&chunk[v * lanes..]);
                }
            }
            let [a, b, c, d] = parts;
            *sum += ((a + b) + (c + d)).reduce_add() + chunks.remainder().iter().sum::<f32>();
        }
    }
}
