//! Probes the trained model: how well its latent actions predict known true actions.

use rand::seq::SliceRandom;

use super::scores::{Scores, WindowLatents};
use super::{Data, TrainDynamicsTask};
use crate::dataset::{Action, Actions, Shards, Store, WindowIndex};
use crate::models::DynamicsConfig;
use crate::stages::Error;
use crate::stages::labelled_pairs::true_actions;
use crate::train::batch;
use crate::train::pairs::Pairs;
use crate::train::probe::{Probe, probe};

/// The true actions of windows.
pub(super) struct WindowActions {
    actions: Actions,
    context: usize,
}

impl WindowActions {
    pub(super) fn read(task: &TrainDynamicsTask, store: &Store) -> Result<Self, Error> {
        let paths: Vec<String> = task.actions.iter().map(|file| file.path.clone()).collect();
        Ok(WindowActions { actions: Actions::read(store, &paths)?, context: task.config.context })
    }

    /// Returns the true action between the last two frames of a window, if it is known.
    fn get(
        &self,
        shards: &Shards,
        index: &WindowIndex,
        window: usize,
    ) -> Result<Option<Action<'_>>, Error> {
        let start = index.locate(window);
        let shard = shards.shard(start.shard)?;
        // The row of o[t], which is the one before last.
        let row = start.row + self.context;
        Ok(self.actions.get(shard.video(row), shard.frame_index(row)))
    }

    /// Draws up to `count` windows with a discrete true action at random.
    pub(super) fn draw(
        &self,
        shards: &Shards,
        index: &WindowIndex,
        count: usize,
        seed: u64,
    ) -> Result<Vec<(usize, u32)>, Error> {
        let mut order: Vec<usize> = (0..index.len()).collect();
        order.shuffle(&mut batch::generator(seed, "supervision", 0));
        let discrete = |window: usize| match self.get(shards, index, window)? {
            Some(Action::Discrete(action)) => Ok(Some((window, action))),
            Some(Action::Continuous(_)) | None => Ok(None),
        };
        // Lazy: it stops reading shards as soon as there are enough.
        order.into_iter().map(discrete).filter_map(Result::transpose).take(count).collect()
    }

    /// Returns the pairs of all windows with a known true action.
    fn pairs(
        &self,
        shards: &Shards,
        index: &WindowIndex,
        latents: &WindowLatents,
    ) -> Result<LabelledWindows, Error> {
        let dim = latents.latent_action.len() / latents.windows.len().max(1);
        let mut positions = Vec::new();
        let mut actions = Vec::new();
        for (i, &window) in latents.windows.iter().enumerate() {
            if let Some(action) = self.get(shards, index, window)? {
                positions.push(i);
                actions.push(action);
            }
        }
        let latent_action = positions
            .iter()
            .flat_map(|i| latents.latent_action[i * dim..][..dim].iter().copied())
            .collect();
        let action = true_actions(actions.into_iter(), self.actions.axes());
        Ok(LabelledWindows { pairs: Pairs { latent_action, action }, positions })
    }
}

/// The windows with a known true action.
struct LabelledWindows {
    pairs: Pairs,
    /// Their positions in [`WindowLatents::windows`].
    positions: Vec<usize>,
}

/// Trains probes on training windows and scores them on held-out ones. Returns `None` if either has
/// no window with a known true action.
pub(super) fn judge(
    actions: &WindowActions,
    config: &DynamicsConfig,
    data: &Data,
    training: &WindowLatents,
    held_out: &Scores,
    seed: u64,
) -> Result<Option<Probe>, Error> {
    let training = actions.pairs(&data.shards, &data.training, training)?.pairs;
    let labelled = actions.pairs(&data.shards, &data.held_out, &held_out.latents)?;
    if training.is_empty() || labelled.pairs.is_empty() {
        return Ok(None);
    }
    let mut codes: Vec<u16> = Vec::new();
    // Before codes are in use there are none.
    if !held_out.codes.is_empty() {
        for i in labelled.positions {
            codes.extend(&held_out.codes[i * config.codes()..][..config.codes()]);
        }
    }
    Ok(Some(probe(&training, &labelled.pairs, &codes, seed)?))
}
