//! `lapo decoder`: a process that decodes for a run, with bounded memory, and can do nothing else. Nobody types it.

use std::io::{BufReader, BufWriter, Error as IoError, stdin, stdout};
use std::path::PathBuf;

use rustix::process::{Resource, Rlimit, setrlimit};

use super::Error;
use super::args::{Computing, Decoder};
use super::doctor::memory_gib;
use super::sandbox;
use super::signals::leave_signals_to_the_parent;
use crate::error::Result;
use crate::stages::decode::borrowed::Line;
use crate::stages::decode::child::{Launch, STUCK};
use crate::stages::decode::serve::serve;

/// Most memory a decoder may take by default: above what any video in use asks for.
const ENOUGH_GIB: f64 = 4.0;
/// What any video in use needs on one thread, 4K with ten bits a sample among them: cores do not lessen it.
const NEEDED_GIB: f64 = 1.0;
/// With less it does not even start.
const LEAST_GIB: f64 = 0.05;

/// How a run of so many threads starts it.
pub fn launch(computing: &Computing, threads: usize) -> Result<Launch, Error> {
    let memory = computing
        .decoder_memory_gib
        .unwrap_or_else(|| memory_of_each(memory_gib("MemTotal:"), threads));
    if !(LEAST_GIB..=1e6).contains(&memory) {
        return Err(Error::Usage {
            what: format!("--decoder-memory-gib {memory}: expected at least {LEAST_GIB}"),
            hint: "leave it out, or give GiB, such as 4".into(),
        });
    }
    // This program, whatever is installed in its place while it runs.
    let own = PathBuf::from("/proc/self/exe");
    let program = if own.exists() {
        own
    } else {
        std::env::current_exe().map_err(|source| input("this program's path", source))?
    };
    let args = vec!["decoder".into(), "--memory-gib".into(), memory.to_string().into()];
    Ok(Launch { program, args })
}

/// The GiB each of so many decoders may take of a machine's memory: half of it among them all, and never less than a video needs.
fn memory_of_each(all_gib: Option<f64>, threads: usize) -> f64 {
    let half = all_gib.map_or(ENOUGH_GIB, |all| all / 2.0);
    (half / threads.max(1) as f64).max(NEEDED_GIB.min(half)).clamp(LEAST_GIB, ENOUGH_GIB)
}

/// Decodes what is asked for on stdin, until that ends.
pub fn run(args: &Decoder) -> Result<()> {
    leave_signals_to_the_parent()?;
    let limit = |resource, most| {
        let limit = Rlimit { current: Some(most), maximum: Some(most) };
        setrlimit(resource, limit).map_err(|cause| input("the limit of this process", cause.into()))
    };
    limit(Resource::Data, (args.memory_gib * f64::from(1 << 30)) as u64)?;
    // Its death is an outcome; nobody wants its core.
    limit(Resource::Core, 0)?;
    // Where the kernel cannot hold it, it still has no file, no address and no secret to begin with; `lapo doctor` says so.
    sandbox::enter();
    let line = Line {
        requests: Box::new(BufReader::with_capacity(1 << 18, stdin())),
        replies: Box::new(BufWriter::with_capacity(1 << 16, stdout())),
    };
    let served = serve(line, || std::process::exit(STUCK.into()));
    Ok(served.map_err(|source| Error::Output { to: "stdout".into(), source })?)
}

fn input(from: &str, source: IoError) -> Error {
    Error::Input { from: from.into(), source }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn more_cores_never_leave_a_decoder_less_than_a_video_needs() {
        assert_eq!(memory_of_each(Some(23.5), 2), ENOUGH_GIB);
        for threads in [16, 96, 128, 1024] {
            assert!(memory_of_each(Some(23.5), threads) >= NEEDED_GIB, "{threads} threads");
        }
        assert!((memory_of_each(Some(1.0), 64) - 0.5).abs() < 1e-9, "half of a small machine");
        assert_eq!(memory_of_each(None, 1), ENOUGH_GIB);
    }
}
