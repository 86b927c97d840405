//! Stage 0: videos become shards. In: a few videos; out: one Arrow shard of whole episodes, and a word on every video that failed.
//!
//! A video is one episode until something breaks it: lost frames, or a scene cut. A broken video is an outcome, not an error: what
//! could be decoded is kept, and the reject says class, reason and frames kept.

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use super::{Done, Error, Workplace};
#[cfg(feature = "video")]
use crate::dataset::ShardWriter;
use crate::dataset::{Compression, Reject, VideoRecord};
use crate::video::{Fit, Limits};

/// Decodes videos into shards of RGB frames.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct DecodeConfig {
    /// Glob patterns of the videos, relative to where `lapo` runs: `["data/**/*.mp4"]`.
    pub videos: Vec<String>,
    /// Width and height of a frame in pixels. 64, as in the paper; a multiple of 32 for the networks here.
    #[serde(default = "default_size")]
    pub size: u32,
    /// Frames per second to resample to (nearest frame in time). Unset: every frame is kept. Set it when sources differ in rate, since
    /// a latent action is the change from one frame to the next.
    #[serde(default)]
    pub fps: Option<f64>,
    /// How a picture that is not square becomes square.
    #[serde(default)]
    pub fit: Fit,
    /// A new episode starts where the mean absolute pixel change between two frames exceeds this share of the range (0 to 1).
    /// The default 0.3 is far above any motion within the recordings in `data/` (at most 0.11) and below most film cuts; null: never.
    #[serde(default = "default_cut")]
    pub cut: Option<f32>,
    /// How pixels are stored: `none` is read in place (fastest), `zstd` takes half the disk.
    #[serde(default)]
    pub compression: Compression,
    /// A video with fewer frames is recorded as `too_short`. 3 = one transition with one frame of context.
    #[serde(default = "default_min_frames")]
    pub min_frames: u64,
    /// Most videos in one shard. A shard also closes when its videos exceed 32 MiB. New videos form new shards, old ones stay as they are.
    #[serde(default = "default_videos_per_shard")]
    pub videos_per_shard: usize,
    /// Stop the run when more than this share of the videos is rejected (0 to 1). Unset: never stop.
    #[serde(default)]
    pub max_rejected: Option<f64>,
    /// Guards against hostile and broken files.
    #[serde(default)]
    pub limits: Limits,
}

fn default_size() -> u32 {
    64
}
fn default_cut() -> Option<f32> {
    Some(0.3)
}
fn default_min_frames() -> u64 {
    3
}
fn default_videos_per_shard() -> usize {
    8
}

/// The version of what this stage does: raise it when the same video and settings give other bytes.
pub const VERSION: u32 = 1;
/// A shard closes once its videos reach this many bytes.
pub const SHARD_BYTES: u64 = 32 << 20;

/// One video of a task.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct VideoSource {
    /// Where it is; also its name in the dataset.
    pub uri: String,
    /// blake3 of its bytes; `#2` and so on is appended for further copies of the same bytes.
    pub digest: String,
    /// Size in bytes.
    pub bytes: u64,
    /// When it was last modified, as the file system says: with uri and size a cache of the digest.
    pub modified: String,
    /// Why it cannot even be read, where that is known already (a FIFO, no permission): class and reason.
    pub unusable: Option<(String, String)>,
}

/// Some videos, in order, that become one shard.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct DecodeTask {
    /// The stage's settings.
    pub config: DecodeConfig,
    /// The videos.
    pub videos: Vec<VideoSource>,
}

impl DecodeConfig {
    /// Faults of single fields: `(field, what is wrong, cure)`.
    pub fn validate(&self) -> Vec<(&'static str, String, &'static str)> {
        let mut faults = Vec::new();
        let mut expect = |holds: bool, field, seen: String, cure| {
            if !holds {
                faults.push((field, seen, cure));
            }
        };
        expect(!self.videos.is_empty(), "videos", "is empty".into(), "give at least one pattern, e.g. [\"data/**/*.mp4\"]");
        expect((8..=1024).contains(&self.size), "size", format!("is {}", self.size), "expected 8 to 1024; the paper uses 64");
        expect(
            self.fps.is_none_or(|f| f.is_finite() && f > 0.0 && f <= 1000.0),
            "fps",
            format!("is {:?}", self.fps.unwrap_or_default()),
            "expected frames per second above 0, at most 1000",
        );
        expect(
            self.cut.is_none_or(|c| c > 0.0 && c <= 1.0),
            "cut",
            format!("is {}", self.cut.unwrap_or_default()),
            "expected a share above 0, at most 1, or null for no cuts",
        );
        expect(self.videos_per_shard > 0, "videos_per_shard", "is 0".into(), "expected at least 1");
        expect(
            self.max_rejected.is_none_or(|m| (0.0..=1.0).contains(&m)),
            "max_rejected",
            format!("is {:?}", self.max_rejected.unwrap_or_default()),
            "expected a share of the videos, 0 to 1",
        );
        faults
    }
}

/// Decodes the task's videos, one after the other, into one shard.
#[cfg(feature = "video")]
pub fn run(task: &DecodeTask, place: &Workplace) -> Result<Done, Error> {
    use crate::dataset::{FrameSize, ShardLayout, VideoName};

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

/// Without libav there is nothing to decode with.
#[cfg(not(feature = "video"))]
pub fn run(_: &DecodeTask, _: &Workplace) -> Result<Done, Error> {
    Err(Error::NoVideo)
}

/// One video: its frames into the shard, its fault (if any) into words.
#[cfg(feature = "video")]
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
#[cfg(feature = "video")]
fn frames_into(
    task: &DecodeTask,
    video: &VideoSource,
    place: &Workplace,
    shard: &mut ShardWriter,
    episodes: &mut Episodes,
    frames: &mut u64,
) -> Result<Option<(String, String)>, Error> {
    use crate::video::{DecodeOptions, Decoder, FaultClass};

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
#[cfg(feature = "video")]
fn unchanged(video: &VideoSource) -> Result<(), Error> {
    let now = std::fs::metadata(&video.uri).ok();
    let is = now.as_ref().map_or(0, std::fs::Metadata::len);
    match now.as_ref().map(modified) == Some(video.modified.clone()) && is == video.bytes {
        true => Ok(()),
        false => Err(Error::VideoChanged { uri: video.uri.clone(), was: video.bytes, is }),
    }
}

/// The modification time as text, in nanoseconds since 1970 (empty where the file system has none).
pub fn modified(metadata: &std::fs::Metadata) -> String {
    let since = metadata.modified().ok().and_then(|t| t.duration_since(std::time::UNIX_EPOCH).ok());
    since.map(|d| d.as_nanos().to_string()).unwrap_or_default()
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
