//! The CPU backend's operations: tensors to slices and back.
//!
//! In and out: f32 tensors. What the fast operations do not take (other types, kernels above
//! 3x3, strides) goes to burn's own.

use burn::backend::Flex;
use burn::backend::flex::FlexTensor;
use burn::tensor::ops::FloatTensorOps;
use burn::tensor::{DType, TensorData, TensorMetadata};

use super::batch::{Layer, Upscale};
use super::gradients::LayerGradients;
use super::plane::Plane;
use super::stage::Stage;
use super::{
    ConvBackend, ConvSettings, Gradients, Normalised, Pool, Wanted, fallback, modulate, norm, tanh,
    whole,
};

/// Positions of an image below which burn's plain matrix product is faster forward; gradients are faster here at any size. It is the
/// image that decides, not the batch, so that an image's output does not depend on what it is batched with.
const POSITIONS: usize = 16;

impl ConvBackend for Flex {
    fn fused_conv2d(
        x: FlexTensor,
        weight: FlexTensor,
        bias: FlexTensor,
        skip: Option<FlexTensor>,
        settings: ConvSettings,
    ) -> FlexTensor {
        match convolution(&x, &weight, settings) {
            Some(layer) => forward(&layer, x, weight, bias, skip, None),
            None => fallback::conv2d::<Flex>(x, weight, bias, skip, settings),
        }
    }

    fn pooled_conv2d(
        x: FlexTensor,
        weight: FlexTensor,
        bias: FlexTensor,
        skip: Option<FlexTensor>,
        settings: ConvSettings,
        pool: Pool,
    ) -> FlexTensor {
        match convolution(&x, &weight, settings) {
            Some(layer) if pool.fits(layer.plane.output()) => {
                forward(&layer, x, weight, bias, skip, Some(pool))
            }
            _ => Self::pool(Self::fused_conv2d(x, weight, bias, skip, settings), pool).0,
        }
    }

    fn impala_stage(x: FlexTensor, layers: [(FlexTensor, FlexTensor); 5]) -> FlexTensor {
        let Some(stage) = stage(&x, &layers) else {
            return fallback::impala_stage::<Flex>(x, layers);
        };
        let (x, layers) = (
            x.to_contiguous(),
            layers.map(|(weight, bias)| (weight.to_contiguous(), bias.to_contiguous())),
        );
        let out = stage.forward(
            x.storage(),
            layers.each_ref().map(|(weight, bias)| (weight.storage(), bias.storage())),
        );
        let (batch, halved) = (x.shape().dims::<4>()[0], stage.halved());
        tensor(out, [batch, stage.outputs, halved.height, halved.width])
    }

    fn fused_conv2d_backward(
        x: FlexTensor,
        weight: FlexTensor,
        gradient: FlexTensor,
        settings: ConvSettings,
        wanted: Wanted,
    ) -> Gradients<Flex> {
        match any_convolution(&x, &weight, settings) {
            Some(layer) => backward(&layer, &x, &weight, &gradient, wanted),
            None => fallback::conv2d_backward::<Flex>(x, weight, gradient, settings, wanted),
        }
    }

    fn double_conv2d(x: FlexTensor, weight: FlexTensor, bias: FlexTensor) -> FlexTensor {
        let Some(layer) = doubling(&x, &weight) else {
            return fallback::double_conv2d::<Flex>(x, weight, bias);
        };
        let [batch, _, height, width] = x.shape().dims();
        let (x, weight, bias) = (x.to_contiguous(), weight.to_contiguous(), bias.to_contiguous());
        let out = layer.forward(x.storage(), weight.storage(), bias.storage(), &[], None);
        tensor(out, [batch, layer.outputs / 4, 2 * height, 2 * width])
    }

    fn double_conv2d_backward(
        x: FlexTensor,
        weight: FlexTensor,
        gradient: FlexTensor,
        wanted: Wanted,
    ) -> Gradients<Flex> {
        match any_doubling(&x, &weight) {
            Some(layer) => backward(&layer, &x, &weight, &gradient, wanted),
            None => fallback::double_conv2d_backward::<Flex>(x, weight, gradient, wanted),
        }
    }

    fn pool(x: FlexTensor, pool: Pool) -> (FlexTensor, FlexTensor) {
        let [batch, channels, height, width] = x.shape().dims();
        if !poolable(&x, pool) {
            return fallback::pool::<Flex>(x, pool);
        }
        let x = x.to_contiguous();
        let (maxima, places) = pool.forward(x.storage(), [height, width]);
        let [height, width] = pool.output([height, width]);
        let shape = [batch, channels, height, width];
        let places = FlexTensor::from_data(TensorData::new(places, shape));
        (tensor(maxima, shape), places)
    }

    fn pool_backward(
        x: FlexTensor,
        places: FlexTensor,
        gradient: FlexTensor,
        pool: Pool,
    ) -> FlexTensor {
        let shape: [usize; 4] = x.shape().dims();
        if !poolable(&x, pool) {
            return fallback::pool_backward::<Flex>(x, places, gradient, pool);
        }
        let gradient = gradient.to_contiguous();
        let size = [shape[2], shape[3]];
        tensor(pool.backward(gradient.storage(), places.storage(), size), shape)
    }

    fn normalise(
        x: FlexTensor,
        weight: FlexTensor,
        bias: FlexTensor,
        epsilon: f64,
    ) -> Normalised<Flex> {
        let shape: [usize; 4] = x.shape().dims();
        if !single(&x, &weight) || empty(&x) {
            return fallback::normalise::<Flex>(x, weight, bias, epsilon);
        }
        let (x, weight, bias) = (x.to_contiguous(), weight.to_contiguous(), bias.to_contiguous());
        let (weight, bias) = (weight.storage(), bias.storage());
        let pixels = shape[2] * shape[3];
        let (out, mean, variance) = norm::forward(x.storage(), weight, bias, pixels, epsilon);
        Normalised {
            out: tensor(out, shape),
            mean: tensor(mean, [shape[1]]),
            variance: tensor(variance, [shape[1]]),
        }
    }

    fn normalise_backward(
        x: FlexTensor,
        weight: FlexTensor,
        mean: FlexTensor,
        variance: FlexTensor,
        gradient: FlexTensor,
        epsilon: f64,
    ) -> Gradients<Flex> {
        let shape: [usize; 4] = x.shape().dims();
        if !single(&x, &weight) || empty(&x) {
            let moments = [mean, variance];
            return fallback::normalise_backward::<Flex>(x, weight, moments, gradient, epsilon);
        }
        let (x, weight) = (x.to_contiguous(), weight.to_contiguous());
        let gradient = gradient.to_contiguous();
        let (dx, dw, db) = norm::backward(
            x.storage(),
            weight.storage(),
            [mean.storage(), variance.storage()],
            gradient.storage(),
            shape[2] * shape[3],
            epsilon,
        );
        Gradients {
            x: Some(tensor(dx, shape)),
            weight: Some(tensor(dw, [shape[1]])),
            bias: Some(tensor(db, [shape[1]])),
        }
    }

    fn modulate(x: FlexTensor, by: FlexTensor) -> FlexTensor {
        let shape: [usize; 4] = x.shape().dims();
        if !single(&x, &by) || empty(&x) {
            return fallback::modulate::<Flex>(x, by);
        }
        let (x, by) = (x.to_contiguous(), by.to_contiguous());
        tensor(modulate::forward(x.storage(), by.storage(), shape[1], shape[2] * shape[3]), shape)
    }

    fn modulate_backward(x: FlexTensor, by: FlexTensor, gradient: FlexTensor) -> [FlexTensor; 2] {
        let shape: [usize; 4] = x.shape().dims();
        if !single(&x, &by) || empty(&x) {
            return fallback::modulate_backward::<Flex>(x, by, gradient);
        }
        let [x, by, gradient] = [x, by, gradient].map(|tensor| tensor.to_contiguous());
        let (dx, dby) = modulate::backward(
            x.storage(),
            by.storage(),
            gradient.storage(),
            shape[1],
            shape[2] * shape[3],
        );
        [tensor(dx, shape), tensor(dby, [shape[0], 2 * shape[1]])]
    }

    fn nearest(rows: FlexTensor, codes: FlexTensor) -> FlexTensor {
        let ([books, count, dim], [_, entries, _]) =
            (rows.shape().dims::<3>(), codes.shape().dims::<3>());
        if !single(&rows, &codes) || empty(&rows) || empty(&codes) {
            return fallback::nearest::<Flex>(rows, codes);
        }
        let (rows, codes) = (rows.to_contiguous(), codes.to_contiguous());
        let pairs = rows
            .storage::<f32>()
            .chunks_exact(count * dim)
            .zip(codes.storage::<f32>().chunks_exact(entries * dim));
        let nearest =
            pairs.flat_map(|(rows, codes)| rows.chunks_exact(dim).map(|row| nearest(row, codes)));
        FlexTensor::from_data(TensorData::new(nearest.collect::<Vec<i32>>(), [books, count]))
    }

    fn join_backward(gradient: FlexTensor, channels: usize) -> [FlexTensor; 2] {
        let [batch, both, height, width] = gradient.shape().dims();
        if gradient.dtype() != DType::F32 || empty(&gradient) {
            return fallback::join_backward::<Flex>(gradient, channels);
        }
        // burn's own are views, which all that follows would read value by value.
        let gradient = gradient.to_contiguous();
        let split = channels * height * width;
        let [mut front, mut behind] = [channels, both - channels]
            .map(|count| Vec::with_capacity(batch * count * height * width));
        for image in gradient.storage::<f32>().chunks_exact(both * height * width) {
            front.extend_from_slice(&image[..split]);
            behind.extend_from_slice(&image[split..]);
        }
        [
            tensor(front, [batch, channels, height, width]),
            tensor(behind, [batch, both - channels, height, width]),
        ]
    }

    fn fast_tanh(x: FlexTensor) -> FlexTensor {
        if x.dtype() != DType::F32 {
            return Flex::float_tanh(x);
        }
        let x = x.to_contiguous();
        let out = tanh::forward(x.storage());
        FlexTensor::from_data(TensorData::new(out, x.shape()))
    }

    fn fast_tanh_backward(out: FlexTensor, gradient: FlexTensor) -> FlexTensor {
        if out.dtype() != DType::F32 {
            return fallback::tanh_backward::<Flex>(out, gradient);
        }
        let gradient = gradient.to_contiguous();
        let dx = tanh::backward(out.storage(), gradient.storage());
        FlexTensor::from_data(TensorData::new(dx, out.shape()))
    }
}

/// The number of the code nearest to a row, the first of equals.
fn nearest(row: &[f32], codes: &[f32]) -> i32 {
    let distance = |code: &[f32]| row.iter().zip(code).map(|(a, b)| (a - b) * (a - b)).sum::<f32>();
    let (mut best, mut least) = (0, f32::INFINITY);
    for (i, code) in codes.chunks_exact(row.len()).enumerate() {
        let distance = distance(code);
        if distance < least {
            (best, least) = (i as i32, distance);
        }
    }
    best
}

/// Whether the pooling is done here.
fn poolable(x: &FlexTensor, pool: Pool) -> bool {
    let [_, _, height, width] = x.shape().dims();
    pool.fits([height, width]) && x.dtype() == DType::F32 && !empty(x)
}

fn empty(x: &FlexTensor) -> bool {
    x.shape().num_elements() == 0
}

/// The layer, if it is one of the fast ones.
fn convolution(x: &FlexTensor, weight: &FlexTensor, settings: ConvSettings) -> Option<Layer> {
    any_convolution(x, weight, settings).filter(|layer| layer.plane.area() >= POSITIONS)
}

/// The layer at any size, as its gradients are computed; but a kernel that covers the image is a matrix product.
fn any_convolution(x: &FlexTensor, weight: &FlexTensor, settings: ConvSettings) -> Option<Layer> {
    let [outputs, inputs, kernel, kernel_width] = weight.shape().dims();
    let ConvSettings { padding, stride, relu } = settings;
    let [_, channels, height, width] = x.shape().dims();
    let fits = padding < kernel && height.min(width) + 2 * padding >= kernel;
    let small =
        kernel == kernel_width && kernel <= 3 && !whole::covers::<Flex>(x, weight, settings);
    let fast = stride == 1 && small && fits && channels == inputs;
    let plane = Plane { height, width, padding, kernel };
    (fast && outputs > 0 && !empty(x) && single(x, weight)).then_some(Layer {
        plane,
        inputs,
        outputs,
        relu,
        upscale: Upscale::None,
    })
}

/// The layers as a stage, if all of them are fast ones.
fn stage(x: &FlexTensor, layers: &[(FlexTensor, FlexTensor); 5]) -> Option<Stage> {
    let settings = ConvSettings { padding: 1, stride: 1, relu: false };
    let Layer { plane, inputs, outputs, .. } = convolution(x, &layers[0].0, settings)?;
    let stage = Stage { plane, inputs, outputs };
    let inner = layers[1..]
        .iter()
        .all(|(weight, _)| weight.shape().dims() == [outputs, outputs, 3, 3] && single(x, weight));
    (plane.kernel == 3 && inner && stage.halved().area() >= POSITIONS).then_some(stage)
}

/// The transposed convolution as a layer, if it is a fast one.
fn doubling(x: &FlexTensor, weight: &FlexTensor) -> Option<Layer> {
    any_doubling(x, weight).filter(|layer| layer.plane.area() >= POSITIONS)
}

/// The transposed convolution as a layer at any size but a single pixel, which is a matrix product.
fn any_doubling(x: &FlexTensor, weight: &FlexTensor) -> Option<Layer> {
    let ([inputs, outputs, rows, columns], [_, channels, height, width]) =
        (weight.shape().dims(), x.shape().dims());
    let fits = (rows, columns, channels) == (2, 2, inputs) && !whole::is_pixel::<Flex>(x);
    let plane = Plane { height, width, padding: 0, kernel: 1 };
    let upscale = Upscale::Double;
    (fits && outputs > 0 && !empty(x) && single(x, weight)).then_some(Layer {
        plane,
        inputs,
        outputs: 4 * outputs,
        relu: false,
        upscale,
    })
}

fn single(x: &FlexTensor, weight: &FlexTensor) -> bool {
    x.dtype() == DType::F32 && weight.dtype() == DType::F32
}

fn forward(
    layer: &Layer,
    x: FlexTensor,
    weight: FlexTensor,
    bias: FlexTensor,
    skip: Option<FlexTensor>,
    pool: Option<Pool>,
) -> FlexTensor {
    let ([batch, ..], size) = (x.shape().dims::<4>(), layer.plane.output());
    let skip = skip.map(|skip| skip.to_contiguous());
    let skip = skip.as_ref().map_or(&[][..], |skip| skip.storage::<f32>());
    let len = batch * layer.outputs * size[0] * size[1];
    assert!(
        skip.is_empty() || skip.len() == len,
        "a skip of {} values is added to {len}",
        skip.len()
    );
    let (x, weight, bias) = (x.to_contiguous(), weight.to_contiguous(), bias.to_contiguous());
    let out = layer.forward(x.storage(), weight.storage(), bias.storage(), skip, pool);
    let [height, width] = pool.map_or(size, |pool| pool.output(size));
    tensor(out, [batch, layer.outputs, height, width])
}

fn backward(
    layer: &Layer,
    x: &FlexTensor,
    weight: &FlexTensor,
    gradient: &FlexTensor,
    wanted: Wanted,
) -> Gradients<Flex> {
    let (x, weight) = (x.to_contiguous(), weight.to_contiguous());
    let gradient = gradient.to_contiguous();
    let want = [wanted.x, wanted.weight, wanted.bias];
    let found = layer.backward(x.storage(), weight.storage(), gradient.storage(), want);
    let LayerGradients { x: dx, weight: dw, bias: db } = found;
    let channels = db.len();
    Gradients {
        x: wanted.x.then(|| tensor(dx, x.shape().dims::<4>())),
        weight: wanted.weight.then(|| tensor(dw, weight.shape().dims::<4>())),
        bias: wanted.bias.then(|| tensor(db, [channels])),
    }
}

fn tensor<const D: usize>(values: Vec<f32>, shape: [usize; D]) -> FlexTensor {
    FlexTensor::from_data(TensorData::new(values, shape))
}
