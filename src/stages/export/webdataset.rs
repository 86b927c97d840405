//! Writes a WebDataset: tar archives with one sample per episode.
//!
//! | file | contents |
//! |---|---|
//! | `sample` | the files of an episode |
//! | `archive` | tar archives |
//! | `npy` | NumPy's array files |
//!
//! Samples have the order of the dataset, and archives have no times or owners: the same frames and
//! labels give the same bytes.

use rayon::prelude::*;

use super::lerobot::{Episode, Episodes, FrameColumns, LabelFiles};
use super::{ExportTask, FrameFormat};
use crate::dataset::{Actions, Shards};
use crate::stages::{Error, TaskContext, TaskOutput};

mod archive;
mod npy;
mod sample;

use archive::Archives;
use sample::{SampleWriter, is_escaped};

/// Writes the archives below the attempt's folder.
pub(super) fn run(task: &ExportTask, ctx: &TaskContext) -> Result<TaskOutput, Error> {
    let shards = Shards::open_files(ctx.store, &task.shards)?;
    let episodes = Episodes::find(task, &shards)?;
    let paths: Vec<String> = task.actions.iter().map(|file| file.path.clone()).collect();
    let actions = Actions::read(ctx.store, &paths)?;
    let mut labels = LabelFiles::open(ctx.store, &task.labels)?;
    let columns = FrameColumns {
        shape: labels.shape,
        has_error: labels.has_error,
        actions: task.config.actions.as_ref().map(|_| &actions),
        fps: episodes.fps,
    };
    // A missing action is found before hours of encoding.
    columns.check_actions(&episodes.all)?;
    let threads = rayon::ThreadPoolBuilder::new().num_threads(ctx.cores_free);
    let threads = threads.build().map_err(|cause| Error::Invariant {
        what: format!("no threads to encode videos: {cause}"),
    })?;
    let mut archives = Archives::new(ctx, task.config.archive_mib << 20);
    let mut number = 0;
    for of_shard in episodes.all.chunk_by(|one, other| one.shard == other.shard) {
        let shard = shards.shard(of_shard[0].shard)?;
        let labels = labels.of_shard(&task.shards[of_shard[0].shard])?;
        let writer = SampleWriter {
            task,
            ctx,
            shard: &shard,
            labels: &labels,
            columns: &columns,
            fps: episodes.fps,
        };
        // A few episodes at a time: encoded videos wait in memory for their place in the order.
        for part in of_shard.chunks(threads.current_num_threads().max(1) * 2) {
            ctx.check_stop()?;
            let numbered: Vec<(usize, &Episode)> = (number..).zip(part).collect();
            let encode = |(number, episode): &(usize, &Episode)| writer.sample(*number, episode);
            let samples: Vec<_> = threads
                .install(|| numbered.par_iter().map(encode).collect::<Result<_, Error>>())?;
            for ((_, episode), sample) in numbered.iter().zip(&samples) {
                archives.append(sample, writer.frames(episode))?;
                ctx.progress.advance(episode.run.len as u64);
            }
            number += part.len();
        }
    }
    labels.finish()?;
    say_escaped(ctx, &episodes.all);
    let files = archives.finish()?;
    ctx.progress.say(&format!("wrote {} archives to {} in the workspace", files.len(), ctx.folder));
    let counts = [("episodes", episodes.all.len() as f64), ("frames", episodes.frames as f64)];
    let stats = counts.map(|(name, count)| (name.to_owned(), count)).into();
    Ok(TaskOutput { files, stats, ..TaskOutput::default() })
}

/// Says which keys differ from the names of their videos.
fn say_escaped(ctx: &TaskContext, episodes: &[Episode]) {
    let mut videos: Vec<&str> = episodes.iter().map(|episode| episode.run.video.as_str()).collect();
    videos.dedup();
    let escaped: Vec<&str> = videos.into_iter().filter(|video| is_escaped(video)).collect();
    if let [first, rest @ ..] = escaped.as_slice() {
        let more =
            if rest.is_empty() { String::new() } else { format!(" and {} more", rest.len()) };
        ctx.progress.say(&format!(
            "the keys of {first}{more} have `_` for characters that a key cannot have, or end \
             early; `video` in a sample's JSON is the whole name"
        ));
    }
}
