//! Correlations and linear fits between two tables of numbers.

/// Numbers in rows of equal length.
#[derive(Clone, Debug, Default)]
pub(super) struct Columns {
    values: Vec<f64>,
    rows: usize,
}

/// The weight of a fit's regularisation, for columns with variance 1. There may be as many columns
/// as rows.
const RIDGE: f64 = 0.1;
/// The least number of rows for a fit.
const FIT_ROWS: usize = 16;

impl Columns {
    pub(super) fn push(&mut self, row: &[f32]) {
        self.values.extend(row.iter().map(|value| f64::from(*value)));
        self.rows += 1;
    }

    fn width(&self) -> usize {
        self.values.len() / self.rows.max(1)
    }

    fn row(&self, row: usize) -> &[f64] {
        &self.values[row * self.width()..][..self.width()]
    }

    /// Returns the mean and the deviation of each column.
    fn moments(&self) -> Vec<(f64, f64)> {
        let of_column = |column: usize| {
            let values = || (0..self.rows).map(|row| self.row(row)[column]);
            let mean = values().sum::<f64>() / self.rows as f64;
            let variance = values().map(|v| (v - mean).powi(2)).sum::<f64>() / self.rows as f64;
            (mean, variance.sqrt())
        };
        (0..self.width()).map(of_column).collect()
    }

    /// Subtracts the mean of each column.
    fn centred(&self) -> Columns {
        let moments = self.moments();
        let values = self.values.iter().zip(moments.iter().cycle());
        Columns { values: values.map(|(v, (mean, _))| v - mean).collect(), rows: self.rows }
    }

    /// Scales each column to mean 0 and variance 1. A constant column is 0.
    fn standardised(&self) -> Columns {
        let moments = self.moments();
        let values = self.values.iter().zip(moments.iter().cycle());
        let scaled = |(v, (mean, deviation)): (&f64, &(f64, f64))| {
            // Not finite numbers stay so, which makes the fit undefined.
            if *deviation == 0.0 { 0.0 } else { (v - mean) / deviation }
        };
        Columns { values: values.map(scaled).collect(), rows: self.rows }
    }
}

/// Returns the correlation of two tables, over all numbers after each column's mean is subtracted.
/// `None` if a table is constant.
pub(super) fn correlation(one: &Columns, other: &Columns) -> Option<f64> {
    let (one, other) = (one.centred().values, other.centred().values);
    let sum = |a: &[f64], b: &[f64]| a.iter().zip(b).map(|(a, b)| a * b).sum::<f64>();
    let scale = (sum(&one, &one) * sum(&other, &other)).sqrt();
    Some(sum(&one, &other) / scale).filter(|_| scale > 0.0).filter(|value| value.is_finite())
}

/// Returns the R2 of a linear fit from `inputs` to `targets`, averaged over the targets that vary.
/// Each half of the rows is predicted by a ridge regression on the other half. `None` without
/// enough rows, or if no target varies.
pub(super) fn explained_share(inputs: &Columns, targets: &Columns) -> Option<f64> {
    if inputs.rows < FIT_ROWS {
        return None;
    }
    let (inputs, targets) = (inputs.standardised(), targets.standardised());
    let mut residual = vec![0.0; targets.width()];
    let mut total = vec![0.0; targets.width()];
    for parity in 0..2 {
        let weights = ridge(&inputs, &targets, parity)?;
        for row in (1 - parity..inputs.rows).step_by(2) {
            for (target, weights) in weights.iter().enumerate() {
                let predicted = dot(inputs.row(row), weights);
                let truth = targets.row(row)[target];
                residual[target] += (truth - predicted).powi(2);
                total[target] += truth.powi(2);
            }
        }
    }
    let shares = residual.iter().zip(&total).filter(|(_, total)| **total > 0.0);
    let shares: Vec<f64> = shares.map(|(residual, total)| 1.0 - residual / total).collect();
    let mean = shares.iter().sum::<f64>() / shares.len() as f64;
    mean.is_finite().then_some(mean)
}

/// Fits each target on every second row: weights by target. `None` if numbers are not finite.
fn ridge(inputs: &Columns, targets: &Columns, parity: usize) -> Option<Vec<Vec<f64>>> {
    let width = inputs.width();
    let rows: Vec<usize> = (parity..inputs.rows).step_by(2).collect();
    let mut square = vec![0.0; width * width];
    let mut right = vec![vec![0.0; width]; targets.width()];
    for &row in &rows {
        let input = inputs.row(row);
        for (i, line) in square.chunks_exact_mut(width).enumerate() {
            for (cell, value) in line.iter_mut().zip(input) {
                *cell += input[i] * value;
            }
        }
        for (right, target) in right.iter_mut().zip(targets.row(row)) {
            for (cell, value) in right.iter_mut().zip(input) {
                *cell += target * value;
            }
        }
    }
    for i in 0..width {
        square[i * width + i] += RIDGE * rows.len() as f64;
    }
    let factor = cholesky(square, width)?;
    Some(right.into_iter().map(|right| solve(&factor, right)).collect())
}

/// Returns the lower triangle L of a positive definite matrix L L^T, or `None` if it is not one.
fn cholesky(mut matrix: Vec<f64>, width: usize) -> Option<Vec<f64>> {
    for i in 0..width {
        for j in 0..=i {
            let known = dot(&matrix[i * width..][..j], &matrix[j * width..][..j]);
            let rest = matrix[i * width + j] - known;
            matrix[i * width + j] = if i == j {
                if rest <= 0.0 || !rest.is_finite() {
                    return None;
                }
                rest.sqrt()
            } else {
                rest / matrix[j * width + j]
            };
        }
    }
    Some(matrix)
}

/// Solves L L^T x = `right`.
fn solve(factor: &[f64], mut right: Vec<f64>) -> Vec<f64> {
    let width = right.len();
    for i in 0..width {
        let known = dot(&factor[i * width..][..i], &right[..i]);
        right[i] = (right[i] - known) / factor[i * width + i];
    }
    for i in (0..width).rev() {
        let known: f64 = (i + 1..width).map(|j| factor[j * width + i] * right[j]).sum();
        right[i] = (right[i] - known) / factor[i * width + i];
    }
    right
}

fn dot(one: &[f64], other: &[f64]) -> f64 {
    one.iter().zip(other).map(|(a, b)| a * b).sum()
}

#[cfg(test)]
mod tests {
    use rand::{Rng, SeedableRng};
    use rand_chacha::ChaCha8Rng;

    use super::*;

    fn columns(rows: &[Vec<f32>]) -> Columns {
        let mut columns = Columns::default();
        rows.iter().for_each(|row| columns.push(row));
        columns
    }

    fn noise(rows: usize, width: usize, seed: u64) -> Vec<Vec<f32>> {
        let mut rng = ChaCha8Rng::seed_from_u64(seed);
        let row = |_| (0..width).map(|_| rng.random_range(-1.0..1.0)).collect();
        (0..rows).map(row).collect()
    }

    #[test]
    fn a_linear_fit_explains_linear_targets_and_not_noise() {
        let inputs = noise(400, 20, 1);
        let linear: Vec<Vec<f32>> =
            inputs.iter().map(|row| vec![2.0 * row[3] - row[7] + 5.0, 1.0]).collect();
        let share = explained_share(&columns(&inputs), &columns(&linear));
        // The second target is constant and does not count.
        assert!(share.is_some_and(|share| share > 0.95), "{share:?}");
        let share = explained_share(&columns(&inputs), &columns(&noise(400, 2, 2)));
        assert!(share.is_some_and(|share| share < 0.05), "{share:?}");
        let constant = vec![vec![3.0]; 400];
        assert_eq!(explained_share(&columns(&inputs), &columns(&constant)), None);
        assert_eq!(explained_share(&columns(&inputs[..8]), &columns(&linear[..8])), None);
        let odd = vec![vec![f32::NAN; 20]; 400];
        assert_eq!(explained_share(&columns(&odd), &columns(&linear)), None);
    }

    #[test]
    fn a_correlation_ignores_means_and_scale() {
        let one = columns(&[vec![1.0, 50.0], vec![2.0, 60.0], vec![3.0, 40.0]]);
        let double = columns(&[vec![7.0, 120.0], vec![9.0, 140.0], vec![11.0, 100.0]]);
        assert!(correlation(&one, &double).is_some_and(|value| (value - 1.0).abs() < 1e-12));
        assert_eq!(correlation(&one, &columns(&[vec![1.0, 1.0], vec![1.0, 1.0]])), None);
        assert_eq!(correlation(&Columns::default(), &Columns::default()), None);
    }
}
