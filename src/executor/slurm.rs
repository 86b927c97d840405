//! Slurm: workers are elements of job arrays. Needs `sbatch`, `squeue`, `scancel`, `sinfo` and
//! `scontrol`, and nothing of Slurm's accounting.
//!
//! The name of a job holds all that a driver has to know of it, so a driver that was killed finds
//! its jobs again: `lapo:PLAN:STAGE:SHARES:OFFSET:ATTEMPT`.

use std::io::Write;
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

use super::engine::{Engine, Error, PlanPlace, Share, Work, WorkerCommand, end_of_log, windows};
use super::settings::SlurmSettings;
use crate::dataset::HashSet;

pub mod script;

use script::{Cluster, Scripts};

/// Longest time for cancelled jobs to end. Slurm itself kills them after `KillWait`, 30 s by
/// default.
const CANCEL_TIMEOUT: Duration = Duration::from_secs(180);
/// Time between two looks at cancelled jobs.
const POLL: Duration = Duration::from_millis(500);

/// Runs workers as job arrays.
pub struct Slurm {
    settings: SlurmSettings,
    worker: WorkerCommand,
    max_workers: Option<usize>,
    /// What the cluster offers, asked before the first job.
    cluster: Option<Cluster>,
    notes: Vec<String>,
    /// Remarks that were made.
    noted: HashSet<String>,
}

/// An element of a job array.
struct Job {
    /// The array's id.
    id: String,
    /// The element's index.
    index: usize,
    /// Why it waits.
    reason: String,
    share: Share,
}

impl Slurm {
    /// Creates an engine. It asks nothing of the cluster yet.
    #[must_use]
    pub fn new(settings: SlurmSettings, worker: WorkerCommand, max_workers: Option<usize>) -> Self {
        let (notes, noted) = (vec![], HashSet::default());
        Slurm { settings, worker, max_workers, cluster: None, notes, noted }
    }

    /// Returns the plan's jobs that have not ended.
    fn jobs(&self, plan: &PlanPlace) -> Result<Vec<Job>, Error> {
        // One line for each element of an array.
        let format = ["-h", "-r", "--me", "-o", "%F|%K|%r|%j"];
        let listed = output(Command::new("squeue").args(format))?;
        Ok(listed.lines().filter_map(|line| Job::parse(line, &plan.name)).collect())
    }
}

impl Engine for Slurm {
    fn start(&mut self, plan: &PlanPlace, work: &Work) -> Result<(), Error> {
        if self.cluster.is_none() {
            self.cluster = Some(ask(&self.settings)?);
        }
        let cluster = self.cluster.as_ref().expect("set above");
        let (resources, note) = script::resources(&self.settings, cluster, work.needs);
        if work.attempt == 0 {
            self.notes.extend(note.map(|note| format!("stage {}: {note}", work.stage)));
        }
        let size = cluster.max_array_size;
        let scripts = Scripts {
            plan,
            work,
            settings: &self.settings,
            resources: &resources,
            worker: &self.worker,
        };
        std::fs::create_dir_all(&plan.logs)
            .map_err(|cause| Error::Log { path: plan.logs.display().to_string(), cause })?;
        let windows = windows(&work.shares, size);
        // Slurm throttles each array by itself.
        let max_running = self.max_workers.map(|most| (most / windows.len().max(1)).max(1));
        for (window, indices) in windows {
            let array = script::Array {
                name: job_name(plan, work, window * size),
                indices: &indices,
                offset: window * size,
                max_running,
            };
            // As an argument, since SBATCH_JOB_NAME of the environment beats the script.
            let mut sbatch = Command::new("sbatch");
            sbatch.args(["--parsable", "--job-name", &array.name]);
            with_input(&mut sbatch, &scripts.array(&array))?;
        }
        Ok(())
    }

    fn alive(&mut self, plan: &PlanPlace) -> Result<HashSet<Share>, Error> {
        let jobs = self.jobs(plan)?;
        for job in jobs.iter().filter(|job| job.is_held()) {
            // Slurm does not start it again by itself. The driver does, perhaps on another node.
            if job.reason.starts_with("launch failed") {
                output(Command::new("scancel").arg(format!("{}_{}", job.id, job.index)))?;
            }
            let note = format!("job {}_{} is held: {}", job.id, job.index, job.reason);
            if self.noted.insert(note.clone()) {
                self.notes.push(note);
            }
        }
        Ok(jobs.into_iter().map(|job| job.share).collect())
    }

    fn cancel(&mut self, plan: &PlanPlace) -> Result<(), Error> {
        let begun = Instant::now();
        loop {
            let jobs: HashSet<String> = self.jobs(plan)?.into_iter().map(|job| job.id).collect();
            if jobs.is_empty() {
                return Ok(());
            }
            let seconds = begun.elapsed().as_secs();
            if begun.elapsed() > CANCEL_TIMEOUT {
                return Err(Error::StillRunning { workers: jobs.len(), seconds });
            }
            // Again in every round: a job that was being submitted may have been missed.
            output(Command::new("scancel").args(&jobs))?;
            std::thread::sleep(POLL);
        }
    }

    fn notes(&mut self) -> Vec<String> {
        std::mem::take(&mut self.notes)
    }

    fn last_words(&self, plan: &PlanPlace, share: &Share, attempt: usize) -> Option<String> {
        let size = self.cluster.as_ref()?.max_array_size;
        let stage = share.stage.as_deref()?;
        let name = script::log_name(stage, share.index / size * size, attempt);
        let name = name.replace("%a", &(share.index % size).to_string());
        Some(end_of_log(&plan.logs.join(name)))
    }
}

/// Returns the name of a job array whose indices start at share `offset`.
fn job_name(plan: &PlanPlace, work: &Work, offset: usize) -> String {
    format!("lapo:{}:{}:{}:{offset}:{}", plan.name, work.stage, work.count, work.attempt)
}

impl Job {
    /// Reads a line of `squeue`, if the job belongs to the plan. The number of the share is the
    /// array index plus the offset in the name.
    fn parse(line: &str, plan: &str) -> Option<Job> {
        let mut parts = line.splitn(4, '|');
        let (id, index, reason) = (parts.next()?, parts.next()?, parts.next()?);
        let mut fields = parts.next()?.strip_prefix("lapo:")?.split(':');
        if fields.next()? != plan {
            return None;
        }
        let stage = fields.next()?.to_owned();
        let count = fields.next()?.parse().ok()?;
        let offset: usize = fields.next()?.parse().ok()?;
        let index: usize = index.parse().ok()?;
        let share = Share { stage: Some(stage), index: offset + index, count };
        Some(Job { id: id.to_owned(), index, reason: reason.to_owned(), share })
    }

    fn is_held(&self) -> bool {
        self.reason.to_ascii_lowercase().contains("held")
    }
}

/// Asks the cluster what it offers.
///
/// # Errors
/// Fails if Slurm is not installed or does not answer.
pub fn ask(settings: &SlurmSettings) -> Result<Cluster, Error> {
    let max_array_size = match settings.max_array_size {
        Some(size) => size,
        None => {
            let config = output(Command::new("scontrol").args(["show", "config"]))?;
            script::max_array_size(&config)
        }
    };
    let nodes = output(Command::new("sinfo").args(["-h", "-N", "-o", "%P|%c|%m|%G"]))?;
    Ok(Cluster::new(max_array_size, &nodes))
}

/// Runs a program and returns what it prints.
fn output(command: &mut Command) -> Result<String, Error> {
    finished(command, |command| command.stdin(Stdio::null()).output())
}

/// Runs a program with a text as its input.
fn with_input(command: &mut Command, input: &str) -> Result<String, Error> {
    finished(command, |command| {
        let mut child =
            command.stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped()).spawn()?;
        let mut stdin = child.stdin.take().expect("piped above");
        stdin.write_all(input.as_bytes())?;
        drop(stdin);
        child.wait_with_output()
    })
}

fn finished(
    command: &mut Command,
    run: impl FnOnce(&mut Command) -> std::io::Result<std::process::Output>,
) -> Result<String, Error> {
    let program = |command: &Command| command.get_program().to_string_lossy().into_owned();
    match run(command) {
        Ok(output) if output.status.success() => {
            Ok(String::from_utf8_lossy(&output.stdout).into_owned())
        }
        Ok(output) => Err(Error::Program {
            program: program(command),
            reason: String::from_utf8_lossy(&output.stderr).trim().to_owned(),
            // The controller may be away, or a limit of jobs be reached.
            is_transient: true,
            hint: "check the settings of `slurm` in --executor-config, and that `sinfo` works"
                .into(),
        }),
        Err(cause) => Err(Error::Program {
            program: program(command),
            reason: cause.to_string(),
            is_transient: false,
            hint: "run lapo on a machine where `sinfo` shows the cluster".into(),
        }),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn jobs_of_other_plans_and_other_programs_are_not_ours() {
        let share = |line| Job::parse(line, "p1").map(|job| (job.id, job.share.to_string()));
        let ours = "7|3|Resources|lapo:p1:frames:200:40:0";
        assert_eq!(share(ours), Some(("7".into(), "frames:43/200".into())));
        let others =
            ["7|3|None|lapo:p2:frames:200:40:0", "7|N/A|None|train", "", "8|N/A|x|lapo:p1:a:1:0:0"];
        for other in others {
            assert_eq!(share(other), None, "{other}");
        }
        let held = |reason: &str| {
            Job::parse(&format!("7|3|{reason}|lapo:p1:a:1:0:0"), "p1")
                .is_some_and(|job| job.is_held())
        };
        assert!(held("JobHeldUser") && held("launch failed requeued held") && !held("Resources"));
    }
}
