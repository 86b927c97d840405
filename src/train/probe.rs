//! How much of the true action a latent action tells: pairs go in, what a small classifier makes of other pairs comes out.
//!
//! The classifier sees what the bottleneck hides from nobody: latent actions before quantisation. Start at [`classify`].

use super::Result;
use super::decoding::{self, Answers, Fit, Spread, fit};
use crate::models::{DecoderConfig, Outputs};

/// Pairs a step, and steps: enough for either classifier to stop improving on some ten thousand pairs.
const BATCH: usize = 256;
const STEPS: u64 = 600;
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
/// is in random order: where there are enough, every tenth of it is kept aside, and the classifier is taken as it was when it told these best.
pub fn classify(classifier: Classifier, known: &Pairs, asked: &Pairs, seed: u64) -> Result<Vec<u32>> {
    let actions = known.action.iter().max().map_or(1, |most| *most as usize + 1);
    let (hidden, learning_rate) = match classifier {
        Classifier::Linear => (vec![], 1e-2),
        Classifier::Mlp => (vec![HIDDEN, HIDDEN], 1e-3),
    };
    let config = DecoderConfig { latent_dim: known.latent_dim(), hidden: hidden.clone(), outputs: Outputs::Discrete { actions } };
    let how = Fit { hidden, steps: STEPS, batch: BATCH, learning_rate, label_smoothing: 0.0 };
    let spread = Spread::of(&known.latent_action, known.latent_dim());
    let pairs = decoding::Pairs { latent_action: known.latent_action.clone(), action: Answers::Discrete(known.action.clone()) };
    let decoder = fit(&config, &how, &pairs, &spread, seed)?;
    let best = |row: &[f32]| (0..row.len()).max_by(|&a, &b| row[a].total_cmp(&row[b])).unwrap_or(0) as u32;
    Ok(decoder.decode(&asked.latent_action)?.chunks_exact(actions).map(best).collect())
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
