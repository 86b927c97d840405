//! Stage 4: what a policy earns in the game (LAPO, section 5). In: a latent policy and decoders; out: every episode they played,
//! `episodes.parquet`, beside those of random actions and of an expert where there is one, and the means, `evaluation.json`.
//!
//! Every player meets the same levels. Each environment plays its own share of the episodes to their ends, so that short ones do not count
//! more often than long ones.
//!
//! `pipelines/maze_small.yaml`, about an hour of two cores that did other work beside (46 minutes of it the policy's 50,000 steps of 64):
//! 40,000 recorded mazes, `tiny` networks on 32 x 32 pixels, played on levels that were not recorded. Mean returns of 200 episodes for each
//! of three draws of labelled transitions; the paper's are of its full sizes on 64 x 64.
//!
//! | labelled transitions | 64 | 256 | 1,024 | 8,192 | random | expert |
//! |---|---|---|---|---|---|---|
//! | here | 7.73 (7.7 to 7.8) | 7.85 (7.7 to 8.05) | 7.77 (7.6 to 7.85) | 7.88 (7.75 to 8.1) | 4.40 | 10.00 |
//! | paper | | 7.51 | | 9.41 | 4.27 | 9.97 |
//!
//! Three moves in ten of that recording are random, so that it shows the way back. With one in ten, 16,000 mazes and 8,000 steps of the
//! policy it earned what random actions do (4.1); with three, 40,000 mazes and 24,000 steps 7.5: which of these did it was not looked into.
//! Half and twice the temperature earn less (6.1 and 6.8 from 256 transitions).

use rand::Rng;
use rand_chacha::ChaCha8Rng;
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use super::training::verdict_json;
use super::{Done, Error, Workplace, write};
use crate::dataset::FileInfo;
use crate::envs::wrappers::{EpisodeStatistics, shrink};
use crate::envs::{End, Game, Levels, Mode, NATIVE, Package, Procgen, ProcgenConfig, VecEnv, maze};
use crate::models::{Actor, LoadedDecoder, Outputs, actor};
use crate::train::batch;

mod played;

use played::Played;

/// Lets a policy play, once with each decoder.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct EvaluateConfig {
    /// The `train_policy` stage whose policy plays.
    pub policy: String,
    /// The `train_decoder` stage whose decoders say which action a latent action is.
    pub decoder: String,
    /// Which game of Procgen.
    pub game: Game,
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

fn default_episodes() -> u64 {
    200
}
fn default_envs() -> usize {
    50
}
fn default_temperature() -> f64 {
    1.0
}

/// The version of what this stage does: raise it when the same policy and settings play otherwise.
pub const VERSION: u32 = 1;

/// A policy, decoders, and how to play.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct EvaluateTask {
    /// The stage's settings.
    pub config: EvaluateConfig,
    /// Seeds levels and chance.
    pub seed: u64,
    /// The policy's weights.
    pub policy: FileInfo,
    /// The decoders' weights.
    pub decoders: Vec<FileInfo>,
}

impl EvaluateConfig {
    /// Faults of single fields: `(field, what is wrong, cure)`.
    pub fn validate(&self) -> Vec<(&'static str, String, &'static str)> {
        let mut faults = Vec::new();
        let mut expect = |holds: bool, field, seen: String, cure| {
            if !holds {
                faults.push((field, seen, cure));
            }
        };
        expect(self.episodes > 0, "episodes", "is 0".into(), "expected at least 1");
        expect(self.envs > 0, "envs", "is 0".into(), "expected at least 1");
        let warm = self.temperature.is_finite() && self.temperature >= 0.0;
        expect(warm, "temperature", format!("is {}", self.temperature), "expected 0 (the likeliest action) or more");
        expect(self.levels.is_valid(), "levels", format!("end at {}", self.levels.end()), "expected numbers below 2,147,483,648");
        faults
    }

    /// How many kinds of player there are beside the decoders.
    pub fn baselines(&self) -> u64 {
        1 + u64::from(self.game == Game::Maze)
    }
}

/// What plays.
enum Player {
    Random,
    Expert,
    Decoder { transitions: u64, draw: u64, decoder: Box<LoadedDecoder> },
}

/// Every player plays; the table says what they earned.
pub fn run(task: &EvaluateTask, place: &Workplace) -> Result<Done, Error> {
    let policy = actor(&place.device, &place.store.require(&task.policy.path)?)?;
    let mut players = vec![Player::Random];
    if task.config.game == Game::Maze {
        players.push(Player::Expert);
    }
    for file in &task.decoders {
        players.push(decoder(file, &place.store.require(&file.path)?, policy.as_ref())?);
    }
    let package = Package::find(place.games)?;
    let mut played = Played::default();
    for player in &players {
        let episodes = Match { task, policy: policy.as_ref(), player, place }.play(&package)?;
        played.extend(player, episodes);
    }
    let evaluation = played.evaluation(task.config.game);
    place.progress.say(&evaluation.sentence());
    let mut file = place.store.new_file(&format!("{}/evaluation.json", place.folder))?;
    write(&mut file, verdict_json(serde_json::json!({ "sentence": evaluation.sentence() }), &evaluation).as_bytes())?;
    let files = vec![file.finish(0)?, played.write(place)?];
    Ok(Done { files, stats: [("episodes".to_owned(), played.len() as f64)].into(), ..Done::default() })
}

/// A decoder that fits the policy and a game of discrete actions.
fn decoder(file: &FileInfo, bytes: &[u8], policy: &dyn Actor) -> Result<Player, Error> {
    let decoder = LoadedDecoder::load(bytes)?;
    let (seen, expected) = (decoder.config.latent_dim, policy.config().latent_dim);
    if seen != expected {
        return Err(Error::LatentSize { file: file.path.clone(), seen, expected });
    }
    if let Outputs::Continuous { axes } = decoder.config.outputs {
        return Err(Error::Continuous { file: file.path.clone(), axes });
    }
    let number = |key: &str| decoder.metadata.get(key).and_then(|text| text.parse().ok()).unwrap_or(0);
    Ok(Player::Decoder { transitions: number("lapo.transitions"), draw: number("lapo.draw"), decoder: Box::new(decoder) })
}

/// One player and all its episodes.
struct Match<'a> {
    task: &'a EvaluateTask,
    policy: &'a dyn Actor,
    player: &'a Player,
    place: &'a Workplace<'a>,
}

/// An episode that was played to its end.
struct Episode {
    level: i32,
    episode_return: f64,
    length: u64,
    end: End,
}

impl Match<'_> {
    fn play(&self, package: &Package) -> Result<Vec<Episode>, Error> {
        let config = &self.task.config;
        let envs = config.envs.min(config.episodes as usize);
        let seed = batch::generator(self.task.seed, "evaluate", 0).random::<u32>() >> 1;
        let threads = if self.place.cores_free > 1 { self.place.cores_free } else { 0 };
        let procgen = ProcgenConfig { game: config.game, mode: config.mode, levels: config.levels, seed, count: envs, threads };
        let mut game = Procgen::new(package, &procgen)?;
        let mut left: Vec<u64> = (0..envs as u64).map(|env| (config.episodes - env).div_ceil(envs as u64)).collect();
        let (mut statistics, mut episodes) = (EpisodeStatistics::new(envs), Vec::new());
        let mut rng = batch::generator(self.task.seed, "evaluate", 1);
        while left.iter().any(|left| *left > 0) {
            let busy: Vec<usize> = (0..envs).filter(|env| left[*env] > 0).collect();
            let mut actions = vec![0; envs];
            for (env, action) in busy.iter().zip(self.act(&game, &busy, &mut rng)?) {
                actions[*env] = action;
            }
            let levels = game.levels().to_vec();
            game.step(&actions)?;
            let ended: Vec<_> = statistics.update(&game).into_iter().filter(|ended| left[ended.env] > 0).collect();
            for ended in ended {
                left[ended.env] -= 1;
                let (level, episode_return) = (levels.get(ended.env).copied().unwrap_or(-1), ended.episode_return);
                episodes.push(Episode { level, episode_return, length: ended.length, end: ended.end });
                self.place.progress.advance(1);
            }
        }
        Ok(episodes)
    }

    /// An action for each environment that is still to be played.
    fn act(&self, game: &Procgen, busy: &[usize], rng: &mut ChaCha8Rng) -> Result<Vec<u32>, Error> {
        let decoder = match self.player {
            Player::Random => return Ok(busy.iter().map(|_| rng.random_range(0..game.actions() as u32)).collect()),
            Player::Expert => return busy.iter().map(|env| Ok(maze::expert(game, *env)?)).collect(),
            Player::Decoder { decoder, .. } => decoder,
        };
        let (side, native) = (self.policy.config().frame_size, game.frame_shape().iter().product::<usize>());
        if side > NATIVE || !NATIVE.is_multiple_of(side) {
            return Err(Error::FrameSize { file: self.task.policy.path.clone(), seen: NATIVE, expected: side });
        }
        let mut frames = Vec::with_capacity(busy.len() * side * side * 3);
        busy.iter().for_each(|env| shrink(&game.frames()[env * native..][..native], side, &mut frames));
        let scores = decoder.decode(&self.policy.latent_action(&frames)?)?;
        let width = decoder.config.outputs.width();
        Ok(scores.chunks_exact(width).map(|scores| draw(scores, self.task.config.temperature, rng)).collect())
    }
}

/// An action, by the logarithms of their likelihoods.
fn draw(scores: &[f32], temperature: f64, rng: &mut ChaCha8Rng) -> u32 {
    let best = (0..scores.len()).max_by(|&a, &b| scores[a].total_cmp(&scores[b])).unwrap_or(0);
    if temperature == 0.0 {
        return best as u32;
    }
    let weights: Vec<f64> = scores.iter().map(|score| (f64::from(score - scores[best]) / temperature).exp()).collect();
    let mut left = rng.random::<f64>() * weights.iter().sum::<f64>();
    let drawn = weights.iter().position(|weight| {
        left -= weight;
        left < 0.0
    });
    drawn.unwrap_or(best) as u32
}

#[cfg(test)]
mod tests {
    use rand::SeedableRng;

    use super::*;

    #[test]
    fn actions_are_drawn_as_often_as_they_are_likely() {
        let mut rng = ChaCha8Rng::seed_from_u64(0);
        let scores = [0.0, 3.0_f32.ln(), f32::NEG_INFINITY];
        let mut counts = [0; 3];
        (0..4000).for_each(|_| counts[draw(&scores, 1.0, &mut rng) as usize] += 1);
        assert_eq!(counts[2], 0);
        assert!((2850..3150).contains(&counts[1]), "{counts:?}");
        assert!((0..100).all(|_| draw(&scores, 0.0, &mut rng) == 1));
        // To the power of two: 1 to 9.
        let sharp = (0..4000).filter(|_| draw(&scores, 0.5, &mut rng) == 1).count();
        assert!((3500..3700).contains(&sharp), "{sharp}");
    }
}
