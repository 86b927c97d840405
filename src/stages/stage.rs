//! The traits of a stage: [`Stage`] for its settings, [`StageTask`] for its tasks, [`StageKind`] for
//! what all stages of one kind have in common.
//!
//! A stage implements them in its own file. The list in `stages/mod.rs` generates
//! [`StageSpec`](super::StageSpec) and [`Task`](super::Task). All other modules use a stage through
//! these traits and name no kind.

use std::any::Any;

use serde::Serialize;

use super::plan::{Given, KeyFields, Model, StagePlan};
use super::{Done, Error, FieldFault, Workplace};
use crate::dataset::{self, Receipt};

/// What stages of one kind have in common, whatever their settings.
#[derive(Debug)]
pub struct StageKind {
    /// The name in YAML.
    pub name: &'static str,
    /// The version of the code. Raise it when the same settings and inputs give another output.
    pub version: u32,
    /// What the stage makes.
    pub makes: &'static [ArtifactKind],
    /// What progress counts, such as `videos` or `steps`.
    pub unit: &'static str,
    /// The fields of a key that are inputs, the most telling first; all others are settings.
    pub key_inputs: &'static [&'static str],
    /// What a row of the stage's table is. Default `row`.
    pub row: &'static str,
    /// How tasks run beside each other. Default: one after the other.
    pub lanes: Lanes,
    /// Whether a task is of use without the others, since each makes rows of its own. Default false.
    pub independent: bool,
    /// Whether tasks keep checkpoints in [`Workplace::scratch`]. Default false.
    pub has_checkpoints: bool,
    /// Whether the stage keeps its model while what it learns from grows, so that `--refresh` is
    /// of use. Default false.
    pub keeps_model: bool,
    /// Whether tasks of the version before stay in place of new ones that failed. Default false.
    pub restores: bool,
    /// Classes of rejects that `max_rejected` does not count. Default none.
    pub harmless: &'static [&'static str],
    /// The speed that a run's last line shows. Default none.
    pub speed: Option<Speed>,
}

impl StageKind {
    /// Creates a kind with defaults for all fields but these and no inputs in its keys.
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
            independent: false,
            has_checkpoints: false,
            keeps_model: false,
            restores: false,
            harmless: &[],
            speed: None,
        }
    }

    /// Returns whether stages of this kind make such artifacts.
    pub fn makes(&self, artifact: ArtifactKind) -> bool {
        self.makes.contains(&artifact)
    }
}

/// How the tasks of a stage run beside each other on one machine.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Lanes {
    /// One after the other on the first device; each uses all cores.
    OneByOne,
    /// One on each core.
    PerCore,
    /// Several on each GPU; without a GPU, one after the other.
    PerGpu,
}

/// A speed: a statistic of the tasks by the time that they took.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Speed {
    /// The statistic.
    pub of: &'static str,
    /// What follows the number, such as `frames/s decoded`.
    pub unit: &'static str,
}

/// What a stage makes, and another stage takes.
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
    /// Which videos are near-duplicates of others.
    Copies,
    /// Decoders of latent actions.
    Decoder,
    /// A network that plays.
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
            ArtifactKind::Copies => "near-copies",
            ArtifactKind::Decoder => "decoders",
            ArtifactKind::Agent => "an agent",
            ArtifactKind::Evaluation => "an evaluation",
        })
    }
}

/// An input of a stage: a field of its settings that names another stage.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Input<'a> {
    /// The field.
    pub field: &'static str,
    /// The stage that it names.
    pub stage: &'a str,
    /// What that stage must make.
    pub artifact: ArtifactKind,
    /// Whether that stage must be about the frames of the stage in the field `frames`.
    pub same_frames: bool,
    /// Whether the latent actions of all such inputs must come from one model.
    pub same_model: bool,
}

impl<'a> Input<'a> {
    /// Creates an input that fits with any other.
    pub fn new(field: &'static str, stage: &'a str, artifact: ArtifactKind) -> Self {
        Input { field, stage, artifact, same_frames: false, same_model: false }
    }

    /// Creates an input where the field is set.
    pub fn given(
        field: &'static str,
        stage: &'a Option<String>,
        artifact: ArtifactKind,
    ) -> Option<Self> {
        stage.as_deref().map(|stage| Input::new(field, stage, artifact))
    }

    /// Demands that it is about the same frames as the field `frames`.
    pub fn of_the_same_frames(self) -> Self {
        Input { same_frames: true, ..self }
    }

    /// Demands that its latent actions and those of other such inputs come from one model.
    pub fn of_one_model(self) -> Self {
        Input { same_model: true, ..self }
    }
}

/// What a task of a stage needs to run: estimates, for placing tasks on machines.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize)]
pub struct Needs {
    /// Whether a GPU makes it much faster; every stage runs without one.
    pub gpu: bool,
    /// Cores that it keeps busy.
    pub cores: u32,
    /// Main memory at its peak, in MiB; with a GPU, part of it is the GPU's.
    pub memory_mib: u64,
}

/// Where the settings of a stage look for videos.
#[derive(Clone, Copy, Debug)]
pub struct VideoPatterns<'a> {
    /// Glob patterns, from the field `videos`.
    pub videos: &'a [String],
    /// Files that list videos, from the field `lists`.
    pub lists: &'a [String],
}

/// A file that the settings of a stage name and that must exist.
#[derive(Clone, Copy, Debug)]
pub struct InputFile<'a> {
    /// The field.
    pub field: &'static str,
    /// The path.
    pub path: &'a str,
    /// What kind of file is expected, for people.
    pub expected: &'static str,
}

/// The model that gives the latent actions of a stage their meaning.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum LatentActions<'a> {
    /// The stage itself is that model.
    Own,
    /// The model of this stage.
    Model(&'a str),
    /// The same model as this stage of labels has.
    Labels(&'a str),
}

/// A stage that can work on shards while others are still being made.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Streaming<'a> {
    /// The stage that makes the shards.
    pub shards: &'a str,
    /// The stage whose model it needs.
    pub model: &'a str,
}

/// The settings of a stage: what it takes, whether they make sense, which tasks it has.
pub trait Stage {
    /// A task of the stage.
    type Task: StageTask
    where
        Self: Sized;

    /// Returns what all stages of this kind have in common.
    fn kind(&self) -> &'static StageKind;

    /// Returns the inputs, in the order in which faults are reported.
    fn inputs(&self) -> Vec<Input<'_>> {
        vec![]
    }

    /// Returns the faults of single fields.
    fn validate(&self) -> Vec<FieldFault> {
        vec![]
    }

    /// Returns what one of its tasks needs to run.
    fn needs(&self) -> Needs;

    /// Adds the tasks of the stage's dataset to `plan`, and sets the plan's settings.
    ///
    /// # Errors
    /// If a store cannot be read at the moment.
    fn plan(&self, given: &Given, plan: &mut StagePlan) -> dataset::Result<()>;

    /// Returns where it looks for videos.
    fn video_patterns(&self) -> Option<VideoPatterns<'_>> {
        None
    }

    /// Returns the files that must exist before anything runs.
    fn files(&self) -> Vec<InputFile<'_>> {
        vec![]
    }

    /// Returns the side of the frames that it makes, in pixels.
    fn frame_size(&self) -> Option<u32> {
        None
    }

    /// Returns why there are no such networks for frames of this size: the field, what it is, what
    /// is expected.
    fn network_fault(&self, _frame_size: u32) -> Option<(&'static str, String, String)> {
        None
    }

    /// Returns the share of videos that may be rejected before a run stops.
    fn max_rejected(&self) -> Option<f64> {
        None
    }

    /// Returns the share of the dataset's videos that may be gone before a run stops.
    fn max_dropped(&self) -> Option<f64> {
        None
    }

    /// Returns the size in MiB at which a file of joined tables is full.
    fn file_mib(&self) -> Option<u64> {
        None
    }

    /// Returns the stage whose frames its results are about, where it is called `own`.
    fn about_frames_of<'a>(&'a self, _own: &'a str) -> Option<&'a str> {
        None
    }

    /// Returns which model gives its latent actions their meaning.
    fn latent_actions(&self) -> Option<LatentActions<'_>> {
        None
    }

    /// Returns what it waits for, if it can work on shards while others are still being made.
    fn streams(&self) -> Option<Streaming<'_>> {
        None
    }

    /// Adds the task of one shard to `plan`, for a stage that [streams](Stage::streams).
    fn plan_shard(&self, _shard: &Receipt, _model: Model, _plan: &mut StagePlan) {}
}

/// A unit of work: what decides its key, and how it runs.
pub trait StageTask {
    /// Returns the fields that decide its key. An implementation destructures the task and its
    /// settings without `..`, so that a new field does not compile until it is placed.
    fn key(&self) -> KeyFields;

    /// Does the work. `kept` is what the task before it on the same lane left.
    ///
    /// # Errors
    /// If the task fails; what it wrote is then no result.
    fn run(&self, place: &Workplace, kept: &mut Kept) -> Result<Done, Error>;

    /// Returns the number of videos, or recorded episodes, that become rows.
    fn videos(&self) -> usize {
        0
    }

    /// Returns the digests of the videos that it decodes.
    fn digests(&self) -> Vec<&str> {
        vec![]
    }

    /// Returns the keys of the tasks whose frames it copies.
    fn copied_from(&self) -> Vec<&str> {
        vec![]
    }
}

/// What a lane keeps from task to task, such as a model on its device.
pub type Kept = Option<Box<dyn Any>>;
