//! The networks of `lapo act`: a policy and a decoder, or an agent.

use std::io::{Error as IoError, ErrorKind};
use std::path::Path;

use rand::SeedableRng;
use rand_chacha::ChaCha8Rng;
use serde::Serialize;
use serde_json::{Value, json};

use super::ActArgs;
use crate::envs::Action;
use crate::error::CommandError as Error;
use crate::error::Result;
use crate::models::{
    self, Actor, Agent, Device, FrameStack, LoadedDecoder, Outputs, PolicyConfig, actor, agent,
};
use crate::stages::{self, draw_action};

/// Loaded networks, and how an action is chosen.
pub struct Player {
    network: Network,
    /// The last frames of the episode.
    stack: FrameStack,
    temperature: f64,
    rng: ChaCha8Rng,
    answers_latent: bool,
}

enum Network {
    /// A latent policy and a decoder of its latent actions.
    Decoded(Box<dyn Actor>, LoadedDecoder),
    /// An agent.
    Agent(Box<dyn Agent>),
}

/// The answer to a frame.
#[derive(Debug, Serialize)]
pub struct Answer {
    action: Action,
    #[serde(flatten)]
    scores: Scores,
    #[serde(skip_serializing_if = "Option::is_none")]
    latent_action: Option<Vec<f32>>,
}

/// What the action was chosen by.
#[derive(Debug, Serialize)]
#[serde(untagged)]
enum Scores {
    /// The score of each discrete action.
    Logits { logits: Vec<f32> },
    /// The distribution that the action is drawn from.
    Gaussian { mean: Vec<f32>, log_std: Vec<f32> },
    /// Nothing but the action.
    None {},
}

impl Player {
    /// Loads the networks and lets them answer a first frame.
    pub fn load(args: &ActArgs, device: &Device) -> Result<Player> {
        device.check()?;
        if !(args.temperature >= 0.0 && args.temperature.is_finite()) {
            return Err(usage(
                format!("--temperature is {}, expected a number from 0 on", args.temperature),
                "0 takes the best action",
            ));
        }
        let (network, file) = match (&args.policy, &args.decoder, &args.agent) {
            (Some(policy), Some(decoder), _) => (load_decoded(policy, decoder, device)?, policy),
            (_, _, Some(file)) => (Network::Agent(read(file, |at| agent(device, at))?), file),
            // clap requires an agent or both others.
            _ => return Err(usage("no weights are given".into(), "give --policy and --decoder")),
        };
        let rng = ChaCha8Rng::seed_from_u64(args.seed);
        let player = Player {
            stack: FrameStack::new(network.input().frames),
            network,
            temperature: args.temperature,
            rng,
            answers_latent: args.latent,
        };
        if let (Outputs::Continuous { .. }, true) = (player.outputs(), args.temperature > 0.0) {
            return Err(usage(
                format!(
                    "--temperature is {}, but the decoder has no probabilities",
                    args.temperature
                ),
                "omit the flag, or train the decoder of continuous actions with `head: gaussian`",
            ));
        }
        player.check_first_answer(file)?;
        Ok(player)
    }

    /// Returns the rows and columns of a frame.
    pub fn side(&self) -> usize {
        self.frame_shape()[0]
    }

    fn frame_shape(&self) -> [usize; 3] {
        self.network.input().frame_shape()
    }

    /// Begins an episode: the frames before are forgotten.
    pub fn reset(&mut self) {
        self.stack.reset();
    }

    fn outputs(&self) -> Outputs {
        match &self.network {
            Network::Decoded(_, decoder) => decoder.config.outputs,
            Network::Agent(agent) => {
                Outputs::Discrete { actions: agent.config().network.latent_dim }
            }
        }
    }

    /// Describes the networks to a client.
    pub fn description(&self) -> Value {
        let (kind, count) = match self.outputs() {
            Outputs::Discrete { actions } => ("discrete", actions),
            Outputs::Continuous { axes } | Outputs::Gaussian { axes } => ("continuous", axes),
        };
        let frames = self.network.input().frames;
        json!({ "protocol": 1, "frame": self.frame_shape(), "frames": frames, "kind": kind,
            "actions": count })
    }

    /// Chooses an action. Returns the problem if an output is not a finite number.
    ///
    /// # Shapes
    /// - `frame`: `[height, width, channel]`
    pub fn act(&mut self, frame: &[u8]) -> models::Result<std::result::Result<Answer, String>> {
        self.stack.push(frame);
        let (latent_action, scores) = self.network.scores(self.stack.pixels())?;
        if let Some(problem) = not_finite(&latent_action, &scores) {
            return Ok(Err(problem));
        }
        let outputs = self.outputs();
        let action = draw_action(outputs, &scores, self.temperature, &mut self.rng);
        let scores = match outputs {
            Outputs::Discrete { .. } => Scores::Logits { logits: scores },
            Outputs::Continuous { .. } => Scores::None {},
            Outputs::Gaussian { axes } => {
                Scores::Gaussian { mean: scores[..axes].to_vec(), log_std: scores[axes..].to_vec() }
            }
        };
        let latent_action = latent_action.filter(|_| self.answers_latent);
        Ok(Ok(Answer { action, scores, latent_action }))
    }

    /// Answers a grey frame: damaged weights are found before a client waits, and a GPU compiles
    /// its kernels.
    fn check_first_answer(&self, file: &Path) -> Result<()> {
        let shape = self.frame_shape();
        if shape[2] != 3 {
            let problem = format!("its frames have {} channels, expected 3", shape[2]);
            return Err(unusable(file, problem));
        }
        let (latent_action, scores) =
            self.network.scores(&vec![128; self.network.input().stack_bytes()])?;
        match not_finite(&latent_action, &scores) {
            Some(problem) => Err(unusable(file, format!("the weights are damaged: {problem}"))),
            None => Ok(()),
        }
    }
}

impl Network {
    /// Returns the sizes of the frames that it sees.
    fn input(&self) -> &PolicyConfig {
        match self {
            Network::Decoded(policy, _) => policy.config(),
            Network::Agent(agent) => &agent.config().network,
        }
    }

    /// Returns the latent action, if there is one, and the scores or values of the action.
    ///
    /// # Shapes
    /// - `frames`: `[frame, height, width, channel]`
    fn scores(&self, frames: &[u8]) -> models::Result<(Option<Vec<f32>>, Vec<f32>)> {
        match self {
            Network::Decoded(policy, decoder) => {
                let latent_action = policy.latent_action(frames)?;
                let scores = decoder.decode(&latent_action)?;
                Ok((Some(latent_action), scores))
            }
            Network::Agent(agent) => Ok((None, agent.logits(frames)?)),
        }
    }
}

/// Loads a policy and a decoder that fits it.
fn load_decoded(policy_file: &Path, decoder_file: &Path, device: &Device) -> Result<Network> {
    let policy = read(policy_file, |weights| actor(device, weights))?;
    let decoder = read(decoder_file, LoadedDecoder::load)?;
    let (seen, expected) = (decoder.config.latent_dim, policy.config().latent_dim);
    if seen != expected {
        let file = decoder_file.display().to_string();
        return Err(stages::Error::LatentSize { file, seen, expected }.into());
    }
    Ok(Network::Decoded(policy, decoder))
}

/// Reads a weight file.
fn read<T>(path: &Path, load: impl FnOnce(&[u8]) -> models::Result<T>) -> Result<T> {
    let from = path.display().to_string();
    let bytes = std::fs::read(path).map_err(|source| Error::Input { from, source })?;
    load(&bytes).map_err(|error| unusable(path, error.to_string()))
}

fn not_finite(latent_action: &Option<Vec<f32>>, scores: &[f32]) -> Option<String> {
    let mut values = latent_action.iter().flatten().chain(scores);
    let seen = values.find(|value| !value.is_finite())?;
    Some(format!("the network's output is {seen}, expected finite numbers"))
}

fn unusable(path: &Path, problem: String) -> crate::error::Error {
    let source = IoError::new(ErrorKind::InvalidData, problem);
    Error::Input { from: path.display().to_string(), source }.into()
}

fn usage(what: String, hint: &str) -> crate::error::Error {
    Error::Usage { what, hint: hint.into() }.into()
}
