//! What a burn backend may do better than burn: the networks' operations as one trait, whose defaults are burn's own.
//!
//! `flex` overrides them for CPUs, `autodiff` saves on the way forward what their backward halves need.

use burn::tensor::backend::Backend;
use burn::tensor::ops::{FloatTensor, IntTensor};

use super::{Pool, fallback};

/// How a convolution reads its input.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct ConvSettings {
    /// Zeros around the image.
    pub padding: usize,
    /// Step from one output pixel to the next, in input pixels.
    pub stride: usize,
    /// Whether negative inputs count as zero, as after a ReLU.
    pub relu: bool,
}

/// Which of a layer's gradients are needed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Wanted {
    /// The input's gradient.
    pub x: bool,
    /// The weight's gradient.
    pub weight: bool,
    /// The bias's gradient.
    pub bias: bool,
}

/// A layer's gradients, those that were [`Wanted`].
#[derive(Clone, Debug)]
pub struct Gradients<B: Backend> {
    /// The input's gradient.
    pub x: Option<FloatTensor<B>>,
    /// The weight's gradient.
    pub weight: Option<FloatTensor<B>>,
    /// The bias's gradient.
    pub bias: Option<FloatTensor<B>>,
}

/// A backend with its own way to convolve; what it does not override, burn does.
pub trait ConvBackend: Backend {
    /// Convolves, after a ReLU if the settings say so, and adds `skip` if there is one.
    ///
    /// # Shapes
    /// - `x`: `[batch, in, height, width]`
    /// - `weight`: `[out, in, kernel, kernel]`, `bias`: `[out]`
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

    /// [`fused_conv2d`](Self::fused_conv2d), of which only the windows' maxima are kept.
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

    /// A stage of the IMPALA trunk; see [`impala_stage`](super::impala_stage).
    fn impala_stage(
        x: FloatTensor<Self>,
        layers: [(FloatTensor<Self>, FloatTensor<Self>); 5],
    ) -> FloatTensor<Self> {
        fallback::impala_stage::<Self>(x, layers)
    }

    /// The gradients of [`fused_conv2d`](Self::fused_conv2d), given its output's (`skip`'s
    /// gradient is the output's).
    fn fused_conv2d_backward(
        x: FloatTensor<Self>,
        weight: FloatTensor<Self>,
        gradient: FloatTensor<Self>,
        settings: ConvSettings,
        wanted: Wanted,
    ) -> Gradients<Self> {
        fallback::conv2d_backward::<Self>(x, weight, gradient, settings, wanted)
    }

    /// The transposed convolution of a 2x2 kernel with stride two: doubles the image.
    ///
    /// # Shapes
    /// - `x`: `[batch, in, height, width]`
    /// - `weight`: `[in, out, 2, 2]`, `bias`: `[out]`
    /// - output: `[batch, out, 2 * height, 2 * width]`
    fn double_conv2d(
        x: FloatTensor<Self>,
        weight: FloatTensor<Self>,
        bias: FloatTensor<Self>,
    ) -> FloatTensor<Self> {
        fallback::double_conv2d::<Self>(x, weight, bias)
    }

    /// The gradients of [`double_conv2d`](Self::double_conv2d), given its output's.
    fn double_conv2d_backward(
        x: FloatTensor<Self>,
        weight: FloatTensor<Self>,
        gradient: FloatTensor<Self>,
        wanted: Wanted,
    ) -> Gradients<Self> {
        fallback::double_conv2d_backward::<Self>(x, weight, gradient, wanted)
    }

    /// The maxima of an image's windows, and where they were, for the way back only.
    ///
    /// # Shapes
    /// - `x`: `[batch, channel, height, width]`
    /// - both outputs: `[batch, channel, height', width']`
    fn pool(x: FloatTensor<Self>, pool: Pool) -> (FloatTensor<Self>, IntTensor<Self>) {
        fallback::pool::<Self>(x, pool)
    }

    /// The gradient of [`pool`](Self::pool)'s input.
    fn pool_backward(
        x: FloatTensor<Self>,
        places: IntTensor<Self>,
        gradient: FloatTensor<Self>,
        pool: Pool,
    ) -> FloatTensor<Self> {
        fallback::pool_backward::<Self>(x, places, gradient, pool)
    }

    /// Normalises each channel by the batch's mean and variance, which are returned too.
    ///
    /// # Shapes
    /// - `x` and output: `[batch, channel, height, width]`
    /// - `weight`, `bias`, mean and biased variance: `[channel]`
    fn normalise(
        x: FloatTensor<Self>,
        weight: FloatTensor<Self>,
        bias: FloatTensor<Self>,
        epsilon: f64,
    ) -> Normalised<Self> {
        fallback::normalise::<Self>(x, weight, bias, epsilon)
    }

    /// The gradients of [`normalise`](Self::normalise), given its output's.
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

    /// Scales and shifts each channel of each image; see [`modulate`](super::modulate).
    fn modulate(x: FloatTensor<Self>, by: FloatTensor<Self>) -> FloatTensor<Self> {
        fallback::modulate::<Self>(x, by)
    }

    /// The gradients of [`modulate`](Self::modulate)'s two inputs, given its output's.
    fn modulate_backward(
        x: FloatTensor<Self>,
        by: FloatTensor<Self>,
        gradient: FloatTensor<Self>,
    ) -> [FloatTensor<Self>; 2] {
        fallback::modulate_backward::<Self>(x, by, gradient)
    }

    /// Which code of its book is nearest to each row, the first of equals; no gradient flows through it. Distances are summed from
    /// differences, so that a row's code does not depend on the batch around it.
    ///
    /// # Shapes
    /// - `rows`: `[book, row, dim]`, `codes`: `[book, entry, dim]`
    /// - output: `[book, row]`
    fn nearest(rows: FloatTensor<Self>, codes: FloatTensor<Self>) -> IntTensor<Self> {
        fallback::nearest::<Self>(rows, codes)
    }

    /// Puts `y`'s channels behind `x`'s.
    fn join(x: FloatTensor<Self>, y: FloatTensor<Self>) -> FloatTensor<Self> {
        Self::float_cat(vec![x, y], 1)
    }

    /// The gradients of what was [joined](Self::join), each dense; `channels` is how many `x` has.
    fn join_backward(gradient: FloatTensor<Self>, channels: usize) -> [FloatTensor<Self>; 2] {
        fallback::join_backward::<Self>(gradient, channels)
    }

    /// The hyperbolic tangent.
    fn fast_tanh(x: FloatTensor<Self>) -> FloatTensor<Self> {
        Self::float_tanh(x)
    }

    /// The gradient of [`fast_tanh`](Self::fast_tanh)'s input, given its output.
    fn fast_tanh_backward(
        out: FloatTensor<Self>,
        gradient: FloatTensor<Self>,
    ) -> FloatTensor<Self> {
        fallback::tanh_backward::<Self>(out, gradient)
    }
}

/// What [`ConvBackend::normalise`] returns.
#[derive(Clone, Debug)]
pub struct Normalised<B: Backend> {
    /// The normalised values.
    pub out: FloatTensor<B>,
    /// Each channel's mean; no gradient flows through it.
    pub mean: FloatTensor<B>,
    /// Each channel's biased variance; no gradient flows through it.
    pub variance: FloatTensor<B>,
}
