//! The latent policy: a frame or a stack of frames -> the latent action that the actors in the videos would take.

use burn::module::Module;
use burn::tensor::{Tensor, backend::Backend};

use super::PolicyConfig;
use super::impala::{FEATURES, ImpalaStage, base, features, impala};
use super::init::Init;
use super::layers::{Linear, NetBackend};

/// An IMPALA trunk with two heads: latent action and value. Only online training uses the value.
#[derive(Module, Debug)]
pub struct Policy<B: Backend> {
    conv_stack: Vec<ImpalaStage<B>>,
    /// From the features of the convolutions to the features of both heads.
    pub fc: Linear<B>,
    /// The head for the latent action or, in an agent, for the action logits.
    pub policy_head: Linear<B>,
    /// The head for the expected return.
    pub value_head: Linear<B>,
}

impl<B: NetBackend> Policy<B> {
    /// Creates a policy with initial weights.
    pub fn new(init: &mut Init<'_, B>, config: &PolicyConfig) -> Self {
        let (conv_stack, fc) =
            impala(init, config.input_channels(), config.scale, config.frame_size);
        Policy {
            conv_stack,
            fc,
            policy_head: Linear::new(init, FEATURES, config.latent_dim),
            value_head: Linear::new(init, FEATURES, 1),
        }
    }

    /// Replaces the value head by the published initial one: orthogonal with a gain of sqrt 2, and
    /// no bias.
    pub fn init_value_head_as_published(&mut self, init: &mut Init<'_, B>) {
        self.value_head = Linear {
            weight: init.orthogonal_row(FEATURES, std::f32::consts::SQRT_2),
            bias: init.full([1], 0.0),
        };
    }

    /// Returns the flattened features of the convolutions, the input of `fc`.
    ///
    /// # Shapes
    /// - `frames`: `[batch, frame * channel, height, width]`, in [-0.5, 0.5]
    /// - output: `[batch, 32 * scale * height / 8 * width / 8]`
    pub fn base(&self, frames: Tensor<B, 4>) -> Tensor<B, 2> {
        base(&self.conv_stack, frames)
    }

    /// Returns the input of both heads.
    ///
    /// # Shapes
    /// - `frames`: `[batch, frame * channel, height, width]`, in [-0.5, 0.5]
    /// - output: `[batch, FEATURES]`
    pub fn features(&self, frames: Tensor<B, 4>) -> Tensor<B, 2> {
        features(&self.conv_stack, &self.fc, frames)
    }

    /// Returns the latent action to take (LAPO, section 4.3).
    ///
    /// # Shapes
    /// - `features`: `[batch, FEATURES]`
    /// - output: `[batch, latent_dim]`
    pub fn latent_action(&self, features: Tensor<B, 2>) -> Tensor<B, 2> {
        self.policy_head.forward(features)
    }

    /// Returns the expected return.
    ///
    /// # Shapes
    /// - `features`: `[batch, FEATURES]`
    /// - output: `[batch, 1]`
    pub fn value(&self, features: Tensor<B, 2>) -> Tensor<B, 2> {
        self.value_head.forward(features)
    }
}
