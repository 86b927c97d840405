//! A convolution of a whole batch, forward and backward: chunks of images over all cores.
//!
//! In and out: dense slices of f32. Start at [`Layer`]. Chunks depend on shapes alone, and
//! partial sums are added in their order, so results do not depend on the number of threads.

use std::cell::RefCell;

use macerator::Arch;
use rayon::prelude::*;

use super::buffer::{sized, zeros};
use super::convolve::{Convolve, Packed};
use super::kernel::{Correlate, SumLines};
use super::plane::{Plane, TILE};
use super::pool::{Maxima, Pool};

/// Positions a thread convolves at a time, at least: fewer would not pay for reading the weights.
const POSITIONS: usize = 512;
/// Positions a thread sums gradients over at a time, at least: fewer would not pay for adding up registers.
const GRADIENT_POSITIONS: usize = 1024;
/// Values all partial sums of a weight's gradient may take together.
const PARTIALS: usize = 1 << 22;

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

/// A layer's gradients; those not wanted are empty.
#[derive(Default)]
pub(super) struct LayerGradients {
    /// Shaped like the input.
    pub x: Vec<f32>,
    /// Shaped like the weight.
    pub weight: Vec<f32>,
    /// One value an output channel.
    pub bias: Vec<f32>,
}

/// Buffers a thread keeps from one convolution to the next, so that their pages stay mapped.
#[derive(Default)]
struct Scratch {
    input: Vec<f32>,
    gradient: Vec<f32>,
    output: Vec<f32>,
}

thread_local! {
    static SCRATCH: RefCell<Scratch> = RefCell::default();
}

impl Layer {
    /// `skip + convolution(x) + bias`, or its maxima; `skip` may be empty.
    pub fn forward(&self, x: &[f32], weight: &[f32], bias: &[f32], skip: &[f32], pool: Option<Pool>) -> Vec<f32> {
        let packed = self.pack(self.outputs, self.inputs, false, |o, c| &weight[self.weight_at(o, c)..]);
        let batch = x.len() / self.x_len();
        let images = chunk(&self.plane, batch, POSITIONS);
        let each = pool.map_or(self.out_len(), |pool| self.outputs * pool.output(self.plane.output()).iter().product::<usize>());
        let mut out = zeros(batch * each);
        out.par_chunks_mut(images * each).zip(x.par_chunks(images * self.x_len())).enumerate().for_each(|(i, (out, x))| {
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
    fn write_maxima(&self, flat: &mut [f32], bias: &[f32], skip: &[f32], pool: Pool, out: &mut [f32]) {
        let size = self.plane.output();
        let plane: usize = pool.output(size).iter().product();
        let images = out.len() / (self.outputs * plane);
        self.plane.rows(images, if skip.is_empty() { 0 } else { self.outputs }).for_each(|row| {
            let values = &mut flat[row.flat..][..size[1]];
            let skip = &skip[self.out_at(row.image, row.channel, row.y)..];
            values.iter_mut().zip(skip).for_each(|(value, skip)| *value += bias[row.channel] + skip);
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

    /// The gradients of [`forward`](Self::forward), given its output's: `want` says whether those
    /// of the input, the weight and the bias.
    pub fn backward(&self, x: &[f32], weight: &[f32], gradient: &[f32], want: [bool; 3]) -> LayerGradients {
        let packed = self.pack(self.inputs, self.outputs, true, |c, o| &weight[self.weight_at(o, c)..]);
        let batch = x.len() / self.x_len();
        let chunk = chunk(&self.plane, batch, GRADIENT_POSITIONS);
        let images = chunk * self.group(batch.div_ceil(chunk));
        let mut dx = zeros(if want[0] { x.len() } else { 0 });
        let mut parts: Vec<_> = dx.chunks_mut(images * self.x_len()).collect();
        parts.resize_with(batch.div_ceil(images), Default::default);
        let sums: Vec<_> = parts
            .into_par_iter()
            .zip(x.par_chunks(images * self.x_len()))
            .zip(gradient.par_chunks(images * self.out_len()))
            .map(|((dx, x), g)| self.backward_group(x, &packed, g, dx, want, chunk))
            .collect();
        let (dw, db) = add_up(sums);
        LayerGradients { x: dx, weight: self.order_weight(dw), bias: self.order_bias(db) }
    }

    /// Goes through a group's chunks in turn: writes `dx`, returns the weight's and the bias's
    /// gradients, a line of weights for each of the convolution's output channels.
    fn backward_group(
        &self,
        x: &[f32],
        packed: &Packed,
        gradient: &[f32],
        dx: &mut [f32],
        want: [bool; 3],
        images: usize,
    ) -> (Vec<f32>, Vec<f32>) {
        let back = self.plane.transposed();
        let len = |want, len| vec![0.0; if want { len } else { 0 }];
        let mut dw = len(want[1], self.outputs * self.inputs * self.taps());
        let mut db = len(want[2], self.outputs);
        let chunks = x.chunks(images * self.x_len()).zip(gradient.chunks(images * self.out_len()));
        SCRATCH.with_borrow_mut(|scratch| {
            for (i, (x, g)) in chunks.enumerate() {
                let count = x.len() / self.x_len();
                let line = back.line(count);
                let lines = sized(&mut scratch.gradient, self.outputs * line);
                self.gather_gradient(&back, g, lines);
                Arch::new().dispatch(SumLines { lines, line, sums: &mut db });
                if want[1] {
                    let input = sized(&mut scratch.input, self.inputs * self.plane.line(count));
                    self.plane.gather(x, self.inputs, input, self.relu);
                    Arch::new().dispatch(Correlate {
                        gradient: &lines[back.lead()..],
                        gradient_line: line,
                        input,
                        line: self.plane.line(count),
                        sums: &mut dw,
                        positions: self.plane.positions(count),
                        row: self.plane.row(),
                        kernel: self.plane.kernel,
                    });
                }
                if want[0] {
                    let flat = convolve(&back, count, packed, lines, &mut scratch.output);
                    self.scatter(&back, flat, x, &mut dx[i * images * self.x_len()..]);
                }
            }
        });
        (dw, db)
    }

    /// Lays the output's gradient out as lines of the convolution's output channels.
    fn gather_gradient(&self, back: &Plane, gradient: &[f32], lines: &mut [f32]) {
        if self.upscale == Upscale::None {
            return back.gather(gradient, self.outputs, lines, false);
        }
        let images = gradient.len() / self.out_len();
        lines.fill(0.0);
        let (line, [_, width]) = (back.line(images), self.plane.output());
        self.plane.rows(images, self.outputs).for_each(|row| {
            let from = gradient[self.out_at(row.image, row.channel, row.y)..].iter().step_by(2);
            let at = row.channel * line + row.image * back.area() + row.y * back.row();
            lines[at..][..width].iter_mut().zip(from).for_each(|(to, v)| *to = *v);
        });
    }

    /// Writes the input's gradient out of its lines; zero where the ReLU was.
    fn scatter(&self, back: &Plane, flat: &[f32], x: &[f32], dx: &mut [f32]) {
        let Plane { height, width, .. } = self.plane;
        back.rows(x.len() / self.x_len(), self.inputs).for_each(|row| {
            let at = ((row.image * self.inputs + row.channel) * height + row.y) * width;
            let (flat, dx) = (&flat[row.flat..][..width], &mut dx[at..][..width]);
            if self.relu {
                let values = flat.iter().zip(&x[at..][..width]);
                let pass = |(v, x): (&f32, &f32)| if *x > 0.0 { *v } else { 0.0 };
                dx.iter_mut().zip(values.map(pass)).for_each(|(dx, v)| *dx = v);
            } else {
                dx.copy_from_slice(flat);
            }
        });
    }

    /// Orders weights as the inner loops read them; see [`Packed`].
    fn pack<'a>(&self, outputs: usize, channels: usize, reverse: bool, kernel: impl Fn(usize, usize) -> &'a [f32] + Sync) -> Packed {
        match self.plane.kernel {
            1 => Packed::new::<1>(outputs, channels, reverse, kernel),
            2 => Packed::new::<4>(outputs, channels, reverse, kernel),
            _ => Packed::new::<9>(outputs, channels, reverse, kernel),
        }
    }

    /// Where the kernel from input channel `c` to output channel `o` starts.
    fn weight_at(&self, o: usize, c: usize) -> usize {
        match self.upscale {
            Upscale::None => (o * self.inputs + c) * self.taps(),
            Upscale::Double => c * self.outputs + o,
        }
    }

    /// Where a row of the convolution's output starts in the batch's output.
    fn out_at(&self, image: usize, channel: usize, y: usize) -> usize {
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

    /// From a line an output channel to the order of the weights.
    fn order_weight(&self, sums: Vec<f32>) -> Vec<f32> {
        match self.upscale {
            Upscale::None => sums,
            Upscale::Double => {
                let mut weight = vec![0.0; sums.len()];
                for (o, line) in sums.chunks_exact(self.inputs).enumerate() {
                    line.iter().zip(weight[o..].iter_mut().step_by(self.outputs)).for_each(|(sum, weight)| *weight = *sum);
                }
                weight
            }
        }
    }

    fn order_bias(&self, sums: Vec<f32>) -> Vec<f32> {
        match self.upscale {
            Upscale::None => sums,
            Upscale::Double => sums.chunks_exact(4).map(|pixels| pixels.iter().sum()).collect(),
        }
    }

    /// Weights of a kernel.
    fn taps(&self) -> usize {
        self.plane.kernel * self.plane.kernel
    }

    /// Values of one input image.
    fn x_len(&self) -> usize {
        self.inputs * self.plane.height * self.plane.width
    }

    /// Values of one output image.
    fn out_len(&self) -> usize {
        self.outputs * self.plane.output().iter().product::<usize>()
    }

    /// Of so many chunks, those whose weight gradients are added up one after the other.
    fn group(&self, chunks: usize) -> usize {
        let weights = self.outputs * self.inputs * self.taps();
        chunks.div_ceil((PARTIALS / weights).clamp(4, 32))
    }
}

/// Images a thread takes at a time, so that it has so many positions.
pub(super) fn chunk(plane: &Plane, batch: usize, positions: usize) -> usize {
    let enough = (positions / plane.area()).clamp(1, batch.div_ceil(4).max(1));
    enough.max(TILE.div_ceil(plane.area())).min(batch)
}

/// Convolves `images` images' lines into `output`'s first values, which it returns.
pub(super) fn convolve<'a>(plane: &Plane, images: usize, weight: &Packed, input: &[f32], output: &'a mut Vec<f32>) -> &'a mut [f32] {
    let (line, positions) = (plane.line(images), plane.positions(images));
    let output = sized(output, weight.outputs(input.len() / line, plane.kernel) * positions);
    Arch::new().dispatch(Convolve { weight, input, output, line, positions, row: plane.row(), kernel: plane.kernel });
    output
}

/// Adds partial sums up in their order.
fn add_up(parts: Vec<(Vec<f32>, Vec<f32>)>) -> (Vec<f32>, Vec<f32>) {
    let add = |total: &mut [f32], part: &[f32]| {
        total.iter_mut().zip(part).for_each(|(total, part)| *total += part);
    };
    let mut parts = parts.into_iter();
    let (mut weight, mut bias) = parts.next().unwrap_or_default();
    for (w, b) in parts {
        add(&mut weight, &w);
        add(&mut bias, &b);
    }
    (weight, bias)
}
