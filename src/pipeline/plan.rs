//! Plans a pipeline: lists the tasks of every stage, each done or new, with the reason.
//!
//! New videos, a retrained model, a changed setting and a killed run need no code of their own. A
//! task is identified by its key, and a key without a receipt has to be run. Planning writes
//! nothing. Each stage lists its own tasks in [`Stage::plan`](crate::stages::Stage::plan).

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use super::check::Checked;
use crate::dataset::{self, Finished, HashMap, HashSet, Manifest, Receipt, Store, finished};
use crate::stages::plan::{DeferredVideos, PlanInputs, ReceiptIndex};

mod streaming_labels;

pub use crate::stages::plan::{DeferredVideo, PendingTasks, PlannedTask, StagePlan, Tasks};
pub use streaming_labels::{ReadyLabelStage, StreamedLabels};

/// Command-line options for planning and running.
#[derive(Clone, Debug, Default)]
pub struct PlanOptions {
    /// Stages to train again, once, whatever their `refresh` setting is.
    pub refresh: Vec<String>,
    /// Seconds between two checkpoints of a training.
    pub checkpoint_secs: u64,
    /// Decode rejected videos again, together with all videos in their shards. The list selects
    /// classes of rejects; an empty list selects all.
    pub retry_rejected: Option<Vec<String>>,
    /// Allow the pipeline to write into the workspace of another one.
    pub take_over: bool,
    /// The allowed share of missing videos, 0 to 1. Overrides the pipeline's `max_dropped`.
    pub max_dropped: Option<f64>,
    /// Minimum time since the last change of a file; younger files are left for the next run. The
    /// pipeline's own `min_age` applies if it is longer.
    pub min_age: Duration,
    /// Run only these stages and plan the others. `None` runs all.
    pub only: Option<Vec<String>>,
    /// Keys of failed tasks to leave for the next run, so that other tasks of their stages go on.
    pub given_up: HashSet<String>,
    /// Videos to leave for the next run, and the reasons.
    pub left_out: BTreeMap<String, String>,
}

impl PlanOptions {
    /// Returns whether a stage is run, not only planned.
    pub fn runs(&self, stage: &str) -> bool {
        self.only.as_ref().is_none_or(|only| only.iter().any(|name| name == stage))
    }
}

/// Restores tasks of the previous version for videos that no task of the plan has any more.
pub(super) fn restore_previous(plan: &mut StagePlan) {
    if !plan.kind.restores || plan.dropped.is_empty() {
        return;
    }
    let present: HashSet<String> =
        plan.tasks.iter().flat_map(PlannedTask::digests).map(str::to_owned).collect();
    let before = plan.dropped.iter().flat_map(|receipt| &receipt.videos);
    let missing = before
        .map(|video| &video.digest)
        .filter(|digest| plan.planned_digests.contains(*digest) && !present.contains(*digest));
    let missing = missing.cloned().collect();
    let dropped = plan.dropped.clone();
    plan.tasks.restore(&dropped, missing);
}

/// Plans one stage at a time. Each stage sees the plans of the stages before it.
pub struct Planner<'a> {
    /// The pipeline.
    pub checked: &'a Checked,
    /// The workspace.
    pub store: &'a Store,
    /// Command-line options.
    pub options: &'a PlanOptions,
    /// The plans of all stages so far, planned or run.
    pub plans: HashMap<String, StagePlan>,
    /// The newest version of every stage's dataset at the start of planning.
    pub heads: HashMap<String, Manifest>,
    /// Labels of this run, written ahead of their stage. They count as new although they have
    /// receipts.
    pub streamed: StreamedLabels,
    /// Facts about videos for this run only, such as videos left for the next one.
    pub now: DeferredVideos,
}

impl<'a> Planner<'a> {
    /// Creates a planner and reads the newest version of every stage.
    pub fn new(
        checked: &'a Checked,
        store: &'a Store,
        options: &'a PlanOptions,
    ) -> Result<Self, dataset::Error> {
        let newest =
            checked.spec.stages.iter().map(|(name, _)| {
                Ok(Manifest::newest(store, name)?.map(|head| (name.clone(), head)))
            });
        let heads = newest.filter_map(Result::transpose).collect::<Result<_, dataset::Error>>()?;
        Ok(Planner {
            checked,
            store,
            options,
            plans: HashMap::default(),
            heads,
            streamed: StreamedLabels::default(),
            now: DeferredVideos { min_age: options.min_age, left_out: options.left_out.clone() },
        })
    }

    /// Plans every stage in execution order.
    pub fn plan_all(mut self) -> Result<Vec<StagePlan>, dataset::Error> {
        let mut names = Vec::new();
        for &at in &self.checked.order {
            let plan = self.plan(at)?;
            names.push(plan.stage.clone());
            self.plans.insert(plan.stage.clone(), plan);
        }
        Ok(names.iter().filter_map(|name| self.plans.remove(name)).collect())
    }

    /// Plans one stage. Its inputs were planned before, because [`Checked::order`] lists them
    /// first.
    pub fn plan(&self, at: usize) -> Result<StagePlan, dataset::Error> {
        let (name, spec) = &self.checked.spec.stages[at];
        let before = self.heads.get(name);
        let Finished { mut receipts, damaged } = finished(self.store, name, before)?;
        // Labels that were streamed in this run count as new.
        receipts.retain(|receipt| !self.streamed.has(name, &receipt.key));
        let before_entries = before.map_or(Ok(vec![]), |before| before.entries(self.store))?;
        let damaged_tables =
            before.map_or(Ok(vec![]), |before| before.damaged_tables(self.store, name))?;
        let mut plan = StagePlan {
            needs: spec.needs(),
            before: before.cloned(),
            before_entries,
            damaged,
            damaged_tables,
            ..StagePlan::empty(name, spec.kind())
        };
        spec.plan(&self.given(name, &receipts, &ReceiptIndex::new(&receipts)), &mut plan)?;
        // Tasks of the newest version that are not planned again are dropped.
        let planned: HashSet<&str> = plan.tasks.iter().map(PlannedTask::key).collect();
        let gone: HashSet<&str> = plan
            .before_entries
            .iter()
            .map(|(key, _)| key.as_str())
            .filter(|key| !planned.contains(key))
            .collect();
        if !gone.is_empty() {
            let known: HashMap<&str, &Arc<Receipt>> =
                receipts.iter().map(|receipt| (receipt.key.as_str(), receipt)).collect();
            let gone = plan.before_entries.iter().filter(|(key, _)| gone.contains(key.as_str()));
            plan.dropped = gone
                .filter_map(|(key, _)| known.get(key.as_str()).map(|receipt| (*receipt).clone()))
                .collect();
        }
        if !plan.dropped.is_empty() {
            // Videos of dropped tasks may be in other tasks now.
            plan.planned_digests = plan.digests().into_iter().map(str::to_owned).collect();
            plan.videos_gone = self.videos_gone(&plan);
        }
        self.give_up(&mut plan);
        Ok(plan)
    }

    /// Removes tasks that failed before, if the others are useful without them. A stage of which
    /// nothing is left keeps its tasks, so that later stages wait.
    fn give_up(&self, plan: &mut StagePlan) {
        let given_up = &self.options.given_up;
        let all_failed = || plan.tasks.iter().all(|task| given_up.contains(task.key()));
        if given_up.is_empty() || !plan.kind.independent || all_failed() {
            return;
        }
        if plan.tasks.remove(given_up) > 0 {
            restore_previous(plan);
        }
    }

    /// Counts missing videos of the newest version, by name and by content.
    fn videos_gone(&self, plan: &StagePlan) -> usize {
        let Some(listed) = self.checked.videos.get(&plan.stage) else { return 0 };
        let listed: HashSet<&str> = listed.iter().map(|video| video.uri.as_str()).collect();
        // A video inside an archive exists as long as the archive does.
        let is_listed = |uri: &str| {
            listed.contains(uri)
                || uri
                    .rsplit_once(".tar/")
                    .is_some_and(|(tar, _)| listed.contains(&*format!("{tar}.tar")))
        };
        let videos = plan.dropped.iter().flat_map(|receipt| &receipt.videos);
        videos
            .filter(|video| !is_listed(&video.uri) && !plan.planned_digests.contains(&video.digest))
            .count()
    }

    /// Returns a stage's view of the pipeline for planning.
    fn given<'g>(
        &'g self,
        stage: &str,
        receipts: &'g [Arc<Receipt>],
        known: &'g ReceiptIndex<'g>,
    ) -> PlanInputs<'g> {
        let Checked { spec, videos, notes, .. } = self.checked;
        PlanInputs {
            pipeline: &spec.name,
            seed: spec.seed,
            holdout: spec.holdout,
            stages: &spec.stages,
            plans: &self.plans,
            receipts,
            known,
            checkpoint_secs: self.options.checkpoint_secs,
            is_forced: self.options.refresh.iter().any(|name| name == stage),
            retry_rejected: self.options.retry_rejected.as_deref(),
            videos: videos.get(stage).map_or(&[], Vec::as_slice),
            notes: notes.get(stage).map_or(&[], Vec::as_slice),
            now: &self.now,
            access: self.store.access(),
        }
    }
}
