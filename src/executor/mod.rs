//! Runs [`Job`]s and files their receipts. Start at [`local`], which runs them in this process, and
//! at [`engine`], whose engines start workers elsewhere.
//!
//! Every attempt at a job writes into a folder of its own and files its receipt by
//! create-if-absent, so two concurrent attempts at one job are harmless.
//!
//! | file | starts workers |
//! |---|---|
//! | [`processes`] | as processes of this machine, or by a command of the user |
//! | [`slurm`] | as job arrays of Slurm |
//! | [`ray`] | as tasks of a Ray job |
//! | [`kubernetes`] | as Indexed Jobs: writes the manifest |
//! | [`settings`] | holds the settings of all of them |

use std::sync::Arc;

use crate::dataset::Receipt;
use crate::models::Device;
use crate::stages::decode::decoder_process::DecoderCommand;
pub use crate::stages::plan::Job;
use crate::stages::{Error, Stop};

pub mod engine;
pub mod kubernetes;
pub mod local;
pub mod processes;
pub mod ray;
pub mod settings;
pub mod slurm;

/// The result of a job.
#[derive(Debug)]
pub struct JobResult {
    /// The task's key.
    pub key: String,
    /// The receipt or the error.
    pub result: Result<Arc<Receipt>, Error>,
}

/// The resources of this process. They never change a result.
#[derive(Clone, Debug)]
pub struct Resources {
    /// Devices to compute on, at least one. Training uses the first, labelling uses all.
    pub devices: Vec<Device>,
    /// Number of CPU threads.
    pub threads: usize,
    /// The command for decoder processes. With `None`, videos are decoded in this process.
    pub decoder: Option<DecoderCommand>,
    /// Folders to search for games.
    pub games: Vec<std::path::PathBuf>,
    /// Set when the process receives a signal to stop: no new job is started, and running jobs end
    /// early.
    pub stop: Stop,
}

/// Decides after every receipt whether the remaining jobs are started.
pub type ContinueAfter<'a> = dyn Fn(&Receipt) -> bool + Sync + 'a;
