//! The fields of the stage in YAML, which of their values are faults, and what the stage is for a pipeline.

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use super::{DecodeTask, KIND, plan};
use crate::dataset::{self, Compression};
use crate::stages::plan::{Given, StagePlan};
use crate::stages::{FieldFault, Needs, Stage, StageKind, VideoPatterns};
use crate::video::{Fit, Limits};

/// Decodes videos into shards of RGB frames.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct DecodeConfig {
    /// Glob patterns of the videos, relative to where `lapo` runs, or addresses in object stores:
    /// `["data/**/*.mp4", "s3://bucket/clips/*.mp4"]`. Names that begin with a dot match only where the pattern begins with one, too; brackets
    /// match as they are written, if such a name is there. A tar archive (`*.tar`, as of WebDataset) stands for the videos in it.
    #[serde(default)]
    pub videos: Vec<String>,
    /// Files that list videos, here or in an object store: `.csv` and `.parquet` with the column `uri` and, where they are known, `bytes` and
    /// `etag`, which are believed; what else they say of a video is in SQL's table `videos`. Anything else is text, a path or address a line. A
    /// row that makes no sense is recorded as `bad_row`, and the others are taken.
    #[serde(default)]
    pub lists: Vec<String>,
    /// What makes two videos the same: their content, which costs reading each new one once; or, of an object store, its etag.
    #[serde(default)]
    pub identity: Identity,
    /// What becomes of a video whose bytes another one has, too: `keep`, it has rows of its own; or `skip`, it is not decoded, and
    /// recorded as `duplicate`, which `max_rejected` does not count.
    #[serde(default, skip_serializing_if = "Duplicates::are_kept")]
    pub duplicates: Duplicates,
    /// Width and height of a frame in pixels. 64, as in the paper; for the networks here a power of two from 16 to 512.
    #[serde(default = "default_size")]
    pub size: u32,
    /// Frames per second to resample to (nearest frame in time). Unset: every frame is kept. Set it when sources differ in rate, since
    /// a latent action is the change from one frame to the next.
    #[serde(default)]
    pub fps: Option<f64>,
    /// How a picture that is not square becomes square.
    #[serde(default)]
    pub fit: Fit,
    /// Whether black bars are cut off, those that stay throughout a video, before it is fitted. Each video is decoded twice then, the first
    /// time to see them.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub trim_bars: bool,
    /// A new episode starts at a scene cut: where the picture changes at least this many times as much as at the two changes before and the
    /// two after, and by .02 of the range. Null: never. With the default 2, of 243 joins of recordings of eight Procgen games (within a game
    /// and across, four draws, at 32 and 64 pixels) .98 and more are found, and .98 of what is found is a join; a change of .3, whatever is
    /// around it, finds .40. What is missed looks alike on both sides.
    #[serde(default = "default_cut")]
    pub cut: Option<f64>,
    /// Leaves out frames whose luminance deviates by less than this share of the range: black, white and faded ones. .02 is a good value for
    /// films; what is left out ends an episode. The column `contrast` of the table `STAGE_quality` has what was measured. Unset: none is.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub blank: Option<f64>,
    /// Leaves out what a picture that stands still shows beyond some frames: titles, pauses, frozen streams. Unset: nothing.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub still: Option<Still>,
    /// How pixels are stored: `none` is read in place (fastest), `zstd` takes half the disk.
    #[serde(default)]
    pub compression: Compression,
    /// A video with fewer frames is recorded as `too_short`. 3 = one transition with one frame of context.
    #[serde(default = "default_min_frames")]
    pub min_frames: u64,
    /// Most videos in one shard, and so in one file of labels. New videos form new shards, old ones stay as they are.
    #[serde(default = "default_videos_per_shard")]
    pub videos_per_shard: usize,
    /// A shard also closes when its videos exceed so many MiB.
    #[serde(default = "default_shard_mib")]
    pub shard_mib: u64,
    /// Stop the run when more than this share of the videos is rejected (0 to 1). Unset: never stop.
    #[serde(default)]
    pub max_rejected: Option<f64>,
    /// Stop before anything runs when more than this share of the dataset's videos (0 to 1) no longer matches: a disk may not be mounted.
    /// `lapo run --max-dropped 1` lets them go once.
    #[serde(default = "default_max_dropped")]
    pub max_dropped: f64,
    /// Files that were changed less than so many seconds ago are left for the next run, since they may still be written. Default 0; `lapo run
    /// --watch 60s` waits for at least as long as it sleeps.
    #[serde(default, skip_serializing_if = "is_zero")]
    pub min_age: f64,
    /// Guards against hostile and broken files.
    #[serde(default)]
    pub limits: Limits,
}

fn is_zero(seconds: &f64) -> bool {
    *seconds == 0.0
}

/// When a picture has stood still for too long.
#[derive(Clone, Copy, Debug, Default, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct Still {
    /// So many frames without a change are kept: who does nothing for a moment acts, too.
    pub frames: u64,
    /// A mean change of a pixel below this share of the range is none. Default .0005: compression alone changes a picture by less. In games a
    /// small figure on a large board may move by .002.
    #[serde(default = "default_still_change")]
    pub change: f64,
}

fn default_still_change() -> f64 {
    0.0005
}

/// What makes two videos the same.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub enum Identity {
    /// The blake3 of the bytes. Where name, size and time (or etag) are those of a video that was read before, it is not read again.
    #[default]
    Content,
    /// In an object store the etag and the size, so that nothing is read before it is decoded. Copies in several parts are not known for
    /// what they are. Of a local file the content, all the same.
    Etag,
}

/// What becomes of videos with the same bytes.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub enum Duplicates {
    /// Each has rows.
    #[default]
    Keep,
    /// The first by name has rows.
    Skip,
}

impl Duplicates {
    pub(super) fn are_kept(&self) -> bool {
        *self == Duplicates::Keep
    }
}

fn default_size() -> u32 {
    64
}
fn default_cut() -> Option<f64> {
    Some(2.0)
}
fn default_min_frames() -> u64 {
    3
}
fn default_videos_per_shard() -> usize {
    32
}
fn default_shard_mib() -> u64 {
    256
}
fn default_max_dropped() -> f64 {
    0.1
}

impl Stage for DecodeConfig {
    type Task = DecodeTask;

    fn kind(&self) -> &'static StageKind {
        &KIND
    }

    fn validate(&self) -> Vec<FieldFault> {
        let mut faults = Vec::new();
        let mut expect = |holds: bool, field, seen: String, cure| {
            if !holds {
                faults.push((field, seen, cure));
            }
        };
        expect(
            !self.videos.is_empty() || !self.lists.is_empty(),
            "videos",
            "is empty".into(),
            "give at least one pattern, e.g. [\"data/**/*.mp4\"]",
        );
        expect(
            (8..=1024).contains(&self.size),
            "size",
            format!("is {}", self.size),
            "expected 8 to 1024; the paper uses 64",
        );
        expect(
            self.fps.is_none_or(|f| f.is_finite() && f > 0.0 && f <= 1000.0),
            "fps",
            format!("is {:?}", self.fps.unwrap_or_default()),
            "expected frames per second above 0, at most 1000",
        );
        expect(
            self.cut.is_none_or(|c| c.is_finite() && c >= 1.0),
            "cut",
            format!("is {}", self.cut.unwrap_or_default()),
            "expected how many times as large as those around it a change must be, 2 by default, or null for no cuts",
        );
        expect(
            self.blank.is_none_or(|b| (0.0..=1.0).contains(&b)),
            "blank",
            format!("is {}", self.blank.unwrap_or_default()),
            "expected a share of the range, such as .02, or null to keep blank frames",
        );
        expect(
            self.still.is_none_or(|s| (0.0..=1.0).contains(&s.change)),
            "still",
            format!("has `change: {}`", self.still.unwrap_or_default().change),
            "expected a share of the range, .0005 by default",
        );
        expect(
            (0.0..=1e9).contains(&self.min_age),
            "min_age",
            format!("is {}", self.min_age),
            "expected seconds, 0 or more",
        );
        expect(self.videos_per_shard > 0, "videos_per_shard", "is 0".into(), "expected at least 1");
        expect(
            (1..=1 << 20).contains(&self.shard_mib),
            "shard_mib",
            format!("is {}", self.shard_mib),
            "expected MiB from 1 to 1,048,576",
        );
        expect(
            (0.0..=1.0).contains(&self.max_dropped),
            "max_dropped",
            format!("is {}", self.max_dropped),
            "expected a share of the videos, 0 to 1",
        );
        expect(
            self.max_rejected.is_none_or(|m| (0.0..=1.0).contains(&m)),
            "max_rejected",
            format!("is {:?}", self.max_rejected.unwrap_or_default()),
            "expected a share of the videos, 0 to 1",
        );
        let limits = self.limits.validate().err().map(|fault| fault.to_string());
        expect(
            limits.is_none(),
            "limits",
            limits.unwrap_or_default(),
            "what is left out keeps its default, which suits any video",
        );
        faults
    }

    fn needs(&self) -> Needs {
        // A stream of 1080p takes about 200 MiB in its decoder, one of 8K about 1 GiB.
        Needs { gpu: false, cores: 1, memory_mib: 1024 }
    }

    fn plan(&self, given: &Given, plan: &mut StagePlan) -> dataset::Result<()> {
        plan::plan(self, given, plan)
    }

    fn video_patterns(&self) -> Option<VideoPatterns<'_>> {
        Some(VideoPatterns { videos: &self.videos, lists: &self.lists })
    }

    fn frame_size(&self) -> Option<u32> {
        Some(self.size)
    }

    fn max_rejected(&self) -> Option<f64> {
        self.max_rejected
    }

    fn max_dropped(&self) -> Option<f64> {
        Some(self.max_dropped)
    }
}
