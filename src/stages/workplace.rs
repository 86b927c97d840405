//! The context and the output of a task.

use std::collections::BTreeMap;

use super::Error;
use crate::dataset::{FileInfo, NewFile, Reject, Store, VideoRecord};
use crate::models::Device;
use crate::train::Stop;

/// The output of a finished task. It becomes the receipt.
#[derive(Clone, Debug, Default)]
pub struct Done {
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
pub struct Workplace<'a> {
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
    pub decoders: Option<&'a super::decode::child::Decoders>,
    /// The number of cores for this task: the run's threads divided by its concurrent tasks, at
    /// least 1.
    pub cores_free: usize,
    /// The observer of progress.
    pub progress: &'a dyn Progress,
    /// Set once the process was asked to stop.
    pub stop: &'a Stop,
}

impl Workplace<'_> {
    /// Returns an error once the process was asked to stop. For loops that abandon their work.
    pub fn go_on(&self) -> Result<(), Error> {
        self.stop.signal().map_or(Ok(()), |signal| Err(Error::Stopped(signal)))
    }

    /// Returns the number of threads for stepping environments. 0 means the caller's own thread.
    pub(super) fn game_threads(&self) -> usize {
        // A pool of one thread would only add the cost of handing work over.
        if self.cores_free > 1 { self.cores_free } else { 0 }
    }
}

/// Writes bytes to a new file.
pub(super) fn write(file: &mut NewFile, bytes: &[u8]) -> Result<(), Error> {
    let path = file.path().to_string();
    let failed = |cause| crate::dataset::Error::Io { action: "write", path, cause };
    Ok(std::io::Write::write_all(file, bytes).map_err(failed)?)
}

/// An observer of a running task: a progress bar, log lines, or nothing.
pub trait Progress: Sync {
    /// Adds `units` to the progress. Each stage has its own unit, such as videos or steps.
    fn advance(&self, units: u64);
    /// Adds `units` done by an earlier attempt. They do not count towards the speed.
    fn resume(&self, units: u64) {
        self.advance(units);
    }
    /// Shows a few words beside the count, such as the current loss.
    fn note(&self, text: &str);
    /// Shows a sentence, and leaves it on the screen or in the log.
    fn say(&self, text: &str);
}

/// An observer without any output.
pub struct Silent;

impl Progress for Silent {
    fn advance(&self, _: u64) {}
    fn note(&self, _: &str) {}
    fn say(&self, _: &str) {}
}
