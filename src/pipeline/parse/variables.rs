//! Replaces the variables of a pipeline: `${game}` in a value becomes text.
//!
//! [`variables`] reads `vars:` and `--set`; [`Filled`] fills the document in.
//!
//! **A variable is the text as it is written in the file**: `1.10` stays `1.10`, and `wx # c` keeps
//! its end. It is only read as a number, a boolean or null if it is the whole value of a setting
//! that does not take text.

use std::collections::{BTreeMap, HashSet};

use serde::Deserialize;
use serde_yaml::{Mapping, Value};

use super::{text_of, type_name};
use crate::pipeline::fault::{Faults, similar};

/// A scalar as written. The parser keeps the text for a field of type `String`.
#[derive(Deserialize)]
#[serde(transparent)]
struct Written(String);

/// The part of a pipeline file with literal text.
#[derive(Deserialize)]
struct Document {
    #[serde(default)]
    vars: Option<BTreeMap<String, Written>>,
}

/// Returns the file's `vars`, overridden by `--set`. An undeclared name in `--set` is a fault.
pub(super) fn variables(
    faults: &mut Faults,
    document: &Mapping,
    set: &[(String, String)],
) -> BTreeMap<String, String> {
    let mut vars: BTreeMap<String, String> = BTreeMap::new();
    match document.get("vars") {
        Some(Value::Mapping(map)) => {
            let is_collection = |value: &Value| {
                matches!(value, Value::Sequence(_) | Value::Mapping(_) | Value::Tagged(_))
            };
            for (key, value) in map.iter().filter(|(_, value)| is_collection(value)) {
                faults.at_value(
                    &["vars".into(), text_of(key)],
                    format!("is {}, expected text or a number", type_name(value)),
                    None,
                );
            }
            // Parse again with text fields: `Value` has already turned `1.10` into a number.
            match serde_yaml::from_str::<Document>(faults.text()) {
                Ok(written) => vars.extend(
                    written.vars.into_iter().flatten().map(|(name, Written(text))| (name, text)),
                ),
                // The fault was reported above. The names are still needed for `--set`.
                Err(_) => {
                    vars.extend(map.iter().map(|(key, value)| (text_of(key), text_of(value))))
                }
            }
        }
        Some(Value::Null) | None => {}
        Some(other) => faults.at_value(
            &["vars".into()],
            format!("is {}, expected `name: value`", type_name(other)),
            None,
        ),
    }
    for (name, value) in set {
        let declared: Vec<String> = vars.keys().cloned().collect();
        match vars.get_mut(name) {
            Some(slot) => slot.clone_from(value),
            None => {
                let known: Vec<&str> = declared.iter().map(String::as_str).collect();
                let hint = similar(name, &known).map(|k| format!("did you mean `{k}`?"));
                let hint = hint.unwrap_or_else(|| format!("`vars` declares: {}", known.join(", ")));
                faults.at_key(
                    &["vars".into()],
                    format!("--set {name}: no such variable"),
                    Some(hint),
                );
            }
        }
    }
    vars
}

/// Fills variables into a document.
pub(super) struct Filled<'v> {
    vars: &'v BTreeMap<String, String>,
    /// Paths of values with nothing but one variable.
    whole: HashSet<Vec<String>>,
}

impl<'v> Filled<'v> {
    /// Creates the state for one document.
    pub(super) fn new(vars: &'v BTreeMap<String, String>) -> Self {
        Filled { vars, whole: HashSet::new() }
    }

    /// Replaces `${name}` in every string of a value.
    pub(super) fn fill(&mut self, faults: &mut Faults, path: &[String], value: &mut Value) {
        match value {
            Value::String(text) if text.contains("${") => match filled(text, self.vars) {
                Ok(new) => {
                    // The value is nothing but one variable.
                    if text.starts_with("${") && text.find('}') == Some(text.len() - 1) {
                        self.whole.insert(path.to_vec());
                    }
                    *value = Value::String(new);
                }
                Err(message) => {
                    faults.at_value(path, message, Some("declare it under `vars:`".into()))
                }
            },
            Value::Sequence(items) => {
                for (i, item) in items.iter_mut().enumerate() {
                    self.fill(faults, &[path, &[i.to_string()]].concat(), item);
                }
            }
            Value::Mapping(map) => {
                for (key, item) in map.iter_mut() {
                    self.fill(faults, &[path, &[text_of(key)]].concat(), item);
                }
            }
            _ => {}
        }
    }

    /// Converts values with nothing but one variable into the type of the schema, unless the
    /// setting takes text.
    pub(super) fn convert_types(
        &self,
        path: &[String],
        value: &mut Value,
        schema: &serde_json::Value,
    ) {
        self.convert(path, value, &alternatives(&[schema], schema), schema);
    }

    fn convert(
        &self,
        path: &[String],
        value: &mut Value,
        schemas: &[&serde_json::Value],
        root: &serde_json::Value,
    ) {
        let below = |key: &str| [path, &[key.to_owned()]].concat();
        match value {
            Value::String(text)
                if self.whole.contains(path)
                    && !schemas.is_empty()
                    && !schemas.iter().any(|schema| takes_text(schema)) =>
            {
                // Read the text as YAML would have read it in place of the variable.
                let typed = serde_yaml::from_str(text)
                    .ok()
                    .filter(|typed: &Value| !typed.is_mapping() && !typed.is_sequence());
                *value = typed.unwrap_or_else(|| Value::String(text.clone()));
            }
            Value::Sequence(items) => {
                let schemas: Vec<_> =
                    schemas.iter().filter_map(|schema| schema.get("items")).collect();
                let schemas = alternatives(&schemas, root);
                for (i, item) in items.iter_mut().enumerate() {
                    self.convert(&below(&i.to_string()), item, &schemas, root);
                }
            }
            Value::Mapping(map) => {
                for (key, item) in map.iter_mut() {
                    let key = text_of(key);
                    let schemas: Vec<_> = schemas
                        .iter()
                        .filter_map(|schema| schema.get("properties")?.get(&key))
                        .collect();
                    self.convert(&below(&key), item, &alternatives(&schemas, root), root);
                }
            }
            _ => {}
        }
    }
}

/// Returns schemas with their references and alternatives resolved.
fn alternatives<'s>(
    schemas: &[&'s serde_json::Value],
    root: &'s serde_json::Value,
) -> Vec<&'s serde_json::Value> {
    let mut all = Vec::new();
    for schema in schemas {
        let reference = schema
            .get("$ref")
            .and_then(|reference| root.pointer(reference.as_str()?.trim_start_matches('#')));
        let others = ["anyOf", "oneOf", "allOf"]
            .iter()
            .filter_map(|name| schema.get(name)?.as_array())
            .flatten();
        let others: Vec<_> = reference.into_iter().chain(others).collect();
        match others[..] {
            [] => all.push(*schema),
            _ => all.extend(alternatives(&others, root)),
        }
    }
    all
}

/// Returns whether a schema without alternatives accepts text.
fn takes_text(schema: &serde_json::Value) -> bool {
    let is_text = |value: &serde_json::Value| value.as_str() == Some("string");
    match schema.get("type") {
        Some(serde_json::Value::Array(kinds)) => kinds.iter().any(is_text),
        Some(kind) => is_text(kind),
        // Enums of text have no type, but text constants.
        None => schema
            .get("const")
            .or_else(|| schema.get("enum")?.get(0))
            .is_some_and(serde_json::Value::is_string),
    }
}

/// Replaces `${name}` in a text.
fn filled(text: &str, vars: &BTreeMap<String, String>) -> Result<String, String> {
    let mut out = String::new();
    let mut rest = text;
    while let Some(start) = rest.find("${") {
        let end =
            rest[start..].find('}').ok_or_else(|| format!("`${{` without `}}` in `{text}`"))?
                + start;
        let name = &rest[start + 2..end];
        out.push_str(&rest[..start]);
        out.push_str(vars.get(name).ok_or_else(|| format!("unknown variable `{name}`"))?);
        rest = &rest[end + 1..];
    }
    Ok(out + rest)
}

#[cfg(test)]
#[expect(clippy::unwrap_used, reason = "a test fails by panicking")]
mod tests {
    use crate::dataset::Access;
    use crate::pipeline::check::{Checked, check};
    use crate::pipeline::fault::Fault;
    use crate::pipeline::spec::StageSpec;
    use crate::stages::decode::DecodeConfig;

    fn checked(text: &str, set: &[(&str, &str)]) -> Result<Checked, Vec<Fault>> {
        let set: Vec<(String, String)> =
            set.iter().map(|(name, value)| ((*name).to_owned(), (*value).to_owned())).collect();
        check("p.yaml", text, &set, &Access::default())
    }

    fn decode(checked: &Checked) -> &DecodeConfig {
        let StageSpec::Decode(config) = &checked.spec.stages[0].1 else { panic!("a decode stage") };
        config
    }

    #[test]
    fn variables_keep_their_text() {
        let folder = tempfile::tempdir().unwrap();
        let cases = [
            "1.10",
            "007",
            "1e3",
            "0x1F",
            "yes",
            "~",
            "null",
            ".5",
            "1_000",
            "2024-01-02",
            "'1.10'",
            "\"a # b\"",
            "12:30:00",
            "-0",
            "+1",
        ];
        for written in cases {
            let text = written.trim_matches(['\'', '"']);
            std::fs::write(folder.path().join(format!("v{text}.mp4")), "x").unwrap();
            let path = folder.path().display();
            let yaml = format!(
                "name: ${{v}}
workspace: w${{v}}
vars:
  v: {written}
stages:
  f: {{ decode: {{ videos: ['{path}/v${{v}}.mp4'] }} }}
"
            );
            for set in [vec![], vec![("v", text)]] {
                let checked =
                    checked(&yaml, &set).unwrap_or_else(|faults| panic!("{written}: {faults:?}"));
                assert_eq!(
                    (checked.spec.name.as_str(), checked.spec.workspace.as_str()),
                    (text, &*format!("w{text}"))
                );
                assert_eq!(decode(&checked).videos, [format!("{path}/v{text}.mp4")]);
            }
        }
    }

    #[test]
    fn variables_are_typed_if_the_schema_takes_no_text() {
        let yaml = "name: x
workspace: w
seed: ${seed}
vars:
  { seed: 7, size: 32, fps: 12.5, cut: null, bars: true, fit: crop, files: 4, rate: 0.25 }
stages:
  f:
    decode:
      videos: ['Cargo.toml']
      size: '${size}'
      fps: '${fps}'
      cut: '${cut}'
      trim_bars: '${bars}'
      fit: '${fit}'
      still: { frames: '${files}' }
  m: { train_dynamics: { frames: f, refresh: { growth: '${rate}' } } }
";
        let checked = checked(yaml, &[]).unwrap();
        let config = decode(&checked);
        assert_eq!(
            (checked.spec.seed, config.size, config.fps, config.cut(), config.trim_bars),
            (7, 32, Some(12.5), None, true)
        );
        assert_eq!(config.still.unwrap().frames, 4);
        let faults = super::tests::checked(yaml, &[("size", "big")]).unwrap_err();
        assert_eq!(faults[0].message, "invalid type: string \"big\", expected u32");
    }

    #[test]
    fn numbers_that_are_not_finite_are_faults() {
        let decode = [
            "fps: .inf",
            "max_rejected: .nan",
            "blank: -.inf",
            "cut: .NaN",
            "still: { frames: 3, change: .nan }",
            "fps: '${n}'",
        ];
        let train = ["learning_rate: .nan", "refresh: { growth: .inf }"];
        let cases = decode
            .iter()
            .map(|one| ("decode", *one))
            .chain(train.iter().map(|one| ("train", *one)));
        for (stage, setting) in cases {
            let [decode, train] = ["decode", "train"]
                .map(|name| if name == stage { format!(", {setting}") } else { String::new() });
            let yaml = format!(
                "name: x
workspace: w
vars: {{ n: .nan }}
stages:
  f: {{ decode: {{ videos: ['Cargo.toml']{decode} }} }}
  m: {{ train_dynamics: {{ frames: f{train} }} }}
"
            );
            let faults = checked(&yaml, &[]).expect_err(setting);
            assert!(
                faults.iter().any(|fault| fault.message.contains("expected a finite number")),
                "{setting}: {faults:?}"
            );
        }
    }

    #[test]
    fn a_byte_order_mark_is_ignored_and_an_unquoted_number_has_a_hint() {
        let yaml = "name: x\nworkspace: w\nstages:\n  f: { decode: { videos: ['Cargo.toml'] } }\n";
        checked(&format!("\u{feff}{yaml}"), &[]).unwrap();
        let faults = checked(&yaml.replace("workspace: w", "workspace: 2024"), &[]).unwrap_err();
        assert!(faults[0].hint.as_ref().unwrap().contains("quotes"), "{faults:?}");
        assert_eq!((faults[0].place.unwrap().line, faults[0].place.unwrap().column), (2, 12));
    }

    #[test]
    fn shell_syntax_in_paths_is_refused() {
        for workspace in ["~", "~/ws", "~me/ws", "$HOME/ws", "a/$X"] {
            let yaml = format!(
                "name: x
workspace: '{workspace}'
stages:
  f: {{ decode: {{ videos: ['Cargo.toml'] }} }}
"
            );
            let faults = checked(&yaml, &[]).expect_err(workspace);
            assert!(
                faults[0].key == "workspace" && faults[0].message.contains("shell"),
                "{faults:?}"
            );
        }
        let yaml =
            "name: x\nworkspace: w~/$\nstages:\n  f: { decode: { videos: ['~/none/*.mp4'] } }\n";
        let faults = checked(yaml, &[]).unwrap_err();
        assert!(
            faults.len() == 1 && faults[0].hint.as_ref().unwrap().contains("shell"),
            "{faults:?}"
        );
    }
}
