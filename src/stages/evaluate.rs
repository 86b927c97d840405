//! Evaluates models: the returns of a policy or an agent in the game, how well latent actions
//! predict true ones, and how far ahead the world model predicts.
//!
//! | inputs | question | output |
//! |---|---|---|
//! | a latent policy and decoders, or an agent | What does it earn in the game (LAPO, section 5)? | `episodes.parquet` |
//! | labels and true actions | How well does a probe predict true actions from latent ones? | `probe.parquet` |
//! | a world model and frames | How does its error grow when it predicts from its own predictions? | `rollouts.parquet` |
//! | a world model and frames | Do its latent actions leak the next frame, transfer and add up? | `verdict.parquet` |
//!
//! `evaluation.json` has the means of all of these. Random actions, and an expert if the game has
//! one, play as baselines. Every player plays the same levels. Each environment plays a fixed
//! number of episodes to their ends, so that short episodes do not count more often than long ones.
//!
//! On small mazes, with `tiny` networks, a policy earns about 7.8 from 64 labelled transitions or
//! more; random actions earn 4.2 and the expert 10. Planning limits it: returns fall with the
//! length of the shortest path.

use std::rc::Rc;

use rand::Rng;
use serde::{Deserialize, Serialize};

use super::labelled_pairs::PairSampling;
use super::model_files::verdict_json;
use super::plan::KeyFields;
use super::plan::key::digests;
use super::player::{GamePlayer, PlayerSettings, TrainedPlayer};
use super::world_model::WorldModel;
use super::{ArtifactKind, Error, LaneState, StageKind, StageTask, TaskContext, TaskOutput, write};
use crate::dataset::FileInfo;
use crate::envs::wrappers::EpisodeStatistics;
use crate::envs::{End, EnvConfig, GameSetting, Seeding};
use crate::models::{Actor, actor};
use crate::train::batch;
use crate::train::probe::{self, Probe};
use crate::video::Fit;

mod episodes;
mod latents;
mod rollouts;
mod settings;

use episodes::{EpisodeTable, Evaluation};
pub use settings::EvaluateConfig;

/// The properties of all `evaluate` stages. Raise `version` when the same policy and settings play
/// otherwise.
pub const KIND: StageKind = StageKind {
    key_inputs: &["frames", "model", "labels", "true_actions", "policy", "decoders", "agent"],
    ..StageKind::new("evaluate", 2, &[ArtifactKind::Evaluation], "episodes")
};
/// The number of transitions the probe is trained on.
const PROBE_TRANSITIONS: usize = 32_768;

/// The players, labels and world model to evaluate.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct EvaluateTask {
    /// The stage's settings.
    pub config: EvaluateConfig,
    /// The seed of levels and actions.
    pub seed: u64,
    /// One in `holdout` videos is held out; 0: none is.
    pub holdout: usize,
    /// The policy's weights.
    pub policy: Option<FileInfo>,
    /// The decoders' weights.
    pub decoders: Vec<FileInfo>,
    /// The agent's weights.
    #[serde(default)]
    pub agent: Option<FileInfo>,
    /// The label files for the probe.
    #[serde(default)]
    pub labels: Vec<FileInfo>,
    /// The true actions of their frames.
    #[serde(default)]
    pub actions: Vec<FileInfo>,
    /// The weights of the world model.
    #[serde(default)]
    pub dynamics: Option<FileInfo>,
    /// The shards of the frames to predict.
    #[serde(default)]
    pub shards: Vec<FileInfo>,
}

impl StageTask for EvaluateTask {
    fn key(&self) -> KeyFields {
        let EvaluateTask {
            config,
            seed,
            holdout,
            policy,
            decoders,
            agent,
            labels,
            actions,
            dynamics,
            shards,
        } = self;
        let EvaluateConfig {
            game,
            rollout,
            mode,
            levels,
            episodes,
            envs,
            fit,
            temperature,
            // The outputs of these stages are inputs below.
            policy: _,
            decoder: _,
            agent: _,
            labels: _,
            actions: _,
            dynamics: _,
            frames: _,
        } = config;
        let digest = |file: &Option<FileInfo>| file.as_ref().map(|file| file.blake3.clone());
        KeyFields::new(&KIND)
            .setting("game", game.as_ref().map(GameSetting::identity))
            .setting_if(rollout.is_some(), "rollout", rollout)
            .setting("holdout", holdout)
            .setting("mode", mode)
            .setting("levels", levels)
            .setting("episodes", episodes)
            .setting("envs", envs)
            .setting_if(*fit != Fit::Stretch, "fit", fit)
            .setting("temperature", temperature)
            .setting("seed", seed)
            .input_if(policy.is_some(), "policy", digest(policy))
            .input_if(policy.is_some(), "decoders", digests(decoders))
            .input_if(agent.is_some(), "agent", digest(agent))
            .input_if(!labels.is_empty(), "labels", digests(labels))
            .input_if(!labels.is_empty(), "true_actions", digests(actions))
            .input_if(dynamics.is_some(), "model", digest(dynamics))
            .input_if(dynamics.is_some(), "frames", digests(shards))
    }

    fn run(&self, ctx: &TaskContext, _: &mut LaneState) -> Result<TaskOutput, Error> {
        run(self, ctx)
    }
}

/// Runs all evaluations of the task and writes their tables.
fn run(task: &EvaluateTask, ctx: &TaskContext) -> Result<TaskOutput, Error> {
    let mut played = EpisodeTable::default();
    if let Some(game) = &task.config.game {
        let trained = trained_players(task, ctx)?;
        for mut player in task.config.baselines().chain(trained.iter().map(GamePlayer::trained)) {
            let episodes = play(task, game, &mut player, ctx)?;
            played.extend(&player, episodes);
        }
    }
    let returns = task.config.game.as_ref().map(|game| played.returns(game));
    let mut evaluation = Evaluation { returns, probe: probe(task, ctx)?, ..Evaluation::default() };
    if let Some(file) = &task.dynamics {
        let paths = task.shards.iter().map(|file| file.path.clone()).collect();
        let model = WorldModel::open(ctx, &file.path, paths)?;
        let rollouts = rollouts::roll(task, &model)?;
        evaluation.latents = Some(latents::test(task, &model, &rollouts)?);
        evaluation.rollouts = Some(rollouts);
    }
    let sentence = evaluation.sentence();
    ctx.progress.say(&sentence);
    let mut file = ctx.store.new_file(&format!("{}/evaluation.json", ctx.folder))?;
    write(
        &mut file,
        verdict_json(serde_json::json!({ "sentence": sentence }), &evaluation).as_bytes(),
    )?;
    let mut files = [vec![file.finish(0)?], played.write(ctx)?, evaluation.write(ctx)?].concat();
    // Tables follow in a fixed order; evaluations that did not run have none.
    files.extend(evaluation.rollouts.as_ref().map(|rollouts| rollouts.write(ctx)).transpose()?);
    files.extend(evaluation.latents.map(|latents| latents::write(&latents, ctx)).transpose()?);
    Ok(TaskOutput {
        files,
        stats: [("episodes".to_owned(), played.len() as f64)].into(),
        ..TaskOutput::default()
    })
}

/// Loads the trained players.
fn trained_players(task: &EvaluateTask, ctx: &TaskContext) -> Result<Vec<TrainedPlayer>, Error> {
    let mut players = Vec::new();
    let EvaluateConfig { temperature, fit, .. } = task.config;
    let settings = PlayerSettings { temperature, fit };
    if let Some(file) = &task.policy {
        let policy: Rc<dyn Actor> = actor(&ctx.device, &ctx.store.require_file(file)?)?.into();
        for decoder in &task.decoders {
            let policy = Rc::clone(&policy);
            players.push(TrainedPlayer::decoded(policy, decoder, ctx.store, settings)?);
        }
    }
    if let Some(file) = &task.agent {
        players.push(TrainedPlayer::agent(file, ctx, settings)?);
    }
    Ok(players)
}

/// Trains and tests the probe, if the task has labels.
fn probe(task: &EvaluateTask, ctx: &TaskContext) -> Result<Option<Probe>, Error> {
    let EvaluateTask { labels, actions, seed, holdout, .. } = task;
    if labels.is_empty() {
        return Ok(None);
    }
    let known = PairSampling {
        labels,
        actions,
        most: PROBE_TRANSITIONS,
        least: 1,
        draws: 1,
        holdout: *holdout,
        seed: *seed,
    }
    .sample(ctx)?;
    Ok(Some(probe::probe(&known.draws[0], &known.held_out, &known.held_out_codes, *seed)?))
}

/// A finished episode.
struct Episode {
    level: i32,
    episode_return: f64,
    length: u64,
    end: End,
}

/// Plays all episodes of one player.
fn play(
    task: &EvaluateTask,
    setting: &GameSetting,
    player: &mut GamePlayer,
    ctx: &TaskContext,
) -> Result<Vec<Episode>, Error> {
    let config = &task.config;
    // An environment without an episode would only cost time.
    let envs = config.envs.min(config.episodes as usize);
    let seed = batch::generator(task.seed, "evaluate", 0).random::<u32>() >> 1;
    let env_config = EnvConfig {
        mode: config.mode,
        levels: config.levels,
        seed,
        // So that all players meet the same episodes, and a killed run meets them again.
        seeding: Seeding::Each,
        count: envs,
        threads: ctx.game_threads(),
    };
    let mut game = setting.open(ctx.games, &env_config)?;
    if let GamePlayer::Trained(trained, _) = player {
        trained.check(setting, game.as_ref())?;
    }
    // The episodes that each environment has still to play.
    let mut left: Vec<u64> =
        (0..envs as u64).map(|env| (config.episodes - env).div_ceil(envs as u64)).collect();
    let mut statistics = EpisodeStatistics::new(envs);
    let mut episodes = Vec::new();
    // All players share the seeds, so that they meet the same levels.
    let mut rng = batch::generator(task.seed, "evaluate", 1);
    while left.iter().any(|left| *left > 0) {
        ctx.check_stop()?;
        // Environments without episodes left are idle and ignored.
        let busy: Vec<usize> = (0..envs).filter(|env| left[*env] > 0).collect();
        let mut actions = vec![game.action_space().idle(); envs];
        player.observe(game.as_ref());
        for (env, action) in busy.iter().zip(player.act(game.as_ref(), &busy, &mut rng)?) {
            actions[*env] = action;
        }
        // A step that ends an episode also loads the next level.
        let levels = game.levels();
        game.step(&actions)?;
        let ended: Vec<_> = statistics
            .update(game.as_ref())
            .into_iter()
            .filter(|ended| left[ended.env] > 0)
            .collect();
        for ended in ended {
            left[ended.env] -= 1;
            episodes.push(Episode {
                level: levels.get(ended.env).copied().unwrap_or(-1),
                episode_return: ended.episode_return,
                length: ended.length,
                end: ended.end,
            });
            ctx.progress.advance(1);
        }
    }
    Ok(episodes)
}
