//! The outputs of a decode task.

use super::quality::Quality;
use crate::dataset::ShardWriter;

/// The shard of a task and the measurements of its frames.
pub(super) struct DecodeOutput {
    pub(super) shard: ShardWriter,
    pub(super) quality: Quality,
}
