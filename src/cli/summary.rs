//! How a run ended: a summary line on stdout, failed tasks on stderr, and the exit code.

use super::exit::Exit;
use super::human_readable::count;
use super::progress::rate;
use super::{failures, stderr, stdout};
use crate::error::Result;
use crate::pipeline::summary::{StageSummary, Summary};
use crate::stages::{ArtifactKind, KINDS, kind_of};

/// Prints the summary line and the failed tasks; returns how the command ends.
pub fn print(summary: &Summary) -> Result<Exit> {
    stdout::print(&line(summary))?;
    let messages: Vec<String> = summary
        .failures
        .iter()
        .map(|failure| format!("stage {}: {}", failure.stage, failure.message))
        .collect();
    for line in failures::lines(&messages, &summary.run) {
        stderr::line(line);
    }
    Ok(if messages.is_empty() { Exit::Done } else { Exit::Partial })
}

/// Returns how much a dataset has shrunk: `1 video gone, 12 frames fewer`; `None` if it has not.
pub fn shrinkage(videos_gone: usize, rows_fewer: u64, kind: &str) -> Option<String> {
    let row = kind_of(kind).map_or("row", |kind| kind.row);
    let mut parts = Vec::new();
    if videos_gone > 0 {
        parts.push(format!("{} gone", count(videos_gone as u64, "video")));
    }
    if rows_fewer > 0 {
        parts.push(format!("{} fewer", count(rows_fewer, row)));
    }
    (!parts.is_empty()).then(|| parts.join(", "))
}

/// Returns one line about the whole run: tasks, totals, rates and times.
fn line(summary: &Summary) -> String {
    let stages = &summary.stages;
    let tasks: usize = stages.iter().map(|stage| stage.new).sum();
    let rejects: u64 = stages.iter().map(|stage| stage.total.rejects).sum();
    let shrunk: String = stages.iter().filter_map(shrunk).collect();
    let rates = rates(summary);
    let rates = if rates.is_empty() { String::new() } else { format!("{}; ", rates.join(", ")) };
    let times: Vec<String> =
        stages.iter().map(|stage| format!("{} {:.1} s", stage.stage, stage.seconds)).collect();
    format!(
        "{tasks} tasks: {} videos ({} new), {} frames, {} transitions ({} new), \
         {rejects} rejects; {shrunk}{rates}{:.1} s: {}\n",
        total(summary, ArtifactKind::Frames, "videos"),
        added(summary, ArtifactKind::Frames, "videos"),
        total(summary, ArtifactKind::Frames, "frames"),
        total(summary, ArtifactKind::Labels, "transitions"),
        added(summary, ArtifactKind::Labels, "transitions"),
        summary.seconds,
        times.join(", "),
    )
}

/// Returns the speed of every kind of stage that did work, such as `310 frames/s decoded`.
fn rates(summary: &Summary) -> Vec<String> {
    let rate_of = |kind: &&str| {
        let speed = kind_of(kind)?.speed?;
        // Several stages may be of one kind: their work and times add up.
        let of_kind = || summary.stages.iter().filter(|stage| stage.kind == **kind);
        let done = sum(of_kind().map(|stage| done(stage, speed.of)));
        let seconds = sum(of_kind().map(|stage| stage.seconds));
        Some(format!("{:.0} {}", rate(done, seconds)?, speed.unit))
    };
    KINDS.iter().filter_map(rate_of).collect()
}

/// Returns a stage's shrinkage as part of the summary line.
fn shrunk(stage: &StageSummary) -> Option<String> {
    let shrinkage = shrinkage(stage.videos_gone, stage.rows_fewer, &stage.kind)?;
    Some(format!("{}: {shrinkage}; ", stage.stage))
}

/// Returns a count of all datasets of one sort, new and old.
fn total(summary: &Summary, artifact: ArtifactKind, name: &str) -> f64 {
    let count = |stage: &StageSummary| stage.total.counts.get(name).map_or(0.0, |n| *n as f64);
    sum(makers(summary, artifact).map(count))
}

/// Returns what this run added to a count of all datasets of one sort.
fn added(summary: &Summary, artifact: ArtifactKind, name: &str) -> f64 {
    sum(makers(summary, artifact).map(|stage| done(stage, name)))
}

/// Returns the stages that make this sort of artifact.
fn makers(summary: &Summary, artifact: ArtifactKind) -> impl Iterator<Item = &StageSummary> {
    let makes =
        move |stage: &&StageSummary| kind_of(&stage.kind).is_some_and(|kind| kind.makes(artifact));
    summary.stages.iter().filter(makes)
}

fn done(stage: &StageSummary, name: &str) -> f64 {
    stage.done.get(name).copied().unwrap_or(0.0)
}

/// Unlike `Iterator::sum`, whose empty sum is -0 and is printed as `-0`.
fn sum(values: impl Iterator<Item = f64>) -> f64 {
    values.fold(0.0, |sum, value| sum + value)
}
