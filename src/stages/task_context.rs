//! The context and the output of a task.

use std::collections::BTreeMap;
use std::time::Duration;

use super::Error;
use crate::dataset::{FileInfo, NewFile, Reject, Store, VideoRecord};
use crate::models::Device;
use crate::train::{Checkpoints, FinalState, Progress, Selection, Stop, TrainingLoop};

/// The output of a finished task. It becomes the receipt.
#[derive(Clone, Debug, Default)]
pub struct TaskOutput {
    /// The files the task wrote.
    pub files: Vec<FileInfo>,
    /// The videos the files come from.
    pub videos: Vec<VideoRecord>,
    /// Videos rejected, wholly or in part.
    pub rejects: Vec<Reject>,
    /// Counts and seconds, such as `frames` and `transitions`.
    pub stats: BTreeMap<String, f64>,
}

/// The context of one attempt at a task: its folders, and the resources of this process.
pub struct TaskContext<'a> {
    /// The workspace.
    pub store: &'a Store,
    /// The folder of this attempt, relative to the workspace. No other attempt writes to it.
    pub folder: String,
    /// The folder for checkpoints, which outlive this attempt.
    pub scratch: String,
    /// The device for computations.
    pub device: Device,
    /// Folders to search for games.
    pub games: &'a [std::path::PathBuf],
    /// Decoder processes. If `None`, videos are decoded in this process.
    pub decoders: Option<&'a super::decode::decoder_process::Decoders>,
    /// The number of cores for this task: the run's threads divided by its concurrent tasks, at
    /// least 1.
    pub cores_free: usize,
    /// The observer of progress.
    pub progress: &'a dyn Progress,
    /// Set once the process was asked to stop.
    pub stop: &'a Stop,
}

impl TaskContext<'_> {
    /// Returns an error once the process was asked to stop. For loops that abandon their work.
    pub fn check_stop(&self) -> Result<(), Error> {
        self.stop.signal().map_or(Ok(()), |signal| Err(Error::Stopped(signal)))
    }

    /// Returns the settings of a training loop with its checkpoints in [`scratch`](Self::scratch):
    /// one unit a step, a row of metrics each step, the last state.
    pub(super) fn training_loop(&self, steps: u64, checkpoint_secs: u64) -> TrainingLoop<'_> {
        TrainingLoop {
            steps,
            units: 1,
            log_every: 1,
            log_judged: false,
            selection: Selection::Last,
            checkpoints: Some(Checkpoints {
                store: self.store,
                folder: &self.scratch,
                every: Duration::from_secs(checkpoint_secs),
            }),
            continued: None,
            stop: Some(self.stop),
            progress: self.progress,
        }
    }

    /// Reads the state of the training that a task continues, if it does.
    pub(super) fn continued(&self, state: Option<&FileInfo>) -> Result<Option<KeptState>, Error> {
        let read = |file: &FileInfo| {
            let bytes = self.store.require_file(file)?.to_vec();
            Ok(KeptState { file: file.path.clone(), bytes })
        };
        state.map(read).transpose()
    }

    /// Writes the final state of a training that can be continued.
    pub(super) fn write_state(&self, state: Option<Vec<u8>>) -> Result<Option<FileInfo>, Error> {
        let Some(state) = state else { return Ok(None) };
        let mut file = self.store.new_file(&format!("{}/{STATE_FILE}", self.folder))?;
        write(&mut file, &state)?;
        Ok(Some(file.finish(0)?))
    }

    /// Returns the number of threads for stepping environments. 0 means the caller's own thread.
    pub(super) fn game_threads(&self) -> usize {
        // A pool of one thread would only add the cost of handing work over.
        if self.cores_free > 1 { self.cores_free } else { 0 }
    }
}

/// The final state of a training, with `continue: true`.
pub const STATE_FILE: &str = "training.state";

/// The final state of a shorter training.
pub(super) struct KeptState {
    file: String,
    bytes: Vec<u8>,
}

impl KeptState {
    pub(super) fn as_final(&self) -> FinalState<'_> {
        FinalState { file: &self.file, bytes: &self.bytes }
    }
}

/// Writes bytes to a new file.
pub(super) fn write(file: &mut NewFile, bytes: &[u8]) -> Result<(), Error> {
    let path = file.path().to_string();
    let failed = |cause| crate::dataset::Error::Io { action: "write", path, cause };
    Ok(std::io::Write::write_all(file, bytes).map_err(failed)?)
}
