//! Kernels that move images and their gradients. All images are contiguous
//! `[batch, height, width, channel]`.

use burn::tensor::DType;
use burn_cubecl::CubeRuntime;
use burn_cubecl::tensor::CubeTensor;
use cubecl::prelude::*;

use super::layout::{empty, launch};

#[cube(launch, address_type = "dynamic")]
fn unfold_kernel<F: Float>(
    x: &Tensor<F>,
    out: &mut Tensor<F>,
    #[comptime] kernel: usize,
    #[comptime] padding: usize,
    #[comptime] relu: bool,
    #[define(F)] _dtype: StorageType,
) {
    if ABSOLUTE_POS >= out.len() {
        terminate!();
    }
    let channels = x.shape(3);
    let height = x.shape(1);
    let width = x.shape(2);
    let columns = out.shape(1);
    let column = ABSOLUTE_POS % columns;
    let pixel = ABSOLUTE_POS / columns;
    let taps = kernel * kernel * channels;
    let mut value = F::new(0.0);
    if column < taps {
        let out_width = width + 2 * padding + 1 - kernel;
        let out_height = height + 2 * padding + 1 - kernel;
        let channel = column % channels;
        let tap = column / channels;
        let column_in = pixel % out_width + tap % kernel;
        let row_in = pixel / out_width % out_height + tap / kernel;
        let image = pixel / (out_width * out_height);
        let inside = row_in >= padding
            && row_in < height + padding
            && column_in >= padding
            && column_in < width + padding;
        if inside {
            let row = image * height + row_in - padding;
            value = x[(row * width + column_in - padding) * channels + channel];
            if relu {
                value = max(value, F::new(0.0));
            }
        }
    } else if column == taps {
        value = F::new(1.0);
    }
    out[ABSOLUTE_POS] = value;
}

/// Number of columns that [`unfold`] appends: a one for the bias, zeros up to an aligned row.
pub fn unfolded_columns(taps: usize) -> usize {
    (taps + 1).next_multiple_of(8)
}

/// Returns the inputs of each output pixel of a convolution with stride 1 as a row, followed by a
/// one for the bias, after a ReLU if `relu`.
///
/// # Shapes
/// - `x`: `[batch, height, width, in]`
/// - output: `[batch * height' * width', unfolded_columns(kernel * kernel * in)]`
pub fn unfold<R: CubeRuntime>(
    x: &CubeTensor<R>,
    kernel: usize,
    padding: usize,
    relu: bool,
) -> CubeTensor<R> {
    let [batch, height, width, channels] = x.meta.shape().dims();
    let pixels = batch * (height + 2 * padding + 1 - kernel) * (width + 2 * padding + 1 - kernel);
    let columns = unfolded_columns(kernel * kernel * channels);
    let out = empty(x, [pixels, columns], x.dtype);
    launch!(unfold_kernel, pixels * columns, [x, out], kernel, padding, relu, x.dtype.into());
    out
}

#[cube(launch, address_type = "dynamic")]
fn weight_gradient_kernel<F: Float>(
    products: &Tensor<F>,
    weight: &mut Tensor<f32>,
    bias: &mut Tensor<f32>,
    inputs: usize,
    #[comptime] groups: usize,
    #[comptime] ways: usize,
    #[define(F)] _dtype: StorageType,
) {
    let outputs = products.shape(2) / ways;
    let taps = weight.len() / (outputs * ways);
    let out = ABSOLUTE_POS % (outputs * ways);
    let tap = ABSOLUTE_POS / (outputs * ways);
    if tap > taps {
        terminate!();
    }
    let mut sum = 0.0f32;
    if tap < taps {
        for group in 0..groups {
            let at = group * products.stride(0) + tap * products.stride(1) + out;
            sum += f32::cast_from(products[at]);
        }
        if comptime![ways == 1] {
            // The taps of a kernel lie side by side, those of other inputs behind.
            let area = taps / inputs;
            weight[(out * inputs + tap % inputs) * area + tap / inputs] = sum;
        } else {
            weight[tap * outputs * ways + out] = sum;
        }
    } else if out < outputs {
        for group in 0..groups {
            for way in 0..ways {
                let at = group * products.stride(0) + tap * products.stride(1) + out * ways + way;
                sum += f32::cast_from(products[at]);
            }
        }
        bias[out] = sum;
    }
}

/// Sums the products of groups of images to the gradients of weight and bias. With `ways` above 1,
/// as for transposed convolutions, as many columns share a bias.
///
/// # Shapes
/// - `products`: `[group, unfolded_columns(taps), out * ways]`
/// - outputs: `[out, inputs, taps / inputs]` with `ways` 1, else `[taps, out * ways]`; and `[out]`;
///   in f32
pub fn weight_gradient<R: CubeRuntime>(
    products: CubeTensor<R>,
    taps: usize,
    inputs: usize,
    ways: usize,
) -> [CubeTensor<R>; 2] {
    let [groups, _, columns] = products.meta.shape().dims();
    let weight = empty(&products, [taps * columns], DType::F32);
    let bias = empty(&products, [columns / ways], DType::F32);
    launch!(
        weight_gradient_kernel,
        (taps + 1) * columns,
        [products, weight, bias],
        inputs,
        groups,
        ways,
        products.dtype.into()
    );
    [weight, bias]
}

#[cube(launch, address_type = "dynamic")]
fn rectify_kernel<F: Float>(x: &Tensor<F>, out: &mut Tensor<F>, #[define(F)] _dtype: StorageType) {
    if ABSOLUTE_POS < out.len() {
        out[ABSOLUTE_POS] = max(x[ABSOLUTE_POS], F::new(0.0));
    }
}

/// Computes `max(x, 0)`.
pub fn rectify<R: CubeRuntime>(x: &CubeTensor<R>) -> CubeTensor<R> {
    let out = empty(x, x.meta.shape().clone(), x.dtype);
    launch!(rectify_kernel, x.meta.num_elements(), [x, out], x.dtype.into());
    out
}

#[cube(launch, address_type = "dynamic")]
fn mask_kernel<F: Float>(
    x: &Tensor<F>,
    gradient: &Tensor<F>,
    out: &mut Tensor<F>,
    #[define(F)] _dtype: StorageType,
) {
    if ABSOLUTE_POS < out.len() {
        let mut value = F::new(0.0);
        if x[ABSOLUTE_POS] > F::new(0.0) {
            value = gradient[ABSOLUTE_POS];
        }
        out[ABSOLUTE_POS] = value;
    }
}

/// Returns `gradient` where `x` is above 0, and 0 elsewhere.
pub fn mask<R: CubeRuntime>(x: &CubeTensor<R>, gradient: &CubeTensor<R>) -> CubeTensor<R> {
    let out = empty(x, x.meta.shape().clone(), x.dtype);
    launch!(mask_kernel, x.meta.num_elements(), [x, gradient, out], x.dtype.into());
    out
}

#[cube(launch, address_type = "dynamic")]
fn mask_and_add_kernel<F: Float>(
    x: &Tensor<F>,
    gradient: &Tensor<F>,
    other: &Tensor<F>,
    out: &mut Tensor<F>,
    #[define(F)] _dtype: StorageType,
) {
    if ABSOLUTE_POS < out.len() {
        let mut value = other[ABSOLUTE_POS];
        if x[ABSOLUTE_POS] > F::new(0.0) {
            value += gradient[ABSOLUTE_POS];
        }
        out[ABSOLUTE_POS] = value;
    }
}

/// Returns `gradient` where `x` is above 0, plus `other`.
pub fn mask_and_add<R: CubeRuntime>(
    x: &CubeTensor<R>,
    gradient: &CubeTensor<R>,
    other: &CubeTensor<R>,
) -> CubeTensor<R> {
    let out = empty(x, x.meta.shape().clone(), x.dtype);
    launch!(mask_and_add_kernel, x.meta.num_elements(), [x, gradient, other, out], x.dtype.into());
    out
}

#[cube(launch, address_type = "dynamic")]
fn add_kernel<F: Float>(
    x: &Tensor<F>,
    y: &Tensor<F>,
    out: &mut Tensor<F>,
    #[comptime] relu: bool,
    #[define(F)] _dtype: StorageType,
) {
    if ABSOLUTE_POS < out.len() {
        let mut sum = x[ABSOLUTE_POS] + y[ABSOLUTE_POS];
        if relu {
            sum = max(sum, F::new(0.0));
        }
        out[ABSOLUTE_POS] = sum;
    }
}

/// Computes `x + y`, or `max(x + y, 0)` if `relu`.
pub fn add<R: CubeRuntime>(x: &CubeTensor<R>, y: &CubeTensor<R>, relu: bool) -> CubeTensor<R> {
    let out = empty(x, x.meta.shape().clone(), x.dtype);
    launch!(add_kernel, x.meta.num_elements(), [x, y, out], relu, x.dtype.into());
    out
}

#[cube(launch, address_type = "dynamic")]
fn halve_kernel<F: Float>(x: &Tensor<F>, out: &mut Tensor<F>, #[define(F)] _dtype: StorageType) {
    if ABSOLUTE_POS >= out.len() {
        terminate!();
    }
    let channels = out.shape(3);
    let width = out.shape(2);
    let channel = ABSOLUTE_POS % channels;
    let column = ABSOLUTE_POS / channels % width;
    // Rows of all images, one after the other: each has two of `x`.
    let row = ABSOLUTE_POS / (channels * width);
    let mut most = F::new(0.0);
    #[unroll]
    for way in 0..4usize {
        let pixel = (row * 2 + way / 2) * width * 2 + column * 2 + way % 2;
        most = max(most, x[pixel * channels + channel]);
    }
    out[ABSOLUTE_POS] = most;
}

/// Returns the maximum of each 2x2 square and 0.
pub fn halve<R: CubeRuntime>(x: &CubeTensor<R>) -> CubeTensor<R> {
    let [batch, height, width, channels] = x.meta.shape().dims();
    let out = empty(x, [batch, height / 2, width / 2, channels], x.dtype);
    launch!(halve_kernel, out.meta.num_elements(), [x, out], x.dtype.into());
    out
}

#[cube(launch, address_type = "dynamic")]
fn halve_backward_kernel<F: Float>(
    x: &Tensor<F>,
    gradient: &Tensor<F>,
    out: &mut Tensor<F>,
    #[define(F)] _dtype: StorageType,
) {
    if ABSOLUTE_POS >= gradient.len() {
        terminate!();
    }
    let channels = gradient.shape(3);
    let width = gradient.shape(2);
    let channel = ABSOLUTE_POS % channels;
    let column = ABSOLUTE_POS / channels % width;
    let row = ABSOLUTE_POS / (channels * width);
    let mut most = F::new(0.0);
    let mut which = 4u32;
    #[unroll]
    for way in 0..4usize {
        let pixel = (row * 2 + way / 2) * width * 2 + column * 2 + way % 2;
        let value = x[pixel * channels + channel];
        // The first maximum counts.
        if value > most {
            most = value;
            which = way as u32;
        }
    }
    #[unroll]
    for way in 0..4usize {
        let pixel = (row * 2 + way / 2) * width * 2 + column * 2 + way % 2;
        if which == way as u32 {
            out[pixel * channels + channel] = gradient[ABSOLUTE_POS];
        } else {
            out[pixel * channels + channel] = F::new(0.0);
        }
    }
}

/// Returns the gradient of the input of [`halve`].
pub fn halve_backward<R: CubeRuntime>(
    x: &CubeTensor<R>,
    gradient: &CubeTensor<R>,
) -> CubeTensor<R> {
    let out = empty(x, x.meta.shape().clone(), x.dtype);
    launch!(
        halve_backward_kernel,
        gradient.meta.num_elements(),
        [x, gradient, out],
        x.dtype.into()
    );
    out
}

#[cube(launch, address_type = "dynamic")]
fn shuffle_kernel<F: Float>(
    products: &Tensor<F>,
    bias: &Tensor<F>,
    out: &mut Tensor<F>,
    #[define(F)] _dtype: StorageType,
) {
    if ABSOLUTE_POS >= out.len() {
        terminate!();
    }
    let channels = out.shape(3);
    let width = out.shape(2);
    let height = out.shape(1);
    let channel = ABSOLUTE_POS % channels;
    let column = ABSOLUTE_POS / channels % width;
    let row = ABSOLUTE_POS / (channels * width) % height;
    let image = ABSOLUTE_POS / (channels * width * height);
    let pixel = (image * (height / 2) + row / 2) * (width / 2) + column / 2;
    let way = row % 2 * 2 + column % 2;
    out[ABSOLUTE_POS] = products[pixel * products.stride(0) + channel * 4 + way] + bias[channel];
}

/// Arranges the four products of each pixel as a square of pixels, and adds the bias.
///
/// # Shapes
/// - `products`: `[batch * height * width, out * 4]`
/// - `bias`: `[out]`
/// - output: `[batch, 2 * height, 2 * width, out]`
pub fn shuffle<R: CubeRuntime>(
    products: CubeTensor<R>,
    bias: CubeTensor<R>,
    shape: [usize; 4],
) -> CubeTensor<R> {
    let out = empty(&products, shape, products.dtype);
    let dtype = products.dtype;
    launch!(shuffle_kernel, out.meta.num_elements(), [products, bias, out], dtype.into());
    out
}

#[cube(launch, address_type = "dynamic")]
fn unshuffle_kernel<F: Float>(
    images: &Tensor<F>,
    out: &mut Tensor<F>,
    #[define(F)] _dtype: StorageType,
) {
    if ABSOLUTE_POS >= out.len() {
        terminate!();
    }
    let channels = images.shape(3);
    let width = images.shape(2);
    let height = images.shape(1);
    let way = ABSOLUTE_POS % 4;
    let channel = ABSOLUTE_POS / 4 % channels;
    let pixel = ABSOLUTE_POS / (channels * 4);
    let column = pixel % (width / 2) * 2 + way % 2;
    let row = pixel / (width / 2) % (height / 2) * 2 + way / 2;
    let image = pixel / (width / 2 * (height / 2));
    out[ABSOLUTE_POS] = images[((image * height + row) * width + column) * channels + channel];
}

/// Reverses [`shuffle`], without the bias.
///
/// # Shapes
/// - `images`: `[batch, 2 * height, 2 * width, out]`
/// - output: `[batch * height * width, out * 4]`
pub fn unshuffle<R: CubeRuntime>(images: &CubeTensor<R>) -> CubeTensor<R> {
    let [batch, height, width, channels] = images.meta.shape().dims();
    let out = empty(images, [batch * height * width / 4, channels * 4], images.dtype);
    launch!(unshuffle_kernel, out.meta.num_elements(), [images, out], images.dtype.into());
    out
}

#[cube(launch, address_type = "dynamic")]
fn join_kernel<F: Float>(
    x: &Tensor<F>,
    y: &Tensor<F>,
    out: &mut Tensor<F>,
    #[define(F)] _dtype: StorageType,
) {
    if ABSOLUTE_POS >= out.len() {
        terminate!();
    }
    let first = x.shape(3);
    let second = y.shape(3);
    let channel = ABSOLUTE_POS % (first + second);
    let pixel = ABSOLUTE_POS / (first + second);
    if channel < first {
        out[ABSOLUTE_POS] = x[pixel * first + channel];
    } else {
        out[ABSOLUTE_POS] = y[pixel * second + channel - first];
    }
}

/// Concatenates the channels of `x` and `y`.
pub fn join<R: CubeRuntime>(x: &CubeTensor<R>, y: &CubeTensor<R>) -> CubeTensor<R> {
    let [batch, height, width, channels] = x.meta.shape().dims();
    let shape = [batch, height, width, channels + y.meta.shape()[3]];
    let out = empty(x, shape, x.dtype);
    launch!(join_kernel, out.meta.num_elements(), [x, y, out], x.dtype.into());
    out
}

#[cube(launch, address_type = "dynamic")]
fn split_kernel<F: Float>(
    images: &Tensor<F>,
    x: &mut Tensor<F>,
    y: &mut Tensor<F>,
    #[define(F)] _dtype: StorageType,
) {
    if ABSOLUTE_POS >= images.len() {
        terminate!();
    }
    let first = x.shape(3);
    let second = y.shape(3);
    let channel = ABSOLUTE_POS % (first + second);
    let pixel = ABSOLUTE_POS / (first + second);
    let value = images[ABSOLUTE_POS];
    if channel < first {
        x[pixel * first + channel] = value;
    } else {
        y[pixel * second + channel - first] = value;
    }
}

/// Splits images into their first `channels` channels and the rest.
pub fn split<R: CubeRuntime>(images: &CubeTensor<R>, channels: usize) -> [CubeTensor<R>; 2] {
    let [batch, height, width, all] = images.meta.shape().dims();
    let [x, y] = [channels, all - channels]
        .map(|channels| empty(images, [batch, height, width, channels], images.dtype));
    launch!(split_kernel, images.meta.num_elements(), [images, x, y], images.dtype.into());
    [x, y]
}
