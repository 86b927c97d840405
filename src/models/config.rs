//! Network sizes as plain data, for a pipeline's YAML and a weight file's metadata.
//!
//! Start with [`Preset`]: each preset names a full set of sizes; single fields override them.

use std::fmt;

use burn::tensor::FloatDType;
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use super::{ModelError, Result};

mod vq;

pub use vq::{CodebookStart, EmaStart, VqConfig};

/// A named set of network sizes. `lapo plan` prints the resulting numbers.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub enum Preset {
    /// The smallest networks (default): IDM width 1, FDM base 8, policy width 1. Trains on two CPU
    /// cores in minutes.
    #[default]
    Tiny,
    /// In between: IDM width 2, FDM base 12, policy width 2.
    Small,
    /// The paper's networks: IDM width 4, FDM base 24, policy width 4. Meant for a GPU.
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
    /// Returns the sizes of the IDM and FDM.
    pub fn dynamics(self) -> DynamicsConfig {
        let (idm_scale, fdm_base) = match self {
            Preset::Tiny => (1, 8),
            Preset::Small => (2, 12),
            Preset::Paper => (4, 24),
        };
        DynamicsConfig { idm_scale, fdm_base, ..DynamicsConfig::default() }
    }

    /// Returns the sizes of a latent policy for the latent actions of `dynamics`.
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
            frames: 1,
        }
    }
}

/// How far a latent action leads: from `o[t]` to `o[t+h]`.
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(untagged, expecting = "expected a number of frames, or a time such as { seconds: 0.5 }")]
pub enum Horizon {
    /// A number of frames, such as `5`.
    Frames(u32),
    /// A time, such as `{ seconds: 0.5 }`: the nearest number of frames of each video, at least one.
    Seconds(Seconds),
}

/// A time.
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct Seconds {
    /// In seconds.
    pub seconds: f64,
}

impl Default for Horizon {
    fn default() -> Self {
        Horizon::Frames(1)
    }
}

impl Horizon {
    /// Returns the number of frames in a video with `interval` seconds between frames.
    pub fn frames(self, interval: f64) -> u32 {
        match self {
            Horizon::Frames(frames) => frames,
            Horizon::Seconds(Seconds { seconds }) => ((seconds / interval).round() as u32).max(1),
        }
    }

    /// Returns whether it is the next frame in every video.
    pub fn is_next_frame(&self) -> bool {
        *self == Horizon::default()
    }
}

impl fmt::Display for Horizon {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Horizon::Frames(frames) => write!(f, "{frames} frames"),
            Horizon::Seconds(Seconds { seconds }) => write!(f, "{seconds} seconds"),
        }
    }
}

/// Sizes of the inverse and the forward dynamics model. The two are trained together.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, default)]
pub struct DynamicsConfig {
    /// Width of the IDM: its three stages have 16, 32 and 32 channels times this. Default: 1
    /// (paper: 4). Raise it for complex scenes; time grows with its square.
    pub idm_scale: usize,
    /// Channels of the outermost layer of the FDM. Each level below has twice as many. Must be
    /// even. Default: 8 (paper: 24).
    pub fdm_base: usize,
    /// Number of past frames before `o[t]`. A window has `context + 2` frames. Default: 1, as in
    /// the paper. Raise it if two past frames do not determine the next one.
    pub context: usize,
    /// How far ahead the last frame of a window is, which the FDM predicts. Default: 1 frame, as in
    /// the paper.
    #[serde(skip_serializing_if = "Horizon::is_next_frame")]
    pub horizon: Horizon,
    /// Side of the square frames in pixels: a power of two from 16 to 512. Default: 64.
    pub frame_size: usize,
    /// Channels of a frame. Default: 3 (RGB).
    pub channels: usize,
    /// The vector quantisation between the two models.
    pub vq: VqConfig,
    /// Input of the IDM. Default: `motion`.
    pub idm_head: IdmHead,
    /// Where the latent action enters the FDM. Default: `modulate`.
    pub fdm_action: FdmAction,
    /// Side of the feature map at the bottom of the FDM's U-Net, in pixels: a power of two from 4
    /// to half the frame, or 1, as in the paper. Default: 8. Lower it if actions have effects far
    /// away.
    // Differs from the paper: the effects of an action are local, and levels that cover the whole
    // frame double the time per step.
    pub fdm_bottom: usize,
    /// Output of the FDM. Default: `change`.
    pub predict: Predict,
}

impl Default for DynamicsConfig {
    fn default() -> Self {
        DynamicsConfig {
            idm_scale: 1,
            fdm_base: 8,
            context: 1,
            horizon: Horizon::default(),
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
    /// Returns the length of a latent action.
    pub fn latent_dim(&self) -> usize {
        self.vq.codebooks * self.vq.positions * self.vq.dim
    }

    /// Returns the number of codes per latent action.
    pub fn codes(&self) -> usize {
        self.vq.codebooks * self.vq.positions
    }

    /// Returns the number of frames per window: context, `o[t]` and `o[t+h]`.
    pub fn window(&self) -> usize {
        self.context + 2
    }

    /// Returns how often the FDM's U-Net halves the frame. The paper's goes down to 2 x 2 pixels,
    /// and a convolution then reduces those to one.
    pub fn fdm_depth(&self) -> usize {
        (self.frame_size / self.fdm_bottom.max(2)).ilog2() as usize
    }

    /// Returns the published networks and behaviour at these sizes.
    ///
    /// Features are flattened, the latent action is tiled and whole frames are predicted. Codes are
    /// used from the first step, their averages start at zero and dead codes stay dead.
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

    /// Checks that the networks can be built, or names the first invalid field.
    pub fn validate(&self) -> Result<()> {
        positive("idm_scale", self.idm_scale)?;
        positive("channels", self.channels)?;
        check(
            "fdm_base",
            self.fdm_base,
            self.fdm_base >= 2 && self.fdm_base.is_multiple_of(2),
            "an even number of at least 2",
        )?;
        // The U-Net halves the frame repeatedly: skip connections only match for powers of two.
        let size = self.frame_size;
        check(
            "frame_size",
            size,
            size.is_power_of_two() && (16..=512).contains(&size),
            "a power of two from 16 to 512",
        )?;
        let valid = match self.horizon {
            Horizon::Frames(frames) => frames > 0,
            Horizon::Seconds(Seconds { seconds }) => seconds.is_finite() && seconds > 0.0,
        };
        check("horizon", self.horizon, valid, "at least 1 frame, or a time above 0 seconds")?;
        let bottom = self.fdm_bottom;
        let valid = bottom == 1 || bottom.is_power_of_two() && (4..=size / 2).contains(&bottom);
        check("fdm_bottom", bottom, valid, "1, or a power of two from 4 to half the frame's side")?;
        self.vq.validate()
    }
}

/// Numeric precision of the networks. Weights, codes, losses and batch statistics always use single
/// precision.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub enum Precision {
    /// Single precision (default).
    #[default]
    F32,
    /// Matrix products in bfloat16. Faster on GPUs, much slower on CPUs.
    Bf16,
}

impl Precision {
    /// Returns the element type of activations.
    pub fn dtype(self) -> FloatDType {
        match self {
            Precision::F32 => FloatDType::F32,
            Precision::Bf16 => FloatDType::BF16,
        }
    }

    /// Returns the name: `f32` or `bf16`.
    pub fn name(self) -> &'static str {
        match self {
            Precision::F32 => "f32",
            Precision::Bf16 => "bf16",
        }
    }
}

/// Input of the inverse dynamics model.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub enum IdmHead {
    /// `o[t]` and the scaled changes between frames (default). Features are averaged where pixels
    /// change, and latent actions are normalised over the batch.
    // Differs from the paper: moving objects cover few pixels. With these features even random
    // weights separate most actions.
    #[default]
    Motion,
    /// The frames themselves, with all features flattened, as in the paper.
    Flatten,
}

/// Where the latent action enters the forward dynamics model.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub enum FdmAction {
    /// At every level: it scales and shifts the channels (FiLM, Perez et al., 2018). The default.
    // Differs from the paper: moving an object by an action is a product of the two. A network of
    // sums must first learn to multiply.
    #[default]
    Modulate,
    /// At the input, tiled over the frame, as in the paper.
    Tile,
}

/// Output of the forward dynamics model.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub enum Predict {
    /// The change from `o[t]`, initially zero (default). The loss is divided by the batch's mean
    /// squared change.
    // Differs from the paper: a network that predicts frames must first learn to copy them.
    #[default]
    Change,
    /// The frame `o[t+1]` itself, as in the paper.
    Frame,
}

/// Sizes of the latent policy.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct PolicyConfig {
    /// Width of the policy: its three stages have 16, 32 and 32 channels times this (paper: 4).
    pub scale: usize,
    /// Length of the latent actions in the labels.
    pub latent_dim: usize,
    /// Side of the square frames in pixels: a multiple of 8.
    pub frame_size: usize,
    /// Channels of a frame.
    pub channels: usize,
    /// Frames that the policy sees, stacked along the channels: `o[t]` and those before it. 1 to
    /// [`MAX_FRAMES`](Self::MAX_FRAMES). Default 1.
    #[serde(default = "one", skip_serializing_if = "is_one")]
    pub frames: usize,
}

fn one() -> usize {
    1
}

/// Whether the metadata leaves the number out, as it did before policies saw several frames.
fn is_one(frames: &usize) -> bool {
    *frames == 1
}

impl PolicyConfig {
    /// The largest number of frames that a policy sees.
    pub const MAX_FRAMES: usize = 8;

    /// Returns the rows, columns and channels of a frame.
    pub fn frame_shape(&self) -> [usize; 3] {
        [self.frame_size, self.frame_size, self.channels]
    }

    /// Returns the bytes of the frames that the policy sees.
    pub fn stack_bytes(&self) -> usize {
        self.frames * self.frame_shape().iter().product::<usize>()
    }

    /// Returns the channels of the network's input.
    pub fn input_channels(&self) -> usize {
        self.frames * self.channels
    }

    /// Checks that the network can be built, or names the first invalid field.
    pub fn validate(&self) -> Result<()> {
        positive("scale", self.scale)?;
        positive("latent_dim", self.latent_dim)?;
        positive("channels", self.channels)?;
        let frames = self.frames;
        let valid = (1..=Self::MAX_FRAMES).contains(&frames);
        check("frames", frames, valid, "a number from 1 to 8")?;
        let size = self.frame_size;
        check("frame_size", size, size > 0 && size.is_multiple_of(8), "a multiple of 8")
    }
}

fn positive(field: &'static str, seen: usize) -> Result<()> {
    check(field, seen, seen > 0, "at least 1")
}

fn check(field: &'static str, seen: impl ToString, valid: bool, expected: &str) -> Result<()> {
    if valid {
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
    fn an_invalid_size_is_reported_with_its_field() {
        let config = DynamicsConfig { frame_size: 72, ..DynamicsConfig::default() };
        let message = config.validate().expect_err("72 is no power of two").to_string();
        assert_eq!(message, "`frame_size` is 72, expected a power of two from 16 to 512");
    }
}
