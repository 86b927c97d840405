//! Text becomes a pipeline: YAML and overridden variables go in, a [`PipelineSpec`] comes out, or every fault, each with its place.

use schemars::JsonSchema;
use serde::de::DeserializeOwned;
use serde_yaml::{Mapping, Value};

use super::fault::{Faults, similar};
use super::locate::Part;
use super::spec::{KINDS, PipelineSpec, StageSpec};
use crate::stages::ReadSettings;

mod variables;

use variables::{Filled, variables};

/// Reads a pipeline; `set` overrides its `vars`. All faults of the text are gathered in `faults`; None when nothing could be made of it.
pub fn parse(faults: &mut Faults, set: &[(String, String)]) -> Option<PipelineSpec> {
    let document = match serde_yaml::from_str::<Value>(faults.text()) {
        Ok(Value::Mapping(map)) => map,
        Ok(other) => {
            faults.at(
                &[],
                Part::Value,
                format!(
                    "is {}, expected keys such as `name`, `workspace`, `stages`",
                    article(&other)
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
    let values = document.iter_mut().filter(|(key, _)| text_of(key) != "vars");
    values.for_each(|(key, value)| filled.fill(faults, &[text_of(key)], value));
    unknown_keys(
        faults,
        &[],
        &mut document,
        &["name", "workspace", "seed", "shares_with", "vars", "stages"],
    );

    let name = field(faults, &[], &document, "name", true);
    let workspace = field(faults, &[], &document, "workspace", true);
    if let Some(seed) = document.get_mut("seed") {
        filled.give_types(&["seed".into()], seed, &serde_json::json!({ "type": "integer" }));
    }
    let seed = field(faults, &[], &document, "seed", false);
    let shares_with = field(faults, &[], &document, "shares_with", false);
    let stages = stages(faults, &document, &filled);
    Some(PipelineSpec {
        name: name?,
        workspace: workspace?,
        seed: seed.unwrap_or(0),
        shares_with: shares_with.unwrap_or_default(),
        vars,
        stages: stages?,
    })
}

/// The stages, in the file's order.
fn stages(
    faults: &mut Faults,
    document: &Mapping,
    filled: &Filled,
) -> Option<Vec<(String, StageSpec)>> {
    let path = ["stages".to_string()];
    match document.get("stages") {
        Some(Value::Mapping(map)) if !map.is_empty() => {
            let all: Vec<_> = map
                .iter()
                .map(|(key, value)| {
                    Some((text_of(key), stage(faults, &text_of(key), value, filled)?))
                })
                .collect();
            all.into_iter().collect()
        }
        Some(Value::Mapping(_)) => {
            faults.at(
                &path,
                Part::Value,
                "has no stage".into(),
                Some("add one, e.g. `frames: { decode: { videos: [...] } }`".into()),
            );
            None
        }
        Some(other) => {
            faults.at(
                &path,
                Part::Value,
                format!("is {}, expected `name: {{ kind: {{ settings }} }}`", article(other)),
                None,
            );
            None
        }
        None => {
            faults.at(&path, Part::Key, "is missing".into(), Some("add `stages:`".into()));
            None
        }
    }
}

/// Names that no stage may have: folders of the workspace, and tables that hold every stage's rows.
const RESERVED: [&str; 5] = ["runs", "pins", "probes", "videos", "rejects"];

/// One stage: exactly one known kind, and its settings.
fn stage(faults: &mut Faults, name: &str, value: &Value, filled: &Filled) -> Option<StageSpec> {
    let path = ["stages".to_string(), name.to_string()];
    let valid =
        !name.is_empty() && name.chars().all(|c| c.is_ascii_alphanumeric() || c == '_' || c == '-');
    if !valid || RESERVED.contains(&name) {
        let cure = format!(
            "use letters, digits, `_` and `-`, but none of {}: it names a folder and a table",
            RESERVED.join(", ")
        );
        faults.at(&path, Part::Key, format!("`{name}` cannot be a stage's name"), Some(cure));
        return None;
    }
    let Value::Mapping(map) = value else {
        faults.at(
            &path,
            Part::Value,
            format!("is {}, expected {{ kind: {{ settings }} }}", article(value)),
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
        let cure =
            similar(kind, &KINDS).map_or_else(kinds_hint, |k| format!("did you mean `{k}`?"));
        faults.at(&at, Part::Key, format!("`{kind}` is not a kind of stage"), Some(cure));
    }
    if kinds.len() != 1 && all_known {
        faults.at(
            &path,
            Part::Value,
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

/// The settings of a stage in the text, of whatever kind.
struct Settings<'a> {
    faults: &'a mut Faults,
    path: &'a [String],
    settings: &'a Value,
    filled: &'a Filled<'a>,
}

impl ReadSettings for Settings<'_> {
    fn read<T: DeserializeOwned + JsonSchema>(self) -> Option<T> {
        settings_of(self.faults, self.path, self.settings, self.filled)
    }
}

fn kinds_hint() -> String {
    format!("kinds: {}", KINDS.join(", "))
}

/// Types the settings of a stage; every unknown key and every wrong type is a fault of its own.
fn settings_of<T: DeserializeOwned + JsonSchema>(
    faults: &mut Faults,
    path: &[String],
    settings: &Value,
    filled: &Filled,
) -> Option<T> {
    let mut settings =
        if settings.is_null() { Value::Mapping(Mapping::new()) } else { settings.clone() };
    let before = faults.count();
    let schema = serde_json::Value::from(schemars::schema_for!(T));
    unknown_in(faults, path, &mut settings, &schema, &schema);
    filled.give_types(path, &mut settings, &schema);
    // JSON has no such numbers: they would count as left out.
    not_finite(faults, path, &mut settings);
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
        if let Some(missing) =
            message.strip_prefix("missing field `").and_then(|m| m.split('`').next())
        {
            if !removed.iter().any(|r| r == missing) {
                faults.at(
                    &[path, &inner].concat(),
                    Part::Key,
                    format!("lacks `{missing}`"),
                    Some(format!("add `{missing}:`")),
                );
            }
            return None;
        }
        let cure = quotes(&message);
        faults.at(&[path, &inner].concat(), Part::Value, message, cure);
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
fn unknown_in(
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
            unknown_in(faults, &[path, &[key]].concat(), inner, schema, root);
        }
    }
}

/// The properties of an object's schema, through references and options.
fn properties_of<'a>(
    schema: &'a serde_json::Value,
    root: &'a serde_json::Value,
) -> Option<&'a serde_json::Map<String, serde_json::Value>> {
    if let Some(reference) = schema.get("$ref").and_then(|r| r.as_str()) {
        return properties_of(root.pointer(reference.trim_start_matches('#'))?, root);
    }
    schema.get("properties").and_then(|p| p.as_object()).filter(|_| schema.get("oneOf").is_none())
}

/// Reports and removes the keys of `map` that are not in `known`.
fn unknown_keys(faults: &mut Faults, path: &[String], map: &mut Mapping, known: &[&str]) {
    let unknown: Vec<String> =
        map.keys().map(text_of).filter(|key| !known.contains(&key.as_str())).collect();
    for key in unknown {
        let cure = similar(&key, known).map_or_else(
            || format!("known keys: {}", known.join(", ")),
            |k| format!("did you mean `{k}`?"),
        );
        faults.at(
            &[path, std::slice::from_ref(&key)].concat(),
            Part::Key,
            format!("unknown key `{key}`"),
            Some(cure),
        );
        map.retain(|k, _| text_of(k) != key);
    }
}

/// One typed field of a mapping.
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
            let wrong = |error: serde_yaml::Error| {
                faults.at(&at, Part::Value, error.to_string(), quotes(&error.to_string()))
            };
            T::deserialize(value).map_err(wrong).ok()
        }
        None => {
            if required {
                faults.at(&at, Part::Key, "is missing".into(), Some(format!("add `{key}:`")));
            }
            None
        }
    }
}

/// Reports numbers that are not finite, and takes them out.
fn not_finite(faults: &mut Faults, path: &[String], value: &mut Value) {
    let at = |key: String| [path, &[key]].concat();
    match value {
        Value::Number(number) if number.as_f64().is_some_and(|number| !number.is_finite()) => {
            let cure = "write a finite number, or leave the setting out";
            faults.at(
                path,
                Part::Value,
                format!("is {}, expected a finite number", text_of(&value.clone())),
                Some(cure.into()),
            );
            *value = Value::Null;
        }
        Value::Sequence(items) => items
            .iter_mut()
            .enumerate()
            .for_each(|(i, item)| not_finite(faults, &at(i.to_string()), item)),
        Value::Mapping(map) => {
            map.iter_mut().for_each(|(key, item)| not_finite(faults, &at(text_of(key)), item))
        }
        _ => {}
    }
}

/// What to do where a number, a date or a word like `yes` stands for text.
fn quotes(message: &str) -> Option<String> {
    let is_scalar = ["integer", "floating point", "boolean"]
        .iter()
        .any(|kind| message.contains(&format!("invalid type: {kind}")));
    (is_scalar && message.contains("expected a string"))
        .then(|| "put it in quotes: it is taken for a number or a boolean".into())
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
