//! What an agent truly did, where somebody recorded it.
//!
//! In: a Parquet file of the user's with `video`, `frame_index` and `action`. Out: [`Actions`]. Start at [`read_actions`].

use std::collections::HashMap;
use std::fs::File;
use std::path::Path;

use arrow::array::{Array, ArrayRef, AsArray, RecordBatch};
use arrow::datatypes::{DataType, Int8Type, Int16Type, Int32Type, Int64Type, UInt8Type, UInt16Type, UInt32Type};
use parquet::arrow::arrow_reader::{ArrowReaderOptions, ParquetRecordBatchReaderBuilder};

use super::error::{Error, Result};

/// The true action at frames of videos.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Actions {
    by_video: HashMap<String, HashMap<u32, u32>>,
}

impl Actions {
    /// What was done at frame `frame_index` of a video, that is between it and the next. The file may name videos by path or by file name.
    #[must_use]
    pub fn get(&self, video: &str, frame_index: u32) -> Option<u32> {
        let name = video.rsplit('/').next().unwrap_or(video);
        self.by_video.get(video).or_else(|| self.by_video.get(name))?.get(&frame_index).copied()
    }
}

/// Reads a file of true actions.
///
/// # Errors
/// Names the file and what is wrong with it: a column that is missing or of another type, a value below zero or missing, a frame with two
/// actions.
pub fn read_actions(path: &Path) -> Result<Actions> {
    let wrong = |reason: String| Error::Actions { path: path.display().to_string(), reason };
    let file = File::open(path).map_err(|cause| wrong(cause.to_string()))?;
    // Without the writer's own schema strings are plain strings, however the writer held them.
    let options = ArrowReaderOptions::new().with_skip_arrow_metadata(true);
    let builder = ParquetRecordBatchReaderBuilder::try_new_with_options(file, options).map_err(|cause| wrong(cause.to_string()))?;
    let reader = builder.build().map_err(|cause| wrong(cause.to_string()))?;
    let mut actions = Actions::default();
    for batch in reader {
        actions.extend(&batch.map_err(|cause| wrong(cause.to_string()))?).map_err(wrong)?;
    }
    Ok(actions)
}

impl Actions {
    fn extend(&mut self, batch: &RecordBatch) -> Result<(), String> {
        let column = |name: &str| {
            let column = batch.column_by_name(name).ok_or_else(|| format!("it has no column `{name}`"))?;
            if column.null_count() == 0 { Ok(column) } else { Err(format!("column `{name}` has missing values")) }
        };
        let videos = column("video")?.as_string_opt::<i32>().ok_or("column `video` is not text")?;
        let (frames, actions) = (counts("frame_index", column("frame_index")?)?, counts("action", column("action")?)?);
        for ((video, frame), action) in videos.iter().flatten().zip(frames).zip(actions) {
            let of_video = match self.by_video.get_mut(video) {
                Some(found) => found,
                None => self.by_video.entry(video.to_owned()).or_default(),
            };
            if of_video.insert(frame, action).is_some() {
                return Err(format!("frame {frame} of `{video}` has two actions"));
            }
        }
        Ok(())
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
        let first = |video| (0..3).map(|frame| actions.get(video, frame)).collect::<Vec<_>>();
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
