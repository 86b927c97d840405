//! What a task is given to work with, and what it leaves.

use std::collections::BTreeMap;
use std::time::Duration;

use super::Error;
use crate::dataset::{FileInfo, NewFile, Reject, Store, VideoRecord};
use crate::models::Device;
use crate::train::{Checkpoints, FinalState, Progress, Selection, Stop, TrainingLoop};

/// What a finished task says of itself; it becomes the receipt.
#[derive(Clone, Debug, Default)]
pub struct Done {
    /// The files it wrote.
    pub files: Vec<FileInfo>,
    /// The videos they come from.
    pub videos: Vec<VideoRecord>,
    /// What could not be used, wholly or in part.
    pub rejects: Vec<Reject>,
    /// Counts and seconds: `frames`, `transitions`, ...
    pub stats: BTreeMap<String, f64>,
}

/// Where a task works: one attempt's own folder, and this process' means.
pub struct Workplace<'a> {
    /// The workspace.
    pub store: &'a Store,
    /// The folder of this attempt, relative to the workspace; nobody else writes there.
    pub folder: String,
    /// The folder for what must outlive this attempt without being a result (checkpoints).
    pub scratch: String,
    /// What computes.
    pub device: Device,
    /// Folders where games are looked for.
    pub games: &'a [std::path::PathBuf],
    /// Processes that decode; without, videos are decoded in this one.
    pub decoders: Option<&'a super::decode::child::Decoders>,
    /// How many tasks run at once beside this one, at most one per core.
    pub cores_free: usize,
    /// Who listens.
    pub progress: &'a dyn Progress,
    /// Set when the process was asked to end.
    pub stop: &'a Stop,
}

impl Workplace<'_> {
    /// Fails once the process was asked to end. For loops whose work is abandoned then.
    pub fn go_on(&self) -> Result<(), Error> {
        self.stop.signal().map_or(Ok(()), |signal| Err(Error::Stopped(signal)))
    }

    /// Returns the settings of a training loop with its checkpoints in [`scratch`](Self::scratch):
    /// one unit a step, a row of metrics each step, the last state.
    pub(super) fn training_loop(&self, steps: u64, checkpoint_secs: u64) -> TrainingLoop<'_> {
        TrainingLoop {
            steps,
            units: 1,
            log_every: 1,
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

    /// Threads on which many environments step; 0: on the caller's own.
    pub(super) fn game_threads(&self) -> usize {
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
