//! The players of [`record`](super::record) and [`evaluate`](super::evaluate): they choose an
//! action for each game.

use std::rc::Rc;

use rand::Rng;
use rand_chacha::ChaCha8Rng;

use super::{Error, FrameScaler, TaskContext};
use crate::dataset::{FileInfo, Store};
use crate::envs::{Action, ActionSpace, End, FRAME_SIDE, GameSetting, VecEnv, maze, normal};
use crate::models::{Actor, Agent, FrameStack, LoadedDecoder, Outputs, PolicyConfig, agent};
use crate::video::Fit;

/// A player of games.
pub(super) enum GamePlayer<'a> {
    /// Chooses a random action at every step.
    Random,
    /// Chooses random actions and holds each for one to four steps. For each environment: the
    /// action, and the steps for which it is still held.
    Sticky(Vec<(Action, u32)>),
    /// Follows a shortest path through a maze.
    Expert,
    /// A trained network, and the last frames of each environment.
    Trained(&'a TrainedPlayer, Vec<FrameStack>),
}

impl<'a> GamePlayer<'a> {
    /// Creates a sticky player of this many environments.
    pub(super) fn sticky(envs: usize) -> Self {
        GamePlayer::Sticky(vec![(Action::Discrete(0), 0); envs])
    }

    /// Creates a player before its first frame.
    pub(super) fn trained(player: &'a TrainedPlayer) -> Self {
        GamePlayer::Trained(player, Vec::new())
    }

    /// Shows the player the frames before a step. It must see those of every step.
    pub(super) fn observe(&mut self, game: &dyn VecEnv) {
        let GamePlayer::Trained(player, stacks) = self else { return };
        let PolicyConfig { frames, frame_size, .. } = *player.input();
        let scaler = FrameScaler::of_game(game.frame_shape(), frame_size, player.settings.fit);
        let native = game.frame_shape().iter().product::<usize>();
        stacks.resize_with(game.ends().len(), || FrameStack::new(frames));
        let mut frame = Vec::new();
        for (env, stack) in stacks.iter_mut().enumerate() {
            // After the last step of an episode, the game shows the first frame of the next one.
            if game.ends()[env] != End::None {
                stack.reset();
            }
            frame.clear();
            scaler.scale(&game.frames()[env * native..][..native], &mut frame);
            stack.push(&frame);
        }
    }

    /// Returns an action for each of the environments `envs`. [`observe`](Self::observe) comes
    /// before it.
    pub(super) fn act(
        &mut self,
        game: &dyn VecEnv,
        envs: &[usize],
        rng: &mut ChaCha8Rng,
    ) -> Result<Vec<Action>, Error> {
        let space = game.action_space();
        match self {
            GamePlayer::Random => Ok(envs.iter().map(|_| space.random(rng)).collect()),
            GamePlayer::Sticky(held) => {
                Ok(envs.iter().map(|env| hold(&mut held[*env], space, rng)).collect())
            }
            GamePlayer::Expert => {
                envs.iter().map(|env| Ok(Action::Discrete(maze::expert(game, *env)?))).collect()
            }
            GamePlayer::Trained(trained, stacks) => trained.act(stacks, space, envs, rng),
        }
    }
}

fn hold(held: &mut (Action, u32), space: &ActionSpace, rng: &mut ChaCha8Rng) -> Action {
    if held.1 == 0 {
        *held = (space.random(rng), rng.random_range(1..5));
    }
    held.1 -= 1;
    held.0.clone()
}

/// A trained network, and the temperature of its random choice of actions.
pub(super) struct TrainedPlayer {
    network: Network,
    /// The decoder's or the agent's file.
    file: String,
    settings: PlayerSettings,
}

/// How a trained network plays.
#[derive(Clone, Copy, Debug)]
pub(super) struct PlayerSettings {
    /// The temperature of the random choice of actions.
    pub(super) temperature: f64,
    /// How a frame of the game becomes square.
    pub(super) fit: Fit,
}

/// A network that scores actions.
enum Network {
    /// A latent policy and a decoder of its latent actions.
    Decoded(Rc<dyn Actor>, LoadedDecoder),
    /// An agent fine-tuned in the game.
    Agent(Box<dyn Agent>),
}

impl TrainedPlayer {
    /// Loads a decoder for `policy`. Returns an error if it does not fit the policy.
    pub(super) fn decoded(
        policy: Rc<dyn Actor>,
        file: &FileInfo,
        store: &Store,
        settings: PlayerSettings,
    ) -> Result<Self, Error> {
        let decoder = LoadedDecoder::load(&store.require_file(file)?)?;
        let seen = decoder.config.latent_dim;
        let expected = policy.config().latent_dim;
        if seen != expected {
            return Err(Error::LatentSize { file: file.path.clone(), seen, expected });
        }
        let network = Network::Decoded(policy, decoder);
        Ok(TrainedPlayer { network, file: file.path.clone(), settings })
    }

    /// Loads an agent.
    pub(super) fn agent(
        file: &FileInfo,
        ctx: &TaskContext,
        settings: PlayerSettings,
    ) -> Result<Self, Error> {
        let network = Network::Agent(agent(&ctx.device, &ctx.store.require_file(file)?)?);
        Ok(TrainedPlayer { network, file: file.path.clone(), settings })
    }

    /// Returns an error if the network cannot play the game: its frames have another size, or its
    /// actions are of another kind.
    pub(super) fn check(&self, setting: &GameSetting, game: &dyn VecEnv) -> Result<(), Error> {
        can_be_shown(self.input().frame_size, setting)?;
        let space = game.action_space();
        let (seen, fits) = match self.outputs() {
            // A decoder knows only the actions in its table, so it may have fewer.
            Outputs::Discrete { actions } => {
                let fits = space.discrete().is_some_and(|expected| actions <= expected);
                (format!("{actions} discrete actions"), fits)
            }
            Outputs::Continuous { axes } | Outputs::Gaussian { axes } => {
                (format!("{axes} continuous values"), space.axes() == Some(axes))
            }
        };
        if fits {
            return Ok(());
        }
        let (game, expected) = (setting.to_string(), space.to_string());
        Err(Error::ActionKind { file: self.file.clone(), seen, game, expected })
    }

    fn outputs(&self) -> Outputs {
        match &self.network {
            Network::Decoded(_, decoder) => decoder.config.outputs,
            Network::Agent(agent) => {
                Outputs::Discrete { actions: agent.config().network.latent_dim }
            }
        }
    }

    /// Returns the number of labelled transitions the decoder was trained on, and their draw.
    /// Returns `None` for an agent.
    pub(super) fn decoder(&self) -> Option<[u64; 2]> {
        let Network::Decoded(_, decoder) = &self.network else { return None };
        let number =
            |key: &str| decoder.metadata.get(key).and_then(|text| text.parse().ok()).unwrap_or(0);
        Some([number("lapo.transitions"), number("lapo.draw")])
    }

    /// Returns the sizes of the frames that the network sees.
    fn input(&self) -> &PolicyConfig {
        match &self.network {
            Network::Decoded(policy, _) => policy.config(),
            Network::Agent(agent) => &agent.config().network,
        }
    }

    fn act(
        &self,
        stacks: &[FrameStack],
        space: &ActionSpace,
        envs: &[usize],
        rng: &mut ChaCha8Rng,
    ) -> Result<Vec<Action>, Error> {
        let frames: Vec<u8> = envs.iter().flat_map(|env| stacks[*env].pixels()).copied().collect();
        let scores = match &self.network {
            Network::Decoded(policy, decoder) => decoder.decode(&policy.latent_action(&frames)?)?,
            Network::Agent(agent) => agent.logits(&frames)?,
        };
        if let Some(seen) = scores.iter().find(|score| !score.is_finite()) {
            return Err(Error::Output { file: self.file.clone(), seen: *seen });
        }
        let action = |row| match draw_action(self.outputs(), row, self.settings.temperature, rng) {
            Action::Continuous(values) => space.clip(values),
            discrete => discrete,
        };
        Ok(scores.chunks_exact(self.outputs().width().max(1)).map(action).collect())
    }
}

/// Returns an error if frames of this size cannot be made of the game's.
///
/// Procgen draws frames of one size, and smaller ones are means of whole pixels. Frames of
/// Gymnasium are scaled to any size.
pub(super) fn can_be_shown(side: usize, game: &GameSetting) -> Result<(), Error> {
    if game.procgen().is_none() || side <= FRAME_SIDE && FRAME_SIDE.is_multiple_of(side) {
        Ok(())
    } else {
        Err(Error::GameFrameSize { seen: side, native: FRAME_SIDE })
    }
}

/// Chooses an action by the outputs of a decoder or an agent.
///
/// Probabilities are raised to the power of 1 / `temperature`, so that the deviation of a Gaussian
/// head is multiplied by the root of `temperature`. At 0 the most likely action is taken.
///
/// # Shapes
/// - `row`: `[width]`
pub fn draw_action(
    outputs: Outputs,
    row: &[f32],
    temperature: f64,
    rng: &mut ChaCha8Rng,
) -> Action {
    match outputs {
        Outputs::Discrete { .. } => Action::Discrete(draw(row, temperature, rng).0),
        Outputs::Gaussian { axes } if temperature > 0.0 => {
            let (mean, log_std) = row.split_at(axes);
            let spread = temperature.sqrt() as f32;
            let draw = |(mean, log_std): (&f32, &f32)| mean + spread * log_std.exp() * normal(rng);
            Action::Continuous(mean.iter().zip(log_std).map(draw).collect())
        }
        Outputs::Continuous { axes } | Outputs::Gaussian { axes } => {
            Action::Continuous(row[..axes].to_vec())
        }
    }
}

/// Draws a discrete action. Returns it with the logarithm of its probability.
///
/// `scores` are log-probabilities up to a constant. They are divided by `temperature`; at 0 the
/// most likely action is taken.
pub fn draw(scores: &[f32], temperature: f64, rng: &mut ChaCha8Rng) -> (u32, f32) {
    let best = (0..scores.len()).max_by(|&a, &b| scores[a].total_cmp(&scores[b])).unwrap_or(0);
    // Its log-probability is 0, since the choice is certain.
    if temperature == 0.0 {
        return (best as u32, 0.0);
    }
    // Scores are relative to the best one, so that no exponential overflows.
    let weights: Vec<f64> =
        scores.iter().map(|score| (f64::from(score - scores[best]) / temperature).exp()).collect();
    let sum = weights.iter().sum::<f64>();
    let mut left = rng.random::<f64>() * sum;
    let drawn = weights.iter().position(|weight| {
        left -= weight;
        left < 0.0
    });
    // Rounding may leave nothing drawn.
    let action = drawn.unwrap_or(best);
    (action as u32, (weights[action] / sum).ln() as f32)
}

#[cfg(test)]
mod tests {
    use rand::SeedableRng;

    use super::*;
    use crate::train::pairs::ColumnStats;

    #[test]
    fn a_gaussian_head_is_drawn_with_its_mean_and_deviation() {
        let outputs = Outputs::Gaussian { axes: 2 };
        let row = [3.0, -1.0, 0.5_f32.ln(), 2.0_f32.ln()];
        let mut rng = ChaCha8Rng::seed_from_u64(0);
        assert_eq!(draw_action(outputs, &row, 0.0, &mut rng), Action::Continuous(vec![3.0, -1.0]));
        // A temperature of 4 divides the logarithm of the density by 4: twice the deviation.
        for (temperature, factor) in [(1.0, 1.0), (4.0, 2.0)] {
            let drawn = (0..4000).flat_map(|_| {
                let Action::Continuous(values) = draw_action(outputs, &row, temperature, &mut rng)
                else {
                    unreachable!("it is continuous")
                };
                values
            });
            let stats = ColumnStats::of(&drawn.collect::<Vec<_>>(), 2);
            for (axis, deviation) in
                [0.5, 2.0].map(|deviation| factor * deviation).iter().enumerate()
            {
                assert!((stats.mean[axis] - row[axis]).abs() < 0.1 * deviation, "{stats:?}");
                assert!((stats.deviation[axis] / deviation - 1.0).abs() < 0.05, "{stats:?}");
            }
        }
        // A decoder without a deviation is not drawn.
        let outputs = Outputs::Continuous { axes: 2 };
        let taken = draw_action(outputs, &row[..2], 1.0, &mut rng);
        assert_eq!(taken, Action::Continuous(vec![3.0, -1.0]));
    }

    #[test]
    fn actions_are_drawn_with_their_probabilities() {
        let mut rng = ChaCha8Rng::seed_from_u64(0);
        let scores = [0.0, 3.0_f32.ln(), f32::NEG_INFINITY];
        let mut counts = [0; 3];
        for _ in 0..4000 {
            let (action, log_prob) = draw(&scores, 1.0, &mut rng);
            counts[action as usize] += 1;
            assert!((log_prob - [0.25_f32, 0.75][action as usize].ln()).abs() < 1e-6);
        }
        assert_eq!(counts[2], 0);
        assert!((2850..3150).contains(&counts[1]), "{counts:?}");
        assert!((0..100).all(|_| draw(&scores, 0.0, &mut rng).0 == 1));
        // A temperature of 0.5 squares the probabilities: 1 to 9.
        let sharp = (0..4000).filter(|_| draw(&scores, 0.5, &mut rng).0 == 1).count();
        assert!((3500..3700).contains(&sharp), "{sharp}");
    }
}
