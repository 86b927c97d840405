//! Copies frames that were decoded before. Start at [`Copied::take`].
//!
//! Shards contain the names of their videos, and so do the labels and actions made from them. So a
//! shard is written again if its videos were renamed or partly removed. Copying reads and writes
//! pixels, which is much cheaper than decoding.

use super::output::DecodeOutput;
use super::{Decoded, VideoSource};
use crate::dataset::{Reject, Shard, Table, VideoRecord, read_table};
use crate::stages::{Error, TaskContext};

/// The counts of a task's copied videos, and the partition they are copied from.
#[derive(Default)]
pub(super) struct Copied {
    pub(super) videos: u64,
    pub(super) frames: u64,
    /// Episodes that end at a scene cut, so that the next episode begins with the next frame.
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
    /// Copies the frames of the task's video `number`, and their statistics.
    pub(super) fn take(
        &mut self,
        decoded: &Decoded,
        video: &VideoSource,
        number: usize,
        ctx: &TaskContext,
        out: &mut DecodeOutput,
    ) -> Result<(VideoRecord, Option<Reject>), Error> {
        ctx.check_stop()?;
        // Consecutive videos often come from one partition, which is opened once.
        let from = match self.from.take().filter(|from| from.path == decoded.shard.path) {
            Some(from) => from,
            None => Partition {
                path: decoded.shard.path.clone(),
                shard: Shard::open_file(ctx.store, &decoded.shard)?,
                quality: read_table(ctx.store, &decoded.quality.path)?,
            },
        };
        let shard = &from.shard;
        let mut before = None;
        for row in (0..shard.rows()).filter(|row| shard.video_digest(*row) == decoded.record.digest)
        {
            let episode = shard.episode(row);
            let frame_index = shard.frame_index(row);
            // A new episode without missing frames began at a cut.
            self.cuts += u64::from(
                before.is_some_and(|(other, last)| other != episode && last + 1 == frame_index),
            );
            before = Some((episode, frame_index));
            out.shard.push(episode, frame_index, shard.time_s(row), shard.pixels(row))?;
        }
        let damaged = |reason: String| Error::Invariant {
            what: format!("{}: {reason}", decoded.quality.path),
        };
        out.quality.copy(number, &from.quality, &decoded.record.uri).map_err(damaged)?;
        self.from = Some(from);
        // A further copy of bytes decoded before counts as a new video.
        self.videos += u64::from(decoded.record.digest == video.digest);
        self.frames += decoded.record.frames;
        let at = video.at();
        let VideoSource { uri, digest, bytes, modified, inode, about, .. } = video.clone();
        let reject = decoded.reject.clone().map(|reject| Reject {
            video: uri.clone(),
            digest: digest.clone(),
            // A reason may contain the name of its video.
            reason: reject.reason.replace(&reject.video, &uri),
            ..reject
        });
        let VideoRecord { frames, episodes, .. } = decoded.record;
        Ok((
            VideoRecord { digest, uri, bytes, modified, at, inode, frames, episodes, about },
            reject,
        ))
    }
}
