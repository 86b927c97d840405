//! The sizes of the networks, as plain data: what a pipeline's YAML and a weight file's metadata hold.
//!
//! Start with [`Preset`]: each names a full set of sizes that single fields may then override.

use std::fmt;

use burn::tensor::FloatDType;
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use super::{ModelError, Result};

mod vq;

pub use vq::{CodebookStart, EmaStart, VqConfig};

/// A named set of sizes; `lapo plan` shows what it stands for.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub enum Preset {
    /// Trains on two CPU cores in minutes: IDM 1, FDM base 8, policy 1.
    #[default]
    Tiny,
    /// Between the two: IDM 2, FDM base 12, policy 2.
    Small,
    /// The paper's networks, for a GPU: IDM 4, FDM base 24, policy 4.
    Paper,
}

impl fmt::Display for Preset {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Preset::Tiny => "tiny",
            Preset::Small => "small",
            Preset::Paper => "paper",
        })
    }
}

impl Preset {
    /// The preset's IDM and FDM.
    pub fn dynamics(self) -> DynamicsConfig {
        let (idm_scale, fdm_base) = match self {
            Preset::Tiny => (1, 8),
            Preset::Small => (2, 12),
            Preset::Paper => (4, 24),
        };
        DynamicsConfig { idm_scale, fdm_base, ..DynamicsConfig::default() }
    }

    /// The preset's latent policy, for the latent actions of `dynamics`.
    pub fn policy(self, dynamics: &DynamicsConfig) -> PolicyConfig {
        let scale = match self {
            Preset::Tiny => 1,
            Preset::Small => 2,
            Preset::Paper => 4,
        };
        PolicyConfig {
            scale,
            latent_dim: dynamics.latent_dim(),
            frame_size: dynamics.frame_size,
            channels: dynamics.channels,
        }
    }
}

/// Sizes of the inverse and the forward dynamics model, which are trained together.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, default)]
pub struct DynamicsConfig {
    /// Width of the IDM: its stages have 16, 32 and 32 channels times this. Default 1 (paper: 4).
    pub idm_scale: usize,
    /// Channels of the FDM's outermost layer; each level below has twice as many. Even. Default 8 (paper: 24).
    pub fdm_base: usize,
    /// Past frames seen beyond o\[t\]: a window has `context + 2` frames. Default 1, as in the paper.
    pub context: usize,
    /// Side of the square frames, in pixels: a power of two from 16 to 512. Default 64.
    pub frame_size: usize,
    /// Channels of a frame. Default 3 (RGB).
    pub channels: usize,
    /// The bottleneck between the two models.
    pub vq: VqConfig,
    /// What the IDM looks at. Default `motion`.
    pub idm_head: IdmHead,
    /// How the latent action enters the FDM. Default `modulate`.
    pub fdm_action: FdmAction,
    /// Side of the picture at the bottom of the FDM's U-Net, in pixels: 1, as in the paper, or a power of two from 4 to half
    /// the frame. Default 8.
    // Differs from the paper: what an action does is near, and levels that see the whole picture take twice the time per step.
    pub fdm_bottom: usize,
    /// What the FDM predicts. Default `change`.
    pub predict: Predict,
}

impl Default for DynamicsConfig {
    fn default() -> Self {
        DynamicsConfig {
            idm_scale: 1,
            fdm_base: 8,
            context: 1,
            frame_size: 64,
            channels: 3,
            vq: VqConfig::default(),
            idm_head: IdmHead::Motion,
            fdm_action: FdmAction::Modulate,
            fdm_bottom: 8,
            predict: Predict::Change,
        }
    }
}

impl DynamicsConfig {
    /// Length of a latent action.
    pub fn latent_dim(&self) -> usize {
        self.vq.codebooks * self.vq.positions * self.vq.dim
    }

    /// Number of codes that stand for one latent action.
    pub fn codes(&self) -> usize {
        self.vq.codebooks * self.vq.positions
    }

    /// Frames of one window: context, o\[t\] and o\[t+1\].
    pub fn window(&self) -> usize {
        self.context + 2
    }

    /// How often the FDM's U-Net halves the frame. The paper's goes on to 2 x 2 pixels, of which a convolution leaves one.
    pub fn fdm_depth(&self) -> usize {
        (self.frame_size / self.fdm_bottom.max(2)).ilog2() as usize
    }

    /// The published networks and behaviour: features are flattened, the action is tiled, frames are predicted, codes are used from the
    /// first step, their averages start at zero, dead ones stay dead.
    pub fn reference(self) -> Self {
        let warmup = if self.vq.quantises() { 0.0 } else { 1.0 };
        let vq = VqConfig {
            warmup,
            start: CodebookStart::Uniform,
            ema_start: EmaStart::Zero,
            revive_after: 0,
            ..self.vq
        };
        DynamicsConfig {
            vq,
            idm_head: IdmHead::Flatten,
            fdm_action: FdmAction::Tile,
            fdm_bottom: 1,
            predict: Predict::Frame,
            ..self
        }
    }

    /// Says which field, if any, no network can have.
    pub fn validate(&self) -> Result<()> {
        positive("idm_scale", self.idm_scale)?;
        positive("channels", self.channels)?;
        check(
            "fdm_base",
            self.fdm_base,
            self.fdm_base >= 2 && self.fdm_base.is_multiple_of(2),
            "an even number of at least 2",
        )?;
        // The U-Net halves the frame until 2 x 2 remain, so that its skips meet only for powers of two.
        let size = self.frame_size;
        check(
            "frame_size",
            size,
            size.is_power_of_two() && (16..=512).contains(&size),
            "a power of two from 16 to 512",
        )?;
        let bottom = self.fdm_bottom;
        let turns = bottom == 1 || bottom.is_power_of_two() && (4..=size / 2).contains(&bottom);
        check("fdm_bottom", bottom, turns, "1, or a power of two from 4 to half the frame's side")?;
        self.vq.validate()
    }
}

/// How precisely the networks compute. Weights, codes, losses and what normalisation sees of a batch are single precision in any case.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub enum Precision {
    /// Single precision.
    #[default]
    F32,
    /// Products of bfloat16 numbers: for GPUs, much slower on a CPU.
    Bf16,
}

impl Precision {
    /// The type of the numbers that flow through the networks.
    pub fn dtype(self) -> FloatDType {
        match self {
            Precision::F32 => FloatDType::F32,
            Precision::Bf16 => FloatDType::BF16,
        }
    }
}

/// What the inverse dynamics model looks at.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub enum IdmHead {
    /// At o\[t\] and at the changes from frame to frame, scaled to be seen; features are averaged where pixels change, and latent actions
    /// normalised by the batch.
    // Differs from the paper: moving things are a few of the pixels. With such features even random weights tell most actions apart.
    #[default]
    Motion,
    /// At the frames as they are; all features are flattened, as in the paper.
    Flatten,
}

/// How the latent action enters the forward dynamics model.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub enum FdmAction {
    /// It scales and shifts the channels of every level (FiLM, Perez et al., 2018).
    // Differs from the paper: to move something by an action is a product of the two, which sums must learn first.
    #[default]
    Modulate,
    /// It is tiled over the frame at the input, as in the paper.
    Tile,
}

/// What the forward dynamics model predicts.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub enum Predict {
    /// The change from o\[t\], starting at none; the loss is relative to the batch's mean squared change.
    // Differs from the paper: predicting the frame must first learn to copy it, and is 14 times worse than copying after 400 steps.
    #[default]
    Change,
    /// The frame o\[t+1\] itself, as in the paper.
    Frame,
}

/// Sizes of the latent policy.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct PolicyConfig {
    /// Width: the stages have 16, 32 and 32 channels times this (paper: 4).
    pub scale: usize,
    /// Length of the latent actions it was cloned from.
    pub latent_dim: usize,
    /// Side of the square frames, in pixels: a multiple of 8.
    pub frame_size: usize,
    /// Channels of a frame.
    pub channels: usize,
}

impl PolicyConfig {
    /// Rows, columns and channels of a frame.
    pub fn frame_shape(&self) -> [usize; 3] {
        [self.frame_size, self.frame_size, self.channels]
    }

    /// Says which field, if any, no network can have.
    pub fn validate(&self) -> Result<()> {
        positive("scale", self.scale)?;
        positive("latent_dim", self.latent_dim)?;
        positive("channels", self.channels)?;
        let size = self.frame_size;
        check("frame_size", size, size > 0 && size.is_multiple_of(8), "a multiple of 8")
    }
}

fn positive(field: &'static str, seen: usize) -> Result<()> {
    check(field, seen, seen > 0, "at least 1")
}

fn check(field: &'static str, seen: impl ToString, good: bool, expected: &str) -> Result<()> {
    if good {
        return Ok(());
    }
    Err(ModelError::Config { field, seen: seen.to_string(), expected: expected.to_owned() })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_preset_is_valid() {
        for preset in [Preset::Tiny, Preset::Small, Preset::Paper] {
            assert!(preset.dynamics().validate().is_ok());
            assert!(preset.policy(&preset.dynamics()).validate().is_ok());
        }
    }

    #[test]
    fn an_impossible_size_names_its_field() {
        let config = DynamicsConfig { frame_size: 72, ..DynamicsConfig::default() };
        let message = config.validate().expect_err("72 is no power of two").to_string();
        assert_eq!(message, "use `frame_size: 72`: expected a power of two from 16 to 512");
    }
}
