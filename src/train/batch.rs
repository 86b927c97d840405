//! Random batches of windows.
//!
//! A batch depends on nothing but the seed and the step, so a resumed training draws the batches
//! of an uninterrupted one. They equal the batches that PyTorch draws from the same seed after it
//! has initialised the networks.

use rand::SeedableRng;
use rand_chacha::ChaCha8Rng;

use crate::dataset::{Shards, WindowIndex};
use crate::models::torch_rng::TorchRng;

/// Returns a random number generator for one purpose at one step, equal on every machine.
pub fn generator(seed: u64, purpose: &str, step: u64) -> ChaCha8Rng {
    let mut hasher = blake3::Hasher::new();
    hasher.update(&seed.to_le_bytes()).update(&step.to_le_bytes()).update(purpose.as_bytes());
    ChaCha8Rng::from_seed(*hasher.finalize().as_bytes())
}

/// Draws windows with replacement, batch after batch.
pub struct WindowSampler {
    rng: TorchRng,
    windows: u64,
}

impl WindowSampler {
    /// Creates a sampler of `windows` windows. It skips the `drawn` random numbers of the initial
    /// weights and the `before` windows of earlier steps.
    pub fn new(seed: u64, drawn: u64, windows: usize, before: u64) -> Self {
        let mut rng = TorchRng::new(seed);
        let windows = windows as u64;
        rng.skip(drawn);
        // A draw may take several random numbers, so earlier windows are drawn rather than skipped.
        for _ in 0..before {
            _ = rng.below(windows);
        }
        WindowSampler { rng, windows }
    }

    /// Returns the next `size` windows.
    pub fn next(&mut self, size: usize) -> Vec<usize> {
        (0..size).map(|_| self.rng.below(self.windows) as usize).collect()
    }
}

/// Returns at most `most` windows, evenly spaced over all.
pub fn spread(index: &WindowIndex, most: usize) -> Vec<usize> {
    let count = index.len().min(most);
    (0..count).map(|i| i * index.len() / count).collect()
}

/// Copies windows into one buffer.
///
/// # Shapes
/// - `out`: `[window, time, height, width, 3]`, u8
pub fn gather(
    shards: &Shards,
    index: &WindowIndex,
    windows: &[usize],
    out: &mut Vec<u8>,
) -> Result<(), crate::dataset::Error> {
    let bytes = shards.frame_size().map_or(0, |size| size.bytes()) * index.frames_per_window();
    out.resize(windows.len() * bytes, 0);
    for (window, frames) in windows.iter().zip(out.chunks_exact_mut(bytes.max(1))) {
        index.gather(shards, index.locate(*window), frames)?;
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use rand::Rng;

    use super::*;

    #[test]
    fn a_generator_depends_only_on_seed_step_and_purpose() {
        let first = |seed, purpose, step| generator(seed, purpose, step).random::<u64>();
        assert_eq!(first(7, "batch", 3), first(7, "batch", 3));
        assert_ne!(first(7, "batch", 3), first(7, "batch", 4));
        assert_ne!(first(7, "batch", 3), first(8, "batch", 3));
        assert_ne!(first(7, "batch", 3), first(7, "revive", 3));
    }
}
