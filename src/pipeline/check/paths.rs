//! Checks the paths in a pipeline: its workspace, its videos and lists, and the files of weights
//! and of true actions.

use std::collections::BTreeMap;

use super::Notes;
use super::rules::settings_path;
use crate::dataset::lerobot::Lerobot;
use crate::dataset::{Access, List, ListedVideo, address, read_list};
use crate::pipeline::fault::Faults;
use crate::pipeline::spec::{PipelineSpec, StageSpec};
use crate::pipeline::video_listing::{ListingError, matching};
use crate::stages::{InputFile, VideoPatterns};

/// The videos of each `decode` stage.
type Videos = BTreeMap<String, Vec<ListedVideo>>;

/// Checks all paths. Returns the videos of each `decode` stage, and remarks on its lists.
pub(super) fn check(faults: &mut Faults, spec: &PipelineSpec, access: &Access) -> (Videos, Notes) {
    if let Some((message, hint)) = workspace_fault(&spec.workspace) {
        faults.at_value(&["workspace".to_string()], message, Some(hint));
    }
    let mut all = Videos::new();
    let mut notes = Notes::new();
    for (name, stage) in &spec.stages {
        let Some(VideoPatterns { videos: patterns, lists, lerobot }) = stage.video_patterns()
        else {
            continue;
        };
        let mut videos = matched(faults, name, stage, patterns, access);
        let (listed, mut remarks) = listed(faults, name, stage, lists, access);
        videos.extend(listed);
        if let Some((dataset, cameras)) = lerobot {
            let path = settings_path(name, stage, "lerobot");
            match Lerobot::open(dataset, access).and_then(|dataset| dataset.videos(cameras)) {
                Ok(List { videos, .. }) if videos.is_empty() => {
                    let message = format!("{dataset} has no episode");
                    faults.no_video_yet(&path, message, "record episodes first".into());
                }
                Ok(List { videos: episodes, notes }) => {
                    videos.extend(episodes);
                    remarks.extend(notes);
                }
                Err(error) => faults.at_value(&path, error.to_string(), error.hint()),
            }
        }
        if !remarks.is_empty() {
            notes.insert(name.clone(), remarks);
        }
        videos.sort_by(|a, b| a.uri.cmp(&b.uri));
        // A video that is found twice is one video with the facts of both.
        videos.dedup_by(|again, first| again.uri == first.uri && first.join(again));
        all.insert(name.clone(), videos);
    }
    input_files(faults, spec);
    (all, notes)
}

/// Returns the fault of a workspace's path and advice, or `None` if the path is valid.
///
/// A workspace is a folder, or does not exist yet.
pub fn workspace_fault(workspace: &str) -> Option<(String, String)> {
    let folder = std::path::Path::new(workspace);
    if workspace.trim().is_empty() {
        return Some(("is empty".into(), "name a folder, e.g. runs/quickstart".into()));
    }
    if let Some(part) = shell_syntax(workspace) {
        return Some((
            format!("contains `{part}`, which only a shell expands"),
            "write the full path".into(),
        ));
    }
    if workspace.contains("://") || !folder.exists() {
        return None;
    }
    let cause = std::fs::read_dir(folder).err()?;
    let hint = "name a folder that you can read and write, or one that does not exist yet";
    Some((format!("cannot read {workspace}: {cause}"), hint.into()))
}

/// Returns a part of a path with shell syntax: `~` at the beginning, or `$NAME`.
fn shell_syntax(path: &str) -> Option<&str> {
    let mut parts = path.split('/');
    let home = parts.clone().next().filter(|part| part.starts_with('~'));
    let is_variable = |part: &&str| {
        part.strip_prefix('$')
            .is_some_and(|name| name.starts_with(|c: char| c.is_ascii_alphabetic() || c == '_'))
    };
    home.or_else(|| parts.find(is_variable))
}

/// Returns the videos of a stage's patterns.
///
/// A pattern without a match is a fault even if others match: its disk may not be mounted.
fn matched(
    faults: &mut Faults,
    name: &str,
    stage: &StageSpec,
    patterns: &[String],
    access: &Access,
) -> Vec<ListedVideo> {
    let mut found = Vec::new();
    for (i, pattern) in patterns.iter().enumerate() {
        let path = settings_path(name, stage, &format!("videos.{i}"));
        match matching(pattern, access) {
            Ok(videos) if videos.is_empty() => {
                let message = format!("no video matches {pattern}");
                faults.no_video_yet(&path, message, no_match_hint(pattern));
            }
            Ok(videos) => found.extend(videos),
            Err(ListingError(message, hint)) => {
                let example = "write it like `data/**/*.mp4` or `s3://bucket/clips/*.mp4`";
                faults.at_value(&path, message, hint.or_else(|| Some(example.into())));
            }
        }
    }
    found
}

/// Returns the videos of a stage's lists, and remarks on the lists. An empty list is a fault.
fn listed(
    faults: &mut Faults,
    name: &str,
    stage: &StageSpec,
    lists: &[String],
    access: &Access,
) -> (Vec<ListedVideo>, Vec<String>) {
    let mut found = Vec::new();
    let mut remarks = Vec::new();
    for (i, list) in lists.iter().enumerate() {
        let path = settings_path(name, stage, &format!("lists.{i}"));
        match read_list(list, access) {
            Ok(List { videos, .. }) if videos.is_empty() => {
                let hint = "add videos to it, or remove the list from `lists`";
                faults.no_video_yet(&path, format!("{list} lists no video"), hint.into());
            }
            Ok(List { videos, notes }) => {
                found.extend(videos);
                remarks.extend(notes);
            }
            Err(error) => faults.at_value(&path, error.to_string(), error.hint()),
        }
    }
    (found, remarks)
}

/// Returns advice for a pattern without a match.
fn no_match_hint(pattern: &str) -> String {
    if address(pattern).is_some() {
        return "check the bucket and the folder in it, or remove the pattern from `videos`".into();
    }
    if let Some(part) = shell_syntax(pattern) {
        return format!("only a shell expands `{part}`: write the full path");
    }
    let folder = std::env::current_dir().map(|d| d.display().to_string()).unwrap_or_default();
    format!(
        "patterns are relative to the current folder, {folder}; check that the disk is mounted, \
         or remove the pattern from `videos`"
    )
}

/// Files of weights to import and of true actions must be readable.
fn input_files(faults: &mut Faults, spec: &PipelineSpec) {
    for (name, stage) in &spec.stages {
        for InputFile { field, path: file, expected } in stage.files() {
            if let Err(e) = std::fs::File::open(file) {
                let message = format!("cannot read {file}: {e}");
                let hint = format!("name {expected}, relative to the current folder");
                faults.at_value(&settings_path(name, stage, field), message, Some(hint));
            }
        }
    }
}
