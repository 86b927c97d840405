//! Errors of tasks, with hints.

use crate::train::{Signal, TrainError};

/// The error of a task.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// A failure of storage, a shard or a labels file.
    #[error(transparent)]
    Dataset(#[from] crate::dataset::Error),
    /// A failure of weights, networks or the device.
    #[error(transparent)]
    Models(#[from] crate::models::ModelError),
    /// A failure of the GPU during the task.
    #[error("{source}")]
    Gpu {
        /// The failure.
        source: crate::models::gpu_failure::GpuError,
        /// How the task needs less memory.
        memory_cure: &'static str,
    },
    /// A failure of a training step.
    #[error(transparent)]
    Train(#[from] TrainError),
    /// A passing failure to read a video, such as a disk error.
    #[error(transparent)]
    Video(#[from] crate::video::Error),
    /// A failure to play a game.
    #[error(transparent)]
    Envs(#[from] crate::envs::Error),
    /// Many episodes in a row, all too short to keep.
    #[error("{episodes} episodes of {game} in a row had fewer than {frames} frames")]
    ShortEpisodes {
        /// The game.
        game: String,
        /// Episodes played.
        episodes: usize,
        /// The least number of frames of a kept episode.
        frames: u64,
    },
    /// A change of an input file after the run was planned.
    #[error("{file}: the file changed after this run was planned")]
    Changed {
        /// The file.
        file: String,
    },
    /// A video unreadable for a passing reason: it is being written, or a disk is away.
    #[error("{video}: {reason}")]
    Unavailable {
        /// Its path or address.
        video: String,
        /// The reason.
        reason: String,
    },
    /// Too few windows to train on or to evaluate on.
    #[error(
        "{windows} {split} windows of {time} frames in {episodes} episodes, \
         expected at least {needed}"
    )]
    TooFewWindows {
        /// The split: `training`, `held-out` or `predicted`.
        split: &'static str,
        /// Windows found.
        windows: usize,
        /// Episodes found, of all splits.
        episodes: usize,
        /// Frames a window spans.
        time: usize,
        /// The least number of windows.
        needed: usize,
    },
    /// No transitions to train on or to evaluate on.
    #[error("no {split} transitions among {transitions} labelled transitions of {videos} videos")]
    TooFewTransitions {
        /// The split: `training` or `held-out`.
        split: &'static str,
        /// Labelled transitions, of all splits.
        transitions: usize,
        /// Videos of these transitions.
        videos: usize,
    },
    /// A mismatch of true actions and frames.
    #[error("{file}: {reason}")]
    Actions {
        /// The file.
        file: String,
        /// The mismatch.
        reason: String,
        /// The hint.
        cure: &'static str,
    },
    /// Frames that the format of an export cannot hold.
    #[error("{file}: {reason}")]
    Export {
        /// The video or shard.
        file: String,
        /// The mismatch.
        reason: String,
        /// The hint.
        cure: &'static str,
    },
    /// Labels of a shard missing from the frames.
    #[error("{file}: the labels refer to shard {shard}, which is not among the frames")]
    NoShard {
        /// The file of labels.
        file: String,
        /// The shard's digest.
        shard: String,
    },
    /// Frames of another size than the model's.
    #[error("{file}: frames are {seen} x {seen} pixels, the model expects {expected} x {expected}")]
    FrameSize {
        /// The shard.
        file: String,
        /// The size of the shard's frames.
        seen: usize,
        /// The size of the frames the model was trained on.
        expected: usize,
    },
    /// A decoder of latent actions of another length than the policy's.
    #[error(
        "{file}: decodes latent actions of {seen} values, but the policy predicts {expected} values"
    )]
    LatentSize {
        /// The decoder.
        file: String,
        /// The length of the latent actions it decodes.
        seen: usize,
        /// The length of the policy's latent actions.
        expected: usize,
    },
    /// A decoder or an agent with other actions than the game takes.
    #[error("{file}: decodes to {seen}, but {game} takes {expected}")]
    ActionKind {
        /// The decoder or agent.
        file: String,
        /// Its actions, in words.
        seen: String,
        /// The game.
        game: String,
        /// The actions of the game, in words.
        expected: String,
    },
    /// A model of another horizon than one frame.
    #[error("{file}: the latent actions lead {horizon} ahead, expected the next frame")]
    Horizon {
        /// The weights.
        file: String,
        /// The horizon, in words.
        horizon: String,
    },
    /// A network whose output is no finite number.
    #[error("{file}: the network's output is {seen}, expected finite numbers")]
    Output {
        /// The decoder or agent.
        file: String,
        /// The number.
        seen: f32,
    },
    /// A training by PPO in a game with continuous actions.
    #[error("{game} takes {space}, but `finetune` trains discrete actions only")]
    ContinuousGame {
        /// The game.
        game: String,
        /// Its actions, in words.
        space: String,
    },
    /// Rollouts shorter than the IDM's windows.
    #[error("a rollout of {steps} steps has no window of {frames} frames, as the IDM reads them")]
    ShortRollouts {
        /// Steps of each environment in a rollout.
        steps: usize,
        /// Frames of a window.
        frames: usize,
    },
    /// A network for frames of another size than the game can show.
    #[error(
        "the network takes frames of {seen} x {seen} pixels, but the game draws {native} x {native}"
    )]
    GameFrameSize {
        /// The side of the network's frames.
        seen: usize,
        /// The side of the game's frames.
        native: usize,
    },
    /// Fewer transitions with a true action than the settings ask for.
    #[error("{file}: {found} training transitions have a true action, expected at least {asked}")]
    TooFewLabels {
        /// The file of true actions.
        file: String,
        /// Transitions with a true action.
        found: usize,
        /// The least number of transitions.
        asked: usize,
    },
    /// An unreadable checkpoint.
    #[error("{file}: cannot resume from this checkpoint: {reason}")]
    Checkpoint {
        /// The checkpoint.
        file: String,
        /// The fault.
        reason: String,
    },
    /// A failure to encode episodes as a video.
    #[cfg(feature = "video")]
    #[error("{path}: cannot write the video: {source}")]
    Film {
        /// The video.
        path: String,
        /// The error of libav.
        source: crate::video::EncodeError,
    },
    /// A decoder process that ended for a reason outside the video.
    #[error("{video}: the decoder process {how}")]
    Decoder {
        /// The video it decoded.
        video: String,
        /// How it ended, such as `ended, signal: 9`.
        how: String,
    },
    /// A stage that needs a feature missing from this build.
    #[error("this build lacks the `video` feature, so it cannot read or write videos")]
    NoVideo,
    /// A request to stop. Unfinished work is abandoned, except for the checkpoints of a training.
    #[error("stopped by {0}")]
    Stopped(Signal),
    /// A bug in lapo.
    #[error("internal: {what}")]
    Invariant {
        /// The broken invariant.
        what: String,
    },
}

impl Error {
    /// Returns a hint, if there is one.
    pub fn hint(&self) -> Option<String> {
        match self {
            Error::Dataset(e) => e.hint(),
            Error::Video(e) => e.hint().map(Into::into),
            Error::Envs(e) => e.hint(),
            Error::Gpu { source, memory_cure } => Some(source.hint(memory_cure)),
            Error::Checkpoint { file, .. } => {
                Some(format!("delete {file}; training then resumes from the checkpoint before it"))
            }
            _ => self.fixed_hint().map(Into::into),
        }
    }

    /// Returns the hint of an error with a hint of its own.
    fn fixed_hint(&self) -> Option<&'static str> {
        Some(match self {
            Error::Train(TrainError::NotFinite { .. }) => {
                "lower `learning_rate`; the checkpoints before this step are kept"
            }
            Error::Stopped(_) | Error::Train(TrainError::Stopped(_)) => {
                "run again to continue where this run stopped"
            }
            Error::ShortEpisodes { .. } => "lower `min_frames`",
            Error::Changed { .. } | Error::Unavailable { .. } => {
                "run again when no program writes to the file"
            }
            // Splits come from different settings, so their hints differ.
            Error::TooFewWindows { split: "predicted", .. } => {
                "shorten `rollout`, lower the pipeline's `holdout`, or add videos"
            }
            Error::TooFewTransitions { .. } | Error::TooFewWindows { split: "held-out", .. } => {
                "add videos, or set the pipeline's `holdout: 0` to train and judge on all of them"
            }
            Error::TooFewWindows { .. } => "add videos, or lower `context` or `horizon`",
            Error::TooFewLabels { .. } => {
                "ask for fewer, or check that its `video` and `frame_index` are those of the \
                 decoded videos"
            }
            Error::Actions { cure, .. } | Error::Export { cure, .. } => cure,
            Error::LatentSize { .. } => {
                "train the decoder on the labels that the policy was cloned from"
            }
            Error::ActionKind { .. } => {
                "give `train_decoder` the actions of this game, as its `record` stage writes them"
            }
            Error::Horizon { .. } => {
                "`finetune` and `rollout` step from frame to frame: name a model with `horizon: 1`"
            }
            Error::Output { .. } => "lower the `learning_rate` of its training",
            Error::ContinuousGame { .. } => {
                "play it with a latent policy and a decoder of continuous actions: `train_decoder` \
                 and `evaluate`"
            }
            Error::ShortRollouts { .. } => "raise `rollout` of `finetune`: the default is 64",
            Error::NoShard { .. } => {
                "run the pipeline again: the frames have changed since they were labelled"
            }
            Error::FrameSize { .. } => {
                "set `size` of `decode` to the size the model was trained on, or retrain the model"
            }
            Error::GameFrameSize { .. } => "train on frames of 64, 32 or 16 pixels a side",
            #[cfg(feature = "video")]
            Error::Film { .. } => {
                "run `lapo doctor` to see whether libav can write H.264; `record` needs it only for \
                 `videos`"
            }
            Error::Decoder { .. } => {
                "run again; if memory ran out, lower --threads or --decoder-memory-gib"
            }
            Error::NoVideo => "install libav's headers and build with default features",
            _ => return None,
        })
    }

    /// Returns whether the same task may succeed if it is tried again unchanged.
    pub fn is_transient(&self) -> bool {
        match self {
            Error::Dataset(e) => e.is_transient(),
            Error::Video(e) => e.is_transient(),
            Error::Gpu { source, .. } => source.is_transient(),
            Error::Changed { .. } | Error::Unavailable { .. } | Error::Decoder { .. } => true,
            // A stopped task continues from its checkpoint.
            _ => self.stopped().is_some(),
        }
    }

    /// Returns the signal, if one stopped the task.
    pub fn stopped(&self) -> Option<Signal> {
        match self {
            Error::Stopped(signal) | Error::Train(TrainError::Stopped(signal)) => Some(*signal),
            _ => None,
        }
    }

    /// Creates the error of a panicked task.
    pub fn panicked(panic: &(dyn std::any::Any + Send)) -> Error {
        // `panic!` with arguments carries a `String`, without any a `&str`.
        let text = panic
            .downcast_ref::<&str>()
            .copied()
            .or_else(|| panic.downcast_ref::<String>().map(String::as_str));
        Error::Invariant { what: format!("panic: {}", text.unwrap_or("without a message")) }
    }

    /// Returns whether the fault is in lapo.
    pub fn is_bug(&self) -> bool {
        matches!(self, Error::Invariant { .. })
    }
}
