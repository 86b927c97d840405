//! Identifies a process, to find out whether the owner of a pin has ended.
//!
//! [`Process::has_ended`] returns true only if it is certain: on the same boot of the same machine,
//! in the same PID namespace. A process of another machine or container counts as alive.

use std::fs;

use rustix::process::{Pid, Signal, kill_process};
use serde::{Deserialize, Serialize};

/// A process, distinct from later processes with the same PID.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Process {
    /// The machine's boot id and the PID namespace; a PID is unique only within both.
    place: String,
    /// The PID.
    pid: u32,
    /// The start time, in the kernel's clock ticks since the boot.
    started: u64,
}

impl Process {
    /// Returns this process, or `None` on systems without `/proc`.
    #[must_use]
    pub fn this() -> Option<Self> {
        let pid = std::process::id();
        Some(Self { place: current_place()?, pid, started: started(pid)? })
    }

    /// Returns whether the process has certainly ended.
    #[must_use]
    pub fn has_ended(&self) -> bool {
        current_place().is_some_and(|here| here == self.place)
            && started(self.pid) != Some(self.started)
    }

    /// Returns whether the process certainly runs, in this boot and PID namespace.
    #[must_use]
    pub fn is_running_here(&self) -> bool {
        current_place().is_some_and(|here| here == self.place)
            && started(self.pid) == Some(self.started)
    }

    /// Asks the process to end if it runs here, or ends it at once.
    pub fn end(&self, at_once: bool) {
        let signal = if at_once { Signal::KILL } else { Signal::TERM };
        let pid = i32::try_from(self.pid).ok().and_then(Pid::from_raw);
        if let Some(pid) = pid.filter(|_| self.is_running_here()) {
            // It may end by itself at this moment.
            _ = kill_process(pid, signal);
        }
    }
}

/// Returns the host name of this machine.
#[must_use]
pub fn host() -> String {
    rustix::system::uname().nodename().to_string_lossy().into_owned()
}

/// Returns the boot id and the PID namespace of this process.
fn current_place() -> Option<String> {
    let boot = fs::read_to_string("/proc/sys/kernel/random/boot_id").ok()?;
    let namespace = fs::read_link("/proc/self/ns/pid").ok()?;
    Some(format!("{} {}", boot.trim(), namespace.display()))
}

/// Returns the start time of a running process, or `None` if it has ended or is a zombie.
fn started(pid: u32) -> Option<u64> {
    let stat = fs::read_to_string(format!("/proc/{pid}/stat")).ok()?;
    // The second field, the program's name, may hold anything, brackets and spaces included.
    let mut fields = stat.rsplit_once(')')?.1.split_whitespace();
    if fields.next()? == "Z" {
        return None;
    }
    // Field 22 of the file, `starttime`.
    fields.nth(18)?.parse().ok()
}

#[cfg(test)]
#[expect(clippy::unwrap_used, reason = "a test fails by panicking")]
mod tests {
    use super::*;

    #[test]
    fn a_process_has_ended_when_its_pid_is_free_or_reused() {
        let this = Process::this().unwrap();
        assert!(!this.has_ended());
        assert!(
            Process { started: this.started + 1, ..this.clone() }.has_ended(),
            "another process has this PID now"
        );
        assert!(
            !Process { place: "another machine".into(), started: 0, ..this.clone() }.has_ended(),
            "a process of another machine counts as alive"
        );
        let mut child = std::process::Command::new("true").spawn().unwrap();
        let pid = child.id();
        child.wait().unwrap();
        assert!(Process { pid, ..this }.has_ended());
    }
}
