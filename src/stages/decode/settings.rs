//! The settings of `decode`, their checks, and the stage's interface.

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use super::{DecodeTask, KIND, plan};
use crate::dataset::{self, Compression};
use crate::stages::plan::{PlanInputs, StagePlan};
use crate::stages::{FieldFault, FieldFaults, Needs, Stage, StageKind, VideoPatterns};
use crate::video::{Fit, Limits};

/// Decodes videos into shards of RGB frames.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct DecodeConfig {
    /// Glob patterns of videos, relative to the current folder, or addresses in object stores:
    /// `["data/**/*.mp4", "s3://bucket/clips/*.mp4"]`. Names with a leading dot match only patterns
    /// with a leading dot. Brackets match literally if such a name exists. A tar archive (`*.tar`,
    /// as in WebDataset) stands for the videos in it.
    #[serde(default)]
    pub videos: Vec<String>,
    /// Files that list videos, local or in an object store. `.csv` and `.parquet` files have a
    /// column `uri` and optionally `bytes` and `etag`, which are trusted; their other columns
    /// appear in the SQL table `videos`. Any other file is text with a path or address on each
    /// line. An invalid row is recorded as `bad_row`.
    #[serde(default)]
    pub lists: Vec<String>,
    /// A LeRobot dataset of version 2.1 or 3.0: the folder or address above `meta/info.json`. The
    /// video of each episode and camera is a video called `DATASET/CAMERA/episode_000000`. Its
    /// camera, episode and task are columns of the SQL table `videos`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub lerobot: Option<String>,
    /// The cameras of the LeRobot dataset, such as `[top]` or `[observation.images.top]`. Default:
    /// all that show colours. Windows of frames never mix cameras.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub cameras: Vec<String>,
    /// What identifies a video: its `content` (default), which reads each new video once, or for
    /// object stores its `etag`.
    #[serde(default)]
    pub identity: Identity,
    /// How to treat byte-identical videos. `keep` (default) decodes each of them. `skip` decodes
    /// the first by name and records the others as `duplicate` rejects, which do not count towards
    /// `max_rejected`.
    #[serde(default, skip_serializing_if = "Duplicates::are_kept")]
    pub duplicates: Duplicates,
    /// Width and height of a frame in pixels. Default 64, as in the paper. Training needs a power
    /// of two from 16 to 512.
    #[serde(default = "default_size")]
    pub size: u32,
    /// Frames per second to resample to (nearest frame in time). Default: every frame is kept. Set
    /// it if sources differ in frame rate, because a latent action is the change from one frame to
    /// the next.
    #[serde(default)]
    pub fps: Option<f64>,
    /// How a picture becomes square.
    #[serde(default)]
    pub fit: Fit,
    /// Whether to remove black bars that last throughout a video before fitting it. Every video is
    /// then decoded twice, first to find its bars. Default false.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub trim_bars: bool,
    /// Splits episodes at scene cuts: where a change is at least this many times as large as the
    /// two changes before and the two after it, and at least 0.02 of the range. Null: no cuts.
    /// Default 2, which finds nearly all joins of two game recordings; joins of similar pictures
    /// are missed. Lower it to find more cuts, and raise it if it splits at fast motion. With
    /// `lerobot` the default is null, since episodes are known.
    #[serde(default, skip_serializing_if = "Option::is_none", deserialize_with = "given")]
    #[schemars(with = "Option<f64>", default = "default_cut")]
    pub cut: Option<Option<f64>>,
    /// Drops frames whose luminance has a smaller standard deviation than this share of the range:
    /// black, white and faded frames. A dropped frame ends an episode. 0.02 suits films; the column
    /// `contrast` of the table `STAGE_quality` has the values of your videos. Default: off.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub blank: Option<f64>,
    /// Drops the rest of a frozen stretch (titles, pauses, stalled streams) after some unchanged
    /// frames. Default: off.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub still: Option<Still>,
    /// How pixels are stored: `none` (default) is read in place, which is fastest; `zstd` takes
    /// half the disk space.
    #[serde(default)]
    pub compression: Compression,
    /// Videos with fewer frames are recorded as `too_short`. Default 3: one transition with one
    /// frame of context.
    #[serde(default = "default_min_frames")]
    pub min_frames: u64,
    /// Largest number of videos in a shard, and so in a file of labels. Default 32. Existing shards
    /// stay as they are.
    #[serde(default = "default_videos_per_shard")]
    pub videos_per_shard: usize,
    /// A shard also closes once its videos exceed this size in MiB. Default 256.
    #[serde(default = "default_shard_mib")]
    pub shard_mib: u64,
    /// Stops the run if more than this share of the videos is rejected (0 to 1). Default: never.
    #[serde(default)]
    pub max_rejected: Option<f64>,
    /// Stops before anything runs if more than this share of the dataset's videos (0 to 1) no
    /// longer matches, for example because a disk is not mounted. Default 0.1. `lapo run
    /// --max-dropped 1` permits it once.
    #[serde(default = "default_max_dropped")]
    pub max_dropped: f64,
    /// Files changed less than this many seconds ago are left for the next run, since they may
    /// still be written. Default 0. `lapo run --watch 60s` waits at least for its own interval.
    #[serde(default, skip_serializing_if = "is_zero")]
    pub min_age: f64,
    /// Limits for hostile and broken files.
    #[serde(default)]
    pub limits: Limits,
}

fn is_zero(seconds: &f64) -> bool {
    *seconds == 0.0
}

/// The limit of a frozen stretch.
#[derive(Clone, Copy, Debug, Default, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct Still {
    /// Number of unchanged frames to keep. An agent that waits for a moment acts, too.
    pub frames: u64,
    /// A mean change of a pixel below this share of the range counts as none. Default 0.0005, above
    /// the noise of compression. Lower it if a small moving figure is taken for a still picture: on
    /// a large board it changes about 0.002.
    #[serde(default = "default_still_change")]
    pub change: f64,
}

fn default_still_change() -> f64 {
    0.0005
}

/// What identifies a video.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub enum Identity {
    /// The blake3 of its bytes. Unchanged videos (same name, size and time or etag) are not read
    /// again.
    #[default]
    Content,
    /// In an object store, its etag and size, so that nothing is read before decoding. Copies
    /// uploaded in several parts are not recognised. Local files and episodes of LeRobot datasets
    /// are still identified by content.
    Etag,
}

/// How to treat byte-identical videos.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub enum Duplicates {
    /// Decode each of them.
    #[default]
    Keep,
    /// Decode the first by name.
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
/// Tells a null from a field that is not given.
fn given<'de, D: serde::Deserializer<'de>>(from: D) -> Result<Option<Option<f64>>, D::Error> {
    Option::deserialize(from).map(Some)
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

impl DecodeConfig {
    /// Returns how large the change at a scene cut is, or `None` to leave cuts.
    #[must_use]
    pub fn cut(&self) -> Option<f64> {
        self.cut.unwrap_or_else(|| default_cut().filter(|_| self.lerobot.is_none()))
    }

    fn expect_frames(&self, faults: &mut FieldFaults) {
        faults.expect_value(
            (8..=1024).contains(&self.size),
            "size",
            self.size,
            "expected 8 to 1024; the paper uses 64",
        );
        faults.expect(
            self.fps.is_none_or(|fps| fps.is_finite() && fps > 0.0 && fps <= 1000.0),
            "fps",
            format_args!("is {:?}", self.fps.unwrap_or_default()),
            "expected frames per second above 0, at most 1000",
        );
    }

    fn expect_episodes(&self, faults: &mut FieldFaults) {
        faults.expect_value(
            self.cut().is_none_or(|cut| cut.is_finite() && cut >= 1.0),
            "cut",
            self.cut().unwrap_or_default(),
            "expected at least 1: how many times as large as the changes around it a cut is; 2 by \
             default, null for no cuts",
        );
        faults.expect_value(
            self.blank.is_none_or(|blank| (0.0..=1.0).contains(&blank)),
            "blank",
            self.blank.unwrap_or_default(),
            "expected a share of the range, such as 0.02, or null to keep blank frames",
        );
        faults.expect(
            self.still.is_none_or(|still| (0.0..=1.0).contains(&still.change)),
            "still",
            format_args!("has `change: {}`", self.still.unwrap_or_default().change),
            "expected a share of the range; the default is 0.0005",
        );
    }

    fn expect_dataset(&self, faults: &mut FieldFaults) {
        faults.expect_value(
            (0.0..=1e9).contains(&self.min_age),
            "min_age",
            self.min_age,
            "expected seconds, 0 or more",
        );
        faults.expect_positive("videos_per_shard", self.videos_per_shard);
        faults.expect_value(
            (1..=1 << 20).contains(&self.shard_mib),
            "shard_mib",
            self.shard_mib,
            "expected MiB from 1 to 1,048,576",
        );
        faults.expect_value(
            (0.0..=1.0).contains(&self.max_dropped),
            "max_dropped",
            self.max_dropped,
            "expected a share of the videos, 0 to 1",
        );
        faults.expect(
            self.max_rejected.is_none_or(|share| (0.0..=1.0).contains(&share)),
            "max_rejected",
            format_args!("is {:?}", self.max_rejected.unwrap_or_default()),
            "expected a share of the videos, 0 to 1",
        );
    }
}

impl Stage for DecodeConfig {
    type Task = DecodeTask;

    fn kind(&self) -> &'static StageKind {
        &KIND
    }

    fn validate(&self) -> Vec<FieldFault> {
        let mut faults = FieldFaults::default();
        faults.expect(
            !self.videos.is_empty() || !self.lists.is_empty() || self.lerobot.is_some(),
            "videos",
            "is empty",
            "give at least one pattern, e.g. [\"data/**/*.mp4\"]",
        );
        faults.expect(
            self.cameras.is_empty() || self.lerobot.is_some(),
            "cameras",
            "names cameras, but `lerobot` is not set",
            "set `lerobot` to a LeRobot dataset, or leave `cameras` out",
        );
        self.expect_frames(&mut faults);
        self.expect_episodes(&mut faults);
        self.expect_dataset(&mut faults);
        let limits = self.limits.validate().err().map(|fault| fault.to_string());
        faults.expect(
            limits.is_none(),
            "limits",
            limits.unwrap_or_default(),
            "limits that are not set keep their defaults, which suit any video",
        );
        faults.into_vec()
    }

    fn needs(&self) -> Needs {
        // A decoder takes about 200 MiB for a 1080p stream, and about 1 GiB for 8K.
        Needs { gpu: false, cores: 1, memory_mib: 1024 }
    }

    fn plan(&self, given: &PlanInputs, plan: &mut StagePlan) -> dataset::Result<()> {
        plan::plan(self, given, plan)
    }

    fn video_patterns(&self) -> Option<VideoPatterns<'_>> {
        let lerobot = self.lerobot.as_deref().map(|dataset| (dataset, &self.cameras[..]));
        Some(VideoPatterns { videos: &self.videos, lists: &self.lists, lerobot })
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
