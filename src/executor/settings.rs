//! The settings of executors that start workers elsewhere: `lapo run --executor-config FILE`.
//!
//! None of them changes a result.

use std::collections::BTreeMap;

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use super::engine::Error;

/// Settings of `--executor` and of the files that `lapo plan` writes for other engines.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(default, deny_unknown_fields)]
pub struct ExecutorSettings {
    /// Path of lapo on the machines of the workers. Default: the path of the running program.
    pub lapo: Option<String>,
    /// Number of partitions that one worker does. More partitions mean fewer starts of workers and
    /// fewer jobs. Default 1.
    pub partitions_per_worker: usize,
    /// Greatest number of concurrent workers. Default: no limit but the engine's; on this machine,
    /// as many as its cores allow.
    pub max_workers: Option<usize>,
    /// How often a worker that ended without its results is started again. Default 3.
    pub restarts: usize,
    /// The first workers start within this many seconds after the plan was made, so that not all
    /// reach the store at once. Default: a second for every 200 workers, at most 60.
    pub stagger_secs: Option<u64>,
    /// More arguments of `lapo worker`, such as `["--device", "cuda:0"]`.
    pub worker_arguments: Vec<String>,
    /// Folder for logs of workers, on a disk that all machines share. Default: `logs` in the
    /// plan's folder; if the workspace is an object store, `lapo-logs` in the current folder.
    pub logs: Option<String>,
    /// Settings of Slurm.
    pub slurm: SlurmSettings,
    /// Settings of Ray.
    pub ray: RaySettings,
    /// Settings of Kubernetes.
    pub kubernetes: KubernetesSettings,
}

impl Default for ExecutorSettings {
    fn default() -> Self {
        ExecutorSettings {
            lapo: None,
            partitions_per_worker: 1,
            max_workers: None,
            restarts: 3,
            stagger_secs: None,
            worker_arguments: vec![],
            logs: None,
            slurm: SlurmSettings::default(),
            ray: RaySettings::default(),
            kubernetes: KubernetesSettings::default(),
        }
    }
}

/// Settings of Slurm: `lapo run --executor slurm` and `lapo plan --sbatch`.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(default, deny_unknown_fields)]
pub struct SlurmSettings {
    /// Resources of tasks that need no GPU, such as decoding.
    pub cpu: SlurmResources,
    /// Resources of tasks that a GPU makes faster, such as training and labelling. What is not set
    /// here is as for `cpu`.
    pub gpu: SlurmResources,
    /// Shell lines before lapo starts, such as `module load ffmpeg` or `source env.sh`.
    pub prologue: String,
    /// Words in front of lapo, such as `["apptainer", "exec", "--nv", "lapo.sif"]`.
    pub container: Vec<String>,
    /// Greatest number of elements of a job array. Default: `MaxArraySize` of the cluster.
    pub max_array_size: Option<usize>,
    /// Seconds before the time limit at which a training writes a checkpoint and ends, to be
    /// started again. Default 120.
    pub grace_secs: u32,
}

impl Default for SlurmSettings {
    fn default() -> Self {
        SlurmSettings {
            cpu: SlurmResources::default(),
            gpu: SlurmResources::default(),
            prologue: String::new(),
            container: vec![],
            max_array_size: None,
            grace_secs: 120,
        }
    }
}

/// Where and with which resources Slurm runs tasks.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(default, deny_unknown_fields)]
pub struct SlurmResources {
    /// Partition of the cluster. Default: the cluster's.
    pub partition: Option<String>,
    /// Account. Default: the user's.
    pub account: Option<String>,
    /// Quality of service. Default: the account's.
    pub qos: Option<String>,
    /// Time limit as Slurm writes it, such as `04:00:00`. Default: the partition's.
    pub time: Option<String>,
    /// Generic resources of a task. Default `gpu:1` for `gpu` if the partition has GPUs, else none.
    pub gres: Option<String>,
    /// Cores of a task. Default: what its stage needs, at most those of the largest node.
    pub cores: Option<u32>,
    /// Memory of a task in MiB; 0 leaves it to the cluster. Default: what its stage needs, at most
    /// that of the largest node.
    pub memory_mib: Option<u64>,
    /// More arguments of `sbatch`, such as `["--mail-type=FAIL"]`.
    pub arguments: Vec<String>,
}

/// Settings of Ray: `lapo run --executor ray`.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(default, deny_unknown_fields)]
pub struct RaySettings {
    /// Address of the cluster's dashboard. Default: the environment variable `RAY_API_SERVER_ADDRESS`,
    /// or `http://127.0.0.1:8265`.
    pub address: Option<String>,
    /// More headers of every request. A token in the environment variable `RAY_AUTH_TOKEN` is sent
    /// as `Authorization: Bearer TOKEN` by itself.
    pub headers: BTreeMap<String, String>,
    /// The runtime environment of the job as Ray defines it, such as `env_vars`.
    pub runtime_env: serde_json::Map<String, serde_json::Value>,
    /// Python on the nodes. Default `python3`.
    pub python: String,
}

impl Default for RaySettings {
    fn default() -> Self {
        RaySettings {
            address: None,
            headers: BTreeMap::new(),
            runtime_env: serde_json::Map::new(),
            python: "python3".into(),
        }
    }
}

/// Settings of Kubernetes: `lapo plan --kubernetes`.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(default, deny_unknown_fields)]
pub struct KubernetesSettings {
    /// Image of the container, with lapo in it. Default `lapo:VERSION`.
    pub image: Option<String>,
    /// Namespace of the jobs. Default: that of `kubectl`.
    pub namespace: Option<String>,
    /// Resource that stands for a GPU. Default `nvidia.com/gpu`.
    pub gpu: String,
    /// More fields of the pod, such as `volumes`, `nodeSelector` or `serviceAccountName`.
    pub pod: serde_json::Map<String, serde_json::Value>,
    /// More fields of the container, such as `volumeMounts`, `env` or `envFrom`.
    pub container: serde_json::Map<String, serde_json::Value>,
}

impl Default for KubernetesSettings {
    fn default() -> Self {
        KubernetesSettings {
            image: None,
            namespace: None,
            gpu: "nvidia.com/gpu".into(),
            pod: serde_json::Map::new(),
            container: serde_json::Map::new(),
        }
    }
}

impl ExecutorSettings {
    /// Returns an error if a number that must be at least 1 is 0.
    pub fn check(&self) -> Result<(), Error> {
        let numbers = [
            ("partitions_per_worker", Some(self.partitions_per_worker)),
            ("max_workers", self.max_workers),
            ("slurm.max_array_size", self.slurm.max_array_size),
        ];
        match numbers.into_iter().find(|(_, number)| *number == Some(0)) {
            None => Ok(()),
            Some((name, _)) => Err(Error::Settings {
                what: format!("`{name}` is 0, expected at least 1"),
                hint: "leave it out for the default".into(),
            }),
        }
    }

    /// Returns the number of shares of a stage with this many partitions.
    #[must_use]
    pub fn shares(&self, partitions: usize) -> usize {
        partitions.div_ceil(self.partitions_per_worker)
    }
}
