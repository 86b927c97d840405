//! The sandbox of a decoder process, so that a security hole in libav is not one in the workspace. A sandboxed process cannot open files,
//! use the network or start programs. Start at [`enter`], which returns what the kernel enforces.
//!
//! Landlock denies files and TCP, on kernels that have it. A seccomp filter denies sockets, new programs and access to other processes. A
//! decoder reads and writes only the pipes that it was started with.

/// What the kernel denies to this thread and the threads that it starts.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Sandbox {
    /// Whether no file can be opened, created or deleted.
    pub files: bool,
    /// Whether no socket can be opened, no program started and no other process reached.
    pub network: bool,
}

/// Enters the sandbox; a thread cannot leave it again.
#[cfg(target_os = "linux")]
pub fn enter() -> Sandbox {
    Sandbox { files: close_files().unwrap_or(false), network: close_network().is_ok() }
}

/// Does nothing: only Linux has these mechanisms.
#[cfg(not(target_os = "linux"))]
pub fn enter() -> Sandbox {
    Sandbox { files: false, network: false }
}

/// Denies every access to files and TCP that Landlock knows; returns whether the kernel enforces it.
#[cfg(target_os = "linux")]
fn close_files() -> Result<bool, landlock::RulesetError> {
    use landlock::{ABI, Access, AccessFs, AccessNet, Ruleset, RulesetAttr, RulesetStatus};
    let newest = ABI::V5;
    let rules = Ruleset::default()
        .handle_access(AccessFs::from_all(newest))?
        .handle_access(AccessNet::from_all(newest))?;
    let status = rules.create()?.restrict_self()?;
    Ok(status.ruleset != RulesetStatus::NotEnforced)
}

/// Denies the system calls that reach the network, other processes or other programs.
#[cfg(target_os = "linux")]
fn close_network() -> Result<(), Box<dyn std::error::Error>> {
    use std::collections::BTreeMap;

    use seccompiler::{BpfProgram, SeccompAction, SeccompFilter, apply_filter};
    let refused = [
        libc::SYS_socket,
        libc::SYS_connect,
        libc::SYS_bind,
        libc::SYS_io_uring_setup,
        libc::SYS_execve,
        libc::SYS_execveat,
        libc::SYS_ptrace,
        libc::SYS_process_vm_readv,
        libc::SYS_process_vm_writev,
        libc::SYS_pidfd_getfd,
        libc::SYS_kill,
    ];
    let rules: BTreeMap<i64, Vec<_>> = refused.into_iter().map(|call| (call, Vec::new())).collect();
    let denied = SeccompAction::Errno(libc::EACCES as u32);
    let filter = SeccompFilter::new(
        rules,
        SeccompAction::Allow,
        denied,
        std::env::consts::ARCH.try_into()?,
    )?;
    apply_filter(&BpfProgram::try_from(filter)?)?;
    Ok(())
}

/// Returns what this machine's kernel denies to a decoder, tried out on a new thread.
pub fn tried() -> Sandbox {
    std::thread::spawn(|| {
        let entered = enter();
        let opens = std::fs::File::open("/").is_ok();
        let talks = std::net::UdpSocket::bind("127.0.0.1:0").is_ok();
        Sandbox { files: entered.files && !opens, network: entered.network && !talks }
    })
    .join()
    .unwrap_or(Sandbox { files: false, network: false })
}

#[cfg(all(test, target_os = "linux"))]
#[expect(clippy::unwrap_used, reason = "a test fails by panicking")]
#[expect(clippy::print_stderr, reason = "a test says what it skips")]
mod tests {
    use std::fs::File;
    use std::net::{TcpListener, TcpStream, UdpSocket};
    use std::process::Command;

    use super::*;

    /// Does something in a sandbox, on a thread of its own.
    fn within<T: Send + 'static>(work: impl FnOnce() -> T + Send + 'static) -> (Sandbox, T) {
        std::thread::spawn(|| (enter(), work())).join().unwrap()
    }

    #[test]
    fn a_decoder_that_misbehaves_reaches_no_file() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("labels.parquet");
        std::fs::write(&path, "kept").unwrap();
        let (own, new) = (path.clone(), folder.path().join("new"));
        let (sandbox, opened) = within(move || {
            let write = File::options().append(true).open(&own).is_ok();
            let moved = std::fs::rename(&own, own.with_extension("away")).is_ok();
            [
                File::open(&own).is_ok(),
                write,
                moved,
                File::create(&new).is_ok(),
                std::fs::remove_file(&own).is_ok(),
            ]
        });
        if !sandbox.files {
            eprintln!("SKIPPED: this kernel has no Landlock");
            return;
        }
        assert_eq!(opened, [false; 5]);
        assert_eq!(std::fs::read(&path).unwrap(), b"kept");
        assert!(File::open(&path).is_ok(), "only the decoder is held");
    }

    #[test]
    fn a_decoder_that_misbehaves_reaches_no_network_and_starts_no_program() {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let place = listener.local_addr().unwrap();
        let (sandbox, reached) = within(move || {
            [
                TcpStream::connect(place).is_ok(),
                UdpSocket::bind("127.0.0.1:0").is_ok(),
                Command::new("true").status().is_ok(),
            ]
        });
        assert_eq!((sandbox.network, reached), (true, [false; 3]));
        assert!(TcpStream::connect(place).is_ok(), "only the decoder is held");
    }
}
