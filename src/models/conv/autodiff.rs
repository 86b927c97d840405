//! The operations under autodiff: the tensors that each saves during the forward pass, and its
//! backward pass.
//!
//! Each operation on `Autodiff<B>` adds a step to the graph. The gradients of that step come from
//! the backward operations of [`ConvBackend`] on `B`.

use burn::backend::Autodiff;
use burn::backend::autodiff::checkpoint::strategy::CheckpointStrategy;
use burn::backend::autodiff::ops::{Backward, OpsKind};
use burn::tensor::TensorMetadata;
use burn::tensor::backend::AutodiffBackend;
use burn::tensor::ops::{FloatTensor, IntTensor};

use super::fallback::{BLOCK, SQUARES};
use super::{ConvBackend, ConvSettings, Layer, Normalised, Pool};
use backward::{
    DoubleConv2d, FusedConv2d, Halve, Join, Matmul, MaxPool2d, Modulate, Normalise, Rectify,
    Residual, Tanh,
};

mod backward;

impl<B: ConvBackend, C: CheckpointStrategy> ConvBackend for Autodiff<B, C> {
    const IS_CPU: bool = B::IS_CPU;

    fn fused_conv2d(
        x: FloatTensor<Self>,
        weight: FloatTensor<Self>,
        bias: FloatTensor<Self>,
        skip: Option<FloatTensor<Self>>,
        settings: ConvSettings,
    ) -> FloatTensor<Self> {
        let nodes = [x.node, weight.node, bias.node];
        let x = x.primitive;
        let weight = weight.primitive;
        let bias = bias.primitive;
        // The bias is not needed for any gradient.
        let saved = (x.clone(), weight.clone(), settings);
        // The number of parents is part of the type, so each case has its own step.
        match skip {
            None => {
                let out = B::fused_conv2d(x, weight, bias, None, settings);
                match FusedConv2d.prepare::<C>(nodes).compute_bound().stateful() {
                    OpsKind::Tracked(prep) => prep.finish(saved, out),
                    OpsKind::UnTracked(prep) => prep.finish(out),
                }
            }
            Some(skip) => {
                let [x_node, weight_node, bias_node] = nodes;
                let nodes = [x_node, weight_node, bias_node, skip.node];
                let out = B::fused_conv2d(x, weight, bias, Some(skip.primitive), settings);
                match FusedConv2d.prepare::<C>(nodes).compute_bound().stateful() {
                    OpsKind::Tracked(prep) => prep.finish(saved, out),
                    OpsKind::UnTracked(prep) => prep.finish(out),
                }
            }
        }
    }

    fn residual_with_inner(
        x: FloatTensor<Self>,
        layers: [Layer<Self>; 2],
        relu: bool,
    ) -> (FloatTensor<Self>, FloatTensor<Self>) {
        let [(weight, bias), last] = layers;
        if B::IS_CPU {
            // A step of the graph for each convolution, whose kernels add the skip.
            let inner = Self::fused_conv2d(x.clone(), weight, bias, None, BLOCK);
            let out = Self::fused_conv2d(inner.clone(), last.0, last.1, Some(x), BLOCK);
            return (if relu { Self::rectify(out) } else { out }, inner);
        }
        let nodes = [x.node, weight.node, bias.node, last.0.node, last.1.node];
        let x = x.primitive;
        let weights = [weight.primitive, last.0.primitive];
        let [first, second] = weights.clone();
        let layers = [(first, bias.primitive), (second, last.1.primitive)];
        let (out, inner) = B::residual_with_inner(x.clone(), layers, relu);
        let saved = (x, inner.clone(), weights, relu.then(|| out.clone()));
        let out = match Residual.prepare::<C>(nodes).compute_bound().stateful() {
            OpsKind::Tracked(prep) => prep.finish(saved, out),
            OpsKind::UnTracked(prep) => prep.finish(out),
        };
        (out, Self::from_inner(inner))
    }

    fn residual_halved(x: FloatTensor<Self>, layers: [Layer<Self>; 2]) -> FloatTensor<Self> {
        if B::IS_CPU {
            let [(weight, bias), last] = layers;
            let inner = Self::fused_conv2d(x.clone(), weight, bias, None, BLOCK);
            let out = Self::pooled_conv2d(inner, last.0, last.1, Some(x), BLOCK, SQUARES);
            return Self::rectify(out);
        }
        Self::halve(Self::residual(x, layers, false))
    }

    fn halve(x: FloatTensor<Self>) -> FloatTensor<Self> {
        let out = B::halve(x.primitive.clone());
        match Halve.prepare::<C>([x.node]).compute_bound().stateful() {
            OpsKind::Tracked(prep) => prep.finish(x.primitive, out),
            OpsKind::UnTracked(prep) => prep.finish(out),
        }
    }

    fn blend(
        old: Vec<FloatTensor<Self>>,
        new: Vec<(FloatTensor<Self>, f64)>,
        share: f64,
    ) -> Vec<FloatTensor<Self>> {
        let old = old.into_iter().map(|old| old.primitive).collect();
        let new = new.into_iter().map(|(new, factor)| (new.primitive, factor)).collect();
        B::blend(old, new, share).into_iter().map(Self::from_inner).collect()
    }

    fn double_conv2d(
        x: FloatTensor<Self>,
        weight: FloatTensor<Self>,
        bias: FloatTensor<Self>,
    ) -> FloatTensor<Self> {
        let nodes = [x.node, weight.node, bias.node];
        let x = x.primitive;
        let weight = weight.primitive;
        let saved = (x.clone(), weight.clone());
        let out = B::double_conv2d(x, weight, bias.primitive);
        match DoubleConv2d.prepare::<C>(nodes).compute_bound().stateful() {
            OpsKind::Tracked(prep) => prep.finish(saved, out),
            OpsKind::UnTracked(prep) => prep.finish(out),
        }
    }

    fn pool(x: FloatTensor<Self>, pool: Pool) -> (FloatTensor<Self>, IntTensor<Self>) {
        // Only the maxima are differentiable.
        let (out, indices) = B::pool(x.primitive.clone(), pool);
        let saved = (x.primitive, indices.clone(), pool);
        let out = match MaxPool2d.prepare::<C>([x.node]).compute_bound().stateful() {
            OpsKind::Tracked(prep) => prep.finish(saved, out),
            OpsKind::UnTracked(prep) => prep.finish(out),
        };
        (out, indices)
    }

    fn normalise(
        x: FloatTensor<Self>,
        weight: FloatTensor<Self>,
        bias: FloatTensor<Self>,
        epsilon: f64,
    ) -> Normalised<Self> {
        let nodes = [x.node, weight.node, bias.node];
        let x = x.primitive;
        let weight = weight.primitive;
        let found = B::normalise(x.clone(), weight.clone(), bias.primitive, epsilon);
        let Normalised { out, mean, variance } = found;
        // The backward pass reuses the statistics.
        let saved = (x, weight, mean.clone(), variance.clone(), epsilon);
        let out = match Normalise.prepare::<C>(nodes).compute_bound().stateful() {
            OpsKind::Tracked(prep) => prep.finish(saved, out),
            OpsKind::UnTracked(prep) => prep.finish(out),
        };
        // Constants for the graph: no gradient flows through the statistics.
        Normalised { out, mean: Self::from_inner(mean), variance: Self::from_inner(variance) }
    }

    fn modulate(x: FloatTensor<Self>, by: FloatTensor<Self>) -> FloatTensor<Self> {
        let nodes = [x.node, by.node];
        let saved = (x.primitive.clone(), by.primitive.clone());
        let out = B::modulate(x.primitive, by.primitive);
        match Modulate.prepare::<C>(nodes).compute_bound().stateful() {
            OpsKind::Tracked(prep) => prep.finish(saved, out),
            OpsKind::UnTracked(prep) => prep.finish(out),
        }
    }

    fn nearest(rows: FloatTensor<Self>, codes: FloatTensor<Self>) -> IntTensor<Self> {
        B::nearest(rows.primitive, codes.primitive)
    }

    fn matmul(a: FloatTensor<Self>, b: FloatTensor<Self>) -> FloatTensor<Self> {
        let nodes = [a.node, b.node];
        let saved = (a.primitive.clone(), b.primitive.clone());
        let out = B::matmul(a.primitive, b.primitive);
        match Matmul.prepare::<C>(nodes).compute_bound().stateful() {
            OpsKind::Tracked(prep) => prep.finish(saved, out),
            OpsKind::UnTracked(prep) => prep.finish(out),
        }
    }

    fn join(x: FloatTensor<Self>, y: FloatTensor<Self>) -> FloatTensor<Self> {
        let channels = x.primitive.shape()[1];
        let out = B::join(x.primitive, y.primitive);
        match Join.prepare::<C>([x.node, y.node]).compute_bound().stateful() {
            OpsKind::Tracked(prep) => prep.finish(channels, out),
            OpsKind::UnTracked(prep) => prep.finish(out),
        }
    }

    fn rectify(x: FloatTensor<Self>) -> FloatTensor<Self> {
        let out = B::rectify(x.primitive);
        match Rectify.prepare::<C>([x.node]).compute_bound().stateful() {
            OpsKind::Tracked(prep) => prep.finish(out.clone(), out),
            OpsKind::UnTracked(prep) => prep.finish(out),
        }
    }

    fn fast_tanh(x: FloatTensor<Self>) -> FloatTensor<Self> {
        let out = B::fast_tanh(x.primitive);
        match Tanh.prepare::<C>([x.node]).compute_bound().stateful() {
            // tanh' = 1 - tanh^2: the output is enough.
            OpsKind::Tracked(prep) => prep.finish(out.clone(), out),
            OpsKind::UnTracked(prep) => prep.finish(out),
        }
    }
}
