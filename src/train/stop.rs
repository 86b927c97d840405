//! The request to stop this process: a flag that the command line sets on a signal and every loop
//! reads.
//!
//! A training then writes a checkpoint and ends with the [`Signal`] as its reason. Any other task
//! abandons its work, and the next run repeats it.

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

/// A signal to end the process.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Signal {
    /// SIGINT: Ctrl-C.
    Interrupt = 2,
    /// SIGUSR1: the end of a job's time on a cluster is near.
    User1 = 10,
    /// SIGTERM: `kill`, or the end of a job's time on a cluster.
    Terminate = 15,
}

impl std::fmt::Display for Signal {
    fn fmt(&self, f: &mut std::fmt::Formatter) -> std::fmt::Result {
        f.write_str(match self {
            Signal::Interrupt => "SIGINT",
            Signal::User1 => "SIGUSR1",
            Signal::Terminate => "SIGTERM",
        })
    }
}

/// The flag. Clones share it.
#[derive(Clone, Debug, Default)]
pub struct Stop(Arc<AtomicUsize>);

impl Stop {
    /// Sets the flag for all clones. The last signal is the reason.
    pub fn set(&self, signal: Signal) {
        self.0.store(signal as usize, Ordering::Relaxed);
    }

    /// Returns whether a signal arrived.
    pub fn is_set(&self) -> bool {
        self.signal().is_some()
    }

    /// Returns the last signal, if one arrived.
    pub fn signal(&self) -> Option<Signal> {
        match self.0.load(Ordering::Relaxed) {
            0 => None,
            2 => Some(Signal::Interrupt),
            10 => Some(Signal::User1),
            _ => Some(Signal::Terminate),
        }
    }

    /// Returns the shared number behind the flag, for a signal handler to set: 0, or the number of
    /// a [`Signal`].
    pub fn number(&self) -> Arc<AtomicUsize> {
        Arc::clone(&self.0)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_clone_sees_the_signal() {
        let stop = Stop::default();
        let seen = stop.clone();
        assert!(!seen.is_set());
        for signal in [Signal::Interrupt, Signal::User1, Signal::Terminate] {
            stop.set(signal);
            assert_eq!(seen.signal(), Some(signal));
        }
        assert_eq!(Signal::Terminate.to_string(), "SIGTERM");
    }
}
