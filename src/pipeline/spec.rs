//! What a user writes, typed: [`PipelineSpec`]. What a kind of stage takes and makes is in [`stages`](crate::stages).
//!
//! A stage is `name: { kind: { settings } }`, so that an error can point at the very field. [`parse`](super::parse) makes these types of
//! text; [`check`](super::check) says whether what was written makes sense.

use std::collections::BTreeMap;

use schemars::JsonSchema;
use serde::Serialize;

use crate::dataset::DEFAULT_FILE_MIB;
pub use crate::stages::{ArtifactKind, KINDS, StageSpec};

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
    /// Returns the stage of this name.
    pub fn stage(&self, name: &str) -> Option<&StageSpec> {
        self.stages.iter().find(|(known, _)| known == name).map(|(_, spec)| spec)
    }

    /// The bytes at which a stage's file of joined tables is full.
    pub fn file_bytes(&self, stage: &str) -> u64 {
        let file_mib = self.stage(stage).and_then(|spec| spec.file_mib());
        file_mib.unwrap_or(DEFAULT_FILE_MIB) << 20
    }
}
