//! The training of IDM and FDM together on one device. [`Trainer::pass`] is the method from top to
//! bottom; its losses are in `losses`, the scores of held-out windows in `score`, checkpoints in
//! `state`.

use std::collections::BTreeMap;

use burn::backend::Autodiff;
use burn::module::AutodiffModule;
use burn::tensor::Tensor;
use burn::tensor::backend::AutodiffBackend;

use super::dynamics::{Batch, DynamicsTrainer, Evaluator, StepMetrics, StepSettings, Supervision};
use super::losses;
use super::optim::{
    Average, Flat, OptimConfig, Optimizer, OptimizerStep, TrainBackend, accumulate, divide,
    gradients,
};
use super::score::Folded;
use super::{Result, TrainError};
use crate::models::device::on_device;
use crate::models::fdm::Fdm;
use crate::models::frames::{Frames, Windows, frame_shape};
use crate::models::idm::Idm;
use crate::models::init::Init;
use crate::models::layers::{BatchStatistics, Linear, Mode, NetBackend};
use crate::models::metadata::DYNAMICS_FORMAT;
use crate::models::vq::Quantised;
use crate::models::weights::{Weights, to_host};
use crate::models::{CodebookStart, Device, DynamicsConfig};

/// Starts a training. The same seed gives the same weights on every device and with any number of
/// threads.
pub fn dynamics_trainer(
    device: &Device,
    config: &DynamicsConfig,
    optim: &OptimConfig,
    supervision: Option<Supervision>,
    seed: u64,
) -> Result<Box<dyn DynamicsTrainer>> {
    config.validate()?;
    device.check_precision(optim.precision)?;
    on_device!(device, B, at => {
        Ok(Box::new(Trainer::<Autodiff<B>>::new(at, config, optim, supervision, seed)))
    })
}

/// IDM and FDM with the state of their training.
pub(super) struct Trainer<A: AutodiffBackend> {
    pub(super) config: DynamicsConfig,
    pub(super) optim: OptimConfig,
    pub(super) device: A::Device,
    pub(super) idm: Idm<A>,
    pub(super) fdm: Fdm<A>,
    pub(super) supervision: Option<Supervision>,
    /// Predicts true actions from latent ones, with supervision. `tell` in checkpoints.
    pub(super) action_head: Option<Linear<A>>,
    pub(super) optimizer: Optimizer<A::InnerBackend>,
    /// The moving average of the weights, with `ema_decay`.
    pub(super) average: Option<Average<A::InnerBackend>>,
    /// Steps since each code was last used, codebook after codebook.
    pub(super) unused: Vec<u32>,
    /// Whether the codebooks have their initial values. Otherwise the first quantised batch sets
    /// them.
    pub(super) codebooks_started: bool,
    pub(super) seed: u64,
    drawn: u64,
}

impl<A: TrainBackend> Trainer<A> {
    pub(super) fn new(
        device: A::Device,
        config: &DynamicsConfig,
        optim: &OptimConfig,
        supervision: Option<Supervision>,
        seed: u64,
    ) -> Self {
        let mut init = Init::new(seed, &device);
        let idm = Idm::new(&mut init, config);
        let fdm = Fdm::new(&mut init, config);
        let action_head = supervision
            .map(|supervision| Linear::new(&mut init, config.latent_dim(), supervision.actions));
        Trainer {
            supervision,
            action_head,
            idm,
            fdm,
            config: config.clone(),
            optim: optim.clone(),
            optimizer: Optimizer::new(optim.clone()),
            average: optim.ema_decay.map(Average::new),
            unused: vec![0; config.vq.codebooks * config.vq.entries],
            codebooks_started: config.vq.start == CodebookStart::Uniform,
            seed,
            drawn: init.drawn(),
            device,
        }
    }

    /// Checks a batch and copies it to the device.
    pub(super) fn upload<B: NetBackend>(
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
        let frames = Frames::upload(batch.frames, [height, width, channels], device);
        Ok(Windows::stack(frames, batch.time).at(self.optim.precision))
    }

    /// Returns the weighted loss of the true actions, 0 without supervision.
    fn action_loss(&self, latent_action: &Tensor<A, 2>, actions: &[u32]) -> Tensor<A, 1> {
        match (&self.action_head, self.supervision, actions) {
            (Some(head), Some(supervision), [_, ..]) => {
                losses::cross_entropy(head, latent_action, actions) * supervision.weight
            }
            _ => Tensor::zeros([1], &self.device),
        }
    }

    /// Quantises latent actions. The first batch initialises the codebooks.
    fn quantise(&mut self, latent_action: Tensor<A, 2>) -> Result<Quantised<A>> {
        if !self.codebooks_started {
            self.start_codebooks(latent_action.clone())?;
        }
        Ok(self.idm.vq.forward(latent_action))
    }

    /// Runs both networks forward and backward on one batch. The weights stay as they are.
    fn pass(&mut self, batch: &Batch<'_>, pace: StepSettings) -> Result<Pass<A>> {
        let windows = self.upload::<A>(batch, &self.device)?;
        // Sets the scale of changes between frames from the first batch, unless the weights have
        // one.
        if self.optimizer.step == 0 {
            self.idm.start(&windows)?;
        }
        let mut idm_statistics = Vec::new();
        let latent_action = self.idm.forward(&windows, &mut Mode::Train(&mut idm_statistics));
        let action_loss = self.action_loss(&latent_action, batch.actions);
        let correlation = losses::correlation(latent_action.clone());
        // Straight-through: gradients reach the IDM as if nothing was quantised.
        let quantised =
            if pace.quantise { Some(self.quantise(latent_action.clone())?) } else { None };
        let fdm_input =
            quantised.as_ref().map_or(latent_action, |quantised| quantised.latent_action_q.clone());

        let mut fdm_statistics = Vec::new();
        let predicted =
            self.fdm.forward(&windows, fdm_input, &mut Mode::Train(&mut fdm_statistics));
        let prediction = losses::prediction(self.config.predict, &windows, predicted);
        let commitment = quantised
            .as_ref()
            .map_or_else(|| prediction.error.zeros_like(), |quantised| quantised.loss.clone());
        let mut loss = prediction.minimised + commitment.clone() + action_loss.clone();
        if pace.decorrelation > 0.0 {
            loss = loss + correlation.clone() * pace.decorrelation;
        }

        // One backward pass through both networks; the FDM's input connects them.
        let graph = loss.backward();
        let mut all = Flat::new();
        gradients("idm", &self.idm, &graph, &mut all);
        gradients("wm", &self.fdm, &graph, &mut all);
        gradients("tell", &self.action_head, &graph, &mut all);
        let scalars =
            [loss, prediction.error, prediction.relative, commitment, action_loss, correlation];
        let scalars = Tensor::cat(scalars.map(Tensor::inner).to_vec(), 0);
        Ok(Pass { gradients: all, scalars, idm_statistics, fdm_statistics, quantised })
    }

    /// Updates the weights, the running statistics and the codebooks. Returns the number of revived
    /// codes.
    fn update(
        &mut self,
        mut step: OptimizerStep<A::InnerBackend>,
        pace: StepSettings,
        passes: Passes<A>,
        usage: &[f32],
    ) -> Result<u32> {
        let optimizer = &mut self.optimizer;
        self.idm = optimizer.apply(&mut step, "idm", pace.idm_learning_rate, self.idm.clone());
        self.fdm = optimizer.apply(&mut step, "wm", pace.learning_rate, self.fdm.clone());
        self.action_head =
            optimizer.apply(&mut step, "tell", pace.learning_rate, self.action_head.clone());
        for statistics in passes.idm_statistics {
            self.idm.update(statistics);
        }
        for statistics in passes.fdm_statistics {
            self.fdm.update(statistics);
        }
        // Codebooks are no parameters: they follow the latent actions by moving averages.
        let revived = match Quantised::join(passes.quantised) {
            Some(quantised) => {
                self.idm.vq.update(&quantised);
                self.revive_codes(&quantised, usage)?
            }
            None => 0,
        };
        if let Some(average) = &mut self.average {
            average.update("idm", &self.idm.valid(), self.optimizer.step);
            average.update("wm", &self.fdm.valid(), self.optimizer.step);
        }
        Ok(revived)
    }

    /// Returns the networks for inference: their moving averages, if there are any.
    pub(super) fn networks(&self) -> (Idm<A::InnerBackend>, Fdm<A::InnerBackend>) {
        let networks = (self.idm.valid(), self.fdm.valid());
        match &self.average {
            Some(average) => (average.of("idm", networks.0), average.of("wm", networks.1)),
            None => networks,
        }
    }
}

/// Passes over the batches of one step.
struct Passes<A: AutodiffBackend> {
    idm_statistics: Vec<Vec<BatchStatistics<A>>>,
    fdm_statistics: Vec<Vec<BatchStatistics<A>>>,
    quantised: Vec<Quantised<A>>,
}

/// The results of one pass over a batch, for the update.
struct Pass<A: AutodiffBackend> {
    gradients: Flat<A::InnerBackend>,
    /// `[SCALARS]`: the first fields of [`StepMetrics`].
    scalars: Tensor<A::InnerBackend, 1>,
    idm_statistics: Vec<BatchStatistics<A>>,
    fdm_statistics: Vec<BatchStatistics<A>>,
    quantised: Option<Quantised<A>>,
}

/// Numbers in [`Pass::scalars`].
const SCALARS: usize = 6;

impl<A: TrainBackend> DynamicsTrainer for Trainer<A> {
    fn config(&self) -> &DynamicsConfig {
        &self.config
    }

    fn steps(&self) -> u64 {
        self.optimizer.step
    }

    fn drawn(&self) -> u64 {
        self.drawn
    }

    fn step_accumulated(
        &mut self,
        batches: &[Batch<'_>],
        pace: StepSettings,
    ) -> Result<StepMetrics> {
        check("number of passes", batches.len(), batches.len().max(1))?;
        let codebooks_started = self.codebooks_started;
        let mut sum = Flat::new();
        let mut on_device = Vec::new();
        let mut passes =
            Passes { idm_statistics: vec![], fdm_statistics: vec![], quantised: vec![] };
        for batch in batches {
            let pass = self.pass(batch, pace)?;
            accumulate(&mut sum, pass.gradients);
            on_device.push(pass.scalars);
            passes.idm_statistics.push(pass.idm_statistics);
            passes.fdm_statistics.push(pass.fdm_statistics);
            passes.quantised.extend(pass.quantised);
        }
        let step = self.optimizer.begin(divide(sum, batches.len()));

        // One copy from the device for all that this step reports or decides by. It comes before
        // the update, so that a step that is not finite leaves every weight as it was.
        on_device.push(step.norm.clone());
        for quantised in &passes.quantised {
            on_device.push(quantised.usage.clone().inner().reshape([self.unused.len()]));
        }
        let host = to_host(Tensor::cat(on_device, 0))?;
        let (scalars, rest) = host.split_at(SCALARS * batches.len());
        let (norm, usages) = rest.split_at(1);
        let scalar = |which: usize| {
            let values = scalars.iter().skip(which).step_by(SCALARS);
            values.sum::<f32>() / batches.len() as f32
        };
        let usage: Vec<f32> = (0..self.unused.len())
            .map(|code| usages.iter().skip(code).step_by(self.unused.len()).sum())
            .collect();
        let mut metrics = StepMetrics {
            loss: scalar(0),
            wm_loss: scalar(1),
            relative_loss: scalar(2),
            vq_loss: scalar(3),
            action_loss: scalar(4),
            correlation: scalar(5),
            grad_norm: norm[0],
            codes_revived: 0,
            ..StepMetrics::of_usage(&usage, self.config.vq.entries, pace.quantise)
        };
        for (what, seen) in [("loss", metrics.loss), ("gradient norm", metrics.grad_norm)] {
            if !seen.is_finite() {
                // Codebooks that start at latent actions of this batch would start at NaN.
                self.codebooks_started = codebooks_started;
                return Err(TrainError::NotFinite { step: self.optimizer.step - 1, what, seen });
            }
        }
        metrics.codes_revived = self.update(step, pace, passes, &usage)?;
        Ok(metrics)
    }

    fn evaluator(&self) -> Box<dyn Evaluator + '_> {
        Box::new(Folded::new(self))
    }

    fn import(&mut self, weights: &[u8]) -> Result<()> {
        let weights = Weights::parse(weights)?;
        self.idm = weights.load("idm", self.idm.clone(), &self.device)?;
        self.fdm = weights.load("wm", self.fdm.clone(), &self.device)?;
        // The imported IDM has its codebooks.
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
        let (idm, fdm) = self.networks();
        weights.store::<A::InnerBackend, _>("idm", &idm)?;
        weights.store::<A::InnerBackend, _>("wm", &fdm)?;
        weights.count_batches(self.optimizer.step);
        Ok(weights.to_bytes())
    }
}

/// Checks a dimension of a batch.
pub(super) fn check(what: &'static str, seen: usize, expected: usize) -> Result<()> {
    if seen == expected { Ok(()) } else { Err(TrainError::Batch { what, seen, expected }) }
}
