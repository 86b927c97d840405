//! The operations under autodiff: the tensors that each saves during the forward pass, and its
//! backward pass.
//!
//! Each operation on `Autodiff<B>` adds a step to the graph. The gradients of that step come from
//! the backward operations of [`ConvBackend`] on `B`.

use burn::backend::Autodiff;
use burn::backend::autodiff::checkpoint::{base::Checkpointer, strategy::CheckpointStrategy};
use burn::backend::autodiff::ops::{Backward, Ops, OpsKind, unary};
use burn::backend::autodiff::{NodeId, grads};
use burn::tensor::TensorMetadata;
use burn::tensor::backend::{AutodiffBackend, Backend};
use burn::tensor::ops::{FloatTensor, IntTensor};

use super::fallback::{BLOCK, SQUARES};
use super::{ConvBackend, ConvSettings, Gradients, Layer, Normalised, Pool, Wanted};

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

/// Parents: x, weight, bias and, with four parents, a skip.
#[derive(Debug)]
struct FusedConv2d;

impl<B: ConvBackend, const N: usize> Backward<B, N> for FusedConv2d {
    type State = (FloatTensor<B>, FloatTensor<B>, ConvSettings);

    fn backward(
        self,
        ops: Ops<Self::State, N>,
        grads: &mut grads::Gradients,
        _: &mut Checkpointer,
    ) {
        let gradient = grads.consume::<B>(&ops.node);
        let (x, weight, settings) = ops.state;
        // A sum passes its gradient on unchanged.
        if let Some(Some(skip)) = ops.parents.get(3) {
            grads.register::<B>(skip.id, gradient.clone());
        }
        let id = |i: usize| ops.parents[i].as_ref().map(|node| node.id);
        let ids = [id(0), id(1), id(2)];
        let found = B::fused_conv2d_backward(x, weight, gradient, settings, wanted(ids));
        register(found, ids, grads);
    }
}

/// Parents: x, then weight and bias of both convolutions.
#[derive(Debug)]
struct Residual;

impl<B: ConvBackend> Backward<B, 5> for Residual {
    /// The input, the output of the first convolution, both weights, and the output behind a ReLU.
    type State = (FloatTensor<B>, FloatTensor<B>, [FloatTensor<B>; 2], Option<FloatTensor<B>>);

    fn backward(
        self,
        ops: Ops<Self::State, 5>,
        grads: &mut grads::Gradients,
        _: &mut Checkpointer,
    ) {
        let (x, inner, weights, out) = ops.state;
        let gradient = grads.consume::<B>(&ops.node);
        let gradient = match out {
            Some(out) => B::rectify_backward(out, gradient),
            None => gradient,
        };
        let found = B::residual_backward(x, inner, weights, gradient);
        let ids = ops.parents.each_ref().map(|parent| parent.as_ref().map(|node| node.id));
        register_each::<B, 5>(found, ids, grads);
    }
}

/// Parents: x, weight and bias.
#[derive(Debug)]
struct DoubleConv2d;

impl<B: ConvBackend> Backward<B, 3> for DoubleConv2d {
    type State = (FloatTensor<B>, FloatTensor<B>);

    fn backward(
        self,
        ops: Ops<Self::State, 3>,
        grads: &mut grads::Gradients,
        _: &mut Checkpointer,
    ) {
        let gradient = grads.consume::<B>(&ops.node);
        let (x, weight) = ops.state;
        let id = |i: usize| ops.parents[i].as_ref().map(|node| node.id);
        let ids = [id(0), id(1), id(2)];
        let found = B::double_conv2d_backward(x, weight, gradient, wanted(ids));
        register(found, ids, grads);
    }
}

#[derive(Debug)]
struct MaxPool2d;

impl<B: ConvBackend> Backward<B, 1> for MaxPool2d {
    type State = (FloatTensor<B>, IntTensor<B>, Pool);

    fn backward(
        self,
        ops: Ops<Self::State, 1>,
        grads: &mut grads::Gradients,
        _: &mut Checkpointer,
    ) {
        let (x, indices, pool) = ops.state;
        unary::<B, _>(ops.parents, ops.node, grads, |gradient| {
            B::pool_backward(x, indices, gradient, pool)
        });
    }
}

/// Parents: x, weight and bias.
#[derive(Debug)]
struct Normalise;

impl<B: ConvBackend> Backward<B, 3> for Normalise {
    type State = (FloatTensor<B>, FloatTensor<B>, FloatTensor<B>, FloatTensor<B>, f64);

    fn backward(
        self,
        ops: Ops<Self::State, 3>,
        grads: &mut grads::Gradients,
        _: &mut Checkpointer,
    ) {
        let gradient = grads.consume::<B>(&ops.node);
        let (x, weight, mean, variance, epsilon) = ops.state;
        let id = |i: usize| ops.parents[i].as_ref().map(|node| node.id);
        let found = B::normalise_backward(x, weight, mean, variance, gradient, epsilon);
        register(found, [id(0), id(1), id(2)], grads);
    }
}

/// Parents: x and the scales and shifts.
#[derive(Debug)]
struct Modulate;

impl<B: ConvBackend> Backward<B, 2> for Modulate {
    type State = (FloatTensor<B>, FloatTensor<B>);

    fn backward(
        self,
        ops: Ops<Self::State, 2>,
        grads: &mut grads::Gradients,
        _: &mut Checkpointer,
    ) {
        let (x, by) = ops.state;
        let found = B::modulate_backward(x, by, grads.consume::<B>(&ops.node));
        let ids = ops.parents.each_ref().map(|parent| parent.as_ref().map(|node| node.id));
        register_each::<B, 2>(found, ids, grads);
    }
}

/// Parents: x and y.
#[derive(Debug)]
struct Join;

impl<B: ConvBackend> Backward<B, 2> for Join {
    type State = usize;

    fn backward(
        self,
        ops: Ops<Self::State, 2>,
        grads: &mut grads::Gradients,
        _: &mut Checkpointer,
    ) {
        let found = B::join_backward(grads.consume::<B>(&ops.node), ops.state);
        let ids = ops.parents.each_ref().map(|parent| parent.as_ref().map(|node| node.id));
        register_each::<B, 2>(found, ids, grads);
    }
}

#[derive(Debug)]
struct Halve;

impl<B: ConvBackend> Backward<B, 1> for Halve {
    type State = FloatTensor<B>;

    fn backward(
        self,
        ops: Ops<Self::State, 1>,
        grads: &mut grads::Gradients,
        _: &mut Checkpointer,
    ) {
        unary::<B, _>(ops.parents, ops.node, grads, |gradient| {
            B::halve_backward(ops.state, gradient)
        });
    }
}

#[derive(Debug)]
struct Rectify;

impl<B: ConvBackend> Backward<B, 1> for Rectify {
    type State = FloatTensor<B>;

    fn backward(
        self,
        ops: Ops<Self::State, 1>,
        grads: &mut grads::Gradients,
        _: &mut Checkpointer,
    ) {
        unary::<B, _>(ops.parents, ops.node, grads, |gradient| {
            B::rectify_backward(ops.state, gradient)
        });
    }
}

#[derive(Debug)]
struct Tanh;

impl<B: ConvBackend> Backward<B, 1> for Tanh {
    type State = FloatTensor<B>;

    fn backward(
        self,
        ops: Ops<Self::State, 1>,
        grads: &mut grads::Gradients,
        _: &mut Checkpointer,
    ) {
        unary::<B, _>(ops.parents, ops.node, grads, |gradient| {
            B::fast_tanh_backward(ops.state, gradient)
        });
    }
}

/// Selects the gradients of the parents in the graph: x, weight and bias.
fn wanted(ids: [Option<NodeId>; 3]) -> Wanted {
    let [x, weight, bias] = ids.map(|id| id.is_some());
    Wanted { x, weight, bias }
}

/// Passes the gradients of x, weight and bias to the parents in the graph.
fn register<B: Backend>(
    found: Gradients<B>,
    ids: [Option<NodeId>; 3],
    grads: &mut grads::Gradients,
) {
    for (id, gradient) in ids.into_iter().zip([found.x, found.weight, found.bias]) {
        if let (Some(id), Some(gradient)) = (id, gradient) {
            grads.register::<B>(id, gradient);
        }
    }
}

/// Passes one gradient to each parent in the graph.
fn register_each<B: Backend, const N: usize>(
    found: [FloatTensor<B>; N],
    ids: [Option<NodeId>; N],
    grads: &mut grads::Gradients,
) {
    for (id, gradient) in ids.into_iter().zip(found) {
        if let Some(id) = id {
            grads.register::<B>(id, gradient);
        }
    }
}
