//! The batch scripts of Slurm: for a driver that submits them, and as files that a person reads and
//! submits (`lapo plan --sbatch`).

use std::fmt::Write;
use std::path::Path;

use crate::executor::engine::{PlanPlace, Work, WorkerCommand, quoted, ranges};
use crate::executor::settings::{SlurmResources, SlurmSettings};
use crate::stages::Needs;

/// What a cluster offers.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Cluster {
    /// Greatest number of elements of a job array.
    pub max_array_size: usize,
    /// All nodes, once for each of their partitions.
    nodes: Vec<Node>,
}

#[derive(Clone, Debug, PartialEq, Eq)]
struct Node {
    partition: String,
    /// Whether the partition is the one for jobs that name none.
    is_default: bool,
    cores: u32,
    memory_mib: u64,
    has_gpu: bool,
}

/// `MaxArraySize` of a cluster that does not say.
const DEFAULT_MAX_ARRAY_SIZE: usize = 1001;

/// Returns `MaxArraySize` from the output of `scontrol show config`.
pub(super) fn max_array_size(config: &str) -> usize {
    let value = config.lines().find_map(|line| line.strip_prefix("MaxArraySize")?.split_once('='));
    // 0 turns job arrays off, on which `sbatch` then fails with its own message.
    value
        .and_then(|(_, size)| size.trim().parse().ok())
        .map_or(DEFAULT_MAX_ARRAY_SIZE, |size: usize| size.max(1))
}

impl Cluster {
    /// Reads the nodes from `sinfo -h -N -o "%P|%c|%m|%G"`.
    #[must_use]
    pub fn new(max_array_size: usize, nodes: &str) -> Self {
        let node = |line: &str| {
            let fields: Vec<&str> = line.split('|').collect();
            let [partition, cores, memory, gres] = fields[..] else { return None };
            Some(Node {
                // The default partition has a star.
                partition: partition.trim_end_matches('*').to_owned(),
                is_default: partition.ends_with('*'),
                // `sinfo` writes `16+` for nodes of several sizes.
                cores: cores.trim_end_matches('+').parse().ok()?,
                memory_mib: memory.trim_end_matches('+').parse().ok()?,
                has_gpu: gres.split(',').any(|gres| gres.starts_with("gpu")),
            })
        };
        Cluster { max_array_size, nodes: nodes.lines().filter_map(node).collect() }
    }

    /// Returns the nodes of a partition, by default of the cluster's default partition.
    fn nodes(&self, partition: Option<&str>) -> impl Iterator<Item = &Node> {
        let is_in = move |node: &&Node| match partition {
            // `a,b` lets Slurm choose.
            Some(names) => names.split(',').any(|name| name == node.partition),
            None => node.is_default,
        };
        self.nodes.iter().filter(is_in)
    }
}

/// The resources of one class of tasks on this cluster.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Resources {
    /// Cores of a task.
    pub cores: u32,
    /// Memory of a task in MiB; 0 leaves it to the cluster.
    pub memory_mib: u64,
    /// Options of `sbatch`, as lines of the script.
    options: Vec<(&'static str, String)>,
    /// More arguments of `sbatch`.
    arguments: Vec<String>,
}

impl Resources {
    /// Returns the beginning of the script of a job with these resources.
    pub fn job(&self, name: &str, log: &Path, plan: &PlanPlace) -> String {
        let mut options = vec![
            ("job-name", name.to_owned()),
            ("nodes", "1".into()),
            ("ntasks", "1".into()),
            ("cpus-per-task", self.cores.to_string()),
            ("output", log.display().to_string()),
            ("open-mode", "append".into()),
            ("chdir", plan.base.clone()),
            ("kill-on-invalid-dep", "yes".into()),
        ];
        if self.memory_mib > 0 {
            options.push(("mem", format!("{}M", self.memory_mib)));
        }
        options.extend(self.options.iter().cloned());
        let mut text = String::from("#!/bin/sh\n");
        for (name, value) in options {
            _ = writeln!(text, "#SBATCH --{name}={}", quoted(&value));
        }
        for argument in &self.arguments {
            _ = writeln!(text, "#SBATCH {}", quoted(argument));
        }
        text
    }
}

/// Chooses the resources for tasks with these needs. Also returns a note if the cluster has less.
pub fn resources(
    settings: &SlurmSettings,
    cluster: &Cluster,
    needs: Needs,
) -> (Resources, Option<String>) {
    let class = if needs.gpu { merged(&settings.gpu, &settings.cpu) } else { settings.cpu.clone() };
    let SlurmResources { partition, account, qos, time, gres, cores, memory_mib, arguments } =
        class;
    let nodes = || cluster.nodes(partition.as_deref());
    let has_gpu = nodes().any(|node| node.has_gpu);
    let gres = gres.or_else(|| (needs.gpu && has_gpu).then(|| "gpu:1".to_owned()));
    let gres = gres.filter(|gres| !gres.is_empty());
    let needs_gpu = gres.as_ref().is_some_and(|gres| gres.starts_with("gpu")) && has_gpu;
    // The node that has most of what is needed: cores and memory of two nodes would fit none.
    let best = nodes()
        .filter(|node| !needs_gpu || node.has_gpu)
        .max_by_key(|node| (node.cores.min(needs.cores), node.memory_mib.min(needs.memory_mib)));
    let most_cores = best.map_or(u32::MAX, |node| node.cores);
    let most_memory = best.map_or(u64::MAX, |node| node.memory_mib);
    let mut notes = Vec::new();
    if needs.gpu && gres.is_none() {
        notes.push("it runs on CPUs: the partition shows no GPU".to_owned());
    }
    if cores.is_none() && needs.cores > most_cores {
        notes.push(format!("{most_cores} cores instead of {}: no node has more", needs.cores));
    }
    if memory_mib.is_none() && needs.memory_mib > most_memory {
        let needed = needs.memory_mib;
        notes.push(format!("{most_memory} MiB of memory instead of {needed}: no node has more"));
    }
    let options = [
        ("partition", partition),
        ("account", account),
        ("qos", qos),
        ("time", time),
        ("gres", gres),
    ];
    let resources = Resources {
        cores: cores.unwrap_or(needs.cores.min(most_cores)).max(1),
        memory_mib: memory_mib.unwrap_or(needs.memory_mib.min(most_memory)),
        options: options.into_iter().filter_map(|(name, value)| Some((name, value?))).collect(),
        arguments,
    };
    (resources, (!notes.is_empty()).then(|| notes.join("; ")))
}

/// Returns the settings for GPUs, completed by those for CPUs.
fn merged(gpu: &SlurmResources, cpu: &SlurmResources) -> SlurmResources {
    let SlurmResources { partition, account, qos, time, gres, cores, memory_mib, arguments } =
        gpu.clone();
    SlurmResources {
        partition: partition.or_else(|| cpu.partition.clone()),
        account: account.or_else(|| cpu.account.clone()),
        qos: qos.or_else(|| cpu.qos.clone()),
        time: time.or_else(|| cpu.time.clone()),
        // Resources of one task are not those of another class.
        gres,
        cores,
        memory_mib,
        arguments: if arguments.is_empty() { cpu.arguments.clone() } else { arguments },
    }
}

/// A job array: some shares of a stage.
pub struct Array<'a> {
    /// Name of the job.
    pub name: String,
    /// Indices to run, each below the greatest size of an array.
    pub indices: &'a [usize],
    /// Added to an index, gives the number of the share.
    pub offset: usize,
    /// Greatest number of concurrent elements.
    pub max_running: Option<usize>,
}

/// Returns the name of the log of a worker; `%a` stands for its array index.
pub fn log_name(stage: &str, offset: usize, attempt: usize) -> String {
    format!("{stage}-{offset}+%a.{attempt}.log")
}

/// What the scripts of a stage have in common.
pub struct Scripts<'a> {
    /// The plan.
    pub plan: &'a PlanPlace,
    /// The stage and its shares.
    pub work: &'a Work,
    /// Settings of Slurm.
    pub settings: &'a SlurmSettings,
    /// Resources of a task.
    pub resources: &'a Resources,
    /// How lapo is started.
    pub worker: &'a WorkerCommand,
}

impl Scripts<'_> {
    /// Returns the script of a job array whose workers a driver starts again.
    pub fn array(&self, array: &Array) -> String {
        // `exec` gives the worker the signals that Slurm sends to the script.
        format!("{}exec {}\n", self.head(array), self.worker_line(array))
    }

    /// Returns the script of a job array without a driver: a worker that is stopped before its time
    /// limit is put back into the queue.
    pub fn requeued_array(&self, array: &Array) -> String {
        let line = self.worker_line(array);
        // The shell passes Slurm's signals on, and outlives the worker to requeue it.
        let wait = format!(
            "{line} &\n\
             worker=$!\n\
             trap 'kill -USR1 $worker' USR1\n\
             trap 'kill -TERM $worker' TERM\n\
             # A signal ends `wait` before the worker has ended.\n\
             while wait $worker; code=$?; kill -0 $worker 2>/dev/null; do :; done\n\
             # 75: stopped after a checkpoint, or a fault that may pass.\n\
             if [ $code -eq 75 ] && [ \"${{SLURM_RESTART_COUNT:-0}}\" -lt 1000 ]; then\n  \
             trap - TERM\n  \
             scontrol requeue \"${{SLURM_ARRAY_JOB_ID}}_${{SLURM_ARRAY_TASK_ID}}\" && sleep 60\n\
             fi\n\
             exit $code\n"
        );
        self.head(array) + &wait
    }

    /// Returns the options of `sbatch` and the lines before lapo.
    fn head(&self, array: &Array) -> String {
        let Scripts { plan, work, settings, resources, .. } = *self;
        let log = plan.logs.join(log_name(&work.stage, array.offset, work.attempt));
        let mut text = resources.job(&array.name, &log, plan);
        let throttle = array.max_running.map_or(String::new(), |most| format!("%{most}"));
        let options = [
            ("array", format!("{}{throttle}", ranges(array.indices))),
            ("signal", format!("B:USR1@{}", settings.grace_secs)),
        ];
        for (name, value) in options {
            _ = writeln!(text, "#SBATCH --{name}={value}");
        }
        // The job goes on elsewhere if its node dies.
        text += "#SBATCH --requeue\n";
        if !settings.prologue.is_empty() {
            _ = writeln!(text, "{}", settings.prologue.trim_end());
        }
        let attempt = work.attempt;
        _ = writeln!(text, "export LAPO_ATTEMPT=$(({attempt} + ${{SLURM_RESTART_COUNT:-0}}))");
        text
    }

    /// Returns the command of a worker, which finds its share by its array index.
    fn worker_line(&self, array: &Array) -> String {
        let Scripts { plan, work, settings, resources, worker } = *self;
        let mut words = settings.container.clone();
        words.extend(worker.words(plan, work, resources.cores));
        words.extend(["--shares".into(), format!("{}:{}", work.stage, work.count)]);
        if array.offset > 0 {
            words.extend(["--offset".into(), array.offset.to_string()]);
        }
        words.iter().map(|word| quoted(word)).collect::<Vec<_>>().join(" ")
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const NODES: &str =
        "cpu*|16|64000|(null)\ncpu*|32+|128000+|(null)\ngpu|8|32000|gpu:a100:4(S:0-1)\n";

    fn needs(gpu: bool) -> Needs {
        Needs { gpu, cores: 20, memory_mib: 48_000 }
    }

    fn settings(gpu_partition: &str) -> SlurmSettings {
        let class = |name: &str| SlurmResources {
            partition: Some(name.into()),
            account: Some("vision".into()),
            ..SlurmResources::default()
        };
        SlurmSettings { cpu: class("cpu"), gpu: class(gpu_partition), ..SlurmSettings::default() }
    }

    #[test]
    fn resources_fit_the_largest_node_of_their_partition() {
        let cluster = Cluster::new(1001, NODES);
        let (cpu, note) = resources(&settings("gpu"), &cluster, needs(false));
        assert_eq!((cpu.cores, cpu.memory_mib, note), (20, 48_000, None));
        let (gpu, note) = resources(&settings("gpu"), &cluster, needs(true));
        assert_eq!((gpu.cores, gpu.memory_mib), (8, 32_000));
        assert!(gpu.options.contains(&("gres", "gpu:1".into())), "{gpu:?}");
        let note = note.unwrap_or_default();
        assert!(note.contains("8 cores instead of 20") && note.contains("32000 MiB"), "{note}");
        let (none, note) = resources(&settings("cpu"), &cluster, needs(true));
        assert!(!none.options.iter().any(|(name, _)| *name == "gres"), "{none:?}");
        assert_eq!(note.as_deref(), Some("it runs on CPUs: the partition shows no GPU"));
    }

    #[test]
    fn settings_for_gpus_are_completed_by_those_for_cpus() {
        let mut settings = settings("gpu");
        settings.gpu.account = None;
        settings.gpu.gres = Some("gpu:h100:2".into());
        let (gpu, _) = resources(&settings, &Cluster::new(1001, NODES), needs(true));
        assert!(gpu.options.contains(&("account", "vision".into())));
        assert!(gpu.options.contains(&("gres", "gpu:h100:2".into())));
    }

    #[test]
    fn the_array_size_is_that_of_the_cluster() {
        assert_eq!(max_array_size("MaxArraySize            = 20\nMaxJobCount = 10000\n"), 20);
        assert_eq!(max_array_size("nothing of it"), 1001);
    }
}
