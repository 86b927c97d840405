//! The SIMD kernels for the gradients of weight and bias, on lines; see
//! [`convolve`](super::convolve). Start at [`Correlate`].

use macerator::{Simd, Vector, WithSimd};

use super::plane::TILE;
use super::simd::{load, splat};

/// Output channels per tile of gradients.
const OUTPUTS: usize = 4;
/// Approximate number of positions that [`Correlate`] processes before it moves on to other
/// channels.
const BLOCK: usize = 20 * TILE;
/// Registers of one line per step of [`Correlate`]; `UNROLL` registers divide [`TILE`].
const UNROLL: usize = 3;

/// Adds to the gradient of the weights:
///
/// ```text
/// sums[o][c][ky][kx] += sum over p of gradient[o][p] * input[c][p + ky * row + kx]
/// ```
pub(super) struct Correlate<'a> {
    /// `[output channel, line]`, from the first position on
    pub gradient: &'a [f32],
    /// Values per gradient line.
    pub gradient_line: usize,
    /// `[channel, line]`
    pub input: &'a [f32],
    /// Values per input line.
    pub line: usize,
    /// `[output channel, channel, kernel, kernel]`
    pub sums: &'a mut [f32],
    /// Number of positions, a multiple of [`TILE`].
    pub positions: usize,
    /// Distance between two rows, in positions.
    pub row: usize,
    /// Rows and columns of the kernel: 1, 2 or 3.
    pub kernel: usize,
}

impl WithSimd for Correlate<'_> {
    type Output = ();

    #[inline(always)]
    fn with_simd<S: Simd>(self) {
        // Kernel columns times input channels per tile: as many sums as there are registers.
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
            // A block of positions stays in the cache while all pairs of channels read it.
            let steps = start..self.positions.min(start + block);
            for o in (0..outputs).step_by(OUTPUTS) {
                for c in (0..channels).step_by(C) {
                    for ky in 0..K {
                        // After the last channel a tile repeats it and drops the result.
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
                                    // Lanes are added up once per block of positions.
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
            // One bounds check per channel for UNROLL registers.
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

/// Adds up each line: the gradient of the bias.
pub(super) struct SumLines<'a> {
    /// `[output channel, line]`
    pub lines: &'a [f32],
    /// Values per line.
    pub line: usize,
    /// `[output channel]`, incremented
    pub sums: &'a mut [f32],
}

impl WithSimd for SumLines<'_> {
    type Output = ();

    #[inline(always)]
    fn with_simd<S: Simd>(self) {
        let lanes = S::lanes32();
        for (sum, line) in self.sums.iter_mut().zip(self.lines.chunks_exact(self.line)) {
            // Four independent sums hide the latency of the addition.
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
