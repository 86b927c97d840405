//! `lapo decoder`: the child process that decodes videos for a run, with limited memory and in a
//! sandbox. Users do not call it; [`launch`] returns its command line.

use std::io::{BufReader, BufWriter, Error as IoError, stdin, stdout};
use std::path::PathBuf;

use clap::Args as ClapArgs;
use rustix::process::{Resource, Rlimit, setrlimit};

use super::doctor::meminfo_gib;
use super::sandbox;
use super::signals::leave_signals_to_the_parent;
use crate::error::CommandError as Error;
use crate::error::Result;
use crate::stages::decode::decoder_process::{DecoderCommand, STUCK};
use crate::stages::decode::remote_video::ParentPipes;
use crate::stages::decode::serve::serve;

/// Default memory limit of a decoder, and the most it gets by default: more than real videos need.
const DEFAULT_GIB: f64 = 4.0;
/// Memory that any real video needs on one thread, such as 4K with 10 bits per sample. More threads
/// do not reduce it.
const NEEDED_GIB: f64 = 1.0;
/// A decoder with less memory does not even start.
const MIN_GIB: f64 = 0.05;

/// Arguments of `lapo decoder`.
#[derive(Debug, ClapArgs)]
pub struct DecoderArgs {
    /// Memory limit, in GiB
    #[arg(long, value_name = "GIB")]
    pub memory_gib: f64,
}

/// Returns how to start a decoder, for a run with this many threads. Without `memory_gib`, the
/// limit depends on the machine's memory.
pub fn launch(memory_gib: Option<f64>, threads: usize) -> Result<DecoderCommand, Error> {
    let memory_gib =
        memory_gib.unwrap_or_else(|| default_memory_gib(meminfo_gib("MemTotal:"), threads));
    if !(MIN_GIB..=1e6).contains(&memory_gib) {
        return Err(Error::Usage {
            what: format!("--decoder-memory-gib {memory_gib}: expected at least {MIN_GIB}"),
            hint: "omit the flag, or give a number of GiB, such as 4".into(),
        });
    }
    // The running program, even if an update replaces its file meanwhile.
    let own = PathBuf::from("/proc/self/exe");
    let program = if own.exists() {
        own
    } else {
        std::env::current_exe().map_err(|source| input("this program's path", source))?
    };
    let args = vec!["decoder".into(), "--memory-gib".into(), memory_gib.to_string().into()];
    Ok(DecoderCommand { program, args })
}

/// Returns each decoder's share of half of the machine's memory, but at least what a video needs.
fn default_memory_gib(machine_gib: Option<f64>, threads: usize) -> f64 {
    let half = machine_gib.map_or(DEFAULT_GIB, |machine| machine / 2.0);
    (half / threads.max(1) as f64).max(NEEDED_GIB.min(half)).clamp(MIN_GIB, DEFAULT_GIB)
}

/// Decodes the videos requested on stdin, until stdin ends.
pub fn run(args: &DecoderArgs) -> Result<()> {
    leave_signals_to_the_parent()?;
    let limit = |resource, maximum| {
        let limit = Rlimit { current: Some(maximum), maximum: Some(maximum) };
        setrlimit(resource, limit).map_err(|cause| input("the limit of this process", cause.into()))
    };
    // Limits the heap and private mappings. A limit of the address space would also count memory
    // that is reserved and never used.
    limit(Resource::Data, (args.memory_gib * f64::from(1 << 30)) as u64)?;
    // A decoder killed by a bad video is a normal outcome: it needs no core dump.
    limit(Resource::Core, 0)?;
    // A kernel without these mechanisms is no error, since the process starts without open files,
    // addresses and secrets. `lapo doctor` reports the difference.
    sandbox::enter();
    let line = ParentPipes {
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
    fn a_decoder_gets_the_memory_a_video_needs_on_any_number_of_threads() {
        assert_eq!(default_memory_gib(Some(23.5), 2), DEFAULT_GIB);
        for threads in [16, 96, 128, 1024] {
            assert!(default_memory_gib(Some(23.5), threads) >= NEEDED_GIB, "{threads} threads");
        }
        assert!((default_memory_gib(Some(1.0), 64) - 0.5).abs() < 1e-9, "half of a small machine");
        assert_eq!(default_memory_gib(None, 1), DEFAULT_GIB);
    }
}
