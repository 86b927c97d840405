//! The verdict on a trained model: its errors, codes and probe on held-out windows, and a sentence.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};

use super::scores::{InTraining, latent_actions, score};
use super::{Data, TrainDynamicsTask, probe};
use crate::stages::Error;
use crate::stages::latent_quality::{self, LatentQuality, commonest_share, decibels};
use crate::stages::model_files::{ratio, verdict_json};
use crate::train::DynamicsTrainer;
use crate::train::probe::{Probe, entropy};

/// Training windows of the probe for each held-out one.
const PROBE_RATIO: usize = 8;

/// The quality of a model on held-out windows.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Verdict {
    /// The number of training windows.
    pub training_windows: usize,
    /// The number of judged windows.
    pub windows: usize,
    /// Whether the judged windows were held out.
    pub held_out: bool,
    /// Mean squared error of the FDM, for pixels in [-0.5, 0.5].
    pub fdm_error: f64,
    /// Mean squared error of copying `o[t]`.
    pub copy_error: f64,
    /// Mean squared error of the FDM with the latent action of another window.
    pub fdm_error_shuffled: f64,
    /// Codes in use, by codebook. Empty before codes are in use.
    pub codes_used: Vec<usize>,
    /// Perplexity of the codes, by codebook. Empty before codes are in use.
    pub perplexity: Vec<f64>,
    /// The number of codes in a codebook.
    pub entries: usize,
    /// How well latent actions predict true ones, if the stage has `actions`.
    pub probe: Option<Probe>,
    /// Whether latent actions leak, transfer, add up and follow the camera. Verdicts of older
    /// versions have none of it.
    #[serde(flatten)]
    pub latents: LatentQuality,
}

/// Judges the networks on at most `most` held-out windows, with latent actions quantised or not.
pub(super) fn judge(
    trainer: &dyn DynamicsTrainer,
    task: &TrainDynamicsTask,
    data: &Data,
    most: usize,
    quantise: bool,
) -> Result<Verdict, Error> {
    let config = trainer.config();
    let networks = trainer.evaluator();
    let networks = networks.as_ref();
    let held_out = score(networks, task, data, most, quantise)?;
    let probe = match &data.actions {
        None => None,
        Some(actions) => {
            // The probe needs training data of its own, which the model may have seen.
            let training = latent_actions(networks, task, data, most * PROBE_RATIO)?;
            probe::judge(actions, config, data, &training, &held_out, task.seed)?
        }
    };
    let in_training = InTraining { networks, task, quantise };
    let tested = latent_quality::measure(&in_training, &data.shards, &data.held_out, task.seed)?;
    let latents = LatentQuality {
        information_db: decibels(held_out.errors.fdm_shuffled, held_out.errors.fdm),
        commonest_code_share: commonest_share(&held_out.codes, config.codes()),
        ..tested
    };
    // Codes are `[window, codebook, position]`.
    let books = if quantise { config.vq.codebooks } else { 0 };
    let mut counts = vec![vec![0_u64; config.vq.entries]; books];
    for (i, code) in held_out.codes.iter().enumerate() {
        counts[i / config.vq.positions % config.vq.codebooks][usize::from(*code)] += 1;
    }
    Ok(Verdict {
        training_windows: data.training.len(),
        windows: held_out.latents.windows.len(),
        held_out: task.holdout > 0,
        fdm_error: held_out.errors.fdm,
        copy_error: held_out.errors.copy,
        fdm_error_shuffled: held_out.errors.fdm_shuffled,
        codes_used: counts.iter().map(|book| book.iter().filter(|n| **n > 0).count()).collect(),
        perplexity: counts.iter().map(|book| entropy(book).exp2()).collect(),
        entries: config.vq.entries,
        probe,
        latents,
    })
}

impl Verdict {
    /// Returns the verdict as a sentence.
    pub fn sentence(&self) -> String {
        let split = if self.held_out { "held-out" } else { "training" };
        let codes = if self.codes_used.is_empty() {
            "codes are not in use".to_owned()
        } else {
            let used: Vec<String> = self.codes_used.iter().map(ToString::to_string).collect();
            format!("codes in use: {} of {}", used.join(" and "), self.entries)
        };
        let probe = self.probe.as_ref().map(probe_clause).unwrap_or_default();
        format!("on {} {split} windows {}; {codes}{probe}", self.windows, self.error_clause())
    }

    /// Returns the clause on the FDM's error, or on why there is none.
    fn error_clause(&self) -> String {
        if self.windows == 0 {
            return "the model cannot be judged".into();
        }
        if self.copy_error == 0.0 {
            return "nothing moves: every frame equals the one before, so latent actions cannot be \
                    judged"
                .into();
        }
        match ratio(self.fdm_error, self.copy_error) {
            Some(share) => format!(
                "the world model's error is {share:.2}x copying the last frame; {}",
                self.information_clause()
            ),
            None => "the world model's error is not finite, so it cannot be judged".into(),
        }
    }

    /// Returns the FDM's error with shuffled latent actions over its error with their own. 1:
    /// latent actions carry no information.
    ///
    /// `None` if it is undefined, as for an FDM without any error.
    pub fn information_used(&self) -> Option<f64> {
        ratio(self.fdm_error_shuffled, self.fdm_error).filter(|_| self.copy_error > 0.0)
    }

    /// Returns the clause on how much information latent actions carry, and on a leak: a latent
    /// action that copies the next frame costs much when it is shuffled, too.
    fn information_clause(&self) -> String {
        let used = self.information_used();
        if let Some(leak) = self.latents.leak_clause() {
            return match used {
                None => leak,
                Some(used) => format!("shuffled latent actions cost {used:.2}x, but {leak}"),
            };
        }
        match used {
            None => {
                "the cost of shuffled latent actions is undefined, so the information in latent \
                     actions is unknown"
                    .into()
            }
            Some(used) if used < 1.02 => format!(
                "shuffled latent actions cost nothing ({used:.3}x): latent actions carry no \
                 information yet"
            ),
            Some(used) if self.latents.leaks().is_none() => format!(
                "shuffled latent actions cost {used:.2}x, but whether latent actions leak the next \
                 frame is unknown"
            ),
            Some(used) if used < 1.5 => format!(
                "shuffled latent actions cost {used:.2}x: latent actions carry some information"
            ),
            Some(used) => format!(
                "shuffled latent actions cost {used:.2}x: latent actions encode what happened"
            ),
        }
    }

    /// Returns the content of `verdict.json`.
    pub(super) fn json(&self) -> String {
        let derived = serde_json::json!({
            "sentence": self.sentence(),
            "information_used": self.information_used(),
        });
        verdict_json(derived, self)
    }

    /// Returns the metrics of the verdict. A ratio to 0, as for frames that do not change, is NaN;
    /// the metrics hold it as null.
    pub(super) fn row(&self) -> Vec<(String, f32)> {
        let ratios = [
            ("held_out_error_relative", ratio(self.fdm_error, self.copy_error)),
            ("information_used", self.information_used()),
        ];
        let mut row: Vec<(String, f64)> = ratios
            .into_iter()
            .chain(self.latents.row())
            .map(|(name, value)| (name.to_owned(), value.unwrap_or(f64::NAN)))
            .collect();
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
            let optional = [
                ("mutual_information", probe.mutual_information),
                ("probe_linear_mse", probe.linear_mse),
                ("probe_mlp_mse", probe.mlp_mse),
            ];
            row.extend(
                optional.into_iter().filter_map(|(name, value)| Some((name.to_owned(), value?))),
            );
        }
        row.into_iter().map(|(name, value)| (name, value as f32)).collect()
    }

    /// Returns the counts and errors for the receipt.
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

/// Returns the clause on the probe.
fn probe_clause(probe: &Probe) -> String {
    match probe.action_entropy {
        Some(_) => format!(
            "; a probe predicts {:.2} of true actions (the most common action: {:.2})",
            probe.mlp, probe.guessing
        ),
        None => {
            let error = probe.mlp_mse.filter(|error| error.is_finite());
            let error = error.map(|error| format!(" (mean squared error {error:.3})"));
            let error = error.unwrap_or_default();
            format!("; a probe of the true action has R2 {:.2}{error}", probe.mlp)
        }
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
            latents: LatentQuality {
                splice_rebuilt: Some(0.02),
                transfer_rebuilt: Some(0.0),
                ..LatentQuality::default()
            },
        }
    }

    /// A verdict of undefined numbers claims no information, whichever of them is 0, infinite or
    /// NaN.
    #[test]
    fn undefined_numbers_make_no_good_verdict() {
        let odd = [0.0, 1e-4, f64::INFINITY, f64::NAN];
        for (fdm, copy, shuffled) in
            odd.into_iter().flat_map(|a| odd.into_iter().flat_map(move |b| odd.map(|c| (a, b, c))))
        {
            let sentence = verdict(fdm, copy, shuffled).sentence();
            assert!(!sentence.contains("NaN") && !sentence.contains("infx"), "{sentence}");
            let sound = fdm == 1e-4 && copy == 1e-4 && shuffled.is_finite();
            let claims_information = sentence.contains("encode what happened")
                || sentence.contains("carry some information");
            assert!(sound || !claims_information, "{sentence}");
        }
        // Whatever the tests of latent actions hold.
        let shares = [None, Some(f64::NAN), Some(f64::INFINITY), Some(-3.0), Some(0.9)];
        for (splice, transfer) in shares.into_iter().flat_map(|a| shares.map(|b| (a, b))) {
            let latents = LatentQuality {
                splice_rebuilt: splice,
                transfer_rebuilt: transfer,
                cycle_consistency: transfer,
                additivity: splice,
                information_db: splice,
                ..LatentQuality::default()
            };
            let verdict = Verdict { latents, ..verdict(1e-4, 3e-4, 3e-4) };
            let sentence = verdict.sentence();
            assert!(!sentence.contains("NaN") && !sentence.contains("inf"), "{sentence}");
            let leaks = sentence.contains("the latent action leaks the next frame");
            assert_eq!(leaks, splice == Some(0.9) || transfer == Some(0.9), "{sentence}");
            let is_sound = splice == Some(-3.0) && transfer == Some(-3.0);
            assert_eq!(sentence.contains("encode what happened"), is_sound, "{sentence}");
            assert_eq!(sentence.contains("is unknown"), !is_sound && !leaks, "{sentence}");
            for property in verdict.latents.properties() {
                let is_known = property.value.is_some_and(f64::is_finite);
                let text = &property.sentence;
                assert_eq!(text.contains("is unknown"), !is_known, "{text}");
                assert!(!text.contains("NaN") && !text.contains("inf "), "{text}");
            }
        }
        let sentence = verdict(0.0, 0.0, 0.0).sentence();
        assert!(sentence.contains("nothing moves"), "{sentence}");
        let sentence = verdict(0.0, 1e-4, 1e-4).sentence();
        let expected =
            "0.00x copying the last frame; the cost of shuffled latent actions is undefined";
        assert!(sentence.contains(expected), "{sentence}");
        let sentence = Verdict { windows: 0, ..verdict(f64::NAN, f64::NAN, f64::NAN) }.sentence();
        assert!(sentence.contains("cannot be judged"), "{sentence}");
    }

    #[test]
    fn a_leak_is_called_so_and_is_no_information() {
        let leaking = LatentQuality {
            splice_rebuilt: Some(0.93),
            transfer_rebuilt: Some(0.5),
            ..LatentQuality::default()
        };
        let sentence = |fdm: f64, shuffled: f64| {
            Verdict { latents: leaking.clone(), ..verdict(fdm, 3e-4, shuffled) }.sentence()
        };
        let text = sentence(1e-4, 9e-4);
        let expected = "shuffled latent actions cost 9.00x, but the latent action leaks the next \
                        frame: from it the world model rebuilds 0.93 of a frame of an unrelated \
                        clip";
        assert!(text.contains(expected) && !text.contains("encode what happened"), "{text}");
        // A perfect copy has no error.
        let text = sentence(0.0, 9e-4);
        assert!(text.contains("copying the last frame; the latent action leaks"), "{text}");
    }

    #[test]
    fn verdicts_of_older_versions_are_read() {
        let mut json = serde_json::to_value(verdict(1.0, 2.0, 3.0)).unwrap_or_default();
        let fields = json.as_object_mut().map(|fields| {
            let names = LatentQuality::default().row().map(|(name, _)| name);
            names.map(|name| fields.remove(name).is_some())
        });
        assert_eq!(fields, Some([true; 9]));
        let old: Option<Verdict> = serde_json::from_value(json).ok();
        let expected = Verdict { latents: LatentQuality::default(), ..verdict(1.0, 2.0, 3.0) };
        assert_eq!(old, Some(expected));
    }

    #[test]
    fn a_verdict_is_a_sentence_on_errors_information_and_codes() {
        assert_eq!(
            verdict(1.8e-4, 3.1e-4, 1.8e-4).sentence(),
            "on 222 held-out windows the world model's error is 0.58x copying the last frame; \
             shuffled latent actions cost nothing (1.000x): latent actions carry no information \
             yet; codes in use: 34 and 41 of 64"
        );
    }
}
