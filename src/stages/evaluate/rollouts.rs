//! Measures how the world model's error grows with the number of frames ahead.
//!
//! The model receives the first frames of a stretch and the IDM's latent action of every transition
//! in it. It predicts each frame from its own earlier predictions, rounded to bytes. There are two
//! baselines: copying the last real frame, and the same model with the latent actions of another
//! stretch, which shows how much it uses them.

use serde::Serialize;

use super::EvaluateTask;
use crate::dataset::{Column, FileInfo, WindowIndex, write_table};
use crate::models::predict::{as_bytes, pixels, squared_error};
use crate::models::{LabelOutputs, Predictor};
use crate::stages::latent_quality::decibels;
use crate::stages::model_files::ratio;
use crate::stages::world_model::WorldModel;
use crate::stages::{Error, TaskContext};
use crate::train::batch;

/// The largest number of stretches. They are spread evenly.
const STRETCHES: usize = 128;

/// Errors by the number of frames ahead.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub(super) struct Rollouts {
    stretches: usize,
    rows: Vec<Errors>,
}

/// Mean squared errors this many frames ahead, with pixels in a range of 1.
#[derive(Clone, Copy, Debug, Default, PartialEq, Serialize)]
struct Errors {
    frames_ahead: u64,
    fdm_error: f64,
    copy_error: f64,
    /// The error with the latent actions of another stretch.
    shuffled_error: f64,
}

/// Predicts stretches of held-out videos.
///
/// # Errors
/// If the model's horizon is not the next frame: a prediction cannot follow another one then.
pub(super) fn roll(task: &EvaluateTask, model: &WorldModel) -> Result<Rollouts, Error> {
    let WorldModel { labeller, predictor, shards } = model;
    let horizon = labeller.config().horizon;
    if !horizon.is_next_frame() {
        let file = task.dynamics.as_ref().map(|file| file.path.clone()).unwrap_or_default();
        return Err(Error::Horizon { file, horizon: horizon.to_string() });
    }
    // The model takes this many real frames; its window also has the predicted one.
    let known = labeller.config().window() - 1;
    let ahead = task.config.frames_ahead();
    let [_, index] = WindowIndex::new(shards, known + ahead).split(&shards.split(task.holdout));
    let chosen = batch::spread(&index, STRETCHES);
    // With one stretch there is no other one to take latent actions from.
    if chosen.len() < 2 {
        return Err(Error::TooFewWindows {
            split: "predicted",
            windows: chosen.len(),
            time: known + ahead,
            episodes: index.episodes(),
            needed: 2,
        });
    }
    let mut frames = Vec::new();
    batch::gather(shards, &index, &chosen, &mut frames)?;
    let starts: Vec<usize> = (0..chosen.len())
        .flat_map(|i| (0..ahead).map(move |at| i * (known + ahead) + at))
        .collect();
    // One latent action for each predicted frame, inferred from real frames.
    let latent_action = labeller.label(&frames, &starts, LabelOutputs::default())?.latent_action;
    let stretches = Stretches { frames, latent_action, count: chosen.len(), known, ahead };
    Ok(Rollouts { stretches: chosen.len(), rows: stretches.errors(predictor.as_ref())? })
}

/// Stretches of consecutive frames, and the latent actions between them.
struct Stretches {
    /// `[stretch, known + ahead, height, width, 3]`
    frames: Vec<u8>,
    /// `[stretch, ahead, latent_dim]`
    latent_action: Vec<f32>,
    count: usize,
    known: usize,
    ahead: usize,
}

impl Stretches {
    fn errors(&self, predictor: &dyn Predictor) -> Result<Vec<Errors>, Error> {
        let own = self.predicted(predictor, 0)?;
        // Half the stretches further on, the latent actions come from another stretch.
        let shuffled = self.predicted(predictor, self.count / 2)?;
        let last: Vec<Vec<f32>> =
            (0..self.count).map(|i| pixels(self.frame(i, self.known - 1))).collect();
        let mean = |errors: &mut dyn Iterator<Item = f64>| errors.sum::<f64>() / self.count as f64;
        let row = |at: usize| Errors {
            frames_ahead: at as u64 + 1,
            fdm_error: mean(&mut (0..self.count).map(|i| own[at][i])),
            copy_error: mean(
                &mut (0..self.count)
                    .map(|i| squared_error(&last[i], self.frame(i, self.known + at))),
            ),
            shuffled_error: mean(&mut (0..self.count).map(|i| shuffled[at][i])),
        };
        Ok((0..self.ahead).map(row).collect())
    }

    /// Returns the error of each number of frames ahead and each stretch. A stretch `i` gets the
    /// latent actions of stretch `i + shift`.
    fn predicted(&self, predictor: &dyn Predictor, shift: usize) -> Result<Vec<Vec<f64>>, Error> {
        let dim = self.latent_action.len() / (self.count * self.ahead);
        let bytes = self.frame(0, 0).len();
        let mut past: Vec<Vec<u8>> = (0..self.count)
            .map(|i| (0..self.known).flat_map(|at| self.frame(i, at)).copied().collect())
            .collect();
        let mut errors = Vec::new();
        for at in 0..self.ahead {
            let action = |i: usize| {
                &self.latent_action[((i + shift) % self.count * self.ahead + at) * dim..][..dim]
            };
            let predicted = predictor.predict(
                &past.concat(),
                &(0..self.count).flat_map(action).copied().collect::<Vec<f32>>(),
            )?;
            let predicted: Vec<&[f32]> = predicted.chunks_exact(bytes).collect();
            errors.push(
                (0..self.count)
                    .map(|i| squared_error(predicted[i], self.frame(i, self.known + at)))
                    .collect(),
            );
            // The oldest frame leaves, and the prediction becomes the newest one.
            for (past, predicted) in past.iter_mut().zip(predicted) {
                past.drain(..bytes);
                past.extend(as_bytes(predicted));
            }
        }
        Ok(errors)
    }

    fn frame(&self, stretch: usize, at: usize) -> &[u8] {
        let bytes = self.frames.len() / (self.count * (self.known + self.ahead));
        &self.frames[(stretch * (self.known + self.ahead) + at) * bytes..][..bytes]
    }
}

impl Rollouts {
    /// Returns the PSNR one frame ahead with own latent actions, minus that with shuffled ones.
    pub(super) fn information_db(&self) -> Option<f64> {
        let first = self.rows.first()?;
        decibels(first.shuffled_error, first.fdm_error)
    }

    pub(super) fn sentence(&self) -> String {
        let row = |row: &Errors| match ratio(row.fdm_error, row.copy_error) {
            Some(share) => format!("{share:.2}x {} ahead", row.frames_ahead),
            None => format!("undefined {} ahead, as nothing moves", row.frames_ahead),
        };
        let errors: Vec<String> =
            [self.rows.first(), self.rows.last().filter(|_| self.rows.len() > 1)]
                .into_iter()
                .flatten()
                .map(row)
                .collect();
        format!(
            "frames predicted from predictions: error {}, relative to copying the last real frame",
            errors.join(", ")
        )
    }

    /// Writes a row for every number of frames ahead.
    pub(super) fn write(&self, ctx: &TaskContext) -> Result<FileInfo, Error> {
        let column = |of: fn(&Errors) -> f64| {
            Column::F64(self.rows.iter().map(|row| Some(of(row))).collect())
        };
        let columns = [
            ("frames_ahead", Column::U64(self.rows.iter().map(|row| row.frames_ahead).collect())),
            ("fdm_error", column(|row| row.fdm_error)),
            ("copy_error", column(|row| row.copy_error)),
            ("shuffled_error", column(|row| row.shuffled_error)),
        ];
        Ok(write_table(ctx.store, &format!("{}/rollouts.parquet", ctx.folder), &columns)?)
    }
}

#[cfg(test)]
#[expect(clippy::unwrap_used, reason = "a test fails by panicking")]
mod tests {
    use super::*;
    use crate::models::{DynamicsConfig, Preset, Result};

    /// Predicts the sum of the last frame and the latent action.
    struct Adds(DynamicsConfig);

    impl Predictor for Adds {
        fn config(&self) -> &DynamicsConfig {
            &self.0
        }

        fn predict(&self, past: &[u8], latent_action: &[f32]) -> Result<Vec<f32>> {
            let step = |(past, action): (&[u8], &f32)| {
                past[2..]
                    .iter()
                    .map(|byte| f32::from(*byte) / 255.0 - 0.5 + action)
                    .collect::<Vec<_>>()
            };
            Ok(past.chunks_exact(4).zip(latent_action).flat_map(step).collect())
        }
    }

    #[test]
    fn each_frame_is_predicted_from_the_prediction_before_it() {
        // Two stretches of frames of two bytes, two of them known. One grows by 51 (0.2 of the
        // range) a frame, the other never changes.
        let frames =
            [[0, 0], [0, 0], [51, 51], [102, 102], [9, 9], [9, 9], [9, 9], [9, 9]].concat();
        let stretches = Stretches {
            frames,
            latent_action: vec![0.2, 0.2, 0.0, 0.0],
            count: 2,
            known: 2,
            ahead: 2,
        };
        let rows = stretches.errors(&Adds(Preset::Tiny.dynamics())).unwrap();
        let assert_near = |seen: f64, right: f64| {
            assert!((seen - right).abs() < 1e-6, "{seen}, expected {right}");
        };
        for (row, [copied, shuffled]) in rows.iter().zip([[0.02, 0.04], [0.08, 0.16]]) {
            assert_near(row.fdm_error, 0.0);
            assert_near(row.copy_error, copied);
            assert_near(row.shuffled_error, shuffled);
        }
        let rollouts = Rollouts { stretches: 2, rows };
        assert!(
            rollouts.sentence().contains("error 0.00x 1 ahead, 0.00x 2 ahead"),
            "{}",
            rollouts.sentence()
        );
    }
}
