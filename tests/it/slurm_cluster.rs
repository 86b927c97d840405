//! Starts a real Slurm of two small nodes on this machine.
//!
//! Needs Debian's packages `slurm-wlm` and `munge`, and root: the controller and the nodes have
//! host names and process ids of their own. All daemons listen on loopback only.

use std::fs;
use std::net::TcpListener;
use std::os::unix::fs::MetadataExt;
use std::path::Path;
use std::process::{Command, Stdio};

use crate::machine::{Machine, logs, wait_until};

/// A running cluster. It ends with this value, or with the test process.
///
/// The partition `cpu`, the default, has the nodes `n1` and `n2`; the partition `gpu` has only
/// `n2`, with a pretended GPU. Each node has 4 CPUs and 16 GB of memory, if only on paper. A lost
/// node is noticed within 20 seconds.
pub struct SlurmCluster {
    // Nodes end before the controller.
    nodes: Vec<(String, Machine)>,
    _controller: Machine,
    folder: tempfile::TempDir,
}

const CONFIG: &str = "
ClusterName=lapo
SlurmctldHost=controller(127.0.0.1)
SlurmctldPort=@CONTROLLER_PORT@
SlurmUser=root
SlurmdUser=root
StateSaveLocation=@FOLDER@/state
SlurmdSpoolDir=@FOLDER@/%n
SlurmctldPidFile=@FOLDER@/slurmctld.pid
SlurmdPidFile=@FOLDER@/%n.pid
CommunicationParameters=NoInAddrAny,NoCtldInAddrAny
AuthType=auth/munge
# A requeued job waits until its old credential has expired.
AuthInfo=socket=@FOLDER@/munge.socket,cred_expire=5
ProctrackType=proctrack/linuxproc
TaskPlugin=task/none
JobAcctGatherType=jobacct_gather/none
AccountingStorageType=accounting_storage/none
MpiDefault=none
SelectType=select/cons_tres
SelectTypeParameters=CR_CPU_Memory
DefMemPerCPU=100
SlurmdParameters=config_overrides
SchedulerParameters=batch_sched_delay=0,sched_interval=1,sched_min_interval=0,bf_interval=1
MaxArraySize=@MAX_ARRAY_SIZE@
JobRequeue=1
ReturnToService=2
SlurmdTimeout=6
SlurmctldTimeout=10
MessageTimeout=3
TCPTimeout=1
KillWait=10
OverTimeLimit=0
GresTypes=gpu
NodeName=n1 NodeHostname=n1 NodeAddr=127.0.0.1 Port=@N1_PORT@ CPUs=4 RealMemory=16000
NodeName=n2 NodeHostname=n2 NodeAddr=127.0.0.1 Port=@N2_PORT@ CPUs=4 RealMemory=16000 Gres=gpu:1
PartitionName=cpu Nodes=n1,n2 Default=YES MaxTime=INFINITE State=UP
PartitionName=gpu Nodes=n2 MaxTime=INFINITE State=UP
";

impl SlurmCluster {
    /// Starts a cluster and waits until both nodes are idle.
    ///
    /// Returns `None` without Slurm or root, unless the environment variable `LAPO_SLURM` is set.
    pub fn start(max_array_size: u32) -> Option<SlurmCluster> {
        let is_root = fs::metadata("/proc/self").unwrap().uid() == 0;
        if !is_root || !Path::new("/usr/sbin/slurmctld").exists() {
            let is_wanted = std::env::var_os("LAPO_SLURM").is_some();
            assert!(!is_wanted, "LAPO_SLURM is set, but Slurm or root is missing");
            eprintln!("skipped: needs Slurm and root");
            return None;
        }
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().to_str().unwrap();
        fs::create_dir(folder.path().join("state")).unwrap();
        // All three are reserved until all are known.
        let reserved = [(); 3].map(|()| TcpListener::bind("127.0.0.1:0").unwrap());
        let [controller_port, n1_port, n2_port] =
            reserved.each_ref().map(|r| r.local_addr().unwrap().port().to_string());
        let config = CONFIG
            .replace("@FOLDER@", path)
            .replace("@CONTROLLER_PORT@", &controller_port)
            .replace("@N1_PORT@", &n1_port)
            .replace("@N2_PORT@", &n2_port)
            .replace("@MAX_ARRAY_SIZE@", &max_array_size.to_string());
        drop(reserved);
        fs::write(folder.path().join("slurm.conf"), config).unwrap();
        fs::write(folder.path().join("cgroup.conf"), "").unwrap();
        fs::write(folder.path().join("gres.conf"), "NodeName=n2 Name=gpu File=/dev/null\n")
            .unwrap();
        let controller = Machine::start(
            unshare(folder.path()),
            folder.path(),
            "controller",
            "head -c 128 /dev/urandom > munge.key
            chmod 600 munge.key
            munged --force --key-file=$PWD/munge.key --socket=$PWD/munge.socket \
                --pid-file=$PWD/munge.pid --log-file=$PWD/munge.log --seed-file=$PWD/munge.seed
            slurmctld -D -c &",
        );
        let mut cluster = SlurmCluster { nodes: Vec::new(), _controller: controller, folder };
        wait_until(30, || cluster.folder.path().join("munge.socket").exists(), || cluster.logs());
        cluster.start_node("n1");
        cluster.start_node("n2");
        let idle = || {
            let mut states = cluster.command("sinfo");
            lines(states.args(["-h", "-N", "-p", "cpu", "-o", "%N %t"])) == ["n1 idle", "n2 idle"]
        };
        wait_until(30, idle, || cluster.logs());
        Some(cluster)
    }

    /// Returns a command that finds this cluster, not yet started.
    pub fn command(&self, program: &str) -> Command {
        let mut command = Command::new(program);
        command.env("SLURM_CONF", self.folder.path().join("slurm.conf"));
        command
    }

    /// Ends all processes of a node at once, as a loss of power would.
    ///
    /// The controller notices it after 12 seconds and requeues the node's jobs, which start 6
    /// seconds later. A node that is started before that does not shorten it: its jobs are
    /// missed after a minute, because the machine's boot time is still the same.
    pub fn kill_node(&mut self, name: &str) {
        self.nodes.retain(|(node, _)| node != name);
    }

    /// Starts a node, again or for the first time. It gets jobs after a second or two.
    pub fn start_node(&mut self, name: &str) {
        let node = Machine::start(
            unshare(self.folder.path()),
            self.folder.path(),
            name,
            &format!("slurmd -D -N {name} &"),
        );
        self.nodes.push((name.to_owned(), node));
    }

    /// Returns a line `ID NAME STATE NODE-OR-REASON` for each unfinished job or array element.
    pub fn jobs(&self) -> Vec<String> {
        lines(self.command("squeue").args(["-h", "-r", "-o", "%i %j %T %R"]))
    }

    /// Returns the last lines of all logs.
    pub fn logs(&self) -> String {
        logs(self.folder.path(), &["controller.log", "munge.log", "n1.log", "n2.log"])
    }
}

/// Returns the program that starts a machine of the cluster in `folder`.
fn unshare(folder: &Path) -> Command {
    let mut command = Command::new("unshare");
    command.env("SLURM_CONF", folder.join("slurm.conf"));
    command
}

/// Returns the sorted lines of a command's output; none if it fails.
fn lines(command: &mut Command) -> Vec<String> {
    let output = command.stdin(Stdio::null()).output().unwrap();
    let mut lines: Vec<_> =
        String::from_utf8_lossy(&output.stdout).lines().map(str::to_owned).collect();
    lines.sort();
    lines
}
