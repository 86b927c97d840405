//! The timetable of a training from a latent policy: when its decoder is trained and its layers
//! begin to learn.

use super::FinetuneConfig;
use crate::stages::FieldFaults;

/// Environment steps of the published timetable, until the last learning rate is at its peak.
pub(super) const FULL_STEPS: u64 = 200_000;
/// Updates in which the decoder, the heads and the trunk learn at least once each.
pub(super) const MIN_UPDATES: u64 = 5;
/// Environment steps until which the published timetable trains the decoder after every update.
pub(super) const OFTEN_UNTIL: u64 = 50_000;

/// Environment steps between the phases of a training from a latent policy.
///
/// These are the numbers of LAPO's published code. A training of fewer than 200,000 steps has the
/// same phases, each shorter by the same factor.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Timetable {
    /// After these, the decoder is trained for the first time.
    pub decoder_from: f64,
    /// Until these, it is trained after every update.
    pub decoder_often_until: f64,
    /// Updates between two trainings of it from then on.
    pub decoder_every: u64,
    /// Until these, it is trained at all. By then it no longer improves.
    pub decoder_until: f64,
    /// Until these, the value head rests.
    pub value_head_from: f64,
    /// Until these, the policy head rests.
    pub policy_head_from: f64,
    /// Here both heads have their peak learning rates.
    pub heads_peak_at: f64,
    /// Until these, the trunk rests.
    pub trunk_from: f64,
    /// Here the trunk has its peak learning rate.
    pub trunk_peaks_at: f64,
}

impl FinetuneConfig {
    /// Returns the timetable of a training from a latent policy.
    pub fn timetable(&self) -> Timetable {
        let steps = self.steps.min(FULL_STEPS) as f64;
        // Multiplied first, so that rounding cannot move the last phase beyond the end.
        let scaled = |published: f64| published * steps / FULL_STEPS as f64;
        Timetable {
            decoder_from: scaled(10_000.0),
            decoder_often_until: scaled(OFTEN_UNTIL as f64),
            decoder_every: (scaled(20.0).round() as u64).max(1),
            decoder_until: scaled(400_000.0),
            value_head_from: scaled(25_000.0),
            policy_head_from: scaled(35_000.0),
            heads_peak_at: scaled(50_000.0),
            trunk_from: scaled(50_000.0),
            trunk_peaks_at: scaled(FULL_STEPS as f64),
        }
    }

    /// Returns whether the training is too short for the published timetable. From scratch there is
    /// no timetable.
    pub fn has_short_timetable(&self) -> bool {
        !self.from_scratch && self.steps < FULL_STEPS
    }

    /// Expects at least one update in each phase, so that no part rests until the end.
    pub(super) fn expect_timetable(&self, faults: &mut FieldFaults) {
        let batch = self.batch() as u64;
        let least = if self.from_scratch { 1 } else { MIN_UPDATES } * batch.max(1);
        let cure = if self.from_scratch {
            "expected at least `envs` x `rollout`, one update"
        } else {
            "expected at least 5 x `envs` x `rollout`: with fewer updates than five, the decoder, \
             the heads or the trunk would not learn"
        };
        let seen = format_args!("is {}, less than {least}", self.steps);
        faults.expect(self.steps >= least, "steps", seen, cure);
        faults.expect(
            !self.has_supervised_path() || batch < OFTEN_UNTIL,
            "rollout",
            format_args!("makes updates of {batch} steps"),
            "expected `envs` x `rollout` below 50,000, the steps in which the decoder learns first",
        );
    }
}

impl Timetable {
    /// Returns whether the decoder still needs pairs after `env_steps` environment steps.
    pub(super) fn collects(&self, env_steps: u64) -> bool {
        (env_steps as f64) < self.decoder_until
    }

    /// Returns whether the decoder is trained after an update, counted from 1, and `env_steps`
    /// environment steps.
    pub(super) fn trains_decoder(&self, update: u64, env_steps: u64) -> bool {
        let often = (env_steps as f64) < self.decoder_often_until;
        self.decoder_from < env_steps as f64
            && self.collects(env_steps)
            && (often || update.is_multiple_of(self.decoder_every))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::stages::finetune::LearningRates;

    fn config(steps: u64, batch: usize) -> FinetuneConfig {
        let config = format!(r#"{{"game":"maze","steps":{steps},"envs":1,"rollout":{batch}}}"#);
        serde_json::from_str(&config).expect("settings")
    }

    /// Returns the updates after which the decoder is trained.
    fn decoder_trainings(config: &FinetuneConfig) -> Vec<u64> {
        let timetable = config.timetable();
        let batch = config.batch() as u64;
        let trains = |update: &u64| timetable.trains_decoder(*update, update * batch);
        (1..=config.updates()).filter(trains).collect()
    }

    #[test]
    fn the_decoder_is_trained_after_the_published_updates() {
        let trainings = [3, 4, 5, 6, 7, 8, 9, 10, 11, 12, 20, 40, 60, 80];
        assert_eq!(decoder_trainings(&config(4_000_000, 4096)), trainings);
        assert_eq!(decoder_trainings(&config(200_000, 4096)), trainings[..12]);
        let timetable = config(4_000_000, 4096).timetable();
        assert!(timetable.collects(399_999) && !timetable.collects(400_000));
    }

    #[test]
    fn a_short_training_has_the_published_phases_in_the_same_proportions() {
        // A hundredth of the published steps, in updates of a hundredth of the published size.
        let short = config(2_000, 40).timetable();
        assert_eq!((short.decoder_from, short.decoder_often_until), (100.0, 500.0));
        assert_eq!((short.value_head_from, short.policy_head_from), (250.0, 350.0));
        assert_eq!((short.heads_peak_at, short.trunk_from), (500.0, 500.0));
        assert_eq!((short.trunk_peaks_at, short.decoder_until), (2_000.0, 4_000.0));
        assert_eq!(decoder_trainings(&config(2_000, 40))[..3], [3, 4, 5]);
    }

    /// Every training that the settings allow trains the decoder and moves both heads and the
    /// trunk; the decoder is trained before any of them moves.
    #[test]
    fn no_part_of_an_allowed_training_rests_until_its_end() {
        let mut counts = (0, 0);
        for batch in [3, 24, 512, 4096, 49_999, 50_000, 1 << 20] {
            for tenths in (1..=400).chain([1_000, 10_000]) {
                let config = config((batch * tenths / 10) as u64, batch);
                let mut faults = FieldFaults::default();
                config.expect_timetable(&mut faults);
                let allowed = faults.into_vec().is_empty();
                let moving = |rate: fn(&LearningRates) -> &crate::train::schedule::Schedule| {
                    let rates = config.learning_rates();
                    (1..=config.updates())
                        .find(|update| rate(&rates).at((update - 1) * batch as u64) > 0.0)
                };
                let moving =
                    [moving(|r| &r.value_head), moving(|r| &r.policy_head), moving(|r| &r.trunk)];
                let trained = decoder_trainings(&config).first().copied();
                let all_learn = trained.is_some()
                    && moving
                        .iter()
                        .all(|update| update.is_some_and(|update| trained < Some(update)));
                assert!(all_learn || !allowed, "{config:?}: {trained:?} {moving:?}");
                if allowed {
                    counts.0 += 1;
                } else {
                    counts.1 += 1;
                }
            }
        }
        assert!(counts.0 > 1_000 && counts.1 > 500, "{counts:?}");
    }
}
