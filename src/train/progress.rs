//! The progress of a task, for bars and logs.

/// An observer of a task: a bar on a terminal, lines in a log, or nothing.
pub trait Progress: Sync {
    /// Adds finished units: videos, steps or transitions, depending on the stage.
    fn advance(&self, units: u64);
    /// Adds units of an earlier attempt. They do not count towards the rate.
    fn resume(&self, units: u64) {
        self.advance(units);
    }
    /// Shows a few words next to the count, until the next ones replace them.
    fn note(&self, text: &str);
    /// Prints a permanent line.
    fn say(&self, text: &str);
}

/// An observer without any output.
pub struct NoProgress;

impl Progress for NoProgress {
    fn advance(&self, _: u64) {}
    fn note(&self, _: &str) {}
    fn say(&self, _: &str) {}
}
