//! The identity of a process, to find out whether the owner of a pin has ended.
//!
//! [`Process::has_ended`] is true only if that is certain: on the same boot of the same machine, in the same PID namespace. A process of
//! another machine or container counts as alive.

use std::fs;

use serde::{Deserialize, Serialize};

/// A process, distinct from later processes with the same PID.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Process {
    /// The machine's boot and the namespace in which the number means something.
    place: String,
    /// The process' number.
    pid: u32,
    /// When it began, in the kernel's ticks since the boot.
    started: u64,
}

impl Process {
    /// Returns this process; `None` on systems without `/proc`.
    #[must_use]
    pub fn this() -> Option<Self> {
        let pid = std::process::id();
        Some(Self { place: place()?, pid, started: started(pid)? })
    }

    /// Whether it is certain that the process has ended.
    #[must_use]
    pub fn has_ended(&self) -> bool {
        place().is_some_and(|here| here == self.place) && started(self.pid) != Some(self.started)
    }
}

/// The machine's name.
#[must_use]
pub fn host() -> String {
    rustix::system::uname().nodename().to_string_lossy().into_owned()
}

fn place() -> Option<String> {
    let boot = fs::read_to_string("/proc/sys/kernel/random/boot_id").ok()?;
    let namespace = fs::read_link("/proc/self/ns/pid").ok()?;
    Some(format!("{} {}", boot.trim(), namespace.display()))
}

/// Returns when a process began; `None` if there is none, or only a zombie.
fn started(pid: u32) -> Option<u64> {
    let stat = fs::read_to_string(format!("/proc/{pid}/stat")).ok()?;
    // The second field, the program's name, may hold anything, brackets and spaces included.
    let mut fields = stat.rsplit_once(')')?.1.split_whitespace();
    if fields.next()? == "Z" {
        return None;
    }
    fields.nth(18)?.parse().ok()
}

#[cfg(test)]
#[expect(clippy::unwrap_used, reason = "a test fails by panicking")]
mod tests {
    use super::*;

    #[test]
    fn a_process_has_ended_when_its_number_is_free_or_another_s() {
        let this = Process::this().unwrap();
        assert!(!this.has_ended());
        assert!(
            Process { started: this.started + 1, ..this.clone() }.has_ended(),
            "another process has its number now"
        );
        assert!(
            !Process { place: "another machine".into(), started: 0, ..this.clone() }.has_ended(),
            "nothing is known of it"
        );
        let mut child = std::process::Command::new("true").spawn().unwrap();
        let pid = child.id();
        child.wait().unwrap();
        assert!(Process { pid, ..this }.has_ended());
    }
}
