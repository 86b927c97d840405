//! Checkpoints of [`finetune`](super) between two updates: weights, optimiser, games and
//! statistics.
//!
//! A checkpoint is a line of JSON, then safetensors. Double-precision numbers are stored as their
//! bits. The settings are not stored: the folder's name is the key, which depends on all of them.

use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use burn::module::AutodiffModule;
use serde::{Deserialize, Serialize};

use super::Ppo;
use crate::models::metadata::AGENT_FORMAT;
use crate::models::weights::Weights;
use crate::models::{AgentConfig, ModelError};
use crate::train::optim::TrainBackend;
use crate::train::pairs::{Pairs, TrueActions};
use crate::train::state::{restore_moments, same, save_moments};
use crate::train::{Result, TrainError};

/// The part of a checkpoint that is not a tensor.
#[derive(Serialize, Deserialize)]
struct Header {
    agent: AgentConfig,
    step: u64,
    /// The state of each environment's game, in base64.
    games: Vec<String>,
    scale: Vec<u64>,
    statistics: Vec<u64>,
    /// The actions of the teacher's pairs.
    actions: Vec<u32>,
}

impl<A: TrainBackend> Ppo<'_, A> {
    /// Returns the whole state after an update.
    pub(super) fn save_state(&self) -> Result<Vec<u8>> {
        let games = (0..self.game.count())
            .map(|env| Ok(STANDARD.encode(self.game.state_bytes(env).map_err(unusable)?)));
        let (latents, actions) = match self.teacher.as_ref().map(|teacher| &teacher.pairs) {
            Some(Pairs { latent_action, action: TrueActions::Discrete(actions) }) => {
                (latent_action.as_slice(), actions.clone())
            }
            _ => (&[][..], vec![]),
        };
        let header = Header {
            agent: self.agent.config.clone(),
            step: self.agent.optimizer.step,
            games: games.collect::<Result<_>>()?,
            scale: self.scale.bits(),
            statistics: self.statistics.bits(),
            actions,
        };
        // Tensors go into safetensors, everything else into the header.
        let mut weights = Weights::default();
        weights.describe(AGENT_FORMAT, &self.agent.config);
        weights.store::<A::InnerBackend, _>("agent", &self.agent.net.valid())?;
        save_moments(&self.agent.optimizer, &mut weights)?;
        weights.put("pairs", &[latents.len()], latents);
        let mut bytes = serde_json::to_vec(&header).map_err(unusable)?;
        bytes.push(b'\n');
        bytes.extend(weights.to_bytes());
        Ok(bytes)
    }

    /// Takes over a state that [`save_state`](Self::save_state) returned.
    pub(super) fn restore_state(&mut self, state: &[u8]) -> Result<()> {
        let end = state
            .iter()
            .position(|byte| *byte == b'\n')
            .ok_or_else(|| unusable("it has no header line"))?;
        let header: Header = serde_json::from_slice(&state[..end]).map_err(unusable)?;
        // The sizes of the networks, so that a tensor of another shape is never loaded.
        same("agent", &header.agent, &self.agent.config)?;
        let weights = Weights::parse(&state[end + 1..])?;
        let agent = &mut self.agent;
        agent.net = weights.load("agent", agent.net.clone(), &agent.device)?;
        restore_moments(&mut agent.optimizer, &weights, &agent.device)?;
        agent.optimizer.step = header.step;
        let games: Vec<Vec<u8>> = header
            .games
            .iter()
            .map(|game| STANDARD.decode(game).map_err(unusable))
            .collect::<Result<_>>()?;
        self.game.restore(&games).map_err(unusable)?;
        self.scale.restore(&header.scale);
        self.statistics.restore(&header.statistics);
        // Only the supervised path has a teacher with pairs.
        let decoder = self.agent.config.decoder.as_ref();
        if let Some((teacher, decoder)) = self.teacher.as_mut().zip(decoder) {
            let latent_action =
                weights.get("pairs", &[decoder.latent_dim * header.actions.len()])?;
            teacher.pairs = Pairs { latent_action, action: TrueActions::Discrete(header.actions) };
        }
        Ok(())
    }
}

/// Returns the error for a state that cannot be saved or read.
fn unusable(problem: impl std::fmt::Display) -> TrainError {
    TrainError::Model(ModelError::Metadata { key: "state", problem: problem.to_string() })
}
