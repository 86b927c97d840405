//! The gradients of a batch's convolution: groups of chunks of images, distributed over the cores.
//!
//! Inputs and outputs are contiguous f32 slices. Start at [`Layer::backward`]. Groups depend only
//! on shapes, and partial sums are added in order, so results do not depend on the number of
//! threads.

use macerator::Arch;
use rayon::prelude::*;

use super::batch::{Layer, SCRATCH, Upscale, chunk, convolve};
use super::buffer::{sized, zeros};
use super::convolve::Packed;
use super::correlate::{Correlate, SumLines};
use super::plane::Plane;

/// Minimum number of positions per chunk. Smaller chunks spend too much time on adding up
/// registers.
const POSITIONS: usize = 1024;
/// Maximum number of values in all partial sums of a weight gradient together.
const PARTIALS: usize = 1 << 22;

/// The gradients of a layer. Those not requested are empty.
#[derive(Default)]
pub(super) struct LayerGradients {
    /// In the shape of the input.
    pub x: Vec<f32>,
    /// In the shape of the weight.
    pub weight: Vec<f32>,
    /// One value per output channel.
    pub bias: Vec<f32>,
}

impl Layer {
    /// Returns the gradients of [`forward`](Self::forward) for the gradient of its output. `want`
    /// selects those of input, weight and bias.
    pub fn backward(
        &self,
        x: &[f32],
        weight: &[f32],
        gradient: &[f32],
        want: [bool; 3],
    ) -> LayerGradients {
        // The input gradient is a convolution with the kernels reversed and the channels swapped.
        let packed =
            self.pack(self.inputs, self.outputs, true, |c, o| &weight[self.weight_at(o, c)..]);
        let batch = x.len() / self.x_len();
        let chunk = chunk(&self.plane, batch, POSITIONS);
        let images = chunk * self.group(batch.div_ceil(chunk));
        let mut dx = zeros(if want[0] { x.len() } else { 0 });
        let mut parts: Vec<_> = dx.chunks_mut(images * self.x_len()).collect();
        // Without an input gradient, every group gets an empty slice.
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

    /// Processes the chunks of a group one after another: writes `dx`, and returns the gradients of
    /// weight and bias, with one line of weights per output channel of the convolution.
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
                // The same lines serve all three gradients.
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

    /// Lays out the gradient of the output as lines, one per output channel of the convolution.
    fn gather_gradient(&self, back: &Plane, gradient: &[f32], lines: &mut [f32]) {
        if self.upscale == Upscale::None {
            return back.gather(gradient, self.outputs, lines, false);
        }
        let images = gradient.len() / self.out_len();
        lines.fill(0.0);
        let line = back.line(images);
        let [_, width] = self.plane.output();
        // `for_each` compiles this nested iterator to plain loops.
        self.plane.rows(images, self.outputs).for_each(|row| {
            let from = gradient[self.out_at(row.image, row.channel, row.y)..].iter().step_by(2);
            let at = row.channel * line + row.image * back.area() + row.y * back.row();
            for (to, v) in lines[at..][..width].iter_mut().zip(from) {
                *to = *v;
            }
        });
    }

    /// Copies the gradient of the input from its lines. It is zero where the ReLU blocked the
    /// input.
    fn scatter(&self, back: &Plane, flat: &[f32], x: &[f32], dx: &mut [f32]) {
        let Plane { height, width, .. } = self.plane;
        back.rows(x.len() / self.x_len(), self.inputs).for_each(|row| {
            let at = ((row.image * self.inputs + row.channel) * height + row.y) * width;
            let flat = &flat[row.flat..][..width];
            let dx = &mut dx[at..][..width];
            if self.relu {
                let values = flat.iter().zip(&x[at..][..width]);
                for (dx, (v, x)) in dx.iter_mut().zip(values) {
                    *dx = if *x > 0.0 { *v } else { 0.0 };
                }
            } else {
                dx.copy_from_slice(flat);
            }
        });
    }

    /// Reorders one line per output channel into the layout of the weight.
    fn order_weight(&self, sums: Vec<f32>) -> Vec<f32> {
        match self.upscale {
            Upscale::None => sums,
            Upscale::Double => {
                let mut weight = vec![0.0; sums.len()];
                for (o, line) in sums.chunks_exact(self.inputs).enumerate() {
                    let column = weight[o..].iter_mut().step_by(self.outputs);
                    for (weight, sum) in column.zip(line) {
                        *weight = *sum;
                    }
                }
                weight
            }
        }
    }

    /// Sums the four pixels of each channel for [`Upscale::Double`].
    fn order_bias(&self, sums: Vec<f32>) -> Vec<f32> {
        match self.upscale {
            Upscale::None => sums,
            Upscale::Double => sums.chunks_exact(4).map(|pixels| pixels.iter().sum()).collect(),
        }
    }

    /// Returns the number of chunks per group. Chunks of one group share a partial sum.
    fn group(&self, chunks: usize) -> usize {
        let weights = self.outputs * self.inputs * self.taps();
        // Between 4 and 32 groups, fewer for large weights.
        chunks.div_ceil((PARTIALS / weights).clamp(4, 32))
    }
}

/// Adds partial sums in order.
fn add_up(parts: Vec<(Vec<f32>, Vec<f32>)>) -> (Vec<f32>, Vec<f32>) {
    let add = |total: &mut [f32], part: &[f32]| {
        for (total, part) in total.iter_mut().zip(part) {
            *total += part;
        }
    };
    let mut parts = parts.into_iter();
    let (mut weight, mut bias) = parts.next().unwrap_or_default();
    for (w, b) in parts {
        add(&mut weight, &w);
        add(&mut bias, &b);
    }
    (weight, bias)
}
