//! A YAML file becomes a run. In: text; out: datasets in a workspace. Never touches a tensor, a frame or a record batch.
//!
//! Four states, each a type: the file's text -> [`PipelineSpec`](spec::PipelineSpec) (as written) -> [`Checked`](check::Checked) (it
//! makes sense) -> [`StagePlan`](plan::StagePlan)s (what is to be done), which [`run`](run::run) does, or [`handout`] gives to others.

use crate::dataset::Access;
use crate::stages;

pub mod check;
pub mod entries;
pub mod fault;
pub mod handout;
mod limit;
pub mod locate;
pub mod parse;
mod pattern;
pub mod plan;
#[cfg(test)]
mod recorded_keys;
pub mod run;
pub mod session;
#[cfg(test)]
mod settings_tests;
pub mod spec;
mod tree;

/// A pipeline cannot be read, makes no sense, or did not run to its end.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// The file cannot be read.
    #[error("cannot read {file}: {source}")]
    Read {
        /// The file.
        file: String,
        /// Why.
        source: std::io::Error,
    },
    /// The file has faults; all of them.
    #[error("{}", .0.iter().map(ToString::to_string).collect::<Vec<_>>().join("\n"))]
    Faults(Vec<fault::Fault>),
    /// Something asked for on the command line is not in the pipeline.
    #[error("{what}")]
    Request {
        /// What.
        what: String,
        /// The cure.
        hint: String,
    },
    /// Storage.
    #[error(transparent)]
    Dataset(#[from] crate::dataset::Error),
    /// Some tasks of a stage failed; the others are done and kept.
    #[error("stage {stage}: {failed} of {total} tasks failed; the first: {first}")]
    Tasks {
        /// The stage.
        stage: String,
        /// Tasks that failed.
        failed: usize,
        /// Tasks that were begun.
        total: usize,
        /// The first failure.
        first: Box<stages::Error>,
    },
    /// Some partitions of a plan failed; the others are done and kept.
    #[error("{} of {total} partitions failed; the first: {}", failures.len(), failures.first().map_or("", |failure| &failure.message))]
    Partitions {
        /// What failed.
        failures: Vec<session::TaskFailure>,
        /// Partitions that were asked for.
        total: usize,
    },
    /// No video of a stage can be read for now, and no version has any from before: it would be empty.
    #[error("stage {stage}: none of its {videos} videos can be read yet; the first: {first}")]
    NoneReadable {
        /// The stage.
        stage: String,
        /// Its videos.
        videos: usize,
        /// Why the first one cannot be read.
        first: Box<stages::Error>,
    },
    /// More videos of the dataset are gone than `max_dropped` allows.
    #[error(
        "stage {stage}: {gone} of {videos} videos of the newest version no longer match, `max_dropped` allows a share of {most}"
    )]
    TooManyDropped {
        /// The stage.
        stage: String,
        /// Videos that are gone.
        gone: u64,
        /// Videos of the newest version.
        videos: u64,
        /// The share allowed.
        most: f64,
    },
    /// The process was asked to end. What is done is kept.
    #[error("stopped by {0}")]
    Stopped(stages::Signal),
    /// More videos were rejected than `max_rejected` allows.
    #[error(
        "stage {stage}: {rejected} of {videos} videos rejected, `max_rejected` allows a share of {most}: {classes}"
    )]
    TooManyRejects {
        /// The stage.
        stage: String,
        /// Videos rejected so far.
        rejected: u64,
        /// Videos in all.
        videos: usize,
        /// The share allowed.
        most: f64,
        /// How many of which class.
        classes: String,
    },
}

impl Error {
    /// The cure, where it is known.
    pub fn hint(&self) -> Option<String> {
        match self {
            Error::Read { .. } => Some("name a pipeline file, e.g. pipelines/quickstart.yaml".into()),
            Error::Faults(_) => None,
            Error::Request { hint, .. } => Some(hint.clone()),
            Error::Dataset(e) => e.hint(),
            Error::NoneReadable { first, .. } => first.hint(),
            Error::Tasks { first, .. } => first.hint().or_else(|| Some("run again: what is done is kept".into())),
            Error::Partitions { failures, .. } => failures
                .first()
                .and_then(|failure| failure.hint.clone())
                .or_else(|| Some("work on the plan again: what is done is kept".into())),
            Error::TooManyDropped { .. } => {
                Some("check that every disk and bucket is there; if the videos are meant to go, say --max-dropped 1 once".into())
            }
            Error::Stopped(signal) => stages::Error::Stopped(*signal).hint(),
            Error::TooManyRejects { .. } => Some("what was decoded is kept; mend or remove the videos, or raise `max_rejected`".into()),
        }
    }
}

impl Error {
    /// Returns whether the same run may succeed when tried again as it is.
    pub fn is_transient(&self) -> bool {
        match self {
            Error::Dataset(e) => e.is_transient(),
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

    /// Returns the signal that ended it, if one did.
    pub fn stopped(&self) -> Option<stages::Signal> {
        match self {
            Error::Stopped(signal) => Some(*signal),
            Error::Tasks { first, .. } => first.stopped(),
            _ => None,
        }
    }

    /// Returns whether the fault is in this program.
    pub fn is_bug(&self) -> bool {
        match self {
            Error::Tasks { first, .. } => first.is_bug(),
            Error::Partitions { failures, .. } => failures.iter().any(|failure| failure.is_bug),
            _ => false,
        }
    }
}

/// Reads and checks a pipeline file. `set` overrides its variables, `access` reaches the object stores it names.
pub fn load(
    file: &str,
    set: &[(String, String)],
    access: &Access,
) -> Result<check::Checked, Error> {
    let text = std::fs::read_to_string(file)
        .map_err(|source| Error::Read { file: file.into(), source })?;
    check::check(file, &text, set, access).map_err(Error::Faults)
}
