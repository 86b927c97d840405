//! The latent policy: one frame goes in, the latent action the videos' actors would take comes out.

use burn::module::Module;
use burn::tensor::{Tensor, backend::Backend};

use super::PolicyConfig;
use super::impala::{FEATURES, ImpalaStage, base, features, impala};
use super::init::Init;
use super::layers::{Linear, NetBackend};

/// IMPALA trunk with a head for the latent action and one for the value, which only online training uses.
#[derive(Module, Debug)]
pub struct Policy<B: Backend> {
    conv_stack: Vec<ImpalaStage<B>>,
    /// From what the convolutions leave to what both heads see.
    pub fc: Linear<B>,
    /// The latent action; of an agent, the actions.
    pub policy_head: Linear<B>,
    /// The expected return.
    pub value_head: Linear<B>,
}

impl<B: NetBackend> Policy<B> {
    /// A policy with fresh weights.
    pub fn new(init: &mut Init<'_, B>, config: &PolicyConfig) -> Self {
        let (conv_stack, fc) = impala(init, config.channels, config.scale, config.frame_size);
        Policy {
            conv_stack,
            fc,
            policy_head: Linear::new(init, FEATURES, config.latent_dim),
            value_head: Linear::new(init, FEATURES, 1),
        }
    }

    /// What the convolutions leave: the input of `fc`.
    ///
    /// # Shapes
    /// - `frames`: `[batch, channel, height, width]`, in [-0.5, 0.5]
    /// - output: `[batch, 32 * scale * height / 8 * width / 8]`
    pub fn base(&self, frames: Tensor<B, 4>) -> Tensor<B, 2> {
        base(&self.conv_stack, frames)
    }

    /// What both heads see.
    ///
    /// # Shapes
    /// - `frames`: `[batch, channel, height, width]`, in [-0.5, 0.5]
    /// - output: `[batch, FEATURES]`
    pub fn features(&self, frames: Tensor<B, 4>) -> Tensor<B, 2> {
        features(&self.conv_stack, &self.fc, frames)
    }

    /// The latent action to take (LAPO, section 4.3).
    ///
    /// # Shapes
    /// - `features`: `[batch, FEATURES]`
    /// - output: `[batch, latent_dim]`
    pub fn latent_action(&self, features: Tensor<B, 2>) -> Tensor<B, 2> {
        self.policy_head.forward(features)
    }

    /// The expected return.
    ///
    /// # Shapes
    /// - `features`: `[batch, FEATURES]`
    /// - output: `[batch, 1]`
    pub fn value(&self, features: Tensor<B, 2>) -> Tensor<B, 2> {
        self.value_head.forward(features)
    }
}
