//! What a trained model is worth: held-out windows go in, errors, codes in use and a sentence come out.

use std::collections::BTreeMap;

use rand::seq::SliceRandom;
use serde::{Deserialize, Serialize};

use super::probe::{Probe, probe};
use super::{Data, TrainDynamicsTask, as_batch};
use crate::dataset::WindowIndex;
use crate::models::DynamicsConfig;
use crate::stages::Error;
use crate::train::{DynamicsTrainer, batch};

/// Most windows the verdict is based on, and how many a pass takes.
const VERDICT_WINDOWS: usize = 2048;
const VERDICT_BATCH: usize = 128;

/// What the model is worth, on windows it never saw.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Verdict {
    /// Windows it was trained on.
    pub training_windows: usize,
    /// Windows it was judged on.
    pub windows: usize,
    /// Whether these were kept from training.
    pub held_out: bool,
    /// Mean squared error of the FDM, pixels in [-0.5, 0.5].
    pub fdm_error: f64,
    /// The same for copying `o[t]`.
    pub copy_error: f64,
    /// The same for the FDM given another window's latent action.
    pub fdm_error_shuffled: f64,
    /// Codes in use, by codebook.
    pub codes_used: Vec<usize>,
    /// Perplexity of the codes, by codebook.
    pub perplexity: Vec<f64>,
    /// Codes a codebook holds.
    pub entries: usize,
    /// What its latent actions tell of true ones, where `actions` are given.
    pub probe: Option<Probe>,
}

/// What the networks make of some windows.
pub(super) struct Scored {
    /// Their numbers in the index they are of.
    pub windows: Vec<usize>,
    /// `[window, codebook, position]`
    pub codes: Vec<u16>,
    /// `[window, latent_dim]`: before quantisation
    pub latent_action: Vec<f32>,
    /// Means of the FDM's error, of copying's, and of the FDM's given another window's latent action.
    errors: [f64; 3],
}

/// Runs the networks on held-out windows, with their own and with shuffled latent actions.
pub(super) fn judge(
    trainer: &dyn DynamicsTrainer,
    config: &DynamicsConfig,
    task: &TrainDynamicsTask,
    data: &Data,
) -> Result<Verdict, Error> {
    let held_out = score(trainer, task, data, &data.held_out)?;
    let probe = match &data.actions {
        None => None,
        Some(actions) => {
            let training = score(trainer, task, data, &data.training)?;
            let splits = [(&data.training, &training), (&data.held_out, &held_out)];
            probe(actions, config, &data.shards, splits, task.seed)?
        }
    };
    let mut counts = vec![vec![0_u64; config.vq.entries]; config.vq.codebooks];
    for (i, code) in held_out.codes.iter().enumerate() {
        counts[i / config.vq.positions % config.vq.codebooks][usize::from(*code)] += 1;
    }
    let [fdm_error, copy_error, fdm_error_shuffled] = held_out.errors;
    Ok(Verdict {
        training_windows: data.training.len(),
        windows: held_out.windows.len(),
        held_out: task.config.holdout > 0,
        fdm_error,
        copy_error,
        fdm_error_shuffled,
        codes_used: counts.iter().map(|book| book.iter().filter(|n| **n > 0).count()).collect(),
        perplexity: counts.iter().map(|book| entropy(book).exp2()).collect(),
        entries: config.vq.entries,
        probe,
    })
}

/// Runs the networks on some of the windows, spread over all.
fn score(trainer: &dyn DynamicsTrainer, task: &TrainDynamicsTask, data: &Data, index: &WindowIndex) -> Result<Scored, Error> {
    let mut windows = batch::spread(index, VERDICT_WINDOWS);
    windows.shuffle(&mut batch::generator(task.seed, "verdict", 0)); // neighbours share their action; shuffled, they do not
    let (mut sums, mut codes, mut latent_action, mut frames) = ([0.0_f64; 3], Vec::new(), Vec::new(), Vec::new());
    for part in windows.chunks(VERDICT_BATCH) {
        batch::gather(&data.shards, index, part, &mut frames)?;
        let others: Vec<usize> = (0..part.len()).map(|i| (i + 1) % part.len()).collect();
        let out = trainer.evaluate(&as_batch(&frames, part.len(), task), &others)?;
        for (sum, errors) in sums.iter_mut().zip([&out.fdm_error, &out.copy_error, &out.fdm_error_shuffled]) {
            *sum += errors.iter().map(|e| f64::from(*e)).sum::<f64>();
        }
        codes.extend(out.codes);
        latent_action.extend(out.latent_action);
    }
    let errors = sums.map(|sum| sum / windows.len() as f64);
    Ok(Scored { windows, codes, latent_action, errors })
}

/// The entropy of what was counted, in bits.
pub(super) fn entropy(counts: &[u64]) -> f64 {
    let total = counts.iter().sum::<u64>().max(1) as f64;
    let shares = counts.iter().filter(|n| **n > 0).map(|n| *n as f64 / total);
    -shares.map(|p| p * p.log2()).sum::<f64>()
}

impl Verdict {
    /// The verdict in words.
    pub fn sentence(&self) -> String {
        let whose = if self.held_out { "held-out" } else { "training" };
        let codes: Vec<String> = self.codes_used.iter().map(ToString::to_string).collect();
        let told = |probe: &Probe| format!("; a probe tells {:.2} of true actions, guessing {:.2}", probe.mlp, probe.commonest);
        format!(
            "on {} {whose} windows the world model's error is {:.2}x copying the last frame; {}; codes in use: {} of {}{}",
            self.windows,
            self.fdm_error / self.copy_error,
            self.information(),
            codes.join(" and "),
            self.entries,
            self.probe.as_ref().map(told).unwrap_or_default()
        )
    }

    /// How much worse the FDM gets when it is told another window's latent action.
    pub fn information_used(&self) -> f64 {
        self.fdm_error_shuffled / self.fdm_error
    }

    fn information(&self) -> String {
        let used = self.information_used();
        match used {
            x if x < 1.02 => format!("shuffled latents cost nothing ({used:.3}x): the latents carry no information yet"),
            x if x < 1.5 => format!("shuffled latents cost {used:.2}x: the latents carry a little"),
            _ => format!("shuffled latents cost {used:.2}x: the latents carry what happened"),
        }
    }

    pub(super) fn json(&self) -> String {
        let mut value = serde_json::json!({ "sentence": self.sentence(), "information_used": self.information_used() });
        if let (Some(all), Ok(serde_json::Value::Object(fields))) = (value.as_object_mut(), serde_json::to_value(self)) {
            all.extend(fields);
        }
        format!("{value:#}\n")
    }

    pub(super) fn stats(&self) -> BTreeMap<String, f64> {
        let mut stats = BTreeMap::from([
            ("training_windows".into(), self.training_windows as f64),
            ("fdm_error".into(), self.fdm_error),
            ("copy_error".into(), self.copy_error),
            ("fdm_error_shuffled".into(), self.fdm_error_shuffled),
            ("least_codes_used".into(), self.codes_used.iter().copied().min().unwrap_or(0) as f64),
        ]);
        if let Some(probe) = &self.probe {
            stats.extend([("probe_linear".into(), probe.linear), ("probe_mlp".into(), probe.mlp)]);
        }
        stats
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn four_equally_frequent_codes_have_two_bits() {
        assert!((entropy(&[5, 5, 5, 5, 0]) - 2.0).abs() < 1e-12);
        assert!(entropy(&[7, 0, 0]).abs() < 1e-12);
        assert!(entropy(&[]).abs() < 1e-12);
    }

    #[test]
    fn the_verdict_says_when_latents_carry_nothing() {
        let verdict = Verdict {
            training_windows: 900,
            windows: 222,
            held_out: true,
            fdm_error: 1.8e-4,
            copy_error: 3.1e-4,
            fdm_error_shuffled: 1.8e-4,
            codes_used: vec![34, 41],
            perplexity: vec![20.0, 22.0],
            entries: 64,
            probe: None,
        };
        assert_eq!(
            verdict.sentence(),
            "on 222 held-out windows the world model's error is 0.58x copying the last frame; shuffled latents cost nothing \
             (1.000x): the latents carry no information yet; codes in use: 34 and 41 of 64"
        );
    }
}
