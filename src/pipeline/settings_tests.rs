//! Whatever settings a pipeline has: once it has run, nothing is to be done, and what is handed out comes back as it was.

#![expect(clippy::unwrap_used, reason = "a test fails by panicking")]

use std::collections::BTreeMap;
use std::sync::Arc;

use rand::seq::IndexedRandom;
use rand::{Rng, RngCore, SeedableRng};
use rand_chacha::ChaCha8Rng;
use serde_json::{Value, json};

use super::check::{Checked, check};
use super::handout;
use super::plan::{PlanOptions, Planner, StagePlan};
use super::run::{StageSummary, Summary, Watch, run, settle};
use super::session::{PinsFor, Session};
use super::spec::{KINDS, PipelineSpec, StageSpec};
use crate::dataset::{
    Access, FORMAT, FileInfo, HashMap, Made, Receipt, Reject, Store, VideoRecord, data_folder,
    faulty_store, file_receipt, find_receipts, head, receipt_path,
};
use crate::executor::local::fresh_id;
use crate::executor::{Job, Means};
use crate::stages::plan::key;
use crate::stages::{Progress, Task};

/// So many settings are drawn, each of one stage.
const SETTINGS: usize = 2_000;

/// The stages of every pipeline: names, kinds, and settings to start from, of which one is drawn.
fn stages(folder: &str) -> Vec<(&'static str, &'static str, Value)> {
    let [videos, actions, weights] =
        ["*.mp4", "actions.csv", "model.safetensors"].map(|name| format!("{folder}/{name}"));
    vec![
        ("frames", "decode", json!([{ "videos": [videos] }])),
        ("actions", "import_actions", json!([{ "frames": "frames", "file": actions }])),
        ("copies", "deduplicate", json!([{ "frames": "frames" }])),
        (
            "played",
            "record",
            json!([{ "game": "maze", "player": "expert", "episodes": 3 }, { "game": "coinrun", "player": "sticky", "episodes": 1 }]),
        ),
        ("weights", "import_dynamics", json!([{ "weights": weights }])),
        (
            "model",
            "train_dynamics",
            json!([
                { "frames": "frames" },
                { "frames": "frames", "without": "copies", "reference": true },
                { "frames": "played", "actions": "played", "supervision": { "labels": 8 } },
            ]),
        ),
        (
            "labels",
            "label",
            json!([{ "frames": "frames", "dynamics": "weights", "actions": "actions" }, { "frames": "frames", "dynamics": "model", "without": "copies" }]),
        ),
        (
            "seen",
            "label",
            json!([{ "frames": "played", "dynamics": "model", "actions": "played" }, { "frames": "played", "dynamics": "model" }]),
        ),
    ]
}

/// The stages that learn from these, play, or show them.
fn learning_stages() -> Vec<(&'static str, &'static str, Value)> {
    vec![
        ("policy", "train_policy", json!([{ "labels": "seen" }])),
        ("decoders", "train_decoder", json!([{ "labels": "seen", "actions": "played" }])),
        (
            "agent",
            "finetune",
            json!([{ "game": "maze", "policy": "policy", "dynamics": "model" }, { "game": "heist", "from_scratch": true }]),
        ),
        (
            "shown",
            "record",
            json!([
                { "game": "maze", "player": "agent", "agent": "agent", "episodes": 2 },
                { "game": "maze", "player": "policy", "policy": "policy", "decoder": "decoders", "episodes": 2 },
            ]),
        ),
        (
            "evaluation",
            "evaluate",
            json!([
                { "game": "maze", "policy": "policy", "decoder": "decoders" },
                { "game": "maze", "agent": "agent" },
                { "labels": "seen", "actions": "played" },
                { "frames": "frames", "dynamics": "model", "rollout": 2 },
            ]),
        ),
        (
            "page",
            "report",
            json!([{ "frames": "frames", "dynamics": "model", "labels": "labels" }, { "policy": "policy", "decoder": "decoders", "evaluation": "evaluation", "agents": ["agent"] }]),
        ),
    ]
}

/// Draws values as a schema has them.
struct Draw<'a> {
    schema: &'a Value,
    random: ChaCha8Rng,
}

impl Draw<'_> {
    fn resolved<'s>(&'s self, schema: &'s Value) -> &'s Value {
        let name = schema["$ref"].as_str().and_then(|path| path.strip_prefix("#/$defs/"));
        name.map_or(schema, |name| &self.schema["$defs"][name])
    }

    /// A value, in range or not; none of what names a file or a stage.
    fn value(&mut self, schema: &Value) -> Option<Value> {
        let schema = self.resolved(schema).clone();
        if let Some(value) = schema.get("const") {
            return Some(value.clone());
        }
        if let Some(choice) = ["oneOf", "anyOf", "enum"]
            .iter()
            .find_map(|name| schema.get(name)?.as_array()?.choose(&mut self.random))
        {
            return if schema.get("enum").is_some() {
                Some(choice.clone())
            } else {
                self.value(&choice.clone())
            };
        }
        let sort = match &schema["type"] {
            Value::Array(sorts) => sorts.choose(&mut self.random)?.clone(),
            sort => sort.clone(),
        };
        match sort.as_str()? {
            "null" => Some(Value::Null),
            "boolean" => Some(self.random.random::<bool>().into()),
            "integer" => Some(self.integer().into()),
            "number" => Some(self.float().into()),
            "array" => {
                (0..self.random.random_range(1..4)).map(|_| self.value(&schema["items"])).collect()
            }
            "object" => Some(Value::Object(self.object(&schema))),
            _ => None,
        }
    }

    fn object(&mut self, schema: &Value) -> serde_json::Map<String, Value> {
        let mut object = serde_json::Map::new();
        for (name, of) in schema["properties"].as_object().unwrap() {
            let is_required =
                schema["required"].as_array().is_some_and(|names| names.contains(&json!(name)));
            if is_required || self.random.random() {
                object.extend(self.value(of).map(|value| (name.clone(), value)));
            }
        }
        object
    }

    fn integer(&mut self) -> u64 {
        match self.random.random_range(0..4) {
            0 => 1_u64 << self.random.random_range(0..10_u32),
            1 => [16, 32, 64, 0, 1].choose(&mut self.random).copied().unwrap(),
            _ => self.random.random_range(1..100),
        }
    }

    /// One that takes all digits there are, or few.
    fn float(&mut self) -> f64 {
        let any = self.random.random::<f64>();
        match self.random.random_range(0..5) {
            0 => [0.03, 1.95, 0.0016, 0.1, 0.7, 1.0 / 3.0, 2.0, 29.97, 1e-7, 5e-324, 0.1 + 0.2]
                .choose(&mut self.random)
                .copied()
                .unwrap(),
            1 => any * 10_f64.powi(self.random.random_range(-9..4)),
            2 => f64::from(any as f32),
            3 => (any * 1000.0).round() / 1000.0,
            _ => any,
        }
    }

    /// Settings of a stage that are valid by themselves: some of those it starts from, and as many others as may be.
    fn settings(&mut self, kind: &str, from: &Value) -> Value {
        let mut config = from.as_array().unwrap().choose(&mut self.random).unwrap().clone();
        let kinds = self.schema["$defs"]["StageSpec"]["oneOf"].as_array().unwrap();
        let properties = kinds.iter().find_map(|of| of["properties"].get(kind)).unwrap();
        let properties = self.resolved(properties)["properties"].as_object().unwrap().clone();
        for (name, of) in properties {
            // How many tasks there are is no matter here, nor that files are young.
            if self.random.random()
                || kind == "record" && name.starts_with("episodes")
                || name == "min_age"
            {
                continue;
            }
            let is_valid = |config: &Value| {
                serde_json::from_value::<StageSpec>(json!({ kind: config }))
                    .is_ok_and(|spec| spec.validate().is_empty())
            };
            for value in (0..4).filter_map(|_| self.value(&of)).collect::<Vec<_>>() {
                let mut changed = config.clone();
                changed[&name] = value;
                if is_valid(&changed) {
                    config = changed;
                    break;
                }
            }
        }
        config
    }

    /// A pipeline of which every stage has random settings; adds to the counts by kind.
    fn pipeline(&mut self, folder: &str, counts: &mut BTreeMap<&'static str, usize>) -> String {
        let first = |from: &Value| from[0].clone();
        let all = [stages(folder), learning_stages()].concat();
        let mut chosen: Vec<Value> =
            all.iter().map(|(_, kind, from)| json!({ *kind: first(from) })).collect();
        let seed = self.random.next_u64() >> self.random.random_range(0..64_u32);
        let text = |chosen: &[Value]| {
            let stages: serde_json::Map<String, Value> = all
                .iter()
                .zip(chosen)
                .map(|((name, ..), of)| ((*name).to_owned(), of.clone()))
                .collect();
            json!({ "name": "p", "workspace": "nowhere", "seed": seed, "stages": stages })
                .to_string()
        };
        for (at, (_, kind, from)) in all.iter().enumerate() {
            for _ in 0..6 {
                let before =
                    std::mem::replace(&mut chosen[at], json!({ *kind: self.settings(kind, from) }));
                if check("p.yaml", &text(&chosen), &[], &Access::default()).is_ok() {
                    *counts.entry(*kind).or_default() += 1;
                    break;
                }
                chosen[at] = before;
            }
        }
        text(&chosen)
    }
}

/// Files receipts and files of the right names for jobs. Planning reads no content, so that none is computed.
struct FilesOnly<'a> {
    store: &'a Store,
    /// The digests of the videos in a shard, by its hash.
    videos: HashMap<String, Vec<String>>,
}

impl FilesOnly<'_> {
    fn file(&self, path: String, rows: u64) -> FileInfo {
        // A table is published, and so its schema is read.
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

    /// Files the receipt of a job that went through JSON.
    fn perform(&mut self, job: &Job) -> Arc<Receipt> {
        let text = serde_json::to_string(job).unwrap();
        let job: Job = serde_json::from_str(&text).unwrap();
        handout::check("jobs/000000.jsonl", &job).unwrap_or_else(|error| panic!("{error}\n{text}"));
        assert_eq!(serde_json::to_string(&job).unwrap(), text);
        assert_eq!(key::key(&job.fields), job.key);
        let attempt = fresh_id();
        let folder = data_folder(&job.stage, &job.key, &attempt);
        let files = names(&job.task)
            .into_iter()
            .map(|name| self.file(format!("{folder}/{name}"), 7))
            .collect::<Vec<_>>();
        let videos = videos(&job.task);
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
            made: Made::default(),
        };
        file_receipt(self.store, &job.stage, &receipt).unwrap();
        Arc::new(
            find_receipts(self.store, &job.stage, std::slice::from_ref(&receipt.key))
                .unwrap()
                .pop()
                .flatten()
                .unwrap(),
        )
    }

    fn rejects(&self, task: &Task) -> Vec<Reject> {
        let Task::Deduplicate(task) = task else { return vec![] };
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

    /// Runs a pipeline as `run` does.
    fn run(&mut self, checked: &Checked) -> Vec<(String, Vec<String>)> {
        let options = PlanOptions::default();
        let session = Session::begin(checked, self.store, &options, PinsFor::ThisProcess).unwrap();
        let mut planner = Planner::new(checked, self.store, &options).unwrap();
        let mut done = Vec::new();
        for &at in &checked.order {
            let mut plan = planner.plan(at).unwrap();
            assert!(session.hold(&plan).unwrap());
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
                Some(&super::Error::Faults(vec![])),
            )
            .unwrap();
        done
    }
}

/// The names of the files that a task leaves.
pub(super) fn names(task: &Task) -> Vec<String> {
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
        Task::Report(_) => &["report.html", "map.parquet"],
    };
    names.iter().map(|name| (*name).to_owned()).collect()
}

/// The videos that a task reads or records.
pub(super) fn videos(task: &Task) -> Vec<VideoRecord> {
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

struct Quiet;

impl Watch for Quiet {
    fn begin(&self, plan: &StagePlan, _: u64) -> Box<dyn Progress> {
        panic!("{} has something to do", plan.stage)
    }

    fn end(&self, _: &StageSummary) {}
}

/// Nothing is to be done, and what is done is `done`.
fn expect_done(text: &str, store: &Store, done: &[(String, Vec<String>)]) {
    let checked = check("p.yaml", text, &[], &Access::default()).unwrap();
    let plans = Planner::new(&checked, store, &PlanOptions::default()).unwrap().plan_all().unwrap();
    for (plan, (stage, keys)) in plans.iter().zip(done) {
        assert_eq!(plan.stage, *stage);
        assert!(!plan.changes() && plan.new_tasks() == 0, "{stage}: {}\n{text}", plan.reasons());
        assert_eq!((plan.tasks.keys(), plan.version()), (keys.clone(), Some(1)), "{stage}\n{text}");
        assert!(plan.damaged.is_empty());
    }
    let means = Means {
        devices: vec![],
        threads: 1,
        decoder: None,
        games: vec![],
        stop: Default::default(),
    };
    let summary = run(&checked, store, &PlanOptions::default(), &means, &Quiet).unwrap();
    assert_eq!(summary.run, "", "{text}");
    assert!(summary.stages.iter().all(|stage| !stage.changed && stage.version == 1), "{text}");
}

/// What packs hold is what was filed.
fn expect_packed(store: &Store, stage: &str, keys: &[String]) {
    let filed: Vec<Receipt> =
        find_receipts(store, stage, keys).unwrap().into_iter().map(Option::unwrap).collect();
    let packed = head(store, stage).unwrap().unwrap().receipts(store).unwrap();
    assert!(packed.iter().map(|receipt| &**receipt).eq(&filed), "{stage}");
}

#[test]
fn whatever_the_settings_a_second_run_changes_nothing() {
    let folder = tempfile::tempdir().unwrap();
    for name in ["a.mp4", "b.mp4", "c.mp4", "actions.csv", "model.safetensors"] {
        std::fs::write(folder.path().join(name), name).unwrap();
    }
    let schema = Value::from(schemars::schema_for!(PipelineSpec));
    let mut draw = Draw { schema: &schema, random: ChaCha8Rng::seed_from_u64(35) };
    let mut counts = BTreeMap::new();
    while counts.values().sum::<usize>() < SETTINGS {
        let text = draw.pipeline(folder.path().to_str().unwrap(), &mut counts);
        let store = faulty_store(&[]);
        let checked = check("p.yaml", &text, &[], &Access::default()).unwrap();
        let done = FilesOnly { store: &store, videos: HashMap::default() }.run(&checked);
        expect_done(&text, &store, &done);
        for (stage, keys) in &done {
            expect_packed(&store, stage, keys);
            // Filed since the version was made, receipts are read one by one.
            for path in keys.iter().map(|key| receipt_path(stage, key)) {
                let bytes = store.require(&path).unwrap();
                store.delete(&path).unwrap();
                store.create(&path, &bytes).unwrap();
            }
        }
        expect_done(&text, &store, &done);
    }
    assert!(KINDS.iter().all(|kind| counts[kind] >= SETTINGS / KINDS.len() / 3), "{counts:?}");
}
