//! The paper, one file a step. In: a task (plain data) and where to write; out: files and what is to be said of them.
//!
//! Reading order: [`decode`] (videos -> shards; [`record`]: from a game; [`import_actions`]: what was truly done there; [`deduplicate`]:
//! what is there twice), [`train_dynamics`] (shards -> IDM + FDM; [`import_dynamics`]: from a file), [`label`] (shards + IDM -> latent
//! actions), [`train_policy`] (labels -> latent policy), [`train_decoder`] (labels + true actions -> decoders), [`finetune`] (latent
//! policy + game -> agent), [`evaluate`] (policy + decoder, or agent -> returns in the game; what latents tell, how far the FDM sees),
//! [`report`] (all of it -> one page).
//! A stage never calls another stage, reads YAML, prints, or picks its output path: all of that is handed in.
//!
//! A stage is one file, which implements [`Stage`] and [`StageTask`], and one line in the list below; [`adding`] shows how to add one.
//! What planning knows is in [`plan`].

use schemars::JsonSchema;
use serde::de::DeserializeOwned;
use serde::{Deserialize, Serialize};

pub use crate::train::{Signal, Stop};

pub mod decode;
pub mod deduplicate;
mod error;
pub mod evaluate;
mod field_faults;
pub mod finetune;
pub mod import_actions;
pub mod import_dynamics;
mod input_file;
pub mod label;
mod labelled_pairs;
mod list;
mod model_files;
pub mod plan;
mod player;
pub mod record;
pub mod report;
mod stage;
pub mod train_decoder;
pub mod train_dynamics;
pub mod train_policy;
mod workplace;
mod world_model;

#[doc = include_str!("adding.md")]
pub mod adding {}

pub use crate::train::{Progress, Silent};
pub use decode::videos::{digest_of, may_pass};
pub use error::Error;
pub use field_faults::{FieldFault, FieldFaults};
pub use stage::{
    ArtifactKind, Input, InputFile, Kept, Lanes, LatentActions, Needs, Speed, Stage, StageKind,
    StageTask, Streaming, VideoPatterns,
};
use workplace::write;
pub use workplace::{Done, Workplace};

// The only list of stages: their order is that of the schema and of a run's last line.
list::stages! {
    /// Videos -> shards of frames.
    Decode(decode::DecodeConfig),
    /// Episodes of a game -> shards of frames.
    Record(record::RecordConfig),
    /// A file of true actions -> the action at each frame.
    ImportActions(import_actions::ImportActionsConfig),
    /// Frames -> which videos are there twice.
    Deduplicate(deduplicate::DeduplicateConfig),
    /// Frames -> inverse and forward dynamics model.
    TrainDynamics(train_dynamics::TrainDynamicsConfig),
    /// A file of weights -> inverse and forward dynamics model.
    ImportDynamics(import_dynamics::ImportDynamicsConfig),
    /// Frames and a dynamics model -> latent actions.
    Label(label::LabelConfig),
    /// Labels -> latent policy.
    TrainPolicy(train_policy::TrainPolicyConfig),
    /// Labels and a few true actions -> decoders of latent actions.
    TrainDecoder(train_decoder::TrainDecoderConfig),
    /// Latent policy and a game -> agent.
    Finetune(finetune::FinetuneConfig),
    /// Latent policy and decoders, or an agent -> what they earn in the game.
    Evaluate(evaluate::EvaluateConfig),
    /// Whatever other stages made -> one HTML page.
    Report(report::ReportConfig),
}

/// Reads the settings of a stage from wherever they are written.
pub trait ReadSettings {
    /// Reads settings of this type; `None` if they have faults, which the reader keeps.
    fn read<T: DeserializeOwned + JsonSchema>(self) -> Option<T>;
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn kinds_are_called_in_yaml_as_their_modules_are() {
        let schema = serde_json::Value::from(schemars::schema_for!(StageSpec));
        let of = |kind: &serde_json::Value| kind["required"][0].as_str().map(str::to_owned);
        let kinds = schema["oneOf"].as_array().map(|kinds| kinds.iter().filter_map(of).collect());
        assert_eq!(kinds, Some(KINDS.map(str::to_owned).to_vec()));
        assert!(KINDS.iter().all(|name| kind_of(name).is_some_and(|kind| kind.name == *name)));
    }
}
