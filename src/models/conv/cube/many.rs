//! Kernels over many tensors at once: an optimiser's step takes a few launches, however many
//! parameters the networks have.
//!
//! A launch covers the values of several tensors, one after the other. Gradients and moments are
//! flat and in the order of their parameter. A parameter has its own shape; images and kernels of
//! convolutions have their channels last in memory, as the convolutions read them.

use burn::tensor::{DType, Shape};
use burn_cubecl::CubeRuntime;
use burn_cubecl::kernel::into_contiguous;
use burn_cubecl::tensor::CubeTensor;
use cubecl::prelude::*;

use super::layout::{channels_first, empty};
use super::queue::{Queued, only, queue};

pub mod adam;
pub mod cast;
pub mod gate;
pub mod muon;
pub mod orthogonal;
pub mod pairs;

/// The most buffers of one launch: a kernel's arguments fit in 4 KiB.
const BUFFERS: usize = 224;
/// Units of a cube that sums.
const UNITS: usize = 256;
/// Values that a unit sums.
const VALUES: usize = 16;

/// Splits tensors into launches, each with at most as many buffers as the device allows.
fn launches<R: CubeRuntime, T>(tensors: &[T], of: &CubeTensor<R>, buffers: usize) -> usize {
    let most = of.client.properties().hardware.max_bindings as usize - 4;
    let launch = (most.min(BUFFERS) / buffers).max(1);
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

fn tensors<R: CubeRuntime, F: CubePrimitive>(
    tensors: &[CubeTensor<R>],
) -> SequenceArg<R, Tensor<F>> {
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

/// Allocates a parameter, with channels last if it is the 3x3 kernel of a convolution. Doublings
/// read their 2x2 kernels as a matrix.
fn empty_parameter<R: CubeRuntime>(like: &CubeTensor<R>, dtype: DType) -> CubeTensor<R> {
    match like.meta.num_dims() {
        4 if like.meta.shape()[3] == 3 => {
            let [outputs, inputs, rows, columns] = like.meta.shape().dims();
            channels_first(empty(like, [outputs, rows, columns, inputs], dtype))
        }
        _ => empty(like, like.meta.shape().clone(), dtype),
    }
}

/// Returns the place in memory of a value, counted in the order of the axes.
#[cube]
fn place<F: Numeric>(tensor: &Tensor<F>, at: usize) -> usize {
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
    only(queue("sum of squares", values, vec![output], |values| {
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
