//! Labels that need not wait. In: shards as they are filed; out: the jobs that label them, where the model is there already.
//!
//! A shard in the workspace is all the buffer there is between decoding and labelling: nothing waits in memory but jobs. What is done ahead
//! is what the stage of labels would do in its turn, under the same keys, so that a run that dies in between loses nothing.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use super::{Planner, StagePlan};
use crate::dataset::{self, FileInfo, HashMap, Receipt};
use crate::executor::Job;
use crate::pipeline::spec::StageSpec;
use crate::stages::plan::Model;

/// What a run has labelled before its stage's turn.
#[derive(Debug, Default)]
pub struct Ahead {
    /// By stage: the receipts by key, and how long it took.
    stages: BTreeMap<String, (HashMap<String, Arc<Receipt>>, Duration)>,
}

impl Ahead {
    /// What was labelled while a stage of frames ran, as (stage, receipt), in so long.
    pub fn new(done: Vec<(String, Arc<Receipt>)>, took: Duration) -> Self {
        let mut stages = BTreeMap::new();
        for (stage, receipt) in done {
            let (receipts, _): &mut (HashMap<_, _>, _) =
                stages.entry(stage).or_insert_with(|| (HashMap::default(), took));
            receipts.insert(receipt.key.clone(), receipt);
        }
        Ahead { stages }
    }

    /// Keeps this too: a stage labels the frames of one stage alone.
    pub fn keep(&mut self, other: Ahead) {
        self.stages.extend(other.stages);
    }

    /// Whether this task was done so.
    pub fn has(&self, stage: &str, key: &str) -> bool {
        self.stages.get(stage).is_some_and(|(receipts, _)| receipts.contains_key(key))
    }

    /// Takes out what was done so of a stage, by key, and how long it took.
    pub fn take(&mut self, stage: &str) -> (HashMap<String, Arc<Receipt>>, Duration) {
        self.stages.remove(stage).unwrap_or_default()
    }
}

/// A stage that follows another one shard by shard, and whose model is there.
#[derive(Debug)]
pub struct Unwaiting {
    stage: String,
    spec: StageSpec,
    /// The key of the model, and its weights.
    model: (String, FileInfo),
}

impl Unwaiting {
    /// The job of a shard.
    pub fn job(&self, shard: &Receipt) -> Option<Job> {
        let mut plan = StagePlan::empty(&self.stage, self.spec.kind());
        let (key, weights) = &self.model;
        self.spec.plan_shard(shard, Model { key, weights }, &mut plan);
        plan.tasks.begin().pop()
    }
}

impl Planner<'_> {
    /// The stages that can follow a planned stage of frames shard by shard.
    pub fn unwaiting(&mut self, frames: &str) -> Result<Vec<Unwaiting>, dataset::Error> {
        let (mut all, checked) = (Vec::new(), self.checked);
        for (stage, spec) in &checked.spec.stages {
            let Some(streams) = spec.streams().filter(|streams| streams.shards == frames) else {
                continue;
            };
            if !self.options.runs(stage) || !self.foresee(streams.model)? {
                continue;
            }
            let Some(Model { key, weights }) = self.plans[streams.model].model() else { continue };
            all.push(Unwaiting {
                stage: stage.clone(),
                spec: spec.clone(),
                model: (key.to_owned(), weights.clone()),
            });
        }
        Ok(all)
    }

    /// Plans a stage and what it takes before their turn, when they are planned again; false where all videos of another source would have
    /// to be looked at.
    fn foresee(&mut self, name: &str) -> Result<bool, dataset::Error> {
        let checked = self.checked;
        let Some(at) = checked.spec.stages.iter().position(|(other, _)| other == name) else {
            return Ok(false);
        };
        let spec = &checked.spec.stages[at].1;
        if self.plans.contains_key(name) || spec.video_patterns().is_some() {
            return Ok(self.plans.contains_key(name));
        }
        for input in spec.inputs() {
            if !self.foresee(input.stage)? {
                return Ok(false);
            }
        }
        let plan = self.plan(at)?;
        self.plans.insert(name.to_owned(), plan);
        Ok(true)
    }
}
