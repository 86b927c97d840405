//! Tensors become tensors: the networks of LAPO and the files their weights live in.
//!
//! Goes in: pixels (`u8`, height x width x channel) and latent actions. Comes out: latent actions, codes, predicted frames. Nothing here
//! knows of Arrow or YAML, and of paths only [`published`]; only this room and [`crate::train`] know of `burn`.
//!
//! Where to start: [`label`] is the whole way from pixels to labels in one screen. The networks, in the order the data
//! meets them:
//!
//! | file | what it is |
//! |---|---|
//! | [`frames`] | pixels are uploaded and become windows o\[t-k\] .. o\[t\], o\[t+1\] |
//! | [`impala`] | the convolutional trunk of IDM and policy |
//! | [`idm`] | inverse dynamics model: window -> latent action |
//! | [`motion`] | what makes the IDM look at changes and keeps latent actions at one size |
//! | [`vq`] | the bottleneck: latent action -> codes, quantised latent action |
//! | [`fdm`] | forward dynamics model: past frames, latent action -> next frame ([`predict`]: with a file's weights, on any device) |
//! | [`policy`] | latent policy: one frame -> latent action ([`act`]: with a file's weights, on any device) |
//! | [`decoder`] | latent action -> true action |
//!
//! ## What it costs
//!
//! Of the paper's networks (`reference: true`), in millions of floating-point operations a window of three 64 x 64 frames, a multiply-add
//! counting as two, as PyTorch's own counter (`FlopCounterMode`) finds them and [`cost`] computes them; the FDM's first layer as it is
//! computed here, the constant latent channels as a linear map (in brackets: convolved, as published). Training is forward and backward
//! pass together; bytes are those of the weights. `lapo bench --reference` sets them beside what a plain matrix product reaches
//! ([`roofline`]).
//!
//! | preset | IDM label | IDM train | bytes | FDM label | FDM train | bytes | policy act | policy train | bytes |
//! |---|---|---|---|---|---|---|---|---|---|
//! | `tiny` | 68 | 194 | 2.6 M | 65 (140) | 191 (340) | 3.7 M | 61 | 180 | 2.6 M |
//! | `small` | 250 | 728 | 5.9 M | 140 (252) | 414 (638) | 8.0 M | 236 | 700 | 5.9 M |
//! | `paper` | 953 | 2816 | 14.7 M | 535 (760) | 1594 (2041) | 31.3 M | 924 | 2759 | 14.7 M |
//!
//! Under them: [`layers`] (every convolution goes through it), [`init`] (seeded initial weights; [`random`]: the numbers they are made
//! of), [`weights`] (safetensors with the names of the published checkpoints), [`published`] (PyTorch checkpoints), [`config`] (sizes),
//! [`device`] (where it runs), `gpu` (how a GPU is set up).

pub mod act;
pub mod agent;
pub mod config;
mod conv;
pub mod cost;
pub mod decoder;
pub mod device;
mod error;
pub mod fdm;
pub mod frames;
#[cfg(feature = "cuda")]
pub mod gpu;
pub mod idm;
pub mod impala;
pub mod init;
pub mod label;
pub mod layers;
pub mod metadata;
pub mod motion;
pub mod policy;
pub mod predict;
pub mod published;
pub mod random;
pub mod roofline;
pub mod vq;
pub mod weights;

pub use act::{Actor, actor};
pub use agent::{Agent, AgentConfig, agent};
pub use config::{
    CodebookStart, DynamicsConfig, EmaStart, FdmAction, IdmHead, PolicyConfig, Precision, Predict,
    Preset, VqConfig,
};
pub use decoder::{DecoderConfig, LoadedDecoder, Outputs};
pub use device::Device;
pub use error::{ModelError, Result};
pub use label::{Labelled, Labeller, Want, labeller};
pub use predict::{Predictor, predictor};
