//! The work of [`decode`](super): videos, one after the other, into one shard. Compiled where libav is.

use crate::dataset::{FrameSize, Reject, ShardLayout, ShardWriter, VideoName, VideoRecord};
use crate::stages::{Done, Error, Workplace};
use crate::video::{DecodeOptions, Decoder, FaultClass};

use super::{DecodeTask, VideoSource, modified};

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
    let mut episodes = Episodes::new(task.config.cut);
    let (mut frames, mut fault) = (0, video.unusable.clone());
    if fault.is_none() {
        fault = frames_into(task, video, place, shard, &mut episodes, &mut frames)?;
        unchanged(video)?;
    }
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
        episodes: episodes.count(),
    };
    let reject =
        fault.map(|(class, reason)| Reject { video: video.uri.clone(), digest: video.digest.clone(), class, reason, frames_kept: frames });
    Ok((record, reject))
}

/// Decodes until the end or the first fault that ends the file; returns the fault as (class, reason).
fn frames_into(
    task: &DecodeTask,
    video: &VideoSource,
    place: &Workplace,
    shard: &mut ShardWriter,
    episodes: &mut Episodes,
    frames: &mut u64,
) -> Result<Option<(String, String)>, Error> {
    let options = DecodeOptions {
        width: task.config.size,
        height: task.config.size,
        fps: task.config.fps,
        fit: task.config.fit,
        codec_threads: place.cores_free.max(1),
        limits: task.config.limits,
    };
    // The file's fault is an outcome; anything else (a disk error, a file that vanished) is an error, and tried again by the next run.
    let worded = |e: crate::video::Error| match e.class() {
        Some(FaultClass::Unreadable) | None => Err(Error::Video(e)),
        Some(class) => Ok(Some((class.as_str().to_string(), e.to_string()))),
    };
    let mut decoder = match Decoder::open(std::path::Path::new(&video.uri), &options) {
        Ok(decoder) => decoder,
        Err(e) => return worded(e),
    };
    let mut pixels = vec![0; 3 * (task.config.size * task.config.size) as usize];
    loop {
        match decoder.next_frame(&mut pixels) {
            Ok(Some(frame)) => {
                let episode = episodes.of(&pixels, frame.gap_before);
                shard.push(episode, *frames as u32, frame.time_secs, &pixels)?;
                *frames += 1;
            }
            Ok(None) => break,
            Err(e) => return worded(e),
        }
    }
    Ok(decoder.finish().fault.map(|fault| (fault.class.as_str().to_string(), fault.reason)))
}

/// A file that changed since it was hashed must not be filed under its old hash.
fn unchanged(video: &VideoSource) -> Result<(), Error> {
    match std::fs::metadata(&video.uri) {
        Ok(now) if modified(&now) == video.modified && now.len() == video.bytes => Ok(()),
        _ => Err(Error::Changed { file: video.uri.clone() }),
    }
}

/// Numbers the episodes of one video: the next begins after lost frames and at scene cuts.
struct Episodes {
    cut: Option<f32>,
    last: Vec<u8>,
    current: u32,
}

impl Episodes {
    fn new(cut: Option<f32>) -> Self {
        Episodes { cut, last: Vec::new(), current: 0 }
    }

    /// The episode of the next frame.
    fn of(&mut self, pixels: &[u8], gap_before: bool) -> u32 {
        let first = self.last.is_empty();
        let is_cut = || self.cut.is_some_and(|cut| motion(&self.last, pixels) > cut);
        if !first && (gap_before || is_cut()) {
            self.current += 1;
        }
        self.last.clear();
        self.last.extend_from_slice(pixels);
        self.current
    }

    fn count(&self) -> u64 {
        if self.last.is_empty() { 0 } else { u64::from(self.current) + 1 }
    }
}

/// Mean absolute pixel change between two frames, 0 to 1.
fn motion(before: &[u8], after: &[u8]) -> f32 {
    let sum: u64 = before.iter().zip(after).map(|(a, b)| u64::from(a.abs_diff(*b))).sum();
    sum as f32 / (255.0 * before.len().max(1) as f32)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_episode_ends_at_a_cut_and_at_lost_frames() {
        let (dark, light) = (vec![10; 48], vec![200; 48]);
        let mut episodes = Episodes::new(Some(0.3));
        assert_eq!(episodes.count(), 0);
        assert_eq!(episodes.of(&dark, false), 0);
        assert_eq!(episodes.of(&dark, false), 0);
        assert_eq!(episodes.of(&light, false), 1, "a cut");
        assert_eq!(episodes.of(&light, true), 2, "a gap");
        assert_eq!(episodes.count(), 3);
    }

    #[test]
    fn without_a_threshold_nothing_is_cut() {
        let mut episodes = Episodes::new(None);
        assert_eq!(episodes.of(&[0; 3], false), 0);
        assert_eq!(episodes.of(&[255; 3], false), 0);
    }
}
