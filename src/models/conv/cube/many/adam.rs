//! A step of Adam for many parameters.

use burn::tensor::{DType, TensorMetadata};
use burn_cubecl::CubeRuntime;
use burn_cubecl::kernel::into_contiguous;
use burn_cubecl::tensor::CubeTensor;
use cubecl::prelude::*;

use super::super::layout::{empty, units};
use super::super::queue::{Queued, queue, take};
use super::{arrays, empty_parameter, launches, place, scalars, starts, tensors};

/// The factors of a step of Adam.
#[derive(Clone, Copy, Debug)]
pub struct AdamFactors {
    /// Decay of the mean gradient.
    pub beta1: f32,
    /// Decay of the mean squared gradient.
    pub beta2: f32,
    /// Added to the denominator.
    pub epsilon: f32,
    /// The learning rate over the correction of the mean gradient.
    pub rate: f32,
    /// One over the root of the correction of the mean squared gradient.
    pub root_correction: f32,
}

/// A parameter with its gradient and moments.
#[derive(Clone, Debug)]
pub struct AdamState<T> {
    /// In its own shape.
    pub parameter: T,
    /// Flat.
    pub gradient: T,
    /// Mean gradient, flat.
    pub first: T,
    /// Mean squared gradient, flat.
    pub second: T,
}

#[cube(launch)]
fn adam_kernel(
    parameters: &Sequence<Tensor<f32>>,
    gradients: &Sequence<Array<f32>>,
    firsts: &Sequence<Array<f32>>,
    seconds: &Sequence<Array<f32>>,
    starts: &Sequence<u32>,
    scale: &Array<f32>,
    new_parameters: &mut Sequence<Tensor<f32>>,
    new_firsts: &mut Sequence<Array<f32>>,
    new_seconds: &mut Sequence<Array<f32>>,
    beta1: f32,
    beta2: f32,
    epsilon: f32,
    rate: f32,
    root_correction: f32,
) {
    let scale = scale[0];
    #[unroll]
    for i in 0..parameters.len() {
        let start = *starts.index(i) as usize;
        let count = gradients.index(i).len();
        if ABSOLUTE_POS >= start && ABSOLUTE_POS - start < count {
            let at = ABSOLUTE_POS - start;
            let from = parameters.index(i);
            let old = from[place::<f32>(from, at)];
            let mut first = firsts.index(i)[at];
            let mut second = seconds.index(i)[at];
            let mut parameter = old;
            // A scale that is no number leaves everything as it was.
            if !scale.is_nan() {
                let gradient = gradients.index(i)[at] * scale;
                second = second * beta2 + gradient * gradient * (1.0 - beta2);
                first = first * beta1 + gradient * (1.0 - beta1);
                let root = f32::sqrt(second) * root_correction + epsilon;
                parameter = old - first / root * rate;
            }
            let to = new_parameters.index_mut(i);
            let there = place::<f32>(to, at);
            to[there] = parameter;
            new_firsts.index_mut(i)[at] = first;
            new_seconds.index_mut(i)[at] = second;
        }
    }
}

/// Takes a step of Adam for many parameters. Gradients are multiplied by `scale`; a scale that is
/// no number leaves everything as it was.
///
/// # Shapes
/// - `scale`: `[1]`
/// - output: parameter and moments, of the same shapes
pub fn adam<R: CubeRuntime>(
    states: Vec<AdamState<Queued<R>>>,
    scale: Queued<R>,
    factors: AdamFactors,
) -> Vec<[Queued<R>; 3]> {
    let count = states.len();
    if count == 0 {
        return Vec::new();
    }
    let mut outputs = Vec::with_capacity(3 * count);
    let mut inputs = Vec::with_capacity(4 * count + 1);
    for AdamState { parameter, gradient, first, second } in states {
        for state in [&parameter, &first, &second] {
            outputs.push((state.shape(), DType::F32));
        }
        inputs.extend([parameter, gradient, first, second]);
    }
    inputs.push(scale);
    let found = queue("adam", inputs, outputs, move |inputs| {
        let scale = inputs.last().expect("the scale is the last input").clone();
        let states: Vec<_> = inputs.chunks_exact(4).collect();
        let chunk = launches(&states, &scale, 7);
        states.chunks(chunk).flat_map(|states| adam_launch(states, &scale, factors)).collect()
    });
    let mut found = found.into_iter();
    (0..count).map(|_| take(&mut found)).collect()
}

fn adam_launch<R: CubeRuntime>(
    states: &[&[CubeTensor<R>]],
    scale: &CubeTensor<R>,
    factors: AdamFactors,
) -> Vec<CubeTensor<R>> {
    let column = |index: usize| states.iter().map(move |state| state[index].clone());
    let flat = |index: usize| column(index).map(into_contiguous).collect::<Vec<_>>();
    let parameters: Vec<_> = column(0).collect();
    let [gradients, firsts, seconds] = [1, 2, 3].map(flat);
    let new_parameters: Vec<_> =
        parameters.iter().map(|parameter| empty_parameter(parameter, DType::F32)).collect();
    let new = |old: &[CubeTensor<R>]| {
        let new = old.iter().map(|old| empty(old, old.meta.shape().clone(), DType::F32));
        new.collect::<Vec<_>>()
    };
    let (new_firsts, new_seconds) = (new(&firsts), new(&seconds));
    let (starts, end) = starts(&gradients);
    let (count, dim) = units(scale, end);
    adam_kernel::launch(
        &scale.client,
        count,
        dim,
        tensors(&parameters),
        arrays(&gradients),
        arrays(&firsts),
        arrays(&seconds),
        scalars(&starts),
        scale.clone().into_array_arg(),
        tensors(&new_parameters),
        arrays(&new_firsts),
        arrays(&new_seconds),
        factors.beta1,
        factors.beta2,
        factors.epsilon,
        factors.rate,
        factors.root_correction,
    );
    let states = new_parameters.into_iter().zip(new_firsts).zip(new_seconds);
    states.flat_map(|((parameter, first), second)| [parameter, first, second]).collect()
}
