//! The key of a task: a hash of all fields that change its output. A task whose key has a receipt
//! is done.
//!
//! A key hashes the kind of stage, the version of its code, its settings and the digests of its
//! inputs, in this order. Thread counts, paths and limits are not part of it. Each stage lists its
//! fields in [`StageTask::key`](crate::stages::StageTask::key).

use std::cell::RefCell;
use std::sync::Arc;

use serde::Serialize;
use serde_json::{Map, Value, json};

use crate::dataset::{FileInfo, HashMap, Receipt};
use crate::stages::{StageKind, kind_of};

/// The fields of a key, in order.
pub type Fields = Map<String, Value>;

/// The fields of a task's key, as its stage lists them: settings and inputs.
#[derive(Clone, Debug)]
pub struct KeyFields {
    kind: &'static StageKind,
    fields: Fields,
}

impl KeyFields {
    /// Creates the first fields of every key: the kind of stage and the version of its code.
    pub fn new(kind: &'static StageKind) -> Self {
        let mut fields = Fields::new();
        // First, since a key hashes its fields in order.
        fields.insert("stage".into(), kind.name.into());
        fields.insert("version".into(), kind.version.into());
        KeyFields { kind, fields }
    }

    /// Adds a setting.
    pub fn setting(mut self, name: &str, value: impl Serialize) -> Self {
        debug_assert!(!self.kind.key_inputs.contains(&name), "{name} is an input of the kind");
        self.fields.insert(name.into(), json!(value));
        self
    }

    /// Adds a setting if `condition` holds. Without it, keys from before the setting existed stay
    /// valid.
    pub fn setting_if(self, condition: bool, name: &str, value: impl Serialize) -> Self {
        if condition { self.setting(name, value) } else { self }
    }

    /// Adds nested settings under dotted names, such as `vq.entries`.
    pub fn settings_of(mut self, value: impl Serialize) -> Self {
        flatten(&mut self.fields, "", json!(value));
        self
    }

    /// Adds an input. Its name must be one of the kind's [`key_inputs`](StageKind::key_inputs).
    pub fn input(mut self, name: &str, value: impl Serialize) -> Self {
        debug_assert!(self.kind.key_inputs.contains(&name), "{name} is no input of the kind");
        self.fields.insert(name.into(), json!(value));
        self
    }

    /// Adds an input if `condition` holds.
    pub fn input_if(self, condition: bool, name: &str, value: impl Serialize) -> Self {
        if condition { self.input(name, value) } else { self }
    }

    /// Returns the fields.
    pub fn into_fields(self) -> Fields {
        self.fields
    }
}

/// Adds nested settings under dotted names, such as `vq.entries`.
fn flatten(fields: &mut Fields, prefix: &str, value: Value) {
    match value {
        Value::Object(map) => {
            let dot = if prefix.is_empty() { "" } else { "." };
            for (name, inner) in map {
                flatten(fields, &format!("{prefix}{dot}{name}"), inner);
            }
        }
        // Lists are leaves, too.
        leaf => _ = fields.insert(prefix.into(), leaf),
    }
}

/// Returns the digests of files, in their order.
pub fn digests(files: &[FileInfo]) -> Vec<&str> {
    files.iter().map(|file| file.blake3.as_str()).collect()
}

/// Returns the key of these fields: 32 hex digits of their blake3 hash.
pub fn key(fields: &Fields) -> String {
    blake3::hash(canonical(fields).as_bytes()).to_hex()[..32].to_string()
}

/// Returns the text to hash. Fields are compared by this text, since numbers parsed from it might
/// lose digits.
pub fn canonical(fields: &Fields) -> String {
    serde_json::to_string(fields).expect("fields are plain JSON")
}

/// Returns the settings of this kind of stage among the fields, without the inputs.
pub fn settings<'f>(
    kind: &StageKind,
    fields: impl IntoIterator<Item = (&'f String, &'f Value)>,
) -> Fields {
    let settings = fields.into_iter().filter(|(name, _)| !kind.key_inputs.contains(&name.as_str()));
    settings.map(|(name, value)| (name.clone(), value.clone())).collect()
}

/// Returns the settings of a receipt.
pub fn settings_of_receipt(receipt: &Receipt) -> Fields {
    match kind_of(&receipt.stage) {
        Some(kind) => settings(kind, receipt.fields.iter()),
        // The kind may be of a newer lapo. Then all fields count as settings.
        None => receipt.fields.iter().map(|(name, value)| (name.clone(), value.clone())).collect(),
    }
}

/// Returns the fields the receipt shares with others, if all its own fields are inputs.
pub(super) fn shared_settings(receipt: &Receipt) -> Option<&Arc<Fields>> {
    let inputs = kind_of(&receipt.stage).map_or(&[][..], |kind| kind.key_inputs);
    // Many receipts share one map of settings. Other fields of their own must be inputs.
    let (shared, mut own) = receipt.fields.shared();
    own.all(|name| inputs.contains(&name)).then_some(shared)
}

/// A test for receipts with certain settings.
pub struct WithSettings {
    canonical: String,
    /// Results for fields shared by many receipts, by address.
    found: RefCell<HashMap<*const Fields, bool>>,
}

impl WithSettings {
    /// Creates a test for these settings.
    pub fn new(settings: &Fields) -> Self {
        WithSettings { canonical: canonical(settings), found: RefCell::default() }
    }

    /// Returns whether the receipt has the settings.
    pub fn are_of(&self, receipt: &Receipt) -> bool {
        let compare = || canonical(&settings_of_receipt(receipt)) == self.canonical;
        match shared_settings(receipt) {
            Some(shared) => {
                *self.found.borrow_mut().entry(Arc::as_ptr(shared)).or_insert_with(compare)
            }
            None => compare(),
        }
    }
}

#[cfg(test)]
#[expect(clippy::unwrap_used, reason = "a test fails by panicking")]
mod tests {
    use super::*;
    use crate::stages::StageTask;
    use crate::stages::decode::KIND;
    use crate::stages::plan::ReceiptIndex;
    use crate::stages::train_dynamics::TrainDynamicsTask;

    fn fields(size: u32, video: &str) -> Fields {
        [("stage", json!("decode")), ("size", json!(size)), ("videos", json!([video]))]
            .into_iter()
            .map(|(name, value)| (name.to_string(), value))
            .collect()
    }

    fn receipt(fields: Fields) -> Arc<Receipt> {
        Arc::new(Receipt {
            format: 2,
            key: key(&fields),
            stage: "decode".into(),
            attempt: String::new(),
            fields: fields.into(),
            files: vec![],
            inputs: vec![],
            videos: vec![],
            rejects: vec![],
            stats: Default::default(),
            made: Default::default(),
        })
    }

    #[test]
    fn a_key_changes_with_every_field_and_nothing_else() {
        assert_eq!(key(&fields(64, "a")), key(&fields(64, "a")));
        assert_ne!(key(&fields(64, "a")), key(&fields(32, "a")));
        assert_ne!(key(&fields(64, "a")), key(&fields(64, "b")));
        assert_eq!(settings(&KIND, &fields(64, "a")), settings(&KIND, &fields(64, "b")));
    }

    #[test]
    fn the_reference_preset_differs_from_its_networks_spelled_out() {
        let key = |config: Value| {
            let task = json!({ "config": config, "seed": 0, "holdout": 5, "size": 64,
                "shards": [], "actions": [],
                "provenance": {}, "checkpoint_secs": 60 });
            let task: TrainDynamicsTask = serde_json::from_value(task).unwrap();
            key(&task.key().into_fields())
        };
        let vq = json!({ "warmup": 0, "start": "uniform", "ema_start": "zero", "revive_after": 0 });
        let networks = json!({ "frames": "a", "idm_head": "flatten", "fdm_action": "tile",
            "fdm_bottom": 1, "predict": "frame", "vq": vq });
        assert_ne!(key(json!({ "frames": "a", "reference": true })), key(networks));
        let sizes = json!({ "frames": "a", "idm_scale": 1, "fdm_base": 8 });
        assert_eq!(key(json!({ "frames": "a", "preset": "tiny" })), key(sizes));
    }

    #[test]
    fn the_reason_is_the_first_new_setting_or_else_the_first_new_input() {
        let done = [receipt(fields(64, "a")), receipt(fields(64, "b"))];
        let known = ReceiptIndex::new(&done);
        assert_eq!(known.why(&KIND, &fields(32, "b")).to_string(), "size: 64 -> 32");
        assert_eq!(known.why(&KIND, &fields(64, "c")).to_string(), "new videos");
        assert_eq!(
            known.get(&key(&fields(64, "b"))).and_then(|r| r.fields.get("videos").cloned()),
            Some(json!(["b"]))
        );
        assert!(known.get(&key(&fields(64, "c"))).is_none());
        assert_eq!(ReceiptIndex::new(&[]).why(&KIND, &fields(64, "c")).to_string(), "never done");
    }
}
