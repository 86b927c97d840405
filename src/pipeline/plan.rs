//! What would run, and why. In: a checked pipeline and a workspace; out: for every stage its tasks, each done or new.
//!
//! New videos, a retrained model, a changed setting and a killed run are one path: a task is its key, and a key without a receipt
//! is to be done. Nothing is written here. Which tasks a stage has it says itself, in [`Stage::plan`](crate::stages::Stage::plan).

use std::sync::Arc;
use std::time::Duration;

use super::check::Checked;
use crate::dataset::{self, Finished, HashMap, HashSet, Manifest, Receipt, Store, finished, head};
use crate::stages::plan::{Given, Now, ReceiptIndex};

mod ahead;

pub use crate::stages::plan::{LeftOut, Planned, StagePlan, Tasks, Waiting};
pub use ahead::{Ahead, Unwaiting};

/// What a person asks for beyond the pipeline's file.
#[derive(Clone, Debug, Default)]
pub struct PlanOptions {
    /// Train these stages again, once, whatever their `refresh` says.
    pub refresh: Vec<String>,
    /// Seconds between two checkpoints of a training.
    pub checkpoint_secs: u64,
    /// Videos that were rejected are decoded again, with all that share a shard with them: those of these classes, or, where the list is
    /// empty, of any.
    pub retry_rejected: Option<Vec<String>>,
    /// The pipeline writes into a workspace of another one.
    pub take_over: bool,
    /// The share of a dataset's videos that may be gone, instead of what the pipeline says.
    pub max_dropped: Option<f64>,
    /// Files that were changed less long ago are left for the next run, whatever the pipeline says.
    pub min_age: Duration,
    /// Run only these stages; the others are planned. `None`: run all.
    pub only: Option<Vec<String>>,
}

impl PlanOptions {
    /// Returns whether a stage is run, and not only planned.
    pub fn runs(&self, stage: &str) -> bool {
        self.only.as_ref().is_none_or(|only| only.iter().any(|name| name == stage))
    }
}

/// Plans stage by stage; each stage sees the plans of those before it.
pub struct Planner<'a> {
    /// The pipeline.
    pub checked: &'a Checked,
    /// Where results lie.
    pub store: &'a Store,
    /// What else is asked for.
    pub options: &'a PlanOptions,
    /// The stages planned (or run) so far.
    pub plans: HashMap<String, StagePlan>,
    /// The newest version of every stage's dataset when planning began.
    pub heads: HashMap<String, Manifest>,
    /// What this run has labelled before its stage's turn: new, although its receipts are there.
    pub ahead: Ahead,
    /// What this run says of videos, such as which ones it leaves for the next one.
    pub now: Now,
}

impl<'a> Planner<'a> {
    /// Nothing planned yet.
    pub fn new(
        checked: &'a Checked,
        store: &'a Store,
        options: &'a PlanOptions,
    ) -> Result<Self, dataset::Error> {
        let newest = checked
            .spec
            .stages
            .iter()
            .map(|(name, _)| Ok(head(store, name)?.map(|head| (name.clone(), head))));
        let heads = newest.filter_map(Result::transpose).collect::<Result<_, dataset::Error>>()?;
        let (plans, ahead) = Default::default();
        let now = Now { min_age: options.min_age, ..Now::default() };
        Ok(Planner { checked, store, options, plans, heads, ahead, now })
    }

    /// Plans every stage, in running order.
    pub fn plan_all(mut self) -> Result<Vec<StagePlan>, dataset::Error> {
        let mut names = Vec::new();
        for &at in &self.checked.order {
            let plan = self.plan(at)?;
            names.push(plan.stage.clone());
            self.plans.insert(plan.stage.clone(), plan);
        }
        Ok(names.iter().filter_map(|name| self.plans.remove(name)).collect())
    }

    /// Plans one stage. The stages it takes from have been planned before, since [`Checked::order`] says so.
    pub fn plan(&self, at: usize) -> Result<StagePlan, dataset::Error> {
        let (name, spec) = &self.checked.spec.stages[at];
        let before = self.heads.get(name);
        let Finished { mut receipts, damaged } = finished(self.store, name, before)?;
        receipts.retain(|receipt| !self.ahead.has(name, &receipt.key));
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
        let planned: HashSet<&str> = plan.tasks.iter().map(Planned::key).collect();
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
            plan.planned_digests = plan.digests().into_iter().map(str::to_owned).collect();
            plan.videos_gone = self.videos_gone(&plan);
        }
        Ok(plan)
    }

    /// Videos of the newest version that no longer match, by name and content.
    fn videos_gone(&self, plan: &StagePlan) -> usize {
        let Some(listed) = self.checked.videos.get(&plan.stage) else { return 0 };
        let there: HashSet<&str> = listed.iter().map(|video| video.uri.as_str()).collect();
        let is_there = |uri: &str| {
            there.contains(uri)
                || uri
                    .rsplit_once(".tar/")
                    .is_some_and(|(tar, _)| there.contains(&*format!("{tar}.tar")))
        };
        let videos = plan.dropped.iter().flat_map(|receipt| &receipt.videos);
        videos
            .filter(|video| !is_there(&video.uri) && !plan.planned_digests.contains(&video.digest))
            .count()
    }

    /// Returns what a stage may look at.
    fn given<'g>(
        &'g self,
        stage: &str,
        receipts: &'g [Arc<Receipt>],
        known: &'g ReceiptIndex<'g>,
    ) -> Given<'g> {
        let Checked { spec, videos, notes, .. } = self.checked;
        Given {
            pipeline: &spec.name,
            seed: spec.seed,
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
