//! The networks' outputs on sampled windows.

use rand::seq::SliceRandom;

use super::{Data, TrainDynamicsTask, as_batch};
use crate::dataset::WindowIndex;
use crate::stages::Error;
use crate::stages::latent_quality::WindowNetworks;
use crate::train::{Evaluator, batch};

/// Windows in a forward pass.
const VERDICT_BATCH: usize = 128;

/// The latent actions of some windows.
pub(super) struct WindowLatents {
    /// Numbers of the windows in their index.
    pub windows: Vec<usize>,
    /// `[window, latent_dim]`: before quantisation
    pub latent_action: Vec<f32>,
}

/// The outputs and errors of both networks on some windows.
pub(super) struct Scores {
    pub latents: WindowLatents,
    /// `[window, codebook, position]`; empty before codes are in use
    pub codes: Vec<u16>,
    /// Means over the windows.
    pub errors: Errors,
}

/// Mean squared errors of the last frame.
#[derive(Clone, Copy)]
pub(super) struct Errors {
    pub fdm: f64,
    pub copy: f64,
    /// The FDM's with the latent action of another window.
    pub fdm_shuffled: f64,
}

/// Returns at most `most` windows, evenly spaced over all, in random order.
fn sample(index: &WindowIndex, most: usize, seed: u64) -> Vec<usize> {
    // Neighbours often share their action, so a window is not scored with its neighbour's.
    let mut windows = batch::spread(index, most);
    windows.shuffle(&mut batch::generator(seed, "verdict", 0));
    windows
}

/// Runs both networks on held-out windows.
pub(super) fn score(
    networks: &dyn Evaluator,
    task: &TrainDynamicsTask,
    data: &Data,
    most: usize,
    quantise: bool,
) -> Result<Scores, Error> {
    let windows = sample(&data.held_out, most, task.seed);
    let mut sums = [0.0_f64; 3];
    let mut codes = Vec::new();
    let mut latent_action = Vec::new();
    let mut frames = Vec::new();
    for part in windows.chunks(VERDICT_BATCH) {
        batch::gather(&data.shards, &data.held_out, part, &mut frames)?;
        // Each window is also scored with the latent action of the next one.
        let shuffle: Vec<usize> = (0..part.len()).map(|i| (i + 1) % part.len()).collect();
        let out = networks.evaluate(&as_batch(&frames, part.len(), task), &shuffle, quantise)?;
        let errors = [&out.fdm_error, &out.copy_error, &out.fdm_error_shuffled];
        for (sum, errors) in sums.iter_mut().zip(errors) {
            *sum += errors.iter().map(|e| f64::from(*e)).sum::<f64>();
        }
        codes.extend(out.codes);
        latent_action.extend(out.latent_action);
    }
    let [fdm, copy, fdm_shuffled] = sums.map(|sum| sum / windows.len() as f64);
    let errors = Errors { fdm, copy, fdm_shuffled };
    Ok(Scores { latents: WindowLatents { windows, latent_action }, codes, errors })
}

/// The networks of a training for the tests of latent actions.
pub(super) struct InTraining<'a> {
    pub networks: &'a dyn Evaluator,
    pub task: &'a TrainDynamicsTask,
    pub quantise: bool,
}

impl WindowNetworks for InTraining<'_> {
    fn infer(&self, windows: &[u8], count: usize) -> Result<Vec<f32>, Error> {
        Ok(self.networks.latent_action(&as_batch(windows, count, self.task))?)
    }

    fn predict(
        &self,
        windows: &[u8],
        count: usize,
        latent_action: &[f32],
    ) -> Result<Vec<f32>, Error> {
        let batch = as_batch(windows, count, self.task);
        Ok(self.networks.predict(&batch, latent_action, self.quantise)?)
    }
}

/// Runs the IDM on training windows.
pub(super) fn latent_actions(
    networks: &dyn Evaluator,
    task: &TrainDynamicsTask,
    data: &Data,
    most: usize,
) -> Result<WindowLatents, Error> {
    let windows = sample(&data.training, most, task.seed);
    let mut latent_action = Vec::new();
    let mut frames = Vec::new();
    for part in windows.chunks(VERDICT_BATCH) {
        batch::gather(&data.shards, &data.training, part, &mut frames)?;
        latent_action.extend(networks.latent_action(&as_batch(&frames, part.len(), task))?);
    }
    Ok(WindowLatents { windows, latent_action })
}
