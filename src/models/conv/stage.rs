//! A stage of the IMPALA trunk for inference, a few images at a time, so that activations stay in
//! the second-level cache.
//!
//! Inputs and outputs are contiguous f32 slices. The output lines of one convolution (see
//! [`Plane`]) are the input lines of the next, once the gaps between rows are set to zero.
//! Operations and their order are the same as layer by layer, so the results are identical bit for
//! bit. Start at [`Stage`].

use std::cell::RefCell;

use macerator::{Arch, Simd, WithSimd};
use rayon::prelude::*;

use super::batch::{chunk, convolve};
use super::buffer::{sized, zeros};
use super::convolve::Packed;
use super::plane::{Plane, rectify};
use super::pool::{Maxima, Pool};

/// The pooling of the trunk.
pub(super) const HALVE: Pool = Pool { kernel: 3, stride: 2, padding: 1 };
/// Minimum number of positions per chunk.
const POSITIONS: usize = 512;

/// A convolution, a pooling that halves the image, and two residual blocks of two convolutions, all
/// with kernel 3.
#[derive(Clone, Copy, Debug)]
pub(super) struct Stage {
    /// Geometry of the input.
    pub plane: Plane,
    /// Channels of the input.
    pub inputs: usize,
    /// Channels of all other activations.
    pub outputs: usize,
}

/// Buffers of a thread.
#[derive(Default)]
struct Scratch {
    input: Vec<f32>,
    output: Vec<f32>,
    /// The values on the skip connections.
    stream: Vec<f32>,
    /// The input of the next convolution: the ReLU of the stream or of a value within a block.
    rectified: Vec<f32>,
}

thread_local! {
    static SCRATCH: RefCell<Scratch> = RefCell::default();
}

impl Stage {
    /// Returns the geometry after the pooling.
    pub fn halved(&self) -> Plane {
        let [height, width] = HALVE.output(self.plane.output());
        Plane { height, width, ..self.plane }
    }

    /// Runs the stage. `layers` are the weights and biases of its convolutions in order.
    ///
    /// # Shapes
    /// - `x`: `[image, in, height, width]`
    /// - output: `[image, out, height / 2, width / 2]`, rounded up
    pub fn forward(&self, x: &[f32], layers: [(&[f32], &[f32]); 5]) -> Vec<f32> {
        let input_len = self.inputs * self.plane.height * self.plane.width;
        let halved = self.halved();
        let output_len = self.outputs * halved.height * halved.width;
        let batch = x.len() / input_len;
        let images = chunk(&halved, batch, POSITIONS);
        let mut channels = self.inputs;
        // Weights are packed once per batch, not per chunk.
        let layers = layers.map(|(weight, bias)| {
            let inputs = std::mem::replace(&mut channels, self.outputs);
            (
                Packed::new::<9>(self.outputs, inputs, false, |o, c| {
                    &weight[(o * inputs + c) * 9..]
                }),
                bias,
            )
        });
        let mut out = zeros(batch * output_len);
        out.par_chunks_mut(images * output_len).zip(x.par_chunks(images * input_len)).for_each(
            |(out, x)| {
                SCRATCH.with_borrow_mut(|scratch| self.forward_chunk(x, &layers, out, scratch));
            },
        );
        out
    }

    /// Runs the stage on one chunk of images.
    fn forward_chunk(
        &self,
        x: &[f32],
        layers: &[(Packed, &[f32]); 5],
        out: &mut [f32],
        scratch: &mut Scratch,
    ) {
        let halved = self.halved();
        let images = out.len() / (self.outputs * halved.height * halved.width);
        let line = halved.line(images);
        let positions = halved.positions(images);
        let [first, blocks @ ..] = layers;
        let stream = sized(&mut scratch.stream, self.outputs * positions);
        let rectified = sized(&mut scratch.rectified, self.outputs * line);

        let input = sized(&mut scratch.input, self.inputs * self.plane.line(images));
        self.plane.gather(x, self.inputs, input, false);
        let flat = convolve(&self.plane, images, &first.0, input, &mut scratch.output);
        self.halve(flat, images, stream);
        let step = |flat: &mut [f32], bias: &[f32], skip: Option<&mut [f32]>, next: &mut [f32]| {
            Arch::new().dispatch(Step { plane: &halved, images, flat, bias, skip, next });
        };
        // The pooled stream also needs a rectified copy: the input of the first block.
        step(stream, first.1, None, rectified);
        // x + conv(relu(conv(relu(x)))): only the second convolution adds to the stream.
        for block in blocks.chunks_exact(2) {
            let flat = convolve(&halved, images, &block[0].0, rectified, &mut scratch.output);
            step(flat, block[0].1, None, rectified);
            let flat = convolve(&halved, images, &block[1].0, rectified, &mut scratch.output);
            step(flat, block[1].1, Some(stream), rectified);
        }
        // Copies the stream without the gaps. `for_each` compiles this nested iterator to loops.
        halved.rows(images, self.outputs).for_each(|row| {
            let at =
                ((row.image * self.outputs + row.channel) * halved.height + row.y) * halved.width;
            out[at..][..halved.width].copy_from_slice(&stream[row.flat..][..halved.width]);
        });
    }

    /// Pools the output of the first convolution into lines of the halved geometry, without their
    /// leading zeros.
    fn halve(&self, flat: &[f32], images: usize, stream: &mut [f32]) {
        let whole = self.plane;
        let halved = self.halved();
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

/// The step from the output of a convolution to the input of the next: adds bias and skip, applies
/// the ReLU and zeroes the gaps between rows.
struct Step<'a> {
    plane: &'a Plane,
    images: usize,
    /// `[channel, positions]`; without a skip, the bias is added in place
    flat: &'a mut [f32],
    bias: &'a [f32],
    /// `[channel, positions]`; receives the sum
    skip: Option<&'a mut [f32]>,
    /// `[channel, line]`, fully overwritten
    next: &'a mut [f32],
}

impl WithSimd for Step<'_> {
    type Output = ();

    #[inline(always)]
    fn with_simd<S: Simd>(self) {
        let Step { plane, images, flat, bias, mut skip, next } = self;
        let line = plane.line(images);
        let positions = plane.positions(images);
        for (channel, (next, flat)) in
            next.chunks_exact_mut(line).zip(flat.chunks_exact_mut(positions)).enumerate()
        {
            let bias = bias[channel];
            let sum = match &mut skip {
                None => {
                    for value in flat.iter_mut() {
                        *value += bias;
                    }
                    &*flat
                }
                Some(skip) => {
                    let skip = &mut skip[channel * positions..][..positions];
                    for (skip, value) in skip.iter_mut().zip(&*flat) {
                        *skip += value + bias;
                    }
                    &*skip
                }
            };
            let (lead, rest) = next.split_at_mut(plane.lead());
            lead.fill(0.0);
            let (inner, tail) = rest.split_at_mut(positions);
            for (next, value) in inner.iter_mut().zip(sum) {
                *next = rectify(*value);
            }
            tail.fill(0.0);
            for (i, image) in inner.chunks_mut(plane.area()).enumerate() {
                // After the last image, positions up to a whole tile are all border.
                let rows = if i < images { plane.height } else { 0 };
                let (rows, border) = image.split_at_mut((rows * plane.row()).min(image.len()));
                // Padding is 1, so the gap after a row is a single value.
                for gap in rows.iter_mut().skip(plane.width).step_by(plane.row()) {
                    *gap = 0.0;
                }
                border.fill(0.0);
            }
        }
    }
}
