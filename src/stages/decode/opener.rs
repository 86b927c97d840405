//! How a video is opened, wherever it lies: a file, an object of a store, a member of an archive. Start at [`opener`].

use std::io::{Error as IoError, ErrorKind};
use std::sync::Arc;

use super::VideoSource;
use crate::dataset::{Access, address, local_path, open_source};
use crate::video::OpenVideo;

/// Opens a video, to be read as it is decoded.
#[must_use]
pub fn opener(video: &VideoSource, access: &Access) -> OpenVideo {
    let (file, access) = (video.file().to_owned(), access.clone());
    let member = video.archived.as_ref().map(|archived| (archived.at, video.bytes));
    Arc::new(move || {
        // Asked before opening: opening a pipe that nobody writes to never returns.
        if address(&file).is_none() && !std::fs::metadata(local_path(&file))?.is_file() {
            return Err(IoError::new(
                ErrorKind::InvalidInput,
                "it is a directory, pipe or device; expected a file",
            ));
        }
        Ok(Box::new(open_source(&file, member, &access)?))
    })
}
