//! `ReLU`s, their gradients, and sums.

use burn::tensor::Shape;
use burn_cubecl::CubeRuntime;
use burn_cubecl::kernel::into_contiguous;
use burn_cubecl::ops::reshape;
use burn_cubecl::tensor::CubeTensor;
use cubecl::prelude::*;

use super::super::layout::{empty, launch};

#[cube(launch, address_type = "dynamic")]
fn rectify_kernel<F: Float>(x: &Tensor<F>, out: &mut Tensor<F>, #[define(F)] _dtype: StorageType) {
    if ABSOLUTE_POS < out.len() {
        out[ABSOLUTE_POS] = max(x[strided(x, ABSOLUTE_POS)], F::new(0.0));
    }
}

/// Computes `max(x, 0)`. `x` may have any order in memory.
pub fn rectify<R: CubeRuntime>(x: &CubeTensor<R>) -> CubeTensor<R> {
    let out = empty(x, x.meta.shape().clone(), x.dtype);
    launch!(rectify_kernel, x.meta.num_elements(), [x, out], x.dtype.into());
    out
}

/// Returns the place in memory of a value of images in any order.
#[cube]
pub fn strided<F: Float>(images: &Tensor<F>, at: usize) -> usize {
    let channel = at % images.shape(3);
    let rest = at / images.shape(3);
    let column = rest % images.shape(2);
    let rest = rest / images.shape(2);
    let row = rest % images.shape(1);
    let image = rest / images.shape(1);
    image * images.stride(0)
        + row * images.stride(1)
        + column * images.stride(2)
        + channel * images.stride(3)
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
            value = gradient[strided(gradient, ABSOLUTE_POS)];
        }
        out[ABSOLUTE_POS] = value;
    }
}

/// Returns `gradient` where `x` is above 0, and 0 elsewhere. `gradient` may have any order in
/// memory.
pub fn mask<R: CubeRuntime>(x: &CubeTensor<R>, gradient: &CubeTensor<R>) -> CubeTensor<R> {
    let out = empty(x, x.meta.shape().clone(), x.dtype);
    launch!(mask_kernel, x.meta.num_elements(), [x, gradient, out], x.dtype.into());
    out
}

/// As [`mask`], of tensors of any shape.
pub fn mask_rows<R: CubeRuntime>(x: CubeTensor<R>, gradient: CubeTensor<R>) -> CubeTensor<R> {
    let shape = x.meta.shape().clone();
    let row = Shape::new([1, 1, 1, shape.num_elements()]);
    let [x, gradient] = [x, gradient].map(|tensor| reshape(into_contiguous(tensor), row.clone()));
    reshape(mask(&x, &gradient), shape)
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
            value += gradient[strided(gradient, ABSOLUTE_POS)];
        }
        out[ABSOLUTE_POS] = value;
    }
}

/// Returns `gradient` where `x` is above 0, plus `other`. `gradient` may have any order in memory.
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
        let mut sum = x[ABSOLUTE_POS] + y[strided(y, ABSOLUTE_POS)];
        if relu {
            sum = max(sum, F::new(0.0));
        }
        out[ABSOLUTE_POS] = sum;
    }
}

/// Computes `x + y`, or `max(x + y, 0)` if `relu`. `y` may have any order in memory.
pub fn add<R: CubeRuntime>(x: &CubeTensor<R>, y: &CubeTensor<R>, relu: bool) -> CubeTensor<R> {
    let out = empty(x, x.meta.shape().clone(), x.dtype);
    launch!(add_kernel, x.meta.num_elements(), [x, y, out], relu, x.dtype.into());
    out
}
