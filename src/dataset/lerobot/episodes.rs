//! The table of episodes: their lengths, tasks and files.

use std::collections::BTreeMap;

use arrow::array::{Array, ArrayRef, AsArray, RecordBatch};
use arrow::compute::cast;
use arrow::datatypes::{DataType, Float64Type, Int64Type};
use bytes::Bytes;
use parquet::arrow::ProjectionMask;
use parquet::arrow::arrow_reader::ParquetRecordBatchReaderBuilder;
use serde::Deserialize;

use super::info::{self, Place};
use super::{Fault, Lerobot};
use crate::dataset::error::Result;

/// The table of version 2.1.
const LINES: &str = "meta/episodes.jsonl";
/// The folder of the tables of version 3.0.
const TABLES: &str = "meta/episodes";

/// An episode.
#[derive(Clone, Debug, PartialEq)]
pub struct Episode {
    /// Its number.
    pub index: u64,
    /// The number of its frames.
    pub frames: u64,
    /// What is done in it, in words.
    pub tasks: Vec<String>,
    /// Where its rows of the table of frames are.
    pub(super) data: Place,
    /// Where each camera's video is, and when the episode begins in it, in seconds.
    pub(super) videos: BTreeMap<String, (Place, f64)>,
}

impl Lerobot<'_> {
    /// Returns all episodes in order.
    ///
    /// # Errors
    /// Fails if their table is missing or damaged, or its rows are not numbered from 0 without gaps.
    pub fn episodes(&self) -> Result<Vec<Episode>> {
        let (file, episodes) = if self.info.is_joined {
            (TABLES, self.joined_episodes()?)
        } else {
            let text = self.read(LINES)?;
            (LINES, self.own_episodes(&text).map_err(|fault| fault.of(&self.root, LINES))?)
        };
        let copy = "copy the whole dataset, or write it again with `lerobot-edit-dataset`";
        let gap = (0..).zip(&episodes).find(|(number, episode)| episode.index != *number);
        if let Some((number, episode)) = gap {
            let reason = format!("episode {} follows where {number} is expected", episode.index);
            return Err(Fault::new(reason, copy).of(&self.root, file));
        }
        let frames: u64 = episodes.iter().map(|episode| episode.frames).sum();
        let counts = (episodes.len() as u64, frames);
        if counts != (self.info.episodes, self.info.frames) {
            let reason = format!(
                "it has {} episodes with {frames} frames, but {} says {} with {}",
                episodes.len(),
                info::PATH,
                self.info.episodes,
                self.info.frames
            );
            return Err(Fault::new(reason, copy).of(&self.root, file));
        }
        Ok(episodes)
    }

    /// Returns the files of the table of episodes.
    pub(super) fn episode_files(&self) -> Result<Vec<String>> {
        if !self.info.is_joined {
            return Ok(vec![LINES.to_owned()]);
        }
        let mut files = self.files_below(TABLES)?;
        files.retain(|file| file.ends_with(".parquet"));
        Ok(files)
    }

    fn cameras(&self) -> impl Iterator<Item = &String> {
        self.info.features.iter().filter(|(_, feature)| !feature.is_column()).map(|(name, _)| name)
    }

    /// Reads the lines of version 2.1.
    fn own_episodes(&self, text: &[u8]) -> Result<Vec<Episode>, Fault> {
        #[derive(Deserialize)]
        struct Line {
            episode_index: u64,
            length: u64,
            #[serde(default)]
            tasks: Vec<String>,
        }
        let mut episodes = vec![];
        let lines = text.split(|byte| *byte == b'\n').map(<[u8]>::trim_ascii);
        for (number, line) in (1..).zip(lines).filter(|(_, line)| !line.is_empty()) {
            let Line { episode_index: index, length, tasks } = serde_json::from_slice(line)
                .map_err(|cause| {
                    Fault::new(format!("line {number} is damaged: {cause}"), "copy the file again")
                })?;
            let place = Place::Own(index);
            let videos =
                self.cameras().map(|camera| (camera.clone(), (place.clone(), 0.0))).collect();
            episodes.push(Episode { index, frames: length, tasks, data: place, videos });
        }
        Ok(episodes)
    }

    /// Reads the tables of version 3.0.
    fn joined_episodes(&self) -> Result<Vec<Episode>> {
        let mut episodes = vec![];
        for file in self.episode_files()? {
            let bytes = self.read(&file)?;
            self.add_episodes(bytes.into(), &mut episodes)
                .map_err(|fault| fault.of(&self.root, &file))?;
        }
        Ok(episodes)
    }

    fn add_episodes(&self, bytes: Bytes, episodes: &mut Vec<Episode>) -> Result<(), Fault> {
        let damaged = |cause: &dyn std::fmt::Display| {
            Fault::new(format!("it is damaged: {cause}"), "copy the file again")
        };
        let builder =
            ParquetRecordBatchReaderBuilder::try_new(bytes).map_err(|cause| damaged(&cause))?;
        // Statistics are most of the table.
        let wanted = |name: &str| !name.starts_with("stats/");
        let names: Vec<String> =
            builder.schema().fields().iter().map(|field| field.name().clone()).collect();
        let wanted = names.iter().enumerate().filter(|(_, name)| wanted(name)).map(|(at, _)| at);
        let mask = ProjectionMask::roots(builder.parquet_schema(), wanted);
        let batches = builder.with_projection(mask).build().map_err(|cause| damaged(&cause))?;
        for batch in batches {
            self.add_batch(&batch.map_err(|cause| damaged(&cause))?, episodes)?;
        }
        Ok(())
    }

    fn add_batch(&self, batch: &RecordBatch, episodes: &mut Vec<Episode>) -> Result<(), Fault> {
        let index = counts(batch, "episode_index")?;
        let length = counts(batch, "length")?;
        let place = |prefix: &str| -> Result<Vec<Place>, Fault> {
            let chunks = counts(batch, &format!("{prefix}/chunk_index"))?;
            let files = counts(batch, &format!("{prefix}/file_index"))?;
            let both = chunks.into_iter().zip(files);
            Ok(both.map(|(chunk, file)| Place::Joined { chunk, file }).collect())
        };
        let data = place("data")?;
        let tasks = texts(batch, "tasks")?;
        let mut videos = vec![];
        for camera in self.cameras() {
            let prefix = format!("videos/{camera}");
            let from = seconds(batch, &format!("{prefix}/from_timestamp"))?;
            let of_rows: Vec<_> = place(&prefix)?.into_iter().zip(from).collect();
            videos.push((camera, of_rows));
        }
        for row in 0..batch.num_rows() {
            let of_row = |(camera, of_rows): &(&String, Vec<(Place, f64)>)| {
                ((*camera).clone(), of_rows[row].clone())
            };
            episodes.push(Episode {
                index: index[row],
                frames: length[row],
                tasks: tasks[row].clone(),
                data: data[row].clone(),
                videos: videos.iter().map(of_row).collect(),
            });
        }
        Ok(())
    }
}

fn column(batch: &RecordBatch, name: &str) -> Result<ArrayRef, Fault> {
    let cure = "copy the whole dataset, or write it again with `lerobot`";
    let column = batch.column_by_name(name);
    let column = column.ok_or_else(|| Fault::new(format!("it has no column `{name}`"), cure))?;
    if column.null_count() > 0 {
        return Err(Fault::new(format!("column `{name}` has missing values"), cure));
    }
    Ok(column.clone())
}

fn counts(batch: &RecordBatch, name: &str) -> Result<Vec<u64>, Fault> {
    let odd = || Fault::new(format!("column `{name}` does not hold whole numbers from 0"), "");
    let wide = cast(&column(batch, name)?, &DataType::Int64).map_err(|_| odd())?;
    let numbers = wide.as_primitive_opt::<Int64Type>().ok_or_else(odd)?.values().iter();
    numbers.map(|number| u64::try_from(*number).map_err(|_| odd())).collect()
}

fn seconds(batch: &RecordBatch, name: &str) -> Result<Vec<f64>, Fault> {
    let odd = || Fault::new(format!("column `{name}` does not hold seconds"), "");
    let wide = cast(&column(batch, name)?, &DataType::Float64).map_err(|_| odd())?;
    Ok(wide.as_primitive_opt::<Float64Type>().ok_or_else(odd)?.values().to_vec())
}

/// Returns a column of lists of texts.
fn texts(batch: &RecordBatch, name: &str) -> Result<Vec<Vec<String>>, Fault> {
    let odd = || Fault::new(format!("column `{name}` does not hold lists of texts"), "");
    let item = arrow::datatypes::Field::new_list_field(DataType::Utf8, true);
    let lists = cast(&column(batch, name)?, &DataType::List(item.into())).map_err(|_| odd())?;
    let lists = lists.as_list_opt::<i32>().ok_or_else(odd)?;
    let list = |list: Option<ArrayRef>| {
        let list = list.ok_or_else(odd)?;
        let list = list.as_string_opt::<i32>().ok_or_else(odd)?;
        Ok(list.iter().flatten().map(str::to_owned).collect())
    };
    lists.iter().map(list).collect()
}
