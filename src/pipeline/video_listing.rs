//! Lists the files and objects of a pattern of `videos`. Start at [`matching`].
//!
//! Unreadable entries are listed as well, each with its reason.

use std::io;

use super::pattern::PathPattern;
use super::tree::walk;
use crate::dataset::{
    self, Access, EntryClass, EntryError, EntryFault, Error, ListedObject, ListedVideo, StoredFile,
    address, list_objects, path_text, size_and_version,
};
use crate::stages::is_transient_io;

/// Returns the videos of a pattern, on this machine or in an object store.
///
/// # Errors
/// Fails if nothing can be listed, for example because the pattern is malformed or the bucket does
/// not exist. A single unreadable entry is not an error.
pub fn matching(pattern: &str, access: &Access) -> Result<Vec<ListedVideo>, ListingError> {
    let found = match address(pattern) {
        Some((bucket, keys)) => objects(bucket, keys, access)?,
        None => files(&PathPattern::new(pattern))?,
    };
    // An unlistable folder is not a video. If nothing else was found, it is the error.
    match found.iter().find_map(unlistable) {
        Some(reason) if found.iter().all(|video| unlistable(video).is_some()) => {
            Err(ListingError(reason.to_owned(), None))
        }
        _ => Ok(found),
    }
}

/// The reason why nothing can be listed, and advice if there is any.
#[derive(Debug)]
pub struct ListingError(pub String, pub Option<String>);

impl From<dataset::Error> for ListingError {
    fn from(error: dataset::Error) -> Self {
        ListingError(error.to_string(), error.hint())
    }
}

/// Returns the reason if the entry is a folder without permission to list it.
fn unlistable(video: &ListedVideo) -> Option<&str> {
    match &video.unread {
        Some(EntryError::Refused(EntryFault { class: EntryClass::UnreadableFolder, reason })) => {
            Some(reason)
        }
        _ => None,
    }
}

/// Returns the matching files of this machine.
fn files(pattern: &PathPattern) -> Result<Vec<ListedVideo>, ListingError> {
    let walked = walk(pattern);
    // A malformed pattern is fine if a file has that literal name.
    if let Some(fault) = pattern.fault.as_ref().filter(|_| walked.files.is_empty()) {
        return Err(ListingError(fault.clone(), None));
    }
    let unlisted = walked.unlisted.into_iter().map(|(folder, cause)| {
        let name = if folder.as_os_str().is_empty() {
            "./".to_owned()
        } else {
            format!("{}/", path_text(&folder))
        };
        ListedVideo { unread: Some(not_listed(&name, &cause)), ..ListedVideo::new(name) }
    });
    Ok(walked.files.iter().map(|path| ListedVideo::new(path_text(path))).chain(unlisted).collect())
}

/// Returns the state of an unlistable folder: refused, or unreadable for now.
fn not_listed(folder: &str, cause: &io::Error) -> EntryError {
    let seen = format!("cannot list {folder}: {cause}");
    if is_transient_io(cause) {
        EntryError::Passing(seen)
    } else {
        EntryError::Refused(EntryFault::new(EntryClass::UnreadableFolder, seen))
    }
}

/// Returns the matching objects of a bucket.
fn objects(bucket: &str, keys: &str, access: &Access) -> Result<Vec<ListedVideo>, ListingError> {
    let uri = |key: &str| format!("{bucket}/{key}");
    // A key without `*` and `?` may exist literally, so it is looked up directly first.
    let mut found = Vec::new();
    if !keys.contains(['*', '?']) {
        match size_and_version(&uri(keys), access) {
            Ok(known) => {
                found.push(ListedVideo { known: Some(known), ..ListedVideo::new(uri(keys)) })
            }
            Err(cause) if cause.kind() == io::ErrorKind::NotFound => {}
            Err(cause) => {
                return Err(Error::Io { action: "look at", path: uri(keys), cause }.into());
            }
        }
    }
    if !keys.contains(['*', '?', '[']) {
        return Ok(found);
    }
    let pattern = PathPattern::new(keys);
    if let Some(fault) = pattern.fault.as_ref().filter(|_| found.is_empty()) {
        return Err(ListingError(fault.clone(), None));
    }
    for listed in list_objects(bucket, &pattern.folder(), access)? {
        match listed {
            ListedObject::Object(object)
                if pattern.matches(&object.path) && !is_folder_marker(bucket, &object, access) =>
            {
                found.push(ListedVideo {
                    known: Some((object.bytes, object.version())),
                    ..ListedVideo::new(uri(&object.path))
                });
            }
            // Keys with empty or dot segments cannot be read through the object store client.
            ListedObject::Odd { key, reason } if pattern.matches(&key) => {
                let refused = EntryFault::new(EntryClass::OddKey, reason);
                found.push(ListedVideo {
                    unread: Some(EntryError::Refused(refused)),
                    ..ListedVideo::new(uri(&key))
                });
            }
            _ => {}
        }
    }
    Ok(found)
}

/// Returns whether an object is a web console's empty marker of a folder. Its key ends in a slash,
/// but listings omit the slash, so finding out takes one request.
fn is_folder_marker(bucket: &str, object: &StoredFile, access: &Access) -> bool {
    let missing = |cause: io::Error| cause.kind() == io::ErrorKind::NotFound;
    object.bytes == 0
        && size_and_version(&format!("{bucket}/{}", object.path), access).is_err_and(missing)
}
