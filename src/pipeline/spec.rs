//! What a user writes: the YAML of a pipeline, typed. In: text; out: [`PipelineSpec`] or every fault of it, each with its place.
//!
//! A stage is `name: { kind: { settings } }`, so that an error can point at the very field. Types here hold what was written;
//! [`check`](super::check) says whether it makes sense.

use std::collections::BTreeMap;

use schemars::JsonSchema;
use serde::de::DeserializeOwned;
use serde::{Deserialize, Serialize};
use serde_yaml::{Mapping, Value};

use super::fault::{Faults, similar};
use super::locate::Part;
use crate::stages::decode::DecodeConfig;
use crate::stages::evaluate::EvaluateConfig;
use crate::stages::import_actions::ImportActionsConfig;
use crate::stages::import_dynamics::ImportDynamicsConfig;
use crate::stages::label::LabelConfig;
use crate::stages::record::RecordConfig;
use crate::stages::report::ReportConfig;
use crate::stages::train_decoder::TrainDecoderConfig;
use crate::stages::train_dynamics::TrainDynamicsConfig;
use crate::stages::train_policy::TrainPolicyConfig;

/// A pipeline: stages that turn videos into labelled data and models.
#[derive(Clone, Debug, PartialEq, Serialize, JsonSchema)]
#[schemars(deny_unknown_fields)]
pub struct PipelineSpec {
    /// The pipeline's name, shown in every run's record.
    pub name: String,
    /// Where all results lie: a folder, relative to where `lapo` runs.
    pub workspace: String,
    /// Seeds everything random: weights and batches, the ones PyTorch draws after `torch.manual_seed(seed)`, which
    /// takes the low 32 bits. Default 0.
    #[schemars(default)]
    pub seed: u64,
    /// Variables: `${game}` anywhere in a value is replaced; `--set game=heist` overrides.
    #[schemars(with = "BTreeMap<String, serde_json::Value>", default)]
    pub vars: BTreeMap<String, String>,
    /// The stages by name; a stage names the stages whose results it takes.
    #[schemars(with = "BTreeMap<String, StageSpec>")]
    pub stages: Vec<(String, StageSpec)>,
}

/// One stage: its kind and settings.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub enum StageSpec {
    /// Videos -> shards of frames.
    Decode(DecodeConfig),
    /// Episodes of a game -> shards of frames.
    Record(RecordConfig),
    /// A file of true actions -> the action at each frame.
    ImportActions(ImportActionsConfig),
    /// Frames -> inverse and forward dynamics model.
    TrainDynamics(TrainDynamicsConfig),
    /// A file of weights -> inverse and forward dynamics model.
    ImportDynamics(ImportDynamicsConfig),
    /// Frames and a dynamics model -> latent actions.
    Label(LabelConfig),
    /// Labels -> latent policy.
    TrainPolicy(TrainPolicyConfig),
    /// Labels and a few true actions -> decoders of latent actions.
    TrainDecoder(TrainDecoderConfig),
    /// Latent policy and decoders -> what they earn in the game.
    Evaluate(EvaluateConfig),
    /// Whatever other stages made -> one HTML page.
    Report(ReportConfig),
}

/// What a stage makes, and another stage takes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ArtifactKind {
    /// Shards of frames.
    Frames,
    /// A trained IDM and FDM.
    Dynamics,
    /// Latent actions.
    Labels,
    /// A latent policy.
    Policy,
    /// What was truly done.
    Actions,
    /// Decoders of latent actions.
    Decoder,
    /// What a policy earned.
    Evaluation,
}

impl std::fmt::Display for ArtifactKind {
    fn fmt(&self, f: &mut std::fmt::Formatter) -> std::fmt::Result {
        f.write_str(match self {
            ArtifactKind::Frames => "frames",
            ArtifactKind::Dynamics => "a dynamics model",
            ArtifactKind::Labels => "labels",
            ArtifactKind::Policy => "a latent policy",
            ArtifactKind::Actions => "true actions",
            ArtifactKind::Decoder => "decoders",
            ArtifactKind::Evaluation => "an evaluation",
        })
    }
}

/// The kinds of stage as the YAML names them.
pub const KINDS: [&str; 10] = [
    "decode",
    "record",
    "import_actions",
    "train_dynamics",
    "import_dynamics",
    "label",
    "train_policy",
    "train_decoder",
    "evaluate",
    "report",
];

impl StageSpec {
    /// The kind as the YAML names it.
    pub fn kind(&self) -> &'static str {
        match self {
            StageSpec::Decode(_) => "decode",
            StageSpec::Record(_) => "record",
            StageSpec::ImportActions(_) => "import_actions",
            StageSpec::TrainDynamics(_) => "train_dynamics",
            StageSpec::ImportDynamics(_) => "import_dynamics",
            StageSpec::Label(_) => "label",
            StageSpec::TrainPolicy(_) => "train_policy",
            StageSpec::TrainDecoder(_) => "train_decoder",
            StageSpec::Evaluate(_) => "evaluate",
            StageSpec::Report(_) => "report",
        }
    }

    /// What it makes.
    pub fn outputs(&self) -> &'static [ArtifactKind] {
        match self {
            StageSpec::Decode(_) => &[ArtifactKind::Frames],
            StageSpec::Record(_) => &[ArtifactKind::Frames, ArtifactKind::Actions],
            StageSpec::ImportActions(_) => &[ArtifactKind::Actions],
            StageSpec::TrainDynamics(_) | StageSpec::ImportDynamics(_) => &[ArtifactKind::Dynamics],
            StageSpec::Label(_) => &[ArtifactKind::Labels],
            StageSpec::TrainPolicy(_) => &[ArtifactKind::Policy],
            StageSpec::TrainDecoder(_) => &[ArtifactKind::Decoder],
            StageSpec::Evaluate(_) => &[ArtifactKind::Evaluation],
            StageSpec::Report(_) => &[],
        }
    }

    /// What it takes: field, the stage named there, what that stage must make.
    pub fn inputs(&self) -> Vec<(&'static str, &str, ArtifactKind)> {
        match self {
            StageSpec::Decode(_) | StageSpec::Record(_) | StageSpec::ImportDynamics(_) => vec![],
            StageSpec::ImportActions(c) => vec![("frames", &c.frames, ArtifactKind::Frames)],
            StageSpec::TrainDynamics(c) => {
                let actions = c.actions.iter().map(|actions| ("actions", actions.as_str(), ArtifactKind::Actions));
                [("frames", c.frames.as_str(), ArtifactKind::Frames)].into_iter().chain(actions).collect()
            }
            StageSpec::TrainPolicy(c) => vec![("labels", &c.labels, ArtifactKind::Labels)],
            StageSpec::TrainDecoder(c) => vec![("labels", &c.labels, ArtifactKind::Labels), ("actions", &c.actions, ArtifactKind::Actions)],
            StageSpec::Evaluate(c) => {
                vec![("policy", &c.policy, ArtifactKind::Policy), ("decoder", &c.decoder, ArtifactKind::Decoder)]
            }
            StageSpec::Label(c) => {
                let actions = c.actions.iter().map(|actions| ("actions", actions.as_str(), ArtifactKind::Actions));
                let frames = [("frames", c.frames.as_str(), ArtifactKind::Frames), ("dynamics", &c.dynamics, ArtifactKind::Dynamics)];
                frames.into_iter().chain(actions).collect()
            }
            StageSpec::Report(c) => c.sources().into_iter().map(|(field, stage)| (field, stage, of_report(field))).collect(),
        }
    }

    /// Faults of single fields: `(field, what is wrong, cure)`.
    pub fn validate(&self) -> Vec<(&'static str, String, &'static str)> {
        match self {
            StageSpec::Decode(c) => c.validate(),
            StageSpec::Record(c) => c.validate(),
            StageSpec::TrainDynamics(c) => c.validate(),
            StageSpec::TrainPolicy(c) => c.validate(),
            StageSpec::TrainDecoder(c) => c.validate(),
            StageSpec::Evaluate(c) => c.validate(),
            StageSpec::Report(c) => c.validate(),
            StageSpec::ImportActions(_) | StageSpec::ImportDynamics(_) | StageSpec::Label(_) => vec![],
        }
    }
}

/// What the stage in a field of a report must make.
fn of_report(field: &str) -> ArtifactKind {
    match field {
        "frames" => ArtifactKind::Frames,
        "dynamics" => ArtifactKind::Dynamics,
        "labels" => ArtifactKind::Labels,
        "actions" => ArtifactKind::Actions,
        "policy" => ArtifactKind::Policy,
        "decoder" => ArtifactKind::Decoder,
        _ => ArtifactKind::Evaluation,
    }
}

/// Reads a pipeline; `set` overrides its `vars`. All faults of the text are gathered in `faults`; None when nothing could be made of it.
pub fn parse(faults: &mut Faults, set: &[(String, String)]) -> Option<PipelineSpec> {
    let document = match serde_yaml::from_str::<Value>(faults.text()) {
        Ok(Value::Mapping(map)) => map,
        Ok(other) => {
            faults.at(&[], Part::Value, format!("is {}, expected keys such as `name`, `workspace`, `stages`", article(&other)), None);
            return None;
        }
        Err(e) => {
            faults.syntax(&e);
            return None;
        }
    };
    let vars = variables(faults, &document, set);
    let mut document = document;
    document.iter_mut().for_each(|(key, value)| substitute(faults, &[text_of(key)], value, &vars));
    unknown_keys(faults, &[], &mut document, &["name", "workspace", "seed", "vars", "stages"]);

    let name = field(faults, &[], &document, "name", true);
    let workspace = field(faults, &[], &document, "workspace", true);
    let seed = field(faults, &[], &document, "seed", false);
    let stages = stages(faults, &document);
    Some(PipelineSpec { name: name?, workspace: workspace?, seed: seed.unwrap_or(0), vars, stages: stages? })
}

/// The stages, in the file's order.
fn stages(faults: &mut Faults, document: &Mapping) -> Option<Vec<(String, StageSpec)>> {
    let path = ["stages".to_string()];
    match document.get("stages") {
        Some(Value::Mapping(map)) if !map.is_empty() => {
            let all: Vec<_> = map.iter().map(|(key, value)| Some((text_of(key), stage(faults, &text_of(key), value)?))).collect();
            all.into_iter().collect()
        }
        Some(Value::Mapping(_)) => {
            faults.at(&path, Part::Value, "has no stage".into(), Some("add one, e.g. `frames: { decode: { videos: [...] } }`".into()));
            None
        }
        Some(other) => {
            faults.at(&path, Part::Value, format!("is {}, expected `name: {{ kind: {{ settings }} }}`", article(other)), None);
            None
        }
        None => {
            faults.at(&path, Part::Key, "is missing".into(), Some("add `stages:`".into()));
            None
        }
    }
}

/// One stage: exactly one known kind, and its settings.
fn stage(faults: &mut Faults, name: &str, value: &Value) -> Option<StageSpec> {
    let path = ["stages".to_string(), name.to_string()];
    let valid = !name.is_empty() && name.chars().all(|c| c.is_ascii_alphanumeric() || c == '_' || c == '-');
    if !valid || name == "runs" {
        let cure = "use letters, digits, `_` and `-`: it is a folder and a table; `runs` is taken";
        faults.at(&path, Part::Key, format!("`{name}` cannot be a stage's name"), Some(cure.into()));
        return None;
    }
    let Value::Mapping(map) = value else {
        faults.at(&path, Part::Value, format!("is {}, expected {{ kind: {{ settings }} }}", article(value)), Some(kinds_hint()));
        return None;
    };
    let kinds: Vec<String> = map.keys().map(text_of).collect();
    let unknown = kinds.iter().filter(|kind| !KINDS.contains(&kind.as_str()));
    let mut all_known = true;
    for kind in unknown {
        all_known = false;
        let at = [path[0].clone(), path[1].clone(), kind.clone()];
        let cure = similar(kind, &KINDS).map_or_else(kinds_hint, |k| format!("did you mean `{k}`?"));
        faults.at(&at, Part::Key, format!("`{kind}` is not a kind of stage"), Some(cure));
    }
    if kinds.len() != 1 && all_known {
        faults.at(&path, Part::Value, format!("has {} kinds, expected one", kinds.len()), Some(kinds_hint()));
    }
    if kinds.len() != 1 || !all_known {
        return None;
    }
    let settings = map.values().next()?;
    let path = [path[0].clone(), path[1].clone(), kinds[0].clone()];
    match kinds[0].as_str() {
        "decode" => settings_of(faults, &path, settings).map(StageSpec::Decode),
        "record" => settings_of(faults, &path, settings).map(StageSpec::Record),
        "import_actions" => settings_of(faults, &path, settings).map(StageSpec::ImportActions),
        "train_dynamics" => settings_of(faults, &path, settings).map(StageSpec::TrainDynamics),
        "import_dynamics" => settings_of(faults, &path, settings).map(StageSpec::ImportDynamics),
        "label" => settings_of(faults, &path, settings).map(StageSpec::Label),
        "train_policy" => settings_of(faults, &path, settings).map(StageSpec::TrainPolicy),
        "train_decoder" => settings_of(faults, &path, settings).map(StageSpec::TrainDecoder),
        "evaluate" => settings_of(faults, &path, settings).map(StageSpec::Evaluate),
        "report" => settings_of(faults, &path, settings).map(StageSpec::Report),
        kind => unreachable!("{kind} is not in KINDS"),
    }
}

fn kinds_hint() -> String {
    format!("kinds: {}", KINDS.join(", "))
}

/// Types the settings of a stage; every unknown key and every wrong type is a fault of its own.
fn settings_of<T: DeserializeOwned + JsonSchema>(faults: &mut Faults, path: &[String], settings: &Value) -> Option<T> {
    let mut settings = if settings.is_null() { Value::Mapping(Mapping::new()) } else { settings.clone() };
    let before = faults.count();
    let schema = serde_json::Value::from(schemars::schema_for!(T));
    unknown_in(faults, path, &mut settings, &schema, &schema);
    // By way of JSON, whose reader takes `refresh: { growth: 0.25 }` without a YAML tag.
    let mut settings = match serde_json::to_value(&settings) {
        Ok(json) => json,
        Err(e) => {
            faults.at(path, Part::Value, e.to_string(), None);
            return None;
        }
    };
    let mut removed: Vec<String> = Vec::new();
    loop {
        let error = match serde_path_to_error::deserialize::<_, T>(&settings) {
            Ok(typed) => return (faults.count() == before).then_some(typed),
            Err(error) => error,
        };
        let inner = keys_of(error.path());
        let message = error.inner().to_string();
        if let Some(missing) = message.strip_prefix("missing field `").and_then(|m| m.split('`').next()) {
            if !removed.iter().any(|r| r == missing) {
                faults.at(&[path, &inner].concat(), Part::Key, format!("lacks `{missing}`"), Some(format!("add `{missing}:`")));
            }
            return None;
        }
        faults.at(&[path, &inner].concat(), Part::Value, message, None);
        removed.push(inner.first()?.clone());
        settings.as_object_mut()?.remove(inner.first()?)?;
    }
}

fn keys_of(path: &serde_path_to_error::Path) -> Vec<String> {
    use serde_path_to_error::Segment;
    let key = |segment: &Segment| match segment {
        Segment::Map { key } => Some(key.clone()),
        Segment::Seq { index } => Some(index.to_string()),
        Segment::Enum { .. } | Segment::Unknown => None,
    };
    path.iter().filter_map(key).collect()
}

/// Finds keys that the schema does not know, at any depth, and takes them out.
fn unknown_in(faults: &mut Faults, path: &[String], value: &mut Value, schema: &serde_json::Value, root: &serde_json::Value) {
    let Value::Mapping(map) = value else { return };
    let Some(properties) = properties_of(schema, root) else { return };
    let known: Vec<&str> = properties.keys().map(String::as_str).collect();
    unknown_keys(faults, path, map, &known);
    for (key, inner) in map.iter_mut() {
        let key = text_of(key);
        if let Some(schema) = properties.get(&key) {
            unknown_in(faults, &[path, &[key]].concat(), inner, schema, root);
        }
    }
}

/// The properties of an object's schema, through references and options.
fn properties_of<'a>(schema: &'a serde_json::Value, root: &'a serde_json::Value) -> Option<&'a serde_json::Map<String, serde_json::Value>> {
    if let Some(reference) = schema.get("$ref").and_then(|r| r.as_str()) {
        return properties_of(root.pointer(reference.trim_start_matches('#'))?, root);
    }
    schema.get("properties").and_then(|p| p.as_object()).filter(|_| schema.get("oneOf").is_none())
}

/// Reports and removes the keys of `map` that are not in `known`.
fn unknown_keys(faults: &mut Faults, path: &[String], map: &mut Mapping, known: &[&str]) {
    let unknown: Vec<String> = map.keys().map(text_of).filter(|key| !known.contains(&key.as_str())).collect();
    for key in unknown {
        let cure = similar(&key, known).map_or_else(|| format!("known keys: {}", known.join(", ")), |k| format!("did you mean `{k}`?"));
        faults.at(&[path, std::slice::from_ref(&key)].concat(), Part::Key, format!("unknown key `{key}`"), Some(cure));
        map.retain(|k, _| text_of(k) != key);
    }
}

/// One typed field of a mapping.
fn field<T: DeserializeOwned>(faults: &mut Faults, path: &[String], map: &Mapping, key: &str, required: bool) -> Option<T> {
    let at = [path, &[key.to_string()]].concat();
    match map.get(key) {
        Some(value) => T::deserialize(value).map_err(|e| faults.at(&at, Part::Value, e.to_string(), None)).ok(),
        None => {
            if required {
                faults.at(&at, Part::Key, "is missing".into(), Some(format!("add `{key}:`")));
            }
            None
        }
    }
}

/// `vars` of the file, overridden by `--set`; a name that the file does not declare is a fault.
fn variables(faults: &mut Faults, document: &Mapping, set: &[(String, String)]) -> BTreeMap<String, String> {
    let mut vars = BTreeMap::new();
    match document.get("vars") {
        Some(Value::Mapping(map)) => vars.extend(map.iter().map(|(key, value)| (text_of(key), text_of(value)))),
        Some(Value::Null) | None => {}
        Some(other) => faults.at(&["vars".into()], Part::Value, format!("is {}, expected `name: value`", article(other)), None),
    }
    for (name, value) in set {
        let declared: Vec<String> = vars.keys().cloned().collect();
        match vars.get_mut(name) {
            Some(slot) => slot.clone_from(value),
            None => {
                let known: Vec<&str> = declared.iter().map(String::as_str).collect();
                let cure = similar(name, &known).map(|k| format!("did you mean `{k}`?"));
                let cure = cure.unwrap_or_else(|| format!("`vars` declares: {}", known.join(", ")));
                faults.at(&["vars".into()], Part::Key, format!("--set {name}: no such variable"), Some(cure));
            }
        }
    }
    vars
}

/// Replaces `${name}` in every string; a value that is nothing but a variable takes the variable's type.
fn substitute(faults: &mut Faults, path: &[String], value: &mut Value, vars: &BTreeMap<String, String>) {
    match value {
        Value::String(text) if text.contains("${") => match filled(text, vars) {
            Ok(new) => {
                let whole = text.starts_with("${") && text.find('}') == Some(text.len() - 1);
                let typed = || serde_yaml::from_str(&new).ok().filter(|v: &Value| !v.is_mapping() && !v.is_sequence());
                *value = if whole { typed().unwrap_or(Value::String(new)) } else { Value::String(new) };
            }
            Err(message) => faults.at(path, Part::Value, message, Some("declare it under `vars:`".into())),
        },
        Value::Sequence(items) => {
            for (i, item) in items.iter_mut().enumerate() {
                substitute(faults, &[path, &[i.to_string()]].concat(), item, vars);
            }
        }
        Value::Mapping(map) => {
            for (key, item) in map.iter_mut() {
                substitute(faults, &[path, &[text_of(key)]].concat(), item, vars);
            }
        }
        _ => {}
    }
}

fn filled(text: &str, vars: &BTreeMap<String, String>) -> Result<String, String> {
    let (mut out, mut rest) = (String::new(), text);
    while let Some(start) = rest.find("${") {
        let end = rest[start..].find('}').ok_or_else(|| format!("`${{` without `}}` in `{text}`"))? + start;
        let name = &rest[start + 2..end];
        out.push_str(&rest[..start]);
        out.push_str(vars.get(name).ok_or_else(|| format!("unknown variable `{name}`"))?);
        rest = &rest[end + 1..];
    }
    Ok(out + rest)
}

/// A scalar as the text it was written as, near enough for names and messages.
fn text_of(value: &Value) -> String {
    match value {
        Value::String(text) => text.clone(),
        other => serde_yaml::to_string(other).unwrap_or_default().trim_end().to_string(),
    }
}

/// What a value is, for messages.
fn article(value: &Value) -> &'static str {
    match value {
        Value::Null => "empty",
        Value::Bool(_) => "a boolean",
        Value::Number(_) => "a number",
        Value::String(_) => "a string",
        Value::Sequence(_) => "a list",
        Value::Mapping(_) | Value::Tagged(_) => "a mapping",
    }
}
