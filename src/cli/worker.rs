//! `lapo worker`: does partitions of a plan.

use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

use clap::Args as ClapArgs;

use super::compute_args::ComputeArgs;
use super::exit::Exit;
use super::plan_folder::{OpenPlan, PlanFolderArgs};
use super::stdout::print;
use super::{json_log, stderr};
use crate::dataset::Access;
use crate::error::CommandError as Error;
use crate::error::Result;
use crate::executor::Resources;
use crate::executor::engine::{Share, ranges, split_stage};
use crate::pipeline;
use crate::pipeline::partitions::{self, PartitionResult, PartitionedPlan, Workload};
use crate::pipeline::reporter::Reporter;
use crate::stages::Signal;

/// Arguments of `lapo worker`.
#[derive(Debug, ClapArgs)]
pub struct WorkerArgs {
    #[command(flatten)]
    pub plan: PlanFolderArgs,
    /// Numbers of the partitions to do, from 0
    #[arg(long, value_name = "NUMBER", num_args = 1.., conflicts_with_all = ["share", "shares"])]
    pub partition: Vec<usize>,
    /// Part K of N equal parts of the plan, or of one of its stages
    #[arg(long, value_name = "[STAGE:]K/N", conflicts_with = "shares")]
    pub share: Option<Share>,
    /// Number of equal parts of the plan, or of one of its stages; SLURM_ARRAY_TASK_ID or
    /// JOB_COMPLETION_INDEX, plus --offset, says which part to do [default: one per partition]
    #[arg(long, value_name = "[STAGE:]N")]
    pub shares: Option<String>,
    /// Added to SLURM_ARRAY_TASK_ID or JOB_COMPLETION_INDEX
    #[arg(long, value_name = "NUMBER", default_value_t = 0)]
    pub offset: usize,
    /// Start at a random time of this many seconds after the plan was made, so that not all workers
    /// start at once; a worker that starts later does not wait
    #[arg(long, value_name = "SECONDS", default_value_t = 0)]
    pub stagger_secs: u64,
    /// Number of earlier attempts, for logs and metrics
    #[arg(long, value_name = "NUMBER", default_value_t = 0, env = "LAPO_ATTEMPT")]
    pub attempt: usize,
    /// Folder or address to use as the workspace [default: the plan's]
    #[arg(long)]
    pub workspace: Option<String>,
    #[command(flatten)]
    pub compute: ComputeArgs,
}

/// Does partitions; those that are already done are skipped.
pub fn run(args: &WorkerArgs, access: &Access) -> Result<Exit> {
    let resources = args.compute.resources_of_worker()?;
    let open = args.plan.open(args.workspace.as_deref(), access)?;
    stagger(args.stagger_secs, open.plan.planned_unix_secs(), &resources);
    let workload = Workload { partitions: partitions(args, &open.plan)?, attempt: args.attempt };
    start_in(&open.plan.base)?;
    let context = [
        ("partitions", ranges(&workload.partitions)),
        ("attempt", workload.attempt.to_string()),
        ("host", crate::dataset::host()),
        ("run", open.plan.run.clone()),
    ];
    json_log::set_worker(&context[0].1, workload.attempt);
    let labels = context.map(|(name, value)| (name.to_owned(), value));
    let worked = args.compute.with_labelled_reporter(open.plan.pipeline(), &labels, |reporter| {
        work(&open, &workload, &resources, reporter)
    });
    match worked {
        Err(error) => match error.stopped() {
            // The engine can start this worker again, which goes on from its checkpoint.
            Some(signal @ (Signal::Terminate | Signal::User1)) => {
                if !args.compute.logs_json() {
                    stderr::line(format!("stopped by {signal}; start it again to go on"));
                }
                Ok(Exit::TryAgain)
            }
            _ => Err(error),
        },
        Ok(()) => Ok(Exit::Done),
    }
}

/// Waits until a random time within `most_secs` seconds after the plan was made. A signal ends the
/// wait.
///
/// Elements of an array that start when others have ended are spread already.
fn stagger(most_secs: u64, planned_unix_secs: u64, resources: &Resources) {
    let random = std::hash::BuildHasher::hash_one(&std::hash::RandomState::new(), 0);
    let wait = Duration::from_secs(most_secs).mul_f64(random as f64 / u64::MAX as f64);
    let start = UNIX_EPOCH + Duration::from_secs(planned_unix_secs) + wait;
    // At most `wait`, if the clock of this machine is behind.
    let wait = start.duration_since(SystemTime::now()).unwrap_or_default().min(wait);
    let begun = Instant::now();
    while begun.elapsed() < wait && !resources.stop.is_set() {
        std::thread::sleep(Duration::from_millis(50).min(wait));
    }
}

/// Enters the folder in which the plan was made, where relative paths of videos start. A container
/// may lack it, if all paths are absolute.
fn start_in(base: &str) -> Result<(), Error> {
    match std::env::set_current_dir(base) {
        Err(cause) if cause.kind() == std::io::ErrorKind::NotFound => {
            stderr::line(format!(
                "note: the folder {base} in which the plan was made does not exist here: relative \
                 paths of videos will not be found"
            ));
            Ok(())
        }
        entered => entered.map_err(|source| Error::Input {
            from: format!("the folder {base} in which the plan was made"),
            source,
        }),
    }
}

/// Returns the partitions that the flags or the engine's environment select.
fn partitions(args: &WorkerArgs, plan: &PartitionedPlan) -> Result<Vec<usize>> {
    if !args.partition.is_empty() {
        let mut partitions = args.partition.clone();
        partitions.sort_unstable();
        partitions.dedup();
        return Ok(partitions);
    }
    let share = match &args.share {
        Some(share) => share.clone(),
        None => share_of_engine(args, plan)?,
    };
    Ok(plan.partitions_of(&share)?.collect())
}

/// The variables by which engines number their workers.
const INDICES: [&str; 2] = ["SLURM_ARRAY_TASK_ID", "JOB_COMPLETION_INDEX"];

/// Returns the share that an engine's environment selects.
fn share_of_engine(args: &WorkerArgs, plan: &PartitionedPlan) -> Result<Share> {
    let usage = |what: String| Error::Usage {
        what,
        hint: "pass --partition, --share, or start it as an element of a job array".into(),
    };
    let set = INDICES.iter().find_map(|name| Some((name, std::env::var(name).ok()?)));
    let (name, index) = set.ok_or_else(|| {
        usage(format!("no partition is selected, and neither {} is set", INDICES.join(" nor ")))
    })?;
    let number: usize =
        index.parse().map_err(|_| usage(format!("{name}={index}: expected a number")))?;
    let index = number.saturating_add(args.offset);
    let (stage, count) = match args.shares.as_deref().map(split_stage) {
        None => (None, plan.partitions),
        Some((stage, count)) => {
            let count = count.parse().ok().filter(|count| *count > 0);
            let given = args.shares.as_deref().unwrap_or_default();
            let wrong = || usage(format!("--shares {given}: expected [STAGE:]N"));
            (stage.map(str::to_owned), count.ok_or_else(wrong)?)
        }
    };
    if index >= count {
        let what = format!("{name}={number} and --offset {} select share {index}", args.offset);
        return Err(usage(format!("{what}, but there are {count}")).into());
    }
    Ok(Share { stage, index, count })
}

/// Does partitions, prints how each ended, and fails if any of them failed.
fn work(
    open: &OpenPlan,
    workload: &Workload,
    resources: &Resources,
    reporter: &dyn Reporter,
) -> Result<()> {
    let OpenPlan { folder, plan, workspace } = open;
    reporter.run_started(&plan.run);
    let mut failures = Vec::new();
    let mut text = String::new();
    for PartitionResult { partition, result } in
        partitions::work(plan, folder, workload, workspace, resources, reporter)?
    {
        let outcome = match result {
            Ok(true) => "was done already",
            Ok(false) => "done",
            Err(failure) => {
                failures.push(failure);
                "failed"
            }
        };
        text += &format!("partition {partition}: {outcome}\n");
    }
    let printed = print(&text);
    if failures.is_empty() {
        return printed;
    }
    // Failed partitions decide the exit code, even if stdout is closed.
    Err(pipeline::Error::Partitions { total: workload.partitions.len(), failures }.into())
}
