//! What a process does that decodes for another. In: requests, a line each; out: frames and endings. Start at [`serve`].

use std::io::{BufRead, Result as IoResult};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use super::borrowed::{Line, SharedLine};
use super::frames::decode;
use super::wire::{self, Ending, Request};
use crate::stages::Error;
use crate::video::Guard;

/// How long after its deadline a file may keep libav.
const GRACE: Duration = Duration::from_secs(10);

/// Decodes what is asked for until there are no more requests, and asks for the videos' bytes where it is asked; calls `stuck`, which must end the process, where libav does not come back.
///
/// # Errors
/// Where nobody asks or listens any more.
pub fn serve(line: Line, stuck: fn()) -> IoResult<()> {
    let current = watched(stuck)?;
    let (line, mut text) = (SharedLine::new(line), String::new());
    while line.lock().requests.read_line(&mut text)? > 0 {
        let request: Request = serde_json::from_str(&text)?;
        text.clear();
        let guard = Guard::new(&request.options.limits);
        *current.lock().unwrap_or_else(PoisonError::into_inner) = Some(guard.clone());
        let mut unheard = None;
        let result = decode(&request, line.opener(), guard, &mut |frame, pixels| {
            wire::write_frame(&mut line.lock().replies, frame, pixels).map_err(|cause| {
                unheard = Some(cause);
                Error::Invariant { what: "nobody listens".into() }
            })
        });
        if let Some(cause) = unheard {
            return Err(cause);
        }
        wire::write_end(&mut line.lock().replies, &Ending::of(result))?;
    }
    Ok(())
}

/// Where to put the guard of the file at hand, for a thread that looks at it.
fn watched(stuck: fn()) -> IoResult<Arc<Mutex<Option<Guard>>>> {
    let current = Arc::<Mutex<Option<Guard>>>::default();
    let seen = current.clone();
    let look = move || {
        loop {
            std::thread::sleep(GRACE / 10);
            if seen
                .lock()
                .unwrap_or_else(PoisonError::into_inner)
                .as_ref()
                .is_some_and(|guard| guard.is_stuck(GRACE))
            {
                stuck();
            }
        }
    };
    std::thread::Builder::new().name("watch".into()).spawn(look)?;
    Ok(current)
}
