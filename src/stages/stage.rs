//! The traits of a stage: [`Stage`] for its settings, [`StageTask`] for its tasks, [`StageKind`]
//! for the properties all stages of a kind share.
//!
//! A stage implements them in its own file. The list in `stages/mod.rs` generates
//! [`StageSpec`](super::StageSpec) and [`Task`](super::Task). All other modules use a stage through
//! these traits and name no kind.

use std::any::Any;

use serde::{Deserialize, Serialize};

use super::plan::{KeyFields, Model, PlanInputs, StagePlan};
use super::{Error, FieldFault, TaskContext, TaskOutput};
use crate::dataset::{self, Receipt};

/// The properties all stages of one kind share.
#[derive(Debug)]
pub struct StageKind {
    /// The kind's name in YAML.
    pub name: &'static str,
    /// The version of the code. Raise it when the same settings and inputs give another output.
    pub version: u32,
    /// The artifacts the stage makes.
    pub makes: &'static [ArtifactKind],
    /// The unit of progress, such as `videos` or `steps`.
    pub unit: &'static str,
    /// The names of key fields that are inputs, the most informative first. All others are
    /// settings.
    pub key_inputs: &'static [&'static str],
    /// The meaning of a row in the stage's table. Default `row`.
    pub row: &'static str,
    /// How tasks run beside each other. Default: one after the other.
    pub lanes: Lanes,
    /// The hint if a GPU is out of memory. Default: lower `batch`.
    pub memory_cure: &'static str,
    /// Whether the output of a task is useful without the outputs of the others. Default false.
    pub independent: bool,
    /// Whether tasks keep checkpoints in [`TaskContext::scratch`]. Default false.
    pub has_checkpoints: bool,
    /// Whether the stage keeps its model while its input grows, so that `--refresh` has an effect.
    /// Default false.
    pub keeps_model: bool,
    /// Whether a failed new task leaves the previous version's task in place. Default false.
    pub restores: bool,
    /// Classes of rejects that do not count towards `max_rejected`. Default none.
    pub harmless: &'static [&'static str],
    /// The speed the summary of a run shows. Default none.
    pub speed: Option<Speed>,
}

impl StageKind {
    /// Creates a kind with these fields, defaults for all others and no inputs in its keys.
    pub const fn new(
        name: &'static str,
        version: u32,
        makes: &'static [ArtifactKind],
        unit: &'static str,
    ) -> Self {
        StageKind {
            name,
            version,
            makes,
            unit,
            key_inputs: &[],
            row: "row",
            lanes: Lanes::OneByOne,
            memory_cure: "lower `batch` of this stage, or take a GPU with more free memory",
            independent: false,
            has_checkpoints: false,
            keeps_model: false,
            restores: false,
            harmless: &[],
            speed: None,
        }
    }

    /// Returns whether stages of this kind make this artifact.
    pub fn makes(&self, artifact: ArtifactKind) -> bool {
        self.makes.contains(&artifact)
    }
}

/// How the tasks of a stage run beside each other on one machine.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Lanes {
    /// One after the other on the first device; each uses all cores.
    OneByOne,
    /// One task on each core.
    PerCore,
    /// Several tasks on each GPU. Without a GPU, one after the other.
    PerGpu,
}

/// A speed: a statistic of the tasks divided by the time they took.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Speed {
    /// The statistic's name.
    pub of: &'static str,
    /// The text after the number, such as `frames/s decoded`.
    pub unit: &'static str,
}

/// A kind of artifact, made by one stage and taken by others.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ArtifactKind {
    /// Shards of frames.
    Frames,
    /// A trained IDM and FDM.
    Dynamics,
    /// Latent actions.
    Labels,
    /// A latent policy.
    Policy,
    /// True actions.
    Actions,
    /// A table of near-duplicate videos.
    Copies,
    /// Decoders of latent actions.
    Decoder,
    /// A network that plays a game.
    Agent,
    /// The returns of a policy.
    Evaluation,
}

impl std::fmt::Display for ArtifactKind {
    fn fmt(&self, f: &mut std::fmt::Formatter) -> std::fmt::Result {
        f.write_str(match self {
            ArtifactKind::Frames => "frames",
            ArtifactKind::Dynamics => "a dynamics model",
            ArtifactKind::Labels => "labels",
            ArtifactKind::Policy => "a latent policy",
            ArtifactKind::Actions => "true actions",
            ArtifactKind::Copies => "near-duplicates",
            ArtifactKind::Decoder => "decoders",
            ArtifactKind::Agent => "an agent",
            ArtifactKind::Evaluation => "an evaluation",
        })
    }
}

/// An input of a stage: a field of its settings with the name of another stage.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Input<'a> {
    /// The field.
    pub field: &'static str,
    /// The stage it names.
    pub stage: &'a str,
    /// The artifact the stage must make.
    pub artifact: ArtifactKind,
    /// Whether that stage must have the same frames as the stage in the field `frames`.
    pub same_frames: bool,
    /// Whether all such inputs must have latent actions of the same model.
    pub same_model: bool,
    /// How many frames its policy must see, if that matters.
    pub policy_frames: Option<usize>,
}

impl<'a> Input<'a> {
    /// Creates an input without further requirements.
    pub fn new(field: &'static str, stage: &'a str, artifact: ArtifactKind) -> Self {
        Input { field, stage, artifact, same_frames: false, same_model: false, policy_frames: None }
    }

    /// Creates an input if the field is set.
    pub fn given(
        field: &'static str,
        stage: &'a Option<String>,
        artifact: ArtifactKind,
    ) -> Option<Self> {
        stage.as_deref().map(|stage| Input::new(field, stage, artifact))
    }

    /// Requires the same frames as the field `frames`.
    pub fn of_the_same_frames(self) -> Self {
        Input { same_frames: true, ..self }
    }

    /// Requires latent actions of the same model as all other such inputs.
    pub fn of_one_model(self) -> Self {
        Input { same_model: true, ..self }
    }

    /// Requires a policy that sees this many frames.
    pub fn of_policy_frames(self, frames: usize) -> Self {
        Input { policy_frames: Some(frames), ..self }
    }
}

/// An estimate of the resources a task needs, for placing tasks on machines.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Needs {
    /// Whether a GPU makes it much faster. Every stage also runs without one.
    pub gpu: bool,
    /// The number of cores it keeps busy.
    pub cores: u32,
    /// Peak main memory in MiB. With a GPU, part of it is GPU memory.
    pub memory_mib: u64,
}

/// The places to look for videos.
#[derive(Clone, Copy, Debug)]
pub struct VideoPatterns<'a> {
    /// Glob patterns, from the field `videos`.
    pub videos: &'a [String],
    /// Lists of videos, from the field `lists`.
    pub lists: &'a [String],
    /// A LeRobot dataset, from the field `lerobot`, and its cameras, from the field `cameras`.
    pub lerobot: Option<(&'a str, &'a [String])>,
}

/// A file named by a stage's settings. It must exist before a run.
#[derive(Clone, Copy, Debug)]
pub struct InputFile<'a> {
    /// The field.
    pub field: &'static str,
    /// The path.
    pub path: &'a str,
    /// The expected kind of file, in words.
    pub expected: &'static str,
}

/// The model that gives a stage's latent actions their meaning.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum LatentActions<'a> {
    /// The stage itself.
    Own,
    /// The model of this stage.
    Model(&'a str),
    /// The model of this label stage.
    Labels(&'a str),
}

/// The inputs of a stage that can work on shards while others are still being made.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Streaming<'a> {
    /// The stage with the shards.
    pub shards: &'a str,
    /// The stage with the model.
    pub model: &'a str,
}

/// The settings of a stage: its inputs, its checks, and the tasks it plans.
pub trait Stage {
    /// A task of the stage.
    type Task: StageTask
    where
        Self: Sized;

    /// Returns the properties all stages of this kind share.
    fn kind(&self) -> &'static StageKind;

    /// Returns the inputs, in the order of their fault reports.
    fn inputs(&self) -> Vec<Input<'_>> {
        vec![]
    }

    /// Returns the faults of single fields, usually collected with
    /// [`FieldFaults`](super::FieldFaults).
    fn validate(&self) -> Vec<FieldFault> {
        vec![]
    }

    /// Returns an estimate of the resources of one of its tasks.
    fn needs(&self) -> Needs;

    /// Adds the stage's tasks to `plan` and sets the plan's settings.
    ///
    /// # Errors
    /// Returns an error if a store cannot be read at the moment.
    fn plan(&self, given: &PlanInputs, plan: &mut StagePlan) -> dataset::Result<()>;

    /// Returns the places to look for videos.
    fn video_patterns(&self) -> Option<VideoPatterns<'_>> {
        None
    }

    /// Returns the files that must exist before anything runs.
    fn files(&self) -> Vec<InputFile<'_>> {
        vec![]
    }

    /// Returns the width and height of the frames it makes, in pixels.
    fn frame_size(&self) -> Option<u32> {
        None
    }

    /// Returns why its networks do not fit frames of this size: the field, its value, and the
    /// expected value.
    fn network_fault(&self, _frame_size: u32) -> Option<(&'static str, String, String)> {
        None
    }

    /// Returns the share of videos that may be rejected before a run stops.
    fn max_rejected(&self) -> Option<f64> {
        None
    }

    /// Returns the share of the dataset's videos that may disappear before a run stops.
    fn max_dropped(&self) -> Option<f64> {
        None
    }

    /// Returns the size in MiB at which a file of joined tables is full.
    fn file_mib(&self) -> Option<u64> {
        None
    }

    /// Returns the stage whose frames its results describe. `own` is its own name.
    fn about_frames_of<'a>(&'a self, _own: &'a str) -> Option<&'a str> {
        None
    }

    /// Returns the field that needs held-out videos to judge by, if it is set.
    fn held_out_field(&self) -> Option<&'static str> {
        None
    }

    /// Returns how many frames its policy sees.
    fn policy_frames(&self) -> usize {
        1
    }

    /// Returns the model behind its latent actions.
    fn latent_actions(&self) -> Option<LatentActions<'_>> {
        None
    }

    /// Returns its streaming inputs, if it can work on shards while others are still being made.
    fn streams(&self) -> Option<Streaming<'_>> {
        None
    }

    /// Adds the task of one shard to `plan`, for a stage that [streams](Stage::streams).
    fn plan_shard(&self, _shard: &Receipt, _model: Model, _plan: &mut StagePlan) {}
}

/// A unit of work: the fields of its key, and the code that runs it.
pub trait StageTask {
    /// Returns the fields of its key.
    ///
    /// An implementation destructures the task and its settings without `..`, so that a new field
    /// does not compile until it is placed.
    fn key(&self) -> KeyFields;

    /// Runs the task. `kept` is the value the previous task on the same lane left.
    ///
    /// # Errors
    /// Returns an error if the task fails. Its files are then no result.
    fn run(&self, ctx: &TaskContext, kept: &mut LaneState) -> Result<TaskOutput, Error>;

    /// Returns the number of videos, or recorded episodes, in its output.
    fn videos(&self) -> usize {
        0
    }

    /// Returns the digests of the videos it decodes.
    fn digests(&self) -> Vec<&str> {
        vec![]
    }

    /// Returns the keys of the tasks whose frames it copies.
    fn copied_from(&self) -> Vec<&str> {
        vec![]
    }
}

/// A value kept by a lane from task to task, such as a model on its device.
pub type LaneState = Option<Box<dyn Any>>;
