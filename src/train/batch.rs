//! Batches that depend on nothing but (seed, step): a run that was killed draws, at every step, what it would have drawn.
//! They are the ones PyTorch draws from the same seed, once it has made the networks.

use rand::SeedableRng;
use rand_chacha::ChaCha8Rng;

use crate::dataset::{Shards, WindowIndex};
use crate::models::torch_rng::TorchRng;

/// A generator for one purpose at one step; equal on every machine.
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
    /// Out of `windows`, behind the `drawn` numbers that made the initial weights and `before` windows drawn earlier.
    pub fn new(seed: u64, drawn: u64, windows: usize, before: u64) -> Self {
        let (mut rng, windows) = (TorchRng::new(seed), windows as u64);
        rng.skip(drawn);
        (0..before).for_each(|_| _ = rng.below(windows));
        WindowSampler { rng, windows }
    }

    /// The next `size` windows.
    pub fn next(&mut self, size: usize) -> Vec<usize> {
        (0..size).map(|_| self.rng.below(self.windows) as usize).collect()
    }
}

/// At most `most` windows, evenly spread over all.
pub fn spread(index: &WindowIndex, most: usize) -> Vec<usize> {
    let n = index.len().min(most);
    (0..n).map(|i| i * index.len() / n).collect()
}

/// Copies windows into one buffer.
///
/// # Shapes
/// - output: `[windows, time, height, width, 3]`, u8
pub fn gather(
    shards: &Shards,
    index: &WindowIndex,
    windows: &[usize],
    out: &mut Vec<u8>,
) -> Result<(), crate::dataset::Error> {
    let bytes = shards.frame_size().map_or(0, |size| size.bytes()) * index.frames_per_window();
    out.resize(windows.len() * bytes, 0);
    for (window, place) in windows.iter().zip(out.chunks_exact_mut(bytes.max(1))) {
        index.gather(shards, index.locate(*window), place)?;
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use rand::Rng;

    use super::*;

    #[test]
    fn a_generator_depends_on_seed_step_and_purpose_alone() {
        let first = |seed, purpose, step| generator(seed, purpose, step).random::<u64>();
        assert_eq!(first(7, "batch", 3), first(7, "batch", 3));
        assert_ne!(first(7, "batch", 3), first(7, "batch", 4));
        assert_ne!(first(7, "batch", 3), first(8, "batch", 3));
        assert_ne!(first(7, "batch", 3), first(7, "revive", 3));
    }
}
