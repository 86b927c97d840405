//! Operations on many pairs of an old and a new tensor.

use burn::tensor::{DType, TensorMetadata};
use burn_cubecl::CubeRuntime;
use burn_cubecl::kernel::into_contiguous;
use cubecl::prelude::*;

use super::super::layout::{empty, units};
use super::super::queue::{Queued, queue};
use super::{arrays, launches, scalars, starts};

#[cube(launch)]
fn pairs_kernel(
    olds: &Sequence<Array<f32>>,
    news: &Sequence<Array<f32>>,
    starts: &Sequence<u32>,
    factors: &Sequence<f32>,
    scale: &Array<f32>,
    outs: &mut Sequence<Array<f32>>,
    share: f32,
    #[comptime] blend: bool,
) {
    #[unroll]
    for i in 0..olds.len() {
        let start = *starts.index(i) as usize;
        let old = olds.index(i);
        if ABSOLUTE_POS >= start && ABSOLUTE_POS - start < old.len() {
            let at = ABSOLUTE_POS - start;
            let mut value = news.index(i)[at] * *factors.index(i);
            if blend {
                value = old[at] * (1.0 - share) + value * share;
            } else if scale[0].is_nan() {
                value = old[at];
            }
            outs.index_mut(i)[at] = value;
        }
    }
}

/// See [`ConvBackend::blend`](crate::models::conv::ConvBackend::blend).
pub fn blend<R: CubeRuntime>(
    old: Vec<Queued<R>>,
    new: Vec<Queued<R>>,
    factors: Vec<f64>,
    share: f64,
) -> Vec<Queued<R>> {
    pairs("blend", old, new, None, factors, share)
}

/// See [`ConvBackend::choose`](crate::models::conv::ConvBackend::choose).
pub fn choose<R: CubeRuntime>(
    old: Vec<Queued<R>>,
    new: Vec<Queued<R>>,
    scale: Queued<R>,
) -> Vec<Queued<R>> {
    let factors = vec![1.0; old.len()];
    pairs("choose", old, new, Some(scale), factors, 0.0)
}

fn pairs<R: CubeRuntime>(
    name: &'static str,
    old: Vec<Queued<R>>,
    new: Vec<Queued<R>>,
    scale: Option<Queued<R>>,
    factors: Vec<f64>,
    share: f64,
) -> Vec<Queued<R>> {
    let count = old.len();
    if count == 0 {
        return old;
    }
    let outputs = old.iter().map(|old| (old.shape(), DType::F32)).collect();
    let is_blend = scale.is_none();
    let inputs = old.into_iter().chain(new).chain(scale).collect();
    queue(name, inputs, outputs, move |inputs| {
        let inputs: Vec<_> = inputs.into_iter().map(into_contiguous).collect();
        let (old, rest) = inputs.split_at(count);
        let (new, scale) = rest.split_at(count);
        let out: Vec<_> =
            old.iter().map(|old| empty(old, old.meta.shape().clone(), DType::F32)).collect();
        // A blend reads no scale; any buffer takes its place.
        let scale = scale.first().unwrap_or(&old[0]);
        let chunk = launches(old, scale, 3);
        for first in (0..count).step_by(chunk) {
            let range = first..count.min(first + chunk);
            let (starts, end) = starts(&old[range.clone()]);
            let (cubes, dim) = units(scale, end);
            pairs_kernel::launch(
                &scale.client,
                cubes,
                dim,
                arrays(&old[range.clone()]),
                arrays(&new[range.clone()]),
                scalars(&starts),
                factors[range.clone()].iter().map(|factor| *factor as f32).collect(),
                scale.clone().into_array_arg(),
                arrays(&out[range]),
                share as f32,
                is_blend,
            );
        }
        out
    })
}
