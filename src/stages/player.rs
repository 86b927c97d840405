//! Who plays. In: games and what they show; out: an action for each. [`record`](super::record) and [`evaluate`](super::evaluate) let
//! the same players play.

use std::rc::Rc;

use rand::Rng;
use rand_chacha::ChaCha8Rng;

use super::{Error, Workplace};
use crate::dataset::{FileInfo, Store};
use crate::envs::wrappers::shrink;
use crate::envs::{NATIVE, Procgen, VecEnv, maze};
use crate::models::{Actor, Agent, LoadedDecoder, Outputs, agent};

/// What decides on actions.
pub(super) enum Player<'a> {
    /// A random action at every step.
    Random,
    /// Random actions, each held for one to four steps: of every environment the action and for how long still.
    Sticky(Vec<(u32, u32)>),
    /// A shortest path through a maze.
    Expert,
    /// What was learnt.
    Learnt(&'a Learnt),
}

impl Player<'_> {
    /// An action for each of `envs`.
    pub(super) fn act(
        &mut self,
        game: &Procgen,
        envs: &[usize],
        rng: &mut ChaCha8Rng,
    ) -> Result<Vec<u32>, Error> {
        let actions = game.actions() as u32;
        match self {
            Player::Random => Ok(envs.iter().map(|_| rng.random_range(0..actions)).collect()),
            Player::Sticky(held) => {
                Ok(envs.iter().map(|env| stick(&mut held[*env], actions, rng)).collect())
            }
            Player::Expert => envs.iter().map(|env| Ok(maze::expert(game, *env)?)).collect(),
            Player::Learnt(learnt) => learnt.act(game, envs, rng),
        }
    }
}

fn stick(held: &mut (u32, u32), actions: u32, rng: &mut ChaCha8Rng) -> u32 {
    if held.1 == 0 {
        *held = (rng.random_range(0..actions), rng.random_range(1..5));
    }
    held.1 -= 1;
    held.0
}

/// What was learnt, and how much of its play is left to chance.
pub(super) struct Learnt {
    mind: Mind,
    temperature: f64,
}

/// What says how likely each action is.
enum Mind {
    /// A latent policy with a decoder of its latent actions.
    Decoded(Rc<dyn Actor>, LoadedDecoder),
    /// A network that was trained in the game.
    Agent(Box<dyn Agent>),
}

impl Learnt {
    /// A policy and a decoder that fits it and a game of discrete actions.
    pub(super) fn decoded(
        policy: Rc<dyn Actor>,
        file: &FileInfo,
        store: &Store,
        temperature: f64,
    ) -> Result<Self, Error> {
        let decoder = LoadedDecoder::load(&store.require_file(file)?)?;
        let (seen, expected) = (decoder.config.latent_dim, policy.config().latent_dim);
        if seen != expected {
            return Err(Error::LatentSize { file: file.path.clone(), seen, expected });
        }
        if let Outputs::Continuous { axes } = decoder.config.outputs {
            return Err(Error::Continuous { file: file.path.clone(), axes });
        }
        can_be_shown(policy.config().frame_size)?;
        Ok(Learnt { mind: Mind::Decoded(policy, decoder), temperature })
    }

    /// An agent.
    pub(super) fn agent(
        file: &FileInfo,
        place: &Workplace,
        temperature: f64,
    ) -> Result<Self, Error> {
        let agent = agent(&place.device, &place.store.require_file(file)?)?;
        can_be_shown(agent.config().network.frame_size)?;
        Ok(Learnt { mind: Mind::Agent(agent), temperature })
    }

    /// What the decoder is of: labelled transitions, and which draw of them.
    pub(super) fn decoder(&self) -> Option<[u64; 2]> {
        let Mind::Decoded(_, decoder) = &self.mind else { return None };
        let number =
            |key: &str| decoder.metadata.get(key).and_then(|text| text.parse().ok()).unwrap_or(0);
        Some([number("lapo.transitions"), number("lapo.draw")])
    }

    fn act(&self, game: &Procgen, envs: &[usize], rng: &mut ChaCha8Rng) -> Result<Vec<u32>, Error> {
        let side = match &self.mind {
            Mind::Decoded(policy, _) => policy.config().frame_size,
            Mind::Agent(agent) => agent.config().network.frame_size,
        };
        let native = game.frame_shape().iter().product::<usize>();
        let mut frames = Vec::with_capacity(envs.len() * side * side * 3);
        envs.iter()
            .for_each(|env| shrink(&game.frames()[env * native..][..native], side, &mut frames));
        let scores = match &self.mind {
            Mind::Decoded(policy, decoder) => decoder.decode(&policy.latent_action(&frames)?)?,
            Mind::Agent(agent) => agent.logits(&frames)?,
        };
        let width = scores.len() / envs.len().max(1);
        Ok(scores
            .chunks_exact(width.max(1))
            .map(|scores| draw(scores, self.temperature, rng).0)
            .collect())
    }
}

/// Whether a game's frames can be brought to this size.
pub(super) fn can_be_shown(side: usize) -> Result<(), Error> {
    match side <= NATIVE && NATIVE.is_multiple_of(side) {
        true => Ok(()),
        false => Err(Error::Policy { seen: side, native: NATIVE }),
    }
}

/// An action, by the logarithms of their likelihoods up to a constant, and the logarithm of its own.
///
/// Likelihoods count to the power of one over `temperature`; at 0 the likeliest action is taken.
pub(super) fn draw(scores: &[f32], temperature: f64, rng: &mut ChaCha8Rng) -> (u32, f32) {
    let best = (0..scores.len()).max_by(|&a, &b| scores[a].total_cmp(&scores[b])).unwrap_or(0);
    if temperature == 0.0 {
        return (best as u32, 0.0);
    }
    let weights: Vec<f64> =
        scores.iter().map(|score| (f64::from(score - scores[best]) / temperature).exp()).collect();
    let sum = weights.iter().sum::<f64>();
    let mut left = rng.random::<f64>() * sum;
    let drawn = weights.iter().position(|weight| {
        left -= weight;
        left < 0.0
    });
    let action = drawn.unwrap_or(best);
    (action as u32, (weights[action] / sum).ln() as f32)
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
        for _ in 0..4000 {
            let (action, likelihood) = draw(&scores, 1.0, &mut rng);
            counts[action as usize] += 1;
            assert!((likelihood - [0.25_f32, 0.75][action as usize].ln()).abs() < 1e-6);
        }
        assert_eq!(counts[2], 0);
        assert!((2850..3150).contains(&counts[1]), "{counts:?}");
        assert!((0..100).all(|_| draw(&scores, 0.0, &mut rng).0 == 1));
        // To the power of two: 1 to 9.
        let sharp = (0..4000).filter(|_| draw(&scores, 0.5, &mut rng).0 == 1).count();
        assert!((3500..3700).contains(&sharp), "{sharp}");
    }
}
