//! Draws pipelines with random valid settings in every stage.

use std::collections::BTreeMap;

use rand::seq::IndexedRandom;
use rand::{Rng, RngCore};
use rand_chacha::ChaCha8Rng;
use serde_json::{Value, json};

use crate::dataset::Access;
use crate::pipeline::check::check;
use crate::pipeline::spec::StageSpec;

/// Returns the stages before training: name, kind, and settings to start from. One of the settings
/// is drawn.
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
            json!([
                { "game": "maze", "player": "expert", "episodes": 3 },
                { "game": "coinrun", "player": "sticky", "episodes": 1 },
                {
                    "game": { "gymnasium": "CarRacing-v3", "make": { "continuous": false } },
                    "player": "random",
                    "episodes": 2,
                },
            ]),
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
            json!([
                { "frames": "frames", "dynamics": "weights", "actions": "actions" },
                { "frames": "frames", "dynamics": "model", "without": "copies" },
            ]),
        ),
        (
            "seen",
            "label",
            json!([
                { "frames": "played", "dynamics": "model", "actions": "played" },
                { "frames": "played", "dynamics": "model" },
            ]),
        ),
    ]
}

/// Returns the stages of training, playing and reporting.
fn learning_stages() -> Vec<(&'static str, &'static str, Value)> {
    vec![
        ("policy", "train_policy", json!([{ "labels": "seen" }])),
        ("decoders", "train_decoder", json!([{ "labels": "seen", "actions": "played" }])),
        (
            "agent",
            "finetune",
            json!([
                { "game": "maze", "policy": "policy", "dynamics": "model" },
                { "game": "heist", "from_scratch": true },
            ]),
        ),
        (
            "shown",
            "record",
            json!([
                { "game": "maze", "player": "agent", "agent": "agent", "episodes": 2 },
                {
                    "game": "maze",
                    "player": "policy",
                    "policy": "policy",
                    "decoder": "decoders",
                    "episodes": 2,
                },
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
        ("robot", "export", exports()),
        (
            "page",
            "report",
            json!([
                { "frames": "frames", "dynamics": "model", "labels": "labels" },
                {
                    "policy": "policy",
                    "decoder": "decoders",
                    "evaluation": "evaluation",
                    "agents": ["agent"],
                },
            ]),
        ),
    ]
}

/// Returns the settings that exports start from.
fn exports() -> Value {
    json!([
        { "format": "lerobot", "frames": "frames", "labels": "labels" },
        { "format": "lerobot", "frames": "played", "labels": "seen", "actions": "played" },
        { "format": "webdataset", "frames": "frames", "labels": "labels" },
        { "format": "onnx", "dynamics": "model", "policy": "policy", "agent": "agent" },
    ])
}

/// Draws random values for a JSON schema.
pub(super) struct Draw<'a> {
    pub(super) schema: &'a Value,
    pub(super) random: ChaCha8Rng,
}

impl Draw<'_> {
    /// Follows a reference of a schema.
    fn resolved<'s>(&'s self, schema: &'s Value) -> &'s Value {
        let name = schema["$ref"].as_str().and_then(|path| path.strip_prefix("#/$defs/"));
        name.map_or(schema, |name| &self.schema["$defs"][name])
    }

    /// Draws a value of a schema, in range or not. `None` for text, because text names files and
    /// stages.
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

    /// Draws an object: its required properties, and half of the others.
    fn object(&mut self, schema: &Value) -> serde_json::Map<String, Value> {
        let mut object = serde_json::Map::new();
        // A map of any keys has no properties.
        for (name, of) in schema["properties"].as_object().into_iter().flatten() {
            let is_required =
                schema["required"].as_array().is_some_and(|names| names.contains(&json!(name)));
            if is_required || self.random.random() {
                object.extend(self.value(of).map(|value| (name.clone(), value)));
            }
        }
        object
    }

    /// Draws an integer: a power of two, a typical size, or any below 100.
    fn integer(&mut self) -> u64 {
        match self.random.random_range(0..4) {
            0 => 1_u64 << self.random.random_range(0..10_u32),
            1 => [16, 32, 64, 0, 1].choose(&mut self.random).copied().unwrap(),
            _ => self.random.random_range(1..100),
        }
    }

    /// Draws a number with few or with many digits.
    fn float(&mut self) -> f64 {
        let any = self.random.random::<f64>();
        match self.random.random_range(0..5) {
            // Values with long or unusual decimal forms.
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

    /// Draws valid settings of a stage: the ones to start from, and a random choice of the others.
    fn settings(&mut self, kind: &str, from: &Value) -> Value {
        let mut config = from.as_array().unwrap().choose(&mut self.random).unwrap().clone();
        let kinds = self.schema["$defs"]["StageSpec"]["oneOf"].as_array().unwrap();
        let properties = kinds.iter().find_map(|of| of["properties"].get(kind)).unwrap();
        let properties = self.resolved(properties)["properties"].as_object().unwrap().clone();
        for (name, of) in properties {
            // The number of tasks and the age of files do not matter here.
            if self.random.random()
                || kind == "record" && name.starts_with("episodes")
                || name == "min_age"
            {
                continue;
            }
            // Most random values are out of range: keep the first valid one of four.
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

    /// Draws a pipeline with random settings in every stage. Adds to the counts by kind.
    pub(super) fn pipeline(
        &mut self,
        folder: &str,
        counts: &mut BTreeMap<&'static str, usize>,
    ) -> String {
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
            // A combination with the other stages can be invalid: try a few times.
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
