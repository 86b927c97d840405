//! Errors of training, with the value seen and the value expected.

use super::read_back::Skips;
use crate::models::ModelError;

/// A training failed.
#[derive(Debug, thiserror::Error)]
pub enum TrainError {
    /// The networks, their weights or the device failed.
    #[error(transparent)]
    Model(#[from] ModelError),
    /// A checkpoint could not be read or written.
    #[error(transparent)]
    Dataset(#[from] crate::dataset::Error),
    /// A batch does not fit the networks.
    #[error("the batch does not fit the networks: its {what} is {seen}, expected {expected}")]
    Batch {
        /// The dimension.
        what: &'static str,
        /// Its size.
        seen: usize,
        /// The size expected.
        expected: usize,
    },
    /// A loss or a gradient of one step was not finite. The weights are as they were before it.
    #[error("training step {step} was not taken: its {what} is {seen}")]
    NotFinite {
        /// The step, from 0.
        step: u64,
        /// The quantity.
        what: &'static str,
        /// Its value.
        seen: f32,
        /// This step, and those before it whose outcome was not known yet.
        skips: Skips,
    },
    /// Too many steps in a row were not finite.
    #[error(
        "training diverged: the {what} is {seen} at step {step}, \
         the last of {steps} steps in a row that were not finite"
    )]
    Diverged {
        /// The last step, from 0.
        step: u64,
        /// The quantity.
        what: &'static str,
        /// Its value at that step.
        seen: f32,
        /// Steps in a row that were not finite.
        steps: u64,
    },
    /// A signal stopped the process.
    #[error("stopped by {0}")]
    Stopped(super::Signal),
    /// A checkpoint is of another training.
    #[error("the checkpoint is of another training: its {what} is {seen}, expected {expected}")]
    Checkpoint {
        /// The setting.
        what: &'static str,
        /// Its value in the checkpoint.
        seen: String,
        /// Its value here.
        expected: String,
    },
    /// A checkpoint of lapo is unreadable.
    #[error("cannot resume from the checkpoint {file}: {reason}")]
    UnreadableCheckpoint {
        /// The checkpoint.
        file: String,
        /// The reason.
        reason: String,
    },
}

impl TrainError {
    /// Returns a hint, if there is a cure.
    pub fn hint(&self) -> Option<String> {
        Some(match self {
            TrainError::Model(_) | TrainError::Batch { .. } | TrainError::Checkpoint { .. } => {
                return None;
            }
            TrainError::Dataset(error) => return error.hint(),
            TrainError::NotFinite { .. } | TrainError::Diverged { .. } => {
                "lower `learning_rate`, or use `precision: f32` if it is `bf16`".into()
            }
            TrainError::Stopped(_) => "run again: it resumes from where this run stopped".into(),
            TrainError::UnreadableCheckpoint { file, .. } => {
                format!("delete {file}: training resumes from the checkpoint before it")
            }
        })
    }
}

/// The result of a training or of a part of it.
pub type Result<T, E = TrainError> = std::result::Result<T, E>;
