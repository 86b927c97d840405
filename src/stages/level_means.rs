//! Means of returns with honest errors: the independent units are levels, not episodes.
//!
//! All players of an evaluation meet the same levels, and a policy meets each level once with each
//! of its decoders. So episodes are first averaged for each level, and errors are those of the mean
//! over levels. Differences between players are paired by level.

use std::collections::BTreeMap;

/// A mean over levels.
#[derive(Clone, Copy, Debug, PartialEq, serde::Serialize)]
pub(super) struct LevelMean {
    pub mean: f64,
    /// The standard error of the mean. `None` with fewer than two levels.
    pub standard_error: Option<f64>,
    /// Number of levels.
    pub levels: usize,
}

/// Returns the mean return of each level, from levels and returns of episodes.
pub(super) fn by_level(episodes: impl IntoIterator<Item = (i64, f64)>) -> BTreeMap<i64, f64> {
    let mut sums: BTreeMap<i64, (f64, f64)> = BTreeMap::new();
    for (level, episode_return) in episodes {
        let (sum, count) = sums.entry(level).or_default();
        *sum += episode_return;
        *count += 1.0;
    }
    sums.into_iter().map(|(level, (sum, count))| (level, sum / count)).collect()
}

impl LevelMean {
    /// Averages one number for each level.
    pub(super) fn of(values: impl IntoIterator<Item = f64>) -> Self {
        let values: Vec<f64> = values.into_iter().collect();
        let count = values.len() as f64;
        let mean = values.iter().sum::<f64>() / count;
        let deviation = deviation(&values);
        LevelMean {
            mean,
            standard_error: deviation.map(|deviation| deviation / count.sqrt()),
            levels: values.len(),
        }
    }

    /// Returns the mean of `a - b` over the levels that both have.
    pub(super) fn of_difference(a: &BTreeMap<i64, f64>, b: &BTreeMap<i64, f64>) -> Self {
        Self::of(a.iter().filter_map(|(level, value)| Some(value - b.get(level)?)))
    }
}

/// Returns the unbiased standard deviation. `None` of fewer than two numbers.
pub(super) fn deviation(values: &[f64]) -> Option<f64> {
    let count = values.len() as f64;
    let mean = values.iter().sum::<f64>() / count;
    let squares = values.iter().map(|value| (value - mean).powi(2)).sum::<f64>();
    (values.len() > 1).then(|| (squares / (count - 1.0)).sqrt())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn repeated_episodes_of_a_level_do_not_make_an_error_smaller() {
        let once = [(1, 0.0), (2, 10.0), (3, 5.0)];
        let thrice = [once, once, once].concat();
        let mean = |episodes: &[(i64, f64)]| {
            LevelMean::of(by_level(episodes.iter().copied()).into_values())
        };
        assert_eq!(mean(&once), mean(&thrice));
        assert_eq!(mean(&once).mean, 5.0);
        let error = mean(&once).standard_error.unwrap_or(f64::NAN);
        assert!((error - 5.0 / 3.0_f64.sqrt()).abs() < 1e-12, "{error}");
        assert_eq!(mean(&once[..1]).standard_error, None);
    }

    #[test]
    fn differences_are_paired_by_level() {
        let easy_and_hard = by_level([(1, 1.0), (2, 9.0), (3, 4.0)]);
        let better = by_level([(1, 2.0), (2, 10.0), (4, 0.0)]);
        let difference = LevelMean::of_difference(&better, &easy_and_hard);
        assert_eq!(difference, LevelMean { mean: 1.0, standard_error: Some(0.0), levels: 2 });
    }
}
