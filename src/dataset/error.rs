//! Errors of the dataset module. Every message names the file or address.
//!
//! Start at [`Error`]. [`Error::hint`] suggests a fix, and [`Error::is_transient`] reports whether
//! a retry may help.

use std::io::ErrorKind;
use std::path::Path;

mod hint;

/// The result of functions in this module.
pub type Result<T, E = Error> = std::result::Result<T, E>;

/// A failed operation on a workspace, on an object store or on a file of the user.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// An address without a usable object store.
    #[error("`{address}`: {reason}")]
    Address {
        /// The address as the user gave it, without secrets.
        address: String,
        /// The reason, without secrets.
        reason: String,
    },
    /// A path outside the workspace or with illegal parts.
    #[error("{path:?} is not a path in a workspace: {reason}")]
    Path {
        /// The path as it was given.
        path: String,
        /// The reason, without secrets.
        reason: String,
    },
    /// The object store refused an operation.
    #[error("cannot {action} `{path}`: {message}")]
    Storage {
        /// The failed operation, as a verb.
        action: &'static str,
        /// The file, with the store's address.
        path: String,
        /// The store's message, without secrets.
        message: String,
        /// The matching system error, if there is one.
        kind: Option<ErrorKind>,
        /// Whether the store itself is at fault, so a retry may succeed.
        temporary: bool,
    },
    /// The operating system refused an operation.
    #[error("cannot {action} `{path}`: {cause}")]
    Io {
        /// The failed operation, as a verb.
        action: &'static str,
        /// The file's full path.
        path: String,
        /// The system's error.
        cause: std::io::Error,
    },
    /// Other users can read or change the folder for local copies.
    #[error(
        "cannot keep local copies in `{folder}`: it is not a folder with mode 700 owned by this \
         user, so other users could read or change the copies"
    )]
    NotPrivate {
        /// The folder.
        folder: String,
    },
    /// An object store without atomic creates: two concurrent writers would lose data.
    #[error(
        "`{place}` cannot hold a workspace: creating a file twice replaced it, expected the second \
         create to fail"
    )]
    NotAtomic {
        /// The workspace's folder or address.
        place: String,
    },
    /// A file with another size than its receipt states.
    #[error("`{path}` is damaged: it has {found} bytes, its receipt states {expected}")]
    Damaged {
        /// The file, relative to the workspace.
        path: String,
        /// The size in the receipt.
        expected: u64,
        /// The size on disk or in the store.
        found: u64,
    },
    /// A file named by a receipt or a manifest does not exist.
    #[error("`{path}` is missing")]
    Missing {
        /// The file, relative to the workspace.
        path: String,
    },
    /// A file in the format of another lapo version.
    #[error("`{path}` has format {found}, but this version of lapo reads format {known}")]
    OtherFormat {
        /// The file, relative to the workspace.
        path: String,
        /// The format stated in the file.
        found: u32,
        /// The format supported by this version.
        known: u32,
    },
    /// A manifest with another number than its file name.
    #[error("`{path}` was not written by lapo: {reason}")]
    Misnamed {
        /// The file, relative to the workspace.
        path: String,
        /// The reason.
        reason: String,
    },
    /// A folder without `lapo.json`.
    #[error("`{path}` is not a lapo workspace: it has no lapo.json")]
    NoWorkspace {
        /// The folder or address.
        path: String,
    },
    /// A folder with other files, but without `lapo.json`. A run must not write into it.
    #[error("`{path}` is not a lapo workspace and not empty: it holds `{found}` and no lapo.json")]
    ForeignFolder {
        /// The folder or address.
        path: String,
        /// The name of one file in it.
        found: String,
    },
    /// A workspace or a stage in it belongs to another pipeline.
    #[error(
        "{}the workspace `{workspace}` belongs to the pipeline `{owner}`, this one is `{pipeline}`",
        stage.as_ref().map(|stage| format!("stage `{stage}` of ")).unwrap_or_default()
    )]
    OtherPipeline {
        /// The folder or address.
        workspace: String,
        /// The stage, if only a stage of this name belongs to the other pipeline.
        stage: Option<String>,
        /// The owner's name.
        owner: String,
        /// The name of the current pipeline.
        pipeline: String,
    },
    /// Another program committed to the Delta Lake table of a stage.
    #[error(
        "`{path}` was written by another program; lapo must be the only writer of this Delta Lake \
         table"
    )]
    ForeignLog {
        /// The log entry, relative to the workspace.
        path: String,
    },
    /// A file with invalid content.
    #[error("`{path}` is damaged, or lapo did not write it: {reason}")]
    Corrupt {
        /// The file, relative to the workspace.
        path: String,
        /// The reason.
        reason: String,
    },
    /// A file of true actions with invalid content.
    #[error("cannot read true actions from `{path}`: {reason}")]
    Actions {
        /// The file, as written in the pipeline.
        path: String,
        /// The reason.
        reason: String,
    },
    /// A list of videos with invalid content.
    #[error("cannot read the list of videos `{path}`: {reason}")]
    List {
        /// The list, as written in the pipeline.
        path: String,
        /// The reason.
        reason: String,
    },
    /// A LeRobot dataset that cannot be read.
    #[error("`{path}`: {reason}")]
    Lerobot {
        /// The dataset, or the file in it.
        path: String,
        /// The reason.
        reason: String,
        /// The fix.
        cure: String,
    },
    /// Arrow or Parquet could not write a file.
    #[error("cannot write `{path}`: {reason}")]
    Encode {
        /// The file, relative to the workspace.
        path: String,
        /// The writer's message.
        reason: String,
    },
    /// Rows with another shape than the file was created for.
    #[error("cannot write rows to `{path}`: {what} is {found}, expected {expected}")]
    WrongShape {
        /// The file, relative to the workspace.
        path: String,
        /// The name of the wrong value.
        what: String,
        /// The value found.
        found: u64,
        /// The value of the file.
        expected: u64,
    },
    /// A commit includes a task without a receipt.
    #[error("stage `{stage}` cannot be committed: task `{key}` has no receipt")]
    MissingReceipt {
        /// The stage's name.
        stage: String,
        /// The task's key.
        key: String,
    },
    /// Two videos with frames have the same name in one version.
    #[error("stage `{stage}` cannot be committed: two of its videos have the name `{video}`")]
    NameTwice {
        /// The stage's name.
        stage: String,
        /// The name.
        video: String,
    },
}

impl Error {
    /// Returns whether the same call may succeed later without any change by the user.
    ///
    /// A full disk is not transient: the user must free space first.
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
            // The store answered with a fault of its own.
            None => matches!(self, Self::Storage { temporary: true, .. }),
        }
    }

    /// Returns whether the error means a read-only place.
    #[must_use]
    pub fn is_read_only(&self) -> bool {
        matches!(self.io_kind(), Some(ErrorKind::PermissionDenied | ErrorKind::ReadOnlyFilesystem))
    }

    /// Converts an error of an object store. `redacted` is its message without secrets; the default
    /// is the message as it is.
    pub(super) fn storage(
        action: &'static str,
        path: &str,
        cause: &object_store::Error,
        redacted: Option<String>,
    ) -> Self {
        use object_store::Error as Cause;
        let kind = match cause {
            Cause::NotFound { .. } => Some(ErrorKind::NotFound),
            Cause::PermissionDenied { .. } | Cause::Unauthenticated { .. } => {
                Some(ErrorKind::PermissionDenied)
            }
            cause => {
                // The system error may be several causes deep.
                std::iter::successors(Some(cause as &(dyn std::error::Error + 'static)), |error| {
                    error.source()
                })
                .find_map(|error| error.downcast_ref::<std::io::Error>().map(std::io::Error::kind))
                // A reply was cut short. For a file this would mean damage, here the connection
                // broke.
                .map(|kind| match kind {
                    ErrorKind::UnexpectedEof => ErrorKind::ConnectionAborted,
                    kind => kind,
                })
            }
        };
        let message = redacted.unwrap_or_else(|| cause.to_string());
        // `object_store` has error variants for missing and forbidden, except in listings: there
        // the HTTP status is only in the message.
        let status = message.split("status code: ").nth(1).and_then(|status| status.get(..3));
        // 408 (timeout), 409 (conflict) and 429 (too many requests) are temporary.
        let refused = status
            .filter(|status| status.starts_with('4') && !["408", "409", "429"].contains(status));
        let kind = kind.or_else(|| match refused? {
            "404" => Some(ErrorKind::NotFound),
            "401" | "403" => Some(ErrorKind::PermissionDenied),
            _ => None,
        });
        let temporary = refused.is_none() && matches!(cause, Cause::Generic { .. });
        Self::Storage { action, path: path.to_owned(), message, kind, temporary }
    }

    /// Returns the matching system error, if there is one.
    pub(super) fn io_kind(&self) -> Option<ErrorKind> {
        match self {
            Self::Io { cause, .. } => Some(cause.kind()),
            Self::Storage { kind, .. } => *kind,
            _ => None,
        }
    }
}

impl From<Error> for std::io::Error {
    /// Converts the error for stream readers: the kind preserves [`Error::is_transient`].
    fn from(error: Error) -> Self {
        let kind = match &error {
            Error::Missing { .. } => ErrorKind::NotFound,
            Error::Path { .. } => ErrorKind::InvalidInput,
            error if error.is_transient() => error.io_kind().unwrap_or(ErrorKind::NetworkDown),
            error => error.io_kind().unwrap_or(ErrorKind::PermissionDenied),
        };
        Self::new(kind, error)
    }
}

/// Adds the operation and the file to a system error.
pub(super) fn io_error(
    action: &'static str,
    path: impl AsRef<Path>,
) -> impl FnOnce(std::io::Error) -> Error {
    move |cause| Error::Io { action, path: path.as_ref().display().to_string(), cause }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn io(kind: ErrorKind) -> Error {
        Error::Io { action: "write", path: "/w/a/shard.arrow".into(), cause: kind.into() }
    }

    #[test]
    fn a_lost_network_is_transient_and_a_damaged_file_is_not() {
        assert!(io(ErrorKind::TimedOut).is_transient());
        let damaged = Error::Corrupt {
            path: "frames/data/k/a/shard.arrow".into(),
            reason: "no footer".into(),
        };
        assert!(!damaged.is_transient());
    }
}
