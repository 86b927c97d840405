//! Runs pipelines without computing anything: every task leaves a receipt and files with the right
//! names.

use std::sync::Arc;

use crate::dataset::{
    FORMAT, FileInfo, HashMap, Provenance, Receipt, Reject, Store, VideoRecord, data_folder,
    file_receipt, find_receipts,
};
use crate::executor::Job;
use crate::executor::local::fresh_id;
use crate::pipeline::check::Checked;
use crate::pipeline::partitions;
use crate::pipeline::plan::{PlanOptions, Planner};
use crate::pipeline::run::settle;
use crate::pipeline::session::{PinsFor, Session};
use crate::pipeline::summary::Summary;
use crate::stages::Task;
use crate::stages::plan::key;

/// Files made-up receipts and files for jobs. Planning never reads the content of files.
pub(super) struct FilesOnly<'a> {
    pub(super) store: &'a Store,
    /// The digests of a shard's videos, by the shard's hash.
    pub(super) videos: HashMap<String, Vec<String>>,
}

impl FilesOnly<'_> {
    /// Writes a file.
    fn file(&self, path: String, rows: u64) -> FileInfo {
        // Tables are published to Delta Lake, so their schema must be readable.
        if path.ends_with(".parquet") {
            let column = crate::dataset::Column::Text(vec![path.clone(); rows as usize]);
            return crate::dataset::write_table(self.store, &path, &[("path", column)]).unwrap();
        }
        let bytes = path.as_bytes();
        self.store.create(&path, bytes).unwrap();
        FileInfo {
            bytes: bytes.len() as u64,
            rows,
            blake3: blake3::hash(bytes).to_hex().to_string(),
            path,
        }
    }

    /// Files the receipt of a job, after a round trip of the job through JSON.
    fn perform(&mut self, job: &Job) -> Arc<Receipt> {
        let text = serde_json::to_string(job).unwrap();
        let job: Job = serde_json::from_str(&text).unwrap();
        // A worker refuses a job with another key than planned.
        partitions::check_job("jobs/000000.jsonl", &job)
            .unwrap_or_else(|error| panic!("{error}\n{text}"));
        assert_eq!(serde_json::to_string(&job).unwrap(), text);
        assert_eq!(key::key(&job.fields), job.key);
        let attempt = fresh_id();
        let folder = data_folder(&job.stage, &job.key, &attempt);
        let files = output_names(&job.task)
            .into_iter()
            .map(|name| self.file(format!("{folder}/{name}"), 7))
            .collect::<Vec<_>>();
        let videos = video_records(&job.task);
        if let Some(shard) = files.first().filter(|file| file.path.ends_with(".arrow")) {
            self.videos.insert(
                shard.blake3.clone(),
                videos.iter().map(|video| video.digest.clone()).collect(),
            );
        }
        let receipt = Receipt {
            format: FORMAT,
            key: job.key,
            stage: job.kind,
            attempt,
            fields: job.fields.into(),
            files,
            inputs: job.inputs,
            rejects: self.rejects(&job.task),
            stats: [
                ("videos".to_owned(), videos.len() as f64),
                ("frames".to_owned(), 7.0),
                ("transitions".to_owned(), 6.0),
            ]
            .into_iter()
            .chain(job.stats)
            .collect(),
            videos,
            made: Provenance::default(),
        };
        // Read it back: a receipt must survive its file format.
        file_receipt(self.store, &job.stage, &receipt).unwrap();
        Arc::new(
            find_receipts(self.store, &job.stage, std::slice::from_ref(&receipt.key))
                .unwrap()
                .pop()
                .flatten()
                .unwrap(),
        )
    }

    /// Returns the rejects of a task: the first video of a deduplicated shard.
    fn rejects(&self, task: &Task) -> Vec<Reject> {
        let Task::Deduplicate(task) = task else { return vec![] };
        // A deduplication that rejects a video of its input lets later stages leave it out.
        let digest =
            task.shards.first().and_then(|shard| self.videos[&shard.blake3].first()).cloned();
        let reject = |digest| Reject {
            video: "a.mp4".into(),
            digest,
            class: "copy".into(),
            reason: "as b.mp4".into(),
            frames_kept: 0,
        };
        digest.into_iter().map(reject).collect()
    }

    /// Runs a pipeline like `run`, and returns the keys of every stage.
    pub(super) fn run(&mut self, checked: &Checked) -> Vec<(String, Vec<String>)> {
        let options = PlanOptions::default();
        let session = Session::begin(checked, self.store, &options, PinsFor::ThisProcess).unwrap();
        let mut planner = Planner::new(checked, self.store, &options).unwrap();
        let mut done = Vec::new();
        for &at in &checked.order {
            let mut plan = planner.plan(at).unwrap();
            assert!(session.pin_tasks(&plan).unwrap());
            assert_eq!(plan.waiting.tasks, 0, "{}", plan.stage);
            let made =
                plan.tasks.begin().iter().map(|job| (job.key.clone(), self.perform(job))).collect();
            assert_eq!(settle(&mut plan, &made), 0);
            session.commit(&mut plan).unwrap();
            done.push((plan.stage.clone(), plan.tasks.keys()));
            planner.plans.insert(plan.stage.clone(), plan);
        }
        session
            .end(
                &mut Summary { run: session.run.clone(), ..Summary::default() },
                Some(&crate::pipeline::Error::Faults(vec![])),
            )
            .unwrap();
        done
    }
}

/// Returns the names of a task's output files.
pub(in crate::pipeline) fn output_names(task: &Task) -> Vec<String> {
    let names: &[&str] = match task {
        Task::Decode(_) => &["shard.arrow", "quality.parquet"],
        Task::Record(_) => &["shard.arrow", "actions.parquet"],
        Task::ImportActions(task) => {
            return (0..task.shards.len())
                .map(|number| format!("actions-{number:06}.parquet"))
                .collect();
        }
        Task::Deduplicate(_) => &["copies.parquet"],
        Task::TrainDynamics(_) => &["model.safetensors", "verdict.json", "metrics.parquet"],
        Task::ImportDynamics(_) => &["model.safetensors"],
        Task::Label(_) => &["labels.parquet"],
        Task::TrainPolicy(_) => &["policy.safetensors", "verdict.json", "metrics.parquet"],
        Task::TrainDecoder(task) => {
            let decoders = (0..task.config.decoders().len())
                .map(|draw| format!("decoder-000256-{draw}.safetensors"));
            return decoders.chain(["curve.parquet".to_owned()]).collect();
        }
        Task::Finetune(_) => &["agent.safetensors", "verdict.json", "metrics.parquet"],
        Task::Evaluate(_) => &["evaluation.json", "episodes.parquet"],
        Task::Export(_) => &["data/chunk-000/file-000.parquet", "meta/info.json"],
        Task::Report(_) => &["report.html", "map.parquet"],
    };
    names.iter().map(|name| (*name).to_owned()).collect()
}

/// Returns the decoded or recorded videos of a task.
pub(in crate::pipeline) fn video_records(task: &Task) -> Vec<VideoRecord> {
    let record = |digest: String, uri: String, bytes, modified: String| VideoRecord {
        digest,
        uri,
        bytes,
        modified,
        at: None,
        inode: None,
        frames: 7,
        episodes: 1,
        about: Default::default(),
    };
    match task {
        Task::Decode(task) => {
            let of = |video: &crate::stages::decode::VideoSource| {
                record(video.digest.clone(), video.uri.clone(), video.bytes, video.modified.clone())
            };
            task.videos.iter().map(of).collect()
        }
        Task::Record(task) => (task.first..task.first + task.count)
            .map(|n| record(format!("{n:064x}"), format!("{n}"), 0, String::new()))
            .collect(),
        _ => vec![],
    }
}
