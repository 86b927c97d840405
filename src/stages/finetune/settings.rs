//! The settings of `finetune`, with the paper's values as defaults.

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use super::{FinetuneTask, KIND};
use crate::dataset;
use crate::envs::{FRAME_SIDE, GameSetting, Levels, Mode};
use crate::models::{Precision, Preset};
use crate::stages::game_rules::GameRules;
use crate::stages::plan::key::key;
use crate::stages::plan::{NewTask, PlanInputs, StagePlan};
use crate::stages::{
    ArtifactKind, FieldFault, FieldFaults, Input, Needs, Stage, StageKind, StageTask,
};
use crate::video::Fit;

/// Trains an agent in a game by PPO, from a latent policy or from scratch.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct FinetuneConfig {
    /// The `train_policy` stage with the policy to start from. Not with `from_scratch`.
    #[serde(default)]
    pub policy: Option<String>,
    /// The `train_dynamics` or `import_dynamics` stage whose IDM labelled for the policy. Its
    /// latent actions train the decoder of the supervised path; not without that path.
    #[serde(default)]
    pub dynamics: Option<String>,
    /// The game: the name of a Procgen game, or an environment of Gymnasium with discrete actions,
    /// such as `{ gymnasium: MiniGrid-Empty-5x5-v0, imports: [minigrid] }`.
    pub game: GameSetting,
    /// Difficulty of the levels: `easy`, as in the paper, or `hard`. Procgen only.
    #[serde(default)]
    pub mode: Mode,
    /// Numbers of the levels. Default: all levels, as in the paper. Procgen only.
    #[serde(default)]
    pub levels: Levels,
    /// Seeds weights, levels and actions. Set it to compare several seeds in one pipeline. Default:
    /// the pipeline's seed.
    #[serde(default)]
    pub seed: Option<u64>,
    /// Environment steps, summed over all environments. From a policy, the decoder of the
    /// supervised path, the heads and the trunk begin to learn one after the other in the first
    /// 200,000, as in the published code; in a shorter training all of these times shrink in
    /// proportion. It takes at least 5 x `envs` x `rollout`, five updates; from scratch one.
    /// Default 4,000,000, as in the paper.
    #[serde(default = "default_steps")]
    pub steps: u64,
    /// Trains a network with random weights, without a policy: plain PPO, as a baseline or to get
    /// an expert. Default false.
    #[serde(default)]
    pub from_scratch: bool,
    /// Whether the logits are the mean of two paths: a new policy head, and the latent policy with
    /// a decoder (the supervised path). `false`: the new head alone. Default true.
    #[serde(default = "default_true")]
    pub supervised_path: bool,
    /// Trains as the published code does, for comparison: the value head starts orthogonal, with a
    /// gain of sqrt 2 and no bias, and the decoder is trained on latent actions as they are, in
    /// three shuffled epochs of Adam at 1e-3, without a limit on the gradients' norm. Otherwise the
    /// value head is the policy's, and the decoder is trained on normalised latent actions, at a
    /// rate that falls to 0; a tenth of the pairs chooses the best of its states. Default false.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub reference: bool,
    /// Size of the network with `from_scratch`: `tiny` (IMPALA x1), `small` (x2) or `paper` (x4).
    #[serde(default)]
    pub preset: Preset,
    /// Side of the frames with `from_scratch`, in pixels: 64, 32 or 16. Default 64. Gymnasium: 8 to
    /// 1024.
    #[serde(default = "default_size")]
    pub size: usize,
    /// How a frame of Gymnasium becomes square: `stretch` (default), `crop` or `pad`, as in the
    /// stage whose frames the policy was trained on. Procgen's frames are square.
    #[serde(default, skip_serializing_if = "Fit::is_default")]
    pub fit: Fit,
    /// Environments in parallel. Default 64.
    #[serde(default = "default_64")]
    pub envs: usize,
    /// Steps of each environment between two updates. Default 64.
    #[serde(default = "default_64")]
    pub rollout: usize,
    /// Minibatches of an epoch. Default 8.
    #[serde(default = "default_minibatches")]
    pub minibatches: usize,
    /// Epochs of an update over its rollout. Default 3.
    #[serde(default = "default_epochs")]
    pub epochs: usize,
    /// Adam's peak learning rate. Layers take shares of it that follow schedules of their own.
    /// Default 1e-2 from a policy, as in the paper; 5e-4 from scratch, as usual for Procgen. Lower
    /// it if training diverges.
    #[serde(default)]
    pub learning_rate: Option<f64>,
    /// Discount of a reward per step. Default 0.999.
    #[serde(default = "default_gamma")]
    pub gamma: f64,
    /// Lambda of generalised advantage estimation: 0 trusts the value function, 1 the observed
    /// returns. Default 0.95.
    #[serde(default = "default_gae_lambda")]
    pub gae_lambda: f64,
    /// Range in which an update rewards changes of probability ratios and values. Default 0.2.
    #[serde(default = "default_clip_coef")]
    pub clip_coef: f64,
    /// Weight of the entropy bonus. Raise it for more exploration. Default 0.0025.
    #[serde(default = "default_ent_coef")]
    pub ent_coef: f64,
    /// Weight of the value loss. Default 0.5.
    #[serde(default = "default_vf_coef")]
    pub vf_coef: f64,
    /// Maximum norm of all gradients together. Default 0.5.
    #[serde(default = "default_norm")]
    pub max_grad_norm: f64,
    /// Number format of the network's passes: `f32` or `bf16`. Losses, weights and the optimiser
    /// are always in single precision. Default `f32`.
    #[serde(default)]
    pub precision: Precision,
}

fn default_steps() -> u64 {
    4_000_000
}
fn default_true() -> bool {
    true
}
fn default_size() -> usize {
    FRAME_SIDE
}
fn default_64() -> usize {
    64
}
fn default_minibatches() -> usize {
    8
}
fn default_epochs() -> usize {
    3
}
fn default_gamma() -> f64 {
    0.999
}
fn default_gae_lambda() -> f64 {
    0.95
}
fn default_clip_coef() -> f64 {
    0.2
}
fn default_ent_coef() -> f64 {
    0.0025
}
fn default_vf_coef() -> f64 {
    0.5
}
fn default_norm() -> f64 {
    0.5
}

impl FinetuneConfig {
    /// Returns the number of transitions in a rollout.
    pub fn batch(&self) -> usize {
        self.envs * self.rollout
    }

    /// Returns the number of updates.
    pub fn updates(&self) -> u64 {
        self.steps / self.batch().max(1) as u64
    }

    /// Returns whether the logits include the latent policy with a decoder.
    pub fn has_supervised_path(&self) -> bool {
        self.supervised_path && !self.from_scratch
    }
}

/// The rules for fields.
impl FinetuneConfig {
    fn expect_inputs(&self, faults: &mut FieldFaults) {
        let seen = |given: bool, unused: &'static str| if given { unused } else { "is missing" };
        let policy = self.policy.is_some();
        faults.expect(
            policy != self.from_scratch,
            "policy",
            seen(policy, "is not used from scratch"),
            "name a `train_policy` stage, or set `from_scratch: true`",
        );
        let dynamics = self.dynamics.is_some();
        faults.expect(
            dynamics == self.has_supervised_path(),
            "dynamics",
            seen(dynamics, "is not used without the supervised path"),
            "only the supervised path needs it: name the stage whose IDM labelled for the policy",
        );
        let FinetuneConfig { game, mode, levels, size, fit, .. } = self;
        let (mode, levels, fit) = (*mode, *levels, *fit);
        GameRules { game, mode, levels, size: Some(*size), fit }.check(faults);
    }

    fn expect_rollout(&self, faults: &mut FieldFaults) {
        faults.expect_positive("envs", self.envs);
        faults.expect_positive("rollout", self.rollout);
        faults.expect_positive("minibatches", self.minibatches);
        faults.expect_positive("epochs", self.epochs);
        faults.expect_value(
            self.rollout >= 3,
            "rollout",
            self.rollout,
            "expected at least 3, the frames of a window",
        );
        let batch = self.batch().max(1);
        let minibatches = self.minibatches;
        faults.expect_value(
            minibatches == 0 || batch.is_multiple_of(minibatches),
            "minibatches",
            minibatches,
            "expected a divisor of `envs` x `rollout`",
        );
        // Advantages are normalised within a minibatch, so one transition is too few.
        faults.expect_value(
            minibatches == 0 || batch >= 2 * minibatches,
            "minibatches",
            minibatches,
            "expected at least two transitions in each",
        );
    }

    fn expect_coefficients(&self, faults: &mut FieldFaults) {
        for (field, value) in [("gamma", self.gamma), ("gae_lambda", self.gae_lambda)] {
            faults.expect_value((0.0..=1.0).contains(&value), field, value, "expected 0 to 1");
        }
        let mut positive =
            vec![("clip_coef", self.clip_coef), ("max_grad_norm", self.max_grad_norm)];
        positive.extend(self.learning_rate.map(|rate| ("learning_rate", rate)));
        for (field, value) in positive {
            let holds = value.is_finite() && value > 0.0;
            faults.expect_value(holds, field, value, "expected a number above 0");
        }
        for (field, value) in [("ent_coef", self.ent_coef), ("vf_coef", self.vf_coef)] {
            let holds = value.is_finite() && value >= 0.0;
            faults.expect_value(holds, field, value, "expected a number of at least 0");
        }
    }
}

impl Stage for FinetuneConfig {
    type Task = FinetuneTask;

    fn kind(&self) -> &'static StageKind {
        &KIND
    }

    fn inputs(&self) -> Vec<Input<'_>> {
        let inputs = [
            // Rollouts hold single frames.
            Input::given("policy", &self.policy, ArtifactKind::Policy)
                .map(|policy| policy.of_policy_frames(1)),
            Input::given("dynamics", &self.dynamics, ArtifactKind::Dynamics),
        ];
        inputs.into_iter().flatten().map(Input::of_one_model).collect()
    }

    fn validate(&self) -> Vec<FieldFault> {
        let mut faults = FieldFaults::default();
        self.expect_inputs(&mut faults);
        self.expect_timetable(&mut faults);
        self.expect_rollout(&mut faults);
        self.expect_coefficients(&mut faults);
        faults.into_vec()
    }

    fn needs(&self) -> Needs {
        // A rollout is in memory: 48 KiB for each frame of 64 x 64 pixels as floats.
        let memory_mib = 1024 + (self.batch() as u64 * 48).div_ceil(1024);
        Needs { gpu: true, cores: 4, memory_mib }
    }

    /// Adds one task.
    fn plan(&self, given: &PlanInputs, plan: &mut StagePlan) -> dataset::Result<()> {
        let [policy, dynamics] =
            [&self.policy, &self.dynamics].map(|name| given.plan_if(name.as_ref()));
        let mut task = FinetuneTask {
            config: self.clone(),
            seed: self.seed.unwrap_or(given.seed),
            policy: policy.map(StagePlan::weights),
            dynamics: dynamics.map(StagePlan::weights),
            provenance: Default::default(),
            checkpoint_secs: given.checkpoint_secs,
        };
        let fields = task.key().into_fields();
        plan.set_settings(&fields);
        if plan.waits_for([("policy", policy), ("dynamics", dynamics)]) {
            return Ok(());
        }
        // Provenance is not part of the key, so it can name it.
        task.provenance.insert("lapo.key".into(), key(&fields));
        let inputs =
            [policy, dynamics].into_iter().flatten().flat_map(|plan| plan.tasks.keys()).collect();
        let units = self.updates() * self.batch() as u64;
        plan.add(NewTask::new(task, inputs, units), given.known);
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn config(more: &str) -> FinetuneConfig {
        serde_json::from_str(&format!(r#"{{"game":"maze"{more}}}"#)).expect("settings")
    }

    #[test]
    fn faults_name_the_field() {
        let fields = |more: &str| {
            config(more).validate().into_iter().map(|(field, ..)| field).collect::<Vec<_>>()
        };
        assert_eq!(fields(""), ["policy", "dynamics"]);
        assert!(fields(r#","policy":"p","dynamics":"d""#).is_empty());
        assert!(fields(r#","from_scratch":true"#).is_empty());
        assert_eq!(fields(r#","from_scratch":true,"policy":"p""#), ["policy"]);
        assert_eq!(fields(r#","policy":"p","supervised_path":false,"dynamics":"d""#), ["dynamics"]);
        assert_eq!(
            fields(r#","from_scratch":true,"minibatches":7,"gamma":2,"clip_coef":0"#),
            ["minibatches", "gamma", "clip_coef"]
        );
        assert_eq!(fields(r#","from_scratch":true,"steps":4000"#), ["steps"]);
    }
}
