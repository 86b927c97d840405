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
use crate::stages::label::{LabelConfig, LabelTask};
use crate::stages::plan::key::Known;

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
            let (receipts, _): &mut (HashMap<_, _>, _) = stages.entry(stage).or_insert_with(|| (HashMap::default(), took));
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

/// A stage of labels whose model is there.
#[derive(Debug)]
pub struct Unwaiting {
    stage: String,
    config: LabelConfig,
    /// The receipt of the model, and its weights.
    dynamics: String,
    model: FileInfo,
}

impl Unwaiting {
    /// The job that labels a shard.
    pub fn job(&self, frames: &Receipt) -> Option<Job> {
        let mut plan = StagePlan::empty(&self.stage, "label");
        let (config, model, shard) = (self.config.clone(), self.model.clone(), frames.files.first()?.clone());
        let task = LabelTask { config, shard, model, actions: None, without: vec![] };
        plan.add_label(task, frames, &self.dynamics, &Known::new(&[]));
        plan.tasks.begin().pop()
    }
}

impl Planner<'_> {
    /// The stages of labels that can follow a planned stage of frames shard by shard. One that takes true actions or leaves out
    /// near-copies waits for these, which wait for all frames.
    pub fn unwaiting(&mut self, frames: &str) -> Result<Vec<Unwaiting>, dataset::Error> {
        let (mut all, checked) = (Vec::new(), self.checked);
        for (stage, spec) in &checked.spec.stages {
            let StageSpec::Label(config) = spec else { continue };
            if !self.options.runs(stage)
                || config.frames != frames
                || config.actions.is_some()
                || config.without.is_some()
                || !self.foresee(&config.dynamics)?
            {
                continue;
            }
            let plan = &self.plans[&config.dynamics];
            let Some((receipt, model)) = plan.model() else { continue };
            let (dynamics, model) = (receipt.key.clone(), model.clone());
            all.push(Unwaiting { stage: stage.clone(), config: config.clone(), dynamics, model });
        }
        Ok(all)
    }

    /// Plans a stage and what it takes before their turn, when they are planned again; false where all videos of another source would have
    /// to be looked at.
    fn foresee(&mut self, name: &str) -> Result<bool, dataset::Error> {
        let checked = self.checked;
        let Some(at) = checked.spec.stages.iter().position(|(other, _)| other == name) else { return Ok(false) };
        let spec = &checked.spec.stages[at].1;
        if self.plans.contains_key(name) || matches!(spec, StageSpec::Decode(_)) {
            return Ok(self.plans.contains_key(name));
        }
        for (_, input, _) in spec.inputs() {
            if !self.foresee(input)? {
                return Ok(false);
            }
        }
        let plan = self.plan(at)?;
        self.plans.insert(name.to_owned(), plan);
        Ok(true)
    }
}
