//! The curve of a training run: kept in its checkpoints, written as Parquet at the end.

use serde::{Deserialize, Serialize};

use super::StepMetrics;
use crate::dataset::{Column, Error, FileInfo, Store, write_table};

/// One row per logged step, as f32 (which JSON gives back exactly). Holds no times: the same training gives the same bytes.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct Metrics {
    steps: Vec<u64>,
    columns: Vec<(String, Vec<f32>)>,
}

impl Metrics {
    /// Logs one step.
    pub fn push(&mut self, step: u64, learning_rate: f64, out: &StepMetrics) {
        self.steps.push(step);
        let mut put = |name: &str, value: f32| match self.columns.iter_mut().find(|(n, _)| n == name) {
            Some((_, values)) => values.push(value),
            None => self.columns.push((name.into(), vec![value])),
        };
        put("learning_rate", learning_rate as f32);
        put("loss", out.loss);
        put("fdm_error", out.wm_loss);
        put("fdm_error_relative", out.relative_loss);
        put("vq_loss", out.vq_loss);
        put("action_loss", out.action_loss);
        put("grad_norm", out.grad_norm);
        put("codes_revived", out.codes_revived as f32);
        for (book, perplexity) in out.perplexity.iter().enumerate() {
            put(&format!("perplexity_{book}"), *perplexity);
        }
    }

    /// Writes the curve as Parquet: `step` and a column per metric.
    pub fn write(&self, store: &Store, path: &str) -> Result<FileInfo, Error> {
        let wide = |values: &[f32]| Column::F64(values.iter().map(|v| f64::from(*v)).collect());
        let mut columns = vec![("step", Column::U64(self.steps.clone()))];
        columns.extend(self.columns.iter().map(|(name, values)| (name.as_str(), wide(values))));
        write_table(store, path, &columns)
    }

    /// The curve so far and the trainer's state, in one checkpoint: a line of JSON, then the state.
    pub fn pack(&self, state: &[u8]) -> Vec<u8> {
        let mut bytes = serde_json::to_vec(self).unwrap_or_default();
        bytes.push(b'\n');
        bytes.extend_from_slice(state);
        bytes
    }

    /// Takes a checkpoint apart; the error says what is wrong with it.
    pub fn unpack(bytes: &[u8]) -> Result<(Metrics, &[u8]), String> {
        let end = bytes.iter().position(|b| *b == b'\n').ok_or("it has no header line")?;
        let metrics = serde_json::from_slice(&bytes[..end]).map_err(|e| e.to_string())?;
        Ok((metrics, &bytes[end + 1..]))
    }
}

#[cfg(test)]
#[expect(clippy::unwrap_used, reason = "a test fails by panicking")]
mod tests {
    use super::*;

    #[test]
    fn a_checkpoint_gives_back_the_curve_bit_by_bit() {
        let metrics = Metrics { steps: vec![0, 10], columns: vec![("loss".into(), vec![0.1 + 0.2, 1e-30 / 3.0])] };
        let packed = metrics.pack(b"state\nwith lines");
        assert_eq!(Metrics::unpack(&packed).unwrap(), (metrics, &b"state\nwith lines"[..]));
        assert!(Metrics::unpack(b"no line").is_err());
    }
}
