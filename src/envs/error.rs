//! Errors of environments, with hints.

use std::path::PathBuf;

/// Reason why a game could not be loaded, created or stepped.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// Procgen's library was not found.
    #[error("cannot find the Procgen library (searched {})", list(searched))]
    NotFound {
        /// The folders searched.
        searched: Vec<PathBuf>,
    },
    /// The library exists but cannot be loaded.
    #[error("{}: cannot load the library: {reason}", path.display())]
    Load {
        /// The library.
        path: PathBuf,
        /// The loader's error.
        reason: String,
    },
    /// The library does not have the expected interface.
    #[error("{}: {what} is {seen}, expected {expected}", path.display())]
    Foreign {
        /// The library.
        path: PathBuf,
        /// The property that differs.
        what: &'static str,
        /// Its value in this library.
        seen: String,
        /// The expected value.
        expected: String,
    },
    /// A number is out of range.
    #[error("{what} is {seen}, expected {expected}")]
    Range {
        /// Name of the number.
        what: &'static str,
        /// Its value.
        seen: i64,
        /// The allowed values.
        expected: String,
    },
    /// The serialised state of a game has an unexpected format.
    #[error("cannot read a game's state: {what}")]
    State {
        /// The difference from the expected format.
        what: String,
    },
    /// An environment of Gymnasium cannot be made or stepped.
    #[error("{game}: {what}")]
    Gymnasium {
        /// The environment.
        game: String,
        /// What failed.
        what: String,
        /// A suggestion for the user; empty if there is none.
        cure: String,
    },
}

/// Result of an operation on an environment.
pub type Result<T, E = Error> = std::result::Result<T, E>;

impl Error {
    /// Returns a suggestion for the user.
    pub fn hint(&self) -> Option<String> {
        match self {
            Error::NotFound { .. } => Some(format!(
                "install it with `{}`, or set LAPO_PROCGEN to the folder of its Python package",
                Self::FETCH
            )),
            Error::Load { reason, .. } if reason.contains("libGL") => Some(
                "install the missing system libraries: `apt-get install libgl1 libglib2.0-0`"
                    .into(),
            ),
            Error::Load { .. } => Some(format!("install it again: `{}`", Self::FETCH)),
            Error::Foreign { .. } => Some(format!("install Procgen 0.10: `{}`", Self::FETCH)),
            Error::Gymnasium { cure, .. } => (!cure.is_empty()).then(|| cure.clone()),
            Error::Range { .. } | Error::State { .. } => None,
        }
    }

    /// Command that installs Procgen in a folder searched by default.
    pub const FETCH: &str = "python3 -m venv ~/.cache/lapo/procgen && \
                             ~/.cache/lapo/procgen/bin/pip install --no-deps procgen-mirror";
}

fn list(paths: &[PathBuf]) -> String {
    paths.iter().map(|path| path.display().to_string()).collect::<Vec<_>>().join(", ")
}
