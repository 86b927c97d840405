//! The settings of `export`.

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use super::{ExportTask, KIND, Networks};
use crate::dataset;
use crate::dataset::lerobot::Lerobot;
use crate::stages::plan::{NewTask, PlanInputs, StagePlan};
use crate::stages::{
    ArtifactKind, FieldFault, FieldFaults, Input, LatentActions, Needs, Stage, StageKind, StageTask,
};

/// Writes frames and labels as a dataset of another program, or trained networks as ONNX files.
/// Each new version is written whole.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct ExportConfig {
    /// The format: `lerobot`, a LeRobot dataset of version 3.0; `webdataset`, tar archives with one
    /// sample per episode; or `onnx`, networks for onnxruntime and others.
    pub format: Format,
    /// The `decode` or `record` stage with the frames. Required for datasets.
    #[serde(default)]
    pub frames: Option<String>,
    /// The `label` stage with the latent actions of these frames. Required for datasets.
    #[serde(default)]
    pub labels: Option<String>,
    /// The `record` or `import_actions` stage with true actions of these frames, written as
    /// `action`. Every frame but an episode's last needs one. Default: no `action`.
    #[serde(default)]
    pub actions: Option<String>,
    /// Frames per second of the exported dataset, a whole number. No frame is dropped or repeated:
    /// another rate than that of the frames plays them slower or faster. Default: the rate of the
    /// frames, which must then be whole and the same in all videos.
    #[serde(default)]
    pub fps: Option<u32>,
    /// A LeRobot dataset of version 3.0 to write again with its labels as further columns: the one
    /// that `frames` decodes. Its episodes, cameras, tasks and columns stay, and its videos are
    /// copied. Default: a new dataset of the frames, as a camera called `main`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub extend: Option<String>,
    /// The camera of the extended dataset whose labels to write. Default: the only one decoded.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub camera: Option<String>,
    /// The task in words, the same for all episodes. Default: the pipeline's name.
    #[serde(default)]
    pub task: Option<String>,
    /// Episodes in one video file of `lerobot`, at most. Files are encoded in parallel. Default 50.
    #[serde(default = "default_episodes_per_video")]
    pub episodes_per_video: usize,
    /// Magnification of the exported frames, 1 to 16: each pixel becomes a block of `zoom` x `zoom`
    /// pixels. H.264 stores colours at half the resolution, so 2 keeps the colour of every pixel.
    /// Default 1.
    #[serde(default = "default_zoom")]
    pub zoom: u32,
    /// The frames of a `webdataset` sample: `mp4` (default), an H.264 video, or `npy`, a lossless
    /// array `[frame, height, width, 3]` of bytes.
    #[serde(default)]
    pub frame_format: FrameFormat,
    /// The size in MiB from which an archive of `webdataset` is full. Default 256. Lower it for a
    /// small dataset: each process of a training reads whole archives.
    #[serde(default = "default_archive_mib")]
    pub archive_mib: u64,
    /// The `train_dynamics` or `import_dynamics` stage whose IDM becomes `idm.onnx`.
    #[serde(default)]
    pub dynamics: Option<String>,
    /// The `train_policy` stage whose policy becomes `policy.onnx`.
    #[serde(default)]
    pub policy: Option<String>,
    /// The `train_decoder` stage with the decoder: its first one trained on the most transitions.
    /// It becomes part of `policy.onnx`; without `policy`, it becomes `decoder.onnx`.
    #[serde(default)]
    pub decoder: Option<String>,
    /// The `finetune` stage whose agent becomes `agent.onnx`.
    #[serde(default)]
    pub agent: Option<String>,
}

/// A format of exports.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "lowercase")]
pub enum Format {
    /// LeRobot, version 3.0: Parquet tables and H.264 videos.
    Lerobot,
    /// WebDataset: tar archives with one sample per episode.
    Webdataset,
    /// ONNX: networks with their preprocessing.
    Onnx,
}

impl Format {
    /// Returns the name, as in a pipeline.
    fn name(self) -> &'static str {
        match self {
            Format::Lerobot => "lerobot",
            Format::Webdataset => "webdataset",
            Format::Onnx => "onnx",
        }
    }

    /// Returns the names of the format's settings.
    fn settings(self) -> &'static [&'static str] {
        match self {
            Format::Lerobot => &[
                "frames",
                "labels",
                "actions",
                "fps",
                "task",
                "zoom",
                "episodes_per_video",
                "extend",
                "camera",
            ],
            Format::Webdataset => &[
                "frames",
                "labels",
                "actions",
                "fps",
                "task",
                "zoom",
                "frame_format",
                "archive_mib",
            ],
            Format::Onnx => &["dynamics", "policy", "decoder", "agent"],
        }
    }

    /// Returns the hint for a setting of another format.
    fn settings_hint(self) -> &'static str {
        match self {
            Format::Lerobot => {
                "remove it; `lerobot` takes `frames`, `labels`, `actions`, `fps`, `task`, `zoom`, \
                 `episodes_per_video`, `extend` and `camera`"
            }
            Format::Webdataset => {
                "remove it; `webdataset` takes `frames`, `labels`, `actions`, `fps`, `task`, \
                 `zoom`, `frame_format` and `archive_mib`"
            }
            Format::Onnx => "remove it; `onnx` takes `dynamics`, `policy`, `decoder` and `agent`",
        }
    }
}

/// A format of the frames in a sample of a WebDataset.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "lowercase")]
pub enum FrameFormat {
    /// An H.264 video.
    #[default]
    Mp4,
    /// A NumPy array of bytes.
    Npy,
}

fn default_episodes_per_video() -> usize {
    50
}
fn default_zoom() -> u32 {
    1
}
fn default_archive_mib() -> u64 {
    256
}

impl ExportConfig {
    /// Adds faults of settings that the format does not have or that it lacks.
    fn expect_settings_of_the_format(&self, faults: &mut FieldFaults) {
        let format = self.format;
        // A setting with a default counts if it has another value.
        let given = [
            ("frames", self.frames.is_some()),
            ("labels", self.labels.is_some()),
            ("actions", self.actions.is_some()),
            ("fps", self.fps.is_some()),
            ("task", self.task.is_some()),
            ("episodes_per_video", self.episodes_per_video != default_episodes_per_video()),
            ("zoom", self.zoom != default_zoom()),
            ("extend", self.extend.is_some()),
            ("camera", self.camera.is_some()),
            ("frame_format", self.frame_format != FrameFormat::default()),
            ("archive_mib", self.archive_mib != default_archive_mib()),
            ("dynamics", self.dynamics.is_some()),
            ("policy", self.policy.is_some()),
            ("decoder", self.decoder.is_some()),
            ("agent", self.agent.is_some()),
        ];
        for (field, is_given) in given {
            faults.expect(
                !is_given || format.settings().contains(&field),
                field,
                format_args!("is no setting of `format: {}`", format.name()),
                format.settings_hint(),
            );
        }
        if format == Format::Onnx {
            let has_network = given[11..].iter().any(|(_, is_given)| *is_given);
            let cure = "name a stage with a network: `dynamics`, `policy`, `decoder` or `agent`";
            faults.expect(has_network, "policy", "is missing", cure);
            return;
        }
        let cure = "name the stage with the frames";
        faults.expect(self.frames.is_some(), "frames", "is missing", cure);
        let cure = "name the stage with the labels of these frames";
        faults.expect(self.labels.is_some(), "labels", "is missing", cure);
    }
}

impl ExportConfig {
    /// Adds faults of settings that an extended dataset does not have.
    fn expect_settings_of_an_extension(&self, faults: &mut FieldFaults) {
        if self.extend.is_none() {
            let cure = "set `extend` to a LeRobot dataset, or leave `camera` out";
            faults.expect(self.camera.is_none(), "camera", "is set, but not `extend`", cure);
            return;
        }
        let of_new_datasets = [
            ("actions", self.actions.is_some()),
            ("fps", self.fps.is_some()),
            ("task", self.task.is_some()),
            ("episodes_per_video", self.episodes_per_video != default_episodes_per_video()),
            ("zoom", self.zoom != default_zoom()),
        ];
        for (field, is_given) in of_new_datasets {
            let cure = "remove it: an extended dataset keeps its own";
            faults.expect(!is_given, field, "is no setting of an extended dataset", cure);
        }
    }
}

impl Stage for ExportConfig {
    type Task = ExportTask;

    fn kind(&self) -> &'static StageKind {
        &KIND
    }

    fn inputs(&self) -> Vec<Input<'_>> {
        let inputs = [
            Input::given("frames", &self.frames, ArtifactKind::Frames),
            Input::given("labels", &self.labels, ArtifactKind::Labels)
                .map(Input::of_the_same_frames),
            Input::given("actions", &self.actions, ArtifactKind::Actions)
                .map(Input::of_the_same_frames),
            Input::given("dynamics", &self.dynamics, ArtifactKind::Dynamics),
            Input::given("policy", &self.policy, ArtifactKind::Policy).map(Input::of_one_model),
            Input::given("decoder", &self.decoder, ArtifactKind::Decoder).map(Input::of_one_model),
            Input::given("agent", &self.agent, ArtifactKind::Agent),
        ];
        inputs.into_iter().flatten().collect()
    }

    fn validate(&self) -> Vec<FieldFault> {
        let mut faults = FieldFaults::default();
        self.expect_settings_of_the_format(&mut faults);
        self.expect_settings_of_an_extension(&mut faults);
        faults.expect_positive("episodes_per_video", self.episodes_per_video);
        faults.expect_positive("archive_mib", self.archive_mib);
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
        faults.expect_value(
            self.zoom == 1 || self.frame_format == FrameFormat::Mp4,
            "zoom",
            self.zoom,
            "remove it: `frame_format: npy` keeps the colour of every pixel",
        );
        faults.into_vec()
    }

    fn needs(&self) -> Needs {
        // A shard's labels, and an encoder per core. Frames are read in place.
        Needs { gpu: false, cores: 4, memory_mib: 2048 }
    }

    /// Adds one task: a dataset of another program is written whole, and networks are small.
    fn plan(&self, given: &PlanInputs, plan: &mut StagePlan) -> dataset::Result<()> {
        let input = |stage: &Option<String>| given.plan_if(stage.as_ref());
        let [frames, labels, actions] = [&self.frames, &self.labels, &self.actions].map(input);
        let networks = [&self.dynamics, &self.policy, &self.decoder, &self.agent].map(input);
        let weights = |plan: Option<&StagePlan>| plan.map(StagePlan::weights);
        let task = ExportTask {
            config: self.clone(),
            text: self.task.clone().unwrap_or_else(|| given.pipeline.to_owned()),
            shards: frames.map(StagePlan::shards).unwrap_or_default(),
            labels: labels.map(|plan| plan.tasks.files("labels.parquet")).unwrap_or_default(),
            actions: actions.map(StagePlan::action_files).unwrap_or_default(),
            extended: match &self.extend {
                Some(root) => Some(Lerobot::open(root, given.access)?.digest()?),
                None => None,
            },
            networks: Networks {
                dynamics: weights(networks[0]),
                policy: weights(networks[1]),
                // The first draw of the most transitions.
                decoder: networks[2].map(|plan| plan.last_file("-0.safetensors")),
                agent: weights(networks[3]),
            },
        };
        plan.set_settings(&task.key().into_fields());
        let names = ["frames", "labels", "true actions", "dynamics", "policy", "decoder", "agent"];
        let inputs: Vec<_> = [frames, labels, actions].into_iter().chain(networks).collect();
        if plan.waits_for(names.into_iter().zip(inputs.iter().copied())) {
            return Ok(());
        }
        let units = task.shards.iter().map(|shard| shard.rows).sum();
        let keys = inputs.into_iter().flatten().flat_map(|plan| plan.tasks.keys()).collect();
        plan.add(NewTask::new(task, keys, units), given.known);
        Ok(())
    }

    fn latent_actions(&self) -> Option<LatentActions<'_>> {
        self.labels.as_deref().map(LatentActions::Labels)
    }
}
