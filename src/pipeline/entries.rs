//! What a pattern of `videos` matches, here and in object stores: one row for every entry.
//!
//! In: a pattern. Out: [`ListedVideo`]s, those that cannot be read among them. Start at [`matching`].

use std::io;

use super::pattern::PathPattern;
use super::tree::walk;
use crate::dataset::{
    self, Access, EntryClass, Error, Listed, ListedVideo, Refused, Stored, Unread, address,
    list_objects, path_text, version_of,
};
use crate::stages::may_pass;

/// Returns what a pattern matches, here or in an object store.
///
/// # Errors
/// Where nothing can be listed at all: a pattern whose wildcards make no sense, a bucket that is not there. An odd entry is no error.
pub fn matching(pattern: &str, access: &Access) -> Result<Vec<ListedVideo>, Unmatched> {
    let found = match address(pattern) {
        Some((bucket, keys)) => objects(bucket, keys, access)?,
        None => files(&PathPattern::new(pattern))?,
    };
    // A folder that cannot be listed is no video: alone it is the reason why there is none.
    match found.iter().find_map(closed) {
        Some(reason) if found.iter().all(|video| closed(video).is_some()) => {
            Err(Unmatched(reason.to_owned(), None))
        }
        _ => Ok(found),
    }
}

/// Why nothing can be listed: a sentence, and what to do about it where that is known.
#[derive(Debug)]
pub struct Unmatched(pub String, pub Option<String>);

impl From<dataset::Error> for Unmatched {
    fn from(error: dataset::Error) -> Self {
        Unmatched(error.to_string(), error.hint())
    }
}

/// Returns why a folder is closed, where an entry stands for one and waiting does not help.
fn closed(video: &ListedVideo) -> Option<&str> {
    match &video.unread {
        Some(Unread::Refused(Refused { class: EntryClass::UnreadableFolder, reason })) => {
            Some(reason)
        }
        _ => None,
    }
}

fn files(pattern: &PathPattern) -> Result<Vec<ListedVideo>, Unmatched> {
    let walked = walk(pattern);
    if let Some(fault) = pattern.fault.as_ref().filter(|_| walked.files.is_empty()) {
        return Err(Unmatched(fault.clone(), None));
    }
    let closed = walked.closed.into_iter().map(|(folder, cause)| {
        let name = if folder.as_os_str().is_empty() {
            "./".to_owned()
        } else {
            format!("{}/", path_text(&folder))
        };
        ListedVideo { unread: Some(not_listed(&name, &cause)), ..ListedVideo::new(name) }
    });
    Ok(walked.files.iter().map(|path| ListedVideo::new(path_text(path))).chain(closed).collect())
}

fn not_listed(folder: &str, cause: &io::Error) -> Unread {
    let seen = format!("cannot list {folder}: {cause}");
    if may_pass(cause) {
        Unread::Passing(seen)
    } else {
        Unread::Refused(Refused::new(EntryClass::UnreadableFolder, seen))
    }
}

fn objects(bucket: &str, keys: &str, access: &Access) -> Result<Vec<ListedVideo>, Unmatched> {
    let uri = |key: &str| format!("{bucket}/{key}");
    // A name without `*` and `?` may be one as it is written: it is asked for alone.
    let mut found = Vec::new();
    if !keys.contains(['*', '?']) {
        match version_of(&uri(keys), access) {
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
        return Err(Unmatched(fault.clone(), None));
    }
    for listed in list_objects(bucket, &pattern.folder(), access)? {
        match listed {
            Listed::Object(object)
                if pattern.matches(&object.path) && !is_folder_marker(bucket, &object, access) =>
            {
                found.push(ListedVideo {
                    known: Some((object.bytes, object.version())),
                    ..ListedVideo::new(uri(&object.path))
                });
            }
            Listed::Odd { key, reason } if pattern.matches(&key) => {
                let refused = Refused::new(EntryClass::OddKey, reason);
                found.push(ListedVideo {
                    unread: Some(Unread::Refused(refused)),
                    ..ListedVideo::new(uri(&key))
                });
            }
            _ => {}
        }
    }
    Ok(found)
}

/// Returns whether an object is the empty one that consoles make for a folder: its key ends in a slash, which the listing does not tell.
fn is_folder_marker(bucket: &str, object: &Stored, access: &Access) -> bool {
    let missing = |cause: io::Error| cause.kind() == io::ErrorKind::NotFound;
    object.bytes == 0
        && version_of(&format!("{bucket}/{}", object.path), access).is_err_and(missing)
}
