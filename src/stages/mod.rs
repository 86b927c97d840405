//! The stages of the pipeline: one module for each kind.
//!
//! | stage | reads | writes |
//! |---|---|---|
//! | [`decode`] | videos | shards of frames |
//! | [`record`] | a game | shards of frames, with true actions |
//! | [`import_actions`] | a file of true actions | the true action at each frame |
//! | [`deduplicate`] | frames | a table of near-duplicate videos |
//! | [`train_dynamics`] | frames | IDM and FDM |
//! | [`import_dynamics`] | a file of weights | IDM and FDM |
//! | [`label`] | frames, IDM | latent actions |
//! | [`train_policy`] | latent actions | latent policy |
//! | [`train_decoder`] | latent actions, true actions | decoders |
//! | [`finetune`] | latent policy, a game | agent |
//! | [`evaluate`] | latent policy and decoders, or an agent | returns, probe accuracy, prediction error |
//! | [`export`] | frames, latent actions | a dataset of another program |
//! | [`report`] | any of these | one HTML page |
//!
//! A stage implements [`Stage`] for its settings and [`StageTask`] for its tasks, and has one line
//! in the list below. [`adding`] shows how to add one. [`plan`] decides which tasks are new.
//!
//! **Invariant:** a stage never calls another stage, reads YAML, prints, or chooses its output
//! path. It receives a task, which is plain data, and a [`TaskContext`].

use schemars::JsonSchema;
use serde::de::DeserializeOwned;
use serde::{Deserialize, Serialize};

pub use crate::train::{Signal, Stop};

pub mod decode;
pub mod deduplicate;
mod error;
pub mod evaluate;
pub mod export;
mod field_faults;
pub mod finetune;
mod frame_scaler;
mod game_rules;
pub mod import_actions;
pub mod import_dynamics;
mod input_file;
pub mod label;
mod labelled_pairs;
mod latent_quality;
mod level_means;
mod list;
mod model_files;
pub mod plan;
mod player;
pub mod record;
pub mod report;
mod stage;
mod task_context;
pub mod train_decoder;
pub mod train_dynamics;
pub mod train_policy;
mod world_model;

#[doc = include_str!("adding.md")]
pub mod adding {}

pub use crate::train::{NoProgress, Progress};
pub use decode::videos::{digest_of, is_transient_io};
pub use error::Error;
pub use field_faults::{FieldFault, FieldFaults};
pub use frame_scaler::{FrameScaler, Size};
pub use player::draw_action;
pub use stage::{
    ArtifactKind, Input, InputFile, LaneState, Lanes, LatentActions, Needs, Speed, Stage,
    StageKind, StageTask, Streaming, VideoPatterns,
};
use task_context::write;
pub use task_context::{TaskContext, TaskOutput};

// The only list of stages. Their order is the order of the schema and of a run's summary.
list::stages! {
    /// Videos -> shards of frames.
    Decode(decode::DecodeConfig),
    /// Episodes of a game -> shards of frames.
    Record(record::RecordConfig),
    /// A file of true actions -> the action at each frame.
    ImportActions(import_actions::ImportActionsConfig),
    /// Frames -> near-duplicate videos.
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
    /// Latent policy and decoders, or an agent -> returns in the game.
    Evaluate(evaluate::EvaluateConfig),
    /// Frames and labels -> a dataset of another program, such as LeRobot's.
    Export(export::ExportConfig),
    /// Results of other stages -> one HTML page.
    Report(report::ReportConfig),
}

/// A source of a stage's settings, such as a part of a YAML file.
pub trait ReadSettings {
    /// Reads settings of this type. Returns `None` if they have faults; the reader keeps the
    /// faults.
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
