//! A stage of the IMPALA trunk for inference, a few images at a time: between its five convolutions nothing leaves the second cache.
//!
//! In and out: dense slices of f32. The lines that a convolution leaves (see [`Plane`]) are the lines that the next one reads, but for
//! the zeros between rows. The same operations in the same order as layer by layer, so the same bits. Start at [`Stage`].

use std::cell::RefCell;

use macerator::{Arch, Simd, WithSimd};
use rayon::prelude::*;

use super::batch::{chunk, convolve};
use super::buffer::{sized, zeros};
use super::convolve::Packed;
use super::plane::{Plane, rectify};
use super::pool::{Maxima, Pool};

/// The trunk's pooling.
pub(super) const HALVE: Pool = Pool { kernel: 3, stride: 2, padding: 1 };
/// Positions a thread works on at a time, at least.
const POSITIONS: usize = 512;

/// A convolution whose output is halved, and two residual blocks of two convolutions; all of kernel three.
#[derive(Clone, Copy, Debug)]
pub(super) struct Stage {
    /// The input's geometry.
    pub plane: Plane,
    /// Channels of the input.
    pub inputs: usize,
    /// Channels of everything else.
    pub outputs: usize,
}

/// Buffers a thread keeps.
#[derive(Default)]
struct Scratch {
    input: Vec<f32>,
    output: Vec<f32>,
    /// What flows along the skips.
    stream: Vec<f32>,
    /// The stream or what is within a block, rectified: what the next convolution reads.
    rectified: Vec<f32>,
}

thread_local! {
    static SCRATCH: RefCell<Scratch> = RefCell::default();
}

impl Stage {
    /// The geometry behind the pooling.
    pub fn halved(&self) -> Plane {
        let [height, width] = HALVE.output(self.plane.output());
        Plane { height, width, ..self.plane }
    }

    /// Runs the stage; `layers` are the weights and biases of its convolutions in their order.
    ///
    /// - `x`: `[image, input, height, width]`
    /// - output: `[image, output, height / 2, width / 2]`, rounded up
    pub fn forward(&self, x: &[f32], layers: [(&[f32], &[f32]); 5]) -> Vec<f32> {
        let (each, halved) = (self.inputs * self.plane.height * self.plane.width, self.halved());
        let left = self.outputs * halved.height * halved.width;
        let batch = x.len() / each;
        let images = chunk(&halved, batch, POSITIONS);
        let mut channels = self.inputs;
        let layers = layers.map(|(weight, bias)| {
            let inputs = std::mem::replace(&mut channels, self.outputs);
            (
                Packed::new::<9>(self.outputs, inputs, false, |o, c| {
                    &weight[(o * inputs + c) * 9..]
                }),
                bias,
            )
        });
        let mut out = zeros(batch * left);
        out.par_chunks_mut(images * left).zip(x.par_chunks(images * each)).for_each(|(out, x)| {
            SCRATCH.with_borrow_mut(|scratch| self.forward_chunk(x, &layers, out, scratch));
        });
        out
    }

    fn forward_chunk(
        &self,
        x: &[f32],
        layers: &[(Packed, &[f32]); 5],
        out: &mut [f32],
        scratch: &mut Scratch,
    ) {
        let halved = self.halved();
        let images = out.len() / (self.outputs * halved.height * halved.width);
        let (line, positions) = (halved.line(images), halved.positions(images));
        let [enter, blocks @ ..] = layers;
        let stream = sized(&mut scratch.stream, self.outputs * positions);
        let rectified = sized(&mut scratch.rectified, self.outputs * line);

        let input = sized(&mut scratch.input, self.inputs * self.plane.line(images));
        self.plane.gather(x, self.inputs, input, false);
        let flat = convolve(&self.plane, images, &enter.0, input, &mut scratch.output);
        self.halve(flat, images, stream);
        let step = |flat: &mut [f32], bias: &[f32], skip: Option<&mut [f32]>, next: &mut [f32]| {
            Arch::new().dispatch(Step { plane: &halved, images, flat, bias, skip, next });
        };
        step(stream, enter.1, None, rectified);
        for block in blocks.chunks_exact(2) {
            let flat = convolve(&halved, images, &block[0].0, rectified, &mut scratch.output);
            step(flat, block[0].1, None, rectified);
            let flat = convolve(&halved, images, &block[1].0, rectified, &mut scratch.output);
            step(flat, block[1].1, Some(stream), rectified);
        }
        halved.rows(images, self.outputs).for_each(|row| {
            let at =
                ((row.image * self.outputs + row.channel) * halved.height + row.y) * halved.width;
            out[at..][..halved.width].copy_from_slice(&stream[row.flat..][..halved.width]);
        });
    }

    /// Maxima of the first convolution's output, as lines of the halved geometry without their lead.
    fn halve(&self, flat: &[f32], images: usize, stream: &mut [f32]) {
        let (whole, halved) = (self.plane, self.halved());
        for (channel, stream) in stream.chunks_exact_mut(halved.positions(images)).enumerate() {
            for (image, maxima) in stream.chunks_exact_mut(halved.area()).take(images).enumerate() {
                let x = &flat[channel * whole.positions(images) + image * whole.area()..];
                let maxima = &mut maxima[..halved.height * halved.row()];
                Arch::new().dispatch(Maxima {
                    pool: HALVE,
                    x,
                    row: whole.row(),
                    size: whole.output(),
                    maxima,
                    to_row: halved.row(),
                });
            }
        }
    }
}

/// From a convolution's output to the next one's input: adds bias and skip, rectifies, and zeroes what lies between the rows.
struct Step<'a> {
    plane: &'a Plane,
    images: usize,
    /// `[channel, positions]`; biased in place where there is no skip.
    flat: &'a mut [f32],
    bias: &'a [f32],
    /// `[channel, positions]`; the sum goes there.
    skip: Option<&'a mut [f32]>,
    /// `[channel, line]`, overwritten whole.
    next: &'a mut [f32],
}

impl WithSimd for Step<'_> {
    type Output = ();

    #[inline(always)]
    fn with_simd<S: Simd>(self) {
        let Step { plane, images, flat, bias, mut skip, next } = self;
        let (line, positions) = (plane.line(images), plane.positions(images));
        for (channel, (next, flat)) in
            next.chunks_exact_mut(line).zip(flat.chunks_exact_mut(positions)).enumerate()
        {
            let bias = bias[channel];
            let sum = match &mut skip {
                None => {
                    flat.iter_mut().for_each(|value| *value += bias);
                    &*flat
                }
                Some(skip) => {
                    let skip = &mut skip[channel * positions..][..positions];
                    skip.iter_mut().zip(&*flat).for_each(|(skip, value)| *skip += value + bias);
                    &*skip
                }
            };
            let (lead, rest) = next.split_at_mut(plane.lead());
            lead.fill(0.0);
            let (inner, tail) = rest.split_at_mut(positions);
            inner.iter_mut().zip(sum).for_each(|(next, value)| *next = rectify(*value));
            tail.fill(0.0);
            for (i, image) in inner.chunks_mut(plane.area()).enumerate() {
                let rows = if i < images { plane.height } else { 0 };
                let (rows, border) = image.split_at_mut((rows * plane.row()).min(image.len()));
                rows.iter_mut().skip(plane.width).step_by(plane.row()).for_each(|gap| *gap = 0.0);
                border.fill(0.0);
            }
        }
    }
}
