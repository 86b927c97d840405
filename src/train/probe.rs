//! How much of the true action a latent action tells: pairs go in, what a small classifier makes of other pairs comes out.
//!
//! The classifier sees what the bottleneck hides from nobody: latent actions before quantisation. Start at [`classify`].

use burn::backend::{Autodiff, Flex};
use burn::module::{AutodiffModule, Module};
use burn::tensor::backend::Backend;
use burn::tensor::{Int, Tensor, TensorData, activation};
use rand::Rng;
use rand::SeedableRng;
use rand_chacha::ChaCha8Rng;

use super::Result;
use super::adam::{Adam, Flat, OptimConfig, gradients};
use crate::models::init::Init;
use crate::models::layers::{Linear, NetBackend, relu};
use crate::models::weights::to_host;

/// Pairs a step, and steps: enough for either classifier to stop improving on some ten thousand pairs.
const BATCH: usize = 256;
const STEPS: u64 = 600;
/// One in so many pairs is kept aside, and asked every so many steps.
const ASIDE: usize = 10;
const LOOK_EVERY: u64 = 50;
/// Width of each hidden layer, as in the paper's probe.
const HIDDEN: usize = 128;

/// Latent actions and what was truly done.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Pairs {
    /// `[pair, latent_dim]`
    pub latent_action: Vec<f32>,
    /// `[pair]`
    pub action: Vec<u32>,
}

impl Pairs {
    /// How many pairs there are.
    pub fn len(&self) -> usize {
        self.action.len()
    }

    /// Whether there is none.
    pub fn is_empty(&self) -> bool {
        self.action.is_empty()
    }

    fn latent_dim(&self) -> usize {
        self.latent_action.len() / self.len().max(1)
    }
}

/// What decides.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Classifier {
    /// One linear layer.
    Linear,
    /// Two hidden layers of 128, as in the paper.
    Mlp,
}

/// Trains a classifier on `known` pairs; returns the action it tells from each latent action of `asked`. Neither may be empty, and `known`
/// is in random order: every tenth of it is kept aside, and the classifier is taken as it was when it told these best.
pub fn classify(classifier: Classifier, known: &Pairs, asked: &Pairs, seed: u64) -> Result<Vec<u32>> {
    let device = Default::default();
    let (dim, actions) = (known.latent_dim(), known.action.iter().max().map_or(1, |most| *most as usize + 1));
    let (mean, deviation) = spread(known);
    let normal = |pairs: &Pairs| -> Vec<f32> {
        let rows = pairs.latent_action.chunks_exact(dim);
        rows.flat_map(|row| row.iter().zip(mean.iter().zip(&deviation)).map(|(v, (mean, deviation))| (v - mean) / deviation)).collect()
    };
    let (latents, mut rng) = (normal(known), ChaCha8Rng::seed_from_u64(seed));
    let (aside, learnt): (Vec<usize>, Vec<usize>) = (0..known.len()).partition(|i| i % ASIDE == ASIDE - 1);
    let rows = |places: &[usize]| -> Tensor<Flex, 2> {
        let rows = places.iter().flat_map(|&i| latents[i * dim..][..dim].iter().copied()).collect();
        Tensor::from_data(TensorData::new(rows, [places.len(), dim]), &device)
    };
    let asked = Tensor::from_data(TensorData::new(normal(asked), [asked.len(), dim]), &device);

    let mut net = Net::<Autodiff<Flex>>::new(&mut Init::new(seed, &device), classifier, dim, actions);
    let learning_rate = if classifier == Classifier::Linear { 1e-2 } else { 1e-3 };
    let mut adam = Adam::new(OptimConfig::default());
    let (mut best, mut told) = (None, Vec::new());
    for step in 1..=STEPS {
        let drawn: Vec<usize> = (0..BATCH).map(|_| learnt[rng.random_range(0..learnt.len())]).collect();
        let right = drawn.iter().map(|&i| known.action[i] as i32).collect();
        let right = Tensor::<_, 2, Int>::from_data(TensorData::new(right, [BATCH, 1]), &device);
        let loss = activation::log_softmax(net.forward(Tensor::from_inner(rows(&drawn))), 1).gather(1, right).mean().neg();
        let mut all = Flat::new();
        gradients("probe", &net, &loss.backward(), &mut all);
        let mut moved = adam.begin(all);
        net = adam.apply(&mut moved, "probe", learning_rate, net);
        if step % LOOK_EVERY == 0 || step == STEPS {
            let net = net.valid();
            let right = tells(&net, rows(&aside))?.iter().zip(&aside).filter(|(told, i)| **told == known.action[**i]).count();
            if best.is_none_or(|best| right > best) || aside.is_empty() {
                (best, told) = (Some(right), tells(&net, asked.clone())?);
            }
        }
    }
    Ok(told)
}

/// The action a classifier tells from each row.
fn tells(net: &Net<Flex>, latents: Tensor<Flex, 2>) -> Result<Vec<u32>> {
    if latents.dims()[0] == 0 {
        return Ok(Vec::new());
    }
    let scores = net.forward(latents);
    let [_, actions] = scores.dims();
    let best = |row: &[f32]| (0..row.len()).max_by(|&a, &b| row[a].total_cmp(&row[b])).unwrap_or(0) as u32;
    Ok(to_host(scores)?.chunks_exact(actions).map(best).collect())
}

/// Mean and standard deviation of each number of the latent actions.
fn spread(pairs: &Pairs) -> (Vec<f32>, Vec<f32>) {
    let (dim, count) = (pairs.latent_dim(), pairs.len() as f32);
    let mean_of = |f: &dyn Fn(usize, f32) -> f32| -> Vec<f32> {
        let mut sums = vec![0.0; dim];
        pairs.latent_action.chunks_exact(dim).for_each(|row| (0..dim).for_each(|i| sums[i] += f(i, row[i])));
        sums.into_iter().map(|sum| sum / count).collect()
    };
    let mean = mean_of(&|_, v| v);
    let deviation = mean_of(&|i, v| (v - mean[i]) * (v - mean[i])).into_iter().map(|v| v.sqrt() + 1e-6).collect();
    (mean, deviation)
}

#[derive(Module, Debug)]
struct Net<B: Backend> {
    layers: Vec<Linear<B>>,
}

impl<B: NetBackend> Net<B> {
    fn new(init: &mut Init<'_, B>, classifier: Classifier, dim: usize, actions: usize) -> Self {
        let widths = match classifier {
            Classifier::Linear => vec![dim, actions],
            Classifier::Mlp => vec![dim, HIDDEN, HIDDEN, actions],
        };
        Net { layers: widths.windows(2).map(|pair| Linear::new(init, pair[0], pair[1])).collect() }
    }

    fn forward(&self, x: Tensor<B, 2>) -> Tensor<B, 2> {
        let (first, rest) = self.layers.split_first().expect("there is at least one layer");
        rest.iter().fold(first.forward(x), |x, layer| layer.forward(relu(x)))
    }
}

#[cfg(test)]
#[expect(clippy::unwrap_used, reason = "a test fails by panicking")]
mod tests {
    use super::*;

    /// Points of the plane; the action is their quadrant's number, or its parity, which no line tells.
    fn pairs(count: usize, seed: u64, action: impl Fn(u32) -> u32) -> Pairs {
        let mut rng = ChaCha8Rng::seed_from_u64(seed);
        let latent_action: Vec<f32> = (0..2 * count).map(|_| rng.random_range(-1.0..1.0)).collect();
        let quadrant = |row: &[f32]| u32::from(row[0] > 0.0) + 2 * u32::from(row[1] > 0.0);
        let action = latent_action.chunks_exact(2).map(|row| action(quadrant(row))).collect();
        Pairs { latent_action, action }
    }

    #[test]
    fn lines_tell_quadrants_and_only_hidden_layers_their_parity() {
        let run = |classifier, action: fn(u32) -> u32| {
            let asked = pairs(500, 2, action);
            let told = classify(classifier, &pairs(2000, 1, action), &asked, 0).unwrap();
            told.iter().zip(&asked.action).filter(|(told, action)| told == action).count() as f64 / 500.0
        };
        let parity = |quadrant| u32::from(quadrant == 0 || quadrant == 3);
        assert!(run(Classifier::Linear, |quadrant| quadrant) > 0.95);
        assert!(run(Classifier::Mlp, parity) > 0.95);
        assert!(run(Classifier::Linear, parity) < 0.7);
    }
}
