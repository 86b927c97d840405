//! Training of IDM and FDM together (LAPO, section 4.1): windows of frames go in, metrics and weights come out.
//!
//! [`dynamics_trainer`] makes a [`DynamicsTrainer`], which shows no tensor; `Trainer::step` tells one step of
//! the method from top to bottom. Checkpoints are in `state`.

use std::collections::BTreeMap;

use burn::backend::{Autodiff, Flex};
use burn::module::AutodiffModule;
use burn::tensor::backend::AutodiffBackend;
use burn::tensor::{Int, Tensor, TensorData, backend::Backend};
use rand::SeedableRng;
use rand_chacha::ChaCha8Rng;

use super::adam::{Adam, AdamBackend, Flat, OptimConfig, gradients};
use super::{Result, TrainError};
use crate::models::fdm::Fdm;
use crate::models::frames::{Windows, frame_shape, mean_per_window, upload};
use crate::models::idm::Idm;
use crate::models::init::Init;
use crate::models::label::host_codes;
use crate::models::layers::{Mode, NetBackend};
use crate::models::metadata::DYNAMICS_FORMAT;
use crate::models::vq::{Quantised, perplexity};
use crate::models::weights::{Weights, to_host};
use crate::models::{CodebookStart, Device, DynamicsConfig, Predict};

/// Windows of frames, as they lie in a shard.
#[derive(Clone, Copy, Debug)]
pub struct Batch<'a> {
    /// `[batch, time, height, width, channel]`
    pub frames: &'a [u8],
    /// Number of windows.
    pub batch: usize,
    /// Frames of each.
    pub time: usize,
    /// Rows of a frame.
    pub height: usize,
    /// Columns of a frame.
    pub width: usize,
}

/// IDM, FDM and all that their training remembers.
pub trait DynamicsTrainer: Send {
    /// The sizes of the networks.
    fn config(&self) -> &DynamicsConfig;

    /// Steps taken so far.
    fn steps(&self) -> u64;

    /// How many random numbers the initial weights took.
    fn drawn(&self) -> u64;

    /// Takes one step of gradient descent. After an error of this the state is undefined; restore a checkpoint.
    fn step(&mut self, batch: &Batch<'_>, learning_rate: f64) -> Result<StepMetrics>;

    /// Scores windows without learning from them. `shuffle[i]` says whose latent action stands in for the one of window
    /// `i` in `fdm_error_shuffled`.
    fn evaluate(&self, batch: &Batch<'_>, shuffle: &[usize]) -> Result<Evaluation>;

    /// Starts from the weights in a safetensors file, ours or a published one, of networks of the same sizes.
    fn import(&mut self, weights: &[u8]) -> Result<()>;

    /// The whole state: a training restored from it goes on bit by bit as this one does.
    fn save(&self) -> Result<Vec<u8>>;

    /// Takes over a state saved by a training of the same configuration.
    fn restore(&mut self, state: &[u8]) -> Result<()>;

    /// The weights as a safetensors file with published names, for labelling.
    fn export(&self, metadata: &BTreeMap<String, String>) -> Result<Vec<u8>>;
}

/// What one step saw, before it moved the weights.
#[derive(Clone, Debug, PartialEq)]
pub struct StepMetrics {
    /// What was minimised.
    pub loss: f32,
    /// Mean squared error of the predicted pixels, which span 1.
    pub wm_loss: f32,
    /// `wm_loss` over the mean squared change from o\[t\]: 1 is as good as copying it.
    pub relative_loss: f32,
    /// The commitment loss, weighted.
    pub vq_loss: f32,
    /// How evenly each codebook's codes were used by the batch: 1 to `entries`.
    pub perplexity: Vec<f32>,
    /// How many codes of each codebook the batch used.
    pub codes_used: Vec<u32>,
    /// How many unused codes were moved to this batch's latent actions.
    pub codes_revived: u32,
    /// Norm of all gradients together, before clipping.
    pub grad_norm: f32,
}

/// One entry per window.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Evaluation {
    /// Mean squared error of the predicted pixels.
    pub fdm_error: Vec<f32>,
    /// The same with another window's latent action: no better than `fdm_error` if latent actions carry nothing.
    pub fdm_error_shuffled: Vec<f32>,
    /// Mean squared change from o\[t\] to o\[t+1\]: the error of copying the last frame.
    pub copy_error: Vec<f32>,
    /// `[window, codebook, position]`
    pub codes: Vec<u16>,
    /// `[window, latent_dim]`: before quantisation
    pub latent_action: Vec<f32>,
}

/// Starts a training. The same seed gives the same weights on every device and number of threads.
pub fn dynamics_trainer(device: &Device, config: &DynamicsConfig, optim: &OptimConfig, seed: u64) -> Result<Box<dyn DynamicsTrainer>> {
    config.validate()?;
    device.check()?;
    match device {
        Device::Cpu => Ok(Box::new(Trainer::<Autodiff<Flex>>::new(Default::default(), config, optim, seed))),
        #[cfg(feature = "cuda")]
        Device::Cuda(number) => {
            use crate::models::gpu::{Gpu, gpu};
            Ok(Box::new(Trainer::<Autodiff<Gpu>>::new(gpu(*number), config, optim, seed)))
        }
        #[cfg(not(feature = "cuda"))]
        Device::Cuda(_) => {
            unreachable!("a build without GPU support has no GPU that passes the check")
        }
    }
}

pub(super) struct Trainer<A: AutodiffBackend> {
    pub(super) config: DynamicsConfig,
    pub(super) optim: OptimConfig,
    pub(super) device: A::Device,
    pub(super) idm: Idm<A>,
    pub(super) fdm: Fdm<A>,
    pub(super) adam: Adam<A::InnerBackend>,
    /// Steps since each code was last used, codebook after codebook.
    pub(super) unused: Vec<u32>,
    /// Whether the codebooks are where they shall start; otherwise the first batch puts them there.
    pub(super) codebooks_started: bool,
    pub(super) seed: u64,
    drawn: u64,
}

impl<A> Trainer<A>
where
    A: AutodiffBackend + NetBackend,
    A::InnerBackend: NetBackend + AdamBackend,
{
    pub(super) fn new(device: A::Device, config: &DynamicsConfig, optim: &OptimConfig, seed: u64) -> Self {
        let mut init = Init::new(seed, &device);
        let (idm, fdm) = (Idm::new(&mut init, config), Fdm::new(&mut init, config));
        Trainer {
            idm,
            fdm,
            config: config.clone(),
            optim: optim.clone(),
            adam: Adam::new(optim.clone()),
            unused: vec![0; config.vq.codebooks * config.vq.entries],
            codebooks_started: config.vq.start == CodebookStart::Uniform,
            seed,
            drawn: init.drawn(),
            device,
        }
    }

    fn upload<B: Backend>(&self, batch: &Batch<'_>, device: &B::Device) -> Result<Windows<B>> {
        let [height, width, channels] = frame_shape(&self.config);
        let bytes = batch.batch * self.config.window() * height * width * channels;
        check("time", batch.time, self.config.window())?;
        check("height", batch.height, height)?;
        check("width", batch.width, width)?;
        check("number of bytes", batch.frames.len(), bytes)?;
        check("number of windows", batch.batch, batch.batch.max(1))?;
        Ok(Windows::stack(upload(batch.frames, [height, width, channels], device), batch.time).at(self.optim.precision))
    }

    /// The world model's loss, and the error it comes from.
    fn loss(&self, windows: &Windows<A>, predicted: Tensor<A, 4>) -> Losses<A> {
        let wm = mean_square(predicted - windows.next());
        // A batch where nothing moves must not divide by zero.
        let change = mean_square(windows.next() - windows.last()).clamp_min(1e-6);
        let relative = wm.clone() / change;
        let minimised = match self.config.predict {
            Predict::Change => relative.clone(),
            Predict::Frame => wm.clone(),
        };
        Losses { wm, relative, minimised }
    }

    fn start_codebooks(&mut self, windows: &Windows<A>) -> Result<()> {
        let latent_action = self.idm.forward(windows.stacked.clone()).detach();
        let rows = self.idm.vq.rows(latent_action);
        let mut rng = self.rng();
        let all: Vec<_> = (0..self.unused.len()).map(|code| self.pair(code)).collect();
        self.idm.vq.reseed(&rows, &all, &mut rng)?;
        self.codebooks_started = true;
        Ok(())
    }

    /// Moves codes nobody has used for long onto latent actions of this batch.
    fn revive_codes(&mut self, seen: &Quantised<A>, usage: &[f32]) -> Result<u32> {
        let limit = self.config.vq.revive_after;
        if limit == 0 {
            return Ok(0);
        }
        for (unused, &used) in self.unused.iter_mut().zip(usage) {
            *unused = if used > 0.0 { 0 } else { *unused + 1 };
        }
        let dead: Vec<_> = (0..self.unused.len()).filter(|&code| self.unused[code] >= limit).collect();
        dead.iter().for_each(|&code| self.unused[code] = 0);
        let pairs: Vec<_> = dead.iter().map(|&code| self.pair(code)).collect();
        let mut rng = self.rng();
        self.idm.vq.reseed(&seen.rows, &pairs, &mut rng)?;
        Ok(pairs.len() as u32)
    }

    fn pair(&self, code: usize) -> (usize, usize) {
        (code / self.config.vq.entries, code % self.config.vq.entries)
    }

    /// A stream of its own for every step, so that a checkpoint need not hold one.
    fn rng(&self) -> ChaCha8Rng {
        let mut rng = ChaCha8Rng::seed_from_u64(self.seed);
        rng.set_stream(self.adam.step);
        rng
    }

    fn finite(&self, what: &'static str, seen: f32) -> Result<()> {
        let step = self.adam.step - 1;
        if seen.is_finite() { Ok(()) } else { Err(TrainError::NotFinite { step, what, seen }) }
    }
}

impl<A> DynamicsTrainer for Trainer<A>
where
    A: AutodiffBackend + NetBackend,
    A::InnerBackend: NetBackend + AdamBackend,
{
    fn config(&self) -> &DynamicsConfig {
        &self.config
    }

    fn steps(&self) -> u64 {
        self.adam.step
    }

    fn drawn(&self) -> u64 {
        self.drawn
    }

    fn step(&mut self, batch: &Batch<'_>, learning_rate: f64) -> Result<StepMetrics> {
        let windows = self.upload::<A>(batch, &self.device)?;
        if !self.codebooks_started {
            self.start_codebooks(&windows)?;
        }

        let latent_action = self.idm.forward(windows.stacked.clone());
        let quantised = self.idm.vq.forward(latent_action);
        let mut statistics = Vec::new();
        let predicted = self.fdm.forward(&windows, quantised.latent_action_q.clone(), &mut Mode::Train(&mut statistics));
        let losses = self.loss(&windows, predicted);
        let loss = losses.minimised + quantised.loss.clone();

        let graph = loss.backward();
        let mut all = Flat::new();
        gradients("idm", &self.idm, &graph, &mut all);
        gradients("wm", &self.fdm, &graph, &mut all);
        let mut adam = self.adam.begin(all, learning_rate);
        self.idm = self.adam.apply(&mut adam, "idm", self.idm.clone());
        self.fdm = self.adam.apply(&mut adam, "wm", self.fdm.clone());
        self.fdm.update(statistics);
        self.idm.vq.update(&quantised);

        let usage = to_host(quantised.usage.clone())?;
        let codes_revived = self.revive_codes(&quantised, &usage)?;
        let parts = [loss, losses.wm, losses.relative, quantised.loss].map(Tensor::inner);
        let scalars = to_host(Tensor::cat(parts.into_iter().chain([adam.norm]).collect(), 0))?;
        let books = || usage.chunks(self.config.vq.entries);
        let metrics = StepMetrics {
            loss: scalars[0],
            wm_loss: scalars[1],
            relative_loss: scalars[2],
            vq_loss: scalars[3],
            grad_norm: scalars[4],
            perplexity: books().map(perplexity).collect(),
            codes_used: books().map(|book| book.iter().filter(|&&used| used > 0.0).count() as u32).collect(),
            codes_revived,
        };
        self.finite("loss", metrics.loss)?;
        self.finite("gradient norm", metrics.grad_norm)?;
        Ok(metrics)
    }

    fn evaluate(&self, batch: &Batch<'_>, shuffle: &[usize]) -> Result<Evaluation> {
        check("shuffle", shuffle.len(), batch.batch)?;
        if let Some(&index) = shuffle.iter().find(|&&index| index >= batch.batch) {
            return Err(TrainError::Batch { what: "shuffled index", seen: index, expected: batch.batch - 1 });
        }
        let (idm, fdm) = (self.idm.valid(), self.fdm.valid().folded());
        let windows = self.upload::<A::InnerBackend>(batch, &self.device)?;
        let latent_action = idm.forward(windows.stacked.clone());
        let quantised = idm.vq.forward(latent_action.clone());
        let off = |predicted: Tensor<A::InnerBackend, 4>| {
            let off = predicted - windows.next();
            to_host(mean_per_window(off.clone() * off))
        };
        let error_with = |action| off(fdm.forward(&windows, action, &mut Mode::Folded));

        let index = shuffle.iter().map(|&index| index as i32).collect();
        let index = Tensor::<_, 1, Int>::from_data(TensorData::new(index, [batch.batch]), &self.device);
        let other = quantised.latent_action_q.clone().select(0, index);
        Ok(Evaluation {
            fdm_error: error_with(quantised.latent_action_q)?,
            fdm_error_shuffled: error_with(other)?,
            copy_error: off(windows.last())?,
            codes: host_codes(quantised.codes)?,
            latent_action: to_host(latent_action)?,
        })
    }

    fn import(&mut self, weights: &[u8]) -> Result<()> {
        let weights = Weights::parse(weights)?;
        self.idm = weights.load("idm", self.idm.clone(), &self.device)?;
        self.fdm = weights.load("wm", self.fdm.clone(), &self.device)?;
        self.codebooks_started = true;
        Ok(())
    }

    fn save(&self) -> Result<Vec<u8>> {
        self.save_state()
    }

    fn restore(&mut self, state: &[u8]) -> Result<()> {
        self.restore_state(state)
    }

    fn export(&self, metadata: &BTreeMap<String, String>) -> Result<Vec<u8>> {
        let mut weights = Weights::default();
        weights.metadata = metadata.clone();
        weights.describe(DYNAMICS_FORMAT, &self.config);
        weights.store::<A, _>("idm", &self.idm)?;
        weights.store::<A, _>("wm", &self.fdm)?;
        weights.count_batches(self.adam.step);
        Ok(weights.to_bytes())
    }
}

struct Losses<B: Backend> {
    wm: Tensor<B, 1>,
    relative: Tensor<B, 1>,
    minimised: Tensor<B, 1>,
}

fn mean_square<B: Backend>(x: Tensor<B, 4>) -> Tensor<B, 1> {
    mean_per_window(x.clone() * x).mean()
}

fn check(what: &'static str, seen: usize, expected: usize) -> Result<()> {
    if seen == expected { Ok(()) } else { Err(TrainError::Batch { what, seen, expected }) }
}
