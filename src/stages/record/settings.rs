//! The fields of the stage in YAML, which of their values are faults, and which tasks they ask for.

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use super::{KIND, RecordTask};
use crate::dataset::{self, Compression, FileInfo};
use crate::envs::{Game, Levels, Mode, NATIVE};
use crate::stages::plan::{Given, NewTask, Reason, StagePlan, Waiting};
use crate::stages::{ArtifactKind, FieldFault, Input, Needs, Stage, StageKind, StageTask};

/// Records a game of Procgen, straight into shards.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct RecordConfig {
    /// Which game.
    pub game: Game,
    /// Who plays.
    pub player: Player,
    /// The `train_policy` stage whose policy plays, where `player` is `policy`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub policy: Option<String>,
    /// The `train_decoder` stage that decodes what the policy wants: its first decoder of most transitions.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub decoder: Option<String>,
    /// The `finetune` stage whose agent plays, where `player` is `agent`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub agent: Option<String>,
    /// How many episodes. More of them later leave the first ones as they are.
    pub episodes: u64,
    /// How hard the levels are: `easy`, as in the paper, or `hard`.
    #[serde(default)]
    pub mode: Mode,
    /// Which levels: `{ start: 0, count: 200 }`. Default all there are.
    #[serde(default)]
    pub levels: Levels,
    /// Chance, at every step, of a random one of the four directions instead (0 to 1). Default 0.
    #[serde(default)]
    pub noise: f64,
    /// Width and height of a frame in pixels: 64 as the game draws it, or 32 or 16, each pixel the mean of those it covers. Default 64.
    #[serde(default = "default_size")]
    pub size: u32,
    /// An episode is abandoned after so many frames. Default 1000.
    #[serde(default = "default_max_frames")]
    pub max_frames: u64,
    /// Episodes with fewer frames are played and not kept. 3 = one transition with one frame of context.
    #[serde(default = "default_min_frames")]
    pub min_frames: u64,
    /// How pixels are stored: `none` is read in place (fastest), `zstd` takes half the disk.
    #[serde(default)]
    pub compression: Compression,
    /// Also write each episode as a video beside its shard, `maze/7/000123.mp4` (game, seed, number): H.264, 15 frames a second, every pixel
    /// a block of 4 x 4, so that scaling back restores it up to the codec's noise. Default false.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub videos: bool,
    /// Episodes of one shard. Default 32.
    #[serde(default = "default_episodes_per_shard")]
    pub episodes_per_shard: u64,
}

fn default_size() -> u32 {
    NATIVE as u32
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

/// Who plays.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub enum Player {
    /// A random action at every step.
    Random,
    /// Random actions, each held for one to four steps.
    Sticky,
    /// A shortest path, read off the game's own state: `maze` only.
    Expert,
    /// What was learnt: a latent policy and a decoder.
    Policy,
    /// What was learnt in the game.
    Agent,
}

impl RecordConfig {
    /// The tasks these settings ask for.
    pub fn tasks(&self, seed: u64, learnt: Vec<FileInfo>) -> Vec<RecordTask> {
        let firsts = (0..self.episodes).step_by(self.episodes_per_shard.max(1) as usize);
        let task = |first: u64| {
            let count = self.episodes_per_shard.min(self.episodes - first);
            RecordTask { config: self.clone(), seed, first, count, learnt: learnt.clone() }
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
        let mut faults = Vec::new();
        let mut expect = |holds: bool, field, seen: String, cure| {
            if !holds {
                faults.push((field, seen, cure));
            }
        };
        let takes = [
            ("policy", &self.policy, Player::Policy),
            ("decoder", &self.decoder, Player::Policy),
            ("agent", &self.agent, Player::Agent),
        ];
        for (field, stage, player) in takes {
            let seen = if stage.is_some() { "does not play" } else { "is missing" };
            let cure = "`player: policy` takes `policy` and `decoder`, `player: agent` an `agent`, other players none of these";
            expect(stage.is_some() == (self.player == player), field, seen.into(), cure);
        }
        let knows = self.player != Player::Expert || self.game == Game::Maze;
        expect(
            knows,
            "player",
            format!("does not know {}", self.game),
            "the expert plays maze; use `sticky` or `random`",
        );
        expect(self.episodes > 0, "episodes", "is 0".into(), "expected at least 1");
        expect(
            self.episodes_per_shard > 0,
            "episodes_per_shard",
            "is 0".into(),
            "expected at least 1",
        );
        expect(
            (0.0..=1.0).contains(&self.noise),
            "noise",
            format!("is {}", self.noise),
            "expected a chance, 0 to 1",
        );
        expect(
            [16, 32, 64].contains(&self.size),
            "size",
            format!("is {}", self.size),
            "expected 64, 32 or 16",
        );
        let fits = self.min_frames <= self.max_frames && self.max_frames > 0;
        expect(
            fits,
            "max_frames",
            format!("is {}", self.max_frames),
            "expected at least 1, and at least `min_frames`",
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
        // The game is a few MiB; the frames of one episode are in memory, as is the network that plays.
        Needs { gpu: false, cores: 1, memory_mib: 512 }
    }

    /// Adds a task for each shard; the first ones stay as they are when there are more.
    fn plan(&self, given: &Given, plan: &mut StagePlan) -> dataset::Result<()> {
        let learnt = [
            (&self.policy, ".safetensors"),
            (&self.decoder, "-0.safetensors"),
            (&self.agent, ".safetensors"),
        ];
        // Decoders are ordered by transitions, then by draw: the first draw of most transitions plays.
        let learnt: Vec<(&StagePlan, &str)> = learnt
            .into_iter()
            .filter_map(|(name, end)| Some((given.plan(name.as_deref()?), end)))
            .collect();
        let weights = learnt.iter().map(|(plan, end)| plan.last_file(end)).collect();
        let inputs: Vec<String> = learnt.iter().flat_map(|(plan, _)| plan.tasks.keys()).collect();
        let tasks = self.tasks(given.seed, weights);
        if let Some(first) = tasks.first() {
            plan.set_settings(&first.key().into_fields());
        }
        if let Some((waited, _)) = learnt.iter().find(|(plan, _)| plan.new_tasks() > 0) {
            let waiting = Waiting { tasks: tasks.len(), videos: self.episodes as usize };
            plan.wait(waiting, Reason::new_input(&waited.stage));
            return Ok(());
        }
        for task in tasks {
            let units = task.count;
            plan.add(NewTask::new(task, inputs.clone(), units), given.known);
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
