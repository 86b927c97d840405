//! The identity of an episode of a LeRobot dataset: the blake3 of its clip, whatever file it is in.
//!
//! Adding episodes to a dataset of version 3.0 writes the last MP4 file again. The episodes that
//! were in it are then hashed again and recognised, and nothing is decoded again.

use std::collections::VecDeque;
use std::io::ErrorKind;
use std::sync::{Arc, Mutex, PoisonError};

use super::Identified;
use super::identity::{KnownVideos, Read, Version, read_digest, readable};
use crate::dataset::lerobot::EpisodeVideo;
use crate::dataset::{
    Access, Clip, EntryClass, EntryError, EntryFault, ListMetadata, Mp4Index, open_clip,
    open_source, size_and_version,
};
use crate::stages::decode::VideoSource;

/// The number of files whose tables are kept: more than cores, and a few MB each.
const KEPT: usize = 64;

impl<'a> KnownVideos<'a> {
    /// Identifies the video of an episode.
    ///
    /// # Errors
    /// Returns an error if an object store fails for now.
    pub(super) fn episode(
        &self,
        uri: String,
        episode: &EpisodeVideo,
        about: &'a ListMetadata,
    ) -> Read<Identified<'a>> {
        let (clip, version) = match self.clip(episode)? {
            Ok(found) => found,
            Err(unread) => return Ok(Err(unread)),
        };
        let same = self.known(&uri, &version, Some(clip.first));
        let digest = match same {
            Some(same) => same.digest.clone(),
            None => {
                let content = open_clip(&clip, self.access)
                    .and_then(|content| read_digest(content, version.bytes))
                    .map(Option::unwrap_or_default);
                match readable(&episode.file, content)? {
                    Ok(digest) => digest,
                    Err(unread) => return Ok(Err(unread)),
                }
            }
        };
        let Version { bytes, modified, inode } = version;
        let video = VideoSource {
            uri,
            digest,
            bytes,
            modified,
            clip: Some(Box::new(clip)),
            inode,
            ..VideoSource::default()
        };
        Ok(Ok(Identified::new(video, same.is_some(), about)))
    }

    /// Finds the frames of an episode. Returns them and the version of their file, with the size of
    /// the clip.
    fn clip(&self, episode: &EpisodeVideo) -> Read<(Clip, Version)> {
        let file = &episode.file;
        let bad = |reason: String| fault(EntryClass::BadEpisode, reason);
        let version = match self.look(file)? {
            Ok(version) => version,
            Err(EntryError::Refused(_)) if self.is_missing(file) => {
                let missing = fault(EntryClass::MissingVideo, format!("{file} does not exist"));
                return Ok(Err(missing));
            }
            Err(unread) => return Ok(Err(unread)),
        };
        let index = match self.mp4s.index(file, &version.modified, self.access)? {
            Ok(index) => index,
            Err(unread) => return Ok(Err(unread)),
        };
        Ok(episode.clip(&index).map_err(bad).and_then(|clip| {
            let bytes = index.clip_bytes(&clip).map_err(|cause| bad(format!("{file}: {cause}")))?;
            Ok((clip, Version { bytes, ..version }))
        }))
    }

    fn is_missing(&self, file: &str) -> bool {
        let seen = size_and_version(file, self.access);
        seen.is_err_and(|cause| cause.kind() == ErrorKind::NotFound)
    }
}

fn fault(class: EntryClass, seen: String) -> EntryError {
    EntryError::Refused(EntryFault::new(class, seen))
}

/// The tables of recently read MP4 files. Videos are identified in the order of their names, so the
/// episodes of a file follow one another.
#[derive(Default)]
pub(super) struct RecentIndexes(Mutex<VecDeque<KeptIndex>>);

struct KeptIndex {
    file: String,
    version: String,
    index: Arc<Mp4Index>,
}

impl RecentIndexes {
    /// Returns the tables of a file.
    ///
    /// # Errors
    /// Returns an error if an object store fails for now.
    fn index(&self, file: &str, version: &str, access: &Access) -> Read<Arc<Mp4Index>> {
        let is_same = |kept: &&KeptIndex| kept.file == file && kept.version == version;
        let kept = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(kept) = kept.iter().find(is_same) {
            return Ok(Ok(kept.index.clone()));
        }
        // Read without the lock: other files go on meanwhile.
        drop(kept);
        let read = open_source(file, None, access).and_then(|mut file| Mp4Index::read(&mut file));
        Ok(readable(file, read)?.map(|index| {
            let index = Arc::new(index);
            let (file, version) = (file.to_owned(), version.to_owned());
            let mut kept = self.0.lock().unwrap_or_else(PoisonError::into_inner);
            kept.push_front(KeptIndex { file, version, index: index.clone() });
            kept.truncate(KEPT);
            index
        }))
    }
}
