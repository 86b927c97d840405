//! How a policy is evaluated: what a pipeline says, its defaults, what is wrong with it, and who plays beside it.

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use super::{EvaluateTask, KIND};
use crate::dataset;
use crate::envs::{Game, Levels, Mode};
use crate::stages::plan::{Given, NewTask, StagePlan};
use crate::stages::player::Player;
use crate::stages::{ArtifactKind, FieldFault, Input, Needs, Stage, StageKind, StageTask};

/// Lets a policy play, once with each decoder; asks how much latent actions tell of true ones; lets the world model predict from its own
/// predictions; or all of these.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct EvaluateConfig {
    /// The `train_policy` stage whose policy plays.
    #[serde(default)]
    pub policy: Option<String>,
    /// The `train_decoder` stage whose decoders say which action a latent action is.
    #[serde(default)]
    pub decoder: Option<String>,
    /// The `finetune` stage whose agent plays.
    #[serde(default)]
    pub agent: Option<String>,
    /// Which game of Procgen is played.
    #[serde(default)]
    pub game: Option<Game>,
    /// The `label` stage whose latent actions are asked about true ones.
    #[serde(default)]
    pub labels: Option<String>,
    /// The stage that knows these: `record` or `import_actions`.
    #[serde(default)]
    pub actions: Option<String>,
    /// The stage whose model predicts, and whose IDM says what is done: `train_dynamics` or `import_dynamics`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub dynamics: Option<String>,
    /// The stage whose frames it predicts: `decode` or `record`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub frames: Option<String>,
    /// Frames it predicts, each from its own predictions before it. Default 8.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub rollout: Option<usize>,
    /// Every `holdout`-th video's transitions are asked about, and the probe learns from the others; the world model predicts them.
    /// Default 5, as in `train_dynamics`: where the two are the same and every video is one episode the model knows none of these either.
    /// 0: all are both.
    #[serde(default = "default_holdout")]
    pub holdout: usize,
    /// How hard the levels are: `easy`, as in the paper, or `hard`.
    #[serde(default)]
    pub mode: Mode,
    /// Which levels: `{ start: 0, count: 100000 }`. Default all there are. Levels that were not recorded say what the policy makes of new ones.
    #[serde(default)]
    pub levels: Levels,
    /// Episodes of each decoder, and of random actions. Default 200.
    #[serde(default = "default_episodes")]
    pub episodes: u64,
    /// Environments that play side by side. Default 50.
    #[serde(default = "default_envs")]
    pub envs: usize,
    /// How much is left to chance: actions are drawn with their likelihoods to the power of one over this; 0: the likeliest is taken.
    /// Default 1.
    #[serde(default = "default_temperature")]
    pub temperature: f64,
}

fn default_holdout() -> usize {
    5
}
fn default_episodes() -> u64 {
    200
}
fn default_envs() -> usize {
    50
}
fn default_temperature() -> f64 {
    1.0
}

impl EvaluateConfig {
    /// How many frames the world model predicts.
    pub(super) fn frames_ahead(&self) -> usize {
        self.rollout.unwrap_or(8)
    }

    /// Who plays that learnt nothing.
    pub(super) fn baselines<'a>(&self) -> impl Iterator<Item = Player<'a>> + use<'a> {
        let expert = (self.game == Some(Game::Maze)).then_some(Player::Expert);
        self.game.map(|_| Player::Random).into_iter().chain(expert)
    }

    /// How many episodes so many learnt players play, and all others.
    pub fn all_episodes(&self, learnt: usize) -> u64 {
        self.episodes * (self.baselines().count() + learnt) as u64
    }
}

impl Stage for EvaluateConfig {
    type Task = EvaluateTask;

    fn kind(&self) -> &'static StageKind {
        &KIND
    }

    fn inputs(&self) -> Vec<Input<'_>> {
        let inputs = [
            Input::given("policy", &self.policy, ArtifactKind::Policy).map(Input::of_one_model),
            Input::given("decoder", &self.decoder, ArtifactKind::Decoder).map(Input::of_one_model),
            Input::given("agent", &self.agent, ArtifactKind::Agent),
            Input::given("labels", &self.labels, ArtifactKind::Labels),
            Input::given("actions", &self.actions, ArtifactKind::Actions),
            Input::given("dynamics", &self.dynamics, ArtifactKind::Dynamics),
            Input::given("frames", &self.frames, ArtifactKind::Frames),
        ];
        inputs.into_iter().flatten().collect()
    }

    fn validate(&self) -> Vec<FieldFault> {
        let mut faults = Vec::new();
        let mut expect = |holds: bool, field, seen: String, cure| {
            if !holds {
                faults.push((field, seen, cure));
            }
        };
        let (plays, asks) = (self.policy.is_some() || self.agent.is_some(), self.labels.is_some());
        let predicts = self.dynamics.is_some();
        let missing = || "is missing".to_owned();
        let cure = "name a `policy` and its `decoder`, an `agent`, `labels` and true `actions`, or `dynamics` and `frames`";
        expect(plays || asks || predicts, "policy", missing(), cure);
        let seen = if predicts { missing() } else { "has no `dynamics`".into() };
        expect(
            self.frames.is_some() == predicts,
            "frames",
            seen,
            "the world model predicts frames",
        );
        let seen = if predicts { "is 0" } else { "has no `dynamics`" };
        let right = self.rollout.is_none_or(|rollout| rollout > 0 && predicts);
        expect(right, "rollout", seen.into(), "expected at least 1, and `dynamics` that predict");
        let needs = if plays {
            "what plays needs one: `lapo doctor` names them"
        } else {
            "nobody plays it: name a `policy` or an `agent`"
        };
        let seen = self.game.map_or_else(missing, |game| format!("is {game}"));
        expect(self.game.is_some() == plays, "game", seen, needs);
        let seen = if asks { missing() } else { "has no `labels`".into() };
        expect(
            self.actions.is_some() == asks,
            "actions",
            seen,
            "`labels` are asked about true actions",
        );
        expect(
            self.holdout != 1,
            "holdout",
            "is 1".into(),
            "the probe would have no video to learn from; expected 0 (none) or at least 2",
        );
        let seen = if self.decoder.is_some() { "has no `policy`" } else { "is missing" };
        expect(
            self.decoder.is_some() == self.policy.is_some(),
            "decoder",
            seen.into(),
            "a policy plays by its decoder",
        );
        expect(self.episodes > 0, "episodes", "is 0".into(), "expected at least 1");
        expect(self.envs > 0, "envs", "is 0".into(), "expected at least 1");
        let warm = self.temperature.is_finite() && self.temperature >= 0.0;
        expect(
            warm,
            "temperature",
            format!("is {}", self.temperature),
            "expected 0 (the likeliest action) or more",
        );
        expect(
            self.levels.is_valid(),
            "levels",
            format!("end at {}", self.levels.end()),
            "expected numbers below 2,147,483,648",
        );
        faults
    }

    fn needs(&self) -> Needs {
        // The environments play on all cores, the networks on a GPU if there is one; a probe holds 32,768 transitions.
        Needs { gpu: true, cores: 4, memory_mib: 2048 }
    }

    /// Adds one task: all decoders play the same levels.
    fn plan(&self, given: &Given, plan: &mut StagePlan) -> dataset::Result<()> {
        let EvaluateConfig { policy, decoder, agent, labels, actions, dynamics, frames, .. } = self;
        let of = [policy, decoder, agent, labels, actions, dynamics, frames]
            .map(|name| given.plan_if(name.as_ref()));
        let [policy, decoder, agent, labels, actions, dynamics, frames] = of;
        let task = EvaluateTask {
            config: self.clone(),
            seed: given.seed,
            policy: policy.map(StagePlan::weights),
            decoders: decoder
                .map(|decoder| decoder.tasks.files(".safetensors"))
                .unwrap_or_default(),
            agent: agent.map(StagePlan::weights),
            labels: labels.map(|labels| labels.tasks.files("labels.parquet")).unwrap_or_default(),
            actions: actions.map(StagePlan::action_files).unwrap_or_default(),
            dynamics: dynamics.map(StagePlan::weights),
            shards: frames.map(StagePlan::shards).unwrap_or_default(),
        };
        plan.set_settings(&task.key().into_fields());
        let names = ["policy", "decoders", "agent", "labels", "true actions", "dynamics", "frames"];
        if plan.waits_for(names.into_iter().zip(of)) {
            return Ok(());
        }
        let units = self.all_episodes(task.decoders.len() + usize::from(task.agent.is_some()));
        let inputs = of.into_iter().flatten().flat_map(|plan| plan.tasks.keys()).collect();
        plan.add(NewTask::new(task, inputs, units), given.known);
        Ok(())
    }
}
