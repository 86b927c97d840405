//! `lapo run --watch 60s`: repeats a run until a signal arrives.
//!
//! Start at [`repeat`]. Each run reads the pipeline and lists its videos again, so that only the
//! workspace carries anything from one run to the next.

use std::time::{Duration, Instant};

use super::exit::Exit;
use super::stderr;
use crate::error::{Error as AnyError, Result};
use crate::pipeline::Error as PipelineError;
use crate::stages::Stop;

/// Time between two checks for a signal while waiting.
const POLL: Duration = Duration::from_millis(100);

/// Calls `run` again and again, with a pause of `interval` after each call.
///
/// # Errors
/// If the command line is wrong, if the pipeline is wrong in the first run, or if lapo has a bug.
/// Other errors are only reported, since the next run may succeed: the folder has no videos yet,
/// there are too few to train on, a disk is unmounted.
pub fn repeat(
    interval: Duration,
    stop: &Stop,
    mut run: impl FnMut() -> Result<Exit>,
) -> Result<Exit> {
    let mut is_first = true;
    loop {
        if let Err(error) = run() {
            if is_final(&error, is_first) {
                return Err(error);
            }
            stderr::line(format!(
                "{error}\n  still watching: the next run starts in {} s",
                interval.as_secs_f64()
            ));
        }
        is_first = false;
        // Sleep in short steps, so that a signal ends the wait at once.
        let waiting = Instant::now();
        while waiting.elapsed() < interval {
            if let Some(signal) = stop.signal() {
                return Ok(Exit::Stopped(signal));
            }
            std::thread::sleep(POLL.min(interval));
        }
    }
}

/// Returns whether another run cannot succeed.
fn is_final(error: &AnyError, is_first: bool) -> bool {
    if let AnyError::Pipeline(PipelineError::Faults(faults)) = error {
        // A later fault may be an edit in progress: only the first run insists on a valid pipeline.
        return is_first && !faults.iter().all(|fault| fault.may_pass);
    }
    matches!(Exit::from_error(error), Exit::Usage | Exit::Bug | Exit::Stopped(_) | Exit::Done)
}
