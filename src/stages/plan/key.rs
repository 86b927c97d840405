//! What decides whether a task is done already: its key. In: the fields that change the output; out: their hash.
//!
//! A key hashes the kind of stage, the version of its code, the settings that change the output, and the digests of its inputs,
//! in this order. Thread counts, paths and limits are not in it.

use std::cell::{OnceCell, RefCell};
use std::sync::Arc;

use serde::Serialize;
use serde_json::{Map, Value, json};

use crate::dataset::{FileInfo, HashMap, HashSet, Receipt};
use crate::stages::{
    Task, decode, deduplicate, evaluate, finetune, import_actions, import_dynamics, label, record, report, train_decoder, train_dynamics,
    train_policy,
};

/// The fields of a key, in order.
pub type Fields = Map<String, Value>;

/// Fields that name inputs rather than settings.
const INPUTS: [&str; 14] = [
    "videos",
    "names",
    "about",
    "try",
    "frames",
    "without",
    "model",
    "labels",
    "true_actions",
    "policy",
    "decoders",
    "agent",
    "results",
    "generation",
];

/// The key of some fields: 32 hex digits of their blake3.
pub fn key(fields: &Fields) -> String {
    blake3::hash(canonical(fields).as_bytes()).to_hex()[..32].to_string()
}

/// The text that is hashed. Fields are compared by it, never by the numbers that a reader makes of it.
pub fn canonical(fields: &Fields) -> String {
    serde_json::to_string(fields).expect("fields are plain JSON")
}

/// Says of receipts whether they have some settings, each distinct text of which is made once.
pub struct WithSettings {
    canonical: String,
    /// What was found of fields that many receipts share.
    found: RefCell<HashMap<*const Fields, bool>>,
}

impl WithSettings {
    /// Those whose settings are these.
    pub fn new(settings: &Fields) -> Self {
        WithSettings { canonical: canonical(settings), found: RefCell::default() }
    }

    /// Whether the receipt has them.
    pub fn are_of(&self, receipt: &Receipt) -> bool {
        let look = || canonical(&settings(receipt.fields.iter())) == self.canonical;
        match shared_settings(receipt) {
            Some(shared) => *self.found.borrow_mut().entry(Arc::as_ptr(shared)).or_insert_with(look),
            None => look(),
        }
    }
}

/// What the receipt shares with others, where it differs from them in inputs alone.
fn shared_settings(receipt: &Receipt) -> Option<&Arc<Fields>> {
    let (shared, mut own) = receipt.fields.shared();
    own.all(|name| INPUTS.contains(&name)).then_some(shared)
}

/// The fields without the inputs: two tasks with equal settings differ only in what they work on.
pub fn settings<'f>(fields: impl IntoIterator<Item = (&'f String, &'f Value)>) -> Fields {
    fields.into_iter().filter(|(name, _)| !INPUTS.contains(&name.as_str())).map(|(k, v)| (k.clone(), v.clone())).collect()
}

/// Decode: all settings but the patterns and guards, the videos' digests and names, what lists say of them, and which try it is, where it is not the
/// first.
pub fn of_decode(task: &decode::DecodeTask) -> Fields {
    let process = ["videos", "lists", "identity", "max_rejected", "max_dropped", "min_age", "limits", "videos_per_shard", "shard_mib"];
    let mut fields = start("decode", decode::VERSION, &task.config, &process);
    fields.insert("videos".into(), task.videos.iter().map(|video| video.digest.clone()).collect());
    let names = json!(task.videos.iter().map(|video| &video.uri).collect::<Vec<_>>()).to_string();
    fields.insert("names".into(), blake3::hash(names.as_bytes()).to_hex().to_string().into());
    if task.videos.iter().any(|video| !video.about.is_empty()) {
        let about = json!(task.videos.iter().map(|video| &video.about).collect::<Vec<_>>()).to_string();
        fields.insert("about".into(), blake3::hash(about.as_bytes()).to_hex().to_string().into());
    }
    if task.tries > 1 {
        fields.insert("try".into(), task.tries.into());
    }
    fields
}

/// Recording: all settings but how many, the seed, which episodes, and what was learnt by whoever plays.
pub fn of_record(task: &record::RecordTask) -> Fields {
    let mut fields = start("record", record::VERSION, &task.config, &["episodes", "episodes_per_shard", "policy", "decoder", "agent"]);
    fields.insert("seed".into(), task.seed.into());
    match task.learnt.as_slice() {
        [policy, decoder] => {
            fields.insert("policy".into(), policy.blake3.clone().into());
            fields.insert("decoders".into(), decoder.blake3.clone().into());
        }
        [agent] => _ = fields.insert("agent".into(), agent.blake3.clone().into()),
        _ => {}
    }
    fields.insert("videos".into(), json!({ "first": task.first, "count": task.count }));
    fields
}

/// Training: the networks as they come out of preset and overrides, the schedule, the seed, and the frames.
pub fn of_train_dynamics(task: &train_dynamics::TrainDynamicsTask, generation: u64) -> Fields {
    let resolved = [
        "frames",
        "refresh",
        "preset",
        "idm_scale",
        "fdm_base",
        "context",
        "vq",
        "predict",
        "reference",
        "idm_head",
        "fdm_action",
        "fdm_bottom",
        "actions",
        "without",
    ];
    let mut fields = start("train_dynamics", train_dynamics::VERSION, &task.config, &resolved);
    flatten(&mut fields, "", json!(task.config.dynamics(task.size)));
    // The same networks by the paper's optimiser and rates are another model.
    if task.config.reference {
        fields.insert("reference".into(), true.into());
    }
    fields.insert("seed".into(), task.seed.into());
    fields.insert("frames".into(), digests(&task.shards));
    fields.insert("generation".into(), generation.into());
    if task.config.actions.is_some() {
        fields.insert("measured".into(), true.into());
        fields.insert("true_actions".into(), digests(&task.actions));
    }
    if let Some(without) = &task.without {
        fields.insert("no_copies".into(), true.into());
        fields.insert("without".into(), json!(without));
    }
    fields
}

/// Near-copies: how near, and the frames' digests.
pub fn of_deduplicate(task: &deduplicate::DeduplicateTask) -> Fields {
    let mut fields = start("deduplicate", deduplicate::VERSION, &task.config, &["frames"]);
    fields.insert("frames".into(), digests(&task.shards));
    fields
}

/// Import of actions: the file's digest and the frames'.
pub fn of_import_actions(task: &import_actions::ImportActionsTask) -> Fields {
    let mut fields = start("import_actions", import_actions::VERSION, &task.config, &["frames", "file"]);
    fields.insert("true_actions".into(), task.digest.clone().into());
    fields.insert("frames".into(), digests(&task.shards));
    fields
}

/// Import: the digest of the weights.
pub fn of_import_dynamics(task: &import_dynamics::ImportDynamicsTask) -> Fields {
    let mut fields = start("import_dynamics", import_dynamics::VERSION, &task.config, &["weights"]);
    fields.insert("model".into(), task.digest.clone().into());
    fields
}

/// Labelling: the frames' and the model's digest, and which of the shard's videos are left out.
pub fn of_label(task: &label::LabelTask) -> Fields {
    let mut fields = start("label", label::VERSION, &task.config, &["frames", "dynamics", "actions", "without", "file_mib"]);
    fields.insert("frames".into(), task.shard.blake3.clone().into());
    fields.insert("model".into(), task.model.blake3.clone().into());
    if let Some(actions) = &task.actions {
        fields.insert("true_actions".into(), actions.blake3.clone().into());
    }
    if !task.without.is_empty() {
        fields.insert("without".into(), json!(task.without));
    }
    fields
}

/// Cloning: the network's width, the schedule, the seed, the model that labelled, if it is there already, and the labels. What shards these
/// are of is in the labels.
pub fn of_train_policy(task: &train_policy::TrainPolicyTask, model: Option<&FileInfo>, generation: u64) -> Fields {
    let mut fields = start("train_policy", train_policy::VERSION, &task.config, &["labels", "refresh", "preset"]);
    fields.insert("scale".into(), task.config.resolved_scale().into());
    fields.insert("seed".into(), task.seed.into());
    fields.insert("model".into(), json!(model.map(|model| &model.blake3)));
    fields.insert("labels".into(), digests(&task.labels));
    fields.insert("generation".into(), generation.into());
    fields
}

/// Decoding: all settings but which stages, the seed, the labels and the true actions.
pub fn of_train_decoder(task: &train_decoder::TrainDecoderTask) -> Fields {
    let mut fields = start("train_decoder", train_decoder::VERSION, &task.config, &["labels", "actions"]);
    fields.insert("seed".into(), task.seed.into());
    fields.insert("labels".into(), digests(&task.labels));
    fields.insert("true_actions".into(), digests(&task.actions));
    fields
}

/// Online training: all settings but which stages, the seed, and what it starts from.
pub fn of_finetune(task: &finetune::FinetuneTask) -> Fields {
    let mut fields = start("finetune", finetune::VERSION, &task.config, &["policy", "dynamics", "seed"]);
    fields.insert("seed".into(), task.seed.into());
    for (name, file) in [("policy", &task.policy), ("model", &task.dynamics)] {
        if let Some(file) = file {
            fields.insert(name.into(), file.blake3.clone().into());
        }
    }
    fields
}

/// Evaluation: all settings but which stages, the seed, and who plays.
pub fn of_evaluate(task: &evaluate::EvaluateTask) -> Fields {
    let stages = ["policy", "decoder", "agent", "labels", "actions", "dynamics", "frames"];
    let mut fields = start("evaluate", evaluate::VERSION, &task.config, &stages);
    fields.insert("seed".into(), task.seed.into());
    if let Some(policy) = &task.policy {
        fields.insert("policy".into(), policy.blake3.clone().into());
        fields.insert("decoders".into(), digests(&task.decoders));
    }
    if let Some(agent) = &task.agent {
        fields.insert("agent".into(), agent.blake3.clone().into());
    }
    if !task.labels.is_empty() {
        fields.insert("labels".into(), digests(&task.labels));
        fields.insert("true_actions".into(), digests(&task.actions));
    }
    if let Some(model) = &task.dynamics {
        fields.insert("model".into(), model.blake3.clone().into());
        fields.insert("frames".into(), digests(&task.shards));
    }
    fields
}

/// A report: what it is of, by name, since the page shows these, the program's version, which it shows too, and every file.
pub fn of_report(task: &report::ReportTask) -> Fields {
    let mut fields = start("report", report::VERSION, &json!({}), &[]);
    fields.insert("lapo".into(), env!("CARGO_PKG_VERSION").into());
    fields.insert("pipeline".into(), task.pipeline.clone().into());
    fields.insert("of".into(), json!(task.config));
    let results = task.sources.iter().map(|source| json!([source.stage, source.tasks, digests(&source.files)]));
    fields.insert("results".into(), results.collect());
    fields
}

/// The fields of a task as this program makes them; of what is not in the task itself, as `given` has them.
pub fn of_job(task: &Task, given: &Fields) -> Fields {
    let generation = given.get("generation").and_then(Value::as_u64).unwrap_or(0);
    match task {
        Task::Decode(task) => of_decode(task),
        Task::Record(task) => of_record(task),
        Task::Deduplicate(task) => of_deduplicate(task),
        Task::TrainDynamics(task) => of_train_dynamics(task, generation),
        Task::ImportActions(task) => of_import_actions(task),
        Task::ImportDynamics(task) => of_import_dynamics(task),
        Task::Label(task) => of_label(task),
        Task::TrainPolicy(task) => {
            let digest = given.get("model").and_then(Value::as_str);
            let model = digest.map(|digest| FileInfo { path: String::new(), bytes: 0, rows: 0, blake3: digest.to_owned() });
            of_train_policy(task, model.as_ref(), generation)
        }
        Task::TrainDecoder(task) => of_train_decoder(task),
        Task::Finetune(task) => of_finetune(task),
        Task::Evaluate(task) => of_evaluate(task),
        Task::Report(task) => of_report(task),
    }
}

fn digests(files: &[FileInfo]) -> Value {
    files.iter().map(|file| file.blake3.clone()).collect()
}

fn start(kind: &str, version: u32, config: &impl Serialize, without: &[&str]) -> Fields {
    let mut fields = Fields::new();
    fields.insert("stage".into(), kind.into());
    fields.insert("version".into(), version.into());
    if let Value::Object(config) = json!(config) {
        fields.extend(config.into_iter().filter(|(name, _)| !without.contains(&name.as_str())));
    }
    fields
}

/// Adds nested settings as `vq.entries`.
fn flatten(fields: &mut Fields, prefix: &str, value: Value) {
    match value {
        Value::Object(map) => map.into_iter().for_each(|(name, inner)| {
            let dot = if prefix.is_empty() { "" } else { "." };
            flatten(fields, &format!("{prefix}{dot}{name}"), inner);
        }),
        leaf => _ = fields.insert(prefix.into(), leaf),
    }
}

/// The receipts of a stage, ready to be asked whether a task is done and, if not, why.
pub struct Known<'a> {
    by_key: HashMap<&'a str, &'a Arc<Receipt>>,
    /// Settings that differ, in the receipts' order.
    settings: Vec<Fields>,
    receipts: &'a [Arc<Receipt>],
    /// Inputs that some receipt has: field and hash of the value. A million videos are named in them, so they are looked at when somebody asks.
    inputs: OnceCell<HashSet<(&'static str, blake3::Hash)>>,
}

impl<'a> Known<'a> {
    /// Sorts receipts for the asking.
    pub fn new(receipts: &'a [Arc<Receipt>]) -> Self {
        let by_key = receipts.iter().map(|receipt| (receipt.key.as_str(), receipt)).collect();
        let mut known = Known { by_key, settings: Vec::new(), receipts, inputs: OnceCell::new() };
        let (mut seen, mut shared) = (HashSet::default(), HashSet::default());
        for receipt in receipts {
            if shared_settings(receipt).is_some_and(|fields| !shared.insert(Arc::as_ptr(fields))) {
                continue;
            }
            let settings = settings(receipt.fields.iter());
            if seen.insert(canonical(&settings)) {
                known.settings.push(settings);
            }
        }
        known
    }

    /// The receipt of a task that is done.
    pub fn get(&self, key: &str) -> Option<&'a Arc<Receipt>> {
        self.by_key.get(key).copied()
    }

    /// Why a task is new: the first setting that differs from the most similar settings there are, or else the first input that no
    /// receipt has.
    pub fn why(&self, fields: &Fields) -> String {
        let settings = settings(fields);
        let alike = |other: &&Fields| settings.iter().filter(|(name, value)| other.get(*name) == Some(value)).count();
        let Some(nearest) = self.settings.iter().rev().max_by_key(alike) else { return "never done".into() };
        if let Some((name, new)) = settings.iter().find(|(name, value)| nearest.get(*name) != Some(value)) {
            return nearest.get(name).map_or_else(|| format!("{name}: {new}"), |old| format!("{name}: {old} -> {new}"));
        }
        let known = self.inputs.get_or_init(|| self.receipts.iter().flat_map(|receipt| inputs(|name| receipt.fields.get(name))).collect());
        let new = inputs(|name| fields.get(name)).find(|input| !known.contains(input));
        new.map_or_else(|| "never done with these inputs".into(), |(name, _)| format!("new {name}"))
    }
}

fn inputs<'f>(field: impl Fn(&str) -> Option<&'f Value>) -> impl Iterator<Item = (&'static str, blake3::Hash)> {
    INPUTS.into_iter().filter_map(move |name| Some((name, blake3::hash(field(name)?.to_string().as_bytes()))))
}

#[cfg(test)]
#[expect(clippy::unwrap_used, reason = "a test fails by panicking")]
mod tests {
    use super::*;

    fn fields(size: u32, video: &str) -> Fields {
        [("stage", json!("decode")), ("size", json!(size)), ("videos", json!([video]))]
            .into_iter()
            .map(|(name, value)| (name.to_string(), value))
            .collect()
    }

    fn receipt(fields: Fields) -> Arc<Receipt> {
        let (key, stage, attempt) = (key(&fields), "decode".into(), String::new());
        let (files, inputs, videos, rejects, stats) = Default::default();
        let made = Default::default();
        Arc::new(Receipt { format: 2, key, stage, attempt, fields: fields.into(), files, inputs, videos, rejects, stats, made })
    }

    #[test]
    fn a_key_changes_with_every_field_and_nothing_else() {
        assert_eq!(key(&fields(64, "a")), key(&fields(64, "a")));
        assert_ne!(key(&fields(64, "a")), key(&fields(32, "a")));
        assert_ne!(key(&fields(64, "a")), key(&fields(64, "b")));
        assert_eq!(settings(&fields(64, "a")), settings(&fields(64, "b")));
    }

    #[test]
    fn the_paper_s_training_is_not_that_of_its_networks_spelled_out() {
        let key = |settings: &str| {
            let task = json!({ "config": serde_yaml::from_str::<Value>(settings).unwrap(), "seed": 0, "size": 64, "shards": [],
                "actions": [], "provenance": {}, "checkpoint_secs": 60 });
            key(&of_train_dynamics(&serde_json::from_value(task).unwrap(), 0))
        };
        let vq = "vq: { warmup: 0, start: uniform, ema_start: zero, revive_after: 0 }";
        let networks = format!("idm_head: flatten, fdm_action: tile, fdm_bottom: 1, predict: frame, {vq}");
        assert_ne!(key("{ frames: a, reference: true }"), key(&format!("{{ frames: a, {networks} }}")));
        assert_eq!(key("{ frames: a, preset: tiny }"), key("{ frames: a, idm_scale: 1, fdm_base: 8 }"));
    }

    #[test]
    fn the_reason_is_the_first_setting_or_else_the_first_input_that_is_new() {
        let done = [receipt(fields(64, "a")), receipt(fields(64, "b"))];
        let known = Known::new(&done);
        assert_eq!(known.why(&fields(32, "b")), "size: 64 -> 32");
        assert_eq!(known.why(&fields(64, "c")), "new videos");
        assert_eq!(known.get(&key(&fields(64, "b"))).and_then(|r| r.fields.get("videos").cloned()), Some(json!(["b"])));
        assert!(known.get(&key(&fields(64, "c"))).is_none());
        assert_eq!(Known::new(&[]).why(&fields(64, "c")), "never done");
    }
}
