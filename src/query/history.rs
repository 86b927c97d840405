//! How a stage's dataset came to be. In: a workspace and a stage's name; out: its versions, and what lies between two of them.

use std::collections::{BTreeMap, HashSet};
use std::sync::Arc;

use serde::Serialize;
use serde_json::Value;

use super::Result;
use super::catalog::no_version;
use super::inspect::{no_stage, shared};
use crate::dataset::{self, Manifest, Receipt, Store};

/// One version of a dataset.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct Version {
    /// 1, 2, 3 and so on.
    pub version: u64,
    /// When it was committed, in milliseconds since 1970.
    pub committed_unix_ms: u64,
    /// Tasks that it is made of.
    pub tasks: u64,
    /// Tasks that the version before did not have.
    pub added: u64,
    /// Tasks that only the version before had.
    pub dropped: u64,
    /// Rows of the stage's own table.
    pub rows: u64,
    /// What the files weigh.
    pub bytes: u64,
    /// Why it was made.
    pub why: String,
    /// The pipeline.
    pub pipeline: String,
    /// The run that committed it: `runs/<run>.json` is its record.
    pub run: String,
}

/// What lies between two versions.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct Diff {
    /// The two versions.
    pub versions: [u64; 2],
    /// What runs said they did, version by version.
    pub why: Vec<(u64, String)>,
    /// Settings and inputs that changed, each as it was and is.
    pub fields: BTreeMap<String, [Value; 2]>,
    /// By what tasks were made, where that changed: lapo, libav, device, host.
    pub made: BTreeMap<String, [Value; 2]>,
    /// Tasks, by key.
    pub tasks: Changed,
    /// Videos, by the address they were found at.
    pub videos: Changed,
    /// Rows before and after.
    pub rows: [u64; 2],
}

/// What came and what went.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize)]
pub struct Changed {
    /// Only the later version has these.
    pub added: Vec<String>,
    /// Only the earlier one had these.
    pub dropped: Vec<String>,
}

impl Changed {
    fn between(before: &[String], after: &[String]) -> Changed {
        let lacks = |all: &[String], of: &[String]| {
            let all: HashSet<&String> = all.iter().collect();
            of.iter().filter(|one| !all.contains(one)).cloned().collect()
        };
        Changed { added: lacks(before, after), dropped: lacks(after, before) }
    }
}

/// Returns a stage's versions that are there, oldest first.
///
/// # Errors
/// Names the stages there are where none is called so.
pub fn history(store: &Store, stage: &str) -> Result<Vec<Version>> {
    dataset::workspace::require(store)?;
    let numbers = dataset::versions(store, stage)?;
    if numbers.is_empty() {
        return Err(no_stage(store, stage)?);
    }
    let mut versions = Vec::new();
    for number in numbers {
        let Some(manifest) = dataset::at(store, stage, number)? else { continue };
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

/// Returns what changed from one version of a stage's dataset to another.
///
/// # Errors
/// Names the versions there are where one of the two is not.
pub fn diff(store: &Store, stage: &str, versions: [u64; 2]) -> Result<Diff> {
    let all = history(store, stage)?;
    let side = |version: u64| match dataset::at(store, stage, version)? {
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

/// By what the tasks of a version were made; `None` where they are not alike.
fn common_origin(receipts: &[Arc<Receipt>]) -> BTreeMap<String, Option<Value>> {
    let mut common = BTreeMap::new();
    for receipt in receipts {
        let Value::Object(made) = serde_json::json!(receipt.made) else { continue };
        for (name, value) in made.into_iter().filter(|(name, _)| name != "finished_unix_secs") {
            let known = common.entry(name).or_insert_with(|| Some(value.clone()));
            if known.as_ref() != Some(&value) {
                *known = None;
            }
        }
    }
    common
}

/// The fields of a version's tasks; `None` where they are not alike, which is what each of them works on.
fn common_fields(receipts: &[Arc<Receipt>]) -> BTreeMap<String, Option<Value>> {
    let alike = shared(receipts);
    let names = receipts.iter().flat_map(|receipt| receipt.fields.keys());
    names.map(|name| (name.clone(), alike.get(name).cloned())).collect()
}

/// Fields that all tasks of a version have alike, and those of the other have otherwise or not at all; of a long list, how long it is.
fn changed(
    before: &BTreeMap<String, Option<Value>>,
    after: &BTreeMap<String, Option<Value>>,
) -> BTreeMap<String, [Value; 2]> {
    let value = |fields: &BTreeMap<String, Option<Value>>, name| match fields.get(name) {
        Some(value) => value.clone(),
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
    fn what_came_and_what_went() {
        let names =
            |names: &[&str]| names.iter().map(|name| (*name).to_owned()).collect::<Vec<_>>();
        let changed = Changed::between(&names(&["a", "b"]), &names(&["b", "c", "d"]));
        assert_eq!(changed, Changed { added: names(&["c", "d"]), dropped: names(&["a"]) });
    }

    #[test]
    fn a_long_list_is_told_by_its_length() {
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
