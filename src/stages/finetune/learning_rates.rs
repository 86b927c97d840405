//! The learning rate of each layer of an agent, by environment steps.

use super::FinetuneConfig;
use crate::train::schedule::Schedule;

/// Adam's learning rate of each layer, by environment steps.
pub struct LearningRates {
    /// The policy head.
    pub policy_head: Schedule,
    /// The value head.
    pub value_head: Schedule,
    /// The last layer of the trunk; from scratch, all layers before the heads.
    pub trunk: Schedule,
}

impl FinetuneConfig {
    /// Returns the learning rates of all layers.
    ///
    /// From a latent policy they follow LAPO's published code: a layer rests at first, so that the
    /// decoder learns before it, then its rate rises to a share of the peak and falls to 0 at the
    /// end ([`Timetable`](super::Timetable)). From scratch all fall from the peak to 0.
    pub fn learning_rates(&self) -> LearningRates {
        let default = if self.from_scratch { 5e-4 } else { 1e-2 };
        let peak = self.learning_rate.unwrap_or(default);
        let end = self.steps as f64;
        if self.from_scratch {
            let falling = || Schedule::new(vec![(0.0, peak), (end, 0.0)]);
            return LearningRates {
                policy_head: falling(),
                value_head: falling(),
                trunk: falling(),
            };
        }
        let staged = |rests_until: f64, peak_at: f64, share: f64| {
            Schedule::new(vec![(0.0, 0.0), (rests_until, 0.0), (peak_at, peak * share), (end, 0.0)])
        };
        let timetable = self.timetable();
        LearningRates {
            policy_head: staged(timetable.policy_head_from, timetable.heads_peak_at, 0.25),
            value_head: staged(timetable.value_head_from, timetable.heads_peak_at, 0.25),
            trunk: staged(timetable.trunk_from, timetable.trunk_peaks_at, 0.1),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn rates(more: &str) -> LearningRates {
        let config = format!(r#"{{"game":"maze"{more}}}"#);
        let config: FinetuneConfig = serde_json::from_str(&config).expect("settings");
        config.learning_rates()
    }

    #[test]
    fn layers_of_a_policy_wait_for_the_decoder_and_then_fall_to_0() {
        let LearningRates { policy_head, value_head, trunk } = rates("");
        for (step, expect) in [
            (0, 0.0),
            (35_000, 0.0),
            (42_500, 1.25e-3),
            (50_000, 2.5e-3),
            (2_025_000, 1.25e-3),
            (4_000_000, 0.0),
        ] {
            assert!((policy_head.at(step) - expect).abs() < 1e-12, "{step}");
        }
        for (step, expect) in [(25_000, 0.0), (37_500, 1.25e-3), (50_000, 2.5e-3)] {
            assert!((value_head.at(step) - expect).abs() < 1e-12, "{step}");
        }
        for (step, expect) in
            [(50_000, 0.0), (125_000, 5e-4), (200_000, 1e-3), (2_100_000, 5e-4), (4_000_000, 0.0)]
        {
            assert!((trunk.at(step) - expect).abs() < 1e-12, "{step}");
        }
    }

    #[test]
    fn in_a_short_training_all_layers_learn_in_the_same_proportions() {
        let LearningRates { policy_head, value_head, trunk } = rates(r#","steps":20000"#);
        for (step, expect) in [(3_500, 0.0), (4_250, 1.25e-3), (5_000, 2.5e-3), (12_500, 1.25e-3)] {
            assert!((policy_head.at(step) - expect).abs() < 1e-12, "{step}");
        }
        assert!(value_head.at(2_500) == 0.0 && (value_head.at(3_750) - 1.25e-3).abs() < 1e-12);
        // The trunk reaches its peak at the end.
        assert!(trunk.at(5_000) == 0.0 && (trunk.at(12_500) - 5e-4).abs() < 1e-12);
        assert!(trunk.at(19_999) > 9e-4 && trunk.at(20_000) == 0.0);
    }

    #[test]
    fn from_scratch_all_layers_fall_from_the_peak_to_0() {
        let LearningRates { policy_head, value_head, trunk } =
            rates(r#","from_scratch":true,"steps":1000"#);
        assert!(
            [policy_head, value_head, trunk]
                .iter()
                .all(|rate| rate.at(0) == 5e-4 && rate.at(500) == 2.5e-4 && rate.at(1000) == 0.0)
        );
    }
}
