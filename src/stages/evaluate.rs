//! Stage 4: what a policy earns in the game (LAPO, section 5). In: a latent policy and decoders; out: every episode they played,
//! `episodes.parquet`, beside those of random actions and of an expert where there is one, and the means, `evaluation.json`.
//!
//! And what latent actions tell of true ones, where these are known, game or not (`labels`, `actions`): `probe.parquet`. Networks of its own
//! learn from some videos' labels and are asked about other videos'.
//!
//! Every player meets the same levels. Each environment plays its own share of the episodes to their ends, so that short ones do not count
//! more often than long ones.
//!
//! `pipelines/maze_small.yaml`, 45 to 65 minutes of two cores, 67 CPU-minutes (two thirds of it the policy's 50,000 steps of 64): 40,000
//! recorded mazes, `tiny` networks on 32 x 32 pixels, played on levels that were not recorded. Mean returns of 200 episodes for each of
//! three draws of labelled transitions, which meet the same 200 levels; the paper's are of its full sizes on 64 x 64.
//!
//! | labelled transitions | 64 | 256 | 1,024 | 8,192 | random | expert |
//! |---|---|---|---|---|---|---|
//! | seed 0 | 7.73 | 7.85 | 7.77 | 7.88 | 4.40 | 10.00 |
//! | seed 1 | 7.78 | 7.85 | 7.92 | 7.87 | 4.75 | 10.00 |
//! | seed 2 | 6.85 | 7.03 | 6.97 | 6.88 | 3.95 | 10.00 |
//! | mean | 7.45 | 7.58 | 7.55 | 7.54 | 4.37 | 10.00 |
//! | paper | | 7.51 | | 9.41 | 4.27 | 9.97 |
//!
//! Two hundred levels are few: of 800 the three seeds earn 7.63, 7.63 and 7.48 from 256 transitions (mean 7.58).
//!
//! Three moves in ten of that recording are random, so that it shows the way back. With one in ten, 16,000 mazes and 8,000 steps of the
//! policy it earned what random actions do (4.1); with three, 40,000 mazes and 24,000 steps 7.5: which of these did it was not looked into.
//! Half and twice the temperature earn less (6.1 and 6.8 from 256 transitions).

use std::rc::Rc;

use rand::Rng;
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use super::known::Choice;
use super::player::{Learnt, Player};
use super::training::verdict_json;
use super::{Done, Error, Workplace, write};
use crate::dataset::FileInfo;
use crate::envs::wrappers::EpisodeStatistics;
use crate::envs::{End, Game, Levels, Mode, Package, Procgen, ProcgenConfig, VecEnv};
use crate::models::{Actor, actor};
use crate::train::batch;
use crate::train::probe::{self, Probe};

mod played;

use played::{Evaluation, Played};

/// Lets a policy play, once with each decoder; asks how much latent actions tell of true ones; or both.
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
    /// Every `holdout`-th video's transitions are asked about, and the probe learns from the others: as in `train_dynamics`, so that the
    /// model knows none of the former either. Default 5; 0: all are both.
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

/// The version of what this stage does: raise it when the same policy and settings play otherwise.
pub const VERSION: u32 = 1;
/// Transitions that a probe learns from.
const KNOWN: usize = 32_768;

/// A policy, decoders, and how to play.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct EvaluateTask {
    /// The stage's settings.
    pub config: EvaluateConfig,
    /// Seeds levels and chance.
    pub seed: u64,
    /// The policy's weights.
    pub policy: Option<FileInfo>,
    /// The decoders' weights.
    pub decoders: Vec<FileInfo>,
    /// The agent's weights.
    #[serde(default)]
    pub agent: Option<FileInfo>,
    /// Files of labels that are asked about true actions.
    #[serde(default)]
    pub labels: Vec<FileInfo>,
    /// Files of these.
    #[serde(default)]
    pub actions: Vec<FileInfo>,
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
        let (plays, asks) = (self.policy.is_some() || self.agent.is_some(), self.labels.is_some());
        let missing = || "is missing".to_owned();
        expect(plays || asks, "policy", missing(), "name a `policy` and its `decoder`, an `agent`, or `labels` and true `actions`");
        let needs = if plays { "what plays needs one: `lapo doctor` names them" } else { "nobody plays it: name a `policy` or an `agent`" };
        let seen = self.game.map_or_else(missing, |game| format!("is {game}"));
        expect(self.game.is_some() == plays, "game", seen, needs);
        let seen = if asks { missing() } else { "has no `labels`".into() };
        expect(self.actions.is_some() == asks, "actions", seen, "`labels` are asked about true actions");
        expect(self.holdout != 1, "holdout", "is 1".into(), "the probe would have no video to learn from; expected 0 (none) or at least 2");
        let seen = if self.decoder.is_some() { "has no `policy`" } else { "is missing" };
        expect(self.decoder.is_some() == self.policy.is_some(), "decoder", seen.into(), "a policy plays by its decoder");
        expect(self.episodes > 0, "episodes", "is 0".into(), "expected at least 1");
        expect(self.envs > 0, "envs", "is 0".into(), "expected at least 1");
        let warm = self.temperature.is_finite() && self.temperature >= 0.0;
        expect(warm, "temperature", format!("is {}", self.temperature), "expected 0 (the likeliest action) or more");
        expect(self.levels.is_valid(), "levels", format!("end at {}", self.levels.end()), "expected numbers below 2,147,483,648");
        faults
    }

    /// Who plays that learnt nothing.
    fn baselines<'a>(&self) -> impl Iterator<Item = Player<'a>> + use<'a> {
        let expert = (self.game == Some(Game::Maze)).then_some(Player::Expert);
        self.game.map(|_| Player::Random).into_iter().chain(expert)
    }

    /// How many episodes so many learnt players play, and all others.
    pub fn all_episodes(&self, learnt: usize) -> u64 {
        self.episodes * (self.baselines().count() + learnt) as u64
    }
}

/// Every player plays, the probe is asked; tables say what came of it.
pub fn run(task: &EvaluateTask, place: &Workplace) -> Result<Done, Error> {
    let mut played = Played::default();
    if let Some(game) = task.config.game {
        let (learnt, package) = (learnt(task, place)?, Package::find(place.games)?);
        for mut player in task.config.baselines().chain(learnt.iter().map(Player::Learnt)) {
            let episodes = play(task, game, &mut player, &package, place)?;
            played.extend(&player, episodes);
        }
    }
    let evaluation = Evaluation { probe: probe(task, place)?, returns: task.config.game.map(|game| played.returns(game)) };
    let sentence = evaluation.sentence();
    place.progress.say(&sentence);
    let mut file = place.store.new_file(&format!("{}/evaluation.json", place.folder))?;
    write(&mut file, verdict_json(serde_json::json!({ "sentence": sentence }), &evaluation).as_bytes())?;
    let files = [vec![file.finish(0)?], played.write(place)?, evaluation.write(place)?].concat();
    Ok(Done { files, stats: [("episodes".to_owned(), played.len() as f64)].into(), ..Done::default() })
}

/// Who plays that learnt something.
fn learnt(task: &EvaluateTask, place: &Workplace) -> Result<Vec<Learnt>, Error> {
    let (mut learnt, temperature) = (Vec::new(), task.config.temperature);
    if let Some(file) = &task.policy {
        let policy: Rc<dyn Actor> = actor(&place.device, &place.store.require(&file.path)?)?.into();
        for decoder in &task.decoders {
            learnt.push(Learnt::decoded(Rc::clone(&policy), decoder, place.store, temperature)?);
        }
    }
    if let Some(file) = &task.agent {
        learnt.push(Learnt::agent(file, place, temperature)?);
    }
    Ok(learnt)
}

/// How much the labels tell of true actions.
fn probe(task: &EvaluateTask, place: &Workplace) -> Result<Option<Probe>, Error> {
    let EvaluateTask { labels, actions, seed, config, .. } = task;
    if labels.is_empty() {
        return Ok(None);
    }
    let known = Choice { labels, actions, most: KNOWN, draws: 1, holdout: config.holdout, seed: *seed }.draw(place)?;
    Ok(Some(probe::probe(&known.draws[0], &known.asked, &known.asked_codes, *seed)?))
}

/// An episode that was played to its end.
struct Episode {
    level: i32,
    episode_return: f64,
    length: u64,
    end: End,
}

/// All episodes of one player.
fn play(task: &EvaluateTask, game: Game, player: &mut Player, package: &Package, place: &Workplace) -> Result<Vec<Episode>, Error> {
    let config = &task.config;
    let envs = config.envs.min(config.episodes as usize);
    let seed = batch::generator(task.seed, "evaluate", 0).random::<u32>() >> 1;
    let procgen = ProcgenConfig { game, mode: config.mode, levels: config.levels, seed, count: envs, threads: place.game_threads() };
    let mut game = Procgen::new(package, &procgen)?;
    let mut left: Vec<u64> = (0..envs as u64).map(|env| (config.episodes - env).div_ceil(envs as u64)).collect();
    let (mut statistics, mut episodes) = (EpisodeStatistics::new(envs), Vec::new());
    let mut rng = batch::generator(task.seed, "evaluate", 1);
    while left.iter().any(|left| *left > 0) {
        let busy: Vec<usize> = (0..envs).filter(|env| left[*env] > 0).collect();
        let mut actions = vec![0; envs];
        for (env, action) in busy.iter().zip(player.act(&game, &busy, &mut rng)?) {
            actions[*env] = action;
        }
        let levels = game.levels().to_vec();
        game.step(&actions)?;
        let ended: Vec<_> = statistics.update(&game).into_iter().filter(|ended| left[ended.env] > 0).collect();
        for ended in ended {
            left[ended.env] -= 1;
            let (level, episode_return) = (levels.get(ended.env).copied().unwrap_or(-1), ended.episode_return);
            episodes.push(Episode { level, episode_return, length: ended.length, end: ended.end });
            place.progress.advance(1);
        }
    }
    Ok(episodes)
}
