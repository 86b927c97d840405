//! A run in a workspace: its number, its pins, its commits and its record. Start at
//! `Session::begin`.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use serde::{Deserialize, Serialize};

use super::Error;
use super::check::Checked;
use super::plan::{PlanOptions, PlannedTask, StagePlan};
use super::summary::Summary;
use crate::dataset::pins::{self, PinHolder, PinnedData};
use crate::dataset::workspace::{self, Claim};
use crate::dataset::{
    Commit, Committed, HashMap, HashSet, Manifest, Process, Receipt, Store, commit, delta, host,
    runs,
};
use crate::executor::Job;
use crate::executor::local::fresh_id;

/// Whose work the pins of a run protect, and so how long they live.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum PinsFor {
    /// This process: the pins expire when it ends.
    ThisProcess,
    /// The workers of a partitioned plan: the pins outlive this process.
    Workers,
}

/// A run in progress.
pub(super) struct Session<'a> {
    pub checked: &'a Checked,
    pub store: &'a Store,
    pub run: String,
    /// The process of the run. `None` for a plan, because other processes work on it.
    process: Option<Process>,
    take_over: bool,
    started_unix_secs: u64,
}

impl<'a> Session<'a> {
    /// Claims the workspace, takes a run number and pins the newest version of every stage.
    pub fn begin(
        checked: &'a Checked,
        store: &'a Store,
        options: &PlanOptions,
        pins_for: PinsFor,
    ) -> Result<Self, Error> {
        let started_unix_secs = now().as_secs();
        // Claim first: a workspace of another pipeline must not get a run number.
        claim(checked, store, options)?;
        let run = runs::begin(store, &checked.spec.name, &host(), started_unix_secs)?;
        let process = Process::this().filter(|_| pins_for == PinsFor::ThisProcess);
        let session = Session {
            checked,
            store,
            run,
            process,
            take_over: options.take_over,
            started_unix_secs,
        };
        session.pin_newest()?;
        Ok(session)
    }

    /// Returns the holder of this run's pins.
    fn holder(&self) -> PinHolder<'_> {
        PinHolder {
            run: &self.run,
            process: self.process.as_ref(),
            holds: pins::RUN,
            now_unix_secs: now().as_secs(),
        }
    }

    /// Pins the newest version of every stage.
    fn pin_newest(&self) -> Result<(), Error> {
        let mut stages = BTreeMap::new();
        for (name, _) in &self.checked.spec.stages {
            if let Some(newest) = Manifest::newest(self.store, name)? {
                stages.insert(
                    name.clone(),
                    PinnedData { versions: vec![newest.version], keys: vec![] },
                );
            }
        }
        if !stages.is_empty() {
            pins::pin(self.store, self.holder(), "start", stages)?;
        }
        Ok(())
    }

    /// Pins the tasks of a plan that the newest version does not protect: new tasks, and finished
    /// tasks of other versions.
    ///
    /// Returns false if garbage collection has deleted one of them or is about to. The stage must
    /// then be planned again.
    pub fn pin_tasks(&self, plan: &StagePlan) -> Result<bool, Error> {
        let kept: HashSet<&str> = plan.before_entries.iter().map(|(key, _)| key.as_str()).collect();
        let adopted: Vec<String> = plan
            .tasks
            .receipts()
            .map(|receipt| &receipt.key)
            .filter(|key| !kept.contains(key.as_str()))
            .cloned()
            .collect();
        let new = plan
            .tasks
            .iter()
            .filter(|task| !matches!(task, PlannedTask::Done(_)))
            .map(|task| task.key().to_owned());
        // Tasks that frames are copied from need not be part of any version.
        let copied: HashSet<String> = plan
            .tasks
            .jobs()
            .flat_map(|job| job.task.copied_from())
            .filter(|key| !kept.contains(*key))
            .map(str::to_owned)
            .collect();
        let adopted: Vec<String> = adopted.into_iter().chain(copied).collect();
        let keys: Vec<String> = adopted.iter().cloned().chain(new).collect();
        if keys.is_empty() {
            return Ok(true);
        }
        if !self.pin_keys(&plan.stage, keys)? {
            // Garbage collection is at work. Planning again at once would find the same state.
            std::thread::sleep(Duration::from_millis(50));
            return Ok(false);
        }
        // A finished task may have been collected before it was pinned.
        Ok(crate::dataset::are_filed(self.store, &plan.stage, &adopted)?)
    }

    /// Pins a task before its stage is planned. Returns false if garbage collection is about to
    /// delete its files.
    pub fn pin_job(&self, job: &Job) -> Result<bool, Error> {
        self.pin_keys(&job.stage, vec![job.key.clone()])
    }

    /// Pins tasks of a stage. Returns false if garbage collection has announced one of them.
    fn pin_keys(&self, stage: &str, keys: Vec<String>) -> Result<bool, Error> {
        let held = BTreeMap::from([(
            stage.to_owned(),
            PinnedData { versions: vec![], keys: keys.clone() },
        )]);
        pins::pin(self.store, self.holder(), &format!("{stage}-{}", fresh_id()), held)?;
        // The pin is written first: a collector that starts later sees it, an earlier one has
        // announced its keys.
        let Some(announced) = pins::announced(self.store)?.remove(stage) else { return Ok(true) };
        let announced: HashSet<String> = announced.keys.into_iter().collect();
        Ok(keys.iter().all(|key| !announced.contains(key)))
    }

    /// Commits a finished plan as the newest version, and pins it.
    pub fn commit(&self, plan: &mut StagePlan) -> Result<Committed, Error> {
        let why = plan.reasons();
        let settings = Commit {
            stage: &plan.stage,
            kind: plan.kind.name,
            run: &self.run,
            pipeline: &self.checked.spec.name,
            take_over: self.take_over,
            why: &why,
            settings: &plan.settings,
            since: plan.before.as_ref().map_or(0, |before| before.version),
            now_unix_ms: now().as_millis() as u64,
            file_bytes: self.checked.spec.file_bytes(&plan.stage),
        };
        let fresh: HashMap<String, Arc<Receipt>> =
            plan.tasks.receipts().map(|receipt| (receipt.key.clone(), receipt.clone())).collect();
        let committed = commit(self.store, &settings, &plan.tasks.keys(), &fresh)?;
        publish(self.store, &plan.stage, &committed, &mut plan.note)?;
        // Later stages of this run read the new version, so it must not be collected.
        if let Committed::New(manifest) = &committed {
            let held = BTreeMap::from([(
                plan.stage.clone(),
                PinnedData { versions: vec![manifest.version], keys: vec![] },
            )]);
            pins::pin(
                self.store,
                self.holder(),
                &format!("{}-v{}", plan.stage, manifest.version),
                held,
            )?;
        }
        plan.committed = match &committed {
            Committed::New(manifest) | Committed::Unchanged(manifest) => Some(manifest.version),
            Committed::Overtaken(_) => None,
        };
        Ok(committed)
    }

    /// Writes the run's record and releases its pins. A run without changes leaves no record.
    pub fn end(&self, summary: &mut Summary, failed: Option<&Error>) -> Result<(), Error> {
        pins::release(self.store, &self.run)?;
        // Nothing changed, so the run would only be noise in `lapo runs`.
        let is_idle = failed.is_none()
            && summary.failures.is_empty()
            && summary.stages.iter().all(|stage| !stage.changed && stage.new == 0);
        if is_idle {
            runs::abandon(self.store, &self.run)?;
            summary.run = String::new();
            return Ok(());
        }
        let outcome = match failed {
            Some(error) => error.to_string(),
            None if summary.failures.is_empty() => "done".to_owned(),
            None => format!("done in part: {} failed", summary.failures.len()),
        };
        let record =
            PipelineText::of(self.checked).record(summary, self.started_unix_secs, &outcome);
        Ok(runs::record(self.store, &self.run, &record)?)
    }
}

/// Writes the missing entries of a stage's Delta Lake log. An entry of another writer becomes a
/// note, not an error.
pub(super) fn publish(
    store: &Store,
    stage: &str,
    committed: &Committed,
    note: &mut Option<String>,
) -> Result<(), Error> {
    match delta::publish_stage(store, stage, committed.manifest()) {
        Err(error @ crate::dataset::Error::ForeignLog { .. }) => {
            let hint = error.hint().unwrap_or_default();
            *note = note
                .take()
                .into_iter()
                .chain([format!("{error}: {hint}")])
                .reduce(|note, error| format!("{note}; {error}"));
            Ok(())
        }
        published => Ok(published?),
    }
}

/// Claims the workspace for the pipeline, and creates it if needed.
pub(super) fn claim(checked: &Checked, store: &Store, options: &PlanOptions) -> Result<(), Error> {
    let names: Vec<&str> = checked.spec.stages.iter().map(|(name, _)| name.as_str()).collect();
    let claim = Claim {
        pipeline: &checked.spec.name,
        shares_with: &checked.spec.shares_with,
        stages: &names,
        take_over: options.take_over,
    };
    workspace::claim(store, &claim, &fresh_id(), now().as_secs())?;
    Ok(())
}

/// Returns the time since 1970.
pub(super) fn now() -> Duration {
    SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default()
}

/// A pipeline's text and variables, as they appear in a run's record.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct PipelineText {
    pub(super) pipeline: String,
    vars: BTreeMap<String, String>,
    yaml: String,
}

impl PipelineText {
    pub(super) fn of(checked: &Checked) -> Self {
        PipelineText {
            pipeline: checked.spec.name.clone(),
            vars: checked.spec.vars.clone(),
            yaml: checked.text.clone(),
        }
    }

    /// Returns the record of a run as JSON.
    pub(super) fn record(
        &self,
        summary: &Summary,
        started_unix_secs: u64,
        outcome: &str,
    ) -> serde_json::Value {
        serde_json::json!({
            "format": crate::dataset::FORMAT,
            "run": summary.run,
            "pipeline": self.pipeline,
            "started_unix_secs": started_unix_secs,
            "seconds": summary.seconds,
            "outcome": outcome,
            "lapo": env!("CARGO_PKG_VERSION"),
            "stages": summary.stages,
            "failures": summary.failures,
            "vars": self.vars,
            "yaml": self.yaml,
        })
    }
}
