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
        let policy =
            weights.load("policy", Policy::new(&mut Init::new(0, &device), &config), &device)?;
        Ok(Network { config, policy, device, pass })
    }
}

impl<B: NetBackend> Actor for Network<B> {
    fn config(&self) -> &PolicyConfig {
        &self.config
    }

    fn latent_action(&self, frames: &[u8]) -> Result<Vec<f32>> {
        let shape = self.config.frame_shape();
        in_passes(self, frames, shape, self.pass, |network, frames| {
            let frames = upload::<B>(frames, shape, &network.device);
            to_host(network.policy.latent_action(network.policy.features(frames)))
        })
    }
}

/// Sends frames through a network, `pass` at a time, side by side; the rows that come out stand one after the other.
///
/// # Shapes
/// - `frames`: `[count, height, width, channel]`, of which `shape` has the last three
pub(super) fn in_passes<N: Clone + Send>(
    network: &N,
    frames: &[u8],
    shape: [usize; 3],
    pass: usize,
    look: impl Fn(&mut N, &[u8]) -> Result<Vec<f32>> + Sync + Send,
) -> Result<Vec<f32>> {
    let bytes: usize = shape.iter().product();
    if !frames.len().is_multiple_of(bytes) {
        let [height, width, channels] = shape;
        let (seen, expected) = (
            format!("{} bytes", frames.len()),
            format!("a multiple of {height} x {width} x {channels}"),
        );
        return Err(ModelError::Frames { what: "frames", seen, expected });
    }
    let passes: Vec<_> =
        frames.par_chunks(pass * bytes).map_with(network.clone(), look).collect::<Result<_>>()?;
    Ok(passes.concat())
}
