//! Records episodes of a game as lossless shards of frames.
//!
//! The game is one of Procgen's, or an environment of Gymnasium in a Python process of its own.
//!
//! A task writes one Arrow shard of whole episodes, `actions.parquet` with the true actions and
//! rewards, and on request a video of each episode.
//!
//! An episode's last frame is the one at which its last action is taken; the frame after it belongs
//! to the next episode. A task plays its episodes in sequence and gives the same result every time,
//! so that more episodes are more tasks.

use std::rc::Rc;

use rand::Rng;
use rand_chacha::ChaCha8Rng;
use serde::{Deserialize, Serialize};
use serde_json::json;

use super::plan::KeyFields;
use super::player::{GamePlayer, PlayerSettings, TrainedPlayer};
use super::{
    ArtifactKind, Error, FrameScaler, LaneState, Lanes, StageKind, StageTask, TaskContext,
    TaskOutput,
};
use crate::dataset::{
    ActionRows, FileInfo, FrameSize, ListMetadata, ShardLayout, ShardWriter, VideoName, VideoRecord,
};
use crate::envs::{Action, End, EnvConfig, GameSetting, Seeding, VecEnv};
use crate::models::{Actor, actor};
use crate::train::batch;
use crate::video::Fit;

mod settings;

pub use settings::{Player, RecordConfig};

/// The properties of all `record` stages. Raise `version` when the same settings give other bytes.
pub const KIND: StageKind = StageKind {
    key_inputs: &["videos", "policy", "decoders", "agent"],
    row: "frame",
    lanes: Lanes::PerCore,
    independent: true,
    ..StageKind::new("record", 1, &[ArtifactKind::Frames, ArtifactKind::Actions], "episodes")
};
/// Procgen's actions left, right, down and up.
const DIRECTIONS: [u32; 4] = [1, 7, 3, 5];
/// The largest number of episodes in a row too short to keep.
const MAX_SHORT_EPISODES: usize = 1000;

/// The episodes of one shard.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct RecordTask {
    /// The stage's settings.
    pub config: RecordConfig,
    /// The seed of levels and random actions.
    pub seed: u64,
    /// The number of the first episode.
    pub first: u64,
    /// The number of episodes.
    pub count: u64,
    /// The weights of a policy and a decoder, or of an agent; empty for other players.
    #[serde(default)]
    pub learnt: Vec<FileInfo>,
}

impl StageTask for RecordTask {
    fn key(&self) -> KeyFields {
        let RecordTask { config, seed, first, count, learnt } = self;
        let RecordConfig {
            game,
            player,
            mode,
            levels,
            noise,
            size,
            fit,
            max_frames,
            min_frames,
            compression,
            videos,
            // The episodes are part of `videos` below, and the weights are inputs.
            episodes: _,
            episodes_per_shard: _,
            policy: _,
            decoder: _,
            agent: _,
        } = config;
        let mut key = KeyFields::new(&KIND)
            .setting("game", game.identity())
            .setting("player", player)
            .setting("mode", mode)
            .setting("levels", levels)
            .setting("noise", noise)
            .setting("size", size)
            .setting_if(*fit != Fit::Stretch, "fit", fit)
            .setting("max_frames", max_frames)
            .setting("min_frames", min_frames)
            .setting("compression", compression)
            // Video files share the name `videos` with the episodes below: asking for them moves
            // that field to this place in the key.
            .input_if(*videos, "videos", true)
            .setting("seed", seed);
        key = match learnt.as_slice() {
            [policy, decoder] => {
                key.input("policy", &policy.blake3).input("decoders", &decoder.blake3)
            }
            [agent] => key.input("agent", &agent.blake3),
            _ => key,
        };
        key.input("videos", json!({ "first": first, "count": count }))
    }

    fn run(&self, ctx: &TaskContext, _: &mut LaneState) -> Result<TaskOutput, Error> {
        run(self, ctx)
    }

    fn videos(&self) -> usize {
        self.count as usize
    }
}

/// Plays the task's episodes into one shard.
pub fn run(task: &RecordTask, ctx: &TaskContext) -> Result<TaskOutput, Error> {
    let config = &task.config;
    let mut recorder = Recorder::new(task, ctx)?;
    let fps = recorder.game.fps();
    let videos: Vec<VideoName> =
        (task.first..task.first + task.count).map(|number| task.name(number)).collect();
    let size = FrameSize { height: config.size, width: config.size };
    let layout = ShardLayout { size, compression: config.compression, videos: videos.clone() };
    let mut shard =
        ShardWriter::create(ctx.store, &format!("{}/shard.arrow", ctx.folder), &layout)?;
    let mut actions = ActionRows::default();
    let mut done = TaskOutput::default();
    for (i, video) in videos.into_iter().enumerate() {
        ctx.check_stop()?;
        let episode = recorder.next_episode()?;
        shard.begin_video(i)?;
        for (t, frame) in episode.frames.chunks_exact(size.bytes()).enumerate() {
            shard.push(0, t as u32, t as f64 / f64::from(fps), frame)?;
        }
        if config.videos {
            // The video has the episode's name, so that true actions refer to both.
            let path = format!("{}/{}.mp4", ctx.folder, video.uri);
            done.files.push(film(&episode.frames, config.size, fps, &path, ctx)?);
        }
        episode.add_actions(&video.uri, &mut actions);
        done.videos.push(episode.video_record(video));
        ctx.progress.advance(1);
    }
    done.stats.insert("videos".into(), done.videos.len() as f64);
    done.stats.insert("frames".into(), actions.len() as f64);
    done.stats.insert("rewards".into(), actions.reward.iter().flatten().sum());
    let actions = actions.write(ctx.store, &format!("{}/actions.parquet", ctx.folder))?;
    // The shard comes first: readers of a receipt take its first file as the shard.
    done.files.splice(0..0, [shard.finish()?, actions]);
    Ok(done)
}

/// Writes an episode as a video.
#[cfg(feature = "video")]
fn film(
    frames: &[u8],
    side: u32,
    fps: u32,
    path: &str,
    ctx: &TaskContext,
) -> Result<FileInfo, Error> {
    let film = crate::video::VideoEncoder {
        width: side,
        height: side,
        fps,
        zoom: 4,
        random_access: false,
    };
    let bytes = film.encode(frames).map_err(|source| Error::Film { path: path.into(), source })?;
    let mut file = ctx.store.new_file(path)?;
    super::write(&mut file, &bytes)?;
    Ok(file.finish(0)?)
}

#[cfg(not(feature = "video"))]
fn film(_: &[u8], _: u32, _: u32, _: &str, _: &TaskContext) -> Result<FileInfo, Error> {
    Err(Error::NoVideo)
}

impl RecordTask {
    /// Loads the weights of the player, if it has any.
    fn load(&self, ctx: &TaskContext) -> Result<Option<TrainedPlayer>, Error> {
        let settings = PlayerSettings { temperature: 1.0, fit: self.config.fit };
        match self.learnt.as_slice() {
            // Two files are a policy and its decoder, one is an agent.
            [policy, decoder] => {
                let policy: Rc<dyn Actor> =
                    actor(&ctx.device, &ctx.store.require_file(policy)?)?.into();
                Ok(Some(TrainedPlayer::decoded(policy, decoder, ctx.store, settings)?))
            }
            [agent] => Ok(Some(TrainedPlayer::agent(agent, ctx, settings)?)),
            _ => Ok(None),
        }
    }

    /// Returns the name of an episode and the digest of all settings that decide its content.
    fn name(&self, number: u64) -> VideoName {
        let uri = format!("{}/{}/{number:06}", self.config.game.file_name(), self.seed);
        let RecordConfig {
            game,
            player,
            mode,
            levels,
            noise,
            size,
            fit,
            max_frames,
            min_frames,
            ..
        } = &self.config;
        let game = game.identity();
        let mut settings =
            json!([KIND.version, game, player, mode, levels, noise, size, max_frames, min_frames]);
        if let (Fit::Crop | Fit::Pad, Some(settings)) = (fit, settings.as_array_mut()) {
            settings.push(json!(fit));
        }
        let weights: String = self.learnt.iter().map(|file| format!(" {}", file.blake3)).collect();
        let content = format!("{settings} {} {} {number}{weights}", self.seed, self.first);
        VideoName { uri, digest: blake3::hash(content.as_bytes()).to_hex().to_string() }
    }
}

/// The frames, actions and rewards of one episode.
#[derive(Default)]
struct Episode {
    frames: Vec<u8>,
    actions: Vec<Action>,
    rewards: Vec<f64>,
}

impl Episode {
    /// Adds the true actions and rewards of the episode to `rows`.
    fn add_actions(&self, uri: &str, rows: &mut ActionRows) {
        rows.video.extend(std::iter::repeat_n(uri.to_owned(), self.actions.len()));
        rows.frame_index.extend(0..self.actions.len() as u32);
        for action in &self.actions {
            match action {
                Action::Discrete(number) => rows.discrete.push(*number),
                Action::Continuous(values) => {
                    rows.axes = values.len();
                    rows.continuous.extend(values);
                }
            }
        }
        rows.reward.extend(self.rewards.iter().copied().map(Some));
    }

    /// Returns the record of the episode as a video.
    fn video_record(&self, name: VideoName) -> VideoRecord {
        VideoRecord {
            digest: name.digest,
            uri: name.uri,
            // A recorded episode has no file.
            bytes: 0,
            modified: String::new(),
            at: None,
            inode: None,
            frames: self.actions.len() as u64,
            episodes: 1,
            about: ListMetadata::default(),
        }
    }
}

/// A game, its player, and the random numbers of both.
struct Recorder<'a> {
    config: &'a RecordConfig,
    trained: Option<TrainedPlayer>,
    game: Box<dyn VecEnv>,
    scaler: FrameScaler,
    rng: ChaCha8Rng,
}

impl<'a> Recorder<'a> {
    fn new(task: &'a RecordTask, ctx: &TaskContext) -> Result<Self, Error> {
        let config = &task.config;
        let mut rng = batch::generator(task.seed, "record", task.first);
        let envs = EnvConfig {
            mode: config.mode,
            levels: config.levels,
            // Procgen takes seeds of 31 bits.
            seed: rng.random::<u32>() >> 1,
            // A shard is always recorded from its first episode.
            seeding: Seeding::First,
            count: 1,
            threads: 0,
        };
        let trained = task.load(ctx)?;
        let game = config.game.open(ctx.games, &envs)?;
        if let Some(trained) = &trained {
            trained.check(&config.game, game.as_ref())?;
        }
        let scaler = FrameScaler::of_game(game.frame_shape(), config.size as usize, config.fit);
        Ok(Recorder { config, trained, game, scaler, rng })
    }

    /// Plays episodes until one is long enough to keep.
    fn next_episode(&mut self) -> Result<Episode, Error> {
        for _ in 0..MAX_SHORT_EPISODES {
            let episode = self.play()?;
            if episode.actions.len() as u64 >= self.config.min_frames {
                return Ok(episode);
            }
        }
        Err(Error::ShortEpisodes {
            game: self.config.game.to_string(),
            episodes: MAX_SHORT_EPISODES,
            frames: self.config.min_frames,
        })
    }

    /// Plays one episode from its first frame. The game then shows the first frame of the next one.
    fn play(&mut self) -> Result<Episode, Error> {
        let Recorder { config, trained, game, scaler, rng } = self;
        let mut player = match (config.player, trained) {
            (Player::Random, _) => GamePlayer::Random,
            (Player::Sticky, _) => GamePlayer::sticky(1),
            (Player::Expert, _) => GamePlayer::Expert,
            (Player::Policy | Player::Agent, Some(trained)) => GamePlayer::trained(trained),
            (Player::Policy | Player::Agent, None) => {
                return Err(Error::Invariant {
                    what: "a trained player plays, but the task has no weights".into(),
                });
            }
        };
        let mut episode = Episode::default();
        loop {
            // The frame before the step, at which the action is taken.
            scaler.scale(game.frames(), &mut episode.frames);
            player.observe(game.as_ref());
            // Without noise no random number is drawn for it.
            let actions = if config.noise > 0.0 && rng.random_bool(config.noise) {
                vec![noise(&config.game, game.as_ref(), rng)]
            } else {
                player.act(game.as_ref(), &[0], rng)?
            };
            game.step(&actions)?;
            episode.actions.extend(actions);
            episode.rewards.push(game.rewards()[0]);
            if game.ends()[0] != End::None {
                return Ok(episode);
            }
            // The game still runs, so it is reset for the next episode.
            if episode.actions.len() as u64 == config.max_frames {
                game.reset()?;
                return Ok(episode);
            }
        }
    }
}

/// Draws an action to take instead of the player's: a direction in Procgen, else any action.
fn noise(setting: &GameSetting, game: &dyn VecEnv, rng: &mut ChaCha8Rng) -> Action {
    match setting {
        GameSetting::Procgen(_) => Action::Discrete(DIRECTIONS[rng.random_range(0..4)]),
        GameSetting::Gymnasium(_) => game.action_space().random(rng),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn more_episodes_leave_the_first_tasks_as_they_are() {
        let config = |episodes| RecordConfig {
            episodes,
            ..serde_json::from_str(
                r#"{"game":"maze","player":"expert","episodes":1,"episodes_per_shard":10}"#,
            )
            .expect("settings")
        };
        let tasks = |episodes| {
            config(episodes)
                .tasks(3, vec![])
                .iter()
                .map(|task| (task.first, task.count))
                .collect::<Vec<_>>()
        };
        assert_eq!(tasks(30), [(0, 10), (10, 10), (20, 10)]);
        assert_eq!(tasks(35)[..3], tasks(30));
        assert_eq!(tasks(35)[3], (30, 5));
    }
}
