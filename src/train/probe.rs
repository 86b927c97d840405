//! Probes: how well small networks predict true actions from latent ones.
//!
//! A probe sees latent actions before quantisation, so it measures the information in the IDM's
//! output, not in the codes. Start at [`probe`].

use std::collections::HashMap;

use serde::{Deserialize, Serialize};

use super::Result;
use super::decoder::{FitSettings, fit};
use super::pairs::{ColumnStats, Pairs, TrueActions};
use crate::models::{DecoderConfig, Outputs};

/// Pairs in a step.
const BATCH: usize = 256;
/// Steps, enough for either network to stop improving on some ten thousand pairs.
const STEPS: u64 = 600;
/// Width of each hidden layer, as in the paper's probe.
const HIDDEN: usize = 128;

/// How well latent actions predict true ones, on held-out transitions.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Probe {
    /// The number of held-out transitions.
    pub transitions: usize,
    /// The score of a constant prediction: the share of the most common action; 0, the R2 of the
    /// mean, for continuous actions.
    pub guessing: f64,
    /// The score of a linear network: its accuracy, or R2 for continuous actions.
    pub linear: f64,
    /// The score of a network with two hidden layers of 128.
    pub mlp: f64,
    /// Mean squared error of the linear network, for continuous actions only.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub linear_mse: Option<f64>,
    /// Mean squared error of the network with hidden layers, for continuous actions only.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub mlp_mse: Option<f64>,
    /// Mutual information, in bits, of the true action and the most informative code. `None` for
    /// continuous actions.
    pub mutual_information: Option<f64>,
    /// Entropy of the true action, in bits. `None` for continuous actions.
    pub action_entropy: Option<f64>,
    /// Predictions of the MLP, counted: `[true action][predicted action]`. Empty for continuous
    /// actions.
    pub confusion: Vec<Vec<u64>>,
}

/// Trains probes on `training` pairs, which are in random order, and scores them on `held_out`
/// pairs. Neither may be empty.
///
/// # Shapes
/// - `codes`: `[held_out, code]`; empty before codes are in use
pub fn probe(training: &Pairs, held_out: &Pairs, codes: &[u16], seed: u64) -> Result<Probe> {
    let linear = predict(vec![], 1e-2, training, held_out, seed)?;
    let mlp = predict(vec![HIDDEN, HIDDEN], 1e-3, training, held_out, seed)?;
    let mut probe = Probe {
        transitions: held_out.len(),
        guessing: constant_score(&held_out.action),
        linear: score(&linear, &held_out.action),
        mlp: score(&mlp, &held_out.action),
        linear_mse: mean_squared_error(&linear, &held_out.action),
        mlp_mse: mean_squared_error(&mlp, &held_out.action),
        mutual_information: None,
        action_entropy: None,
        confusion: vec![],
    };
    if let TrueActions::Discrete(actions) = &held_out.action {
        // Codes of a transition, over all codebooks and positions.
        let width = codes.len() / actions.len();
        let column =
            |code: usize| codes.iter().skip(code).step_by(width).map(|code| usize::from(*code));
        let information = (0..width).map(|code| {
            mutual_information(&contingency_table(column(code).zip(actions.iter().copied())))
        });
        probe.mutual_information = Some(information.fold(0.0, f64::max));
        let counts = contingency_table(actions.iter().map(|action| (0, *action)));
        probe.action_entropy = counts.first().map(|counts| entropy(counts));
        let actions = actions.iter().map(|&action| action as usize);
        probe.confusion = contingency_table(actions.zip(most_likely(&mlp, held_out.len())));
    }
    Ok(probe)
}

impl Probe {
    /// Returns the scores as a sentence.
    pub fn sentence(&self) -> String {
        let Probe { guessing, linear, mlp, .. } = self;
        match self.mutual_information.zip(self.action_entropy) {
            Some((information, entropy)) => format!(
                "a linear probe predicts {linear:.2} of true actions, an MLP {mlp:.2} (the most \
                 common action: {guessing:.2}); the most informative code has {information:.2} of \
                 the action's {entropy:.2} bits"
            ),
            None => {
                let errors = self.linear_mse.zip(self.mlp_mse);
                let errors = errors.filter(|(one, other)| one.is_finite() && other.is_finite());
                let errors = errors.map_or_else(String::new, |(linear, mlp)| {
                    format!("; their mean squared errors are {linear:.3} and {mlp:.3}")
                });
                format!(
                    "a linear probe of the true action has R2 {linear:.2}, an MLP {mlp:.2}{errors}"
                )
            }
        }
    }
}

/// Trains a network and returns its outputs for held-out pairs: `[pair, action or axis]`.
fn predict(
    hidden: Vec<usize>,
    learning_rate: f64,
    training: &Pairs,
    held_out: &Pairs,
    seed: u64,
) -> Result<Vec<f32>> {
    let latent_dim = training.latent_action.len() / training.len();
    let outputs = match &training.action {
        TrueActions::Discrete(actions) => {
            let highest = actions.iter().max();
            Outputs::Discrete { actions: highest.map_or(1, |highest| *highest as usize + 1) }
        }
        TrueActions::Continuous(_, axes) => Outputs::Continuous { axes: *axes },
    };
    let config = DecoderConfig { latent_dim, hidden: hidden.clone(), outputs };
    let settings = FitSettings {
        hidden,
        steps: STEPS,
        batch: BATCH,
        learning_rate,
        label_smoothing: 0.0,
        stop: None,
    };
    let stats = ColumnStats::of(&training.latent_action, latent_dim);
    let decoder = fit(&config, &settings, training, &stats, seed)?;
    Ok(decoder.decode(&held_out.latent_action)?)
}

/// Returns the accuracy of predictions, or their R2 for continuous actions.
///
/// # Shapes
/// - `predicted`: `[pair, action or axis]`
pub fn score(predicted: &[f32], actions: &TrueActions) -> f64 {
    match actions {
        TrueActions::Discrete(actions) => {
            let predicted = most_likely(predicted, actions.len());
            let correct = predicted.zip(actions).filter(|(predicted, action)| predicted == *action);
            correct.count() as f64 / actions.len() as f64
        }
        TrueActions::Continuous(numbers, axes) => r2(predicted, numbers, *axes),
    }
}

/// Returns the mean squared error of predictions of continuous actions, over all axes.
fn mean_squared_error(predicted: &[f32], actions: &TrueActions) -> Option<f64> {
    let TrueActions::Continuous(numbers, _) = actions else { return None };
    let errors = predicted.iter().zip(numbers).map(|(a, b)| f64::from(a - b).powi(2));
    Some(errors.sum::<f64>() / numbers.len().max(1) as f64)
}

/// Returns the score of a constant prediction: the share of the most common action; 0, the R2 of
/// the mean, for continuous actions.
pub fn constant_score(actions: &TrueActions) -> f64 {
    let TrueActions::Discrete(actions) = actions else { return 0.0 };
    let mut counts: HashMap<u32, usize> = HashMap::new();
    for action in actions {
        *counts.entry(*action).or_default() += 1;
    }
    counts.into_values().max().unwrap_or(0) as f64 / actions.len().max(1) as f64
}

/// Returns the action with the highest logit in each row.
fn most_likely(logits: &[f32], rows: usize) -> impl Iterator<Item = u32> {
    let best =
        |row: &[f32]| (0..row.len()).max_by(|&a, &b| row[a].total_cmp(&row[b])).unwrap_or(0) as u32;
    logits.chunks_exact(logits.len() / rows).map(best)
}

/// Returns the explained share of the variance, averaged over axes. A constant axis does not count.
fn r2(predicted: &[f32], numbers: &[f32], axes: usize) -> f64 {
    let of_axis = |axis: usize| {
        let column = |values: &[f32]| {
            values.iter().skip(axis).step_by(axes).map(|v| f64::from(*v)).collect::<Vec<_>>()
        };
        let truth = column(numbers);
        let mean = truth.iter().sum::<f64>() / truth.len() as f64;
        let variance: f64 = truth.iter().map(|v| (v - mean).powi(2)).sum();
        let pairs = column(predicted).into_iter().zip(&truth);
        let residual: f64 = pairs.map(|(predicted, truth)| (predicted - truth).powi(2)).sum();
        (variance > 0.0).then(|| 1.0 - residual / variance)
    };
    let scores: Vec<f64> = (0..axes).filter_map(of_axis).collect();
    scores.iter().sum::<f64>() / scores.len().max(1) as f64
}

/// Counts how often each pair occurs: `[first][second]`. Rows may have different lengths.
fn contingency_table(pairs: impl Iterator<Item = (usize, u32)>) -> Vec<Vec<u64>> {
    let mut counts: Vec<Vec<u64>> = Vec::new();
    for (row, column) in pairs {
        counts.resize(counts.len().max(row + 1), Vec::new());
        let row = &mut counts[row];
        row.resize(row.len().max(column as usize + 1), 0);
        row[column as usize] += 1;
    }
    counts
}

/// Returns the mutual information of rows and columns, in bits.
fn mutual_information(counts: &[Vec<u64>]) -> f64 {
    let rows: Vec<u64> = counts.iter().map(|row| row.iter().sum()).collect();
    let width = counts.iter().map(Vec::len).max().unwrap_or(0);
    let columns: Vec<u64> =
        (0..width).map(|i| counts.iter().filter_map(|row| row.get(i)).sum()).collect();
    let cells: Vec<u64> = counts.iter().flatten().copied().collect();
    // I(X; Y) = H(X) + H(Y) - H(X, Y)
    entropy(&rows) + entropy(&columns) - entropy(&cells)
}

/// Returns the entropy of counted values, in bits.
pub fn entropy(counts: &[u64]) -> f64 {
    let total = counts.iter().sum::<u64>().max(1) as f64;
    let shares = counts.iter().filter(|n| **n > 0).map(|n| *n as f64 / total);
    -shares.map(|p| p * p.log2()).sum::<f64>()
}

#[cfg(test)]
#[expect(clippy::unwrap_used, reason = "a test fails by panicking")]
mod tests {
    use rand::{Rng, SeedableRng};
    use rand_chacha::ChaCha8Rng;

    use super::*;

    /// Points of the plane. The action is a function of their quadrant's number.
    fn pairs(count: usize, seed: u64, action: impl Fn(u32) -> u32) -> Pairs {
        let mut rng = ChaCha8Rng::seed_from_u64(seed);
        let latent_action: Vec<f32> = (0..2 * count).map(|_| rng.random_range(-1.0..1.0)).collect();
        let quadrant = |row: &[f32]| u32::from(row[0] > 0.0) + 2 * u32::from(row[1] > 0.0);
        let action = latent_action.chunks_exact(2).map(|row| action(quadrant(row))).collect();
        Pairs { latent_action, action: TrueActions::Discrete(action) }
    }

    #[test]
    fn a_linear_probe_predicts_quadrants_and_only_an_mlp_their_parity() {
        // No line separates quadrants of different parity.
        let run = |action: fn(u32) -> u32| {
            probe(&pairs(2000, 1, action), &pairs(500, 2, action), &[], 0).unwrap()
        };
        assert!(run(|quadrant| quadrant).linear > 0.95);
        let parity = run(|quadrant| u32::from(quadrant == 0 || quadrant == 3));
        assert!(parity.mlp > 0.95 && parity.linear < 0.7, "{parity:?}");
        let correct: u64 = (0..2).map(|action| parity.confusion[action][action]).sum();
        assert!((parity.mlp - correct as f64 / 500.0).abs() < 1e-12);
    }

    #[test]
    fn continuous_actions_have_a_mean_squared_error_over_all_axes() {
        let actions = TrueActions::Continuous(vec![0.0, 1.0, 2.0, 3.0], 2);
        let error = mean_squared_error(&[1.0, 1.0, 2.0, 5.0], &actions);
        assert_eq!(error, Some((1.0 + 4.0) / 4.0));
        assert_eq!(mean_squared_error(&[0.0, 1.0], &TrueActions::Discrete(vec![1])), None);
    }

    #[test]
    fn mutual_information_is_the_entropy_shared_by_code_and_action() {
        let information =
            |pairs: [(usize, u32); 4]| mutual_information(&contingency_table(pairs.into_iter()));
        // Each code stands for one action; then the two are independent.
        assert!((information([(0, 3), (1, 1), (2, 0), (3, 2)]) - 2.0).abs() < 1e-12);
        assert!(information([(0, 0), (0, 1), (1, 0), (1, 1)]).abs() < 1e-12);
        // H(row) = 1, H(column) = 0.8113, H(pair) = 1.5
        assert!((information([(0, 0), (0, 0), (1, 0), (1, 1)]) - 0.311_278).abs() < 1e-6);
    }

    #[test]
    fn four_equally_frequent_codes_have_two_bits() {
        assert!((entropy(&[5, 5, 5, 5, 0]) - 2.0).abs() < 1e-12);
        assert!(entropy(&[7, 0, 0]).abs() < 1e-12);
        assert!(entropy(&[]).abs() < 1e-12);
    }
}
