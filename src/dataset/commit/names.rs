//! Names of videos are unique in a version, so that `(video, frame_index)` names one frame.

use std::collections::HashSet;
use std::sync::Arc;

use super::{Error, Receipt, Result};

/// Checks that no two videos with frames have one name.
///
/// # Errors
/// Names the video.
pub(super) fn check<'r>(stage: &str, receipts: impl Iterator<Item = &'r Arc<Receipt>>) -> Result<()> {
    let mut seen = HashSet::new();
    for video in receipts.flat_map(|receipt| &receipt.videos).filter(|video| video.frames > 0) {
        if !seen.insert(video.uri.as_str()) {
            return Err(Error::NameTwice { stage: stage.to_owned(), video: video.uri.clone() });
        }
    }
    Ok(())
}
