//! The settings of `train_decoder`.

use std::collections::BTreeSet;

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use super::{KIND, TrainDecoderTask};
use crate::dataset;
use crate::stages::plan::{NewTask, PlanInputs, StagePlan};
use crate::stages::{
    ArtifactKind, FieldFault, FieldFaults, Input, LatentActions, Needs, Stage, StageKind, StageTask,
};

/// Trains decoders from latent to true actions on a few transitions where both are known.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct TrainDecoderConfig {
    /// The `label` stage whose latent actions are decoded.
    pub labels: String,
    /// The stage with true actions: `record` or `import_actions`.
    pub actions: String,
    /// Numbers of transitions to train on, with a decoder for each. Default `[256]`. The paper's
    /// curve has 16 to 8,192.
    #[serde(default = "default_transitions")]
    pub transitions: Vec<usize>,
    /// Random draws of each number of transitions, with a decoder for each draw. Raise it for a
    /// more certain curve. Default 3.
    #[serde(default = "default_draws")]
    pub draws: u64,
    /// Width of each hidden layer. Default `[128, 128]`. `[]`: a linear decoder.
    #[serde(default = "default_hidden")]
    pub hidden: Vec<usize>,
    /// Training steps. Default 1,000.
    #[serde(default = "default_steps")]
    pub steps: u64,
    /// Transitions in a step, drawn with replacement. Default 256.
    #[serde(default = "default_batch")]
    pub batch: usize,
    /// Adam's learning rate at the start. It falls to 0 at the end. Default 1e-3.
    #[serde(default = "default_learning_rate")]
    pub learning_rate: f64,
    /// Share of the target probability that is spread evenly over all actions, against
    /// overconfidence. Discrete actions only. Default 0.05.
    #[serde(default = "default_label_smoothing")]
    pub label_smoothing: f64,
    /// What a decoder of continuous actions predicts. Default `mse`.
    #[serde(default, skip_serializing_if = "Head::is_default")]
    pub head: Head,
}

/// The outputs of a decoder of continuous actions.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "lowercase")]
pub enum Head {
    /// The action, trained with the mean squared error. Players take it as it is.
    #[default]
    Mse,
    /// A normal distribution for each axis, trained on its likelihood: the mean and the logarithm
    /// of the standard deviation. Players draw actions from it.
    Gaussian,
}

impl Head {
    fn is_default(&self) -> bool {
        *self == Head::default()
    }
}

fn default_transitions() -> Vec<usize> {
    vec![256]
}
fn default_draws() -> u64 {
    3
}
fn default_hidden() -> Vec<usize> {
    vec![128, 128]
}
fn default_steps() -> u64 {
    1000
}
fn default_batch() -> usize {
    256
}
fn default_learning_rate() -> f64 {
    1e-3
}
fn default_label_smoothing() -> f64 {
    0.05
}

impl TrainDecoderConfig {
    /// Returns the number of transitions and the draw of each decoder, in the order of training.
    pub fn decoders(&self) -> Vec<(usize, u64)> {
        let numbers: BTreeSet<usize> = self.transitions.iter().copied().collect();
        numbers
            .into_iter()
            .flat_map(|transitions| (0..self.draws).map(move |draw| (transitions, draw)))
            .collect()
    }
}

impl Stage for TrainDecoderConfig {
    type Task = TrainDecoderTask;

    fn kind(&self) -> &'static StageKind {
        &KIND
    }

    fn inputs(&self) -> Vec<Input<'_>> {
        vec![
            Input::new("labels", &self.labels, ArtifactKind::Labels),
            Input::new("actions", &self.actions, ArtifactKind::Actions),
        ]
    }

    fn validate(&self) -> Vec<FieldFault> {
        let mut faults = FieldFaults::default();
        faults.expect(
            !self.transitions.is_empty(),
            "transitions",
            "is empty",
            "expected at least one number, e.g. [64, 256]",
        );
        faults.expect(
            !self.transitions.contains(&0),
            "transitions",
            "has a 0",
            "expected numbers of at least 1",
        );
        faults.expect_positive("draws", self.draws);
        faults.expect(
            !self.hidden.contains(&0),
            "hidden",
            "has a 0",
            "expected widths of at least 1; [] for a linear decoder",
        );
        faults.expect_positive("steps", self.steps);
        faults.expect_positive("batch", self.batch);
        faults.expect_value(
            self.learning_rate.is_finite() && self.learning_rate > 0.0,
            "learning_rate",
            self.learning_rate,
            "expected a number above 0",
        );
        faults.expect_value(
            (0.0..1.0).contains(&self.label_smoothing),
            "label_smoothing",
            self.label_smoothing,
            "expected a share from 0 to below 1",
        );
        faults.into_vec()
    }

    fn needs(&self) -> Needs {
        // The networks are small. A drawn latent action takes half a KiB.
        Needs { gpu: false, cores: 2, memory_mib: 1024 }
    }

    /// Adds one task for all decoders, because they share labels and true actions.
    fn plan(&self, given: &PlanInputs, plan: &mut StagePlan) -> dataset::Result<()> {
        let labels = given.plan(&self.labels);
        let actions = given.plan(&self.actions);
        let task = TrainDecoderTask {
            config: self.clone(),
            seed: given.seed,
            holdout: given.holdout,
            labels: labels.tasks.files("labels.parquet"),
            actions: actions.action_files(),
        };
        plan.set_settings(&task.key().into_fields());
        if plan.waits_for([("labels", Some(labels)), ("true actions", Some(actions))]) {
            return Ok(());
        }
        let units = self.decoders().len() as u64;
        let inputs = labels.tasks.keys().into_iter().chain(actions.tasks.keys()).collect();
        plan.add(NewTask::new(task, inputs, units), given.known);
        Ok(())
    }

    fn latent_actions(&self) -> Option<LatentActions<'_>> {
        Some(LatentActions::Labels(&self.labels))
    }
}
