//! What latent actions tell of true ones, where these are known: scored windows and a file of actions go in, accuracies come out.

use rand::seq::SliceRandom;

use super::TrainDynamicsTask;
use super::verdict::{Latents, Scored};
use crate::dataset::{Action, Actions, Shards, Store, WindowIndex};
use crate::models::DynamicsConfig;
use crate::stages::Error;
use crate::stages::labelled_pairs::answers;
use crate::train::batch;
use crate::train::decoder::Pairs;
use crate::train::probe::{Probe, probe};

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
    fn of(
        &self,
        shards: &Shards,
        index: &WindowIndex,
        window: usize,
    ) -> Result<Option<Action<'_>>, Error> {
        let place = index.locate(window);
        let (shard, row) = (shards.shard(place.shard)?, place.row + self.context);
        Ok(self.actions.get(shard.video(row), shard.frame_index(row)))
    }

    /// So many windows whose action is known, drawn at random; fewer if there are not so many.
    pub(super) fn draw(
        &self,
        shards: &Shards,
        index: &WindowIndex,
        count: usize,
        seed: u64,
    ) -> Result<Vec<(usize, u32)>, Error> {
        let mut order: Vec<usize> = (0..index.len()).collect();
        order.shuffle(&mut batch::generator(seed, "supervision", 0));
        let discrete = |window: usize| match self.of(shards, index, window)? {
            Some(Action::Discrete(action)) => Ok(Some((window, action))),
            Some(Action::Continuous(_)) | None => Ok(None),
        };
        let known = order.into_iter().map(discrete);
        known.filter_map(Result::transpose).take(count).collect()
    }

    /// The windows whose action is known, as pairs; and the places of these windows among all.
    fn pairs(
        &self,
        shards: &Shards,
        index: &WindowIndex,
        latents: &Latents,
    ) -> Result<(Pairs, Vec<usize>), Error> {
        let dim = latents.latent_action.len() / latents.windows.len().max(1);
        let (mut places, mut known) = (Vec::new(), Vec::new());
        for (i, &window) in latents.windows.iter().enumerate() {
            if let Some(action) = self.of(shards, index, window)? {
                places.push(i);
                known.push(action);
            }
        }
        let latent_action = places
            .iter()
            .flat_map(|i| latents.latent_action[i * dim..][..dim].iter().copied())
            .collect();
        Ok((
            Pairs { latent_action, action: answers(known.into_iter(), self.actions.axes()) },
            places,
        ))
    }
}

/// Trains networks on the windows the model learnt from and asks them about the others. Nothing if no action is known.
pub(super) fn judge(
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
    let in_use = !held_out.1.codes.is_empty();
    let codes: Vec<u16> = places
        .iter()
        .filter(|_| in_use)
        .flat_map(|i| held_out.1.codes[i * config.codes()..][..config.codes()].iter().copied())
        .collect();
    Ok(Some(probe(&known, &asked, &codes, seed)?))
}
