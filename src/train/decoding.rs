//! Offline decoding (LAPO, section 4.4): latent actions and the true ones they stand for go in, a decoder comes out.
//!
//! [`fit`] is all of it. Everything is held in memory: a decoder learns from a few thousand pairs at most.

use burn::backend::{Autodiff, Flex};
use burn::module::AutodiffModule;
use burn::tensor::{Int, Tensor, TensorData, activation};
use rand::Rng;
use rand::SeedableRng;
use rand_chacha::ChaCha8Rng;

use super::optim::{Flat, OptimConfig, Optimizer, gradients};
use super::{Result, Stop, TrainError};
use crate::models::decoder::Decoder;
use crate::models::init::Init;
use crate::models::{DecoderConfig, LoadedDecoder, Outputs};

/// One in so many pairs is kept aside, where there are enough of them to tell, and asked every so many steps.
const ASIDE: usize = 10;
const ENOUGH: usize = 2048;
const LOOK_EVERY: u64 = 50;

/// True actions, one for each latent action.
#[derive(Clone, Debug, PartialEq)]
pub enum Answers {
    /// Numbers of actions: `[pair]`
    Discrete(Vec<u32>),
    /// `[pair, axis]`, and how many axes there are.
    Continuous(Vec<f32>, usize),
}

/// Latent actions and what was truly done.
#[derive(Clone, Debug, PartialEq)]
pub struct Pairs {
    /// `[pair, latent_dim]`
    pub latent_action: Vec<f32>,
    /// What was done.
    pub action: Answers,
}

impl Pairs {
    /// How many pairs there are.
    pub fn len(&self) -> usize {
        match &self.action {
            Answers::Discrete(actions) => actions.len(),
            Answers::Continuous(numbers, axes) => numbers.len() / axes,
        }
    }

    /// Whether there is none.
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// Some of the pairs, in the order asked for.
    #[must_use]
    pub fn take(&self, places: &[usize]) -> Pairs {
        let rows = |values: &[f32], width: usize| {
            places.iter().flat_map(|&i| values[i * width..][..width].iter().copied()).collect()
        };
        let action = match &self.action {
            Answers::Discrete(actions) => {
                Answers::Discrete(places.iter().map(|&i| actions[i]).collect())
            }
            Answers::Continuous(numbers, axes) => Answers::Continuous(rows(numbers, *axes), *axes),
        };
        Pairs {
            latent_action: rows(&self.latent_action, self.latent_action.len() / self.len().max(1)),
            action,
        }
    }
}

/// How a decoder learns.
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
    /// Share of the likelihood that is spread over all actions.
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

/// Sums that a [`Spread`] is made of.
#[derive(Clone, Debug, Default)]
pub struct Sums {
    count: f64,
    /// Of values and of their squares, a column each.
    columns: Vec<[f64; 2]>,
}

impl Sums {
    /// Takes in rows of `width` numbers.
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

    /// Mean and standard deviation of what was taken in.
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
    /// Of rows of `width` numbers.
    pub fn of(rows: &[f32], width: usize) -> Spread {
        let mut sums = Sums::default();
        sums.add(rows, width);
        sums.spread()
    }

    fn normal(&self, rows: &[f32]) -> Vec<f32> {
        let columns = self.mean.iter().zip(&self.deviation);
        rows.iter()
            .zip(columns.cycle())
            .map(|(value, (mean, deviation))| (value - mean) / deviation)
            .collect()
    }
}

type Train = Autodiff<Flex>;

/// Trains a decoder on `known` pairs, of which there is at least one. Latent actions are normalised by `spread`, that of as many as there
/// are, labelled or not; the decoder does so itself. Of `ENOUGH` pairs or more every tenth is kept aside, and the decoder is taken as it
/// was when it was best on these; `known` is in random order.
pub fn fit(
    config: &DecoderConfig,
    how: &Fit,
    known: &Pairs,
    spread: &Spread,
    seed: u64,
) -> Result<LoadedDecoder> {
    let device = Default::default();
    let latents = spread.normal(&known.latent_action);
    let answers_spread = match &known.action {
        Answers::Continuous(numbers, axes) => Some(Spread::of(numbers, *axes)),
        Answers::Discrete(_) => None,
    };
    let right =
        Right::new(&known.action, config.outputs, how.label_smoothing, answers_spread.as_ref());
    let is_aside = |i: &usize| known.len() >= ENOUGH && i % ASIDE == ASIDE - 1;
    let (aside, learnt): (Vec<usize>, Vec<usize>) = (0..known.len()).partition(is_aside);
    let rows = |places: &[usize]| -> Tensor<Flex, 2> {
        let rows = places
            .iter()
            .flat_map(|&i| latents[i * config.latent_dim..][..config.latent_dim].iter().copied())
            .collect();
        Tensor::from_data(TensorData::new(rows, [places.len(), config.latent_dim]), &device)
    };

    let mut net = Decoder::<Train>::new(&mut Init::new(seed, &device), config);
    let (mut optimizer, mut rng) =
        (Optimizer::new(OptimConfig::default()), ChaCha8Rng::seed_from_u64(seed));
    let mut best: Option<(f32, Decoder<Flex>)> = None;
    for step in 1..=how.steps {
        if let Some(signal) = how.stop.as_ref().and_then(Stop::signal) {
            return Err(TrainError::Stopped(signal));
        }
        let drawn: Vec<usize> =
            (0..how.batch).map(|_| learnt[rng.random_range(0..learnt.len())]).collect();
        let loss = right.loss(net.forward(Tensor::from_inner(rows(&drawn))), &drawn);
        let mut all = Flat::new();
        gradients("decoder", &net, &loss.backward(), &mut all);
        let mut moved = optimizer.begin(all);
        let learning_rate = how.learning_rate * (1.0 - (step - 1) as f64 / how.steps as f64);
        net = optimizer.apply(&mut moved, "decoder", learning_rate, net);
        if !aside.is_empty() && (step % LOOK_EVERY == 0 || step == how.steps) {
            let off =
                right.loss(net.forward(Tensor::from_inner(rows(&aside))), &aside).into_scalar();
            if best.as_ref().is_none_or(|(least, _)| off < *least) {
                best = Some((off, net.valid()));
            }
        }
    }
    let mut net = best.map_or_else(|| net.valid(), |(_, net)| net).after_normalising(
        &spread.mean,
        &spread.deviation,
        &device,
    );
    if let Some(spread) = &answers_spread {
        net = net.before_scaling(&spread.mean, &spread.deviation, &device);
    }
    Ok(LoadedDecoder::new(config.clone(), net))
}

/// The right answers, as the loss takes them.
struct Right<'a> {
    discrete: &'a [u32],
    /// Normalised.
    continuous: Vec<f32>,
    axes: usize,
    smoothing: f64,
}

impl<'a> Right<'a> {
    fn new(
        answers: &'a Answers,
        outputs: Outputs,
        smoothing: f64,
        spread: Option<&Spread>,
    ) -> Self {
        let axes = outputs.width();
        match (answers, spread) {
            (Answers::Continuous(numbers, _), Some(spread)) => {
                Right { discrete: &[], continuous: spread.normal(numbers), axes, smoothing }
            }
            (Answers::Discrete(discrete), _) => {
                Right { discrete, continuous: vec![], axes, smoothing }
            }
            (Answers::Continuous(numbers, _), None) => {
                Right { discrete: &[], continuous: numbers.clone(), axes, smoothing }
            }
        }
    }

    /// Cross-entropy, or mean squared error.
    fn loss(&self, told: Tensor<Train, 2>, places: &[usize]) -> Tensor<Train, 1> {
        let device = told.device();
        if self.discrete.is_empty() {
            let right = places
                .iter()
                .flat_map(|&i| self.continuous[i * self.axes..][..self.axes].iter().copied())
                .collect();
            let off = told
                - Tensor::from_data(TensorData::new(right, [places.len(), self.axes]), &device);
            return (off.clone() * off).mean();
        }
        let right = places.iter().map(|&i| self.discrete[i] as i32).collect();
        let right =
            Tensor::<_, 2, Int>::from_data(TensorData::new(right, [places.len(), 1]), &device);
        let likelihood = activation::log_softmax(told, 1);
        let everywhere = likelihood.clone().mean() * self.smoothing;
        (likelihood.gather(1, right).mean() * (1.0 - self.smoothing) + everywhere).neg()
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
    fn a_continuous_action_that_is_a_line_of_the_latents_comes_back() {
        let answer = |row: &[f32]| [3.0 * (row[0] - 40.0) + 7.0, 100.0 * row[1] - 2.0];
        let pairs = |seed| {
            let latent_action = latents(300, seed);
            let numbers = latent_action.chunks_exact(2).flat_map(answer).collect();
            Pairs { latent_action, action: Answers::Continuous(numbers, 2) }
        };
        let (known, asked) = (pairs(1), pairs(2));
        let config = DecoderConfig {
            latent_dim: 2,
            hidden: vec![],
            outputs: Outputs::Continuous { axes: 2 },
        };
        let decoder = fit(&config, &HOW, &known, &Spread::of(&known.latent_action, 2), 0).unwrap();
        let Answers::Continuous(right, _) = &asked.action else {
            unreachable!("they are continuous")
        };
        for (told, right) in decoder.decode(&asked.latent_action).unwrap().iter().zip(right) {
            assert!((told - right).abs() < 0.05, "{told} for {right}");
        }
        let again = LoadedDecoder::load(&decoder.export().unwrap()).unwrap();
        assert_eq!(
            again.decode(&asked.latent_action).unwrap(),
            decoder.decode(&asked.latent_action).unwrap()
        );
    }

    #[test]
    fn a_few_pairs_are_enough_for_discrete_actions_that_lie_apart() {
        let pairs = |count, seed| {
            let latent_action = latents(count, seed);
            let action = latent_action
                .chunks_exact(2)
                .map(|row| u32::from(row[0] > 40.0) + 2 * u32::from(row[1] > 0.0))
                .collect();
            Pairs { latent_action, action: Answers::Discrete(action) }
        };
        let (known, asked) = (pairs(64, 1), pairs(500, 2));
        let config = DecoderConfig {
            latent_dim: 2,
            hidden: vec![32],
            outputs: Outputs::Discrete { actions: 4 },
        };
        let decoder = fit(&config, &HOW, &known, &Spread::of(&latents(1000, 3), 2), 0).unwrap();
        let told = decoder.decode(&asked.latent_action).unwrap();
        let best = |row: &[f32]| (0..4).max_by(|&a, &b| row[a].total_cmp(&row[b])).unwrap() as u32;
        let Answers::Discrete(right) = &asked.action else { unreachable!("they are discrete") };
        let right = told
            .chunks_exact(4)
            .map(best)
            .zip(right)
            .filter(|(told, right)| told == *right)
            .count();
        assert!(right > 450, "{right} of 500");
    }
}
