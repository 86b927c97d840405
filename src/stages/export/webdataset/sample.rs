//! The files of one sample: an episode.

use serde_json::json;

use super::FrameFormat;
use super::npy;
use crate::dataset::{ExportColumn, FrameSize, Shard};
use crate::stages::export::ExportTask;
use crate::stages::export::lerobot::{Episode, FrameColumns, ShardLabels, encode};
use crate::stages::{Error, TaskContext};

/// Columns that a reader of a sample knows from its JSON.
const LEROBOT_ONLY: [&str; 5] =
    ["timestamp", "frame_index", "episode_index", "index", "task_index"];
/// The longest part of a key from a video's name. With the longest file extension, a member's name
/// stays below the 100 bytes of plain tar.
const MAX_NAME: usize = 60;

/// The files of an episode except for `npy` frames, which are not copied.
pub(super) struct Sample {
    pub key: String,
    /// File extensions and contents, in order.
    pub files: Vec<(String, Vec<u8>)>,
    /// Frames in the episode.
    pub frames: u64,
}

/// The frames of an episode as an array file.
pub(super) struct FrameArray<'a> {
    pub header: Vec<u8>,
    /// `[frame, height, width, 3]`, by frame
    pub rows: Vec<&'a [u8]>,
}

/// Returns the key of episode `number`. It has no dots, since the first one ends a key.
pub(super) fn key(number: usize, video: &str) -> String {
    match safe_name(video).as_str() {
        "" => format!("{number:06}"),
        name => format!("{number:06}-{name}"),
    }
}

/// Returns whether a key does not show the whole name of its video.
pub(super) fn is_escaped(video: &str) -> bool {
    safe_name(video) != name(video)
}

fn safe_name(video: &str) -> String {
    let is_safe = |c: char| c.is_ascii_alphanumeric() || c == '_' || c == '-';
    name(video).chars().map(|c| if is_safe(c) { c } else { '_' }).take(MAX_NAME).collect()
}

/// Returns the file name of a video without its extension.
fn name(video: &str) -> &str {
    let file = video.rsplit('/').next().unwrap_or(video);
    file.rsplit_once('.').map_or(file, |(name, _)| name)
}

/// Makes the samples of one shard.
pub(super) struct SampleWriter<'a> {
    pub task: &'a ExportTask,
    pub ctx: &'a TaskContext<'a>,
    pub shard: &'a Shard,
    pub labels: &'a ShardLabels,
    pub columns: &'a FrameColumns<'a>,
    pub fps: u32,
}

impl<'a> SampleWriter<'a> {
    /// Returns the sample of episode `number`.
    pub fn sample(&self, number: usize, episode: &Episode) -> Result<Sample, Error> {
        let run = &episode.run;
        let key = key(number, &run.video);
        let mut files = Vec::new();
        if self.task.config.frame_format == FrameFormat::Mp4 {
            let rows: Vec<usize> = (run.first_row..run.first_row + run.len).collect();
            let name = format!("{key}.mp4");
            let video = encode(self.task, self.ctx, self.shard, self.fps, &rows, &name)?;
            files.push(("mp4".to_owned(), video));
        }
        files.push(("json".to_owned(), self.json(episode)));
        for (name, column) in self.columns.of(episode, number, self.labels)? {
            if !LEROBOT_ONLY.contains(&name.as_str()) {
                let name = name.trim_start_matches("next.");
                files.push((format!("{name}.npy"), self.array(name, column)?));
            }
        }
        Ok(Sample { key, files, frames: run.len as u64 })
    }

    /// Returns the frames of an episode, if they are an array.
    pub fn frames(&self, episode: &Episode) -> Option<FrameArray<'a>> {
        if self.task.config.frame_format != FrameFormat::Npy {
            return None;
        }
        let FrameSize { height, width } = self.shard.frame_size();
        let run = &episode.run;
        let header = npy::header("|u1", &[run.len, height as usize, width as usize, 3]);
        let rows = run.first_row..run.first_row + run.len;
        let rows = rows.map(|row| self.shard.pixels(row)).collect();
        Some(FrameArray { header, rows })
    }

    fn json(&self, episode: &Episode) -> Vec<u8> {
        let run = &episode.run;
        let about = json!({
            "video": run.video,
            "digest": run.digest,
            "episode": run.episode,
            "first_frame": episode.first_frame,
            "frames": run.len,
            "fps": self.fps,
            "task": self.task.text,
        });
        format!("{about}\n").into_bytes()
    }

    /// Returns a column as an array file: a row per frame.
    fn array(&self, name: &str, column: ExportColumn) -> Result<Vec<u8>, Error> {
        let is_discrete = self.columns.actions.is_some_and(|actions| actions.axes().is_none());
        Ok(match column {
            // LeRobot's actions are floats; numbers of actions are whole.
            ExportColumn::F32(values) if name == "action" && is_discrete => {
                let values: Vec<i64> = values.into_iter().map(|action| action as i64).collect();
                npy::file(&values, &[values.len()])
            }
            ExportColumn::F32(values) => npy::file(&values, &[values.len()]),
            ExportColumn::Bool(values) => npy::file(&values, &[values.len()]),
            // One code per frame is a list of one code.
            ExportColumn::I64(values) if name == "latent_code" => {
                npy::file(&values, &[values.len(), 1])
            }
            ExportColumn::I64(values) => npy::file(&values, &[values.len()]),
            ExportColumn::F32Rows(values, width) => {
                npy::file(&values, &[values.len() / width.max(1), width])
            }
            ExportColumn::I64Rows(values, width) => {
                npy::file(&values, &[values.len() / width.max(1), width])
            }
            other => {
                return Err(Error::Invariant { what: format!("{name} is no array: {other:?}") });
            }
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn keys_have_no_dots_and_fit_into_a_tar_header() {
        assert_eq!(key(7, "clips/maze_1_000.mp4"), "000007-maze_1_000");
        assert_eq!(key(7, "maze/3/000123"), "000007-000123");
        assert_eq!(key(7, "s3://b/2024.05.01 höhe.final.mkv"), "000007-2024_05_01_h_he_final");
        assert_eq!(key(1_234_567, "..mp4"), "1234567-_");
        assert_eq!(key(0, ".mp4"), "000000");
        let long = key(10_000_000, &"x".repeat(300));
        assert!(format!("{long}.latent_action_valid.npy").len() < 100);
        assert!(is_escaped("a.b.mp4") && is_escaped(&"x".repeat(61)));
        assert!(!is_escaped("clips/maze_1_000.mp4"));
    }
}
