//! The inputs of each output pixel as a row, and the gradients that products of rows give.

use burn::tensor::DType;
use burn_cubecl::CubeRuntime;
use burn_cubecl::tensor::CubeTensor;
use cubecl::prelude::*;

use super::super::layout::{empty, launch};

#[cube(launch, address_type = "dynamic")]
fn unfold_kernel<F: Float>(
    x: &Array<F>,
    out: &mut Array<F>,
    height: usize,
    width: usize,
    channels: usize,
    columns: usize,
    #[comptime] kernel: usize,
    #[comptime] padding: usize,
    #[comptime] relu: bool,
    #[define(F)] _dtype: StorageType,
) {
    if ABSOLUTE_POS >= out.len() {
        terminate!();
    }
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
    launch!(
        unfold_kernel,
        pixels * columns,
        flat [x, out],
        height,
        width,
        channels,
        columns,
        kernel,
        padding,
        relu,
        x.dtype.into()
    );
    out
}

#[cube(launch, address_type = "dynamic")]
fn weight_gradient_kernel<F: Float, G: Float>(
    products: &Array<F>,
    weight: &mut Array<G>,
    bias: &mut Array<G>,
    outputs: usize,
    inputs: usize,
    group_stride: usize,
    tap_stride: usize,
    #[comptime] groups: usize,
    #[comptime] ways: usize,
    #[define(F, G)] _dtypes: [StorageType; 2],
) {
    let taps = weight.len() / (outputs * ways);
    let out = ABSOLUTE_POS % (outputs * ways);
    let tap = ABSOLUTE_POS / (outputs * ways);
    if tap > taps {
        terminate!();
    }
    let mut sum = 0.0f32;
    if tap < taps {
        for group in 0..groups {
            let at = group * group_stride + tap * tap_stride + out;
            sum += f32::cast_from(products[at]);
        }
        if comptime![ways == 1] {
            // The taps of a kernel lie side by side, those of other inputs behind.
            let area = taps / inputs;
            weight[(out * inputs + tap % inputs) * area + tap / inputs] = G::cast_from(sum);
        } else {
            weight[tap * outputs * ways + out] = G::cast_from(sum);
        }
    } else if out < outputs {
        for group in 0..groups {
            for way in 0..ways {
                let at = group * group_stride + tap * tap_stride + out * ways + way;
                sum += f32::cast_from(products[at]);
            }
        }
        bias[out] = G::cast_from(sum);
    }
}

/// Sums the products of groups of images to the gradients of weight and bias. With `ways` above 1,
/// as for transposed convolutions, as many columns share a bias.
///
/// # Shapes
/// - `products`: `[group, unfolded_columns(taps), out * ways]`
/// - outputs: `[out, inputs, taps / inputs]` with `ways` 1, else `[taps, out * ways]`; and `[out]`;
///   of type `dtype`
pub fn weight_gradient<R: CubeRuntime>(
    products: CubeTensor<R>,
    taps: usize,
    inputs: usize,
    ways: usize,
    dtype: DType,
) -> [CubeTensor<R>; 2] {
    let [groups, _, columns] = products.meta.shape().dims();
    let [group_stride, tap_stride, _] = **products.meta.strides() else {
        unreachable!("the products of groups have three axes")
    };
    let weight = empty(&products, [taps * columns], dtype);
    let bias = empty(&products, [columns / ways], dtype);
    launch!(
        weight_gradient_kernel,
        (taps + 1) * columns,
        flat [products, weight, bias],
        columns / ways,
        inputs,
        group_stride,
        tap_stride,
        groups,
        ways,
        [products.dtype.into(), dtype.into()]
    );
    [weight, bias]
}
