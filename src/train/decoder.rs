//! Offline decoding (LAPO, section 4.4): trains a decoder from latent to true actions.
//!
//! Start at [`fit`]. All pairs are in memory, a few thousand at most.

use burn::backend::{Autodiff, Flex};
use burn::module::AutodiffModule;
use burn::tensor::{Int, Tensor, TensorData, activation};
use rand::{Rng, SeedableRng};
use rand_chacha::ChaCha8Rng;

use super::optim::{Flat, OptimConfig, Optimizer, gradients};
use super::pairs::{ColumnStats, Pairs, TrueActions};
use super::{
    Judgement, Learner, NoProgress, ReadBack, Result, Selection, Skips, Step, Stop, TrainError,
    TrainingLoop,
};
use crate::models::decoder::Decoder;
use crate::models::init::Init;
use crate::models::weights::{Weights, to_host};
use crate::models::{DecoderConfig, LoadedDecoder, Outputs};

/// Every tenth pair is held out, if there are enough.
const HOLD_OUT: usize = 10;
/// The minimum number of pairs for holding some out. With fewer, the held-out ones would be too few
/// for a judgement.
const HOLD_OUT_FROM: usize = 2048;
/// The least variance of a Gaussian head, as a share of the action's own variance. The likelihood
/// of exactly predicted actions would be infinite without it.
const LEAST_VARIANCE: f64 = 1e-4;
/// Steps between two judgements on held-out pairs.
const JUDGE_EVERY: u64 = 50;

/// How to train a decoder.
#[derive(Clone, Debug)]
pub struct FitSettings {
    /// Width of each hidden layer.
    pub hidden: Vec<usize>,
    /// Steps of gradient descent.
    pub steps: u64,
    /// Pairs in a step.
    pub batch: usize,
    /// Adam's learning rate at the start. It falls to 0 at the end.
    pub learning_rate: f64,
    /// Share of the likelihood that is spread evenly over all actions.
    pub label_smoothing: f64,
    /// Ends the training early with [`TrainError::Stopped`]. `None` suits short trainings.
    pub stop: Option<Stop>,
}

pub(super) type Train = Autodiff<Flex>;

/// The metric for the selection of the best decoder.
const HELD_OUT_LOSS: &str = "held_out_loss";

/// Trains a decoder on at least one pair, in random order.
///
/// Latent actions are normalised with `stats`, computed over all latent actions, labelled or not;
/// the normalisation is folded into the decoder. From 2,048 pairs on, every tenth is held out, and
/// the result is the decoder with the lowest loss on them.
pub fn fit(
    config: &DecoderConfig,
    settings: &FitSettings,
    pairs: &Pairs,
    stats: &ColumnStats,
    seed: u64,
) -> Result<LoadedDecoder> {
    let target_stats = match &pairs.action {
        TrueActions::Continuous(numbers, axes) => Some(ColumnStats::of(numbers, *axes)),
        TrueActions::Discrete(_) => None,
    };
    let mut learner =
        DecoderLearner::new(config, settings, pairs, stats, target_stats.as_ref(), seed);
    let training = TrainingLoop {
        steps: settings.steps,
        units: 1,
        log_every: settings.steps,
        log_judged: false,
        selection: Selection::Best { column: HELD_OUT_LOSS, patience: None },
        checkpoints: None,
        continued: None,
        stop: settings.stop.as_ref(),
        progress: &NoProgress,
    };
    training.run(&mut learner)?;
    let device = Default::default();
    // The network then takes latent actions and returns true actions as they are.
    let mut net = learner.net.valid().after_normalising(&stats.mean, &stats.deviation, &device);
    if let Some(stats) = &target_stats {
        net = net.before_scaling(config.outputs, &stats.mean, &stats.deviation, &device);
    }
    Ok(LoadedDecoder::new(config.clone(), net))
}

/// A decoder and its training pairs.
struct DecoderLearner<'a> {
    config: &'a DecoderConfig,
    settings: &'a FitSettings,
    /// `[pair, latent_dim]`, normalised.
    latent_action: Vec<f32>,
    targets: Targets<'a>,
    training: Vec<usize>,
    held_out: Vec<usize>,
    net: Decoder<Train>,
    optimizer: Optimizer<Flex>,
    rng: ChaCha8Rng,
}

impl<'a> DecoderLearner<'a> {
    fn new(
        config: &'a DecoderConfig,
        settings: &'a FitSettings,
        pairs: &'a Pairs,
        stats: &ColumnStats,
        target_stats: Option<&ColumnStats>,
        seed: u64,
    ) -> Self {
        let is_held_out = |i: &usize| pairs.len() >= HOLD_OUT_FROM && i % HOLD_OUT == HOLD_OUT - 1;
        let (held_out, training) = (0..pairs.len()).partition(is_held_out);
        DecoderLearner {
            config,
            settings,
            latent_action: stats.normalise(&pairs.latent_action),
            targets: Targets::new(
                &pairs.action,
                config.outputs,
                settings.label_smoothing,
                target_stats,
            ),
            training,
            held_out,
            net: Decoder::new(&mut Init::new(seed, &Default::default()), config),
            optimizer: Optimizer::new(OptimConfig::default()),
            rng: ChaCha8Rng::seed_from_u64(seed),
        }
    }

    /// Returns the loss on some of the pairs.
    fn loss(&self, pairs: &[usize]) -> Tensor<Train, 1> {
        let input = latent_rows(&self.latent_action, self.config.latent_dim, pairs);
        self.targets.loss(self.net.forward(Tensor::from_inner(input)), pairs)
    }
}

/// Returns the latent actions of some pairs: `[pair, latent_dim]`.
pub(super) fn latent_rows(latent_action: &[f32], dim: usize, pairs: &[usize]) -> Tensor<Flex, 2> {
    let rows = pairs.iter().flat_map(|&i| &latent_action[i * dim..][..dim]).copied().collect();
    Tensor::from_data(TensorData::new(rows, [pairs.len(), dim]), &Default::default())
}

impl Learner for DecoderLearner<'_> {
    type Error = TrainError;

    fn step(&mut self, step: u64, _: ReadBack) -> Result<Step> {
        // With replacement: there may be fewer pairs than a batch has.
        let drawn: Vec<usize> = (0..self.settings.batch)
            .map(|_| self.training[self.rng.random_range(0..self.training.len())])
            .collect();
        let loss = self.loss(&drawn);
        let mut all = Flat::new();
        gradients("decoder", &self.net, &loss.backward(), &mut all);
        let mut optimizer_step = self.optimizer.begin(all);
        let host = to_host(Tensor::cat(vec![loss.inner(), optimizer_step.norm.clone()], 0))?;
        for (what, &seen) in ["loss", "gradient norm"].into_iter().zip(&host) {
            if !seen.is_finite() {
                return Ok(Step::Skipped { what, seen, skips: Skips::ONE });
            }
        }
        let learning_rate =
            self.settings.learning_rate * (1.0 - step as f64 / self.settings.steps as f64);
        self.net =
            self.optimizer.apply(&mut optimizer_step, "decoder", learning_rate, self.net.clone());
        let row = vec![("loss".to_owned(), host[0])];
        Ok(Step::Taken { row, note: String::new(), skipped: 0 })
    }

    fn is_judged(&self, taken: u64) -> bool {
        !self.held_out.is_empty()
            && (taken.is_multiple_of(JUDGE_EVERY) || taken == self.settings.steps)
    }

    fn judge(&mut self, _: u64) -> Result<Judgement> {
        let loss = self.loss(&self.held_out).into_scalar();
        Ok(Judgement { row: vec![(HELD_OUT_LOSS.to_owned(), loss)], sentence: None })
    }

    fn save(&self) -> Result<Vec<u8>> {
        let mut weights = Weights::default();
        weights.store::<Train, _>("decoder", &self.net)?;
        Ok(weights.to_bytes())
    }

    fn restore(&mut self, state: &[u8]) -> Result<()> {
        let weights = Weights::parse(state)?;
        self.net = weights.load("decoder", self.net.clone(), &Default::default())?;
        Ok(())
    }
}

/// The true actions as the loss takes them.
pub(super) struct Targets<'a> {
    discrete: &'a [u32],
    /// `[pair, axis]`, normalised.
    continuous: Vec<f32>,
    outputs: Outputs,
    smoothing: f64,
}

impl<'a> Targets<'a> {
    pub(super) fn new(
        actions: &'a TrueActions,
        outputs: Outputs,
        smoothing: f64,
        stats: Option<&ColumnStats>,
    ) -> Self {
        let (discrete, continuous): (&[u32], _) = match (actions, stats) {
            (TrueActions::Discrete(discrete), _) => (discrete, vec![]),
            (TrueActions::Continuous(numbers, _), Some(stats)) => (&[], stats.normalise(numbers)),
            (TrueActions::Continuous(numbers, _), None) => (&[], numbers.clone()),
        };
        Targets { discrete, continuous, outputs, smoothing }
    }

    /// Returns the cross-entropy of discrete actions, the mean squared error of continuous ones, or
    /// the negative log-likelihood of a Gaussian head, in nats per axis.
    ///
    /// # Shapes
    /// - `predicted`: `[pair, width]`
    pub(super) fn loss(&self, predicted: Tensor<Train, 2>, pairs: &[usize]) -> Tensor<Train, 1> {
        let device = predicted.device();
        if let Some(axes) = self.outputs.axes() {
            let rows = pairs.iter().flat_map(|&i| &self.continuous[i * axes..][..axes]);
            let rows = TensorData::new(rows.copied().collect(), [pairs.len(), axes]);
            let action = Tensor::from_data(rows, &device);
            return match self.outputs {
                Outputs::Gaussian { .. } => gaussian_loss(predicted, action),
                _ => {
                    let difference = predicted - action;
                    (difference.clone() * difference).mean()
                }
            };
        }
        let actions = pairs.iter().map(|&i| self.discrete[i] as i32).collect();
        let actions = TensorData::new(actions, [pairs.len(), 1]);
        let actions = Tensor::<_, 2, Int>::from_data(actions, &device);
        let likelihood = activation::log_softmax(predicted, 1);
        // The mean over all actions is the cross-entropy with a uniform target.
        let uniform = likelihood.clone().mean() * self.smoothing;
        (likelihood.gather(1, actions).mean() * (1.0 - self.smoothing) + uniform).neg()
    }
}

/// Returns the negative log-likelihood of normalised actions, in nats per axis, up to a constant.
///
/// # Shapes
/// - `predicted`: `[pair, 2 * axis]`
/// - `action`: `[pair, axis]`
fn gaussian_loss(predicted: Tensor<Train, 2>, action: Tensor<Train, 2>) -> Tensor<Train, 1> {
    let axes = action.dims()[1];
    let mean = predicted.clone().narrow(1, 0, axes);
    let variance = (predicted.narrow(1, axes, axes) * 2.0).exp() + LEAST_VARIANCE;
    (((mean - action).square() / variance.clone() + variance.log()) * 0.5).mean()
}

#[cfg(test)]
#[expect(clippy::unwrap_used, reason = "a test fails by panicking")]
mod tests {
    use super::*;

    const SETTINGS: FitSettings = FitSettings {
        hidden: Vec::new(),
        steps: 1200,
        batch: 64,
        learning_rate: 1e-2,
        label_smoothing: 0.0,
        stop: None,
    };

    /// Points far from zero, with very different deviations in the two columns.
    fn latents(count: usize, seed: u64) -> Vec<f32> {
        let mut rng = ChaCha8Rng::seed_from_u64(seed);
        (0..count)
            .flat_map(|_| [40.0 + rng.random_range(-1.0..1.0), rng.random_range(-0.01..0.01)])
            .collect()
    }

    #[test]
    fn continuous_actions_are_decoded_and_survive_an_export() {
        let action = |row: &[f32]| [3.0 * (row[0] - 40.0) + 7.0, 100.0 * row[1] - 2.0];
        let pairs = |seed| {
            let latent_action = latents(300, seed);
            let numbers = latent_action.chunks_exact(2).flat_map(action).collect();
            Pairs { latent_action, action: TrueActions::Continuous(numbers, 2) }
        };
        let known = pairs(1);
        let held_out = pairs(2);
        let config = DecoderConfig {
            latent_dim: 2,
            hidden: vec![],
            outputs: Outputs::Continuous { axes: 2 },
        };
        let decoder =
            fit(&config, &SETTINGS, &known, &ColumnStats::of(&known.latent_action, 2), 0).unwrap();
        let TrueActions::Continuous(right, _) = &held_out.action else {
            unreachable!("they are continuous")
        };
        for (predicted, right) in decoder.decode(&held_out.latent_action).unwrap().iter().zip(right)
        {
            assert!((predicted - right).abs() < 0.05, "{predicted} for {right}");
        }
        let again = LoadedDecoder::load(&decoder.export().unwrap()).unwrap();
        assert_eq!(
            again.decode(&held_out.latent_action).unwrap(),
            decoder.decode(&held_out.latent_action).unwrap()
        );
    }

    /// Returns pairs of latent actions and noisy actions, whose mean and deviation follow from the
    /// latent action, with means and deviations.
    fn noisy_pairs(count: usize, noise: f64, seed: u64) -> (Pairs, Vec<[f32; 2]>) {
        let latent_action = latents(count, seed);
        let distributions: Vec<[f32; 2]> = latent_action
            .chunks_exact(2)
            .map(|row| [50.0 + 8.0 * (row[0] - 40.0), (100.0 * row[1]).exp()])
            .collect();
        let mut rng = ChaCha8Rng::seed_from_u64(seed + 100);
        // The sum of twelve uniform numbers has variance 1.
        let mut normal = || (0..12).map(|_| rng.random_range(-0.5..0.5)).sum::<f64>();
        let numbers = distributions
            .iter()
            .map(|[mean, deviation]| mean + (noise * normal()) as f32 * deviation)
            .collect();
        (Pairs { latent_action, action: TrueActions::Continuous(numbers, 1) }, distributions)
    }

    /// Trains a Gaussian decoder and returns its outputs for other latent actions, with their true
    /// means and deviations.
    fn gaussian(noise: f64) -> Vec<([f32; 2], [f32; 2])> {
        let (known, _) = noisy_pairs(3000, noise, 1);
        let (held_out, right) = noisy_pairs(300, noise, 2);
        let config =
            DecoderConfig { latent_dim: 2, hidden: vec![], outputs: Outputs::Gaussian { axes: 1 } };
        let stats = ColumnStats::of(&known.latent_action, 2);
        let decoder = fit(&config, &SETTINGS, &known, &stats, 0).unwrap();
        let again = LoadedDecoder::load(&decoder.export().unwrap()).unwrap();
        assert_eq!(again.config, config);
        let outputs = again.decode(&held_out.latent_action).unwrap();
        assert_eq!(config.outputs.without_deviations(outputs.clone()).len(), 300);
        outputs.chunks_exact(2).map(|row| [row[0], row[1].exp()]).zip(right).collect()
    }

    #[test]
    fn a_gaussian_decoder_predicts_the_mean_and_deviation_of_noisy_actions() {
        for ([mean, deviation], [right_mean, right_deviation]) in gaussian(1.0) {
            assert!((mean - right_mean).abs() < 0.2, "{mean} for {right_mean}");
            let ratio = deviation / right_deviation;
            assert!((0.85..1.18).contains(&ratio), "{deviation} for {right_deviation}");
        }
    }

    #[test]
    fn a_gaussian_decoder_of_exact_actions_stays_finite() {
        for ([mean, deviation], [right, _]) in gaussian(0.0) {
            assert!((mean - right).abs() < 0.5 && deviation < 0.5, "{mean} {deviation}, {right}");
        }
    }

    #[test]
    fn a_few_pairs_suffice_for_well_separated_discrete_actions() {
        let pairs = |count, seed| {
            let latent_action = latents(count, seed);
            let action = latent_action
                .chunks_exact(2)
                .map(|row| u32::from(row[0] > 40.0) + 2 * u32::from(row[1] > 0.0))
                .collect();
            Pairs { latent_action, action: TrueActions::Discrete(action) }
        };
        let known = pairs(64, 1);
        let held_out = pairs(500, 2);
        let config = DecoderConfig {
            latent_dim: 2,
            hidden: vec![32],
            outputs: Outputs::Discrete { actions: 4 },
        };
        let decoder =
            fit(&config, &SETTINGS, &known, &ColumnStats::of(&latents(1000, 3), 2), 0).unwrap();
        let predicted = decoder.decode(&held_out.latent_action).unwrap();
        let best = |row: &[f32]| (0..4).max_by(|&a, &b| row[a].total_cmp(&row[b])).unwrap() as u32;
        let TrueActions::Discrete(right) = &held_out.action else {
            unreachable!("they are discrete")
        };
        let right = predicted
            .chunks_exact(4)
            .map(best)
            .zip(right)
            .filter(|(predicted, right)| predicted == *right)
            .count();
        assert!(right > 450, "{right} of 500");
    }
}
