//! What can go wrong in training, with the value seen and the value expected.

use crate::models::ModelError;

/// A failure of this room.
#[derive(Debug, thiserror::Error)]
pub enum TrainError {
    /// A failure in the networks or their weights.
    #[error(transparent)]
    Model(#[from] ModelError),
    /// A batch that does not fit the networks.
    #[error("take a batch: its {what} is {seen}, expected {expected}")]
    Batch {
        /// The dimension that does not fit.
        what: &'static str,
        /// Its size.
        seen: usize,
        /// The size expected.
        expected: usize,
    },
    /// The training went astray; the last checkpoint is the way back.
    #[error("take training step {step}: its {what} is {seen}, expected a finite number")]
    NotFinite {
        /// The step, from 0.
        step: u64,
        /// The quantity.
        what: &'static str,
        /// Its value.
        seen: f32,
    },
    /// The process was asked to end before the training did.
    #[error("stopped by {0}")]
    Stopped(super::Signal),
    /// A checkpoint of another training.
    #[error("restore a training: its {what} is {seen}, expected {expected}")]
    Checkpoint {
        /// What differs.
        what: &'static str,
        /// Its value in the checkpoint.
        seen: String,
        /// Its value here.
        expected: String,
    },
}

/// The room's result.
pub type Result<T, E = TrainError> = std::result::Result<T, E>;
