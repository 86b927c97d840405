//! How much of the true action a latent action tells: pairs go in, what small networks make of other pairs comes out.
//!
//! They see what the bottleneck hides from nobody: latent actions before quantisation. Start at [`probe`].

use std::collections::HashMap;

use serde::{Deserialize, Serialize};

use super::Result;
use super::decoder::{Answers, Fit, Pairs, Spread, fit};
use crate::models::{DecoderConfig, Outputs};

/// Pairs a step, and steps: enough for either network to stop improving on some ten thousand pairs.
const BATCH: usize = 256;
const STEPS: u64 = 600;
/// Width of each hidden layer, as in the paper's probe.
const HIDDEN: usize = 128;

/// How well true actions can be told from latent ones, of transitions that nothing learnt from.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Probe {
    /// Transitions whose true action is known and which were asked for.
    pub transitions: usize,
    /// What guessing scores: the share of the commonest action; 0, the R2 of the mean, where actions are vectors.
    pub guessing: f64,
    /// What a linear network makes of latent actions before quantisation: accuracy; R2 where actions are vectors.
    pub linear: f64,
    /// The same of two hidden layers of 128.
    pub mlp: f64,
    /// Bits the most telling code says of the true action; none where actions are vectors.
    pub mutual_information: Option<f64>,
    /// Bits the true action has; none where actions are vectors.
    pub action_entropy: Option<f64>,
    /// How often the hidden layers said what, `[true action][told]`: shows which actions look alike. Empty where actions are vectors.
    pub confusion: Vec<Vec<u64>>,
}

/// Trains networks on `known` pairs and asks them about the others. Neither may be empty, and `known` is in random order: where there are
/// enough, every tenth of it is kept aside, and a network is taken as it was when it told these best.
///
/// # Shapes
/// - `codes`: `[asked, codes]`; empty before codes are in use
pub fn probe(known: &Pairs, asked: &Pairs, codes: &[u16], seed: u64) -> Result<Probe> {
    let linear = told(vec![], 1e-2, known, asked, seed)?;
    let mlp = told(vec![HIDDEN, HIDDEN], 1e-3, known, asked, seed)?;
    let mut probe = Probe {
        transitions: asked.len(),
        guessing: guessing(&asked.action),
        linear: score(&linear, &asked.action),
        mlp: score(&mlp, &asked.action),
        mutual_information: None,
        action_entropy: None,
        confusion: vec![],
    };
    if let Answers::Discrete(actions) = &asked.action {
        let width = codes.len() / actions.len();
        let said =
            |code: usize| codes.iter().skip(code).step_by(width).map(|code| usize::from(*code));
        let told = (0..width)
            .map(|code| mutual_information(&table(said(code).zip(actions.iter().copied()))));
        probe.mutual_information = Some(told.fold(0.0, f64::max));
        probe.action_entropy =
            table(actions.iter().map(|action| (0, *action))).first().map(|counts| entropy(counts));
        probe.confusion = table(
            actions.iter().map(|&action| action as usize).zip(likeliest(&mlp, actions.len())),
        );
    }
    Ok(probe)
}

impl Probe {
    /// The measure in words.
    pub fn sentence(&self) -> String {
        let Probe { guessing, linear, mlp, .. } = self;
        match self.mutual_information.zip(self.action_entropy) {
            Some((told, all)) => format!(
                "a linear probe tells {linear:.2} of true actions, hidden layers {mlp:.2}, guessing {guessing:.2}; the most telling code \
                 says {told:.2} of the action's {all:.2} bits"
            ),
            None => format!(
                "a linear probe of the true action has R2 {linear:.2}, hidden layers {mlp:.2}"
            ),
        }
    }
}

/// What a network that learnt `known` pairs says of the others: `[asked, action or axis]`.
fn told(
    hidden: Vec<usize>,
    learning_rate: f64,
    known: &Pairs,
    asked: &Pairs,
    seed: u64,
) -> Result<Vec<f32>> {
    let latent_dim = known.latent_action.len() / known.len();
    let outputs = match &known.action {
        Answers::Discrete(actions) => {
            Outputs::Discrete { actions: actions.iter().max().map_or(1, |most| *most as usize + 1) }
        }
        Answers::Continuous(_, axes) => Outputs::Continuous { axes: *axes },
    };
    let config = DecoderConfig { latent_dim, hidden: hidden.clone(), outputs };
    let how =
        Fit { hidden, steps: STEPS, batch: BATCH, learning_rate, label_smoothing: 0.0, stop: None };
    let decoder = fit(&config, &how, known, &Spread::of(&known.latent_action, latent_dim), seed)?;
    Ok(decoder.decode(&asked.latent_action)?)
}

/// The share of actions that were told right; R2 where they are vectors.
///
/// # Shapes
/// - `told`: `[pair, action or axis]`
pub fn score(told: &[f32], right: &Answers) -> f64 {
    match right {
        Answers::Discrete(right) => {
            likeliest(told, right.len()).zip(right).filter(|(told, right)| told == *right).count()
                as f64
                / right.len() as f64
        }
        Answers::Continuous(right, axes) => r2(told, right, *axes),
    }
}

/// What guessing scores: the share of the commonest action; 0, the R2 of the mean, where they are vectors.
pub fn guessing(right: &Answers) -> f64 {
    let Answers::Discrete(actions) = right else { return 0.0 };
    let mut counts: HashMap<u32, usize> = HashMap::new();
    actions.iter().for_each(|action| *counts.entry(*action).or_default() += 1);
    counts.into_values().max().unwrap_or(0) as f64 / actions.len().max(1) as f64
}

/// The action of each row that has the greatest number.
fn likeliest(told: &[f32], rows: usize) -> impl Iterator<Item = u32> {
    let best =
        |row: &[f32]| (0..row.len()).max_by(|&a, &b| row[a].total_cmp(&row[b])).unwrap_or(0) as u32;
    told.chunks_exact(told.len() / rows).map(best)
}

/// Share of the variance that is explained, the mean over axes; an axis that never changes does not count.
fn r2(told: &[f32], right: &[f32], axes: usize) -> f64 {
    let of_axis = |axis: usize| {
        let column = |values: &[f32]| {
            values.iter().skip(axis).step_by(axes).map(|v| f64::from(*v)).collect::<Vec<_>>()
        };
        let (told, right) = (column(told), column(right));
        let mean = right.iter().sum::<f64>() / right.len() as f64;
        let all: f64 = right.iter().map(|v| (v - mean).powi(2)).sum();
        let off: f64 = told.iter().zip(&right).map(|(told, right)| (told - right).powi(2)).sum();
        (all > 0.0).then(|| 1.0 - off / all)
    };
    let known: Vec<f64> = (0..axes).filter_map(of_axis).collect();
    known.iter().sum::<f64>() / known.len().max(1) as f64
}

/// How often each pair occurs: `[first][second]`.
fn table(pairs: impl Iterator<Item = (usize, u32)>) -> Vec<Vec<u64>> {
    let mut counts: Vec<Vec<u64>> = Vec::new();
    for (row, column) in pairs {
        counts.resize(counts.len().max(row + 1), Vec::new());
        let row = &mut counts[row];
        row.resize(row.len().max(column as usize + 1), 0);
        row[column as usize] += 1;
    }
    counts
}

/// Bits that one of a pair tells of the other: their entropies less that of the pair.
fn mutual_information(counts: &[Vec<u64>]) -> f64 {
    let rows: Vec<u64> = counts.iter().map(|row| row.iter().sum()).collect();
    let width = counts.iter().map(Vec::len).max().unwrap_or(0);
    let columns: Vec<u64> =
        (0..width).map(|i| counts.iter().filter_map(|row| row.get(i)).sum()).collect();
    let all: Vec<u64> = counts.iter().flatten().copied().collect();
    entropy(&rows) + entropy(&columns) - entropy(&all)
}

/// The entropy of what was counted, in bits.
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

    /// Points of the plane; the action is their quadrant's number, or its parity, which no line tells.
    fn pairs(count: usize, seed: u64, action: impl Fn(u32) -> u32) -> Pairs {
        let mut rng = ChaCha8Rng::seed_from_u64(seed);
        let latent_action: Vec<f32> = (0..2 * count).map(|_| rng.random_range(-1.0..1.0)).collect();
        let quadrant = |row: &[f32]| u32::from(row[0] > 0.0) + 2 * u32::from(row[1] > 0.0);
        let action = latent_action.chunks_exact(2).map(|row| action(quadrant(row))).collect();
        Pairs { latent_action, action: Answers::Discrete(action) }
    }

    #[test]
    fn lines_tell_quadrants_and_only_hidden_layers_their_parity() {
        let run = |action: fn(u32) -> u32| {
            probe(&pairs(2000, 1, action), &pairs(500, 2, action), &[], 0).unwrap()
        };
        assert!(run(|quadrant| quadrant).linear > 0.95);
        let parity = run(|quadrant| u32::from(quadrant == 0 || quadrant == 3));
        assert!(parity.mlp > 0.95 && parity.linear < 0.7, "{parity:?}");
        let right: u64 = (0..2).map(|action| parity.confusion[action][action]).sum();
        assert!((parity.mlp - right as f64 / 500.0).abs() < 1e-12);
    }

    #[test]
    fn a_code_that_names_the_action_tells_all_its_bits() {
        assert!(
            (mutual_information(&table([(0, 3), (1, 1), (2, 0), (3, 2)].into_iter())) - 2.0).abs()
                < 1e-12
        );
        assert!(
            mutual_information(&table([(0, 0), (0, 1), (1, 0), (1, 1)].into_iter())).abs() < 1e-12
        );
        // H(row) = 1, H(column) = 0.8113, H(pair) = 1.5
        assert!(
            (mutual_information(&table([(0, 0), (0, 0), (1, 0), (1, 1)].into_iter())) - 0.311_278)
                .abs()
                < 1e-6
        );
    }

    #[test]
    fn four_equally_frequent_codes_have_two_bits() {
        assert!((entropy(&[5, 5, 5, 5, 0]) - 2.0).abs() < 1e-12);
        assert!(entropy(&[7, 0, 0]).abs() < 1e-12);
        assert!(entropy(&[]).abs() < 1e-12);
    }
}
