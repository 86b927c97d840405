//! Latent behaviour cloning (LAPO, section 4.3): trains a latent policy to predict the latent
//! action after a frame.
//!
//! [`policy_trainer`] creates a [`PolicyTrainer`], an interface without tensors. The policy learns
//! latent actions before quantisation, by mean squared error. Its value head keeps its initial
//! weights, for online training.

use std::collections::BTreeMap;

use burn::backend::Autodiff;
use burn::module::AutodiffModule;
use burn::tensor::backend::AutodiffBackend;
use burn::tensor::{FloatDType, Tensor, TensorData};
use serde::{Deserialize, Serialize};

use super::optim::{
    Average, Flat, OptimConfig, Optimizer, TrainBackend, accumulate, divide, gradients,
};
use super::read_back::{ReadBack, SkipCounts, Skips, read_together};
use super::state::{
    restore_average, restore_moments, same, save_average, save_moments, settings_of,
};
use super::{Result, TrainError};
use crate::models::device::on_device;
use crate::models::frames::upload_stacks;
use crate::models::init::Init;
use crate::models::layers::NetBackend;
use crate::models::metadata::POLICY_FORMAT;
use crate::models::policy::Policy;
use crate::models::weights::{Weights, to_host};
use crate::models::{Device, PolicyConfig};

const FORMAT: &str = "lapo-policy-training/1";

/// Frames, and the latent action after each.
#[derive(Clone, Copy, Debug)]
pub struct CloningBatch<'a> {
    /// `[batch, frame, height, width, channel]`
    pub frames: &'a [u8],
    /// `[batch, latent_dim]`: before quantisation
    pub latent_action: &'a [f32],
}

/// The metrics of a step, before it moved the weights.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct CloningMetrics {
    /// Mean squared error of the latent action.
    pub loss: f32,
    /// Norm of all gradients together.
    pub grad_norm: f32,
    /// Skipped steps since metrics were last read. 0 where every step is read.
    pub skipped: u64,
}

/// A latent policy with the state of its training.
pub trait PolicyTrainer: Send {
    /// Returns how many random numbers the initial weights took.
    fn drawn(&self) -> u64;

    /// Takes one step of gradient descent and reads its metrics.
    ///
    /// # Errors
    /// [`TrainError::NotFinite`] if the loss or a gradient is not finite; the weights are then
    /// unchanged. After any other error, restore a checkpoint.
    fn step(&mut self, batch: CloningBatch<'_>, learning_rate: f64) -> Result<CloningMetrics> {
        let metrics = self.step_accumulated(&[batch], learning_rate, ReadBack::Always)?;
        Ok(metrics.expect("they are always read"))
    }

    /// Takes one step by the mean gradient of several batches, so that a large batch fits into the
    /// device's memory piece by piece.
    ///
    /// Returns the metrics, or `None` if they stay on the device. Such a step leaves the weights
    /// unchanged, too, if it is not finite; the next metrics count it.
    ///
    /// # Errors
    /// As [`step`](Self::step).
    fn step_accumulated(
        &mut self,
        batches: &[CloningBatch<'_>],
        learning_rate: f64,
        read_back: ReadBack,
    ) -> Result<Option<CloningMetrics>>;

    /// Starts from the weights of a latent policy of the same size.
    fn import(&mut self, weights: &[u8]) -> Result<()>;

    /// Predicts the latent actions after frames.
    ///
    /// # Shapes
    /// - `frames`: `[batch, frame, height, width, channel]`
    /// - output: `[batch, latent_dim]`
    fn act(&self, frames: &[u8]) -> Result<Vec<f32>>;

    /// Returns the whole state. A training that restores it continues bit by bit as this one does.
    fn save(&self) -> Result<Vec<u8>>;

    /// Takes over a state saved by a training of the same configuration.
    fn restore(&mut self, state: &[u8]) -> Result<()>;

    /// Returns the weights as a safetensors file with the published names.
    fn export(&self, metadata: &BTreeMap<String, String>) -> Result<Vec<u8>>;
}

/// Starts a training. The same seed gives the same weights on every device and with any number of
/// threads.
pub fn policy_trainer(
    device: &Device,
    config: &PolicyConfig,
    optim: &OptimConfig,
    seed: u64,
) -> Result<Box<dyn PolicyTrainer>> {
    config.validate()?;
    device.check_precision(optim.precision)?;
    on_device!(device, B, at => {
        let mut cloner = Cloner::<Autodiff<B>>::new(at, config, optim, seed);
        cloner.read_late(device.reads_late());
        Ok(Box::new(cloner))
    })
}

pub(super) struct Cloner<A: AutodiffBackend> {
    config: PolicyConfig,
    optim: OptimConfig,
    device: A::Device,
    policy: Policy<A>,
    optimizer: Optimizer<A::InnerBackend>,
    average: Option<Average<A::InnerBackend>>,
    skip_counts: SkipCounts<A::InnerBackend>,
    seed: u64,
    drawn: u64,
}

/// The metadata of a checkpoint.
#[derive(Serialize, Deserialize)]
struct Settings {
    policy: PolicyConfig,
    optim: OptimConfig,
    seed: u64,
    step: u64,
}

impl<A: TrainBackend> Cloner<A> {
    pub(super) fn new(
        device: A::Device,
        config: &PolicyConfig,
        optim: &OptimConfig,
        seed: u64,
    ) -> Self {
        let mut init = Init::new(seed, &device);
        let policy = Policy::new(&mut init, config);
        Cloner {
            config: config.clone(),
            optim: optim.clone(),
            policy,
            optimizer: Optimizer::new(optim.clone()),
            average: optim.ema_decay.map(Average::new),
            skip_counts: SkipCounts::new(false, &device),
            seed,
            drawn: init.drawn(),
            device,
        }
    }

    /// Sets whether steps are read only if their metrics are wanted. Default false.
    pub(super) fn read_late(&mut self, reads_late: bool) {
        self.skip_counts = SkipCounts::new(reads_late, &self.device);
    }

    fn upload<B: NetBackend>(&self, frames: &[u8], device: &B::Device) -> Result<Tensor<B, 4>> {
        let bytes = self.config.stack_bytes();
        // At least one stack, and no part of one.
        let whole = frames.len().next_multiple_of(bytes).max(bytes);
        if frames.len() != whole {
            return Err(TrainError::Batch {
                what: "number of bytes",
                seen: frames.len(),
                expected: whole,
            });
        }
        let shape = self.config.frame_shape();
        let stacks = upload_stacks(frames, shape, self.config.frames, device);
        Ok(stacks.cast(self.optim.precision.dtype()))
    }

    /// Returns the mean squared error of the latent actions of one batch.
    fn loss(&self, batch: &CloningBatch<'_>) -> Result<Tensor<A, 1>> {
        let frames = self.upload::<A>(batch.frames, &self.device)?;
        let shape = [frames.dims()[0], self.config.latent_dim];
        let expected = shape[0] * shape[1];
        if batch.latent_action.len() != expected {
            return Err(TrainError::Batch {
                what: "number of latent actions",
                seen: batch.latent_action.len(),
                expected,
            });
        }
        let target = TensorData::new(batch.latent_action.to_vec(), shape);
        let predicted = self.policy.latent_action(self.policy.features(frames));
        // The loss is single precision, whatever the precision of the network.
        let difference =
            predicted.cast(FloatDType::F32) - Tensor::<A, 2>::from_data(target, &self.device);
        Ok((difference.clone() * difference).mean())
    }

    /// Returns the policy for inference: its moving average, if there is one.
    fn network(&self) -> Policy<A::InnerBackend> {
        let policy = self.policy.valid();
        match &self.average {
            Some(average) => average.of("policy", policy),
            None => policy,
        }
    }

    fn settings(&self) -> Settings {
        Settings {
            policy: self.config.clone(),
            optim: self.optim.clone(),
            seed: self.seed,
            step: self.optimizer.step,
        }
    }
}

impl<A: TrainBackend> PolicyTrainer for Cloner<A> {
    fn drawn(&self) -> u64 {
        self.drawn
    }

    fn step_accumulated(
        &mut self,
        batches: &[CloningBatch<'_>],
        learning_rate: f64,
        read_back: ReadBack,
    ) -> Result<Option<CloningMetrics>> {
        let mut sum = Flat::new();
        let mut losses = Vec::new();
        for batch in batches {
            let loss = self.loss(batch)?;
            let mut all = Flat::new();
            gradients("policy", &self.policy, &loss.backward(), &mut all);
            accumulate(&mut sum, all);
            losses.push(loss.inner());
        }
        let mut step = self.optimizer.begin(divide(sum, batches.len()));
        let losses = Tensor::cat(losses, 0);
        self.skip_counts.decide(&mut step, losses.clone().sum());
        // This comes before the update, so that a step that is not finite leaves the weights as
        // they were.
        let metrics = if self.skip_counts.is_read(read_back) {
            let counts = self.skip_counts.take();
            let [losses, norm, counts] = read_together([losses, step.norm.clone(), counts])?;
            let (loss, grad_norm) = (losses.iter().sum::<f32>() / batches.len() as f32, norm[0]);
            let skips = Skips::of(&counts);
            skips.check_finite(self.optimizer.step - 1, loss, grad_norm)?;
            Some(CloningMetrics { loss, grad_norm, skipped: skips.since_read })
        } else {
            None
        };
        self.policy = self.optimizer.apply(&mut step, "policy", learning_rate, self.policy.clone());
        if let Some(average) = &mut self.average {
            let policy = self.policy.valid();
            average.update("policy", &policy, self.optimizer.step, step.gate.as_ref());
        }
        Ok(metrics)
    }

    fn act(&self, frames: &[u8]) -> Result<Vec<f32>> {
        let policy = self.network();
        let frames = self.upload::<A::InnerBackend>(frames, &self.device)?;
        Ok(to_host(policy.latent_action(policy.features(frames)).cast(FloatDType::F32))?)
    }

    fn import(&mut self, weights: &[u8]) -> Result<()> {
        let weights = Weights::parse(weights)?;
        self.policy = weights.load("policy", self.policy.clone(), &self.device)?;
        Ok(())
    }

    fn save(&self) -> Result<Vec<u8>> {
        let mut weights = Weights::default();
        weights.describe(FORMAT, &self.settings());
        weights.store::<A, _>("policy", &self.policy)?;
        save_moments(&self.optimizer, &mut weights)?;
        save_average(self.average.as_ref(), &mut weights)?;
        Ok(weights.to_bytes())
    }

    fn restore(&mut self, state: &[u8]) -> Result<()> {
        let weights = Weights::parse(state)?;
        let settings: Settings = settings_of(&weights, FORMAT)?;
        let own = self.settings();
        same("policy", &settings.policy, &own.policy)?;
        same("optim", &settings.optim, &own.optim)?;
        same("seed", &settings.seed, &own.seed)?;
        let policy = weights.load("policy", self.policy.clone(), &self.device)?;
        restore_moments(&mut self.optimizer, &weights, &self.device)?;
        restore_average(self.average.as_mut(), &weights, &self.device)?;
        self.policy = policy;
        self.optimizer.step = settings.step;
        Ok(())
    }

    fn export(&self, metadata: &BTreeMap<String, String>) -> Result<Vec<u8>> {
        let mut weights = Weights::default();
        weights.metadata = metadata.clone();
        weights.describe(POLICY_FORMAT, &self.config);
        weights.store::<A::InnerBackend, _>("policy", &self.network())?;
        Ok(weights.to_bytes())
    }
}
