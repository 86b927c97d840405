//! Pretended machines for clusters: namespaces of Linux with a host name of their own.

use std::fs;
use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

/// A PID namespace whose first process waits for the end of its stdin.
///
/// All its processes end with this value, as if it lost power, or with the test process.
pub struct Machine {
    child: Child,
}

impl Machine {
    /// Starts a machine in `folder` and runs a shell script there.
    ///
    /// `unshare` is that program, perhaps with other arguments. What the script and its background
    /// processes print goes to `NAME.log`. The machine outlives them.
    pub fn start(mut unshare: Command, folder: &Path, name: &str, script: &str) -> Machine {
        let log = fs::File::options()
            .create(true)
            .append(true)
            .open(folder.join(format!("{name}.log")))
            .unwrap();
        fs::write(folder.join(format!("{name}.hosts")), format!("127.0.0.1 localhost {name}\n"))
            .unwrap();
        // The shell itself only waits, in a child, and reaps processes that lost their parent.
        let script = format!(
            "echo {name} > /proc/sys/kernel/hostname
            mount --bind {name}.hosts /etc/hosts
            {{
            {script}
            }} < /dev/null &
            cat > /dev/null
            exit"
        );
        let path = std::env::var("PATH").unwrap_or_default();
        let child = unshare
            .args(["--uts", "--pid", "--fork", "--kill-child", "--mount-proc", "sh", "-c"])
            .arg(script)
            .current_dir(folder)
            .env("PATH", format!("{path}:/usr/sbin:/sbin"))
            .stdin(Stdio::piped())
            .stdout(log.try_clone().unwrap())
            .stderr(log)
            .spawn()
            .unwrap();
        Machine { child }
    }

    /// Returns the id of a process in the namespaces of this machine, except for PIDs.
    pub fn id(&self) -> u32 {
        self.child.id()
    }
}

impl Drop for Machine {
    /// The kernel kills all processes of the namespace when its first one has ended.
    fn drop(&mut self) {
        drop(self.child.stdin.take());
        let _ = self.child.wait();
    }
}

/// Returns the last lines of logs in a folder.
pub fn logs(folder: &Path, names: &[&str]) -> String {
    let mut all = String::new();
    for name in names {
        let log = fs::read(folder.join(name)).unwrap_or_default();
        let log = String::from_utf8_lossy(&log[log.len().saturating_sub(3000)..]);
        all += &format!("{name}: {log}\n");
    }
    all
}

/// Waits for a condition. Panics with the text of `why` after so many seconds.
pub fn wait_until(seconds: u64, condition: impl Fn() -> bool, why: impl Fn() -> String) {
    let start = Instant::now();
    while !condition() {
        assert!(start.elapsed() < Duration::from_secs(seconds), "{}", why());
        std::thread::sleep(Duration::from_millis(50));
    }
}
