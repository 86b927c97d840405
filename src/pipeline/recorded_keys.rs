//! Compares task keys with recorded ones, so that no change of the code recomputes existing
//! results.
//!
//! Every pipeline of `pipelines/` is planned over made-up receipts, and so is one more pipeline
//! with every kind of stage and rare settings. If a key changes on purpose, because a stage's
//! `version` was raised, record the keys again: `LAPO_RECORD_KEYS=1 cargo test --release --lib
//! recorded_keys`.

#![expect(clippy::unwrap_used, reason = "a test fails by panicking")]

use std::collections::BTreeMap;
use std::path::Path;
use std::sync::Arc;

use super::check::{Checked, check};
use super::plan::{PlanOptions, Planner};
use super::run::settle;
use super::settings_tests::{output_names, video_records};
use crate::dataset::{
    Access, FORMAT, FileInfo, HashMap, ListMetadata, Provenance, Receipt, Reject, data_folder,
    faulty_store,
};
use crate::executor::Job;
use crate::stages::Task;
use crate::stages::plan::key::key;

const RECORDED: &str = "src/pipeline/recorded_keys.json";

/// A pipeline with every kind of stage, and settings beyond the example pipelines.
const EVERY_KIND: &str = "
name: every_kind
workspace: nowhere
seed: 1234567890123
holdout: 3
stages:
  frames:
    decode:
      { videos: ['data/maze/maze_1_00*.mp4'], size: 32, videos_per_shard: 3, cut: null }
  odd:
    decode:
      { videos: ['data/bigfish/*.mp4'], duplicates: skip, fps: 29.97, fit: crop,
        trim_bars: true, blank: 0.02, still: { frames: 3 }, compression: zstd, min_frames: 5,
        max_dropped: 0.3, limits: { deadline_secs: 60 } }
  actions: { import_actions: { frames: frames, file: data/maze/actions.parquet, partial: true } }
  copies: { deduplicate: { frames: frames, distance: 0.003 } }
  played:
    record:
      { game: coinrun, player: sticky, episodes: 40, noise: 0.1, videos: true, mode: hard }
  weights: { import_dynamics: { weights: tests/golden/idm_fdm.pt } }
  paper: { train_dynamics: { frames: frames, without: copies, reference: true, steps: 10 } }
  told:
    train_dynamics:
      { frames: played, actions: played, supervision: { labels: 8 }, preset: small, context: 2,
        optimizer: adam, learning_rate: 0.001, idm_learning_rate: 0.0003, decorrelation: 0.01,
        vq: { warmup: 0.5 }, precision: bf16, refresh: always }
  labels: { label: { frames: frames, dynamics: paper, actions: actions, without: copies } }
  again: { label: { frames: odd, dynamics: weights, precision: bf16, file_mib: 3 } }
  seen: { label: { frames: played, dynamics: told, actions: played, fdm_error: false } }
  policy:
    train_policy:
      { labels: seen, scale: 3, warmup_steps: 5, patience: 2, refresh: { growth: 0.5 } }
  decoder:
    train_decoder:
      { labels: seen, actions: played, transitions: [64, 16], draws: 2, hidden: [] }
  agent:
    finetune: { game: coinrun, policy: policy, dynamics: told, seed: 5, learning_rate: 0.002 }
  scratch: { finetune: { game: heist, from_scratch: true, levels: { start: 3, count: 9 } } }
  shown: { record: { game: coinrun, player: agent, agent: agent, episodes: 2 } }
  cloned:
    record: { game: coinrun, player: policy, policy: policy, decoder: decoder, episodes: 3 }
  returns: { evaluate: { game: coinrun, policy: policy, decoder: decoder, temperature: 0 } }
  learnt: { evaluate: { game: coinrun, agent: agent, episodes: 10 } }
  probe: { evaluate: { labels: seen, actions: played } }
  ahead: { evaluate: { frames: frames, dynamics: paper, rollout: 2 } }
  robot:
    export:
      { format: lerobot, frames: played, labels: seen, actions: played, fps: 20, zoom: 2 }
  spread: { train_decoder: { labels: seen, actions: played, head: gaussian } }
  page:
    report:
      { frames: frames, labels: labels, policy: policy, decoder: decoder, evaluation: returns,
        agents: [agent, scratch], points: 100 }
";

/// Keys by stage, in the dataset's order.
type Keys = BTreeMap<String, Vec<String>>;

/// Returns a made-up receipt of a job. Its digests depend only on the key.
fn receipt(job: &Job, digest_of_shard: &HashMap<String, String>) -> Arc<Receipt> {
    let folder = data_folder(&job.stage, &job.key, "0");
    let file = |name: String| {
        let path = format!("{folder}/{name}");
        FileInfo {
            bytes: 1,
            rows: 7,
            blake3: blake3::hash(path.as_bytes()).to_hex().to_string(),
            path,
        }
    };
    let videos = video_records(&job.task);
    let copy = match &job.task {
        Task::Deduplicate(task) => {
            task.shards.first().map(|shard| digest_of_shard[&shard.blake3].clone())
        }
        _ => None,
    };
    let reject = |digest| Reject {
        video: "a.mp4".into(),
        digest,
        class: "near_duplicate".into(),
        reason: "as b.mp4".into(),
        frames_kept: 0,
    };
    let stats =
        [("frames", 7.0), ("transitions", 6.0)].map(|(name, count)| (name.to_owned(), count));
    Arc::new(Receipt {
        format: FORMAT,
        key: job.key.clone(),
        stage: job.kind.clone(),
        attempt: "0".into(),
        fields: job.fields.clone().into(),
        files: output_names(&job.task).into_iter().map(file).collect(),
        inputs: job.inputs.clone(),
        videos,
        rejects: copy.into_iter().map(reject).collect(),
        stats: stats.into_iter().chain(job.stats.clone()).collect(),
        made: Provenance::default(),
    })
}

/// Returns a job's key. A report's key leaves out the version of lapo, because it changes with
/// every release.
fn release_independent_key(job: &Job) -> String {
    assert_eq!(key(&job.fields), job.key);
    let mut fields = job.fields.clone();
    if fields.contains_key("lapo") {
        fields["lapo"] = "any".into();
    }
    key(&fields)
}

/// Plans a pipeline stage by stage, each as if the stages before it had run.
fn keys(checked: &Checked) -> Keys {
    let store = faulty_store(&[]);
    let options = PlanOptions::default();
    let mut planner = Planner::new(checked, &store, &options).unwrap();
    let mut all = Keys::new();
    let mut seen = HashMap::default();
    for &at in &checked.order {
        let mut plan = planner.plan(at).unwrap();
        assert_eq!(plan.waiting.tasks, 0, "{}", plan.stage);
        let jobs = plan.tasks.begin();
        let made: HashMap<String, Arc<Receipt>> =
            jobs.iter().map(|job| (job.key.clone(), receipt(job, &seen))).collect();
        for receipt in made.values() {
            let shard = receipt.files.first().filter(|file| file.path.ends_with(".arrow"));
            let digest = receipt.videos.first().map(|video| video.digest.clone());
            seen.extend(shard.map(|shard| shard.blake3.clone()).zip(digest));
        }
        all.insert(plan.stage.clone(), jobs.iter().map(release_independent_key).collect());
        assert_eq!(settle(&mut plan, &made), 0);
        planner.plans.insert(plan.stage.clone(), plan);
    }
    all
}

/// Returns whether a video is among the first 40, so that more example videos change no key here.
fn is_used(uri: &str) -> bool {
    let number = uri.strip_suffix(".mp4").and_then(|name| name.rsplit_once('_'));
    number.and_then(|(_, number)| number.parse::<usize>().ok()).is_some_and(|number| number < 40)
}

/// Checks a pipeline and keeps only a few of its videos.
fn checked(text: &str, set: &[(String, String)]) -> Checked {
    let mut checked = check("p.yaml", text, set, &Access::default()).unwrap();
    for videos in checked.videos.values_mut() {
        videos.retain(|video| is_used(&video.uri));
    }
    checked
}

#[test]
fn task_keys_equal_the_recorded_ones() {
    let root = Path::new(env!("CARGO_MANIFEST_DIR"));
    let mut now: BTreeMap<String, Keys> = BTreeMap::new();
    for entry in std::fs::read_dir(root.join("pipelines")).unwrap() {
        let path = entry.unwrap().path();
        let text = std::fs::read_to_string(&path).unwrap();
        // Plan fewer episodes than the pipelines record: their number is in no key.
        let fewer = text.contains("episodes: ").then(|| ("episodes".to_owned(), "2500".to_owned()));
        let name = path.file_stem().unwrap().to_string_lossy().into_owned();
        now.insert(name, keys(&checked(&text, fewer.as_slice())));
    }
    let mut every_kind = checked(EVERY_KIND, &[]);
    let about: ListMetadata = [("licence".to_owned(), "MIT".to_owned())].into_iter().collect();
    every_kind.videos.get_mut("odd").unwrap()[1].about = about;
    now.insert("every_kind".into(), keys(&every_kind));
    let file = root.join(RECORDED);
    if std::env::var_os("LAPO_RECORD_KEYS").is_some() {
        std::fs::write(&file, serde_json::to_string_pretty(&now).unwrap() + "\n").unwrap();
    }
    let recorded: BTreeMap<String, Keys> =
        serde_json::from_str(&std::fs::read_to_string(&file).unwrap()).unwrap();
    for (pipeline, stages) in &recorded {
        for (stage, keys) in stages {
            assert_eq!(now[pipeline].get(stage), Some(keys), "{pipeline}: {stage}");
        }
    }
    assert!(now == recorded, "a pipeline or a stage is not recorded yet: see {}", file!());
}
