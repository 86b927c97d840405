//! Training of IDM and FDM together on one device; [`DynamicsTrainer::step`] tells the method from top to bottom. What it
//! minimises is in `losses`, scores of windows it does not learn from in `score`, checkpoints in `state`.

use std::collections::BTreeMap;

use burn::module::AutodiffModule;
use burn::tensor::backend::AutodiffBackend;
use burn::tensor::{Tensor, backend::Backend};
use rand::SeedableRng;
use rand_chacha::ChaCha8Rng;

use super::dynamics::{Batch, DynamicsTrainer, Evaluation, Pace, StepMetrics, Supervision};
use super::losses;
use super::optim::{AdamBackend, Flat, OptimConfig, Optimizer, gradients};
use super::{Result, TrainError};
use crate::models::fdm::Fdm;
use crate::models::frames::{Windows, frame_shape, upload};
use crate::models::idm::Idm;
use crate::models::init::Init;
use crate::models::layers::{Linear, Mode, NetBackend};
use crate::models::metadata::DYNAMICS_FORMAT;
use crate::models::vq::{Quantised, perplexity};
use crate::models::weights::{Weights, to_host};
use crate::models::{CodebookStart, DynamicsConfig};

/// IDM, FDM and all that their training remembers.
pub(super) struct Trainer<A: AutodiffBackend> {
    pub(super) config: DynamicsConfig,
    pub(super) optim: OptimConfig,
    pub(super) device: A::Device,
    pub(super) idm: Idm<A>,
    pub(super) fdm: Fdm<A>,
    pub(super) supervision: Option<Supervision>,
    /// What tells true actions from latent ones, with supervision.
    pub(super) tell: Option<Linear<A>>,
    pub(super) optimizer: Optimizer<A::InnerBackend>,
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
    pub(super) fn new(
        device: A::Device,
        config: &DynamicsConfig,
        optim: &OptimConfig,
        supervision: Option<Supervision>,
        seed: u64,
    ) -> Self {
        let mut init = Init::new(seed, &device);
        let (idm, fdm) = (Idm::new(&mut init, config), Fdm::new(&mut init, config));
        let tell = supervision
            .map(|supervision| Linear::new(&mut init, config.latent_dim(), supervision.actions));
        Trainer {
            supervision,
            tell,
            idm,
            fdm,
            config: config.clone(),
            optim: optim.clone(),
            optimizer: Optimizer::new(optim.clone()),
            unused: vec![0; config.vq.codebooks * config.vq.entries],
            codebooks_started: config.vq.start == CodebookStart::Uniform,
            seed,
            drawn: init.drawn(),
            device,
        }
    }

    pub(super) fn upload<B: Backend>(
        &self,
        batch: &Batch<'_>,
        device: &B::Device,
    ) -> Result<Windows<B>> {
        let [height, width, channels] = frame_shape(&self.config);
        let bytes = batch.batch * self.config.window() * height * width * channels;
        check("time", batch.time, self.config.window())?;
        check("height", batch.height, height)?;
        check("width", batch.width, width)?;
        check("number of bytes", batch.frames.len(), bytes)?;
        check("number of windows", batch.batch, batch.batch.max(1))?;
        check("number of true actions", batch.actions.len(), batch.actions.len().min(batch.batch))?;
        let most = self.supervision.map_or(0, |supervision| supervision.actions);
        if let Some(action) =
            batch.actions.iter().map(|&action| action as usize).find(|&action| action >= most)
        {
            return Err(TrainError::Batch {
                what: "true action",
                seen: action,
                expected: most.saturating_sub(1),
            });
        }
        Ok(Windows::stack(upload(batch.frames, [height, width, channels], device), batch.time)
            .at(self.optim.precision))
    }

    fn start_codebooks(&mut self, latent_action: Tensor<A, 2>) -> Result<()> {
        let rows = self.idm.vq.rows(latent_action.detach());
        let mut rng = self.rng();
        let all: Vec<_> = (0..self.unused.len()).map(|code| self.pair(code)).collect();
        self.idm.vq.reseed(&rows, &all, &mut rng)?;
        self.codebooks_started = true;
        Ok(())
    }

    /// What true actions add to the loss: nothing without supervision.
    fn action_loss(&self, latent_action: &Tensor<A, 2>, actions: &[u32]) -> Tensor<A, 1> {
        match (&self.tell, self.supervision, actions) {
            (Some(tell), Some(supervision), [_, ..]) => {
                losses::cross_entropy(tell, latent_action, actions) * supervision.weight
            }
            _ => Tensor::zeros([1], &self.device),
        }
    }

    fn quantise(&mut self, latent_action: Tensor<A, 2>) -> Result<Quantised<A>> {
        if !self.codebooks_started {
            self.start_codebooks(latent_action.clone())?;
        }
        Ok(self.idm.vq.forward(latent_action))
    }

    /// Lets the codebooks follow the latent actions they were given, if they were; returns how often each code was used, and how many
    /// were revived.
    fn follow(&mut self, quantised: Option<Quantised<A>>) -> Result<(Vec<f32>, u32)> {
        let Some(quantised) = quantised else { return Ok((vec![0.0; self.unused.len()], 0)) };
        self.idm.vq.update(&quantised);
        let usage = to_host(quantised.usage.clone())?;
        let revived = self.revive_codes(&quantised, &usage)?;
        Ok((usage, revived))
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
        let dead: Vec<_> =
            (0..self.unused.len()).filter(|&code| self.unused[code] >= limit).collect();
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
        rng.set_stream(self.optimizer.step);
        rng
    }

    fn finite(&self, what: &'static str, seen: f32) -> Result<()> {
        let step = self.optimizer.step - 1;
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
        self.optimizer.step
    }

    fn drawn(&self) -> u64 {
        self.drawn
    }

    fn step(&mut self, batch: &Batch<'_>, pace: Pace) -> Result<StepMetrics> {
        let windows = self.upload::<A>(batch, &self.device)?;
        if self.optimizer.step == 0 {
            self.idm.start(&windows)?;
        }

        let (mut idm_saw, mut fdm_saw) = (Vec::new(), Vec::new());
        let latent_action = self.idm.forward(&windows, &mut Mode::Train(&mut idm_saw));
        let action_loss = self.action_loss(&latent_action, batch.actions);
        let correlation = losses::correlation(latent_action.clone());
        let quantised =
            if pace.quantise { Some(self.quantise(latent_action.clone())?) } else { None };
        let seen =
            quantised.as_ref().map_or(latent_action, |quantised| quantised.latent_action_q.clone());
        let predicted = self.fdm.forward(&windows, seen, &mut Mode::Train(&mut fdm_saw));
        let prediction = losses::prediction(self.config.predict, &windows, predicted);
        let commitment = quantised
            .as_ref()
            .map_or_else(|| prediction.wm.zeros_like(), |quantised| quantised.loss.clone());
        let mut loss = prediction.minimised + commitment.clone() + action_loss.clone();
        if pace.decorrelation > 0.0 {
            loss = loss + correlation.clone() * pace.decorrelation;
        }

        let graph = loss.backward();
        let mut all = Flat::new();
        gradients("idm", &self.idm, &graph, &mut all);
        gradients("wm", &self.fdm, &graph, &mut all);
        gradients("tell", &self.tell, &graph, &mut all);
        let mut step = self.optimizer.begin(all);
        self.idm = self.optimizer.apply(&mut step, "idm", pace.idm_learning_rate, self.idm.clone());
        self.fdm = self.optimizer.apply(&mut step, "wm", pace.learning_rate, self.fdm.clone());
        self.tell = self.optimizer.apply(&mut step, "tell", pace.learning_rate, self.tell.clone());
        self.idm.update(idm_saw);
        self.fdm.update(fdm_saw);
        let (usage, codes_revived) = self.follow(quantised)?;

        let parts =
            [loss, prediction.wm, prediction.relative, commitment, action_loss, correlation]
                .map(Tensor::inner);
        let scalars = to_host(Tensor::cat(parts.into_iter().chain([step.norm]).collect(), 0))?;
        let books = || usage.chunks(self.config.vq.entries);
        let metrics = StepMetrics {
            loss: scalars[0],
            wm_loss: scalars[1],
            relative_loss: scalars[2],
            vq_loss: scalars[3],
            action_loss: scalars[4],
            correlation: scalars[5],
            grad_norm: scalars[6],
            perplexity: books()
                .map(|book| if pace.quantise { perplexity(book) } else { 0.0 })
                .collect(),
            codes_used: books()
                .map(|book| book.iter().filter(|&&used| used > 0.0).count() as u32)
                .collect(),
            codes_revived,
        };
        self.finite("loss", metrics.loss)?;
        self.finite("gradient norm", metrics.grad_norm)?;
        Ok(metrics)
    }

    fn evaluate(&self, batch: &Batch<'_>, shuffle: &[usize], quantise: bool) -> Result<Evaluation> {
        self.score(batch, shuffle, quantise)
    }

    fn latent_action(&self, batch: &Batch<'_>) -> Result<Vec<f32>> {
        let windows = self.upload::<A::InnerBackend>(batch, &self.device)?;
        Ok(to_host(self.idm.valid().folded(&self.config).forward(&windows, &mut Mode::Folded))?)
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
        weights.count_batches(self.optimizer.step);
        Ok(weights.to_bytes())
    }
}

pub(super) fn check(what: &'static str, seen: usize, expected: usize) -> Result<()> {
    if seen == expected { Ok(()) } else { Err(TrainError::Batch { what, seen, expected }) }
}
