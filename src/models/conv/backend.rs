//! The operations that a burn backend can override. Their defaults use burn's own operations.
//!
//! `flex` overrides them for CPUs. `autodiff` saves during the forward pass the tensors that the
//! backward operations need.

use burn::tensor::DType;
use burn::tensor::backend::Backend;
use burn::tensor::ops::{FloatTensor, IntTensor};

use super::fallback::{BLOCK, SQUARES};
use super::{Pool, fallback};

/// Settings of a convolution.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct ConvSettings {
    /// Width of the border of zeros around the image.
    pub padding: usize,
    /// Distance between two output pixels, in input pixels.
    pub stride: usize,
    /// Applies a ReLU to the input first.
    pub relu: bool,
}

/// The gradients of a layer to compute.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Wanted {
    /// Gradient of the input.
    pub x: bool,
    /// Gradient of the weight.
    pub weight: bool,
    /// Gradient of the bias.
    pub bias: bool,
}

/// The gradients of a layer: those that [`Wanted`] selects.
#[derive(Clone, Debug)]
pub struct Gradients<B: Backend> {
    /// Gradient of the input.
    pub x: Option<FloatTensor<B>>,
    /// Gradient of the weight.
    pub weight: Option<FloatTensor<B>>,
    /// Gradient of the bias.
    pub bias: Option<FloatTensor<B>>,
}

/// Weight and bias of a convolution.
pub type Layer<B> = (FloatTensor<B>, FloatTensor<B>);

/// A backend with its own convolutions. burn computes the operations that it does not override.
pub trait ConvBackend: Backend {
    /// Whether this machine's CPU computes: tensors lie in the host's memory, and every thread
    /// computes by itself. A GPU computes what the threads queue, and each thread has a queue.
    const IS_CPU: bool = false;

    /// Convolves, with a ReLU before according to the settings, and adds `skip` if present.
    ///
    /// # Shapes
    /// - `x`: `[batch, in, height, width]`
    /// - `weight`: `[out, in, kernel, kernel]`
    /// - `bias`: `[out]`
    /// - `skip` and output: `[batch, out, height', width']`
    fn fused_conv2d(
        x: FloatTensor<Self>,
        weight: FloatTensor<Self>,
        bias: FloatTensor<Self>,
        skip: Option<FloatTensor<Self>>,
        settings: ConvSettings,
    ) -> FloatTensor<Self> {
        fallback::conv2d::<Self>(x, weight, bias, skip, settings)
    }

    /// Computes [`fused_conv2d`](Self::fused_conv2d) and keeps only the maxima of the pooling
    /// windows.
    ///
    /// # Shapes
    /// As the function `pooled_conv2d` of this module.
    fn pooled_conv2d(
        x: FloatTensor<Self>,
        weight: FloatTensor<Self>,
        bias: FloatTensor<Self>,
        skip: Option<FloatTensor<Self>>,
        settings: ConvSettings,
        pool: Pool,
    ) -> FloatTensor<Self> {
        Self::pool(Self::fused_conv2d(x, weight, bias, skip, settings), pool).0
    }

    /// Runs a residual block, and applies a ReLU to its output if `relu`.
    ///
    /// # Shapes
    /// As [`residual`](super::residual).
    fn residual(x: FloatTensor<Self>, layers: [Layer<Self>; 2], relu: bool) -> FloatTensor<Self> {
        Self::residual_with_inner(x, layers, relu).0
    }

    /// Runs a residual block, takes the maximum of each 2x2 square, and applies a ReLU.
    ///
    /// # Shapes
    /// As [`residual_halved`](super::residual_halved).
    fn residual_halved(x: FloatTensor<Self>, layers: [Layer<Self>; 2]) -> FloatTensor<Self> {
        let [(weight, bias), last] = layers;
        let inner = Self::fused_conv2d(x.clone(), weight, bias, None, BLOCK);
        Self::rectify(Self::pooled_conv2d(inner, last.0, last.1, Some(x), BLOCK, SQUARES))
    }

    /// Runs a residual block. Returns its output, and that of its first convolution, before or behind
    /// the ReLU.
    fn residual_with_inner(
        x: FloatTensor<Self>,
        layers: [Layer<Self>; 2],
        relu: bool,
    ) -> (FloatTensor<Self>, FloatTensor<Self>) {
        let [(weight, bias), last] = layers;
        let inner = Self::fused_conv2d(x.clone(), weight, bias, None, BLOCK);
        let out = Self::fused_conv2d(inner.clone(), last.0, last.1, Some(x), BLOCK);
        (if relu { Self::rectify(out) } else { out }, inner)
    }

    /// Takes the maximum of each 2x2 square and applies a ReLU.
    ///
    /// # Shapes
    /// - `x`: `[batch, channel, height, width]`, both even
    /// - output: `[batch, channel, height / 2, width / 2]`
    fn halve(x: FloatTensor<Self>) -> FloatTensor<Self> {
        Self::rectify(Self::pool(x, SQUARES).0)
    }

    /// Returns the gradient of the input of [`halve`](Self::halve). The first maximum of a square
    /// has all of it.
    fn halve_backward(x: FloatTensor<Self>, gradient: FloatTensor<Self>) -> FloatTensor<Self> {
        let (out, indices) = Self::pool(x.clone(), SQUARES);
        Self::pool_backward(x, indices, Self::rectify_backward(out, gradient), SQUARES)
    }

    /// Returns the gradients of a residual block's input, and of weight and bias of its two
    /// convolutions, for the gradient of its output.
    fn residual_backward(
        x: FloatTensor<Self>,
        inner: FloatTensor<Self>,
        weights: [FloatTensor<Self>; 2],
        gradient: FloatTensor<Self>,
    ) -> [FloatTensor<Self>; 5] {
        fallback::residual_backward::<Self>(x, inner, weights, gradient)
    }

    /// Runs a stage of the IMPALA trunk.
    ///
    /// # Shapes
    /// As [`impala_stage`](super::impala_stage).
    fn impala_stage(x: FloatTensor<Self>, layers: [Layer<Self>; 5]) -> FloatTensor<Self> {
        fallback::impala_stage::<Self>(x, layers)
    }

    /// Returns the gradients of [`fused_conv2d`](Self::fused_conv2d) for the gradient of its
    /// output. The gradient of `skip` equals the latter.
    fn fused_conv2d_backward(
        x: FloatTensor<Self>,
        weight: FloatTensor<Self>,
        gradient: FloatTensor<Self>,
        settings: ConvSettings,
        wanted: Wanted,
    ) -> Gradients<Self> {
        fallback::conv2d_backward::<Self>(x, weight, gradient, settings, wanted)
    }

    /// Doubles images with a transposed convolution: kernel 2, stride 2.
    ///
    /// # Shapes
    /// As the function `double_conv2d` of this module.
    fn double_conv2d(
        x: FloatTensor<Self>,
        weight: FloatTensor<Self>,
        bias: FloatTensor<Self>,
    ) -> FloatTensor<Self> {
        fallback::double_conv2d::<Self>(x, weight, bias)
    }

    /// Returns the gradients of [`double_conv2d`](Self::double_conv2d) for the gradient of its
    /// output.
    fn double_conv2d_backward(
        x: FloatTensor<Self>,
        weight: FloatTensor<Self>,
        gradient: FloatTensor<Self>,
        wanted: Wanted,
    ) -> Gradients<Self> {
        fallback::double_conv2d_backward::<Self>(x, weight, gradient, wanted)
    }

    /// Returns the maxima of the pooling windows and their indices within the windows. Only
    /// [`pool_backward`](Self::pool_backward) reads the indices.
    ///
    /// # Shapes
    /// - `x`: `[batch, channel, height, width]`
    /// - both outputs: `[batch, channel, height', width']`
    fn pool(x: FloatTensor<Self>, pool: Pool) -> (FloatTensor<Self>, IntTensor<Self>) {
        fallback::pool::<Self>(x, pool)
    }

    /// Returns the gradient of the input of [`pool`](Self::pool).
    fn pool_backward(
        x: FloatTensor<Self>,
        indices: IntTensor<Self>,
        gradient: FloatTensor<Self>,
        pool: Pool,
    ) -> FloatTensor<Self> {
        fallback::pool_backward::<Self>(x, indices, gradient, pool)
    }

    /// Normalises each channel by the mean and variance of the batch, and returns these as well.
    ///
    /// # Shapes
    /// - `x` and output: `[batch, channel, height, width]`, in any precision
    /// - `weight`, `bias`, mean and biased variance: `[channel]`, in f32
    fn normalise(
        x: FloatTensor<Self>,
        weight: FloatTensor<Self>,
        bias: FloatTensor<Self>,
        epsilon: f64,
    ) -> Normalised<Self> {
        fallback::normalise::<Self>(x, weight, bias, epsilon)
    }

    /// Returns the gradients of [`normalise`](Self::normalise) for the gradient of its output.
    fn normalise_backward(
        x: FloatTensor<Self>,
        weight: FloatTensor<Self>,
        mean: FloatTensor<Self>,
        variance: FloatTensor<Self>,
        gradient: FloatTensor<Self>,
        epsilon: f64,
    ) -> Gradients<Self> {
        fallback::normalise_backward::<Self>(x, weight, [mean, variance], gradient, epsilon)
    }

    /// Scales and shifts each channel of each image.
    ///
    /// # Shapes
    /// As [`modulate`](super::modulate).
    fn modulate(x: FloatTensor<Self>, by: FloatTensor<Self>) -> FloatTensor<Self> {
        fallback::modulate::<Self>(x, by)
    }

    /// Returns the gradients of both inputs of [`modulate`](Self::modulate) for the gradient of its
    /// output.
    fn modulate_backward(
        x: FloatTensor<Self>,
        by: FloatTensor<Self>,
        gradient: FloatTensor<Self>,
    ) -> [FloatTensor<Self>; 2] {
        fallback::modulate_backward::<Self>(x, by, gradient)
    }

    /// Returns the index of the nearest code for each row, the first one in case of a tie. No
    /// gradient flows through it. Distances are sums of squared differences, so the code of a row
    /// does not depend on the rest of the batch.
    ///
    /// # Shapes
    /// As [`nearest`](super::nearest).
    fn nearest(rows: FloatTensor<Self>, codes: FloatTensor<Self>) -> IntTensor<Self> {
        fallback::nearest::<Self>(rows, codes)
    }

    /// Returns parameters in another precision, or as they are if casting them at once is no faster.
    fn cast_all(parameters: Vec<FloatTensor<Self>>, dtype: DType) -> Vec<FloatTensor<Self>> {
        _ = dtype;
        parameters
    }

    /// Moves each of `old` by `share` of its way to the new value times a factor.
    ///
    /// # Shapes
    /// As [`blend`](super::blend).
    fn blend(
        old: Vec<FloatTensor<Self>>,
        new: Vec<(FloatTensor<Self>, f64)>,
        share: f64,
    ) -> Vec<FloatTensor<Self>> {
        fallback::blend::<Self>(old, new, share)
    }

    /// Returns all of `new`, or all of `old` if `scale` is NaN.
    ///
    /// # Shapes
    /// - `old` and `new`: any; `scale`: `[1]`
    fn choose(
        old: Vec<FloatTensor<Self>>,
        new: Vec<FloatTensor<Self>>,
        scale: FloatTensor<Self>,
    ) -> Vec<FloatTensor<Self>> {
        fallback::choose::<Self>(old, new, scale)
    }

    /// Multiplies matrices.
    ///
    /// # Shapes
    /// As [`matmul`](super::matmul).
    fn matmul(a: FloatTensor<Self>, b: FloatTensor<Self>) -> FloatTensor<Self> {
        Self::float_matmul(a, b)
    }

    /// Concatenates the channels of `x` and `y`.
    ///
    /// # Shapes
    /// As [`join`](super::join).
    fn join(x: FloatTensor<Self>, y: FloatTensor<Self>) -> FloatTensor<Self> {
        Self::float_cat(vec![x, y], 1)
    }

    /// Returns the gradients of both inputs of [`join`](Self::join) as contiguous tensors.
    /// `channels` is the number of channels of `x`.
    fn join_backward(gradient: FloatTensor<Self>, channels: usize) -> [FloatTensor<Self>; 2] {
        fallback::join_backward::<Self>(gradient, channels)
    }

    /// Computes `max(x, 0)`.
    fn rectify(x: FloatTensor<Self>) -> FloatTensor<Self> {
        Self::relu(x)
    }

    /// Returns the gradient of the input of [`rectify`](Self::rectify), from its output.
    fn rectify_backward(out: FloatTensor<Self>, gradient: FloatTensor<Self>) -> FloatTensor<Self> {
        Self::relu_backward(out, gradient)
    }

    /// Computes the hyperbolic tangent.
    fn fast_tanh(x: FloatTensor<Self>) -> FloatTensor<Self> {
        Self::float_tanh(x)
    }

    /// Returns the gradient of the input of [`fast_tanh`](Self::fast_tanh), from its output.
    fn fast_tanh_backward(
        out: FloatTensor<Self>,
        gradient: FloatTensor<Self>,
    ) -> FloatTensor<Self> {
        fallback::tanh_backward::<Self>(out, gradient)
    }
}

/// The result of [`ConvBackend::normalise`].
#[derive(Clone, Debug)]
pub struct Normalised<B: Backend> {
    /// The normalised values.
    pub out: FloatTensor<B>,
    /// Mean of each channel; no gradient flows through it.
    pub mean: FloatTensor<B>,
    /// Biased variance of each channel; no gradient flows through it.
    pub variance: FloatTensor<B>,
}
