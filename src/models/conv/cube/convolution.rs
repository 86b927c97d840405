//! Convolutions and their gradients, of tensors that are no longer queued.

use burn::tensor::ops::ConvOptions;
use burn::tensor::{DType, Shape};
use burn_cubecl::CubeRuntime;
use burn_cubecl::kernel::conv::{ConvStrategy, conv_data_backward, conv_forward};
use burn_cubecl::ops::{permute, permute_nchw_to_nhwc, reshape};
use burn_cubecl::tensor::CubeTensor;

use super::super::ConvSettings;
use super::kernels;
use super::layout::channels_first;
use super::product::{product, sum_of_groups};

/// Convolves. The ReLU of the settings is not applied.
pub fn convolve<R: CubeRuntime>(
    x: CubeTensor<R>,
    weight: CubeTensor<R>,
    bias: CubeTensor<R>,
    settings: ConvSettings,
) -> CubeTensor<R> {
    conv_forward(x, weight, Some(bias), options(settings), ConvStrategy::default())
        .expect("burn has a kernel for every convolution")
}

/// Returns the gradient of a convolution's input. `x` and `gradient` have their channels last, the
/// output has them first.
pub fn input_gradient<R: CubeRuntime>(
    x: &CubeTensor<R>,
    weight: &CubeTensor<R>,
    gradient: &CubeTensor<R>,
    settings: ConvSettings,
) -> CubeTensor<R> {
    let dx = convolution_input_gradient(x, weight, gradient, settings);
    match settings.relu {
        true => channels_first(kernels::mask(x, &permute_nchw_to_nhwc(dx))),
        false => dx,
    }
}

/// Returns the gradient of the input behind the ReLU.
pub fn convolution_input_gradient<R: CubeRuntime>(
    x: &CubeTensor<R>,
    weight: &CubeTensor<R>,
    gradient: &CubeTensor<R>,
    settings: ConvSettings,
) -> CubeTensor<R> {
    let shape = channels_first(x.clone()).meta.shape().clone();
    let gradient = channels_first(gradient.clone());
    // In half precision tensor cores are always faster than burn's other kernel, which also leaves
    // the channels first.
    let strategy = match x.dtype {
        DType::F32 => ConvStrategy::default(),
        _ => ConvStrategy::ImplicitGemm,
    };
    conv_data_backward(gradient, weight.clone(), shape, options(settings), strategy)
        .expect("burn has a kernel for every convolution")
}

/// Returns the gradients of a convolution's weight and bias, in their precision.
pub fn parameter_gradients<R: CubeRuntime>(
    x: &CubeTensor<R>,
    weight: &CubeTensor<R>,
    gradient: CubeTensor<R>,
    settings: ConvSettings,
) -> [CubeTensor<R>; 2] {
    let [_, inputs, kernel, _] = weight.meta.shape().dims::<4>();
    let rows = kernels::unfold(x, kernel, settings.padding, settings.relu);
    let products = sum_of_groups(rows, pixels(gradient));
    let [dw, db] =
        kernels::weight_gradient(products, kernel * kernel * inputs, inputs, 1, weight.dtype);
    [reshape(dw, weight.meta.shape().clone()), db]
}

/// Doubles images. `x` has its channels last, the output has them first.
pub fn double<R: CubeRuntime>(
    x: CubeTensor<R>,
    weight: CubeTensor<R>,
    bias: CubeTensor<R>,
) -> CubeTensor<R> {
    let [batch, height, width, _] = x.meta.shape().dims();
    let [_, outputs, ..] = weight.meta.shape().dims::<4>();
    let dtype = x.dtype;
    let products = product(pixels(x), ways(weight), dtype);
    channels_first(kernels::shuffle(products, bias, [batch, 2 * height, 2 * width, outputs]))
}

/// Returns the gradients of a doubling's input, weight and bias. `x` and `gradient` have their
/// channels last, the gradient of the input has them first.
pub fn double_backward<R: CubeRuntime>(
    x: &CubeTensor<R>,
    weight: CubeTensor<R>,
    gradient: &CubeTensor<R>,
) -> [CubeTensor<R>; 3] {
    let [inputs, outputs, ..] = weight.meta.shape().dims::<4>();
    let dtype = weight.dtype;
    let products = kernels::unshuffle(gradient);
    let dx = product(products.clone(), permute(ways(weight), &[1, 0]), dtype);
    let summed = sum_of_groups(kernels::unfold(x, 1, 0, false), products);
    let [dw, db] = kernels::weight_gradient(summed, inputs, inputs, 4, dtype);
    let dw = reshape(dw, Shape::new([inputs, outputs, 2, 2]));
    [channels_first(images(dx, x.meta.shape())), dw, db]
}

/// Reshapes contiguous `[batch, height, width, channel]` to `[batch * height * width, channel]`.
fn pixels<R: CubeRuntime>(images: CubeTensor<R>) -> CubeTensor<R> {
    let [batch, height, width, channels] = images.meta.shape().dims();
    reshape(images, Shape::new([batch * height * width, channels]))
}

/// Reverses [`pixels`]. There may be gaps behind the channels.
fn images<R: CubeRuntime>(mut pixels: CubeTensor<R>, shape: &Shape) -> CubeTensor<R> {
    let [_, height, width, _] = shape.dims();
    let [pixel, channel] = **pixels.meta.strides() else { unreachable!("pixels have two axes") };
    *pixels.meta.shape_mut() = shape.clone();
    *pixels.meta.strides_mut() =
        [height * width * pixel, width * pixel, pixel, channel].as_slice().into();
    pixels
}

/// Reshapes the weight of a doubling `[in, out, 2, 2]` to `[in, out * 4]`.
fn ways<R: CubeRuntime>(weight: CubeTensor<R>) -> CubeTensor<R> {
    let [inputs, outputs, ..] = weight.meta.shape().dims::<4>();
    reshape(weight, Shape::new([inputs, outputs * 4]))
}

/// Returns the shape of a convolution's output.
pub fn conv_shape(x: &Shape, weight: &Shape, settings: ConvSettings) -> Shape {
    let [batch, _, height, width] = x.dims();
    let [outputs, _, kernel, _] = weight.dims();
    let size = |size| (size + 2 * settings.padding - kernel) / settings.stride + 1;
    Shape::new([batch, outputs, size(height), size(width)])
}

/// Returns whether a convolution of single pixels is a matrix product.
pub fn is_linear(weight: &Shape, x: &Shape, settings: ConvSettings) -> bool {
    let [.., rows, columns] = weight.dims::<4>();
    let [.., height, width] = x.dims::<4>();
    [rows, columns, height, width] == [1; 4] && settings.padding == 0 && !settings.relu
}

fn options(settings: ConvSettings) -> ConvOptions<2> {
    ConvOptions::new([settings.stride; 2], [settings.padding; 2], [1, 1], 1)
}
