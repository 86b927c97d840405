//! The episodes of an exported dataset, their rate, and the video files that hold them.

use crate::dataset::{EpisodeRun, FrameSize, Shards};
use crate::stages::Error;
use crate::stages::export::ExportTask;

/// The largest deviation of a frame's time from a constant rate, in seconds. Some containers round
/// times to milliseconds.
const TOLERANCE_SECS: f64 = 0.002;

/// An episode of the exported dataset: consecutive frames of one shard.
pub(in crate::stages::export) struct Episode {
    /// The number of its shard.
    pub shard: usize,
    /// Its video and its rows.
    pub run: EpisodeRun,
    /// The video's number of its first frame.
    pub first_frame: u32,
    /// The number of its first frame in the exported dataset.
    pub first_index: u64,
    /// The number of its video file.
    pub video_file: usize,
    /// The frames before it in its video file.
    pub frames_before: usize,
}

/// All episodes of a dataset, in its order.
pub(in crate::stages::export) struct Episodes {
    pub all: Vec<Episode>,
    /// Frames per second.
    pub fps: u32,
    /// The size of every frame in the shards.
    pub size: FrameSize,
    /// The number of all frames.
    pub frames: u64,
}

impl Episodes {
    /// Finds the episodes of the task's shards. A gap in an episode begins another one, because
    /// frames of a LeRobot episode are equally far apart.
    ///
    /// # Errors
    /// If there are no frames, or their rate is not whole and constant and none is set.
    pub fn find(task: &ExportTask, shards: &Shards) -> Result<Episodes, Error> {
        let mut rate = Rate { fps: task.config.fps, is_set: task.config.fps.is_some() };
        let mut all: Vec<Episode> = Vec::new();
        let mut frames = 0;
        let mut video_file = 0;
        for number in 0..task.shards.len() {
            let shard = shards.shard(number)?;
            let mut frames_before = 0;
            for (i, run) in shard.episodes().into_iter().enumerate() {
                let times: Vec<f64> =
                    (run.first_row..run.first_row + run.len).map(|row| shard.time_s(row)).collect();
                rate.add(&run.video, &times)?;
                if i.is_multiple_of(task.config.episodes_per_video) && i > 0 {
                    video_file += 1;
                    frames_before = 0;
                }
                let len = run.len;
                all.push(Episode {
                    shard: number,
                    first_frame: shard.frame_index(run.first_row),
                    first_index: frames,
                    video_file,
                    frames_before,
                    run,
                });
                frames_before += len;
                frames += len as u64;
            }
            // Files never span shards, so that each encoder reads one shard.
            video_file += usize::from(frames_before > 0);
        }
        let first = task.shards.first().map_or("", |shard| shard.path.as_str());
        let nothing = || {
            let reason = "there are no frames to export".to_owned();
            ExportTask::fault(first, reason, "add videos, or see `lapo query` on `rejects`")
        };
        let size = shards.frame_size().filter(|_| frames > 0).ok_or_else(nothing)?;
        let unknown = || {
            let reason = "no episode has two frames, so their rate is unknown".to_owned();
            ExportTask::fault(first, reason, "set `fps`")
        };
        let fps = rate.fps.ok_or_else(unknown)?;
        Ok(Episodes { all, fps, size, frames })
    }

    /// Returns the episodes of each video file, in the files' order.
    pub fn by_video_file(&self) -> Vec<&[Episode]> {
        self.all.chunk_by(|one, other| one.video_file == other.video_file).collect()
    }
}

/// The rate of the frames seen so far.
struct Rate {
    fps: Option<u32>,
    is_set: bool,
}

impl Rate {
    /// Checks that an episode has the common rate.
    fn add(&mut self, video: &str, times: &[f64]) -> Result<(), Error> {
        if self.is_set || times.len() < 2 {
            return Ok(());
        }
        let fault = |reason| {
            let cure = "set `fps` of this stage, or `fps` of `decode` to sample frames at a \
                        constant rate";
            Err(ExportTask::fault(video, reason, cure))
        };
        let Some(fps) = constant_rate(times) else {
            let mean = (times.len() - 1) as f64 / (times[times.len() - 1] - times[0]);
            return fault(format!(
                "its frames are not at a constant whole rate (their mean is {mean:.3} frames per \
                 second)"
            ));
        };
        match *self.fps.get_or_insert(fps) {
            same if same == fps => Ok(()),
            other => fault(format!(
                "its frames are at {fps} frames per second, those before it at {other}"
            )),
        }
    }
}

/// Returns the whole number of frames per second of an episode, if it is constant.
fn constant_rate(times: &[f64]) -> Option<u32> {
    let (first, last) = (times.first()?, times.last()?);
    let rate = ((times.len() - 1) as f64 / (last - first)).round();
    if !(1.0..=1000.0).contains(&rate) {
        return None;
    }
    let expected = |at: usize| first + at as f64 / rate;
    let is_constant =
        times.iter().enumerate().all(|(at, time)| (time - expected(at)).abs() <= TOLERANCE_SECS);
    is_constant.then_some(rate as u32)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_rate_is_whole_and_constant_or_unknown() {
        let times = |fps: f64, frames: usize| -> Vec<f64> {
            (0..frames).map(|at| 3.0 + at as f64 / fps).collect()
        };
        let rounded = |times: Vec<f64>| -> Vec<f64> {
            times.into_iter().map(|time| (time * 1000.0).round() / 1000.0).collect()
        };
        assert_eq!(constant_rate(&times(15.0, 10_000)), Some(15));
        assert_eq!(constant_rate(&rounded(times(30.0, 10_000))), Some(30));
        assert_eq!(constant_rate(&times(29.97, 200)), None);
        assert_eq!(constant_rate(&times(0.5, 10)), None);
        assert_eq!(constant_rate(&[0.0, 0.1, 0.3, 0.4]), None);
        assert_eq!(constant_rate(&[0.0, 0.0]), None);
    }
}
