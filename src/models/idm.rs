//! The inverse dynamics model: a window of frames goes in, the latent action between its last two comes out.

use burn::module::Module;
use burn::tensor::{FloatDType, Tensor, backend::Backend};

use super::frames::Windows;
use super::impala::{FEATURES, ImpalaStage, features, impala, maps, stages};
use super::init::{Init, set_state};
use super::layers::{BatchStatistics, Linear, Mode, NetBackend, relu};
use super::motion::{Motion, where_moved};
use super::vq::Quantizer;
use super::{DynamicsConfig, IdmHead, Result};

/// IMPALA trunk, linear head, and the codebooks behind it.
#[derive(Module, Debug)]
pub struct Idm<B: Backend> {
    conv_stack: Vec<ImpalaStage<B>>,
    fc: Linear<B>,
    policy_head: Linear<B>,
    /// What [`IdmHead::Motion`] adds.
    motion: Option<Motion<B>>,
    /// The bottleneck through which its output reaches the FDM.
    pub vq: Quantizer<B>,
}

impl<B: NetBackend> Idm<B> {
    /// A model with fresh weights.
    pub fn new(init: &mut Init<'_, B>, config: &DynamicsConfig) -> Self {
        let (channels, scale) = (config.channels * config.window(), config.idm_scale);
        let (conv_stack, fc) = match config.idm_head {
            IdmHead::Flatten => impala(init, channels, scale, config.frame_size),
            IdmHead::Motion => {
                (stages(init, channels, scale), Linear::new(init, 32 * scale, FEATURES))
            }
        };
        let motion =
            (config.idm_head == IdmHead::Motion).then(|| Motion::new(init, config.latent_dim()));
        let policy_head = Linear::new(init, FEATURES, config.latent_dim());
        Idm { conv_stack, fc, policy_head, motion, vq: Quantizer::new(init, &config.vq) }
    }

    /// Infers the latent action between the last two frames (LAPO, section 4.1).
    ///
    /// # Shapes
    /// - output: `[batch, latent_dim]`, before quantisation, in single precision
    ///
    /// [`Mode::Folded`] is for a model that was [`folded`](Self::folded).
    pub fn forward(&self, windows: &Windows<B>, mode: &mut Mode<'_, B>) -> Tensor<B, 2> {
        let Some(motion) = &self.motion else {
            return self
                .policy_head
                .forward(features(&self.conv_stack, &self.fc, windows.stacked.clone()))
                .cast(FloatDType::F32);
        };
        let weight = match mode {
            Mode::Train(_) => motion.of_changes(self.entry(), windows.time()),
            Mode::Folded => self.entry(),
        };
        let maps = maps(&self.conv_stack, weight, windows.stacked.clone());
        let features = relu(self.fc.forward(where_moved(maps, windows)));
        motion.normalise(self.policy_head.forward(features).cast(FloatDType::F32), mode)
    }

    /// The first convolution's weight.
    fn entry(&self) -> Tensor<B, 4> {
        self.conv_stack[0].conv.weight.val()
    }

    /// Sets, before the first step, how large the changes are that [`IdmHead::Motion`] scales: `windows` stand for all.
    pub fn start(&mut self, windows: &Windows<B>) -> Result<()> {
        self.motion.as_mut().map_or(Ok(()), |motion| motion.start(windows))
    }

    /// The same model for [`Mode::Folded`]: what scales its input and its output is part of its first and last weights.
    pub fn folded(mut self, config: &DynamicsConfig) -> Self {
        if let Some(motion) = &self.motion {
            let weight = motion.of_changes(self.entry(), config.window());
            set_state(&mut self.conv_stack[0].conv.weight, weight);
            motion.fold_into(&mut self.policy_head);
        }
        self
    }

    /// Moves the running statistics by what a training pass has seen.
    pub fn update(&mut self, seen: Vec<BatchStatistics<B>>) {
        if let Some(motion) = &mut self.motion {
            seen.into_iter().for_each(|seen| motion.update(seen));
        }
    }
}
