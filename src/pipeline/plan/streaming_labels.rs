//! Labels shards while other shards are still being decoded, if the model is already trained.
//!
//! The shards in the workspace are the only buffer between decoding and labelling; only jobs wait
//! in memory. Streamed labels have the same keys as the labels of the stage's own turn, so an
//! interrupted run loses nothing.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use super::{Planner, StagePlan};
use crate::dataset::{self, FileInfo, HashMap, Receipt};
use crate::executor::Job;
use crate::pipeline::spec::StageSpec;
use crate::stages::plan::Model;

/// Labels of this run, written ahead of their stage.
#[derive(Debug, Default)]
pub struct StreamedLabels {
    /// By stage: the receipts by key, and the time they took.
    stages: BTreeMap<String, (HashMap<String, Arc<Receipt>>, Duration)>,
}

impl StreamedLabels {
    /// Groups (stage, receipt) pairs by stage. `took` is their total time.
    pub fn new(done: Vec<(String, Arc<Receipt>)>, took: Duration) -> Self {
        let mut stages: BTreeMap<_, (HashMap<_, _>, _)> = BTreeMap::new();
        for (stage, receipt) in done {
            let (receipts, _) = stages.entry(stage).or_insert_with(|| (HashMap::default(), took));
            receipts.insert(receipt.key.clone(), receipt);
        }
        StreamedLabels { stages }
    }

    /// Adds the labels of other stages. A label stage reads one stage of frames, so no entry is
    /// replaced.
    pub fn keep(&mut self, other: StreamedLabels) {
        self.stages.extend(other.stages);
    }

    /// Returns whether this task was streamed.
    pub fn has(&self, stage: &str, key: &str) -> bool {
        self.stages.get(stage).is_some_and(|(receipts, _)| receipts.contains_key(key))
    }

    /// Removes and returns the receipts of a stage by key, and the time they took.
    pub fn take(&mut self, stage: &str) -> (HashMap<String, Arc<Receipt>>, Duration) {
        self.stages.remove(stage).unwrap_or_default()
    }
}

/// A label stage with a trained model. It can follow a stage of frames shard by shard.
#[derive(Debug)]
pub struct ReadyLabelStage {
    stage: String,
    spec: StageSpec,
    /// The key of the model and its weights.
    model: (String, FileInfo),
}

impl ReadyLabelStage {
    /// Returns the label job of a shard.
    pub fn job(&self, shard: &Receipt) -> Option<Job> {
        let mut plan = StagePlan::empty(&self.stage, self.spec.kind());
        let (key, weights) = &self.model;
        self.spec.plan_shard(shard, Model { key, weights }, &mut plan);
        plan.tasks.begin().pop()
    }
}

impl Planner<'_> {
    /// Returns the label stages that can follow the stage `frames`. It must be planned already.
    pub fn ready_label_stages(
        &mut self,
        frames: &str,
    ) -> Result<Vec<ReadyLabelStage>, dataset::Error> {
        let checked = self.checked;
        let mut ready = Vec::new();
        for (stage, spec) in &checked.spec.stages {
            let Some(streams) = spec.streams().filter(|streams| streams.shards == frames) else {
                continue;
            };
            if !self.options.runs(stage) || !self.plan_early(streams.model)? {
                continue;
            }
            // A model that would be trained again cannot label yet.
            let Some(Model { key, weights }) = self.plans[streams.model].model() else { continue };
            ready.push(ReadyLabelStage {
                stage: stage.clone(),
                spec: spec.clone(),
                model: (key.to_owned(), weights.clone()),
            });
        }
        Ok(ready)
    }

    /// Plans a stage and its inputs ahead of their turn. They are planned again later.
    ///
    /// Returns false if planning would list the videos of another decode stage.
    fn plan_early(&mut self, name: &str) -> Result<bool, dataset::Error> {
        let checked = self.checked;
        let Some(at) = checked.spec.stages.iter().position(|(other, _)| other == name) else {
            return Ok(false);
        };
        let spec = &checked.spec.stages[at].1;
        if self.plans.contains_key(name) || spec.video_patterns().is_some() {
            return Ok(self.plans.contains_key(name));
        }
        for input in spec.inputs() {
            if !self.plan_early(input.stage)? {
                return Ok(false);
            }
        }
        // Listing videos is the expensive part of planning, and `decode` stages are excluded above.
        let plan = self.plan(at)?;
        self.plans.insert(name.to_owned(), plan);
        Ok(true)
    }
}
