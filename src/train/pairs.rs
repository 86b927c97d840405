//! Pairs of latent and true actions, and the statistics for normalising latent actions.

/// True actions, one for each latent action.
#[derive(Clone, Debug, PartialEq)]
pub enum TrueActions {
    /// Numbers of actions: `[pair]`
    Discrete(Vec<u32>),
    /// `[pair, axis]`, and the number of axes.
    Continuous(Vec<f32>, usize),
}

/// Latent actions and their true actions.
#[derive(Clone, Debug, PartialEq)]
pub struct Pairs {
    /// `[pair, latent_dim]`
    pub latent_action: Vec<f32>,
    /// The true actions.
    pub action: TrueActions,
}

impl Pairs {
    /// Returns the number of pairs.
    pub fn len(&self) -> usize {
        match &self.action {
            TrueActions::Discrete(actions) => actions.len(),
            TrueActions::Continuous(numbers, axes) => numbers.len() / axes,
        }
    }

    /// Returns whether there is no pair.
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// Returns some of the pairs, in the given order.
    #[must_use]
    pub fn take(&self, indices: &[usize]) -> Pairs {
        let rows = |values: &[f32], width: usize| {
            indices.iter().flat_map(|&i| values[i * width..][..width].iter().copied()).collect()
        };
        let action = match &self.action {
            TrueActions::Discrete(actions) => {
                TrueActions::Discrete(indices.iter().map(|&i| actions[i]).collect())
            }
            TrueActions::Continuous(numbers, axes) => {
                TrueActions::Continuous(rows(numbers, *axes), *axes)
            }
        };
        Pairs {
            latent_action: rows(&self.latent_action, self.latent_action.len() / self.len().max(1)),
            action,
        }
    }
}

/// The mean and standard deviation of each column of a matrix.
#[derive(Clone, Debug, PartialEq)]
pub struct ColumnStats {
    /// `[column]`
    pub mean: Vec<f32>,
    /// `[column]`, each at least 1e-6.
    pub deviation: Vec<f32>,
}

impl ColumnStats {
    /// Computes the statistics of rows of `width` numbers.
    pub fn of(rows: &[f32], width: usize) -> ColumnStats {
        let mut sums = ColumnSums::default();
        sums.add(rows, width);
        sums.stats()
    }

    /// Returns rows with mean 0 and standard deviation 1 in each column.
    pub(super) fn normalise(&self, rows: &[f32]) -> Vec<f32> {
        let columns = self.mean.iter().zip(&self.deviation);
        rows.iter()
            .zip(columns.cycle())
            .map(|(value, (mean, deviation))| (value - mean) / deviation)
            .collect()
    }
}

/// Running sums of a matrix that does not fit into memory, for [`ColumnStats`].
#[derive(Clone, Debug, Default)]
pub struct ColumnSums {
    count: f64,
    /// The sums of values and of their squares, for each column.
    columns: Vec<[f64; 2]>,
}

impl ColumnSums {
    /// Adds rows of `width` numbers.
    pub fn add(&mut self, rows: &[f32], width: usize) {
        self.columns.resize(width, [0.0; 2]);
        for row in rows.chunks_exact(width) {
            self.count += 1.0;
            for (value, [sum, squares]) in row.iter().zip(&mut self.columns) {
                *sum += f64::from(*value);
                *squares += f64::from(*value) * f64::from(*value);
            }
        }
    }

    /// Returns the mean and standard deviation of all added rows.
    pub fn stats(&self) -> ColumnStats {
        let mean = |sum: f64| sum / self.count.max(1.0);
        let deviation = |[sum, squares]: &[f64; 2]| {
            // Rounding can make the variance of a constant column slightly negative. The 1e-6 keeps
            // such a column from a division by zero.
            (mean(*squares) - mean(*sum).powi(2)).max(0.0).sqrt() as f32 + 1e-6
        };
        ColumnStats {
            mean: self.columns.iter().map(|[sum, _]| mean(*sum) as f32).collect(),
            deviation: self.columns.iter().map(deviation).collect(),
        }
    }
}
