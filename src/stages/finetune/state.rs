//! The state of [`finetune`](super) between two updates: weights, optimiser, games and all that was counted go into a checkpoint, and back.
//!
//! The folder it lies in is named by all that decides the training, so that it need not say that again. It is a line of JSON, then
//! safetensors. Numbers of double precision are kept as their bits.

use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use burn::module::AutodiffModule;
use burn::tensor::backend::AutodiffBackend;
use serde::{Deserialize, Serialize};

use super::Ppo;
use crate::envs::VecEnv;
use crate::models::layers::NetBackend;
use crate::models::metadata::AGENT_FORMAT;
use crate::models::weights::Weights;
use crate::models::{AgentConfig, ModelError};
use crate::train::decoding::{Answers, Pairs};
use crate::train::optim::AdamBackend;
use crate::train::state::{restore_moments, same, save_moments};
use crate::train::{Result, TrainError};

/// What is no tensor.
#[derive(Serialize, Deserialize)]
struct Counted {
    agent: AgentConfig,
    step: u64,
    /// Of every environment the bytes that bring its game back.
    games: Vec<String>,
    scale: Vec<u64>,
    statistics: Vec<u64>,
    /// Actions of the pairs.
    actions: Vec<u32>,
}

impl<A> Ppo<'_, A>
where
    A: AutodiffBackend + NetBackend,
    A::InnerBackend: NetBackend + AdamBackend,
{
    /// The whole state, after an update.
    pub(super) fn save(&self) -> Result<Vec<u8>> {
        let games = (0..self.game.count())
            .map(|env| Ok(STANDARD.encode(self.game.state_bytes(env).map_err(lost)?)));
        let (latents, actions) = match self.teacher.as_ref().map(|teacher| &teacher.pairs) {
            Some(Pairs { latent_action, action: Answers::Discrete(actions) }) => {
                (latent_action.as_slice(), actions.clone())
            }
            _ => (&[][..], vec![]),
        };
        let counted = Counted {
            agent: self.learner.agent.clone(),
            step: self.learner.optimizer.step,
            games: games.collect::<Result<_>>()?,
            scale: self.scale.bits(),
            statistics: self.statistics.bits(),
            actions,
        };
        let mut weights = Weights::default();
        weights.describe(AGENT_FORMAT, &self.learner.agent);
        weights.store::<A::InnerBackend, _>("agent", &self.learner.net.valid())?;
        save_moments(&self.learner.optimizer, &mut weights)?;
        weights.put("pairs", &[latents.len()], latents);
        let mut bytes = serde_json::to_vec(&counted).map_err(lost)?;
        bytes.push(b'\n');
        bytes.extend(weights.to_bytes());
        Ok(bytes)
    }

    /// Goes on where [`save`](Self::save) was called.
    pub(super) fn restore(&mut self, state: &[u8]) -> Result<()> {
        let end = state
            .iter()
            .position(|byte| *byte == b'\n')
            .ok_or_else(|| lost("it has no header line"))?;
        let counted: Counted = serde_json::from_slice(&state[..end]).map_err(lost)?;
        same("agent", &counted.agent, &self.learner.agent)?;
        let (weights, learner) = (Weights::parse(&state[end + 1..])?, &mut self.learner);
        learner.net = weights.load("agent", learner.net.clone(), &learner.device)?;
        restore_moments(&mut learner.optimizer, &weights, &learner.device)?;
        learner.optimizer.step = counted.step;
        for (env, game) in counted.games.iter().enumerate() {
            self.game.set_state(env, &STANDARD.decode(game).map_err(lost)?).map_err(lost)?;
        }
        self.scale.restore(&counted.scale);
        self.statistics.restore(&counted.statistics);
        if let Some((teacher, decoder)) =
            self.teacher.as_mut().zip(self.learner.agent.decoder.as_ref())
        {
            let latent_action =
                weights.get("pairs", &[decoder.latent_dim * counted.actions.len()])?;
            teacher.pairs = Pairs { latent_action, action: Answers::Discrete(counted.actions) };
        }
        Ok(())
    }
}

/// A state that cannot be kept or read.
fn lost(problem: impl std::fmt::Display) -> TrainError {
    TrainError::Model(ModelError::Metadata { key: "state", problem: problem.to_string() })
}
