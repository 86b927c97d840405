//! A YAML file becomes a run. In: text; out: datasets in a workspace. Never touches a tensor, a frame or a record batch.
//!
//! Four states, each a type: the file's text -> [`PipelineSpec`](spec::PipelineSpec) (as written) -> [`Checked`](check::Checked) (it
//! makes sense) -> [`StagePlan`](plan::StagePlan)s (what is to be done), which [`run`](run::run) does, or [`handout`] gives to others.

use crate::dataset::Access;
use crate::stages;

pub mod check;
pub mod fault;
pub mod handout;
pub mod key;
mod limit;
pub mod locate;
pub mod parse;
pub mod plan;
pub mod run;
pub mod spec;
pub mod videos;

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
    /// More videos were rejected than `max_rejected` allows.
    #[error("stage {stage}: {rejected} of {videos} videos rejected, `max_rejected` allows a share of {most}: {classes}")]
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
            Error::Tasks { first, .. } => first.hint().or_else(|| Some("run again: what is done is kept".into())),
            Error::TooManyRejects { .. } => Some("what was decoded is kept; mend or remove the videos, or raise `max_rejected`".into()),
        }
    }
}

/// Reads and checks a pipeline file. `set` overrides its variables, `access` reaches the object stores it names.
pub fn load(file: &str, set: &[(String, String)], access: &Access) -> Result<check::Checked, Error> {
    let text = std::fs::read_to_string(file).map_err(|source| Error::Read { file: file.into(), source })?;
    check::check(file, &text, set, access).map_err(Error::Faults)
}
