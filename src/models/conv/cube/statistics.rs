//! Kernels of normalisation and modulation: sums over the pixels of each image, then over images.
//! All images are contiguous `[batch, height, width, channel]`; sums are in f32.

use burn::tensor::DType;
use burn_cubecl::CubeRuntime;
use burn_cubecl::tensor::CubeTensor;
use cubecl::prelude::*;

use super::layout::{addresses, empty, launch};

/// Units of a cube along the pixels of an image.
const LANES: usize = 16;
/// Units of a cube along the channels.
const CHANNELS: usize = 16;
/// Units of a cube that sums over images.
const IMAGES: usize = 64;

#[cube(launch, address_type = "dynamic")]
fn image_moments_kernel<F: Float>(
    x: &Tensor<F>,
    out: &mut Tensor<f32>,
    #[define(F)] _dtype: StorageType,
) {
    let channels = x.shape(3);
    let pixels = x.shape(1) * x.shape(2);
    let image = CUBE_POS_Y as usize;
    let channel = CUBE_POS_X as usize * CHANNELS + UNIT_POS_X as usize;
    let lane = UNIT_POS_Y as usize;
    let mut means = SharedMemory::<f32>::new(comptime![LANES * CHANNELS]);
    let mut squares = SharedMemory::<f32>::new(comptime![LANES * CHANNELS]);
    let mut mean = 0.0f32;
    let mut square = 0.0f32;
    if channel < channels {
        let mut count = 0.0f32;
        for pixel in range_stepped(lane, pixels, LANES) {
            // Welford's update: no difference of large sums.
            let value = f32::cast_from(x[(image * pixels + pixel) * channels + channel]);
            count += 1.0;
            let difference = value - mean;
            mean += difference / count;
            square += difference * (value - mean);
        }
    }
    let at = lane * CHANNELS + UNIT_POS_X as usize;
    means[at] = mean;
    squares[at] = square;
    sync_cube();
    if lane == 0 && channel < channels {
        let mut total = 0.0f32;
        mean = 0.0;
        square = 0.0;
        for lane in 0..LANES {
            let count = f32::cast_from((pixels + LANES - 1 - lane) / LANES);
            if count > 0.0 {
                let at = lane * CHANNELS + UNIT_POS_X as usize;
                let difference = means[at] - mean;
                total += count;
                mean += difference * count / total;
                square += squares[at] + difference * difference * count * (total - count) / total;
            }
        }
        out[image * 2 * channels + channel] = mean;
        out[(image * 2 + 1) * channels + channel] = square;
    }
}

#[cube(launch, address_type = "dynamic")]
fn image_products_kernel<F: Float>(
    x: &Tensor<F>,
    gradient: &Tensor<F>,
    mean: &Tensor<f32>,
    variance: &Tensor<f32>,
    out: &mut Tensor<f32>,
    epsilon: f32,
    #[comptime] normal: bool,
    #[define(F)] _dtype: StorageType,
) {
    let channels = x.shape(3);
    let pixels = x.shape(1) * x.shape(2);
    let image = CUBE_POS_Y as usize;
    let channel = CUBE_POS_X as usize * CHANNELS + UNIT_POS_X as usize;
    let lane = UNIT_POS_Y as usize;
    let mut products = SharedMemory::<f32>::new(comptime![LANES * CHANNELS]);
    let mut gradients = SharedMemory::<f32>::new(comptime![LANES * CHANNELS]);
    let mut product = 0.0f32;
    let mut sum = 0.0f32;
    if channel < channels {
        let mut centre = 0.0f32;
        let mut scale = 1.0f32;
        if normal {
            centre = mean[channel];
            scale = 1.0 / f32::sqrt(variance[channel] + epsilon);
        }
        for pixel in range_stepped(lane, pixels, LANES) {
            let at = (image * pixels + pixel) * channels + channel;
            let slope = f32::cast_from(gradient[at]);
            product += slope * (f32::cast_from(x[at]) - centre) * scale;
            sum += slope;
        }
    }
    let at = lane * CHANNELS + UNIT_POS_X as usize;
    products[at] = product;
    gradients[at] = sum;
    sync_cube();
    if lane == 0 && channel < channels {
        product = 0.0;
        sum = 0.0;
        for lane in 0..LANES {
            let at = lane * CHANNELS + UNIT_POS_X as usize;
            product += products[at];
            sum += gradients[at];
        }
        out[image * 2 * channels + channel] = product;
        out[(image * 2 + 1) * channels + channel] = sum;
    }
}

#[cube(launch, address_type = "dynamic")]
fn combine_kernel(
    parts: &Tensor<f32>,
    first: &mut Tensor<f32>,
    second: &mut Tensor<f32>,
    pixels: f32,
    #[comptime] moments: bool,
) {
    let images = parts.shape(0);
    let channels = parts.shape(2);
    let channel = CUBE_POS_X as usize;
    let unit = UNIT_POS_X as usize;
    let mut firsts = SharedMemory::<f32>::new(comptime![IMAGES]);
    let mut seconds = SharedMemory::<f32>::new(comptime![IMAGES]);
    let mut counts = SharedMemory::<f32>::new(comptime![IMAGES]);
    let mut a = 0.0f32;
    let mut b = 0.0f32;
    let mut total = 0.0f32;
    for image in range_stepped(unit, images, IMAGES) {
        let a_image = parts[image * 2 * channels + channel];
        let b_image = parts[(image * 2 + 1) * channels + channel];
        if moments {
            // Chan's combination of two means and sums of squares.
            let difference = a_image - a;
            total += pixels;
            a += difference * pixels / total;
            b += b_image + difference * difference * pixels * (total - pixels) / total;
        } else {
            a += a_image;
            b += b_image;
        }
    }
    firsts[unit] = a;
    seconds[unit] = b;
    counts[unit] = total;
    sync_cube();
    if unit == 0 {
        a = firsts[0];
        b = seconds[0];
        total = counts[0];
        for other in 1..IMAGES {
            if moments {
                let count = counts[other];
                if count > 0.0 {
                    let difference = firsts[other] - a;
                    let both = total + count;
                    a += difference * count / both;
                    b += seconds[other] + difference * difference * total * count / both;
                    total = both;
                }
            } else {
                a += firsts[other];
                b += seconds[other];
            }
        }
        first[channel] = a;
        if moments {
            second[channel] = b / total;
        } else {
            second[channel] = b;
        }
    }
}

/// Sums over images, or combines their means and sums of squares.
///
/// # Shapes
/// - `parts`: `[batch, 2, channel]`
/// - outputs: `[channel]`
fn combine<R: CubeRuntime>(
    parts: &CubeTensor<R>,
    pixels: usize,
    moments: bool,
) -> [CubeTensor<R>; 2] {
    let channels = parts.meta.shape()[2];
    let [first, second] = [0, 1].map(|_| empty(parts, [channels], DType::F32));
    combine_kernel::launch(
        &parts.client,
        CubeCount::Static(channels as u32, 1, 1),
        CubeDim::new_1d(IMAGES as u32),
        addresses(&[parts]),
        parts.clone().into_tensor_arg(),
        first.clone().into_tensor_arg(),
        second.clone().into_tensor_arg(),
        pixels as f32,
        moments,
    );
    [first, second]
}

fn image_cubes<R: CubeRuntime>(x: &CubeTensor<R>) -> (CubeCount, CubeDim) {
    let [batch, _, _, channels] = x.meta.shape().dims();
    let count = CubeCount::Static(channels.div_ceil(CHANNELS) as u32, batch as u32, 1);
    (count, CubeDim::new_2d(CHANNELS as u32, LANES as u32))
}

/// Returns mean and biased variance of each channel.
pub fn moments<R: CubeRuntime>(x: &CubeTensor<R>) -> [CubeTensor<R>; 2] {
    let [batch, height, width, channels] = x.meta.shape().dims();
    let parts = empty(x, [batch, 2, channels], DType::F32);
    let (count, dim) = image_cubes(x);
    image_moments_kernel::launch(
        &x.client,
        count,
        dim,
        addresses(&[x]),
        x.clone().into_tensor_arg(),
        parts.clone().into_tensor_arg(),
        x.dtype.into(),
    );
    combine(&parts, height * width, true)
}

/// Sums `gradient * x` and `gradient` over the pixels of each image. With moments, `x` is
/// normalised by them.
///
/// # Shapes
/// - output: `[batch, 2, channel]`, in f32
pub fn image_products<R: CubeRuntime>(
    x: &CubeTensor<R>,
    gradient: &CubeTensor<R>,
    moments: Option<[&CubeTensor<R>; 2]>,
    epsilon: f64,
) -> CubeTensor<R> {
    let [batch, _, _, channels] = x.meta.shape().dims();
    let parts = empty(x, [batch, 2, channels], DType::F32);
    let (count, dim) = image_cubes(x);
    let normal = moments.is_some();
    // Without moments the kernel reads none; any buffer of f32 takes their place.
    let [mean, variance] = match moments {
        Some(moments) => moments.map(Clone::clone),
        None => [0, 1].map(|_| empty(x, [1], DType::F32)),
    };
    image_products_kernel::launch(
        &x.client,
        count,
        dim,
        addresses(&[x]),
        x.clone().into_tensor_arg(),
        gradient.clone().into_tensor_arg(),
        mean.into_tensor_arg(),
        variance.into_tensor_arg(),
        parts.clone().into_tensor_arg(),
        epsilon as f32,
        normal,
        x.dtype.into(),
    );
    parts
}

/// Sums `gradient * normalised x` and `gradient` of each channel: the gradients of gain and bias.
pub fn channel_products<R: CubeRuntime>(
    x: &CubeTensor<R>,
    gradient: &CubeTensor<R>,
    moments: [&CubeTensor<R>; 2],
    epsilon: f64,
) -> [CubeTensor<R>; 2] {
    combine(&image_products(x, gradient, Some(moments), epsilon), 1, false)
}

#[cube(launch, address_type = "dynamic")]
fn normalise_kernel<F: Float>(
    x: &Tensor<F>,
    weight: &Tensor<f32>,
    bias: &Tensor<f32>,
    mean: &Tensor<f32>,
    variance: &Tensor<f32>,
    out: &mut Tensor<F>,
    epsilon: f32,
    #[define(F)] _dtype: StorageType,
) {
    if ABSOLUTE_POS >= out.len() {
        terminate!();
    }
    let channel = ABSOLUTE_POS % x.shape(3);
    let scale = weight[channel] / f32::sqrt(variance[channel] + epsilon);
    let value = f32::cast_from(x[ABSOLUTE_POS]);
    out[ABSOLUTE_POS] = F::cast_from((value - mean[channel]) * scale + bias[channel]);
}

/// Normalises each channel.
pub fn normalise<R: CubeRuntime>(
    x: &CubeTensor<R>,
    weight: CubeTensor<R>,
    bias: CubeTensor<R>,
    [mean, variance]: [&CubeTensor<R>; 2],
    epsilon: f64,
) -> CubeTensor<R> {
    let out = empty(x, x.meta.shape().clone(), x.dtype);
    launch!(
        normalise_kernel,
        out.meta.num_elements(),
        [x, weight, bias, mean, variance, out],
        epsilon as f32,
        x.dtype.into()
    );
    out
}

#[cube(launch, address_type = "dynamic")]
fn normalise_backward_kernel<F: Float>(
    x: &Tensor<F>,
    gradient: &Tensor<F>,
    weight: &Tensor<f32>,
    mean: &Tensor<f32>,
    variance: &Tensor<f32>,
    slope: &Tensor<f32>,
    level: &Tensor<f32>,
    out: &mut Tensor<F>,
    epsilon: f32,
    values: f32,
    #[define(F)] _dtype: StorageType,
) {
    if ABSOLUTE_POS >= out.len() {
        terminate!();
    }
    let channel = ABSOLUTE_POS % x.shape(3);
    let inverse = 1.0 / f32::sqrt(variance[channel] + epsilon);
    let normal = (f32::cast_from(x[ABSOLUTE_POS]) - mean[channel]) * inverse;
    let along = f32::cast_from(gradient[ABSOLUTE_POS]);
    let centred = along - level[channel] / values - normal * slope[channel] / values;
    out[ABSOLUTE_POS] = F::cast_from(centred * weight[channel] * inverse);
}

/// Returns the gradient of the input of [`normalise`]. `products` are those of
/// [`channel_products`].
pub fn normalise_backward<R: CubeRuntime>(
    x: &CubeTensor<R>,
    gradient: &CubeTensor<R>,
    weight: CubeTensor<R>,
    [mean, variance]: [&CubeTensor<R>; 2],
    [slope, level]: [&CubeTensor<R>; 2],
    epsilon: f64,
) -> CubeTensor<R> {
    let out = empty(x, x.meta.shape().clone(), x.dtype);
    let values = out.meta.num_elements() / x.meta.shape()[3];
    launch!(
        normalise_backward_kernel,
        out.meta.num_elements(),
        [x, gradient, weight, mean, variance, slope, level, out],
        epsilon as f32,
        values as f32,
        x.dtype.into()
    );
    out
}

#[cube(launch, address_type = "dynamic")]
fn modulate_kernel<F: Float>(
    x: &Tensor<F>,
    by: &Tensor<F>,
    out: &mut Tensor<F>,
    #[comptime] shift: bool,
    #[define(F)] _dtype: StorageType,
) {
    if ABSOLUTE_POS >= out.len() {
        terminate!();
    }
    let channels = x.shape(3);
    let channel = ABSOLUTE_POS % channels;
    let image = ABSOLUTE_POS / (channels * x.shape(1) * x.shape(2));
    let at = image * 2 * channels + channel;
    let mut value = x[ABSOLUTE_POS] * (by[at] + F::new(1.0));
    if shift {
        value += by[at + channels];
    }
    out[ABSOLUTE_POS] = value;
}

/// Scales each channel of each image by `1 + by`, and shifts it by the second half of `by` if
/// `shift`.
pub fn modulate<R: CubeRuntime>(
    x: &CubeTensor<R>,
    by: CubeTensor<R>,
    shift: bool,
) -> CubeTensor<R> {
    let out = empty(x, x.meta.shape().clone(), x.dtype);
    launch!(modulate_kernel, out.meta.num_elements(), [x, by, out], shift, x.dtype.into());
    out
}
