//! The metrics of a training, kept in its checkpoints and written as Parquet and for TensorBoard.

use serde::{Deserialize, Serialize};

use super::tensorboard::Events;
use crate::dataset::{Column, Error, FileInfo, Store, write_table};

/// The metrics of a training, one row per logged step. A metric that a step did not measure is
/// null. There are no times, so the same training gives the same bytes.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct Metrics {
    steps: Vec<u64>,
    columns: Vec<(String, Vec<Option<f32>>)>,
}

impl Metrics {
    /// Adds values to the row of a step: the last one, or a later one.
    pub fn log(&mut self, step: u64, values: impl IntoIterator<Item = (String, f32)>) {
        if self.steps.last() != Some(&step) {
            self.steps.push(step);
            for (_, column) in &mut self.columns {
                column.push(None);
            }
        }
        let row = self.steps.len() - 1;
        for (name, value) in values {
            match self.columns.iter_mut().find(|(logged, _)| *logged == name) {
                Some((_, column)) => column[row] = defined(value),
                None => {
                    // A new metric is null in all earlier rows.
                    let mut column = vec![None; row];
                    column.push(defined(value));
                    self.columns.push((name, column));
                }
            }
        }
    }

    /// Returns one metric, row by row.
    pub fn column(
        &self,
        name: &str,
    ) -> impl DoubleEndedIterator<Item = Option<f32>> + ExactSizeIterator {
        let values = self
            .columns
            .iter()
            .find(|(logged, _)| logged == name)
            .map(|(_, values)| values.as_slice());
        (0..self.steps.len()).map(move |row| values.and_then(|values| values[row]))
    }

    /// Returns the measured values of one metric with their steps.
    pub fn points(&self, name: &str) -> impl Iterator<Item = (u64, f32)> {
        self.steps.iter().zip(self.column(name)).filter_map(|(step, value)| Some((*step, value?)))
    }

    /// Writes `metrics.parquet`, with `step` and a column per metric, and an event file for
    /// TensorBoard.
    pub fn write(&self, store: &Store, folder: &str) -> Result<[FileInfo; 2], Error> {
        let wide =
            |values: &[Option<f32>]| Column::F64(values.iter().map(|v| v.map(f64::from)).collect());
        let mut columns = vec![("step", Column::U64(self.steps.clone()))];
        columns.extend(self.columns.iter().map(|(name, values)| (name.as_str(), wide(values))));
        let table = write_table(store, &format!("{folder}/metrics.parquet"), &columns)?;

        let mut events = Events::default();
        for (row, step) in self.steps.iter().enumerate() {
            let measured = self
                .columns
                .iter()
                .filter_map(|(name, values)| Some((name.as_str(), values[row]?)));
            events.push(*step, measured);
        }
        let path = format!("{folder}/events.out.tfevents.0.lapo");
        let mut file = store.new_file(&path)?;
        std::io::Write::write_all(&mut file, &events.into_bytes()).map_err(|cause| Error::Io {
            action: "write",
            path,
            cause,
        })?;
        Ok([table, file.finish(0)?])
    }

    /// Packs the metrics so far and the trainer's state into one checkpoint: a line of JSON, then
    /// the state.
    pub fn pack(&self, state: &[u8]) -> Vec<u8> {
        // JSON holds an f32 exactly, so a resumed training has the same metrics bit by bit.
        let mut bytes = serde_json::to_vec(self).unwrap_or_default();
        bytes.push(b'\n');
        bytes.extend_from_slice(state);
        bytes
    }

    /// Unpacks the metrics and the trainer's state of a checkpoint.
    ///
    /// # Errors
    /// The reason as text, if the header is missing or is not JSON of metrics.
    pub fn unpack(bytes: &[u8]) -> Result<(Metrics, &[u8]), String> {
        let end = bytes.iter().position(|b| *b == b'\n').ok_or("it has no header line")?;
        let metrics = serde_json::from_slice(&bytes[..end]).map_err(|e| e.to_string())?;
        Ok((metrics, &bytes[end + 1..]))
    }
}

/// Returns a value if it is finite. Others, such as a ratio to 0, count as not measured.
fn defined(value: f32) -> Option<f32> {
    value.is_finite().then_some(value)
}

#[cfg(test)]
#[expect(clippy::unwrap_used, reason = "a test fails by panicking")]
mod tests {
    use super::*;

    #[test]
    fn values_that_are_not_finite_are_null() {
        let mut metrics = Metrics::default();
        metrics.log(0, [("a".to_owned(), f32::NAN), ("b".to_owned(), 1.0)]);
        metrics.log(1, [("b".to_owned(), f32::INFINITY)]);
        assert_eq!(
            metrics.columns,
            [("a".to_owned(), vec![None, None]), ("b".to_owned(), vec![Some(1.0), None])]
        );
    }

    #[test]
    fn a_metric_is_null_in_steps_that_did_not_measure_it() {
        let mut metrics = Metrics::default();
        let named = |name: &str, value| [(name.to_owned(), value)];
        metrics.log(0, named("loss", 3.0));
        metrics.log(10, named("loss", 2.0));
        metrics.log(10, named("probe_mlp", 0.5));
        metrics.log(20, named("probe_mlp", 0.7));
        assert_eq!(metrics.steps, [0, 10, 20]);
        assert_eq!(metrics.columns[0], ("loss".to_owned(), vec![Some(3.0), Some(2.0), None]));
        assert_eq!(metrics.columns[1], ("probe_mlp".to_owned(), vec![None, Some(0.5), Some(0.7)]));
    }

    #[test]
    fn a_checkpoint_returns_the_metrics_bit_by_bit() {
        let metrics = Metrics {
            steps: vec![0, 10],
            columns: vec![("loss".into(), vec![Some(0.1 + 0.2), None])],
        };
        let packed = metrics.pack(b"state\nwith lines");
        assert_eq!(Metrics::unpack(&packed).unwrap(), (metrics, &b"state\nwith lines"[..]));
        assert!(Metrics::unpack(b"no line").is_err());
    }
}
