//! The supervised path's decoder learns from own play: the IDM says which latent action each step was, and what was done is known.

use rand::seq::SliceRandom;

use super::rollout::Rollout;
use crate::models::{DecoderConfig, LabelOutputs, Labeller, LoadedDecoder};
use crate::stages::Error;
use crate::train::batch;
use crate::train::decoder::{Answers, Fit, Pairs, Spread, fit};

/// A decoder is taught after every update from the first of these many steps to the second, then after every [`OFTEN`]th to the third;
/// by then it is as good as it gets.
const TIMES: [u64; 3] = [10_000, 50_000, 400_000];
const OFTEN: u64 = 20;
/// Times it goes through all pairs, and pairs a step.
const EPOCHS: usize = 3;
const BATCH: usize = 512;

/// An IDM, and what it saw.
pub(super) struct Teacher {
    idm: Box<dyn Labeller>,
    /// Latent actions and what was done.
    pub(super) pairs: Pairs,
}

impl Teacher {
    pub(super) fn new(idm: Box<dyn Labeller>) -> Self {
        Teacher {
            idm,
            pairs: Pairs { latent_action: Vec::new(), action: Answers::Discrete(Vec::new()) },
        }
    }

    /// Whether what is played after so many steps will ever be learnt from.
    pub(super) fn listens(done: u64) -> bool {
        done < TIMES[2]
    }

    /// Whether a decoder is taught after this update, the first being 1, and so many steps.
    pub(super) fn teaches(update: u64, done: u64) -> bool {
        TIMES[0] < done && done < TIMES[2] && (done < TIMES[1] || update.is_multiple_of(OFTEN))
    }

    /// Keeps what the IDM sees in a rollout, beside what was done: windows within an episode and this rollout.
    ///
    /// # Shapes
    /// - `rollout.frames`: `[step + 1, env, bytes]`
    pub(super) fn remember<B: burn::tensor::backend::Backend>(
        &mut self,
        rollout: &Rollout<B>,
    ) -> Result<(), Error> {
        let envs = rollout.last_values.len();
        let (steps, context) = (rollout.actions.len() / envs, self.idm.config().context);
        let bytes = rollout.frames.len() / ((steps + 1) * envs);
        let (mut film, mut starts, mut done) =
            (Vec::with_capacity(rollout.frames.len()), Vec::new(), Vec::new());
        for env in 0..envs {
            (0..=steps).for_each(|t| {
                film.extend_from_slice(&rollout.frames[(t * envs + env) * bytes..][..bytes])
            });
            for t in whole_windows(&rollout.ends, env, envs, context) {
                starts.push(env * (steps + 1) + t - context);
                done.push(rollout.actions[t * envs + env]);
            }
        }
        self.pairs
            .latent_action
            .extend(self.idm.label(&film, &starts, LabelOutputs::default())?.latent_action);
        if let Answers::Discrete(actions) = &mut self.pairs.action {
            actions.extend(done);
        }
        Ok(())
    }

    /// Forgets all pairs.
    pub(super) fn forget(&mut self) {
        self.pairs = Pairs { latent_action: Vec::new(), action: Answers::Discrete(Vec::new()) };
    }

    /// A fresh decoder, taught on all that is remembered.
    pub(super) fn teach(
        &self,
        config: &DecoderConfig,
        seed: u64,
        update: u64,
    ) -> Result<LoadedDecoder, Error> {
        let mut order: Vec<usize> = (0..self.pairs.len()).collect();
        order.shuffle(&mut batch::generator(seed, "teach", update));
        let how = Fit {
            hidden: config.hidden.clone(),
            steps: (EPOCHS * order.len()).div_ceil(BATCH) as u64,
            batch: BATCH,
            learning_rate: 1e-3,
            label_smoothing: 0.05,
            stop: None,
        };
        let known = self.pairs.take(&order);
        let spread = Spread::of(&known.latent_action, config.latent_dim);
        Ok(fit(config, &how, &known, &spread, seed ^ update)?)
    }
}

/// The steps of one environment whose window, `context` frames before to one after, lies in one episode.
///
/// # Shapes
/// - `ends`: `[step, env]`
fn whole_windows(
    ends: &[bool],
    env: usize,
    envs: usize,
    context: usize,
) -> impl Iterator<Item = usize> {
    let ended = move |t: usize| ends[t * envs + env];
    (context..ends.len() / envs).filter(move |t| (t - context..=*t).all(|t| !ended(t)))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_timetable_is_the_published_one() {
        let taught: Vec<u64> =
            (1..=200).filter(|update| Teacher::teaches(*update, update * 4096)).collect();
        assert_eq!(taught, [3, 4, 5, 6, 7, 8, 9, 10, 11, 12, 20, 40, 60, 80]);
        assert!(Teacher::listens(399_999) && !Teacher::listens(400_000));
    }

    #[test]
    fn a_window_never_crosses_an_episode_s_end() {
        // Two environments; the first one's second step is its episode's last, the other one's fourth.
        let ends =
            [false, false, true, false, false, false, false, true, false, false, false, false];
        // A window at t spans frames t-1, t, t+1; frame t+1 is another episode's where step t was the last.
        assert_eq!(whole_windows(&ends, 0, 2, 1).collect::<Vec<_>>(), [3, 4, 5]);
        assert_eq!(whole_windows(&ends, 1, 2, 1).collect::<Vec<_>>(), [1, 2, 5]);
        assert_eq!(whole_windows(&ends, 1, 2, 0).collect::<Vec<_>>(), [0, 1, 2, 4, 5]);
    }
}
