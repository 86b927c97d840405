//! Time limit and disk errors of one file.
//!
//! A [`Guard`] measures the time spent on a file. libav reads the file through a [`GuardedFile`],
//! which reports failed reads to the guard.

use std::io::{self, ErrorKind, Read, Seek, SeekFrom};
use std::path::Path;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use super::{Error, Fault, FaultClass, Limits, VideoFile};

/// Tracks the time spent on a file and the disk's last error, across threads.
///
/// The decoder checks the guard between packets. If decoding has a process of its own, another
/// thread can poll [`Guard::is_stuck`] to find a call into libav that never returns.
#[derive(Clone)]
pub struct Guard(Arc<Mutex<GuardState>>);

struct GuardState {
    allowed: Duration,
    spent: Duration,
    /// Start of the timed work in progress.
    since: Option<Instant>,
    disk_error: Option<io::Error>,
}

impl Guard {
    /// Creates a guard with a stopped clock.
    #[must_use]
    pub fn new(limits: &Limits) -> Self {
        let allowed = Duration::from_secs_f64(limits.deadline_secs);
        Self(Arc::new(Mutex::new(GuardState {
            allowed,
            spent: Duration::ZERO,
            since: None,
            disk_error: None,
        })))
    }

    /// Runs `work` against the time limit. The caller's own time does not count.
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

    /// Runs `wait` with the clock paused, for waits on the disk or network.
    pub(super) fn paused<T>(&self, wait: impl FnOnce() -> T) -> T {
        let since = Instant::now();
        let result = wait();
        let mut state = self.state();
        // Moving the start forward by the wait excludes it. Outside `timed` no time is running.
        if let Some(start) = state.since {
            state.since = Some((start + since.elapsed()).min(Instant::now()));
        }
        drop(state);
        result
    }

    /// Returns whether the time limit has passed.
    pub(super) fn expired(&self) -> bool {
        let state = self.state();
        state.spent + state.since.map_or(Duration::ZERO, |since| since.elapsed()) > state.allowed
    }

    /// Returns whether work is still running `grace` after the time limit passed.
    #[must_use]
    pub fn is_stuck(&self, grace: Duration) -> bool {
        let state = self.state();
        state.since.is_some_and(|since| state.spent + since.elapsed() > state.allowed + grace)
    }

    /// Returns the fault for exceeding the time limit.
    #[must_use]
    pub fn deadline(&self) -> Fault {
        let allowed = self.state().allowed.as_secs_f64();
        Fault::new(FaultClass::Deadline, format!("decoding took longer than {allowed} s"))
    }

    /// Takes the last error of the disk.
    pub(super) fn disk_error(&self, path: &Path) -> Option<Error> {
        self.state().disk_error.take().map(|source| Error::Read { path: path.to_owned(), source })
    }

    /// Returns an error if the disk failed or the time limit has passed.
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

/// A file that records failed reads in its [`Guard`].
///
/// Many demuxers treat a failed read as the end of the file, so the error must be kept here.
pub(super) struct GuardedFile {
    file: Box<dyn VideoFile>,
    guard: Guard,
}

impl GuardedFile {
    /// Wraps `file`.
    pub(super) fn new(file: Box<dyn VideoFile>, guard: &Guard) -> Self {
        Self { file, guard: guard.clone() }
    }

    fn record_error<T>(&self, result: io::Result<T>) -> io::Result<T> {
        result.inspect_err(|error| {
            if error.kind() != ErrorKind::Interrupted {
                // `io::Error` cannot be cloned, so the copy has the same code or the same text.
                let with_text = || io::Error::new(error.kind(), error.to_string());
                self.guard.state().disk_error =
                    Some(error.raw_os_error().map_or_else(with_text, io::Error::from_raw_os_error));
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
        self.record_error(result)
    }
}

impl Seek for GuardedFile {
    fn seek(&mut self, position: SeekFrom) -> io::Result<u64> {
        // Errors are not recorded: broken offsets make demuxers seek to impossible positions.
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
    fn work_that_outlasts_limit_and_grace_is_stuck() {
        let guard = Guard::new(&Limits { deadline_secs: 0.005, ..Limits::default() });
        let grace = Duration::from_millis(5);
        assert!(!guard.is_stuck(grace));
        guard.timed(|| {
            std::thread::sleep(Duration::from_millis(20));
            assert!(guard.is_stuck(grace) && !guard.is_stuck(Duration::from_secs(60)));
        });
        assert!(guard.expired() && !guard.is_stuck(grace), "the work has returned");
    }

    #[test]
    fn waiting_for_the_disk_does_not_count() {
        let guard = Guard::new(&Limits { deadline_secs: 0.01, ..Limits::default() });
        guard.timed(|| guard.paused(|| std::thread::sleep(Duration::from_millis(30))));
        assert!(!guard.expired());
    }

    #[test]
    fn a_disk_error_is_kept_until_it_is_taken() {
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
