//! Parses the text of a pipeline file into a [`PipelineSpec`], and reports every fault in it.

use schemars::JsonSchema;
use serde::de::DeserializeOwned;
use serde_yaml::{Mapping, Value};

use super::fault::{Faults, similar};
use super::spec::{KINDS, PipelineSpec, StageSpec, default_holdout};
use crate::stages::ReadSettings;

mod variables;

use variables::{Filled, variables};

/// Parses a pipeline. `set` overrides its `vars`. Every fault is added to `faults`. Returns `None`
/// if the text does not make a whole pipeline.
pub fn parse(faults: &mut Faults, set: &[(String, String)]) -> Option<PipelineSpec> {
    let document = match serde_yaml::from_str::<Value>(faults.text()) {
        Ok(Value::Mapping(map)) => map,
        Ok(other) => {
            faults.at_value(
                &[],
                format!(
                    "is {}, expected keys such as `name`, `workspace`, `stages`",
                    type_name(&other)
                ),
                None,
            );
            return None;
        }
        Err(e) => {
            faults.syntax(&e);
            return None;
        }
    };
    let vars = variables(faults, &document, set);
    let mut filled = Filled::new(&vars);
    let mut document = document;
    for (key, value) in document.iter_mut().filter(|(key, _)| text_of(key) != "vars") {
        filled.fill(faults, &[text_of(key)], value);
    }
    // Removed keys are not checked again below.
    unknown_keys(faults, &[], &mut document, &PIPELINE_KEYS);

    let name = field(faults, &[], &document, "name", true);
    let workspace = field(faults, &[], &document, "workspace", true);
    for name in ["seed", "holdout"] {
        if let Some(number) = document.get_mut(name) {
            // `seed: ${seed}` is text after filling: make it a number again.
            filled.convert_types(&[name.into()], number, &serde_json::json!({ "type": "integer" }));
        }
    }
    let seed = field(faults, &[], &document, "seed", false);
    let holdout = field(faults, &[], &document, "holdout", false).unwrap_or_else(default_holdout);
    if holdout == 1 {
        let hint = "expected 0 (none) or at least 2, so that some videos train";
        faults.at_value(&["holdout".into()], "is 1", Some(hint.into()));
    }
    let shares_with = field(faults, &[], &document, "shares_with", false);
    let stages = stages(faults, &document, &filled);
    Some(PipelineSpec {
        name: name?,
        workspace: workspace?,
        seed: seed.unwrap_or(0),
        holdout,
        shares_with: shares_with.unwrap_or_default(),
        vars,
        stages: stages?,
    })
}

/// The keys at the top level of a pipeline.
const PIPELINE_KEYS: [&str; 7] =
    ["name", "workspace", "seed", "holdout", "shares_with", "vars", "stages"];

/// Parses the stages, in the file's order.
fn stages(
    faults: &mut Faults,
    document: &Mapping,
    filled: &Filled,
) -> Option<Vec<(String, StageSpec)>> {
    let path = ["stages".to_string()];
    match document.get("stages") {
        Some(Value::Mapping(map)) if !map.is_empty() => {
            // Parse all of them before giving up, so that every fault is found.
            let all: Vec<_> = map
                .iter()
                .map(|(key, value)| {
                    Some((text_of(key), stage(faults, &text_of(key), value, filled)?))
                })
                .collect();
            all.into_iter().collect()
        }
        Some(Value::Mapping(_)) => {
            faults.at_value(
                &path,
                "has no stage",
                Some("add one, e.g. `frames: { decode: { videos: [...] } }`".into()),
            );
            None
        }
        Some(other) => {
            faults.at_value(
                &path,
                format!("is {}, expected `name: {{ kind: {{ settings }} }}`", type_name(other)),
                None,
            );
            None
        }
        None => {
            faults.at_key(&path, "is missing", Some("add `stages:`".into()));
            None
        }
    }
}

/// Reserved names: folders of the workspace, and tables with the rows of all stages.
const RESERVED: [&str; 6] = ["runs", "pins", "plans", "probes", "videos", "rejects"];

/// Parses one stage: exactly one known kind, and its settings.
fn stage(faults: &mut Faults, name: &str, value: &Value, filled: &Filled) -> Option<StageSpec> {
    let path = ["stages".to_string(), name.to_string()];
    let valid =
        !name.is_empty() && name.chars().all(|c| c.is_ascii_alphanumeric() || c == '_' || c == '-');
    if !valid || RESERVED.contains(&name) {
        let hint = format!(
            "use letters, digits, `_` and `-`, but none of {}: it names a folder and a table",
            RESERVED.join(", ")
        );
        faults.at_key(&path, format!("`{name}` cannot be a stage's name"), Some(hint));
        return None;
    }
    let Value::Mapping(map) = value else {
        faults.at_value(
            &path,
            format!("is {}, expected {{ kind: {{ settings }} }}", type_name(value)),
            Some(kinds_hint()),
        );
        return None;
    };
    let kinds: Vec<String> = map.keys().map(text_of).collect();
    let unknown = kinds.iter().filter(|kind| !KINDS.contains(&kind.as_str()));
    let mut all_known = true;
    for kind in unknown {
        all_known = false;
        let at = [path[0].clone(), path[1].clone(), kind.clone()];
        let hint =
            similar(kind, &KINDS).map_or_else(kinds_hint, |k| format!("did you mean `{k}`?"));
        faults.at_key(&at, format!("`{kind}` is not a kind of stage"), Some(hint));
    }
    if kinds.len() != 1 && all_known {
        faults.at_value(
            &path,
            format!("has {} kinds, expected one", kinds.len()),
            Some(kinds_hint()),
        );
    }
    if kinds.len() != 1 || !all_known {
        return None;
    }
    let settings = map.values().next()?;
    let path = [path[0].clone(), path[1].clone(), kinds[0].clone()];
    StageSpec::read(&kinds[0], Settings { faults, path: &path, settings, filled })
}

/// The settings of a stage, not typed yet.
struct Settings<'a> {
    faults: &'a mut Faults,
    path: &'a [String],
    settings: &'a Value,
    filled: &'a Filled<'a>,
}

impl ReadSettings for Settings<'_> {
    fn read<T: DeserializeOwned + JsonSchema>(self) -> Option<T> {
        typed_settings(self.faults, self.path, self.settings, self.filled)
    }
}

/// Lists the kinds of stages.
fn kinds_hint() -> String {
    format!("kinds: {}", KINDS.join(", "))
}

/// Deserializes the settings of a stage. Every unknown key and every wrong type is a fault of its
/// own.
fn typed_settings<T: DeserializeOwned + JsonSchema>(
    faults: &mut Faults,
    path: &[String],
    settings: &Value,
    filled: &Filled,
) -> Option<T> {
    let mut settings =
        if settings.is_null() { Value::Mapping(Mapping::new()) } else { settings.clone() };
    let before = faults.count();
    let schema = serde_json::Value::from(schemars::schema_for!(T));
    reject_unknown_keys(faults, path, &mut settings, &schema, &schema);
    filled.convert_types(path, &mut settings, &schema);
    // JSON has no NaN or infinity: `to_value` would turn them into null, as if the setting were
    // absent.
    reject_non_finite(faults, path, &mut settings);
    // Deserialize through JSON, which accepts `refresh: { growth: 0.25 }` without a YAML tag.
    let mut settings = match serde_json::to_value(&settings) {
        Ok(json) => json,
        Err(e) => {
            faults.at_value(path, e.to_string(), None);
            return None;
        }
    };
    // Deserializing stops at the first error, so remove the faulty setting and try again.
    let mut removed: Vec<String> = Vec::new();
    loop {
        let error = match serde_path_to_error::deserialize::<_, T>(&settings) {
            // Settings with a fault are not used, even if the others have the right types.
            Ok(typed) => return (faults.count() == before).then_some(typed),
            Err(error) => error,
        };
        let inner = keys_of(error.path());
        let message = error.inner().to_string();
        if let Some(missing) =
            message.strip_prefix("missing field `").and_then(|m| m.split('`').next())
        {
            // A setting that was removed above is not missing in the file.
            if !removed.iter().any(|r| r == missing) {
                faults.at_key(
                    &[path, &inner].concat(),
                    format!("lacks `{missing}`"),
                    Some(format!("add `{missing}:`")),
                );
            }
            return None;
        }
        let hint = quoting_hint(&message);
        faults.at_value(&[path, &inner].concat(), message, hint);
        removed.push(inner.first()?.clone());
        settings.as_object_mut()?.remove(inner.first()?)?;
    }
}

/// Returns the keys of a path in the settings.
fn keys_of(path: &serde_path_to_error::Path) -> Vec<String> {
    use serde_path_to_error::Segment;
    let key = |segment: &Segment| match segment {
        Segment::Map { key } => Some(key.clone()),
        Segment::Seq { index } => Some(index.to_string()),
        Segment::Enum { .. } | Segment::Unknown => None,
    };
    path.iter().filter_map(key).collect()
}

/// Reports and removes keys outside the schema, at any depth.
fn reject_unknown_keys(
    faults: &mut Faults,
    path: &[String],
    value: &mut Value,
    schema: &serde_json::Value,
    root: &serde_json::Value,
) {
    let Value::Mapping(map) = value else { return };
    let Some(properties) = properties_of(schema, root) else { return };
    let known: Vec<&str> = properties.keys().map(String::as_str).collect();
    unknown_keys(faults, path, map, &known);
    for (key, inner) in map.iter_mut() {
        let key = text_of(key);
        if let Some(schema) = properties.get(&key) {
            reject_unknown_keys(faults, &[path, &[key]].concat(), inner, schema, root);
        }
    }
}

/// Returns the properties of an object's schema, through references. `None` for alternatives
/// (`oneOf`).
fn properties_of<'a>(
    schema: &'a serde_json::Value,
    root: &'a serde_json::Value,
) -> Option<&'a serde_json::Map<String, serde_json::Value>> {
    if let Some(reference) = schema.get("$ref").and_then(|r| r.as_str()) {
        return properties_of(root.pointer(reference.trim_start_matches('#'))?, root);
    }
    // Alternatives have different keys, so the deserializer decides there.
    schema.get("properties").and_then(|p| p.as_object()).filter(|_| schema.get("oneOf").is_none())
}

/// Reports and removes the keys of `map` outside `known`.
fn unknown_keys(faults: &mut Faults, path: &[String], map: &mut Mapping, known: &[&str]) {
    let unknown: Vec<String> =
        map.keys().map(text_of).filter(|key| !known.contains(&key.as_str())).collect();
    for key in unknown {
        let hint = match similar(&key, known) {
            Some(known) => format!("did you mean `{known}`?"),
            None if PIPELINE_KEYS.contains(&key.as_str()) => {
                format!("`{key}` belongs to the pipeline: move it to the top level")
            }
            None => format!("known keys: {}", known.join(", ")),
        };
        faults.at_key(
            &[path, std::slice::from_ref(&key)].concat(),
            format!("unknown key `{key}`"),
            Some(hint),
        );
        map.retain(|k, _| text_of(k) != key);
    }
}

/// Deserializes one field of a mapping.
fn field<T: DeserializeOwned>(
    faults: &mut Faults,
    path: &[String],
    map: &Mapping,
    key: &str,
    required: bool,
) -> Option<T> {
    let at = [path, &[key.to_string()]].concat();
    match map.get(key) {
        Some(value) => {
            let report = |error: serde_yaml::Error| {
                faults.at_value(&at, error.to_string(), quoting_hint(&error.to_string()))
            };
            T::deserialize(value).map_err(report).ok()
        }
        None => {
            if required {
                faults.at_key(&at, "is missing", Some(format!("add `{key}:`")));
            }
            None
        }
    }
}

/// Reports NaN and infinities, and replaces them by null.
fn reject_non_finite(faults: &mut Faults, path: &[String], value: &mut Value) {
    let at = |key: String| [path, &[key]].concat();
    match value {
        Value::Number(number) if number.as_f64().is_some_and(|number| !number.is_finite()) => {
            let hint = "write a finite number, or remove the setting";
            faults.at_value(
                path,
                format!("is {}, expected a finite number", text_of(&value.clone())),
                Some(hint.into()),
            );
            // Null lets the other settings be checked.
            *value = Value::Null;
        }
        Value::Sequence(items) => {
            for (i, item) in items.iter_mut().enumerate() {
                reject_non_finite(faults, &at(i.to_string()), item);
            }
        }
        Value::Mapping(map) => {
            for (key, item) in map.iter_mut() {
                reject_non_finite(faults, &at(text_of(key)), item);
            }
        }
        _ => {}
    }
}

/// Returns advice if a number, a date or a word such as `yes` stands in place of text.
fn quoting_hint(message: &str) -> Option<String> {
    let is_scalar = ["integer", "floating point", "boolean"]
        .iter()
        .any(|kind| message.contains(&format!("invalid type: {kind}")));
    (is_scalar && message.contains("expected a string"))
        .then(|| "put it in quotes: YAML reads it as a number or a boolean".into())
}

/// Returns a scalar as text, close enough to the file for names and messages.
fn text_of(value: &Value) -> String {
    match value {
        Value::String(text) => text.clone(),
        other => serde_yaml::to_string(other).unwrap_or_default().trim_end().to_string(),
    }
}

/// Describes a value for messages.
fn type_name(value: &Value) -> &'static str {
    match value {
        Value::Null => "empty",
        Value::Bool(_) => "a boolean",
        Value::Number(_) => "a number",
        Value::String(_) => "a string",
        Value::Sequence(_) => "a list",
        Value::Mapping(_) | Value::Tagged(_) => "a mapping",
    }
}
