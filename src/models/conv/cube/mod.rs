//! The operations on GPUs: few kernels, images with channels last, convolutions as matrix products
//! on tensor cores.
//!
//! | file | content |
//! |---|---|
//! | `queue` | lapo's kernels as operations of burn's queue |
//! | `layout` | images in memory |
//! | `convolution` | convolutions and their gradients |
//! | `product` | matrix products |
//! | `kernels` | unfolding, masks, halving, doubling, joining |
//! | `sources` | the sources of all kernels, as a version |
//! | `statistics` | normalisation and modulation |
//! | `many` | the optimiser, over many tensors at once |
//!
//! Convolutions and products are burn's, tuned on the device unless `product` says otherwise. But
//! the gradient of a weight is summed over groups of images first, to keep multiprocessors busy.

mod convolution;
mod kernels;
mod layout;
pub mod many;
mod product;
pub mod queue;
pub mod sources;
mod statistics;

use burn::tensor::backend::Backend;
use burn::tensor::ops::{ActivationOps, FloatTensor, IntTensor, ModuleOps};
use burn::tensor::{DType, Shape, TensorMetadata};
use burn_cubecl::CubeRuntime;
use burn_cubecl::kernel::{cast, into_contiguous};
use burn_cubecl::ops::{permute_nchw_to_nhwc, reshape};
use burn_cubecl::tensor::CubeTensor;

use super::{ConvBackend, ConvSettings, Gradients, Layer, Normalised, Pool, Wanted, fallback};
use convolution::{
    conv_shape, convolution_input_gradient, convolve, double, double_backward, input_gradient,
    is_linear, parameter_gradients,
};
use layout::{channels_first, channels_last};
use product::product;
use queue::{Queue, Queued, only, queue, take};

impl<R: CubeRuntime> ConvBackend for Queue<R>
where
    Queue<R>: Backend<FloatTensorPrimitive = Queued<R>, IntTensorPrimitive = Queued<R>>,
{
    fn fused_conv2d(
        x: FloatTensor<Self>,
        weight: FloatTensor<Self>,
        bias: FloatTensor<Self>,
        skip: Option<FloatTensor<Self>>,
        settings: ConvSettings,
    ) -> FloatTensor<Self> {
        if is_linear(&weight.shape(), &x.shape(), settings) {
            return fallback::conv2d::<Self>(x, weight, bias, skip, settings);
        }
        let output = (conv_shape(&x.shape(), &weight.shape(), settings), x.dtype());
        let inputs = [Some(x), Some(weight), Some(bias), skip].into_iter().flatten().collect();
        only(queue("convolution", inputs, vec![output], move |inputs| {
            let mut inputs = inputs.into_iter();
            let [x, weight, bias] = take(&mut inputs);
            let x = match settings.relu {
                true => channels_first(kernels::rectify(&permute_nchw_to_nhwc(x))),
                false => x,
            };
            let out = convolve(x, weight, bias, settings);
            match inputs.next() {
                // burn leaves gaps behind the channels, which each reader would have to copy.
                None => vec![channels_first(channels_last(out))],
                Some(skip) => {
                    let out = permute_nchw_to_nhwc(out);
                    let sum = kernels::add(&channels_last(skip), &out, false);
                    vec![channels_first(sum)]
                }
            }
        }))
    }

    fn fused_conv2d_backward(
        x: FloatTensor<Self>,
        weight: FloatTensor<Self>,
        gradient: FloatTensor<Self>,
        settings: ConvSettings,
        wanted: Wanted,
    ) -> Gradients<Self> {
        if is_linear(&weight.shape(), &x.shape(), settings) || settings.stride != 1 {
            return fallback::conv2d_backward::<Self>(x, weight, gradient, settings, wanted);
        }
        let parameters = wanted.weight || wanted.bias;
        let [outputs, ..] = weight.shape().dims::<4>();
        let mut shapes = Vec::new();
        if wanted.x {
            shapes.push((x.shape(), x.dtype()));
        }
        if parameters {
            shapes.push((weight.shape(), weight.dtype()));
            shapes.push((Shape::new([outputs]), weight.dtype()));
        }
        let name = "convolution backward";
        let mut found = queue(name, vec![x, weight, gradient], shapes, move |inputs| {
            let [x, weight, gradient] = take(&mut inputs.into_iter());
            let [x, gradient] = [x, gradient].map(channels_last);
            let mut found = Vec::new();
            if wanted.x {
                found.push(input_gradient(&x, &weight, &gradient, settings));
            }
            if parameters {
                found.extend(parameter_gradients(&x, &weight, gradient, settings));
            }
            found
        })
        .into_iter();
        Gradients {
            x: if wanted.x { found.next() } else { None },
            weight: found.next().filter(|_| wanted.weight),
            bias: found.next().filter(|_| wanted.bias),
        }
    }

    fn residual_with_inner(
        x: FloatTensor<Self>,
        layers: [Layer<Self>; 2],
        relu: bool,
    ) -> (FloatTensor<Self>, FloatTensor<Self>) {
        let [first, last] = layers;
        let mut inner = x.shape();
        inner[1] = first.0.shape()[0];
        let outputs = vec![(x.shape(), x.dtype()), (inner, x.dtype())];
        let inputs = vec![x, first.0, first.1, last.0, last.1];
        let found = queue("residual block", inputs, outputs, move |inputs| {
            let [x, first, first_bias, last, last_bias] = take(&mut inputs.into_iter());
            let layer = |x: &CubeTensor<R>, weight, bias| {
                convolve(channels_first(x.clone()), weight, bias, fallback::BLOCK)
            };
            let x = channels_last(x);
            // The gradients need only what a ReLU leaves of the inner images.
            let inner = layer(&kernels::rectify(&x), first, first_bias);
            let inner = kernels::rectify(&permute_nchw_to_nhwc(inner));
            let out = permute_nchw_to_nhwc(layer(&inner, last, last_bias));
            let out = kernels::add(&x, &out, relu);
            vec![channels_first(out), channels_first(inner)]
        });
        let [out, inner] = take(&mut found.into_iter());
        (out, inner)
    }

    fn halve(x: FloatTensor<Self>) -> FloatTensor<Self> {
        let [batch, channels, height, width] = x.shape().dims();
        let output = (Shape::new([batch, channels, height / 2, width / 2]), x.dtype());
        only(queue("halve", vec![x], vec![output], |inputs| {
            let [x] = take(&mut inputs.into_iter()).map(channels_last);
            vec![channels_first(kernels::halve(&x))]
        }))
    }

    fn halve_backward(x: FloatTensor<Self>, gradient: FloatTensor<Self>) -> FloatTensor<Self> {
        let output = (x.shape(), x.dtype());
        only(queue("halve backward", vec![x, gradient], vec![output], |inputs| {
            let [x, gradient] = take(&mut inputs.into_iter());
            let gradient = permute_nchw_to_nhwc(gradient);
            vec![channels_first(kernels::halve_backward(&channels_last(x), &gradient))]
        }))
    }

    fn residual_backward(
        x: FloatTensor<Self>,
        inner: FloatTensor<Self>,
        weights: [FloatTensor<Self>; 2],
        gradient: FloatTensor<Self>,
    ) -> [FloatTensor<Self>; 5] {
        let [first, last] = weights;
        let mut shapes = vec![(x.shape(), x.dtype())];
        for weight in [&first, &last] {
            shapes.push((weight.shape(), weight.dtype()));
            shapes.push((Shape::new([weight.shape()[0]]), weight.dtype()));
        }
        let inputs = vec![x, inner, first, last, gradient];
        let found = queue("residual block backward", inputs, shapes, |inputs| {
            let [x, inner, first, last, gradient] = take(&mut inputs.into_iter());
            let [x, inner, gradient] = [x, inner, gradient].map(channels_last);
            let settings = fallback::BLOCK;
            let d_inner = channels_last(input_gradient(&inner, &last, &gradient, settings));
            let [last_weight, last_bias] =
                parameter_gradients(&inner, &last, gradient.clone(), settings);
            let dx = convolution_input_gradient(&x, &first, &d_inner, settings);
            let dx = kernels::mask_and_add(&x, &permute_nchw_to_nhwc(dx), &gradient);
            let [weight, bias] = parameter_gradients(&x, &first, d_inner, settings);
            vec![channels_first(dx), weight, bias, last_weight, last_bias]
        });
        take(&mut found.into_iter())
    }

    fn cast_all(parameters: Vec<FloatTensor<Self>>, dtype: DType) -> Vec<FloatTensor<Self>> {
        many::cast::cast(parameters, dtype)
    }

    fn blend(
        old: Vec<FloatTensor<Self>>,
        new: Vec<(FloatTensor<Self>, f64)>,
        share: f64,
    ) -> Vec<FloatTensor<Self>> {
        let (new, factors): (Vec<_>, Vec<_>) = new.into_iter().unzip();
        many::pairs::blend(old, new, factors, share)
    }

    fn choose(
        old: Vec<FloatTensor<Self>>,
        new: Vec<FloatTensor<Self>>,
        scale: FloatTensor<Self>,
    ) -> Vec<FloatTensor<Self>> {
        many::pairs::choose(old, new, scale)
    }

    fn pooled_conv2d(
        x: FloatTensor<Self>,
        weight: FloatTensor<Self>,
        bias: FloatTensor<Self>,
        skip: Option<FloatTensor<Self>>,
        settings: ConvSettings,
        pool: Pool,
    ) -> FloatTensor<Self> {
        // Indices are for gradients only.
        let out = Self::fused_conv2d(x, weight, bias, skip, settings);
        let Pool { kernel, stride, padding } = pool;
        Self::max_pool2d(out, [kernel; 2], [stride; 2], [padding; 2], [1; 2], false)
    }

    fn matmul(a: FloatTensor<Self>, b: FloatTensor<Self>) -> FloatTensor<Self> {
        let dtype = a.dtype();
        let mut shape = a.shape();
        let last = shape.num_dims() - 1;
        shape[last] = b.shape()[last];
        only(queue("matrix product", vec![a, b], vec![(shape, dtype)], move |inputs| {
            let [a, b] = take(&mut inputs.into_iter());
            vec![product(a, b, dtype)]
        }))
    }

    fn double_conv2d(
        x: FloatTensor<Self>,
        weight: FloatTensor<Self>,
        bias: FloatTensor<Self>,
    ) -> FloatTensor<Self> {
        let [batch, _, height, width] = x.shape().dims();
        let [_, outputs, ..] = weight.shape().dims::<4>();
        let output = (Shape::new([batch, outputs, 2 * height, 2 * width]), x.dtype());
        only(queue("doubling", vec![x, weight, bias], vec![output], |inputs| {
            let [x, weight, bias] = take(&mut inputs.into_iter());
            vec![double(channels_last(x), weight, bias)]
        }))
    }

    fn double_conv2d_backward(
        x: FloatTensor<Self>,
        weight: FloatTensor<Self>,
        gradient: FloatTensor<Self>,
        wanted: Wanted,
    ) -> Gradients<Self> {
        let [_, outputs, ..] = weight.shape().dims::<4>();
        let shapes = vec![
            (x.shape(), x.dtype()),
            (weight.shape(), weight.dtype()),
            (Shape::new([outputs]), weight.dtype()),
        ];
        let name = "doubling backward";
        let mut found = queue(name, vec![x, weight, gradient], shapes, |tensors| {
            let [x, weight, gradient] = take(&mut tensors.into_iter());
            let [x, gradient] = [x, gradient].map(channels_last);
            double_backward(&x, weight, &gradient).to_vec()
        })
        .into_iter();
        let mut next = |wanted: bool| found.next().filter(|_| wanted);
        Gradients { x: next(wanted.x), weight: next(wanted.weight), bias: next(wanted.bias) }
    }

    fn normalise(
        x: FloatTensor<Self>,
        weight: FloatTensor<Self>,
        bias: FloatTensor<Self>,
        epsilon: f64,
    ) -> Normalised<Self> {
        let channel = || (weight.shape(), DType::F32);
        let outputs = vec![(x.shape(), x.dtype()), channel(), channel()];
        let found = queue("normalisation", vec![x, weight, bias], outputs, move |inputs| {
            let [x, weight, bias] = take(&mut inputs.into_iter());
            let x = channels_last(x);
            let [mean, variance] = statistics::moments(&x);
            let out = statistics::normalise(&x, weight, bias, [&mean, &variance], epsilon);
            vec![channels_first(out), mean, variance]
        });
        let [out, mean, variance] = take(&mut found.into_iter());
        Normalised { out, mean, variance }
    }

    fn normalise_backward(
        x: FloatTensor<Self>,
        weight: FloatTensor<Self>,
        mean: FloatTensor<Self>,
        variance: FloatTensor<Self>,
        gradient: FloatTensor<Self>,
        epsilon: f64,
    ) -> Gradients<Self> {
        let channel = || (weight.shape(), DType::F32);
        let outputs = vec![(x.shape(), x.dtype()), channel(), channel()];
        let inputs = vec![x, weight, mean, variance, gradient];
        let found = queue("normalisation backward", inputs, outputs, move |inputs| {
            let [x, weight, mean, variance, gradient] = take(&mut inputs.into_iter());
            let [x, gradient] = [x, gradient].map(channels_last);
            let moments = [&mean, &variance];
            let [slope, level] = statistics::channel_products(&x, &gradient, moments, epsilon);
            let products = [&slope, &level];
            let dx =
                statistics::normalise_backward(&x, &gradient, weight, moments, products, epsilon);
            vec![channels_first(dx), slope, level]
        });
        let [x, weight, bias] = take(&mut found.into_iter()).map(Some);
        Gradients { x, weight, bias }
    }

    fn nearest(rows: FloatTensor<Self>, codes: FloatTensor<Self>) -> IntTensor<Self> {
        let [books, count, _] = rows.shape().dims();
        let output = (Shape::new([books, count]), DType::I32);
        only(queue("nearest codes", vec![rows, codes], vec![output], |inputs| {
            let [rows, codes] = take(&mut inputs.into_iter()).map(into_contiguous);
            vec![kernels::nearest(&rows, &codes)]
        }))
    }

    fn modulate(x: FloatTensor<Self>, by: FloatTensor<Self>) -> FloatTensor<Self> {
        let output = (x.shape(), x.dtype());
        only(queue("modulation", vec![x, by], vec![output], |inputs| {
            let [x, by] = take(&mut inputs.into_iter());
            let out = statistics::modulate(&channels_last(x), into_contiguous(by), true);
            vec![channels_first(out)]
        }))
    }

    fn modulate_backward(
        x: FloatTensor<Self>,
        by: FloatTensor<Self>,
        gradient: FloatTensor<Self>,
    ) -> [FloatTensor<Self>; 2] {
        let [batch, channels, ..] = x.shape().dims::<4>();
        let outputs = vec![(x.shape(), x.dtype()), (by.shape(), by.dtype())];
        let found = queue("modulation backward", vec![x, by, gradient], outputs, move |inputs| {
            let [x, by, gradient] = take(&mut inputs.into_iter());
            let [x, gradient] = [x, gradient].map(channels_last);
            let sums = statistics::image_products(&x, &gradient, None, 0.0);
            let sums = cast(sums, by.dtype);
            let dx = statistics::modulate(&gradient, into_contiguous(by), false);
            vec![channels_first(dx), reshape(sums, Shape::new([batch, 2 * channels]))]
        });
        take(&mut found.into_iter())
    }

    fn rectify(x: FloatTensor<Self>) -> FloatTensor<Self> {
        if x.rank() != 4 {
            return Self::relu(x);
        }
        let output = (x.shape(), x.dtype());
        only(queue("relu", vec![x], vec![output], |inputs| {
            let [x] = take(&mut inputs.into_iter()).map(permute_nchw_to_nhwc);
            vec![channels_first(kernels::rectify(&x))]
        }))
    }

    fn rectify_backward(out: FloatTensor<Self>, gradient: FloatTensor<Self>) -> FloatTensor<Self> {
        let output = (out.shape(), out.dtype());
        only(queue("relu backward", vec![out, gradient], vec![output], |inputs| {
            let [out, gradient] = take(&mut inputs.into_iter());
            if out.meta.num_dims() != 4 {
                return vec![kernels::mask_rows(out, gradient)];
            }
            let gradient = permute_nchw_to_nhwc(gradient);
            vec![channels_first(kernels::mask(&channels_last(out), &gradient))]
        }))
    }

    fn join(x: FloatTensor<Self>, y: FloatTensor<Self>) -> FloatTensor<Self> {
        let [batch, channels, height, width] = x.shape().dims();
        let channels = channels + y.shape()[1];
        let output = (Shape::new([batch, channels, height, width]), x.dtype());
        only(queue("join", vec![x, y], vec![output], |inputs| {
            let [x, y] = take(&mut inputs.into_iter()).map(channels_last);
            vec![channels_first(kernels::join(&x, &y))]
        }))
    }

    fn join_backward(gradient: FloatTensor<Self>, channels: usize) -> [FloatTensor<Self>; 2] {
        let [batch, all, height, width] = gradient.shape().dims();
        let shape = |channels| Shape::new([batch, channels, height, width]);
        let outputs = [channels, all - channels].map(|count| (shape(count), gradient.dtype()));
        let found = queue("join backward", vec![gradient], outputs.to_vec(), move |inputs| {
            let [gradient] = take(&mut inputs.into_iter()).map(permute_nchw_to_nhwc);
            kernels::split(&gradient, channels).map(channels_first).to_vec()
        });
        take(&mut found.into_iter())
    }
}
