//! Summaries of a run and of its stages, for reports and for the run's record.

use std::collections::BTreeMap;
use std::sync::Arc;

use serde::Serialize;

use crate::dataset::{Committed, HashMap, Receipt, Totals};
use crate::pipeline::plan::StagePlan;
use crate::pipeline::task_failure::TaskFailure;

/// The result of one stage.
#[derive(Clone, Debug, Default, Serialize)]
pub struct StageSummary {
    /// The stage's name.
    pub stage: String,
    /// Its kind.
    pub kind: String,
    /// Number of new tasks.
    pub new: usize,
    /// Number of reused tasks.
    pub reused: usize,
    /// Number of failed tasks. They are left for the next run.
    pub failed: usize,
    /// Wall time in seconds. For labels it starts with the first labelled shard, so it overlaps the
    /// time of the frames.
    pub seconds: f64,
    /// The current version of its dataset, or 0 without one.
    pub version: u64,
    /// Whether this run committed the version.
    pub changed: bool,
    /// Sums over the new tasks: `videos`, `frames`, `transitions`, ...
    pub done: BTreeMap<String, f64>,
    /// The size of the whole dataset.
    pub total: Totals,
    /// Number of missing videos of the previous version.
    pub videos_gone: usize,
    /// Number of rows lost since the previous version.
    pub rows_fewer: u64,
    /// Number of rejected videos in the whole dataset, wholly or in part.
    pub rejects: u64,
    /// Notes from planning and committing.
    pub note: Option<String>,
}

/// The result of a run.
#[derive(Clone, Debug, Default, Serialize)]
pub struct Summary {
    /// The run's id, or empty if there was nothing to do and no record is kept.
    pub run: String,
    /// The results of its stages.
    pub stages: Vec<StageSummary>,
    /// Failed tasks and unreadable videos. Everything else is committed.
    pub failures: Vec<TaskFailure>,
    /// Wall time in seconds.
    pub seconds: f64,
}

impl StageSummary {
    /// Summarises a stage's plan. `made` holds the receipts of this run by key.
    pub(super) fn of(plan: &StagePlan, made: &HashMap<String, Arc<Receipt>>) -> Self {
        let new: Vec<&Arc<Receipt>> =
            plan.tasks.receipts().filter(|receipt| made.contains_key(&receipt.key)).collect();
        StageSummary {
            stage: plan.stage.clone(),
            kind: plan.kind.name.to_owned(),
            new: new.len(),
            reused: plan.tasks.reused() - new.len(),
            done: without_copies(sums(new)),
            total: plan.before.as_ref().map(|before| before.totals.clone()).unwrap_or_default(),
            version: plan.before.as_ref().map_or(0, |before| before.version),
            rejects: plan.before.as_ref().map_or(0, |before| before.totals.rejects),
            videos_gone: plan.videos_gone,
            note: plan.note.clone(),
            ..StageSummary::default()
        }
    }

    /// Adds the result of the commit.
    pub(super) fn with(self, committed: &Committed, plan: &StagePlan) -> Self {
        let manifest = committed.manifest();
        let before = plan.before.as_ref().map_or(0, |before| before.totals.rows);
        let stays = match committed {
            Committed::Overtaken(newest) => Some(format!(
                "version {} stays: run {} started later than this one",
                newest.version, newest.run
            )),
            _ => None,
        };
        StageSummary {
            version: manifest.version,
            changed: matches!(committed, Committed::New(_)),
            rows_fewer: before.saturating_sub(manifest.totals.rows),
            total: manifest.totals.clone(),
            rejects: manifest.totals.rejects,
            note: self
                .note
                .into_iter()
                .chain(stays)
                .chain(mixed_devices(&manifest.totals))
                .reduce(|notes, note| format!("{notes}; {note}")),
            ..self
        }
    }
}

/// Returns a note if devices of several classes computed the tasks of a dataset.
fn mixed_devices(totals: &Totals) -> Option<String> {
    let classes = totals.mixed_devices()?;
    let tasks: Vec<_> = classes.iter().map(|(class, tasks)| format!("{class}: {tasks}")).collect();
    Some(format!(
        "its tasks ran on devices of different rounding ({}); for equal rounding, use one `--device`",
        tasks.join(", ")
    ))
}

/// Subtracts copied videos and frames: they were not decoded.
fn without_copies(mut done: BTreeMap<String, f64>) -> BTreeMap<String, f64> {
    // `videos` and `frames` include the copies.
    for name in ["videos", "frames"] {
        if let (Some(copied), Some(all)) =
            (done.get(&format!("copied_{name}")).copied(), done.get_mut(name))
        {
            *all -= copied;
        }
    }
    done
}

/// Sums the statistics of receipts.
fn sums<'a>(receipts: impl IntoIterator<Item = &'a Arc<Receipt>>) -> BTreeMap<String, f64> {
    let mut sums = BTreeMap::new();
    for (name, value) in receipts.into_iter().flat_map(|r| &r.stats) {
        *sums.entry(name.clone()).or_insert(0.0) += value;
    }
    sums
}
