//! The settings of `record`, their checks, and the tasks they plan.

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use super::{KIND, RecordTask};
use crate::dataset::{self, Compression, FileInfo};
use crate::envs::{FRAME_SIDE, Game, GameSetting, Levels, Mode};
use crate::stages::game_rules::GameRules;
use crate::stages::plan::{NewTask, PendingTasks, PlanInputs, Reason, StagePlan};
use crate::stages::{
    ArtifactKind, FieldFault, FieldFaults, Input, Needs, Stage, StageKind, StageTask,
};
use crate::video::Fit;

/// Records episodes of a game as shards of frames.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct RecordConfig {
    /// The game: the name of a Procgen game, or an environment of Gymnasium such as `{ gymnasium:
    /// MiniGrid-Empty-5x5-v0, imports: [minigrid] }`.
    pub game: GameSetting,
    /// The player.
    pub player: Player,
    /// The `train_policy` stage whose policy plays. Required for `player: policy` only.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub policy: Option<String>,
    /// The `train_decoder` stage that decodes the policy's latent actions: its first decoder
    /// trained on the most transitions. Required for `player: policy` only.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub decoder: Option<String>,
    /// The `finetune` stage whose agent plays. Required for `player: agent` only.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub agent: Option<String>,
    /// Number of episodes. A larger number later keeps all earlier episodes.
    pub episodes: u64,
    /// Difficulty of the levels: `easy` (default), as in the paper, or `hard`. Procgen only.
    #[serde(default)]
    pub mode: Mode,
    /// The levels to play, such as `{ start: 0, count: 200 }`. Default: all levels. Procgen only:
    /// each episode of Gymnasium has a seed of its own, drawn with the pipeline's.
    #[serde(default)]
    pub levels: Levels,
    /// Probability, at every step, of a random one of the four directions instead of the player's
    /// action (0 to 1); in Gymnasium, of any random action. Raise it so that a recording also
    /// shows the way back from mistakes. Default 0.
    #[serde(default)]
    pub noise: f64,
    /// Width and height of a frame in pixels. Each pixel is the mean of the pixels it covers.
    /// Procgen: 64 (default), as the game draws it, or 32 or 16. Gymnasium: 8 to 1024, as in
    /// `decode`.
    #[serde(default = "default_size")]
    pub size: u32,
    /// How a frame of Gymnasium becomes square: `stretch` (default), `crop` or `pad`, as in
    /// `decode`. Procgen's frames are square.
    #[serde(default, skip_serializing_if = "Fit::is_default")]
    pub fit: Fit,
    /// An episode is cut off after this many frames. Default 1000.
    #[serde(default = "default_max_frames")]
    pub max_frames: u64,
    /// Episodes with fewer frames are discarded. Default 3: one transition with one frame of
    /// context.
    #[serde(default = "default_min_frames")]
    pub min_frames: u64,
    /// How pixels are stored: `none` (default) is read in place, which is fastest; `zstd` takes
    /// half the disk space.
    #[serde(default)]
    pub compression: Compression,
    /// Whether to also write each episode as a video beside its shard, such as
    /// `maze/7/000123.mp4` (game, seed, number). It is H.264 at 15 frames per second, or the
    /// `render_fps` of a Gymnasium environment. Every pixel becomes a block of 4 x 4, so that
    /// scaling back restores it up to the codec's noise. Default false.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub videos: bool,
    /// Episodes in one shard. Default 32.
    #[serde(default = "default_episodes_per_shard")]
    pub episodes_per_shard: u64,
}

fn default_size() -> u32 {
    FRAME_SIDE as u32
}
fn default_max_frames() -> u64 {
    1000
}
fn default_min_frames() -> u64 {
    3
}
fn default_episodes_per_shard() -> u64 {
    32
}

/// The player of a recording.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub enum Player {
    /// Chooses a random action at every step. Each discrete action is equally likely, and so is
    /// each value of a continuous axis with two bounds. Without both, a value is standard normal,
    /// clipped at the bound if there is one.
    Random,
    /// Chooses random actions and holds each for one to four steps.
    Sticky,
    /// Follows a shortest path, read from the game's state. `maze` only.
    Expert,
    /// A latent policy and a decoder.
    Policy,
    /// An agent fine-tuned in the game.
    Agent,
}

impl RecordConfig {
    /// Returns the tasks of these settings: one for each shard.
    pub fn tasks(&self, seed: u64, weights: Vec<FileInfo>) -> Vec<RecordTask> {
        // Validation has excluded 0, but `step_by` would panic on it.
        let firsts = (0..self.episodes).step_by(self.episodes_per_shard.max(1) as usize);
        let task = |first: u64| {
            let count = self.episodes_per_shard.min(self.episodes - first);
            RecordTask { config: self.clone(), seed, first, count, learnt: weights.clone() }
        };
        firsts.map(task).collect()
    }
}

impl Stage for RecordConfig {
    type Task = RecordTask;

    fn kind(&self) -> &'static StageKind {
        &KIND
    }

    fn inputs(&self) -> Vec<Input<'_>> {
        let inputs = [
            Input::given("policy", &self.policy, ArtifactKind::Policy).map(Input::of_one_model),
            Input::given("decoder", &self.decoder, ArtifactKind::Decoder).map(Input::of_one_model),
            Input::given("agent", &self.agent, ArtifactKind::Agent),
        ];
        inputs.into_iter().flatten().collect()
    }

    fn validate(&self) -> Vec<FieldFault> {
        let mut faults = FieldFaults::default();
        let inputs = [
            ("policy", &self.policy, Player::Policy),
            ("decoder", &self.decoder, Player::Policy),
            ("agent", &self.agent, Player::Agent),
        ];
        for (field, stage, player) in inputs {
            faults.expect(
                stage.is_some() == (self.player == player),
                field,
                if stage.is_some() { "is not used by this player" } else { "is missing" },
                "`player: policy` takes `policy` and `decoder`, `player: agent` takes `agent`; \
                 other players take neither",
            );
        }
        faults.expect(
            self.player != Player::Expert || self.game.procgen() == Some(Game::Maze),
            "player",
            format_args!("cannot play {}", self.game),
            "the expert plays `maze` only; use `sticky` or `random`",
        );
        faults.expect_positive("episodes", self.episodes);
        faults.expect_positive("episodes_per_shard", self.episodes_per_shard);
        faults.expect_value(
            (0.0..=1.0).contains(&self.noise),
            "noise",
            self.noise,
            "expected a probability, 0 to 1",
        );
        faults.expect_value(
            self.min_frames <= self.max_frames && self.max_frames > 0,
            "max_frames",
            self.max_frames,
            "expected at least 1, and at least `min_frames`",
        );
        let size = Some(self.size as usize);
        let rules = GameRules {
            game: &self.game,
            mode: self.mode,
            levels: self.levels,
            size,
            fit: self.fit,
        };
        rules.check(&mut faults);
        faults.into_vec()
    }

    fn needs(&self) -> Needs {
        // The game takes a few MiB. The frames of one episode and the playing network are in
        // memory.
        Needs { gpu: false, cores: 1, memory_mib: 512 }
    }

    /// Adds a task for each shard. Tasks for more episodes come after the existing ones.
    fn plan(&self, given: &PlanInputs, plan: &mut StagePlan) -> dataset::Result<()> {
        let inputs = [
            (&self.policy, ".safetensors"),
            (&self.decoder, "-0.safetensors"),
            (&self.agent, ".safetensors"),
        ];
        // Decoders are ordered by transitions, then by draw: the first draw of the most transitions
        // plays.
        let inputs: Vec<(&StagePlan, &str)> = inputs
            .into_iter()
            .filter_map(|(name, end)| Some((given.plan(name.as_deref()?), end)))
            .collect();
        let weights = inputs.iter().map(|(plan, end)| plan.last_file(end)).collect();
        let input_keys: Vec<String> =
            inputs.iter().flat_map(|(plan, _)| plan.tasks.keys()).collect();
        let tasks = self.tasks(given.seed, weights);
        if let Some(first) = tasks.first() {
            plan.set_settings(&first.key().into_fields());
        }
        // The keys of tasks depend on the weights, so only their number is known.
        if let Some((waited, _)) = inputs.iter().find(|(plan, _)| plan.new_tasks() > 0) {
            let waiting = PendingTasks { tasks: tasks.len(), videos: self.episodes as usize };
            plan.wait(waiting, Reason::new_input(&waited.stage));
            return Ok(());
        }
        for task in tasks {
            let units = task.count;
            plan.add(NewTask::new(task, input_keys.clone(), units), given.known);
        }
        Ok(())
    }

    fn frame_size(&self) -> Option<u32> {
        Some(self.size)
    }

    fn about_frames_of<'a>(&'a self, own: &'a str) -> Option<&'a str> {
        Some(own)
    }
}
