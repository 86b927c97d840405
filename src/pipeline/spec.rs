//! The typed form of a pipeline file: [`PipelineSpec`].
//!
//! A stage is written as `name: { kind: { settings } }`, so that an error can point at a single
//! field. The kinds of stages are in [`stages`](crate::stages). [`parse`](super::parse) creates
//! these types from text; [`check`](super::check) validates them.

use std::collections::BTreeMap;

use schemars::JsonSchema;
use serde::Serialize;

use crate::dataset::DEFAULT_FILE_MIB;
pub use crate::stages::{ArtifactKind, KINDS, StageSpec};

/// A pipeline: stages from videos to labelled data and models.
#[derive(Clone, Debug, PartialEq, Serialize, JsonSchema)]
#[schemars(deny_unknown_fields)]
pub struct PipelineSpec {
    /// The pipeline's name. It appears in the record of every run.
    pub name: String,
    /// The workspace for all results: a folder relative to the current folder, or an object store
    /// address.
    pub workspace: String,
    /// The seed of all random numbers, such as initial weights and batches. They are drawn as
    /// PyTorch draws them after `torch.manual_seed(seed)`, which uses the low 32 bits. Default 0.
    #[schemars(default)]
    pub seed: u64,
    /// One in `holdout` videos is held out, by a hash of its content: no stage trains on it, and
    /// all that judge do so on it. A single video is cut instead: its last fifth is held out. 0:
    /// nothing is, and models are judged on what they were trained on. Default 5.
    #[schemars(default = "default_holdout")]
    pub holdout: usize,
    /// Other pipelines with access to the same workspace. By default a workspace belongs to one
    /// pipeline.
    #[schemars(default)]
    pub shares_with: Vec<String>,
    /// Variables: `${game}` in any value is replaced by the variable's text. `--set game=heist`
    /// overrides one.
    #[schemars(with = "BTreeMap<String, serde_json::Value>", default)]
    pub vars: BTreeMap<String, String>,
    /// The stages by name. A stage refers to its inputs by their names.
    #[schemars(with = "BTreeMap<String, StageSpec>")]
    pub stages: Vec<(String, StageSpec)>,
}

/// Returns the default of `holdout`.
pub(super) fn default_holdout() -> usize {
    5
}

impl PipelineSpec {
    /// Returns the stage with this name.
    pub fn stage(&self, name: &str) -> Option<&StageSpec> {
        self.stages.iter().find(|(known, _)| known == name).map(|(_, spec)| spec)
    }

    /// Returns the maximum size in bytes of a stage's files of joined tables.
    pub fn file_bytes(&self, stage: &str) -> u64 {
        let file_mib = self.stage(stage).and_then(|spec| spec.file_mib());
        file_mib.unwrap_or(DEFAULT_FILE_MIB) << 20
    }
}
