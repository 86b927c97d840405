//! Writes a LeRobot dataset again with its labels as further columns: `extend`.
//!
//! Episodes, cameras, tasks and all other columns stay as they are, and videos are copied.

use std::collections::{BTreeMap, BTreeSet, HashMap, VecDeque};

use serde_json::json;

use super::frame_columns::{LabelColumns, LabelFiles, ShardLabels};
use super::statistics::{Columns, Feature};
use super::{QUANTILE_FRAMES, metadata, write_json};
use crate::dataset::lerobot::{Episode, Group, Lerobot};
use crate::dataset::{EpisodeRun, FileInfo, Shards};
use crate::stages::export::{ExportTask, write_file};
use crate::stages::{Error, TaskContext, TaskOutput};

/// The number of shards whose labels are in memory. Episodes are nearly in the order of shards.
const SHARDS_KEPT: usize = 4;

/// Writes the dataset below the attempt's folder.
pub(super) fn run(task: &ExportTask, root: &str, ctx: &TaskContext) -> Result<TaskOutput, Error> {
    let dataset = Lerobot::open(root, ctx.store.access())?;
    let files = dataset.files()?;
    let mut labels = EpisodeLabels::open(task, ctx, &dataset)?;
    let first = labels.columns(0)?;
    let mut info = dataset.info().clone();
    let features = info.entry("features").or_insert_with(|| json!({}));
    let features = features.as_object_mut().ok_or_else(|| {
        ExportTask::fault(root, "`features` is no object".into(), "copy the dataset again")
    })?;
    for (name, column) in &first {
        if features.contains_key(name) {
            let reason = format!("it has a feature `{name}` already");
            let cure = "extend the dataset that has no labels yet";
            return Err(ExportTask::fault(root, reason, cure));
        }
        features.insert(name.clone(), metadata::feature(name, column));
    }
    let mut written = vec![];
    let path = |file: &str| format!("{}/{file}", ctx.folder);
    for file in &files.copied {
        ctx.check_stop()?;
        written.push(dataset.copy(file, ctx.store, &path(file))?);
    }
    let frames: u64 = labels.episodes.iter().map(|episode| episode.frames).sum();
    let stride = frames.div_ceil(QUANTILE_FRAMES).max(1);
    let mut whole = BTreeMap::<String, Feature>::new();
    let types = metadata::huggingface_features(&first);
    for file in &files.rows {
        let mut more = |episode: u64| {
            ctx.check_stop()?;
            let group = labels.columns(episode)?;
            for (name, column) in &group {
                whole.entry(name.clone()).or_default().add(column, stride);
            }
            ctx.progress.advance(group.first().map_or(0, |_| labels.frames(episode)));
            Ok::<_, Error>(group)
        };
        written.push(dataset.write_rows(file, (ctx.store, &path(file)), &types, &mut more)?);
    }
    for file in &files.episodes {
        let mut more = |episodes: &[u64]| labels.statistics(episodes);
        let table = dataset.write_episodes(file, (ctx.store, &path(file)), &mut more)?;
        // Rows of the stage are frames.
        written.push(FileInfo { rows: 0, ..table });
    }
    let mut stats = dataset.statistics()?;
    stats.extend(whole.into_iter().map(|(name, of)| (name, of.finish().json())));
    written.push(write_json(ctx, "meta/stats.json", &stats.into())?);
    written.push(write_json(ctx, "meta/info.json", &info.into())?);
    written.push(write_file(ctx, "README.md", metadata::card(&task.text).as_bytes())?);
    ctx.progress.say(&format!("wrote a LeRobot dataset to {} in the workspace", ctx.folder));
    let counts = [
        ("episodes", labels.episodes.len() as f64),
        ("frames", frames as f64),
        ("labelled_frames", labels.labelled as f64),
    ];
    let stats = counts.map(|(name, count)| (name.to_owned(), count)).into();
    Ok(TaskOutput { files: written, stats, ..TaskOutput::default() })
}

/// The labels of each episode of a dataset.
struct EpisodeLabels<'a> {
    task: &'a ExportTask,
    ctx: &'a TaskContext<'a>,
    shards: Shards,
    episodes: Vec<Episode>,
    /// The shards and rows of each episode's frames.
    runs: Vec<Vec<(usize, EpisodeRun)>>,
    columns: LabelColumns,
    recent: VecDeque<(usize, ShardLabels)>,
    /// The number of frames with a label so far.
    labelled: u64,
}

impl<'a> EpisodeLabels<'a> {
    fn open(
        task: &'a ExportTask,
        ctx: &'a TaskContext<'a>,
        dataset: &Lerobot,
    ) -> Result<Self, Error> {
        let shards = Shards::open_files(ctx.store, &task.shards)?;
        let first = LabelFiles::open(ctx.store, &task.labels)?;
        let columns = LabelColumns { shape: first.shape, has_error: first.has_error };
        let root = dataset.root();
        let named = task.config.camera.as_ref().map(|name| dataset.camera(name)).transpose()?;
        let mut of_video = HashMap::<String, Vec<(usize, EpisodeRun)>>::new();
        let mut cameras = BTreeSet::new();
        for number in 0..task.shards.len() {
            for run in shards.shard(number)?.episodes() {
                let rest = run.video.strip_prefix(root).and_then(|rest| rest.strip_prefix('/'));
                let camera = rest.and_then(|rest| rest.rsplit_once('/')).map(|(camera, _)| camera);
                if let Some(camera) = camera {
                    cameras.insert(camera.to_owned());
                    of_video.entry(run.video.clone()).or_default().push((number, run));
                }
            }
        }
        let camera = match named {
            Some(camera) => camera,
            None if cameras.len() == 1 => cameras.pop_first().unwrap_or_default(),
            None if cameras.is_empty() => {
                let reason = "no frame is of this dataset".to_owned();
                let cure = "name the dataset as in `decode: { lerobot: ... }` of `frames`";
                return Err(ExportTask::fault(root, reason, cure));
            }
            None => {
                let cameras: Vec<&str> = cameras.iter().map(String::as_str).collect();
                let reason = format!("the frames show several cameras: {}", cameras.join(", "));
                let cure = "set `camera` to the one whose labels to write";
                return Err(ExportTask::fault(root, reason, cure));
            }
        };
        let episodes = dataset.episodes()?;
        let of_episode = |episode: &Episode| {
            of_video.remove(&dataset.video_name(&camera, episode.index)).unwrap_or_default()
        };
        let runs: Vec<_> = episodes.iter().map(of_episode).collect();
        if runs.iter().all(Vec::is_empty) {
            let reason = format!("no frame is of its camera `{camera}`");
            return Err(ExportTask::fault(root, reason, "decode that camera, or name another"));
        }
        Ok(EpisodeLabels {
            task,
            ctx,
            shards,
            episodes,
            runs,
            columns,
            recent: VecDeque::new(),
            labelled: 0,
        })
    }

    fn frames(&self, episode: u64) -> u64 {
        self.episodes.get(episode as usize).map_or(0, |episode| episode.frames)
    }

    /// Returns the columns of an episode's labels.
    fn columns(&mut self, episode: u64) -> Result<Group, Error> {
        let frames = self.frames(episode) as usize;
        let mut label = vec![None; frames];
        let runs = self.runs.get(episode as usize).cloned().unwrap_or_default();
        let Some((number, _)) = runs.first() else {
            return Ok(self.columns.of(&label, None));
        };
        let number = *number;
        self.load(number)?;
        let shard = self.shards.shard(number)?;
        let labels = &self.recent[0].1;
        // All frames of a video are in one shard.
        for (_, run) in &runs {
            for row in run.first_row..run.first_row + run.len {
                if let Some(place) = label.get_mut(shard.frame_index(row) as usize) {
                    *place = labels.label[row];
                }
            }
        }
        self.labelled += label.iter().flatten().count() as u64;
        Ok(self.columns.of(&label, labels.labels.as_ref()))
    }

    /// Puts the labels of a shard to the front of `recent`.
    fn load(&mut self, number: usize) -> Result<(), Error> {
        let at = self.recent.iter().position(|(other, _)| *other == number);
        let found = match at.and_then(|at| self.recent.remove(at)) {
            Some(found) => found,
            None => {
                let (shard, file) = (&self.task.shards[number], &self.task.labels[number]);
                let labels = ShardLabels::read(self.ctx.store, file, shard, self.columns.shape)?;
                (number, labels)
            }
        };
        self.recent.push_front(found);
        self.recent.truncate(SHARDS_KEPT);
        Ok(())
    }

    /// Returns the statistics of some episodes, a row each.
    fn statistics(&mut self, episodes: &[u64]) -> Result<Group, Error> {
        let mut rows = Columns::default();
        let labelled = self.labelled;
        for episode in episodes {
            for (name, column) in self.columns(*episode)? {
                let mut feature = Feature::default();
                feature.add(&column, 1);
                feature.finish().push(&name, &mut rows);
            }
            rows.end_row();
        }
        // These frames are counted already.
        self.labelled = labelled;
        Ok(rows.take())
    }
}
