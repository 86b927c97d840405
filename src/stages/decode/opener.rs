//! Opens videos: files, objects of a store, members of an archive, or clips of a file.

use std::io::{Error as IoError, ErrorKind};
use std::sync::Arc;

use super::VideoSource;
use crate::dataset::{Access, address, local_path, open_clip, open_source};
use crate::video::OpenVideo;

/// Returns a function that opens the video for reading.
#[must_use]
pub fn opener(video: &VideoSource, access: &Access) -> OpenVideo {
    let file = video.file().to_owned();
    let access = access.clone();
    let member = video.archived.as_ref().map(|archived| (archived.at, video.bytes));
    let clip = video.clip.clone();
    Arc::new(move || {
        // Checked before opening, since opening a pipe without a writer blocks forever.
        if address(&file).is_none() && !std::fs::metadata(local_path(&file))?.is_file() {
            return Err(IoError::new(
                ErrorKind::InvalidInput,
                "it is a directory, pipe or device; expected a file",
            ));
        }
        Ok(Box::new(match &clip {
            Some(clip) => open_clip(clip, &access)?,
            None => open_source(&file, member, &access)?,
        }))
    })
}
