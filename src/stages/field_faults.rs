//! Faults of a stage's settings. Start at [`FieldFaults`].

use std::fmt::Display;

/// A fault of a single field: the field, its value in words (`is 0`), and the expected value.
pub type FieldFault = (&'static str, String, &'static str);

/// Collects the faults of a stage's settings for [`Stage::validate`](super::Stage::validate).
///
/// ```ignore
/// let mut faults = FieldFaults::default();
/// faults.expect_positive("steps", self.steps);
/// faults.expect_value(self.noise <= 1.0, "noise", self.noise, "expected at most 1");
/// faults.expect(!self.hidden.contains(&0), "hidden", "has a 0", "expected widths of at least 1");
/// faults.into_vec()
/// ```
#[derive(Debug, Default)]
pub struct FieldFaults(Vec<FieldFault>);

impl FieldFaults {
    /// Adds a fault of `field` unless `holds`. `seen` follows the field's name in the message, as
    /// in "`steps` is 0"; `cure` is the hint.
    pub fn expect(
        &mut self,
        holds: bool,
        field: &'static str,
        seen: impl Display,
        cure: &'static str,
    ) {
        if !holds {
            self.0.push((field, seen.to_string(), cure));
        }
    }

    /// Adds a fault `is {value}` of `field` unless `holds`.
    pub fn expect_value(
        &mut self,
        holds: bool,
        field: &'static str,
        value: impl Display,
        cure: &'static str,
    ) {
        self.expect(holds, field, format_args!("is {value}"), cure);
    }

    /// Adds a fault of `field` if its count is 0.
    pub fn expect_positive<N: Default + PartialEq>(&mut self, field: &'static str, count: N) {
        self.expect(count != N::default(), field, "is 0", "expected at least 1");
    }

    /// Returns the faults in the order of their addition.
    pub fn into_vec(self) -> Vec<FieldFault> {
        self.0
    }
}
