//! Imports true actions from a file and matches them with frames.
//!
//! A task writes one Parquet file of actions for each shard, with the videos' full names. By
//! default everything must match: a nonexistent video or frame, or a frame without an action in a
//! video with actions, is an error. `partial` permits these. A video without any actions is
//! unlabelled, which is never an error.

use std::collections::{HashMap, HashSet};
use std::path::Path;

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use super::input_file::check_unchanged;
use super::plan::key::digests;
use super::plan::{KeyFields, NewTask, PlanInputs, StagePlan};
use super::{
    ArtifactKind, Error, Input, InputFile, LaneState, Needs, Stage, StageKind, StageTask,
    TaskContext, TaskOutput, digest_of,
};
use crate::dataset::{self, ActionRows, Actions, FileInfo, Shards};

/// Imports true actions, and rewards if the file has them.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct ImportActionsConfig {
    /// The `decode` stage with the videos of these actions.
    pub frames: String,
    /// A Parquet or CSV file, relative to the current folder. Its columns are `video` (a path, or
    /// its last parts), `frame_index` (from 0), `action` and optionally `reward`. The action at a
    /// frame leads to the next frame. A discrete action is a whole number (`1.0` is one, too). A
    /// continuous action is a list of numbers, or in CSV the columns `action_0`, `action_1` and so
    /// on, or a number if any number in the column is not whole.
    pub file: String,
    /// Whether to ignore actions of nonexistent videos and frames, and to permit frames without an
    /// action. Default false: these are errors.
    #[serde(default)]
    pub partial: bool,
}

/// The properties of all `import_actions` stages. Raise `version` when the same file and frames
/// give other actions.
pub const KIND: StageKind = StageKind {
    key_inputs: &["frames", "true_actions"],
    ..StageKind::new("import_actions", 2, &[ArtifactKind::Actions], "shards")
};

/// The highest discrete action. Probes and decoders have an output for each number up to it.
const MAX_ACTION: u32 = u16::MAX as u32;

/// A file of true actions, and the frames it describes.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct ImportActionsTask {
    /// The stage's settings.
    pub config: ImportActionsConfig,
    /// The blake3 of the file when the run was planned.
    pub digest: String,
    /// The frames, in the dataset's order.
    pub shards: Vec<FileInfo>,
    /// Names of rejected videos. Actions of a rejected video need no frames.
    pub rejected: Vec<String>,
}

impl Stage for ImportActionsConfig {
    type Task = ImportActionsTask;

    fn kind(&self) -> &'static StageKind {
        &KIND
    }

    fn inputs(&self) -> Vec<Input<'_>> {
        vec![Input::new("frames", &self.frames, ArtifactKind::Frames)]
    }

    fn needs(&self) -> Needs {
        // All actions of the file are in memory: about 100 bytes each, including video names.
        Needs { gpu: false, cores: 1, memory_mib: 1024 }
    }

    /// Adds one task, since only all frames together show whether a video exists.
    fn plan(&self, given: &PlanInputs, plan: &mut StagePlan) -> dataset::Result<()> {
        let frames = given.plan(&self.frames);
        let task = ImportActionsTask {
            config: self.clone(),
            digest: digest_of(&self.file),
            shards: frames.shards(),
            rejected: frames
                .tasks
                .receipts()
                .flat_map(|receipt| &receipt.rejects)
                .map(|reject| reject.video.clone())
                .collect(),
        };
        plan.set_settings(&task.key().into_fields());
        if !plan.waits_for([("frames", Some(frames))]) {
            let units = task.shards.len() as u64;
            plan.add(NewTask::new(task, frames.tasks.keys(), units), given.known);
        }
        Ok(())
    }

    fn files(&self) -> Vec<InputFile<'_>> {
        vec![InputFile {
            field: "file",
            path: &self.file,
            expected: "a Parquet or CSV file of true actions",
        }]
    }

    fn about_frames_of<'a>(&'a self, _own: &'a str) -> Option<&'a str> {
        Some(&self.frames)
    }
}

impl StageTask for ImportActionsTask {
    fn key(&self) -> KeyFields {
        // The rejected videos follow from the frames.
        let ImportActionsTask { config, digest, shards, rejected: _ } = self;
        let ImportActionsConfig { partial, frames: _, file: _ } = config;
        KeyFields::new(&KIND)
            .setting("partial", partial)
            .input("true_actions", digest)
            .input("frames", digests(shards))
    }

    fn run(&self, ctx: &TaskContext, _: &mut LaneState) -> Result<TaskOutput, Error> {
        run(self, ctx)
    }
}

/// Matches each frame with its action.
fn run(task: &ImportActionsTask, ctx: &TaskContext) -> Result<TaskOutput, Error> {
    let path = Path::new(&task.config.file);
    let actions = Actions::new(ActionRows::read_file(path)?)
        .map_err(|reason| task.fault(reason, "keep one action of each frame"))?;
    let rows = actions.rows();
    if let Some(row) = rows.discrete.iter().position(|action| *action > MAX_ACTION) {
        let reason = format!(
            "frame {} of `{}` has action {}",
            rows.frame_index[row], rows.video[row], rows.discrete[row]
        );
        return Err(task.fault(
            reason,
            "number the actions from 0 to at most 65535; networks have an output for each number \
             up to the highest",
        ));
    }
    // Checked after reading, so that a change while reading is noticed.
    check_unchanged(path, &task.digest)?;
    let shards = Shards::open_files(ctx.store, &task.shards)?;
    let names = task.names(&actions, &shards)?;
    ctx.progress.say(&format!("actions: {}", actions.rows().kind()));
    let mut done = TaskOutput::default();
    let mut taken = 0;
    for number in 0..task.shards.len() {
        ctx.check_stop()?;
        let rows = task.of_shard(&actions, &shards, number, &names)?;
        taken += rows.len();
        done.files
            .push(rows.write(ctx.store, &format!("{}/actions-{number:06}.parquet", ctx.folder))?);
        ctx.progress.advance(1);
    }
    done.stats = [("actions", taken), ("unused", actions.rows().len() - taken)]
        .map(|(name, count)| (name.to_owned(), count as f64))
        .into();
    Ok(done)
}

impl ImportActionsTask {
    /// Returns the file's name for each video, by the video's own name.
    fn names<'a>(
        &self,
        actions: &'a Actions,
        shards: &Shards,
    ) -> Result<HashMap<String, &'a str>, Error> {
        // The last frame of each video.
        let mut last: HashMap<String, u32> = HashMap::new();
        for number in 0..self.shards.len() {
            let shard = shards.shard(number)?;
            for run in shard.episodes() {
                let end = shard.frame_index(run.first_row + run.len - 1);
                last.entry(run.video).and_modify(|last| *last = end.max(*last)).or_insert(end);
            }
        }
        let videos = ByName::new(last.keys().map(String::as_str));
        // Rejected videos are indexed separately: they have no frames to match.
        let rejected = ByName::new(self.rejected.iter().map(String::as_str));
        let mut names = HashMap::new();
        for (name, frames) in actions.videos() {
            let found = videos.find(name);
            let video = match found[..] {
                [video] => video,
                // A rejected video has no frames, so its actions are ignored.
                [] if self.config.partial || !rejected.find(name).is_empty() => continue,
                [] => {
                    let cure = "decode that video, or set `partial: true` to ignore its actions";
                    return Err(self.fault(format!("no video is called `{name}`"), cure));
                }
                [one, other, ..] => {
                    return Err(self.fault(
                        format!("`{name}` may mean `{one}` or `{other}`"),
                        "name videos by their paths",
                    ));
                }
            };
            let most = frames.keys().copied().max().unwrap_or(0);
            if most > last[video] && !self.config.partial {
                let reason = format!(
                    "frame {most} of `{name}` does not exist: the last decoded frame is {}",
                    last[video]
                );
                return Err(self.fault(
                    reason,
                    "number frames from 0 within each video, or set `partial: true`",
                ));
            }
            // Two names in the file, such as a path and a file name, may mean one video.
            if let Some(other) = names.insert(video.to_owned(), name) {
                return Err(self.fault(
                    format!("`{name}` and `{other}` both mean `{video}`"),
                    "use one name for each video",
                ));
            }
        }
        Ok(names)
    }

    /// Returns the actions of one shard's frames, in their order.
    fn of_shard(
        &self,
        actions: &Actions,
        shards: &Shards,
        number: usize,
        names: &HashMap<String, &str>,
    ) -> Result<ActionRows, Error> {
        let shard = shards.shard(number)?;
        let mut rows = ActionRows { axes: actions.rows().axes, ..ActionRows::default() };
        for run in shard.episodes() {
            let Some(name) = names.get(&run.video) else { continue };
            for row in run.first_row..run.first_row + run.len {
                let frame = shard.frame_index(row);
                match actions.row(name, frame) {
                    Some(from) => rows.push(&run.video, actions.rows(), from),
                    // An episode's last frame has no action.
                    None if self.config.partial || row + 1 == run.first_row + run.len => {}
                    None => {
                        return Err(self.fault(
                            format!("frame {frame} of `{name}` has no action"),
                            "add it, or set `partial: true`",
                        ));
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

/// An index of videos by name.
struct ByName<'v> {
    all: HashSet<&'v str>,
    /// Videos by file name, and by file name without the extension.
    by_base: HashMap<&'v str, Vec<&'v str>>,
}

impl<'v> ByName<'v> {
    fn new(videos: impl Iterator<Item = &'v str>) -> Self {
        let mut all = HashSet::new();
        let mut by_base = HashMap::<_, Vec<_>>::new();
        for video in videos.filter(|video| all.insert(*video)) {
            by_base.entry(base(video)).or_default().push(video);
            // Indexed twice, with and without the extension.
            if let Some((stem, _)) = base(video).rsplit_once('.') {
                by_base.entry(stem).or_default().push(video);
            }
        }
        ByName { all, by_base }
    }

    /// Returns the videos that `name` may refer to: the video with exactly this name, or else all
    /// videos whose paths end with it, part by part. `0001.mp4` may be in any folder,
    /// `train/0001.mp4` only in a folder `train`. Either name may lack the extension, since a
    /// recorded episode has none but its video file does.
    fn find(&self, name: &str) -> Vec<&'v str> {
        if let Some(video) = self.all.get(name) {
            // An exact match wins over longer paths that end with the name.
            return vec![video];
        }
        let stem = base(name).rsplit_once('.').map_or(base(name), |(stem, _)| stem);
        let with_ending = self.by_base.get(base(name)).into_iter().flatten();
        // A name with an extension never refers to a video with another extension.
        let without = self
            .by_base
            .get(stem)
            .into_iter()
            .flatten()
            .filter(|video| base(video) == stem && stem != base(name));
        with_ending
            .chain(without)
            .copied()
            .filter(|video| ends_with(folders(video), folders(name)))
            .collect()
    }
}

/// Returns whether the folders of `video` end with the folders of `name`.
fn ends_with<'n>(
    video: impl Iterator<Item = &'n str> + Clone,
    name: impl Iterator<Item = &'n str> + Clone,
) -> bool {
    let video: Vec<&str> = video.collect();
    let name: Vec<&str> = name.collect();
    video.ends_with(&name)
}

/// Returns the folders of a path, outermost first.
fn folders(path: &str) -> impl Iterator<Item = &str> + Clone {
    path[..path.len() - base(path).len()].split('/').filter(|part| !matches!(*part, "" | "."))
}

fn base(video: &str) -> &str {
    video.rsplit('/').next().unwrap_or(video)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_name_matches_videos_whose_paths_end_with_it_part_by_part() {
        let videos = [
            "d/test/0001.mp4",
            "d/test/0002.mp4",
            "d/train/0002.mp4",
            "0003.mp4",
            "x/0003.mp4",
            "a.tar/0004.webm",
            "episode-5",
            "x/v1.2",
        ];
        let by_name = ByName::new(videos.into_iter());
        let cases: [(&str, &[&str]); 17] = [
            ("d/test/0001.mp4", &["d/test/0001.mp4"]),
            ("test/0001.mp4", &["d/test/0001.mp4"]),
            ("./test/0001.mp4", &["d/test/0001.mp4"]),
            ("0001.mp4", &["d/test/0001.mp4"]),
            ("0001", &["d/test/0001.mp4"]),
            ("test/0001", &["d/test/0001.mp4"]),
            ("train/0001.mp4", &[]),
            ("est/0001.mp4", &[]),
            ("/other/d/test/0001.mp4", &[]),
            ("0002.mp4", &["d/test/0002.mp4", "d/train/0002.mp4"]),
            ("train/0002.mp4", &["d/train/0002.mp4"]),
            ("0003.mp4", &["0003.mp4"]),
            ("0004.mp4", &[]),
            ("a.tar/0004.webm", &["a.tar/0004.webm"]),
            ("episode-5.mp4", &["episode-5"]),
            ("v1.2", &["x/v1.2"]),
            ("v1", &["x/v1.2"]),
        ];
        for (name, expected) in cases {
            let mut found = by_name.find(name);
            found.sort_unstable();
            assert_eq!(found, expected, "{name}");
        }
    }
}
