//! What latent actions tell of true ones, where these are known: scored windows and a file of actions go in, accuracies come out.

use rand::seq::SliceRandom;
use serde::{Deserialize, Serialize};

use super::TrainDynamicsTask;
use super::verdict::{Latents, Scored, entropy};
use crate::dataset::{Actions, Shards, Store, WindowIndex};
use crate::models::DynamicsConfig;
use crate::stages::Error;
use crate::train::batch;
use crate::train::probe::{Classifier, Pairs, classify};

/// How well true actions can be told from latent ones, on windows the model never saw.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Probe {
    /// Windows whose true action is known and which were asked for.
    pub windows: usize,
    /// The share of the commonest action among them: what guessing gives.
    pub commonest: f64,
    /// Accuracy of a linear classifier on latent actions before quantisation.
    pub linear: f64,
    /// The same of two hidden layers of 128.
    pub mlp: f64,
    /// Bits the most telling code says of the true action.
    pub mutual_information: f64,
    /// Bits the true action has.
    pub action_entropy: f64,
    /// How often the hidden layers' classifier said what, `[true action][told]`: shows which actions look alike.
    pub confusion: Vec<Vec<u64>>,
}

/// Which true action belongs to which window.
pub(super) struct TrueActions {
    actions: Actions,
    context: usize,
}

impl TrueActions {
    pub(super) fn read(task: &TrainDynamicsTask, store: &Store) -> Result<Self, Error> {
        let paths: Vec<String> = task.actions.iter().map(|file| file.path.clone()).collect();
        Ok(TrueActions { actions: Actions::read(store, &paths)?, context: task.config.context })
    }

    /// The true action between the last two frames of a window, where it is known.
    fn of(&self, shards: &Shards, index: &WindowIndex, window: usize) -> Result<Option<u32>, Error> {
        let place = index.locate(window);
        let (shard, row) = (shards.shard(place.shard)?, place.row + self.context);
        Ok(self.actions.discrete(shard.video(row), shard.frame_index(row)))
    }

    /// So many windows whose action is known, drawn at random; fewer if there are not so many.
    pub(super) fn draw(&self, shards: &Shards, index: &WindowIndex, count: usize, seed: u64) -> Result<Vec<(usize, u32)>, Error> {
        let mut order: Vec<usize> = (0..index.len()).collect();
        order.shuffle(&mut batch::generator(seed, "supervision", 0));
        let known = order.into_iter().map(|window| Ok(self.of(shards, index, window)?.map(|action| (window, action))));
        known.filter_map(Result::transpose).take(count).collect()
    }

    /// The windows whose action is known, as pairs.
    fn pairs(&self, shards: &Shards, index: &WindowIndex, latents: &Latents) -> Result<(Pairs, Vec<usize>), Error> {
        let dim = latents.latent_action.len() / latents.windows.len().max(1);
        let known = latents.windows.iter().enumerate().map(|(i, &window)| Ok(self.of(shards, index, window)?.map(|action| (i, action))));
        let known: Vec<(usize, u32)> = known.filter_map(Result::transpose).collect::<Result<_, Error>>()?;
        let latent_action = known.iter().flat_map(|(i, _)| latents.latent_action[i * dim..][..dim].iter().copied()).collect();
        Ok((
            Pairs { latent_action, action: known.iter().map(|(_, action)| *action).collect() },
            known.into_iter().map(|(i, _)| i).collect(),
        ))
    }
}

/// Trains classifiers on the windows the model learnt from and asks them about the others. Nothing if no action is known.
pub(super) fn probe(
    actions: &TrueActions,
    config: &DynamicsConfig,
    shards: &Shards,
    training: (&WindowIndex, &Latents),
    held_out: (&WindowIndex, &Scored),
    seed: u64,
) -> Result<Option<Probe>, Error> {
    let (known, _) = actions.pairs(shards, training.0, training.1)?;
    let (asked, places) = actions.pairs(shards, held_out.0, &held_out.1.latents)?;
    if known.is_empty() || asked.is_empty() {
        return Ok(None);
    }
    let counts = table(asked.action.iter().map(|action| (0, *action)));
    let most = counts.iter().flatten().copied().max().unwrap_or(0);
    let said = |code: usize| places.iter().map(move |&i| usize::from(held_out.1.codes[i * config.codes() + code]));
    let codes = if held_out.1.codes.is_empty() { 0 } else { config.codes() };
    let told = (0..codes).map(|code| mutual_information(&table(said(code).zip(asked.action.iter().copied()))));
    let right = |told: &[u32]| told.iter().zip(&asked.action).filter(|(told, action)| told == action).count() as f64 / asked.len() as f64;
    let linear = classify(Classifier::Linear, &known, &asked, seed)?;
    let mlp = classify(Classifier::Mlp, &known, &asked, seed)?;
    Ok(Some(Probe {
        windows: asked.len(),
        commonest: most as f64 / asked.len() as f64,
        linear: right(&linear),
        mlp: right(&mlp),
        mutual_information: told.fold(0.0, f64::max),
        action_entropy: counts.first().map_or(0.0, |counts| entropy(counts)),
        confusion: table(asked.action.iter().map(|&action| action as usize).zip(mlp)),
    }))
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
    let columns: Vec<u64> = (0..width).map(|i| counts.iter().filter_map(|row| row.get(i)).sum()).collect();
    let all: Vec<u64> = counts.iter().flatten().copied().collect();
    entropy(&rows) + entropy(&columns) - entropy(&all)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_code_that_names_the_action_tells_all_its_bits() {
        assert!((mutual_information(&table([(0, 3), (1, 1), (2, 0), (3, 2)].into_iter())) - 2.0).abs() < 1e-12);
        assert!(mutual_information(&table([(0, 0), (0, 1), (1, 0), (1, 1)].into_iter())).abs() < 1e-12);
        // H(row) = 1, H(column) = 0.8113, H(pair) = 1.5
        assert!((mutual_information(&table([(0, 0), (0, 0), (1, 0), (1, 1)].into_iter())) - 0.311_278).abs() < 1e-6);
    }
}
