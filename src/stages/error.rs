//! Why a task fails, and what helps.

use crate::train::{Signal, TrainError};

/// A stage could not do its task.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// Storage, a shard or a labels file.
    #[error(transparent)]
    Dataset(#[from] crate::dataset::Error),
    /// Weights, networks or the device.
    #[error(transparent)]
    Models(#[from] crate::models::ModelError),
    /// A step of training.
    #[error(transparent)]
    Train(#[from] TrainError),
    /// The video could not be read for a reason that may pass (a disk error, too many open files).
    #[error(transparent)]
    Video(#[from] crate::video::Error),
    /// A game could not be played.
    #[error(transparent)]
    Envs(#[from] crate::envs::Error),
    /// A game's episodes end before they are worth keeping.
    #[error("{episodes} episodes of {game} in a row had fewer than {frames} frames")]
    ShortEpisodes {
        /// The game.
        game: &'static str,
        /// How many were played.
        episodes: usize,
        /// The least that is kept.
        frames: u64,
    },
    /// A video or a file of weights is not what it was when the run was planned.
    #[error("{file}: changed since this run looked at it")]
    Changed {
        /// The file.
        file: String,
    },
    /// A video cannot be read now, for a reason that may pass: it is being written, a disk is away.
    #[error("{video}: {reason}")]
    Unavailable {
        /// Its path or address.
        video: String,
        /// Why.
        reason: String,
    },
    /// There is nothing to train on, or nothing to check on.
    #[error(
        "{windows} {split} windows of {time} frames in {episodes} episodes, expected at least {needed}"
    )]
    TooFewWindows {
        /// Which split: `training`, `held-out` or `predicted`.
        split: &'static str,
        /// Windows found.
        windows: usize,
        /// Episodes found in all.
        episodes: usize,
        /// Frames a window spans.
        time: usize,
        /// The least that is needed.
        needed: usize,
    },
    /// There is nothing to clone from, or nothing to check on.
    #[error("no {split} transitions: {transitions} in {videos} videos")]
    TooFewTransitions {
        /// Which split: `training` or `held-out`.
        split: &'static str,
        /// Labelled transitions in all.
        transitions: usize,
        /// Videos they are of.
        videos: usize,
    },
    /// A file of true actions does not fit the frames.
    #[error("{file}: {reason}")]
    Actions {
        /// The file.
        file: String,
        /// What does not fit.
        reason: String,
        /// What helps.
        cure: &'static str,
    },
    /// Labels are of a shard that is not among the frames.
    #[error("{file}: labels frames of shard {shard}, which is not there")]
    NoShard {
        /// The file of labels.
        file: String,
        /// The shard's digest.
        shard: String,
    },
    /// Frames and network disagree on the size of a frame.
    #[error("{file}: frames of {seen} x {seen}, the model expects {expected} x {expected}")]
    FrameSize {
        /// The shard.
        file: String,
        /// The size in the shard.
        seen: usize,
        /// The size the model was trained on.
        expected: usize,
    },
    /// Policy and decoder do not fit.
    #[error("{file}: decodes latent actions of {seen} numbers, the policy's have {expected}")]
    LatentSize {
        /// The decoder.
        file: String,
        /// Length of the latent actions it decodes.
        seen: usize,
        /// Length of the policy's.
        expected: usize,
    },
    /// A game is played with buttons.
    #[error("{file}: decodes to {axes} continuous numbers, the game takes discrete actions")]
    Continuous {
        /// The decoder.
        file: String,
        /// Numbers of an action.
        axes: usize,
    },
    /// A policy sees other frames than the game can show it.
    #[error("the policy sees frames of {seen} x {seen}, the game draws {native} x {native}")]
    Policy {
        /// The side of the policy's frames.
        seen: usize,
        /// The side of the game's.
        native: usize,
    },
    /// Fewer transitions have a true action than are asked for.
    #[error(
        "{file}: true actions of {found} transitions in the training videos, {asked} are asked for"
    )]
    TooFewLabels {
        /// The file of true actions.
        file: String,
        /// Transitions whose action is known.
        found: usize,
        /// How many are wanted.
        asked: usize,
    },
    /// A checkpoint that this program wrote does not read back.
    #[error("{file}: not a checkpoint of this stage ({reason})")]
    Checkpoint {
        /// The checkpoint.
        file: String,
        /// What is wrong with it.
        reason: String,
    },
    /// An episode could not become a video.
    #[cfg(feature = "video")]
    #[error("{path}: cannot write the video: {source}")]
    Film {
        /// The video.
        path: String,
        /// What libav said.
        source: crate::video::FilmError,
    },
    /// A process that decodes ended, and not of what it decoded.
    #[error("{video}: its decoder {how}")]
    Decoder {
        /// The video it was about.
        video: String,
        /// How it ended.
        how: String,
    },
    /// This binary lacks the part that the stage needs.
    #[error("this lapo was built without the `video` feature: it neither reads nor writes videos")]
    NoVideo,
    /// The process was asked to end. What was begun is abandoned, except for a training's checkpoint.
    #[error("stopped by {0}")]
    Stopped(Signal),
    /// Our fault, not the user's.
    #[error("internal: {what}")]
    Invariant {
        /// What should have held.
        what: String,
    },
}

impl Error {
    /// The cure, where it is known.
    pub fn hint(&self) -> Option<String> {
        Some(match self {
            Error::Dataset(e) => return e.hint(),
            Error::Train(TrainError::NotFinite { .. }) => "lower `learning_rate`; the checkpoints before this step are kept".into(),
            Error::Train(TrainError::Stopped(signal)) => return Error::Stopped(*signal).hint(),
            Error::Train(_) | Error::Models(_) => return None,
            Error::Video(e) => return e.hint().map(Into::into),
            Error::Envs(e) => return e.hint(),
            Error::ShortEpisodes { .. } => "lower `min_frames`".into(),
            Error::Changed { .. } | Error::Unavailable { .. } => "run again once nothing writes to it".into(),
            Error::TooFewWindows { split: "held-out", .. } => "set `holdout: 0` to train on everything, or add videos".into(),
            Error::TooFewWindows { split: "predicted", .. } => "shorten `rollout`, lower `holdout`, or add videos".into(),
            Error::TooFewWindows { .. } => "add videos, or lower `holdout` or `context`".into(),
            Error::TooFewLabels { .. } => {
                "ask for fewer, or check that its `video` and `frame_index` are those of the decoded videos".into()
            }
            Error::TooFewTransitions { .. } => "set `holdout: 0` to train on everything, or add videos".into(),
            Error::Actions { cure, .. } => (*cure).into(),
            Error::LatentSize { .. } => "let `train_decoder` learn from the labels that the policy was cloned from".into(),
            Error::Continuous { .. } => "give `train_decoder` the actions of this game".into(),
            Error::NoShard { .. } => "run the pipeline again: its frames have changed since they were labelled".into(),
            Error::FrameSize { .. } => "give `decode` the `size` the model was trained on, or retrain it".into(),
            Error::Checkpoint { file, .. } => format!("delete {file}: training resumes at the checkpoint before it"),
            Error::Policy { .. } => "clone it from frames of 64, 32 or 16 pixels a side".into(),
            #[cfg(feature = "video")]
            Error::Film { .. } => "`lapo doctor` says whether libav can write H.264; or leave `videos` out".into(),
            Error::Decoder { .. } => "run again; where memory ran out, with fewer --threads or a lower --decoder-memory-gib".into(),
            Error::NoVideo => "build with default features, libav's headers installed".into(),
            Error::Stopped(_) => "run again: it goes on from where this run stopped".into(),
            Error::Invariant { .. } => return None,
        })
    }

    /// Whether the same task may succeed when tried again as it is.
    pub fn is_transient(&self) -> bool {
        match self {
            Error::Dataset(e) => e.is_transient(),
            Error::Video(e) => e.is_transient(),
            Error::Changed { .. } | Error::Unavailable { .. } | Error::Decoder { .. } => true,
            _ => self.stopped().is_some(),
        }
    }

    /// Returns the signal that ended it, if one did.
    pub fn stopped(&self) -> Option<Signal> {
        match self {
            Error::Stopped(signal) | Error::Train(TrainError::Stopped(signal)) => Some(*signal),
            _ => None,
        }
    }

    /// Returns a panic's message as our fault.
    pub fn panicked(panic: &(dyn std::any::Any + Send)) -> Error {
        let text = panic
            .downcast_ref::<&str>()
            .copied()
            .or_else(|| panic.downcast_ref::<String>().map(String::as_str));
        Error::Invariant { what: format!("panic: {}", text.unwrap_or("without a message")) }
    }

    /// Returns whether the fault is in this program.
    pub fn is_bug(&self) -> bool {
        matches!(self, Error::Invariant { .. })
    }
}
