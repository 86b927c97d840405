//! Rows of true actions: reads Parquet and CSV files, writes Parquet.
//!
//! A file has the columns `video` (path or file name), `frame_index`, `action` and optionally
//! `reward` and `state`. A discrete action is a whole number; a continuous one is a number or a list of
//! numbers. CSV has no lists: there a continuous action has the columns `action_0`, `action_1` and
//! so on.
//!
//! Start at [`ActionRows::read_file`].

use std::collections::HashSet;
use std::fs::File;
use std::path::Path;

use arrow::array::{Array, AsArray, RecordBatch};
use arrow::compute::cast;
use arrow::datatypes::{DataType, Float64Type};
use parquet::arrow::arrow_reader::{ArrowReaderOptions, ParquetRecordBatchReaderBuilder};
use parquet::file::reader::ChunkReader;

use super::error::{Error, Result};
use super::paths::FileInfo;
use super::schema;
use super::store::Store;
use super::table::{Column, write_table};

mod columns;
mod csv_file;

use columns::{axes_of, complete_column, vectors, whole_numbers};

/// True actions of frames, all discrete or all continuous.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct ActionRows {
    /// The video's path or file name.
    pub video: Vec<String>,
    /// The frame's index in the video.
    pub frame_index: Vec<u32>,
    /// The number of axes of a continuous action; 0 if actions are discrete.
    pub axes: usize,
    /// Discrete actions, `[row]`.
    pub discrete: Vec<u32>,
    /// Continuous actions, `[row, axis]`.
    pub continuous: Vec<f32>,
    /// The reward, if known, `[row]`.
    pub reward: Vec<Option<f64>>,
    /// The number of axes of a state; 0 if states are not known.
    pub state_axes: usize,
    /// States, `[row, axis]`.
    pub state: Vec<f32>,
    /// Whether a user's file has one float a row. Such floats may be discrete actions: see
    /// [`ActionRows::read_file`].
    pub is_scalar: bool,
}

/// The highest float accepted as a discrete action.
const MAX_DISCRETE_FLOAT: f32 = u16::MAX as f32;

impl ActionRows {
    /// Reads a user's file: CSV if its name ends in `.csv`, else Parquet. Floats count as discrete
    /// actions if all of them are whole numbers from 0 to 65,535.
    ///
    /// # Errors
    /// Fails for a missing column, a column of another type, and a value that is missing, negative
    /// or not finite. The error names the file.
    pub fn read_file(path: &Path) -> Result<ActionRows> {
        let mut rows = ActionRows::default();
        let file = File::open(path).map_err(|cause| invalid(path.display(), cause))?;
        if path.extension().is_some_and(|extension| extension.eq_ignore_ascii_case("csv")) {
            rows.add_csv(file).map_err(|cause| invalid(path.display(), cause))?;
        } else {
            rows.add_parquet(&path.display().to_string(), file)?;
        }
        // Only a single float a row may be a discrete action: lists are always continuous.
        if rows.is_scalar {
            rows.make_whole_numbers_discrete();
        }
        Ok(rows)
    }

    /// Makes the actions discrete if every float is a whole number from 0. Many programs write
    /// whole numbers as `1.0` once a column had a missing value.
    pub(super) fn make_whole_numbers_discrete(&mut self) {
        let is_whole =
            |number: &f32| number.fract() == 0.0 && (0.0..=MAX_DISCRETE_FLOAT).contains(number);
        if self.continuous.iter().all(is_whole) {
            self.discrete = self.continuous.drain(..).map(|number| number as u32).collect();
            self.axes = 0;
        }
    }

    /// Describes the actions: `discrete, 15 values`.
    #[must_use]
    pub fn kind(&self) -> String {
        match self.axes {
            0 => match self.discrete.iter().collect::<HashSet<_>>().len() {
                1 => "discrete, 1 value".into(),
                values => format!("discrete, {values} values"),
            },
            // Name the value that made the actions continuous: often it is a mistake.
            1 if self.is_scalar => {
                let odd = self
                    .continuous
                    .iter()
                    .position(|number| number.fract() != 0.0 || *number < 0.0)
                    .unwrap_or(0);
                let number = self.continuous[odd];
                let frame = self.frame_index[odd];
                let video = &self.video[odd];
                format!("continuous, 1 number each, since frame {frame} of `{video}` has {number}")
            }
            1 => "continuous, 1 number each".into(),
            axes => format!("continuous, {axes} numbers each"),
        }
    }

    /// Reads action files of a workspace.
    pub fn read(store: &Store, paths: &[String]) -> Result<ActionRows> {
        let mut rows = ActionRows::default();
        for path in paths {
            rows.add_parquet(path, store.map(path)?)?;
        }
        Ok(rows)
    }

    /// Returns the number of rows.
    #[must_use]
    pub fn len(&self) -> usize {
        self.video.len()
    }

    /// Returns whether there are no rows.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.video.is_empty()
    }

    /// Copies one row of another table of the same kind, with a new video name.
    pub fn push(&mut self, video: &str, from: &ActionRows, row: usize) {
        self.axes = from.axes;
        self.video.push(video.to_owned());
        self.frame_index.push(from.frame_index[row]);
        match self.axes {
            0 => self.discrete.push(from.discrete[row]),
            // Rows lie one after another, `axes` numbers each.
            axes => self.continuous.extend_from_slice(&from.continuous[row * axes..][..axes]),
        }
        self.reward.push(from.reward[row]);
        self.state_axes = from.state_axes;
        let state = row * from.state_axes..(row + 1) * from.state_axes;
        self.state.extend_from_slice(&from.state[state]);
    }

    /// Writes the rows to a Parquet file of a workspace.
    pub fn write(self, store: &Store, path: &str) -> Result<FileInfo> {
        let action = match self.axes {
            0 => Column::U32(self.discrete),
            axes => Column::F32Rows(self.continuous, axes),
        };
        let mut columns = vec![
            (schema::VIDEO, Column::Text(self.video)),
            (schema::FRAME_INDEX, Column::U32(self.frame_index)),
            (schema::ACTION, action),
            (schema::REWARD, Column::F64(self.reward)),
        ];
        if self.state_axes > 0 {
            columns.push((schema::STATE, Column::F32Rows(self.state, self.state_axes)));
        }
        write_table(store, path, &columns)
    }

    fn add_parquet(&mut self, path: &str, file: impl ChunkReader + 'static) -> Result<()> {
        // Without the writer's Arrow schema, every string column is plain UTF-8 (never a
        // dictionary).
        let options = ArrowReaderOptions::new().with_skip_arrow_metadata(true);
        let builder = ParquetRecordBatchReaderBuilder::try_new_with_options(file, options)
            .map_err(|cause| invalid(path, cause))?;
        for batch in builder.build().map_err(|cause| invalid(path, cause))? {
            self.add_batch(&batch.map_err(|cause| invalid(path, cause))?)
                .map_err(|cause| invalid(path, cause))?;
        }
        Ok(())
    }

    /// Adds the rows of a batch with the columns of an action file.
    pub(super) fn add_batch(&mut self, batch: &RecordBatch) -> Result<(), String> {
        let videos = cast(complete_column(batch, schema::VIDEO)?, &DataType::Utf8)
            .map_err(|_| "column `video` is not text")?;
        let videos = videos.as_string::<i32>();
        let frames =
            whole_numbers(schema::FRAME_INDEX, complete_column(batch, schema::FRAME_INDEX)?)?;
        let action = complete_column(batch, schema::ACTION)?;
        let axes = axes_of(action);
        self.is_scalar = axes == 1 && action.data_type().is_floating();
        if !self.is_empty() && axes != self.axes {
            return Err(format!(
                "column `action` has {axes} numbers in a row, expected {}",
                self.axes
            ));
        }
        self.axes = axes;
        match axes {
            0 => self.discrete.extend(whole_numbers(schema::ACTION, action)?),
            axes => self.continuous.extend(vectors(schema::ACTION, action, axes)?),
        }
        if let Some(state) = batch.column_by_name(schema::STATE) {
            // A state of one whole number has one axis, too.
            let axes = axes_of(state).max(1);
            if self.state.is_empty() {
                self.state_axes = axes;
            }
            self.state.extend(vectors(schema::STATE, state, self.state_axes)?);
        }
        match batch.column_by_name(schema::REWARD) {
            None => self.reward.resize(self.reward.len() + frames.len(), None),
            Some(reward) => {
                let reward = cast(reward, &DataType::Float64)
                    .map_err(|_| "column `reward` does not hold numbers")?;
                self.reward.extend(reward.as_primitive::<Float64Type>().iter());
            }
        }
        self.video.extend(videos.iter().flatten().map(str::to_owned));
        self.frame_index.extend(frames);
        Ok(())
    }
}

fn invalid(path: impl std::fmt::Display, reason: impl std::fmt::Display) -> Error {
    Error::Actions { path: path.to_string(), reason: reason.to_string() }
}

#[cfg(test)]
mod tests;
