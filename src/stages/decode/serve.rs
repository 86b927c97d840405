//! The decoder process: it reads requests and answers with frames. Start at [`serve`].

use std::io::{BufRead, Result as IoResult};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use super::frames::decode;
use super::protocol::{self, Ending, Request};
use super::remote_video::{ParentPipes, SharedLine};
use crate::stages::Error;
use crate::video::Guard;

/// The time after its deadline for which a file may block libav.
const GRACE: Duration = Duration::from_secs(10);

/// Decodes one video for each request until there are none left. Calls `stuck`, which must end the
/// process, if libav hangs.
///
/// # Errors
/// Returns an error if the parent process has gone.
pub fn serve(line: ParentPipes, stuck: fn()) -> IoResult<()> {
    // libav may hang where it checks no guard, so a thread watches the deadline.
    let current = watch_guards(stuck)?;
    let line = SharedLine::new(line);
    let mut text = String::new();
    while line.lock().requests.read_line(&mut text)? > 0 {
        let request: Request = serde_json::from_str(&text)?;
        // `read_line` appends.
        text.clear();
        let guard = Guard::new(&request.options.limits);
        *current.lock().unwrap_or_else(PoisonError::into_inner) = Some(guard.clone());
        // The error of a closed pipe, which is not the video's.
        let mut closed = None;
        let result = decode(&request, line.opener(), guard, &mut |frame, pixels| {
            protocol::write_frame(&mut line.lock().replies, frame, pixels).map_err(|cause| {
                closed = Some(cause);
                Error::Invariant { what: "the parent process closed its pipe".into() }
            })
        });
        if let Some(cause) = closed {
            return Err(cause);
        }
        protocol::write_end(&mut line.lock().replies, &Ending::of(result))?;
    }
    Ok(())
}

/// Starts a thread that watches the current file's guard. Returns the place for that guard.
fn watch_guards(stuck: fn()) -> IoResult<Arc<Mutex<Option<Guard>>>> {
    let current = Arc::<Mutex<Option<Guard>>>::default();
    let watched = current.clone();
    let watch = move || {
        loop {
            std::thread::sleep(GRACE / 10);
            let is_stuck = watched
                .lock()
                .unwrap_or_else(PoisonError::into_inner)
                .as_ref()
                .is_some_and(|guard| guard.is_stuck(GRACE));
            if is_stuck {
                stuck();
            }
        }
    };
    std::thread::Builder::new().name("watch".into()).spawn(watch)?;
    Ok(current)
}
