//! Runs a latent policy on frames. [`actor`] loads a weight file and returns the device-independent
//! [`Actor`].

use burn::tensor::Tensor;

use super::device::on_device;
use super::frames::upload_stacks;
use super::init::Init;
use super::layers::NetBackend;
use super::passes::in_passes;
use super::policy::Policy;
use super::weights::{Weights, to_host};
use super::{Device, ModelError, PolicyConfig, Result};

/// A latent policy loaded for acting.
pub trait Actor: Send {
    /// Returns the sizes of the network.
    fn config(&self) -> &PolicyConfig;

    /// Returns the latent action to take at each frame, or at the last one of each stack.
    ///
    /// # Shapes
    /// - `frames`: `[count, frame, height, width, channel]`
    /// - output: `[count, latent_dim]`
    fn latent_action(&self, frames: &[u8]) -> Result<Vec<f32>>;
}

/// Loads a latent policy from a safetensors file, one of ours or a published one.
pub fn actor(device: &Device, weights: &[u8]) -> Result<Box<dyn Actor>> {
    device.check()?;
    let weights = Weights::parse(weights)?;
    on_device!(device, B, at => {
        Ok(Box::new(LoadedNetwork::<B, Policy<B>>::load(&weights, at, device.pass())?))
    })
}

/// A network that maps frames, or stacks of frames, to rows of numbers.
pub(super) trait FrameNetwork<B: NetBackend>: Clone + Send {
    /// The sizes of the network.
    type Config;

    /// Loads the network and its sizes from a weight file.
    fn load(weights: &Weights, device: &B::Device) -> Result<(Self::Config, Self)>;

    /// Returns the sizes of its frames.
    fn input(config: &Self::Config) -> &PolicyConfig;

    /// Runs the network.
    ///
    /// # Shapes
    /// - `frames`: `[batch, frame * channel, height, width]`, in [-0.5, 0.5]
    /// - output: `[batch, width]`
    fn forward(&self, frames: Tensor<B, 4>) -> Tensor<B, 2>;
}

impl<B: NetBackend> FrameNetwork<B> for Policy<B> {
    type Config = PolicyConfig;

    fn load(weights: &Weights, device: &B::Device) -> Result<(PolicyConfig, Self)> {
        let config = weights.policy_config()?;
        let fresh = Policy::new(&mut Init::new(0, device), &config);
        let policy = weights.load("policy", fresh, device)?;
        Ok((config, policy))
    }

    fn input(config: &PolicyConfig) -> &PolicyConfig {
        config
    }

    fn forward(&self, frames: Tensor<B, 4>) -> Tensor<B, 2> {
        self.latent_action(self.features(frames))
    }
}

/// A loaded network on one device.
#[derive(Clone)]
pub(super) struct LoadedNetwork<B: NetBackend, N: FrameNetwork<B>> {
    pub(super) config: N::Config,
    network: N,
    device: B::Device,
    /// Frames in a pass.
    pass: usize,
}

impl<B: NetBackend, N: FrameNetwork<B>> LoadedNetwork<B, N> {
    /// Loads a network that runs `pass` frames at a time.
    pub(super) fn load(weights: &Weights, device: B::Device, pass: usize) -> Result<Self> {
        let (config, network) = N::load(weights, &device)?;
        Ok(LoadedNetwork { config, network, device, pass })
    }

    /// Runs the network on frames pass by pass and concatenates the results.
    ///
    /// # Shapes
    /// - `frames`: `[count, frame, height, width, channel]`
    /// - output: `[count, width]`
    pub(super) fn forward(&self, frames: &[u8]) -> Result<Vec<f32>> {
        let input = N::input(&self.config);
        let (shape, time, bytes) = (input.frame_shape(), input.frames, input.stack_bytes());
        if !frames.len().is_multiple_of(bytes) {
            let [height, width, channels] = shape;
            let seen = format!("{} bytes", frames.len());
            let stacked = if time == 1 { String::new() } else { format!("{time} x ") };
            let expected = format!("a multiple of {stacked}{height} x {width} x {channels}");
            return Err(ModelError::Frames { what: "frames", seen, expected });
        }
        let state = (self.network.clone(), self.device.clone());
        let pass = |(network, device): &(N, B::Device), frames: &[u8]| {
            to_host(network.forward(upload_stacks::<B>(frames, shape, time, device)))
        };
        let passes = in_passes::<B, _, _, _, _>(&state, frames, self.pass * bytes, pass)?;
        Ok(passes.concat())
    }
}

impl<B: NetBackend> Actor for LoadedNetwork<B, Policy<B>> {
    fn config(&self) -> &PolicyConfig {
        &self.config
    }

    fn latent_action(&self, frames: &[u8]) -> Result<Vec<f32>> {
        self.forward(frames)
    }
}
