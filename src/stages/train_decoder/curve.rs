//! The accuracy of decoders by their number of training transitions.

use std::collections::BTreeMap;

use crate::dataset::{Column, FileInfo, write_table};
use crate::models::LoadedDecoder;
use crate::stages::model_files::ratio;
use crate::stages::{Error, TaskContext};
use crate::train::pairs::{Pairs, TrueActions};
use crate::train::probe::{constant_score, score};

/// The rows of `curve.parquet`, one for each decoder.
#[derive(Default)]
pub(super) struct Curve {
    transitions: Vec<u64>,
    draw: Vec<u64>,
    /// The share of correct actions. Null for continuous actions.
    accuracy: Vec<Option<f64>>,
    /// Null for discrete actions.
    r2: Vec<Option<f64>>,
}

impl Curve {
    /// Scores a decoder and adds its row.
    pub(super) fn add(
        &mut self,
        transitions: usize,
        draw: u64,
        decoder: &LoadedDecoder,
        held_out: &Pairs,
    ) -> Result<f64, Error> {
        let decoded = decoder.decode(&held_out.latent_action)?;
        let predicted = decoder.config.outputs.without_deviations(decoded);
        let score = score(&predicted, &held_out.action);
        let is_discrete = matches!(held_out.action, TrueActions::Discrete(_));
        self.transitions.push(transitions as u64);
        self.draw.push(draw);
        self.accuracy.push(is_discrete.then_some(score));
        self.r2.push((!is_discrete).then_some(score));
        Ok(score)
    }

    /// Returns the curve as a sentence: the mean score over draws for each number of transitions.
    pub(super) fn sentence(&self, held_out: &Pairs, is_held_out: bool) -> String {
        let mut scores: BTreeMap<u64, Vec<f64>> = BTreeMap::new();
        for (i, transitions) in self.transitions.iter().enumerate() {
            let score = self.accuracy[i].or(self.r2[i]).unwrap_or(f64::NAN);
            scores.entry(*transitions).or_default().push(score);
        }
        let means: Vec<String> = scores
            .into_iter()
            .map(|(transitions, scores)| match ratio(scores.iter().sum(), scores.len() as f64) {
                Some(mean) => format!("{mean:.3} from {transitions}"),
                None => format!("undefined from {transitions}"),
            })
            .collect();
        let means = means.join(", ");
        let split = if is_held_out { "held-out" } else { "training" };
        match &held_out.action {
            actions @ TrueActions::Discrete(_) => format!(
                "accuracy of the decoders on {split} transitions, by training transitions: {means} \
                 (the most common action: {:.3})",
                constant_score(actions)
            ),
            TrueActions::Continuous(..) => format!(
                "R2 of the decoders on {split} transitions, by training transitions: {means}"
            ),
        }
    }

    /// Writes `curve.parquet`.
    pub(super) fn write(self, ctx: &TaskContext) -> Result<FileInfo, Error> {
        let columns = [
            ("transitions", Column::U64(self.transitions)),
            ("draw", Column::U64(self.draw)),
            ("accuracy", Column::F64(self.accuracy)),
            ("r2", Column::F64(self.r2)),
        ];
        Ok(write_table(ctx.store, &format!("{}/curve.parquet", ctx.folder), &columns)?)
    }
}
