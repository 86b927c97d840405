//! Hints: how a user can fix an error. No hint deletes more than one receipt.

use std::io::ErrorKind;

use super::Error;

/// What a file of true actions holds.
const ACTION_FILE: &str = "expected Parquet or CSV with the columns `video` (path or file name), \
    `frame_index` and `action` (a whole number; continuous actions are lists of numbers, in CSV \
    the columns `action_0`, `action_1`, ...)";

impl Error {
    /// Returns a fix for the error, if this module has a safe one.
    #[must_use]
    pub fn hint(&self) -> Option<String> {
        let text = match self {
            Self::OtherPipeline { owner, .. } => return Some(other_pipeline(owner)),
            Self::ForeignLog { path } => return Some(foreign_log(path)),
            Self::Lerobot { cure, .. } => {
                return Some(cure.clone()).filter(|cure| !cure.is_empty());
            }
            Self::Corrupt { path, .. } | Self::Missing { path } | Self::Damaged { path, .. } => {
                return repair(path);
            }
            Self::Address { .. } => {
                "write s3://bucket/folder (or gs://, az://), and set credentials, region and \
                 endpoint in the environment: AWS_ACCESS_KEY_ID, AWS_SECRET_ACCESS_KEY, \
                 AWS_REGION, AWS_ENDPOINT_URL"
            }
            Self::Path { .. } => {
                "join names with `/`, relative to the workspace, such as \
                 `frames/data/KEY/ATTEMPT/shard.arrow`"
            }
            Self::Storage { kind: Some(ErrorKind::PermissionDenied), .. } => {
                "check that the credentials in the environment allow this: AWS_ACCESS_KEY_ID, \
                 AWS_SECRET_ACCESS_KEY, AWS_SESSION_TOKEN"
            }
            Self::Storage { kind: Some(ErrorKind::NotFound), .. } => {
                "the bucket must exist, in AWS_REGION and at AWS_ENDPOINT_URL"
            }
            Self::Storage { temporary: true, .. } => {
                "check AWS_ENDPOINT_URL, and run again when the store answers: finished tasks are \
                 kept"
            }
            Self::OtherFormat { found, known, .. } if found > known => {
                "use the newer version of lapo, or start a new workspace"
            }
            Self::OtherFormat { .. } => "start a new workspace: this one stays unchanged",
            Self::Misnamed { .. } => {
                "move that one file away; to return to an older version, run \
                 `lapo rollback STAGE VERSION`"
            }
            Self::NoWorkspace { .. } => {
                "run a pipeline in it first: `lapo run` creates the folder named by `workspace`"
            }
            Self::ForeignFolder { .. } => "set `workspace` to a new or empty folder",
            Self::Actions { .. } => ACTION_FILE,
            Self::List { .. } => {
                "expected text with one path or address a line, or CSV or Parquet with the column \
                 `uri` and, if known, `bytes` and `etag`"
            }
            Self::NotPrivate { .. } => {
                "choose another folder with --cache or LAPO_CACHE, or delete this one if it is \
                 yours"
            }
            Self::NotAtomic { .. } => {
                "the store must support conditional writes (If-None-Match: *): upgrade it, or use \
                 another store"
            }
            _ => by_kind(self.io_kind()?)?,
        };
        Some(text.to_owned())
    }
}

/// Returns a hint for a system error.
fn by_kind(kind: ErrorKind) -> Option<&'static str> {
    match kind {
        ErrorKind::StorageFull | ErrorKind::QuotaExceeded => {
            Some("free space on this disk and run again: finished tasks are kept")
        }
        ErrorKind::PermissionDenied | ErrorKind::ReadOnlyFilesystem => {
            Some("make the workspace writable by this user")
        }
        ErrorKind::Unsupported => Some(
            "the workspace's file system must support hard links, or renames without replacing: \
             use another disk",
        ),
        _ => None,
    }
}

fn other_pipeline(owner: &str) -> String {
    format!(
        "set `workspace` to another folder; to share this one, add `shares_with: [{owner}]` to \
         this pipeline; to replace the other pipeline, run once with --take-over"
    )
}

fn foreign_log(path: &str) -> String {
    let folder = path.rsplit_once('/').map_or(path, |(folder, _)| folder);
    format!(
        "let other programs only read the table; delete the folder `{folder}` and run again: lapo \
         writes it anew, and no data file is touched"
    )
}

/// Returns how to make the output of one task again. There is no safe advice for other paths.
fn repair(path: &str) -> Option<String> {
    let mut parts = path.split('/');
    let (stage, folder, name) = (parts.next()?, parts.next()?, parts.next()?);
    // The hint contains a path to delete, so names with special characters get no hint.
    let is_plain = |name: &str| {
        !name.is_empty()
            && name.bytes().all(|byte| byte.is_ascii_alphanumeric() || b"_-".contains(&byte))
    };
    let key = match folder {
        "tables" if is_plain(stage) && is_plain(name) => {
            return Some(
                "run `lapo verify --delete`, then run the pipeline: small tables are joined again \
                 from the tasks' own files, and no task is repeated"
                    .to_owned(),
            );
        }
        "data" => name,
        "receipts" => name.strip_suffix(".json")?,
        _ => return None,
    };
    (is_plain(stage) && is_plain(key)).then(|| {
        format!(
            "run `lapo verify --delete`, or delete `{stage}/receipts/{key}.json`, then run the \
             pipeline: only this task is repeated"
        )
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_full_disk_is_not_transient_and_the_hint_is_to_free_space() {
        let cause = ErrorKind::StorageFull.into();
        let full = Error::Io { action: "write", path: "/w/a/shard.arrow".into(), cause };
        assert!(!full.is_transient());
        assert!(full.hint().is_some_and(|hint| hint.contains("free space")));
        assert!(full.to_string().contains("/w/a/shard.arrow"));
    }

    fn errors_on(path: &str) -> [Error; 3] {
        let path = path.to_owned();
        [
            Error::Missing { path: path.clone() },
            Error::Damaged { path: path.clone(), expected: 2, found: 1 },
            Error::Corrupt { path, reason: String::new() },
        ]
    }

    #[test]
    fn no_hint_deletes_more_than_the_receipt_of_the_broken_file() {
        for path in ["frames/data/0a1b/att/shard.arrow", "frames/receipts/0a1b.json"] {
            for error in errors_on(path) {
                let hint = error.hint().unwrap_or_default();
                assert!(
                    hint.contains("`lapo verify --delete`")
                        && hint.contains("delete `frames/receipts/0a1b.json`"),
                    "{hint}"
                );
                assert_eq!(hint.matches('`').count(), 4, "{hint}");
            }
        }
        for error in errors_on("labels/tables/00000001-0a1b/labels.parquet") {
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
            for error in errors_on(path) {
                assert!(
                    error.hint().is_none_or(|hint| !hint.contains("delete")),
                    "{path}: {:?}",
                    error.hint()
                );
            }
        }
    }
}
