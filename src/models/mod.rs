//! The networks of LAPO and their weight files.
//!
//! Input is pixels (`u8`, height x width x channel) and latent actions; output is latent actions,
//! codes and predicted frames.
//!
//! **Invariants:** this module depends on neither Arrow nor YAML. Only [`pytorch`] opens files.
//! Only this module, `train` and online training (`stages::finetune`) use `burn`.
//!
//! Start with [`label`]: one screen from pixels to labels. The networks, in the order of the data
//! flow:
//!
//! | file | content |
//! |---|---|
//! | [`frames`] | uploads pixels and gathers windows o\[t-k\] .. o\[t\], o\[t+1\] |
//! | [`impala`] | the convolutional trunk of IDM and policy |
//! | [`idm`] | inverse dynamics model: window -> latent action |
//! | [`motion`] | the IDM's motion input and the normalisation of latent actions |
//! | [`vq`] | the bottleneck: latent action -> codes, quantised latent action |
//! | [`fdm`] | forward dynamics model: past frames, latent action -> next frame ([`predict`] runs a weight file on any device) |
//! | [`policy`] | latent policy: frame or frames -> latent action ([`act`] runs a weight file on any device, [`FrameStack`] keeps the frames) |
//! | [`decoder`] | latent action -> true action |
//! | [`agent`](mod@agent) | frame -> action logits and value, for online training |
//! | [`onnx`] | all of these but the FDM as ONNX files, for other programs |
//!
//! Below them: [`layers`] (all convolutions), [`init`] (seeded initial weights, drawn by
//! [`torch_rng`]), [`weights`] (safetensors files, with the tensor names of the published
//! checkpoints), [`metadata`] (the configuration in a weight file), [`pytorch`] (PyTorch
//! checkpoints), [`config`] (network sizes), [`device`] (CPU or GPU), [`passes`] (many inputs,
//! pass by pass), [`gpu_failure`] (failures of GPUs as errors), `gpu` (GPU setup), `cuda_driver`,
//! `vulkan` and `libraries` (what the machine has).
//!
//! # Cost
//!
//! The table lists the paper's networks (`reference: true`) in millions of floating-point
//! operations per window of three 64 x 64 frames. A multiply-add counts as two operations. [`cost`]
//! computes these numbers, and PyTorch's own counter (`FlopCounterMode`) agrees. Training covers
//! the forward and the backward pass; bytes are the size of the weights. The FDM's first layer
//! treats the constant latent channels as a linear map; the number in brackets convolves them, as
//! published. `lapo bench --reference` compares these costs with the speed of a plain matrix
//! product ([`roofline`]).
//!
//! | preset | IDM label | IDM train | bytes | FDM label | FDM train | bytes | policy act | policy train | bytes |
//! |---|---|---|---|---|---|---|---|---|---|
//! | `tiny` | 68 | 194 | 2.6 M | 65 (140) | 191 (340) | 3.7 M | 61 | 180 | 2.6 M |
//! | `small` | 250 | 728 | 5.9 M | 140 (252) | 414 (638) | 8.0 M | 236 | 700 | 5.9 M |
//! | `paper` | 953 | 2816 | 14.7 M | 535 (760) | 1594 (2041) | 31.3 M | 924 | 2759 | 14.7 M |

// Paths are the same within this crate and in `lapo`: `crate::models::...`.
extern crate self as models;

pub mod act;
pub mod agent;
pub mod config;
pub mod conv;
pub mod cost;
#[cfg(feature = "cuda")]
mod cuda_driver;
pub mod decoder;
pub mod device;
mod error;
pub mod fdm;
mod frame_stack;
pub mod frames;
#[cfg(any(feature = "cuda", feature = "vulkan"))]
pub mod gpu;
pub mod gpu_failure;
pub mod idm;
pub mod impala;
pub mod init;
pub mod label;
pub mod layers;
#[cfg(any(feature = "cuda", feature = "vulkan"))]
mod libraries;
pub mod metadata;
pub mod motion;
pub mod onnx;
pub mod passes;
pub mod policy;
pub mod predict;
pub mod pytorch;
pub mod roofline;
pub mod torch_rng;
pub mod vq;
#[cfg(feature = "vulkan")]
pub mod vulkan;
pub mod weights;

pub use act::{Actor, actor};
pub use agent::{Agent, AgentConfig, agent};
pub use config::{
    CodebookStart, DynamicsConfig, EmaStart, FdmAction, Horizon, IdmHead, PolicyConfig, Precision,
    Predict, Preset, VqConfig,
};
pub use decoder::{DecoderConfig, LoadedDecoder, Outputs};
pub use device::Device;
pub use error::{ModelError, Result};
pub use frame_stack::FrameStack;
pub use label::{LabelOutputs, Labeller, WindowLabels, labeller};
pub use predict::{Predictor, predictor};
