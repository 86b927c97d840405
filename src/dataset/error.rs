//! What can go wrong between rows and disk, with the file it went wrong on.
//!
//! In: errors of the storage, of Arrow and of Parquet. Out: [`Error`], whose text names the file, whose
//! [`Error::hint`] names the cure, and whose [`Error::is_transient`] says whether trying again may help.

use std::io::ErrorKind;
use std::path::Path;

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
    /// A path that is none of a workspace.
    #[error("{path:?} is no path in a workspace: {reason}")]
    Path {
        /// The path as it was given.
        path: String,
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
    /// The folder for local copies could be read or changed by other users.
    #[error(
        "`{folder}` cannot hold copies of files: it must be a folder that only this user can read or change (mode 700)"
    )]
    NotPrivate {
        /// The folder.
        folder: String,
    },
    /// An object store that overwrites files, so that two writers at once lose data.
    #[error("`{place}` overwrites a file that must be created only once")]
    NotAtomic {
        /// The workspace.
        place: String,
    },
    /// A file that does not have the size its receipt says.
    #[error("`{path}` is damaged: it has {found} bytes, its receipt says {expected}")]
    Damaged {
        /// The file, relative to the workspace.
        path: String,
        /// The size the receipt says.
        expected: u64,
        /// The size it has.
        found: u64,
    },
    /// A file that receipts or manifests speak of is not there.
    #[error("`{path}` is missing")]
    Missing {
        /// The file, relative to the workspace.
        path: String,
    },
    /// A file written by another version of this program.
    #[error("`{path}` has format {found}, this version of lapo reads format {known}")]
    OtherFormat {
        /// The file, relative to the workspace.
        path: String,
        /// The format the file states.
        found: u32,
        /// The format this version reads.
        known: u32,
    },
    /// A manifest whose number is not its name.
    #[error("`{path}` was not written by lapo: {reason}")]
    Misnamed {
        /// The file, relative to the workspace.
        path: String,
        /// What does not fit.
        reason: String,
    },
    /// A folder that is no workspace.
    #[error("`{path}` is not a lapo workspace: it has no lapo.json")]
    NoWorkspace {
        /// The folder or address.
        path: String,
    },
    /// A folder of something else that a run would write into.
    #[error("`{path}` is not a lapo workspace and not empty: it holds `{found}` and no lapo.json")]
    ForeignFolder {
        /// The folder or address.
        path: String,
        /// One of the names in it.
        found: String,
    },
    /// A workspace or a stage in it belongs to another pipeline.
    #[error("{} of `{workspace}` belongs to the pipeline `{owner}`, this one is `{pipeline}`", stage.as_ref().map_or("the workspace".to_owned(), |stage| format!("stage `{stage}`")))]
    OtherPipeline {
        /// The folder or address.
        workspace: String,
        /// The stage, if one of this name is there.
        stage: Option<String>,
        /// The pipeline that wrote it.
        owner: String,
        /// The pipeline that would write now.
        pipeline: String,
    },
    /// Another program committed to a stage's Delta Lake table.
    #[error(
        "`{path}` was written by another program, expected the entry that lapo writes for a version of the stage"
    )]
    ForeignLog {
        /// The log entry, relative to the workspace.
        path: String,
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
    /// Two videos of a commit have the same name.
    #[error("stage `{stage}` cannot be committed: two of its videos have the name `{video}`")]
    NameTwice {
        /// The stage's name.
        stage: String,
        /// The name.
        video: String,
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
            Self::Path { .. } => Some("write names joined by `/`, such as `frames/data/KEY/ATTEMPT/shard.arrow`, relative to the workspace".into()),
            Self::Storage { kind: Some(ErrorKind::PermissionDenied), .. } => {
                Some("the credentials in the environment must allow this: AWS_ACCESS_KEY_ID, AWS_SECRET_ACCESS_KEY, AWS_SESSION_TOKEN".into())
            }
            Self::Storage { kind: Some(ErrorKind::NotFound), .. } => Some("the bucket must exist, in AWS_REGION and at AWS_ENDPOINT_URL".into()),
            Self::Storage { passing: true, .. } => {
                Some("run again when the store answers: what is finished is kept; AWS_ENDPOINT_URL says where it is".into())
            }
            Self::OtherFormat { found, known, .. } if found > known => Some("use the newer version of lapo, or start a new workspace".into()),
            Self::OtherFormat { .. } => Some("start a new workspace: nothing in this one is changed".into()),
            Self::Misnamed { .. } => {
                Some("move that one file away; to go back to an older version say `lapo rollback STAGE VERSION`".into())
            }
            Self::NoWorkspace { .. } => Some("run a pipeline in it first: the first `lapo run` makes the folder that a pipeline's `workspace` names".into()),
            Self::ForeignFolder { .. } => Some("name a new or empty folder as `workspace`".into()),
            Self::OtherPipeline { owner, .. } => Some(format!(
                "name another workspace; if the two are meant to share it, write `shares_with: [{owner}]` in this pipeline; if it replaces \
                 the other one, say --take-over once"
            )),
            Self::ForeignLog { path } => Some(format!(
                "the table is read-only for other programs; delete the folder `{}` and run again: it is written anew, and no data file is touched",
                path.rsplit_once('/').map_or(path.as_str(), |(folder, _)| folder)
            )),
            Self::Actions { .. } => Some(
                "expected Parquet or CSV with the columns `video` (path or file name), `frame_index` and `action` (a whole number; lists of numbers, in CSV `action_0`, `action_1`, where it is continuous)".into(),
            ),
            Self::List { .. } => Some(
                "expected text with a path or address a line, or CSV or Parquet with the column `uri` and, where they are known, `bytes` and `etag`".into(),
            ),
            Self::NotPrivate { .. } => Some("name another folder with --cache or LAPO_CACHE, or delete this one if it is yours".into()),
            Self::NotAtomic { .. } => {
                Some("the store must support conditional writes (If-None-Match: *): use a newer version of it, or another store".into())
            }
            Self::Corrupt { path, .. } | Self::Missing { path } | Self::Damaged { path, .. } => repair(path),
            _ => match self.io_kind()? {
                ErrorKind::StorageFull | ErrorKind::QuotaExceeded => {
                    Some("free space on that disk and run again: what is finished is kept".into())
                }
                ErrorKind::PermissionDenied | ErrorKind::ReadOnlyFilesystem => Some("the workspace must be writable by this user".into()),
                ErrorKind::Unsupported => Some("the workspace's file system must support hard links or atomic creates (a rename that replaces nothing): use another disk".into()),
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

    /// Whether nothing can be written there.
    #[must_use]
    pub fn is_read_only(&self) -> bool {
        matches!(self.io_kind(), Some(ErrorKind::PermissionDenied | ErrorKind::ReadOnlyFilesystem))
    }

    /// What an object store said; `said` are its words where secrets were taken out of them.
    pub(super) fn storage(
        action: &'static str,
        path: &str,
        cause: &object_store::Error,
        said: Option<String>,
    ) -> Self {
        use object_store::Error as Cause;
        let kind = match cause {
            Cause::NotFound { .. } => Some(ErrorKind::NotFound),
            Cause::PermissionDenied { .. } | Cause::Unauthenticated { .. } => {
                Some(ErrorKind::PermissionDenied)
            }
            cause => {
                std::iter::successors(Some(cause as &(dyn std::error::Error + 'static)), |error| {
                    error.source()
                })
                .find_map(|error| error.downcast_ref::<std::io::Error>().map(std::io::Error::kind))
                // An answer that breaks off: of a file it would be the file's fault.
                .map(|kind| {
                    if kind == ErrorKind::UnexpectedEof {
                        ErrorKind::ConnectionAborted
                    } else {
                        kind
                    }
                })
            }
        };
        let said = said.unwrap_or_else(|| cause.to_string());
        // The library has words of its own for what is missing or forbidden, but not when it lists.
        let status = said.split("status code: ").nth(1).and_then(|status| status.get(..3));
        // Too late, somebody else is at it, too many at once: these pass.
        let refused = status
            .filter(|status| status.starts_with('4') && !["408", "409", "429"].contains(status));
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
            Error::Path { .. } => ErrorKind::InvalidInput,
            error if error.is_transient() => error.io_kind().unwrap_or(ErrorKind::NetworkDown),
            error => error.io_kind().unwrap_or(ErrorKind::PermissionDenied),
        };
        Self::new(kind, error)
    }
}

/// Returns how to make one task's file anew, if the path is one of a task; nothing safe to advise is known of others.
fn repair(path: &str) -> Option<String> {
    let mut parts = path.split('/');
    let (stage, folder, name) = (parts.next()?, parts.next()?, parts.next()?);
    // Nothing that a shell or a path takes for more than a name.
    let is_plain = |name: &str| {
        !name.is_empty()
            && name.bytes().all(|byte| byte.is_ascii_alphanumeric() || b"_-".contains(&byte))
    };
    let key = match folder {
        "tables" if [stage, name].into_iter().all(is_plain) => {
            let file = "no task is done anew, since the tasks' own files hold the same rows";
            return Some(format!(
                "run `lapo verify --delete`, and run again: small tables are joined again; {file}"
            ));
        }
        "data" => name,
        "receipts" => name.strip_suffix(".json")?,
        _ => return None,
    };
    (is_plain(stage) && is_plain(key))
        .then(|| format!("run `lapo verify --delete`, or delete `{stage}/receipts/{key}.json`, and run again: only this task is done anew"))
}

/// Adds the file to an error of the operating system.
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
    fn a_full_disk_is_not_transient_and_says_what_to_do() {
        let full = io(ErrorKind::StorageFull);
        assert!(!full.is_transient());
        assert!(full.hint().is_some_and(|hint| hint.contains("free space")));
        assert!(full.to_string().contains("/w/a/shard.arrow"));
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

    #[test]
    fn no_hint_deletes_more_than_the_receipt_of_the_broken_file() {
        let errors = |path: &str| {
            let path = path.to_owned();
            let reason = String::new();
            [
                Error::Missing { path: path.clone() },
                Error::Damaged { path: path.clone(), expected: 2, found: 1 },
                Error::Corrupt { path, reason },
            ]
        };
        for path in ["frames/data/0a1b/att/shard.arrow", "frames/receipts/0a1b.json"] {
            for error in errors(path) {
                let hint = error.hint().unwrap_or_default();
                assert!(
                    hint.contains("`lapo verify --delete`")
                        && hint.contains("delete `frames/receipts/0a1b.json`"),
                    "{hint}"
                );
                assert_eq!(hint.matches('`').count(), 4, "{hint}");
            }
        }
        for error in errors("labels/tables/00000001-0a1b/labels.parquet") {
            let hint = error.hint().unwrap_or_default();
            assert!(
                hint.contains("`lapo verify --delete`") && hint.contains("joined again"),
                "{hint}"
            );
        }
        let others = [
            "plan.json",
            "partitions/3.json",
            "frames/manifests/0000000001.json",
            "/etc/passwd",
            "",
            "runs/1-a.json",
            "lapo.json",
            "frames/receipts",
            "a b/data/k/x",
            "../data/k/x",
            "frames/data/../x",
            "frames/receipts/k.json#12",
        ];
        for path in others {
            for error in errors(path) {
                assert!(
                    error.hint().is_none_or(|hint| !hint.contains("delete")),
                    "{path}: {:?}",
                    error.hint()
                );
            }
        }
    }
}
