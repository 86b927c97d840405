//! Starts a real Ray of two small nodes on this machine.
//!
//! Needs a Python with `ray[default]`, and root: the nodes have host names and process ids of
//! their own, and one network namespace with nothing but loopback.

use std::path::Path;
use std::process::Command;

use crate::machine::{Machine, logs, wait_until};

/// A running cluster of a head and one more node with 2 CPUs each.
///
/// It ends with this value, or with the test process. Starting takes 12 seconds and 0.8 GB of
/// memory, so tests should share one.
pub struct RayCluster {
    node: Option<Machine>,
    head: Machine,
    python: String,
    token: Option<String>,
    folder: tempfile::TempDir,
}

/// The address of the Jobs API for programs started by `RayCluster::command`.
pub const ADDRESS: &str = "http://127.0.0.1:8265";

impl RayCluster {
    /// Starts a cluster, perhaps with token authentication, and waits until both nodes are ready.
    ///
    /// Returns `None` unless the environment variable `LAPO_RAY` names a Python with Ray.
    pub fn start(token: Option<&str>) -> Option<RayCluster> {
        let Ok(python) = std::env::var("LAPO_RAY") else {
            eprintln!("skipped: LAPO_RAY names no Python with Ray");
            return None;
        };
        // Ray's sockets are some folders below; their paths have at most 107 bytes.
        let folder = tempfile::tempdir_in("/tmp").unwrap();
        let token = token.map(str::to_owned);
        let mut unshare = ray(Command::new("unshare"), token.as_deref());
        unshare.arg("--net");
        let script = format!(
            "ip link set lo up
            {python} -m ray.scripts.scripts start --head --node-ip-address=127.0.0.1 --port=6379 \
                --num-cpus=2 --num-gpus=0 --object-store-memory=80000000 --temp-dir=$PWD/ray \
                --dashboard-host=127.0.0.1 --dashboard-port=8265 --no-monitor \
                --disable-usage-stats
            echo $? > head.new && mv head.new head.status"
        );
        let head = Machine::start(unshare, folder.path(), "head", &script);
        let own = std::fs::read_link("/proc/self/ns/net").unwrap();
        let namespace = Path::new("/proc").join(head.id().to_string()).join("ns/net");
        let separate = || std::fs::read_link(&namespace).is_ok_and(|namespace| namespace != own);
        wait_until(10, separate, || logs(folder.path(), &["head.log"]));
        let mut cluster = RayCluster { node: None, head, python, token, folder };
        // Both start at the same time.
        cluster.start_node();
        cluster.wait_for("head");
        cluster.wait_for_node();
        Some(cluster)
    }

    /// Returns a command inside the cluster's network, not yet started.
    pub fn command(&self, program: &str) -> Command {
        let mut command = Command::new("nsenter");
        command.args(["--net", "--target", &self.head.id().to_string(), "--", program]);
        command
    }

    /// Ends all processes of the second node at once, as a loss of power would.
    ///
    /// Its tasks run again after some 6 seconds, if they have retries left.
    pub fn kill_node(&mut self) {
        self.node = None;
    }

    /// Starts the second node, without waiting for it.
    pub fn start_node(&mut self) {
        let _ = std::fs::remove_file(self.folder.path().join("node.status"));
        let script = format!(
            "until {python} -c 'import socket; socket.create_connection((\"127.0.0.1\", 6379))'
            do sleep 0.1; done 2> /dev/null
            {python} -m ray.scripts.scripts start --address=127.0.0.1:6379 \
                --node-ip-address=127.0.0.2 --num-cpus=2 --num-gpus=0 \
                --object-store-memory=80000000 --disable-usage-stats
            echo $? > node.new && mv node.new node.status",
            python = self.python
        );
        let unshare = ray(self.command("unshare"), self.token.as_deref());
        self.node = Some(Machine::start(unshare, self.folder.path(), "node", &script));
    }

    /// Waits until the second node takes tasks.
    pub fn wait_for_node(&self) {
        self.wait_for("node");
    }

    /// Waits until `ray start` of a node has succeeded.
    fn wait_for(&self, name: &str) {
        let status = self.folder.path().join(format!("{name}.status"));
        wait_until(120, || status.exists(), || self.logs());
        assert!(std::fs::read_to_string(status).unwrap() == "0\n", "{}", self.logs());
    }

    /// Returns the last lines of the logs of both nodes.
    pub fn logs(&self) -> String {
        logs(self.folder.path(), &["head.log", "node.log"])
    }
}

/// Sets the environment of Ray's daemons, which jobs inherit.
fn ray(mut command: Command, token: Option<&str>) -> Command {
    command
        .env("RAY_USAGE_STATS_ENABLED", "0")
        .env("RAY_health_check_period_ms", "1000")
        .env_remove("RAY_ADDRESS");
    match token {
        Some(token) => command.env("RAY_AUTH_MODE", "token").env("RAY_AUTH_TOKEN", token),
        None => command.env("RAY_AUTH_MODE", "disabled"),
    };
    command
}
