//! How a run reports its stages: to a terminal, a log, or not at all.

use super::partitions::StageStatus;
use super::plan::StagePlan;
use super::summary::StageSummary;
use crate::stages::{NoProgress, Progress};

/// Receives the progress of a run.
pub trait Reporter {
    /// Called once, before any stage.
    fn run_started(&self, _run: &str) {}
    /// Called when a stage starts. Its tasks advance the returned progress by `units` in total.
    fn stage_started(&self, plan: &StagePlan, units: u64) -> Box<dyn Progress>;
    /// Called when a stage has ended.
    fn stage_ended(&self, stage: &StageSummary);
    /// Called with the progress of all workers, again and again.
    fn fleet(&self, _status: &FleetStatus) {}
    /// Called with what a stage said on another machine, such as how well a model learned.
    fn say(&self, _text: &str) {}
    /// Called with a remark for the user.
    fn note(&self, _text: &str) {}
}

/// The progress of workers that an engine has started.
#[derive(Clone, Copy, Debug)]
pub struct FleetStatus<'a> {
    /// The stages of the current plan.
    pub stages: &'a [StageStatus],
    /// Number of queued and running workers.
    pub workers: usize,
    /// Number of partitions that are given up.
    pub given_up: usize,
}

/// Reports nothing.
#[derive(Clone, Copy, Debug, Default)]
pub struct SilentReporter;

impl Reporter for SilentReporter {
    fn stage_started(&self, _: &StagePlan, _: u64) -> Box<dyn Progress> {
        Box::new(NoProgress)
    }

    fn stage_ended(&self, _: &StageSummary) {}
}
