//! One error for the whole program: a variant per room. Rooms below the pipeline own their errors and know nothing of this one.

/// The result of everything that can fail.
pub type Result<T, E = Error> = std::result::Result<T, E>;

/// What went wrong, by room. Each room's message says what failed on which file or key.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// A video could not be opened or decoded.
    #[error(transparent)]
    Video(#[from] crate::video::Error),
    /// Storage, shards, labels, receipts or manifests.
    #[error(transparent)]
    Dataset(#[from] crate::dataset::Error),
    /// A game could not be loaded, made or stepped.
    #[error(transparent)]
    Envs(#[from] crate::envs::Error),
    /// Weights, configurations of networks, devices.
    #[error(transparent)]
    Models(#[from] crate::models::ModelError),
    /// A stage could not do its task.
    #[error(transparent)]
    Stage(#[from] crate::stages::Error),
    /// The pipeline's YAML, or what it asks for.
    #[error(transparent)]
    Pipeline(#[from] crate::pipeline::Error),
    /// SQL over a workspace.
    #[error(transparent)]
    Query(#[from] crate::query::Error),
    /// The command line.
    #[error(transparent)]
    Cli(#[from] crate::cli::Error),
}

impl Error {
    /// The cure, where some room knows one.
    pub fn hint(&self) -> Option<String> {
        match self {
            Error::Video(e) => e.hint().map(Into::into),
            Error::Dataset(e) => e.hint(),
            Error::Envs(e) => e.hint(),
            Error::Models(_) => None,
            Error::Stage(e) => e.hint(),
            Error::Pipeline(e) => e.hint(),
            Error::Query(e) => e.hint(),
            Error::Cli(e) => e.hint(),
        }
    }

    /// Returns whether the same command may succeed when tried again as it is.
    pub fn is_transient(&self) -> bool {
        match self {
            Error::Video(e) => e.is_transient(),
            Error::Dataset(e) | Error::Query(crate::query::Error::Dataset(e)) => e.is_transient(),
            Error::Stage(e) => e.is_transient(),
            Error::Pipeline(e) => e.is_transient(),
            Error::Envs(_) | Error::Models(_) | Error::Query(_) | Error::Cli(_) => false,
        }
    }

    /// Returns the signal that ended the command, if one did.
    pub fn stopped(&self) -> Option<crate::stages::Signal> {
        match self {
            Error::Stage(e) => e.stopped(),
            Error::Pipeline(e) => e.stopped(),
            _ => None,
        }
    }

    /// Returns whether the fault is in this program.
    pub fn is_bug(&self) -> bool {
        match self {
            Error::Stage(e) => e.is_bug(),
            Error::Pipeline(e) => e.is_bug(),
            Error::Cli(e) => e.is_bug(),
            _ => false,
        }
    }
}
