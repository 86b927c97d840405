//! The SIMD kernel of a convolution and of its input gradient, on lines.
//!
//! A convolution on lines (see [`Plane`](super::plane::Plane)) is
//!
//! ```text
//! output[o][p] = sum over c, ky, kx of weight[o][c][ky][kx] * input[c][p + ky * row + kx]
//! ```
//!
//! A tile of outputs therefore stays in registers while shifted input streams past: no im2col and
//! no packing of the input. Start at [`Convolve`]; `Arch::new().dispatch(..)` runs it. The order of
//! every sum depends only on shapes and on the SIMD lanes of the processor.

use macerator::{Simd, Vector, WithSimd};
use rayon::prelude::*;

use super::simd::{lanes, load, splat, store};

/// Output channels per tile, if there are enough registers and the channels are a multiple of it.
const TALL: usize = 8;
/// Output channels per tile otherwise.
const SHORT: usize = 4;
/// Input values that [`Convolve`] reuses. They leave space for weights and outputs in a cache of 32
/// KiB.
const CACHE: usize = 5 << 10;

/// A convolution of lines.
pub(super) struct Convolve<'a> {
    /// Weights in tile order.
    pub weight: &'a Packed,
    /// `[channel, line]`
    pub input: &'a [f32],
    /// `[output channel rounded up to blocks, positions]`, fully overwritten
    pub output: &'a mut [f32],
    /// Values per input line.
    pub line: usize,
    /// Positions per output line, a multiple of [`TILE`](super::plane::TILE).
    pub positions: usize,
    /// Distance between two rows, in positions.
    pub row: usize,
    /// Rows and columns of the kernel: 1, 2 or 3.
    pub kernel: usize,
}

impl WithSimd for Convolve<'_> {
    type Output = ();

    #[inline(always)]
    fn with_simd<S: Simd>(self) {
        match self.kernel {
            1 => self.run::<S, 1>(),
            2 => self.run::<S, 2>(),
            3 => self.run::<S, 3>(),
            kernel => unreachable!("no inner loop for a kernel of {kernel}"),
        }
    }
}

impl Convolve<'_> {
    #[inline(always)]
    fn run<S: Simd, const K: usize>(mut self) {
        let lanes = S::lanes32();
        let mut start = 0;
        while start < self.positions {
            // 512-bit registers come in 32, narrower ones mostly in 16. Of two tiles of equal size
            // the tall one is a tenth faster: fewer of its loads cross a cache line.
            let registers =
                match (self.weight.block, lanes >= 16 && start + 6 * lanes <= self.positions) {
                    (TALL, _) => self.column::<S, K, TALL, 3>(start),
                    (_, true) => self.column::<S, K, SHORT, 6>(start),
                    (_, false) => self.column::<S, K, SHORT, 3>(start),
                };
            start += registers * lanes;
        }
    }

    /// Computes all output channels at `V` registers of positions, and returns `V`. It processes as
    /// many input channels at a time as the first-level cache holds.
    #[inline(always)]
    fn column<S: Simd, const K: usize, const O: usize, const V: usize>(
        &mut self,
        start: usize,
    ) -> usize {
        let lanes = S::lanes32();
        let channels = self.input.len() / self.line;
        let channel = K * K * O;
        // Input channels whose `K` rows of a tile fit in the cache.
        let chunk = (CACHE / (K * (V * lanes + K - 1))).max(1);
        for first in (0..channels).step_by(chunk) {
            let last = channels.min(first + chunk);
            let lines = &self.input[first * self.line..last * self.line];
            for (block, weight) in self.weight.values.chunks_exact(channels * channel).enumerate() {
                let rows: [_; O] =
                    std::array::from_fn(|o| (block * O + o) * self.positions + start);
                let mut sums = [[splat::<S>(0.0); V]; O];
                // Later chunks of channels continue the sums of the earlier ones.
                if first > 0 {
                    for (sums, row) in sums.iter_mut().zip(rows) {
                        let output = &self.output[row..][..V * lanes];
                        for (v, sum) in sums.iter_mut().enumerate() {
                            *sum = load::<S>(&output[v * lanes..]);
                        }
                    }
                }
                let sums = self.tile::<S, K, O, V>(
                    lines,
                    &weight[first * channel..last * channel],
                    start,
                    sums,
                );
                for (sums, row) in sums.iter().zip(rows) {
                    let output = &mut self.output[row..][..V * lanes];
                    for (v, sum) in sums.iter().enumerate() {
                        store::<S>(*sum, &mut output[v * lanes..][..lanes]);
                    }
                }
            }
        }
        V
    }

    /// Adds the contribution of some input channels to a tile.
    #[inline(always)]
    fn tile<S: Simd, const K: usize, const O: usize, const V: usize>(
        &self,
        lines: &[f32],
        weight: &[f32],
        start: usize,
        mut sums: [[Vector<S, f32>; V]; O],
    ) -> [[Vector<S, f32>; V]; O] {
        let lanes = S::lanes32();
        let mut shifted = [splat::<S>(0.0); V];
        for (line, weight) in lines.chunks_exact(self.line).zip(weight.chunks_exact(K * K * O)) {
            for (ky, weight) in weight.chunks_exact(K * O).enumerate() {
                let input = &line[start + ky * self.row..][..V * lanes + K - 1];
                // Unaligned loads shift the input by one column.
                for kx in 0..K {
                    for (v, shifted) in shifted.iter_mut().enumerate() {
                        *shifted = load::<S>(&input[kx + v * lanes..]);
                    }
                    for (o, sums) in sums.iter_mut().enumerate() {
                        let weight = splat::<S>(weight[kx * O + o]);
                        for (sum, shifted) in sums.iter_mut().zip(shifted) {
                            // O * V independent sums hide the latency of the multiply-add.
                            *sum = weight.mul_add(shifted, *sum);
                        }
                    }
                }
            }
        }
        sums
    }
}

/// Weights in tile order: `[block, channel, kernel, kernel, output of the block]`, with zeros after
/// the last output.
pub(super) struct Packed {
    /// Output channels, rounded up to whole blocks.
    pub outputs: usize,
    values: Vec<f32>,
    /// Output channels per tile.
    block: usize,
}

impl Packed {
    /// Orders weights. `kernel(o, c)` returns a kernel of `TAPS` weights; `reverse` rotates it by
    /// half a turn.
    pub fn new<'a, const TAPS: usize>(
        outputs: usize,
        channels: usize,
        reverse: bool,
        kernel: impl Fn(usize, usize) -> &'a [f32] + Sync,
    ) -> Packed {
        let block = if outputs.is_multiple_of(TALL) && lanes() >= 16 { TALL } else { SHORT };
        let each = channels * TAPS * block;
        let mut values = vec![0.0; outputs.div_ceil(block) * each];
        values.par_chunks_mut(each).enumerate().for_each(|(b, values)| {
            for (c, values) in values.chunks_exact_mut(TAPS * block).enumerate() {
                for (i, o) in (b * block..outputs).take(block).enumerate() {
                    let kernel = &kernel(o, c)[..TAPS];
                    for tap in 0..TAPS {
                        values[tap * block + i] =
                            kernel[if reverse { TAPS - 1 - tap } else { tap }];
                    }
                }
            }
        });
        Packed { outputs: outputs.next_multiple_of(block), values, block }
    }
}
