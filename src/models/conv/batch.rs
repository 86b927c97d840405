//! The convolution of a whole batch: chunks of images, distributed over the cores.
//! [`gradients`](super::gradients) has the backward pass.
//!
//! Inputs and outputs are contiguous f32 slices. Start at [`Layer`]. Chunks depend only on shapes,
//! so results do not depend on the number of threads.

use std::cell::RefCell;

use macerator::Arch;
use rayon::prelude::*;

use super::buffer::{sized, zeros};
use super::convolve::{Convolve, Packed};
use super::plane::{Plane, TILE};
use super::pool::{Maxima, Pool};

/// Minimum number of positions per chunk. Smaller chunks spend too much time on reading the
/// weights.
const POSITIONS: usize = 512;

/// A convolution with stride one, or a transposed convolution that doubles the image.
#[derive(Clone, Copy, Debug)]
pub(super) struct Layer {
    /// Geometry of the input.
    pub plane: Plane,
    /// Channels of the input.
    pub inputs: usize,
    /// Channels of the output; for [`Upscale::Double`], times four.
    pub outputs: usize,
    /// Applies a ReLU to the input first.
    pub relu: bool,
    /// Arrangement of the output channels.
    pub upscale: Upscale,
}

/// Arrangement of the output channels of a convolution.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Upscale {
    /// Channels stay channels. Weights are `[out, in, kernel, kernel]`.
    None,
    /// Four channels become the four pixels of a square. This makes a transposed 2x2 convolution
    /// with stride two a 1x1 convolution to four times the channels. Weights are `[in, out, 2, 2]`.
    Double,
}

/// Buffers of a thread. They live on between convolutions, so their pages stay mapped.
#[derive(Default)]
pub(super) struct Scratch {
    pub input: Vec<f32>,
    pub gradient: Vec<f32>,
    pub output: Vec<f32>,
}

thread_local! {
    pub(super) static SCRATCH: RefCell<Scratch> = RefCell::default();
}

impl Layer {
    /// Computes `skip + convolution(x) + bias`, and its maxima if `pool` is set. An empty `skip`
    /// counts as zeros.
    ///
    /// # Shapes
    /// - `x`: `[image, in, height, width]`
    /// - `skip`: `[image, out, height', width']`, or empty
    /// - output: `[image, out, height', width']`, or the size after pooling
    pub fn forward(
        &self,
        x: &[f32],
        weight: &[f32],
        bias: &[f32],
        skip: &[f32],
        pool: Option<Pool>,
    ) -> Vec<f32> {
        let packed =
            self.pack(self.outputs, self.inputs, false, |o, c| &weight[self.weight_at(o, c)..]);
        let batch = x.len() / self.x_len();
        let images = chunk(&self.plane, batch, POSITIONS);
        let image_len = pool.map_or(self.out_len(), |pool| {
            self.outputs * pool.output(self.plane.output()).iter().product::<usize>()
        });
        let mut out = zeros(batch * image_len);
        out.par_chunks_mut(images * image_len)
            .zip(x.par_chunks(images * self.x_len()))
            .enumerate()
            .for_each(|(i, (out, x))| {
                let skip = skip.get(i * images * self.out_len()..).unwrap_or_default();
                SCRATCH.with_borrow_mut(|scratch| {
                    let count = x.len() / self.x_len();
                    let input = sized(&mut scratch.input, self.inputs * self.plane.line(count));
                    self.plane.gather(x, self.inputs, input, self.relu);
                    let flat = convolve(&self.plane, count, &packed, input, &mut scratch.output);
                    match pool {
                        None => self.write(flat, bias, skip, out),
                        Some(pool) => self.write_maxima(flat, bias, skip, pool, out),
                    }
                });
            });
        out
    }

    /// Copies the output of a chunk from its lines.
    fn write(&self, flat: &[f32], bias: &[f32], skip: &[f32], out: &mut [f32]) {
        let [_, width] = self.plane.output();
        // `for_each` compiles this nested iterator to plain loops.
        self.plane.rows(out.len() / self.out_len(), self.outputs).for_each(|row| {
            let flat = &flat[row.flat..][..width];
            let at = self.out_at(row.image, row.channel, row.y);
            match self.upscale {
                Upscale::None if skip.is_empty() => {
                    let bias = bias[row.channel];
                    for (out, v) in out[at..][..width].iter_mut().zip(flat) {
                        *out = v + bias;
                    }
                }
                Upscale::None => {
                    let bias = bias[row.channel];
                    let values = flat.iter().zip(&skip[at..][..width]);
                    let out = out[at..][..width].iter_mut();
                    for (out, (v, skip)) in out.zip(values) {
                        *out = v + bias + skip;
                    }
                }
                Upscale::Double => {
                    let bias = bias[row.channel / 4];
                    // The two columns of each square are interleaved.
                    for (out, v) in out[at..].iter_mut().step_by(2).zip(flat) {
                        *out = v + bias;
                    }
                }
            }
        });
    }

    /// Pools the output of a chunk from its lines. The output itself is never stored.
    fn write_maxima(
        &self,
        flat: &mut [f32],
        bias: &[f32],
        skip: &[f32],
        pool: Pool,
        out: &mut [f32],
    ) {
        let size = self.plane.output();
        let plane: usize = pool.output(size).iter().product();
        let images = out.len() / (self.outputs * plane);
        // A skip differs from pixel to pixel, so it must be added before the maximum is taken.
        self.plane.rows(images, if skip.is_empty() { 0 } else { self.outputs }).for_each(|row| {
            let values = &mut flat[row.flat..][..size[1]];
            let skip = &skip[self.out_at(row.image, row.channel, row.y)..];
            for (value, skip) in values.iter_mut().zip(skip) {
                *value += bias[row.channel] + skip;
            }
        });
        let positions = self.plane.positions(images);
        for (i, maxima) in out.chunks_exact_mut(plane).enumerate() {
            let image = i / self.outputs;
            let channel = i % self.outputs;
            let x = &flat[channel * positions + image * self.plane.area()..];
            let to_row = pool.output(size)[1];
            Arch::new().dispatch(Maxima { pool, x, row: self.plane.row(), size, maxima, to_row });
            if skip.is_empty() {
                // The bias is constant, so it can follow the maximum.
                for maximum in maxima {
                    *maximum += bias[channel];
                }
            }
        }
    }

    /// Orders weights for the inner loops; see [`Packed`].
    pub(super) fn pack<'a>(
        &self,
        outputs: usize,
        channels: usize,
        reverse: bool,
        kernel: impl Fn(usize, usize) -> &'a [f32] + Sync,
    ) -> Packed {
        match self.plane.kernel {
            1 => Packed::new::<1>(outputs, channels, reverse, kernel),
            2 => Packed::new::<4>(outputs, channels, reverse, kernel),
            _ => Packed::new::<9>(outputs, channels, reverse, kernel),
        }
    }

    /// Returns the offset of the kernel from input channel `c` to output channel `o`.
    pub(super) fn weight_at(&self, o: usize, c: usize) -> usize {
        match self.upscale {
            Upscale::None => (o * self.inputs + c) * self.taps(),
            Upscale::Double => c * self.outputs + o,
        }
    }

    /// Returns the offset of an output row in the output of the batch.
    pub(super) fn out_at(&self, image: usize, channel: usize, y: usize) -> usize {
        let [height, width] = self.plane.output();
        match self.upscale {
            Upscale::None => ((image * self.outputs + channel) * height + y) * width,
            Upscale::Double => {
                // The four channels of a square are its pixels in row-major order.
                let dx = channel % 2;
                let dy = channel / 2 % 2;
                let channel = channel / 4;
                let y = (image * self.outputs / 4 + channel) * 2 * height + 2 * y + dy;
                y * 2 * width + dx
            }
        }
    }

    /// Returns the number of weights in a kernel.
    pub(super) fn taps(&self) -> usize {
        self.plane.kernel * self.plane.kernel
    }

    /// Returns the number of values in an input image.
    pub(super) fn x_len(&self) -> usize {
        self.inputs * self.plane.height * self.plane.width
    }

    /// Returns the number of values in an output image.
    pub(super) fn out_len(&self) -> usize {
        self.outputs * self.plane.output().iter().product::<usize>()
    }
}

/// Returns the number of images per chunk: about `positions` positions, or fewer to get at least
/// four chunks.
pub(super) fn chunk(plane: &Plane, batch: usize, positions: usize) -> usize {
    // Four chunks or more keep several cores busy, unless the batch is smaller.
    let enough = (positions / plane.area()).clamp(1, batch.div_ceil(4).max(1));
    // A chunk fills at least one SIMD tile.
    enough.max(TILE.div_ceil(plane.area())).min(batch)
}

/// Convolves the lines of `images` images into the first values of `output`, and returns these.
pub(super) fn convolve<'a>(
    plane: &Plane,
    images: usize,
    weight: &Packed,
    input: &[f32],
    output: &'a mut Vec<f32>,
) -> &'a mut [f32] {
    let line = plane.line(images);
    let positions = plane.positions(images);
    let output = sized(output, weight.outputs * positions);
    Arch::new().dispatch(Convolve {
        weight,
        input,
        output,
        line,
        positions,
        row: plane.row(),
        kernel: plane.kernel,
    });
    output
}
