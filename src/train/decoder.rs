//! Offline decoding (LAPO, section 4.4): trains a decoder from latent to true actions.
//!
//! Start at [`fit`]. All pairs are in memory: a decoder learns from a few thousand at most.

use burn::backend::{Autodiff, Flex};
use burn::module::AutodiffModule;
use burn::tensor::{Int, Tensor, TensorData, activation};
use rand::Rng;
use rand::SeedableRng;
use rand_chacha::ChaCha8Rng;

use super::optim::{Flat, OptimConfig, Optimizer, gradients};
use super::{
    Judgement, Learner, NoProgress, Result, Selection, Step, Stop, TrainError, TrainingLoop,
};
use crate::models::decoder::Decoder;
use crate::models::init::Init;
use crate::models::weights::{Weights, to_host};
use crate::models::{DecoderConfig, LoadedDecoder, Outputs};

/// One in this many pairs is held out.
const HOLD_OUT: usize = 10;
/// With fewer pairs than this none is held out: too few would be left to judge by.
const HOLD_OUT_FROM: usize = 2048;
/// Steps between two judgements on held-out pairs.
const JUDGE_EVERY: u64 = 50;

/// True actions, one for each latent action.
#[derive(Clone, Debug, PartialEq)]
pub enum Answers {
    /// Numbers of actions: `[pair]`
    Discrete(Vec<u32>),
    /// `[pair, axis]`, and the number of axes.
    Continuous(Vec<f32>, usize),
}

/// Latent actions and the true actions that they stand for.
#[derive(Clone, Debug, PartialEq)]
pub struct Pairs {
    /// `[pair, latent_dim]`
    pub latent_action: Vec<f32>,
    /// The true actions.
    pub action: Answers,
}

impl Pairs {
    /// Returns the number of pairs.
    pub fn len(&self) -> usize {
        match &self.action {
            Answers::Discrete(actions) => actions.len(),
            Answers::Continuous(numbers, axes) => numbers.len() / axes,
        }
    }

    /// Returns whether there is no pair.
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// Returns some of the pairs, in the given order.
    #[must_use]
    pub fn take(&self, at: &[usize]) -> Pairs {
        let rows = |values: &[f32], width: usize| {
            at.iter().flat_map(|&i| values[i * width..][..width].iter().copied()).collect()
        };
        let action = match &self.action {
            Answers::Discrete(actions) => {
                Answers::Discrete(at.iter().map(|&i| actions[i]).collect())
            }
            Answers::Continuous(numbers, axes) => Answers::Continuous(rows(numbers, *axes), *axes),
        };
        Pairs {
            latent_action: rows(&self.latent_action, self.latent_action.len() / self.len().max(1)),
            action,
        }
    }
}

/// How to train a decoder.
#[derive(Clone, Debug)]
pub struct Fit {
    /// Width of each hidden layer.
    pub hidden: Vec<usize>,
    /// Steps of gradient descent.
    pub steps: u64,
    /// Pairs a step.
    pub batch: usize,
    /// Adam's learning rate at the start; it falls to 0.
    pub learning_rate: f64,
    /// Share of the likelihood that is spread evenly over all actions.
    pub label_smoothing: f64,
    /// Ends the training early with [`TrainError::Stopped`]. Default `None`: the training is too short to be worth it.
    pub stop: Option<Stop>,
}

/// Mean and standard deviation of each column.
#[derive(Clone, Debug, PartialEq)]
pub struct Spread {
    mean: Vec<f32>,
    deviation: Vec<f32>,
}

/// Running sums of a [`Spread`].
#[derive(Clone, Debug, Default)]
pub struct Sums {
    count: f64,
    /// The sums of values and of their squares, for each column.
    columns: Vec<[f64; 2]>,
}

impl Sums {
    /// Adds rows of `width` numbers.
    pub fn add(&mut self, rows: &[f32], width: usize) {
        self.columns.resize(width, [0.0; 2]);
        for row in rows.chunks_exact(width) {
            self.count += 1.0;
            for (value, [sum, squares]) in row.iter().zip(&mut self.columns) {
                *sum += f64::from(*value);
                *squares += f64::from(*value) * f64::from(*value);
            }
        }
    }

    /// Returns the mean and standard deviation of all added rows.
    pub fn spread(&self) -> Spread {
        let mean = |sum: f64| sum / self.count.max(1.0);
        let deviation = |[sum, squares]: &[f64; 2]| {
            (mean(*squares) - mean(*sum).powi(2)).max(0.0).sqrt() as f32 + 1e-6
        };
        Spread {
            mean: self.columns.iter().map(|[sum, _]| mean(*sum) as f32).collect(),
            deviation: self.columns.iter().map(deviation).collect(),
        }
    }
}

impl Spread {
    /// Computes the spread of rows of `width` numbers.
    pub fn of(rows: &[f32], width: usize) -> Spread {
        let mut sums = Sums::default();
        sums.add(rows, width);
        sums.spread()
    }

    fn normalise(&self, rows: &[f32]) -> Vec<f32> {
        let columns = self.mean.iter().zip(&self.deviation);
        rows.iter()
            .zip(columns.cycle())
            .map(|(value, (mean, deviation))| (value - mean) / deviation)
            .collect()
    }
}

type Train = Autodiff<Flex>;

/// The metric by which the best decoder is selected.
const HELD_OUT_LOSS: &str = "held_out_loss";

/// Trains a decoder on at least one pair, in random order.
///
/// Latent actions are normalised with `spread`, computed over all latent actions, labelled or not;
/// the normalisation is folded into the decoder. From [`HOLD_OUT_FROM`] pairs on, one in
/// [`HOLD_OUT`] is held out, and the decoder is the one with the lowest loss on these.
pub fn fit(
    config: &DecoderConfig,
    how: &Fit,
    pairs: &Pairs,
    spread: &Spread,
    seed: u64,
) -> Result<LoadedDecoder> {
    let target_spread = match &pairs.action {
        Answers::Continuous(numbers, axes) => Some(Spread::of(numbers, *axes)),
        Answers::Discrete(_) => None,
    };
    let mut learner = DecoderLearner::new(config, how, pairs, spread, target_spread.as_ref(), seed);
    let training = TrainingLoop {
        steps: how.steps,
        units: 1,
        log_every: how.steps,
        selection: Selection::Best { column: HELD_OUT_LOSS, patience: None },
        checkpoints: None,
        continued: None,
        stop: how.stop.as_ref(),
        progress: &NoProgress,
    };
    training.run(&mut learner)?;
    let device = Default::default();
    let mut net = learner.net.valid().after_normalising(&spread.mean, &spread.deviation, &device);
    if let Some(spread) = &target_spread {
        net = net.before_scaling(&spread.mean, &spread.deviation, &device);
    }
    Ok(LoadedDecoder::new(config.clone(), net))
}

/// A decoder and the pairs that it learns from.
struct DecoderLearner<'a> {
    config: &'a DecoderConfig,
    how: &'a Fit,
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
        how: &'a Fit,
        pairs: &'a Pairs,
        spread: &Spread,
        target_spread: Option<&Spread>,
        seed: u64,
    ) -> Self {
        let is_held_out = |i: &usize| pairs.len() >= HOLD_OUT_FROM && i % HOLD_OUT == HOLD_OUT - 1;
        let (held_out, training) = (0..pairs.len()).partition(is_held_out);
        DecoderLearner {
            config,
            how,
            latent_action: spread.normalise(&pairs.latent_action),
            targets: Targets::new(
                &pairs.action,
                config.outputs,
                how.label_smoothing,
                target_spread,
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
        let dim = self.config.latent_dim;
        let rows = pairs.iter().flat_map(|&i| &self.latent_action[i * dim..][..dim]);
        let rows = TensorData::new(rows.copied().collect(), [pairs.len(), dim]);
        let input = Tensor::<Flex, 2>::from_data(rows, &Default::default());
        self.targets.loss(self.net.forward(Tensor::from_inner(input)), pairs)
    }
}

impl Learner for DecoderLearner<'_> {
    type Error = TrainError;

    fn step(&mut self, step: u64) -> Result<Step> {
        let drawn: Vec<usize> = (0..self.how.batch)
            .map(|_| self.training[self.rng.random_range(0..self.training.len())])
            .collect();
        let loss = self.loss(&drawn);
        let mut all = Flat::new();
        gradients("decoder", &self.net, &loss.backward(), &mut all);
        let mut optimizer_step = self.optimizer.begin(all);
        let host = to_host(Tensor::cat(vec![loss.inner(), optimizer_step.norm.clone()], 0))?;
        for (what, &seen) in ["loss", "gradient norm"].into_iter().zip(&host) {
            if !seen.is_finite() {
                return Ok(Step::Skipped { what, seen });
            }
        }
        let learning_rate = self.how.learning_rate * (1.0 - step as f64 / self.how.steps as f64);
        self.net =
            self.optimizer.apply(&mut optimizer_step, "decoder", learning_rate, self.net.clone());
        Ok(Step::Taken { row: vec![("loss".to_owned(), host[0])], note: String::new() })
    }

    fn is_judged(&self, taken: u64) -> bool {
        !self.held_out.is_empty() && (taken.is_multiple_of(JUDGE_EVERY) || taken == self.how.steps)
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
struct Targets<'a> {
    discrete: &'a [u32],
    /// `[pair, axis]`, normalised.
    continuous: Vec<f32>,
    axes: usize,
    smoothing: f64,
}

impl<'a> Targets<'a> {
    fn new(
        answers: &'a Answers,
        outputs: Outputs,
        smoothing: f64,
        spread: Option<&Spread>,
    ) -> Self {
        let (discrete, continuous): (&[u32], _) = match (answers, spread) {
            (Answers::Discrete(discrete), _) => (discrete, vec![]),
            (Answers::Continuous(numbers, _), Some(spread)) => (&[], spread.normalise(numbers)),
            (Answers::Continuous(numbers, _), None) => (&[], numbers.clone()),
        };
        Targets { discrete, continuous, axes: outputs.width(), smoothing }
    }

    /// Returns the cross-entropy, or the mean squared error of continuous actions.
    ///
    /// # Shapes
    /// - `predicted`: `[pair, width]`
    fn loss(&self, predicted: Tensor<Train, 2>, pairs: &[usize]) -> Tensor<Train, 1> {
        let device = predicted.device();
        if self.discrete.is_empty() {
            let rows = pairs.iter().flat_map(|&i| &self.continuous[i * self.axes..][..self.axes]);
            let rows = TensorData::new(rows.copied().collect(), [pairs.len(), self.axes]);
            let difference = predicted - Tensor::from_data(rows, &device);
            return (difference.clone() * difference).mean();
        }
        let actions = pairs.iter().map(|&i| self.discrete[i] as i32).collect();
        let actions = TensorData::new(actions, [pairs.len(), 1]);
        let actions = Tensor::<_, 2, Int>::from_data(actions, &device);
        let likelihood = activation::log_softmax(predicted, 1);
        let everywhere = likelihood.clone().mean() * self.smoothing;
        (likelihood.gather(1, actions).mean() * (1.0 - self.smoothing) + everywhere).neg()
    }
}

#[cfg(test)]
#[expect(clippy::unwrap_used, reason = "a test fails by panicking")]
mod tests {
    use super::*;

    const HOW: Fit = Fit {
        hidden: Vec::new(),
        steps: 1200,
        batch: 64,
        learning_rate: 1e-2,
        label_smoothing: 0.0,
        stop: None,
    };

    /// Points far from zero, of very different spreads.
    fn latents(count: usize, seed: u64) -> Vec<f32> {
        let mut rng = ChaCha8Rng::seed_from_u64(seed);
        (0..count)
            .flat_map(|_| [40.0 + rng.random_range(-1.0..1.0), rng.random_range(-0.01..0.01)])
            .collect()
    }

    #[test]
    fn a_linear_continuous_action_is_decoded() {
        let answer = |row: &[f32]| [3.0 * (row[0] - 40.0) + 7.0, 100.0 * row[1] - 2.0];
        let pairs = |seed| {
            let latent_action = latents(300, seed);
            let numbers = latent_action.chunks_exact(2).flat_map(answer).collect();
            Pairs { latent_action, action: Answers::Continuous(numbers, 2) }
        };
        let (known, held_out) = (pairs(1), pairs(2));
        let config = DecoderConfig {
            latent_dim: 2,
            hidden: vec![],
            outputs: Outputs::Continuous { axes: 2 },
        };
        let decoder = fit(&config, &HOW, &known, &Spread::of(&known.latent_action, 2), 0).unwrap();
        let Answers::Continuous(right, _) = &held_out.action else {
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

    #[test]
    fn a_few_pairs_suffice_for_well_separated_discrete_actions() {
        let pairs = |count, seed| {
            let latent_action = latents(count, seed);
            let action = latent_action
                .chunks_exact(2)
                .map(|row| u32::from(row[0] > 40.0) + 2 * u32::from(row[1] > 0.0))
                .collect();
            Pairs { latent_action, action: Answers::Discrete(action) }
        };
        let (known, held_out) = (pairs(64, 1), pairs(500, 2));
        let config = DecoderConfig {
            latent_dim: 2,
            hidden: vec![32],
            outputs: Outputs::Discrete { actions: 4 },
        };
        let decoder = fit(&config, &HOW, &known, &Spread::of(&latents(1000, 3), 2), 0).unwrap();
        let predicted = decoder.decode(&held_out.latent_action).unwrap();
        let best = |row: &[f32]| (0..4).max_by(|&a, &b| row[a].total_cmp(&row[b])).unwrap() as u32;
        let Answers::Discrete(right) = &held_out.action else { unreachable!("they are discrete") };
        let right = predicted
            .chunks_exact(4)
            .map(best)
            .zip(right)
            .filter(|(predicted, right)| predicted == *right)
            .count();
        assert!(right > 450, "{right} of 500");
    }
}
