//! Writes frames and labels as a dataset of another program, or networks as ONNX files.
//!
//! One task writes one version of the dataset, whole: the other program's metadata counts all
//! episodes, so a new video changes files that name them all. The attempt's folder is the root of
//! the exported dataset.
//!
//! | file | contents |
//! |---|---|
//! | `settings` | the settings and their checks |
//! | `lerobot` | LeRobot datasets, version 3.0 |
//! | `webdataset` | WebDataset's tar archives |
//! | `networks` | ONNX files |

use serde::{Deserialize, Serialize};

use super::plan::KeyFields;
use super::plan::key::digests;
use super::{Error, LaneState, StageKind, StageTask, TaskContext, TaskOutput, write};
use crate::dataset::FileInfo;

mod lerobot;
mod networks;
mod settings;
mod webdataset;

pub use networks::Networks;
pub use settings::{ExportConfig, Format, FrameFormat};

/// The properties of all `export` stages. Raise `version` when the same frames and labels give
/// other files.
pub const KIND: StageKind = StageKind {
    key_inputs: &[
        "frames",
        "labels",
        "true_actions",
        "extended",
        "dynamics",
        "policy",
        "decoder",
        "agent",
    ],
    row: "frame",
    ..StageKind::new("export", 1, &[], "frames")
};

/// The frames and labels of one version of a dataset, or networks.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct ExportTask {
    /// The stage's settings.
    pub config: ExportConfig,
    /// The text of every episode's task.
    pub text: String,
    /// The frames, in the dataset's order.
    pub shards: Vec<FileInfo>,
    /// Files of labels, in the dataset's order.
    pub labels: Vec<FileInfo>,
    /// Files of true actions.
    pub actions: Vec<FileInfo>,
    /// The digest of the names and versions of the files of the dataset to extend.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub extended: Option<String>,
    /// The networks of `format: onnx`.
    #[serde(default, skip_serializing_if = "Networks::is_empty")]
    pub networks: Networks,
}

impl StageTask for ExportTask {
    fn key(&self) -> KeyFields {
        let ExportTask { config, text, shards, labels, actions, extended, networks } = self;
        let ExportConfig {
            format,
            fps,
            episodes_per_video,
            zoom,
            frame_format,
            archive_mib,
            camera,
            extend: _,
            task: _,
            frames: _,
            labels: _,
            actions: _,
            dynamics: _,
            policy: _,
            decoder: _,
            agent: _,
        } = config;
        let key = KeyFields::new(&KIND).setting("format", format);
        let key = match format {
            Format::Lerobot if extended.is_some() => key.setting("camera", camera),
            Format::Lerobot => key
                .setting("fps", fps)
                .setting("episodes_per_video", episodes_per_video)
                .setting("zoom", zoom),
            Format::Webdataset => key
                .setting("fps", fps)
                .setting("zoom", zoom)
                .setting("frame_format", frame_format)
                .setting("archive_mib", archive_mib),
            Format::Onnx => return networks.add_to(key),
        };
        key.setting("task", text)
            .input("frames", digests(shards))
            .input("labels", digests(labels))
            .input_if(extended.is_some(), "extended", extended)
            .input_if(!actions.is_empty(), "true_actions", digests(actions))
    }

    fn run(&self, ctx: &TaskContext, _: &mut LaneState) -> Result<TaskOutput, Error> {
        match self.config.format {
            Format::Lerobot => lerobot::run(self, ctx),
            Format::Webdataset => webdataset::run(self, ctx),
            Format::Onnx => self.networks.write(ctx),
        }
    }
}

impl ExportTask {
    /// Returns the error of frames that the format cannot hold.
    fn fault(file: &str, reason: String, cure: &'static str) -> Error {
        Error::Export { file: file.to_owned(), reason, cure }
    }
}

/// Writes a file with these bytes below the attempt's folder.
fn write_file(ctx: &TaskContext, name: &str, bytes: &[u8]) -> Result<FileInfo, Error> {
    let mut file = ctx.store.new_file(&format!("{}/{name}", ctx.folder))?;
    write(&mut file, bytes)?;
    Ok(file.finish(0)?)
}
