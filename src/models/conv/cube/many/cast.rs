//! The parameters of a network in another precision.

use burn::tensor::{DType, TensorMetadata};
use burn_cubecl::CubeRuntime;
use cubecl::prelude::*;

use super::super::layout::units;
use super::super::queue::{Queued, queue};
use super::{empty_parameter, launches, place, scalars, starts, tensors};

#[cube(launch)]
fn cast_kernel<E: Numeric, F: Numeric>(
    values: &Sequence<Tensor<E>>,
    starts: &Sequence<u32>,
    outs: &mut Sequence<Tensor<F>>,
    #[define(E, F)] _dtypes: [StorageType; 2],
) {
    #[unroll]
    for i in 0..values.len() {
        let start = *starts.index(i) as usize;
        let from = values.index(i);
        let count = from.shape(0) * from.shape(1) * from.shape(2) * from.shape(3);
        if ABSOLUTE_POS >= start && ABSOLUTE_POS - start < count {
            let at = ABSOLUTE_POS - start;
            let value = F::cast_from(from[place::<E>(from, at)]);
            let to = outs.index_mut(i);
            let there = place::<F>(to, at);
            to[there] = value;
        }
    }
}

/// Casts parameters or their gradients, all from the same precision.
pub fn cast<R: CubeRuntime>(parameters: Vec<Queued<R>>, dtype: DType) -> Vec<Queued<R>> {
    if parameters.is_empty() {
        return parameters;
    }
    let outputs = parameters.iter().map(|parameter| (parameter.shape(), dtype)).collect();
    queue("cast", parameters, outputs, move |parameters| {
        let chunk = launches(&parameters, &parameters[0], 2);
        let chunks = parameters.chunks(chunk).flat_map(|parameters| {
            let outs: Vec<_> =
                parameters.iter().map(|parameter| empty_parameter(parameter, dtype)).collect();
            let (starts, end) = starts(parameters);
            let (cubes, dim) = units(&parameters[0], end);
            cast_kernel::launch(
                &parameters[0].client,
                cubes,
                dim,
                tensors(parameters),
                scalars(&starts),
                tensors(&outs),
                [parameters[0].dtype.into(), dtype.into()],
            );
            outs
        });
        chunks.collect()
    })
}
