//! How a stage's dataset came to be. In: a workspace and a stage's name; out: its versions, and what lies between two of them.

use std::collections::{BTreeMap, HashMap, HashSet};

use serde::Serialize;
use serde_json::Value;

use super::inspect::{no_stage, shared};
use super::{Error, Result};
use crate::dataset::{self, Manifest, Receipt, Store};

/// One version of a dataset.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct Version {
    /// 1, 2, 3 and so on.
    pub version: u64,
    /// Tasks that it is made of.
    pub tasks: usize,
    /// Tasks that the version before did not have.
    pub added: usize,
    /// Tasks that only the version before had.
    pub dropped: usize,
    /// Rows of all files; of tasks whose receipts are gone, none.
    pub rows: u64,
    /// What the files weigh.
    pub bytes: u64,
    /// Why tasks were new.
    pub why: String,
    /// The run that committed it: `runs/<run>.json` is its record. Its id begins with the seconds since 1970.
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

/// A stage's versions that are there, oldest first.
///
/// # Errors
/// Names the stages there are where none is called so.
pub fn history(store: &Store, stage: &str) -> Result<Vec<Version>> {
    let Some(head) = dataset::head(store, stage)? else { return Err(no_stage(store, stage)?) };
    let receipts: HashMap<String, Receipt> =
        dataset::all_receipts(store, stage)?.into_iter().map(|receipt| (receipt.key.clone(), receipt)).collect();
    let (mut versions, mut before) = (Vec::new(), Vec::new());
    for number in 1..=head.version {
        let Some(Manifest { version, receipts: tasks, run, why, .. }) = dataset::at(store, stage, number)? else { continue };
        let Changed { added, dropped } = Changed::between(&before, &tasks);
        let known = || tasks.iter().filter_map(|key| receipts.get(key));
        versions.push(Version {
            version,
            tasks: tasks.len(),
            added: added.len(),
            dropped: dropped.len(),
            rows: known().map(Receipt::rows).sum(),
            bytes: known().flat_map(|receipt| &receipt.files).map(|file| file.bytes).sum(),
            why,
            run,
        });
        before = tasks;
    }
    Ok(versions)
}

/// What changed from one version of a stage's dataset to another.
///
/// # Errors
/// Names the versions there are where one of the two is not.
pub fn diff(store: &Store, stage: &str, versions: [u64; 2]) -> Result<Diff> {
    let all = history(store, stage)?;
    if let Some(missing) = versions.iter().find(|version| all.iter().all(|one| one.version != **version)) {
        let there = all.iter().map(|one| one.version.to_string()).collect::<Vec<_>>().join(", ");
        return Err(Error::NoVersion { stage: stage.to_owned(), version: *missing, there });
    }
    let side = |version: u64| -> Result<(Manifest, Vec<Receipt>)> {
        let manifest = dataset::at(store, stage, version)?.ok_or_else(|| Error::NoVersion {
            stage: stage.to_owned(),
            version,
            there: "it has just been deleted".into(),
        })?;
        let receipts = dataset::receipts_of(store, stage, &manifest.receipts)?;
        Ok((manifest, receipts))
    };
    let [(earlier, before), (later, after)] = [side(versions[0])?, side(versions[1])?];
    let uris =
        |receipts: &[Receipt]| receipts.iter().flat_map(|receipt| &receipt.videos).map(|video| video.uri.clone()).collect::<Vec<_>>();
    let rows = |receipts: &[Receipt]| receipts.iter().map(Receipt::rows).sum();
    let between = versions[0].min(versions[1])..=versions[0].max(versions[1]);
    Ok(Diff {
        versions,
        why: all.into_iter().filter(|one| between.contains(&one.version)).skip(1).map(|one| (one.version, one.why)).collect(),
        fields: changed(&told(&before), &told(&after)),
        tasks: Changed::between(&earlier.receipts, &later.receipts),
        videos: Changed::between(&uris(&before), &uris(&after)),
        rows: [rows(&before), rows(&after)],
    })
}

/// The fields of a version's tasks; `None` where they are not alike, which is what each of them works on.
fn told(receipts: &[Receipt]) -> BTreeMap<String, Option<Value>> {
    let alike = shared(receipts);
    let names = receipts.iter().flat_map(|receipt| receipt.fields.keys());
    names.map(|name| (name.clone(), alike.get(name).cloned())).collect()
}

/// Fields that all tasks of a version have alike, and those of the other have otherwise or not at all; of a long list, how long it is.
fn changed(before: &BTreeMap<String, Option<Value>>, after: &BTreeMap<String, Option<Value>>) -> BTreeMap<String, [Value; 2]> {
    let value = |fields: &BTreeMap<String, Option<Value>>, name| match fields.get(name) {
        Some(value) => value.clone(),
        None => Some(Value::Null),
    };
    let short = |value: Value| match value {
        Value::Array(list) if list.len() > 4 => Value::from(format!("{} of them", list.len())),
        value => value,
    };
    let names: HashSet<&String> = before.keys().chain(after.keys()).collect();
    let both = names.into_iter().filter_map(|name| Some((name.clone(), [value(before, name)?, value(after, name)?])));
    both.filter(|(_, [before, after])| before != after).map(|(name, pair)| (name, pair.map(short))).collect()
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn what_came_and_what_went() {
        let names = |names: &[&str]| names.iter().map(|name| (*name).to_owned()).collect::<Vec<_>>();
        let changed = Changed::between(&names(&["a", "b"]), &names(&["b", "c", "d"]));
        assert_eq!(changed, Changed { added: names(&["c", "d"]), dropped: names(&["a"]) });
    }

    #[test]
    fn a_long_list_is_told_by_its_length() {
        let fields = |size: u32, videos: usize| {
            let fields =
                [("size", Some(json!(size))), ("fit", Some(json!("crop"))), ("videos", Some(json!(vec!["v"; videos]))), ("shard", None)];
            fields.into_iter().map(|(name, value)| (name.to_owned(), value)).collect()
        };
        let seen = changed(&fields(64, 2), &fields(32, 9));
        let expect = [("size".to_owned(), [json!(64), json!(32)]), ("videos".to_owned(), [json!(["v", "v"]), json!("9 of them")])];
        assert_eq!(seen, expect.into());
        assert!(changed(&fields(64, 9), &fields(64, 9)).is_empty());
    }
}
