//! The agent: one frame -> action logits and the expected return (LAPO, section 4.4, online).
//!
//! [`AgentNet`] is the network of online training. [`agent`] loads one for playing, behind the
//! device-independent trait [`Agent`].
//!
//! An agent has two paths that share the convolutions of the cloned latent policy. The supervised
//! path, latent policy then decoder, is frozen. The RL path starts as a copy of the last trunk
//! layer with a head of zeros, and PPO trains it. The logits are the mean of both paths. An agent
//! trained from scratch has only the RL path, with its own convolutions.

use std::collections::BTreeMap;

use burn::module::Module;
use burn::tensor::{FloatDType, Tensor, backend::Backend};
use serde::{Deserialize, Serialize};

use super::act::{FrameNetwork, LoadedNetwork};
use super::decoder::Decoder;
use super::device::on_device;
use super::impala::FEATURES;
use super::init::Init;
use super::layers::{Linear, NetBackend, relu};
use super::metadata::AGENT_FORMAT;
use super::policy::Policy;
use super::weights::Weights;
use super::{DecoderConfig, Device, LoadedDecoder, PolicyConfig, Result};

/// Sizes of an agent.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct AgentConfig {
    /// The RL path. Its `latent_dim` is the number of actions.
    pub network: PolicyConfig,
    /// The decoder of the supervised path, if there is one.
    pub decoder: Option<DecoderConfig>,
}

/// The frozen path: latent policy, then decoder.
#[derive(Module, Debug)]
pub struct SupervisedPath<B: Backend> {
    fc: Linear<B>,
    latent_head: Linear<B>,
    decoder: Decoder<B>,
}

/// The network of an agent.
#[derive(Module, Debug)]
pub struct AgentNet<B: Backend> {
    /// The RL path: action logits and value.
    pub rl: Policy<B>,
    supervised: Option<SupervisedPath<B>>,
}

impl<B: NetBackend> AgentNet<B> {
    /// Creates an agent with initial weights in all layers.
    pub fn new(init: &mut Init<'_, B>, config: &AgentConfig) -> Self {
        let rl = Policy::new(init, &config.network);
        let supervised = config.decoder.as_ref().map(|decoder| SupervisedPath {
            fc: Linear {
                weight: init.full(rl.fc.weight.dims(), 0.0),
                bias: init.full(rl.fc.bias.dims(), 0.0),
            },
            latent_head: Linear::new(init, FEATURES, decoder.latent_dim),
            decoder: Decoder::new(init, decoder),
        });
        AgentNet { rl, supervised }
    }

    /// Creates an agent from a latent policy. Its RL head starts at zero, and its decoder has
    /// initial weights.
    ///
    /// # Shapes
    /// - `policy`: its head has `config.decoder.latent_dim` outputs
    pub fn of_policy(init: &mut Init<'_, B>, config: &AgentConfig, policy: Policy<B>) -> Self {
        let supervised = config.decoder.as_ref().map(|decoder| SupervisedPath {
            fc: policy.fc.clone(),
            latent_head: policy.policy_head.clone(),
            decoder: Decoder::new(init, decoder),
        });
        let actions = config.network.latent_dim;
        // A zero head adds nothing: at first the supervised path alone decides.
        let zeros =
            Linear { weight: init.full([actions, FEATURES], 0.0), bias: init.full([actions], 0.0) };
        let mut rl = policy;
        rl.policy_head = zeros;
        AgentNet { rl, supervised }
    }

    /// Returns the logits of the supervised path, if there is one.
    ///
    /// # Shapes
    /// - `base`: `[batch, features]`, from [`Policy::base`]
    /// - output: `[batch, actions]`
    pub fn supervised_logits(&self, base: Tensor<B, 2>) -> Option<Tensor<B, 2>> {
        let path = self.supervised.as_ref()?;
        Some(path.decoder.forward(path.latent_head.forward(relu(path.fc.forward(base)))))
    }

    /// Returns the action logits and the value, in single precision.
    ///
    /// # Shapes
    /// - `base`: `[batch, features]`, from [`Policy::base`]
    /// - `supervised`: `[batch, actions]`, from [`supervised_logits`](Self::supervised_logits)
    /// - outputs: `[batch, actions]` and `[batch, 1]`
    pub fn logits_and_value(
        &self,
        base: Tensor<B, 2>,
        supervised: Option<Tensor<B, 2>>,
    ) -> (Tensor<B, 2>, Tensor<B, 2>) {
        let features = relu(self.rl.fc.forward(base));
        let own = self.rl.policy_head.forward(features.clone());
        let value = self.rl.value_head.forward(features);
        let logits = match supervised {
            Some(supervised) => (own + supervised) / 2.0,
            None => own,
        };
        (logits.cast(FloatDType::F32), value.cast(FloatDType::F32))
    }

    /// Replaces the decoder of the supervised path.
    pub fn set_decoder(&mut self, decoder: &LoadedDecoder, device: &B::Device) -> Result<()> {
        if let Some(path) = &mut self.supervised {
            // Goes through bytes: the decoder lives on the CPU backend, the agent perhaps not.
            path.decoder = Weights::parse(&decoder.export()?)?.load(
                "decoder",
                path.decoder.clone(),
                device,
            )?;
        }
        Ok(())
    }

    /// Returns the weights as a safetensors file.
    pub fn export(
        &self,
        config: &AgentConfig,
        metadata: &BTreeMap<String, String>,
    ) -> Result<Vec<u8>> {
        let mut weights = Weights::default();
        weights.metadata.clone_from(metadata);
        weights.describe(AGENT_FORMAT, config);
        weights.store::<B, _>("agent", self)?;
        Ok(weights.to_bytes())
    }

    /// Returns `fresh` with its weights replaced by the stored ones.
    pub fn load(weights: &Weights, fresh: Self, device: &B::Device) -> Result<Self> {
        weights.load("agent", fresh, device)
    }
}

/// An agent loaded for playing.
pub trait Agent: Send {
    /// Returns the sizes of the network.
    fn config(&self) -> &AgentConfig;

    /// Returns the action logits.
    ///
    /// # Shapes
    /// - `frames`: `[count, height, width, channel]`
    /// - output: `[count, actions]`
    fn logits(&self, frames: &[u8]) -> Result<Vec<f32>>;
}

/// Loads an agent from a safetensors file.
pub fn agent(device: &Device, weights: &[u8]) -> Result<Box<dyn Agent>> {
    device.check()?;
    let weights = Weights::parse(weights)?;
    on_device!(device, B, at => {
        Ok(Box::new(LoadedNetwork::<B, AgentNet<B>>::load(&weights, at, device.pass())?))
    })
}

impl<B: NetBackend> FrameNetwork<B> for AgentNet<B> {
    type Config = AgentConfig;

    fn load(weights: &Weights, device: &B::Device) -> Result<(AgentConfig, Self)> {
        let config = weights.agent_config()?;
        let fresh = AgentNet::new(&mut Init::new(0, device), &config);
        let net = AgentNet::load(weights, fresh, device)?;
        Ok((config, net))
    }

    fn input(config: &AgentConfig) -> &PolicyConfig {
        &config.network
    }

    fn forward(&self, frames: Tensor<B, 4>) -> Tensor<B, 2> {
        let base = self.rl.base(frames);
        let supervised = self.supervised_logits(base.clone());
        self.logits_and_value(base, supervised).0
    }
}

impl<B: NetBackend> Agent for LoadedNetwork<B, AgentNet<B>> {
    fn config(&self) -> &AgentConfig {
        &self.config
    }

    fn logits(&self, frames: &[u8]) -> Result<Vec<f32>> {
        self.forward(frames)
    }
}

#[cfg(test)]
#[expect(clippy::unwrap_used, reason = "a test fails by panicking")]
mod tests {
    use burn::backend::Flex;

    use super::*;
    use crate::models::Outputs;
    use crate::models::frames::upload;
    use crate::models::weights::to_host;

    fn parts() -> (AgentConfig, Policy<Flex>, AgentNet<Flex>) {
        let device = Default::default();
        let mut init = Init::new(3, &device);
        let latent =
            PolicyConfig { scale: 1, latent_dim: 8, frame_size: 16, channels: 3, frames: 1 };
        let decoder = DecoderConfig {
            latent_dim: 8,
            hidden: vec![6],
            outputs: Outputs::Discrete { actions: 5 },
        };
        let config = AgentConfig {
            network: PolicyConfig { latent_dim: 5, ..latent.clone() },
            decoder: Some(decoder),
        };
        let policy = Policy::new(&mut init, &latent);
        let net = AgentNet::of_policy(&mut init, &config, policy.clone());
        (config, policy, net)
    }

    #[test]
    fn a_new_agents_logits_are_half_of_the_decoded_latent_actions() {
        let (config, policy, net) = parts();
        let frames: Vec<u8> = (0..2 * 16 * 16 * 3).map(|i| (i * 31 % 256) as u8).collect();
        let loaded = agent(&Device::Cpu, &net.export(&config, &BTreeMap::new()).unwrap()).unwrap();
        assert_eq!(loaded.config(), &config);
        let x = upload::<Flex>(&frames, [16, 16, 3], &Default::default());
        // The RL head starts at zero, so the mean of both paths is half the supervised logits.
        let latent = policy.latent_action(policy.features(x));
        let decoded = to_host(net.supervised.as_ref().unwrap().decoder.forward(latent)).unwrap();
        let played = loaded.logits(&frames).unwrap();
        assert_eq!(played.len(), 10);
        assert!(
            played
                .iter()
                .zip(&decoded)
                .all(|(played, decoded)| (played * 2.0 - decoded).abs() < 1e-6),
            "{played:?} for {decoded:?}"
        );
        assert!(loaded.logits(&frames[1..]).is_err());
    }
}
