//! The codebooks during training: their start, and codes that fall out of use.

use burn::tensor::Tensor;
use rand::SeedableRng;
use rand_chacha::ChaCha8Rng;

use super::Result;
use super::dynamics_trainer::Trainer;
use super::optim::TrainBackend;
use crate::models::vq::Quantised;

impl<A: TrainBackend> Trainer<A> {
    /// Moves all codes onto latent actions of this batch.
    pub(super) fn start_codebooks(&mut self, latent_action: Tensor<A, 2>) -> Result<()> {
        let rows = self.idm.vq.rows(latent_action.detach());
        let mut rng = self.rng();
        let all: Vec<_> = (0..self.unused.len()).map(|code| self.pair(code)).collect();
        self.idm.vq.reseed(&rows, &all, &mut rng)?;
        self.codebooks_started = true;
        Ok(())
    }

    /// Moves codes unused for `revive_after` steps onto latent actions of this batch. Returns their
    /// number.
    pub(super) fn revive_codes(&mut self, batch: &Quantised<A>, usage: &[f32]) -> Result<u32> {
        let limit = self.config.vq.revive_after;
        if limit == 0 {
            return Ok(0);
        }
        for (unused, &used) in self.unused.iter_mut().zip(usage) {
            *unused = if used > 0.0 { 0 } else { *unused + 1 };
        }
        let dead: Vec<_> =
            (0..self.unused.len()).filter(|&code| self.unused[code] >= limit).collect();
        for &code in &dead {
            self.unused[code] = 0;
        }
        let pairs: Vec<_> = dead.iter().map(|&code| self.pair(code)).collect();
        let mut rng = self.rng();
        self.idm.vq.reseed(&batch.rows, &pairs, &mut rng)?;
        Ok(pairs.len() as u32)
    }

    /// Returns the codebook and the entry of a code.
    fn pair(&self, code: usize) -> (usize, usize) {
        (code / self.config.vq.entries, code % self.config.vq.entries)
    }

    /// Returns the random numbers of this step. Each step has its own stream, so checkpoints need
    /// no state of a generator.
    fn rng(&self) -> ChaCha8Rng {
        let mut rng = ChaCha8Rng::seed_from_u64(self.seed);
        rng.set_stream(self.optimizer.step);
        rng
    }
}
