//! What a user writes, typed: [`PipelineSpec`], and of every kind of stage what it takes and makes.
//!
//! A stage is `name: { kind: { settings } }`, so that an error can point at the very field. [`parse`](super::parse) makes these types of
//! text; [`check`](super::check) says whether what was written makes sense.

use std::collections::BTreeMap;

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use crate::dataset::DEFAULT_FILE_MIB;
use crate::stages::decode::DecodeConfig;
use crate::stages::deduplicate::DeduplicateConfig;
use crate::stages::evaluate::EvaluateConfig;
use crate::stages::finetune::FinetuneConfig;
use crate::stages::import_actions::ImportActionsConfig;
use crate::stages::import_dynamics::ImportDynamicsConfig;
use crate::stages::label::LabelConfig;
use crate::stages::record::RecordConfig;
use crate::stages::report::ReportConfig;
use crate::stages::train_decoder::TrainDecoderConfig;
use crate::stages::train_dynamics::TrainDynamicsConfig;
use crate::stages::train_policy::TrainPolicyConfig;

/// A pipeline: stages that turn videos into labelled data and models.
#[derive(Clone, Debug, PartialEq, Serialize, JsonSchema)]
#[schemars(deny_unknown_fields)]
pub struct PipelineSpec {
    /// The pipeline's name, shown in every run's record.
    pub name: String,
    /// Where all results lie: a folder, relative to where `lapo` runs.
    pub workspace: String,
    /// Seeds everything random: weights and batches, the ones PyTorch draws after `torch.manual_seed(seed)`, which
    /// takes the low 32 bits. Default 0.
    #[schemars(default)]
    pub seed: u64,
    /// Other pipelines that use the same workspace: a pipeline writes only into its own workspace otherwise.
    #[schemars(default)]
    pub shares_with: Vec<String>,
    /// Variables: `${game}` anywhere in a value is replaced; `--set game=heist` overrides.
    #[schemars(with = "BTreeMap<String, serde_json::Value>", default)]
    pub vars: BTreeMap<String, String>,
    /// The stages by name; a stage names the stages whose results it takes.
    #[schemars(with = "BTreeMap<String, StageSpec>")]
    pub stages: Vec<(String, StageSpec)>,
}

impl PipelineSpec {
    /// The bytes at which a stage's file of joined tables is full.
    pub fn file_bytes(&self, stage: &str) -> u64 {
        let file_mib = self.stages.iter().find_map(|(name, spec)| match spec {
            StageSpec::Label(config) if name == stage => Some(config.file_mib),
            _ => None,
        });
        file_mib.unwrap_or(DEFAULT_FILE_MIB) << 20
    }
}

/// One stage: its kind and settings.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub enum StageSpec {
    /// Videos -> shards of frames.
    Decode(DecodeConfig),
    /// Episodes of a game -> shards of frames.
    Record(RecordConfig),
    /// A file of true actions -> the action at each frame.
    ImportActions(ImportActionsConfig),
    /// Frames -> which videos are there twice.
    Deduplicate(DeduplicateConfig),
    /// Frames -> inverse and forward dynamics model.
    TrainDynamics(TrainDynamicsConfig),
    /// A file of weights -> inverse and forward dynamics model.
    ImportDynamics(ImportDynamicsConfig),
    /// Frames and a dynamics model -> latent actions.
    Label(LabelConfig),
    /// Labels -> latent policy.
    TrainPolicy(TrainPolicyConfig),
    /// Labels and a few true actions -> decoders of latent actions.
    TrainDecoder(TrainDecoderConfig),
    /// Latent policy and a game -> agent.
    Finetune(FinetuneConfig),
    /// Latent policy and decoders, or an agent -> what they earn in the game.
    Evaluate(EvaluateConfig),
    /// Whatever other stages made -> one HTML page.
    Report(ReportConfig),
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
    /// What was truly done.
    Actions,
    /// Which videos are nearly the same as others.
    Copies,
    /// Decoders of latent actions.
    Decoder,
    /// A network that plays.
    Agent,
    /// What a policy earned.
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

/// The kinds of stage as the YAML names them.
pub const KINDS: [&str; 12] = [
    "decode",
    "record",
    "import_actions",
    "deduplicate",
    "train_dynamics",
    "import_dynamics",
    "label",
    "train_policy",
    "train_decoder",
    "finetune",
    "evaluate",
    "report",
];

impl StageSpec {
    /// The share of videos that may be rejected before a run stops.
    pub fn most_rejected(&self) -> Option<f64> {
        match self {
            StageSpec::Decode(config) => config.max_rejected,
            _ => None,
        }
    }

    /// The share of the dataset's videos that may be gone before a run stops.
    pub fn max_dropped(&self) -> Option<f64> {
        match self {
            StageSpec::Decode(config) => Some(config.max_dropped),
            _ => None,
        }
    }

    /// The side of the frames it makes, in pixels.
    pub fn frame_size(&self) -> Option<u32> {
        match self {
            StageSpec::Decode(config) => Some(config.size),
            StageSpec::Record(config) => Some(config.size),
            _ => None,
        }
    }

    /// The kind as the YAML names it.
    pub fn kind(&self) -> &'static str {
        match self {
            StageSpec::Decode(_) => "decode",
            StageSpec::Record(_) => "record",
            StageSpec::ImportActions(_) => "import_actions",
            StageSpec::Deduplicate(_) => "deduplicate",
            StageSpec::TrainDynamics(_) => "train_dynamics",
            StageSpec::ImportDynamics(_) => "import_dynamics",
            StageSpec::Label(_) => "label",
            StageSpec::TrainPolicy(_) => "train_policy",
            StageSpec::TrainDecoder(_) => "train_decoder",
            StageSpec::Finetune(_) => "finetune",
            StageSpec::Evaluate(_) => "evaluate",
            StageSpec::Report(_) => "report",
        }
    }

    /// What it makes.
    pub fn outputs(&self) -> &'static [ArtifactKind] {
        match self {
            StageSpec::Decode(_) => &[ArtifactKind::Frames],
            StageSpec::Record(_) => &[ArtifactKind::Frames, ArtifactKind::Actions],
            StageSpec::ImportActions(_) => &[ArtifactKind::Actions],
            StageSpec::Deduplicate(_) => &[ArtifactKind::Copies],
            StageSpec::TrainDynamics(_) | StageSpec::ImportDynamics(_) => &[ArtifactKind::Dynamics],
            StageSpec::Label(_) => &[ArtifactKind::Labels],
            StageSpec::TrainPolicy(_) => &[ArtifactKind::Policy],
            StageSpec::TrainDecoder(_) => &[ArtifactKind::Decoder],
            StageSpec::Finetune(_) => &[ArtifactKind::Agent],
            StageSpec::Evaluate(_) => &[ArtifactKind::Evaluation],
            StageSpec::Report(_) => &[],
        }
    }

    /// What it takes: field, the stage named there, what that stage must make.
    pub fn inputs(&self) -> Vec<(&'static str, &str, ArtifactKind)> {
        match self {
            StageSpec::Decode(_) | StageSpec::ImportDynamics(_) => vec![],
            StageSpec::Record(c) => named([
                ("policy", &c.policy, ArtifactKind::Policy),
                ("decoder", &c.decoder, ArtifactKind::Decoder),
                ("agent", &c.agent, ArtifactKind::Agent),
            ]),
            StageSpec::ImportActions(c) => vec![("frames", &c.frames, ArtifactKind::Frames)],
            StageSpec::Deduplicate(c) => vec![("frames", &c.frames, ArtifactKind::Frames)],
            StageSpec::TrainDynamics(c) => {
                let others = named([("actions", &c.actions, ArtifactKind::Actions), ("without", &c.without, ArtifactKind::Copies)]);
                [("frames", c.frames.as_str(), ArtifactKind::Frames)].into_iter().chain(others).collect()
            }
            StageSpec::TrainPolicy(c) => vec![("labels", &c.labels, ArtifactKind::Labels)],
            StageSpec::TrainDecoder(c) => vec![("labels", &c.labels, ArtifactKind::Labels), ("actions", &c.actions, ArtifactKind::Actions)],
            StageSpec::Finetune(c) => {
                named([("policy", &c.policy, ArtifactKind::Policy), ("dynamics", &c.dynamics, ArtifactKind::Dynamics)])
            }
            StageSpec::Evaluate(c) => named([
                ("policy", &c.policy, ArtifactKind::Policy),
                ("decoder", &c.decoder, ArtifactKind::Decoder),
                ("agent", &c.agent, ArtifactKind::Agent),
                ("labels", &c.labels, ArtifactKind::Labels),
                ("actions", &c.actions, ArtifactKind::Actions),
                ("dynamics", &c.dynamics, ArtifactKind::Dynamics),
                ("frames", &c.frames, ArtifactKind::Frames),
            ]),
            StageSpec::Label(c) => {
                let others = named([("actions", &c.actions, ArtifactKind::Actions), ("without", &c.without, ArtifactKind::Copies)]);
                let frames = [("frames", c.frames.as_str(), ArtifactKind::Frames), ("dynamics", &c.dynamics, ArtifactKind::Dynamics)];
                frames.into_iter().chain(others).collect()
            }
            StageSpec::Report(c) => c.sources().into_iter().map(|(field, stage)| (field, stage, of_report(field))).collect(),
        }
    }

    /// Faults of single fields: `(field, what is wrong, cure)`.
    pub fn validate(&self) -> Vec<(&'static str, String, &'static str)> {
        match self {
            StageSpec::Decode(c) => c.validate(),
            StageSpec::Record(c) => c.validate(),
            StageSpec::Deduplicate(c) => c.validate(),
            StageSpec::TrainDynamics(c) => c.validate(),
            StageSpec::TrainPolicy(c) => c.validate(),
            StageSpec::TrainDecoder(c) => c.validate(),
            StageSpec::Finetune(c) => c.validate(),
            StageSpec::Evaluate(c) => c.validate(),
            StageSpec::Report(c) => c.validate(),
            StageSpec::Label(c) => c.validate(),
            StageSpec::ImportActions(_) | StageSpec::ImportDynamics(_) => vec![],
        }
    }
}

/// The inputs that are given.
fn named<'a, const N: usize>(fields: [(&'static str, &'a Option<String>, ArtifactKind); N]) -> Vec<(&'static str, &'a str, ArtifactKind)> {
    fields.into_iter().filter_map(|(field, stage, makes)| Some((field, stage.as_deref()?, makes))).collect()
}

/// What the stage in a field of a report must make.
fn of_report(field: &str) -> ArtifactKind {
    match field {
        "frames" => ArtifactKind::Frames,
        "dynamics" => ArtifactKind::Dynamics,
        "labels" => ArtifactKind::Labels,
        "actions" => ArtifactKind::Actions,
        "policy" => ArtifactKind::Policy,
        "decoder" => ArtifactKind::Decoder,
        "agents" => ArtifactKind::Agent,
        _ => ArtifactKind::Evaluation,
    }
}
