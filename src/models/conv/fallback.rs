//! The operations in terms of burn's own, for other backends and for shapes and types without a
//! fast version.

use burn::tensor::backend::Backend;
use burn::tensor::ops::{ConvOptions, ConvTransposeOptions, FloatTensor, IntTensor};
use burn::tensor::{DType, Shape, Tensor, TensorMetadata};

use super::stage::HALVE;
use super::{
    ConvBackend, ConvSettings, Gradients, Normalised, Pool, Wanted, from_float, full_kernel,
    into_float,
};

/// See [`ConvBackend::fused_conv2d`](super::ConvBackend::fused_conv2d).
pub(super) fn conv2d<B: ConvBackend>(
    x: FloatTensor<B>,
    weight: FloatTensor<B>,
    bias: FloatTensor<B>,
    skip: Option<FloatTensor<B>>,
    settings: ConvSettings,
) -> FloatTensor<B> {
    let out = if full_kernel::covers::<B>(&x, &weight, settings) {
        full_kernel::conv2d::<B>(x, weight, bias)
    } else {
        let x = if settings.relu { B::relu(x) } else { x };
        B::conv2d(x, weight, Some(bias), options(settings))
    };
    match skip {
        Some(skip) => B::float_add(skip, out),
        None => out,
    }
}

/// See [`ConvBackend::fused_conv2d_backward`](super::ConvBackend::fused_conv2d_backward).
pub(super) fn conv2d_backward<B: ConvBackend>(
    x: FloatTensor<B>,
    weight: FloatTensor<B>,
    gradient: FloatTensor<B>,
    settings: ConvSettings,
    wanted: Wanted,
) -> Gradients<B> {
    if full_kernel::covers::<B>(&x, &weight, settings) {
        return full_kernel::conv2d_backward::<B>(x, weight, gradient, wanted);
    }
    let x = if settings.relu { B::relu(x) } else { x };
    Gradients {
        x: wanted.x.then(|| {
            let options = options(settings);
            let dx = B::conv2d_x_backward(x.clone(), weight.clone(), gradient.clone(), options);
            if settings.relu { B::relu_backward(x.clone(), dx) } else { dx }
        }),
        weight: wanted.weight.then(|| {
            let options = options(settings);
            B::conv2d_weight_backward(x.clone(), weight, gradient.clone(), options)
        }),
        bias: wanted.bias.then(|| sum_channels::<B>(gradient)),
    }
}

/// See [`ConvBackend::double_conv2d`](super::ConvBackend::double_conv2d).
pub(super) fn double_conv2d<B: ConvBackend>(
    x: FloatTensor<B>,
    weight: FloatTensor<B>,
    bias: FloatTensor<B>,
) -> FloatTensor<B> {
    if full_kernel::is_pixel::<B>(&x) {
        full_kernel::double::<B>(x, weight, bias)
    } else {
        B::conv_transpose2d(x, weight, Some(bias), double_options())
    }
}

/// See [`ConvBackend::double_conv2d_backward`](super::ConvBackend::double_conv2d_backward).
pub(super) fn double_conv2d_backward<B: ConvBackend>(
    x: FloatTensor<B>,
    weight: FloatTensor<B>,
    gradient: FloatTensor<B>,
    wanted: Wanted,
) -> Gradients<B> {
    if full_kernel::is_pixel::<B>(&x) {
        return full_kernel::double_backward::<B>(x, weight, gradient, wanted);
    }
    Gradients {
        x: wanted.x.then(|| {
            let options = double_options();
            B::conv_transpose2d_x_backward(weight.clone(), gradient.clone(), options)
        }),
        weight: wanted.weight.then(|| {
            let options = double_options();
            B::conv_transpose2d_weight_backward(x, weight, gradient.clone(), options)
        }),
        bias: wanted.bias.then(|| sum_channels::<B>(gradient)),
    }
}

fn double_options() -> ConvTransposeOptions<2> {
    ConvTransposeOptions::new([2, 2], [0, 0], [0, 0], [1, 1], 1)
}

/// See [`impala_stage`](super::impala_stage).
pub(super) fn impala_stage<B: ConvBackend>(
    x: FloatTensor<B>,
    layers: [(FloatTensor<B>, FloatTensor<B>); 5],
) -> FloatTensor<B> {
    // The first convolution reads its input unchanged.
    let settings = ConvSettings { relu: false, ..BLOCK };
    let [(weight, bias), a, b, c, d] = layers;
    let x = B::pooled_conv2d(x, weight, bias, None, settings, HALVE);
    [[a, b], [c, d]].into_iter().fold(x, |x, layers| B::residual(x, layers, false))
}

/// The convolutions of a residual block.
pub(super) const BLOCK: ConvSettings = ConvSettings { padding: 1, stride: 1, relu: true };
/// Squares of 2x2.
pub(super) const SQUARES: Pool = Pool { kernel: 2, stride: 2, padding: 0 };

/// See [`ConvBackend::residual_backward`](super::ConvBackend::residual_backward).
pub(super) fn residual_backward<B: ConvBackend>(
    x: FloatTensor<B>,
    inner: FloatTensor<B>,
    weights: [FloatTensor<B>; 2],
    gradient: FloatTensor<B>,
) -> [FloatTensor<B>; 5] {
    let all = Wanted { x: true, weight: true, bias: true };
    let [first, last] = weights;
    let layer = |x, weight, gradient| {
        let found = B::fused_conv2d_backward(x, weight, gradient, BLOCK, all);
        [found.x, found.weight, found.bias].map(|found| found.expect("all gradients are wanted"))
    };
    let [d_inner, last_weight, last_bias] = layer(inner, last, gradient.clone());
    let [dx, weight, bias] = layer(x, first, d_inner);
    // The sum passes its gradient on unchanged.
    [B::float_add(gradient, dx), weight, bias, last_weight, last_bias]
}

/// See [`ConvBackend::blend`](super::ConvBackend::blend).
pub(super) fn blend<B: Backend>(
    old: Vec<FloatTensor<B>>,
    new: Vec<(FloatTensor<B>, f64)>,
    share: f64,
) -> Vec<FloatTensor<B>> {
    let pairs = old.into_iter().zip(new);
    let blend = |(old, (new, factor)): (FloatTensor<B>, (FloatTensor<B>, f64))| {
        let new = from_float::<B, 1>(new) * factor;
        into_float(from_float::<B, 1>(old) * (1.0 - share) + new * share)
    };
    pairs.map(blend).collect()
}

/// See [`ConvBackend::choose`](super::ConvBackend::choose).
pub(super) fn choose<B: Backend>(
    old: Vec<FloatTensor<B>>,
    new: Vec<FloatTensor<B>>,
    scale: FloatTensor<B>,
) -> Vec<FloatTensor<B>> {
    let skipped = from_float::<B, 1>(scale).is_nan();
    let choose = |(old, new): (FloatTensor<B>, FloatTensor<B>)| {
        let shape = new.shape();
        let [old, new] =
            [old, new].map(|tensor| B::float_reshape(tensor, Shape::new([shape.num_elements()])));
        let chosen = from_float::<B, 1>(new).mask_where(skipped.clone(), from_float(old));
        B::float_reshape(into_float(chosen), shape)
    };
    old.into_iter().zip(new).map(choose).collect()
}

/// See [`ConvBackend::pool`](super::ConvBackend::pool).
pub(super) fn pool<B: Backend>(x: FloatTensor<B>, pool: Pool) -> (FloatTensor<B>, IntTensor<B>) {
    let Pool { kernel, stride, padding } = pool;
    let found =
        B::max_pool2d_with_indices(x, [kernel; 2], [stride; 2], [padding; 2], [1; 2], false);
    (found.output, found.indices)
}

/// See [`ConvBackend::pool_backward`](super::ConvBackend::pool_backward).
pub(super) fn pool_backward<B: Backend>(
    x: FloatTensor<B>,
    indices: IntTensor<B>,
    gradient: FloatTensor<B>,
    pool: Pool,
) -> FloatTensor<B> {
    let kernel = [pool.kernel; 2];
    let stride = [pool.stride; 2];
    let padding = [pool.padding; 2];
    let found = B::max_pool2d_with_indices_backward(
        x, kernel, stride, padding, [1; 2], false, gradient, indices,
    );
    found.x_grad
}

/// See [`ConvBackend::normalise`](super::ConvBackend::normalise).
pub(super) fn normalise<B: Backend>(
    x: FloatTensor<B>,
    weight: FloatTensor<B>,
    bias: FloatTensor<B>,
    epsilon: f64,
) -> Normalised<B> {
    let x: Tensor<B, 4> = from_float(x);
    let precision = x.dtype();
    let x = x.cast(DType::F32);
    let mean = mean_channels(x.clone());
    let centred = x - mean.clone();
    let variance = mean_channels(centred.clone().square());
    let scale =
        broadcast_channels(from_float(weight)) / variance.clone().add_scalar(epsilon).sqrt();
    let out = centred * scale + broadcast_channels(from_float(bias));
    Normalised {
        out: into_float(out.cast(precision)),
        mean: into_float(mean.flatten::<1>(0, 3)),
        variance: into_float(variance.flatten::<1>(0, 3)),
    }
}

/// See [`ConvBackend::normalise_backward`](super::ConvBackend::normalise_backward).
pub(super) fn normalise_backward<B: Backend>(
    x: FloatTensor<B>,
    weight: FloatTensor<B>,
    [mean, variance]: [FloatTensor<B>; 2],
    gradient: FloatTensor<B>,
    epsilon: f64,
) -> Gradients<B> {
    let deviation = broadcast_channels(from_float(variance)).add_scalar(epsilon).sqrt();
    let x: Tensor<B, 4> = from_float(x);
    let precision = x.dtype();
    let x = x.cast(DType::F32);
    let normal = (x - broadcast_channels(from_float(mean))) / deviation.clone();
    let gradient = from_float::<B, 4>(gradient).cast(DType::F32);
    let along = gradient.clone() * normal.clone();
    let level = mean_channels(gradient.clone());
    let slope = mean_channels(along.clone());
    // The mean and the variance depend on every input, which adds the last two terms.
    let dx = (gradient.clone() - level - normal * slope) * broadcast_channels(from_float(weight))
        / deviation;
    Gradients {
        x: Some(into_float(dx.cast(precision))),
        weight: Some(sum_channels::<B>(into_float(along))),
        bias: Some(sum_channels::<B>(into_float(gradient))),
    }
}

/// See [`ConvBackend::modulate`](super::ConvBackend::modulate).
pub(super) fn modulate<B: Backend>(x: FloatTensor<B>, by: FloatTensor<B>) -> FloatTensor<B> {
    let x: Tensor<B, 4> = from_float(x);
    let [scale, shift] = scale_and_shift::<B>(by, &x);
    into_float(x * scale.add_scalar(1.0) + shift)
}

/// See [`ConvBackend::modulate_backward`](super::ConvBackend::modulate_backward).
pub(super) fn modulate_backward<B: Backend>(
    x: FloatTensor<B>,
    by: FloatTensor<B>,
    gradient: FloatTensor<B>,
) -> [FloatTensor<B>; 2] {
    let x: Tensor<B, 4> = from_float(x);
    let gradient: Tensor<B, 4> = from_float(gradient);
    let [batch, channels, ..] = x.dims();
    let [scale, _] = scale_and_shift::<B>(by, &x);
    let sum = |tensor: Tensor<B, 4>| tensor.sum_dim(2).sum_dim(3).reshape([batch, channels]);
    let by = Tensor::cat(vec![sum(gradient.clone() * x), sum(gradient.clone())], 1);
    [into_float(gradient * scale.add_scalar(1.0)), into_float(by)]
}

/// Splits `[batch, 2 * channel]` into two tensors `[batch, channel, 1, 1]`.
fn scale_and_shift<B: Backend>(by: FloatTensor<B>, x: &Tensor<B, 4>) -> [Tensor<B, 4>; 2] {
    let [batch, channels, ..] = x.dims();
    let by: Tensor<B, 4> = from_float::<B, 2>(by).reshape([batch, 2 * channels, 1, 1]);
    [by.clone().narrow(1, 0, channels), by.narrow(1, channels, channels)]
}

/// See [`ConvBackend::nearest`](super::ConvBackend::nearest).
pub(super) fn nearest<B: Backend>(rows: FloatTensor<B>, codes: FloatTensor<B>) -> IntTensor<B> {
    let rows: Tensor<B, 3> = from_float(rows);
    let codes: Tensor<B, 3> = from_float(codes);
    let [books, count, _] = rows.dims();
    // Differences, not products: rounding then does not depend on the batch.
    let difference = rows.unsqueeze_dim::<4>(2) - codes.unsqueeze_dim::<4>(1);
    let distance = (difference.clone() * difference).sum_dim(3);
    distance.argmin(2).reshape([books, count]).into_primitive()
}

/// See [`ConvBackend::join_backward`](super::ConvBackend::join_backward).
pub(super) fn join_backward<B: Backend>(
    gradient: FloatTensor<B>,
    channels: usize,
) -> [FloatTensor<B>; 2] {
    let gradient: Tensor<B, 4> = from_float(gradient);
    let behind = gradient.dims()[1] - channels;
    [(0, channels), (channels, behind)]
        .map(|(first, count)| into_float(gradient.clone().narrow(1, first, count)))
}

/// See [`ConvBackend::fast_tanh_backward`](super::ConvBackend::fast_tanh_backward).
pub(super) fn tanh_backward<B: Backend>(
    out: FloatTensor<B>,
    gradient: FloatTensor<B>,
) -> FloatTensor<B> {
    // tanh' = 1 - tanh^2
    let square = B::float_mul(out.clone(), out);
    B::float_sub(gradient.clone(), B::float_mul(square, gradient))
}

/// Reshapes `[channel]` to `[1, channel, 1, 1]`.
fn broadcast_channels<B: Backend>(tensor: Tensor<B, 1>) -> Tensor<B, 4> {
    let [channels] = tensor.dims();
    tensor.reshape([1, channels, 1, 1])
}

/// Averages over all axes except channels, to `[1, channel, 1, 1]`.
fn mean_channels<B: Backend>(tensor: Tensor<B, 4>) -> Tensor<B, 4> {
    tensor.mean_dim(0).mean_dim(2).mean_dim(3)
}

/// Sums `[batch, channel, height, width]` to `[channel]`.
fn sum_channels<B: Backend>(tensor: FloatTensor<B>) -> FloatTensor<B> {
    let channels = tensor.shape()[1];
    let sum = [0, 2, 3].into_iter().fold(tensor, B::float_sum_dim);
    B::float_reshape(sum, Shape::new([channels]))
}

fn options(settings: ConvSettings) -> ConvOptions<2> {
    ConvOptions::new([settings.stride; 2], [settings.padding; 2], [1, 1], 1)
}
