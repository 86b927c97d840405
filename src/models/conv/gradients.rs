//! The gradients of a batch's convolution: groups of chunks of images over all cores.
//!
//! In and out: dense slices of f32. Start at [`Layer::backward`]. Groups depend on shapes alone, and partial sums are added in their
//! order, so results do not depend on the number of threads.

use macerator::Arch;
use rayon::prelude::*;

use super::batch::{Layer, SCRATCH, Upscale, chunk, convolve};
use super::buffer::{sized, zeros};
use super::convolve::Packed;
use super::correlate::{Correlate, SumLines};
use super::plane::Plane;

/// Positions a thread sums gradients over at a time, at least: fewer would not pay for adding up registers.
const POSITIONS: usize = 1024;
/// Values all partial sums of a weight's gradient may take together.
const PARTIALS: usize = 1 << 22;

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

impl Layer {
    /// The gradients of [`forward`](Self::forward), given its output's: `want` says whether those
    /// of the input, the weight and the bias.
    pub fn backward(
        &self,
        x: &[f32],
        weight: &[f32],
        gradient: &[f32],
        want: [bool; 3],
    ) -> LayerGradients {
        let packed =
            self.pack(self.inputs, self.outputs, true, |c, o| &weight[self.weight_at(o, c)..]);
        let batch = x.len() / self.x_len();
        let chunk = chunk(&self.plane, batch, POSITIONS);
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

    /// From a line an output channel to the order of the weights.
    fn order_weight(&self, sums: Vec<f32>) -> Vec<f32> {
        match self.upscale {
            Upscale::None => sums,
            Upscale::Double => {
                let mut weight = vec![0.0; sums.len()];
                for (o, line) in sums.chunks_exact(self.inputs).enumerate() {
                    line.iter()
                        .zip(weight[o..].iter_mut().step_by(self.outputs))
                        .for_each(|(sum, weight)| *weight = *sum);
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

    /// Of so many chunks, those whose weight gradients are added up one after the other.
    fn group(&self, chunks: usize) -> usize {
        let weights = self.outputs * self.inputs * self.taps();
        chunks.div_ceil((PARTIALS / weights).clamp(4, 32))
    }
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
