//! An agent: one frame goes in, the logarithm of each action's likelihood and the expected return come out (LAPO, section 4.4, online).
//!
//! [`AgentNet`] is the network that online training moves; [`agent`] loads one to play and hides the device behind [`Agent`].
//!
//! It has two paths, which share the latent policy's convolutions, as these were cloned. The supervised path is frozen: latent policy, then
//! decoder. The path of reinforcement learning starts as a copy of the last trunk layer with a head of zeros, and is what PPO moves. The
//! logits are the mean of both. An agent from scratch has the second path alone, convolutions and all.

use std::collections::BTreeMap;

use burn::module::Module;
use burn::tensor::{Tensor, backend::Backend};
use serde::{Deserialize, Serialize};

use super::act::in_passes;
use super::decoder::Decoder;
use super::device::on_device;
use super::frames::upload;
use super::impala::FEATURES;
use super::init::Init;
use super::layers::{Linear, NetBackend, relu};
use super::metadata::AGENT_FORMAT;
use super::policy::Policy;
use super::weights::{Weights, to_host};
use super::{DecoderConfig, Device, LoadedDecoder, PolicyConfig, Result};

/// The sizes of an agent.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct AgentConfig {
    /// The path of reinforcement learning; its `latent_dim` is the number of actions.
    pub network: PolicyConfig,
    /// The supervised path's decoder, where there is such a path.
    pub decoder: Option<DecoderConfig>,
}

/// The frozen path.
#[derive(Module, Debug)]
pub struct SupervisedPath<B: Backend> {
    fc: Linear<B>,
    latent_head: Linear<B>,
    decoder: Decoder<B>,
}

/// Both paths.
#[derive(Module, Debug)]
pub struct AgentNet<B: Backend> {
    /// Logits of the actions, and the value.
    pub rl: Policy<B>,
    supervised: Option<SupervisedPath<B>>,
}

impl<B: NetBackend> AgentNet<B> {
    /// Fresh weights in every layer.
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

    /// A latent policy that has learnt nothing of actions yet.
    ///
    /// # Shapes
    /// - `policy`: its head gives latent actions of `config.decoder`'s length
    pub fn of_policy(init: &mut Init<'_, B>, config: &AgentConfig, policy: Policy<B>) -> Self {
        let supervised = config.decoder.as_ref().map(|decoder| SupervisedPath {
            fc: policy.fc.clone(),
            latent_head: policy.policy_head.clone(),
            decoder: Decoder::new(init, decoder),
        });
        let actions = config.network.latent_dim;
        let zeros =
            Linear { weight: init.full([actions, FEATURES], 0.0), bias: init.full([actions], 0.0) };
        let mut rl = policy;
        rl.policy_head = zeros;
        AgentNet { rl, supervised }
    }

    /// What the supervised path says, where there is one.
    ///
    /// # Shapes
    /// - `base`: `[batch, ..]`, of [`Policy::base`]
    /// - output: `[batch, actions]`
    pub fn supervised_logits(&self, base: Tensor<B, 2>) -> Option<Tensor<B, 2>> {
        let path = self.supervised.as_ref()?;
        Some(path.decoder.forward(path.latent_head.forward(relu(path.fc.forward(base)))))
    }

    /// Logits of the actions and values.
    ///
    /// # Shapes
    /// - `base`: `[batch, ..]`, of [`Policy::base`]
    /// - `supervised`: `[batch, actions]`, of [`supervised_logits`](Self::supervised_logits)
    /// - outputs: `[batch, actions]` and `[batch, 1]`
    pub fn logits_and_value(
        &self,
        base: Tensor<B, 2>,
        supervised: Option<Tensor<B, 2>>,
    ) -> (Tensor<B, 2>, Tensor<B, 2>) {
        let features = relu(self.rl.fc.forward(base));
        let (own, value) =
            (self.rl.policy_head.forward(features.clone()), self.rl.value_head.forward(features));
        (
            supervised.map_or_else(|| own.clone(), |supervised| (own.clone() + supervised) / 2.0),
            value,
        )
    }

    /// Replaces the decoder.
    pub fn set_decoder(&mut self, decoder: &LoadedDecoder, device: &B::Device) -> Result<()> {
        if let Some(path) = &mut self.supervised {
            path.decoder = Weights::parse(&decoder.export()?)?.load(
                "decoder",
                path.decoder.clone(),
                device,
            )?;
        }
        Ok(())
    }

    /// The weights as a safetensors file.
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

    /// The network with the weights of these names.
    pub fn load(weights: &Weights, fresh: Self, device: &B::Device) -> Result<Self> {
        weights.load("agent", fresh, device)
    }
}

/// An agent, ready to play.
pub trait Agent: Send {
    /// The sizes of its network.
    fn config(&self) -> &AgentConfig;

    /// The logarithm of each action's likelihood, up to a constant.
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
    on_device!(device, B, at => Ok(Box::new(Player::<B>::load(&weights, at, device.pass())?)))
}

#[derive(Clone)]
struct Player<B: NetBackend> {
    config: AgentConfig,
    net: AgentNet<B>,
    device: B::Device,
    pass: usize,
}

impl<B: NetBackend> Player<B> {
    fn load(weights: &Weights, device: B::Device, pass: usize) -> Result<Self> {
        let config = weights.agent_config()?;
        let net =
            AgentNet::load(weights, AgentNet::new(&mut Init::new(0, &device), &config), &device)?;
        Ok(Player { config, net, device, pass })
    }
}

impl<B: NetBackend> Agent for Player<B> {
    fn config(&self) -> &AgentConfig {
        &self.config
    }

    fn logits(&self, frames: &[u8]) -> Result<Vec<f32>> {
        let shape = self.config.network.frame_shape();
        in_passes(self, frames, shape, self.pass, |player, frames| {
            let base = player.net.rl.base(upload::<B>(frames, shape, &player.device));
            let supervised = player.net.supervised_logits(base.clone());
            to_host(player.net.logits_and_value(base, supervised).0)
        })
    }
}

#[cfg(test)]
#[expect(clippy::unwrap_used, reason = "a test fails by panicking")]
mod tests {
    use burn::backend::Flex;

    use super::*;
    use crate::models::Outputs;

    fn parts() -> (AgentConfig, Policy<Flex>, AgentNet<Flex>) {
        let device = Default::default();
        let mut init = Init::new(3, &device);
        let latent = PolicyConfig { scale: 1, latent_dim: 8, frame_size: 16, channels: 3 };
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
    fn at_first_it_plays_half_of_what_the_decoder_says_of_the_cloned_latents() {
        let (config, policy, net) = parts();
        let frames: Vec<u8> = (0..2 * 16 * 16 * 3).map(|i| (i * 31 % 256) as u8).collect();
        let loaded = agent(&Device::Cpu, &net.export(&config, &BTreeMap::new()).unwrap()).unwrap();
        assert_eq!(loaded.config(), &config);
        let x = upload::<Flex>(&frames, [16, 16, 3], &Default::default());
        let latent = policy.latent_action(policy.features(x));
        let told = to_host(net.supervised.as_ref().unwrap().decoder.forward(latent)).unwrap();
        let played = loaded.logits(&frames).unwrap();
        assert_eq!(played.len(), 10);
        assert!(
            played.iter().zip(&told).all(|(played, told)| (played * 2.0 - told).abs() < 1e-6),
            "{played:?} for {told:?}"
        );
        assert!(loaded.logits(&frames[1..]).is_err());
    }
}
