//! Decodes videos in child processes that may crash and that see only the bytes of the video. Start
//! at [`Decoders::decode`].
//!
//! The frames are the same as if they were decoded in this process. A file that crashes libav has a
//! fault like any other broken file: the frames before the crash are kept, and a new process
//! decodes the next video.

use std::ffi::OsString;
use std::io::{
    BufRead, BufReader, Error as IoError, Read, Result as IoResult, Seek, SeekFrom, Write,
};
use std::os::unix::process::{CommandExt, ExitStatusExt};
use std::path::PathBuf;
use std::process::{Child, ChildStdin, ChildStdout, Command, ExitStatus, Stdio};
use std::sync::{Mutex, MutexGuard, PoisonError};

use super::opener::opener;
use super::protocol::{self, Ending, FrameSink, Reply, Request};
use crate::dataset::Access;
use crate::stages::Error;
use crate::video::{Fault, FaultClass, OpenVideo, VideoFile};

/// The exit code of a process in which libav hung.
pub const STUCK: u8 = 75;
/// The exit code of a process that panicked.
const PANICKED: i32 = 101;
/// Signals caused by the process itself: ILL, TRAP, ABRT, BUS, FPE, SEGV, SYS. All others come from
/// outside.
const OWN_DOING: [i32; 7] = [4, 5, 6, 7, 8, 11, 31];
/// The environment variables a decoder inherits. They locate libav and hold no credentials.
const ENVIRONMENT: [&str; 2] = ["LD_LIBRARY_PATH", "RUST_BACKTRACE"];
/// The beginning of Rust's message when memory runs out.
const NO_MEMORY: &str = "memory allocation of";

/// The command that starts a decoder process. It must call [`serve`](super::serve::serve).
#[derive(Clone, Debug)]
pub struct DecoderCommand {
    /// The program.
    pub program: PathBuf,
    /// The arguments.
    pub args: Vec<OsString>,
}

/// A pool of decoder processes. Each decodes one video at a time.
pub struct Decoders {
    launch: DecoderCommand,
    idle: Mutex<Vec<Process>>,
}

impl Decoders {
    /// Creates an empty pool. Processes start on first use.
    #[must_use]
    pub fn new(launch: DecoderCommand) -> Self {
        Decoders { launch, idle: Mutex::default() }
    }

    /// Decodes until the end or a fatal fault of the file or the process. Returns the fault.
    ///
    /// # Errors
    /// Returns the errors of decoding in this process, and an error if the process was killed from
    /// outside.
    pub fn decode(
        &self,
        request: &Request,
        access: &Access,
        take: &mut FrameSink,
    ) -> Result<Option<Fault>, Error> {
        // Bound first, so that the lock is free while a process starts.
        let idle = self.idle().pop();
        let mut process = match idle {
            Some(process) => process,
            None => Process::start(&self.launch)
                .map_err(|cause| failed(request, format!("could not be started: {cause}")))?,
        };
        match process.decode(request, &opener(&request.video, access), take) {
            Ok(ending) => {
                self.idle().push(process);
                ending.result(&request.video)
            }
            // The process is dropped and thereby killed, since its pipe still holds frames.
            Err(Failure::Receiver(error)) => Err(error),
            Err(Failure::Pipe(cause)) => process.died(request, &cause).map(Some),
        }
    }

    fn idle(&self) -> MutexGuard<'_, Vec<Process>> {
        self.idle.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

fn failed(request: &Request, how: String) -> Error {
    Error::Decoder { video: request.video.uri.clone(), how }
}

struct Process {
    child: Child,
    requests: ChildStdin,
    replies: BufReader<ChildStdout>,
}

/// Why decoding ended without an [`Ending`].
enum Failure {
    /// The receiver of the frames failed.
    Receiver(Error),
    /// The process died, or broke the protocol.
    Pipe(IoError),
}

impl Process {
    fn start(launch: &DecoderCommand) -> Result<Self, IoError> {
        let mut command = Command::new(&launch.program);
        command
            // libav is exposed to untrusted bytes, so credentials must not be in its environment.
            .env_clear()
            .envs(ENVIRONMENT.iter().filter_map(|name| Some((name, std::env::var_os(name)?))));
        command
            // A relative path in a file must not resolve to the user's data.
            .current_dir("/")
            // The name of the process in `ps`.
            .arg0("lapo")
            .args(&launch.args)
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .stderr(Stdio::piped());
        let mut child = command.spawn()?;
        let missing = || IoError::other("its pipes are missing");
        let requests = child.stdin.take().ok_or_else(missing)?;
        let replies = child.stdout.take().ok_or_else(missing)?;
        Ok(Process { child, requests, replies: BufReader::with_capacity(1 << 18, replies) })
    }

    fn decode(
        &mut self,
        request: &Request,
        open: &OpenVideo,
        take: &mut FrameSink,
    ) -> Result<Ending, Failure> {
        let line = serde_json::to_string(request).map_err(|cause| Failure::Pipe(cause.into()))?;
        self.requests.write_all(format!("{line}\n").as_bytes()).map_err(Failure::Pipe)?;
        let mut pixels = vec![0; request.options.frame_bytes()];
        // Opened at the first question of the decoder.
        let mut file = None;
        loop {
            match protocol::read(&mut self.replies, &mut pixels).map_err(Failure::Pipe)? {
                Reply::Frame(frame) => take(frame, &pixels).map_err(Failure::Receiver)?,
                Reply::End(ending) => return Ok(ending),
                Reply::Open => {
                    let size = open_anew(open, &mut file);
                    protocol::write_size(&mut self.requests, &size).map_err(Failure::Pipe)?;
                }
                Reply::Read { at, most } => {
                    let bytes = bytes_at(&mut file, at, most);
                    protocol::write_bytes(&mut self.requests, &bytes).map_err(Failure::Pipe)?;
                }
            }
        }
    }

    /// Returns the fault of the video after its process died.
    fn died(mut self, request: &Request, cause: &IoError) -> Result<Fault, Error> {
        // A process that broke the protocol is still alive. Killing a dead one does nothing.
        _ = self.child.kill();
        let status = self.child.wait().map_err(|cause| failed(request, cause.to_string()))?;
        let stderr = self.child.stderr.take();
        let message = stderr.map(|stderr| first_lines(BufReader::new(stderr))).unwrap_or_default();
        let secs = request.options.limits.deadline_secs;
        fault(status, &message, secs).ok_or_else(|| {
            let message = if message.is_empty() { cause.to_string() } else { message };
            failed(request, format!("ended, {status}: {message}"))
        })
    }
}

/// The largest number of bytes read at once.
const MOST_READ: u32 = 1 << 20;

/// Opens the video and returns its size.
fn open_anew(open: &OpenVideo, file: &mut Option<Box<dyn VideoFile>>) -> IoResult<u64> {
    let opened = file.insert(open()?);
    opened.seek(SeekFrom::End(0))
}

/// Returns some of the video's bytes, or none past its end.
fn bytes_at(file: &mut Option<Box<dyn VideoFile>>, at: u64, most: u32) -> IoResult<Vec<u8>> {
    let file = file.as_mut().ok_or_else(|| IoError::other("the video is not open"))?;
    file.seek(SeekFrom::Start(at))?;
    let mut bytes = Vec::new();
    file.take(most.min(MOST_READ).into()).read_to_end(&mut bytes)?;
    Ok(bytes)
}

impl Drop for Process {
    fn drop(&mut self) {
        // A decoder has no state worth saving.
        _ = self.child.kill();
        _ = self.child.wait();
    }
}

/// Returns the first two lines of the process's stderr, without the backtrace.
fn first_lines(stderr: impl BufRead) -> String {
    let lines =
        stderr.take(4096).lines().map_while(Result::ok).filter(|line| !line.trim().is_empty());
    let lines = lines
        .take_while(|line| !["stack backtrace:", "note:"].iter().any(|end| line.starts_with(end)));
    lines.take(2).collect::<Vec<_>>().join(" ")
}

/// Returns the file's fault, or `None` if something outside ended the process.
fn fault(status: ExitStatus, message: &str, deadline_secs: f64) -> Option<Fault> {
    let message = if message.is_empty() { String::new() } else { format!(": {message}") };
    let own_doing = status.signal().is_some_and(|signal| OWN_DOING.contains(&signal));
    let (class, reason) = match status.code() {
        Some(code) if code == i32::from(STUCK) => (
            FaultClass::Deadline,
            format!("decoding took longer than {deadline_secs} s, and libav did not return"),
        ),
        Some(PANICKED) => (FaultClass::Crashed, format!("its decoder panicked{message}")),
        None if own_doing && message.contains(NO_MEMORY) => {
            (FaultClass::OutOfMemory, format!("it needs more memory than is available{message}"))
        }
        None if own_doing => {
            (FaultClass::Crashed, format!("its decoder crashed, {status}{message}"))
        }
        // Any other exit code or signal, such as SIGKILL by the kernel or a user.
        _ => return None,
    };
    Some(Fault::new(class, reason))
}

#[cfg(test)]
#[expect(clippy::unwrap_used, reason = "a test fails by panicking")]
mod tests {
    use super::*;

    #[test]
    fn a_decoder_inherits_no_secret_of_its_parent() {
        let folder = tempfile::tempdir().unwrap();
        let seen = folder.path().join("environment");
        let script = format!("env > {}; pwd >> {}; exit 1", seen.display(), seen.display());
        let launch =
            DecoderCommand { program: "/bin/sh".into(), args: vec!["-c".into(), script.into()] };
        let mut process = Process::start(&launch).unwrap();
        _ = process.child.wait();
        let seen = std::fs::read_to_string(seen).unwrap();
        assert!(
            std::env::var_os("PATH").is_some() && std::env::var_os("HOME").is_some(),
            "the parent has variables to inherit"
        );
        let own = ["PWD=", "SHLVL=", "_=", "OLDPWD=", "LD_LIBRARY_PATH=", "RUST_BACKTRACE="];
        let others: Vec<&str> = seen
            .lines()
            .filter(|line| *line != "/" && !own.iter().any(|name| line.starts_with(name)))
            .collect();
        assert!(others.is_empty(), "{others:?}");
    }

    /// Runs a shell script. Returns its exit status and its first words.
    fn end(script: &str) -> (ExitStatus, String) {
        let output =
            Command::new("sh").args(["-c", &format!("ulimit -c 0; {script}")]).output().unwrap();
        (output.status, first_lines(output.stderr.as_slice()))
    }

    #[test]
    fn a_crash_is_a_fault_of_the_file_unless_it_was_killed_from_outside() {
        let class = |script: &str| {
            let (status, message) = end(script);
            fault(status, &message, 5.0).map(|fault| fault.class)
        };
        assert_eq!(class("kill -SEGV $$"), Some(FaultClass::Crashed));
        assert_eq!(
            class("echo 'memory allocation of 99999999999 bytes failed' >&2; kill -ABRT $$"),
            Some(FaultClass::OutOfMemory)
        );
        assert_eq!(class("exit 75"), Some(FaultClass::Deadline));
        assert_eq!(class("exit 101"), Some(FaultClass::Crashed));
        for outside in ["kill -KILL $$", "kill -TERM $$", "exit 0", "exit 1"] {
            assert_eq!(class(outside), None, "{outside}");
        }
        let (status, message) = end(
            "printf 'thread main panicked at a.rs:1:\\nno such codec\\nnote: run with\\n' >&2; \
             exit 101",
        );
        assert_eq!(
            fault(status, &message, 5.0).unwrap().reason,
            "its decoder panicked: thread main panicked at a.rs:1: no such codec"
        );
    }
}
