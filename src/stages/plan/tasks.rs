//! The tasks of a stage's plan: one entry per key, in the dataset's order. All counts are computed from the entries.

use std::sync::Arc;

use super::Job;
use crate::dataset::{FileInfo, HashMap, HashSet, Receipt, VideoRecord};

/// One task.
#[derive(Clone, Debug)]
pub enum Planned {
    /// It is done: its receipt.
    Done(Arc<Receipt>),
    /// It is to be done.
    New(Box<Job>),
    /// It is being done.
    Running {
        /// Its key.
        key: String,
        /// How many videos it reads.
        videos: usize,
    },
}

impl Planned {
    /// The task's key.
    pub fn key(&self) -> &str {
        match self {
            Planned::Done(receipt) => &receipt.key,
            Planned::New(job) => &job.key,
            Planned::Running { key, .. } => key,
        }
    }

    /// The digests of the videos that it has read, or is to decode.
    pub fn digests(&self) -> Vec<&str> {
        match self {
            Planned::Done(receipt) => {
                receipt.videos.iter().map(|video| video.digest.as_str()).collect()
            }
            Planned::New(job) => job.task.digests(),
            Planned::Running { .. } => vec![],
        }
    }
}

/// The tasks of a stage, in the dataset's order, each key once.
#[derive(Clone, Debug, Default)]
pub struct Tasks {
    tasks: Vec<Planned>,
    keys: HashSet<String>,
}

impl Tasks {
    /// Adds a task at the end, unless one of its key is there: two shards without a frame are one task of labels.
    pub fn push(&mut self, task: Planned) {
        if self.keys.insert(task.key().to_owned()) {
            self.tasks.push(task);
        }
    }

    /// Whether there is a task of this key.
    pub fn has(&self, key: &str) -> bool {
        self.keys.contains(key)
    }

    /// Returns the tasks.
    pub fn iter(&self) -> impl Iterator<Item = &Planned> {
        self.tasks.iter()
    }

    /// Sorts by a rank.
    pub fn sort_by_cached_key<K: Ord>(&mut self, rank: impl FnMut(&Planned) -> K) {
        self.tasks.sort_by_cached_key(rank);
    }

    /// Returns how many tasks are not done.
    pub fn undone(&self) -> usize {
        self.tasks.len() - self.receipts().count()
    }

    /// Returns how many tasks are done.
    pub fn reused(&self) -> usize {
        self.receipts().count()
    }

    /// Returns how many videos the tasks read that are not done.
    pub fn new_videos(&self) -> usize {
        let videos = self.tasks.iter().map(|task| match task {
            Planned::Done(_) => 0,
            Planned::New(job) => job.task.videos(),
            Planned::Running { videos, .. } => *videos,
        });
        videos.sum()
    }

    /// Returns how many videos the tasks have read that are done.
    pub fn reused_videos(&self) -> usize {
        self.receipts().map(|receipt| receipt.videos.len()).sum()
    }

    /// Returns the receipts of the tasks that are done, in order.
    pub fn receipts(&self) -> impl Iterator<Item = &Arc<Receipt>> {
        self.tasks.iter().filter_map(|task| match task {
            Planned::Done(receipt) => Some(receipt),
            _ => None,
        })
    }

    /// Returns the tasks that are to be done, in order.
    pub fn jobs(&self) -> impl Iterator<Item = &Job> {
        self.tasks.iter().filter_map(|task| match task {
            Planned::New(job) => Some(&**job),
            _ => None,
        })
    }

    /// Returns the keys of all tasks, in order.
    pub fn keys(&self) -> Vec<String> {
        self.tasks.iter().map(|task| task.key().to_owned()).collect()
    }

    /// Returns the files of the tasks that are done and whose names end so.
    pub fn files(&self, end: &str) -> Vec<FileInfo> {
        self.receipts()
            .flat_map(|receipt| &receipt.files)
            .filter(|file| file.path.ends_with(end))
            .cloned()
            .collect()
    }

    /// Takes the jobs out; their tasks are being done from now on.
    pub fn begin(&mut self) -> Vec<Job> {
        let mut jobs = Vec::new();
        for task in &mut self.tasks {
            if let Planned::New(job) = task {
                let running = Planned::Running { key: job.key.clone(), videos: job.task.videos() };
                if let Planned::New(job) = std::mem::replace(task, running) {
                    jobs.push(*job);
                }
            }
        }
        jobs
    }

    /// Marks tasks as done; returns the number of those that are not, which are left out from now on.
    pub fn end(&mut self, mut done: HashMap<String, Arc<Receipt>>) -> usize {
        let before = self.tasks.len();
        for task in &mut self.tasks {
            if let Some(receipt) = done.remove(task.key()) {
                *task = Planned::Done(receipt);
            }
        }
        self.tasks.retain(|task| matches!(task, Planned::Done(_)));
        before - self.tasks.len()
    }

    /// Puts back tasks of the version before whose videos are not in it otherwise, since tasks that should have taken their place failed.
    /// Where such a task shares videos, or their names, with one that is done, the latter waits for the next run.
    pub fn restore(&mut self, dropped: &[Arc<Receipt>], mut missing: HashSet<String>) {
        let mut back: Vec<Arc<Receipt>> = Vec::new();
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
            let names: HashSet<&str> = theirs().map(|video| video.uri.as_str()).collect();
            let shares = |video: &VideoRecord| {
                digests.contains(video.digest.as_str()) || names.contains(video.uri.as_str())
            };
            self.tasks.retain(|task| match task {
                Planned::Done(receipt) if receipt.videos.iter().any(shares) => {
                    missing.extend(receipt.videos.iter().map(|video| video.digest.clone()));
                    false
                }
                _ => true,
            });
            back.extend(again);
        }
        self.keys.extend(back.iter().map(|receipt| receipt.key.clone()));
        self.tasks.extend(back.into_iter().map(Planned::Done));
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::dataset::Made;

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
            made: Made::default(),
        })
    }

    #[test]
    fn what_failed_tasks_should_have_replaced_stays_and_no_video_is_there_twice() {
        let done = [receipt("new1", &["a", "n"]), receipt("new3", &["z"])];
        let mut tasks = Tasks::default();
        done.into_iter().for_each(|receipt| tasks.push(Planned::Done(receipt)));
        // The old partition (a, b, gone) was to become new1 (a, n) and new2 (b, c), which failed; c was in another old one, with d in new4.
        let dropped = [
            receipt("old1", &["a", "b", "gone"]),
            receipt("old2", &["c"]),
            receipt("old3", &["x"]),
        ];
        tasks.restore(&dropped, ["b", "c"].map(String::from).into_iter().collect());
        assert_eq!(tasks.keys(), ["new3", "old1", "old2"]);
    }

    /// A camera's file is rotated: the old content was called as the new one is now.
    #[test]
    fn a_task_that_stays_under_its_old_names_keeps_out_one_with_the_same_name() {
        let mut tasks = Tasks::default();
        let named = |key: &str, digest: &str, uri: &str| {
            let mut receipt = (*receipt(key, &[digest])).clone();
            receipt.videos[0].uri = uri.to_owned();
            Arc::new(receipt)
        };
        tasks.push(Planned::Done(named("new", "b", "cam.mp4")));
        tasks.restore(&[named("old", "a", "cam.mp4")], ["a".to_owned()].into_iter().collect());
        assert_eq!(tasks.keys(), ["old"]);
    }
}
