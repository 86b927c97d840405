//! Progress: how a task reports how far it is.

/// An observer of a task: a bar on a terminal, lines in a log, or nothing.
pub trait Progress: Sync {
    /// Reports that `units` more are done: videos, steps or transitions, as the stage counts them.
    fn advance(&self, units: u64);
    /// Reports that an earlier attempt did `units`. They do not count towards the rate.
    fn resume(&self, units: u64) {
        self.advance(units);
    }
    /// Shows a few words beside the count, until the next ones replace them.
    fn note(&self, text: &str);
    /// Prints a sentence that stays.
    fn say(&self, text: &str);
}

/// An observer that shows nothing.
pub struct NoProgress;

impl Progress for NoProgress {
    fn advance(&self, _: u64) {}
    fn note(&self, _: &str) {}
    fn say(&self, _: &str) {}
}
