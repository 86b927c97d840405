//! The tasks of a stage's plan: one entry per key, in the dataset's order. All counts are computed
//! from the entries.

use std::sync::Arc;

use super::Job;
use crate::dataset::{FileInfo, HashMap, HashSet, Receipt, VideoRecord};

/// A planned task.
#[derive(Clone, Debug)]
pub enum PlannedTask {
    /// A finished task, by its receipt.
    Done(Arc<Receipt>),
    /// A task to run.
    New(Box<Job>),
    /// A running task.
    Running {
        /// The task's key.
        key: String,
        /// The number of videos it reads.
        videos: usize,
    },
}

impl PlannedTask {
    /// Returns the task's key.
    pub fn key(&self) -> &str {
        match self {
            PlannedTask::Done(receipt) => &receipt.key,
            PlannedTask::New(job) => &job.key,
            PlannedTask::Running { key, .. } => key,
        }
    }

    /// Returns the digests of the videos the task has read or will decode.
    pub fn digests(&self) -> Vec<&str> {
        match self {
            PlannedTask::Done(receipt) => {
                receipt.videos.iter().map(|video| video.digest.as_str()).collect()
            }
            PlannedTask::New(job) => job.task.digests(),
            PlannedTask::Running { .. } => vec![],
        }
    }
}

/// The tasks of a stage, in the dataset's order, each key once.
#[derive(Clone, Debug, Default)]
pub struct Tasks {
    tasks: Vec<PlannedTask>,
    keys: HashSet<String>,
}

impl Tasks {
    /// Adds a task at the end unless its key is there already. Two shards without frames, for
    /// example, are one label task.
    pub fn push(&mut self, task: PlannedTask) {
        if self.keys.insert(task.key().to_owned()) {
            self.tasks.push(task);
        }
    }

    /// Returns whether there is a task with this key.
    pub fn has(&self, key: &str) -> bool {
        self.keys.contains(key)
    }

    /// Returns the tasks.
    pub fn iter(&self) -> impl Iterator<Item = &PlannedTask> {
        self.tasks.iter()
    }

    /// Sorts the tasks by a rank.
    pub fn sort_by_cached_key<K: Ord>(&mut self, rank: impl FnMut(&PlannedTask) -> K) {
        self.tasks.sort_by_cached_key(rank);
    }

    /// Returns the number of unfinished tasks.
    pub fn undone(&self) -> usize {
        self.tasks.len() - self.receipts().count()
    }

    /// Returns the number of finished tasks.
    pub fn reused(&self) -> usize {
        self.receipts().count()
    }

    /// Returns the number of videos of unfinished tasks.
    pub fn new_videos(&self) -> usize {
        let videos = self.tasks.iter().map(|task| match task {
            PlannedTask::Done(_) => 0,
            PlannedTask::New(job) => job.task.videos(),
            PlannedTask::Running { videos, .. } => *videos,
        });
        videos.sum()
    }

    /// Returns the number of videos of finished tasks.
    pub fn reused_videos(&self) -> usize {
        self.receipts().map(|receipt| receipt.videos.len()).sum()
    }

    /// Returns the receipts of finished tasks, in order.
    pub fn receipts(&self) -> impl Iterator<Item = &Arc<Receipt>> {
        self.tasks.iter().filter_map(|task| match task {
            PlannedTask::Done(receipt) => Some(receipt),
            _ => None,
        })
    }

    /// Returns the tasks to run, in order.
    pub fn jobs(&self) -> impl Iterator<Item = &Job> {
        self.tasks.iter().filter_map(|task| match task {
            PlannedTask::New(job) => Some(&**job),
            _ => None,
        })
    }

    /// Returns the keys of all tasks, in order.
    pub fn keys(&self) -> Vec<String> {
        self.tasks.iter().map(|task| task.key().to_owned()).collect()
    }

    /// Returns the files of finished tasks with names ending in `end`.
    pub fn files(&self, end: &str) -> Vec<FileInfo> {
        self.receipts()
            .flat_map(|receipt| &receipt.files)
            .filter(|file| file.path.ends_with(end))
            .cloned()
            .collect()
    }

    /// Takes the jobs out. Their tasks are running from now on.
    pub fn begin(&mut self) -> Vec<Job> {
        let mut jobs = Vec::new();
        for task in &mut self.tasks {
            if let PlannedTask::New(job) = task {
                let running =
                    PlannedTask::Running { key: job.key.clone(), videos: job.task.videos() };
                // Moves the job out of its box, since a job may hold thousands of videos.
                if let PlannedTask::New(job) = std::mem::replace(task, running) {
                    jobs.push(*job);
                }
            }
        }
        jobs
    }

    /// Marks tasks as done and removes all others. Returns the number of removed tasks.
    pub fn end(&mut self, mut done: HashMap<String, Arc<Receipt>>) -> usize {
        let before = self.tasks.len();
        for task in &mut self.tasks {
            if let Some(receipt) = done.remove(task.key()) {
                *task = PlannedTask::Done(receipt);
            }
        }
        self.tasks.retain(|task| matches!(task, PlannedTask::Done(_)));
        before - self.tasks.len()
    }

    /// Removes tasks that are not done, by their keys, and returns how many.
    pub fn remove(&mut self, keys: &HashSet<String>) -> usize {
        let before = self.tasks.len();
        let is_done = |task: &PlannedTask| matches!(task, PlannedTask::Done(_));
        self.tasks.retain(|task| is_done(task) || !keys.contains(task.key()));
        before - self.tasks.len()
    }

    /// Restores tasks of the previous version in place of failed new ones.
    ///
    /// `dropped` are the tasks of the previous version, `missing` the digests of videos without
    /// another task. A task that shares a video, or a video's name, with a restored one is removed
    /// and runs again next time.
    pub fn restore(&mut self, dropped: &[Arc<Receipt>], mut missing: HashSet<String>) {
        let mut back: Vec<Arc<Receipt>> = Vec::new();
        // Removing a finished task can leave other videos missing, so this repeats until none are.
        loop {
            let lacks = |receipt: &&Arc<Receipt>| {
                receipt.videos.iter().any(|video| missing.contains(&video.digest))
            };
            let again: Vec<Arc<Receipt>> = dropped
                .iter()
                .filter(lacks)
                .filter(|one| back.iter().all(|other| other.key != one.key))
                .cloned()
                .collect();
            if again.is_empty() {
                break;
            }
            let theirs = || again.iter().flat_map(|receipt| &receipt.videos);
            let digests: HashSet<&str> = theirs().map(|video| video.digest.as_str()).collect();
            // A name may belong to other content now, and a dataset has each name once.
            let names: HashSet<&str> = theirs().map(|video| video.uri.as_str()).collect();
            let shares = |video: &VideoRecord| {
                digests.contains(video.digest.as_str()) || names.contains(video.uri.as_str())
            };
            self.tasks.retain(|task| match task {
                PlannedTask::Done(receipt) if receipt.videos.iter().any(shares) => {
                    missing.extend(receipt.videos.iter().map(|video| video.digest.clone()));
                    false
                }
                PlannedTask::New(job)
                    if job.task.digests().iter().any(|digest| digests.contains(digest)) =>
                {
                    missing.extend(job.task.digests().into_iter().map(str::to_owned));
                    false
                }
                _ => true,
            });
            back.extend(again);
        }
        // Restored tasks come last.
        self.keys.extend(back.iter().map(|receipt| receipt.key.clone()));
        self.tasks.extend(back.into_iter().map(PlannedTask::Done));
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::dataset::Provenance;

    fn receipt(key: &str, videos: &[&str]) -> Arc<Receipt> {
        let video = |digest: &&str| VideoRecord {
            digest: (*digest).to_owned(),
            uri: format!("{digest}.mp4"),
            bytes: 1,
            modified: String::new(),
            at: None,
            inode: None,
            frames: 1,
            episodes: 1,
            about: Default::default(),
        };
        Arc::new(Receipt {
            format: crate::dataset::FORMAT,
            key: key.into(),
            stage: "decode".into(),
            attempt: String::new(),
            fields: Default::default(),
            files: vec![],
            inputs: vec![],
            videos: videos.iter().map(video).collect(),
            rejects: vec![],
            stats: Default::default(),
            made: Provenance::default(),
        })
    }

    #[test]
    fn tasks_of_the_previous_version_replace_failed_ones_without_repeating_a_video() {
        let done = [receipt("new1", &["a", "n"]), receipt("new3", &["z"])];
        let mut tasks = Tasks::default();
        for receipt in done {
            tasks.push(PlannedTask::Done(receipt));
        }
        // The old partition (a, b, gone) was to become new1 (a, n) and new2 (b, c). new2 failed. c
        // was also in another old partition.
        let dropped = [
            receipt("old1", &["a", "b", "gone"]),
            receipt("old2", &["c"]),
            receipt("old3", &["x"]),
        ];
        tasks.restore(&dropped, ["b", "c"].map(String::from).into_iter().collect());
        assert_eq!(tasks.keys(), ["new3", "old1", "old2"]);
    }

    /// A rotated camera file: the old content had the name the new content has now.
    #[test]
    fn a_restored_task_removes_a_finished_task_with_the_same_video_name() {
        let mut tasks = Tasks::default();
        let named = |key: &str, digest: &str, uri: &str| {
            let mut receipt = (*receipt(key, &[digest])).clone();
            receipt.videos[0].uri = uri.to_owned();
            Arc::new(receipt)
        };
        tasks.push(PlannedTask::Done(named("new", "b", "cam.mp4")));
        tasks.restore(&[named("old", "a", "cam.mp4")], ["a".to_owned()].into_iter().collect());
        assert_eq!(tasks.keys(), ["old"]);
    }
}
