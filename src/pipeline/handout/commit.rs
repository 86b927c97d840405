//! The work of a plan becomes the datasets' next versions. In: a plan whose partitions were done; out: what was committed. Start at
//! [`commit_all`].

use std::sync::Arc;

use super::super::Error;
use super::super::limit::Limit;
use super::super::plan::{Planned, StagePlan, Tasks};
use super::super::run::{StageSummary, Summary, Watch};
use super::super::session::{TaskFailure, now, publish};
use super::{Handout, Keys, Share, jobs, keys, status};
use crate::dataset::{
    self, Commit, Committed, HashMap, HashSet, Manifest, Receipt, Store, commit, find_receipts,
    head, pins,
};

/// Receipts by key.
type ByKey = HashMap<String, Arc<Receipt>>;

/// What to do about partitions that are not done.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Missing {
    /// Commit nothing.
    Refuse,
    /// Commit what is done; the rest is in the next plan.
    LeaveOut,
}

/// Makes what was done the datasets' next versions; a plan that was committed, and what a later plan or run made, is left as it is.
///
/// # Errors
/// Where partitions are not done and `missing` does not leave them out. Where more videos were rejected than `max_rejected` allows; then no
/// version is made.
pub fn commit_all(
    handout: &Handout,
    out: &Store,
    store: &Store,
    missing: Missing,
    watch: &dyn Watch,
) -> Result<Summary, Error> {
    let mut summary = Summary { run: handout.run.clone(), ..Summary::default() };
    let status = status(handout, out, store)?;
    if let Some(open) =
        status.iter().find(|stage| !stage.missing.is_empty()).filter(|_| missing == Missing::Refuse)
    {
        let count: usize = status.iter().map(|stage| stage.missing.len()).sum();
        let what = format!(
            "{count} of {} partitions are not done; stage {} lacks {}",
            handout.partitions,
            open.stage,
            listed(&open.missing)
        );
        let hint = "`lapo status --plan ...` lists them; `lapo commit --partial` leaves them for the next plan".into();
        return Err(Error::Request { what, hint });
    }
    for share in handout.stages.iter().filter(|share| share.complete) {
        let lacks = status
            .iter()
            .find(|stage| stage.stage == share.stage)
            .map_or(&[][..], |stage| &stage.missing);
        let (stage, failures) = commit_share(&Planning { handout, share, out, store }, lacks)?;
        watch.end(&stage);
        summary.stages.push(stage);
        summary.failures.extend(failures);
    }
    pins::release(store, &handout.run)?;
    summary.seconds = now().as_secs_f64() - handout.planned_unix_secs as f64;
    if dataset::runs::is_recorded(store, &handout.run)? {
        return Ok(summary);
    }
    let outcome = if summary.failures.is_empty() { "done" } else { "done in part" };
    dataset::runs::record(
        store,
        &handout.run,
        &handout.written.record(&summary, handout.planned_unix_secs, outcome),
    )?;
    Ok(summary)
}

fn listed(partitions: &[usize]) -> String {
    let shown: Vec<String> = partitions.iter().take(8).map(ToString::to_string).collect();
    let more = partitions.len().saturating_sub(8);
    if more == 0 { shown.join(", ") } else { format!("{} and {more} more", shown.join(", ")) }
}

/// A stage of a plan, and where the plan and its results lie.
struct Planning<'a> {
    handout: &'a Handout,
    share: &'a Share,
    out: &'a Store,
    store: &'a Store,
}

/// Commits one stage, without the partitions `lacks`.
fn commit_share(
    stage: &Planning,
    lacks: &[usize],
) -> Result<(StageSummary, Vec<TaskFailure>), Error> {
    let Planning { handout, share, out, store } = *stage;
    let Keys { order, new } = keys(out, share)?;
    let missing: HashSet<&String> =
        lacks.iter().map(|partition| &new[partition - share.first]).collect();
    let made: HashMap<String, Arc<Receipt>> = {
        let done: Vec<String> = new.iter().filter(|key| !missing.contains(key)).cloned().collect();
        let receipts = find_receipts(store, &share.stage, &done)?.into_iter().flatten();
        receipts.map(|receipt| (receipt.key.clone(), Arc::new(receipt))).collect()
    };
    let newest = head(store, &share.stage)?;
    let mut order: Vec<String> = order.into_iter().filter(|key| !missing.contains(key)).collect();
    let mut fresh = made.clone();
    if !lacks.is_empty() && share.kind()?.restores {
        (order, fresh) = restored(stage, lacks, &order, made.clone(), newest.as_ref())?;
    }
    if order.is_empty() && !lacks.is_empty() {
        let what = format!(
            "stage {}: none of its {} partitions is done, and nothing is there from before",
            share.stage, share.count
        );
        return Err(Error::Request {
            what,
            hint: "work on the plan first: `lapo worker --plan ...`".into(),
        });
    }
    if share.most_rejected.is_some() {
        let all = newest.as_ref().map_or(Ok(vec![]), |newest| newest.receipts(store))?;
        let planned: HashSet<&String> = order.iter().collect();
        let all = all
            .iter()
            .filter(|receipt| planned.contains(&receipt.key) && !made.contains_key(&receipt.key));
        Limit::new(share.most_rejected, share.videos, all.chain(made.values()))
            .check(&share.stage)?;
    }
    let by = Commit {
        stage: &share.stage,
        kind: &share.kind,
        run: &handout.run,
        pipeline: &handout.written.pipeline,
        take_over: handout.take_over,
        why: &share.why,
        settings: &share.settings,
        since: share.version.unwrap_or(0),
        now_unix_ms: now().as_millis() as u64,
        file_bytes: share.file_bytes,
    };
    let committed = commit(store, &by, &order, &fresh)?;
    let mut share = share.clone();
    publish(store, &share.stage, &committed, &mut share.note)?;
    let failure = |partition: &usize| TaskFailure {
        stage: share.stage.clone(),
        key: new[partition - share.first].clone(),
        subject: format!("partition {partition}"),
        message: format!("stage {}: partition {partition} is not done", share.stage),
        hint: None,
        transient: true,
        is_video: false,
        is_bug: false,
    };
    let summary =
        StageSummary { failed: lacks.len(), ..share.summary(&made, &committed, newest.as_ref())? };
    Ok((summary, lacks.iter().map(failure).collect()))
}

/// The tasks of a version that lacks some partitions: tasks of the version before stay in their place.
fn restored(
    stage: &Planning,
    lacks: &[usize],
    order: &[String],
    made: ByKey,
    newest: Option<&Manifest>,
) -> Result<(Vec<String>, ByKey), Error> {
    let Planning { handout, share, out, store } = *stage;
    let before = newest.map_or(Ok(vec![]), |newest| newest.receipts(store))?;
    let jobs = jobs(handout, out, lacks)?;
    let digests = jobs.iter().flat_map(|(_, job)| job.task.digests());
    let missing: HashSet<String> = digests.map(str::to_owned).collect();
    let planned: HashSet<&String> = order.iter().collect();
    let (kept, dropped): (Vec<_>, Vec<_>) =
        before.into_iter().partition(|receipt| planned.contains(&receipt.key));
    let mut known: HashMap<String, Arc<Receipt>> =
        kept.into_iter().map(|receipt| (receipt.key.clone(), receipt)).collect();
    known.extend(made);
    let adopted: Vec<String> =
        order.iter().filter(|key| !known.contains_key(*key)).cloned().collect();
    known.extend(
        find_receipts(store, &share.stage, &adopted)?
            .into_iter()
            .flatten()
            .map(|receipt| (receipt.key.clone(), Arc::new(receipt))),
    );
    let mut tasks = Tasks::default();
    order
        .iter()
        .filter_map(|key| known.get(key))
        .for_each(|receipt| tasks.push(Planned::Done(receipt.clone())));
    tasks.restore(&dropped, missing);
    let fresh = tasks.receipts().map(|receipt| (receipt.key.clone(), receipt.clone())).collect();
    Ok((tasks.keys(), fresh))
}

impl Share {
    fn summary(
        &self,
        made: &HashMap<String, Arc<Receipt>>,
        committed: &Committed,
        before: Option<&Manifest>,
    ) -> Result<StageSummary, Error> {
        let mut plan = StagePlan::empty(&self.stage, self.kind()?);
        plan.before = before.cloned();
        plan.videos_gone = self.videos_gone;
        plan.note.clone_from(&self.note);
        made.values().for_each(|receipt| plan.tasks.push(Planned::Done(receipt.clone())));
        let summary = StageSummary::of(&plan, made).with(committed, &plan);
        Ok(StageSummary { reused: self.reused, ..summary })
    }
}
