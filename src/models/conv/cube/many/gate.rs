//! The factor that clips gradients, and the decision whether a step is taken.

use burn::tensor::{DType, TensorMetadata};
use burn_cubecl::CubeRuntime;
use burn_cubecl::kernel::into_contiguous;
use cubecl::prelude::*;

use super::super::layout::empty;
use super::super::queue::{Queued, queue, take};

#[cube(launch)]
fn clip_kernel(square_sum: &Array<f32>, norm: &mut Array<f32>, scale: &mut Array<f32>, most: f32) {
    let root = square_sum[0].sqrt();
    norm[0] = root;
    let mut factor = min(most / (root + 1e-6), 1.0);
    if root.is_nan() {
        factor = root;
    }
    scale[0] = factor;
}

/// Returns the norm of gradients, and the factor that clips it to `most`.
///
/// # Shapes
/// - `square_sum` and outputs: `[1]`
pub fn clip<R: CubeRuntime>(square_sum: Queued<R>, most: f32) -> [Queued<R>; 2] {
    let output = (square_sum.shape(), DType::F32);
    let found = queue("clip", vec![square_sum], vec![output.clone(), output], move |inputs| {
        let [square_sum] = take(&mut inputs.into_iter()).map(into_contiguous);
        let outputs = [0, 1].map(|_| empty(&square_sum, [1], DType::F32));
        clip_kernel::launch(
            &outputs[0].client,
            CubeCount::new_single(),
            CubeDim::new_single(),
            square_sum.into_array_arg(),
            outputs[0].clone().into_array_arg(),
            outputs[1].clone().into_array_arg(),
            most,
        );
        outputs.to_vec()
    });
    take(&mut found.into_iter())
}

#[cube(launch)]
fn gate_kernel(
    loss: &Array<f32>,
    norm: &Array<f32>,
    skipped: &mut Array<f32>,
    mark: &mut Array<f32>,
    largest: f32,
    nan: f32,
) {
    // No comparison with NaN is true. Not `x - x`: compilers may take it for 0.
    if loss[0].abs() + norm[0].abs() <= largest {
        skipped[0] = 0.0;
        mark[0] = 0.0;
    } else {
        skipped[0] = 1.0;
        mark[0] = nan;
    }
}

/// Returns 1 and NaN if the step is skipped because one of these is not finite, else 0 and 0.
///
/// # Shapes
/// - inputs and outputs: `[1]`
pub fn gate<R: CubeRuntime>(loss: Queued<R>, norm: Queued<R>) -> [Queued<R>; 2] {
    let output = (loss.shape(), DType::F32);
    let found = queue("gate", vec![loss, norm], vec![output.clone(), output], |inputs| {
        let [loss, norm] = take(&mut inputs.into_iter()).map(into_contiguous);
        let outputs = [0, 1].map(|_| empty(&loss, [1], DType::F32));
        gate_kernel::launch(
            &outputs[0].client,
            CubeCount::new_single(),
            CubeDim::new_single(),
            loss.into_array_arg(),
            norm.into_array_arg(),
            outputs[0].clone().into_array_arg(),
            outputs[1].clone().into_array_arg(),
            f32::MAX,
            f32::NAN,
        );
        outputs.to_vec()
    });
    take(&mut found.into_iter())
}
