//! A stage's plan as JSON, for `lapo plan --format json`.

use std::collections::BTreeMap;

use serde::{Serialize, Serializer};

use super::key::Fields;
use super::{DeferredVideo, Reason, StagePlan};
use crate::stages::Needs;

/// The JSON form of a plan.
#[derive(Serialize)]
struct StageView<'a> {
    stage: &'a str,
    kind: &'a str,
    new: usize,
    reused: usize,
    new_videos: usize,
    reused_videos: usize,
    videos_gone: usize,
    rows_fewer: u64,
    changes: bool,
    left_out: &'a [DeferredVideo],
    damaged: usize,
    needs: Needs,
    why: &'a BTreeMap<Reason, usize>,
    note: Option<&'a str>,
    settings: &'a Fields,
}

impl Serialize for StagePlan {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        let view = StageView {
            stage: &self.stage,
            kind: self.kind.name,
            new: self.new_tasks(),
            reused: self.tasks.reused(),
            new_videos: self.new_videos(),
            reused_videos: self.reused_videos(),
            videos_gone: self.videos_gone,
            rows_fewer: self.rows_fewer(),
            changes: self.changes(),
            left_out: &self.left_out,
            damaged: self.damaged.len(),
            needs: self.needs,
            why: &self.why,
            note: self.note.as_deref(),
            settings: &self.settings,
        };
        view.serialize(serializer)
    }
}
