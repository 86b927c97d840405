//! Plans and runs pipelines: YAML in, committed datasets in a workspace out.
//!
//! This module never touches a tensor, a frame or a record batch. A pipeline passes through four
//! types:
//!
//! 1. the text of the file;
//! 2. [`PipelineSpec`](spec::PipelineSpec), the typed settings ([`parse`]);
//! 3. [`Checked`](check::Checked), a valid pipeline with its videos and its stage order
//!    ([`check`]);
//! 4. one [`StagePlan`](plan::StagePlan) per stage, the list of its tasks ([`plan`]).
//!
//! [`run`](run::run) executes the plans in this process. [`partitions`] writes them as partitions that
//! other processes execute, and [`waves`] drives an engine that starts these processes.

use crate::dataset::Access;
use crate::stages;

pub mod check;
pub mod fault;
pub mod locate;
mod max_rejected;
pub mod parse;
pub mod partitions;
mod pattern;
pub mod plan;
#[cfg(test)]
mod recorded_keys;
pub mod reporter;
pub mod run;
pub mod session;
#[cfg(test)]
mod settings_tests;
pub mod spec;
pub mod summary;
pub mod task_failure;
mod tree;
pub mod video_listing;
pub mod waves;

/// A pipeline cannot be read, is invalid, or its run failed.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// The file cannot be read.
    #[error("cannot read {file}: {source}")]
    Read {
        /// The file.
        file: String,
        /// The cause.
        source: std::io::Error,
    },
    /// The file is invalid. Contains every fault of the file.
    #[error("{}", .0.iter().map(ToString::to_string).collect::<Vec<_>>().join("\n"))]
    Faults(Vec<fault::Fault>),
    /// The command line does not fit the pipeline or the plan.
    #[error("{what}")]
    Request {
        /// The full message.
        what: String,
        /// Advice for the user.
        hint: String,
    },
    /// Reading or writing the workspace failed.
    #[error(transparent)]
    Dataset(#[from] crate::dataset::Error),
    /// An engine failed to start, list or cancel workers.
    #[error(transparent)]
    Engine(#[from] crate::executor::engine::Error),
    /// Tasks of a stage failed. The results of the others are kept.
    #[error("stage {stage}: {failed} of {total} tasks failed; the first: {first}")]
    Tasks {
        /// The stage.
        stage: String,
        /// Number of failed tasks.
        failed: usize,
        /// Number of started tasks.
        total: usize,
        /// The first failure.
        first: Box<stages::Error>,
    },
    /// Some partitions of a plan failed. The results of the others are kept.
    #[error(
        "{} of {total} partitions failed; the first: {}",
        failures.len(),
        failures.first().map_or("", |failure| &failure.message)
    )]
    Partitions {
        /// The failed tasks.
        failures: Vec<task_failure::TaskFailure>,
        /// Number of requested partitions.
        total: usize,
    },
    /// No video of a stage is readable yet and no earlier version has any, so the dataset would be
    /// empty.
    #[error("stage {stage}: none of its {videos} videos can be read yet; the first: {first}")]
    NoneReadable {
        /// The stage.
        stage: String,
        /// Number of its videos.
        videos: usize,
        /// Why the first video cannot be read.
        first: Box<stages::Error>,
    },
    /// More videos have disappeared from the dataset than `max_dropped` allows.
    #[error(
        "stage {stage}: {gone} of {videos} videos of the newest version no longer match, \
         `max_dropped` allows a share of {most}"
    )]
    TooManyDropped {
        /// The stage.
        stage: String,
        /// Number of missing videos.
        gone: u64,
        /// Number of videos in the newest version.
        videos: u64,
        /// The allowed share, 0 to 1.
        most: f64,
    },
    /// A signal stopped the process. Finished tasks are kept.
    #[error("stopped by {0}")]
    Stopped(stages::Signal),
    /// More videos were rejected than `max_rejected` allows.
    #[error(
        "stage {stage}: {rejected} of {videos} videos rejected, \
         `max_rejected` allows a share of {most}: {classes}"
    )]
    TooManyRejects {
        /// The stage.
        stage: String,
        /// Number of videos rejected so far.
        rejected: u64,
        /// Number of videos of the stage.
        videos: usize,
        /// The allowed share, 0 to 1.
        most: f64,
        /// The number of rejects by class, such as `3 truncated, 1 empty_file`.
        classes: String,
    },
}

impl Error {
    /// Returns advice for the user, if there is any.
    pub fn hint(&self) -> Option<String> {
        match self {
            Error::Read { .. } => {
                Some("pass a pipeline file, e.g. pipelines/quickstart.yaml".into())
            }
            Error::Faults(_) => None,
            Error::Request { hint, .. } => Some(hint.clone()),
            Error::Dataset(e) => e.hint(),
            Error::Engine(e) => e.hint(),
            Error::NoneReadable { first, .. } => first.hint(),
            Error::Tasks { first, .. } => {
                first.hint().or_else(|| Some("run again: finished tasks are kept".into()))
            }
            Error::Partitions { failures, .. } => failures
                .first()
                .and_then(|failure| failure.hint.clone())
                .or_else(|| Some("run the worker again: finished partitions are kept".into())),
            Error::TooManyDropped { .. } => Some(
                "check that every disk and bucket is available; if the videos were removed on \
                 purpose, pass --max-dropped 1 once"
                    .into(),
            ),
            Error::Stopped(signal) => stages::Error::Stopped(*signal).hint(),
            Error::TooManyRejects { .. } => Some(
                "decoded videos are kept; repair or remove the rejected ones, or raise \
                 `max_rejected`"
                    .into(),
            ),
        }
    }
}

impl Error {
    /// Returns whether the same run may succeed if it is started again unchanged.
    pub fn is_transient(&self) -> bool {
        match self {
            Error::Dataset(e) => e.is_transient(),
            Error::Engine(e) => e.is_transient(),
            Error::Tasks { first, .. } | Error::NoneReadable { first, .. } => first.is_transient(),
            Error::Partitions { failures, .. } => failures.iter().all(|failure| failure.transient),
            Error::Stopped(_) => true,
            Error::Read { .. }
            | Error::Faults(_)
            | Error::Request { .. }
            | Error::TooManyRejects { .. }
            | Error::TooManyDropped { .. } => false,
        }
    }

    /// Returns the signal that stopped the run, if one did.
    pub fn stopped(&self) -> Option<stages::Signal> {
        match self {
            Error::Stopped(signal) => Some(*signal),
            Error::Tasks { first, .. } => first.stopped(),
            _ => None,
        }
    }

    /// Returns whether the error is a bug in lapo.
    pub fn is_bug(&self) -> bool {
        match self {
            Error::Tasks { first, .. } => first.is_bug(),
            Error::Partitions { failures, .. } => failures.iter().any(|failure| failure.is_bug),
            _ => false,
        }
    }
}

/// Reads a file of executor settings.
pub fn load_executor_settings(
    file: &std::path::Path,
) -> Result<crate::executor::settings::ExecutorSettings, Error> {
    let name = file.display().to_string();
    let text = std::fs::read_to_string(file)
        .map_err(|source| Error::Read { file: name.clone(), source })?;
    // The message names the key, the line and the column.
    serde_yaml::from_str(&text).map_err(|cause| Error::Request {
        what: format!("{name}: {cause}"),
        hint: "`lapo schema executor` prints all settings".into(),
    })
}

/// Returns values as documents of one YAML file.
pub fn yaml_documents(documents: Vec<serde_json::Value>) -> String {
    let text = |document| serde_yaml::to_string(document).expect("plain data with text keys");
    documents.iter().map(text).collect::<Vec<_>>().join("---\n")
}

/// Reads and checks a pipeline file.
///
/// `set` overrides its variables. `access` holds the credentials for object stores.
pub fn load(
    file: &str,
    set: &[(String, String)],
    access: &Access,
) -> Result<check::Checked, Error> {
    let text = std::fs::read_to_string(file)
        .map_err(|source| Error::Read { file: file.into(), source })?;
    check::check(file, &text, set, access).map_err(Error::Faults)
}
