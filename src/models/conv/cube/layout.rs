//! Images in memory: channels last, as tensor cores read them.

use burn::tensor::{DType, Shape};
use burn_cubecl::CubeRuntime;
use burn_cubecl::kernel::into_contiguous;
use burn_cubecl::ops::numeric::empty_device_contiguous_dtype;
use burn_cubecl::ops::{permute_nchw_to_nhwc, permute_nhwc_to_nchw};
use burn_cubecl::tensor::CubeTensor;
use cubecl::calculate_cube_count_elemwise;
use cubecl::prelude::*;

/// Returns `[batch, channel, height, width]` as contiguous `[batch, height, width, channel]`. Only
/// images stored in another order are copied.
pub fn channels_last<R: CubeRuntime>(images: CubeTensor<R>) -> CubeTensor<R> {
    into_contiguous(permute_nchw_to_nhwc(images))
}

/// Returns `[batch, height, width, channel]` as `[batch, channel, height, width]`. The order in
/// memory stays.
pub fn channels_first<R: CubeRuntime>(images: CubeTensor<R>) -> CubeTensor<R> {
    permute_nhwc_to_nchw(images)
}

/// Allocates a contiguous tensor beside another one.
pub fn empty<R: CubeRuntime>(
    beside: &CubeTensor<R>,
    shape: impl Into<Shape>,
    dtype: DType,
) -> CubeTensor<R> {
    let client = beside.client.clone();
    empty_device_contiguous_dtype(client, beside.device.clone(), shape.into(), dtype)
}

/// Returns the number of cubes and their size for a kernel with one unit per element.
pub fn units<R: CubeRuntime>(tensor: &CubeTensor<R>, count: usize) -> (CubeCount, CubeDim) {
    let dim = CubeDim::new(&tensor.client, count);
    (calculate_cube_count_elemwise(&tensor.client, count, dim), dim)
}

/// Launches a kernel with one unit per element: `launch!(kernel, elements, [tensors], others)`.
///
/// With `flat` before the tensors the kernel takes them as arrays, without shapes. CUDA copies shapes
/// to the device at every launch, unlike scalars.
macro_rules! launch {
    ($kernel:ident, $count:expr, flat [$($tensor:expr),*] $(, $other:expr)*) => {
        launch!(@ into_array_arg, $kernel, $count, [$($tensor),*] $(, $other)*)
    };
    ($kernel:ident, $count:expr, [$($tensor:expr),*] $(, $other:expr)*) => {
        launch!(@ into_tensor_arg, $kernel, $count, [$($tensor),*] $(, $other)*)
    };
    (@ $arg:ident, $kernel:ident, $count:expr, [$($tensor:expr),*] $(, $other:expr)*) => {{
        let tensors = [$(std::borrow::Borrow::<CubeTensor<R>>::borrow(&$tensor)),*];
        let client = tensors[0].client.clone();
        let (count, dim) = $crate::conv::cube::layout::units(tensors[0], $count);
        let address = $crate::conv::cube::layout::addresses(&tensors);
        $kernel::launch(
            &client, count, dim, address, $($tensor.clone().$arg(),)* $($other),*
        );
    }};
}
pub(super) use launch;

/// Returns the address type of a kernel on these tensors.
pub fn addresses<R: CubeRuntime>(tensors: &[&CubeTensor<R>]) -> AddressType {
    tensors.iter().map(|tensor| tensor.required_address_type()).max().unwrap_or_default()
}
