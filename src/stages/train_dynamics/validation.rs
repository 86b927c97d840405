//! The rules for the settings of `train_dynamics`.

use super::TrainDynamicsConfig;
use crate::models::{FdmAction, IdmHead, Predict, VqConfig};
use crate::stages::FieldFaults;
use crate::stages::plan::training::Refresh;
use crate::train::OptimizerKind;

impl TrainDynamicsConfig {
    /// Returns the faults of all fields.
    pub(super) fn faults(&self) -> FieldFaults {
        let mut faults = FieldFaults::default();
        self.expect_steps(&mut faults);
        self.expect_supervision(&mut faults);
        if self.reference {
            self.expect_published(&mut faults);
        }
        if let Refresh::Growth(share) = self.refresh {
            faults.expect(
                share.is_finite() && share > 0.0,
                "refresh",
                format_args!("is growth: {share}"),
                "expected a share above 0, e.g. 0.25",
            );
        }
        faults
    }

    /// Checks the settings of a step.
    fn expect_steps(&self, faults: &mut FieldFaults) {
        faults.expect_positive("steps", self.steps);
        faults.expect_positive("batch", self.batch);
        faults.expect_positive("accumulate", self.accumulate);
        // Each pass takes an equal part of both kinds of windows.
        let supervised = self.supervision.as_ref().map_or(0, |supervision| supervision.batch);
        let splits = |windows: usize| windows.is_multiple_of(self.accumulate.max(1));
        faults.expect_value(
            splits(self.batch) && splits(supervised),
            "accumulate",
            self.accumulate,
            "expected a divisor of `batch`, and of `batch` in `supervision`",
        );
        faults.expect_value(
            self.context <= 16,
            "context",
            self.context,
            "expected 0 to 16 frames; the paper uses 1",
        );
        for (field, rate) in
            [("learning_rate", self.learning_rate), ("idm_learning_rate", self.idm_learning_rate)]
        {
            // An unset rate is valid.
            let rate = rate.unwrap_or(3e-4);
            faults.expect_value(
                rate.is_finite() && rate > 0.0,
                field,
                rate,
                "expected a number above 0; the paper uses 3e-4",
            );
        }
        let weight = self.decorrelation.unwrap_or(0.0);
        faults.expect_value(
            weight.is_finite() && weight >= 0.0,
            "decorrelation",
            weight,
            "expected a number of at least 0",
        );
        let decay = self.ema_decay.unwrap_or(0.0);
        faults.expect_value(
            (0.0..1.0).contains(&decay),
            "ema_decay",
            decay,
            "expected a number from 0 to below 1, e.g. 0.999",
        );
    }

    /// Checks the supervision by true actions.
    fn expect_supervision(&self, faults: &mut FieldFaults) {
        let Some(supervision) = &self.supervision else { return };
        faults.expect(
            self.actions.is_some(),
            "supervision",
            "has no true actions",
            "name the stage with true actions in `actions:`",
        );
        faults.expect(
            supervision.labels > 0 && supervision.batch > 0,
            "supervision",
            "has no labels",
            "expected `labels` and `batch` of at least 1",
        );
        let weight = supervision.weight;
        faults.expect(
            weight.is_finite() && weight > 0.0,
            "supervision",
            format_args!("has weight {weight}"),
            "expected a number above 0",
        );
    }

    /// Rejects settings that differ from the paper's, with `reference: true`.
    fn expect_published(&self, faults: &mut FieldFaults) {
        let vq = VqConfig::default();
        let departures = [
            ("optimizer", self.optimizer == Some(OptimizerKind::Muon)),
            ("idm_learning_rate", self.idm_learning_rate.is_some()),
            ("supervision", self.supervision.is_some()),
            ("decorrelation", self.decorrelation.unwrap_or(0.0) > 0.0),
            ("ema_decay", self.ema_decay.is_some()),
            ("horizon", !self.horizon.is_next_frame()),
            ("predict", self.predict == Some(Predict::Change)),
            ("idm_head", self.idm_head == Some(IdmHead::Motion)),
            ("fdm_action", self.fdm_action == Some(FdmAction::Modulate)),
            ("fdm_bottom", self.fdm_bottom.is_some_and(|side| side != 1)),
            // A value that equals the default may be unset, so only a third value is a fault.
            ("vq.warmup", self.vq.quantises() && ![0.0, vq.warmup].contains(&self.vq.warmup)),
            ("vq.decay", ![0.999, vq.decay].contains(&self.vq.decay)),
            ("vq.revive_after", ![0, vq.revive_after].contains(&self.vq.revive_after)),
        ];
        for (field, departs) in departures {
            faults.expect(
                !departs,
                field,
                "differs from the paper's value, but `reference` is true",
                "remove one of the two",
            );
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::stages::Stage;

    fn faults(reference: bool, field: &str, value: &str) -> Vec<&'static str> {
        let outer = field.split('.').next().unwrap_or(field);
        let fields =
            format!(r#"{{ "frames": "frames", "reference": {reference}, "{outer}": {value} }}"#);
        let config: TrainDynamicsConfig =
            serde_json::from_str(&fields).expect("fields of the stage");
        config.validate().into_iter().map(|(field, ..)| field).collect()
    }

    #[test]
    fn reference_rejects_settings_that_depart_from_the_paper() {
        for (field, departs, keeps) in [
            ("optimizer", r#""muon""#, r#""adam""#),
            ("decorrelation", "0.1", "0"),
            ("horizon", "5", "1"),
            ("predict", r#""change""#, r#""frame""#),
            ("idm_head", r#""motion""#, r#""flatten""#),
            ("fdm_action", r#""modulate""#, r#""tile""#),
            ("fdm_bottom", "8", "1"),
            ("vq.warmup", r#"{ "warmup": 0.5 }"#, r#"{ "warmup": 0 }"#),
            ("vq.warmup", r#"{ "warmup": 0.5 }"#, r#"{ "warmup": 1 }"#),
            ("vq.decay", r#"{ "decay": 0.95 }"#, r#"{ "decay": 0.999 }"#),
            ("vq.revive_after", r#"{ "revive_after": 50 }"#, r#"{ "revive_after": 0 }"#),
        ] {
            assert_eq!(faults(true, field, departs), [field]);
            assert_eq!(faults(true, field, keeps), [""; 0]);
            assert_eq!(faults(false, field, departs), [""; 0]);
        }
    }
}
