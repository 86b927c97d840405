//! The progress of a plan's partitions, from the receipts in the workspace and the attempts in the
//! plan's folder. Start at [`status`].

use serde::Serialize;

use super::attempts::{Ended, RecordedAttempt, attempts};
use super::{PartitionedPlan, StageShare, keys_to_work};
use crate::dataset::{self, HashSet, Store};
use crate::pipeline::Error;
use crate::pipeline::session::now;

/// The progress of a stage's partitions.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct StageStatus {
    /// The stage's name.
    pub stage: String,
    /// Its kind.
    pub kind: String,
    /// Number of finished partitions.
    pub done: usize,
    /// The numbers of the unfinished partitions.
    pub missing: Vec<usize>,
    /// Number of workers at unfinished partitions. A worker that was killed on another machine
    /// counts until its partitions are done.
    pub running: usize,
    /// The unfinished partitions whose last attempt failed.
    pub failed: Vec<usize>,
    /// Finished partitions per second since the plan was made. `None` as long as none is done.
    pub per_second: Option<f64>,
    /// Estimated seconds until all are done. `None` as long as the rate is unknown.
    pub seconds_left: Option<f64>,
}

/// Returns the progress of every stage with partitions.
pub fn status(
    partitioned: &PartitionedPlan,
    out: &Store,
    store: &Store,
) -> Result<Vec<StageStatus>, Error> {
    let mut running = Vec::new();
    for attempt in attempts(out)? {
        // A worker that was killed on this machine is not running.
        if attempt.ended.is_some() || attempt.is_running(out)? {
            running.push(attempt);
        }
    }
    status_of(partitioned, &keys_to_work(partitioned, out)?, store, &running)
}

/// Returns the progress of every stage with partitions, with what was read before: the key of every
/// partition, and the attempts. Attempts that have not ended count as running.
pub fn status_of(
    partitioned: &PartitionedPlan,
    keys: &[String],
    store: &Store,
    attempts: &[RecordedAttempt],
) -> Result<Vec<StageStatus>, Error> {
    let shares = partitioned.stages.iter().filter(|share| share.count > 0);
    shares.map(|share| stage_status(partitioned, share, keys, attempts, store)).collect()
}

fn stage_status(
    partitioned: &PartitionedPlan,
    share: &StageShare,
    keys: &[String],
    attempts: &[RecordedAttempt],
    store: &Store,
) -> Result<StageStatus, Error> {
    let missing = missing(share, keys, store)?;
    let (mut running, mut failed) = (0, Vec::new());
    let concerns = |attempt: &&RecordedAttempt| {
        let at = missing.partition_point(|partition| *partition < attempt.partitions.start);
        missing.get(at).is_some_and(|partition| attempt.partitions.contains(partition))
    };
    // A later attempt replaces what an earlier one says of a partition.
    let mut is_settled = HashSet::default();
    for attempt in attempts.iter().rev().filter(concerns) {
        running += usize::from(attempt.ended.is_none());
        for partition in attempt.partitions.clone() {
            if is_settled.insert(partition)
                && attempt.ended == Some(Ended::Failed)
                && missing.binary_search(&partition).is_ok()
            {
                failed.push(partition);
            }
        }
    }
    failed.sort_unstable();
    let done = share.count - missing.len();
    let seconds = now().as_secs_f64() - partitioned.planned_unix_secs as f64;
    let per_second = (done > 0 && seconds > 0.0).then(|| done as f64 / seconds);
    Ok(StageStatus {
        stage: share.stage.clone(),
        kind: share.kind.clone(),
        done,
        seconds_left: per_second.map(|rate| missing.len() as f64 / rate),
        missing,
        running,
        failed,
        per_second,
    })
}

/// Returns the numbers of a stage's unfinished partitions.
fn missing(share: &StageShare, keys: &[String], store: &Store) -> Result<Vec<usize>, Error> {
    let filed: HashSet<String> =
        store.list(&format!("{}/receipts", share.stage))?.into_iter().collect();
    let is_missing = |partition: &usize| {
        !filed.contains(&dataset::receipt_path(&share.stage, &keys[*partition]))
    };
    Ok((share.first..share.first + share.count).filter(is_missing).collect())
}
