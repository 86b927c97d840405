//! Enforces `max_rejected` and `max_dropped`: a run stops if its video source seems to be broken.
//!
//! [`RejectLimit`] counts the rejects of receipts as they are filed.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, PoisonError};

use super::Error;
use super::plan::StagePlan;
use super::task_failure::TaskFailure;
use crate::dataset::{Receipt, is_uncounted};
use crate::stages::{self, kind_of};

/// Counts rejected videos by class and compares them with the allowed share.
pub(super) struct RejectLimit {
    most: Option<f64>,
    videos: usize,
    classes: Mutex<BTreeMap<String, u64>>,
}

impl RejectLimit {
    /// Creates a limit of `most` (0 to 1) of `videos`, and counts the rejects of earlier receipts.
    pub(super) fn new<'a>(
        most: Option<f64>,
        videos: usize,
        receipts: impl IntoIterator<Item = &'a Arc<Receipt>>,
    ) -> Self {
        let limit = RejectLimit { most, videos, classes: Mutex::default() };
        for receipt in receipts {
            limit.allows(receipt);
        }
        limit
    }

    /// Counts the rejects of a receipt. Returns false once there are too many.
    pub(super) fn allows(&self, receipt: &Receipt) -> bool {
        let mut classes = self.classes.lock().unwrap_or_else(PoisonError::into_inner);
        // A kind can declare classes that are no damage, such as the near-duplicates it looks for.
        let harmless = kind_of(&receipt.stage).map_or(&[][..], |kind| kind.harmless);
        let is_fault = |class: &str| !harmless.contains(&class) && !is_uncounted(class);
        let faulty = receipt.rejects.iter().filter(|reject| is_fault(&reject.class));
        for reject in faulty {
            *classes.entry(reject.class.clone()).or_default() += 1;
        }
        self.most
            .is_none_or(|most| classes.values().sum::<u64>() as f64 <= most * self.videos as f64)
    }

    /// Returns an error with the counts by class if too many videos were rejected.
    pub(super) fn check(&self, stage: &str) -> Result<(), Error> {
        let classes = self.classes.lock().unwrap_or_else(PoisonError::into_inner);
        let rejected = classes.values().sum::<u64>();
        match self.most.filter(|most| rejected as f64 > most * self.videos as f64) {
            None => Ok(()),
            Some(most) => Err(Error::TooManyRejects {
                stage: stage.into(),
                rejected,
                videos: self.videos,
                most,
                classes: classes
                    .iter()
                    .map(|(class, count)| format!("{count} {class}"))
                    .collect::<Vec<_>>()
                    .join(", "),
            }),
        }
    }
}

/// Returns an error if the new version would be empty although the stage has videos. They may be
/// unreadable for now, for example because they are still being written.
pub(super) fn check_readable(plan: &StagePlan, failed: &[TaskFailure]) -> Result<(), Error> {
    let left = plan.left_out.iter().map(|left| (left.video.clone(), left.reason.clone()));
    let unread: Vec<(String, String)> =
        left.chain(failed.iter().filter_map(TaskFailure::unavailable)).collect();
    match unread.first().filter(|_| plan.new_tasks() == 0 && plan.tasks.keys().is_empty()) {
        None => Ok(()),
        Some((video, reason)) => Err(Error::NoneReadable {
            stage: plan.stage.clone(),
            videos: unread.len(),
            first: Box::new(stages::Error::Unavailable {
                video: video.clone(),
                reason: reason.clone(),
            }),
        }),
    }
}

/// Returns an error if a plan drops a larger share of the dataset's videos than `most`.
pub(super) fn check_dropped(plan: &StagePlan, most: Option<f64>) -> Result<(), Error> {
    // A first version cannot lose videos.
    let Some(before) = &plan.before else { return Ok(()) };
    let gone = plan.videos_gone as u64;
    let videos = before.totals.videos;
    // Without a limit, all videos may disappear.
    let most = most.unwrap_or(1.0);
    if gone > 0 && gone as f64 > most * videos as f64 {
        return Err(Error::TooManyDropped { stage: plan.stage.clone(), gone, videos, most });
    }
    Ok(())
}
