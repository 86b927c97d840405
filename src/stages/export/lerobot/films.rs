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
pub(super) struct Films {
    pub files: Vec<FileInfo>,
    /// The colours of each episode.
    pub of_episodes: Vec<ColourStatistics>,
    /// The colours of all episodes.
    pub colours: Colours,
}

/// One video file.
struct Film {
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
) -> Result<Films, Error> {
    let threads = rayon::ThreadPoolBuilder::new().num_threads(ctx.cores_free);
    let threads = threads.build().map_err(|cause| Error::Invariant {
        what: format!("no threads to encode videos: {cause}"),
    })?;
    let groups = episodes.films();
    let film = |group: &&[Episode]| {
        ctx.check_stop()?;
        let film = Film::write(task, ctx, shards, episodes, group)?;
        ctx.progress.advance(group.iter().map(|episode| episode.run.len as u64).sum());
        Ok(film)
    };
    let films: Vec<Film> =
        threads.install(|| groups.par_iter().map(film).collect::<Result<Vec<Film>, Error>>())?;
    let mut all = Films { files: vec![], of_episodes: vec![], colours: Colours::default() };
    for film in films {
        all.files.push(film.file);
        all.of_episodes.extend(film.of_episodes);
        all.colours.merge(&film.colours);
    }
    Ok(all)
}

impl Film {
    fn write(
        task: &ExportTask,
        ctx: &TaskContext,
        shards: &Shards,
        episodes: &Episodes,
        group: &[Episode],
    ) -> Result<Film, Error> {
        let Some(first) = group.first() else {
            return Err(Error::Invariant { what: "a video file without episodes".into() });
        };
        let shard = shards.shard(first.shard)?;
        let rows: Vec<usize> = group
            .iter()
            .flat_map(|episode| episode.run.first_row..episode.run.first_row + episode.run.len)
            .collect();
        let name = format!("videos/{CAMERA}/{}.mp4", Place::of(first.film).name());
        let bytes = encode(task, ctx, &shard, episodes.fps, &rows, &name)?;
        let mut colours = Colours::default();
        let mut of_episodes = Vec::new();
        for episode in group {
            let sampled = sample(episode, &shard);
            colours.merge(&sampled);
            of_episodes.push(sampled.statistics());
        }
        Ok(Film { file: write_file(ctx, &name, &bytes)?, of_episodes, colours })
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
fn encode(
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
fn encode(
    _: &ExportTask,
    _: &TaskContext,
    _: &Shard,
    _: u32,
    _: &[usize],
    _: &str,
) -> Result<Vec<u8>, Error> {
    Err(Error::NoVideo)
}
