//! Whether somebody asked this process to stop. In: a signal, noted by the command line; out: a flag that every loop looks at.
//!
//! A training that sees it writes a checkpoint and ends with [`Signal`] as its reason; everything else abandons what it has begun, since
//! its next run does that again.

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

/// A signal that asks a process to end.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Signal {
    /// SIGINT: Ctrl-C.
    Interrupt = 2,
    /// SIGTERM: `kill`, or the end of a job's time on a cluster.
    Terminate = 15,
}

impl std::fmt::Display for Signal {
    fn fmt(&self, f: &mut std::fmt::Formatter) -> std::fmt::Result {
        f.write_str(match self {
            Signal::Interrupt => "SIGINT",
            Signal::Terminate => "SIGTERM",
        })
    }
}

/// The flag. Clones share it.
#[derive(Clone, Debug, Default)]
pub struct Stop(Arc<AtomicUsize>);

impl Stop {
    /// Asks everybody who holds a clone to stop. The signal that came last is the reason.
    pub fn set(&self, signal: Signal) {
        self.0.store(signal as usize, Ordering::Relaxed);
    }

    /// Returns whether somebody asked to stop.
    pub fn is_set(&self) -> bool {
        self.signal().is_some()
    }

    /// Returns the reason to stop.
    pub fn signal(&self) -> Option<Signal> {
        match self.0.load(Ordering::Relaxed) {
            0 => None,
            2 => Some(Signal::Interrupt),
            _ => Some(Signal::Terminate),
        }
    }

    /// Returns the number behind the flag, for a signal handler: 0, or a [`Signal`]'s number.
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
        for signal in [Signal::Interrupt, Signal::Terminate] {
            stop.set(signal);
            assert_eq!(seen.signal(), Some(signal));
        }
        assert_eq!(Signal::Terminate.to_string(), "SIGTERM");
    }
}
