//! The layers' heavy operations, fast on CPUs: the burn backends we use, extended.
//!
//! In: `Tensor<B, 4>` of any backend `B: ConvBackend`, with or without autodiff. Out: what
//! burn's own operations give, to rounding. Start at [`conv2d`]; [`ConvBackend`] lists what a
//! backend may do better, and by default leaves to burn.
//!
//! On flex, the CPU backend, [`plane`] lays images out as lines, [`convolve`] convolves lines and [`correlate`] sums up their weights'
//! gradients, [`batch`] and [`gradients`] spread a batch over the cores, and [`stage`] takes images through five layers at a time, for
//! inference; [`flex`] and [`autodiff`] tie that to burn. Results are bitwise the same for any number of threads: how sums are split
//! depends on shapes alone.

mod autodiff;
mod backend;
mod batch;
mod buffer;
mod convolve;
mod correlate;
mod fallback;
mod flex;
mod gradients;
mod modulate;
mod norm;
mod plane;
mod pool;
mod simd;
mod stage;
mod tanh;
mod whole;

use burn::tensor::backend::Backend;
use burn::tensor::ops::FloatTensor;
use burn::tensor::{Int, Tensor, TensorPrimitive};

pub use backend::{ConvBackend, ConvSettings, Gradients, Normalised, Wanted};
pub use pool::Pool;

#[cfg(feature = "cuda")]
impl ConvBackend for super::gpu::Gpu {}

/// Convolves images.
///
/// # Shapes
/// - `x`: `[batch, in, height, width]`
/// - `weight`: `[out, in, kernel, kernel]`, `bias`: `[out]`
/// - output: `[batch, out, height', width']`, where
///   `height' = (height + 2 * padding - kernel) / stride + 1`
pub fn conv2d<B: ConvBackend>(
    x: Tensor<B, 4>,
    weight: Tensor<B, 4>,
    bias: Option<Tensor<B, 1>>,
    padding: usize,
    stride: usize,
) -> Tensor<B, 4> {
    let settings = ConvSettings { padding, stride, relu: false };
    fused(x, weight, bias, None, settings)
}

/// `conv2d(relu(x))` with stride one, without writing `relu(x)` down.
///
/// # Shapes
/// As [`conv2d`].
pub fn relu_conv2d<B: ConvBackend>(
    x: Tensor<B, 4>,
    weight: Tensor<B, 4>,
    bias: Option<Tensor<B, 1>>,
    padding: usize,
) -> Tensor<B, 4> {
    fused(x, weight, bias, None, ConvSettings { padding, stride: 1, relu: true })
}

/// `skip + conv2d(relu(x))` with stride one: the end of a residual block.
///
/// # Shapes
/// As [`conv2d`]; `skip` is shaped like the output.
pub fn relu_conv2d_add<B: ConvBackend>(
    x: Tensor<B, 4>,
    weight: Tensor<B, 4>,
    bias: Option<Tensor<B, 1>>,
    padding: usize,
    skip: Tensor<B, 4>,
) -> Tensor<B, 4> {
    fused(x, weight, bias, Some(skip), ConvSettings { padding, stride: 1, relu: true })
}

/// The maxima of a convolution's output, of which nothing else is written down unless a gradient is to flow through it.
///
/// # Shapes
/// As [`conv2d`]; `skip` is shaped like the output before pooling, of which [`Pool::output`] says what remains.
pub fn pooled_conv2d<B: ConvBackend>(
    x: Tensor<B, 4>,
    weight: Tensor<B, 4>,
    bias: Tensor<B, 1>,
    skip: Option<Tensor<B, 4>>,
    settings: ConvSettings,
    pool: Pool,
) -> Tensor<B, 4> {
    from_float(B::pooled_conv2d(
        into_float(x),
        into_float(weight),
        into_float(bias),
        skip.map(into_float),
        settings,
        pool,
    ))
}

/// A stage of the IMPALA trunk: a convolution, of which every second maximum of 3x3 is kept, and two residual blocks
/// `x + conv(relu(conv(relu(x))))`. `layers` are the five convolutions' weights and biases; all have a kernel of three and keep the size.
///
/// # Shapes
/// - `x`: `[batch, in, height, width]`
/// - weights: `[out, in, 3, 3]`, then `[out, out, 3, 3]`; biases: `[out]`
/// - output: `[batch, out, height / 2, width / 2]`
pub fn impala_stage<B: ConvBackend>(
    x: Tensor<B, 4>,
    layers: [(Tensor<B, 4>, Tensor<B, 1>); 5],
) -> Tensor<B, 4> {
    from_float(B::impala_stage(
        into_float(x),
        layers.map(|(weight, bias)| (into_float(weight), into_float(bias))),
    ))
}

/// Transposed convolution of a 2x2 kernel with stride two: doubles the image.
///
/// # Shapes
/// - `x`: `[batch, in, height, width]`
/// - `weight`: `[in, out, 2, 2]`, `bias`: `[out]`
/// - output: `[batch, out, 2 * height, 2 * width]`
pub fn double_conv2d<B: ConvBackend>(
    x: Tensor<B, 4>,
    weight: Tensor<B, 4>,
    bias: Option<Tensor<B, 1>>,
) -> Tensor<B, 4> {
    let [_, outputs, ..] = weight.dims();
    let bias = bias.unwrap_or_else(|| Tensor::zeros([outputs], &x.device()));
    from_float(B::double_conv2d(into_float(x), into_float(weight), into_float(bias)))
}

/// Puts `y`'s channels behind `x`'s.
///
/// # Shapes
/// - `x`, `y`: `[batch, channel, height, width]`
pub fn join<B: ConvBackend>(x: Tensor<B, 4>, y: Tensor<B, 4>) -> Tensor<B, 4> {
    from_float(B::join(into_float(x), into_float(y)))
}

/// Which code of its book is nearest to each row, the first of equals; no gradient flows through it.
///
/// # Shapes
/// - `rows`: `[book, row, dim]`, `codes`: `[book, entry, dim]`
/// - output: `[book, row]`
pub fn nearest<B: ConvBackend>(rows: Tensor<B, 3>, codes: Tensor<B, 3>) -> Tensor<B, 2, Int> {
    Tensor::from_primitive(B::nearest(into_float(rows), into_float(codes)))
}

/// Normalises each channel by the batch's own mean and variance: batch normalisation in training.
///
/// Returns the output, and the mean and the biased variance for running statistics; no gradient
/// flows through these two.
///
/// # Shapes
/// - `x` and output: `[batch, channel, height, width]`
/// - `weight`, `bias`, mean and variance: `[channel]`
pub fn batch_norm<B: ConvBackend>(
    x: Tensor<B, 4>,
    weight: Tensor<B, 1>,
    bias: Tensor<B, 1>,
    epsilon: f64,
) -> (Tensor<B, 4>, Tensor<B, 1>, Tensor<B, 1>) {
    let found = B::normalise(into_float(x), into_float(weight), into_float(bias), epsilon);
    let Normalised { out, mean, variance } = found;
    (from_float(out), from_float(mean), from_float(variance))
}

/// Scales and shifts each channel of each image: `x * (1 + by[..channel]) + by[channel..]`.
///
/// # Shapes
/// - `x` and output: `[batch, channel, height, width]`
/// - `by`: `[batch, 2 * channel]`
pub fn modulate<B: ConvBackend>(x: Tensor<B, 4>, by: Tensor<B, 2>) -> Tensor<B, 4> {
    from_float(B::modulate(into_float(x), into_float(by)))
}

/// The hyperbolic tangent, right to 5e-7 of its value.
pub fn tanh<B: ConvBackend, const D: usize>(x: Tensor<B, D>) -> Tensor<B, D> {
    from_float(B::fast_tanh(into_float(x)))
}

fn fused<B: ConvBackend>(
    x: Tensor<B, 4>,
    weight: Tensor<B, 4>,
    bias: Option<Tensor<B, 1>>,
    skip: Option<Tensor<B, 4>>,
    settings: ConvSettings,
) -> Tensor<B, 4> {
    let [outputs, ..] = weight.dims();
    let bias = bias.unwrap_or_else(|| Tensor::zeros([outputs], &x.device()));
    from_float(B::fused_conv2d(
        into_float(x),
        into_float(weight),
        into_float(bias),
        skip.map(into_float),
        settings,
    ))
}

fn into_float<B: Backend, const D: usize>(tensor: Tensor<B, D>) -> FloatTensor<B> {
    tensor.into_primitive().tensor()
}

fn from_float<B: Backend, const D: usize>(primitive: FloatTensor<B>) -> Tensor<B, D> {
    Tensor::from_primitive(TensorPrimitive::Float(primitive))
}

#[cfg(test)]
mod tests;
