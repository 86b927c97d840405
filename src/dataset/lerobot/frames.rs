//! The tables of frames: true actions, rewards and states.

use std::collections::BTreeSet;
use std::sync::Arc;

use arrow::array::{Array, ArrayRef, AsArray, BooleanArray, RecordBatch, StringArray};
use arrow::compute::{cast, filter_record_batch};
use arrow::datatypes::{DataType, Float64Type, Int64Type};
use bytes::Bytes;
use parquet::arrow::ProjectionMask;
use parquet::arrow::arrow_reader::ParquetRecordBatchReaderBuilder;

use super::info::Place;
use super::{Episode, Fault, Lerobot, episode_name};
use crate::dataset::action_rows::ActionRows;
use crate::dataset::error::Result;
use crate::dataset::schema;

const EPISODE: &str = "episode_index";
const REWARD: &str = "next.reward";
const COPY: &str = "copy the whole dataset, or write it again with `lerobot`";

/// The columns to read, and which rows to leave out.
#[derive(Clone, Copy, Debug)]
pub struct LerobotRows<'a> {
    /// The feature of true actions.
    pub action: &'a str,
    /// The feature of states, if it is read.
    pub state: Option<&'a str>,
    /// Whether to leave out frames whose action or state is not finite.
    pub only_finite: bool,
}

impl Lerobot<'_> {
    /// Returns the true actions of all frames, and rewards and states if there are any. The video of
    /// a row is the [name](episode_name) of its episode.
    ///
    /// # Errors
    /// Fails if a column is missing or not declared, a value is missing or not finite, or the rows
    /// of an episode are not its frames.
    pub fn rows(&self, wanted: LerobotRows) -> Result<ActionRows> {
        for name in [Some(wanted.action), wanted.state].into_iter().flatten() {
            if !self.info.features.get(name).is_some_and(super::info::Feature::is_column) {
                let columns = self.info.features.iter().filter(|(_, feature)| feature.is_column());
                let columns: Vec<&str> = columns.map(|(name, _)| name.as_str()).collect();
                let fault = Fault::new(
                    format!("it has no feature `{name}`"),
                    format!("its features are {}", columns.join(", ")),
                );
                return Err(fault.of(&self.root, super::info::PATH));
            }
        }
        let episodes = self.episodes()?;
        let mut reader = RowReader {
            wanted,
            episodes: &episodes,
            declared: self.info.features.keys().map(String::as_str).collect(),
            rows: ActionRows::default(),
            next: (0, 0),
        };
        for file in self.files_of(&episodes)? {
            let bytes = self.read(&file)?;
            reader.add_file(bytes.into()).map_err(|fault| fault.of(&self.root, &file))?;
        }
        let missing = episodes.get(reader.next.0).filter(|episode| episode.frames > 0);
        if let Some(episode) = missing {
            let reason = format!(
                "episode {} has {} rows, expected {}",
                episode.index, reader.next.1, episode.frames
            );
            return Err(Fault::new(reason, COPY).of(&self.root, "data"));
        }
        if reader.rows.is_scalar {
            reader.rows.make_whole_numbers_discrete();
        }
        Ok(reader.rows)
    }

    /// Returns the files of the episodes' rows, in order, relative to the dataset.
    pub(super) fn files_of(&self, episodes: &[Episode]) -> Result<Vec<String>> {
        let mut files: Vec<String> = vec![];
        let mut last: Option<&Place> = None;
        for episode in episodes {
            if last.replace(&episode.data) != Some(&episode.data) {
                let path = self.info.data_path(&episode.data);
                files.push(path.map_err(|fault| fault.of(&self.root, super::info::PATH))?);
            }
        }
        Ok(files)
    }
}

/// Reads tables of frames, one after another.
struct RowReader<'a> {
    wanted: LerobotRows<'a>,
    episodes: &'a [Episode],
    declared: BTreeSet<&'a str>,
    rows: ActionRows,
    /// The position of the next row's episode, and its frame.
    next: (usize, u64),
}

impl RowReader<'_> {
    fn add_file(&mut self, bytes: Bytes) -> Result<(), Fault> {
        let damaged = |cause: &dyn std::fmt::Display| {
            Fault::new(format!("it is damaged: {cause}"), "copy the file again")
        };
        let builder =
            ParquetRecordBatchReaderBuilder::try_new(bytes).map_err(|cause| damaged(&cause))?;
        let names: Vec<String> =
            builder.schema().fields().iter().map(|field| field.name().clone()).collect();
        if let Some(name) = names.iter().find(|name| !self.declared.contains(name.as_str())) {
            return Err(Fault::new(
                format!("it has a column `{name}`, which `features` of meta/info.json lacks"),
                "add the feature there, or remove the column",
            ));
        }
        let LerobotRows { action, state, .. } = self.wanted;
        let wanted = |name: &str| {
            [EPISODE, schema::FRAME_INDEX, action, REWARD].contains(&name) || state == Some(name)
        };
        let wanted = names.iter().enumerate().filter(|(_, name)| wanted(name)).map(|(at, _)| at);
        let mask = ProjectionMask::roots(builder.parquet_schema(), wanted);
        for batch in builder.with_projection(mask).build().map_err(|cause| damaged(&cause))? {
            self.add_batch(&batch.map_err(|cause| damaged(&cause))?)?;
        }
        Ok(())
    }

    fn add_batch(&mut self, batch: &RecordBatch) -> Result<(), Fault> {
        let column = |name: &str| {
            let column = batch.column_by_name(name);
            column.cloned().ok_or_else(|| Fault::new(format!("it has no column `{name}`"), COPY))
        };
        let numbers = |name: &str| {
            let odd = || Fault::new(format!("column `{name}` does not hold whole numbers"), COPY);
            let wide = cast(&column(name)?, &DataType::Int64).map_err(|_| odd())?;
            let is_complete = wide.null_count() == 0;
            let wide = wide.as_primitive_opt::<Int64Type>().filter(|_| is_complete);
            Ok(wide.ok_or_else(odd)?.values().to_vec())
        };
        let episode: Vec<i64> = numbers(EPISODE)?;
        let frame: Vec<i64> = numbers(schema::FRAME_INDEX)?;
        for (episode, frame) in episode.iter().zip(&frame) {
            self.expect(*episode, *frame)?;
        }
        let action = column(self.wanted.action)?;
        let mut is_finite = self.finite(&action, self.wanted.action, &episode, &frame)?;
        let names = episode.iter().map(|episode| episode_name(episode.unsigned_abs()));
        let names: ArrayRef = Arc::new(StringArray::from_iter_values(names));
        let mut columns =
            vec![(schema::VIDEO, names), (schema::FRAME_INDEX, column(schema::FRAME_INDEX)?)];
        columns.push((schema::ACTION, action));
        if let Some(name) = self.wanted.state {
            let state = column(name)?;
            let also = self.finite(&state, name, &episode, &frame)?;
            is_finite.iter_mut().zip(also).for_each(|(one, other)| *one &= other);
            columns.push((schema::STATE, state));
        }
        if let Some(reward) = batch.column_by_name(REWARD) {
            columns.push((schema::REWARD, reward.clone()));
        }
        let odd = |cause: &dyn std::fmt::Display| Fault::new(cause.to_string(), COPY);
        let batch = RecordBatch::try_from_iter(columns).map_err(|cause| odd(&cause))?;
        let batch = filter_record_batch(&batch, &BooleanArray::from(is_finite))
            .map_err(|cause| odd(&cause))?;
        if batch.num_rows() == 0 {
            return Ok(());
        }
        self.rows.add_batch(&batch).map_err(|cause| odd(&cause))
    }

    /// Checks that a row is the next one of its episode.
    fn expect(&mut self, episode: i64, frame: i64) -> Result<(), Fault> {
        while self.episodes.get(self.next.0).is_some_and(|of| of.frames == self.next.1) {
            self.next = (self.next.0 + 1, 0);
        }
        let (number, next) = self.next;
        let expected = self.episodes.get(number).map(|of| (of.index.cast_signed(), next as i64));
        if expected == Some((episode, frame)) {
            self.next.1 += 1;
            while self.episodes.get(self.next.0).is_some_and(|of| of.frames == self.next.1) {
                self.next = (self.next.0 + 1, 0);
            }
            return Ok(());
        }
        let expected = expected.map_or_else(
            || "no more rows".to_owned(),
            |(episode, frame)| format!("frame {frame} of episode {episode}"),
        );
        Err(Fault::new(
            format!("frame {frame} of episode {episode} follows, expected {expected}"),
            COPY,
        ))
    }

    /// Returns which rows hold only finite numbers.
    fn finite(
        &self,
        column: &ArrayRef,
        name: &str,
        episode: &[i64],
        frame: &[i64],
    ) -> Result<Vec<bool>, Fault> {
        let (values, width) = match column.data_type() {
            DataType::FixedSizeList(_, width) => {
                (column.as_fixed_size_list().values().clone(), usize::try_from(*width).unwrap_or(0))
            }
            DataType::List(_) => {
                let lists = column.as_list::<i32>();
                let from = lists.value_offsets()[0] as usize;
                let to = lists.value_offsets()[lists.len()] as usize;
                let width = if lists.is_empty() { 0 } else { lists.value_length(0) as usize };
                (lists.values().slice(from, to - from), width)
            }
            _ => (column.clone(), 1),
        };
        let odd = || {
            let reason = format!("column `{name}` does not hold numbers or lists of one length");
            Fault::new(reason, "name another feature")
        };
        let wide = cast(&values, &DataType::Float64).map_err(|_| odd())?;
        let numbers = wide.as_primitive_opt::<Float64Type>().ok_or_else(odd)?;
        if width == 0 || numbers.len() != width * episode.len() {
            return Err(odd());
        }
        let is_finite = |at: usize| !numbers.is_null(at) && numbers.value(at).is_finite();
        let of_row = |row: usize| (row * width..(row + 1) * width).all(is_finite);
        let all: Vec<bool> = (0..episode.len()).map(of_row).collect();
        match all.iter().position(|is_finite| !is_finite) {
            Some(row) if !self.wanted.only_finite => Err(Fault::new(
                format!(
                    "`{name}` of frame {} of episode {} is missing or not finite",
                    frame[row], episode[row]
                ),
                "correct it, or set `partial: true` to leave out such frames",
            )),
            _ => Ok(all),
        }
    }
}
