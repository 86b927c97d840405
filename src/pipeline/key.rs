//! What decides whether a task is done already: its key. In: the fields that change the output; out: their hash.
//!
//! A key hashes the kind of stage, the version of its code, the settings that change the output, and the digests of its inputs,
//! in this order. Thread counts, paths and limits are not in it.

use serde::Serialize;
use serde_json::{Map, Value, json};

use crate::dataset::Receipt;
use crate::stages::{decode, import_dynamics, label, train_dynamics};

/// The fields of a key, in order.
pub type Fields = Map<String, Value>;

/// Fields that name inputs rather than settings.
const INPUTS: [&str; 4] = ["videos", "frames", "model", "generation"];

/// The key of some fields: 32 hex digits of their blake3.
pub fn key(fields: &Fields) -> String {
    let text = Value::Object(fields.clone()).to_string();
    blake3::hash(text.as_bytes()).to_hex()[..32].to_string()
}

/// The fields without the inputs: two tasks with equal settings differ only in what they work on.
pub fn settings(fields: &Fields) -> Fields {
    fields.iter().filter(|(name, _)| !INPUTS.contains(&name.as_str())).map(|(k, v)| (k.clone(), v.clone())).collect()
}

/// Decode: all settings but the patterns and guards, and the videos' digests.
pub fn of_decode(task: &decode::DecodeTask) -> Fields {
    let process = ["videos", "max_rejected", "limits", "videos_per_shard"];
    let mut fields = start("decode", decode::VERSION, &task.config, &process);
    fields.insert("videos".into(), task.videos.iter().map(|video| video.digest.clone()).collect());
    fields
}

/// Training: the networks as they come out of preset and overrides, the schedule, the seed, and the frames.
pub fn of_train_dynamics(task: &train_dynamics::TrainDynamicsTask, generation: u64) -> Fields {
    let resolved = ["frames", "refresh", "preset", "idm_scale", "fdm_base", "context", "vq", "predict", "reference"];
    let mut fields = start("train_dynamics", train_dynamics::VERSION, &task.config, &resolved);
    flatten(&mut fields, "", json!(task.config.dynamics(task.size)));
    fields.insert("seed".into(), task.seed.into());
    fields.insert("frames".into(), task.shards.iter().map(|shard| shard.blake3.clone()).collect());
    fields.insert("generation".into(), generation.into());
    fields
}

/// Import: the digest of the weights.
pub fn of_import_dynamics(task: &import_dynamics::ImportDynamicsTask) -> Fields {
    let mut fields = start("import_dynamics", import_dynamics::VERSION, &task.config, &["weights"]);
    fields.insert("model".into(), task.digest.clone().into());
    fields
}

/// Labelling: the frames' and the model's digest.
pub fn of_label(task: &label::LabelTask) -> Fields {
    let mut fields = start("label", label::VERSION, &task.config, &["frames", "dynamics"]);
    fields.insert("frames".into(), task.shard.blake3.clone().into());
    fields.insert("model".into(), task.model.blake3.clone().into());
    fields
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

/// Why a task is new: the first field in which it differs from the most similar of the receipts.
pub fn why(fields: &Fields, receipts: &[Receipt]) -> String {
    let alike = |receipt: &&Receipt| fields.iter().filter(|(name, value)| receipt.fields.get(*name) == Some(value)).count();
    let Some(nearest) = receipts.iter().rev().max_by_key(alike) else { return "never done".into() };
    let differs = |(name, value): &(&String, &Value)| nearest.fields.get(*name) != Some(value);
    match fields.iter().find(differs) {
        Some((name, _)) if INPUTS.contains(&name.as_str()) => format!("new {name}"),
        Some((name, new)) => match nearest.fields.get(name) {
            Some(old) => format!("{name}: {old} -> {new}"),
            None => format!("{name}: {new}"),
        },
        None => "its receipt is gone".into(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn fields(size: u32, video: &str) -> Fields {
        [("stage", json!("decode")), ("size", json!(size)), ("videos", json!([video]))]
            .into_iter()
            .map(|(name, value)| (name.to_string(), value))
            .collect()
    }

    fn receipt(fields: Fields) -> Receipt {
        let (key, stage, attempt) = (key(&fields), "decode".into(), String::new());
        let (files, inputs, videos, rejects, stats) = Default::default();
        Receipt { format: 1, key, stage, attempt, fields, files, inputs, videos, rejects, stats }
    }

    #[test]
    fn a_key_changes_with_every_field_and_nothing_else() {
        assert_eq!(key(&fields(64, "a")), key(&fields(64, "a")));
        assert_ne!(key(&fields(64, "a")), key(&fields(32, "a")));
        assert_ne!(key(&fields(64, "a")), key(&fields(64, "b")));
        assert_eq!(settings(&fields(64, "a")), settings(&fields(64, "b")));
    }

    #[test]
    fn the_reason_is_the_first_difference_from_the_nearest_receipt() {
        let done = [receipt(fields(64, "a")), receipt(fields(64, "b"))];
        assert_eq!(why(&fields(32, "b"), &done), "size: 64 -> 32");
        assert_eq!(why(&fields(64, "c"), &done), "new videos");
        assert_eq!(why(&fields(64, "c"), &[]), "never done");
    }
}
