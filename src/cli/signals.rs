//! SIGTERM, SIGINT (Ctrl-C) and SIGUSR1: the first asks the run to stop, the second ends the
//! process.

use std::sync::Arc;
use std::sync::atomic::AtomicBool;

use signal_hook::consts::{SIGINT, SIGTERM, SIGUSR1};
use signal_hook::flag;

use super::exit::Exit;
use crate::error::CommandError as Error;
use crate::stages::{Signal, Stop};

/// Installs handlers for the signals; returns the flag that they set. The second of the signals in
/// `impatient` ends the process at once.
pub fn stop_on_signals(impatient: &[Signal]) -> Result<Stop, Error> {
    let stop = Stop::default();
    let is_second = Arc::new(AtomicBool::new(false));
    let signals =
        [(SIGINT, Signal::Interrupt), (SIGTERM, Signal::Terminate), (SIGUSR1, Signal::User1)];
    for (number, signal) in signals {
        // Handlers run in this order: only the second signal finds `is_second` set.
        let exit_code = Exit::Stopped(signal).code().into();
        let ends =
            if impatient.contains(&signal) { Arc::clone(&is_second) } else { Arc::default() };
        flag::register_conditional_shutdown(number, exit_code, ends)
            .and_then(|_| flag::register(number, Arc::clone(&is_second)))
            .and_then(|_| flag::register_usize(number, stop.number(), signal as usize))
            .map_err(|source| Error::Input { from: format!("the signal {signal}"), source })?;
    }
    Ok(stop)
}

/// Ignores these signals, for a process that its parent ends: a signal to the whole process group
/// must not kill it first.
#[cfg(feature = "video")]
pub fn leave_signals_to_the_parent() -> Result<(), Error> {
    for number in [SIGINT, SIGTERM, SIGUSR1] {
        let registered = flag::register(number, Arc::default());
        registered.map_err(|source| Error::Input { from: "a signal".into(), source })?;
    }
    Ok(())
}
