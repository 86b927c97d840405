//! Stage 0: videos become shards. In: a few videos; out: one Arrow shard of whole episodes, and a word on every video that failed.
//!
//! A video is one episode until something breaks it: lost frames, or a scene cut. A broken video is an outcome, not an error: what
//! could be decoded is kept, and the reject says class, reason and frames kept.
//!
//! | file | what it does |
//! |---|---|
//! | `work` | the task: video after video into one shard |
//! | `copy` | frames of a video that has been decoded before, under another name |
//! | `settings` | the fields in YAML |
//! | `plan` | which videos are decoded together, and which partitions are kept |
//! | [`videos`] | what makes an entry the video it is |
//! | `opener` | how a video is opened, wherever it lies |
//! | `frames` | one video's frames, decoded in this process |
//! | [`child`], [`wire`], `serve` | the same in a process that a file may take down: who asks, what is said, who answers |
//! | `borrowed` | there, the video: its bytes are asked for, so that such a process opens no file |
//! | `episodes` | where an episode ends, and which frames are left out |
//! | `quality` | what is measured of every frame |

use serde::{Deserialize, Serialize};
use serde_json::json;

use super::plan::KeyFields;
use super::{ArtifactKind, Done, Error, Kept, Lanes, Speed, StageKind, StageTask, Workplace};
use crate::dataset::{About, FileInfo, Reject, VideoRecord};

#[cfg(feature = "video")]
pub mod borrowed;
pub mod child;
#[cfg(feature = "video")]
mod copy;
#[cfg(feature = "video")]
mod episodes;
#[cfg(feature = "video")]
mod frames;
mod opener;
mod plan;
#[cfg(feature = "video")]
mod quality;
#[cfg(feature = "video")]
pub mod serve;
mod settings;
pub mod videos;
pub mod wire;
#[cfg(feature = "video")]
mod work;
pub use settings::{DecodeConfig, Duplicates, Identity, Still};
#[cfg(feature = "video")]
use work::run;

/// The class of a video that is skipped since another one has its bytes.
pub const DUPLICATE: &str = "duplicate";

/// What all `decode` stages have in common. Raise `version` when the same video and settings give other bytes.
pub const KIND: StageKind = StageKind {
    key_inputs: &["videos", "names", "about", "try"],
    row: "frame",
    lanes: Lanes::PerCore,
    independent: true,
    restores: true,
    harmless: &[DUPLICATE],
    speed: Some(Speed { of: "frames", unit: "frames/s decoded" }),
    ..StageKind::new("decode", 5, &[ArtifactKind::Frames], "videos")
};

/// One video of a task.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct VideoSource {
    /// Where it is; also its name in the dataset.
    pub uri: String,
    /// blake3 of its bytes; `#2` and so on is appended for further copies of the same bytes.
    pub digest: String,
    /// Size in bytes.
    pub bytes: u64,
    /// When it was last modified, as the file system says, or its etag: with uri and size a cache of the digest.
    pub modified: String,
    /// Where it is, if that is within an archive.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub archived: Option<Archived>,
    /// The inode of its file: with size and time it tells a file that was renamed.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub inode: Option<u64>,
    /// What a list says of it.
    #[serde(default, skip_serializing_if = "About::is_empty")]
    pub about: About,
    /// Where its frames are, if it has been decoded before: under another name, or among other videos.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub decoded: Option<Box<Decoded>>,
    /// Why it cannot even be read, where that is known already (a FIFO, no permission): class and reason.
    pub unusable: Option<(String, String)>,
}

/// Frames of a video that another task has decoded: they are copied.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Decoded {
    /// The task's key.
    pub key: String,
    /// The task's shard.
    pub shard: FileInfo,
    /// What it measured of every frame.
    pub quality: FileInfo,
    /// What it said of the video.
    pub record: VideoRecord,
    /// What was wrong with the video.
    pub reject: Option<Reject>,
}

/// A stretch of an archive.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Archived {
    /// The archive's path or address.
    pub path: String,
    /// Where the video's bytes begin in it.
    pub at: u64,
}

impl VideoSource {
    /// The file that holds it: itself, or an archive.
    pub fn file(&self) -> &str {
        self.archived.as_ref().map_or(&self.uri, |archived| &archived.path)
    }
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

impl StageTask for DecodeTask {
    fn key(&self) -> KeyFields {
        let DecodeTask { config, videos, tries } = self;
        let DecodeConfig {
            duplicates,
            size,
            fps,
            fit,
            trim_bars,
            cut,
            blank,
            still,
            compression,
            min_frames,
            // Which videos there are is in `videos`; how they are spread over tasks is up to planning.
            videos: _,
            lists: _,
            identity: _,
            videos_per_shard: _,
            shard_mib: _,
            // Guards: they decide whether there is a result, not which.
            max_rejected: _,
            max_dropped: _,
            min_age: _,
            limits: _,
        } = config;
        let digests: Vec<&str> = videos.iter().map(|video| video.digest.as_str()).collect();
        let names: Vec<&str> = videos.iter().map(|video| video.uri.as_str()).collect();
        let about: Vec<&About> = videos.iter().map(|video| &video.about).collect();
        let hash = |value: serde_json::Value| {
            blake3::hash(value.to_string().as_bytes()).to_hex().to_string()
        };
        let is_listed = about.iter().any(|about| !about.is_empty());
        KeyFields::new(&KIND)
            .setting_if(!duplicates.are_kept(), "duplicates", duplicates)
            .setting("size", size)
            .setting("fps", fps)
            .setting("fit", fit)
            .setting_if(*trim_bars, "trim_bars", trim_bars)
            .setting("cut", cut)
            .setting_if(blank.is_some(), "blank", blank)
            .setting_if(still.is_some(), "still", still)
            .setting("compression", compression)
            .setting("min_frames", min_frames)
            .input("videos", digests)
            .input("names", hash(json!(names)))
            .input_if(is_listed, "about", hash(json!(about)))
            .input_if(*tries > 1, "try", tries)
    }

    fn run(&self, place: &Workplace, _: &mut Kept) -> Result<Done, Error> {
        run(self, place)
    }

    fn videos(&self) -> usize {
        self.videos.len()
    }

    fn digests(&self) -> Vec<&str> {
        self.videos.iter().map(|video| video.digest.as_str()).collect()
    }

    fn copied_from(&self) -> Vec<&str> {
        let decoded = self.videos.iter().filter_map(|video| video.decoded.as_ref());
        decoded.map(|decoded| decoded.key.as_str()).collect()
    }
}

/// Without libav there is nothing to decode with.
#[cfg(not(feature = "video"))]
fn run(_: &DecodeTask, _: &Workplace) -> Result<Done, Error> {
    Err(Error::NoVideo)
}
