//! The statistics of features, of each episode and of the whole dataset.

use serde_json::{Value, json};

use crate::dataset::ExportColumn;

/// The names of a feature's quantiles, and their shares.
const QUANTILES: [(&str, f64); 5] =
    [("q01", 0.01), ("q10", 0.1), ("q50", 0.5), ("q90", 0.9), ("q99", 0.99)];

/// Collects statistics of a numeric feature. Sums are exact; quantiles come from the kept rows.
#[derive(Clone, Default)]
pub(super) struct Feature {
    width: usize,
    count: u64,
    min: Vec<f64>,
    max: Vec<f64>,
    sums: Vec<f64>,
    squares: Vec<f64>,
    /// The kept values of each component.
    kept: Vec<Vec<f32>>,
}

/// Statistics of a feature, component by component.
pub(super) struct Statistics {
    /// The name of each statistic and its values.
    pub values: Vec<(&'static str, Vec<f64>)>,
    pub count: u64,
}

impl Feature {
    /// Adds the rows of a column. Every `stride`-th row is kept for the quantiles.
    pub fn add(&mut self, column: &ExportColumn, stride: u64) {
        let (values, width) = numbers(column);
        if self.width == 0 {
            *self = Feature {
                width,
                min: vec![f64::INFINITY; width],
                max: vec![f64::NEG_INFINITY; width],
                sums: vec![0.0; width],
                squares: vec![0.0; width],
                kept: vec![vec![]; width],
                count: 0,
            };
        }
        for row in values.chunks_exact(width) {
            let is_kept = self.count.is_multiple_of(stride);
            for (i, value) in row.iter().enumerate() {
                self.min[i] = self.min[i].min(*value);
                self.max[i] = self.max[i].max(*value);
                self.sums[i] += value;
                self.squares[i] += value * value;
                if is_kept {
                    self.kept[i].push(*value as f32);
                }
            }
            self.count += 1;
        }
    }

    /// Computes the statistics.
    pub fn finish(mut self) -> Statistics {
        let count = self.count.max(1) as f64;
        let mean: Vec<f64> = self.sums.iter().map(|sum| sum / count).collect();
        // The population's deviation; rounding may leave a square below 0.
        let std = self
            .squares
            .iter()
            .zip(&mean)
            .map(|(squares, mean)| (squares / count - mean * mean).max(0.0).sqrt())
            .collect();
        for values in &mut self.kept {
            values.sort_by(f32::total_cmp);
        }
        let mut values = vec![("min", self.min), ("max", self.max), ("mean", mean), ("std", std)];
        for (name, share) in QUANTILES {
            let of = |values: &Vec<f32>| quantile(values, share);
            values.push((name, self.kept.iter().map(of).collect()));
        }
        Statistics { values, count: self.count }
    }
}

/// Returns a quantile of sorted values, interpolated between neighbours as numpy does.
fn quantile(sorted: &[f32], share: f64) -> f64 {
    let Some(last) = sorted.len().checked_sub(1) else { return 0.0 };
    let place = share * last as f64;
    let low = place.floor() as usize;
    let [below, above] = [low, (low + 1).min(last)].map(|at| f64::from(sorted[at]));
    below + (above - below) * (place - low as f64)
}

/// Returns a column's numbers and the length of a row.
fn numbers(column: &ExportColumn) -> (Vec<f64>, usize) {
    match column {
        ExportColumn::F32(values) => (values.iter().map(|v| f64::from(*v)).collect(), 1),
        ExportColumn::F32Rows(values, width) => {
            (values.iter().map(|v| f64::from(*v)).collect(), *width)
        }
        ExportColumn::I64(values) => (values.iter().map(|v| *v as f64).collect(), 1),
        ExportColumn::I64Rows(values, width) => {
            (values.iter().map(|v| *v as f64).collect(), *width)
        }
        ExportColumn::Bool(values) => (values.iter().map(|v| f64::from(u8::from(*v))).collect(), 1),
        _ => (vec![], 1),
    }
}

impl Statistics {
    /// Returns the entry of `stats.json`.
    pub fn json(&self) -> Value {
        let values = self.values.iter().map(|(name, values)| ((*name).to_owned(), json!(values)));
        let count = ("count".to_owned(), json!([self.count]));
        values.chain([count]).collect::<serde_json::Map<_, _>>().into()
    }

    /// Adds the columns of one episode to `columns`.
    pub fn push(&self, feature: &str, columns: &mut Columns) {
        for (name, values) in &self.values {
            columns.push(&format!("stats/{feature}/{name}"), Cell::F64s(values.clone()));
        }
        columns.push(&format!("stats/{feature}/count"), Cell::I64s(vec![self.count as i64]));
    }
}

/// Counts the values of each colour of sampled frames. All statistics follow from the counts.
#[derive(Clone)]
pub(super) struct Colours {
    counts: Vec<[u64; 256]>,
    frames: u64,
}

impl Default for Colours {
    fn default() -> Self {
        Colours { counts: vec![[0; 256]; 3], frames: 0 }
    }
}

impl Colours {
    /// Adds a frame.
    ///
    /// # Shapes
    /// - `pixels`: `[height, width, 3]`
    pub fn add(&mut self, pixels: &[u8]) {
        for pixel in pixels.chunks_exact(3) {
            for (counts, value) in self.counts.iter_mut().zip(pixel) {
                counts[*value as usize] += 1;
            }
        }
        self.frames += 1;
    }

    /// Adds the frames of other counts.
    pub fn merge(&mut self, other: &Colours) {
        for (own, others) in self.counts.iter_mut().zip(&other.counts) {
            for (own, other) in own.iter_mut().zip(others) {
                *own += other;
            }
        }
        self.frames += other.frames;
    }

    /// Computes the statistics of each colour, from 0 to 1.
    pub fn statistics(&self) -> ColourStatistics {
        let each = |of: &dyn Fn(&[u64; 256]) -> f64| [0, 1, 2].map(|i| of(&self.counts[i]) / 255.0);
        let rank = |share: f64| move |counts: &[u64; 256]| colour_at(counts, share);
        let mut values = vec![
            ("min", each(&rank(0.0))),
            ("max", each(&rank(1.0))),
            ("mean", each(&|counts| moments(counts).0)),
            ("std", each(&|counts| moments(counts).1)),
        ];
        values.extend(QUANTILES.map(|(name, share)| (name, each(&rank(share)))));
        ColourStatistics { values, frames: self.frames }
    }
}

/// Statistics of the colours of some frames.
pub(super) struct ColourStatistics {
    /// The name of each statistic, and its values for red, green and blue.
    values: Vec<(&'static str, [f64; 3])>,
    frames: u64,
}

impl ColourStatistics {
    /// Returns the entry of `stats.json`.
    pub fn json(&self) -> Value {
        let values = self.values.iter().map(|(name, [red, green, blue])| {
            ((*name).to_owned(), json!([[[red]], [[green]], [[blue]]]))
        });
        let count = ("count".to_owned(), json!([self.frames]));
        values.chain([count]).collect::<serde_json::Map<_, _>>().into()
    }

    /// Adds the columns of one episode to `columns`.
    pub fn push(&self, feature: &str, columns: &mut Columns) {
        for (name, values) in &self.values {
            columns.push(&format!("stats/{feature}/{name}"), Cell::Channels(*values));
        }
        columns.push(&format!("stats/{feature}/count"), Cell::I64s(vec![self.frames as i64]));
    }
}

/// Returns the mean and the standard deviation of counted values.
fn moments(counts: &[u64; 256]) -> (f64, f64) {
    let total = counts.iter().sum::<u64>().max(1) as f64;
    let sum = |of: &dyn Fn(f64) -> f64| {
        counts.iter().enumerate().map(|(value, n)| of(value as f64) * *n as f64).sum::<f64>()
    };
    let mean = sum(&|value| value) / total;
    (mean, (sum(&|value| (value - mean) * (value - mean)) / total).sqrt())
}

/// Returns the value below which this share of counted values lies.
fn colour_at(counts: &[u64; 256], share: f64) -> f64 {
    let total: u64 = counts.iter().sum();
    let rank = (share * total.saturating_sub(1) as f64).round() as u64;
    let mut below = 0;
    for (value, count) in counts.iter().enumerate() {
        below += count;
        if below > rank {
            return value as f64;
        }
    }
    0.0
}

/// A value of the table of episodes.
pub(super) enum Cell {
    I64(i64),
    F64(f64),
    Texts(Vec<String>),
    F64s(Vec<f64>),
    I64s(Vec<i64>),
    Channels([f64; 3]),
}

/// Columns of the table of episodes, filled cell by cell.
#[derive(Default)]
pub(super) struct Columns {
    columns: Vec<(String, ExportColumn)>,
    next: usize,
}

impl Columns {
    /// Adds the next cell of a row. All rows have the same columns in the same order.
    pub fn push(&mut self, name: &str, cell: Cell) {
        if self.columns.len() == self.next {
            let empty = match cell {
                Cell::I64(_) => ExportColumn::I64(vec![]),
                Cell::F64(_) => ExportColumn::F64(vec![]),
                Cell::Texts(_) => ExportColumn::TextLists(vec![]),
                Cell::F64s(_) => ExportColumn::F64Lists(vec![]),
                Cell::I64s(_) => ExportColumn::I64Lists(vec![]),
                Cell::Channels(_) => ExportColumn::F64Channels(vec![]),
            };
            self.columns.push((name.to_owned(), empty));
        }
        let (expected, column) = &mut self.columns[self.next];
        debug_assert_eq!(expected, name, "rows have the same columns");
        match (column, cell) {
            (ExportColumn::I64(values), Cell::I64(value)) => values.push(value),
            (ExportColumn::F64(values), Cell::F64(value)) => values.push(value),
            (ExportColumn::TextLists(values), Cell::Texts(value)) => values.push(value),
            (ExportColumn::F64Lists(values), Cell::F64s(value)) => values.push(value),
            (ExportColumn::I64Lists(values), Cell::I64s(value)) => values.push(value),
            (ExportColumn::F64Channels(values), Cell::Channels(value)) => values.push(value),
            _ => debug_assert!(false, "a column has one type"),
        }
        self.next += 1;
    }

    /// Ends a row.
    pub fn end_row(&mut self) {
        self.next = 0;
    }

    /// Returns the columns and leaves none.
    pub fn take(&mut self) -> Vec<(String, ExportColumn)> {
        std::mem::take(&mut self.columns)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn value(statistics: &Statistics, name: &str) -> Vec<f64> {
        statistics
            .values
            .iter()
            .find(|(n, _)| *n == name)
            .map(|(_, v)| v.clone())
            .unwrap_or_default()
    }

    #[test]
    fn statistics_equal_those_of_numpy() {
        let mut feature = Feature::default();
        // numpy: mean [2.5, 20], std [1.1180, 8.1650], quantile(0.1) [1.3, 10].
        feature.add(&ExportColumn::F32Rows(vec![1., 10., 2., 20., 3., 30., 4., 20.], 2), 1);
        let statistics = feature.finish();
        assert_eq!(value(&statistics, "mean"), [2.5, 20.0]);
        assert_eq!(
            (value(&statistics, "min"), value(&statistics, "max")),
            (vec![1., 10.], vec![4., 30.])
        );
        assert!((value(&statistics, "std")[0] - 1.118_034).abs() < 1e-6);
        assert!((value(&statistics, "q10")[0] - 1.3).abs() < 1e-6);
        assert_eq!(value(&statistics, "q50"), [2.5, 20.0]);
        assert_eq!(statistics.count, 4);
    }

    #[test]
    fn colours_are_counted_from_0_to_1() {
        let mut colours = Colours::default();
        colours.add(&[0, 255, 51, 255, 255, 51]);
        let values = colours.statistics().values;
        let of = |name: &str| values.iter().find(|(n, _)| *n == name).map(|(_, v)| *v);
        assert_eq!(of("mean"), Some([0.5, 1.0, 0.2]));
        assert_eq!(of("std"), Some([0.5, 0.0, 0.0]));
        assert_eq!((of("min"), of("max")), (Some([0.0, 1.0, 0.2]), Some([1.0, 1.0, 0.2])));
    }
}
