//! The iterations of Muon for many matrices of one size at once.

use burn::tensor::{DType, Shape, TensorMetadata};
use burn_cubecl::CubeRuntime;
use burn_cubecl::kernel::into_contiguous;
use burn_cubecl::ops::permute;
use burn_cubecl::tensor::CubeTensor;
use cubecl::prelude::*;

use super::super::layout::{empty, units};
use super::super::product::product;
use super::super::queue::{Queued, only, queue, take};
use super::UNITS;

/// Each cube computes the norm of one matrix.
#[cube(launch)]
fn norm_kernel(matrices: &Array<f32>, norms: &mut Array<f32>, size: u32) {
    let mut sums = SharedMemory::<f32>::new(comptime![UNITS]);
    let size = size as usize;
    let first = CUBE_POS_X as usize * size;
    let mut sum = 0.0f32;
    for at in range_stepped(UNIT_POS_X as usize, size, UNITS) {
        let value = matrices[first + at];
        sum += value * value;
    }
    sums[UNIT_POS_X as usize] = sum;
    sync_cube();
    if UNIT_POS_X == 0 {
        let mut total = 0.0f32;
        for unit in 0..UNITS {
            total += sums[unit];
        }
        norms[CUBE_POS_X as usize] = total.sqrt();
    }
}

#[cube(launch)]
fn normalise_kernel(matrices: &Array<f32>, norms: &Array<f32>, out: &mut Array<f32>, size: u32) {
    if ABSOLUTE_POS < out.len() {
        let norm = norms[ABSOLUTE_POS / size as usize];
        out[ABSOLUTE_POS] = matrices[ABSOLUTE_POS] / max(norm, 1e-7);
    }
}

/// Computes `a I + b S + c T` of each matrix.
#[cube(launch)]
fn polynomial_kernel(
    s: &Tensor<f32>,
    t: &Tensor<f32>,
    out: &mut Tensor<f32>,
    a: f32,
    b: f32,
    c: f32,
) {
    if ABSOLUTE_POS < out.len() {
        let rows = out.shape(2);
        let column = ABSOLUTE_POS % rows;
        let row = ABSOLUTE_POS / rows % rows;
        let matrix = ABSOLUTE_POS / (rows * rows);
        let s_at = matrix * s.stride(0) + row * s.stride(1) + column * s.stride(2);
        let t_at = matrix * t.stride(0) + row * t.stride(1) + column * t.stride(2);
        let mut value = b * s[s_at] + c * t[t_at];
        if row == column {
            value += a;
        }
        out[ABSOLUTE_POS] = value;
    }
}

/// Divides matrices by their Frobenius norms, then multiplies them `iterations` times by
/// `a I + b S + c S S`, where `S` is the matrix times its transpose. Rows and columns of zeros stay.
///
/// # Shapes
/// - `matrices` and output: `[matrix, rows, columns]`
pub fn orthogonal<R: CubeRuntime>(
    matrices: Queued<R>,
    iterations: usize,
    [a, b, c]: [f32; 3],
) -> Queued<R> {
    let output = (matrices.shape(), DType::F32);
    only(queue("orthogonal matrices", vec![matrices], vec![output], move |inputs| {
        let [matrices] = take(&mut inputs.into_iter()).map(into_contiguous);
        let mut x = normalised(&matrices);
        let [count, rows, _] = matrices.meta.shape().dims();
        for _ in 0..iterations {
            let s = product(x.clone(), permute(x.clone(), &[0, 2, 1]), DType::F32);
            let t = product(s.clone(), s.clone(), DType::F32);
            let terms = empty(&s, Shape::new([count, rows, rows]), DType::F32);
            let (cubes, dim) = units(&terms, terms.meta.num_elements());
            polynomial_kernel::launch(
                &terms.client,
                cubes,
                dim,
                s.into_tensor_arg(),
                t.into_tensor_arg(),
                terms.clone().into_tensor_arg(),
                a,
                b,
                c,
            );
            x = product(terms, x, DType::F32);
        }
        vec![x]
    }))
}

/// Divides matrices by their norms. A zero matrix stays zero.
fn normalised<R: CubeRuntime>(matrices: &CubeTensor<R>) -> CubeTensor<R> {
    let [count, rows, columns] = matrices.meta.shape().dims();
    let size = (rows * columns) as u32;
    let norms = empty(matrices, [count], DType::F32);
    norm_kernel::launch(
        &norms.client,
        CubeCount::Static(count as u32, 1, 1),
        CubeDim::new_1d(UNITS as u32),
        matrices.clone().into_array_arg(),
        norms.clone().into_array_arg(),
        size,
    );
    let out = empty(matrices, matrices.meta.shape().clone(), DType::F32);
    let (cubes, dim) = units(&out, out.meta.num_elements());
    normalise_kernel::launch(
        &out.client,
        cubes,
        dim,
        matrices.clone().into_array_arg(),
        norms.into_array_arg(),
        out.clone().into_array_arg(),
        size,
    );
    out
}
