//! lapo's kernels as operations of burn's queue, which fuses and orders all work of a GPU.

use std::fmt;

use burn::tensor::{DType, Shape};
use burn_cubecl::CubeBackend;
pub use burn_cubecl::CubeRuntime;
use burn_cubecl::fusion::FusionCubeRuntime;
use burn_cubecl::tensor::CubeTensor;
use burn_fusion::stream::{Operation, OperationStreams};
use burn_fusion::{Fusion, FusionHandle, FusionTensor};
use burn_ir::{CustomOpIr, HandleContainer, OperationIr, TensorIr};

/// burn's GPU backend without its queue.
pub type Direct<R> = CubeBackend<R, f32, i32, u8>;
/// burn's GPU backend.
pub type Queue<R> = Fusion<Direct<R>>;
/// A tensor whose values may not be computed yet.
pub type Queued<R> = FusionTensor<FusionCubeRuntime<R>>;

/// An operation of the queue.
struct Queueable<F> {
    description: CustomOpIr,
    run: F,
}

impl<F> fmt::Debug for Queueable<F> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.description.id)
    }
}

impl<R, F> Operation<FusionCubeRuntime<R>> for Queueable<F>
where
    R: CubeRuntime,
    F: Fn(Vec<CubeTensor<R>>) -> Vec<CubeTensor<R>> + Send + Sync,
{
    fn execute(&self, handles: &mut HandleContainer<FusionHandle<FusionCubeRuntime<R>>>) {
        let inputs = &self.description.inputs;
        let inputs =
            inputs.iter().map(|input| handles.get_float_tensor::<Direct<R>>(input)).collect();
        for (output, tensor) in self.description.outputs.iter().zip((self.run)(inputs)) {
            assert_eq!(
                output.shape,
                *tensor.meta.shape(),
                "{} has another shape",
                self.description.id
            );
            handles.register_float_tensor::<Direct<R>>(&output.id, tensor);
        }
    }
}

/// Queues an operation of at least one input. `run` computes the outputs, of these shapes and
/// types, from the inputs.
pub fn queue<R: CubeRuntime>(
    name: &'static str,
    inputs: Vec<Queued<R>>,
    outputs: Vec<(Shape, DType)>,
    run: impl Fn(Vec<CubeTensor<R>>) -> Vec<CubeTensor<R>> + Send + Sync + 'static,
) -> Vec<Queued<R>> {
    let client = inputs[0].client.clone();
    let streams = OperationStreams::with_inputs(&inputs);
    let inputs: Vec<_> = inputs.into_iter().map(FusionTensor::into_ir).collect();
    let outputs: Vec<_> = outputs
        .into_iter()
        .map(|(shape, dtype)| TensorIr::uninit(client.create_empty_handle(), shape, dtype))
        .collect();
    let description = CustomOpIr::new(name, &inputs, &outputs);
    let operation = OperationIr::Custom(description.clone());
    client.register(streams, operation, Queueable { description, run })
}

/// Takes the next `N` tensors.
pub fn take<T, const N: usize>(tensors: &mut impl Iterator<Item = T>) -> [T; N] {
    [(); N].map(|()| tensors.next().expect("the operation was queued with these tensors"))
}

/// Returns the only tensor.
pub fn only<T>(tensors: Vec<T>) -> T {
    let [tensor] = take(&mut tensors.into_iter());
    tensor
}
