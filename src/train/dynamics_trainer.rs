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
    gradients, in_precision,
};
use super::read_back::{ReadBack, SkipCounts};
use super::score::Folded;
use super::{Result, TrainError};
use crate::models::device::on_device;
use crate::models::fdm::Fdm;
use crate::models::frames::{Frames, Windows, frame_shape};
use crate::models::idm::Idm;
use crate::models::init::Init;
use crate::models::layers::{Linear, Mode, NetBackend};
use crate::models::metadata::DYNAMICS_FORMAT;
use crate::models::vq::Quantised;
use crate::models::weights::Weights;
use crate::models::{CodebookStart, Device, DynamicsConfig};

mod passes;

use passes::{Pass, Passes, Reading};

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
        let mut trainer = Trainer::<Autodiff<B>>::new(at, config, optim, supervision, seed);
        trainer.read_late(device.reads_late());
        Ok(Box::new(trainer))
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
    /// `[code]`, codebook after codebook: steps since the code was last used. An age is reset when
    /// the code is revived, far below 2^24, up to which f32 counts exactly.
    pub(super) unused: Tensor<A::InnerBackend, 1>,
    /// Whether the codebooks have their initial values. Otherwise the first quantised batch sets
    /// them.
    pub(super) codebooks_started: bool,
    pub(super) seed: u64,
    skip_counts: SkipCounts<A::InnerBackend>,
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
            unused: Tensor::zeros([config.vq.codebooks * config.vq.entries], &device),
            codebooks_started: config.vq.start == CodebookStart::Uniform,
            seed,
            skip_counts: SkipCounts::new(false, &device),
            drawn: init.drawn(),
            device,
        }
    }

    /// Sets whether steps are read only if their metrics are wanted. Default false.
    pub(super) fn read_late(&mut self, reads_late: bool) {
        self.skip_counts = SkipCounts::new(reads_late, &self.device);
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
    fn pass(&mut self, batch: &Batch<'_>, pace: StepSettings, is_read: bool) -> Result<Pass<A>> {
        let windows = self.upload::<A>(batch, &self.device)?;
        // Sets the scale of changes between frames from the first batch, unless the weights have
        // one.
        if self.optimizer.step == 0 {
            self.idm.start(&windows)?;
        }
        // The first weight is scaled to the changes between frames, in single precision.
        let precision = self.optim.precision;
        let first = "idm.conv_stack.0.conv.weight";
        let idm = in_precision::<A, _>("idm", &self.idm, precision, first);
        let fdm = in_precision::<A, _>("wm", &self.fdm, precision, "");
        let mut idm_statistics = Vec::new();
        let latent_action = idm.forward(&windows, &mut Mode::Train(&mut idm_statistics));
        let action_loss = self.action_loss(&latent_action, batch.actions);
        let correlation = if is_read || pace.decorrelation > 0.0 {
            losses::correlation(latent_action.clone())
        } else {
            Tensor::zeros([1], &self.device)
        };
        // Straight-through: gradients reach the IDM as if nothing was quantised.
        let quantised =
            if pace.quantise { Some(self.quantise(latent_action.clone())?) } else { None };
        let fdm_input =
            quantised.as_ref().map_or(latent_action, |quantised| quantised.latent_action_q.clone());

        let mut fdm_statistics = Vec::new();
        let predicted = fdm.forward(&windows, fdm_input, &mut Mode::Train(&mut fdm_statistics));
        let prediction = losses::prediction(self.config.predict, &windows, predicted, is_read);
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
        gradients("idm", &idm, &graph, &mut all);
        gradients("wm", &fdm, &graph, &mut all);
        gradients("tell", &self.action_head, &graph, &mut all);
        let scalars =
            [loss, prediction.error, prediction.relative, commitment, action_loss, correlation];
        let scalars = scalars.map(Tensor::inner);
        Ok(Pass { gradients: all, scalars, idm_statistics, fdm_statistics, quantised })
    }

    /// Updates the weights, the running statistics and the codebooks. Returns the number of revived
    /// codes, which is 0 without a `reading`.
    fn update(
        &mut self,
        mut step: OptimizerStep<A::InnerBackend>,
        pace: StepSettings,
        passes: Passes<A>,
        reading: Option<Reading>,
    ) -> Result<u32> {
        let gate = step.gate.clone();
        let before = gate.as_ref().map(|gate| (gate, self.idm.clone(), self.fdm.clone()));
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
        let quantised = Quantised::join(passes.quantised);
        if let Some(quantised) = &quantised {
            self.idm.vq.update(quantised);
        }
        if let Some((gate, idm, fdm)) = before {
            self.idm = gate.choose_state(&idm, self.idm.clone());
            self.fdm = gate.choose_state(&fdm, self.fdm.clone());
        }
        if let Some(ages) = passes.ages {
            self.unused = match &gate {
                Some(gate) => gate.choose(self.unused.clone(), ages),
                None => ages,
            };
        }
        let revived = match (quantised, reading) {
            (Some(quantised), Some(reading)) => self.revive_codes(&quantised, reading.ages)?,
            _ => 0,
        };
        if let Some(average) = &mut self.average {
            let step = self.optimizer.step;
            average.update("idm", &self.idm.valid(), step, gate.as_ref());
            average.update("wm", &self.fdm.valid(), step, gate.as_ref());
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
        read_back: ReadBack,
    ) -> Result<Option<StepMetrics>> {
        check("number of passes", batches.len(), batches.len().max(1))?;
        let before = (self.codebooks_started, self.idm.vq.clone());
        let mut sum = Flat::new();
        let mut passes = Passes::default();
        // Codebooks start on the host, so the host must know whether their start is kept.
        let starts = pace.quantise && !self.codebooks_started;
        let is_read = self.skip_counts.is_read(read_back) || starts;
        for batch in batches {
            let pass = self.pass(batch, pace, is_read)?;
            accumulate(&mut sum, pass.gradients);
            passes.scalars.push(pass.scalars);
            passes.idm_statistics.push(pass.idm_statistics);
            passes.fdm_statistics.push(pass.fdm_statistics);
            passes.quantised.extend(pass.quantised);
        }
        passes.ages = passes.usage().and_then(|usage| self.ages_after(usage));
        let mut step = self.optimizer.begin(divide(sum, batches.len()));
        self.skip_counts.decide(&mut step, passes.loss());

        // This comes before the update, so that a step that is not finite leaves everything as it
        // was.
        let reading = if is_read { Some(self.read(&step, pace, &passes)?) } else { None };
        if let Some(Reading { metrics, skips, .. }) = &reading
            && let Err(error) =
                skips.check_finite(self.optimizer.step - 1, metrics.loss, metrics.grad_norm)
        {
            // Codebooks that start at latent actions of this batch would start at NaN.
            (self.codebooks_started, self.idm.vq) = before;
            return Err(error);
        }
        let metrics = reading.as_ref().map(|reading| reading.metrics.clone());
        let codes_revived = self.update(step, pace, passes, reading)?;
        Ok(metrics.map(|metrics| StepMetrics { codes_revived, ..metrics }))
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
