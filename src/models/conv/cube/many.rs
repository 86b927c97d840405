//! Kernels over many tensors at once: an optimiser's step takes a few launches, however many
//! parameters the networks have.
//!
//! A launch covers the values of several tensors, one after the other. Gradients and moments are
//! flat and in the order of their parameter. A parameter has its own shape; images and kernels of
//! convolutions have their channels last in memory, as the convolutions read them.

use burn::tensor::{DType, Shape, TensorMetadata};
use burn_cubecl::CubeRuntime;
use burn_cubecl::kernel::into_contiguous;
use burn_cubecl::tensor::CubeTensor;
use cubecl::prelude::*;

use super::layout::{empty, units};
use super::queue::{Queued, queue};

/// The most tensors of one launch.
const TENSORS: usize = 32;
/// Units of a cube that sums.
const UNITS: usize = 256;
/// Values that a unit sums.
const VALUES: usize = 16;

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

/// Splits tensors into launches, each with at most as many buffers as the device allows.
fn launches<R: CubeRuntime, T>(tensors: &[T], of: &CubeTensor<R>, buffers: usize) -> usize {
    let most = of.client.properties().hardware.max_bindings as usize;
    let launch = ((most - 4) / buffers).clamp(1, TENSORS);
    // Launches of about equal length are compiled once.
    tensors.len().div_ceil(tensors.len().div_ceil(launch))
}

/// Returns the first value of each tensor within a launch, and the number of all values.
fn starts<R: CubeRuntime>(tensors: &[CubeTensor<R>]) -> (Vec<usize>, usize) {
    let mut end = 0;
    let starts = tensors.iter().map(|tensor| {
        let start = end;
        end += tensor.meta.num_elements();
        start
    });
    let starts = starts.collect();
    (starts, end)
}

fn scalars<R: CubeRuntime>(values: &[usize]) -> SequenceArg<R, u32> {
    values.iter().map(|value| *value as u32).collect()
}

fn arrays<R: CubeRuntime>(tensors: &[CubeTensor<R>]) -> SequenceArg<R, Array<f32>> {
    tensors.iter().map(|tensor| tensor.clone().into_array_arg()).collect()
}

fn tensors<R: CubeRuntime>(tensors: &[CubeTensor<R>]) -> SequenceArg<R, Tensor<f32>> {
    tensors.iter().map(|tensor| as_four(tensor).into_tensor_arg()).collect()
}

/// Returns a tensor of four axes: missing ones are added in front.
fn as_four<R: CubeRuntime>(tensor: &CubeTensor<R>) -> CubeTensor<R> {
    let mut tensor = tensor.clone();
    while tensor.meta.num_dims() < 4 {
        let stride = tensor.meta.strides()[0] * tensor.meta.shape()[0];
        tensor.meta.insert(0, 1, stride);
    }
    tensor
}

/// Allocates a parameter, with channels last if it is the kernel of a convolution.
fn empty_parameter<R: CubeRuntime>(like: &CubeTensor<R>) -> CubeTensor<R> {
    match like.meta.num_dims() {
        4 => {
            let [outputs, inputs, rows, columns] = like.meta.shape().dims();
            super::layout::channels_first(empty(like, [outputs, rows, columns, inputs], like.dtype))
        }
        _ => empty(like, like.meta.shape().clone(), like.dtype),
    }
}

/// Returns the place in memory of a value, counted in the order of the axes.
#[cube]
fn place(tensor: &Tensor<f32>, at: usize) -> usize {
    let d = at % tensor.shape(3);
    let rest = at / tensor.shape(3);
    let c = rest % tensor.shape(2);
    let rest = rest / tensor.shape(2);
    let b = rest % tensor.shape(1);
    let a = rest / tensor.shape(1);
    a * tensor.stride(0) + b * tensor.stride(1) + c * tensor.stride(2) + d * tensor.stride(3)
}

#[cube(launch)]
fn square_sum_kernel(
    values: &Sequence<Array<f32>>,
    starts: &Sequence<u32>,
    out: &mut Array<f32>,
    first: u32,
    end: u32,
) {
    let mut sums = SharedMemory::<f32>::new(comptime![UNITS]);
    let mut sum = 0.0f32;
    let from = (CUBE_POS_X as usize * UNITS * VALUES) + UNIT_POS_X as usize;
    for step in 0..VALUES {
        let at = (from + step * UNITS) as u32;
        if at < end {
            let mut value = 0.0f32;
            #[unroll]
            for i in 0..values.len() {
                let start = *starts.index(i);
                let array = values.index(i);
                if at >= start && at - start < array.len() as u32 {
                    value = array[(at - start) as usize];
                }
            }
            sum += value * value;
        }
    }
    sums[UNIT_POS_X as usize] = sum;
    sync_cube();
    if UNIT_POS_X == 0 {
        let mut total = 0.0f32;
        for unit in 0..UNITS {
            total += sums[unit];
        }
        out[first as usize + CUBE_POS_X as usize] = total;
    }
}

#[cube(launch)]
fn total_kernel(parts: &Array<f32>, out: &mut Array<f32>) {
    let mut sums = SharedMemory::<f32>::new(comptime![UNITS]);
    let mut sum = 0.0f32;
    for part in range_stepped(UNIT_POS_X as usize, parts.len(), UNITS) {
        sum += parts[part];
    }
    sums[UNIT_POS_X as usize] = sum;
    sync_cube();
    if UNIT_POS_X == 0 {
        let mut total = 0.0f32;
        for unit in 0..UNITS {
            total += sums[unit];
        }
        out[0] = total;
    }
}

/// Sums the squares of all values.
///
/// # Shapes
/// - `values`: any, in f32
/// - output: `[1]`
pub fn square_sum<R: CubeRuntime>(values: Vec<Queued<R>>) -> Queued<R> {
    let output = (Shape::new([1]), DType::F32);
    super::only(queue("sum of squares", values, vec![output], |values| {
        let values: Vec<_> = values.into_iter().map(into_contiguous).collect();
        let chunk = launches(&values, &values[0], 1);
        let cubes = |chunk: &[CubeTensor<R>]| starts(chunk).1.div_ceil(UNITS * VALUES);
        let parts = values.chunks(chunk).map(cubes).sum::<usize>();
        let parts = empty(&values[0], [parts], DType::F32);
        let mut first = 0;
        for chunk in values.chunks(chunk) {
            let (starts, end) = starts(chunk);
            square_sum_kernel::launch(
                &parts.client,
                CubeCount::Static(cubes(chunk) as u32, 1, 1),
                CubeDim::new_1d(UNITS as u32),
                arrays(chunk),
                scalars(&starts),
                parts.clone().into_array_arg(),
                first as u32,
                end as u32,
            );
            first += cubes(chunk);
        }
        let out = empty(&parts, [1], DType::F32);
        total_kernel::launch(
            &parts.client,
            CubeCount::Static(1, 1, 1),
            CubeDim::new_1d(UNITS as u32),
            parts.clone().into_array_arg(),
            out.clone().into_array_arg(),
        );
        vec![out]
    }))
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
            let old = from[place(from, at)];
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
            let there = place(to, at);
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
    (0..count).map(|_| super::take(&mut found)).collect()
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
    let new_parameters: Vec<_> = parameters.iter().map(empty_parameter).collect();
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

/// A matrix among others of the same padded size.
#[derive(Clone, Copy, Debug)]
pub struct Matrix {
    /// Its rows.
    pub rows: usize,
    /// Its columns.
    pub columns: usize,
}

impl Matrix {
    /// Returns the rows and columns after a transposition that makes it wide.
    pub fn wide(self) -> [usize; 2] {
        [self.rows.min(self.columns), self.rows.max(self.columns)]
    }
}

#[cube(launch)]
fn pack_kernel(
    gradients: &Sequence<Array<f32>>,
    means: &Sequence<Array<f32>>,
    rows: &Sequence<u32>,
    columns: &Sequence<u32>,
    scale: &Array<f32>,
    new_means: &mut Sequence<Array<f32>>,
    packed: &mut Array<f32>,
    padded_rows: u32,
    padded_columns: u32,
    first: u32,
    momentum: f32,
) {
    let size = padded_rows * padded_columns;
    let scale = scale[0];
    #[unroll]
    for i in 0..gradients.len() {
        let start = size * i as u32;
        let at = ABSOLUTE_POS as u32;
        if at >= start && at - start < size {
            let row = (at - start) / padded_columns;
            let column = (at - start) % padded_columns;
            let (rows, columns) = (*rows.index(i), *columns.index(i));
            let tall = rows > columns;
            let mut wide_rows = rows;
            let mut wide_columns = columns;
            let mut place = row * columns + column;
            if tall {
                wide_rows = columns;
                wide_columns = rows;
                place = column * columns + row;
            }
            let mut value = 0.0f32;
            if row < wide_rows && column < wide_columns {
                let mut mean = means.index(i)[place as usize];
                if !scale.is_nan() {
                    let gradient = gradients.index(i)[place as usize] * scale;
                    mean = mean * momentum + gradient * (1.0 - momentum);
                    value = mean * momentum + gradient * (1.0 - momentum);
                }
                new_means.index_mut(i)[place as usize] = mean;
            }
            packed[(first * size + at) as usize] = value;
        }
    }
}

/// Moves the mean gradients of matrices, and returns them and the gradients with Nesterov's
/// momentum as one tensor: wide, padded with zeros.
///
/// # Shapes
/// - `gradients` and `means`: flat
/// - `scale`: `[1]`; a scale that is no number leaves the means as they were
/// - outputs: flat, and `[matrix, rows, columns]`
pub fn pack<R: CubeRuntime>(
    gradients: Vec<Queued<R>>,
    means: Vec<Queued<R>>,
    scale: Queued<R>,
    matrices: Vec<Matrix>,
    momentum: f32,
) -> (Vec<Queued<R>>, Queued<R>) {
    let count = matrices.len();
    let size = [0, 1].map(|axis| matrices.iter().map(|matrix| matrix.wide()[axis]).max());
    let [rows, columns] = size.map(|size| size.expect("there is a matrix").next_multiple_of(8));
    let mut outputs: Vec<_> = means.iter().map(|mean| (mean.shape(), DType::F32)).collect();
    outputs.push((Shape::new([count, rows, columns]), DType::F32));
    let inputs = [gradients, means, vec![scale]].concat();
    let mut found = queue("muon", inputs, outputs, move |inputs| {
        let inputs: Vec<_> = inputs.into_iter().map(into_contiguous).collect();
        let (gradients, rest) = inputs.split_at(count);
        let (means, rest) = rest.split_at(count);
        let [scale] = rest else { unreachable!("the scale is the last input") };
        let packed = empty(scale, [count, rows, columns], DType::F32);
        let new: Vec<_> =
            means.iter().map(|mean| empty(mean, mean.meta.shape().clone(), DType::F32)).collect();
        let chunk = launches(gradients, scale, 3);
        for first in (0..count).step_by(chunk) {
            let range = first..count.min(first + chunk);
            let of = |size: fn(&Matrix) -> usize| {
                scalars::<R>(&matrices[range.clone()].iter().map(size).collect::<Vec<_>>())
            };
            let (cubes, dim) = units(scale, range.len() * rows * columns);
            pack_kernel::launch(
                &scale.client,
                cubes,
                dim,
                arrays(&gradients[range.clone()]),
                arrays(&means[range.clone()]),
                of(|matrix| matrix.rows),
                of(|matrix| matrix.columns),
                scale.clone().into_array_arg(),
                arrays(&new[range.clone()]),
                packed.clone().into_array_arg(),
                rows as u32,
                columns as u32,
                first as u32,
                momentum,
            );
        }
        new.into_iter().chain([packed]).collect()
    });
    let packed = found.pop().expect("the packed tensor is the last output");
    (found, packed)
}

#[cube(launch)]
fn move_kernel(
    parameters: &Sequence<Tensor<f32>>,
    directions: &Tensor<f32>,
    rows: &Sequence<u32>,
    columns: &Sequence<u32>,
    starts: &Sequence<u32>,
    distances: &Sequence<f32>,
    new: &mut Sequence<Tensor<f32>>,
    first: u32,
) {
    #[unroll]
    for i in 0..parameters.len() {
        let start = *starts.index(i);
        let (rows, columns) = (*rows.index(i), *columns.index(i));
        let at = ABSOLUTE_POS as u32;
        if at >= start && at - start < rows * columns {
            let at = (at - start) as usize;
            let mut row = at / columns as usize;
            let mut column = at % columns as usize;
            if rows > columns {
                row = at % columns as usize;
                column = at / columns as usize;
            }
            let matrix = (first as usize) + i;
            let direction = directions[matrix * directions.stride(0)
                + row * directions.stride(1)
                + column * directions.stride(2)];
            let from = parameters.index(i);
            let value = from[place(from, at)] - direction * *distances.index(i);
            let to = new.index_mut(i);
            let there = place(to, at);
            to[there] = value;
        }
    }
}

/// Moves parameters against their directions, packed as by [`pack`], by their distances.
///
/// # Shapes
/// - `directions`: `[matrix, rows, columns]`
/// - output: those of the parameters
pub fn move_along<R: CubeRuntime>(
    parameters: Vec<Queued<R>>,
    directions: Queued<R>,
    matrices: Vec<Matrix>,
    distances: Vec<f32>,
) -> Vec<Queued<R>> {
    let count = matrices.len();
    let outputs = parameters.iter().map(|parameter| (parameter.shape(), DType::F32)).collect();
    let inputs = [parameters, vec![directions]].concat();
    queue("muon's move", inputs, outputs, move |inputs| {
        let (parameters, rest) = inputs.split_at(count);
        let [directions] = rest else { unreachable!("the directions are the last input") };
        let new: Vec<_> = parameters.iter().map(empty_parameter).collect();
        let chunk = launches(parameters, directions, 2);
        for first in (0..count).step_by(chunk) {
            let range = first..count.min(first + chunk);
            let of = |size: fn(&Matrix) -> usize| {
                scalars::<R>(&matrices[range.clone()].iter().map(size).collect::<Vec<_>>())
            };
            let (starts, end) = starts(&parameters[range.clone()]);
            let (cubes, dim) = units(directions, end);
            move_kernel::launch(
                &directions.client,
                cubes,
                dim,
                tensors(&parameters[range.clone()]),
                directions.clone().into_tensor_arg(),
                of(|matrix| matrix.rows),
                of(|matrix| matrix.columns),
                scalars(&starts),
                distances[range.clone()].iter().copied().collect(),
                tensors(&new[range]),
                first as u32,
            );
        }
        new
    })
}
