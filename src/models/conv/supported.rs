//! Decides which inputs the fast operations on flex support.
//!
//! Each function returns the layer or stage to run, or `None` if burn's own operations must do it.

use burn::backend::Flex;
use burn::backend::flex::FlexTensor;
use burn::tensor::{DType, TensorMetadata};

use super::batch::{Layer, Upscale};
use super::plane::Plane;
use super::stage::Stage;
use super::{ConvSettings, Pool, full_kernel};

/// Minimum number of positions in an image. Below it, burn's plain matrix product is faster
/// forward; gradients are faster here at any size. The image decides, not the batch, so that the
/// output of an image does not depend on its batch.
const POSITIONS: usize = 16;

/// Returns whether the fast pooling supports this input.
pub(super) fn poolable(x: &FlexTensor, pool: Pool) -> bool {
    let [_, _, height, width] = x.shape().dims();
    pool.fits([height, width]) && x.dtype() == DType::F32 && !empty(x)
}

/// Returns whether there are no values. Chunking by a length of zero would panic.
pub(super) fn empty(x: &FlexTensor) -> bool {
    x.shape().num_elements() == 0
}

/// Returns the layer if the fast convolution supports it.
pub(super) fn convolution(
    x: &FlexTensor,
    weight: &FlexTensor,
    settings: ConvSettings,
) -> Option<Layer> {
    any_convolution(x, weight, settings).filter(|layer| layer.plane.area() >= POSITIONS)
}

/// Returns the layer at any size, for gradients. A kernel that covers the image is a matrix product
/// instead.
pub(super) fn any_convolution(
    x: &FlexTensor,
    weight: &FlexTensor,
    settings: ConvSettings,
) -> Option<Layer> {
    let [outputs, inputs, kernel, kernel_width] = weight.shape().dims();
    let ConvSettings { padding, stride, relu } = settings;
    let [_, channels, height, width] = x.shape().dims();
    // The lines need a border narrower than the kernel, and an output.
    let fits = padding < kernel && height.min(width) + 2 * padding >= kernel;
    let small =
        kernel == kernel_width && kernel <= 3 && !full_kernel::covers::<Flex>(x, weight, settings);
    // The kernels have inner loops for sides 1, 2 and 3 only.
    let fast = stride == 1 && small && fits && channels == inputs;
    let plane = Plane { height, width, padding, kernel };
    (fast && outputs > 0 && !empty(x) && is_f32(x, weight)).then_some(Layer {
        plane,
        inputs,
        outputs,
        relu,
        upscale: Upscale::None,
    })
}

/// Returns the layers as a stage if the fast convolution supports all of them.
pub(super) fn stage(x: &FlexTensor, layers: &[(FlexTensor, FlexTensor); 5]) -> Option<Stage> {
    let settings = ConvSettings { padding: 1, stride: 1, relu: false };
    let Layer { plane, inputs, outputs, .. } = convolution(x, &layers[0].0, settings)?;
    let stage = Stage { plane, inputs, outputs };
    // The first convolution passed the checks above; the others must match it.
    let inner = layers[1..]
        .iter()
        .all(|(weight, _)| weight.shape().dims() == [outputs, outputs, 3, 3] && is_f32(x, weight));
    (plane.kernel == 3 && inner && stage.halved().area() >= POSITIONS).then_some(stage)
}

/// Returns the transposed convolution as a layer if the fast version supports it.
pub(super) fn doubling(x: &FlexTensor, weight: &FlexTensor) -> Option<Layer> {
    any_doubling(x, weight).filter(|layer| layer.plane.area() >= POSITIONS)
}

/// Returns the transposed convolution as a layer at any size, except for a single pixel, which is a
/// matrix product.
pub(super) fn any_doubling(x: &FlexTensor, weight: &FlexTensor) -> Option<Layer> {
    let [inputs, outputs, rows, columns] = weight.shape().dims();
    let [_, channels, height, width] = x.shape().dims();
    let fits = (rows, columns, channels) == (2, 2, inputs) && !full_kernel::is_pixel::<Flex>(x);
    let plane = Plane { height, width, padding: 0, kernel: 1 };
    let upscale = Upscale::Double;
    (fits && outputs > 0 && !empty(x) && is_f32(x, weight)).then_some(Layer {
        plane,
        inputs,
        outputs: 4 * outputs,
        relu: false,
        upscale,
    })
}

/// Returns whether both tensors are single precision.
pub(super) fn is_f32(x: &FlexTensor, weight: &FlexTensor) -> bool {
    x.dtype() == DType::F32 && weight.dtype() == DType::F32
}
