//! What can go wrong between rows and disk, with the file it went wrong on.
//!
//! In: errors of the storage, of Arrow and of Parquet. Out: [`Error`], whose text names the file, whose
//! [`Error::hint`] names the cure, and whose [`Error::is_transient`] says whether trying again may help.

use std::io::ErrorKind;

/// What this room's functions return.
pub type Result<T, E = Error> = std::result::Result<T, E>;

/// A failure on one file of a workspace; every variant but the first names the file.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// The workspace is a URL whose scheme this build cannot reach.
    #[error("workspace `{workspace}`: this build stores on local disks only, not on `{scheme}`")]
    UnsupportedStore {
        /// The workspace as the user gave it.
        workspace: String,
        /// Its scheme, such as `s3`.
        scheme: String,
    },
    /// The object store refused an operation.
    #[error("cannot {action} `{path}`: {cause}")]
    Storage {
        /// What was tried, as a verb.
        action: &'static str,
        /// The file, relative to the workspace.
        path: String,
        /// What the store said.
        cause: object_store::Error,
    },
    /// The operating system refused an operation.
    #[error("cannot {action} `{path}`: {cause}")]
    Io {
        /// What was tried, as a verb.
        action: &'static str,
        /// The file's full path.
        path: String,
        /// What the system said.
        cause: std::io::Error,
    },
    /// A file that receipts or manifests speak of is not there.
    #[error("`{path}` is missing")]
    Missing {
        /// The file, relative to the workspace.
        path: String,
    },
    /// A file written by a newer version of this program.
    #[error("`{path}` has format {found}, and this version reads formats up to {known}")]
    NewerFormat {
        /// The file, relative to the workspace.
        path: String,
        /// The format the file states.
        found: u32,
        /// The newest format this version reads.
        known: u32,
    },
    /// A file whose content cannot be what was written.
    #[error("`{path}` is damaged or not ours: {reason}")]
    Corrupt {
        /// The file, relative to the workspace.
        path: String,
        /// What does not fit.
        reason: String,
    },
    /// A user's file of true actions is not one.
    #[error("cannot read true actions from `{path}`: {reason}")]
    Actions {
        /// The file, as the user named it.
        path: String,
        /// What does not fit.
        reason: String,
    },
    /// Arrow or Parquet could not write a file.
    #[error("cannot write `{path}`: {reason}")]
    Encode {
        /// The file, relative to the workspace.
        path: String,
        /// What the writer said.
        reason: String,
    },
    /// Rows handed to a writer do not have the shape its file was created with.
    #[error("rows for `{path}`: {what} is {found}, expected {expected}")]
    WrongShape {
        /// The file, relative to the workspace.
        path: String,
        /// Which value is wrong.
        what: String,
        /// The value seen.
        found: u64,
        /// The value the file was created for.
        expected: u64,
    },
    /// A commit names a receipt nobody filed.
    #[error("stage `{stage}` cannot be committed: no receipt for task `{key}`")]
    MissingReceipt {
        /// The stage's name.
        stage: String,
        /// The task's key.
        key: String,
    },
}

impl Error {
    /// The cure, where this room knows one.
    #[must_use]
    pub fn hint(&self) -> Option<String> {
        match self {
            Self::UnsupportedStore { .. } => Some("use a folder, for example a mounted disk or NFS share that every machine sees".into()),
            Self::NewerFormat { .. } => Some("run the newer version of the program, or start a new workspace".into()),
            Self::Actions { .. } => Some(
                "expected Parquet or CSV with the columns `video` (path or file name), `frame_index` and `action` (a whole number; lists of numbers, in CSV `action_0`, `action_1`, where it is continuous)".into(),
            ),
            Self::Corrupt { path, .. } | Self::Missing { path } => {
                let stage = path.split('/').next().unwrap_or(path);
                Some(format!("restore the file from a copy, or delete the folder `{stage}` and run again: only that stage is made anew"))
            }
            _ => match self.io_kind()? {
                ErrorKind::StorageFull | ErrorKind::QuotaExceeded => {
                    Some("free space on that disk and run again: what is finished is kept".into())
                }
                ErrorKind::PermissionDenied | ErrorKind::ReadOnlyFilesystem => Some("the workspace must be writable by this user".into()),
                ErrorKind::Unsupported => Some("the workspace's file system must know hard links: use another disk".into()),
                _ => None,
            },
        }
    }

    /// Whether the same call may succeed later with nothing changed by hand.
    ///
    /// A full disk is not transient: it stays full until somebody frees space.
    #[must_use]
    pub fn is_transient(&self) -> bool {
        match self.io_kind() {
            Some(kind) => matches!(
                kind,
                ErrorKind::Interrupted
                    | ErrorKind::TimedOut
                    | ErrorKind::WouldBlock
                    | ErrorKind::ResourceBusy
                    | ErrorKind::StaleNetworkFileHandle
                    | ErrorKind::ConnectionReset
                    | ErrorKind::ConnectionAborted
                    | ErrorKind::ConnectionRefused
                    | ErrorKind::NotConnected
                    | ErrorKind::BrokenPipe
                    | ErrorKind::HostUnreachable
                    | ErrorKind::NetworkUnreachable
                    | ErrorKind::NetworkDown
            ),
            // A remote store that answers with neither an outcome nor a system error: its own trouble.
            None => matches!(self, Self::Storage { cause: object_store::Error::Generic { .. }, .. }),
        }
    }

    /// The system's error at the root of this one, if there is one.
    fn io_kind(&self) -> Option<ErrorKind> {
        match self {
            Self::Io { cause, .. } => Some(cause.kind()),
            Self::Storage { cause, .. } => {
                let mut error: Option<&(dyn std::error::Error + 'static)> = Some(cause);
                while let Some(inner) = error {
                    if let Some(io) = inner.downcast_ref::<std::io::Error>() {
                        return Some(io.kind());
                    }
                    error = inner.source();
                }
                None
            }
            _ => None,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn io(kind: ErrorKind) -> Error {
        Error::Io { action: "write", path: "/w/a/shard.arrow".into(), cause: kind.into() }
    }

    #[test]
    fn a_full_disk_is_not_transient_and_says_what_to_do() {
        let full = io(ErrorKind::StorageFull);
        assert!(!full.is_transient());
        assert!(full.hint().is_some_and(|hint| hint.contains("free space")));
        assert!(full.to_string().contains("/w/a/shard.arrow"));
    }

    #[test]
    fn a_lost_network_is_transient_and_a_damaged_file_is_not() {
        assert!(io(ErrorKind::TimedOut).is_transient());
        let damaged = Error::Corrupt { path: "frames/data/k/a/shard.arrow".into(), reason: "no footer".into() };
        assert!(!damaged.is_transient());
        assert!(damaged.hint().is_some_and(|hint| hint.contains("`frames`")));
    }
}
