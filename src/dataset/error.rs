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
    /// An address that leads to no object store.
    #[error("`{address}`: {reason}")]
    Address {
        /// The address as the user gave it, without secrets.
        address: String,
        /// What is wrong with it.
        reason: String,
    },
    /// The object store refused an operation.
    #[error("cannot {action} `{path}`: {said}")]
    Storage {
        /// What was tried, as a verb.
        action: &'static str,
        /// The file, with the store's address.
        path: String,
        /// What the store said, without secrets.
        said: String,
        /// What the system calls it, where that is known.
        kind: Option<ErrorKind>,
        /// Whether it is the store's own trouble, which passes.
        passing: bool,
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
    /// A user's list of videos is not one.
    #[error("cannot read the list of videos `{path}`: {reason}")]
    List {
        /// The list, as the user named it.
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
            Self::Address { .. } => Some(
                "write s3://bucket/folder (or gs://, az://), and give credentials, region and endpoint in the environment: \
                 AWS_ACCESS_KEY_ID, AWS_SECRET_ACCESS_KEY, AWS_REGION, AWS_ENDPOINT_URL"
                    .into(),
            ),
            Self::Storage { kind: Some(ErrorKind::PermissionDenied), .. } => {
                Some("the credentials in the environment must allow this: AWS_ACCESS_KEY_ID, AWS_SECRET_ACCESS_KEY, AWS_SESSION_TOKEN".into())
            }
            Self::Storage { kind: Some(ErrorKind::NotFound), .. } => Some("the bucket must exist, in AWS_REGION and at AWS_ENDPOINT_URL".into()),
            Self::Storage { passing: true, .. } => {
                Some("run again when the store answers: what is finished is kept; AWS_ENDPOINT_URL says where it is".into())
            }
            Self::NewerFormat { .. } => Some("run the newer version of the program, or start a new workspace".into()),
            Self::Actions { .. } => Some(
                "expected Parquet or CSV with the columns `video` (path or file name), `frame_index` and `action` (a whole number; lists of numbers, in CSV `action_0`, `action_1`, where it is continuous)".into(),
            ),
            Self::List { .. } => Some(
                "expected text with a path or address a line, or CSV or Parquet with the column `uri` and, where they are known, `bytes` and `etag`".into(),
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
            None => matches!(self, Self::Storage { passing: true, .. }),
        }
    }

    /// What an object store said; `said` are its words where secrets were taken out of them.
    pub(super) fn storage(action: &'static str, path: &str, cause: &object_store::Error, said: Option<String>) -> Self {
        use object_store::Error as Cause;
        let kind = match cause {
            Cause::NotFound { .. } => Some(ErrorKind::NotFound),
            Cause::PermissionDenied { .. } | Cause::Unauthenticated { .. } => Some(ErrorKind::PermissionDenied),
            cause => std::iter::successors(Some(cause as &(dyn std::error::Error + 'static)), |error| error.source())
                .find_map(|error| error.downcast_ref::<std::io::Error>().map(std::io::Error::kind))
                // An answer that breaks off: of a file it would be the file's fault.
                .map(|kind| if kind == ErrorKind::UnexpectedEof { ErrorKind::ConnectionAborted } else { kind }),
        };
        let said = said.unwrap_or_else(|| cause.to_string());
        // The library has words of its own for what is missing or forbidden, but not when it lists.
        let status = said.split("status code: ").nth(1).and_then(|status| status.get(..3));
        // Too late, somebody else is at it, too many at once: these pass.
        let refused = status.filter(|status| status.starts_with('4') && !["408", "409", "429"].contains(status));
        let kind = kind.or_else(|| match refused? {
            "404" => Some(ErrorKind::NotFound),
            "401" | "403" => Some(ErrorKind::PermissionDenied),
            _ => None,
        });
        let passing = refused.is_none() && matches!(cause, Cause::Generic { .. });
        Self::Storage { action, path: path.to_owned(), said, kind, passing }
    }

    /// The system's word for it, if there is one.
    pub(super) fn io_kind(&self) -> Option<ErrorKind> {
        match self {
            Self::Io { cause, .. } => Some(cause.kind()),
            Self::Storage { kind, .. } => *kind,
            _ => None,
        }
    }
}

impl From<Error> for std::io::Error {
    /// For whoever reads a stream: the kind says whether trying again may help.
    fn from(error: Error) -> Self {
        let kind = match &error {
            Error::Missing { .. } => ErrorKind::NotFound,
            error if error.is_transient() => error.io_kind().unwrap_or(ErrorKind::NetworkDown),
            error => error.io_kind().unwrap_or(ErrorKind::PermissionDenied),
        };
        Self::new(kind, error)
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
