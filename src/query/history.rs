//! Lists the versions of a dataset ([`history`]), and compares two of them ([`diff`]).

use std::collections::{BTreeMap, HashSet};
use std::sync::Arc;

use serde::Serialize;
use serde_json::Value;

use super::Result;
use super::catalog::no_version;
use super::inspect::{no_stage, shared_fields};
use crate::dataset::{self, Manifest, Receipt, Store};

/// One version of a dataset.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct Version {
    /// The version number, counted from 1.
    pub version: u64,
    /// The commit time, in milliseconds since 1970.
    pub committed_unix_ms: u64,
    /// Number of its tasks.
    pub tasks: u64,
    /// Number of tasks missing from the previous version.
    pub added: u64,
    /// Number of tasks found only in the previous version.
    pub dropped: u64,
    /// Number of rows in the stage's main table.
    pub rows: u64,
    /// Size of its files in bytes.
    pub bytes: u64,
    /// The reason for the version.
    pub why: String,
    /// The name of the pipeline.
    pub pipeline: String,
    /// The run of the commit. Its record is `runs/<run>.json`.
    pub run: String,
}

/// The difference between two versions.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct Diff {
    /// The numbers of the two versions.
    pub versions: [u64; 2],
    /// The reasons of the versions in between, by version.
    pub why: Vec<(u64, String)>,
    /// Changed settings and inputs, each with its earlier and later value.
    pub fields: BTreeMap<String, [Value; 2]>,
    /// Changes of provenance: lapo, libav, device, host.
    pub made: BTreeMap<String, [Value; 2]>,
    /// Added and dropped tasks, by key.
    pub tasks: Changed,
    /// Added and dropped videos, by address.
    pub videos: Changed,
    /// Number of rows before and after.
    pub rows: [u64; 2],
}

/// Added and dropped elements.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize)]
pub struct Changed {
    /// Elements of the later version only.
    pub added: Vec<String>,
    /// Elements of the earlier version only.
    pub dropped: Vec<String>,
}

impl Changed {
    /// Compares two lists.
    fn between(before: &[String], after: &[String]) -> Changed {
        let difference = |of: &[String], from: &[String]| {
            let from: HashSet<&String> = from.iter().collect();
            of.iter().filter(|one| !from.contains(one)).cloned().collect()
        };
        Changed { added: difference(after, before), dropped: difference(before, after) }
    }
}

/// Returns a stage's versions, oldest first.
///
/// # Errors
/// Fails if the stage does not exist. The error lists the stages.
pub fn history(store: &Store, stage: &str) -> Result<Vec<Version>> {
    dataset::workspace::require(store)?;
    let numbers = dataset::versions(store, stage)?;
    if numbers.is_empty() {
        return Err(no_stage(store, stage)?);
    }
    let mut versions = Vec::new();
    for number in numbers {
        // A version can be collected between listing and reading.
        let Some(manifest) = Manifest::read(store, stage, number)? else { continue };
        let Manifest { version, committed_unix_ms, totals, changes, why, pipeline, run, .. } =
            manifest;
        versions.push(Version {
            version,
            committed_unix_ms,
            tasks: totals.tasks,
            added: changes.tasks_added,
            dropped: changes.tasks_dropped,
            rows: totals.rows,
            bytes: totals.bytes,
            why,
            pipeline,
            run,
        });
    }
    Ok(versions)
}

/// Returns the changes from one version of a stage's dataset to another.
///
/// # Errors
/// Fails if one of the versions does not exist. The error lists the versions.
pub fn diff(store: &Store, stage: &str, versions: [u64; 2]) -> Result<Diff> {
    let all = history(store, stage)?;
    let side = |version: u64| match Manifest::read(store, stage, version)? {
        Some(manifest) => Ok((manifest.receipts(store)?, manifest)),
        None => Err(no_version(store, stage, version)?),
    };
    let [(before, earlier), (after, later)] = [side(versions[0])?, side(versions[1])?];
    let uris = |receipts: &[Arc<Receipt>]| {
        receipts
            .iter()
            .flat_map(|receipt| &receipt.videos)
            .map(|video| video.uri.clone())
            .collect::<Vec<_>>()
    };
    let keys = |receipts: &[Arc<Receipt>]| {
        receipts.iter().map(|receipt| receipt.key.clone()).collect::<Vec<_>>()
    };
    let between = versions[0].min(versions[1])..=versions[0].max(versions[1]);
    Ok(Diff {
        versions,
        why: all
            .into_iter()
            .filter(|one| between.contains(&one.version))
            // The first version's reason explains a change before it.
            .skip(1)
            .map(|one| (one.version, one.why))
            .collect(),
        fields: changed(&common_fields(&before), &common_fields(&after)),
        made: changed(&common_origin(&before), &common_origin(&after)),
        tasks: Changed::between(&keys(&before), &keys(&after)),
        videos: Changed::between(&uris(&before), &uris(&after)),
        rows: [earlier.totals.rows, later.totals.rows],
    })
}

/// Returns the common provenance of a version's tasks. A field is `None` if tasks differ in it.
fn common_origin(receipts: &[Arc<Receipt>]) -> BTreeMap<String, Option<Value>> {
    let mut common = BTreeMap::new();
    for receipt in receipts {
        let Value::Object(made) = serde_json::json!(receipt.made) else { continue };
        // The time of finishing always differs.
        for (name, value) in made.into_iter().filter(|(name, _)| name != "finished_unix_secs") {
            let known = common.entry(name).or_insert_with(|| Some(value.clone()));
            if known.as_ref() != Some(&value) {
                *known = None;
            }
        }
    }
    common
}

/// Returns the common key fields of a version's tasks. A field is `None` if tasks differ in it, as
/// they do in their inputs.
fn common_fields(receipts: &[Arc<Receipt>]) -> BTreeMap<String, Option<Value>> {
    let shared = shared_fields(receipts);
    let names = receipts.iter().flat_map(|receipt| receipt.fields.keys());
    names.map(|name| (name.clone(), shared.get(name).cloned())).collect()
}

/// Returns the common fields of each version with different values in the other. A long list is
/// replaced by its length.
fn changed(
    before: &BTreeMap<String, Option<Value>>,
    after: &BTreeMap<String, Option<Value>>,
) -> BTreeMap<String, [Value; 2]> {
    let value = |fields: &BTreeMap<String, Option<Value>>, name| match fields.get(name) {
        Some(value) => value.clone(),
        // A field that the other version does not have counts as null.
        None => Some(Value::Null),
    };
    let short = |value: Value| match value {
        Value::Array(list) if list.len() > 4 => Value::from(format!("{} of them", list.len())),
        value => value,
    };
    let names: HashSet<&String> = before.keys().chain(after.keys()).collect();
    let both = names
        .into_iter()
        .filter_map(|name| Some((name.clone(), [value(before, name)?, value(after, name)?])));
    both.filter(|(_, [before, after])| before != after)
        .map(|(name, pair)| (name, pair.map(short)))
        .collect()
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn added_and_dropped_elements_are_listed() {
        let names =
            |names: &[&str]| names.iter().map(|name| (*name).to_owned()).collect::<Vec<_>>();
        let changed = Changed::between(&names(&["a", "b"]), &names(&["b", "c", "d"]));
        assert_eq!(changed, Changed { added: names(&["c", "d"]), dropped: names(&["a"]) });
    }

    #[test]
    fn a_long_list_is_replaced_by_its_length() {
        let fields = |size: u32, videos: usize| {
            let fields = [
                ("size", Some(json!(size))),
                ("fit", Some(json!("crop"))),
                ("videos", Some(json!(vec!["v"; videos]))),
                ("shard", None),
            ];
            fields.into_iter().map(|(name, value)| (name.to_owned(), value)).collect()
        };
        let seen = changed(&fields(64, 2), &fields(32, 9));
        let expect = [
            ("size".to_owned(), [json!(64), json!(32)]),
            ("videos".to_owned(), [json!(["v", "v"]), json!("9 of them")]),
        ];
        assert_eq!(seen, expect.into());
        assert!(changed(&fields(64, 9), &fields(64, 9)).is_empty());
    }
}
