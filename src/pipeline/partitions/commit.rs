//! Commits the results of a plan as the next versions of its datasets. Start at [`commit_all`].

use std::sync::Arc;

use super::attempts::{attempts, failures};
use super::status::StageStatus;
use super::work::jobs;
use super::{Keys, PartitionedPlan, StageShare, keys, status};
use crate::dataset::{
    self, Commit, Committed, HashMap, HashSet, Manifest, Receipt, Store, commit, find_receipts,
    pins,
};
use crate::pipeline::Error;
use crate::pipeline::max_rejected::RejectLimit;
use crate::pipeline::plan::{PlannedTask, StagePlan, Tasks};
use crate::pipeline::reporter::Reporter;
use crate::pipeline::session::{now, publish};
use crate::pipeline::summary::{StageSummary, Summary};
use crate::pipeline::task_failure::TaskFailure;

/// Receipts by key.
type ByKey = HashMap<String, Arc<Receipt>>;

/// How to treat unfinished partitions.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Missing {
    /// Return an error and commit nothing.
    Refuse,
    /// Commit the finished ones. The others are in the next plan. A stage without any finished
    /// partition and without an earlier version is left out as a whole.
    LeaveOut,
}

/// Commits the results of a plan. Committing a plan twice changes nothing, nor does a plan replace
/// the versions of a later plan or run.
///
/// # Errors
/// Fails if partitions are unfinished and `missing` is [`Missing::Refuse`]. Also fails at the first
/// stage with more rejected videos than `max_rejected` allows, which then gets no new version.
pub fn commit_all(
    partitioned: &PartitionedPlan,
    out: &Store,
    store: &Store,
    missing: Missing,
    reporter: &dyn Reporter,
) -> Result<Summary, Error> {
    let mut summary = Summary { run: partitioned.run.clone(), ..Summary::default() };
    let status = status(partitioned, out, store)?;
    if missing == Missing::Refuse {
        require_all(partitioned, &status)?;
    }
    let attempts = attempts(out)?;
    for share in partitioned.stages.iter().filter(|share| share.complete) {
        let unfinished = status
            .iter()
            .find(|stage| stage.stage == share.stage)
            .map_or(&[][..], |stage| &stage.missing);
        let planned = PlannedStage { partitioned, share, out, store };
        let recorded = failures(out, &attempts, unfinished)?;
        let new = keys(out, share)?.new;
        let failure = |partition: &usize| match recorded.get(partition) {
            Some(failure) => failure.clone(),
            None => unfinished_partition(&share.stage, &new[partition - share.first], *partition),
        };
        summary.failures.extend(unfinished.iter().map(failure));
        if let Some(stage) = commit_share(&planned, unfinished)? {
            reporter.stage_ended(&stage);
            summary.stages.push(stage);
        }
    }
    if summary.stages.is_empty() {
        require_results(partitioned)?;
    }
    // The new versions protect their files from now on.
    pins::release(store, &partitioned.run)?;
    summary.seconds = now().as_secs_f64() - partitioned.planned_unix_secs as f64;
    // The plan was committed before: keep the first record.
    if dataset::runs::is_recorded(store, &partitioned.run)? {
        return Ok(summary);
    }
    let outcome = if summary.failures.is_empty() { "done" } else { "done in part" };
    dataset::runs::record(
        store,
        &partitioned.run,
        &partitioned.written.record(&summary, partitioned.planned_unix_secs, outcome),
    )?;
    Ok(summary)
}

/// Returns an error if a partition is not done.
fn require_all(partitioned: &PartitionedPlan, status: &[StageStatus]) -> Result<(), Error> {
    let Some(open) = status.iter().find(|stage| !stage.missing.is_empty()) else { return Ok(()) };
    let count: usize = status.iter().map(|stage| stage.missing.len()).sum();
    let what = format!(
        "{count} of {} partitions are not done; stage {} is missing {}",
        partitioned.partitions,
        open.stage,
        listed(&open.missing)
    );
    let hint = "`lapo status --plan ...` lists them; `lapo commit --partial` leaves them for the \
                next plan"
        .into();
    Err(Error::Request { what, hint })
}

/// Returns an error if a plan with partitions has left nothing to commit.
fn require_results(partitioned: &PartitionedPlan) -> Result<(), Error> {
    let has_partitions = |share: &&StageShare| share.complete && share.count > 0;
    let Some(share) = partitioned.stages.iter().find(has_partitions) else { return Ok(()) };
    Err(Error::Request {
        what: format!(
            "stage {}: none of its {} partitions is done, and there is no earlier version",
            share.stage, share.count
        ),
        hint: "run the partitions first: `lapo worker --plan ...`".into(),
    })
}

/// Returns the stages of a plan without changes.
pub(in crate::pipeline) fn unchanged_stages(
    partitioned: &PartitionedPlan,
    store: &Store,
) -> Result<Vec<StageSummary>, Error> {
    let mut stages = Vec::new();
    for share in &partitioned.stages {
        if let Some(newest) = Manifest::newest(store, &share.stage)? {
            let committed = Committed::Unchanged(newest.clone());
            stages.push(share.summary(&ByKey::default(), &committed, Some(&newest))?);
        }
    }
    Ok(stages)
}

/// Lists at most 8 partitions.
fn listed(partitions: &[usize]) -> String {
    let shown: Vec<String> = partitions.iter().take(8).map(ToString::to_string).collect();
    let more = partitions.len().saturating_sub(8);
    if more == 0 { shown.join(", ") } else { format!("{} and {more} more", shown.join(", ")) }
}

/// A stage of a plan, and the stores of the plan and of its results.
struct PlannedStage<'a> {
    partitioned: &'a PartitionedPlan,
    share: &'a StageShare,
    out: &'a Store,
    store: &'a Store,
}

/// Commits one stage without its unfinished partitions. Returns `None` if nothing is left of it.
fn commit_share(stage: &PlannedStage, unfinished: &[usize]) -> Result<Option<StageSummary>, Error> {
    let PlannedStage { partitioned, share, out, store } = *stage;
    let Keys { order, new } = keys(out, share)?;
    let missing_keys: HashSet<&String> =
        unfinished.iter().map(|partition| &new[partition - share.first]).collect();
    let made: ByKey = {
        let done: Vec<String> =
            new.iter().filter(|key| !missing_keys.contains(key)).cloned().collect();
        let receipts = find_receipts(store, &share.stage, &done)?.into_iter().flatten();
        receipts.map(|receipt| (receipt.key.clone(), Arc::new(receipt))).collect()
    };
    let newest = Manifest::newest(store, &share.stage)?;
    let mut order: Vec<String> =
        order.into_iter().filter(|key| !missing_keys.contains(key)).collect();
    let mut fresh = made.clone();
    // Videos of unfinished partitions keep their tasks of the newest version.
    if !unfinished.is_empty() && share.kind()?.restores {
        (order, fresh) = restored(stage, unfinished, &order, made.clone(), newest.as_ref())?;
    }
    if order.is_empty() && !unfinished.is_empty() {
        return Ok(None);
    }
    if share.most_rejected.is_some() {
        check_rejected(stage, &order, &made, newest.as_ref())?;
    }
    let settings = Commit {
        stage: &share.stage,
        kind: &share.kind,
        run: &partitioned.run,
        pipeline: &partitioned.written.pipeline,
        take_over: partitioned.take_over,
        why: &share.why,
        settings: &share.settings,
        since: share.version.unwrap_or(0),
        now_unix_ms: now().as_millis() as u64,
        file_bytes: share.file_bytes,
    };
    let committed = commit(store, &settings, &order, &fresh)?;
    let mut share = share.clone();
    publish(store, &share.stage, &committed, &mut share.note)?;
    let summary = share.summary(&made, &committed, newest.as_ref())?;
    Ok(Some(StageSummary { failed: unfinished.len(), ..summary }))
}

/// Creates the failure of an unfinished partition.
pub(in crate::pipeline) fn unfinished_partition(
    stage: &str,
    key: &str,
    partition: usize,
) -> TaskFailure {
    TaskFailure {
        stage: stage.to_owned(),
        key: key.to_owned(),
        subject: format!("partition {partition}"),
        message: format!("stage {stage}: partition {partition} is not done"),
        hint: None,
        transient: true,
        is_video: false,
        is_bug: false,
    }
}

/// Returns an error if the version would have more rejected videos than `max_rejected` allows.
fn check_rejected(
    stage: &PlannedStage,
    order: &[String],
    made: &ByKey,
    newest: Option<&Manifest>,
) -> Result<(), Error> {
    let PlannedStage { share, store, .. } = *stage;
    let all = newest.map_or(Ok(vec![]), |newest| newest.receipts(store))?;
    let planned: HashSet<&String> = order.iter().collect();
    let reused = all
        .iter()
        .filter(|receipt| planned.contains(&receipt.key) && !made.contains_key(&receipt.key));
    RejectLimit::new(share.most_rejected, share.videos, reused.chain(made.values()))
        .check(&share.stage)
}

/// Returns the keys and receipts of a version without the unfinished partitions. Tasks of the
/// previous version stay in their place.
fn restored(
    stage: &PlannedStage,
    unfinished: &[usize],
    order: &[String],
    made: ByKey,
    newest: Option<&Manifest>,
) -> Result<(Vec<String>, ByKey), Error> {
    let PlannedStage { partitioned, share, out, store } = *stage;
    let before = newest.map_or(Ok(vec![]), |newest| newest.receipts(store))?;
    let jobs = jobs(partitioned, out, unfinished)?;
    let digests = jobs.iter().flat_map(|(_, job)| job.task.digests());
    let missing: HashSet<String> = digests.map(str::to_owned).collect();
    let planned: HashSet<&String> = order.iter().collect();
    // Videos of unfinished partitions may be in tasks outside the plan.
    let (kept, dropped): (Vec<_>, Vec<_>) =
        before.into_iter().partition(|receipt| planned.contains(&receipt.key));
    let mut known: HashMap<String, Arc<Receipt>> =
        kept.into_iter().map(|receipt| (receipt.key.clone(), receipt)).collect();
    known.extend(made);
    // Finished tasks of other versions can be part of the plan, too.
    let adopted: Vec<String> =
        order.iter().filter(|key| !known.contains_key(*key)).cloned().collect();
    known.extend(
        find_receipts(store, &share.stage, &adopted)?
            .into_iter()
            .flatten()
            .map(|receipt| (receipt.key.clone(), Arc::new(receipt))),
    );
    let mut tasks = Tasks::default();
    for receipt in order.iter().filter_map(|key| known.get(key)) {
        tasks.push(PlannedTask::Done(receipt.clone()));
    }
    tasks.restore(&dropped, missing);
    let fresh = tasks.receipts().map(|receipt| (receipt.key.clone(), receipt.clone())).collect();
    Ok((tasks.keys(), fresh))
}

impl StageShare {
    /// Returns the summary of the committed stage.
    fn summary(
        &self,
        made: &ByKey,
        committed: &Committed,
        before: Option<&Manifest>,
    ) -> Result<StageSummary, Error> {
        let mut plan = StagePlan::empty(&self.stage, self.kind()?);
        plan.before = before.cloned();
        plan.videos_gone = self.videos_gone;
        plan.note.clone_from(&self.note);
        for receipt in made.values() {
            plan.tasks.push(PlannedTask::Done(receipt.clone()));
        }
        let summary = StageSummary::of(&plan, made).with(committed, &plan);
        Ok(StageSummary { reused: self.reused, ..summary })
    }
}
