//! The settings of the vector quantisation.

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use super::{check, positive};
use crate::models::Result;

/// The vector quantisation between IDM and FDM: a VQ-VAE whose codebooks follow moving averages.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, default)]
pub struct VqConfig {
    /// Number of independent codebooks. Default: 2.
    pub codebooks: usize,
    /// Codes per codebook in one latent action. Default: 4. A latent action carries
    /// `codebooks * positions * log2(entries)` bits.
    pub positions: usize,
    /// Length of a codebook vector. Default: 16. A latent action has `codebooks * positions * dim`
    /// numbers.
    pub dim: usize,
    /// Vectors per codebook, from 2 to 65,536. Default: 64.
    pub entries: usize,
    /// Weight of the commitment loss, which pulls latent actions towards their codes. Default:
    /// 0.05.
    pub commitment: f64,
    /// Fraction of the training before quantisation starts, in `[0, 1]`. Default: 0.3 (paper: 0).
    ///
    /// At 1 the model never quantises (the paper's ablation without VQ): every code is 0, and only
    /// its dimension limits a latent action. At 0, quantisation is active from the first step; a
    /// linear probe then predicts slightly fewer true actions.
    // Differs from the paper: the FDM first learns to use stable latent actions. To an untrained
    // FDM, 64 codes that still move are noise.
    pub warmup: f64,
    /// Decay of the codebooks' moving averages per step, in `[0, 1)`. Default: 0.99 (paper: 0.999).
    ///
    /// With the paper's networks, this value and the next three fields keep almost all codes in
    /// use, whereas the paper's values keep at most two. With the default networks they make no
    /// difference.
    pub decay: f64,
    /// Initial codebook vectors. Default: `batch`.
    pub start: CodebookStart,
    /// Initial moving averages. Default: `warm`.
    pub ema_start: EmaStart,
    /// Steps after which an unused code moves to a latent action of the current batch. 0 never
    /// moves a code. Default: 100.
    pub revive_after: u32,
}

impl Default for VqConfig {
    fn default() -> Self {
        VqConfig {
            codebooks: 2,
            positions: 4,
            dim: 16,
            entries: 64,
            commitment: 0.05,
            warmup: 0.3,
            decay: 0.99,
            start: CodebookStart::Batch,
            ema_start: EmaStart::Warm,
            revive_after: 100,
        }
    }
}

impl VqConfig {
    /// Returns whether a trained model quantises.
    pub fn quantises(&self) -> bool {
        self.warmup < 1.0
    }

    pub(super) fn validate(&self) -> Result<()> {
        positive("vq.codebooks", self.codebooks)?;
        positive("vq.positions", self.positions)?;
        positive("vq.dim", self.dim)?;
        check("vq.entries", self.entries, (2..=65536).contains(&self.entries), "2 to 65536")?;
        check("vq.warmup", self.warmup, (0.0..=1.0).contains(&self.warmup), "a number in [0, 1]")?;
        check("vq.decay", self.decay, (0.0..1.0).contains(&self.decay), "a number in [0, 1)")?;
        check("vq.commitment", self.commitment, self.commitment >= 0.0, "a number of at least 0")
    }
}

/// Initial codebook vectors.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub enum CodebookStart {
    /// Latent actions of the first quantised batch (default). All codes are then within reach.
    #[default]
    Batch,
    /// Uniform in ±5/entries, as published.
    Uniform,
}

/// Initial moving averages of the codebooks.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub enum EmaStart {
    /// Each code counts as used once (default), so the first update moves the codebooks only a
    /// little.
    #[default]
    Warm,
    /// Zero, as published. The first update throws all unused codes far off, and codes collapse.
    Zero,
}
