//! The work of [`decode`](super): videos, one after the other, into one shard. Compiled where libav is.

use super::episodes::{Episodes, Timed};
use super::frames::decode;
use super::wire::Request;
use super::{DecodeTask, VideoSource};
use crate::dataset::{FrameSize, Reject, ShardLayout, ShardWriter, VideoName, VideoRecord, address, version_of};
use crate::stages::{Done, Error, Workplace};
use crate::video::{DecodeOptions, FaultClass, Frame, Guard};

/// Decodes the task's videos, one after the other, into one shard.
pub fn run(task: &DecodeTask, place: &Workplace) -> Result<Done, Error> {
    let name = |video: &VideoSource| VideoName { uri: video.uri.clone(), digest: video.digest.clone() };
    let layout = ShardLayout {
        size: FrameSize { height: task.config.size, width: task.config.size },
        compression: task.config.compression,
        videos: task.videos.iter().map(name).collect(),
    };
    let mut shard = ShardWriter::create(place.store, &format!("{}/shard.arrow", place.folder), &layout)?;
    let mut done = Done::default();
    for (i, video) in task.videos.iter().enumerate() {
        shard.begin_video(i)?;
        let (record, reject) = decode_video(task, video, place, &mut shard)?;
        done.videos.push(record);
        done.rejects.extend(reject);
        place.progress.advance(1);
    }
    done.stats.insert("videos".into(), done.videos.len() as f64);
    done.stats.insert("frames".into(), done.videos.iter().map(|v| v.frames).sum::<u64>() as f64);
    done.files.push(shard.finish()?);
    Ok(done)
}

/// One video: its frames into the shard, its fault (if any) into words.
fn decode_video(
    task: &DecodeTask,
    video: &VideoSource,
    place: &Workplace,
    shard: &mut ShardWriter,
) -> Result<(VideoRecord, Option<Reject>), Error> {
    let mut frames = Frames { shard, episodes: Episodes::new(task.config.cut), count: 0 };
    let mut fault = video.unusable.clone();
    if fault.is_none() {
        fault = frames_into(task, video, place, &mut frames)?;
        if fault.as_ref().is_none_or(|(class, _)| class != FaultClass::Unreadable.as_str()) {
            unchanged(video, place)?;
        }
    }
    let (frames, episodes) = (frames.count, frames.episodes.count());
    if fault.is_none() && frames < task.config.min_frames {
        let reason = format!("{frames} frames, expected at least {}", task.config.min_frames);
        fault = Some(("too_short".into(), reason));
    }
    let record = VideoRecord {
        digest: video.digest.clone(),
        uri: video.uri.clone(),
        bytes: video.bytes,
        modified: video.modified.clone(),
        frames,
        episodes,
    };
    let reject =
        fault.map(|(class, reason)| Reject { video: video.uri.clone(), digest: video.digest.clone(), class, reason, frames_kept: frames });
    Ok((record, reject))
}

/// Decodes until the end or the first fault that ends the file; returns the fault as (class, reason).
fn frames_into(task: &DecodeTask, video: &VideoSource, place: &Workplace, frames: &mut Frames) -> Result<Option<(String, String)>, Error> {
    let options = DecodeOptions {
        width: task.config.size,
        height: task.config.size,
        fps: task.config.fps,
        fit: task.config.fit,
        codec_threads: place.cores_free.max(1),
        limits: task.config.limits,
    };
    let request = Request { video: video.clone(), options };
    let mut take =
        |frame: Frame, pixels: &[u8]| frames.push(Timed { pixels: pixels.to_vec(), time_secs: frame.time_secs }, frame.gap_before);
    let result = match place.decoders {
        Some(decoders) => decoders.decode(&request, &mut take),
        None => decode(&request, place.store.access(), Guard::new(&request.options.limits), &mut take),
    };
    frames.finish()?;
    let fault = match result {
        Ok(fault) => fault.map(|fault| (fault.class, fault.reason)),
        // The file's fault is an outcome; anything else (a disk error, a file that vanished) is an error, and tried again by the next run.
        // That an object may be listed but not read shows only here.
        Err(Error::Video(error)) => match error.class() {
            Some(FaultClass::Unreadable) if address(&video.uri).is_none() => return Err(error.into()),
            None => return Err(error.into()),
            Some(class) => Some((class, error.to_string())),
        },
        Err(error) => return Err(error),
    };
    Ok(fault.map(|(class, reason)| (class.as_str().to_string(), reason)))
}

/// The frames of one video on their way into a shard.
struct Frames<'a> {
    shard: &'a mut ShardWriter,
    episodes: Episodes,
    /// How many are in the shard.
    count: u64,
}

impl Frames<'_> {
    fn push(&mut self, frame: Timed, gap_before: bool) -> Result<(), Error> {
        let ready = self.episodes.push(frame, gap_before);
        self.write(ready)
    }

    /// Those that waited for what comes after them.
    fn finish(&mut self) -> Result<(), Error> {
        while let Some(ready) = self.episodes.pop() {
            self.write(Some(ready))?;
        }
        Ok(())
    }

    fn write(&mut self, ready: Option<(u32, Timed)>) -> Result<(), Error> {
        if let Some((episode, frame)) = ready {
            self.shard.push(episode, self.count as u32, frame.time_secs, &frame.pixels)?;
            self.count += 1;
        }
        Ok(())
    }
}

/// A file that changed since it was hashed must not be filed under its old hash.
fn unchanged(video: &VideoSource, place: &Workplace) -> Result<(), Error> {
    match version_of(video.file(), place.store.access()) {
        Ok((bytes, version)) if version == video.modified && (bytes == video.bytes || video.archived.is_some()) => Ok(()),
        _ => Err(Error::Changed { file: video.uri.clone() }),
    }
}
