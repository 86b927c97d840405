//! Batches that depend on nothing but (seed, step): a run that was killed draws, at every step, what it would have drawn.

use rand::{Rng, SeedableRng};
use rand_chacha::ChaCha8Rng;

use crate::dataset::{Shard, WindowIndex};

/// A generator for one purpose at one step; equal on every machine.
pub fn generator(seed: u64, purpose: &str, step: u64) -> ChaCha8Rng {
    let mut hasher = blake3::Hasher::new();
    hasher.update(&seed.to_le_bytes()).update(&step.to_le_bytes()).update(purpose.as_bytes());
    ChaCha8Rng::from_seed(*hasher.finalize().as_bytes())
}

/// Draws `size` windows with replacement, as the published code does.
pub fn draw(index: &WindowIndex, size: usize, seed: u64, step: u64) -> Vec<usize> {
    let mut rng = generator(seed, "batch", step);
    (0..size).map(|_| rng.random_range(0..index.len())).collect()
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
pub fn gather(shards: &[Shard], index: &WindowIndex, windows: &[usize], out: &mut Vec<u8>) {
    let bytes = shards.first().map_or(0, |shard| shard.frame_size().bytes()) * index.frames_per_window();
    out.resize(windows.len() * bytes, 0);
    for (window, place) in windows.iter().zip(out.chunks_exact_mut(bytes.max(1))) {
        index.gather(shards, index.locate(*window), place);
    }
}

#[cfg(test)]
mod tests {
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
