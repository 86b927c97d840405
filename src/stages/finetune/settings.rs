//! What a user sets for online training, with the paper's numbers as defaults.

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use super::{FinetuneTask, KIND};
use crate::dataset;
use crate::envs::{FRAME_SIDE, Game, Levels, Mode};
use crate::models::Preset;
use crate::stages::plan::key::key;
use crate::stages::plan::{NewTask, PlanInputs, StagePlan};
use crate::stages::{ArtifactKind, FieldFault, Input, Needs, Stage, StageKind, StageTask};
use crate::train::schedule::Schedule;

/// Trains an agent in the game by PPO: from a latent policy, or from scratch.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct FinetuneConfig {
    /// The `train_policy` stage whose policy it starts from; not with `from_scratch`.
    #[serde(default)]
    pub policy: Option<String>,
    /// The stage whose IDM says which latent action was done, to teach the decoder; not without the supervised path.
    #[serde(default)]
    pub dynamics: Option<String>,
    /// Which game of Procgen.
    pub game: Game,
    /// How hard the levels are: `easy`, as in the paper, or `hard`.
    #[serde(default)]
    pub mode: Mode,
    /// Which levels. Default all there are, as in the paper.
    #[serde(default)]
    pub levels: Levels,
    /// Seeds weights, levels and chance instead of the pipeline's seed: several stages may differ in it alone.
    #[serde(default)]
    pub seed: Option<u64>,
    /// Steps of all environments together. Default 4,000,000, as in the paper.
    #[serde(default = "default_steps")]
    pub steps: u64,
    /// Plain PPO: every layer starts fresh and learns. The baseline, and the way to an expert. Default false.
    #[serde(default)]
    pub from_scratch: bool,
    /// Whether the logits are the mean of the learning head and of latent policy and decoder. Default true.
    #[serde(default = "default_true")]
    pub supervised_path: bool,
    /// Size of the network from scratch: `tiny` (IMPALA x1), `small` (x2) or `paper` (x4).
    #[serde(default)]
    pub preset: Preset,
    /// Width and height of the frames a network from scratch sees: 64, 32 or 16. Default 64.
    #[serde(default = "default_size")]
    pub size: usize,
    /// Environments that play side by side. Default 64.
    #[serde(default = "default_64")]
    pub envs: usize,
    /// Steps of each environment between two updates. Default 64.
    #[serde(default = "default_64")]
    pub rollout: usize,
    /// Parts that an update cuts a rollout into. Default 8.
    #[serde(default = "default_minibatches")]
    pub minibatches: usize,
    /// Times that an update goes through a rollout. Default 3.
    #[serde(default = "default_epochs")]
    pub epochs: usize,
    /// Adam's peak learning rate, of which each layer gets a share that changes with time (see `rates`). Unset: 1e-2 from a policy, as in
    /// the paper; 5e-4 from scratch, as PPO's authors have it for Procgen.
    #[serde(default)]
    pub learning_rate: Option<f64>,
    /// What a reward a step later is worth. Default 0.999.
    #[serde(default = "default_gamma")]
    pub gamma: f64,
    /// How far advantages look beyond the value function. Default 0.95.
    #[serde(default = "default_gae_lambda")]
    pub gae_lambda: f64,
    /// Likelihoods and values move by no more than this in an update. Default 0.2.
    #[serde(default = "default_clip_coef")]
    pub clip_coef: f64,
    /// Weight of the entropy. Default 0.0025.
    #[serde(default = "default_ent_coef")]
    pub ent_coef: f64,
    /// Weight of the value's error. Default 0.5.
    #[serde(default = "default_vf_coef")]
    pub vf_coef: f64,
    /// Gradients are scaled down to this norm. Default 0.5.
    #[serde(default = "default_norm")]
    pub max_grad_norm: f64,
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

/// Adam's learning rate of each part, by environment steps.
pub struct Rates {
    /// The head of the actions.
    pub policy_head: Schedule,
    /// The head of the value.
    pub value_head: Schedule,
    /// The trunk's last layer, and from scratch all before it.
    pub trunk: Schedule,
}

impl FinetuneConfig {
    /// From a latent policy a layer's rate is 0 until so many steps, for the decoder to learn first, then rises and falls to 0 at the end
    /// (LAPO's published code). From scratch all fall from the peak to 0.
    pub fn rates(&self) -> Rates {
        let (peak, end) = (
            self.learning_rate.unwrap_or(if self.from_scratch { 5e-4 } else { 1e-2 }),
            self.steps as f64,
        );
        if self.from_scratch {
            let falls = || Schedule::new(vec![(0.0, peak), (end, 0.0)]);
            return Rates { policy_head: falls(), value_head: falls(), trunk: falls() };
        }
        let staged = |rests: f64, top: f64, share: f64| {
            let [rests, top] = [rests, top].map(|at| at.min(end));
            Schedule::new(vec![(0.0, 0.0), (rests, 0.0), (top, peak * share), (end, 0.0)])
        };
        Rates {
            policy_head: staged(35_000.0, 50_000.0, 0.25),
            value_head: staged(25_000.0, 50_000.0, 0.25),
            trunk: staged(50_000.0, 200_000.0, 0.1),
        }
    }

    /// Transitions between two updates.
    pub fn batch(&self) -> usize {
        self.envs * self.rollout
    }

    /// Updates in all.
    pub fn updates(&self) -> u64 {
        self.steps / self.batch().max(1) as u64
    }

    /// Whether a decoder learns from the IDM's latent actions.
    pub fn has_supervised_path(&self) -> bool {
        self.supervised_path && !self.from_scratch
    }
}

impl Stage for FinetuneConfig {
    type Task = FinetuneTask;

    fn kind(&self) -> &'static StageKind {
        &KIND
    }

    fn inputs(&self) -> Vec<Input<'_>> {
        let inputs = [
            Input::given("policy", &self.policy, ArtifactKind::Policy),
            Input::given("dynamics", &self.dynamics, ArtifactKind::Dynamics),
        ];
        inputs.into_iter().flatten().map(Input::of_one_model).collect()
    }

    fn validate(&self) -> Vec<FieldFault> {
        let mut faults = Vec::new();
        let mut expect = |holds: bool, field, seen: String, cure| {
            if !holds {
                faults.push((field, seen, cure));
            }
        };
        let given =
            |is_there: bool| if is_there { "is of no use here" } else { "is missing" }.to_owned();
        let (policy, dynamics) = (self.policy.is_some(), self.dynamics.is_some());
        expect(
            policy != self.from_scratch,
            "policy",
            given(policy),
            "name a `train_policy` stage, or set `from_scratch: true`",
        );
        let needs = self.has_supervised_path();
        expect(
            dynamics == needs,
            "dynamics",
            given(dynamics),
            "the supervised path, and nothing else, takes the stage whose IDM labelled",
        );
        expect(
            [16, 32, 64].contains(&self.size),
            "size",
            format!("is {}", self.size),
            "expected 64, 32 or 16",
        );
        expect(
            self.levels.is_valid(),
            "levels",
            format!("end at {}", self.levels.end()),
            "expected numbers below 2,147,483,648",
        );
        for (field, seen) in [
            ("envs", self.envs),
            ("rollout", self.rollout),
            ("minibatches", self.minibatches),
            ("epochs", self.epochs),
        ] {
            expect(seen > 0, field, "is 0".into(), "expected at least 1");
        }
        expect(
            self.rollout >= 3,
            "rollout",
            format!("is {}", self.rollout),
            "expected at least 3: the IDM looks at three frames",
        );
        let batch = self.batch().max(1);
        expect(
            self.steps >= batch as u64,
            "steps",
            format!("is {}", self.steps),
            "expected at least `envs` x `rollout`: one update",
        );
        let parts = self.minibatches;
        expect(
            parts == 0 || batch.is_multiple_of(parts),
            "minibatches",
            format!("is {parts}"),
            "expected a divisor of `envs` x `rollout`",
        );
        expect(
            parts == 0 || batch >= 2 * parts,
            "minibatches",
            format!("is {parts}"),
            "expected two transitions in each",
        );
        for (field, seen) in [("gamma", self.gamma), ("gae_lambda", self.gae_lambda)] {
            expect((0.0..=1.0).contains(&seen), field, format!("is {seen}"), "expected 0 to 1");
        }
        let weights = [
            ("clip_coef", self.clip_coef),
            ("ent_coef", self.ent_coef),
            ("vf_coef", self.vf_coef),
            ("max_grad_norm", self.max_grad_norm),
        ];
        for (field, seen) in
            weights.into_iter().chain(self.learning_rate.map(|rate| ("learning_rate", rate)))
        {
            let positive = seen.is_finite()
                && seen >= 0.0
                && (seen > 0.0 || field == "ent_coef" || field == "vf_coef");
            expect(positive, field, format!("is {seen}"), "expected a number above 0");
        }
        faults
    }

    fn needs(&self) -> Needs {
        // A rollout is in memory: 48 KiB for a transition of 64 x 64 pixels, as floats. The games play on other cores.
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
    fn a_policy_s_layers_wait_for_the_decoder_and_fall_to_0() {
        let Rates { policy_head, value_head, trunk } = config("").rates();
        for (step, expect) in [
            (0, 0.0),
            (35_000, 0.0),
            (42_500, 1.25e-3),
            (50_000, 2.5e-3),
            (2_025_000, 1.25e-3),
            (4_000_000, 0.0),
        ] {
            assert!(
                (policy_head.at(step) - expect).abs() < 1e-12,
                "{step}: {}",
                policy_head.at(step)
            );
        }
        for (step, expect) in [(25_000, 0.0), (37_500, 1.25e-3), (50_000, 2.5e-3)] {
            assert!(
                (value_head.at(step) - expect).abs() < 1e-12,
                "{step}: {}",
                value_head.at(step)
            );
        }
        for (step, expect) in
            [(50_000, 0.0), (125_000, 5e-4), (200_000, 1e-3), (2_100_000, 5e-4), (4_000_000, 0.0)]
        {
            assert!((trunk.at(step) - expect).abs() < 1e-12, "{step}: {}", trunk.at(step));
        }
        assert!(config(r#","steps":100000"#).rates().trunk.at(99_999) > 9e-4);
    }

    #[test]
    fn from_scratch_every_layer_learns_at_once() {
        let Rates { policy_head, value_head, trunk } =
            config(r#","from_scratch":true,"steps":1000"#).rates();
        assert!(
            [policy_head, value_head, trunk]
                .iter()
                .all(|rate| rate.at(0) == 5e-4 && rate.at(500) == 2.5e-4 && rate.at(1000) == 0.0)
        );
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
