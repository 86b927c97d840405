//! Failures of a run that leave the rest of it intact.

use serde::{Deserialize, Serialize};

use crate::stages;
use crate::stages::plan::DeferredVideo;

/// A failed task or an unreadable video.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct TaskFailure {
    /// The stage.
    pub stage: String,
    /// The task's key, or empty if no task was started.
    pub key: String,
    /// The video's address, or else the task's key.
    pub subject: String,
    /// The error message.
    pub message: String,
    /// Advice for the user, if there is any.
    pub hint: Option<String>,
    /// Whether the next run may succeed with nothing changed by hand.
    pub transient: bool,
    /// Whether this is a video left for the next run.
    pub is_video: bool,
    /// Whether the error is a bug in lapo.
    pub is_bug: bool,
}

impl TaskFailure {
    /// Creates the failure of a task.
    pub fn new(stage: &str, key: &str, error: &stages::Error) -> Self {
        let (subject, is_video) = match error {
            stages::Error::Unavailable { video, .. } => (video.clone(), true),
            _ => (key.to_owned(), false),
        };
        TaskFailure {
            stage: stage.to_owned(),
            key: key.to_owned(),
            subject,
            message: error.to_string(),
            hint: error.hint(),
            transient: error.is_transient(),
            is_video,
            is_bug: error.is_bug(),
        }
    }

    /// Creates the failure of a video left for the next run.
    pub(super) fn left_out(stage: &str, left: &DeferredVideo) -> Self {
        let DeferredVideo { video, reason } = left.clone();
        let message = format!("{video}: {reason}");
        TaskFailure {
            stage: stage.to_owned(),
            key: String::new(),
            subject: video,
            message,
            hint: None,
            transient: true,
            is_video: true,
            is_bug: false,
        }
    }

    /// Returns the unreadable video and the reason, or `None` for a failed task.
    pub(super) fn unavailable(&self) -> Option<(String, String)> {
        let reason = || {
            self.message
                .strip_prefix(&format!("{}: ", self.subject))
                .unwrap_or(&self.message)
                .to_owned()
        };
        self.is_video.then(|| (self.subject.clone(), reason()))
    }
}
