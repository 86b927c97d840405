//! The settings of `export`.

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use super::{ExportTask, KIND};
use crate::dataset;
use crate::stages::plan::{NewTask, PlanInputs, StagePlan};
use crate::stages::{
    ArtifactKind, FieldFault, FieldFaults, Input, LatentActions, Needs, Stage, StageKind, StageTask,
};

/// Writes frames and labels as a dataset of another program. Each new version is written whole.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct ExportConfig {
    /// The format of the dataset: `lerobot`, a LeRobot dataset of version 3.0.
    pub format: Format,
    /// The `decode` or `record` stage with the frames.
    pub frames: String,
    /// The `label` stage with the latent actions of these frames.
    pub labels: String,
    /// The `record` or `import_actions` stage with true actions of these frames, written as
    /// `action`. Every frame but an episode's last needs one. Default: no `action`.
    #[serde(default)]
    pub actions: Option<String>,
    /// Frames per second of the exported dataset, a whole number. No frame is dropped or repeated:
    /// another rate than that of the frames plays them slower or faster. Default: the rate of the
    /// frames, which must then be whole and the same in all videos.
    #[serde(default)]
    pub fps: Option<u32>,
    /// The task in words, the same for all episodes. Default: the pipeline's name.
    #[serde(default)]
    pub task: Option<String>,
    /// Episodes in one video file, at most. Files are encoded in parallel. Default 50.
    #[serde(default = "default_episodes_per_video")]
    pub episodes_per_video: usize,
    /// Magnification of the exported frames, 1 to 16: each pixel becomes a block of `zoom` x `zoom`
    /// pixels. H.264 stores colours at half the resolution, so 2 keeps the colour of every pixel.
    /// Default 1.
    #[serde(default = "default_zoom")]
    pub zoom: u32,
}

/// A format of exported datasets.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "lowercase")]
pub enum Format {
    /// LeRobot, version 3.0: Parquet tables and H.264 videos.
    Lerobot,
}

fn default_episodes_per_video() -> usize {
    50
}
fn default_zoom() -> u32 {
    1
}

impl Stage for ExportConfig {
    type Task = ExportTask;

    fn kind(&self) -> &'static StageKind {
        &KIND
    }

    fn inputs(&self) -> Vec<Input<'_>> {
        let needed = [
            Input::new("frames", &self.frames, ArtifactKind::Frames),
            Input::new("labels", &self.labels, ArtifactKind::Labels).of_the_same_frames(),
        ];
        let actions = Input::given("actions", &self.actions, ArtifactKind::Actions);
        needed.into_iter().chain(actions.map(Input::of_the_same_frames)).collect()
    }

    fn validate(&self) -> Vec<FieldFault> {
        let mut faults = FieldFaults::default();
        faults.expect_positive("episodes_per_video", self.episodes_per_video);
        faults.expect_value(
            self.fps.is_none_or(|fps| (1..=1000).contains(&fps)),
            "fps",
            self.fps.unwrap_or_default(),
            "expected frames per second from 1 to 1000",
        );
        faults.expect_value(
            (1..=16).contains(&self.zoom),
            "zoom",
            self.zoom,
            "expected a magnification from 1 to 16",
        );
        faults.into_vec()
    }

    fn needs(&self) -> Needs {
        // A shard's labels, and an encoder per core. Frames are read in place.
        Needs { gpu: false, cores: 4, memory_mib: 2048 }
    }

    /// Adds one task, since the metadata of the exported dataset counts all episodes.
    fn plan(&self, given: &PlanInputs, plan: &mut StagePlan) -> dataset::Result<()> {
        let frames = given.plan(&self.frames);
        let labels = given.plan(&self.labels);
        let actions = given.plan_if(self.actions.as_ref());
        let task = ExportTask {
            config: self.clone(),
            text: self.task.clone().unwrap_or_else(|| given.pipeline.to_owned()),
            shards: frames.shards(),
            labels: labels.tasks.files("labels.parquet"),
            actions: actions.map(StagePlan::action_files).unwrap_or_default(),
        };
        plan.set_settings(&task.key().into_fields());
        let needed =
            [("frames", Some(frames)), ("labels", Some(labels)), ("true actions", actions)];
        if plan.waits_for(needed) {
            return Ok(());
        }
        let units = task.shards.iter().map(|shard| shard.rows).sum();
        let inputs = [Some(frames), Some(labels), actions];
        let inputs = inputs.into_iter().flatten().flat_map(|plan| plan.tasks.keys()).collect();
        plan.add(NewTask::new(task, inputs, units), given.known);
        Ok(())
    }

    fn latent_actions(&self) -> Option<LatentActions<'_>> {
        Some(LatentActions::Labels(&self.labels))
    }
}
