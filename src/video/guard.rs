//! What one file may cost, and what the disk said.
//!
//! In: the time limit, and an opened file. Out: a [`Guard`] that knows when the file has had its
//! time, and a `GuardedFile` that libav reads through. Start at [`Guard`].

use std::io::{self, ErrorKind, Read, Seek, SeekFrom};
use std::path::Path;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use super::{Error, Fault, FaultClass, Limits, VideoFile};

/// Knows how much time the file has left and what went wrong with the disk, across threads.
///
/// A decoder asks it between packets. Whoever decodes in a process of its own also asks [`Guard::is_stuck`] from another thread, for a
/// file that keeps libav from coming back.
#[derive(Clone)]
pub struct Guard(Arc<Mutex<GuardState>>);

struct GuardState {
    allowed: Duration,
    spent: Duration,
    since: Option<Instant>,
    disk: Option<io::Error>,
}

impl Guard {
    /// A guard whose time has not begun to run.
    #[must_use]
    pub fn new(limits: &Limits) -> Self {
        let allowed = Duration::from_secs_f64(limits.deadline_secs);
        Self(Arc::new(Mutex::new(GuardState {
            allowed,
            spent: Duration::ZERO,
            since: None,
            disk: None,
        })))
    }

    /// Does some work while the time runs: only time spent here counts, not the caller's own.
    pub(super) fn timed<T>(&self, work: impl FnOnce() -> T) -> T {
        self.state().since = Some(Instant::now());
        let result = work();
        let mut state = self.state();
        if let Some(since) = state.since.take() {
            state.spent += since.elapsed();
        }
        drop(state);
        result
    }

    /// Waits for something that is not the file's doing: a disk or a network.
    pub(super) fn paused<T>(&self, wait: impl FnOnce() -> T) -> T {
        let since = Instant::now();
        let result = wait();
        let mut state = self.state();
        // A file that is not being timed has nothing to be given back.
        if let Some(begun) = state.since {
            state.since = Some((begun + since.elapsed()).min(Instant::now()));
        }
        drop(state);
        result
    }

    /// Whether the time is up.
    pub(super) fn expired(&self) -> bool {
        let state = self.state();
        state.spent + state.since.map_or(Duration::ZERO, |since| since.elapsed()) > state.allowed
    }

    /// Whether the time was up `grace` ago and the file still has not been given up.
    #[must_use]
    pub fn is_stuck(&self, grace: Duration) -> bool {
        let state = self.state();
        state.since.is_some_and(|since| state.spent + since.elapsed() > state.allowed + grace)
    }

    /// The time limit as a fault.
    #[must_use]
    pub fn deadline(&self) -> Fault {
        let allowed = self.state().allowed.as_secs_f64();
        Fault::new(FaultClass::Deadline, format!("decoding took longer than {allowed} s"))
    }

    /// What the disk said, once.
    pub(super) fn disk_error(&self, path: &Path) -> Option<Error> {
        self.state().disk.take().map(|source| Error::Read { path: path.to_owned(), source })
    }

    /// Fails where the disk did, or where the time is up.
    pub(super) fn check(&self, path: &Path) -> Result<(), Error> {
        match self.disk_error(path) {
            Some(error) => Err(error),
            None if self.expired() => {
                Err(Error::Refused { path: path.to_owned(), fault: self.deadline() })
            }
            None => Ok(()),
        }
    }

    fn state(&self) -> MutexGuard<'_, GuardState> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// The file as libav reads it. Many demuxers take a failed read for the end of the file, so what
/// the disk said is kept.
pub(super) struct GuardedFile {
    file: Box<dyn VideoFile>,
    guard: Guard,
}

impl GuardedFile {
    /// A file that is watched by `guard`.
    pub(super) fn new(file: Box<dyn VideoFile>, guard: &Guard) -> Self {
        Self { file, guard: guard.clone() }
    }

    fn keep<T>(&self, result: io::Result<T>) -> io::Result<T> {
        result.inspect_err(|error| {
            if error.kind() != ErrorKind::Interrupted {
                let worded = || io::Error::new(error.kind(), error.to_string());
                self.guard.state().disk =
                    Some(error.raw_os_error().map_or_else(worded, io::Error::from_raw_os_error));
            }
        })
    }
}

impl Read for GuardedFile {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        if self.guard.expired() {
            return Err(ErrorKind::TimedOut.into());
        }
        let result = self.guard.paused(|| self.file.read(buffer));
        self.keep(result)
    }
}

impl Seek for GuardedFile {
    fn seek(&mut self, position: SeekFrom) -> io::Result<u64> {
        // A demuxer that follows a broken offset asks for impossible places: its fault, not the disk's.
        self.file.seek(position)
    }
}

#[cfg(test)]
#[expect(clippy::unwrap_used, reason = "a test fails by panicking")]
mod tests {
    use std::fs::File;

    use super::*;

    #[test]
    fn only_time_spent_decoding_counts() {
        let guard = Guard::new(&Limits { deadline_secs: 0.005, ..Limits::default() });
        std::thread::sleep(Duration::from_millis(20));
        assert!(!guard.timed(|| guard.expired()));
        guard.timed(|| std::thread::sleep(Duration::from_millis(20)));
        assert!(guard.expired());
    }

    #[test]
    fn what_does_not_come_back_is_stuck() {
        let guard = Guard::new(&Limits { deadline_secs: 0.005, ..Limits::default() });
        let grace = Duration::from_millis(5);
        assert!(!guard.is_stuck(grace));
        guard.timed(|| {
            std::thread::sleep(Duration::from_millis(20));
            assert!(guard.is_stuck(grace) && !guard.is_stuck(Duration::from_secs(60)));
        });
        assert!(guard.expired() && !guard.is_stuck(grace), "it came back");
    }

    #[test]
    fn waiting_for_the_disk_does_not_count() {
        let guard = Guard::new(&Limits { deadline_secs: 0.01, ..Limits::default() });
        guard.timed(|| guard.paused(|| std::thread::sleep(Duration::from_millis(30))));
        assert!(!guard.expired());
    }

    #[test]
    fn what_the_disk_said_outlives_the_read() {
        let guard = Guard::new(&Limits::default());
        // A folder opens as a file on Linux, and fails when it is read.
        let Ok(folder) = File::open(std::env::temp_dir()) else {
            return;
        };
        assert!(GuardedFile::new(Box::new(folder), &guard).read(&mut [0; 8]).is_err());
        let error = guard.disk_error("videos/a.mp4".as_ref()).unwrap();
        assert!(
            error.is_transient() && error.to_string().starts_with("videos/a.mp4: cannot be read")
        );
        assert!(guard.disk_error("videos/a.mp4".as_ref()).is_none());
    }
}
