//! The layers of all networks, with PyTorch's names, shapes, initial weights and semantics.
//!
//! Every convolution, pooling and normalisation of the crate goes through this file. A layer
//! computes in the precision of its input.

use burn::module::{Module, Param};
use burn::tensor::Tensor;
use burn::tensor::backend::Backend;

pub use super::conv::{
    ConvBackend as NetBackend, blend, impala_stage, join, modulate, nearest, relu, residual,
    residual_halved, tanh,
};
use super::conv::{batch_norm, conv2d, double_conv2d, matmul, relu_conv2d};
use super::init::{Init, set_state};

/// A square convolution with bias and stride 1.
#[derive(Module, Debug)]
pub struct Conv2d<B: Backend> {
    /// `[out, in, kernel, kernel]`
    pub weight: Param<Tensor<B, 4>>,
    /// `[out]`
    pub bias: Param<Tensor<B, 1>>,
    padding: usize,
    /// `[taps, height * width]`: see [`taps_inside`]; for [`forward_tiled`](Self::forward_tiled)
    taps_inside: Option<Tensor<B, 2>>,
}

impl<B: NetBackend> Conv2d<B> {
    /// Creates a 3x3 convolution that keeps the frame size.
    pub fn same(init: &mut Init<'_, B>, input: usize, output: usize) -> Self {
        Conv2d { padding: 1, ..Conv2d::valid(init, input, output, 3) }
    }

    /// Creates a 3x3 convolution for [`forward_tiled`](Self::forward_tiled) on square frames of
    /// `size` pixels.
    pub fn tiled(init: &mut Init<'_, B>, input: usize, output: usize, size: usize) -> Self {
        let conv = Conv2d::same(init, input, output);
        let inside = init.constant(taps_inside(3, conv.padding, size), [9, size * size]);
        Conv2d { taps_inside: Some(inside), ..conv }
    }

    /// Creates a convolution without padding.
    pub fn valid(init: &mut Init<'_, B>, input: usize, output: usize, kernel: usize) -> Self {
        let bound = uniform_bound(input * kernel * kernel);
        Conv2d {
            weight: init.uniform([output, input, kernel, kernel], bound),
            bias: init.uniform([output], bound),
            padding: 0,
            taps_inside: None,
        }
    }

    /// Convolves.
    ///
    /// # Shapes
    /// - `x`: `[batch, in, height, width]`
    /// - output: `[batch, out, height, width]`; `height` and `width` shrink by `kernel - 1` without
    ///   padding
    pub fn forward(&self, x: Tensor<B, 4>) -> Tensor<B, 4> {
        let (weight, bias) = self.parameters_like(&x);
        conv2d(x, weight, Some(bias), self.padding, 1)
    }

    /// Computes `forward(relu(x))` without storing `relu(x)`.
    ///
    /// # Shapes
    /// As [`forward`](Self::forward).
    pub fn forward_relu(&self, x: Tensor<B, 4>) -> Tensor<B, 4> {
        let (weight, bias) = self.parameters_like(&x);
        relu_conv2d(x, weight, Some(bias), self.padding)
    }

    /// Returns weight and bias in the precision of `x`.
    pub fn parameters_like(&self, x: &Tensor<B, 4>) -> (Tensor<B, 4>, Tensor<B, 1>) {
        (like(x, self.weight.val()), like(x, self.bias.val()))
    }

    /// Convolves `x` with `constant` tiled over the frame as further channels, without storing the
    /// tiles.
    ///
    /// A constant channel adds the sum of its kernel's taps to each pixel, except for taps outside
    /// the frame. So one linear map gives the contribution of each of the nine taps, and a second
    /// one sums, for every pixel, the taps inside the frame. The result is exact and takes about 20
    /// times less work than a convolution of 128 constant channels.
    ///
    /// # Shapes
    /// - `x`: `[batch, channels, height, width]`
    /// - `constant`: `[batch, in - channels]`
    /// - output: `[batch, out, height, width]`
    ///
    /// # Panics
    /// If the convolution was not created by [`tiled`](Self::tiled).
    pub fn forward_tiled(&self, x: Tensor<B, 4>, constant: Tensor<B, 2>) -> Tensor<B, 4> {
        let [batch, channels, height, width] = x.dims();
        let [output, input, kernel, _] = self.weight.dims();
        let taps = kernel * kernel;
        let weight = like(&x, self.weight.val());
        let bias = like(&x, self.bias.val());
        let constant = like(&x, constant);
        let inside = self.taps_inside.clone().expect("created by `tiled`");
        let inside = like(&x, inside);

        // The kernels of the constant channels as a matrix from constants to taps:
        // [out, constant, taps] -> [constant, out * taps].
        let kernels = weight.clone().narrow(1, channels, input - channels);
        let kernels = kernels.reshape([output, input - channels, taps]).swap_dims(0, 1);
        let tapped = matmul(constant, kernels.reshape([input - channels, output * taps]));
        // Sums over the taps inside the frame: [batch * out, taps] x [taps, pixels].
        let tiled = matmul(tapped.reshape([batch * output, taps]), inside);

        // The other channels vary over the frame and are convolved as usual.
        let direct = conv2d(x, weight.narrow(1, 0, channels), Some(bias), self.padding, 1);
        direct + tiled.reshape([batch, output, height, width])
    }
}

/// A transposed convolution that doubles the frame: kernel 2, stride 2.
#[derive(Module, Debug)]
pub struct ConvTranspose2d<B: Backend> {
    /// `[in, out, 2, 2]`
    pub weight: Param<Tensor<B, 4>>,
    /// `[out]`
    pub bias: Param<Tensor<B, 1>>,
}

impl<B: NetBackend> ConvTranspose2d<B> {
    /// Creates a layer. As in PyTorch, the fan-in is `out * kernel^2`.
    pub fn doubling(init: &mut Init<'_, B>, input: usize, output: usize) -> Self {
        let bound = uniform_bound(output * 4);
        ConvTranspose2d {
            weight: init.uniform([input, output, 2, 2], bound),
            bias: init.uniform([output], bound),
        }
    }

    /// Doubles the frame.
    ///
    /// # Shapes
    /// - `x`: `[batch, in, height, width]`
    /// - output: `[batch, out, 2 * height, 2 * width]`
    pub fn forward(&self, x: Tensor<B, 4>) -> Tensor<B, 4> {
        let weight = like(&x, self.weight.val());
        let bias = like(&x, self.bias.val());
        double_conv2d(x, weight, Some(bias))
    }
}

/// A fully connected layer.
#[derive(Module, Debug)]
pub struct Linear<B: Backend> {
    /// `[out, in]`
    pub weight: Param<Tensor<B, 2>>,
    /// `[out]`
    pub bias: Param<Tensor<B, 1>>,
}

impl<B: NetBackend> Linear<B> {
    /// Creates a layer from `input` to `output` features.
    pub fn new(init: &mut Init<'_, B>, input: usize, output: usize) -> Self {
        let bound = uniform_bound(input);
        Linear { weight: init.uniform([output, input], bound), bias: init.uniform([output], bound) }
    }

    /// Applies the layer.
    ///
    /// # Shapes
    /// - `x`: `[batch, in]`
    /// - output: `[batch, out]`
    pub fn forward(&self, x: Tensor<B, 2>) -> Tensor<B, 2> {
        let weight = like(&x, self.weight.val());
        let bias = like(&x, self.bias.val());
        let [batch, input] = x.dims();
        let [output, _] = weight.dims();
        // A convolution of single pixels: unlike a matrix product, it computes the gradient of the
        // weight in the memory layout of the weight.
        let pixels = x.reshape([batch, input, 1, 1]);
        let kernels = weight.reshape([output, input, 1, 1]);
        conv2d(pixels, kernels, Some(bias), 0, 1).reshape([batch, output])
    }
}

/// Batch normalisation of each channel: by the batch in training, by running statistics in
/// inference.
#[derive(Module, Debug)]
pub struct BatchNorm2d<B: Backend> {
    /// `[channels]`
    pub weight: Param<Tensor<B, 1>>,
    /// `[channels]`
    pub bias: Param<Tensor<B, 1>>,
    /// `[channels]`; moves by a tenth with each batch
    pub running_mean: Param<Tensor<B, 1>>,
    /// `[channels]`; moves by a tenth with each batch
    pub running_var: Param<Tensor<B, 1>>,
}

/// The statistics of one normalisation layer for one batch.
#[derive(Clone, Debug)]
pub struct BatchStatistics<B: Backend> {
    mean: Tensor<B, 1>,
    /// The biased variance, as the normalisation itself uses it.
    variance: Tensor<B, 1>,
    /// Bessel's correction, which makes it unbiased, as PyTorch's running variance is.
    correction: f64,
}

/// Training or inference, for normalisation layers.
pub enum Mode<'a, B: Backend> {
    /// Normalises by the batch and appends the statistics of each layer.
    Train(&'a mut Vec<BatchStatistics<B>>),
    /// Skips the normalisation: [`BatchNorm2d::fold_into`] has merged it into the layers before.
    Folded,
}

impl<B: NetBackend> BatchNorm2d<B> {
    const EPSILON: f64 = 1e-5;
    const MOMENTUM: f64 = 0.1;

    /// Creates a normalisation of `channels` channels.
    pub fn new(init: &mut Init<'_, B>, channels: usize) -> Self {
        BatchNorm2d {
            weight: init.full([channels], 1.0),
            bias: init.full([channels], 0.0),
            running_mean: init.state([channels], 0.0),
            running_var: init.state([channels], 1.0),
        }
    }

    /// Creates a normalisation to mean 0 and variance 1, without learnt gain and bias.
    pub fn without_gain(init: &mut Init<'_, B>, channels: usize) -> Self {
        BatchNorm2d {
            weight: init.state([channels], 1.0),
            bias: init.state([channels], 0.0),
            ..BatchNorm2d::new(init, channels)
        }
    }

    /// Normalises by the batch and appends its statistics to `seen`.
    ///
    /// # Shapes
    /// - `x` and output: `[batch, channels, height, width]`
    fn by_batch(&self, x: Tensor<B, 4>, seen: &mut Vec<BatchStatistics<B>>) -> Tensor<B, 4> {
        let [batch, _, height, width] = x.dims();
        let count = (batch * height * width) as f64;
        // Batch statistics have single precision, whatever the precision of the network.
        let (y, mean, variance) = batch_norm(x, self.weight.val(), self.bias.val(), Self::EPSILON);
        seen.push(BatchStatistics { mean, variance, correction: count / (count - 1.0).max(1.0) });
        y
    }

    /// Normalises the output of a layer, or returns it unchanged if the normalisation was folded.
    ///
    /// # Shapes
    /// - `x` and output: `[batch, channels, height, width]`
    pub fn forward(&self, x: Tensor<B, 4>, mode: &mut Mode<'_, B>) -> Tensor<B, 4> {
        match mode {
            Mode::Train(seen) => self.by_batch(x, seen),
            Mode::Folded => x,
        }
    }

    /// Merges the normalisation by running statistics into the layer before it. That normalisation
    /// is one factor and one term per channel. `axis` is the output axis of the weight.
    pub fn fold_into<const D: usize>(
        &self,
        weight: &mut Param<Tensor<B, D>>,
        bias: &mut Param<Tensor<B, 1>>,
        axis: usize,
    ) {
        let scale = self.weight.val() / (self.running_var.val() + Self::EPSILON).sqrt();
        let moved = (bias.val() - self.running_mean.val()) * scale.clone() + self.bias.val();
        let mut shape = [1; D];
        shape[axis] = scale.dims()[0];
        set_state(weight, weight.val() * scale.reshape(shape));
        set_state(bias, moved);
    }

    /// Moves the running statistics of many layers towards those of one batch.
    pub fn update_all<'a>(
        norms: impl IntoIterator<Item = &'a mut Self>,
        seen: Vec<BatchStatistics<B>>,
    ) where
        B: 'a,
    {
        let mut norms: Vec<_> = norms.into_iter().collect();
        let running = norms.iter().flat_map(|norm| [&norm.running_mean, &norm.running_var]);
        let old = running.map(Param::val).collect();
        let new = seen.into_iter().flat_map(|BatchStatistics { mean, variance, correction }| {
            [(mean, 1.0), (variance, correction)]
        });
        let mut moved = blend(old, new.collect(), Self::MOMENTUM).into_iter();
        for norm in &mut norms {
            for running in [&mut norm.running_mean, &mut norm.running_var] {
                set_state(running, moved.next().expect("each layer has seen the batch"));
            }
        }
    }
}

/// A placeholder for `ReLU` in a tuple of layers, so that layers have the same numbers as in
/// PyTorch's `nn.Sequential`. The next layer applies the ReLU itself.
#[derive(Module, Clone, Debug)]
pub struct Relu;

/// Casts `tensor` to the precision of `x`.
pub fn like<B: Backend, const D: usize, const E: usize>(
    x: &Tensor<B, E>,
    tensor: Tensor<B, D>,
) -> Tensor<B, D> {
    tensor.cast(x.dtype())
}

/// Returns the bound of PyTorch's uniform initial weights.
fn uniform_bound(fan_in: usize) -> f32 {
    (1.0 / (fan_in as f64).sqrt()) as f32
}

/// Returns 1 for each kernel tap that lies inside a square frame of `size` pixels when the kernel
/// is centred on a pixel.
///
/// # Shapes
/// - output: `[taps, height * width]`
fn taps_inside(kernel: usize, padding: usize, size: usize) -> Vec<f32> {
    let inside = |at: usize, tap: usize| (padding..size + padding).contains(&(at + tap));
    let mut mask = Vec::with_capacity(kernel * kernel * size * size);
    for (row, column) in (0..kernel * kernel).map(|tap| (tap / kernel, tap % kernel)) {
        for y in 0..size {
            mask.extend((0..size).map(|x| f32::from(inside(y, row) && inside(x, column))));
        }
    }
    mask
}
