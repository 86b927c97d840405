//! The inverse dynamics model: a window of frames goes in, the latent action between its last two comes out.

use burn::module::Module;
use burn::tensor::{FloatDType, Tensor, backend::Backend};

use super::DynamicsConfig;
use super::impala::{FEATURES, ImpalaStage, features, impala};
use super::init::Init;
use super::layers::{Linear, NetBackend};
use super::vq::Quantizer;

/// IMPALA trunk, linear head, and the codebooks behind it.
#[derive(Module, Debug)]
pub struct Idm<B: Backend> {
    conv_stack: Vec<ImpalaStage<B>>,
    fc: Linear<B>,
    policy_head: Linear<B>,
    /// The bottleneck through which its output reaches the FDM.
    pub vq: Quantizer<B>,
}

impl<B: NetBackend> Idm<B> {
    /// A model with fresh weights.
    pub fn new(init: &mut Init<'_, B>, config: &DynamicsConfig) -> Self {
        let channels = config.channels * config.window();
        let (conv_stack, fc) = impala(init, channels, config.idm_scale, config.frame_size);
        Idm { conv_stack, fc, policy_head: Linear::new(init, FEATURES, config.latent_dim()), vq: Quantizer::new(init, &config.vq) }
    }

    /// Infers the latent action between the last two frames (LAPO, section 4.1).
    ///
    /// # Shapes
    /// - `windows`: `[batch, time * channel, height, width]`, in [-0.5, 0.5]
    /// - output: `[batch, latent_dim]`, before quantisation, in single precision
    pub fn forward(&self, windows: Tensor<B, 4>) -> Tensor<B, 2> {
        self.policy_head.forward(features(&self.conv_stack, &self.fc, windows)).cast(FloatDType::F32)
    }
}
