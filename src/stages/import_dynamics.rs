//! Imports a trained IDM and FDM from a file, in place of training them.
//!
//! A task reads weights of lapo or a published PyTorch checkpoint and writes `model.safetensors`,
//! which `label` takes like a trained model.

use std::path::Path;

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use super::input_file::check_unchanged;
use super::plan::{KeyFields, NewTask, PlanInputs, StagePlan};
use super::{
    ArtifactKind, Error, InputFile, LaneState, LatentActions, Needs, Stage, StageKind, StageTask,
    TaskContext, TaskOutput, digest_of,
};
use crate::dataset;
use crate::models::metadata::{DYNAMICS_FORMAT, POLICY_FORMAT};
use crate::models::pytorch::read_pytorch;
use crate::models::weights::Weights;
use crate::models::{Device, DynamicsConfig, ModelError, Precision, labeller};

/// Imports a trained inverse and forward dynamics model.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct ImportDynamicsConfig {
    /// The weights, relative to the current folder: a `model.safetensors` of lapo, or a published
    /// PyTorch checkpoint (`idm_fdm.pt`), whose network sizes are read from its tensors.
    pub weights: String,
}

/// The properties of all `import_dynamics` stages. Raise `version` when the same weights give
/// another model.
pub const KIND: StageKind = StageKind {
    key_inputs: &["model"],
    ..StageKind::new("import_dynamics", 1, &[ArtifactKind::Dynamics], "transitions")
};

/// A file of weights.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct ImportDynamicsTask {
    /// The stage's settings.
    pub config: ImportDynamicsConfig,
    /// The blake3 of the file when the run was planned.
    pub digest: String,
}

impl Stage for ImportDynamicsConfig {
    type Task = ImportDynamicsTask;

    fn kind(&self) -> &'static StageKind {
        &KIND
    }

    fn needs(&self) -> Needs {
        // The weights, twice. Those of the paper take 100 MiB.
        Needs { gpu: false, cores: 1, memory_mib: 512 }
    }

    /// Adds one task. Another file of weights is another model.
    fn plan(&self, given: &PlanInputs, plan: &mut StagePlan) -> dataset::Result<()> {
        let task = ImportDynamicsTask { config: self.clone(), digest: digest_of(&self.weights) };
        plan.set_settings(&task.key().into_fields());
        plan.add(NewTask::new(task, vec![], 1), given.known);
        Ok(())
    }

    fn files(&self) -> Vec<InputFile<'_>> {
        let expected = "a `.safetensors` file of lapo or a published `.pt` file";
        vec![InputFile { field: "weights", path: &self.weights, expected }]
    }

    fn latent_actions(&self) -> Option<LatentActions<'_>> {
        Some(LatentActions::Own)
    }
}

impl StageTask for ImportDynamicsTask {
    fn key(&self) -> KeyFields {
        let ImportDynamicsTask { config, digest } = self;
        // The file's location does not change the model.
        let ImportDynamicsConfig { weights: _ } = config;
        KeyFields::new(&KIND).input("model", digest)
    }

    fn run(&self, ctx: &TaskContext, _: &mut LaneState) -> Result<TaskOutput, Error> {
        run(self, ctx)
    }
}

/// Reads, checks and stores the weights.
fn run(task: &ImportDynamicsTask, ctx: &TaskContext) -> Result<TaskOutput, Error> {
    let path = Path::new(&task.config.weights);
    let mut weights = read_weights(path)?;
    // Checked after reading, so that a change while reading is noticed.
    check_unchanged(path, &task.digest)?;
    weights.metadata.insert("lapo.imported".into(), task.digest.clone());
    describe_dynamics(&mut weights)?;
    let mut model = ctx.store.new_file(&format!("{}/model.safetensors", ctx.folder))?;
    super::write(&mut model, &weights.to_bytes())?;
    ctx.progress.advance(1);
    Ok(TaskOutput { files: vec![model.finish(0)?], ..TaskOutput::default() })
}

/// Converts a published checkpoint to safetensors. Returns the bytes and a description of the
/// networks.
pub fn import_file(path: &Path) -> Result<(Vec<u8>, String), Error> {
    let mut weights = read_weights(path)?;
    let holds = if weights.shapes_under("policy.").is_empty() {
        let DynamicsConfig { idm_scale, fdm_base, context, frame_size, .. } =
            describe_dynamics(&mut weights)?;
        format!(
            "IDM x{idm_scale} and FDM {fdm_base}, {context} frame(s) of context, \
             frames of {frame_size} x {frame_size}"
        )
    } else {
        let config = weights.policy_config()?;
        weights.describe(POLICY_FORMAT, &config);
        format!("latent policy x{}, latent actions of {} values", config.scale, config.latent_dim)
    };
    Ok((weights.to_bytes(), holds))
}

/// Writes the networks' sizes into the metadata, and checks that networks of these sizes can load
/// the weights.
fn describe_dynamics(weights: &mut Weights) -> Result<DynamicsConfig, Error> {
    let config = weights.dynamics_config()?;
    weights.describe(DYNAMICS_FORMAT, &config);
    // Loading fails if a tensor is missing or has another shape.
    labeller(&Device::Cpu, &weights.to_bytes(), Precision::F32)?;
    Ok(config)
}

/// Reads the weights from a PyTorch checkpoint (`.pt` or `.pth`) or a safetensors file.
pub fn read_weights(path: &Path) -> Result<Weights, Error> {
    if path.extension().is_some_and(|extension| extension == "pt" || extension == "pth") {
        return Ok(read_pytorch(path)?);
    }
    let read = |cause| crate::dataset::Error::Io {
        action: "read",
        path: path.display().to_string(),
        cause,
    };
    let weights = Weights::parse(&std::fs::read(path).map_err(read)?);
    Ok(weights.map_err(|error| ModelError::Checkpoint {
        file: path.display().to_string(),
        reason: error.to_string(),
    })?)
}
