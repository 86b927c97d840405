//! The fast operations on flex, burn's CPU backend: tensors to slices and back.
//!
//! They take f32 tensors. Other types, kernels above 3x3 and strides go to burn's own operations.

use burn::backend::Flex;
use burn::backend::flex::FlexTensor;
use burn::tensor::ops::FloatTensorOps;
use burn::tensor::{DType, TensorData, TensorMetadata};

use super::batch::Layer;
use super::gradients::LayerGradients;
use super::supported::{
    any_convolution, any_doubling, convolution, doubling, empty, is_f32, poolable, stage,
};
use super::{
    ConvBackend, ConvSettings, Gradients, Normalised, Pool, Wanted, fallback, modulate, norm, tanh,
};

impl ConvBackend for Flex {
    const IS_CPU: bool = true;

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
        let x = x.to_contiguous();
        let layers = layers.map(|(weight, bias)| (weight.to_contiguous(), bias.to_contiguous()));
        let out = stage.forward(
            x.storage(),
            layers.each_ref().map(|(weight, bias)| (weight.storage(), bias.storage())),
        );
        let batch = x.shape().dims::<4>()[0];
        let halved = stage.halved();
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
        let [x, weight, bias] = [x, weight, bias].map(|tensor| tensor.to_contiguous());
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
        let (maxima, indices) = pool.forward(x.storage(), [height, width]);
        let [height, width] = pool.output([height, width]);
        let shape = [batch, channels, height, width];
        let indices = FlexTensor::from_data(TensorData::new(indices, shape));
        (tensor(maxima, shape), indices)
    }

    fn pool_backward(
        x: FlexTensor,
        indices: FlexTensor,
        gradient: FlexTensor,
        pool: Pool,
    ) -> FlexTensor {
        let shape: [usize; 4] = x.shape().dims();
        if !poolable(&x, pool) {
            return fallback::pool_backward::<Flex>(x, indices, gradient, pool);
        }
        let gradient = gradient.to_contiguous();
        let size = [shape[2], shape[3]];
        tensor(pool.backward(gradient.storage(), indices.storage(), size), shape)
    }

    fn normalise(
        x: FlexTensor,
        weight: FlexTensor,
        bias: FlexTensor,
        epsilon: f64,
    ) -> Normalised<Flex> {
        let shape: [usize; 4] = x.shape().dims();
        if !is_f32(&x, &weight) || empty(&x) {
            return fallback::normalise::<Flex>(x, weight, bias, epsilon);
        }
        let [x, weight, bias] = [x, weight, bias].map(|tensor| tensor.to_contiguous());
        let weight = weight.storage();
        let bias = bias.storage();
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
        if !is_f32(&x, &weight) || empty(&x) {
            let moments = [mean, variance];
            return fallback::normalise_backward::<Flex>(x, weight, moments, gradient, epsilon);
        }
        let [x, weight, gradient] = [x, weight, gradient].map(|tensor| tensor.to_contiguous());
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
        if !is_f32(&x, &by) || empty(&x) {
            return fallback::modulate::<Flex>(x, by);
        }
        let [x, by] = [x, by].map(|tensor| tensor.to_contiguous());
        tensor(modulate::forward(x.storage(), by.storage(), shape[1], shape[2] * shape[3]), shape)
    }

    fn modulate_backward(x: FlexTensor, by: FlexTensor, gradient: FlexTensor) -> [FlexTensor; 2] {
        let shape: [usize; 4] = x.shape().dims();
        if !is_f32(&x, &by) || empty(&x) {
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
        let [books, count, dim] = rows.shape().dims::<3>();
        let [_, entries, _] = codes.shape().dims::<3>();
        if !is_f32(&rows, &codes) || empty(&rows) || empty(&codes) {
            return fallback::nearest::<Flex>(rows, codes);
        }
        let [rows, codes] = [rows, codes].map(|tensor| tensor.to_contiguous());
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
        // burn's own gradients are views, and later operations would read them value by value.
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

/// Returns the index of the code nearest to a row, the first one in case of a tie.
fn nearest(row: &[f32], codes: &[f32]) -> i32 {
    let distance = |code: &[f32]| row.iter().zip(code).map(|(a, b)| (a - b) * (a - b)).sum::<f32>();
    let mut best = 0;
    let mut least = f32::INFINITY;
    for (i, code) in codes.chunks_exact(row.len()).enumerate() {
        let distance = distance(code);
        if distance < least {
            (best, least) = (i as i32, distance);
        }
    }
    best
}

/// Runs a layer forward on tensors.
///
/// # Shapes
/// As [`ConvBackend::pooled_conv2d`].
fn forward(
    layer: &Layer,
    x: FlexTensor,
    weight: FlexTensor,
    bias: FlexTensor,
    skip: Option<FlexTensor>,
    pool: Option<Pool>,
) -> FlexTensor {
    let [batch, ..] = x.shape().dims::<4>();
    let size = layer.plane.output();
    let skip = skip.map(|skip| skip.to_contiguous());
    let skip = skip.as_ref().map_or(&[][..], |skip| skip.storage::<f32>());
    let len = batch * layer.outputs * size[0] * size[1];
    assert!(
        skip.is_empty() || skip.len() == len,
        "a skip of {} values is added to {len}",
        skip.len()
    );
    let [x, weight, bias] = [x, weight, bias].map(|tensor| tensor.to_contiguous());
    let out = layer.forward(x.storage(), weight.storage(), bias.storage(), skip, pool);
    let [height, width] = pool.map_or(size, |pool| pool.output(size));
    tensor(out, [batch, layer.outputs, height, width])
}

/// Runs a layer backward on tensors.
fn backward(
    layer: &Layer,
    x: &FlexTensor,
    weight: &FlexTensor,
    gradient: &FlexTensor,
    wanted: Wanted,
) -> Gradients<Flex> {
    let [x, weight, gradient] = [x, weight, gradient].map(|tensor| tensor.to_contiguous());
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

/// Wraps values in a tensor.
fn tensor<const D: usize>(values: Vec<f32>, shape: [usize; D]) -> FlexTensor {
    FlexTensor::from_data(TensorData::new(values, shape))
}
