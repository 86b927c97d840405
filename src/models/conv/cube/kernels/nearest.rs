//! The nearest code of each row.

use burn::tensor::DType;
use burn_cubecl::CubeRuntime;
use burn_cubecl::tensor::CubeTensor;
use cubecl::prelude::*;

use super::super::layout::{empty, launch};

#[cube(launch, address_type = "dynamic")]
fn nearest_kernel(rows: &Tensor<f32>, codes: &Tensor<f32>, out: &mut Tensor<i32>) {
    if ABSOLUTE_POS >= out.len() {
        terminate!();
    }
    let dim = rows.shape(2);
    let entries = codes.shape(1);
    let row = ABSOLUTE_POS * dim;
    let book = ABSOLUTE_POS / rows.shape(1) * entries * dim;
    let mut least = 0.0f32;
    let mut which = 0u32;
    for entry in 0..entries {
        let mut distance = 0.0f32;
        for i in 0..dim {
            let difference = rows[row + i] - codes[book + entry * dim + i];
            distance += difference * difference;
        }
        // The first of equal ones counts.
        if entry == 0 || distance < least {
            least = distance;
            which = entry as u32;
        }
    }
    out[ABSOLUTE_POS] = which as i32;
}

/// Returns the index of the nearest code for each row.
///
/// # Shapes
/// - `rows`: `[book, row, dim]`, in f32
/// - `codes`: `[book, entry, dim]`, in f32
/// - output: `[book, row]`
pub fn nearest<R: CubeRuntime>(rows: &CubeTensor<R>, codes: &CubeTensor<R>) -> CubeTensor<R> {
    let [books, count, _] = rows.meta.shape().dims();
    let out = empty(rows, [books, count], DType::I32);
    launch!(nearest_kernel, out.meta.num_elements(), [rows, codes, out]);
    out
}
