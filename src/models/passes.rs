//! Runs a network on many inputs, pass by pass.

use rayon::prelude::*;

use super::layers::NetBackend;

/// Applies `pass` to chunks of `size` inputs and returns the results in order. `state` is what the
/// passes share, such as a network.
///
/// On a CPU the passes run in parallel. On a GPU they run one after the other on this thread: each
/// thread has its own queue there, and queues wait for each other's tensors.
pub fn in_passes<B: NetBackend, S: Clone + Send, T: Sync, R: Send, E: Send>(
    state: &S,
    inputs: &[T],
    size: usize,
    pass: impl Fn(&S, &[T]) -> Result<R, E> + Send + Sync,
) -> Result<Vec<R>, E> {
    if B::IS_CPU {
        let run = |state: &mut S, inputs: &[T]| pass(state, inputs);
        inputs.par_chunks(size).map_with(state.clone(), run).collect()
    } else {
        inputs.chunks(size).map(|inputs| pass(state, inputs)).collect()
    }
}
