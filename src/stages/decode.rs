//! Stage 0: videos become shards. In: a few videos; out: one Arrow shard of whole episodes, and a word on every video that failed.
//!
//! A video is one episode until something breaks it: lost frames, or a scene cut. A broken video is an outcome, not an error: what
//! could be decoded is kept, and the reject says class, reason and frames kept.

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

#[cfg(not(feature = "video"))]
use super::{Done, Error, Workplace};
use crate::dataset::Compression;
use crate::video::{Fit, Limits};

#[cfg(feature = "video")]
mod work;
#[cfg(feature = "video")]
pub use work::run;

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
    /// How often these were tried, this time included.
    pub tries: u64,
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

/// Without libav there is nothing to decode with.
#[cfg(not(feature = "video"))]
pub fn run(_: &DecodeTask, _: &Workplace) -> Result<Done, Error> {
    Err(Error::NoVideo)
}

/// The modification time as text, in nanoseconds since 1970 (empty where the file system has none).
pub fn modified(metadata: &std::fs::Metadata) -> String {
    let since = metadata.modified().ok().and_then(|t| t.duration_since(std::time::UNIX_EPOCH).ok());
    since.map(|d| d.as_nanos().to_string()).unwrap_or_default()
}
