//! Tasks become receipts. In: [`Job`]s, which are data; out: their receipts, filed. Start at [`local`], which does them here.
//!
//! An engine is the local executor plus a wire: whatever runs a job, it works in a fresh attempt's own folder and files a receipt by
//! create-if-absent, so two live attempts at one job are harmless.

use std::sync::Arc;

use crate::dataset::Receipt;
use crate::models::Device;
use crate::stages::decode::child::Launch;
pub use crate::stages::plan::Job;
use crate::stages::{Error, Stop};

pub mod local;

/// How a job ended.
#[derive(Debug)]
pub struct Ended {
    /// The task's key.
    pub key: String,
    /// Its receipt, or why there is none.
    pub result: Result<Arc<Receipt>, Error>,
}

/// How the process behaves; nothing here changes a result.
#[derive(Clone, Debug)]
pub struct Means {
    /// What computes, at least one; the first trains, all label.
    pub devices: Vec<Device>,
    /// Cores to keep busy.
    pub threads: usize,
    /// How a process is started that decodes videos; without, they are decoded in this one.
    pub decoder: Option<Launch>,
    /// Folders where games are looked for.
    pub games: Vec<std::path::PathBuf>,
    /// Set when the process was asked to end: no job is begun any more, and those under way end early.
    pub stop: Stop,
}

/// Whether to go on, asked after every receipt.
pub type GoOn<'a> = dyn Fn(&Receipt) -> bool + Sync + 'a;
