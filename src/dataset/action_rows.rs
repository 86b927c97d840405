//! Files of true actions, row by row: Parquet or CSV goes in, Parquet comes out.
//!
//! A file has `video` (path or file name), `frame_index`, `action` and, where known, `reward`. An action is a whole number, or, where it is
//! continuous, a number or a list of them; in CSV, which has no lists, the columns `action_0`, `action_1` and so on. Start at
//! [`ActionRows::read_file`].

use std::collections::HashSet;
use std::fs::File;
use std::path::Path;

use arrow::array::{Array, ArrayRef, AsArray, RecordBatch};
use arrow::compute::cast;
use arrow::datatypes::{DataType, Float32Type, Float64Type, Int64Type};
use parquet::arrow::arrow_reader::{ArrowReaderOptions, ParquetRecordBatchReaderBuilder};
use parquet::file::reader::ChunkReader;

use super::error::{Error, Result};
use super::place::FileInfo;
use super::schema;
use super::store::Store;
use super::table::{Column, write_table};

/// True actions of frames, all of one kind.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct ActionRows {
    /// The video's path or file name.
    pub video: Vec<String>,
    /// The frame's number in it.
    pub frame_index: Vec<u32>,
    /// Numbers an action has; 0: it is discrete.
    pub axes: usize,
    /// `[row]`, where actions are discrete.
    pub discrete: Vec<u32>,
    /// `[row, axis]`, where they are continuous.
    pub continuous: Vec<f32>,
    /// What was earned, where that is known.
    pub reward: Vec<Option<f64>>,
    /// Whether a file of the user's holds one number a row, which may be a whole one written as a float.
    pub is_scalar: bool,
}

/// The highest number that is taken for a discrete action where it is written as a float.
const MOST: f32 = u16::MAX as f32;

impl ActionRows {
    /// Reads a file of the user's: Parquet, or CSV where its name says so.
    ///
    /// # Errors
    /// Names the file and what is wrong with it: a column that is missing or of another type, a value that is missing, below zero or not
    /// finite.
    pub fn read_file(path: &Path) -> Result<ActionRows> {
        let mut rows = ActionRows::default();
        let file = File::open(path).map_err(|cause| wrong(path.display(), cause))?;
        if path.extension().is_some_and(|extension| extension.eq_ignore_ascii_case("csv")) {
            rows.add_csv(file).map_err(|cause| wrong(path.display(), cause))?;
        } else {
            rows.add_parquet(&path.display().to_string(), file)?;
        }
        if rows.is_scalar {
            rows.take_whole_numbers();
        }
        Ok(rows)
    }

    /// Takes numbers that are all whole, and not below 0, for discrete actions: many programs write whole numbers as `1.0` wherever one was
    /// ever missing.
    fn take_whole_numbers(&mut self) {
        let is_whole = |number: &f32| number.fract() == 0.0 && (0.0..=MOST).contains(number);
        if self.continuous.iter().all(is_whole) {
            self.discrete = self.continuous.drain(..).map(|number| number as u32).collect();
            self.axes = 0;
        }
    }

    /// Returns in words what the actions were taken for: `discrete, 15 values`.
    #[must_use]
    pub fn kind(&self) -> String {
        match self.axes {
            0 => match self.discrete.iter().collect::<HashSet<_>>().len() {
                1 => "discrete, 1 value".into(),
                values => format!("discrete, {values} values"),
            },
            1 if self.is_scalar => {
                let odd = self
                    .continuous
                    .iter()
                    .position(|number| number.fract() != 0.0 || *number < 0.0)
                    .unwrap_or(0);
                let (number, frame, video) =
                    (self.continuous[odd], self.frame_index[odd], &self.video[odd]);
                format!("continuous, 1 number each, since frame {frame} of `{video}` has {number}")
            }
            1 => "continuous, 1 number each".into(),
            axes => format!("continuous, {axes} numbers each"),
        }
    }

    /// Reads files of a workspace.
    pub fn read(store: &Store, paths: &[String]) -> Result<ActionRows> {
        let mut rows = ActionRows::default();
        for path in paths {
            rows.add_parquet(path, store.map(path)?)?;
        }
        Ok(rows)
    }

    /// How many rows there are.
    #[must_use]
    pub fn len(&self) -> usize {
        self.video.len()
    }

    /// Whether there is none.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.video.is_empty()
    }

    /// Takes one row over from others of the same kind, under another name of its video.
    pub fn push(&mut self, video: &str, from: &ActionRows, row: usize) {
        self.axes = from.axes;
        self.video.push(video.to_owned());
        self.frame_index.push(from.frame_index[row]);
        match self.axes {
            0 => self.discrete.push(from.discrete[row]),
            axes => self.continuous.extend_from_slice(&from.continuous[row * axes..][..axes]),
        }
        self.reward.push(from.reward[row]);
    }

    /// Writes a Parquet file of a workspace.
    pub fn write(self, store: &Store, path: &str) -> Result<FileInfo> {
        let action = match self.axes {
            0 => Column::U32(self.discrete),
            axes => Column::F32Rows(self.continuous, axes),
        };
        let columns = [
            (schema::VIDEO, Column::Text(self.video)),
            (schema::FRAME_INDEX, Column::U32(self.frame_index)),
            (schema::ACTION, action),
            (schema::REWARD, Column::F64(self.reward)),
        ];
        write_table(store, path, &columns)
    }

    fn add_parquet(&mut self, path: &str, file: impl ChunkReader + 'static) -> Result<()> {
        // Without the writer's own schema strings are plain strings, however the writer held them.
        let options = ArrowReaderOptions::new().with_skip_arrow_metadata(true);
        let builder = ParquetRecordBatchReaderBuilder::try_new_with_options(file, options)
            .map_err(|cause| wrong(path, cause))?;
        for batch in builder.build().map_err(|cause| wrong(path, cause))? {
            self.add(&batch.map_err(|cause| wrong(path, cause))?)
                .map_err(|cause| wrong(path, cause))?;
        }
        Ok(())
    }

    fn add(&mut self, batch: &RecordBatch) -> Result<(), String> {
        let videos = cast(whole(batch, schema::VIDEO)?, &DataType::Utf8)
            .map_err(|_| "column `video` is not text")?;
        let videos = videos.as_string::<i32>();
        let frames = counts(schema::FRAME_INDEX, whole(batch, schema::FRAME_INDEX)?)?;
        let action = whole(batch, schema::ACTION)?;
        let axes = axes_of(action);
        self.is_scalar = axes == 1 && action.data_type().is_floating();
        if !self.is_empty() && axes != self.axes {
            return Err(format!(
                "column `action` has {axes} numbers a row, those before have {}",
                self.axes
            ));
        }
        self.axes = axes;
        match axes {
            0 => self.discrete.extend(counts(schema::ACTION, action)?),
            axes => self.continuous.extend(vectors(action, axes)?),
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

    fn add_csv(&mut self, file: File) -> Result<(), String> {
        let mut reader = csv::ReaderBuilder::new().trim(csv::Trim::All).from_reader(file);
        let head = reader.headers().map_err(|cause| cause.to_string())?.clone();
        let place = |name: &str| head.iter().position(|column| column == name);
        let needed = |name: &str| place(name).ok_or_else(|| format!("it has no column `{name}`"));
        let (video, frame, reward) =
            (needed(schema::VIDEO)?, needed(schema::FRAME_INDEX)?, place(schema::REWARD));
        let axes: Vec<usize> =
            (0..).map_while(|axis| place(&format!("{}_{axis}", schema::ACTION))).collect();
        let action = if axes.is_empty() { vec![needed(schema::ACTION)?] } else { axes.clone() };
        let mut numbers: Vec<String> = Vec::new();
        for (row, record) in reader.records().enumerate() {
            let (record, line) = (record.map_err(|cause| cause.to_string())?, row + 2);
            let bad = |name: &str, seen: &str| format!("line {line}: `{name}` is `{seen}`");
            self.video.push(record[video].to_owned());
            self.frame_index.push(
                count(&record[frame]).ok_or_else(|| bad(schema::FRAME_INDEX, &record[frame]))?,
            );
            let reward = reward.map(|at| &record[at]).filter(|text| !text.is_empty());
            self.reward.push(
                reward
                    .map(|text| text.parse().map_err(|_| bad(schema::REWARD, text)))
                    .transpose()?,
            );
            for &at in &action {
                let number: f64 = record[at].parse().map_err(|_| bad(&head[at], &record[at]))?;
                if !number.is_finite() {
                    return Err(bad(&head[at], &record[at]));
                }
                numbers.push(record[at].to_owned());
            }
        }
        // Whole numbers name actions; one that is not makes all of them continuous.
        match numbers.iter().map(|number| number.parse()).collect::<std::result::Result<_, _>>() {
            Ok(discrete) if axes.is_empty() => self.discrete = discrete,
            _ => {
                self.axes = action.len();
                self.is_scalar = axes.is_empty();
                self.continuous = numbers.iter().filter_map(|number| number.parse().ok()).collect();
            }
        }
        Ok(())
    }
}

fn wrong(path: impl std::fmt::Display, reason: impl std::fmt::Display) -> Error {
    Error::Actions { path: path.to_string(), reason: reason.to_string() }
}

/// A column without missing values.
fn whole<'a>(batch: &'a RecordBatch, name: &str) -> Result<&'a ArrayRef, String> {
    let column = batch.column_by_name(name).ok_or_else(|| format!("it has no column `{name}`"))?;
    if column.null_count() == 0 {
        Ok(column)
    } else {
        Err(format!("column `{name}` has missing values"))
    }
}

/// Numbers a continuous action has; 0 where the column is not of continuous actions.
fn axes_of(column: &ArrayRef) -> usize {
    match column.data_type() {
        DataType::Float16 | DataType::Float32 | DataType::Float64 => 1,
        DataType::List(_) => {
            column.as_list::<i32>().iter().flatten().next().map_or(1, |first| first.len())
        }
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
            return Err(format!(
                "column `action` has {} numbers in a row, those before have {axes}",
                row.len() - row.null_count()
            ));
        }
        let row =
            cast(&row, &DataType::Float32).map_err(|_| "column `action` does not hold numbers")?;
        numbers.extend_from_slice(row.as_primitive::<Float32Type>().values());
    }
    match numbers.iter().find(|number| !number.is_finite()) {
        Some(number) => Err(format!("column `action` holds {number}, expected finite numbers")),
        None => Ok(numbers),
    }
}

/// Reads a whole number, which may be written as a float.
fn count(text: &str) -> Option<u32> {
    let float = || {
        text.parse::<f64>()
            .ok()
            .filter(|number| number.fract() == 0.0 && (0.0..=f64::from(u32::MAX)).contains(number))
    };
    text.parse().ok().or_else(|| float().map(|number| number as u32))
}

/// The whole numbers of a column of any integer type, or of floats that are whole.
fn counts(name: &str, column: &ArrayRef) -> Result<Vec<u32>, String> {
    if column.data_type().is_floating() {
        let wide = cast(column, &DataType::Float64).map_err(|cause| cause.to_string())?;
        let is_whole =
            |number: &&f64| number.fract() == 0.0 && (0.0..=f64::from(u32::MAX)).contains(*number);
        let numbers = wide.as_primitive::<Float64Type>().values();
        return match numbers.iter().find(|number| !is_whole(number)) {
            Some(odd) => Err(format!("column `{name}` holds {odd}, expected whole numbers from 0")),
            None => Ok(numbers.iter().map(|number| *number as u32).collect()),
        };
    }
    if !column.data_type().is_integer() {
        return Err(format!("column `{name}` holds {}, not whole numbers", column.data_type()));
    }
    let wide = cast(column, &DataType::Int64).map_err(|cause| cause.to_string())?;
    let count = |v: &i64| {
        u32::try_from(*v).map_err(|_| format!("column `{name}` holds {v}, expected 0 or more"))
    };
    wide.as_primitive::<Int64Type>().values().iter().map(count).collect()
}

#[cfg(test)]
#[expect(clippy::unwrap_used, reason = "a test fails by panicking")]
mod tests {
    use std::sync::Arc;

    use super::*;

    fn csv(text: &str) -> Result<ActionRows, String> {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("actions.csv");
        std::fs::write(&path, text).unwrap();
        ActionRows::read_file(&path)
            .map_err(|error| error.to_string().split("`: ").nth(1).unwrap().to_owned())
    }

    #[test]
    fn csv_holds_numbers_of_actions_or_a_column_an_axis() {
        let rows =
            csv("video, frame_index, action, reward\na.mp4, 0, 3, 0.5\na.mp4, 1, 4,\n").unwrap();
        assert_eq!((rows.axes, rows.discrete, rows.reward), (0, vec![3, 4], vec![Some(0.5), None]));
        let rows = csv("frame_index,video,action_0,action_1\n7,b.mp4,0.5,1\n").unwrap();
        assert_eq!((rows.axes, rows.frame_index, rows.continuous), (2, vec![7], vec![0.5, 1.0]));
        let rows = csv("video,frame_index,action\na,0,1\na,1,0.25\n").unwrap();
        assert_eq!((rows.axes, rows.continuous), (1, vec![1.0, 0.25]));
    }

    #[test]
    fn whole_numbers_are_discrete_however_they_are_written() {
        let csv = |actions: &str| {
            let lines: String = actions
                .split(' ')
                .enumerate()
                .map(|(frame, action)| format!("a,{frame},{action}\n"))
                .collect();
            csv(&format!("video,frame_index,action\n{lines}")).unwrap()
        };
        let parquet = |actions: ArrayRef| {
            let frames = arrow::array::Float64Array::from_iter_values(
                (0..actions.len()).map(|frame| frame as f64),
            );
            let videos = arrow::array::StringArray::from(vec!["a"; actions.len()]);
            let columns: [(&str, ArrayRef); 3] = [
                ("video", Arc::new(videos)),
                ("frame_index", Arc::new(frames)),
                ("action", actions),
            ];
            let batch = RecordBatch::try_from_iter(columns).unwrap();
            let folder = tempfile::tempdir().unwrap();
            let path = folder.path().join("a.parquet");
            let mut writer = parquet::arrow::ArrowWriter::try_new(
                File::create(&path).unwrap(),
                batch.schema(),
                None,
            )
            .unwrap();
            writer.write(&batch).unwrap();
            writer.close().unwrap();
            ActionRows::read_file(&path).unwrap()
        };
        let floats = |numbers: &[f64]| -> ArrayRef {
            Arc::new(arrow::array::Float64Array::from(numbers.to_vec()))
        };
        let lists: ArrayRef = Arc::new(arrow::array::ListArray::from_iter_primitive::<
            Float64Type,
            _,
            _,
        >([Some([Some(1.0)]), Some([Some(2.0)])]));
        let cases = [
            (csv("1 2 2"), "discrete, 2 values"),
            (csv("1.0 2.0 1"), "discrete, 2 values"),
            (csv("1e0 3"), "discrete, 2 values"),
            (csv("1.0 0.5"), "continuous, 1 number each, since frame 1 of `a` has 0.5"),
            (csv("1.0 -1"), "continuous, 1 number each, since frame 1 of `a` has -1"),
            (parquet(floats(&[3.0, 3.0])), "discrete, 1 value"),
            (
                parquet(floats(&[3.0, 0.25])),
                "continuous, 1 number each, since frame 1 of `a` has 0.25",
            ),
            (
                parquet(Arc::new(arrow::array::Float32Array::from(vec![0.0, 7.0]))),
                "discrete, 2 values",
            ),
            (parquet(Arc::new(arrow::array::Int8Array::from(vec![0, 7]))), "discrete, 2 values"),
            (parquet(lists), "continuous, 1 number each"),
        ];
        for (rows, kind) in cases {
            assert_eq!(rows.kind(), kind);
            assert_eq!(rows.axes == 0, kind.starts_with("discrete"), "{kind}");
        }
    }

    #[test]
    fn what_is_wrong_with_csv_is_told_by_line() {
        assert_eq!(csv("video,action\n").unwrap_err(), "it has no column `frame_index`");
        assert_eq!(
            csv("video,frame_index,action\na,0,1\na,-1,1\n").unwrap_err(),
            "line 3: `frame_index` is `-1`"
        );
        assert_eq!(
            csv("video,frame_index,action\na,0,jump\n").unwrap_err(),
            "line 2: `action` is `jump`"
        );
        assert_eq!(
            csv("video,frame_index,action\na,0,NaN\n").unwrap_err(),
            "line 2: `action` is `NaN`"
        );
        assert!(csv("video,frame_index,action\na,0\n").unwrap_err().contains("2 fields"));
    }

    #[test]
    fn vectors_come_back_from_a_workspace() {
        let folder = tempfile::tempdir().unwrap();
        let store = Store::open(folder.path().to_str().unwrap()).unwrap();
        let rows =
            csv("video,frame_index,action_0,action_1,reward\na,0,0.5,1,2\na,1,-3,4,\n").unwrap();
        let path = "s/data/k/a/actions.parquet";
        rows.clone().write(&store, path).unwrap();
        assert_eq!(ActionRows::read(&store, &[path.to_owned()]).unwrap(), rows);
    }
}
