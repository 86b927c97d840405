//! The settings of `evaluate`, their checks, and the task they plan.

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use super::{EvaluateTask, KIND};
use crate::dataset;
use crate::envs::{Game, GameSetting, Levels, Mode};
use crate::stages::game_rules::GameRules;
use crate::stages::plan::{NewTask, PlanInputs, StagePlan};
use crate::stages::player::GamePlayer;
use crate::stages::{
    ArtifactKind, FieldFault, FieldFaults, Input, Needs, Stage, StageKind, StageTask,
};
use crate::video::Fit;

/// Evaluates a policy or an agent in a game, latent actions against true actions, a world model's
/// predictions, or several of these.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct EvaluateConfig {
    /// The `train_policy` stage whose policy plays. Needs `decoder` and `game`.
    #[serde(default)]
    pub policy: Option<String>,
    /// The `train_decoder` stage that decodes the policy's latent actions. The policy plays once
    /// with each decoder.
    #[serde(default)]
    pub decoder: Option<String>,
    /// The `finetune` stage whose agent plays. Needs `game`.
    #[serde(default)]
    pub agent: Option<String>,
    /// The game: the name of a Procgen game, or an environment of Gymnasium such as `{ gymnasium:
    /// MiniGrid-Empty-5x5-v0, imports: [minigrid] }`. Required with `policy` or `agent`.
    #[serde(default)]
    pub game: Option<GameSetting>,
    /// The `label` stage whose latent actions are compared with true actions. Needs `actions`.
    #[serde(default)]
    pub labels: Option<String>,
    /// The `record` or `import_actions` stage with the true actions.
    #[serde(default)]
    pub actions: Option<String>,
    /// The `train_dynamics` or `import_dynamics` stage whose FDM predicts frames, from the latent
    /// actions of its IDM. Needs `frames`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub dynamics: Option<String>,
    /// The `decode` or `record` stage with the frames to predict.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub frames: Option<String>,
    /// Number of frames the model predicts in a row, each from its own earlier predictions. Default
    /// 8.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub rollout: Option<usize>,
    /// Difficulty of the levels: `easy` (default), as in the paper, or `hard`. Procgen only.
    #[serde(default)]
    pub mode: Mode,
    /// The levels to play, such as `{ start: 0, count: 100000 }`. Unrecorded levels measure
    /// generalisation. Default: all levels. Procgen only: episodes of Gymnasium have seeds that
    /// follow from the pipeline's, the same for all players.
    #[serde(default)]
    pub levels: Levels,
    /// Number of episodes for each decoder, for the agent and for each baseline. Default 200.
    #[serde(default = "default_episodes")]
    pub episodes: u64,
    /// Number of environments side by side. Default 50.
    #[serde(default = "default_envs")]
    pub envs: usize,
    /// How a frame of Gymnasium becomes square: `stretch` (default), `crop` or `pad`, as in the
    /// stage whose frames the policy was trained on. Procgen's frames are square.
    #[serde(default, skip_serializing_if = "Fit::is_default")]
    pub fit: Fit,
    /// Temperature of the random choice of actions: probabilities are raised to the power of 1 /
    /// `temperature`. At 0 the most likely action is taken. Default 1. A decoder of continuous
    /// actions with `head: mse` has no probabilities.
    #[serde(default = "default_temperature")]
    pub temperature: f64,
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
    /// Expects the inputs of at least one evaluation, and all inputs of each.
    fn expect_inputs(&self, faults: &mut FieldFaults) {
        let plays = self.policy.is_some() || self.agent.is_some();
        let probes = self.labels.is_some();
        let predicts = self.dynamics.is_some();
        faults.expect(
            plays || probes || predicts,
            "policy",
            "is missing",
            "name a `policy` and its `decoder`, an `agent`, `labels` and true `actions`, or \
             `dynamics` and `frames`",
        );
        faults.expect(
            self.frames.is_some() == predicts,
            "frames",
            if predicts { "is missing" } else { "has no `dynamics`" },
            "`dynamics` predicts `frames`: name both or neither",
        );
        faults.expect(
            self.rollout.is_none_or(|rollout| rollout > 0 && predicts),
            "rollout",
            if predicts { "is 0" } else { "has no `dynamics`" },
            "expected at least 1, and `dynamics` to predict with",
        );
        faults.expect(
            self.game.is_some() == plays,
            "game",
            self.game.as_ref().map_or_else(|| "is missing".to_owned(), |game| format!("is {game}")),
            if plays {
                "name the game to play; `lapo doctor` lists the games"
            } else {
                "the game has no player: name a `policy` or an `agent`"
            },
        );
        faults.expect(
            self.actions.is_some() == probes,
            "actions",
            if probes { "is missing" } else { "has no `labels`" },
            "`labels` are compared with `actions`: name both or neither",
        );
        faults.expect(
            self.decoder.is_some() == self.policy.is_some(),
            "decoder",
            if self.decoder.is_some() { "has no `policy`" } else { "is missing" },
            "a `policy` plays with its `decoder`: name both or neither",
        );
    }

    /// Returns the number of frames the world model predicts in a row.
    pub(super) fn frames_ahead(&self) -> usize {
        self.rollout.unwrap_or(8)
    }

    /// Returns the baseline players of the game.
    pub(super) fn baselines<'a>(&self) -> impl Iterator<Item = GamePlayer<'a>> + use<'a> {
        let expert =
            (self.game == Some(GameSetting::Procgen(Game::Maze))).then_some(GamePlayer::Expert);
        self.game.as_ref().map(|_| GamePlayer::Random).into_iter().chain(expert)
    }

    /// Returns the number of episodes of this many trained players and all baselines.
    pub fn all_episodes(&self, trained_players: usize) -> u64 {
        self.episodes * (self.baselines().count() + trained_players) as u64
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
        let mut faults = FieldFaults::default();
        self.expect_inputs(&mut faults);
        faults.expect_positive("episodes", self.episodes);
        faults.expect_positive("envs", self.envs);
        faults.expect_value(
            self.temperature.is_finite() && self.temperature >= 0.0,
            "temperature",
            self.temperature,
            "expected 0 (the most likely action) or more",
        );
        if let Some(game) = &self.game {
            let EvaluateConfig { mode, levels, fit, .. } = *self;
            GameRules { game, mode, levels, size: None, fit }.check(&mut faults);
        }
        faults.into_vec()
    }

    fn needs(&self) -> Needs {
        // The environments use all cores, the networks a GPU if there is one. A probe holds 32,768
        // transitions.
        Needs { gpu: true, cores: 4, memory_mib: 2048 }
    }

    /// Adds one task, so that all decoders play the same levels.
    fn plan(&self, given: &PlanInputs, plan: &mut StagePlan) -> dataset::Result<()> {
        let EvaluateConfig { policy, decoder, agent, labels, actions, dynamics, frames, .. } = self;
        let inputs = [policy, decoder, agent, labels, actions, dynamics, frames]
            .map(|name| given.plan_if(name.as_ref()));
        let [policy, decoder, agent, labels, actions, dynamics, frames] = inputs;
        let task = EvaluateTask {
            config: self.clone(),
            seed: given.seed,
            holdout: given.holdout,
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
        if plan.waits_for(names.into_iter().zip(inputs)) {
            return Ok(());
        }
        let units = self.all_episodes(task.decoders.len() + usize::from(task.agent.is_some()));
        let inputs = inputs.into_iter().flatten().flat_map(|plan| plan.tasks.keys()).collect();
        plan.add(NewTask::new(task, inputs, units), given.known);
        Ok(())
    }
}
