//! Runs a latent policy on frames. [`actor`] loads a weight file and returns the device-independent
//! [`Actor`].

use rayon::prelude::*;

use super::device::on_device;
use super::frames::upload;
use super::init::Init;
use super::layers::NetBackend;
use super::policy::Policy;
use super::weights::{Weights, to_host};
use super::{Device, ModelError, PolicyConfig, Result};

/// A latent policy loaded for acting.
pub trait Actor: Send {
    /// Returns the sizes of the network.
    fn config(&self) -> &PolicyConfig;

    /// Returns the latent action to take at each frame.
    ///
    /// # Shapes
    /// - `frames`: `[count, height, width, channel]`
    /// - output: `[count, latent_dim]`
    fn latent_action(&self, frames: &[u8]) -> Result<Vec<f32>>;
}

/// Loads a latent policy from a safetensors file, one of ours or a published one.
pub fn actor(device: &Device, weights: &[u8]) -> Result<Box<dyn Actor>> {
    device.check()?;
    let weights = Weights::parse(weights)?;
    on_device!(device, B, at => Ok(Box::new(Network::<B>::load(&weights, at, device.pass())?)))
}

/// A latent policy on one device.
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

/// Runs a network on frames in parallel passes of up to `pass` frames, and concatenates the
/// results.
///
/// # Shapes
/// - `frames`: `[count, height, width, channel]`
/// - `shape`: `[height, width, channel]`
/// - output: the rows of all passes, in order
pub(super) fn in_passes<N: Clone + Send>(
    network: &N,
    frames: &[u8],
    shape: [usize; 3],
    pass: usize,
    forward: impl Fn(&mut N, &[u8]) -> Result<Vec<f32>> + Sync + Send,
) -> Result<Vec<f32>> {
    let bytes: usize = shape.iter().product();
    if !frames.len().is_multiple_of(bytes) {
        let [height, width, channels] = shape;
        let seen = format!("{} bytes", frames.len());
        let expected = format!("a multiple of {height} x {width} x {channels}");
        return Err(ModelError::Frames { what: "frames", seen, expected });
    }
    let passes: Vec<_> = frames
        .par_chunks(pass * bytes)
        .map_with(network.clone(), forward)
        .collect::<Result<_>>()?;
    Ok(passes.concat())
}
