//! The teacher: trains the decoder of the supervised path on the agent's own play.
//!
//! The IDM infers the latent action of each step, and the action that was taken is known.

use rand::seq::SliceRandom;

use super::rollout::Rollout;
use crate::models::{DecoderConfig, LabelOutputs, Labeller, LoadedDecoder};
use crate::stages::Error;
use crate::train::batch;
use crate::train::decoder::{FitSettings, fit};
use crate::train::pairs::{ColumnStats, Pairs, TrueActions};
use crate::train::refit::{RefitSettings, refit};

/// An IDM and the pairs that it inferred.
pub(super) struct Teacher {
    idm: Box<dyn Labeller>,
    /// Whether the decoder is trained as in the published code.
    reference: bool,
    /// Latent actions and the actions taken.
    pub(super) pairs: Pairs,
}

impl Teacher {
    pub(super) fn new(idm: Box<dyn Labeller>, reference: bool) -> Self {
        Teacher { idm, reference, pairs: no_pairs() }
    }

    /// Adds the pairs of a rollout: windows within one episode and this rollout.
    ///
    /// # Shapes
    /// - `rollout.frames`: `[step + 1, env, bytes]`
    pub(super) fn collect<B: burn::tensor::backend::Backend>(
        &mut self,
        rollout: &Rollout<B>,
    ) -> Result<(), Error> {
        let envs = rollout.last_values.len();
        let steps = rollout.actions.len() / envs;
        let context = self.idm.config().context;
        let bytes = rollout.frames.len() / ((steps + 1) * envs);
        // The IDM reads consecutive frames, so those of each environment are brought together.
        let mut frames = Vec::with_capacity(rollout.frames.len());
        let mut starts = Vec::new();
        let mut taken = Vec::new();
        for env in 0..envs {
            for t in 0..=steps {
                frames.extend_from_slice(&rollout.frames[(t * envs + env) * bytes..][..bytes]);
            }
            for t in windows_within_episodes(&rollout.dones, env, envs, context) {
                starts.push(env * (steps + 1) + t - context);
                taken.push(rollout.actions[t * envs + env]);
            }
        }
        let labels = self.idm.label(&frames, &starts, LabelOutputs::default())?;
        self.pairs.latent_action.extend(labels.latent_action);
        if let TrueActions::Discrete(actions) = &mut self.pairs.action {
            actions.extend(taken);
        }
        Ok(())
    }

    /// Deletes all pairs, to free their memory.
    pub(super) fn clear(&mut self) {
        self.pairs = no_pairs();
    }

    /// Trains a fresh decoder on all pairs.
    pub(super) fn train(
        &self,
        config: &DecoderConfig,
        seed: u64,
        update: u64,
    ) -> Result<LoadedDecoder, Error> {
        let init = seed ^ update;
        if self.reference {
            let settings = RefitSettings::PUBLISHED;
            return Ok(refit(config, &settings, &self.pairs, init)?);
        }
        // `fit` holds out every tenth pair, so they must be in random order.
        let mut order: Vec<usize> = (0..self.pairs.len()).collect();
        order.shuffle(&mut batch::generator(seed, "teach", update));
        let RefitSettings { epochs, batch, learning_rate, label_smoothing } =
            RefitSettings::PUBLISHED;
        let settings = FitSettings {
            hidden: config.hidden.clone(),
            steps: (epochs * order.len()).div_ceil(batch) as u64,
            batch,
            learning_rate,
            label_smoothing,
            stop: None,
        };
        let pairs = self.pairs.take(&order);
        let stats = ColumnStats::of(&pairs.latent_action, config.latent_dim);
        Ok(fit(config, &settings, &pairs, &stats, init)?)
    }
}

fn no_pairs() -> Pairs {
    Pairs { latent_action: Vec::new(), action: TrueActions::Discrete(Vec::new()) }
}

/// Returns the steps of one environment whose windows lie within one episode. A window has
/// `context` frames before the step's frame and one after it.
///
/// # Shapes
/// - `dones`: `[step, env]`
fn windows_within_episodes(
    dones: &[bool],
    env: usize,
    envs: usize,
    context: usize,
) -> impl Iterator<Item = usize> {
    let is_done = move |t: usize| dones[t * envs + env];
    // The frame after a step with `done` is of the next episode.
    (context..dones.len() / envs).filter(move |t| (t - context..=*t).all(|t| !is_done(t)))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn windows_never_cross_the_end_of_an_episode() {
        // Two environments. An episode ends with the second step of the first one, and with the
        // fourth step of the other.
        let dones =
            [false, false, true, false, false, false, false, true, false, false, false, false];
        let windows =
            |env, context| windows_within_episodes(&dones, env, 2, context).collect::<Vec<_>>();
        // With a context of 1 the window of step t has the frames t-1, t and t+1.
        assert_eq!(windows(0, 1), [3, 4, 5]);
        assert_eq!(windows(1, 1), [1, 2, 5]);
        assert_eq!(windows(1, 0), [0, 1, 2, 4, 5]);
    }
}
