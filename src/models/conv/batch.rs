//! A convolution of a whole batch, chunks of images over all cores; its gradients are in [`gradients`](super::gradients).
//!
//! In and out: dense slices of f32. Start at [`Layer`]. Chunks depend on shapes alone, so results do not depend on the number of threads.

use std::cell::RefCell;

use macerator::Arch;
use rayon::prelude::*;

use super::buffer::{sized, zeros};
use super::convolve::{Convolve, Packed};
use super::plane::{Plane, TILE};
use super::pool::{Maxima, Pool};

/// Positions a thread convolves at a time, at least: fewer would not pay for reading the weights.
const POSITIONS: usize = 512;

/// A convolution of stride one, or a transposed one that doubles the image.
#[derive(Clone, Copy, Debug)]
pub(super) struct Layer {
    /// The input's geometry.
    pub plane: Plane,
    /// Channels of the input.
    pub inputs: usize,
    /// Channels of the output, times four for [`Upscale::Double`].
    pub outputs: usize,
    /// Whether negative inputs count as zero.
    pub relu: bool,
    /// What becomes of the output's channels.
    pub upscale: Upscale,
}

/// What becomes of the convolution's channels.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Upscale {
    /// They are the output; weights are `[out, in, kernel, kernel]`.
    None,
    /// Four channels are the four pixels of a square: a transposed 2x2 convolution of stride two
    /// is a 1x1 convolution to four times the channels. Weights are `[in, out, 2, 2]`.
    Double,
}

/// Buffers a thread keeps from one convolution to the next, so that their pages stay mapped.
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
    /// `skip + convolution(x) + bias`, or its maxima; `skip` may be empty.
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
        let each = pool.map_or(self.out_len(), |pool| {
            self.outputs * pool.output(self.plane.output()).iter().product::<usize>()
        });
        let mut out = zeros(batch * each);
        out.par_chunks_mut(images * each)
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

    /// Writes a chunk's output out of its lines.
    fn write(&self, flat: &[f32], bias: &[f32], skip: &[f32], out: &mut [f32]) {
        let [_, width] = self.plane.output();
        self.plane.rows(out.len() / self.out_len(), self.outputs).for_each(|row| {
            let flat = &flat[row.flat..][..width];
            let at = self.out_at(row.image, row.channel, row.y);
            match self.upscale {
                Upscale::None if skip.is_empty() => {
                    let bias = bias[row.channel];
                    out[at..][..width].iter_mut().zip(flat).for_each(|(out, v)| *out = v + bias);
                }
                Upscale::None => {
                    let bias = bias[row.channel];
                    let values = flat.iter().zip(&skip[at..][..width]);
                    let out = out[at..][..width].iter_mut();
                    out.zip(values).for_each(|(out, (v, skip))| *out = v + bias + skip);
                }
                Upscale::Double => {
                    let bias = bias[row.channel / 4];
                    let out = out[at..].iter_mut().step_by(2);
                    out.zip(flat).for_each(|(out, v)| *out = v + bias);
                }
            }
        });
    }

    /// Writes the maxima of a chunk's output out of its lines; the output itself is never whole.
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
        self.plane.rows(images, if skip.is_empty() { 0 } else { self.outputs }).for_each(|row| {
            let values = &mut flat[row.flat..][..size[1]];
            let skip = &skip[self.out_at(row.image, row.channel, row.y)..];
            values
                .iter_mut()
                .zip(skip)
                .for_each(|(value, skip)| *value += bias[row.channel] + skip);
        });
        let positions = self.plane.positions(images);
        for (i, maxima) in out.chunks_exact_mut(plane).enumerate() {
            let (image, channel) = (i / self.outputs, i % self.outputs);
            let x = &flat[channel * positions + image * self.plane.area()..];
            let to_row = pool.output(size)[1];
            Arch::new().dispatch(Maxima { pool, x, row: self.plane.row(), size, maxima, to_row });
            if skip.is_empty() {
                maxima.iter_mut().for_each(|maximum| *maximum += bias[channel]);
            }
        }
    }

    /// Orders weights as the inner loops read them; see [`Packed`].
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

    /// Where the kernel from input channel `c` to output channel `o` starts.
    pub(super) fn weight_at(&self, o: usize, c: usize) -> usize {
        match self.upscale {
            Upscale::None => (o * self.inputs + c) * self.taps(),
            Upscale::Double => c * self.outputs + o,
        }
    }

    /// Where a row of the convolution's output starts in the batch's output.
    pub(super) fn out_at(&self, image: usize, channel: usize, y: usize) -> usize {
        let [height, width] = self.plane.output();
        match self.upscale {
            Upscale::None => ((image * self.outputs + channel) * height + y) * width,
            Upscale::Double => {
                let (channel, dy, dx) = (channel / 4, channel / 2 % 2, channel % 2);
                let y = (image * self.outputs / 4 + channel) * 2 * height + 2 * y + dy;
                y * 2 * width + dx
            }
        }
    }

    /// Weights of a kernel.
    pub(super) fn taps(&self) -> usize {
        self.plane.kernel * self.plane.kernel
    }

    /// Values of one input image.
    pub(super) fn x_len(&self) -> usize {
        self.inputs * self.plane.height * self.plane.width
    }

    /// Values of one output image.
    pub(super) fn out_len(&self) -> usize {
        self.outputs * self.plane.output().iter().product::<usize>()
    }
}

/// Images a thread takes at a time, so that it has so many positions.
pub(super) fn chunk(plane: &Plane, batch: usize, positions: usize) -> usize {
    let enough = (positions / plane.area()).clamp(1, batch.div_ceil(4).max(1));
    enough.max(TILE.div_ceil(plane.area())).min(batch)
}

/// Convolves `images` images' lines into `output`'s first values, which it returns.
pub(super) fn convolve<'a>(
    plane: &Plane,
    images: usize,
    weight: &Packed,
    input: &[f32],
    output: &'a mut Vec<f32>,
) -> &'a mut [f32] {
    let (line, positions) = (plane.line(images), plane.positions(images));
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
