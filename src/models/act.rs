//! Acting: frames go in, the latent actions that a policy would take there come out.
//!
//! [`actor`] reads a weight file and hides the device behind [`Actor`].

use burn::backend::Flex;
use rayon::prelude::*;

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
    match device {
        Device::Cpu => Ok(Box::new(Network::<Flex>::load(&weights, Default::default(), CPU_PASS)?)),
        #[cfg(feature = "cuda")]
        Device::Cuda(number) => {
            use super::gpu::{Gpu, gpu};
            Ok(Box::new(Network::<Gpu>::load(&weights, gpu(*number), GPU_PASS)?))
        }
        #[cfg(not(feature = "cuda"))]
        Device::Cuda(_) => {
            unreachable!("a build without GPU support has no GPU that passes the check")
        }
    }
}

/// Frames a core takes through the network at a time.
const CPU_PASS: usize = 16;
/// Frames a GPU takes at a time.
#[cfg(feature = "cuda")]
const GPU_PASS: usize = 1024;

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

    fn shape(&self) -> [usize; 3] {
        [self.config.frame_size, self.config.frame_size, self.config.channels]
    }
}

impl<B: NetBackend> Actor for Network<B> {
    fn config(&self) -> &PolicyConfig {
        &self.config
    }

    fn latent_action(&self, frames: &[u8]) -> Result<Vec<f32>> {
        let bytes: usize = self.shape().iter().product();
        if !frames.len().is_multiple_of(bytes) {
            let [height, width, channels] = self.shape();
            let (seen, expected) = (format!("{} bytes", frames.len()), format!("a multiple of {height} x {width} x {channels}"));
            return Err(ModelError::Frames { what: "frames", seen, expected });
        }
        let pass = |network: &mut Self, frames: &[u8]| {
            let frames = upload::<B>(frames, network.shape(), &network.device);
            to_host(network.policy.latent_action(network.policy.features(frames)))
        };
        let passes: Vec<_> = frames.par_chunks(self.pass * bytes).map_with(self.clone(), pass).collect::<Result<_>>()?;
        Ok(passes.concat())
    }
}
