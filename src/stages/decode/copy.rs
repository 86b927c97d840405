//! Frames of a video that has been decoded before: they are copied from the shard that has them.
//!
//! In: where they are. Out: the same rows, under the video's name of now. Start at [`Copied::take`].
//!
//! A shard names its videos, and so do labels and actions that are made of it. So a shard whose videos are renamed, or of which some are gone,
//! is written anew. That reads and writes pixels, which is cheap; it decodes nothing.

use super::quality::Quality;
use super::{Decoded, VideoSource};
use crate::dataset::{Reject, Shard, ShardWriter, Table, VideoRecord, read_table};
use crate::stages::{Error, Workplace};

/// What a task has copied, and the partition that it copies from.
#[derive(Default)]
pub(super) struct Copied {
    pub(super) videos: u64,
    pub(super) frames: u64,
    /// Episodes that end where the picture changes: the next one goes on with the next frame.
    pub(super) cuts: u64,
    from: Option<Partition>,
}

/// An opened partition.
struct Partition {
    path: String,
    shard: Shard,
    quality: Table,
}

impl Copied {
    /// Copies the frames of one video, number `number` of the task, and what was measured of them.
    pub(super) fn take(
        &mut self,
        decoded: &Decoded,
        video: &VideoSource,
        number: usize,
        place: &Workplace,
        (out, quality): (&mut ShardWriter, &mut Quality),
    ) -> Result<(VideoRecord, Option<Reject>), Error> {
        place.go_on()?;
        let from = match self.from.take().filter(|from| from.path == decoded.shard.path) {
            Some(from) => from,
            None => Partition {
                path: decoded.shard.path.clone(),
                shard: Shard::open_file(place.store, &decoded.shard)?,
                quality: read_table(place.store, &decoded.quality.path)?,
            },
        };
        let (shard, mut before) = (&from.shard, None);
        for row in (0..shard.rows()).filter(|row| shard.video_digest(*row) == decoded.record.digest)
        {
            let (episode, frame_index) = (shard.episode(row), shard.frame_index(row));
            self.cuts += u64::from(
                before.is_some_and(|(other, last)| other != episode && last + 1 == frame_index),
            );
            before = Some((episode, frame_index));
            out.push(episode, frame_index, shard.time_s(row), shard.pixels(row))?;
        }
        let wrong = |reason: String| Error::Invariant {
            what: format!("{}: {reason}", decoded.quality.path),
        };
        quality.copy(number, &from.quality, &decoded.record.uri).map_err(wrong)?;
        self.from = Some(from);
        // Another copy of bytes that are there already is a new video all the same.
        self.videos += u64::from(decoded.record.digest == video.digest);
        self.frames += decoded.record.frames;
        let VideoSource { uri, digest, bytes, modified, archived, inode, about, .. } =
            video.clone();
        let reject = decoded.reject.clone().map(|reject| Reject {
            video: uri.clone(),
            digest: digest.clone(),
            reason: reject.reason.replace(&reject.video, &uri),
            ..reject
        });
        let VideoRecord { frames, episodes, .. } = decoded.record;
        let at = archived.map(|archived| archived.at);
        Ok((
            VideoRecord { digest, uri, bytes, modified, at, inode, frames, episodes, about },
            reject,
        ))
    }
}
