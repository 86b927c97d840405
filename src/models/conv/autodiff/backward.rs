//! The backward pass of each operation.

use burn::backend::autodiff::checkpoint::base::Checkpointer;
use burn::backend::autodiff::ops::{Backward, Ops, unary};
use burn::backend::autodiff::{NodeId, grads};
use burn::tensor::backend::Backend;
use burn::tensor::ops::{FloatTensor, IntTensor};

use super::super::{ConvBackend, ConvSettings, Gradients, Pool, Wanted};

/// Parents: x, weight, bias and, with four parents, a skip.
#[derive(Debug)]
pub(super) struct FusedConv2d;

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
pub(super) struct Residual;

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
pub(super) struct DoubleConv2d;

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
pub(super) struct MaxPool2d;

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
pub(super) struct Normalise;

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
pub(super) struct Modulate;

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

/// Parents: both factors.
#[derive(Debug)]
pub(super) struct Matmul;

impl<B: ConvBackend> Backward<B, 2> for Matmul {
    type State = (FloatTensor<B>, FloatTensor<B>);

    fn backward(
        self,
        ops: Ops<Self::State, 2>,
        grads: &mut grads::Gradients,
        _: &mut Checkpointer,
    ) {
        let gradient = grads.consume::<B>(&ops.node);
        let (a, b) = ops.state;
        let [a_id, b_id] = ops.parents.each_ref().map(|parent| parent.as_ref().map(|node| node.id));
        if let Some(id) = a_id {
            grads.register::<B>(id, B::matmul(gradient.clone(), B::float_transpose(b)));
        }
        if let Some(id) = b_id {
            grads.register::<B>(id, B::matmul(B::float_transpose(a), gradient));
        }
    }
}

/// Parents: x and y.
#[derive(Debug)]
pub(super) struct Join;

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
pub(super) struct Halve;

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
pub(super) struct Rectify;

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
pub(super) struct Tanh;

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
