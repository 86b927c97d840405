//! Stage 0, where somebody recorded what was truly done: actions find their frames. In: a file of the user's and the frames of a `decode`
//! stage; out: one Parquet file of actions for each shard, by the videos' full names.
//!
//! Everything that does not fit is told, unless `partial` says that it need not: a video or a frame that is not there, a frame without an
//! action in a video that has some. A video without any action is no fault: it is one that nobody labelled.

use std::collections::HashMap;
use std::path::Path;

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use super::training::unchanged;
use super::{Done, Error, Workplace};
use crate::dataset::{ActionRows, Actions, FileInfo, Shards};

/// Takes true actions, and rewards where they are known, from a file.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct ImportActionsConfig {
    /// The `decode` stage whose videos they are of.
    pub frames: String,
    /// Parquet or CSV, relative to the current folder, with the columns `video` (path or file name), `frame_index` (from 0), `action` and,
    /// where known, `reward`. An action is a whole number; a continuous one is a list of numbers, in CSV the columns `action_0`, `action_1`
    /// and so on. The action at a frame is what is done between it and the next.
    pub file: String,
    /// Whether actions of videos and frames that are not there are left out, and frames may lack an action. Default false: they are faults.
    #[serde(default)]
    pub partial: bool,
}

/// The version of what this stage does: raise it when the same file and frames give other actions.
pub const VERSION: u32 = 1;

/// The highest number of an action: probes and decoders have an output for each up to it.
const MOST: u32 = u16::MAX as u32;

/// One file, and the frames it is about.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct ImportActionsTask {
    /// The stage's settings.
    pub config: ImportActionsConfig,
    /// The blake3 of the file, as it was planned.
    pub digest: String,
    /// The frames, in the dataset's order.
    pub shards: Vec<FileInfo>,
    /// Videos that could not be decoded: that their actions find no frame is no fault.
    pub rejected: Vec<String>,
}

/// Finds each frame's action.
pub fn run(task: &ImportActionsTask, place: &Workplace) -> Result<Done, Error> {
    let path = Path::new(&task.config.file);
    let actions = Actions::new(ActionRows::read_file(path)?).map_err(|reason| task.fault(reason, "keep one action of each frame"))?;
    let rows = actions.rows();
    if let Some(row) = rows.discrete.iter().position(|action| *action > MOST) {
        let reason = format!("frame {} of `{}` has action {}", rows.frame_index[row], rows.video[row], rows.discrete[row]);
        return Err(task.fault(reason, "number the actions from 0 to 65,535: every number up to the highest has a place in a network"));
    }
    unchanged(path, &task.digest)?;
    let shards = Shards::open_files(place.store, &task.shards)?;
    let known_as = task.names(&actions, &shards)?;
    let mut done = Done::default();
    let mut taken = 0;
    for number in 0..task.shards.len() {
        place.go_on()?;
        let rows = task.of_shard(&actions, &shards, number, &known_as)?;
        taken += rows.len();
        done.files.push(rows.write(place.store, &format!("{}/actions-{number:06}.parquet", place.folder))?);
        place.progress.advance(1);
    }
    done.stats = [("actions", taken), ("unused", actions.rows().len() - taken)].map(|(name, count)| (name.to_owned(), count as f64)).into();
    Ok(done)
}

impl ImportActionsTask {
    /// What the file calls each video, by the video's own name.
    fn names<'a>(&self, actions: &'a Actions, shards: &Shards) -> Result<HashMap<String, &'a str>, Error> {
        let mut last: HashMap<String, u32> = HashMap::new();
        for number in 0..self.shards.len() {
            let shard = shards.shard(number)?;
            for run in shard.episodes() {
                let end = shard.frame_index(run.first_row + run.len - 1);
                last.entry(run.video).and_modify(|last| *last = end.max(*last)).or_insert(end);
            }
        }
        let mut by_name: HashMap<&str, Vec<&String>> = HashMap::new();
        for video in last.keys() {
            by_name.entry(base(video)).or_default().push(video);
            if stem(video) != base(video) {
                by_name.entry(stem(video)).or_default().push(video);
            }
        }
        let rejected = |name: &str| self.rejected.iter().any(|video| video == name || base(video) == base(name));
        let mut known_as = HashMap::new();
        for (name, frames) in actions.videos() {
            let found = match last.get_key_value(name) {
                Some((video, _)) => vec![video],
                None => by_name.get(base(name)).or_else(|| by_name.get(stem(name))).cloned().unwrap_or_default(),
            };
            let video = match found[..] {
                [video] => video,
                [] if self.config.partial || rejected(name) => continue,
                [] => return Err(self.fault(format!("no video is called `{name}`"), "decode that video, or set `partial: true`")),
                [one, other, ..] => {
                    return Err(self.fault(format!("`{name}` may be `{one}` or `{other}`"), "name videos by their paths"));
                }
            };
            let most = frames.keys().copied().max().unwrap_or(0);
            if most > last[video] && !self.config.partial {
                let reason = format!("frame {most} of `{name}` is not there: the last one decoded is {}", last[video]);
                return Err(self.fault(reason, "number frames from 0 within each video, or set `partial: true`"));
            }
            if let Some(other) = known_as.insert(video.clone(), name) {
                return Err(self.fault(format!("`{name}` and `{other}` are both `{video}`"), "name each video in one way"));
            }
        }
        Ok(known_as)
    }

    /// The actions of one shard's frames, in their order.
    fn of_shard(&self, actions: &Actions, shards: &Shards, number: usize, known_as: &HashMap<String, &str>) -> Result<ActionRows, Error> {
        let (shard, mut rows) = (shards.shard(number)?, ActionRows { axes: actions.rows().axes, ..ActionRows::default() });
        for run in shard.episodes() {
            let Some(name) = known_as.get(&run.video) else { continue };
            for row in run.first_row..run.first_row + run.len {
                let frame = shard.frame_index(row);
                match actions.row(name, frame) {
                    Some(from) => rows.push(&run.video, actions.rows(), from),
                    // Nothing is done at the last frame.
                    None if self.config.partial || row + 1 == run.first_row + run.len => {}
                    None => {
                        return Err(self.fault(format!("frame {frame} of `{name}` has no action"), "add it, or set `partial: true`"));
                    }
                }
            }
        }
        Ok(rows)
    }

    fn fault(&self, reason: String, cure: &'static str) -> Error {
        Error::Actions { file: self.config.file.clone(), reason, cure }
    }
}

/// A file name without its ending: a recorded episode has none, the video of it has.
fn stem(video: &str) -> &str {
    base(video).rsplit_once('.').map_or(base(video), |(stem, _)| stem)
}

fn base(video: &str) -> &str {
    video.rsplit('/').next().unwrap_or(video)
}
