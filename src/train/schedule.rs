//! Learning rate schedules: straight lines between knots.

/// A piecewise linear schedule, constant before the first knot and after the last.
#[derive(Clone, Debug, PartialEq)]
pub struct Schedule {
    /// Steps and values.
    knots: Vec<(f64, f64)>,
}

impl Schedule {
    /// Creates a schedule through knots `(step, value)`, in any order.
    pub fn new(mut knots: Vec<(f64, f64)>) -> Self {
        knots.sort_by(|a, b| a.0.total_cmp(&b.0));
        Schedule { knots }
    }

    /// Returns the schedule of the paper's stage 1: from 10% of the peak to the peak in `warmup`
    /// steps, then down to 1% one step after the last.
    pub fn warmup_then_linear(peak: f64, warmup: u64, steps: u64) -> Self {
        Self::new(vec![(0.0, 0.1 * peak), (warmup as f64, peak), (steps as f64 + 1.0, 0.01 * peak)])
    }

    /// Returns the value at `step`.
    pub fn at(&self, step: u64) -> f64 {
        let step = step as f64;
        let after = self.knots.partition_point(|knot| knot.0 <= step);
        match (after.checked_sub(1).map(|i| self.knots[i]), self.knots.get(after)) {
            (Some((x0, y0)), Some(&(x1, y1))) => y0 + (y1 - y0) * (step - x0) / (x1 - x0),
            (Some((_, y)), None) | (None, Some(&(_, y))) => y,
            (None, None) => 0.0,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_schedule_of_stage_1_equals_the_published_one() {
        // Values of numpy.interp(step, [0, 50, 1001], [3e-5, 3e-4, 3e-6]).
        let lr = Schedule::warmup_then_linear(3e-4, 50, 1000);
        for (step, expect) in [
            (0, 3e-5),
            (25, 1.65e-4),
            (50, 3e-4),
            (525, 0.00015165615141955836),
            (1001, 3e-6),
            (2000, 3e-6),
        ] {
            assert!((lr.at(step) - expect).abs() < 1e-12, "step {step}: {}", lr.at(step));
        }
    }

    #[test]
    fn a_training_shorter_than_its_warmup_never_reaches_the_peak() {
        let lr = Schedule::warmup_then_linear(1.0, 50, 10);
        assert!((0..=10).all(|step| lr.at(step) < 1.0));
    }
}
