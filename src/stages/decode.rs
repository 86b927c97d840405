//! Decodes videos into shards of frames.
//!
//! A task decodes a few videos and writes one Arrow shard of whole episodes and a table of frame
//! statistics. A video is one episode unless lost frames or a scene cut split it. A broken video is
//! an outcome, not an error: its decodable frames are kept, and a reject has its class, the reason
//! and the number of frames kept.
//!
//! | file | contents |
//! |---|---|
//! | `settings` | the settings in YAML and their checks |
//! | `plan` | the partitions of videos to decode, and the partitions to keep |
//! | [`videos`] | the identity of each video |
//! | `decode_task` | the task: decodes videos into one shard |
//! | `copied_frames` | copies frames decoded earlier, under another name or in another shard |
//! | `opener` | opens a video from a file, an object store or an archive |
//! | `frames` | decodes one video in this process |
//! | [`decoder_process`], [`serve`], [`protocol`] | decode in a process that may crash: parent, child and protocol |
//! | `remote_video` | in the child: a video read by the parent, so that the child opens no file |
//! | `episodes` | splits frames into episodes and drops blank and still ones |
//! | `quality` | the statistics of each frame |

use serde::{Deserialize, Serialize};
use serde_json::json;

use super::plan::KeyFields;
use super::{
    ArtifactKind, Error, LaneState, Lanes, Speed, StageKind, StageTask, TaskContext, TaskOutput,
};
use crate::dataset::{Clip, FileInfo, ListMetadata, Reject, VideoRecord};

#[cfg(feature = "video")]
mod copied_frames;
#[cfg(feature = "video")]
mod decode_task;
pub mod decoder_process;
#[cfg(feature = "video")]
mod episodes;
#[cfg(feature = "video")]
mod frames;
mod opener;
#[cfg(feature = "video")]
mod output;
mod plan;
pub mod protocol;
#[cfg(feature = "video")]
mod quality;
#[cfg(feature = "video")]
pub mod remote_video;
#[cfg(feature = "video")]
pub mod serve;
mod settings;
pub mod videos;
#[cfg(feature = "video")]
use decode_task::run;
pub use settings::{DecodeConfig, Duplicates, Identity, Still};

/// The class of a video skipped as byte-identical to another one.
pub const DUPLICATE: &str = "duplicate";

/// The properties of all `decode` stages. Raise `version` when the same video and settings give
/// other bytes.
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
    /// Its path or address, and its name in the dataset.
    pub uri: String,
    /// The blake3 of its bytes. Further copies of the same bytes have `#2` and so on appended.
    pub digest: String,
    /// Size in bytes.
    pub bytes: u64,
    /// Its modification time in the file system, or its etag. With the uri and the size, it
    /// identifies unchanged content.
    pub modified: String,
    /// Its position in an archive, if it is in one.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub archived: Option<Archived>,
    /// Its frames in a file of several episodes, if it is an episode of a LeRobot dataset.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub clip: Option<Box<Clip>>,
    /// The inode of its file. With size and time, it identifies a renamed file.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub inode: Option<u64>,
    /// The columns of a list about the video.
    #[serde(default, skip_serializing_if = "ListMetadata::is_empty")]
    pub about: ListMetadata,
    /// Its frames, if it was decoded before under another name or in another partition.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub decoded: Option<Box<Decoded>>,
    /// The class and reason of a reject known before decoding, such as a FIFO or no permission.
    pub unusable: Option<(String, String)>,
}

/// The frames of a video decoded by another task. They are copied.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Decoded {
    /// The task's key.
    pub key: String,
    /// The task's shard.
    pub shard: FileInfo,
    /// The statistics of each frame.
    pub quality: FileInfo,
    /// The record of the video.
    pub record: VideoRecord,
    /// The reject of the video, if it had one.
    pub reject: Option<Reject>,
}

/// A part of an archive.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Archived {
    /// The archive's path or address.
    pub path: String,
    /// The offset of the video's bytes in the archive.
    pub at: u64,
}

impl VideoSource {
    /// Returns the file with the video: the archive, the file of several episodes, or the video
    /// itself.
    pub fn file(&self) -> &str {
        let archive = self.archived.as_ref().map(|archived| &archived.path);
        archive.or(self.clip.as_ref().map(|clip| &clip.path)).unwrap_or(&self.uri)
    }

    /// Returns the position in the file of several videos: a byte of an archive, or a frame.
    pub fn at(&self) -> Option<u64> {
        let archived = self.archived.as_ref().map(|archived| archived.at);
        archived.or(self.clip.as_ref().map(|clip| clip.first))
    }
}

/// The videos of one shard, in order.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct DecodeTask {
    /// The stage's settings.
    pub config: DecodeConfig,
    /// The videos.
    pub videos: Vec<VideoSource>,
    /// The number of attempts at these videos, including this one.
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
            cut: _,
            blank,
            still,
            compression,
            min_frames,
            // The videos are inputs below. Their distribution over tasks does not change a shard's
            // content.
            videos: _,
            lists: _,
            lerobot: _,
            cameras: _,
            identity: _,
            videos_per_shard: _,
            shard_mib: _,
            // Limits decide whether there is a result, not which one.
            max_rejected: _,
            max_dropped: _,
            min_age: _,
            limits: _,
        } = config;
        let digests: Vec<&str> = videos.iter().map(|video| video.digest.as_str()).collect();
        let names: Vec<&str> = videos.iter().map(|video| video.uri.as_str()).collect();
        let about: Vec<&ListMetadata> = videos.iter().map(|video| &video.about).collect();
        // Hashed, so that receipts do not repeat long lists.
        let hash = |value: serde_json::Value| {
            blake3::hash(value.to_string().as_bytes()).to_hex().to_string()
        };
        let is_listed = about.iter().any(|about| !about.is_empty());
        KeyFields::new(&KIND)
            // Later settings enter the key only if they are not at their default, so that older
            // keys stay.
            .setting_if(!duplicates.are_kept(), "duplicates", duplicates)
            .setting("size", size)
            .setting("fps", fps)
            .setting("fit", fit)
            .setting_if(*trim_bars, "trim_bars", trim_bars)
            .setting("cut", config.cut())
            .setting_if(blank.is_some(), "blank", blank)
            .setting_if(still.is_some(), "still", still)
            .setting("compression", compression)
            .setting("min_frames", min_frames)
            .input("videos", digests)
            .input("names", hash(json!(names)))
            .input_if(is_listed, "about", hash(json!(about)))
            .input_if(*tries > 1, "try", tries)
    }

    fn run(&self, ctx: &TaskContext, _: &mut LaneState) -> Result<TaskOutput, Error> {
        run(self, ctx)
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

/// Fails, since this build has no decoder.
#[cfg(not(feature = "video"))]
fn run(_: &DecodeTask, _: &TaskContext) -> Result<TaskOutput, Error> {
    Err(Error::NoVideo)
}
