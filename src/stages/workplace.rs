//! What a task is given to work with, and what it leaves.

use std::collections::BTreeMap;

use super::Error;
use crate::dataset::{FileInfo, NewFile, Reject, Store, VideoRecord};
use crate::models::Device;
use crate::train::Stop;

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

    /// Threads on which many environments step; 0: on the caller's own.
    pub(super) fn game_threads(&self) -> usize {
        if self.cores_free > 1 { self.cores_free } else { 0 }
    }
}

/// Writes bytes to a new file.
pub(super) fn write(file: &mut NewFile, bytes: &[u8]) -> Result<(), Error> {
    let path = file.path().to_string();
    let failed = |cause| crate::dataset::Error::Io { action: "write", path, cause };
    Ok(std::io::Write::write_all(file, bytes).map_err(failed)?)
}

/// Whoever watches a task: a bar on a terminal, lines in a log, or nobody.
pub trait Progress: Sync {
    /// `units` more are done (videos, steps, transitions: whatever the stage counts).
    fn advance(&self, units: u64);
    /// `units` were done by an attempt before this one, which tells nothing of how fast this one is.
    fn resume(&self, units: u64) {
        self.advance(units);
    }
    /// A few words on how it goes, shown beside the count.
    fn note(&self, text: &str);
    /// A sentence that should stay to be read.
    fn say(&self, text: &str);
}

/// Nobody watches.
pub struct Silent;

impl Progress for Silent {
    fn advance(&self, _: u64) {}
    fn note(&self, _: &str) {}
    fn say(&self, _: &str) {}
}
