//! The inverse dynamics model: a window of frames -> the latent action between the last two.

use burn::module::Module;
use burn::tensor::{FloatDType, Tensor, backend::Backend};

use super::frames::Windows;
use super::impala::{FEATURES, ImpalaStage, features, impala, maps, stages};
use super::init::{Init, set_state};
use super::layers::{BatchStatistics, Linear, Mode, NetBackend, relu};
use super::motion::{Motion, mean_over_motion};
use super::vq::Quantiser;
use super::{DynamicsConfig, IdmHead, Result};

/// IMPALA trunk, linear head and the codebooks behind it.
#[derive(Module, Debug)]
pub struct Idm<B: Backend> {
    conv_stack: Vec<ImpalaStage<B>>,
    fc: Linear<B>,
    policy_head: Linear<B>,
    /// Input scale and output normalisation of [`IdmHead::Motion`].
    motion: Option<Motion<B>>,
    /// The bottleneck between this model and the FDM.
    pub vq: Quantiser<B>,
}

impl<B: NetBackend> Idm<B> {
    /// Creates a model with initial weights.
    pub fn new(init: &mut Init<'_, B>, config: &DynamicsConfig) -> Self {
        let channels = config.channels * config.window();
        let scale = config.idm_scale;
        let (conv_stack, fc) = match config.idm_head {
            IdmHead::Flatten => impala(init, channels, scale, config.frame_size),
            IdmHead::Motion => {
                (stages(init, channels, scale), Linear::new(init, 32 * scale, FEATURES))
            }
        };
        let motion = (config.idm_head == IdmHead::Motion)
            .then(|| Motion::new(init, config.window(), config.latent_dim()));
        let policy_head = Linear::new(init, FEATURES, config.latent_dim());
        Idm { conv_stack, fc, policy_head, motion, vq: Quantiser::new(init, &config.vq) }
    }

    /// Infers the latent action between the last two frames (LAPO, section 4.1).
    ///
    /// [`Mode::Folded`] requires a [`folded`](Self::folded) model.
    ///
    /// # Shapes
    /// - `windows`: `[batch, time * channel, height, width]`, in [-0.5, 0.5]
    /// - output: `[batch, latent_dim]`, before quantisation, in single precision
    pub fn forward(&self, windows: &Windows<B>, mode: &mut Mode<'_, B>) -> Tensor<B, 2> {
        let Some(motion) = &self.motion else {
            return self
                .policy_head
                .forward(features(&self.conv_stack, &self.fc, windows.stacked.clone()))
                .cast(FloatDType::F32);
        };
        // Frame changes are linear in the frames, so the weight takes their place: no input is
        // copied.
        let weight = match mode {
            Mode::Train(_) => motion.weight_of_frames(self.first_weight(), windows.time()),
            Mode::Folded => self.first_weight(),
        };
        let maps = maps(&self.conv_stack, weight, windows.stacked.clone());
        let features = relu(self.fc.forward(mean_over_motion(maps, windows)));
        motion.normalise(self.policy_head.forward(features).cast(FloatDType::F32), mode)
    }

    /// Returns the weight of the first convolution.
    fn first_weight(&self) -> Tensor<B, 4> {
        self.conv_stack[0].conv.weight.val()
    }

    /// Sets the scale of frame changes for [`IdmHead::Motion`] from representative `windows`. Call
    /// it before the first training step.
    pub fn start(&mut self, windows: &Windows<B>) -> Result<()> {
        self.motion.as_mut().map_or(Ok(()), |motion| motion.start(windows))
    }

    /// Returns the model for [`Mode::Folded`]: its first weight includes the input scale, its last
    /// weight the output normalisation.
    pub fn folded(mut self, config: &DynamicsConfig) -> Self {
        if let Some(motion) = &self.motion {
            let weight = motion.weight_of_frames(self.first_weight(), config.window());
            set_state(&mut self.conv_stack[0].conv.weight, weight);
            motion.fold_into(&mut self.policy_head);
        }
        self
    }

    /// Updates the running statistics with those of a training pass.
    pub fn update(&mut self, seen: Vec<BatchStatistics<B>>) {
        if let Some(motion) = &mut self.motion {
            motion.update(seen);
        }
    }
}
