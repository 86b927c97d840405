//! Imports true actions from a file or a LeRobot dataset and matches them with frames.
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
    ArtifactKind, Error, FieldFault, FieldFaults, Input, InputFile, LaneState, Needs, Stage,
    StageKind, StageTask, TaskContext, TaskOutput, digest_of,
};
use crate::dataset::lerobot::{Lerobot, LerobotRows};
use crate::dataset::{self, ActionRows, Actions, FileInfo, Shards};

mod video_names;

use video_names::{ByName, base};

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
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub file: Option<String>,
    /// In place of `file`, the LeRobot dataset that the stage `frames` decodes. Rewards come from
    /// its feature `next.reward`. The actions of an episode are those of each of its cameras.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub lerobot: Option<String>,
    /// The feature of the LeRobot dataset with the actions. Default `action`.
    #[serde(default = "default_action", skip_serializing_if = "is_default_action")]
    pub action: String,
    /// The feature of the LeRobot dataset with the states, such as `observation.state`: they become
    /// the column `state`. Default: none.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub state: Option<String>,
    /// Whether to ignore actions of nonexistent videos and frames, and to permit frames without an
    /// action. Default false: these are errors. With `lerobot`, whether to leave out actions that
    /// are missing or not finite.
    #[serde(default)]
    pub partial: bool,
}

fn default_action() -> String {
    "action".into()
}
fn is_default_action(name: &str) -> bool {
    name == default_action()
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
    /// The blake3 of the file, or of the names and versions of the LeRobot dataset's files, when
    /// the run was planned.
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

    fn validate(&self) -> Vec<FieldFault> {
        let mut faults = FieldFaults::default();
        let is_lerobot = self.lerobot.is_some();
        faults.expect(
            self.file.is_some() != is_lerobot,
            "file",
            if is_lerobot { "is set, and `lerobot` as well" } else { "is missing" },
            "name one source of true actions: a `file`, or a dataset as `lerobot`",
        );
        faults.expect(
            is_lerobot || (self.state.is_none() && is_default_action(&self.action)),
            if self.state.is_some() { "state" } else { "action" },
            "names a feature, but `lerobot` is not set",
            "set `lerobot` to a LeRobot dataset, or leave it out",
        );
        faults.into_vec()
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
            digest: match &self.lerobot {
                Some(dataset) => Lerobot::open(dataset, given.access)?.rows_digest()?,
                None => self.file.as_deref().map(digest_of).unwrap_or_default(),
            },
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
        let expected = "a Parquet or CSV file of true actions";
        let file = self.file.as_deref();
        file.map(|path| InputFile { field: "file", path, expected }).into_iter().collect()
    }

    fn about_frames_of<'a>(&'a self, _own: &'a str) -> Option<&'a str> {
        Some(&self.frames)
    }
}

impl StageTask for ImportActionsTask {
    fn key(&self) -> KeyFields {
        // The rejected videos follow from the frames.
        let ImportActionsTask { config, digest, shards, rejected: _ } = self;
        let ImportActionsConfig { partial, action, state, lerobot, frames: _, file: _ } = config;
        KeyFields::new(&KIND)
            .setting("partial", partial)
            .setting_if(lerobot.is_some(), "lerobot", lerobot)
            .setting_if(lerobot.is_some(), "action", action)
            .setting_if(state.is_some(), "state", state)
            .input("true_actions", digest)
            .input("frames", digests(shards))
    }

    fn run(&self, ctx: &TaskContext, _: &mut LaneState) -> Result<TaskOutput, Error> {
        run(self, ctx)
    }
}

/// Matches each frame with its action.
fn run(task: &ImportActionsTask, ctx: &TaskContext) -> Result<TaskOutput, Error> {
    let actions = Actions::new(task.read(ctx)?)
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
    let shards = Shards::open_files(ctx.store, &task.shards)?;
    let names = match &task.config.lerobot {
        Some(dataset) => task.episode_names(dataset, &actions, &shards)?,
        None => task.names(&actions, &shards)?,
    };
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
    /// Reads the file or the dataset. It must be as it was when the run was planned.
    fn read(&self, ctx: &TaskContext) -> Result<ActionRows, Error> {
        let ImportActionsConfig { file, lerobot, action, state, partial, .. } = &self.config;
        // Checked after reading, so that a change while reading is noticed.
        let Some(root) = lerobot else {
            let path = Path::new(file.as_deref().unwrap_or_default());
            let rows = ActionRows::read_file(path)?;
            check_unchanged(path, &self.digest)?;
            return Ok(rows);
        };
        let dataset = Lerobot::open(root, ctx.store.access())?;
        let wanted = LerobotRows { action, state: state.as_deref(), only_finite: *partial };
        let rows = dataset.rows(wanted)?;
        if dataset.rows_digest()? != self.digest {
            return Err(Error::Changed { file: root.clone() });
        }
        Ok(rows)
    }

    /// Returns the episode of each decoded video of a LeRobot dataset, by the video's name.
    fn episode_names<'a>(
        &self,
        dataset: &str,
        actions: &'a Actions,
        shards: &Shards,
    ) -> Result<HashMap<String, &'a str>, Error> {
        let episodes: HashSet<&str> = actions.videos().map(|(episode, _)| episode).collect();
        let root = format!("{}/", dataset.trim_end_matches('/'));
        let mut names = HashMap::new();
        for number in 0..self.shards.len() {
            for run in shards.shard(number)?.episodes() {
                let episode = run.video.strip_prefix(&root).map(base);
                if let Some(episode) = episode.and_then(|episode| episodes.get(episode)) {
                    names.insert(run.video, *episode);
                }
            }
        }
        if names.is_empty() && !self.shards.is_empty() && !self.config.partial {
            let cure = "name the dataset as in `decode: { lerobot: ... }` of that stage";
            return Err(self.fault("no frame is of this dataset".into(), cure));
        }
        Ok(names)
    }

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
        let ImportActionsConfig { file, lerobot, .. } = &self.config;
        let file = file.as_ref().or(lerobot.as_ref()).cloned().unwrap_or_default();
        Error::Actions { file, reason, cure }
    }
}
