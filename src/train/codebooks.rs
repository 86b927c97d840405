//! The codebooks during training: their start, and codes that fall out of use.

use burn::tensor::{Tensor, TensorData};
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
        let all: Vec<_> = (0..self.codes()).map(|code| self.pair(code)).collect();
        self.idm.vq.reseed(&rows, &all, &mut rng)?;
        self.codebooks_started = true;
        Ok(())
    }

    /// Returns the ages of all codes after a step that uses each code `usage` times. Codes that are
    /// never revived have no age.
    ///
    /// # Shapes
    /// - `usage` and output: `[code]`
    pub(super) fn ages_after(
        &self,
        usage: Tensor<A::InnerBackend, 1>,
    ) -> Option<Tensor<A::InnerBackend, 1>> {
        let ages = || (self.unused.clone() + 1.0).mask_fill(usage.greater_elem(0.0), 0.0);
        (self.config.vq.revive_after > 0).then(ages)
    }

    /// Moves codes unused for `revive_after` steps onto latent actions of this batch. Returns their
    /// number.
    ///
    /// It is called whenever the ages were read. On a device that reads late, a code is therefore
    /// revived at the first logged step after it grew old enough, if no batch used it until then.
    ///
    /// # Shapes
    /// - `ages`: `[code]`
    pub(super) fn revive_codes(&mut self, batch: &Quantised<A>, mut ages: Vec<f32>) -> Result<u32> {
        let limit = self.config.vq.revive_after;
        let is_dead = |age: f32| limit > 0 && age >= limit as f32;
        let dead: Vec<_> = (0..ages.len()).filter(|&code| is_dead(ages[code])).collect();
        if dead.is_empty() {
            return Ok(0);
        }
        for &code in &dead {
            ages[code] = 0.0;
        }
        let count = ages.len();
        self.unused = Tensor::from_data(TensorData::new(ages, [count]), &self.device);
        let pairs: Vec<_> = dead.iter().map(|&code| self.pair(code)).collect();
        let mut rng = self.rng();
        self.idm.vq.reseed(&batch.rows, &pairs, &mut rng)?;
        Ok(pairs.len() as u32)
    }

    /// Returns the number of codes in all codebooks.
    pub(super) fn codes(&self) -> usize {
        self.config.vq.codebooks * self.config.vq.entries
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
