//! Decoding in processes that may die, and that see nothing but the bytes of the video. In: a video; out: its frames, as if they had been decoded here, and of a file that takes libav down
//! a fault like any other: what came before it is kept, and a new process takes the next. Start at [`Decoders::decode`].

use std::ffi::OsString;
use std::io::{
    BufRead, BufReader, Error as IoError, Read, Result as IoResult, Seek, SeekFrom, Write,
};
use std::os::unix::process::{CommandExt, ExitStatusExt};
use std::path::PathBuf;
use std::process::{Child, ChildStdin, ChildStdout, Command, ExitStatus, Stdio};
use std::sync::{Mutex, MutexGuard, PoisonError};

use super::opener::opener;
use super::wire::{self, Ending, Reply, Request, Take};
use crate::dataset::Access;
use crate::stages::Error;
use crate::video::{Fault, FaultClass, OpenVideo, VideoFile};

/// The exit code of a process in which libav did not come back.
pub const STUCK: u8 = 75;
/// The exit code of one that panicked.
const PANICKED: i32 = 101;
/// Signals by which a process dies of what it did itself: ILL, TRAP, ABRT, BUS, FPE, SEGV, SYS. All others come from outside.
const OWN_DOING: [i32; 7] = [4, 5, 6, 7, 8, 11, 31];
/// What a decoder sees of its parent's environment: where libav lies. Credentials are not among it.
const ENVIRONMENT: [&str; 2] = ["LD_LIBRARY_PATH", "RUST_BACKTRACE"];
/// What Rust says where memory ends.
const NO_MEMORY: &str = "memory allocation of";

/// How a process is started that decodes: it must call [`serve`](super::serve::serve).
#[derive(Clone, Debug)]
pub struct Launch {
    /// The program.
    pub program: PathBuf,
    /// What it is told.
    pub args: Vec<OsString>,
}

/// Processes that decode, as many as are asked at once; each does one video after the other.
pub struct Decoders {
    launch: Launch,
    resting: Mutex<Vec<Process>>,
}

impl Decoders {
    /// None is started before there is something to decode.
    #[must_use]
    pub fn new(launch: Launch) -> Self {
        Decoders { launch, resting: Mutex::default() }
    }

    /// Decodes until the end or the first fault that ends the file, or the process; returns the fault.
    ///
    /// # Errors
    /// As if it were decoded here, and where the process was killed from outside.
    pub fn decode(
        &self,
        request: &Request,
        access: &Access,
        take: &mut Take,
    ) -> Result<Option<Fault>, Error> {
        let rested = self.resting().pop();
        let mut process = match rested {
            Some(process) => process,
            None => Process::start(&self.launch)
                .map_err(|cause| failed(request, format!("could not be started: {cause}")))?,
        };
        match process.decode(request, &opener(&request.video, access), take) {
            Ok(ending) => {
                self.resting().push(process);
                ending.result(&request.video)
            }
            Err(Broken::Taker(error)) => Err(error),
            Err(Broken::Pipe(cause)) => process.died(request, &cause).map(Some),
        }
    }

    fn resting(&self) -> MutexGuard<'_, Vec<Process>> {
        self.resting.lock().unwrap_or_else(PoisonError::into_inner)
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

/// Why there is no ending.
enum Broken {
    /// Whoever takes the frames does not want more.
    Taker(Error),
    /// The other side is gone, or talks nonsense.
    Pipe(IoError),
}

impl Process {
    fn start(launch: &Launch) -> Result<Self, IoError> {
        let mut command = Command::new(&launch.program);
        command
            .env_clear()
            .envs(ENVIRONMENT.iter().filter_map(|name| Some((name, std::env::var_os(name)?))));
        command
            .current_dir("/")
            .arg0("lapo")
            .args(&launch.args)
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .stderr(Stdio::piped());
        let mut child = command.spawn()?;
        let gone = || IoError::other("its pipes are not there");
        let (requests, replies) =
            (child.stdin.take().ok_or_else(gone)?, child.stdout.take().ok_or_else(gone)?);
        Ok(Process { child, requests, replies: BufReader::with_capacity(1 << 18, replies) })
    }

    fn decode(
        &mut self,
        request: &Request,
        open: &OpenVideo,
        take: &mut Take,
    ) -> Result<Ending, Broken> {
        let line = serde_json::to_string(request).map_err(|cause| Broken::Pipe(cause.into()))?;
        self.requests.write_all(format!("{line}\n").as_bytes()).map_err(Broken::Pipe)?;
        let mut pixels = vec![0; request.options.frame_bytes()];
        let mut file = None;
        loop {
            match wire::read(&mut self.replies, &mut pixels).map_err(Broken::Pipe)? {
                Reply::Frame(frame) => take(frame, &pixels).map_err(Broken::Taker)?,
                Reply::End(ending) => return Ok(ending),
                Reply::Open => {
                    let size = open_anew(open, &mut file);
                    wire::write_size(&mut self.requests, &size).map_err(Broken::Pipe)?;
                }
                Reply::Read { at, most } => {
                    let bytes = bytes_at(&mut file, at, most);
                    wire::write_bytes(&mut self.requests, &bytes).map_err(Broken::Pipe)?;
                }
            }
        }
    }

    /// What a process that is gone says of the video it was about.
    fn died(mut self, request: &Request, cause: &IoError) -> Result<Fault, Error> {
        // Nonsense is no death yet; of one that has died this does nothing.
        _ = self.child.kill();
        let status = self.child.wait().map_err(|cause| failed(request, cause.to_string()))?;
        let said = self
            .child
            .stderr
            .take()
            .map(|stderr| first_words(BufReader::new(stderr)))
            .unwrap_or_default();
        let secs = request.options.limits.deadline_secs;
        fault(status, &said, secs).ok_or_else(|| {
            failed(
                request,
                format!(
                    "ended, {status}: {}",
                    if said.is_empty() { cause.to_string() } else { said }
                ),
            )
        })
    }
}

/// Most bytes that are read at once, whatever is asked for.
const MOST_READ: u32 = 1 << 20;

/// Opens the video and returns its size.
fn open_anew(open: &OpenVideo, file: &mut Option<Box<dyn VideoFile>>) -> IoResult<u64> {
    let opened = file.insert(open()?);
    opened.seek(SeekFrom::End(0))
}

/// Some of the video's bytes; none behind its end.
fn bytes_at(file: &mut Option<Box<dyn VideoFile>>, at: u64, most: u32) -> IoResult<Vec<u8>> {
    let file = file.as_mut().ok_or_else(|| IoError::other("the video is not open"))?;
    file.seek(SeekFrom::Start(at))?;
    let mut bytes = Vec::new();
    file.take(most.min(MOST_READ).into()).read_to_end(&mut bytes)?;
    Ok(bytes)
}

impl Drop for Process {
    fn drop(&mut self) {
        // It has nothing that it could lose.
        _ = self.child.kill();
        _ = self.child.wait();
    }
}

/// What it wrote before it died, without the backtrace.
fn first_words(stderr: impl BufRead) -> String {
    let lines =
        stderr.take(4096).lines().map_while(Result::ok).filter(|line| !line.trim().is_empty());
    let lines = lines
        .take_while(|line| !["stack backtrace:", "note:"].iter().any(|end| line.starts_with(end)));
    lines.take(2).collect::<Vec<_>>().join(" ")
}

/// The file's fault, or `None` where it was not the file's.
fn fault(status: ExitStatus, said: &str, deadline_secs: f64) -> Option<Fault> {
    let said = if said.is_empty() { String::new() } else { format!(": {said}") };
    let own_doing = status.signal().is_some_and(|signal| OWN_DOING.contains(&signal));
    let (class, reason) = match status.code() {
        Some(code) if code == i32::from(STUCK) => (
            FaultClass::Deadline,
            format!("decoding took longer than {deadline_secs} s, and libav did not come back"),
        ),
        Some(PANICKED) => (FaultClass::Crashed, format!("its decoder panicked{said}")),
        None if own_doing && said.contains(NO_MEMORY) => {
            (FaultClass::OutOfMemory, format!("it asks for more memory than there is{said}"))
        }
        None if own_doing => (FaultClass::Crashed, format!("its decoder died, {status}{said}")),
        _ => return None,
    };
    Some(Fault::new(class, reason))
}

#[cfg(test)]
#[expect(clippy::unwrap_used, reason = "a test fails by panicking")]
mod tests {
    use super::*;

    #[test]
    fn a_decoder_sees_no_secret_of_its_parent() {
        let folder = tempfile::tempdir().unwrap();
        let seen = folder.path().join("environment");
        let script = format!("env > {}; pwd >> {}; exit 1", seen.display(), seen.display());
        let launch = Launch { program: "/bin/sh".into(), args: vec!["-c".into(), script.into()] };
        let mut process = Process::start(&launch).unwrap();
        _ = process.child.wait();
        let seen = std::fs::read_to_string(seen).unwrap();
        assert!(
            std::env::var_os("PATH").is_some() && std::env::var_os("HOME").is_some(),
            "there is something to be seen"
        );
        let own = ["PWD=", "SHLVL=", "_=", "OLDPWD=", "LD_LIBRARY_PATH=", "RUST_BACKTRACE="];
        let others: Vec<&str> = seen
            .lines()
            .filter(|line| *line != "/" && !own.iter().any(|name| line.starts_with(name)))
            .collect();
        assert!(others.is_empty(), "{others:?}");
    }

    /// How a shell that does `script` ends, and what it said.
    fn end(script: &str) -> (ExitStatus, String) {
        let output =
            Command::new("sh").args(["-c", &format!("ulimit -c 0; {script}")]).output().unwrap();
        (output.status, first_words(output.stderr.as_slice()))
    }

    #[test]
    fn a_death_is_the_file_s_fault_unless_it_came_from_outside() {
        let class = |script: &str| {
            let (status, said) = end(script);
            fault(status, &said, 5.0).map(|fault| fault.class)
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
        let (status, said) = end(
            "printf 'thread main panicked at a.rs:1:\\nno such codec\\nnote: run with\\n' >&2; exit 101",
        );
        assert_eq!(
            fault(status, &said, 5.0).unwrap().reason,
            "its decoder panicked: thread main panicked at a.rs:1: no such codec"
        );
    }
}
