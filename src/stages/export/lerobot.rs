//! Writes a LeRobot dataset, version 3.0.
//!
//! | file | contents |
//! |---|---|
//! | `episodes` | the episodes, their rate, and the video files that hold them |
//! | `frame_columns` | the columns of an episode's frames |
//! | `statistics` | statistics of features |
//! | `video_files` | the video files |
//! | `rolling_table` | Parquet tables of several files |
//! | `extend` | the same dataset with labels as further columns |
//! | `metadata` | `info.json`, `tasks.parquet` and the card |
//!
//! LeRobot takes files from the rows of `meta/episodes`, and a frame from its time in a video. So
//! times are computed from whole numbers of frames, and a video file is encoded in one go.

use std::collections::BTreeMap;

use serde_json::{Map, Value};

use super::{ExportTask, write_file};
use crate::dataset::{Actions, ExportColumn, FileInfo, Shards};
use crate::stages::{Error, TaskContext, TaskOutput};

mod episodes;
mod extend;
mod frame_columns;
mod metadata;
mod rolling_table;
mod statistics;
mod video_files;

pub(super) use episodes::{Episode, Episodes};
pub(super) use frame_columns::{FrameColumns, LabelFiles, ShardLabels};
use rolling_table::{Place, RollingTable};
use statistics::{Cell, Columns, Feature};
use video_files::VideoFiles;
pub(super) use video_files::encode;

/// The name of the only camera.
const CAMERA: &str = "observation.images.main";
/// Files in a folder, at most.
const CHUNK_FILES: usize = 1000;
/// Episodes in a row group of `meta/episodes`.
const EPISODES_AT_ONCE: usize = 200;
/// The largest number of frames from which quantiles of the whole dataset are computed.
const QUANTILE_FRAMES: u64 = 100_000;

/// Writes the dataset below the attempt's folder.
pub(super) fn run(task: &ExportTask, ctx: &TaskContext) -> Result<TaskOutput, Error> {
    if let Some(root) = &task.config.extend {
        return extend::run(task, root, ctx);
    }
    let shards = Shards::open_files(ctx.store, &task.shards)?;
    let episodes = Episodes::find(task, &shards)?;
    let paths: Vec<String> = task.actions.iter().map(|file| file.path.clone()).collect();
    let actions = Actions::read(ctx.store, &paths)?;
    let labels = LabelFiles::open(ctx.store, &task.labels)?;
    let columns = FrameColumns {
        shape: labels.shape,
        has_error: labels.has_error,
        actions: task.config.actions.as_ref().map(|_| &actions),
        fps: episodes.fps,
    };
    // A missing action is found before hours of encoding.
    columns.check_actions(&episodes.all)?;
    let video_files = video_files::write(task, ctx, &shards, &episodes)?;
    let tables =
        Tables { task, ctx, episodes: &episodes, columns: &columns, video_files: &video_files };
    let written = tables.write(labels)?;
    let mut files = written.files;
    let mut stats: Map<String, Value> =
        written.features.into_iter().map(|(name, of)| (name, of.finish().json())).collect();
    stats.insert(CAMERA.to_owned(), video_files.colours.statistics().json());
    files.extend(video_files.files);
    files.push(write_json(ctx, "meta/stats.json", &stats.into())?);
    files.push(metadata::write_tasks(ctx, &task.text)?);
    let info = metadata::info(task, &episodes, &written.first_group);
    files.push(write_json(ctx, "meta/info.json", &info)?);
    files.push(write_file(ctx, "README.md", metadata::card(&task.text).as_bytes())?);
    ctx.progress.say(&format!("wrote a LeRobot dataset to {} in the workspace", ctx.folder));
    let counts = [("episodes", episodes.all.len() as f64), ("frames", episodes.frames as f64)];
    let stats = counts.map(|(name, count)| (name.to_owned(), count)).into();
    Ok(TaskOutput { files, stats, ..TaskOutput::default() })
}

fn write_json(ctx: &TaskContext, name: &str, value: &Value) -> Result<FileInfo, Error> {
    write_file(ctx, name, format!("{value:#}\n").as_bytes())
}

/// What the tables of frames and episodes are written from.
struct Tables<'a> {
    task: &'a ExportTask,
    ctx: &'a TaskContext<'a>,
    episodes: &'a Episodes,
    columns: &'a FrameColumns<'a>,
    video_files: &'a VideoFiles,
}

/// The tables of frames and episodes.
struct WrittenTables {
    files: Vec<FileInfo>,
    /// Statistics of the whole dataset, by feature.
    features: BTreeMap<String, Feature>,
    /// The columns of the first episode.
    first_group: Vec<(String, ExportColumn)>,
}

impl Tables<'_> {
    /// Writes the rows of all frames and episodes.
    fn write(&self, mut labels: LabelFiles) -> Result<WrittenTables, Error> {
        let mut data = RollingTable::new(self.ctx, "data");
        let mut meta = RollingTable::new(self.ctx, "meta/episodes");
        let mut features = BTreeMap::<String, Feature>::new();
        let mut first_group = vec![];
        let mut rows = Columns::default();
        let stride = self.episodes.frames.div_ceil(QUANTILE_FRAMES);
        let mut of_shard = None;
        for (number, episode) in self.episodes.all.iter().enumerate() {
            let of_shard = match &mut of_shard {
                Some((shard, labels)) if *shard == episode.shard => labels,
                of_shard => {
                    self.ctx.check_stop()?;
                    let labels = labels.of_shard(&self.task.shards[episode.shard])?;
                    &mut of_shard.insert((episode.shard, labels)).1
                }
            };
            let group = self.columns.of(episode, number, of_shard)?;
            if number == 0 {
                data.set_metadata("huggingface", metadata::huggingface(&group));
                first_group.clone_from(&group);
            }
            let place = data.write(&group)?;
            self.push_episode(number, place, meta.next_place(), &mut rows);
            for (name, column) in &group {
                features.entry(name.clone()).or_default().add(column, stride);
                let mut of_episode = Feature::default();
                of_episode.add(column, 1);
                of_episode.finish().push(name, &mut rows);
            }
            self.video_files.of_episodes[number].push(CAMERA, &mut rows);
            rows.end_row();
            if (number + 1).is_multiple_of(EPISODES_AT_ONCE)
                || number + 1 == self.episodes.all.len()
            {
                meta.write(&rows.take())?;
            }
        }
        labels.finish()?;
        let mut files = data.finish()?;
        // Rows of the stage are frames.
        files.extend(meta.finish()?.into_iter().map(|file| FileInfo { rows: 0, ..file }));
        Ok(WrittenTables { files, features, first_group })
    }

    /// Adds the cells of an episode that are not statistics.
    fn push_episode(&self, number: usize, data: Place, meta: Place, rows: &mut Columns) {
        let episode = &self.episodes.all[number];
        let len = episode.run.len;
        let seconds = |frames: usize| Cell::F64(frames as f64 / f64::from(self.episodes.fps));
        let whole = |count: usize| Cell::I64(count as i64);
        let first = episode.first_index as usize;
        rows.push("episode_index", whole(number));
        rows.push("tasks", Cell::Texts(vec![self.task.text.clone()]));
        rows.push("length", whole(len));
        rows.push("data/chunk_index", whole(data.chunk));
        rows.push("data/file_index", whole(data.file));
        rows.push("dataset_from_index", whole(first));
        rows.push("dataset_to_index", whole(first + len));
        let video = |name: &str| format!("videos/{CAMERA}/{name}");
        let video_file = Place::of(episode.video_file);
        rows.push(&video("chunk_index"), whole(video_file.chunk));
        rows.push(&video("file_index"), whole(video_file.file));
        rows.push(&video("from_timestamp"), seconds(episode.frames_before));
        rows.push(&video("to_timestamp"), seconds(episode.frames_before + len));
        rows.push("meta/episodes/chunk_index", whole(meta.chunk));
        rows.push("meta/episodes/file_index", whole(meta.file));
    }
}
