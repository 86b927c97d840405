//! Acting: frames go in, the latent actions that a policy would take there come out.
//!
//! [`actor`] reads a weight file and hides the device behind [`Actor`].

use rayon::prelude::*;

use super::device::on_device;
use super::frames::upload;
use super::init::Init;
use super::layers::NetBackend;
use super::policy::Policy;
use super::weights::{Weights, to_host};
use super::{Device, ModelError, PolicyConfig, Result};

/// A latent policy, ready to act.
pub trait Actor: Send {
    /// The sizes of its network.
    fn config(&self) -> &PolicyConfig;

    /// The latent action to take at each frame.
    ///
    /// # Shapes
    /// - `frames`: `[count, height, width, channel]`
    /// - output: `[count, latent_dim]`
    fn latent_action(&self, frames: &[u8]) -> Result<Vec<f32>>;
}

/// Loads a latent policy from a safetensors file, ours or a published one.
pub fn actor(device: &Device, weights: &[u8]) -> Result<Box<dyn Actor>> {
    device.check()?;
    let weights = Weights::parse(weights)?;
    on_device!(device, B, at => Ok(Box::new(Network::<B>::load(&weights, at, device.pass())?)))
}

#[derive(Clone)]
struct Network<B: NetBackend> {
    config: PolicyConfig,
    policy: Policy<B>,
    device: B::Device,
    pass: usize,
}

impl<B: NetBackend> Network<B> {
    fn load(weights: &Weights, device: B::Device, pass: usize) -> Result<Self> {
        let config = weights.policy_config()?;
        let policy = weights.load("policy", Policy::new(&mut Init::new(0, &device), &config), &device)?;
        Ok(Network { config, policy, device, pass })
    }
}

impl<B: NetBackend> Actor for Network<B> {
    fn config(&self) -> &PolicyConfig {
        &self.config
    }

    fn latent_action(&self, frames: &[u8]) -> Result<Vec<f32>> {
        let bytes: usize = self.config.frame_shape().iter().product();
        if !frames.len().is_multiple_of(bytes) {
            let [height, width, channels] = self.config.frame_shape();
            let (seen, expected) = (format!("{} bytes", frames.len()), format!("a multiple of {height} x {width} x {channels}"));
            return Err(ModelError::Frames { what: "frames", seen, expected });
        }
        let pass = |network: &mut Self, frames: &[u8]| {
            let frames = upload::<B>(frames, network.config.frame_shape(), &network.device);
            to_host(network.policy.latent_action(network.policy.features(frames)))
        };
        let passes: Vec<_> = frames.par_chunks(self.pass * bytes).map_with(self.clone(), pass).collect::<Result<_>>()?;
        Ok(passes.concat())
    }
}
