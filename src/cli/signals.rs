//! SIGTERM and Ctrl-C. The first one asks the run to stop; the second one ends the process at once.

use std::sync::Arc;
use std::sync::atomic::AtomicBool;

use signal_hook::consts::{SIGINT, SIGTERM};
use signal_hook::flag;

use super::Error;
use super::exit::Exit;
use crate::stages::{Signal, Stop};

/// Makes a flag that both signals set.
pub fn stop_on_signals() -> Result<Stop, Error> {
    let (stop, is_second) = (Stop::default(), Arc::new(AtomicBool::new(false)));
    let signals = [(SIGINT, Signal::Interrupt), (SIGTERM, Signal::Terminate)];
    for (number, signal) in signals {
        // In this order: only a second signal finds `is_second` set.
        let registered = flag::register_conditional_shutdown(
            number,
            Exit::Stopped(signal).code().into(),
            Arc::clone(&is_second),
        )
        .and_then(|_| flag::register(number, Arc::clone(&is_second)))
        .and_then(|_| flag::register_usize(number, stop.number(), signal as usize));
        registered
            .map_err(|source| Error::Input { from: format!("the signal {signal}"), source })?;
    }
    Ok(stop)
}

/// Ignores both signals. For a process whose parent ends it: a signal to the whole group must not kill it before that.
#[cfg(feature = "video")]
pub fn leave_signals_to_the_parent() -> Result<(), Error> {
    for number in [SIGINT, SIGTERM] {
        let registered = flag::register(number, Arc::default());
        registered.map_err(|source| Error::Input { from: "a signal".into(), source })?;
    }
    Ok(())
}
