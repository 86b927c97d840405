//! The training of IDM and FDM together (LAPO, section 4.1), as an interface without tensors.
//!
//! [`dynamics_trainer`](super::dynamics_trainer) creates a [`DynamicsTrainer`]. The method itself, step by step, is in
//! `dynamics_trainer.rs`.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};

use super::Result;
use super::read_back::ReadBack;
use super::training_loop::Row;
use crate::models::DynamicsConfig;
use crate::models::vq::perplexity;

/// Windows of frames, as a shard stores them.
#[derive(Clone, Copy, Debug)]
pub struct Batch<'a> {
    /// `[batch, time, height, width, channel]`
    pub frames: &'a [u8],
    /// The number of windows.
    pub batch: usize,
    /// Frames of a window.
    pub time: usize,
    /// Rows of a frame.
    pub height: usize,
    /// Columns of a frame.
    pub width: usize,
    /// The true actions of the last windows, for supervision. Empty without.
    pub actions: &'a [u32],
}

/// IDM and FDM with the state of their training.
pub trait DynamicsTrainer: Send {
    /// Returns the sizes of the networks.
    fn config(&self) -> &DynamicsConfig;

    /// Returns the number of steps taken so far.
    fn steps(&self) -> u64;

    /// Returns how many random numbers the initial weights took.
    fn drawn(&self) -> u64;

    /// Takes one step of gradient descent and reads its metrics.
    ///
    /// # Errors
    /// [`TrainError::NotFinite`](super::TrainError::NotFinite) if a loss or a gradient is not
    /// finite; the weights are then unchanged. After any other error, restore a checkpoint.
    fn step(&mut self, batch: &Batch<'_>, pace: StepSettings) -> Result<StepMetrics> {
        let metrics = self.step_accumulated(&[*batch], pace, ReadBack::Always)?;
        Ok(metrics.expect("they are always read"))
    }

    /// Takes one step by the mean gradient of several batches, so that a large batch fits into the
    /// device's memory piece by piece. Each is normalised by its own statistics; the codebooks
    /// follow all of them at once.
    ///
    /// Returns the metrics, or `None` if they stay on the device. Such a step leaves the weights
    /// unchanged, too, if it is not finite; the next metrics count it.
    ///
    /// # Errors
    /// As [`step`](Self::step).
    fn step_accumulated(
        &mut self,
        batches: &[Batch<'_>],
        pace: StepSettings,
        read_back: ReadBack,
    ) -> Result<Option<StepMetrics>>;

    /// Returns the networks as they are now, for any number of batches.
    fn evaluator(&self) -> Box<dyn Evaluator + '_>;

    /// Scores one batch, see [`Evaluator::evaluate`].
    fn evaluate(&self, batch: &Batch<'_>, shuffle: &[usize], quantise: bool) -> Result<Evaluation> {
        self.evaluator().evaluate(batch, shuffle, quantise)
    }

    /// Starts from the weights in a safetensors file, of lapo or published with the paper. The
    /// networks must have the same sizes.
    fn import(&mut self, weights: &[u8]) -> Result<()>;

    /// Returns the whole state. A training that restores it continues bit by bit as this one does.
    fn save(&self) -> Result<Vec<u8>>;

    /// Takes over a state saved by a training of the same configuration.
    fn restore(&mut self, state: &[u8]) -> Result<()>;

    /// Returns the weights as a safetensors file with the published names, for labelling.
    fn export(&self, metadata: &BTreeMap<String, String>) -> Result<Vec<u8>>;
}

/// The networks of a training, prepared for inference.
pub trait Evaluator {
    /// Scores windows. For `fdm_error_shuffled`, window `i` gets the latent action of window
    /// `shuffle[i]`. `quantise` should be [`StepSettings::quantise`] of the last step.
    fn evaluate(&self, batch: &Batch<'_>, shuffle: &[usize], quantise: bool) -> Result<Evaluation>;

    /// Infers the latent actions of windows: `[window, latent_dim]`, before quantisation.
    fn latent_action(&self, batch: &Batch<'_>) -> Result<Vec<f32>>;

    /// Predicts the last frames of windows from the frames before them and any latent actions.
    /// `quantise` is as in [`evaluate`](Self::evaluate).
    ///
    /// # Shapes
    /// - `latent_action`: `[window, latent_dim]`, before quantisation
    /// - output: `[window, height, width, channel]`, in [-0.5, 0.5], or slightly beyond if changes
    ///   are predicted
    fn predict(&self, batch: &Batch<'_>, latent_action: &[f32], quantise: bool)
    -> Result<Vec<f32>>;
}

/// Supervision by a few true actions: a linear layer predicts them from latent actions.
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
pub struct Supervision {
    /// The number of actions. Each is a number below it.
    pub actions: usize,
    /// The weight of their cross-entropy (in nats) in the loss. The FDM's relative error has weight
    /// 1.
    pub weight: f64,
}

/// The learning rates and loss weights of one step.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct StepSettings {
    /// The FDM's learning rate.
    pub learning_rate: f64,
    /// The IDM's learning rate.
    pub idm_learning_rate: f64,
    /// Whether the FDM gets quantised latent actions. Otherwise it gets them as they are and the
    /// codebooks do not move.
    pub quantise: bool,
    /// The weight of the mean squared correlation of two numbers of a latent action in the loss.
    pub decorrelation: f64,
}

impl StepSettings {
    /// Returns the published pace: one learning rate for both networks, always quantised.
    pub fn even(learning_rate: f64) -> Self {
        StepSettings {
            learning_rate,
            idm_learning_rate: learning_rate,
            quantise: true,
            decorrelation: 0.0,
        }
    }
}

/// The metrics of a step, before it moved the weights.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct StepMetrics {
    /// The minimised loss.
    pub loss: f32,
    /// Mean squared error of the predicted pixels, in [-0.5, 0.5].
    pub wm_loss: f32,
    /// `wm_loss` over the mean squared change from o\[t\]: 1 is as good as copying it.
    pub relative_loss: f32,
    /// The commitment loss, weighted.
    pub vq_loss: f32,
    /// The perplexity of each codebook's codes in the batch: 1 to `entries`, or 0 while nothing is
    /// quantised.
    pub perplexity: Vec<f32>,
    /// The number of codes in use in the batch, by codebook.
    pub codes_used: Vec<u32>,
    /// The number of unused codes moved onto latent actions of this batch.
    pub codes_revived: u32,
    /// Cross-entropy of the true actions, weighted; 0 without supervision.
    pub action_loss: f32,
    /// Mean squared correlation of two numbers of a latent action: 1 if all are proportional.
    pub correlation: f32,
    /// Norm of all gradients together, before clipping.
    pub grad_norm: f32,
    /// Skipped steps since metrics were last read. 0 where every step is read.
    pub skipped: u64,
}

impl StepMetrics {
    /// Creates metrics of how often each code was used, all others 0.
    ///
    /// # Shapes
    /// - `usage`: `[codebook, entry]`
    pub(super) fn of_usage(usage: &[f32], entries: usize, quantised: bool) -> Self {
        let codebooks = || usage.chunks(entries);
        let perplexity = |book| if quantised { perplexity(book) } else { 0.0 };
        let used = |book: &[f32]| book.iter().filter(|&&used| used > 0.0).count() as u32;
        StepMetrics {
            perplexity: codebooks().map(perplexity).collect(),
            codes_used: codebooks().map(used).collect(),
            ..StepMetrics::default()
        }
    }

    /// Returns the metrics by name, as a row of the curve.
    pub fn row(&self, pace: StepSettings) -> Row {
        let values = [
            ("learning_rate", pace.learning_rate as f32),
            ("loss", self.loss),
            ("fdm_error", self.wm_loss),
            ("fdm_error_relative", self.relative_loss),
            ("vq_loss", self.vq_loss),
            ("action_loss", self.action_loss),
            ("correlation", self.correlation),
            ("grad_norm", self.grad_norm),
            ("codes_revived", self.codes_revived as f32),
        ];
        let named = values.map(|(name, value)| (name.to_owned(), value));
        let perplexity = self.perplexity.iter().enumerate();
        let perplexity =
            perplexity.map(|(book, perplexity)| (format!("perplexity_{book}"), *perplexity));
        named.into_iter().chain(perplexity).collect()
    }
}

/// Scores of windows, one entry per window.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Evaluation {
    /// Mean squared error of the predicted pixels.
    pub fdm_error: Vec<f32>,
    /// The same with another window's latent action: equal to `fdm_error` if latent actions carry
    /// no information.
    pub fdm_error_shuffled: Vec<f32>,
    /// Mean squared change from o\[t\] to o\[t+1\]: the error of copying the last frame.
    pub copy_error: Vec<f32>,
    /// `[window, codebook, position]`; empty while nothing is quantised
    pub codes: Vec<u16>,
    /// `[window, latent_dim]`: before quantisation
    pub latent_action: Vec<f32>,
}
