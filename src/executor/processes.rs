//! The engine whose workers are processes of this machine: `lapo worker`, or a command of the user
//! that starts a worker elsewhere and waits for it.

use std::collections::VecDeque;
use std::fs::{self, File};
use std::os::unix::process::CommandExt;
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use super::engine::{Engine, Error, PlanPlace, Share, Work, WorkerCommand, end_of_log, quoted};
use crate::dataset::HashSet;
use crate::stages::Needs;

/// Time between SIGTERM and SIGKILL.
const GRACE: Duration = Duration::from_secs(60);
/// Time between two looks at ending processes.
const POLL: Duration = Duration::from_millis(50);

/// What a process runs.
#[derive(Clone, Debug)]
pub enum ProcessCommand {
    /// `lapo worker` on this machine.
    Worker(WorkerCommand),
    /// A command of the user, run by `sh`. `{plan}`, `{share}`, `{attempt}`, `{gpu}`, `{cores}` and
    /// `{memory_mib}` are replaced.
    Shell(String),
}

/// Runs workers as processes of this machine, as many as its cores allow.
pub struct Processes {
    command: ProcessCommand,
    /// Cores to share among the workers.
    cores: u32,
    max_workers: usize,
    queue: VecDeque<Queued>,
    running: Vec<Running>,
}

struct Queued {
    share: Share,
    attempt: usize,
    needs: Needs,
}

struct Running {
    share: Share,
    child: Child,
    cores: u32,
    /// The worker's number on this machine. It chooses the GPU.
    slot: usize,
}

impl Processes {
    /// Creates an engine with this many cores.
    #[must_use]
    pub fn new(command: ProcessCommand, cores: u32, max_workers: Option<usize>) -> Self {
        Processes {
            command,
            cores: cores.max(1),
            max_workers: max_workers.unwrap_or(usize::MAX),
            queue: VecDeque::new(),
            running: vec![],
        }
    }

    /// Forgets processes that have ended, and starts queued ones while there are free cores.
    fn advance(&mut self, plan: &PlanPlace) -> Result<(), Error> {
        self.running
            .retain_mut(|running| !matches!(running.child.try_wait(), Ok(Some(_)) | Err(_)));
        while let Some(next) = self.queue.front() {
            let cores = self.cores_of(next.needs);
            let used: u32 = self.running.iter().map(|running| running.cores).sum();
            if self.running.len() >= self.max_workers || used + cores > self.cores {
                break;
            }
            let taken: Vec<usize> = self.running.iter().map(|running| running.slot).collect();
            let slot = (0..).find(|slot| !taken.contains(slot)).unwrap_or_default();
            let child = self.spawn(plan, next, slot)?;
            let share = next.share.clone();
            self.running.push(Running { share, child, cores, slot });
            self.queue.pop_front();
        }
        Ok(())
    }

    /// Returns the cores of a worker: at most all.
    fn cores_of(&self, needs: Needs) -> u32 {
        match self.command {
            ProcessCommand::Worker(_) => needs.cores.clamp(1, self.cores),
            // The work is done elsewhere; here is only a process that waits.
            ProcessCommand::Shell(_) => 1,
        }
    }

    fn spawn(&self, plan: &PlanPlace, next: &Queued, slot: usize) -> Result<Child, Error> {
        let Queued { share, attempt, needs } = next;
        let mut command = match &self.command {
            ProcessCommand::Worker(worker) => {
                let threads = self.cores_of(*needs);
                let mut command = Command::new(&worker.lapo);
                command.args(worker.arguments(plan, threads)).args(["--share", &share.to_string()]);
                command
            }
            ProcessCommand::Shell(text) => {
                let mut command = Command::new("sh");
                command.args(["-c", &filled(text, plan, next)]);
                command
            }
        };
        let path = plan.logs.join(log_name(share, *attempt));
        let log = |cause| Error::Log { path: path.display().to_string(), cause };
        fs::create_dir_all(&plan.logs).map_err(log)?;
        let output = File::create(&path).map_err(log)?;
        let error = output.try_clone().map_err(log)?;
        command
            .current_dir(&plan.base)
            .env("LAPO_ATTEMPT", attempt.to_string())
            .env("LAPO_LOCAL_ID", slot.to_string())
            .stdin(Stdio::null())
            .stdout(output)
            .stderr(error)
            // Ctrl-C in a terminal reaches only this process, which then ends its workers.
            .process_group(0);
        command.spawn().map_err(|cause| Error::Program {
            program: command.get_program().to_string_lossy().into_owned(),
            reason: cause.to_string(),
            is_transient: false,
            hint: "set `lapo` in the executor's settings to the path of lapo".into(),
        })
    }

    /// Sends a signal to all running processes and their children.
    fn signal(&self, signal: rustix::process::Signal) {
        for running in &self.running {
            let group = i32::try_from(running.child.id()).ok();
            if let Some(group) = group.and_then(rustix::process::Pid::from_raw) {
                // The group may have ended by itself.
                _ = rustix::process::kill_process_group(group, signal);
            }
        }
    }
}

/// Returns the file name of a worker's log.
fn log_name(share: &Share, attempt: usize) -> String {
    let stage = share.stage.as_deref().unwrap_or("all");
    format!("{stage}-{}-of-{}.{attempt}.log", share.index, share.count)
}

/// Replaces the placeholders of a command.
fn filled(text: &str, plan: &PlanPlace, next: &Queued) -> String {
    let Queued { share, attempt, needs } = next;
    let values = [
        ("{plan}", plan.address.clone()),
        ("{share}", share.to_string()),
        ("{attempt}", attempt.to_string()),
        ("{gpu}", u8::from(needs.gpu).to_string()),
        ("{cores}", needs.cores.to_string()),
        ("{memory_mib}", needs.memory_mib.to_string()),
    ];
    values
        .into_iter()
        .fold(text.to_owned(), |text, (name, value)| text.replace(name, &quoted(&value)))
}

impl Engine for Processes {
    fn start(&mut self, plan: &PlanPlace, work: &Work) -> Result<(), Error> {
        for index in &work.shares {
            let share = work.share(*index);
            self.queue.push_back(Queued { share, attempt: work.attempt, needs: work.needs });
        }
        self.advance(plan)
    }

    fn alive(&mut self, plan: &PlanPlace) -> Result<HashSet<Share>, Error> {
        self.advance(plan)?;
        let running = self.running.iter().map(|running| running.share.clone());
        Ok(running.chain(self.queue.iter().map(|queued| queued.share.clone())).collect())
    }

    fn cancel(&mut self, _: &PlanPlace) -> Result<(), Error> {
        self.queue.clear();
        self.signal(rustix::process::Signal::TERM);
        let begun = Instant::now();
        while !self.running.is_empty() {
            if begun.elapsed() > GRACE {
                self.signal(rustix::process::Signal::KILL);
            }
            std::thread::sleep(POLL);
            self.running.retain_mut(|running| matches!(running.child.try_wait(), Ok(None)));
        }
        Ok(())
    }

    fn last_words(&self, plan: &PlanPlace, share: &Share, attempt: usize) -> Option<String> {
        Some(end_of_log(&plan.logs.join(log_name(share, attempt))))
    }
}
