//! Joining and splitting channels.

use burn_cubecl::CubeRuntime;
use burn_cubecl::tensor::CubeTensor;
use cubecl::prelude::*;

use super::super::layout::{empty, launch};
use super::elementwise::strided;

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
    if ABSOLUTE_POS >= x.len() + y.len() {
        terminate!();
    }
    let first = x.shape(3);
    let second = y.shape(3);
    let channel = ABSOLUTE_POS % (first + second);
    let pixel = ABSOLUTE_POS / (first + second);
    let value = images[strided(images, ABSOLUTE_POS)];
    if channel < first {
        x[pixel * first + channel] = value;
    } else {
        y[pixel * second + channel - first] = value;
    }
}

/// Splits images into their first `channels` channels and the rest. They may have any order in
/// memory.
pub fn split<R: CubeRuntime>(images: &CubeTensor<R>, channels: usize) -> [CubeTensor<R>; 2] {
    let [batch, height, width, all] = images.meta.shape().dims();
    let [x, y] = [channels, all - channels]
        .map(|channels| empty(images, [batch, height, width, channels], images.dtype));
    launch!(split_kernel, images.meta.num_elements(), [images, x, y], images.dtype.into());
    [x, y]
}
