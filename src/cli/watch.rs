//! `lapo run --watch 60s`: videos arrive all day.
//!
//! In: a run. Out: the same run again and again, until a signal comes. Start at [`rounds`]. Each round reads the pipeline and lists its videos
//! anew, so that nothing is remembered from one to the next but what the workspace holds.

use std::time::{Duration, Instant};

use super::exit::Exit;
use super::stderr;
use crate::error::{Error as AnyError, Result};
use crate::pipeline::Error as Failed;
use crate::stages::Stop;

/// How often a sleeper looks whether a signal came.
const LOOK: Duration = Duration::from_millis(100);

/// Does rounds, so long apart.
///
/// # Errors
/// Where the command line or, in the first round, the pipeline makes no sense, and where the fault is in this program. What may be
/// otherwise in the next round is told, and the watch goes on: no video is there yet, there are too few to learn from, a disk is away.
pub(super) fn rounds(
    interval: Duration,
    stop: &Stop,
    mut round: impl FnMut() -> Result<Exit>,
) -> Result<Exit> {
    for number in 0_u64.. {
        if let Err(error) = round() {
            if is_final(&error, number == 0) {
                return Err(error);
            }
            stderr::line(format!(
                "{error}\n  goes on watching: the next round is in {} s",
                interval.as_secs_f64()
            ));
        }
        let begun = Instant::now();
        while begun.elapsed() < interval {
            if let Some(signal) = stop.signal() {
                return Ok(Exit::Stopped(signal));
            }
            std::thread::sleep(LOOK.min(interval));
        }
    }
    unreachable!("there are as many rounds as numbers")
}

/// Returns whether a further round cannot go better.
fn is_final(error: &AnyError, is_first: bool) -> bool {
    match (error, Exit::of(error)) {
        (AnyError::Pipeline(Failed::Faults(faults)), _) => {
            is_first && !faults.iter().all(|fault| fault.may_pass)
        }
        (_, exit) => matches!(exit, Exit::Usage | Exit::Bug | Exit::Stopped(_) | Exit::Done),
    }
}
