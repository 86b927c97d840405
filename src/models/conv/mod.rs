//! The heavy operations of the layers, fast on CPUs: an extension of burn's backends.
//!
//! They work on `Tensor<B, 4>` of any backend `B: ConvBackend`, with or without autodiff, and agree
//! with burn's own operations up to rounding. Start at [`conv2d`]. [`ConvBackend`] lists the
//! operations that a backend can override; by default burn computes them.
//!
//! On flex, the CPU backend:
//!
//! | file | content |
//! |---|---|
//! | `plane` | lays out images as lines |
//! | `convolve` | convolves lines (SIMD kernel) |
//! | `correlate` | gradients of weight and bias (SIMD kernel) |
//! | `batch`, `gradients` | distribute a batch over the cores, forward and backward |
//! | `stage` | runs five layers on a few images at a time, for inference |
//! | `supported` | decides which inputs the fast operations support |
//! | `flex`, `autodiff` | connect all this to burn |
//!
//! **Invariant:** results are bitwise identical for any number of threads. Only shapes decide how
//! sums are split.

mod autodiff;
mod backend;
mod batch;
mod buffer;
mod convolve;
mod correlate;
#[cfg(any(feature = "cuda", feature = "vulkan"))]
pub mod cube;
mod fallback;
mod flex;
mod full_kernel;
mod gradients;
mod modulate;
mod norm;
mod plane;
mod pool;
mod simd;
mod stage;
mod supported;
mod tanh;

use burn::tensor::backend::Backend;
use burn::tensor::ops::FloatTensor;
use burn::tensor::{Int, Tensor, TensorPrimitive};

pub use backend::{ConvBackend, ConvSettings, Gradients, Layer, Normalised, Wanted};
pub use pool::Pool;

/// Convolves images.
///
/// # Shapes
/// - `x`: `[batch, in, height, width]`
/// - `weight`: `[out, in, kernel, kernel]`
/// - `bias`: `[out]`
/// - output: `[batch, out, height', width']`, with
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

/// Computes `conv2d(relu(x))` with stride one, without storing `relu(x)`.
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

/// Computes `skip + conv2d(relu(x))` with stride one: the end of a residual block.
///
/// # Shapes
/// As [`conv2d`]; `skip` has the shape of the output.
pub fn relu_conv2d_add<B: ConvBackend>(
    x: Tensor<B, 4>,
    weight: Tensor<B, 4>,
    bias: Option<Tensor<B, 1>>,
    padding: usize,
    skip: Tensor<B, 4>,
) -> Tensor<B, 4> {
    fused(x, weight, bias, Some(skip), ConvSettings { padding, stride: 1, relu: true })
}

/// Convolves and takes the maximum of each pooling window. The full output is stored only if a
/// gradient flows through it.
///
/// # Shapes
/// As [`conv2d`]. `skip` has the shape of the output before pooling; [`Pool::output`] gives the
/// final size.
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

/// Runs a residual block `x + conv(relu(conv(relu(x))))`, and applies a ReLU to its output if
/// `relu`. `layers` are the weights and biases of its convolutions, both with kernel 3 and
/// padding 1.
///
/// # Shapes
/// - `x` and output: `[batch, channel, height, width]`
/// - weights: `[inner, channel, 3, 3]` and `[channel, inner, 3, 3]`
/// - biases: `[inner]` and `[channel]`
pub fn residual<B: ConvBackend>(
    x: Tensor<B, 4>,
    layers: [(Tensor<B, 4>, Tensor<B, 1>); 2],
    relu: bool,
) -> Tensor<B, 4> {
    from_float(B::residual(into_float(x), layers.map(into_layer), relu))
}

/// Runs a [`residual`] block, takes the maximum of each 2x2 square, and applies a ReLU.
///
/// # Shapes
/// As [`residual`], with an output of `[batch, channel, height / 2, width / 2]`
pub fn residual_halved<B: ConvBackend>(
    x: Tensor<B, 4>,
    layers: [(Tensor<B, 4>, Tensor<B, 1>); 2],
) -> Tensor<B, 4> {
    from_float(B::residual_halved(into_float(x), layers.map(into_layer)))
}

/// Runs a stage of the IMPALA trunk: a convolution, a 3x3 max pooling with stride two, and two
/// residual blocks `x + conv(relu(conv(relu(x))))`. `layers` are the weights and biases of the five
/// convolutions, all with kernel 3 and padding 1.
///
/// # Shapes
/// - `x`: `[batch, in, height, width]`
/// - weights: `[out, in, 3, 3]`, then `[out, out, 3, 3]`
/// - biases: `[out]`
/// - output: `[batch, out, height / 2, width / 2]`, rounded up
pub fn impala_stage<B: ConvBackend>(
    x: Tensor<B, 4>,
    layers: [(Tensor<B, 4>, Tensor<B, 1>); 5],
) -> Tensor<B, 4> {
    from_float(B::impala_stage(into_float(x), layers.map(into_layer)))
}

/// Doubles images with a transposed convolution: kernel 2, stride 2.
///
/// # Shapes
/// - `x`: `[batch, in, height, width]`
/// - `weight`: `[in, out, 2, 2]`
/// - `bias`: `[out]`
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

/// Multiplies matrices. Use it instead of [`Tensor::matmul`], which is wrong on GPUs for some
/// sizes: see `cube::product`.
///
/// # Shapes
/// - `a`: `[.., m, k]`; `b`: `[.., k, n]`, with the same dimensions in front
/// - output: `[.., m, n]`
pub fn matmul<B: ConvBackend, const D: usize>(a: Tensor<B, D>, b: Tensor<B, D>) -> Tensor<B, D> {
    from_float(B::matmul(into_float(a), into_float(b)))
}

/// Concatenates the channels of `x` and `y`.
///
/// # Shapes
/// - `x`, `y`: `[batch, channel, height, width]`
/// - output: `[batch, channels of x and y, height, width]`
pub fn join<B: ConvBackend>(x: Tensor<B, 4>, y: Tensor<B, 4>) -> Tensor<B, 4> {
    from_float(B::join(into_float(x), into_float(y)))
}

/// Returns the index of the nearest code for each row, the first one in case of a tie. No gradient
/// flows through it.
///
/// # Shapes
/// - `rows`: `[book, row, dim]`
/// - `codes`: `[book, entry, dim]`
/// - output: `[book, row]`
pub fn nearest<B: ConvBackend>(rows: Tensor<B, 3>, codes: Tensor<B, 3>) -> Tensor<B, 2, Int> {
    Tensor::from_primitive(B::nearest(into_float(rows), into_float(codes)))
}

/// Normalises each channel by the mean and variance of the batch: batch normalisation in training.
///
/// Returns the output, the mean and the biased variance. No gradient flows through the latter two,
/// which serve as running statistics.
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

/// Moves each of `old` by `share` of its way to the new value times a factor. No gradient flows.
///
/// # Shapes
/// - `old` and `new`: pairs of flat tensors
pub fn blend<B: ConvBackend>(
    old: Vec<Tensor<B, 1>>,
    new: Vec<(Tensor<B, 1>, f64)>,
    share: f64,
) -> Vec<Tensor<B, 1>> {
    let old = old.into_iter().map(into_float).collect();
    let new = new.into_iter().map(|(new, factor)| (into_float(new), factor)).collect();
    B::blend(old, new, share).into_iter().map(from_float).collect()
}

/// Computes `max(x, 0)` elementwise.
pub fn relu<B: ConvBackend, const D: usize>(x: Tensor<B, D>) -> Tensor<B, D> {
    from_float(B::rectify(into_float(x)))
}

/// Computes the hyperbolic tangent with a relative error below 5e-7.
pub fn tanh<B: ConvBackend, const D: usize>(x: Tensor<B, D>) -> Tensor<B, D> {
    from_float(B::fast_tanh(into_float(x)))
}

fn into_layer<B: ConvBackend>((weight, bias): (Tensor<B, 4>, Tensor<B, 1>)) -> Layer<B> {
    (into_float(weight), into_float(bias))
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
