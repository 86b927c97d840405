//! Stage 0, where there is a game instead of videos: somebody plays, and the episodes become shards, lossless. In: a game and who plays;
//! out: one Arrow shard of whole episodes, and beside it `actions.parquet`, what was truly done and earned, and videos where they are
//! asked for.
//!
//! The frame at which an episode's last action is taken is its last: what comes after it is the next episode's. A task plays its episodes
//! one after the other, and the same task plays the same, so that more episodes are more tasks.

use std::rc::Rc;

use rand::Rng;
use rand_chacha::ChaCha8Rng;
use serde::{Deserialize, Serialize};
use serde_json::json;

use super::plan::KeyFields;
use super::player::{Learnt, Player as Hand};
use super::{ArtifactKind, Done, Error, Kept, Lanes, StageKind, StageTask, Workplace};
use crate::dataset::{
    About, ActionRows, FileInfo, FrameSize, ShardLayout, ShardWriter, VideoName, VideoRecord,
};
use crate::envs::wrappers::shrink;
use crate::envs::{End, Package, Procgen, ProcgenConfig, VecEnv};
use crate::models::{Actor, actor};
use crate::train::batch;

mod settings;

pub use settings::{Player, RecordConfig};

/// What all `record` stages have in common. Raise `version` when the same settings give other bytes.
pub const KIND: StageKind = StageKind {
    key_inputs: &["videos", "policy", "decoders", "agent"],
    row: "frame",
    lanes: Lanes::PerCore,
    independent: true,
    ..StageKind::new("record", 1, &[ArtifactKind::Frames, ArtifactKind::Actions], "episodes")
};
/// Frames a second, as Procgen's own players have it.
const FPS: u32 = 15;
/// Left, right, down, up.
const DIRECTIONS: [u32; 4] = [1, 7, 3, 5];
/// So many episodes in a row may be too short to keep.
const PATIENCE: usize = 1000;

/// Some episodes, which become one shard.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct RecordTask {
    /// The stage's settings.
    pub config: RecordConfig,
    /// Seeds levels and random actions.
    pub seed: u64,
    /// The number of the first episode, and how many there are.
    pub first: u64,
    /// How many.
    pub count: u64,
    /// The weights of policy and decoder, or of an agent, where these play.
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
            max_frames,
            min_frames,
            compression,
            videos,
            // Which episodes a task plays is in `videos`, what was learnt in an input.
            episodes: _,
            episodes_per_shard: _,
            policy: _,
            decoder: _,
            agent: _,
        } = config;
        let mut key = KeyFields::new(&KIND)
            .setting("game", game)
            .setting("player", player)
            .setting("mode", mode)
            .setting("levels", levels)
            .setting("noise", noise)
            .setting("size", size)
            .setting("max_frames", max_frames)
            .setting("min_frames", min_frames)
            .setting("compression", compression)
            // Films share the name `videos` with the episodes below: asking for them moves that field to this place in the key.
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

    fn run(&self, place: &Workplace, _: &mut Kept) -> Result<Done, Error> {
        run(self, place)
    }

    fn videos(&self) -> usize {
        self.count as usize
    }
}

/// Plays the task's episodes into one shard.
pub fn run(task: &RecordTask, place: &Workplace) -> Result<Done, Error> {
    let config = &task.config;
    let package = Package::find(place.games)?;
    let mut rng = batch::generator(task.seed, "record", task.first);
    let seed = rng.random::<u32>() >> 1;
    let procgen = ProcgenConfig {
        game: config.game,
        mode: config.mode,
        levels: config.levels,
        seed,
        count: 1,
        threads: 0,
    };
    let mut table =
        Table { config, learnt: task.load(place)?, game: Procgen::new(&package, &procgen)?, rng };

    let videos: Vec<VideoName> =
        (task.first..task.first + task.count).map(|number| task.name(number)).collect();
    let size = FrameSize { height: config.size, width: config.size };
    let layout = ShardLayout { size, compression: config.compression, videos: videos.clone() };
    let mut shard =
        ShardWriter::create(place.store, &format!("{}/shard.arrow", place.folder), &layout)?;
    let (mut taken, mut done) = (ActionRows::default(), Done::default());
    for (i, video) in videos.into_iter().enumerate() {
        place.go_on()?;
        let episode = table.worth_keeping()?;
        shard.begin_video(i)?;
        for (t, frame) in episode.frames.chunks_exact(size.bytes()).enumerate() {
            shard.push(0, t as u32, t as f64 / f64::from(FPS), frame)?;
        }
        if config.videos {
            // Called as the episode is, so that the actions of one find the other.
            done.files.push(film(
                &episode.frames,
                config.size,
                &format!("{}/{}.mp4", place.folder, video.uri),
                place,
            )?);
        }
        let frames = episode.actions.len() as u64;
        taken.video.extend(std::iter::repeat_n(video.uri.clone(), episode.actions.len()));
        taken.frame_index.extend(0..episode.actions.len() as u32);
        taken.discrete.extend(&episode.actions);
        taken.reward.extend(episode.rewards.iter().map(|reward| Some(f64::from(*reward))));
        done.videos.push(VideoRecord {
            digest: video.digest,
            uri: video.uri,
            bytes: 0,
            modified: String::new(),
            at: None,
            inode: None,
            frames,
            episodes: 1,
            about: About::default(),
        });
        place.progress.advance(1);
    }
    done.stats.insert("videos".into(), done.videos.len() as f64);
    done.stats.insert("frames".into(), taken.len() as f64);
    done.stats.insert("rewards".into(), taken.reward.iter().flatten().sum());
    let actions = taken.write(place.store, &format!("{}/actions.parquet", place.folder))?;
    done.files.splice(0..0, [shard.finish()?, actions]);
    Ok(done)
}

/// An episode as a video.
#[cfg(feature = "video")]
fn film(frames: &[u8], side: u32, path: &str, place: &Workplace) -> Result<FileInfo, Error> {
    let film = crate::video::Film { width: side, height: side, fps: FPS, zoom: 4 };
    let bytes = film.encode(frames).map_err(|source| Error::Film { path: path.into(), source })?;
    let mut file = place.store.new_file(path)?;
    super::write(&mut file, &bytes)?;
    Ok(file.finish(0)?)
}

#[cfg(not(feature = "video"))]
fn film(_: &[u8], _: u32, _: &str, _: &Workplace) -> Result<FileInfo, Error> {
    Err(Error::NoVideo)
}

impl RecordTask {
    /// What was learnt, where that plays.
    fn load(&self, place: &Workplace) -> Result<Option<Learnt>, Error> {
        match self.learnt.as_slice() {
            [policy, decoder] => {
                let policy: Rc<dyn Actor> =
                    actor(&place.device, &place.store.require_file(policy)?)?.into();
                Ok(Some(Learnt::decoded(policy, decoder, place.store, 1.0)?))
            }
            [agent] => Ok(Some(Learnt::agent(agent, place, 1.0)?)),
            _ => Ok(None),
        }
    }

    /// What an episode is called, and what it is: all that decides it.
    fn name(&self, number: u64) -> VideoName {
        let uri = format!("{}/{}/{number:06}", self.config.game, self.seed);
        let RecordConfig {
            game, player, mode, levels, noise, size, max_frames, min_frames, ..
        } = &self.config;
        let decides = serde_json::json!([
            KIND.version,
            game,
            player,
            mode,
            levels,
            noise,
            size,
            max_frames,
            min_frames
        ]);
        let learnt: String = self.learnt.iter().map(|file| format!(" {}", file.blake3)).collect();
        let decides = format!("{decides} {} {} {number}{learnt}", self.seed, self.first);
        VideoName { uri, digest: blake3::hash(decides.as_bytes()).to_hex().to_string() }
    }
}

/// One episode, frame by frame.
#[derive(Default)]
struct Episode {
    frames: Vec<u8>,
    actions: Vec<u32>,
    rewards: Vec<f32>,
}

/// One game and who sits at it.
struct Table<'a> {
    config: &'a RecordConfig,
    learnt: Option<Learnt>,
    game: Procgen,
    rng: ChaCha8Rng,
}

impl Table<'_> {
    /// Plays until an episode is long enough.
    fn worth_keeping(&mut self) -> Result<Episode, Error> {
        for _ in 0..PATIENCE {
            let episode = self.play()?;
            if episode.actions.len() as u64 >= self.config.min_frames {
                return Ok(episode);
            }
        }
        Err(Error::ShortEpisodes {
            game: self.config.game.name(),
            episodes: PATIENCE,
            frames: self.config.min_frames,
        })
    }

    /// Plays one episode from its first frame; the game then shows the first of the next.
    fn play(&mut self) -> Result<Episode, Error> {
        let (config, game, rng) = (self.config, &mut self.game, &mut self.rng);
        let mut player = match (config.player, &self.learnt) {
            (Player::Random, _) => Hand::Random,
            (Player::Sticky, _) => Hand::Sticky(vec![(0, 0)]),
            (Player::Expert, _) => Hand::Expert,
            (Player::Policy | Player::Agent, Some(learnt)) => Hand::Learnt(learnt),
            (Player::Policy | Player::Agent, None) => {
                return Err(Error::Invariant {
                    what: "what was learnt plays: no weights are named".into(),
                });
            }
        };
        let mut episode = Episode::default();
        loop {
            shrink(game.frames(), config.size as usize, &mut episode.frames);
            let action = match config.noise > 0.0 && rng.random_bool(config.noise) {
                true => DIRECTIONS[rng.random_range(0..4)],
                false => player.act(game, &[0], rng)?[0],
            };
            game.step(&[action])?;
            episode.actions.push(action);
            episode.rewards.push(game.rewards()[0]);
            if game.ends()[0] != End::None {
                return Ok(episode);
            }
            if episode.actions.len() as u64 == config.max_frames {
                game.reset();
                return Ok(episode);
            }
        }
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
        let cut = |episodes| {
            config(episodes)
                .tasks(3, vec![])
                .iter()
                .map(|task| (task.first, task.count))
                .collect::<Vec<_>>()
        };
        assert_eq!(cut(30), [(0, 10), (10, 10), (20, 10)]);
        assert_eq!(cut(35)[..3], cut(30));
        assert_eq!(cut(35)[3], (30, 5));
    }
}
