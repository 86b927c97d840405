//! Errors of the command line itself: wrong arguments, failed input and output, failed checks.

/// An error of the command line, as opposed to the work that a command does.
#[derive(Debug, thiserror::Error)]
pub enum Error {
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
    #[error("verification failed; damaged files: {0}")]
    Damaged(usize),
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

impl Error {
    /// Returns how to fix the problem, if a fix is known.
    pub fn hint(&self) -> Option<String> {
        match self {
            Error::Usage { hint, .. } => Some(hint.clone()),
            Error::Damaged(_) => Some(
                "`lapo verify --delete` deletes only the damaged files and the receipts of their \
                 tasks; the next run redoes these tasks"
                    .into(),
            ),
            Error::Input { .. } | Error::Output { .. } | Error::Doctor(_) | Error::Panic { .. } => {
                None
            }
        }
    }

    /// Returns whether the error is a bug in lapo.
    pub fn is_bug(&self) -> bool {
        matches!(self, Error::Panic { .. })
    }
}
