//! Statistics of the intervals between consecutive pictures.

/// Intervals between consecutive pictures, in ticks.
#[derive(Debug, Default)]
pub(super) struct Intervals {
    shortest: i64,
    longest: i64,
    sum: i64,
    count: i64,
}

impl Intervals {
    /// Adds an interval. Unknown and non-positive ones are ignored.
    pub(super) fn add(&mut self, interval: Option<i64>) {
        let Some(interval) = interval.filter(|interval| *interval > 0) else { return };
        self.shortest = if self.count == 0 { interval } else { self.shortest.min(interval) };
        self.longest = self.longest.max(interval);
        self.sum += interval;
        self.count += 1;
    }

    fn mean(&self) -> f64 {
        self.sum as f64 / self.count.max(1) as f64
    }

    /// Returns whether the rate is variable: the intervals differ by more than rounding to ticks.
    pub(super) fn vary(&self) -> bool {
        let spread = (self.longest - self.shortest) as f64;
        // A spread of one tick is rounding if a picture lasts at least 8 ticks.
        spread > 0.1 * self.mean() && !(spread <= 1.0 && self.mean() >= 8.0)
    }

    /// Returns the number of pictures in an interval, if the rate is constant and known precisely
    /// enough.
    pub(super) fn pictures_in(&self, interval: i64) -> Option<u64> {
        let pictures = interval as f64 / self.mean();
        // The error of the mean grows with the length, so long intervals need more samples.
        let is_precise =
            (pictures - pictures.round()).abs() < 0.25 && pictures < 16.0 * self.count as f64;
        (self.count >= 2 && !self.vary() && is_precise && pictures.round() >= 1.0)
            .then(|| pictures.round() as u64)
    }
}
