//! Latent behaviour cloning (LAPO, section 4.3): frames and the latent actions that followed them go in, a latent policy comes out.
//!
//! [`policy_trainer`] makes a [`PolicyTrainer`], which shows no tensor. The policy learns latent actions before quantisation, by mean
//! squared error; its value head is left as it starts, for online training to learn.

use std::collections::BTreeMap;

use burn::backend::Autodiff;
use burn::module::AutodiffModule;
use burn::tensor::backend::AutodiffBackend;
use burn::tensor::{Tensor, TensorData, backend::Backend};
use serde::{Deserialize, Serialize};

use super::optim::{AdamBackend, Flat, OptimConfig, Optimizer, gradients};
use super::state::{restore_moments, same, save_moments, settings_of};
use super::{Result, TrainError};
use crate::models::device::on_device;
use crate::models::frames::upload;
use crate::models::init::Init;
use crate::models::layers::NetBackend;
use crate::models::metadata::POLICY_FORMAT;
use crate::models::policy::Policy;
use crate::models::weights::{Weights, to_host};
use crate::models::{Device, PolicyConfig};

const FORMAT: &str = "lapo-policy-training/1";

/// Frames, and the latent action after each.
#[derive(Clone, Copy, Debug)]
pub struct Shown<'a> {
    /// `[batch, height, width, channel]`
    pub frames: &'a [u8],
    /// `[batch, latent_dim]`: before quantisation
    pub latent_action: &'a [f32],
}

/// What one step saw, before it moved the weights.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct CloningMetrics {
    /// Mean squared error of the latent action.
    pub loss: f32,
    /// Norm of all gradients together.
    pub grad_norm: f32,
}

/// A latent policy and all that its training remembers.
pub trait PolicyTrainer: Send {
    /// How many random numbers the initial weights took.
    fn drawn(&self) -> u64;

    /// Takes one step of gradient descent. After an error of this the state is undefined; restore a checkpoint.
    fn step(&mut self, shown: Shown<'_>, learning_rate: f64) -> Result<CloningMetrics>;

    /// The latent actions the policy would take: `[batch, latent_dim]`.
    ///
    /// # Shapes
    /// - `frames`: `[batch, height, width, channel]`
    fn act(&self, frames: &[u8]) -> Result<Vec<f32>>;

    /// The whole state: a training restored from it goes on bit by bit as this one does.
    fn save(&self) -> Result<Vec<u8>>;

    /// Takes over a state saved by a training of the same configuration.
    fn restore(&mut self, state: &[u8]) -> Result<()>;

    /// The weights as a safetensors file with published names.
    fn export(&self, metadata: &BTreeMap<String, String>) -> Result<Vec<u8>>;
}

/// Starts a training. The same seed gives the same weights on every device and number of threads.
pub fn policy_trainer(
    device: &Device,
    config: &PolicyConfig,
    optim: &OptimConfig,
    seed: u64,
) -> Result<Box<dyn PolicyTrainer>> {
    config.validate()?;
    device.check()?;
    on_device!(device, B, at => Ok(Box::new(Cloner::<Autodiff<B>>::new(at, config, optim, seed))))
}

struct Cloner<A: AutodiffBackend> {
    config: PolicyConfig,
    optim: OptimConfig,
    device: A::Device,
    policy: Policy<A>,
    optimizer: Optimizer<A::InnerBackend>,
    seed: u64,
    drawn: u64,
}

/// What a checkpoint's metadata say.
#[derive(Serialize, Deserialize)]
struct Settings {
    policy: PolicyConfig,
    optim: OptimConfig,
    seed: u64,
    step: u64,
}

impl<A> Cloner<A>
where
    A: AutodiffBackend + NetBackend,
    A::InnerBackend: NetBackend + AdamBackend,
{
    fn new(device: A::Device, config: &PolicyConfig, optim: &OptimConfig, seed: u64) -> Self {
        let mut init = Init::new(seed, &device);
        let policy = Policy::new(&mut init, config);
        let (drawn, optimizer) = (init.drawn(), Optimizer::new(optim.clone()));
        Cloner {
            config: config.clone(),
            optim: optim.clone(),
            policy,
            optimizer,
            seed,
            drawn,
            device,
        }
    }

    fn upload<B: Backend>(&self, frames: &[u8], device: &B::Device) -> Result<Tensor<B, 4>> {
        let shape = [self.config.frame_size, self.config.frame_size, self.config.channels];
        let bytes = shape.iter().product::<usize>();
        let whole = frames.len().next_multiple_of(bytes).max(bytes);
        if frames.len() != whole {
            return Err(TrainError::Batch {
                what: "number of bytes",
                seen: frames.len(),
                expected: whole,
            });
        }
        Ok(upload(frames, shape, device).cast(self.optim.precision.dtype()))
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

impl<A> PolicyTrainer for Cloner<A>
where
    A: AutodiffBackend + NetBackend,
    A::InnerBackend: NetBackend + AdamBackend,
{
    fn drawn(&self) -> u64 {
        self.drawn
    }

    fn step(&mut self, shown: Shown<'_>, learning_rate: f64) -> Result<CloningMetrics> {
        let frames = self.upload::<A>(shown.frames, &self.device)?;
        let [batch, ..] = frames.dims();
        let expected = batch * self.config.latent_dim;
        if shown.latent_action.len() != expected {
            return Err(TrainError::Batch {
                what: "number of latent actions",
                seen: shown.latent_action.len(),
                expected,
            });
        }
        let right = TensorData::new(shown.latent_action.to_vec(), [batch, self.config.latent_dim]);
        let off = self
            .policy
            .latent_action(self.policy.features(frames))
            .cast(burn::tensor::FloatDType::F32)
            - Tensor::<A, 2>::from_data(right, &self.device);
        let loss = (off.clone() * off).mean();

        let mut all = Flat::new();
        gradients("policy", &self.policy, &loss.backward(), &mut all);
        let mut step = self.optimizer.begin(all);
        self.policy = self.optimizer.apply(&mut step, "policy", learning_rate, self.policy.clone());
        let seen = to_host(Tensor::cat(vec![loss.inner(), step.norm], 0))?;
        let not_finite =
            |what, seen| TrainError::NotFinite { step: self.optimizer.step - 1, what, seen };
        match seen[..] {
            [loss, _] if !loss.is_finite() => Err(not_finite("loss", loss)),
            [_, norm] if !norm.is_finite() => Err(not_finite("gradient norm", norm)),
            _ => Ok(CloningMetrics { loss: seen[0], grad_norm: seen[1] }),
        }
    }

    fn act(&self, frames: &[u8]) -> Result<Vec<f32>> {
        let policy = self.policy.valid();
        let frames = self.upload::<A::InnerBackend>(frames, &self.device)?;
        Ok(to_host(
            policy.latent_action(policy.features(frames)).cast(burn::tensor::FloatDType::F32),
        )?)
    }

    fn save(&self) -> Result<Vec<u8>> {
        let mut weights = Weights::default();
        weights.describe(FORMAT, &self.settings());
        weights.store::<A, _>("policy", &self.policy)?;
        save_moments(&self.optimizer, &mut weights)?;
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
        self.policy = policy;
        self.optimizer.step = settings.step;
        Ok(())
    }

    fn export(&self, metadata: &BTreeMap<String, String>) -> Result<Vec<u8>> {
        let mut weights = Weights::default();
        weights.metadata = metadata.clone();
        weights.describe(POLICY_FORMAT, &self.config);
        weights.store::<A, _>("policy", &self.policy)?;
        Ok(weights.to_bytes())
    }
}
