//! What surrounds the iterations of Muon for many matrices: packing, and the move.

use burn::tensor::{DType, Shape, TensorMetadata};
use burn_cubecl::CubeRuntime;
use burn_cubecl::kernel::into_contiguous;
use cubecl::prelude::*;

use super::super::layout::{empty, units};
use super::super::product::STAGES;
use super::super::queue::{Queued, queue};
use super::{arrays, empty_parameter, launches, place, scalars, starts, tensors};

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
/// momentum as one tensor: wide, padded with zeros to a size whose products burn tunes.
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
    let [rows, columns] =
        size.map(|size| size.expect("there is a matrix").next_multiple_of(STAGES));
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
            let value = from[place::<f32>(from, at)] - direction * *distances.index(i);
            let to = new.index_mut(i);
            let there = place::<f32>(to, at);
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
        let new: Vec<_> =
            parameters.iter().map(|parameter| empty_parameter(parameter, DType::F32)).collect();
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
