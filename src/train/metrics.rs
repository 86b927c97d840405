//! The curve of a training: its checkpoints hold it, Parquet and TensorBoard files at the end.

use serde::{Deserialize, Serialize};

use super::tensorboard::Events;
use crate::dataset::{Column, Error, FileInfo, Store, write_table};

/// The metrics of a training, one row per logged step, as f32, which JSON keeps exactly. Null where
/// a step did not measure one. Holds no times: the same training gives the same bytes.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct Metrics {
    steps: Vec<u64>,
    columns: Vec<(String, Vec<Option<f32>>)>,
}

impl Metrics {
    /// Adds values to the row of a step, which is the last one or comes after it.
    pub fn log(&mut self, step: u64, values: impl IntoIterator<Item = (String, f32)>) {
        if self.steps.last() != Some(&step) {
            self.steps.push(step);
            self.columns.iter_mut().for_each(|(_, column)| column.push(None));
        }
        let row = self.steps.len() - 1;
        for (name, value) in values {
            match self.columns.iter_mut().find(|(known, _)| *known == name) {
                Some((_, column)) => column[row] = defined(value),
                None => {
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
            .find(|(known, _)| known == name)
            .map(|(_, values)| values.as_slice());
        (0..self.steps.len()).map(move |row| values.and_then(|values| values[row]))
    }

    /// Returns one metric where it was measured, with its steps.
    pub fn points(&self, name: &str) -> impl Iterator<Item = (u64, f32)> {
        self.steps.iter().zip(self.column(name)).filter_map(|(step, value)| Some((*step, value?)))
    }

    /// Writes the curve as Parquet, `step` and a column per metric, and as an event file for TensorBoard.
    pub fn write(&self, store: &Store, folder: &str) -> Result<[FileInfo; 2], Error> {
        let wide =
            |values: &[Option<f32>]| Column::F64(values.iter().map(|v| v.map(f64::from)).collect());
        let mut columns = vec![("step", Column::U64(self.steps.clone()))];
        columns.extend(self.columns.iter().map(|(name, values)| (name.as_str(), wide(values))));
        let table = write_table(store, &format!("{folder}/metrics.parquet"), &columns)?;

        let mut events = Events::default();
        for (row, step) in self.steps.iter().enumerate() {
            events.push(
                *step,
                self.columns
                    .iter()
                    .filter_map(|(name, values)| Some((name.as_str(), values[row]?))),
            );
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

    /// Packs the curve so far and the trainer's state into one checkpoint: a line of JSON, then the
    /// state.
    pub fn pack(&self, state: &[u8]) -> Vec<u8> {
        let mut bytes = serde_json::to_vec(self).unwrap_or_default();
        bytes.push(b'\n');
        bytes.extend_from_slice(state);
        bytes
    }

    /// Unpacks a checkpoint.
    ///
    /// # Errors
    /// What is wrong with it, as text.
    pub fn unpack(bytes: &[u8]) -> Result<(Metrics, &[u8]), String> {
        let end = bytes.iter().position(|b| *b == b'\n').ok_or("it has no header line")?;
        let metrics = serde_json::from_slice(&bytes[..end]).map_err(|e| e.to_string())?;
        Ok((metrics, &bytes[end + 1..]))
    }
}

/// Returns a value unless it is not finite, such as a ratio to 0, which counts as not measured.
fn defined(value: f32) -> Option<f32> {
    value.is_finite().then_some(value)
}

#[cfg(test)]
#[expect(clippy::unwrap_used, reason = "a test fails by panicking")]
mod tests {
    use super::*;

    #[test]
    fn what_is_no_number_is_null() {
        let mut metrics = Metrics::default();
        metrics.log(0, [("a".to_owned(), f32::NAN), ("b".to_owned(), 1.0)]);
        metrics.log(1, [("b".to_owned(), f32::INFINITY)]);
        assert_eq!(
            metrics.columns,
            [("a".to_owned(), vec![None, None]), ("b".to_owned(), vec![Some(1.0), None])]
        );
    }

    #[test]
    fn what_only_some_steps_were_asked_is_null_in_the_others() {
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
    fn a_checkpoint_gives_back_the_curve_bit_by_bit() {
        let metrics = Metrics {
            steps: vec![0, 10],
            columns: vec![("loss".into(), vec![Some(0.1 + 0.2), None])],
        };
        let packed = metrics.pack(b"state\nwith lines");
        assert_eq!(Metrics::unpack(&packed).unwrap(), (metrics, &b"state\nwith lines"[..]));
        assert!(Metrics::unpack(b"no line").is_err());
    }
}
