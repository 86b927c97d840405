//! The bottleneck's settings.

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use super::{check, positive};
use crate::models::Result;

/// The vector quantisation between IDM and FDM (VQ-VAE with moving averages).
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, default)]
pub struct VqConfig {
    /// Independent codebooks. Default 2.
    pub codebooks: usize,
    /// Codes taken from each codebook per latent action. Default 4.
    pub positions: usize,
    /// Length of a codebook's vectors. Default 16.
    pub dim: usize,
    /// Vectors of each codebook, at most 65536. Default 64.
    pub entries: usize,
    /// Weight of the loss that pulls latent actions to their code. Default 0.05.
    pub commitment: f64,
    /// Share of the training, in \[0, 1\], before latent actions are quantised. Default 0.3; 1: they never are, every code is 0, and
    /// nothing but its length narrows a latent action (the paper's ablation without VQ). From the first step on, a probe tells a little less
    /// (.74 of a maze's actions, not .75; .19 of bigfish's, not .20).
    // Differs from the paper (0): at first the FDM learns to use latent actions that hold still; a code of 64 moving ones is noise to it.
    pub warmup: f64,
    /// Share of a codebook's moving averages that stays at each step, in \[0, 1). Default 0.99 (paper: 0.999), which with the three
    /// fields below keeps 58 of 64 codes in use after 600 steps of a maze with the paper's networks (the paper's: at most 2); with the
    /// default networks none of the four makes a difference.
    pub decay: f64,
    /// Where the codebooks' vectors start. Default `batch`.
    pub start: CodebookStart,
    /// Where the moving averages start. Default `warm`.
    pub ema_start: EmaStart,
    /// Steps after which an unused code is moved to a latent action of the current batch; 0 never moves any. Default 100.
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
    /// Whether a trained model quantises at all.
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

/// Where the codebooks' vectors start.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub enum CodebookStart {
    /// At latent actions of the first batch that is quantised, so that all codes are within reach.
    #[default]
    Batch,
    /// Uniform in ±5/entries, as published.
    Uniform,
}

/// Where the codebooks' moving averages start.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub enum EmaStart {
    /// Each code counts as used once, so that the first update moves the codebooks a little.
    #[default]
    Warm,
    /// At zero, as published: the first update throws all unused codes far off, and codes collapse.
    Zero,
}
