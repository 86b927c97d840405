//! What can go wrong with a game, and the cure.

use std::path::PathBuf;

/// A game cannot be loaded, made or stepped.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// Procgen's library is nowhere.
    #[error("no Procgen library (searched {})", searched.iter().map(|path| path.display().to_string()).collect::<Vec<_>>().join(", "))]
    NotFound {
        /// Where it was looked for.
        searched: Vec<PathBuf>,
    },
    /// The library is there and cannot be loaded.
    #[error("{}: cannot be loaded ({reason})", path.display())]
    Load {
        /// The library.
        path: PathBuf,
        /// What the loader says.
        reason: String,
    },
    /// It is not the library this program was written for.
    #[error("{}: {what} is {seen}, expected {expected}", path.display())]
    Foreign {
        /// The library.
        path: PathBuf,
        /// Which property.
        what: &'static str,
        /// What the library says.
        seen: String,
        /// What is needed.
        expected: String,
    },
    /// A number is out of range.
    #[error("{what} is {seen}, expected {expected}")]
    Range {
        /// Which number.
        what: &'static str,
        /// Its value.
        seen: i64,
        /// Which values are right.
        expected: String,
    },
    /// A game's state does not read as this program knows it.
    #[error("cannot read a game's state: {what}")]
    State {
        /// What is wrong with it.
        what: String,
    },
}

/// The result of what an environment does.
pub type Result<T, E = Error> = std::result::Result<T, E>;

impl Error {
    /// The cure, where it is known.
    pub fn hint(&self) -> Option<String> {
        match self {
            Error::NotFound { .. } => Some(format!(
                "fetch it: `{}`; or let LAPO_PROCGEN name the folder of the Python package",
                Self::FETCH
            )),
            Error::Load { reason, .. } if reason.contains("libGL") => {
                Some("install it: `apt-get install libgl1 libglib2.0-0`".into())
            }
            Error::Load { .. } => Some(format!("fetch it anew: `{}`", Self::FETCH)),
            Error::Foreign { .. } => Some(format!("fetch Procgen 0.10: `{}`", Self::FETCH)),
            Error::Range { .. } | Error::State { .. } => None,
        }
    }

    /// The one command that puts Procgen where it is looked for.
    pub const FETCH: &str = "python3 -m venv ~/.cache/lapo/procgen && ~/.cache/lapo/procgen/bin/pip install --no-deps procgen-mirror";
}
