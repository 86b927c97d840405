//! Whether what a pipeline names is there: its workspace, its videos and lists, files of weights and of actions.
//!
//! In: a pipeline as it is written. Out: what its patterns and lists name, and faults.

use std::collections::BTreeMap;

use super::{Notes, path};
use crate::dataset::{Access, List, ListedVideo, address, read_list};
use crate::pipeline::entries::{Unmatched, matching};
use crate::pipeline::fault::Faults;
use crate::pipeline::locate::Part;
use crate::pipeline::spec::PipelineSpec;
use crate::stages::{InputFile, VideoPatterns};

/// A workspace must be a folder, or not be there yet.
pub(super) fn workspace(faults: &mut Faults, spec: &PipelineSpec) {
    if let Some((message, cure)) = workspace_fault(&spec.workspace) {
        faults.at(&["workspace".to_string()], Part::Value, message, Some(cure));
    }
}

/// Returns what is wrong with a workspace's name, and the cure.
pub fn workspace_fault(workspace: &str) -> Option<(String, String)> {
    let folder = std::path::Path::new(workspace);
    if workspace.trim().is_empty() {
        return Some(("is empty".into(), "name a folder, e.g. runs/quickstart".into()));
    }
    if let Some(part) = for_a_shell(workspace) {
        return Some((
            format!("holds `{part}`, which only a shell expands"),
            "write the whole path".into(),
        ));
    }
    if workspace.contains("://") || !folder.exists() {
        return None;
    }
    let cause = std::fs::read_dir(folder).err()?;
    let cure = "name a folder that you can read and write, or one that is not there yet";
    Some((format!("cannot read {workspace}: {cause}"), cure.into()))
}

/// Returns the part of a path that a shell would expand: `~` at its beginning, or `$NAME`.
fn for_a_shell(path: &str) -> Option<&str> {
    let mut parts = path.split('/');
    let home = parts.clone().next().filter(|part| part.starts_with('~'));
    let is_variable = |part: &&str| {
        part.strip_prefix('$')
            .is_some_and(|name| name.starts_with(|c: char| c.is_ascii_alphabetic() || c == '_'))
    };
    home.or_else(|| parts.find(is_variable))
}

/// What the patterns and lists name. One that names nothing is a fault of its own, even where others name videos: a disk may not be there.
pub(super) fn matches(
    faults: &mut Faults,
    spec: &PipelineSpec,
    access: &Access,
    notes: &mut Notes,
) -> BTreeMap<String, Vec<ListedVideo>> {
    let mut all = BTreeMap::new();
    for (name, stage) in &spec.stages {
        let Some(VideoPatterns { videos, lists }) = stage.video_patterns() else { continue };
        let at = |field: &str, i: usize| [path(name, stage, field), vec![i.to_string()]].concat();
        let mut found = Vec::new();
        for (i, pattern) in videos.iter().enumerate() {
            match matching(pattern, access) {
                Ok(videos) if videos.is_empty() => {
                    let message = format!("no video matches {pattern}");
                    faults.none_yet(&at("videos", i), message, nothing_there(pattern));
                }
                Ok(videos) => found.extend(videos),
                Err(Unmatched(message, cure)) => {
                    let like =
                        || "write it like `data/**/*.mp4` or `s3://bucket/clips/*.mp4`".into();
                    faults.at(
                        &at("videos", i),
                        Part::Value,
                        message,
                        cure.or_else(|| Some(like())),
                    );
                }
            }
        }
        for (i, list) in lists.iter().enumerate() {
            match read_list(list, access) {
                Ok(List { videos, .. }) if videos.is_empty() => {
                    let cure = "add videos to it, or remove the list from `lists`";
                    faults.none_yet(&at("lists", i), format!("{list} lists no video"), cure.into());
                }
                Ok(List { videos, notes: of_list }) => {
                    found.extend(videos);
                    notes.entry(name.clone()).or_default().extend(of_list);
                }
                Err(error) => {
                    faults.at(&at("lists", i), Part::Value, error.to_string(), error.hint())
                }
            }
        }
        found.sort_by(|a: &ListedVideo, b| a.uri.cmp(&b.uri));
        found.dedup_by(|again, first| again.uri == first.uri && first.join(again));
        all.insert(name.clone(), found);
    }
    all
}

/// The cure for a pattern that matches nothing.
fn nothing_there(pattern: &str) -> String {
    if address(pattern).is_some() {
        return "check the bucket and the folder in it, or remove the pattern from `videos`".into();
    }
    if let Some(part) = for_a_shell(pattern) {
        return format!("only a shell expands `{part}`: write the whole path");
    }
    let here = std::env::current_dir().map(|d| d.display().to_string()).unwrap_or_default();
    format!(
        "patterns are relative to the current folder, {here}; check that its disk is there, or remove the pattern from `videos`"
    )
}

/// Weights to import and true actions must be there.
pub(super) fn files(faults: &mut Faults, spec: &PipelineSpec) {
    for (name, stage) in &spec.stages {
        for InputFile { field, path: file, expected } in stage.files() {
            let Err(e) = std::fs::File::open(file) else { continue };
            let message = format!("cannot read {file}: {e}");
            let cure = format!("name {expected}, relative to the current folder");
            faults.at(&path(name, stage, field), Part::Value, message, Some(cure));
        }
    }
}
