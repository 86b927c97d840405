//! What a training of IDM and FDM together is (LAPO, section 4.1): windows of frames go in, metrics and weights come out.
//!
//! [`dynamics_trainer`] makes a [`DynamicsTrainer`], which shows no tensor; one step of the method is told in `trainer`.

use std::collections::BTreeMap;

use burn::backend::Autodiff;
use serde::{Deserialize, Serialize};

use super::Result;
use super::optim::OptimConfig;
use super::trainer::Trainer;
use crate::models::device::on_device;
use crate::models::{Device, DynamicsConfig};

/// Windows of frames, as they lie in a shard.
#[derive(Clone, Copy, Debug)]
pub struct Batch<'a> {
    /// `[batch, time, height, width, channel]`
    pub frames: &'a [u8],
    /// Number of windows.
    pub batch: usize,
    /// Frames of each.
    pub time: usize,
    /// Rows of a frame.
    pub height: usize,
    /// Columns of a frame.
    pub width: usize,
    /// The true actions of the last windows, as many as are known: what supervision learns from.
    pub actions: &'a [u32],
}

/// IDM, FDM and all that their training remembers.
pub trait DynamicsTrainer: Send {
    /// The sizes of the networks.
    fn config(&self) -> &DynamicsConfig;

    /// Steps taken so far.
    fn steps(&self) -> u64;

    /// How many random numbers the initial weights took.
    fn drawn(&self) -> u64;

    /// Takes one step of gradient descent. After an error of this the state is undefined; restore a checkpoint.
    fn step(&mut self, batch: &Batch<'_>, pace: Pace) -> Result<StepMetrics>;

    /// Scores windows without learning from them. `shuffle[i]` says whose latent action stands in for the one of window
    /// `i` in `fdm_error_shuffled`; `quantise` is what [`Pace`] has at this step.
    fn evaluate(&self, batch: &Batch<'_>, shuffle: &[usize], quantise: bool) -> Result<Evaluation>;

    /// What the IDM alone says of windows: `[window, latent_dim]`, before quantisation.
    fn latent_action(&self, batch: &Batch<'_>) -> Result<Vec<f32>>;

    /// Starts from the weights in a safetensors file, ours or a published one, of networks of the same sizes.
    fn import(&mut self, weights: &[u8]) -> Result<()>;

    /// The whole state: a training restored from it goes on bit by bit as this one does.
    fn save(&self) -> Result<Vec<u8>>;

    /// Takes over a state saved by a training of the same configuration.
    fn restore(&mut self, state: &[u8]) -> Result<()>;

    /// The weights as a safetensors file with published names, for labelling.
    fn export(&self, metadata: &BTreeMap<String, String>) -> Result<Vec<u8>>;
}

/// A few true actions that latent actions learn to tell.
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
pub struct Supervision {
    /// How many actions there are: each is a number below.
    pub actions: usize,
    /// What a nat of cross-entropy counts against the FDM's relative error.
    pub weight: f64,
}

/// How far one step goes.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Pace {
    /// Of the FDM.
    pub learning_rate: f64,
    /// Of the IDM.
    pub idm_learning_rate: f64,
    /// Whether the FDM is given codes; otherwise the latent action as it is, and the codebooks rest.
    pub quantise: bool,
    /// What the mean squared correlation of two numbers of a latent action counts against the FDM's relative error.
    pub decorrelation: f64,
}

impl Pace {
    /// Both networks alike, through the bottleneck, as published.
    pub fn even(learning_rate: f64) -> Self {
        Pace { learning_rate, idm_learning_rate: learning_rate, quantise: true, decorrelation: 0.0 }
    }
}

/// What one step saw, before it moved the weights.
#[derive(Clone, Debug, PartialEq)]
pub struct StepMetrics {
    /// What was minimised.
    pub loss: f32,
    /// Mean squared error of the predicted pixels, which span 1.
    pub wm_loss: f32,
    /// `wm_loss` over the mean squared change from o\[t\]: 1 is as good as copying it.
    pub relative_loss: f32,
    /// The commitment loss, weighted.
    pub vq_loss: f32,
    /// How evenly each codebook's codes were used by the batch: 1 to `entries`; 0 while nothing is quantised.
    pub perplexity: Vec<f32>,
    /// How many codes of each codebook the batch used.
    pub codes_used: Vec<u32>,
    /// How many unused codes were moved to this batch's latent actions.
    pub codes_revived: u32,
    /// Cross-entropy of the true actions, weighted; 0 without supervision.
    pub action_loss: f32,
    /// Mean squared correlation of two numbers of a latent action: 1 if all of them say the same.
    pub correlation: f32,
    /// Norm of all gradients together, before clipping.
    pub grad_norm: f32,
}

/// One entry per window.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Evaluation {
    /// Mean squared error of the predicted pixels.
    pub fdm_error: Vec<f32>,
    /// The same with another window's latent action: no better than `fdm_error` if latent actions carry nothing.
    pub fdm_error_shuffled: Vec<f32>,
    /// Mean squared change from o\[t\] to o\[t+1\]: the error of copying the last frame.
    pub copy_error: Vec<f32>,
    /// `[window, codebook, position]`; empty while nothing is quantised
    pub codes: Vec<u16>,
    /// `[window, latent_dim]`: before quantisation
    pub latent_action: Vec<f32>,
}

/// Starts a training. The same seed gives the same weights on every device and number of threads.
pub fn dynamics_trainer(
    device: &Device,
    config: &DynamicsConfig,
    optim: &OptimConfig,
    supervision: Option<Supervision>,
    seed: u64,
) -> Result<Box<dyn DynamicsTrainer>> {
    config.validate()?;
    device.check()?;
    on_device!(device, B, at => Ok(Box::new(Trainer::<Autodiff<B>>::new(at, config, optim, supervision, seed))))
}
