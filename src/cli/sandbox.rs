//! The sandbox of a decoder process: a security hole in libav must not expose the workspace.
//!
//! A sandboxed process cannot open files, use the network or start programs. It reads and writes
//! only the pipes it was started with. Landlock denies files and TCP, on kernels with Landlock; a
//! seccomp filter denies sockets, new programs and access to other processes. Start at [`enter`].

/// What the kernel denies to this thread and the threads it starts.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Sandbox {
    /// The kernel denies opening, creating and deleting files.
    pub files: bool,
    /// The kernel denies sockets, new programs and access to other processes.
    pub network: bool,
}

/// Enters the sandbox, for good; returns what the kernel enforces.
#[cfg(target_os = "linux")]
pub fn enter() -> Sandbox {
    Sandbox { files: deny_files().unwrap_or(false), network: deny_network().is_ok() }
}

/// Does nothing: Landlock and seccomp exist only on Linux.
#[cfg(not(target_os = "linux"))]
pub fn enter() -> Sandbox {
    Sandbox { files: false, network: false }
}

/// Denies all file and TCP access with Landlock; returns whether the kernel enforces it.
#[cfg(target_os = "linux")]
fn deny_files() -> Result<bool, landlock::RulesetError> {
    use landlock::{ABI, Access, AccessFs, AccessNet, Ruleset, RulesetAttr, RulesetStatus};
    // Older kernels enforce the part of these rules that they support.
    let newest = ABI::V5;
    let rules = Ruleset::default()
        .handle_access(AccessFs::from_all(newest))?
        .handle_access(AccessNet::from_all(newest))?;
    let status = rules.create()?.restrict_self()?;
    Ok(status.ruleset != RulesetStatus::NotEnforced)
}

/// Denies the system calls for sockets, new programs and other processes with seccomp.
#[cfg(target_os = "linux")]
fn deny_network() -> Result<(), Box<dyn std::error::Error>> {
    use std::collections::BTreeMap;

    use seccompiler::{BpfProgram, SeccompAction, SeccompFilter, apply_filter};
    let denied_calls = [
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
    // A call without conditions is denied whatever its arguments are.
    let rules: BTreeMap<i64, Vec<_>> =
        denied_calls.into_iter().map(|call| (call, Vec::new())).collect();
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

/// Returns what this machine's kernel denies to a decoder, tested on a new thread.
pub fn probe() -> Sandbox {
    std::thread::spawn(|| {
        let sandbox = enter();
        let opens_files = std::fs::File::open("/").is_ok();
        let opens_sockets = std::net::UdpSocket::bind("127.0.0.1:0").is_ok();
        Sandbox { files: sandbox.files && !opens_files, network: sandbox.network && !opens_sockets }
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

    /// Runs `work` in a sandbox, on a new thread.
    fn in_sandbox<T: Send + 'static>(work: impl FnOnce() -> T + Send + 'static) -> (Sandbox, T) {
        std::thread::spawn(|| (enter(), work())).join().unwrap()
    }

    #[test]
    fn a_sandboxed_thread_cannot_touch_files() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("labels.parquet");
        std::fs::write(&path, "kept").unwrap();
        let own = path.clone();
        let new = folder.path().join("new");
        let (sandbox, opened) = in_sandbox(move || {
            let appended = File::options().append(true).open(&own).is_ok();
            let moved = std::fs::rename(&own, own.with_extension("away")).is_ok();
            [
                File::open(&own).is_ok(),
                appended,
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
        assert!(File::open(&path).is_ok(), "only the sandboxed thread is restricted");
    }

    #[test]
    fn a_sandboxed_thread_cannot_use_the_network_or_start_programs() {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let address = listener.local_addr().unwrap();
        let (sandbox, reached) = in_sandbox(move || {
            [
                TcpStream::connect(address).is_ok(),
                UdpSocket::bind("127.0.0.1:0").is_ok(),
                Command::new("true").status().is_ok(),
            ]
        });
        assert_eq!((sandbox.network, reached), (true, [false; 3]));
        assert!(TcpStream::connect(address).is_ok(), "only the sandboxed thread is restricted");
    }
}
