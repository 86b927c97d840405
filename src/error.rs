//! The error type of the command line: one variant per module. Every module has its own error type;
//! only `cli` uses this one.

/// The result of a command.
pub type Result<T, E = Error> = std::result::Result<T, E>;

/// Any error of the program, by module. Every message names the file or the key that it is about.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// A video could not be opened or decoded.
    #[error(transparent)]
    Video(#[from] crate::video::Error),
    /// Storage, shards, labels, receipts or manifests.
    #[error(transparent)]
    Dataset(#[from] crate::dataset::Error),
    /// A game could not be loaded, created or stepped.
    #[error(transparent)]
    Envs(#[from] crate::envs::Error),
    /// Weights, network configurations or devices.
    #[error(transparent)]
    Models(#[from] crate::models::ModelError),
    /// A task of a stage failed.
    #[error(transparent)]
    Stage(#[from] crate::stages::Error),
    /// A pipeline file is invalid, or its run failed.
    #[error(transparent)]
    Pipeline(#[from] crate::pipeline::Error),
    /// An SQL query over a workspace failed.
    #[error(transparent)]
    Query(#[from] crate::query::Error),
    /// The command line is wrong, or its input or output failed.
    #[error(transparent)]
    Cli(#[from] CommandError),
}

impl Error {
    /// Returns advice for the user, if there is any.
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

    /// Returns whether the same command may succeed if it is run again unchanged.
    pub fn is_transient(&self) -> bool {
        match self {
            Error::Video(e) => e.is_transient(),
            Error::Dataset(e) | Error::Query(crate::query::Error::Dataset(e)) => e.is_transient(),
            Error::Stage(e) => e.is_transient(),
            Error::Pipeline(e) => e.is_transient(),
            Error::Envs(_) | Error::Models(_) | Error::Query(_) | Error::Cli(_) => false,
        }
    }

    /// Returns the signal that stopped the command, if one did.
    pub fn stopped(&self) -> Option<crate::stages::Signal> {
        match self {
            Error::Stage(e) => e.stopped(),
            Error::Pipeline(e) => e.stopped(),
            _ => None,
        }
    }

    /// Returns whether the error is a bug in lapo.
    pub fn is_bug(&self) -> bool {
        match self {
            Error::Stage(e) => e.is_bug(),
            Error::Pipeline(e) => e.is_bug(),
            Error::Cli(e) => e.is_bug(),
            _ => false,
        }
    }
}

/// An error of the command line, as opposed to the work that a command does.
#[derive(Debug, thiserror::Error)]
pub enum CommandError {
    /// A flag or an argument has a value that its command does not accept.
    #[error("{what}")]
    Usage {
        /// The flag, the value seen and the value expected.
        what: String,
        /// How to correct the command line.
        hint: String,
    },
    /// Output could not be written.
    #[error("cannot write {to}: {source}")]
    Output {
        /// A file, or `stdout`.
        to: String,
        /// Why the write failed.
        source: std::io::Error,
    },
    /// Input could not be read.
    #[error("cannot read {from}: {source}")]
    Input {
        /// The file, or what else was read.
        from: String,
        /// Why the read failed.
        source: std::io::Error,
    },
    /// `lapo verify` found files that differ from their receipts.
    #[error("verification failed; damaged files: {files}")]
    Damaged {
        /// Damaged files that are left.
        files: usize,
        /// Those of them that the next run can make again.
        repairable: usize,
    },
    /// `lapo doctor` found problems.
    #[error("this machine has problems; failed checks: {0}")]
    Doctor(usize),
    /// The program panicked.
    #[error("internal error: {what}")]
    Panic {
        /// The panic's message and source location.
        what: String,
    },
}

impl CommandError {
    /// Returns how to fix the problem, if a fix is known.
    pub fn hint(&self) -> Option<String> {
        match self {
            CommandError::Usage { hint, .. } => Some(hint.clone()),
            CommandError::Damaged { repairable: 0, .. } => Some(
                "manifests and packs of receipts are not made again: restore them from a copy, or \
                 make an older version the newest one with `lapo rollback`"
                    .into(),
            ),
            CommandError::Damaged { .. } => Some(
                "`lapo verify --delete` deletes only the damaged files and the receipts of their \
                 tasks; the next run redoes these tasks"
                    .into(),
            ),
            CommandError::Input { .. }
            | CommandError::Output { .. }
            | CommandError::Doctor(_)
            | CommandError::Panic { .. } => None,
        }
    }

    /// Returns whether the error is a bug in lapo.
    pub fn is_bug(&self) -> bool {
        matches!(self, CommandError::Panic { .. })
    }
}
