//! What an agent truly did, where somebody recorded it.
//!
//! In: Parquet with `video`, `frame_index` and `action`, of ours or of the user's. Out: [`Actions`]. Start at [`Actions::read`].

use std::collections::HashMap;
use std::fs::File;
use std::path::Path;

use arrow::array::{Array, ArrayRef, AsArray, RecordBatch};
use arrow::datatypes::{DataType, Float32Type, Float64Type, Int8Type, Int16Type, Int32Type, Int64Type, UInt8Type, UInt16Type, UInt32Type};
use parquet::arrow::arrow_reader::{ArrowReaderOptions, ParquetRecordBatchReaderBuilder};
use parquet::file::reader::ChunkReader;

use super::error::{Error, Result};
use super::store::Store;

/// What was done at one frame.
#[derive(Debug, Clone, Copy, PartialEq)]
pub enum Action<'a> {
    /// The number of a button, or of buttons held together.
    Discrete(u32),
    /// A number per axis: forces, angles.
    Continuous(&'a [f32]),
}

/// The true actions at frames of videos, all of one kind.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct Actions {
    /// Where a frame's action lies.
    by_video: HashMap<String, HashMap<u32, usize>>,
    /// Numbers an action has; 0: it is discrete.
    axes: usize,
    discrete: Vec<u32>,
    /// `[action, axis]`
    continuous: Vec<f32>,
}

impl Actions {
    /// Reads files of a workspace.
    ///
    /// # Errors
    /// Names the file and what is wrong with it: a column that is missing or of another type, a value below zero or missing, a frame with
    /// two actions, actions of another kind than those before.
    pub fn read(store: &Store, paths: &[String]) -> Result<Actions> {
        let mut actions = Actions::default();
        for path in paths {
            actions.add(path, store.map(path)?)?;
        }
        Ok(actions)
    }

    /// What was done at frame `frame_index` of a video, that is between it and the next. The file may name videos by path or by file name.
    #[must_use]
    pub fn get(&self, video: &str, frame_index: u32) -> Option<Action<'_>> {
        let name = video.rsplit('/').next().unwrap_or(video);
        let at = *self.by_video.get(video).or_else(|| self.by_video.get(name))?.get(&frame_index)?;
        Some(match self.axes {
            0 => Action::Discrete(self.discrete[at]),
            axes => Action::Continuous(&self.continuous[at * axes..][..axes]),
        })
    }

    /// The same where actions are discrete.
    #[must_use]
    pub fn discrete(&self, video: &str, frame_index: u32) -> Option<u32> {
        match self.get(video, frame_index)? {
            Action::Discrete(action) => Some(action),
            Action::Continuous(_) => None,
        }
    }

    /// How many numbers an action has; none if it is one of a few.
    #[must_use]
    pub fn axes(&self) -> Option<usize> {
        (self.axes > 0).then_some(self.axes)
    }

    /// How many discrete actions there are: every one of them is a number below.
    #[must_use]
    pub fn count(&self) -> usize {
        self.discrete.iter().max().map_or(0, |most| *most as usize + 1)
    }

    fn add(&mut self, path: &str, file: impl ChunkReader + 'static) -> Result<()> {
        let wrong = |reason: String| Error::Actions { path: path.to_owned(), reason };
        // Without the writer's own schema strings are plain strings, however the writer held them.
        let options = ArrowReaderOptions::new().with_skip_arrow_metadata(true);
        let builder = ParquetRecordBatchReaderBuilder::try_new_with_options(file, options).map_err(|cause| wrong(cause.to_string()))?;
        let reader = builder.build().map_err(|cause| wrong(cause.to_string()))?;
        for batch in reader {
            self.extend(&batch.map_err(|cause| wrong(cause.to_string()))?).map_err(wrong)?;
        }
        Ok(())
    }

    fn extend(&mut self, batch: &RecordBatch) -> Result<(), String> {
        let videos = whole(batch, "video")?.as_string_opt::<i32>().ok_or("column `video` is not text")?;
        let frames = counts("frame_index", whole(batch, "frame_index")?)?;
        let column = whole(batch, "action")?;
        let (axes, before) = (axes_of(column), self.discrete.len() + self.continuous.len() / self.axes.max(1));
        if before > 0 && axes != self.axes {
            return Err(format!("column `action` has {axes} numbers a row, those before have {}", self.axes));
        }
        self.axes = axes;
        match axes {
            0 => self.discrete.extend(counts("action", column)?),
            axes => self.continuous.extend(vectors(column, axes)?),
        }
        for (i, (video, frame)) in videos.iter().flatten().zip(frames).enumerate() {
            let of_video = match self.by_video.get_mut(video) {
                Some(found) => found,
                None => self.by_video.entry(video.to_owned()).or_default(),
            };
            if of_video.insert(frame, before + i).is_some() {
                return Err(format!("frame {frame} of `{video}` has two actions"));
            }
        }
        Ok(())
    }
}

/// Reads a file of the user's.
///
/// # Errors
/// As [`Actions::read`].
pub fn read_actions(path: &Path) -> Result<Actions> {
    let name = path.display().to_string();
    let file = File::open(path).map_err(|cause| Error::Actions { path: name.clone(), reason: cause.to_string() })?;
    let mut actions = Actions::default();
    actions.add(&name, file)?;
    Ok(actions)
}

/// A column without missing values.
fn whole<'a>(batch: &'a RecordBatch, name: &str) -> Result<&'a ArrayRef, String> {
    let column = batch.column_by_name(name).ok_or_else(|| format!("it has no column `{name}`"))?;
    if column.null_count() == 0 { Ok(column) } else { Err(format!("column `{name}` has missing values")) }
}

/// Numbers a continuous action has; 0 where the column is not of continuous actions.
fn axes_of(column: &ArrayRef) -> usize {
    match column.data_type() {
        DataType::Float32 | DataType::Float64 => 1,
        DataType::List(_) => column.as_list::<i32>().iter().flatten().next().map_or(1, |first| first.len()),
        DataType::FixedSizeList(_, length) => usize::try_from(*length).unwrap_or(1),
        _ => 0,
    }
}

/// The numbers of continuous actions, `axes` to a row.
fn vectors(column: &ArrayRef, axes: usize) -> Result<Vec<f32>, String> {
    let rows: Vec<ArrayRef> = match column.data_type() {
        DataType::List(_) => column.as_list::<i32>().iter().flatten().collect(),
        DataType::FixedSizeList(..) => column.as_fixed_size_list().iter().flatten().collect(),
        _ => (0..column.len()).map(|row| column.slice(row, 1)).collect(),
    };
    let mut numbers = Vec::with_capacity(rows.len() * axes);
    for row in rows {
        if row.len() != axes || row.null_count() > 0 {
            return Err(format!("column `action` has {} numbers in a row, those before have {axes}", row.len() - row.null_count()));
        }
        match row.data_type() {
            DataType::Float32 => numbers.extend_from_slice(row.as_primitive::<Float32Type>().values()),
            DataType::Float64 => numbers.extend(row.as_primitive::<Float64Type>().values().iter().map(|v| *v as f32)),
            other => return Err(format!("column `action` holds lists of {other}, expected floating-point numbers")),
        }
    }
    match numbers.iter().find(|number| !number.is_finite()) {
        Some(number) => Err(format!("column `action` holds {number}, expected finite numbers")),
        None => Ok(numbers),
    }
}

/// The whole numbers of a column of any integer type.
fn counts(name: &str, column: &ArrayRef) -> Result<Vec<u32>, String> {
    let wide: Vec<i64> = match column.data_type() {
        DataType::Int8 => column.as_primitive::<Int8Type>().values().iter().map(|v| i64::from(*v)).collect(),
        DataType::Int16 => column.as_primitive::<Int16Type>().values().iter().map(|v| i64::from(*v)).collect(),
        DataType::Int32 => column.as_primitive::<Int32Type>().values().iter().map(|v| i64::from(*v)).collect(),
        DataType::Int64 => column.as_primitive::<Int64Type>().values().to_vec(),
        DataType::UInt8 => column.as_primitive::<UInt8Type>().values().iter().map(|v| i64::from(*v)).collect(),
        DataType::UInt16 => column.as_primitive::<UInt16Type>().values().iter().map(|v| i64::from(*v)).collect(),
        DataType::UInt32 => column.as_primitive::<UInt32Type>().values().iter().map(|v| i64::from(*v)).collect(),
        other => return Err(format!("column `{name}` holds {other}, not whole numbers")),
    };
    wide.into_iter().map(|v| u32::try_from(v).map_err(|_| format!("column `{name}` holds {v}, expected 0 or more"))).collect()
}

#[cfg(test)]
#[expect(clippy::unwrap_used, reason = "a test fails by panicking")]
mod tests {
    use super::*;

    #[test]
    fn recorded_actions_are_found_by_path_and_by_name() {
        let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("data/maze/actions.parquet");
        let actions = read_actions(&path).unwrap();
        // pyarrow: the first three of maze_1_000.mp4
        let first = |video| (0..3).map(|frame| actions.discrete(video, frame)).collect::<Vec<_>>();
        assert_eq!(first("maze_1_000.mp4"), FIRST.map(Some));
        assert_eq!(first("data/maze/maze_1_000.mp4"), FIRST.map(Some));
        assert_eq!(actions.get("maze_1_000.mp4", 1_000_000), None);
        assert_eq!(actions.get("other.mp4", 0), None);
    }

    const FIRST: [u32; 3] = [5, 5, 5];

    #[test]
    fn a_file_that_holds_no_actions_is_named() {
        let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("Cargo.toml");
        let error = read_actions(&path).unwrap_err();
        assert!(error.to_string().starts_with(&format!("cannot read true actions from `{}`: ", path.display())), "{error}");
        assert!(error.hint().unwrap().contains("frame_index"));
    }
}
