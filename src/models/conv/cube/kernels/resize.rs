//! Halving and doubling.

use burn_cubecl::CubeRuntime;
use burn_cubecl::tensor::CubeTensor;
use cubecl::prelude::*;

use super::super::layout::{empty, launch};
use super::elementwise::strided;

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
    if ABSOLUTE_POS * 4 >= out.len() {
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
            out[pixel * channels + channel] = gradient[strided(gradient, ABSOLUTE_POS)];
        } else {
            out[pixel * channels + channel] = F::new(0.0);
        }
    }
}

/// Returns the gradient of the input of [`halve`]. `gradient` may have any order in memory.
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
