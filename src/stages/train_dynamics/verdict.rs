//! What a trained model is worth: held-out windows go in, errors, codes in use and a sentence come out.

use std::collections::BTreeMap;

use rand::seq::SliceRandom;
use serde::{Deserialize, Serialize};

use super::{Data, TrainDynamicsTask, as_batch, probe};
use crate::dataset::WindowIndex;
use crate::stages::Error;
use crate::stages::model_files::{ratio, verdict_json};
use crate::train::probe::{Probe, entropy};
use crate::train::{DynamicsTrainer, batch};

/// How many windows a probe learns from, for each that it is asked about.
const KNOWN: usize = 8;
/// How many windows a pass takes.
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
    /// Codes in use, by codebook; empty before codes are in use.
    pub codes_used: Vec<usize>,
    /// Perplexity of the codes, by codebook; empty before codes are in use.
    pub perplexity: Vec<f64>,
    /// Codes a codebook holds.
    pub entries: usize,
    /// What its latent actions tell of true ones, where `actions` are given.
    pub probe: Option<Probe>,
}

/// What the IDM says of some windows.
pub(super) struct Latents {
    /// Their numbers in the index they are of.
    pub windows: Vec<usize>,
    /// `[window, latent_dim]`: before quantisation
    pub latent_action: Vec<f32>,
}

/// What both networks make of some windows.
pub(super) struct Scored {
    pub latents: Latents,
    /// `[window, codebook, position]`
    pub codes: Vec<u16>,
    /// Means of the FDM's error, of copying's, and of the FDM's given another window's latent action.
    errors: [f64; 3],
}

/// Runs the networks on at most so many held-out windows, with their own and with shuffled latent actions, quantised or not.
pub(super) fn judge(
    trainer: &dyn DynamicsTrainer,
    task: &TrainDynamicsTask,
    data: &Data,
    most: usize,
    quantise: bool,
) -> Result<Verdict, Error> {
    let config = trainer.config();
    let held_out = score(trainer, task, data, most, quantise)?;
    let probe = match &data.actions {
        None => None,
        Some(actions) => {
            let training = latents(trainer, task, data, most * KNOWN)?;
            probe::judge(
                actions,
                config,
                &data.shards,
                (&data.training, &training),
                (&data.held_out, &held_out),
                task.seed,
            )?
        }
    };
    let books = if quantise { config.vq.codebooks } else { 0 };
    let mut counts = vec![vec![0_u64; config.vq.entries]; books];
    for (i, code) in held_out.codes.iter().enumerate() {
        counts[i / config.vq.positions % config.vq.codebooks][usize::from(*code)] += 1;
    }
    let [fdm_error, copy_error, fdm_error_shuffled] = held_out.errors;
    Ok(Verdict {
        training_windows: data.training.len(),
        windows: held_out.latents.windows.len(),
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

/// Some of the windows, spread over all and shuffled: neighbours share their action.
fn spread(index: &WindowIndex, most: usize, seed: u64) -> Vec<usize> {
    let mut windows = batch::spread(index, most);
    windows.shuffle(&mut batch::generator(seed, "verdict", 0));
    windows
}

/// Runs both networks on held-out windows.
fn score(
    trainer: &dyn DynamicsTrainer,
    task: &TrainDynamicsTask,
    data: &Data,
    most: usize,
    quantise: bool,
) -> Result<Scored, Error> {
    let windows = spread(&data.held_out, most, task.seed);
    let (mut sums, mut codes, mut latent_action, mut frames) =
        ([0.0_f64; 3], Vec::new(), Vec::new(), Vec::new());
    for part in windows.chunks(VERDICT_BATCH) {
        batch::gather(&data.shards, &data.held_out, part, &mut frames)?;
        let others: Vec<usize> = (0..part.len()).map(|i| (i + 1) % part.len()).collect();
        let out = trainer.evaluate(&as_batch(&frames, part.len(), task), &others, quantise)?;
        for (sum, errors) in
            sums.iter_mut().zip([&out.fdm_error, &out.copy_error, &out.fdm_error_shuffled])
        {
            *sum += errors.iter().map(|e| f64::from(*e)).sum::<f64>();
        }
        codes.extend(out.codes);
        latent_action.extend(out.latent_action);
    }
    let errors = sums.map(|sum| sum / windows.len() as f64);
    Ok(Scored { latents: Latents { windows, latent_action }, codes, errors })
}

/// Runs the IDM on windows the model learnt from.
fn latents(
    trainer: &dyn DynamicsTrainer,
    task: &TrainDynamicsTask,
    data: &Data,
    most: usize,
) -> Result<Latents, Error> {
    let windows = spread(&data.training, most, task.seed);
    let (mut latent_action, mut frames) = (Vec::new(), Vec::new());
    for part in windows.chunks(VERDICT_BATCH) {
        batch::gather(&data.shards, &data.training, part, &mut frames)?;
        latent_action.extend(trainer.latent_action(&as_batch(&frames, part.len(), task))?);
    }
    Ok(Latents { windows, latent_action })
}

impl Verdict {
    /// The verdict in words.
    pub fn sentence(&self) -> String {
        let whose = if self.held_out { "held-out" } else { "training" };
        let codes =
            match self.codes_used.iter().map(ToString::to_string).collect::<Vec<_>>().join(" and ")
            {
                none if none.is_empty() => "codes are not in use".to_owned(),
                used => format!("codes in use: {used} of {}", self.entries),
            };
        let told = |probe: &Probe| match probe.action_entropy {
            Some(_) => format!(
                "; a probe tells {:.2} of true actions, guessing {:.2}",
                probe.mlp, probe.guessing
            ),
            None => format!("; a probe of the true action has R2 {:.2}", probe.mlp),
        };
        let probe = self.probe.as_ref().map(told).unwrap_or_default();
        format!("on {} {whose} windows {}; {codes}{probe}", self.windows, self.foresight())
    }

    /// What the errors say, or why they say nothing.
    fn foresight(&self) -> String {
        if self.windows == 0 {
            return "there is nothing to judge the model by".into();
        }
        if self.copy_error == 0.0 {
            return "nothing moves: every frame is like the one before, so no latent action can be judged".into();
        }
        match ratio(self.fdm_error, self.copy_error) {
            Some(share) => format!(
                "the world model's error is {share:.2}x copying the last frame; {}",
                self.information()
            ),
            None => "the world model's error is no finite number: it cannot be judged".into(),
        }
    }

    /// How much worse the FDM gets when it is told another window's latent action.
    ///
    /// `None` where it is undefined, as for an FDM that makes no error.
    pub fn information_used(&self) -> Option<f64> {
        ratio(self.fdm_error_shuffled, self.fdm_error).filter(|_| self.copy_error > 0.0)
    }

    fn information(&self) -> String {
        let Some(used) = self.information_used() else {
            return "what shuffled latents cost is undefined: nothing can be said of what the latents carry".into();
        };
        match used {
            x if x < 1.02 => format!(
                "shuffled latents cost nothing ({used:.3}x): the latents carry no information yet"
            ),
            x if x < 1.5 => format!("shuffled latents cost {used:.2}x: the latents carry a little"),
            _ => format!("shuffled latents cost {used:.2}x: the latents carry what happened"),
        }
    }

    pub(super) fn json(&self) -> String {
        verdict_json(
            serde_json::json!({ "sentence": self.sentence(), "information_used": self.information_used() }),
            self,
        )
    }

    /// What the curve of the training shows of it. A ratio to nothing, as of frames that do not change, is NaN, which the curve has as null.
    pub(super) fn row(&self) -> Vec<(String, f32)> {
        let ratios = [
            ("held_out_error_relative", ratio(self.fdm_error, self.copy_error)),
            ("information_used", self.information_used()),
        ];
        let mut row =
            ratios.map(|(name, ratio)| (name.to_owned(), ratio.unwrap_or(f64::NAN))).to_vec();
        for (book, (used, perplexity)) in self.codes_used.iter().zip(&self.perplexity).enumerate() {
            row.extend([
                (format!("codes_used_{book}"), *used as f64),
                (format!("held_out_perplexity_{book}"), *perplexity),
            ]);
        }
        if let Some(probe) = &self.probe {
            row.extend([
                ("probe_linear".to_owned(), probe.linear),
                ("probe_mlp".to_owned(), probe.mlp),
            ]);
            row.extend(
                probe.mutual_information.map(|bits| ("mutual_information".to_owned(), bits)),
            );
        }
        row.into_iter().map(|(name, value)| (name, value as f32)).collect()
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

    fn verdict(fdm_error: f64, copy_error: f64, fdm_error_shuffled: f64) -> Verdict {
        Verdict {
            training_windows: 900,
            windows: 222,
            held_out: true,
            fdm_error,
            copy_error,
            fdm_error_shuffled,
            codes_used: vec![34, 41],
            perplexity: vec![20.0, 22.0],
            entries: 64,
            probe: None,
        }
    }

    /// Nothing good is said of what is undefined, whichever of the numbers is 0, infinite or none.
    #[test]
    fn a_verdict_of_undefined_numbers_says_so() {
        let odd = [0.0, 1e-4, f64::INFINITY, f64::NAN];
        for (fdm, copy, shuffled) in
            odd.into_iter().flat_map(|a| odd.into_iter().flat_map(move |b| odd.map(|c| (a, b, c))))
        {
            let verdict = verdict(fdm, copy, shuffled);
            let (sentence, sound) =
                (verdict.sentence(), fdm == 1e-4 && copy == 1e-4 && shuffled.is_finite());
            assert!(!sentence.contains("NaN") && !sentence.contains("infx"), "{sentence}");
            assert!(
                sound
                    || !sentence.contains("carry what happened")
                        && !sentence.contains("carry a little"),
                "{sentence}"
            );
        }
        assert!(verdict(0.0, 0.0, 0.0).sentence().contains("nothing moves"));
        assert!(
            verdict(0.0, 1e-4, 1e-4)
                .sentence()
                .contains("0.00x copying the last frame; what shuffled latents cost is undefined")
        );
        assert!(
            Verdict { windows: 0, ..verdict(f64::NAN, f64::NAN, f64::NAN) }
                .sentence()
                .contains("nothing to judge")
        );
    }

    #[test]
    fn the_verdict_says_when_latents_carry_nothing() {
        assert_eq!(
            verdict(1.8e-4, 3.1e-4, 1.8e-4).sentence(),
            "on 222 held-out windows the world model's error is 0.58x copying the last frame; shuffled latents cost nothing \
             (1.000x): the latents carry no information yet; codes in use: 34 and 41 of 64"
        );
    }
}
