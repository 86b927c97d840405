//! The video files, encoded in parallel, and the statistics of their colours.

use rayon::prelude::*;

use super::statistics::{ColourStatistics, Colours};
use super::{CAMERA, Episode, Episodes, Place};
#[cfg(feature = "video")]
use crate::dataset::FrameSize;
use crate::dataset::{FileInfo, Shard, Shards};
use crate::stages::export::{ExportTask, write_file};
use crate::stages::{Error, TaskContext};

/// Frames of an episode that count for the statistics, at most, evenly spaced.
const SAMPLES: usize = 32;

/// The video files of a dataset.
pub(super) struct VideoFiles {
    pub files: Vec<FileInfo>,
    /// The colours of each episode.
    pub of_episodes: Vec<ColourStatistics>,
    /// The colours of all episodes.
    pub colours: Colours,
}

/// One video file.
struct VideoFile {
    file: FileInfo,
    of_episodes: Vec<ColourStatistics>,
    colours: Colours,
}

/// Encodes all video files.
pub(super) fn write(
    task: &ExportTask,
    ctx: &TaskContext,
    shards: &Shards,
    episodes: &Episodes,
) -> Result<VideoFiles, Error> {
    let threads = rayon::ThreadPoolBuilder::new().num_threads(ctx.cores_free);
    let threads = threads.build().map_err(|cause| Error::Invariant {
        what: format!("no threads to encode videos: {cause}"),
    })?;
    let groups = episodes.by_video_file();
    let video_file = |group: &&[Episode]| {
        ctx.check_stop()?;
        let video_file = VideoFile::write(task, ctx, shards, episodes, group)?;
        ctx.progress.advance(group.iter().map(|episode| episode.run.len as u64).sum());
        Ok(video_file)
    };
    let video_files: Vec<VideoFile> = threads
        .install(|| groups.par_iter().map(video_file).collect::<Result<Vec<VideoFile>, Error>>())?;
    let mut all = VideoFiles { files: vec![], of_episodes: vec![], colours: Colours::default() };
    for video_file in video_files {
        all.files.push(video_file.file);
        all.of_episodes.extend(video_file.of_episodes);
        all.colours.merge(&video_file.colours);
    }
    Ok(all)
}

impl VideoFile {
    fn write(
        task: &ExportTask,
        ctx: &TaskContext,
        shards: &Shards,
        episodes: &Episodes,
        group: &[Episode],
    ) -> Result<VideoFile, Error> {
        let Some(first) = group.first() else {
            return Err(Error::Invariant { what: "a video file without episodes".into() });
        };
        let shard = shards.shard(first.shard)?;
        let rows: Vec<usize> = group
            .iter()
            .flat_map(|episode| episode.run.first_row..episode.run.first_row + episode.run.len)
            .collect();
        let name = format!("videos/{CAMERA}/{}.mp4", Place::of(first.video_file).name());
        let bytes = encode(task, ctx, &shard, episodes.fps, &rows, &name)?;
        let mut colours = Colours::default();
        let mut of_episodes = Vec::new();
        for episode in group {
            let sampled = sample(episode, &shard);
            colours.merge(&sampled);
            of_episodes.push(sampled.statistics());
        }
        Ok(VideoFile { file: write_file(ctx, &name, &bytes)?, of_episodes, colours })
    }
}

/// Counts the colours of some frames of an episode.
fn sample(episode: &Episode, shard: &Shard) -> Colours {
    let run = &episode.run;
    let mut colours = Colours::default();
    let samples = run.len.min(SAMPLES);
    for sample in 0..samples {
        colours.add(shard.pixels(run.first_row + sample * run.len / samples));
    }
    colours
}

/// Encodes rows of a shard as one video.
#[cfg(feature = "video")]
pub(in crate::stages::export) fn encode(
    task: &ExportTask,
    ctx: &TaskContext,
    shard: &Shard,
    fps: u32,
    rows: &[usize],
    name: &str,
) -> Result<Vec<u8>, Error> {
    let FrameSize { height, width } = shard.frame_size();
    let encoder = crate::video::VideoEncoder {
        width,
        height,
        fps,
        zoom: task.config.zoom,
        random_access: true,
    };
    let path = format!("{}/{name}", ctx.folder);
    encoder
        .encode_frames(rows.iter().map(|row| shard.pixels(*row)))
        .map_err(|source| Error::Film { path, source })
}

#[cfg(not(feature = "video"))]
pub(in crate::stages::export) fn encode(
    _: &ExportTask,
    _: &TaskContext,
    _: &Shard,
    _: u32,
    _: &[usize],
    _: &str,
) -> Result<Vec<u8>, Error> {
    Err(Error::NoVideo)
}
